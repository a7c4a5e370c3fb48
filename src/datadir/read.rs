//! Reads the log and the snapshot file, etcd's or our own, from untrusted bytes
//! (`server/storage/wal/decoder.go`, `server/etcdserver/api/snap/snapshotter.go`).

use super::wal;
use crate::error::{Error, Result};
use crate::protobuf::Reader;
use crate::protobuf::fields::{conf_state, record, snap_file, snapshot, snapshot_metadata};

/// A record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// A message of that kind, in protobuf; nothing for a checksum.
    pub data: &'a [u8],
}

/// What a [`Record`] holds (`wal.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// `etcdserverpb.Metadata`: whose log it is.
    Metadata,
    /// `raftpb.Entry`.
    Entry,
    /// `raftpb.HardState`.
    State,
    /// The checksum so far, at the beginning of a file.
    Checksum,
    /// `walpb.Snapshot`: up to where the log is applied.
    Snapshot,
}

/// What a snapshot file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapFile<'a> {
    /// etcd's old store, in JSON.
    pub store: &'a [u8],
    /// Ids of the members that vote.
    pub voters: Vec<u64>,
    /// Raft index up to which the log is applied.
    pub index: u64,
    /// Raft term of that entry.
    pub term: u64,
}

/// Reads one file of the log. Zeros behind its last record are space that etcd reserved.
///
/// # Errors
/// [`Truncated`](crate::ErrorKind::Truncated) when the bytes end within a record, and
/// [`Tampered`](crate::ErrorKind::Tampered) naming the place when they are no log or a checksum is wrong.
pub fn read_wal(bytes: &[u8]) -> Result<Vec<Record<'_>>> {
    let (mut records, mut rest, mut crc) = (Vec::new(), bytes, None);
    while !rest.is_empty() {
        let at = bytes.len().saturating_sub(rest.len());
        let wrong = |what: &str| Error::tampered(format!("log: {what} at byte {at}"));
        let short = || Error::truncated(format!("log: it ends within the record at byte {at}"));
        let (head, behind) = rest.split_first_chunk().ok_or_else(short)?;
        let (length, padding) =
            frame(u64::from_le_bytes(*head)).ok_or_else(|| wrong("no frame"))?;
        if length == 0 {
            if rest.iter().any(|byte| *byte != 0) {
                return Err(wrong("a record without a length"));
            }
            break;
        }
        let (record, behind) = behind.split_at_checked(length).ok_or_else(short)?;
        let (padding, behind) = behind.split_at_checked(padding).ok_or_else(short)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(wrong("padding that is not empty"));
        }
        let (record, told) = parse(record).ok_or_else(|| wrong("no record"))?;
        let computed = match crc {
            // The first says where the file before it ended.
            None if record.kind == RecordKind::Checksum => told,
            None => return Err(wrong("no checksum to begin with")),
            Some(crc) => crc32c::crc32c_append(crc, record.data),
        };
        if told != computed {
            return Err(wrong("a wrong checksum"));
        }
        crc = Some(computed);
        records.push(record);
        rest = behind;
    }
    Ok(records)
}

/// Length of a record and of the padding behind it, if they belong together.
fn frame(head: u64) -> Option<(usize, usize)> {
    let length = usize::try_from(head & 0x00ff_ffff_ffff_ffff).ok()?;
    let padding = match head >> 56 {
        0 => 0,
        marked @ 0x81..=0x87 => marked & 7,
        _ => return None,
    };
    let padding = padding as usize;
    length.checked_add(padding)?.is_multiple_of(8).then_some((length, padding))
}

/// A record and its checksum.
fn parse(bytes: &[u8]) -> Option<(Record<'_>, u32)> {
    let mut fields = Reader::new(bytes);
    let kind = match fields.number(record::TYPE)? {
        wal::METADATA => RecordKind::Metadata,
        wal::ENTRY => RecordKind::Entry,
        wal::STATE => RecordKind::State,
        wal::CRC => RecordKind::Checksum,
        wal::SNAPSHOT => RecordKind::Snapshot,
        _ => return None,
    };
    let crc = u32::try_from(fields.number(record::CRC)?).ok()?;
    let data = if kind == RecordKind::Checksum { &[] } else { fields.bytes(record::DATA)? };
    fields.end()?;
    Some((Record { kind, data }, crc))
}

