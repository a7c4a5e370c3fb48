//! Answers of a watch of all keys, put together to complete revisions, or the reason why they are not. No I/O.
//!
//! etcd counts its revisions without a gap and gives each at least one event, so that a watch of all keys which shows
//! every number in turn has shown every change (`server/storage/mvcc/kvstore_txn.go`, the same in 3.4 to 3.7). Only the
//! parts of a revision are not counted: an event that is left out within one shows when a snapshot is compared.
//!
//! A record is kept as it came, byte for byte: etcd stores the same bytes in its bucket.

use std::collections::HashMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::failure;
use crate::mvcc::{KeyValue, Revision};
use crate::protobuf::fields::{HEADER, event, header, watch_response};
use crate::protobuf::{Fields, Malformed};

/// The most bytes of one revision that are kept while it is not complete.
const MAX_OPEN: usize = 256 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) value: ChangeValue,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChangeValue {
    /// `mvccpb.KeyValue` as etcd sent it.
    Put(Bytes),
    /// The key that was deleted.
    Deletion(Bytes),
}

impl ChangeValue {
    /// Bytes that it takes up.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Put(bytes) | Self::Deletion(bytes) => bytes.len(),
        }
    }
}

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(crate) main: i64,
    pub(crate) changes: Vec<Change>,
    /// What stands for its records: two revisions with the same have the same records.
    pub(crate) digest: RecordDigest,
}

/// 16 bytes of the SHA-256 over a revision's records.
pub(crate) type RecordDigest = [u8; 16];

/// Why no more revisions come of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// etcd has compacted up to here, and with it what was to come.
    Compacted(i64),
    /// etcd ended the watch.
    Canceled(String),
    /// A revision that was received before came again and is another one.
    Parted(i64),
    /// What came is not what etcd sends: another stream may do better.
    Broken(String),
}

/// Who answers, and under which leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    pub(crate) term: u64,
}

/// Puts revisions together.
pub(crate) struct Revisions {
    /// The revision to come.
    next: i64,
    /// The last complete one.
    last: Option<RecordDigest>,
    /// The revision to come was received before, and is compared.
    repeats: bool,
    open: Vec<Change>,
    open_bytes: usize,
    created: bool,
    ids: Option<Ids>,
    /// etcd's own revision, by the last answer of this stream.
    etcd: i64,
}

impl Revisions {
    /// Expects revision `first` and all that follow.
    pub(crate) fn new(first: i64) -> Self {
        Self {
            next: first,
            last: None,
            repeats: false,
            open: Vec::new(),
            open_bytes: 0,
            created: false,
            ids: None,
            etcd: 0,
        }
    }

    /// The last complete revision; one less than the first before there is one.
    pub(crate) fn last(&self) -> i64 {
        if self.repeats { self.next } else { self.next.saturating_sub(1) }
    }

    /// Whether the last complete revision is still to be compared with what another stream sends.
    pub(crate) fn is_repeating(&self) -> bool {
        self.repeats
    }

    /// How many revisions etcd had beyond the last complete one when it sent the last answer.
    pub(crate) fn behind(&self) -> i64 {
        self.etcd.saturating_sub(self.last()).max(0)
    }

    /// Who answered last.
    pub(crate) fn ids(&self) -> Option<Ids> {
        self.ids
    }

    /// Begins with another stream, which is to start at the revision returned: the last complete one, to be compared, or the
    /// one behind it where etcd has compacted that. A watch must not start at a compacted revision or at the compaction's
    /// own: etcd before 3.4.36 and 3.5.18 then leaves deletions out. `None` if what is to come is compacted.
    pub(crate) fn reconnect(&mut self, compacted: i64) -> Option<i64> {
        self.open.clear();
        self.open_bytes = 0;
        self.created = false;
        self.etcd = 0;
        let last = self.last();
        self.repeats = self.last.is_some() && last > compacted;
        self.next = if self.repeats { last } else { last.saturating_add(1) };
        (self.next > compacted).then_some(self.next)
    }

    /// Takes an answer: the revisions that it completes are added to `complete`.
    ///
    /// # Errors
    /// Why the stream is of no more use. What was added before is good; the revision that was open is dropped by
    /// [`reconnect`](Self::reconnect).
    pub(crate) fn answer(
        &mut self,
        message: &Bytes,
        complete: &mut Vec<Complete>,
    ) -> Result<(), Ended> {
        let answer = Answer::parse(message).map_err(|_| broken("an answer is malformed"))?;
        self.check(&answer)?;
        for event in &answer.events {
            self.event(message, event, complete)?;
        }
        if !answer.is_fragment && !self.open.is_empty() {
            self.complete(complete)?;
        }
        if !answer.is_canceled {
            return Ok(());
        }
        match answer.compacted {
            1.. => Err(Ended::Compacted(answer.compacted)),
            _ => Err(Ended::Canceled(failure::clean(&String::from_utf8_lossy(answer.reason)))),
        }
    }

    fn check(&mut self, answer: &Answer<'_>) -> Result<(), Ended> {
        if let Some(known) = self.ids {
            if known.cluster != answer.ids.cluster {
                return Err(broken("another cluster answers"));
            }
            if answer.ids.term < known.term {
                return Err(broken("the raft term is lower than before"));
            }
        }
        self.ids = Some(answer.ids);
        self.etcd = answer.revision;
        if answer.is_created && std::mem::replace(&mut self.created, true) {
            return Err(broken("the watch is created twice"));
        }
        Ok(())
    }

