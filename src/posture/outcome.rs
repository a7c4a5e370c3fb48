//! What came of one check, and what changed since it was made before.

use serde::Serialize;

use super::fact::{Evidence, Severity, Status};
use super::kinds::Section;
use crate::format::{SnapshotId, Time};

/// One check of one member, or of the cluster.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// Such as `AUTH-1`.
    pub id: &'static str,
    /// How bad a failure is.
    pub severity: Severity,
    /// What came out.
    pub status: Status,
    /// What is wrong if it fails.
    pub title: String,
    /// The part of a guide it belongs to.
    pub section: Section,
    /// Items of the CIS Kubernetes Benchmark.
    pub cis: &'static [&'static str],
    /// Items of DISA's Kubernetes STIG.
    pub stig: &'static [&'static str],
    /// The endpoint or member; nothing for what holds for all.
    pub member: Option<String>,
    /// What was seen.
    pub evidence: Vec<Evidence>,
    /// Why it is unknown.
    pub why: Option<String>,
    /// What to do when it fails.
    pub remedy: &'static str,
    /// The page about a vulnerability.
    pub url: Option<String>,
    /// Who accepts it, and why: it then does not count.
    pub waiver: Option<Waived>,
}

impl Outcome {
    /// What was seen and where, or why it is unknown.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        let evidence =
            self.evidence.iter().map(|seen| format!("{} [{}]", seen.what(), seen.source()));
        evidence.chain(self.why.clone()).collect()
    }

    /// The vulnerability it is of, such as `CVE-2021-28235`.
    pub(super) fn advisory(&self) -> Option<&str> {
        self.url.as_ref()?;
        self.title.split(':').next()
    }
}

/// The waiver of an outcome.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Waived {
    /// Why.
    pub reason: String,
    /// Who accepted it.
    pub by: String,
    /// From when on it counts again.
    pub until: Time,
}

/// What changed since the last audit that was kept.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The report before.
    pub report: SnapshotId,
    /// What fails now and did not.
    pub new: Vec<String>,
    /// What failed and does not any more.
    pub gone: Vec<String>,
}
