//! Whether a snapshot disappeared: each manifest names the snapshot before it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::findings::Findings;
use super::reports::newest_first;
use crate::error::Result;
use crate::format::{ClusterName, ManifestBody, Previous, Report, Sha256, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::folder;
use crate::store::Repository;

/// Reports that count looked through for what was removed.
const MOST_READ: usize = 10_000;

/// What the manifest of a snapshot that counts says of its place.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) cluster: ClusterName,
    pub(super) previous: Option<Previous>,
    /// Of the manifest itself.
    pub(super) sha256: Sha256,
}

impl Link {
    pub(super) fn new(manifest: &ManifestBody, sha256: Sha256) -> Self {
        Self { cluster: manifest.cluster.clone(), previous: manifest.previous, sha256 }
    }
}

/// What the snapshots of `links` name as the one before them and is neither there nor known to be removed, in sentences.
///
/// What is older than the cluster's oldest snapshot that counts was removed by retention, whatever is known of that.
///
/// # Errors
/// Those of the store.
pub(super) async fn missing(
    repository: &Repository,
    keys: &KeySet,
    links: &BTreeMap<SnapshotId, Link>,
) -> Result<Vec<String>> {
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let mut oldest: BTreeMap<&ClusterName, SnapshotId> = BTreeMap::new();
    for (id, link) in links {
        oldest.entry(&link.cluster).or_insert(*id);
    }
    let folders = folder::list_all(repository).await?.snapshots;
    let mut findings = Findings::default();
    let mut missing = BTreeMap::new();
    for (id, link) in links {
        let Some(previous) = link.previous else { continue };
        let before = previous.snapshot;
        let there = folders.get(&before);
        if there.is_some_and(|one| one.manifest.is_some()) {
            if links.get(&before).is_some_and(|link| link.sha256 != previous.sha256) {
                findings.push(format!(
                    "snapshot {before} has another manifest than it had when {id} was taken after it"
                ));
            }
        } else if there.is_none_or(|one| one.tombstone.is_none())
            && oldest.get(&link.cluster).is_some_and(|oldest| before >= *oldest)
        {
            missing.insert(before, *id);
        }
    }
    if !missing.is_empty() {
        forget_removed(repository, keys, &mut missing).await?;
    }
    findings.extend(missing.into_iter().map(|(before, id)| {
        format!(
            "snapshot {before}, which was there when {id} was taken, is missing, and no report here says that it was removed"
        )
    }));
    Ok(findings.finish())
}

/// Takes out what a report that counts says was removed.
async fn forget_removed(
    repository: &Repository,
    keys: &KeySet,
    missing: &mut BTreeMap<SnapshotId, SnapshotId>,
) -> Result<()> {
    let listed = repository.list("reports").await?;
    let visit = |_, report: Report| {
        for id in removed(&report) {
            missing.remove(&id);
        }
        match missing.is_empty() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    newest_first(repository, keys, listed, MOST_READ, visit).await.map(drop)
}

/// The snapshots that a report of `prune` says were removed.
fn removed(report: &Report) -> BTreeSet<SnapshotId> {
    let of_prune = report.kind == "prune";
    let checks = report.checks().iter().filter(|_| of_prune);
    checks.filter_map(|check| check.name.parse().ok()).collect()
}
