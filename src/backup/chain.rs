//! Whether a snapshot disappeared, or came back: each manifest names the snapshot before it, and reports name what was removed.

use std::collections::BTreeMap;
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

/// What the snapshots that are there and the reports say of each other, in sentences.
pub(super) struct Chain {
    /// What a snapshot names as the one before it and is neither there nor known to be removed, or is another one.
    pub(super) missing: Vec<String>,
    /// What was removed and is there again.
    pub(super) again: Vec<String>,
}

/// Compares the snapshots of `links` with each other and with the reports.
///
/// What is older than the cluster's oldest snapshot that counts was removed by retention, whatever is known of that.
///
/// # Errors
/// Those of the store.
pub(super) async fn compare(
    repository: &Repository,
    keys: &KeySet,
    links: &BTreeMap<SnapshotId, Link>,
) -> Result<Chain> {
    if links.is_empty() {
        return Ok(Chain { missing: Vec::new(), again: Vec::new() });
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
    let mut again = Findings::default();
    for (id, report) in removed(repository, keys).await? {
        missing.remove(&id);
        if links.contains_key(&id) {
            again.push(format!(
                "snapshot {id} was removed, as report {report} says, and is there again: \
                 `prune --undo` brought it back, or somebody else did"
            ));
        }
    }
    findings.extend(missing.into_iter().map(|(before, id)| {
        format!(
            "snapshot {before}, which was there when {id} was taken, is missing, and no report here says that it was removed"
        )
    }));
    Ok(Chain { missing: findings.finish(), again: again.finish() })
}

/// The snapshots that reports of `prune` which count say were removed, each with the newest such report.
async fn removed(
    repository: &Repository,
    keys: &KeySet,
) -> Result<BTreeMap<SnapshotId, SnapshotId>> {
    let listed = repository.list("reports").await?;
    let mut removed = BTreeMap::new();
    let visit = |id, report: Report| {
        let checks = report.checks().iter().filter(|_| report.kind == "prune");
        for snapshot in checks.filter_map(|check| check.name.parse().ok()) {
            removed.entry(snapshot).or_insert(id);
        }
        ControlFlow::Continue(())
    };
    newest_first(repository, keys, listed, MOST_READ, visit).await?;
    Ok(removed)
}
