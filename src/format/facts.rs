//! What a manifest says under encryption: etcd's own names and numbers (SPEC.md §6.5).

use serde::{Deserialize, Serialize};

use super::ids::{Sha256, SnapshotId};
use super::journal::Continues;
use super::json::{self, Hex64, Object, Text};
use super::names::MAX_SEGMENT_NUMBER;
use crate::error::{Error, Result};

/// The longest facts that are read, in bytes after opening.
pub const MAX_FACTS: usize = 64 * 1024;

/// Facts are padded to a multiple of this many bytes, so that their length tells little.
const PAD: usize = 256;
const WHAT: &str = "facts";

/// Facts about the stored database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// About the etcd it came from.
    pub etcd: EtcdFacts,
    /// Size of the database in bytes, without etcd's trailer.
    pub database_size: u64,
    /// About the change journal that was being recorded beside it.
    pub journal: Option<RecordedFacts>,
}

/// What a snapshot tells of the change journal that was being recorded when it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedFacts {
    /// The newest segment that was stored.
    pub segment: Continues,
    /// The first and the last of the revisions that snapshot and recording hold alike. `None` where none was compared, or
    /// they differ.
    pub equal: Option<(u64, u64)>,
}

/// Facts about the etcd a snapshot came from.
///
/// Those that only a live etcd tells are absent for a snapshot made from a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdFacts {
    /// etcd's own id of the cluster.
    pub cluster_id: Option<u64>,
    /// The member that streamed.
    pub member_id: Option<u64>,
    /// Its name.
    pub member_name: Option<String>,
    /// Its server version.
    pub version: Option<String>,
    /// The storage version, where the database records one.
    pub storage_version: Option<String>,
    /// Revision inside the database.
    pub revision: u64,
    /// Compact revision inside the database.
    pub compact_revision: u64,
    /// Raft term inside the database; 0 where it records none.
    pub raft_term: u64,
    /// Consistent index inside the database.
    pub raft_index: u64,
    /// etcd's HashKV, where members were asked.
    pub hash_kv: Option<HashKvFacts>,
}

/// An answer to etcd's HashKV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashKvFacts {
    /// The revision it was asked at.
    pub revision: u64,
    /// The compact revision it was computed from.
    pub compact_revision: u64,
    /// The hash.
    pub hash: u32,
    /// The members that gave this answer.
    pub agreed_by: Vec<u64>,
    /// The members that gave another: then etcd's data is corrupt somewhere.
    pub differing: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    etcd: Object<WireEtcd>,
    database: Object<WireDatabase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<Object<WireJournal>>,
}

#[derive(Serialize, Deserialize)]
struct WireJournal {
    id: Text<SnapshotId>,
    number: u64,
    sha256: Text<Sha256>,
    last: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    equal_from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    equal_to: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WireDatabase {
    size: u64,
}

#[derive(Serialize, Deserialize)]
struct WireEtcd {
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<Hex64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_id: Option<Hex64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version: Option<String>,
    revision: u64,
    compact_revision: u64,
    raft_term: u64,
    raft_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_kv: Option<Object<WireHash>>,
}

#[derive(Serialize, Deserialize)]
struct WireHash {
    revision: u64,
    compact_revision: u64,
    hash: u32,
    agreed_by: Vec<Hex64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    differing: Vec<Hex64>,
}

impl Facts {
    /// Parses opened facts.
    ///
    /// # Errors
    /// Unsupported for an unknown `requires`, else tampered.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_FACTS || !bytes.len().is_multiple_of(PAD) {
            return Err(Error::tampered(format!("{WHAT}: not padded to 256 bytes, or too long")));
        }
        let Wire { etcd: Object(etcd), database: Object(database), journal } =
            json::parse(WHAT, bytes)?;
        let hash_kv = etcd.hash_kv.map(|Object(hash)| HashKvFacts {
            revision: hash.revision,
            compact_revision: hash.compact_revision,
            hash: hash.hash,
            agreed_by: hash.agreed_by.into_iter().map(|id| id.0).collect(),
            differing: hash.differing.into_iter().map(|id| id.0).collect(),
        });
        let etcd = EtcdFacts {
            cluster_id: etcd.cluster_id.map(|id| id.0),
            member_id: etcd.member_id.map(|id| id.0),
            member_name: etcd.member_name,
            version: etcd.version,
            storage_version: etcd.storage_version,
            revision: etcd.revision,
            compact_revision: etcd.compact_revision,
            raft_term: etcd.raft_term,
            raft_index: etcd.raft_index,
            hash_kv,
        };
        let journal = journal.map(|Object(journal)| recorded(&journal)).transpose()?;
        Ok(Self { etcd, database_size: database.size, journal })
    }

    /// The JSON, padded with spaces.
    ///
    /// # Errors
    /// Usage when a number is above 2^63−1 or the whole longer than [`MAX_FACTS`].
    pub fn print(&self) -> Result<Vec<u8>> {
        let Self { etcd, database_size, journal } = self;
        let hash_kv = etcd.hash_kv.as_ref().map(|hash| WireHash {
            revision: hash.revision,
            compact_revision: hash.compact_revision,
            hash: hash.hash,
            agreed_by: hash.agreed_by.iter().copied().map(Hex64).collect(),
            differing: hash.differing.iter().copied().map(Hex64).collect(),
        });
        let wire = Wire {
            etcd: Object(WireEtcd {
                cluster_id: etcd.cluster_id.map(Hex64),
                member_id: etcd.member_id.map(Hex64),
                member_name: etcd.member_name.clone(),
                version: etcd.version.clone(),
                storage_version: etcd.storage_version.clone(),
                revision: etcd.revision,
                compact_revision: etcd.compact_revision,
                raft_term: etcd.raft_term,
                raft_index: etcd.raft_index,
                hash_kv: hash_kv.map(Object),
            }),
            database: Object(WireDatabase { size: *database_size }),
            journal: journal.map(|journal| {
                Object(WireJournal {
                    id: Text(journal.segment.journal),
                    number: journal.segment.number,
                    sha256: Text(journal.segment.sha256),
                    last: journal.segment.last,
                    equal_from: journal.equal.map(|(from, _)| from),
                    equal_to: journal.equal.map(|(_, to)| to),
                })
            }),
        };
        let mut bytes = json::print(&wire)?;
        bytes.resize(bytes.len().next_multiple_of(PAD), b' ');
        // The strict reader knows every limit; facts are small enough to ask it.
        Self::parse(&bytes).map_err(|error| Error::usage(error.to_string()))?;
        Ok(bytes)
    }
}

