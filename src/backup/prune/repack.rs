//! Chains of which little is still used, written anew: what removed snapshots left is freed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, stream};

use super::apply::remove;
use super::plan::removal;
use crate::backup::companions;
use crate::backup::control::{Control, Unit};
use crate::backup::folder::{self, Folder};
use crate::backup::input::Input;
use crate::backup::options::BackupOptions;
use crate::backup::parent::Parent;
use crate::backup::read::{Place, read_all};
use crate::backup::snapshot::{self, OpenSnapshot};
use crate::backup::writer::{Content, write_snapshot};
use crate::crypto;
use crate::envelope::key_ids;
use crate::error::{ErrorKind, Result};
use crate::format::{ClusterName, Manifest, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Manifests read at once.
const READS: usize = 128;

/// What was written anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepackReport {
    /// Each snapshot that was replaced, oldest first, and the one that took its place: of the same time and content.
    pub replaced: Vec<(SnapshotId, SnapshotId)>,
    /// Snapshots that stay as they are, and why.
    pub skipped: Vec<(SnapshotId, String)>,
    /// Bytes written.
    pub written_bytes: u64,
}

/// Writes anew, for `cluster` or all, what depends on payloads of removed snapshots of which less than half is used; the
/// payloads are then freed by a later prune. Each new snapshot is proved before the old one is removed.
///
/// A snapshot that is sealed to a master key which `keys` do not hold stays: its replacement could not be.
///
/// # Errors
/// Those of [`backup`](crate::backup::backup) but for etcd's, and of reading what is replaced.
pub async fn repack(
    repository: &Repository,
    keys: &MasterKeys,
    cluster: Option<&ClusterName>,
    options: &BackupOptions,
    control: &Control,
) -> Result<RepackReport> {
    let mut report = RepackReport::default();
    let folders = folder::list_all(repository).await?.snapshots;
    let live = live(repository, &folders, cluster).await?;
    let mut blocked = mostly_dead(repository, keys, &folders, &live, control).await?;
    let mut wanted = BTreeSet::new();
    loop {
        let depends = |manifest: &&Manifest| {
            manifest.body().depends_on.iter().any(|source| blocked.contains(source))
        };
        let more: Vec<_> = live.values().filter(depends).map(|one| one.body().snapshot).collect();
        let before = wanted.len();
        wanted.extend(more.iter().copied());
        blocked.extend(more);
        if wanted.len() == before {
            break;
        }
    }
    control.begin_counting("repacking", Some(wanted.len() as u64), Unit::Snapshots);
    let mut before: BTreeMap<ClusterName, OpenSnapshot> = BTreeMap::new();
    let replaced: BTreeMap<_, _> =
        live.iter().filter_map(|(id, manifest)| Some((manifest.body().replaces?, *id))).collect();
    for id in wanted {
        control.check()?;
        if let Some(new) = replaced.get(&id) {
            let why = format!("{new} took its place before, and it could not be removed");
            report.skipped.push((id, why));
            continue;
        }
        let old = match OpenSnapshot::open(repository, id, keys).await {
            Ok(old) => old,
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => {
                report.skipped.push((id, error.to_string()));
                continue;
            }
        };
        if let Some(why) = sealed_to_others(repository, keys, id).await? {
            report.skipped.push((id, why));
            continue;
        }
        let cluster = old.manifest.body().cluster.clone();
        let new = replace(repository, keys, options, &old, before.get(&cluster), &blocked, control);
        let (new, bytes, removed) = new.await?;
        if let Err(error) = removed {
            report.skipped.push((id, format!("it stays beside its replacement: {error}")));
        }
        report.replaced.push((id, new.manifest.body().snapshot));
        report.written_bytes += bytes;
        before.insert(cluster, new);
        control.step(crate::backup::Step::Advance(1));
    }
    Ok(report)
}

/// The manifests of what is there to be restored.
async fn live(
    repository: &Repository,
    folders: &BTreeMap<SnapshotId, Folder>,
    cluster: Option<&ClusterName>,
) -> Result<BTreeMap<SnapshotId, Manifest>> {
    let now = SystemTime::now();
    let is_live = |id: SnapshotId, folder: &Folder| {
        folder.manifest.is_some() && !folder::is_ahead(id.begun(), now)
    };
    let ids: Vec<_> =
        folders.iter().filter(|(id, folder)| is_live(**id, folder)).map(|(id, _)| *id).collect();
    let mut read = stream::iter(ids)
        .map(|id| async move { (id, snapshot::read_manifest(repository, id).await) })
        .buffered(READS);
    let mut live = BTreeMap::new();
    while let Some((id, manifest)) = read.next().await {
        match manifest {
            Ok(manifest) if cluster.is_none_or(|name| *name == manifest.body().cluster) => {
                live.insert(id, manifest);
            }
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            _ => {}
        }
    }
    Ok(live)
}

