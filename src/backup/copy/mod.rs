//! Snapshots and journals replicated to a second repository: byte for byte, checked by their digests; their payloads are never opened.

mod compared;
mod journals;
mod report;
mod seals;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use compared::Comparing;
pub use report::{CopyReport, CopySettings, JournalsCopied};

use super::catalog::Scope;
use crate::crypto;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    MAX_MANIFEST, MAX_PASSPHRASE_OBJECT, Manifest, ObjectEntry, ObjectHeader, ObjectName, Part,
    PassphraseObject, SnapshotId, names,
};
use crate::keys::KeySet;
use crate::snapshot::folder::{self, Folder};
use crate::snapshot::grace::{GRACE, Since, still_there};
use crate::snapshot::open::read_manifest;
use crate::snapshot::read::pieces;
use crate::snapshot::seals::authenticate;
use crate::store::{Probe, Repository};
use crate::task::{Control, Step, Unit};

/// Snapshots whose objects are written before any of their manifests is: all of them are then seen at once.
const TOGETHER: usize = 32;
/// Snapshots copied or compared at once.
const AT_ONCE: usize = 4;

/// Opens the replica of `source` at `store`; where there is no repository, makes one of the same id.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) when another repository is there; those of [`Repository::init`].
pub async fn open_replica(
    source: &Repository,
    store: Arc<dyn object_store::ObjectStore>,
    trust_store: bool,
) -> Result<(Repository, Probe)> {
    match Repository::open(Arc::clone(&store), Some(source.id())).await {
        Ok(target) => Ok((target, Probe::Skipped)),
        Err(error) if error.kind() == ErrorKind::NoRepository => {
            let rng = &mut crypto::system_rng();
            Repository::init_as(store, source.id(), trust_store, rng).await
        }
        Err(error) if error.kind() == ErrorKind::Refused => Err(error
            .hint("a copy goes to a place of its own; another repository's snapshots are there")),
        Err(error) => Err(error),
    }
}

/// Copies the snapshots and journals in `scope` from `source` to `target`, with the master keys that
/// passphrases seal. Run again, it goes on where it was stopped. Nothing is deleted in `target`.
///
/// With `keys` only snapshots that count (SPEC.md §5.3) are copied; without, all whose manifests parse. With keys that seal,
/// snapshots and journals that `target` has already are read there and compared, each once, some in each run.
///
/// # Errors
/// Those of the stores. A snapshot that is not whole stands in the report, and the others are copied.
pub async fn copy(
    source: &Repository,
    target: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    control: &Control,
) -> Result<CopyReport> {
    let begun = Instant::now();
    let mut report = CopyReport::default();
    let mut work = Copying {
        source,
        target,
        keys,
        control,
        since: Since::now(),
        from: folder::list_all(source).await?.snapshots,
        there: folder::list_all(target).await?.snapshots,
    };
    work.keys(&mut report).await?;
    let chosen: Vec<_> = match scope {
        Scope::Ids(ids) => ids.to_vec(),
        _ => work.from.keys().copied().filter(|id| work.is_alive(*id)).collect(),
    };
    let (present, wanted): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|id| work.is_settled(*id));
    report.present = present.len();
    let same = work.look_at(present, scope, &mut report).await?;
    control.begin_counting("copying", Some(wanted.len() as u64), Unit::Snapshots);
    for group in wanted.chunks(TOGETHER) {
        if work.since.elapsed() > GRACE / 8 {
            work.since = Since::now();
            work.there = folder::list_all(target).await?.snapshots;
        }
        let mut manifests = BTreeMap::new();
        for (id, manifest) in work.manifests(group).await? {
            match manifest {
                Ok(manifest) if is_outside(scope, &manifest) => {}
                Ok(manifest) => match work.left_out(&manifest).await? {
                    Some(why) => drop(report.left_out.insert(id, why)),
                    None => drop(manifests.insert(id, manifest)),
                },
                Err(error) => drop(report.note(id, Err(error))?),
            }
        }
        work.group(manifests, &mut report).await?;
    }
    report.newest = report.newest.max(report.copied.last().copied());
    let comparing = Comparing::new(target, keys).await?;
    let known = comparing.as_ref();
    journals::copy_journals(source, target, keys, scope, known, control, &mut report).await?;
    if let Some(comparing) = comparing {
        work.compare(same, &comparing, &mut report).await?;
        report.duration = begun.elapsed();
        let remembered = compared::remember(target, keys, scope, &report).await;
        report.not_remembered = remembered.err().map(|error| error.to_string());
    }
    report.duration = begun.elapsed();
    Ok(report)
}

