//! Which snapshot is meant: the latest, or one by its name.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::catalog::{Listing, Summary, authenticate, snapshots};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, SnapshotId};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::folder::{self, Folder};
use crate::snapshot::open;
use crate::store::Repository;

/// Snapshots with a later time than the host's that are looked at before a backup: more are planted.
const MOST_LATER: usize = 1000;

/// The newest snapshot that counts for `keys`, begun `before` (Unix milliseconds), and what is passed over on the way.
///
/// One that is ahead of the clock is taken only if no other counts.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is none at all; of the newest one when none counts; those of the store.
pub async fn latest(
    repository: &Repository,
    keys: &KeySet,
    listing: &Listing,
    before: Option<u64>,
) -> Result<(SnapshotId, Vec<String>)> {
    one_cluster(listing)?;
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
    Err(first.map_or_else(none_yet, |error| {
        error.hint("no snapshot counts for these keys: name one by its full id, and see `strongroom snapshots`")
    }))
}

/// The time of the newest snapshot of `cluster` that counts for `keys`, if it is later than `now` (Unix milliseconds):
/// this host's clock is behind, or another's was ahead. One that is further ahead of the store's clock than clocks differ
/// raises nothing ([S3.3.5]).
///
/// # Errors
/// Those of the store.
pub(super) async fn newest_after(
    repository: &Repository,
    keys: &KeySet,
    cluster: &ClusterName,
    now: u64,
) -> Result<Option<u64>> {
    let folders = folder::list_all(repository).await?.snapshots;
    // What the store wrote last is a lower bound of its clock.
    let Some(clock) = folders.values().flat_map(Folder::every).map(|info| info.modified).max()
    else {
        return Ok(None);
    };
    let later = folders.iter().rev().take_while(|(id, _)| id.unix_ms() > now);
    let near = later.filter(|(id, _)| !folder::is_ahead(id.begun(), clock));
    for (id, folder) in near.take(MOST_LATER) {
        match open::unseal(repository, *id, folder, keys).await {
            Err(error) if error.kind().is_general() => return Err(error),
            Ok(one) if one.standing.counts() && one.manifest.body().cluster == *cluster => {
                return Ok(Some(id.unix_ms()));
            }
            _ => {}
        }
    }
    Ok(None)
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
        one_cluster(listing)?;
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

/// Refuses to say what is latest among several clusters' snapshots.
pub(super) fn one_cluster(listing: &Listing) -> Result<()> {
    let mut clusters: Vec<_> = listing.snapshots.iter().map(|s| s.cluster.as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    if clusters.len() > 1 {
        let message = format!("this repository holds the clusters {}", clusters.join(", "));
        return Err(Error::usage(message).hint("select one with --cluster"));
    }
    Ok(())
}

fn none_yet() -> Error {
    not_found("there is no snapshot, or none before that time")
}

fn not_found(message: &str) -> Error {
    Error::new(ErrorKind::NotFound, message).hint("`strongroom snapshots` lists what is there")
}
