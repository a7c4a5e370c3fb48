//! Reports of audits in the repository, and what changed since the last.

use std::collections::BTreeSet;

use super::fact::Status;
use super::facts::repository::RepositoryOptions;
use super::outcome::{Difference, Outcome};
use super::report::Report;
use crate::backup::{newest_reports, store_report};
use crate::error::Result;
use crate::format::{
    self, CheckOutcome, ReportCheck, ReportDetails, ReportOutcome, ReportScope, SnapshotId,
};

/// The kind of these reports.
const KIND: &str = "audit";

fn name(one: &Outcome) -> String {
    let member = one.member.as_ref().map(|member| format!(" {member}")).unwrap_or_default();
    match &one.url {
        Some(_) => {
            format!("{}{member} {}", one.id, one.title.split(':').next().unwrap_or_default())
        }
        None => format!("{}{member}", one.id),
    }
}

impl Report {
    /// What changed since the last audit of this cluster that was kept, if there was one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn difference(&self, of: &RepositoryOptions<'_>) -> Result<Option<Difference>> {
        let is_audit = |report: &format::Report| {
            let same = report.cluster.as_ref() == of.cluster && report.details.is_some();
            (report.kind == KIND && same).then_some(())
        };
        let found = newest_reports(of.repository, of.keys, &[()], is_audit).await?;
        let Some((_, id, before)) = found.into_iter().next() else { return Ok(None) };
        let failed = |check: &&ReportCheck| check.outcome == CheckOutcome::Failed;
        let before: BTreeSet<String> =
            before.checks().iter().filter(failed).map(|check| check.name.clone()).collect();
        let now = self.checks.iter().filter(|one| one.status == Status::Fail);
        let now: BTreeSet<String> = now.map(name).collect();
        Ok(Some(Difference {
            report: id,
            new: now.difference(&before).cloned().collect(),
            gone: before.difference(&now).cloned().collect(),
        }))
    }

    /// Stores the report, sealed, as those of drills and verifications.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) without a master key; those of the store.
    pub async fn store(&self, into: &RepositoryOptions<'_>) -> Result<SnapshotId> {
        let check = |one: &Outcome| ReportCheck {
            name: name(one),
            outcome: match one.status {
                Status::Pass => CheckOutcome::Passed,
                Status::Fail => CheckOutcome::Failed,
                Status::Unknown | Status::NotApplicable => CheckOutcome::Skipped,
            },
            detail: detail(one),
        };
        let outcome = match (self.exit, self.counts.fail) {
            (0, 0) => ReportOutcome::Passed,
            (0, _) => ReportOutcome::Findings,
            _ => ReportOutcome::Failed,
        };
        let report = format::Report {
            kind: KIND.into(),
            cluster: into.cluster.cloned(),
            snapshot: None,
            key: None,
            level: None,
            scope: ReportScope::Cluster,
            outcome,
            tool: self.tool.into(),
            details: Some(ReportDetails {
                steps: Vec::new(),
                checks: self.checks.iter().map(check).collect(),
            }),
        };
        store_report(into.repository, into.keys, &report).await
    }
}

/// What was seen, short: details have a limit.
fn detail(one: &Outcome) -> String {
    let seen: Vec<_> = one.evidence.iter().map(|seen| seen.what().to_owned()).collect();
    let seen = if seen.is_empty() { one.why.clone().unwrap_or_default() } else { seen.join("; ") };
    format!("{}: {}", one.status.name(), crate::text::clean(&seen))
}
