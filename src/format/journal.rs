//! A change journal's head: what makes it exist (SPEC.md §13.2).
//!
//! It is a text as a manifest is: print and MAC are two steps.

use serde::{Deserialize, Serialize};

use super::ids::{ClusterName, Sha256, SnapshotId, Uuid};
use super::json::{self, Base64, Hex64, MAX_INTEGER, Object, Text};
use super::mac_text::{MacText, mac_text, signed_bytes};
use super::text::is_printable;
use crate::error::{Error, Result};

/// The longest head that is read or written, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// The longest facts that are read, in bytes after opening.
pub const MAX_JOURNAL_FACTS: usize = 16 * 1024;

/// Facts are padded to a multiple of this many bytes, so that their length tells little.
const PAD: usize = 256;
const HEAD_FAMILY: &str = "strongroom-journal/";
const HEAD: &str = "journal head";
const FACTS: &str = "journal facts";

/// What a journal's head says. From a parsed one nothing but the names may be believed before its MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadBody {
    /// The repository it was made in.
    pub origin: Uuid,
    /// The journal; equal to the path's. Its time is when the recording began.
    pub journal: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// What made it, for people: 1..128 printable ASCII characters.
    pub tool: String,
    /// The main revision that the recording began with.
    pub first: u64,
    /// The journal that the same recorder wrote before.
    pub continues: Option<SnapshotId>,
    /// The data-key commitment DC.
    pub commitment: [u8; 32],
    /// [`JournalFacts`], encrypted.
    pub facts: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct WireHead {
    origin: Text<Uuid>,
    journal: Text<SnapshotId>,
    cluster: Text<ClusterName>,
    tool: String,
    first: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<Text<SnapshotId>>,
    commitment: Base64<[u8; 32]>,
    facts: Base64<Vec<u8>>,
}

impl HeadBody {
    /// What the MAC covers: lines 1 and 2 with both LFs.
    ///
    /// # Errors
    /// Usage when the body breaks a rule of §13.2; refused when it is longer than a reader takes.
    pub fn signed_bytes(&self) -> Result<Vec<u8>> {
        self.check().map_err(|why| Error::usage(format!("{HEAD}: {why}")))?;
        let wire = WireHead {
            origin: Text(self.origin),
            journal: Text(self.journal),
            cluster: Text(self.cluster.clone()),
            tool: self.tool.clone(),
            first: self.first,
            continues: self.continues.map(Text),
            commitment: Base64(self.commitment),
            facts: Base64(self.facts.clone()),
        };
        signed_bytes(HEAD, HEAD_FAMILY, MAX_HEAD, &wire)
    }

    fn parse(json: &[u8]) -> Result<Self> {
        let wire: WireHead = json::parse(HEAD, json)?;
        let body = Self {
            origin: wire.origin.0,
            journal: wire.journal.0,
            cluster: wire.cluster.0,
            tool: wire.tool,
            first: wire.first,
            continues: wire.continues.map(|id| id.0),
            commitment: wire.commitment.0,
            facts: wire.facts.0,
        };
        body.check().map_err(|why| Error::tampered(format!("{HEAD}: {why}")))?;
        Ok(body)
    }

    fn check(&self) -> Result<(), &'static str> {
        if !is_printable(&self.tool, 128) {
            return Err("tool is not 1 to 128 printable characters");
        }
        // An empty etcd is at revision 1.
        if !(2..=MAX_INTEGER).contains(&self.first) {
            return Err("the first revision is not 2 to 2^63-1");
        }
        if self.continues == Some(self.journal) {
            return Err("it names itself as the one before it");
        }
        Ok(())
    }
}

mac_text!(
    /// A journal's head as it stands in a repository. Its MAC is not yet checked.
    JournalHead, HeadBody, HEAD, HEAD_FAMILY, MAX_HEAD
);

/// What a head says under encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFacts {
    /// etcd's own id of the cluster.
    pub cluster_id: u64,
    /// The member that was listened to first.
    pub member_id: u64,
    /// Its server version, if it tells it.
    pub version: Option<String>,
    /// Raft term at the beginning.
    pub raft_term: u64,
    /// How much time one segment covers at most, in milliseconds.
    pub interval_ms: u64,
    /// What the same recorder wrote last before.
    pub continues: Option<Continues>,
}

/// The last segment of an earlier journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continues {
    /// The journal.
    pub journal: SnapshotId,
    /// The number of its last segment.
    pub number: u64,
    /// The last complete main revision after it.
    pub last: u64,
    /// Digest of the segment's object.
    pub sha256: Sha256,
}

#[derive(Serialize, Deserialize)]
struct WireFacts {
    etcd: Object<WireEtcd>,
    interval_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<Object<WireContinues>>,
}

#[derive(Serialize, Deserialize)]
struct WireEtcd {
    cluster_id: Hex64,
    member_id: Hex64,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    raft_term: u64,
}

