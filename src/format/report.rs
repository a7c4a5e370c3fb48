//! A report: what was proved, and when (SPEC.md §7).

use serde::{Deserialize, Serialize};

use super::ids::{ClusterName, SnapshotId};
use super::json;
use crate::error::{Error, Result};

/// The longest report's JSON, in bytes after opening.
pub const MAX_REPORT: usize = 1 << 20;

/// Reports are padded to a multiple of this many bytes, so that their length tells little.
const PAD: usize = 256;
const WHAT: &str = "report";
/// What was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was done: `drill`, `verify` or `prune`.
    pub kind: String,
    /// Program and version that did it.
    pub tool: String,
    /// The snapshot it is about, if it is about one.
    pub snapshot: Option<SnapshotId>,
    /// That snapshot's cluster.
    pub cluster: Option<ClusterName>,
    /// Whether everything that was checked is as it must be.
    pub passed: bool,
    /// What was done, in order.
    pub steps: Vec<ReportStep>,
    /// What was compared.
    pub checks: Vec<ReportCheck>,
}

/// One step, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportStep {
    /// What was done.
    pub name: String,
    /// Wall time in milliseconds.
    pub milliseconds: u64,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportCheck {
    /// What was compared.
    pub name: String,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// What was found.
    pub detail: String,
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    /// Equal.
    Passed,
    /// Different.
    Failed,
    /// There was nothing to compare with.
    Skipped,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    kind: String,
    tool: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    passed: bool,
    steps: Vec<ReportStep>,
    checks: Vec<ReportCheck>,
}

impl Report {
    /// Parses an opened report.
    ///
    /// # Errors
    /// Unsupported for an unknown `requires`, else tampered.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_REPORT || !bytes.len().is_multiple_of(PAD) {
            return Err(Error::tampered(format!("{WHAT}: not padded to 256 bytes, or too long")));
        }
        let wire: Wire = json::parse(WHAT, bytes)?;
        let wrong = |error: Error| Error::tampered(format!("{WHAT}: {error}"));
        Ok(Self {
            kind: wire.kind,
            tool: wire.tool,
            snapshot: wire.snapshot.map(|id| id.parse()).transpose().map_err(wrong)?,
            cluster: wire.cluster.map(|name| name.parse()).transpose().map_err(wrong)?,
            passed: wire.passed,
            steps: wire.steps,
            checks: wire.checks,
        })
    }

    /// The JSON, padded with spaces.
    ///
    /// # Errors
    /// Usage when it is longer than [`MAX_REPORT`], or a number above 2^63−1.
    pub fn print(&self) -> Result<Vec<u8>> {
        let wire = Wire {
            kind: self.kind.clone(),
            tool: self.tool.clone(),
            snapshot: self.snapshot.map(|id| id.to_string()),
            cluster: self.cluster.as_ref().map(|name| name.as_str().to_owned()),
            passed: self.passed,
            steps: self.steps.clone(),
            checks: self.checks.clone(),
        };
        let mut bytes = json::print(&wire)?;
        bytes.resize(bytes.len().next_multiple_of(PAD), b' ');
        Self::parse(&bytes).map_err(|error| Error::usage(error.to_string()))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_report_round_trips(kind: String, detail: String, passed: bool, milliseconds in 0..1u64 << 63) {
            let report = Report {
                kind,
                tool: "strongroom".into(),
                snapshot: passed.then_some(SnapshotId(9)),
                cluster: passed.then(ClusterName::default),
                passed,
                steps: vec![ReportStep { name: "boot".into(), milliseconds }],
                checks: vec![ReportCheck { name: "HashKV".into(), outcome: CheckOutcome::Skipped, detail }],
            };
            prop_assert_eq!(Report::parse(&report.print().unwrap()).unwrap(), report);
        }
    }
}