/// The payloads of removed snapshots of which less than half is used by those that are left.
async fn mostly_dead(
    repository: &Repository,
    keys: &MasterKeys,
    folders: &BTreeMap<SnapshotId, Folder>,
    live: &BTreeMap<SnapshotId, Manifest>,
    control: &Control,
) -> Result<BTreeSet<SnapshotId>> {
    let removed: BTreeMap<_, _> = folders
        .iter()
        .filter(|(_, folder)| folder.manifest.is_none() && folder.tombstone.is_some())
        .filter_map(|(id, folder)| Some((*id, folder.length("payload")?)))
        .collect();
    let leans = |manifest: &&Manifest| {
        manifest.body().depends_on.iter().any(|source| removed.contains_key(source))
    };
    let ids: Vec<_> = live.values().filter(leans).map(|one| one.body().snapshot).collect();
    let mut opened =
        stream::iter(ids).map(|id| OpenSnapshot::open(repository, id, keys)).buffered(4);
    let mut used: BTreeMap<SnapshotId, BTreeMap<u64, u64>> = BTreeMap::new();
    while let Some(snapshot) = opened.next().await {
        control.check()?;
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(error) if error.kind().is_general() => return Err(error),
            // What nobody can read is left as it is, and keeps its payloads.
            Err(_) => continue,
        };
        let index = snapshot.database.index();
        for frame in &index.frames {
            let source =
                (frame.source as usize).checked_sub(1).and_then(|at| index.sources.get(at));
            if let Some(source) = source.filter(|source| removed.contains_key(&source.snapshot)) {
                used.entry(source.snapshot).or_default().insert(frame.offset, frame.length);
            }
        }
    }
    let is_dead = |(id, frames): (&SnapshotId, &BTreeMap<u64, u64>)| {
        let length = removed.get(id).copied().unwrap_or_default();
        (frames.values().sum::<u64>() < length / 2).then_some(*id)
    };
    Ok(used.iter().filter_map(is_dead).collect())
}

/// Why the keys at hand cannot seal all that opens `id`.
async fn sealed_to_others(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
) -> Result<Option<String>> {
    let folder = folder::list_one(repository, id).await?;
    let seal = snapshot::unseal(repository, id, &folder, keys).await?.seal;
    let ours: BTreeSet<_> = keys.sealing().map(|key| key.id()).collect();
    let missing = key_ids(&seal).into_iter().find(|id| !ours.contains(id));
    Ok(missing.map(|key| format!("it is sealed to master key {key} too, which is not at hand")))
}

/// Writes `old` anew without what is `blocked`, proves it and removes `old`, unless the store refuses; the bytes written
/// too.
async fn replace(
    repository: &Repository,
    keys: &MasterKeys,
    options: &BackupOptions,
    old: &OpenSnapshot,
    before: Option<&OpenSnapshot>,
    blocked: &BTreeSet<SnapshotId>,
    control: &Control,
) -> Result<(OpenSnapshot, u64, Result<()>)> {
    let body = old.manifest.body();
    let random = crypto::random(&mut crypto::system_rng());
    let id = SnapshotId::new(body.snapshot.unix_ms(), random);
    let content = Content {
        id,
        companions: companions::open(repository, &old.manifest, &old.data_key).await?,
        parent: Parent::without(blocked, [Some(old), before].into_iter().flatten()),
        replaces: Some(body.snapshot),
    };
    let mut options = options.clone();
    options.cluster = body.cluster.clone();
    let input = Input::again(old.database.clone(), old.facts.etcd.clone());
    let written = write_snapshot(repository, keys, &options, control, content, input).await?;
    let new = OpenSnapshot::open(repository, id, keys).await?;
    control.guard(read_all(&new.database, Place::Nowhere, None, control)).await?;
    let folder = folder::list_one(repository, body.snapshot).await?;
    let removed = remove(repository, &removal(body.snapshot, &body.cluster, &folder)).await;
    match removed {
        Err(error) if error.kind() != ErrorKind::Denied => Err(error),
        removed => Ok((new, written.stored_bytes, removed)),
    }
}
