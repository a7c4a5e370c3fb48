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
        }
    }

    /// The last complete revision; one less than the first before there is one.
    pub(crate) fn last(&self) -> i64 {
        if self.repeats { self.next } else { self.next.saturating_sub(1) }
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
                HEADER => answer.ids = ids(field.bytes()?)?,
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

fn ids(message: &[u8]) -> Result<Ids, Malformed> {
    let mut ids = Ids { cluster: 0, member: 0, term: 0 };
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            header::CLUSTER_ID => ids.cluster = field.int64()?.cast_unsigned(),
            header::MEMBER_ID => ids.member = field.int64()?.cast_unsigned(),
            header::RAFT_TERM => ids.term = field.int64()?.cast_unsigned(),
            _ => {}
        }
    }
    Ok(ids)
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protobuf::{put_message, put_number};

    /// One change of a history: a key, and the version it gets, 0 for a deletion.
    type Made = (u8, i64);
    /// Revisions from 2 on.
    type History = Vec<Vec<Made>>;

    /// Keys change at random; a put key may be deleted in the same revision, as nested transactions do.
    fn history() -> impl Strategy<Value = History> {
        let step = prop::collection::vec((0..4_u8, any::<bool>()), 1..5);
        prop::collection::vec(step, 1..12).prop_map(|steps| {
            let mut versions = HashMap::new();
            let mut history = Vec::new();
            for step in steps {
                let mut made: Vec<Made> = Vec::new();
                for (key, deletes) in step {
                    let version: &mut i64 = versions.entry(key).or_insert(0);
                    let was_put = made.iter().any(|(other, _)| *other == key);
                    if deletes && *version > 0 {
                        *version = 0;
                    } else if was_put {
                        continue;
                    } else {
                        *version += 1;
                    }
                    made.push((key, *version));
                }
                history.push(made);
            }
            history
        })
    }

    fn kv((key, version): Made, main: i64) -> Vec<u8> {
        let mut kv = Vec::new();
        put_message(&mut kv, 1, &[b'k', key]);
        if version > 0 {
            put_number(&mut kv, 2, 2);
        }
        put_number(&mut kv, 3, main);
        put_number(&mut kv, 4, version);
        if version > 0 {
            put_message(&mut kv, 5, &[key; 3]);
        }
        kv
    }

    #[derive(Clone, Debug, Default)]
    struct Sent {
        events: Vec<(Made, i64)>,
        fragment: bool,
        created: bool,
        canceled: bool,
        compacted: i64,
        cluster: i64,
        term: i64,
    }

    fn sent(message: &Sent) -> Bytes {
        let mut bytes = Vec::new();
        let mut header = Vec::new();
        put_number(&mut header, 1, message.cluster + 1);
        put_number(&mut header, 2, 7);
        put_number(&mut header, 3, 1000);
        put_number(&mut header, 4, message.term + 1);
        put_message(&mut bytes, 1, &header);
        put_number(&mut bytes, 3, message.created.into());
        put_number(&mut bytes, 4, message.canceled.into());
        put_number(&mut bytes, 5, message.compacted);
        put_number(&mut bytes, 7, message.fragment.into());
        for (made, main) in &message.events {
            let mut event = Vec::new();
            put_number(&mut event, 1, (made.1 == 0).into());
            put_message(&mut event, 2, &kv(*made, *main));
            put_message(&mut bytes, 11, &event);
        }
        bytes.into()
    }

    fn events(history: &History) -> Vec<(Made, i64)> {
        let of = |(made, main): (&Vec<Made>, i64)| {
            made.iter().map(move |made| (*made, main)).collect::<Vec<_>>()
        };
        history.iter().zip(2..).flat_map(of).collect()
    }

    /// Answers as etcd groups them: at the end of each group a revision ends, but within fragments.
    fn grouped(events: &[(Made, i64)], cuts: &[usize]) -> Vec<Sent> {
        let mut messages = Vec::new();
        let mut rest = events;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let at = cuts.next().map_or(1, |cut| 1 + cut % 5).min(rest.len());
            let (now, later) = rest.split_at(at);
            let splits = later.first().is_some_and(|(_, main)| now[at - 1].1 == *main);
            messages.push(Sent { events: now.to_vec(), fragment: splits, ..Sent::default() });
            // Progress and created are answers without events.
            if at.is_multiple_of(2) {
                messages.push(Sent { fragment: splits, ..Sent::default() });
            }
            rest = later;
        }
        messages
            .insert(messages.len() / 2, Sent { created: true, fragment: true, ..Sent::default() });
        messages
    }

    fn run(messages: &[Sent]) -> (Vec<Complete>, Result<(), Ended>) {
        let (mut revisions, mut complete) = (Revisions::new(2), Vec::new());
        let ended =
            messages.iter().try_for_each(|message| revisions.answer(&sent(message), &mut complete));
        (complete, ended)
    }

    fn records(complete: &[Complete]) -> Vec<(Revision, Vec<u8>)> {
        let of = |change: &Change| match &change.value {
            ChangeValue::Put(value) => (change.revision, value.to_vec()),
            ChangeValue::Deletion(key) => (change.revision, [b"-", &key[..]].concat()),
        };
        complete.iter().flat_map(|complete| complete.changes.iter().map(of)).collect()
    }

    fn expected(history: &History) -> Vec<(Revision, Vec<u8>)> {
        let mut all = Vec::new();
        for (made, main) in history.iter().zip(2..) {
            for (made, sub) in made.iter().zip(0..) {
                let deletion = [b"-k", &[made.0][..]].concat();
                let value = if made.1 == 0 { deletion } else { kv(*made, main) };
                all.push((Revision { main, sub }, value));
            }
        }
        all
    }

    proptest! {
        /// However etcd groups the events, the same records come of them, byte for byte.
        #[test]
        fn grouping_changes_nothing(history in history(), cuts in prop::collection::vec(0..9_usize, 1..9)) {
            let (complete, ended) = run(&grouped(&events(&history), &cuts));
            prop_assert_eq!(ended, Ok(()));
            prop_assert_eq!(records(&complete), expected(&history));
            for one in &complete {
                prop_assert_eq!(one.digest, digest_of(&one.changes));
            }
        }

        /// A new stream, which begins with the last complete revision, adds nothing and loses nothing.
        #[test]
        fn a_reconnect_changes_nothing(history in history(), cuts in prop::collection::vec(0..9_usize, 1..9), at: prop::sample::Index, compacts: bool) {
            let messages = grouped(&events(&history), &cuts);
            let (mut revisions, mut complete) = (Revisions::new(2), Vec::new());
            for message in &messages[..at.index(messages.len())] {
                revisions.answer(&sent(message), &mut complete).unwrap();
            }
            let last = revisions.last();
            let compacted = if compacts { last } else { 0 };
            let from = revisions.reconnect(compacted).unwrap();
            prop_assert_eq!(from, if compacts { last + 1 } else { last.max(2) });
            prop_assert_eq!(revisions.last(), last);
            let again: Vec<_> = events(&history).into_iter().filter(|(_, main)| *main >= from).collect();
            for message in grouped(&again, &cuts) {
                revisions.answer(&sent(&message), &mut complete).unwrap();
            }
            prop_assert_eq!(records(&complete), expected(&history));
        }

        /// What is missing, comes twice or in another order is refused, and what came before it is right.
        #[test]
        fn a_wrong_stream_is_refused(history in history(), at: prop::sample::Index, how in 0..3) {
            let mut revisions: Vec<_> = (2..).zip(&history).map(|(main, made)| Sent {
                events: made.iter().map(|made| (*made, main)).collect(),
                ..Sent::default()
            }).collect();
            let at = at.index(revisions.len());
            match how {
                // The last is not missed until another comes.
                0 if at + 1 < revisions.len() => { revisions.remove(at); }
                1 => revisions.insert(at, revisions[at].clone()),
                2 if at > 0 => revisions.swap(at - 1, at),
                _ => return Ok(()),
            }
            let (complete, ended) = run(&revisions);
            prop_assert!(matches!(ended, Err(Ended::Broken(_))), "{ended:?}");
            let (found, expected) = (records(&complete), expected(&history));
            prop_assert_eq!(&found[..], &expected[..found.len()]);
        }

        #[test]
        fn an_event_that_comes_twice_is_refused(history in history(), at: prop::sample::Index) {
            let mut events = events(&history);
            let at = at.index(events.len());
            events.insert(at, events[at]);
            prop_assert!(matches!(run(&grouped(&events, &[3])).1, Err(Ended::Broken(_))));
        }

        /// The revision that is compared after a reconnect shows that etcd's history is another one.
        #[test]
        fn another_history_is_noticed(history in history()) {
            let (mut revisions, mut complete) = (Revisions::new(2), Vec::new());
            for message in grouped(&events(&history), &[4]) {
                revisions.answer(&sent(&message), &mut complete).unwrap();
            }
            let from = revisions.reconnect(0).unwrap();
            let other = Sent { events: vec![((9, 1), from)], ..Sent::default() };
            prop_assert_eq!(revisions.answer(&sent(&other), &mut complete), Err(Ended::Parted(from)));
            prop_assert_eq!(records(&complete), expected(&history));
        }

        #[test]
        fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Revisions::new(2).answer(&bytes.into(), &mut Vec::new());
        }
    }

    #[test]
    fn each_reason_to_end() {
        let put = |main| ((1, 1), main);
        let one = |message: Sent| run(&[message]).1.unwrap_err();
        let canceled = Sent { canceled: true, ..Sent::default() };
        assert_eq!(one(Sent { compacted: 9, ..canceled.clone() }), Ended::Compacted(9));
        assert_eq!(one(canceled), Ended::Canceled(String::new()));
        let broken = |messages: &[Sent]| matches!(run(messages).1, Err(Ended::Broken(_)));
        let created = Sent { created: true, ..Sent::default() };
        assert!(!broken(std::slice::from_ref(&created)) && broken(&[created.clone(), created]));
        let of = |cluster, term| Sent { cluster, term, ..Sent::default() };
        assert!(broken(&[of(0, 1), of(1, 1)]) && broken(&[of(0, 2), of(0, 1)]));
        assert!(!broken(&[of(0, 1), of(0, 2)]));
        assert!(broken(&[Sent { events: vec![put(1)], ..Sent::default() }]));
        assert!(broken(&[Sent { events: vec![put(3)], ..Sent::default() }]));
    }

    #[test]
    fn a_watch_does_not_start_where_etcd_has_compacted() {
        let mut revisions = Revisions::new(5);
        assert_eq!(revisions.reconnect(4), Some(5));
        assert_eq!(revisions.reconnect(5), None);
        let of = |main| sent(&Sent { events: vec![((1, 1), main)], ..Sent::default() });
        revisions.answer(&of(5), &mut Vec::new()).unwrap();
        assert_eq!(
            [4, 5, 6].map(|compacted| revisions.reconnect(compacted)),
            [Some(5), Some(6), None]
        );
    }

    /// Events that come with a cancellation count: compaction overtakes a watcher behind what it was sent.
    #[test]
    fn what_came_before_the_end_is_kept() {
        let events = vec![((1, 1), 2), ((2, 1), 3)];
        let message = Sent { events, canceled: true, compacted: 9, ..Sent::default() };
        let (complete, ended) = run(&[message]);
        assert_eq!((complete.len(), ended), (2, Err(Ended::Compacted(9))));
    }

    #[test]
    fn events_that_etcd_does_not_send() {
        let raw = |event: &[u8]| {
            let mut bytes = Vec::new();
            put_message(&mut bytes, 11, event);
            Revisions::new(2).answer(&bytes.into(), &mut Vec::new())
        };
        let event = |kind, kv: &[u8]| {
            let mut event = Vec::new();
            put_number(&mut event, 1, kind);
            put_message(&mut event, 2, kv);
            event
        };
        let good = kv((1, 1), 2);
        assert_eq!(raw(&event(0, &good)), Ok(()));
        assert!(raw(&event(2, &good)).is_err(), "a type that is not known");
        assert!(raw(&[]).is_err(), "no record");
        assert!(raw(&event(1, b"")).is_err(), "no key");
        assert!(raw(&event(0, &kv((1, 0), 2))).is_err(), "a put without a version");
    }
}