#[derive(Serialize, Deserialize)]
struct WireContinues {
    journal: Text<SnapshotId>,
    number: u64,
    last: u64,
    sha256: Text<Sha256>,
}

impl JournalFacts {
    /// Parses opened facts.
    ///
    /// # Errors
    /// Unsupported for an unknown `requires`, else tampered.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_JOURNAL_FACTS || !bytes.len().is_multiple_of(PAD) {
            return Err(Error::tampered(format!("{FACTS}: not padded to 256 bytes, or too long")));
        }
        let WireFacts { etcd: Object(etcd), interval_ms, continues } = json::parse(FACTS, bytes)?;
        let continues = continues.map(|Object(wire)| Continues {
            journal: wire.journal.0,
            number: wire.number,
            last: wire.last,
            sha256: wire.sha256.0,
        });
        Ok(Self {
            cluster_id: etcd.cluster_id.0,
            member_id: etcd.member_id.0,
            version: etcd.version,
            raft_term: etcd.raft_term,
            interval_ms,
            continues,
        })
    }

    /// The JSON, padded with spaces.
    ///
    /// # Errors
    /// Usage when a number is above 2^63−1 or all of it longer than [`MAX_JOURNAL_FACTS`].
    pub fn print(&self) -> Result<Vec<u8>> {
        let continues = self.continues.map(|Continues { journal, number, last, sha256 }| {
            Object(WireContinues { journal: Text(journal), number, last, sha256: Text(sha256) })
        });
        let wire = WireFacts {
            etcd: Object(WireEtcd {
                cluster_id: Hex64(self.cluster_id),
                member_id: Hex64(self.member_id),
                version: self.version.clone(),
                raft_term: self.raft_term,
            }),
            interval_ms: self.interval_ms,
            continues,
        };
        let mut bytes = json::print(&wire)?;
        bytes.resize(bytes.len().next_multiple_of(PAD), b' ');
        Self::parse(&bytes).map_err(|error| Error::usage(error.to_string()))?;
        Ok(bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const JOURNAL: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    pub(in super::super) fn head() -> Vec<u8> {
        let body = HeadBody {
            origin: "f81d4fae-7dec-41d0-a765-00a0c91e6bf6".parse().unwrap(),
            journal: JOURNAL.parse().unwrap(),
            cluster: ClusterName::default(),
            tool: "test 1".into(),
            first: 2,
            continues: Some(SnapshotId(3)),
            commitment: [6; 32],
            facts: vec![7; 328],
        };
        JournalHead::finish(body, [9; 32]).unwrap().print()
    }

    #[test]
    fn a_head_round_trips_and_keeps_unknown_keys() {
        let text = String::from_utf8(head()).unwrap();
        let text = text.replacen("{\"origin\"", "{ \"new\":[1], \"origin\"", 1);
        let head = JournalHead::parse(text.as_bytes()).unwrap();
        assert_eq!((head.body().first, head.body().continues), (2, Some(SnapshotId(3))));
        assert_eq!(head.print(), text.as_bytes());
        assert!(head.signed_bytes().ends_with(b"}\n") && head.mac() == &[9; 32]);
    }

    #[test]
    fn each_rule_of_a_head_is_enforced() {
        // [S13.10]
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let text = String::from_utf8(head()).unwrap();
        for (text, want) in [
            (text.replace("journal/1", "journal/2"), Unsupported),
            (text[..text.find("hmac").unwrap()].to_owned(), Truncated),
            (text.replace("journal/1", "manifest/1"), Tampered),
            (text.replace("\"first\":2", "\"first\":1"), Tampered),
            (text.replace("\"first\":2", "\"first\":-2"), Tampered),
            (text.replace("00000000000000000000000003", JOURNAL), Tampered),
            (text.replace("test 1", ""), Tampered),
            (text.replace("{\"origin", "{\"requires\":[\"x\"],\"origin"), Unsupported),
        ] {
            let got = JournalHead::parse(text.as_bytes());
            assert_eq!(got.unwrap_err().kind(), want, "{text}");
        }
        let long = text.replace("{\"origin", &format!("{}{{\"origin", " ".repeat(MAX_HEAD)));
        assert_eq!(JournalHead::parse(long.as_bytes()).unwrap_err().kind(), Tampered);
    }

    #[test]
    fn facts_are_padded_and_strict() {
        let continues =
            Continues { journal: SnapshotId(3), number: 7, last: 99, sha256: Sha256([4; 32]) };
        let mut facts = JournalFacts {
            cluster_id: 1,
            member_id: u64::MAX,
            version: Some("3.5.16".into()),
            raft_term: 2,
            interval_ms: 5000,
            continues: Some(continues),
        };
        let bytes = facts.print().unwrap();
        assert!(bytes.len().is_multiple_of(256));
        assert_eq!(JournalFacts::parse(&bytes).unwrap(), facts);
        assert!(JournalFacts::parse(&bytes[1..]).is_err());
        facts.raft_term = u64::MAX;
        assert_eq!(facts.print().unwrap_err().kind(), ErrorKind::Usage);
    }
}
