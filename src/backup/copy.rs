//! Snapshots replicated to a second repository: byte for byte, checked by their digests, never opened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256 as Hasher};

use super::catalog::{self, Scope};
use super::control::{Control, Step, Unit};
use super::folder::{self, Folder};
use super::snapshot::read_manifest;
use crate::crypto;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    MAX_MANIFEST, MAX_SEAL, Manifest, ObjectEntry, ObjectName, Seal, Sha256, SnapshotId, names,
};
use crate::store::{Probe, Repository};

/// Bytes fetched by one request, and requests ahead of the writer.
const READ: u64 = 8 << 20;
const AHEAD: usize = 2;
/// Snapshots whose objects are written before any of their manifests is: all of them are then seen at once.
const TOGETHER: usize = 32;
/// Snapshots copied at once.
const AT_ONCE: usize = 4;
/// A master key sealed by a passphrase is shorter than this.
const MAX_KEY: u64 = 64 << 10;

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyReport {
    /// Snapshots that are there now and were not, oldest first.
    pub copied: Vec<SnapshotId>,
    /// Snapshots that were there already.
    pub present: usize,
    /// Bytes written.
    pub written_bytes: u64,
    /// Snapshots that are not whole, and why: nothing of theirs shows in the copy.
    pub failed: Vec<(SnapshotId, String)>,
    /// Wall time.
    pub duration: Duration,
}

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

/// Copies the snapshots in `scope`, and what they depend on, from `source` to `target`, with the master keys that
/// passphrases seal. Run again, it goes on where it was stopped. Nothing is deleted in `target`.
///
/// # Errors
/// Those of the stores. A snapshot that is not whole stands in the report, and the others are copied.
pub async fn copy(
    source: &Repository,
    target: &Repository,
    scope: Scope<'_>,
    control: &Control,
) -> Result<CopyReport> {
    let begun = Instant::now();
    let mut report = CopyReport::default();
    let chosen = catalog::folders_of(source, scope).await?;
    let work = Copying {
        source,
        target,
        control,
        from: folder::list_all(source).await?.snapshots,
        there: folder::list_all(target).await?.snapshots,
    };
    work.keys().await?;
    control.begin_counting("copying", Some(chosen.len() as u64), Unit::Snapshots);
    let (mut done, mut broken) = (BTreeSet::new(), BTreeSet::new());
    for group in chosen.chunks(TOGETHER) {
        let mut wanted: Vec<_> = group.iter().map(|(id, _)| *id).collect();
        let mut manifests = BTreeMap::new();
        let mut gone = BTreeSet::new();
        while !wanted.is_empty() {
            wanted.retain(|id| done.insert(*id));
            let mut leads_to = Vec::new();
            for (id, manifest) in work.manifests(&wanted).await? {
                match manifest {
                    Ok(manifest) => {
                        leads_to.extend(manifest.body().depends_on.iter().copied());
                        manifests.insert(id, manifest);
                    }
                    Err(error) => {
                        broken.insert(id);
                        report.failed.push((id, error.to_string()));
                    }
                }
            }
            let (alive, removed) = leads_to.into_iter().partition(|id| work.is_alive(*id));
            wanted = alive;
            gone.extend::<Vec<_>>(removed);
        }
        for id in gone {
            match work.payload_of_removed(id).await {
                Ok(bytes) => report.written_bytes += bytes,
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => {
                    broken.insert(id);
                    report.failed.push((id, error.to_string()));
                }
            }
        }
        work.group(manifests, &mut broken, &mut report).await?;
    }
    report.failed.sort();
    report.duration = begun.elapsed();
    Ok(report)
}

struct Copying<'a> {
    source: &'a Repository,
    target: &'a Repository,
    control: &'a Control,
    from: BTreeMap<SnapshotId, Folder>,
    there: BTreeMap<SnapshotId, Folder>,
}

