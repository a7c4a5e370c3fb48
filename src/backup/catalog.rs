//! Which snapshots there are: listing without a key, selecting one by name or time.

use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, Manifest, ManifestBody, SnapshotId};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::folder::{self, Folder, Folders};
use crate::snapshot::grace::LONGEST_BACKUP;
use crate::snapshot::open;
use crate::store::Repository;

/// Manifests read at once.
const READS: usize = 128;

/// One snapshot as its manifest and the store's listing describe it. Not authenticated: no key was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The snapshot.
    pub id: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// Its last revision.
    pub revision: u64,
    /// Length of the database.
    pub database_bytes: u64,
    /// Length of its own objects in the store.
    pub stored_bytes: u64,
    /// What its seals are worth: [`Unverified`](Standing::Unverified) until [`judge`] has looked.
    #[serde(rename = "trust")]
    pub standing: Standing,
}

impl Summary {
    fn new(manifest: &Manifest, folder: &Folder) -> Self {
        let seals = folder.seals.values().map(|info| info.len).sum::<u64>();
        let manifest_len = folder.manifest.as_ref().map_or(0, |info| info.len);
        let objects = folder.objects.values().map(|info| info.len).sum::<u64>();
        let manifest = manifest.body();
        Self {
            id: manifest.snapshot,
            cluster: manifest.cluster.clone(),
            revision: manifest.revision,
            database_bytes: manifest.database_bytes,
            stored_bytes: objects + seals + manifest_len,
            standing: Standing::Unverified,
        }
    }
}

/// All snapshots, oldest first, and what is odd about the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// Every snapshot whose manifest parses, oldest first.
    pub snapshots: Vec<Summary>,
    /// Folders and objects that are not snapshots, and why.
    pub findings: Vec<String>,
    /// Folders without a manifest although no backup can still be writing them.
    pub orphans: Vec<SnapshotId>,
    /// Objects in all snapshots' folders, of whichever cluster.
    pub objects: usize,
}