fn recorded(wire: &WireJournal) -> Result<RecordedFacts> {
    let refuse = |why: &str| Err(Error::tampered(format!("{WHAT}: journal: {why}")));
    if wire.number == 0 || wire.number > MAX_SEGMENT_NUMBER {
        return refuse("there is no segment of this number");
    }
    let equal = match (wire.equal_from, wire.equal_to) {
        (Some(from), Some(to)) if from <= to => Some((from, to)),
        (None, None) => None,
        _ => return refuse("equal_from and equal_to are not a range"),
    };
    let segment = Continues {
        journal: wire.id.0,
        number: wire.number,
        last: wire.last,
        sha256: wire.sha256.0,
    };
    Ok(RecordedFacts { segment, equal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn rules_of_s6_5() {
        let facts = Facts { etcd: EtcdFacts::default(), database_size: 8192, journal: None };
        let bytes = facts.print().unwrap();
        assert_eq!(bytes.len(), 256);
        let json = r#"{"etcd":{"revision":0,"compact_revision":0,"raft_term":0,"raft_index":0},"database":{"size":8192}}"#;
        assert_eq!(std::str::from_utf8(&bytes).unwrap().trim_end_matches(' '), json);
        assert_eq!(Facts::parse(&bytes).unwrap(), facts);
        let kind = |bytes: &[u8]| Facts::parse(bytes).unwrap_err().kind();
        assert_eq!(kind(json.as_bytes()), ErrorKind::Tampered);
        let pad = |json: &str| format!("{json:256}");
        let replaced = |from: &str, to: &str| pad(&json.replace(from, to));
        assert_eq!(kind(replaced("8192", "-1").as_bytes()), ErrorKind::Tampered);
        assert_eq!(kind(replaced("{\"size\":8192}", "[8192]").as_bytes()), ErrorKind::Tampered);
        assert_eq!(kind(replaced("\"raft_term\":0,", "").as_bytes()), ErrorKind::Tampered);
        let id = |id: &str| replaced("\"etcd\":{", &format!("\"etcd\":{{\"member_id\":\"{id}\","));
        assert!(Facts::parse(id("00000000000000ff").as_bytes()).is_ok());
        assert_eq!(kind(id("FF").as_bytes()), ErrorKind::Tampered);
        assert_eq!(kind(id("00000000000000FF").as_bytes()), ErrorKind::Tampered);
        let journal = |json: &str| {
            let id = "\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"last\":9";
            let journal = format!("{{{id},\"sha256\":\"{}\",{json}}}", "0".repeat(64));
            format!(
                "{:512}",
                replaced("{\"etcd\"", &format!("{{\"journal\":{journal},\"etcd\"")).trim_end()
            )
        };
        assert!(Facts::parse(journal("\"number\":1").as_bytes()).unwrap().journal.is_some());
        for wrong in ["0", "1,\"equal_from\":2", "1,\"equal_from\":3,\"equal_to\":2"] {
            let text = journal(&format!("\"number\":{wrong}"));
            assert_eq!(kind(text.as_bytes()), ErrorKind::Tampered, "{wrong}");
        }
        let required = replaced("{\"etcd\"", "{\"requires\":[\"y\"],\"etcd\"");
        assert_eq!(kind(required.as_bytes()), ErrorKind::Unsupported);
    }

    #[test]
    fn refuses_to_print_what_it_would_not_read() {
        let facts = Facts { etcd: EtcdFacts::default(), database_size: u64::MAX, journal: None };
        assert_eq!(facts.print().unwrap_err().kind(), ErrorKind::Usage);
    }

    proptest! {
        #[test]
        fn any_facts_round_trip(cluster_id: Option<u64>, member_id: Option<u64>,
            member_name: Option<String>, version: Option<String>, revision in 0..1u64 << 63,
            raft_index in 0..1u64 << 63, hash: Option<(u32, Vec<u64>, Vec<u64>)>,
            segment: Option<(u128, u32, [u8; 32], Option<u32>)>) {
            let hash_kv = hash.map(|(hash, agreed_by, differing)| HashKvFacts {
                revision, compact_revision: 3, hash, agreed_by, differing
            });
            let etcd = EtcdFacts {
                cluster_id, member_id, member_name, version, revision, raft_index, hash_kv,
                ..EtcdFacts::default()
            };
            let journal = segment.map(|(id, number, sha256, equal)| RecordedFacts {
                segment: Continues {
                    journal: SnapshotId(id),
                    number: u64::from(number) + 1,
                    last: revision,
                    sha256: Sha256(sha256),
                },
                equal: equal.map(|from| (u64::from(from), u64::from(from) + 3)),
            });
            let facts = Facts { etcd, database_size: revision, journal };
            prop_assert_eq!(Facts::parse(&facts.print().unwrap()).unwrap(), facts);
        }
    }
}
