//! The write-ahead log of a member that has applied the entries which made it one
//! (`server/storage/wal/encoder.go`, `walpb/record.proto`, `raftpb/raft.proto`).

use super::cluster::{Cluster, Member, TERM};
use crate::protobuf::Message;
use crate::protobuf::fields::{conf_change, entry, hard_state, metadata, record, wal_snapshot};

/// Name of the log's only file: sequence and index of its first entry's predecessor.
pub const WAL_NAME: &str = "0000000000000000-0000000000000000.wal";

pub(super) const METADATA: u64 = 1;
pub(super) const ENTRY: u64 = 2;
pub(super) const STATE: u64 = 3;
pub(super) const CRC: u64 = 4;
pub(super) const SNAPSHOT: u64 = 5;

/// `raftpb.EntryConfChange`.
const CONF_CHANGE: u64 = 1;

impl Cluster {
    /// The log of `member`: one entry for each member of the cluster, all committed, and a snapshot behind them.
    #[must_use]
    pub fn wal(&self, member: &Member) -> Vec<u8> {
        let mut log = Log::default();
        log.record(CRC, None);
        let metadata = Message::default()
            .number(metadata::NODE_ID, member.id)
            .number(metadata::CLUSTER_ID, self.id);
        log.record(METADATA, Some(metadata));
        log.record(SNAPSHOT, Some(wal_snapshot(0, 0)));
        for (index, added) in (1..).zip(&self.members) {
            // raftpb.ConfChange of the type AddNode.
            let change = Message::default()
                .number(conf_change::ID, 0)
                .number(conf_change::TYPE, 0)
                .number(conf_change::NODE_ID, added.id)
                .bytes(conf_change::CONTEXT, &added.json());
            let entry = Message::default()
                .number(entry::TYPE, CONF_CHANGE)
                .number(entry::TERM, TERM)
                .number(entry::INDEX, index);
            log.record(ENTRY, Some(entry.message(entry::DATA, change)));
        }
        let vote = self.members.first().map_or(0, |first| first.id);
        let state = Message::default()
            .number(hard_state::TERM, TERM)
            .number(hard_state::VOTE, vote)
            .number(hard_state::COMMIT, self.index());
        log.record(STATE, Some(state));
        let snapshot = wal_snapshot(self.index(), TERM);
        log.record(SNAPSHOT, Some(snapshot.message(wal_snapshot::CONF_STATE, self.conf_state())));
        log.bytes
    }
}

fn wal_snapshot(index: u64, term: u64) -> Message {
    Message::default().number(wal_snapshot::INDEX, index).number(wal_snapshot::TERM, term)
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
        let record =
            Message::default().number(record::TYPE, kind).number(record::CRC, self.crc.into());
        let record = match data {
            Some(data) => record.bytes(record::DATA, &data),
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
