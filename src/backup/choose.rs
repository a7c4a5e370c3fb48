//! Which snapshot is meant: the latest, or one by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, stream};

use super::catalog::{Listing, Summary, authenticate, snapshots};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, Manifest, SnapshotId};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::folder::{self, Folder};
use crate::snapshot::{open, seals};
use crate::store::Repository;

/// Snapshots that are passed over before a backup, in search of its cluster's newest.
const MOST_PASSED_OVER: usize = 1000;
/// Manifests read ahead in that search: the first one is nearly always it.
const READS_AHEAD: usize = 4;
/// Clusters that an error names.
const MOST_NAMED: usize = 20;
/// Snapshots authenticated at once.
const READS: usize = 128;

/// The newest snapshot that counts for `keys`, begun `before` (Unix milliseconds), and what is passed over on the way.
///
/// One that is ahead of the clock is taken only if no other counts.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is none at all; the newest one's error when none counts; those of the store.
pub async fn latest(
    repository: &Repository,
    keys: &KeySet,
    listing: &Listing,
    before: Option<u64>,
) -> Result<(SnapshotId, Vec<String>)> {
    one_cluster(repository, keys, listing).await?;
    let now = SystemTime::now();
    let fits = |id: &SnapshotId| before.is_none_or(|before| id.unix_ms() < before);
    let ids = || listing.snapshots.iter().rev().map(|summary| summary.id).filter(fits);
    let is_ahead = |id: &SnapshotId| folder::is_ahead(id.begun(), now);
    let order = ids().filter(|id| !is_ahead(id)).chain(ids().filter(is_ahead));
    let (mut first, mut passed_over) = (None, Vec::new());
    for id in order {
        match authenticate(repository, keys, id).await {
            Ok(_) => return Ok((id, passed_over)),
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => {
                let error = error.context(format!("snapshot {id}"));
                passed_over.push(format!("passed over: {error}"));
                first.get_or_insert(error);
            }
        }
    }
    Err(first.map_or_else(none_yet, none_counts))
}

/// The newest snapshot does not count, and none before it does.
pub(super) fn none_counts(error: Error) -> Error {
    match error.kind() {
        ErrorKind::WrongKey => error.hint("give a master key that it names; no older snapshot opens either"),
        ErrorKind::Refused => error.hint(
            "no snapshot is trusted: `strongroom snapshots` says why. If you know that one is genuine, give its full id and \
             --accept-untrusted",
        ),
        _ => error.hint(
            "no snapshot can be trusted: `strongroom verify --all` says what is wrong with each. A second repository may have \
             good ones",
        ),
    }
}

/// That the snapshots of `listing` that count are of one cluster: anybody can plant a manifest that names another.
///
/// # Errors
/// [`ErrorKind::Usage`] when they are of several; those of the store.
pub(super) async fn one_cluster(
    repository: &Repository,
    keys: &KeySet,
    listing: &Listing,
) -> Result<()> {
    match clusters(&listing.snapshots).len() {
        0 | 1 => Ok(()),
        _ => one_of(&clusters(counting(repository, keys, listing).await?)),
    }
}

/// The snapshots of `listing` that count for `keys`.
async fn counting<'a>(
    repository: &Repository,
    keys: &KeySet,
    listing: &'a Listing,
) -> Result<Vec<&'a Summary>> {
    let ids: Vec<_> = listing.snapshots.iter().map(|one| one.id).collect();
    let mut judged = stream::iter(ids).map(|id| authenticate(repository, keys, id)).buffered(READS);
    let mut counting = Vec::new();
    for one in &listing.snapshots {
        match judged.next().await {
            Some(Ok(_)) => counting.push(one),
            Some(Err(error)) if error.kind().is_general() => return Err(error),
            _ => {}
        }
    }
    Ok(counting)
}

