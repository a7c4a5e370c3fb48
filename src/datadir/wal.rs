//! The write-ahead log of a member that has applied the entries which made it one
//! (`server/storage/wal/encoder.go`, `walpb/record.proto`, `raftpb/raft.proto`).

use super::cluster::{Cluster, Member, TERM};
use super::proto::Message;

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
