//! Doing what a plan says, in the order of SPEC.md §3.3: whatever moment it ends at, every snapshot is whole or gone.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};

use super::plan::{PrunePlan, Removal};
use crate::backup::control::{Control, Step, Unit};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    CheckOutcome, ClusterName, MAX_MANIFEST, Report, ReportCheck, ReportDetails, ReportOutcome,
    ReportScope, ReportStep, SnapshotId, names,
};
use crate::store::Repository;

/// Snapshots worked on at once.
const AT_ONCE: usize = 32;

/// Of each kind, in a report.
const MOST_CHECKS: usize = 1000;

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneReport {
    /// Snapshots that are gone, oldest first.
    pub removed: Vec<SnapshotId>,
    /// Folders of which nothing is left, or no more than others use.
    pub swept: Vec<SnapshotId>,
    /// Bytes deleted from earlier removals and of writers that died.
    pub freed_bytes: u64,
    /// What the store does not let go of: a lock, a retention rule, missing rights.
    pub refused: Vec<String>,
    /// Wall time.
    pub duration: Duration,
}

/// Carries out `plan`. A snapshot is gone once its manifest is; its payload goes by a later plan, when nothing uses it
/// and the grace period is over.
///
/// # Errors
/// Those of the store, but for what it refuses to delete, which is reported. What was not done is done next time.
pub async fn apply_prune(
    repository: &Repository,
    plan: &PrunePlan,
    control: &Control,
) -> Result<PruneReport> {
    let begun = Instant::now();
    let mut report = PruneReport::default();
    for id in &plan.revive {
        // Somebody else may be removing it just now.
        let manifest = names::snapshot_object(*id, "manifest");
        match repository.len(&manifest).await {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found?,
        };
        let name = names::snapshot_object(*id, "tombstone");
        unless_refused(repository.delete(&name).await, &mut report)?;
    }
    let total = plan.remove.len() + plan.leftovers.len();
    control.begin_counting("removing", Some(total as u64), Unit::Snapshots);
    let mut removals = stream::iter(plan.remove.clone())
        .map(|removal| async move {
            control.check()?;
            Ok::<_, Error>((removal.id, remove(repository, &removal).await))
        })
        .buffered(AT_ONCE);
    while let Some(removed) = removals.next().await {
        let (id, outcome) = removed?;
        if unless_refused(outcome, &mut report)? {
            report.removed.push(id);
        }
        control.step(Step::Advance(1));
    }
    drop(removals);
    let mut leftovers = stream::iter(plan.leftovers.clone())
        .map(|leftover| async move {
            control.check()?;
            let outcome = delete_all(repository, &leftover.objects).await;
            Ok::<_, Error>((leftover, outcome))
        })
        .buffered(AT_ONCE);
    while let Some(swept) = leftovers.next().await {
        let (leftover, outcome) = swept?;
        if unless_refused(outcome, &mut report)? {
            report.swept.push(leftover.id);
            report.freed_bytes += leftover.bytes;
        }
        control.step(Step::Advance(1));
    }
    report.duration = begun.elapsed();
    Ok(report)
}

/// The evidence of a removal, for [`store_report`](crate::backup::store_report).
pub fn prune_report(
    plan: &PrunePlan,
    report: &PruneReport,
    cluster: Option<&ClusterName>,
    planned: Duration,
) -> Report {
    let milliseconds = |time: Duration| time.as_millis() as u64;
    let check = |name: String, outcome, detail: String| ReportCheck {
        name,
        outcome,
        detail: detail.chars().take(500).collect(),
    };
    let removed = report
        .removed
        .iter()
        .take(MOST_CHECKS)
        .map(|id| check(id.to_string(), CheckOutcome::Passed, "removed".into()));
    let refused = report.refused.iter().take(MOST_CHECKS);
    let refused = refused.map(|why| check("stays".into(), CheckOutcome::Failed, why.clone()));
    let counts = format!(
        "{} kept, {} removed, {} bytes freed",
        plan.keep.len(),
        report.removed.len(),
        report.freed_bytes
    );
    let counted = [check("snapshots".into(), CheckOutcome::Passed, counts)];
    Report {
        kind: "prune".into(),
        tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
        snapshot: None,
        cluster: cluster.cloned(),
        level: None,
        scope: cluster.map_or(ReportScope::Repository, |_| ReportScope::Cluster),
        outcome: match report.refused.is_empty() {
            true => ReportOutcome::Passed,
            false => ReportOutcome::Failed,
        },
        details: Some(ReportDetails {
            steps: vec![
                ReportStep { name: "plan".into(), milliseconds: milliseconds(planned) },
                ReportStep { name: "remove".into(), milliseconds: milliseconds(report.duration) },
            ],
            checks: counted.into_iter().chain(removed).chain(refused).collect(),
        }),
    }
}

/// False for what the store refuses, which the report then says.
fn unless_refused(outcome: Result<()>, report: &mut PruneReport) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Denied => {
            report.refused.push(error.to_string());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn remove(repository: &Repository, removal: &Removal) -> Result<()> {
    let manifest = names::snapshot_object(removal.id, "manifest");
    let tombstone = names::snapshot_object(removal.id, "tombstone");
    let bytes = match repository.get(&manifest, MAX_MANIFEST as u64).await {
        // Another prune was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return delete_all(repository, &removal.objects).await;
        }
        read => read?,
    };
    repository.put_once(&tombstone, bytes).await?;
    match repository.delete(&manifest).await {
        Err(error) if error.kind() == ErrorKind::Denied => {
            // It stays for now, and is to be seen.
            let _ = repository.delete(&tombstone).await;
            Err(error)
        }
        Err(error) => Err(error),
        Ok(()) => delete_all(repository, &removal.objects).await,
    }
}

async fn delete_all(repository: &Repository, names: &[String]) -> Result<()> {
    for name in names {
        repository.delete(name).await?;
    }
    Ok(())
}