    fn event(
        &mut self,
        message: &Bytes,
        event: &Event<'_>,
        complete: &mut Vec<Complete>,
    ) -> Result<(), Ended> {
        let main = event.kv.mod_revision;
        let is_next = main == self.next.saturating_add(1);
        if is_next && !self.open.is_empty() {
            self.complete(complete)?;
        }
        if main != self.next {
            let expected = self.next;
            return Err(broken(format!("revision {main} comes where {expected} must be")));
        }
        let value = match event.kind {
            Kind::Put => ChangeValue::Put(message.slice_ref(event.raw)),
            Kind::Deletion => ChangeValue::Deletion(message.slice_ref(event.kv.key)),
        };
        self.open_bytes = self.open_bytes.saturating_add(value.len()).saturating_add(64);
        if self.open_bytes > MAX_OPEN {
            let most = MAX_OPEN >> 20;
            return Err(broken(format!("revision {main} has more than {most} MiB")));
        }
        let sub = i64::try_from(self.open.len()).unwrap_or(i64::MAX);
        self.open.push(Change { revision: Revision { main, sub }, value });
        Ok(())
    }

    fn complete(&mut self, complete: &mut Vec<Complete>) -> Result<(), Ended> {
        let changes = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        let main = self.next;
        if is_doubled(&changes) {
            return Err(broken(format!("an event of revision {main} comes twice")));
        }
        let digest = digest_of(&changes);
        if std::mem::take(&mut self.repeats) {
            if self.last != Some(digest) {
                self.repeats = true;
                return Err(Ended::Parted(main));
            }
        } else {
            complete.push(Complete { main, changes, digest });
        }
        self.last = Some(digest);
        self.next = main.saturating_add(1);
        Ok(())
    }
}

/// What stands for the records of one revision.
pub(crate) fn digest_of(changes: &[Change]) -> RecordDigest {
    let mut hasher = Sha256::new();
    for change in changes {
        let (kind, bytes) = match &change.value {
            ChangeValue::Put(bytes) => (0_u8, bytes),
            ChangeValue::Deletion(bytes) => (1, bytes),
        };
        hasher.update([kind]);
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    *digest.first_chunk().unwrap_or(&[0; 16])
}

/// Whether one key is deleted twice in a row, or put twice with the same version.
fn is_doubled(changes: &[Change]) -> bool {
    if changes.len() < 2 {
        return false;
    }
    let mut seen: HashMap<&[u8], i64> = HashMap::with_capacity(changes.len());
    changes.iter().any(|change| {
        let (key, version) = match &change.value {
            ChangeValue::Put(value) => match KeyValue::parse(value) {
                Some(kv) => (kv.key, kv.version),
                None => return true,
            },
            ChangeValue::Deletion(key) => (&key[..], 0),
        };
        seen.insert(key, version) == Some(version)
    })
}

fn broken(what: impl Into<String>) -> Ended {
    Ended::Broken(what.into())
}

/// `WatchResponse`, borrowed from its bytes.
struct Answer<'a> {
    ids: Ids,
    /// etcd's own.
    revision: i64,
    is_created: bool,
    is_canceled: bool,
    compacted: i64,
    reason: &'a [u8],
    is_fragment: bool,
    events: Vec<Event<'a>>,
}

struct Event<'a> {
    kind: Kind,
    kv: KeyValue<'a>,
    /// The bytes of `kv`.
    raw: &'a [u8],
}

enum Kind {
    Put,
    Deletion,
}

impl<'a> Answer<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut answer = Self {
            ids: Ids { cluster: 0, member: 0, term: 0 },
            revision: 0,
            is_created: false,
            is_canceled: false,
            compacted: 0,
            reason: &[],
            is_fragment: false,
            events: Vec::new(),
        };
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            match number {
                HEADER => (answer.ids, answer.revision) = answer_header(field.bytes()?)?,
                watch_response::CREATED => answer.is_created = field.int64()? != 0,
                watch_response::CANCELED => answer.is_canceled = field.int64()? != 0,
                watch_response::COMPACT_REVISION => answer.compacted = field.int64()?,
                watch_response::CANCEL_REASON => answer.reason = field.bytes()?,
                watch_response::FRAGMENT => answer.is_fragment = field.int64()? != 0,
                watch_response::EVENTS => answer.events.push(Event::parse(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(answer)
    }
}

/// Who answers, and etcd's revision.
fn answer_header(message: &[u8]) -> Result<(Ids, i64), Malformed> {
    let (mut ids, mut revision) = (Ids { cluster: 0, member: 0, term: 0 }, 0);
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            header::CLUSTER_ID => ids.cluster = field.int64()?.cast_unsigned(),
            header::MEMBER_ID => ids.member = field.int64()?.cast_unsigned(),
            header::REVISION => revision = field.int64()?,
            header::RAFT_TERM => ids.term = field.int64()?.cast_unsigned(),
            _ => {}
        }
    }
    Ok((ids, revision))
}

impl<'a> Event<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (mut kind, mut raw) = (Kind::Put, None);
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (event::TYPE, field) => {
                    kind = match field.int64()? {
                        0 => Kind::Put,
                        1 => Kind::Deletion,
                        _ => return Err(Malformed),
                    }
                }
                (event::KV, field) => raw = Some(field.bytes()?),
                _ => {}
            }
        }
        let raw = raw.ok_or(Malformed)?;
        let kv = KeyValue::parse(raw).ok_or(Malformed)?;
        let is_record = !kv.key.is_empty()
            && match kind {
                Kind::Deletion => true,
                Kind::Put => (1..=kv.mod_revision).contains(&kv.create_revision) && kv.version >= 1,
            };
        if is_record { Ok(Self { kind, kv, raw }) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests;
