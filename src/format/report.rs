//! A report: what was verified, and when (SPEC.md §7). All but the details is readable without a key.

use serde::{Deserialize, Serialize};

use super::ids::{ClusterName, KeyId, SnapshotId, Uuid};
use super::json::{self, Base64, Object, Text};
use super::seal::{self, MAX_SEAL, Seal};
use super::text::{Lines, is_name};
use crate::error::{Error, Result};

/// The longest details, in bytes after opening.
pub const MAX_DETAILS: usize = 1 << 20;
/// The longest report that is read, in bytes.
pub const MAX_REPORT: usize = MAX_SEAL + 2 * MAX_DETAILS;

/// Details are padded to a multiple of this many bytes, so that their length tells little.
const PAD: usize = 256;
const FAMILY: &str = "strongroom-report/";
const WHAT: &str = "report";

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was done: `verify`, `journal`, `drill`, `prune`, `audit`, `copy` or `prove`.
    pub kind: String,
    /// The cluster it is about, if it is about one.
    pub cluster: Option<ClusterName>,
    /// The snapshot it is about, if it is about one.
    pub snapshot: Option<SnapshotId>,
    /// How deep it looked, where that differs.
    pub level: Option<String>,
    /// The one master key that opened all that it is about, if there is one.
    pub key: Option<KeyId>,
    /// How much it looked at.
    pub scope: ReportScope,
    /// What came of it.
    pub outcome: ReportOutcome,
    /// Program and version that did it.
    pub tool: String,
    /// Steps and comparisons; `None` while they are not decrypted.
    pub details: Option<ReportDetails>,
}

impl Report {
    /// The steps and comparisons; none while they are not decrypted.
    #[must_use]
    pub fn checks(&self) -> &[ReportCheck] {
        self.details.as_ref().map_or(&[], |details| &details.checks)
    }

    /// Whether nothing that was looked at is wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome != ReportOutcome::Failed
    }
}

/// How much a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportScope {
    /// One snapshot, or a few.
    One,
    /// Every snapshot of one cluster.
    Cluster,
    /// Everything.
    Repository,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportOutcome {
    /// All is as it must be.
    Passed,
    /// Something is not as it must be.
    Failed,
    /// Nothing failed, and there is something to look at.
    Findings,
}

impl ReportOutcome {
    /// The word in the report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Findings => "findings",
        }
    }
}

/// What only a key reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportDetails {
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

impl ReportDetails {
    /// Parses opened details.
    ///
    /// # Errors
    /// Unsupported for an unknown `requires`, else tampered.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_DETAILS || !bytes.len().is_multiple_of(PAD) {
            return Err(Error::tampered(format!("{WHAT}: not padded to 256 bytes, or too long")));
        }
        json::parse::<Object<Self>>(WHAT, bytes).map(|object| object.0)
    }

    /// The JSON, padded with spaces.
    ///
    /// # Errors
    /// Usage when it is longer than [`MAX_DETAILS`], or a number above 2^63−1.
    pub fn print(&self) -> Result<Vec<u8>> {
        let mut bytes = json::print(self)?;
        bytes.resize(bytes.len().next_multiple_of(PAD), b' ');
        Self::parse(&bytes).map_err(|error| Error::usage(error.to_string()))?;
        Ok(bytes)
    }
}

/// A report's first two lines, before they are sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportHead {
    /// The repository it was written in.
    pub origin: Uuid,
    /// The report's own id, whose time is when it was written.
    pub id: SnapshotId,
    /// What it says; its details are not printed here.
    pub report: Report,
    /// The data-key commitment DC.
    pub commitment: [u8; 32],
    /// [`ReportDetails`], encrypted.
    pub details: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    origin: Text<Uuid>,
    report: Text<SnapshotId>,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Text<ClusterName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Text<SnapshotId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Text<KeyId>>,
    scope: ReportScope,
    outcome: ReportOutcome,
    tool: String,
    commitment: Base64<[u8; 32]>,
    details: Base64<Vec<u8>>,
}

