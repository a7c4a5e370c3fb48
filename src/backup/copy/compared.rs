//! Which snapshots of a replica were compared with their digests: each once, remembered in sealed reports there.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::report::CopyReport;
use crate::backup::Scope;
use crate::backup::reports::{newest_first, store_report};
use crate::error::Result;
use crate::format::{
    CheckOutcome, Report, ReportCheck, ReportDetails, ReportOutcome, ReportScope, ReportStep,
    SnapshotId,
};
use crate::keys::KeySet;
use crate::store::Repository;

/// What such a report is of.
const KIND: &str = "copy";
/// Reports that are looked through. What older ones say is forgotten, so that it is compared again.
const MOST_READ: usize = 1000;
/// Snapshots that one report names.
const MOST_CHECKS: usize = 5000;

/// The snapshots in `target` that reports there say were compared.
///
/// # Errors
/// Those of the store.
pub(super) async fn remembered(target: &Repository, keys: &KeySet) -> Result<BTreeSet<SnapshotId>> {
    let mut compared = BTreeSet::new();
    let visit = |_, report: Report| {
        if report.kind == KIND {
            let checks = report.checks().iter();
            let passed = checks.filter(|check| check.outcome == CheckOutcome::Passed);
            compared.extend(passed.filter_map(|check| check.name.parse::<SnapshotId>().ok()));
        }
        ControlFlow::Continue(())
    };
    let listed = target.list("reports").await?;
    newest_first(target, keys, listed, MOST_READ, visit).await?;
    Ok(compared)
}

/// Stores in `target` what `report` says was copied and compared, unless that is nothing.
///
/// # Errors
/// Those of [`store_report`].
pub(super) async fn remember(
    target: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    report: &CopyReport,
) -> Result<()> {
    let check = |id: &SnapshotId, outcome, detail: &str| ReportCheck {
        name: id.to_string(),
        outcome,
        detail: detail.chars().take(200).collect(),
    };
    let failed = report.failed.iter().map(|(id, why)| check(id, CheckOutcome::Failed, why));
    let copied = report.copied.iter().map(|id| check(id, CheckOutcome::Passed, "copied"));
    let compared = report.compared.iter().map(|id| check(id, CheckOutcome::Passed, "compared"));
    let checks: Vec<_> = failed.take(MOST_CHECKS / 10).chain(copied).chain(compared).collect();
    if checks.is_empty() {
        return Ok(());
    }
    let milliseconds = report.duration.as_millis() as u64;
    let evidence = Report {
        kind: KIND.into(),
        tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
        snapshot: None,
        cluster: match scope {
            Scope::Cluster(cluster) => Some(cluster.clone()),
            _ => None,
        },
        level: Some("digests".into()),
        key: None,
        scope: match scope {
            Scope::All => ReportScope::Repository,
            Scope::Cluster(_) => ReportScope::Cluster,
            Scope::Ids(_) => ReportScope::One,
        },
        outcome: match report.failed.is_empty() {
            true => ReportOutcome::Passed,
            false => ReportOutcome::Failed,
        },
        details: Some(ReportDetails {
            steps: vec![ReportStep { name: "copy".into(), milliseconds }],
            checks: checks.into_iter().take(MOST_CHECKS).collect(),
        }),
    };
    store_report(target, keys, &evidence).await.map(drop)
}
