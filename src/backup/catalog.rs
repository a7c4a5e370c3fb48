//! Which snapshots there are: listing without a key, selecting one by name or time.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::findings::Findings;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, Manifest, ManifestBody, SnapshotId, Stanza};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::folder::{self, Folder, Folders};
use crate::snapshot::grace::LONGEST_BACKUP;
use crate::snapshot::{open, seals};
use crate::store::Repository;

/// Manifests read at once.
const READS: usize = 128;

/// One snapshot as its manifest and the store's listing describe it. Not authenticated unless [`judged`].
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
    /// Words by which its owner finds it again.
    pub tags: Vec<String>,
    /// What its seals are worth: [`Unverified`](Standing::Unverified) unless it was [`judged`].
    #[serde(rename = "trust")]
    pub standing: Standing,
}

impl Summary {
    fn new(manifest: &Manifest, folder: &Folder, standing: Standing) -> Self {
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
            tags: manifest.tags.clone(),
            standing,
        }
    }

    /// Whether it counts (SPEC.md §5.3) and its time is not ahead: such a one tells what was backed up last.
    #[cfg(feature = "agent")]
    pub(crate) fn counts_at(&self, now: SystemTime) -> bool {
        self.standing.counts() && !folder::is_ahead(self.id.begun(), now)
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
    /// For each key of a service: snapshots that the service sealed with an older key of its own, as far as is known since
    /// it was last asked.
    pub by_older_key: BTreeMap<KeyId, usize>,
}

/// Lists the snapshots of `cluster`, or of all clusters.
///
/// # Errors
/// Those of the store.
pub async fn snapshots(repository: &Repository, cluster: Option<&ClusterName>) -> Result<Listing> {
    list(repository, None, cluster).await
}

/// As [`snapshots`], with what each is worth to `keys`; what does not open is a finding.
///
/// # Errors
/// Those of the store.
pub async fn judged(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
) -> Result<Listing> {
    list(repository, Some(&keys.sparing()), cluster).await
}

async fn list(
    repository: &Repository,
    keys: Option<&KeySet>,
    cluster: Option<&ClusterName>,
) -> Result<Listing> {
    let now = SystemTime::now();
    let Folders { snapshots, foreign } = folder::list_all(repository).await?;
    let (mut listing, mut findings) = (Listing::default(), Findings::default());
    let inside = snapshots.values().flat_map(|folder| &folder.foreign);
    let unknown = foreign.iter().chain(inside);
    findings.extend(unknown.map(|name| format!("{name}: unknown object")));
    listing.objects = snapshots.values().map(|folder| folder.every().count()).sum();
    let mut found = Vec::new();
    for (id, folder) in snapshots {
        findings.extend(oddity(id, &folder, now));
        if folder.manifest.is_some() {
            found.push((id, folder));
        } else if is_orphan(&folder, now) {
            listing.orphans.push(id);
        }
    }
    let mut read = stream::iter(found)
        .map(|(id, folder)| async move {
            (id, read_one(repository, keys, cluster, id, &folder).await, folder)
        })
        .buffered(READS);
    while let Some((id, one, folder)) = read.next().await {
        match one {
            Ok(Some((manifest, judged))) => {
                if folder::is_ahead(id.begun(), now) {
                    findings
                        .push(format!("snapshot {id} has a time in the future; `latest` skips it"));
                }
                let standing = match judged {
                    Ok((standing, older)) => {
                        for key in older {
                            *listing.by_older_key.entry(key).or_default() += 1;
                        }
                        standing
                    }
                    Err(error) if error.kind().is_general() => return Err(error),
                    Err(error) => {
                        let is_locked = error.kind() == ErrorKind::WrongKey;
                        findings.extend((!is_locked).then(|| format!("snapshot {id}: {error}")));
                        Standing::Unverified
                    }
                };
                listing.snapshots.push(Summary::new(&manifest, &folder, standing));
            }
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => findings.push(format!("snapshot {id}: {error}")),
        }
    }
    listing.findings = findings.finish();
    Ok(listing)
}

/// What is to be said of a folder by the store's listing alone.
fn oddity(id: SnapshotId, folder: &Folder, now: SystemTime) -> Option<String> {
    match (&folder.manifest, &folder.tombstone) {
        (Some(_), Some(_)) => Some(format!(
            "snapshot {id} is about to be removed, or somebody wants it to look so: \
             the next `prune` decides"
        )),
        // Removed: it is not a snapshot any more, and nothing is damaged.
        (Some(_), None) | (None, Some(_)) => None,
        (None, None) if is_orphan(folder, now) => Some(format!(
            "snapshot {id} has no manifest and is too old to be still written: \
             a backup that was killed, or a manifest that was deleted"
        )),
        (None, None) => folder
            .age(now)
            .is_some_and(|age| age > LONGEST_BACKUP)
            .then(|| format!("the backup of snapshot {id} was aborted before it was sealed")),
    }
}

/// Whether a folder lacks its manifest although no backup can still be writing it.
fn is_orphan(folder: &Folder, now: SystemTime) -> bool {
    folder.manifest.is_none()
        && folder.tombstone.is_none()
        && folder.sealed_since(now).is_some_and(|age| age > LONGEST_BACKUP)
}

/// The manifest of `id`, unless it names another cluster, and what it is worth to `keys`.
async fn read_one(
    repository: &Repository,
    keys: Option<&KeySet>,
    cluster: Option<&ClusterName>,
    id: SnapshotId,
    folder: &Folder,
) -> Result<Option<(Manifest, Result<Worth>)>> {
    let manifest = open::read_manifest(repository, id).await?;
    if cluster.is_some_and(|name| *name != manifest.body().cluster) {
        return Ok(None);
    }
    let worth = match keys {
        None => Ok((Standing::Unverified, Vec::new())),
        Some(keys) => {
            let authentic = seals::authenticate(repository, folder, keys, &manifest).await;
            authentic.map(|authentic| {
                let stanzas = authentic.seal.body().stanzas().iter();
                let older = stanzas.filter(|stanza| keys.is_older(stanza)).map(Stanza::key_id);
                (authentic.judged.standing, older.collect())
            })
        }
    };
    Ok(Some((manifest, worth)))
}

/// What a snapshot is worth, and the keys whose service sealed it with an older key of its own.
type Worth = (Standing, Vec<KeyId>);

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
    let unsealed = open::unseal(repository, id, &folder, &keys.sparing()).await?;
    if !unsealed.standing.counts() {
        return Err(Error::new(ErrorKind::Refused, unsealed.standing.to_string()));
    }
    Ok(unsealed.manifest.body().clone())
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