impl ReportHead {
    /// The two lines, with both LFs: what the seal vouches for.
    ///
    /// # Errors
    /// Usage when it breaks a rule of §7.
    pub fn print(&self) -> Result<Vec<u8>> {
        self.check().map_err(|why| Error::usage(format!("{WHAT}: {why}")))?;
        let report = &self.report;
        let wire = Wire {
            origin: Text(self.origin),
            report: Text(self.id),
            kind: report.kind.clone(),
            cluster: report.cluster.clone().map(Text),
            snapshot: report.snapshot.map(Text),
            level: report.level.clone(),
            key: report.key.map(Text),
            scope: report.scope,
            outcome: report.outcome,
            tool: report.tool.clone(),
            commitment: Base64(self.commitment),
            details: Base64(self.details.clone()),
        };
        Ok([format!("{FAMILY}1\n").as_bytes(), &json::print(&wire)?, b"\n"].concat())
    }

    fn from_wire(wire: Wire) -> Self {
        let report = Report {
            kind: wire.kind,
            cluster: wire.cluster.map(|name| name.0),
            snapshot: wire.snapshot.map(|id| id.0),
            level: wire.level,
            key: wire.key.map(|key| key.0),
            scope: wire.scope,
            outcome: wire.outcome,
            tool: wire.tool,
            details: None,
        };
        let (origin, id) = (wire.origin.0, wire.report.0);
        Self { origin, id, report, commitment: wire.commitment.0, details: wire.details.0 }
    }

    fn check(&self) -> Result<(), &'static str> {
        let Report { kind, level, tool, .. } = &self.report;
        if !is_name(kind) || level.as_ref().is_some_and(|level| !is_name(level)) {
            return Err("kind or level is not a name");
        }
        if !(1..=128).contains(&tool.len()) || !tool.bytes().all(|c| matches!(c, 0x20..=0x7e)) {
            return Err("tool is not 1 to 128 printable characters");
        }
        Ok(())
    }
}

/// A report as it stands in a repository: its two lines, then its seal without the first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedReport {
    head: ReportHead,
    signed: Vec<u8>,
    seal: Seal,
}

