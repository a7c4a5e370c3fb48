//! Which snapshots there are: listing without a key, selecting one by name or time.

use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};

use super::folder::{self, Folder, Folders};
use super::snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, Manifest, ManifestBody, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Manifests read at once.
const READS: usize = 128;

/// Longer than any backup takes: a folder older than this should have its manifest.
pub const LONGEST_BACKUP: Duration = Duration::from_secs(24 * 3600);

/// One snapshot as its manifest and the store's listing describe it. Not authenticated: no key was used.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            listing.findings.push(format!("snapshot {id} was given up before it was sealed"));
        }
    }
    let mut read =
        stream::iter(whole)
            .map(|(id, folder)| async move {
                (id, snapshot::read_manifest(repository, id).await, folder)
            })
            .buffered(READS);
    while let Some((id, manifest, folder)) = read.next().await {
        match manifest {
            Ok(manifest) if cluster.is_none_or(|name| *name == manifest.body().cluster) => {
                if folder::is_ahead(id.begun(), now) {
                    listing.findings.push(format!(
                        "snapshot {id} comes from the future; `latest` passes it over"
                    ));
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
    Ok(snapshot::read_manifest(repository, id).await?.body().cluster.clone())
}

/// The manifest of `id`, once `keys` have proved it. Nothing else of the snapshot is read.
///
/// # Errors
/// Those of SPEC.md §8, when a part of that is missing, not whole or not for these keys; those of the store.
pub async fn authenticate(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
) -> Result<ManifestBody> {
    let folder = folder::list_one(repository, id).await?;
    Ok(snapshot::unseal(repository, id, &folder, keys).await?.manifest.body().clone())
}

/// Finds the snapshot that `name` means: `latest`, a ULID, or any unique beginning or end of one.
///
/// `latest` is the newest begun `before` (Unix milliseconds), never one from the future.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::Usage`] for a name that fits several, or for `latest`
/// in a repository of several clusters when none was chosen.
pub fn select(listing: &Listing, name: &str, before: Option<u64>) -> Result<SnapshotId> {
    let ids = || listing.snapshots.iter().map(|summary| summary.id);
    if name == "latest" {
        let mut clusters: Vec<_> = listing.snapshots.iter().map(|s| s.cluster.as_str()).collect();
        clusters.sort_unstable();
        clusters.dedup();
        if clusters.len() > 1 {
            let message = format!("this repository holds the clusters {}", clusters.join(", "));
            return Err(Error::usage(message).hint("say which one with --cluster"));
        }
        let now = SystemTime::now();
        return ids()
            .rfind(|id| {
                !folder::is_ahead(id.begun(), now)
                    && before.is_none_or(|before| id.unix_ms() < before)
            })
            .ok_or_else(|| not_found("there is no snapshot yet, or none that old"));
    }
    let name = name.to_ascii_uppercase();
    let fits = |id: &SnapshotId| {
        let id = id.to_string();
        id.starts_with(&name) || id.ends_with(&name)
    };
    let mut found = ids().filter(fits);
    match (found.next(), found.next()) {
        (Some(id), None) if !name.is_empty() => Ok(id),
        (Some(_), _) => {
            Err(Error::usage(format!("{name} fits several snapshots")).hint("give more of the id"))
        }
        (None, _) => Err(not_found(&format!("no snapshot {name}"))),
    }
}

fn not_found(message: &str) -> Error {
    Error::new(ErrorKind::NotFound, message).hint("`strongroom snapshots` lists what is there")
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
    let mut read =
        stream::iter(whole)
            .map(|(id, folder)| async move {
                (id, folder, snapshot::read_manifest(repository, id).await)
            })
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