/// Reads a snapshot file.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when it is none, or its checksum is wrong.
pub fn read_snap(bytes: &[u8]) -> Result<SnapFile<'_>> {
    let wrong = |what: &str| Error::tampered(format!("snapshot file: {what}"));
    let mut file = Reader::new(bytes);
    let (crc, snapshot) = file
        .number(snap_file::CRC)
        .zip(file.bytes(snap_file::DATA))
        .ok_or_else(|| wrong("it is none"))?;
    file.end().ok_or_else(|| wrong("there is more data after it"))?;
    if crc != u64::from(crc32c::crc32c(snapshot)) {
        return Err(wrong("a wrong checksum"));
    }
    parse_snapshot(snapshot).ok_or_else(|| wrong("it does not hold a snapshot"))
}

fn parse_snapshot(bytes: &[u8]) -> Option<SnapFile<'_>> {
    let mut snapshot = Reader::new(bytes);
    let (store, mut metadata) =
        (snapshot.bytes(snapshot::DATA)?, Reader::new(snapshot.bytes(snapshot::METADATA)?));
    snapshot.end()?;
    let mut state = Reader::new(metadata.bytes(snapshot_metadata::CONF_STATE)?);
    let (index, term) =
        (metadata.number(snapshot_metadata::INDEX)?, metadata.number(snapshot_metadata::TERM)?);
    metadata.end()?;
    let mut voters = Vec::new();
    while let Some(voter) = state.number(conf_state::VOTERS) {
        voters.push(voter);
    }
    // Whether a joint configuration ends by itself: from etcd 3.4 on, and 3.7 leaves out what is false. A restore has
    // no learners, nor anything else.
    let _ = state.number(conf_state::AUTO_LEAVE);
    state.end()?;
    Some(SnapFile { store, voters, index, term })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::{Cluster, fuzzing};
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    /// Names, each with its peers' URLs, and a token.
    fn clusters() -> impl Strategy<Value = Cluster> {
        let members = btree_map("[a-z][a-z<>&ü \u{2028}]{0,9}[a-z]", 1..4_usize, 1..9);
        (members, "[ -~]{1,20}").prop_map(|(members, token)| {
            let mut port = 1000;
            let urls = members.into_iter().flat_map(|(name, count)| vec![name; count]);
            let pairs: Vec<_> = urls
                .map(|name| {
                    port += 1;
                    format!("{name}=http://host:{port}")
                })
                .collect();
            Cluster::parse(&pairs.join(","), &token).unwrap()
        })
    }

    fn change(entry: &[u8]) -> (u64, u64, serde_json::Value) {
        let mut entry = Reader::new(entry);
        assert_eq!((entry.number(1), entry.number(2)), (Some(1), Some(1)));
        let index = entry.number(3).unwrap();
        let mut change = Reader::new(entry.bytes(4).unwrap());
        assert_eq!((change.number(1), change.number(2)), (Some(0), Some(0)));
        let (id, json) = (change.number(3).unwrap(), change.bytes(4).unwrap());
        assert!(entry.end().and(change.end()).is_some());
        (index, id, serde_json::from_slice(json).unwrap())
    }

    proptest! {
        #[test]
        fn the_log_reads_as_written(cluster in clusters(), pick: prop::sample::Index) {
            use RecordKind::{Checksum, Entry, Metadata, Snapshot, State};
            let member = pick.get(&cluster.members);
            let mut bytes = cluster.wal(member);
            prop_assert!(bytes.len().is_multiple_of(8));
            bytes.resize(bytes.len() + 64, 0);
            let records = read_wal(&bytes).unwrap();
            let kinds: Vec<_> = records.iter().map(|record| record.kind).collect();
            let entries = std::iter::repeat_n(Entry, cluster.members.len());
            let expected: Vec<_> =
                [Checksum, Metadata, Snapshot].into_iter().chain(entries).chain([State, Snapshot]).collect();
            prop_assert_eq!(kinds, expected);
            let mut metadata = Reader::new(records[1].data);
            prop_assert_eq!((metadata.number(1), metadata.number(2)), (Some(member.id), Some(cluster.id)));
            let entries = records.iter().filter(|record| record.kind == Entry);
            for ((record, member), at) in entries.zip(&cluster.members).zip(1..) {
                let (index, id, json) = change(record.data);
                prop_assert_eq!((index, id), (at, member.id));
                let urls = &member.peer_urls;
                prop_assert_eq!(json, serde_json::json!({"id": id, "peerURLs": urls, "name": member.name}));
            }
        }

        #[test]
        fn the_snapshot_file_reads_as_written(cluster in clusters()) {
            let bytes = cluster.snap();
            let snap = read_snap(&bytes).unwrap();
            let ids: Vec<_> = cluster.members.iter().map(|member| member.id).collect();
            prop_assert_eq!((&snap.voters, snap.index, snap.term), (&ids, ids.len() as u64, 1));
            let store: serde_json::Value = serde_json::from_slice(snap.store).unwrap();
            prop_assert_eq!(&store["CurrentIndex"], ids.len());
            let members = store["Root"]["Children"]["0"]["Children"]["members"]["Children"].clone();
            prop_assert_eq!(members.as_object().unwrap().len(), ids.len());
            prop_assert!(members.as_object().unwrap().keys().is_sorted());
        }

        #[test]
        fn what_is_damaged_is_noticed(cluster in clusters(), at: prop::sample::Index, bit in 0..8_u8) {
            for (bytes, log) in [(cluster.wal(&cluster.members[0]), true), (cluster.snap(), false)] {
                let mut bad = bytes.clone();
                let at = at.index(bad.len());
                bad[at] ^= 1 << bit;
                if log {
                    // Nothing protects a record's kind.
                    let data = |bytes| read_wal(bytes).map(|all| all.iter().map(|one| one.data.to_vec()).collect::<Vec<_>>());
                    let whole = data(&bytes).unwrap();
                    prop_assert!(data(&bad).is_ok_and(|read| read == whole) || read_wal(&bad).is_err());
                    let read = data(&bytes[..at]).unwrap_or_default();
                    prop_assert!(whole.starts_with(&read) && read.len() < whole.len());
                } else {
                    prop_assert!(read_snap(&bad).is_err() && read_snap(&bytes[..at]).is_err());
                }
                fuzzing::ALL.iter().for_each(|(_, target)| target(&bad));
            }
        }

        #[test]
        fn any_bytes_are_no_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "[ab=,:/htps\\[\\]1\\.]{0,40}",
            urls in btree_set("a=https?://[a-c\\[\\]:]{1,4}:[0-9]{1,5}", 0..4),
        ) {
            let urls: Vec<_> = urls.into_iter().collect();
            for data in [&bytes, text.as_bytes(), urls.join(",").as_bytes()] {
                fuzzing::ALL.iter().for_each(|(_, target)| target(data));
            }
        }
    }

    #[test]
    fn lengths_that_lie() {
        let length = |head: u64, behind: &[u8]| {
            read_wal(&[&head.to_le_bytes(), behind].concat()).unwrap_err().kind()
        };
        use crate::error::ErrorKind::{Tampered, Truncated};
        assert_eq!(length(1 << 40, &[]), Truncated);
        assert_eq!(length(0x00ff_ffff_ffff_fff8, &[0; 16]), Truncated);
        assert_eq!(length(0x84ff_ffff_ffff_fffc, &[0; 16]), Truncated);
        assert_eq!(length(u64::MAX, &[0; 16]), Tampered);
        assert_eq!(length(0x8000_0000_0000_0008, &[0; 16]), Tampered);
        assert_eq!(length(3, &[0; 16]), Tampered);
        assert_eq!(length(0, &[0, 0, 0, 1]), Tampered);
        assert_eq!(read_wal(&[]).unwrap(), []);
        assert_eq!(read_wal(&[0; 32]).unwrap(), []);
        assert_eq!(read_wal(&[0; 3]).unwrap_err().kind(), Truncated);
    }
}
