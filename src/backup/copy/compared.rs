//! What of a replica was compared with its digests: each snapshot and journal once, remembered in sealed reports there.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::report::CopyReport;
use crate::backup::Scope;
use crate::backup::reports::{newest_first, store_report};
use crate::crypto;
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

/// Snapshots, and journals, that were there already and are compared in one run.
const MOST_COMPARED: usize = 64;
/// As many on a blind host, which cannot read what it compared before: they are drawn at random.
const MOST_DRAWN: usize = 2;

/// What is still to be compared.
pub(super) struct Comparing {
    /// Names in reports of what was compared.
    remembered: BTreeSet<String>,
    is_blind: bool,
    /// Journals that may still be compared in this run.
    journals: AtomicUsize,
}

/// By what a report names a journal: by its end, or while it has none by what is recorded of it.
pub(super) fn mark(id: SnapshotId, has_ended: bool, objects: usize) -> String {
    match has_ended {
        true => format!("journal {id}, ended"),
        false => format!("journal {id}, {objects} objects"),
    }
}

impl Comparing {
    /// Reads in `target` what was compared. None without a key that seals: then nothing can be remembered.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn new(target: &Repository, keys: &KeySet) -> Result<Option<Self>> {
        if keys.sealing().next().is_none() {
            return Ok(None);
        }
        let is_blind = keys.is_blind();
        let most = if is_blind { MOST_DRAWN } else { MOST_COMPARED };
        let remembered = if is_blind { BTreeSet::new() } else { remembered(target, keys).await? };
        Ok(Some(Self { remembered, is_blind, journals: AtomicUsize::new(most) }))
    }

    /// Whether it knows what was compared before.
    pub(super) fn remembers(&self) -> bool {
        !self.is_blind
    }

    /// Of snapshots that are there, oldest first, those to compare now; and how many are left to later runs.
    pub(super) fn choose<T>(
        &self,
        there: Vec<T>,
        id: impl Fn(&T) -> SnapshotId,
    ) -> (Vec<T>, Option<usize>) {
        let is_new = |one: &T| !self.remembered.contains(&id(one).to_string());
        let mut left: Vec<_> = there.into_iter().filter(is_new).collect();
        if self.is_blind {
            left.sort_by_cached_key(|_| crypto::random::<8>(&mut crypto::system_rng()));
            left.truncate(MOST_DRAWN);
            return (left, None);
        }
        let chosen = left.split_off(left.len().saturating_sub(MOST_COMPARED));
        (chosen, Some(left.len()))
    }

    /// Whether the journal is compared in this run; none if it was before.
    pub(super) fn begin(&self, mark: &str) -> Option<bool> {
        if self.remembered.contains(mark) {
            return None;
        }
        // On a blind host one in sixteen, so that it is not always the oldest.
        let [random] = crypto::random::<1>(&mut crypto::system_rng());
        if self.is_blind && random >= 16 {
            return Some(false);
        }
        let left = |left: usize| left.checked_sub(1);
        Some(self.journals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok())
    }
}

/// The names of what reports in `target` say was compared.
async fn remembered(target: &Repository, keys: &KeySet) -> Result<BTreeSet<String>> {
    let mut compared = BTreeSet::new();
    let visit = |_, report: Report| {
        if report.kind == KIND {
            let checks = report.checks().iter();
            let passed = checks.filter(|check| check.outcome == CheckOutcome::Passed);
            compared.extend(passed.map(|check| check.name.clone()));
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
    let check = |name: String, outcome, detail: &str| ReportCheck {
        name,
        outcome,
        detail: detail.chars().take(200).collect(),
    };
    let failed = report.failed.iter().map(|(id, why)| (id.to_string(), why));
    let journals = &report.journals;
    let failed_journals = journals.failed.iter().map(|(id, why)| (format!("journal {id}"), why));
    let failed = failed.chain(failed_journals).take(MOST_CHECKS / 10);
    let failed = failed.map(|(name, why)| check(name, CheckOutcome::Failed, why));
    let passed = |name, what| check(name, CheckOutcome::Passed, what);
    let copied = report.copied.iter().map(|id| passed(id.to_string(), "copied"));
    let compared = report.compared.iter().map(|id| passed(id.to_string(), "compared"));
    let marks = journals.marks.iter().map(|mark| passed(mark.clone(), "copied or compared"));
    let checks: Vec<_> = failed.chain(copied).chain(compared).chain(marks).collect();
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
        outcome: match report.failed.is_empty() && journals.failed.is_empty() {
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