/// The manifest of the newest snapshot of `cluster` that counts for `keys`, begun `before` (Unix milliseconds). One that is
/// further ahead of the store's clock than clocks differ is passed over ([S3.3.5]).
///
/// # Errors
/// [`ErrorKind::Protocol`] when too many others are in front of it to tell; those of the store.
pub(super) async fn newest(
    repository: &Repository,
    keys: &KeySet,
    cluster: &ClusterName,
    before: Option<u64>,
    folders: &BTreeMap<SnapshotId, Folder>,
) -> Result<Option<Manifest>> {
    // What the store wrote last is a lower bound of its clock.
    let Some(clock) = folders.values().flat_map(Folder::every).map(|info| info.modified).max()
    else {
        return Ok(None);
    };
    let fits = |id: SnapshotId| {
        !folder::is_ahead(id.begun(), clock) && before.is_none_or(|before| id.unix_ms() < before)
    };
    let all = folders.iter().rev().filter(|(id, folder)| folder.manifest.is_some() && fits(**id));
    let ids: Vec<SnapshotId> = all.map(|(id, _)| *id).take(MOST_PASSED_OVER).collect();
    let mut read = stream::iter(ids)
        .map(|id| async move { (id, open::read_manifest(repository, id).await) })
        .buffered(READS_AHEAD);
    let mut passed_over = 0;
    while let Some((id, manifest)) = read.next().await {
        let Some(folder) = folders.get(&id) else { continue };
        let authentic = match &manifest {
            Ok(manifest) if manifest.body().cluster == *cluster => {
                seals::authenticate(repository, folder, keys, manifest).await
            }
            Ok(_) => Err(Error::usage("of another cluster")),
            Err(error) if error.kind().is_general() => return manifest.map(|_| None),
            Err(_) => Err(Error::tampered("broken")),
        };
        match (authentic, manifest) {
            (Err(error), _) if error.kind().is_general() => return Err(error),
            (Ok(authentic), Ok(manifest)) if authentic.judged.standing.counts() => {
                return Ok(Some(manifest));
            }
            _ => passed_over += 1,
        }
    }
    match passed_over < MOST_PASSED_OVER {
        true => Ok(None),
        false => Err(Error::new(
            ErrorKind::Protocol,
            format!(
                "the newest {MOST_PASSED_OVER} snapshots are of other clusters or do not count"
            ),
        )),
    }
}

/// Finds the snapshot that `name` means: `latest`, a ULID, or any unique beginning or end of one.
///
/// `latest` is here the newest begun `before` (Unix milliseconds), never one from the future; whether it counts is not
/// looked at, as [`latest`] does with keys.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::Usage`] for a name that fits several, or for `latest`
/// in a repository of several clusters when none was chosen.
pub fn select(listing: &Listing, name: &str, before: Option<u64>) -> Result<SnapshotId> {
    let ids = || listing.snapshots.iter().map(|summary| summary.id);
    if name == "latest" {
        one_of(&clusters(&listing.snapshots))?;
        let now = SystemTime::now();
        return ids()
            .rfind(|id| {
                !folder::is_ahead(id.begun(), now)
                    && before.is_none_or(|before| id.unix_ms() < before)
            })
            .ok_or_else(none_yet);
    }
    let name = name.to_ascii_uppercase();
    let fits = |id: &SnapshotId| {
        let id = id.to_string();
        id.starts_with(&name) || id.ends_with(&name)
    };
    let mut found = ids().filter(fits);
    match (found.next(), found.next()) {
        (Some(id), None) if !name.is_empty() => Ok(id),
        (Some(_), _) => Err(Error::usage(format!("{name} fits several snapshots"))
            .hint("give more characters of the id")),
        (None, _) => Err(not_found(&format!("no snapshot {name}"))),
    }
}

/// Of each cluster the newest snapshot that counts, if only keys that are being retired make it count.
///
/// # Errors
/// Those of the store.
pub async fn newest_by_retiring(
    repository: &Repository,
    keys: &KeySet,
) -> Result<Vec<(ClusterName, SnapshotId)>> {
    let listing = snapshots(repository, None).await?;
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for Summary { id, cluster, .. } in listing.snapshots.iter().rev() {
        if done.contains(cluster) {
            continue;
        }
        let folder = folder::list_one(repository, *id).await?;
        match open::unseal(repository, *id, &folder, keys).await {
            Err(error) if error.kind().is_general() => return Err(error),
            Ok(unsealed) if unsealed.standing.counts() => {
                done.insert(cluster.clone());
                if unsealed.standing == Standing::Retiring {
                    found.push((cluster.clone(), *id));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn clusters<'a>(snapshots: impl IntoIterator<Item = &'a Summary>) -> BTreeSet<&'a ClusterName> {
    snapshots.into_iter().map(|one| &one.cluster).collect()
}

/// Refuses to say what is latest among several clusters' snapshots.
fn one_of(clusters: &BTreeSet<&ClusterName>) -> Result<()> {
    if clusters.len() < 2 {
        return Ok(());
    }
    let names: Vec<_> = clusters.iter().take(MOST_NAMED).map(|name| name.as_str()).collect();
    let more = clusters.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("this repository holds the clusters {}{more}", names.join(", "));
    Err(Error::usage(message).hint("select one with --cluster"))
}

/// That there is none to choose from.
pub(super) fn none_yet() -> Error {
    not_found("there is no snapshot, or none before that time")
}

fn not_found(message: &str) -> Error {
    Error::new(ErrorKind::NotFound, message).hint("`strongroom snapshots` lists what is there")
}
