//! What a verification found, and the evidence of it.

use std::time::Duration;

use super::super::chain::Link;
use super::super::continuous::{VerifiedStretch, newest_checks};
use super::super::deep::Deep;
use super::super::proofs::only_key;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    CheckOutcome, ClusterName, KeyId, Manifest, Report, ReportCheck, ReportDetails, ReportOutcome,
    ReportScope, ReportStep, SnapshotId,
};
use crate::keys::trust::Standing;
use crate::snapshot::seals;
use crate::text::counted;

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyLevel {
    /// Manifest, seal and the objects' lengths.
    Quick,
    /// The objects' SHA-256 against the manifest's; needs no key, and so proves nothing against who can write the manifest.
    Digests,
    /// Every byte: fetched, opened, decompressed, hashed.
    Full,
    /// As full, and etcd's own structure in it: bolt's pages, the history of revisions, HashKV as etcd answered it.
    Deep,
}

impl VerifyLevel {
    /// Stable name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Digests => "digests",
            Self::Full => "full",
            Self::Deep => "deep",
        }
    }
}

/// Snapshots that a report names one by one, so that it stays below its limit of 1 MiB however many there are: those that
/// failed, and the newest that are good.
const MOST_FAILED: usize = 300;
const MOST_PASSED: usize = 2000;

/// What one snapshot's verification found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The snapshot.
    pub id: SnapshotId,
    /// Nothing, or why it failed.
    pub outcome: Result<()>,
    /// The master key that opened it.
    pub opened_by: Option<KeyId>,
    /// What its seals are worth; unverified where no key was used.
    pub standing: Standing,
    /// Oddities that do not keep it from being restored.
    pub findings: Vec<String>,
    /// What etcd's structure came to, when that was looked at and is sound.
    pub deep: Option<Deep>,
    /// Of one that counts.
    pub(super) link: Option<Link>,
}

impl Verified {
    pub(super) fn new(id: SnapshotId) -> Self {
        Self {
            id,
            outcome: Ok(()),
            opened_by: None,
            standing: Standing::Unverified,
            findings: Vec::new(),
            deep: None,
            link: None,
        }
    }

    pub(super) fn judged(
        &mut self,
        by: Option<KeyId>,
        standing: Standing,
        findings: Vec<String>,
        manifest: &Manifest,
    ) {
        (self.opened_by, self.standing, self.findings) = (by, standing, findings);
        self.link =
            standing.counts().then(|| Link::new(manifest.body(), seals::manifest_digest(manifest)));
        if standing != Standing::Counts {
            self.findings.push(format!("snapshot {}: {standing}", self.id));
        }
    }
}

/// What a verification found.
#[derive(Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How deep it looked.
    pub level: VerifyLevel,
    /// Each snapshot looked at, oldest first.
    pub snapshots: Vec<Verified>,
    /// Of a deep verification: what was recorded between snapshots.
    pub stretches: Vec<VerifiedStretch>,
    /// What is odd about the repository itself.
    pub findings: Vec<String>,
    /// A finding is that a snapshot which another one names is missing, or has another manifest.
    pub is_incomplete: bool,
    /// How much it looked at.
    pub scope: ReportScope,
    /// Snapshots in the scope that it did not get to, oldest first: its time was over. Nothing is known of them.
    pub not_verified: Vec<SnapshotId>,
}

impl VerifyReport {
    /// The error that decides the exit status: what failed before what merely cannot be opened.
    pub fn worst(&self) -> Option<&Error> {
        let severity = |error: &&Error| match error.kind() {
            ErrorKind::Tampered | ErrorKind::Truncated => 3,
            ErrorKind::WrongKey => 1,
            _ => 2,
        };
        self.snapshots
            .iter()
            .filter_map(|verified| verified.outcome.as_ref().err())
            .max_by_key(severity)
    }
}

impl VerifyReport {
    /// Why not all of its scope was verified.
    pub fn unfinished(&self) -> Option<Error> {
        let left = self.not_verified.len();
        (left > 0).then(|| {
            let done = self.snapshots.len();
            let message =
                format!("verified in time: {}; not verified: {left}", counted(done, "snapshot"));
            Error::new(ErrorKind::Unreachable, message)
                .hint("the store is slow, or a run of all snapshots is due too often")
        })
    }

