//! The write-ahead log of a member that has applied the entries which made it one
//! (`server/storage/wal/encoder.go`, `walpb/record.proto`, `raftpb/raft.proto`).

use super::cluster::{Cluster, Member, TERM};
use super::proto::Message;

/// Name of the log's only file: sequence and index of its first entry's predecessor.
pub const WAL_NAME: &str = "0000000000000000-0000000000000000.wal";

const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const STATE: u64 = 3;
const CRC: u64 = 4;
const SNAPSHOT: u64 = 5;

/// `raftpb.EntryConfChange`.
const CONF_CHANGE: u64 = 1;

impl Cluster {
    /// The log of `member`: one entry for each member of the cluster, all committed, and a snapshot behind them.
    #[must_use]
    pub fn wal(&self, member: &Member) -> Vec<u8> {
        let mut log = Log::default();
        log.record(CRC, None);
        let metadata = Message::default().number(1, member.id).number(2, self.id);
        log.record(METADATA, Some(metadata));
        log.record(SNAPSHOT, Some(Message::default().number(1, 0).number(2, 0)));
        for (index, added) in (1..).zip(&self.members) {
            // raftpb.ConfChange of the type AddNode.
            let change = Message::default().number(1, 0).number(2, 0).number(3, added.id);
            let change = change.bytes(4, &added.json());
            let entry = Message::default().number(1, CONF_CHANGE).number(2, TERM).number(3, index);
            log.record(ENTRY, Some(entry.message(4, change)));
        }
        let vote = self.members.first().map_or(0, |first| first.id);
        let state = Message::default().number(1, TERM).number(2, vote).number(3, self.index());
        log.record(STATE, Some(state));
        let snapshot = Message::default().number(1, self.index()).number(2, TERM);
        log.record(SNAPSHOT, Some(snapshot.message(3, self.conf_state())));
        log.bytes
    }
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    /// Over the data of all records so far.
    crc: u32,
}

impl Log {
    fn record(&mut self, kind: u64, data: Option<Message>) {
        let data = data.map(Message::into_bytes);
        self.crc = crc32c::crc32c_append(self.crc, data.as_deref().unwrap_or_default());
        let record = Message::default().number(1, kind).number(2, self.crc.into());
        let record = match data {
            Some(data) => record.bytes(3, &data),
            None => record,
        };
        let record = record.into_bytes();
        let padding = record.len().next_multiple_of(8).wrapping_sub(record.len());
        let mut length = record.len() as u64;
        if padding > 0 {
            // The length's highest byte says that there is padding, and how much.
            length |= (0x80 | padding as u64) << 56;
        }
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(record);
        self.bytes.extend(std::iter::repeat_n(0, padding));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_padded_and_chained() {
        let cluster = Cluster::parse("a=http://a:1,b=http://b:1", "t").unwrap();
        let wal = cluster.wal(&cluster.members[1]);
        let (mut rest, mut crc, mut kinds) = (&wal[..], 0, Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(*rest.first_chunk().unwrap());
            let padding = (length >> 56 & 7) as usize;
            assert_eq!(length >> 63 == 1, padding > 0);
            let length = (length & 0x00ff_ffff_ffff_ffff) as usize;
            assert_eq!((length + padding) % 8, 0);
            let record = &rest[8..8 + length];
            assert!(rest[8 + length..8 + length + padding].iter().all(|byte| *byte == 0));
            rest = &rest[8 + length + padding..];
            assert_eq!((record[0], record[2]), (1 << 3, 2 << 3));
            kinds.push(record[1]);
            // The crc is a varint of at most five bytes; the data's length follows it.
            let end = 3 + record[3..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let told = record[3..end].iter().rev().fold(0_u64, |n, b| n << 7 | u64::from(b & 0x7f));
            if let Some((tag, data)) = record[end..].split_first() {
                assert_eq!(*tag, 3 << 3 | 2);
                let skip = data.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
                crc = crc32c::crc32c_append(crc, &data[skip..]);
            }
            assert_eq!(told, u64::from(crc));
        }
        assert_eq!(kinds, [4, 1, 5, 2, 2, 3, 5]);
        assert_ne!(wal, cluster.wal(&cluster.members[0]));
    }
}
