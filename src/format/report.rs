//! A report: what was proved, and when; a seal and one more line (SPEC.md §7).

use data_encoding::BASE64_NOPAD;
use serde::{Deserialize, Serialize};

use super::ids::{ClusterName, SnapshotId, Subject};
use super::json;
use super::seal::{MAX_SEAL, Seal};
use crate::error::{Error, Result};

/// The longest report's JSON, in bytes after opening.
pub const MAX_REPORT: usize = 1 << 20;
/// The longest report object that is read, in bytes.
pub const MAX_REPORT_OBJECT: usize = MAX_SEAL + 2 * MAX_REPORT;

/// Reports are padded to a multiple of this many bytes, so that their length tells little.
const PAD: usize = 256;
const WHAT: &str = "report";
const LINE: &[u8] = b"\nreport ";

/// A report as it is stored: the seal of its data key, and the message that this encrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportObject {
    /// Of the subject `report <ULID>`.
    pub seal: Seal,
    /// C(report key, …): [`Report`] as JSON, padded with spaces.
    pub message: Vec<u8>,
}

impl ReportObject {
    /// Parses an object.
    ///
    /// # Errors
    /// Truncated, unsupported or tampered, as for the seal.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_REPORT_OBJECT {
            return Err(Error::tampered(format!("{WHAT}: {} bytes", bytes.len())));
        }
        let at = bytes.windows(LINE.len()).rposition(|part| part == LINE);
        let split = at.and_then(|at| bytes.split_at_checked(at.saturating_add(1)));
        let (seal, line) = split
            .ok_or_else(|| Error::truncated(format!("{WHAT}: it ends before the line report")))?;
        let line = line
            .strip_suffix(b"\n")
            .ok_or_else(|| Error::truncated(format!("{WHAT}: its last line does not end")))?;
        let message = line.strip_prefix(b"report ").and_then(|text| BASE64_NOPAD.decode(text).ok());
        let message = message.ok_or_else(|| Error::tampered(format!("{WHAT}: no base64")))?;
        let seal = Seal::parse(seal)?;
        match seal.body().subject() {
            Subject::Report(_) => Ok(Self { seal, message }),
            _ => Err(Error::tampered(format!("{WHAT}: its seal is of another subject"))),
        }
    }

    /// The object's bytes; parsing them gives the same.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        let line = format!("report {}\n", BASE64_NOPAD.encode(&self.message));
        [self.seal.print(), line.into_bytes()].concat()
    }
}

/// What was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was done: `drill` or `verify`.
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
    use crate::error::ErrorKind;
    use crate::format::{KeyId, SEALED_KEY_LEN, SealBody, Stanza};

    fn object(subject: Subject) -> ReportObject {
        let stanza = Stanza::local(KeyId([1; 16]), &[2; SEALED_KEY_LEN]);
        let seal = SealBody::new(subject, 1, [3; 32], vec![stanza]).unwrap().finish([4; 32]);
        ReportObject { seal, message: vec![5; 100] }
    }

    #[test]
    fn an_object_is_a_seal_and_a_line() {
        let good = object(Subject::Report(SnapshotId(7)));
        let bytes = good.print();
        assert_eq!(ReportObject::parse(&bytes).unwrap(), good);
        for cut in 0..bytes.len() {
            assert!(ReportObject::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        let kind = |bytes: &[u8]| ReportObject::parse(bytes).unwrap_err().kind();
        assert_eq!(kind(&bytes[..bytes.len() - 1]), ErrorKind::Truncated);
        assert_eq!(kind(&[&bytes[..], b"x\n"].concat()), ErrorKind::Tampered);
        let other = object(Subject::Snapshot(SnapshotId(7))).print();
        assert_eq!(kind(&other), ErrorKind::Tampered);
    }

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
