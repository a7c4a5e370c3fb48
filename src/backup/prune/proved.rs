//! Which snapshots a report in the repository proves.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::SystemTime;

use crate::backup::reports::{is_through_journals, newest_first, proves_bytes};
use crate::error::Result;
use crate::format::{CheckOutcome, ClusterName, Report, SnapshotId};
use crate::keys::KeySet;
use crate::store::Repository;

/// Reports that count looked through: what an older one proves is too long ago.
const MOST_READ: usize = 10_000;

/// The snapshots whose every byte `report` says was checked and good.
fn proves(report: &Report) -> Vec<SnapshotId> {
    if matches!(report.kind.as_str(), "drill" | "prove") {
        let restored = report.passed() && !is_through_journals(report);
        return report.snapshot.filter(|_| restored).into_iter().collect();
    }
    let whole = proves_bytes(report);
    let passed = report.checks().iter().filter(|check| check.outcome == CheckOutcome::Passed);
    passed.filter(|_| whole).filter_map(|check| check.name.parse().ok()).collect()
}

/// What the reports say.
pub(super) struct Proved {
    /// Of each cluster the newest of its snapshots that the newest report about it proves.
    pub(super) snapshots: BTreeSet<SnapshotId>,
    /// When the store wrote the newest report.
    pub(super) reported: Option<SystemTime>,
    /// False when planted ones are too many to look behind them.
    pub(super) all_looked_at: bool,
}

/// Reads reports, the newest first, until each of `clusters` has a snapshot that one of them proves.
pub(super) async fn last_proved(
    repository: &Repository,
    keys: &KeySet,
    clusters: &BTreeMap<ClusterName, BTreeSet<SnapshotId>>,
) -> Result<Proved> {
    let listed = repository.list("reports").await?;
    let reported = listed.iter().map(|info| info.modified).max();
    let mut open: Vec<_> = clusters.values().filter(|ids| !ids.is_empty()).collect();
    let mut snapshots = BTreeSet::new();
    let visit = |_, report: Report| {
        let proved = proves(&report);
        open.retain(|ids| match proved.iter().filter(|id| ids.contains(id)).max() {
            Some(id) => {
                snapshots.insert(*id);
                false
            }
            None => true,
        });
        match open.is_empty() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let all_looked_at = newest_first(repository, keys, listed, MOST_READ, visit).await?;
    Ok(Proved { snapshots, reported, all_looked_at })
}