impl Copying<'_> {
    /// Sealed master keys: without them a passphrase would not open the copy.
    async fn keys(&self) -> Result<()> {
        for info in self.source.list(names::KEYS.trim_end_matches('/')).await? {
            if !matches!(ObjectName::parse(&info.name), Some(ObjectName::Key { .. })) {
                continue;
            }
            let bytes = self.source.get(&info.name, MAX_KEY).await?;
            self.target.put_once(&info.name, bytes).await?;
        }
        Ok(())
    }

    async fn manifests(&self, ids: &[SnapshotId]) -> Result<Vec<(SnapshotId, Result<Manifest>)>> {
        stream::iter(ids.to_vec())
            .map(|id| async move {
                match read_manifest(self.source, id).await {
                    Err(error) if error.kind() == ErrorKind::Unreachable => Err(error),
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
        broken: &mut BTreeSet<SnapshotId>,
        report: &mut CopyReport,
    ) -> Result<()> {
        let mut copied = stream::iter(manifests)
            .map(|(id, manifest)| async move { (id, self.objects(&manifest).await, manifest) })
            .buffered(AT_ONCE);
        let mut ready = Vec::new();
        while let Some((id, objects, manifest)) = copied.next().await {
            self.control.check()?;
            match objects {
                Ok(bytes) => {
                    report.written_bytes += bytes;
                    ready.push((id, manifest));
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    report.failed.push((id, error.to_string()));
                    broken.insert(id);
                }
            }
            self.control.step(Step::Advance(1));
        }
        drop(copied);
        for (id, manifest) in ready {
            let depends_on = &manifest.body().depends_on;
            if let Some(missing) = depends_on.iter().find(|id| broken.contains(*id)).copied() {
                report.failed.push((id, format!("it depends on {missing}, which is not whole")));
                continue;
            }
            // A tombstone: the copy's own retention removed it.
            let is_there =
                |folder: &Folder| folder.manifest.is_some() || folder.tombstone.is_some();
            if self.there.get(&id).is_some_and(is_there) {
                report.present += 1;
                continue;
            }
            self.control.check()?;
            let name = names::snapshot_object(id, "manifest");
            let bytes = manifest.print();
            report.written_bytes += bytes.len() as u64;
            self.target.put_once(&name, bytes.into()).await?;
            report.copied.push(id);
        }
        Ok(())
    }

    /// Copies what a snapshot has of its own, but its manifest; the bytes written.
    async fn objects(&self, manifest: &Manifest) -> Result<u64> {
        let id = manifest.body().snapshot;
        let mut written = 0;
        let removed = self.there.get(&id).is_some_and(|folder| folder.tombstone.is_some());
        for object in &manifest.body().objects {
            // What the copy's own retention removed does not come back; but others may use its payload.
            if removed && object.role != "payload" {
                continue;
            }
            written += self.object(id, object).await?;
        }
        let seals = self.from.get(&id).filter(|_| !removed).map(|folder| &folder.seals);
        for generation in seals.into_iter().flat_map(BTreeMap::keys) {
            if self.there.get(&id).is_some_and(|folder| folder.seals.contains_key(generation)) {
                continue;
            }
            let name = names::seal_name(id, *generation);
            let bytes = self.source.get(&name, MAX_SEAL as u64).await?;
            // What is planted beside a good one stays behind.
            if Seal::parse(&bytes).is_ok_and(|seal| seal.body().generation() == *generation) {
                written += bytes.len() as u64;
                self.target.put_once(&name, bytes).await?;
            }
        }
        Ok(written)
    }

    fn is_alive(&self, id: SnapshotId) -> bool {
        let folder = self.from.get(&id);
        folder.is_some_and(|folder| folder.manifest.is_some() && folder.tombstone.is_none())
    }

    /// Copies the payload of a removed snapshot that others use, and what says whose it is.
    async fn payload_of_removed(&self, id: SnapshotId) -> Result<u64> {
        let name = names::snapshot_object(id, "tombstone");
        let bytes = self.source.get(&name, MAX_MANIFEST as u64).await?;
        let manifest = Manifest::parse(&bytes).context(name.clone())?;
        if manifest.body().snapshot != id {
            return Err(Error::tampered("it is the tombstone of another snapshot").context(name));
        }
        let payload = manifest.body().object("payload");
        let payload = payload.ok_or_else(|| Error::tampered("no payload").context(name.clone()))?;
        let written = self.object(id, payload).await?;
        if self.there.get(&id).is_none_or(|folder| folder.manifest.is_none()) {
            self.target.put_once(&name, bytes).await?;
        }
        Ok(written)
    }

    /// Copies one object, unless it is there; checks its digest on the way.
    async fn object(&self, id: SnapshotId, object: &ObjectEntry) -> Result<u64> {
        let name = names::snapshot_object(id, &object.role);
        match self.there.get(&id).and_then(|folder| folder.length(&object.role)) {
            Some(length) if length == object.length => return Ok(0),
            Some(_) => {
                return Err(Error::tampered(format!("{name} has another length in the copy")));
            }
            None => {}
        }
        let mut upload = self.target.upload(&name).await?;
        let ranges = (0..object.length.div_ceil(READ))
            .map(|at| at * READ..object.length.min((at + 1) * READ));
        let copied = async {
            let mut pieces = stream::iter(ranges)
                .map(|range| self.source.get_range(&name, range))
                .buffered(AHEAD);
            let mut hasher = Hasher::new();
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                hasher.update(&piece);
                upload.write(piece).await?;
                self.control.check()?;
            }
            if Sha256(hasher.finalize().into()) != object.sha256 {
                return Err(Error::tampered("its SHA-256 is not the manifest's"));
            }
            Ok(())
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