    /// Whether there is something to look at that did not fail.
    fn has_findings(&self) -> bool {
        !self.findings.is_empty()
            || self.snapshots.iter().any(|one| !one.findings.is_empty())
            || self.stretches.iter().any(|one| one.finding().is_some())
    }

    /// The evidence of it, for [`store_report`](crate::backup::store_report).
    pub fn evidence(&self, cluster: Option<&ClusterName>, took: Duration) -> Report {
        let check = |verified: &Verified| {
            let (outcome, detail) = match &verified.outcome {
                Ok(()) => {
                    let opened_by = verified.opened_by.map(|id| format!("opened by {id}"));
                    let parts =
                        opened_by.into_iter().chain(verified.deep.as_ref().map(Deep::to_string));
                    (CheckOutcome::Passed, parts.collect::<Vec<_>>().join("; "))
                }
                Err(error) if error.kind() == ErrorKind::WrongKey => {
                    (CheckOutcome::Skipped, error.to_string())
                }
                Err(error) => (CheckOutcome::Failed, error.to_string()),
            };
            let detail = detail.chars().take(200).collect();
            ReportCheck { name: verified.id.to_string(), outcome, detail }
        };
        let (all, left) = (self.snapshots.len(), self.not_verified.len());
        let mut counts = format!("{all} verified, {} failed", self.failed().count());
        let mut counted = CheckOutcome::Passed;
        if left > 0 {
            counts += &format!(", {left} not verified: the time was over");
            counted = CheckOutcome::Skipped;
        }
        let counted = ReportCheck { name: "snapshots".into(), outcome: counted, detail: counts };
        let failed = self.failed().take(MOST_FAILED).map(check);
        let rest = self.snapshots.iter().rev().filter(|one| one.outcome.is_ok());
        let rest = rest.take(MOST_PASSED).map(check);
        let milliseconds = took.as_millis() as u64;
        Report {
            kind: "verify".into(),
            tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
            snapshot: None,
            cluster: cluster.cloned(),
            level: Some(self.level.name().into()),
            key: only_key(self.snapshots.iter().map(|one| one.opened_by)),
            scope: self.scope,
            outcome: match self.worst() {
                Some(_) => ReportOutcome::Failed,
                // What is not known is not good.
                None if left > 0 => ReportOutcome::Failed,
                None if self.stretches.iter().any(VerifiedStretch::is_different) => {
                    ReportOutcome::Failed
                }
                None if self.has_findings() => ReportOutcome::Findings,
                None => ReportOutcome::Passed,
            },
            details: Some(ReportDetails {
                steps: vec![ReportStep { name: "verify".into(), milliseconds }],
                checks: std::iter::once(counted)
                    .chain(failed)
                    .chain(newest_checks(&self.stretches))
                    .chain(rest)
                    .collect(),
            }),
        }
    }

    fn failed(&self) -> impl Iterator<Item = &Verified> {
        self.snapshots.iter().filter(|one| one.outcome.is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_many_snapshots_fits() {
        let id = |ms| SnapshotId::new(ms, [7; 10]);
        let failed = |ms| Verified {
            outcome: Err(Error::tampered("\u{fffd}".repeat(5000))),
            ..Verified::new(id(ms))
        };
        let mut snapshots: Vec<_> = (0..9000).map(failed).collect();
        snapshots.extend((9000..20_000).map(|ms| Verified::new(id(ms))));
        let (findings, scope) = (Vec::new(), ReportScope::Repository);
        let report = VerifyReport {
            level: VerifyLevel::Full,
            snapshots,
            stretches: Vec::new(),
            findings,
            is_incomplete: false,
            scope,
            not_verified: Vec::new(),
        };
        let report = report.evidence(None, Duration::ZERO);
        let details = report.details.unwrap();
        assert!(details.print().unwrap().len() < 1 << 20);
        assert_eq!(details.checks[0].detail, "20000 verified, 9000 failed");
        assert!(details.checks.iter().any(|check| check.name == id(19_999).to_string()));
    }
}
