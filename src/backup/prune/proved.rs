//! Which snapshots a report in the repository proves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, stream};

use crate::backup::reports::{proves_bytes, read_report};
use crate::error::{ErrorKind, Result};
use crate::format::{CheckOutcome, ClusterName, ObjectName, Report, SnapshotId};
use crate::keys::KeySet;
use crate::store::Repository;

/// Reports read at once.
const READS: usize = 64;

/// The snapshots whose every byte `report` says was checked and good.
fn proves(report: &Report) -> Vec<SnapshotId> {
    if report.kind == "drill" {
        return report.snapshot.filter(|_| report.passed()).into_iter().collect();
    }
    let whole = proves_bytes(report);
    let passed = report.checks().iter().filter(|check| check.outcome == CheckOutcome::Passed);
    passed.filter(|_| whole).filter_map(|check| check.name.parse().ok()).collect()
}

/// Of each cluster the newest of its snapshots that the newest report about it proves; and when the store wrote the
/// newest report.
pub(super) async fn last_proved(
    repository: &Repository,
    keys: &KeySet,
    clusters: &BTreeMap<ClusterName, BTreeSet<SnapshotId>>,
) -> Result<(BTreeSet<SnapshotId>, Option<SystemTime>)> {
    let listed = repository.list("reports").await?;
    let newest = listed.iter().map(|info| info.modified).max();
    let ids = listed.into_iter().rev().filter_map(|info| match ObjectName::parse(&info.name) {
        Some(ObjectName::Report { id }) => Some(id),
        _ => None,
    });
    let mut open: Vec<_> = clusters.values().collect();
    let mut found = BTreeSet::new();
    let mut reports = stream::iter(ids)
        .map(|id| async move { read_report(repository, keys, id).await })
        .buffered(READS);
    while let (false, Some(report)) = (open.is_empty(), reports.next().await) {
        // What is planted and does not count protects nothing and hides nothing; a store that fails might.
        let proved = match report {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Ok((report, standing)) if standing.counts() => proves(&report),
            _ => Vec::new(),
        };
        open.retain(|ids| match proved.iter().filter(|id| ids.contains(id)).max() {
            Some(id) => {
                found.insert(*id);
                false
            }
            None => true,
        });
    }
    Ok((found, newest))
}