/// Lists the snapshots of `cluster`, or of all clusters.
///
/// # Errors
/// Those of the store.
pub async fn snapshots(repository: &Repository, cluster: Option<&ClusterName>) -> Result<Listing> {
    let now = SystemTime::now();
    let Folders { snapshots, foreign } = folder::list_all(repository).await?;
    let mut listing = Listing::default();
    let inside = snapshots.values().flat_map(|folder| &folder.foreign);
    let unknown = foreign.iter().chain(inside);
    listing.findings.extend(unknown.map(|name| format!("{name}: unknown object")));
    listing.objects = snapshots.values().map(|folder| folder.every().count()).sum();
    let mut whole = Vec::new();
    for (id, folder) in snapshots {
        if folder.manifest.is_some() {
            if folder.tombstone.is_some() {
                listing.findings.push(format!(
                    "snapshot {id} is about to be removed, or somebody wants it to look so: \
                     the next `prune` decides"
                ));
            }
            whole.push((id, folder));
        } else if folder.tombstone.is_some() {
            // Removed: no snapshot any more, and no damage.
        } else if folder.sealed_since(now).is_some_and(|age| age > LONGEST_BACKUP) {
            listing.orphans.push(id);
            listing.findings.push(format!(
                "snapshot {id} has no manifest and is too old to be still written: \
                 a backup that was killed, or a manifest that was deleted"
            ));
        } else if folder.age(now).is_some_and(|age| age > LONGEST_BACKUP) {
            listing
                .findings
                .push(format!("the backup of snapshot {id} was aborted before it was sealed"));
        }
    }
    let mut read = stream::iter(whole)
        .map(|(id, folder)| async move { (id, open::read_manifest(repository, id).await, folder) })
        .buffered(READS);
    while let Some((id, manifest, folder)) = read.next().await {
        match manifest {
            Ok(manifest) if cluster.is_none_or(|name| *name == manifest.body().cluster) => {
                if folder::is_ahead(id.begun(), now) {
                    listing
                        .findings
                        .push(format!("snapshot {id} has a time in the future; `latest` skips it"));
                }
                listing.snapshots.push(Summary::new(&manifest, &folder));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => listing.findings.push(format!("snapshot {id}: {error}")),
        }
    }
    Ok(listing)
}

/// The cluster that the manifest of `id` names. Not authenticated.
///
/// # Errors
/// Those of SPEC.md §8, when there is no manifest or it is not whole; those of the store.
pub async fn cluster_of(repository: &Repository, id: SnapshotId) -> Result<ClusterName> {
    Ok(open::read_manifest(repository, id).await?.body().cluster.clone())
}

/// The manifest of `id`, if `keys` authenticate it and it counts (SPEC.md §5.3). Nothing else of the snapshot is read.
///
/// # Errors
/// [`ErrorKind::Refused`] for one that does not count; those of SPEC.md §8, when a part of that is missing, damaged or
/// not for these keys; those of the store.
pub async fn authenticate(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<ManifestBody> {
    let folder = folder::list_one(repository, id).await?;
    let unsealed = open::unseal(repository, id, &folder, keys).await?;
    if !unsealed.standing.counts() {
        return Err(Error::new(ErrorKind::Refused, unsealed.standing.to_string()));
    }
    Ok(unsealed.manifest.body().clone())
}

/// Fills in what each snapshot of `listing` is worth to `keys`; what does not open is a finding.
///
/// # Errors
/// Those of the store.
pub async fn judge(repository: &Repository, keys: &KeySet, listing: &mut Listing) -> Result<()> {
    let ids: Vec<_> = listing.snapshots.iter().map(|summary| summary.id).collect();
    let mut judged = stream::iter(ids)
        .map(|id| async move {
            let folder = folder::list_one(repository, id).await?;
            open::unseal(repository, id, &folder, keys).await.map(|one| one.standing)
        })
        .buffered(READS);
    for summary in &mut listing.snapshots {
        match judged.next().await {
            Some(Ok(standing)) => summary.standing = standing,
            Some(Err(error)) if error.kind() == ErrorKind::WrongKey => {}
            Some(Err(error)) if error.kind().is_general() => return Err(error),
            Some(Err(error)) => listing.findings.push(format!("snapshot {}: {error}", summary.id)),
            None => {}
        }
    }
    Ok(())
}

/// Which snapshots a job is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Every one.
    All,
    /// Those of one cluster, and those whose manifest is too broken to say whose it is.
    Cluster(&'a ClusterName),
    /// These.
    Ids(&'a [SnapshotId]),
}

/// Folders that have no manifest and are not being removed.
pub(super) async fn folders_without_manifest(
    repository: &Repository,
) -> Result<Vec<(SnapshotId, Folder)>> {
    let all = folder::list_all(repository).await?.snapshots;
    let unfinished = |folder: &Folder| folder.manifest.is_none() && folder.tombstone.is_none();
    Ok(all.into_iter().filter(|(_, folder)| unfinished(folder)).collect())
}

/// As [`folders_of`], with the snapshots that were removed and can be brought back.
pub(super) async fn folders_with_removed(
    repository: &Repository,
    scope: Scope<'_>,
) -> Result<Vec<(SnapshotId, Folder)>> {
    let mut folders = folders_of(repository, scope).await?;
    if matches!(scope, Scope::Ids(_)) {
        return Ok(folders);
    }
    let is_removed = |folder: &Folder| folder.manifest.is_none() && folder.tombstone.is_some();
    for (id, folder) in folder::list_all(repository).await?.snapshots {
        if !is_removed(&folder) {
            continue;
        }
        let outside = match (scope, open::read_tombstone(repository, id).await) {
            (_, Err(error)) if error.kind().is_general() => return Err(error),
            (Scope::Cluster(cluster), Ok(tombstone)) => tombstone.body().cluster != *cluster,
            _ => false,
        };
        if !outside {
            folders.push((id, folder));
        }
    }
    folders.sort_by_key(|(id, _)| *id);
    Ok(folders)
}

/// The folders in `scope`, oldest first. Whoever names an id gets its folder, with or without a manifest.
pub(super) async fn folders_of(
    repository: &Repository,
    scope: Scope<'_>,
) -> Result<Vec<(SnapshotId, Folder)>> {
    if let Scope::Ids(ids) = scope {
        return stream::iter(ids.to_vec())
            .map(|id| async move { Ok((id, folder::list_one(repository, id).await?)) })
            .buffered(READS)
            .try_collect()
            .await;
    }
    let all = folder::list_all(repository).await?.snapshots;
    // With a tombstone too: it is decided anew, and until then it is a snapshot.
    let whole: Vec<_> = all.into_iter().filter(|(_, folder)| folder.manifest.is_some()).collect();
    let Scope::Cluster(cluster) = scope else { return Ok(whole) };
    let mut read = stream::iter(whole)
        .map(|(id, folder)| async move { (id, folder, open::read_manifest(repository, id).await) })
        .buffered(READS);
    let mut chosen = Vec::new();
    while let Some((id, folder, manifest)) = read.next().await {
        match manifest {
            Ok(manifest) if manifest.body().cluster != *cluster => {}
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            _ => chosen.push((id, folder)),
        }
    }
    Ok(chosen)
}
