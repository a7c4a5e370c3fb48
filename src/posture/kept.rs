//! Reports of audits in the repository, and what changed since the last.

use std::collections::{BTreeMap, BTreeSet};

use super::fact::{Fact, Status};
use super::facts::refused::{Earlier, Refused};
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
/// The check that compares counts with those of the audit before.
const REFUSED: &str = "MON-2";

/// The check and its member.
fn place(one: &Outcome) -> String {
    let member = one.member.as_ref().map(|member| format!(" {member}")).unwrap_or_default();
    format!("{}{member}", one.id)
}

fn name(one: &Outcome) -> String {
    match one.advisory() {
        Some(advisory) => format!("{} {advisory}", place(one)),
        None => place(one),
    }
}

/// Whether the checks show that what failed under this name, and does not now, is gone: the same passes, or does not
/// apply. Of a vulnerability that is gone nothing is listed, only that its member's version was judged.
fn shows_gone(checks: &[Outcome], before: &str) -> bool {
    checks.iter().filter(|one| one.status != Status::Unknown).any(|one| {
        let same = one.status != Status::Fail && name(one) == before;
        let of_place = before.strip_prefix(&place(one)).is_some_and(|rest| rest.starts_with(' '));
        same || (one.id == "UPD-1" && one.member.is_some() && of_place)
    })
}

/// The last audit of this cluster that was kept.
async fn last(of: &RepositoryOptions<'_>) -> Result<Option<(SnapshotId, format::Report)>> {
    let is_audit = |report: &format::Report| {
        let same = report.cluster.as_ref() == of.cluster && report.details.is_some();
        (report.kind == KIND && same).then_some(())
    };
    let found = newest_reports(of.repository, of.keys, &[()], is_audit).await?;
    Ok(found.into_iter().next().map(|(_, id, report)| (id, report)))
}

/// What the last audit whose report was kept saw of calls that etcd counts since it started.
pub(super) async fn earlier(of: &RepositoryOptions<'_>) -> Fact<Earlier> {
    let (id, report) = match last(of).await {
        Ok(Some(found)) => found,
        Ok(None) => return Fact::unknown("no earlier audit was kept (--report)"),
        Err(error) => return Fact::unknown(error.to_string()),
    };
    let mut refused = BTreeMap::new();
    for check in report.checks() {
        let of = check.name.strip_prefix(REFUSED).and_then(|name| name.strip_prefix(' '));
        if let Some((name, found)) = of.zip(Refused::of_report(&check.detail)) {
            refused.insert(name.to_owned(), found);
        }
    }
    Fact::known(Earlier { at: id.created(), refused }, format!("report {id}"))
}

impl Report {
    /// What changed since the last audit of this cluster that was kept, if there was one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn difference(&self, of: &RepositoryOptions<'_>) -> Result<Option<Difference>> {
        let Some((id, before)) = last(of).await? else { return Ok(None) };
        let failed = |check: &&ReportCheck| check.outcome == CheckOutcome::Failed;
        let before: BTreeSet<String> =
            before.checks().iter().filter(failed).map(|check| check.name.clone()).collect();
        let now = self.checks.iter().filter(|one| one.status == Status::Fail);
        let now: BTreeSet<String> = now.map(name).collect();
        Ok(Some(Difference {
            report: id,
            new: now.difference(&before).cloned().collect(),
            // What is unknown now, or was not checked, may fail still.
            gone: before
                .difference(&now)
                .filter(|name| shows_gone(&self.checks, name))
                .cloned()
                .collect(),
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
        let outcome = match (self.exit, self.counts.fail, self.counts.unknown) {
            (0, 0, 0) => ReportOutcome::Passed,
            (0, ..) => ReportOutcome::Findings,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::posture::{Section, Severity};

    fn outcome(id: &'static str, status: Status, url: Option<&str>) -> Outcome {
        Outcome {
            id,
            severity: Severity::High,
            status,
            title: "CVE-1: a title".into(),
            section: Section::Authentication,
            cis: &[],
            stig: &[],
            member: Some("m0".into()),
            evidence: Vec::new(),
            why: None,
            remedy: "",
            url: url.map(Into::into),
            waiver: None,
        }
    }

    #[test]
    fn what_is_unknown_is_not_gone() {
        let shows = |status, before| shows_gone(&[outcome("TLS-1", status, None)], before);
        assert!(shows(Status::Pass, "TLS-1 m0") && shows(Status::NotApplicable, "TLS-1 m0"));
        assert!(!shows(Status::Unknown, "TLS-1 m0") && !shows(Status::Pass, "TLS-1 m1"));
        assert!(!shows_gone(&[], "TLS-1 m0"));
        // Another vulnerability is still there: the version was judged.
        let other = outcome("UPD-1", Status::Fail, Some("https://a"));
        assert!(shows_gone(&[other], "UPD-1 m0 CVE-2"));
        assert!(!shows_gone(&[outcome("UPD-1", Status::Unknown, None)], "UPD-1 m0 CVE-2"));
    }
}