struct Copying<'a> {
    source: &'a Repository,
    target: &'a Repository,
    keys: &'a KeySet,
    control: &'a Control,
    /// No later than `there` was listed.
    since: Since,
    from: BTreeMap<SnapshotId, Folder>,
    there: BTreeMap<SnapshotId, Folder>,
}

impl Copying<'_> {
    /// Sealed master keys: without them a passphrase would not open the copy.
    async fn keys(&self, report: &mut CopyReport) -> Result<()> {
        for info in self.source.list(names::KEYS.trim_end_matches('/')).await? {
            let Some(ObjectName::Key { id, generation }) = ObjectName::parse(&info.name) else {
                continue;
            };
            let read = self.source.get(&info.name, MAX_PASSPHRASE_OBJECT as u64).await;
            let bytes = match read {
                Err(error) if error.kind().is_general() => return Err(error),
                Err(_) => continue,
                Ok(bytes) => bytes,
            };
            // What is planted beside a good one stays behind.
            let is_of = |key: &PassphraseObject| key.key == id && key.generation == generation;
            if !PassphraseObject::parse(&bytes).is_ok_and(|key| is_of(&key)) {
                continue;
            }
            match self.target.put_once(&info.name, bytes).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    report.differing.push(info.name);
                }
                put => put?,
            }
        }
        Ok(())
    }

    /// Why a snapshot is not copied, if the keys say that it does not count.
    ///
    /// # Errors
    /// Those of the store.
    async fn left_out(&self, manifest: &Manifest) -> Result<Option<String>> {
        let folder = self.from.get(&manifest.body().snapshot).filter(|_| !self.keys.is_empty());
        let Some(folder) = folder else { return Ok(None) };
        match authenticate(self.source, folder, self.keys, manifest).await {
            Ok(authentic) if authentic.judged.standing.counts() => Ok(None),
            Ok(authentic) => Ok(Some(authentic.judged.standing.to_string())),
            Err(error) if error.kind().is_general() => Err(error),
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    async fn manifests(&self, ids: &[SnapshotId]) -> Result<Vec<(SnapshotId, Result<Manifest>)>> {
        stream::iter(ids.to_vec())
            .map(|id| async move {
                match read_manifest(self.source, id).await {
                    Err(error) if error.kind().is_general() => Err(error),
                    read => Ok((id, read)),
                }
            })
            .buffered(TOGETHER)
            .try_collect()
            .await
    }

    /// Copies the snapshots of one group: all objects, and only then the manifests.
    async fn group(
        &self,
        manifests: BTreeMap<SnapshotId, Manifest>,
        report: &mut CopyReport,
    ) -> Result<()> {
        let mut copied = stream::iter(manifests)
            .map(|(id, manifest)| async move { (id, self.objects(&manifest).await, manifest) })
            .buffered(AT_ONCE);
        let mut ready = Vec::new();
        while let Some((id, mut objects, manifest)) = copied.next().await {
            self.control.check()?;
            if objects.is_ok() {
                let seals = self.seals(id, report).await;
                objects = objects.and_then(|written| Ok(written + seals?));
            }
            if report.note(id, objects)? {
                ready.push((id, manifest));
            }
            self.control.step(Step::Advance(1));
        }
        drop(copied);
        self.since.check(|| "what it wrote".into())?;
        for (id, manifest) in ready {
            if self.there.get(&id).is_some_and(is_known) {
                continue;
            }
            self.control.check()?;
            let name = Part::Manifest.of(id);
            let bytes = manifest.print();
            report.written_bytes += bytes.len() as u64;
            self.target.put_once(&name, bytes.into()).await?;
            // A prune of the copy may have swept what an earlier copy left: the next copy brings it again.
            let named = manifest.body().objects.iter();
            let named = named.map(|object| (object.part.of(id), object.length)).collect();
            if report.note(id, still_there(self.target, named).await.map(|()| 0))? {
                report.copied.push(id);
            }
        }
        Ok(())
    }

    /// Copies what a snapshot's manifest names; the bytes written.
    async fn objects(&self, manifest: &Manifest) -> Result<u64> {
        let id = manifest.body().snapshot;
        let mut written = 0;
        for object in &manifest.body().objects {
            written += self.object(id, object).await?;
        }
        Ok(written)
    }

    /// Compares what is in both places, and brings the seals that the copy lacks.
    async fn look_at(
        &self,
        present: Vec<SnapshotId>,
        scope: Scope<'_>,
        report: &mut CopyReport,
    ) -> Result<Vec<Manifest>> {
        let mut same_there = Vec::new();
        let mut looked_at = stream::iter(present)
            .map(|id| async move { (id, self.same_manifest(id).await) })
            .buffered(TOGETHER);
        while let Some((id, same)) = looked_at.next().await {
            self.control.check()?;
            let written = match same {
                Ok(Some(manifest)) if is_outside(scope, &manifest) => Ok(0),
                Ok(manifest) => {
                    report.newest = report.newest.max(manifest.as_ref().map(|_| id));
                    same_there.extend(manifest);
                    self.seals(id, report).await
                }
                Err(error) => Err(error),
            };
            report.note(id, written)?;
        }
        Ok(same_there)
    }

    /// Reads the objects of the newest snapshots of `there` that were not compared yet: that an object has the right length
    /// says nothing of its bytes.
    async fn compare(
        &self,
        there: Vec<Manifest>,
        comparing: &Comparing,
        report: &mut CopyReport,
    ) -> Result<()> {
        let (chosen, left) = comparing.choose(there, |manifest| manifest.body().snapshot);
        report.not_compared = left;
        self.control.begin_counting("comparing", Some(chosen.len() as u64), Unit::Snapshots);
        let mut compared =
            stream::iter(chosen)
                .map(|manifest| async move {
                    (manifest.body().snapshot, self.compare_one(&manifest).await)
                })
                .buffered(AT_ONCE);
        while let Some((id, outcome)) = compared.next().await {
            self.control.step(Step::Advance(1));
            if report.note(id, outcome.map(|()| 0))? {
                report.compared.push(id);
            }
        }
        Ok(())
    }

    async fn compare_one(&self, manifest: &Manifest) -> Result<()> {
        for object in &manifest.body().objects {
            let name = object.part.of(manifest.body().snapshot);
            self.read_there(&name, object).await.context(name)?;
        }
        Ok(())
    }

    /// Reads an object in the copy to its end.
    async fn read_there(&self, name: &str, object: &ObjectEntry) -> Result<()> {
        let mut pieces = pin!(pieces(self.target, name, object));
        let mut read = async || pieces.try_next().await;
        while read().await.context("in the copy")?.is_some() {
            self.control.check()?;
        }
        Ok(())
    }

    /// That a snapshot which is in both places is the same one: lengths alone do not tell. Its manifest, unless it was
    /// removed in one of them.
    async fn same_manifest(&self, id: SnapshotId) -> Result<Option<Manifest>> {
        let name = Part::Manifest.of(id);
        let folders = (self.from.get(&id), self.there.get(&id));
        let (Some(from), Some(there)) = folders else { return Ok(None) };
        if from.manifest.is_none() {
            return Ok(None);
        }
        if there.manifest.is_none() {
            return self.removed_there(id).await.map(|()| None);
        }
        let (source, copy) = futures::try_join!(
            self.source.get(&name, MAX_MANIFEST as u64),
            self.target.get(&name, MAX_MANIFEST as u64),
        )?;
        if source == copy {
            return Manifest::parse(&source).map(Some);
        }
        Err(Error::tampered(format!("{name} is another one in the copy"))
            .hint("`strongroom verify` in both places shows which one is good"))
    }

    /// That the tombstone in the copy is this snapshot's: a planted one must not prevent a copy unnoticed.
    async fn removed_there(&self, id: SnapshotId) -> Result<()> {
        let (manifest, tombstone) = (Part::Manifest.of(id), Part::Tombstone.of(id));
        let (source, copy) = futures::try_join!(
            self.source.get(&manifest, MAX_MANIFEST as u64),
            self.target.get(&tombstone, MAX_MANIFEST as u64),
        )?;
        if source == copy {
            return Ok(());
        }
        Err(Error::tampered(format!("{tombstone} in the copy is not of this snapshot"))
            .hint("delete it there, and copy again"))
    }

    fn is_alive(&self, id: SnapshotId) -> bool {
        self.from.get(&id).is_some_and(|folder| folder.manifest.is_some())
    }

    /// The copy's own retention removed it.
    fn is_removed_there(&self, id: SnapshotId) -> bool {
        self.there.get(&id).is_some_and(|folder| folder.tombstone.is_some())
    }

    /// Whether the copy has all of it, by the listings, or has had it.
    fn is_settled(&self, id: SnapshotId) -> bool {
        let (Some(from), Some(there)) = (self.from.get(&id), self.there.get(&id)) else {
            return false;
        };
        let whole =
            || from.objects.iter().all(|(role, object)| there.length(role) == Some(object.len));
        there.tombstone.is_some() || (there.manifest.is_some() && whole())
    }

    /// That an object which is there without a manifest is what an interrupted copy left: nobody else has checked it.
    async fn check_there(&self, id: SnapshotId, name: &str, object: &ObjectEntry) -> Result<u64> {
        if self.there.get(&id).is_some_and(is_known) {
            return Ok(0);
        }
        self.read_there(name, object).await.map(|()| 0)
    }

    /// Copies one object, unless it is there; checks its digest on the way.
    async fn object(&self, id: SnapshotId, object: &ObjectEntry) -> Result<u64> {
        let name = object.part.of(id);
        match self.there.get(&id).and_then(|folder| folder.length(&object.part)) {
            Some(length) if length == object.length => {
                return self.check_there(id, &name, object).await;
            }
            Some(_) => {
                return Err(Error::tampered(format!("{name} has another length in the copy")));
            }
            None => {}
        }
        let mut upload = self.target.upload(&name).await?;
        let copied = async {
            let mut pieces = pin!(pieces(self.source, &name, object));
            let mut is_first = true;
            while let Some(piece) = pieces.try_next().await? {
                if std::mem::take(&mut is_first) {
                    check_header(id, &object.part, &piece)?;
                }
                upload.write(piece).await?;
                self.control.check()?;
            }
            Ok::<_, Error>(())
        };
        match copied.await {
            Ok(()) => upload.finish().await,
            Err(error) => {
                let _ = upload.abort().await;
                Err(error.context(name))
            }
        }
    }
}

/// That an object begins as the part of the snapshot that it is to be: nothing else is written to a replica.
fn check_header(id: SnapshotId, part: &Part, first: &[u8]) -> Result<()> {
    match ObjectHeader::parse(first) {
        Ok(header) if header.snapshot == id && header.role.part().as_ref() == Some(part) => Ok(()),
        Ok(_) => Err(Error::tampered("is an object of another place")),
        // A later version's.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the copy knows whose objects these are.
fn is_known(folder: &Folder) -> bool {
    folder.manifest.is_some() || folder.tombstone.is_some()
}

fn is_outside(scope: Scope<'_>, manifest: &Manifest) -> bool {
    matches!(scope, Scope::Cluster(cluster) if manifest.body().cluster != *cluster)
}