impl SealedReport {
    /// Parses a report.
    ///
    /// # Errors
    /// Unsupported, truncated or tampered, as for manifest and seal.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::open(WHAT, FAMILY, MAX_REPORT, bytes)?;
        let text = lines.raw()?;
        let (signed, rest) = bytes.split_at_checked(bytes.len() - lines.left()).unwrap_or_default();
        let head = ReportHead::from_wire(json::parse::<Object<Wire>>(WHAT, text.as_bytes())?.0);
        head.check().map_err(|why| Error::tampered(format!("{WHAT}: {why}")))?;
        let seal = [format!("{}1\n", seal::FAMILY).as_bytes(), rest].concat();
        Ok(Self { head, signed: signed.to_vec(), seal: Seal::parse(&seal)? })
    }

    /// What the two lines say. Not authenticated yet.
    pub fn head(&self) -> &ReportHead {
        &self.head
    }

    /// The two lines as they were read: what the seal vouches for.
    pub fn signed_bytes(&self) -> &[u8] {
        &self.signed
    }

    /// The seal.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The object's bytes for the two lines `signed` and their seal.
    #[must_use]
    pub fn print(signed: &[u8], seal: &Seal) -> Vec<u8> {
        let seal = seal.print();
        let lines = seal.splitn(2, |c| *c == b'\n').nth(1).unwrap_or_default();
        [signed, lines].concat()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::format::{SEALED_KEY_LEN, SealBody, Sha256, Stanza, Subject};

    fn head() -> ReportHead {
        let report = Report {
            kind: "verify".into(),
            cluster: Some(ClusterName::default()),
            snapshot: Some(SnapshotId(9)),
            level: Some("full".into()),
            key: Some(KeyId([8; 16])),
            scope: ReportScope::One,
            outcome: ReportOutcome::Passed,
            tool: "strongroom".into(),
            details: None,
        };
        let (origin, id) = (Uuid([1; 16]), SnapshotId(7));
        ReportHead { origin, id, report, commitment: [6; 32], details: vec![7; 328] }
    }

    fn sealed(head: &ReportHead) -> Vec<u8> {
        let stanza = Stanza::local(KeyId([1; 16]), &[2; SEALED_KEY_LEN]);
        let (subject, object) = (Subject::Report(head.id), Sha256([6; 32]));
        let body = SealBody::new(subject, 1, object, [3; 32], vec![stanza], vec![]).unwrap();
        SealedReport::print(&head.print().unwrap(), &body.finish([4; 32]))
    }

    pub(in super::super) fn sample() -> Vec<u8> {
        sealed(&head())
    }

    /// [S7.1]
    #[test]
    fn a_report_is_two_lines_and_a_seal() {
        let bytes = sample();
        let report = SealedReport::parse(&bytes).unwrap();
        assert_eq!(report.head(), &head());
        assert_eq!(report.signed_bytes(), head().print().unwrap());
        assert_eq!(SealedReport::print(report.signed_bytes(), report.seal()), bytes);
        for cut in 0..bytes.len() {
            assert!(SealedReport::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        // What is not known here is kept, and so is under the seal.
        let text = String::from_utf8(bytes).unwrap();
        let more = text.replacen("{\"origin\"", "{ \"later\":[1], \"origin\"", 1);
        let report = SealedReport::parse(more.as_bytes()).unwrap();
        assert_eq!(report.head(), &head());
        assert_eq!(SealedReport::print(report.signed_bytes(), report.seal()), more.as_bytes());
    }

    /// [S7.2]
    #[test]
    fn each_rule_of_s7_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let text = String::from_utf8(sample()).unwrap();
        for (text, want) in [
            (text.replace("report/1", "report/2"), Unsupported),
            (text.replace("{\"origin", "{\"requires\":[\"x\"],\"origin"), Unsupported),
            (text.replace("subject report", "subject disk"), Unsupported),
            (text.trim_end().to_owned(), Truncated),
            (text.split("subject").next().unwrap().to_owned(), Truncated),
            (text.replace("subject", "strongroom-seal/1\nsubject"), Tampered),
            (text.replace("\"verify\"", "\"Verify\""), Tampered),
            (text.replace("\"full\"", "\"\""), Tampered),
            (text.replace("\"one\"", "\"two\""), Tampered),
            (text.replace("\"passed\"", "\"good\""), Tampered),
            (text.replace("\"tool\":\"strongroom\"", "\"tool\":\"\\u001b\""), Tampered),
            (text.replace("\"scope\":\"one\",", ""), Tampered),
        ] {
            assert_eq!(SealedReport::parse(text.as_bytes()).unwrap_err().kind(), want, "{text}");
        }
        let mut wrong = head();
        wrong.report.kind = "two words".into();
        assert_eq!(wrong.print().unwrap_err().kind(), ErrorKind::Usage);
    }

    proptest! {
        #[test]
        fn any_details_round_trip(name: String, detail: String, milliseconds in 0..1u64 << 63) {
            let details = ReportDetails {
                steps: vec![ReportStep { name, milliseconds }],
                checks: vec![ReportCheck { name: "HashKV".into(), outcome: CheckOutcome::Skipped, detail }],
            };
            prop_assert_eq!(ReportDetails::parse(&details.print().unwrap()).unwrap(), details);
        }

        #[test]
        fn any_report_round_trips(kind in "[a-z0-9][a-z0-9-]{0,31}", tool in "[ -~]{1,128}", details: Vec<u8>, all: bool) {
            let mut head = head();
            (head.report.kind, head.report.tool, head.details) = (kind, tool, details);
            if all {
                (head.report.cluster, head.report.snapshot, head.report.level) = (None, None, None);
                (head.report.scope, head.report.outcome) = (ReportScope::Repository, ReportOutcome::Findings);
            }
            let report = SealedReport::parse(&sealed(&head)).unwrap();
            prop_assert_eq!(report.head(), &head);
        }
    }
}
