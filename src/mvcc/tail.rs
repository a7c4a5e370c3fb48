//! Changes that were recorded after a database was taken, to be written behind its records (SPEC.md §13.3).

use std::collections::{BTreeMap, HashMap};

use super::record::{KeyId, KeyValue, Record, key_id, wrong};
use super::revision::Revision;
use crate::error::{Error, Result};
use crate::format::{Body, Entry};
use crate::protobuf::fields::key_value;
use crate::protobuf::put_varint;

/// What a recording says of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded<'a> {
    /// A change.
    Record(Record<'a>),
    /// Any other entry.
    Entry(Entry<'a>),
}

/// Changes in order, of one history. They can be read more than once.
pub trait Recording {
    /// Gives `visit` every change, and what was recorded between them.
    ///
    /// # Errors
    /// Tampered when the recording breaks a rule, and those of `visit` and of the source.
    fn for_each(&self, visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>) -> Result<()>;
}

/// A recording that follows a database, and what is known of it.
#[derive(Clone, Copy)]
pub struct Tail<'a> {
    /// The changes. Those that the database has too are passed over.
    pub recording: &'a dyn Recording,
    /// The main revision up to which etcd had compacted; 0 if that is not known.
    pub compacted: i64,
    /// Seconds for which the leases were granted that etcd was asked about.
    pub ttls: &'a BTreeMap<i64, i64>,
}

impl std::fmt::Debug for Tail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("compacted", &self.compacted).finish_non_exhaustive()
    }
}

/// As [`Tail`], on its own: up to a main revision.
pub struct RecordedTail {
    /// The changes.
    pub recording: Box<dyn Recording + Send + Sync>,
    /// The last main revision that is of interest.
    pub until: i64,
    /// As [`Tail::compacted`].
    pub compacted: i64,
    /// As [`Tail::ttls`].
    pub ttls: BTreeMap<i64, i64>,
}

impl RecordedTail {
    /// To be written or read behind a database.
    #[must_use]
    pub fn as_tail(&self) -> Tail<'_> {
        Tail { recording: &*self.recording, compacted: self.compacted, ttls: &self.ttls }
    }
}

impl std::fmt::Debug for RecordedTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordedTail").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Tail<'_> {
    /// Gives `visit` the changes behind main revision `base` up to `until`, each of which follows the one before.
    ///
    /// # Errors
    /// Tampered when one is missing, and those of the recording and of `visit`.
    pub(super) fn for_each(
        &self,
        base: i64,
        until: i64,
        mut visit: impl FnMut(Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut at = Revision { main: base, sub: 0 };
        self.recording.for_each(&mut |recorded| {
            let Recorded::Record(record) = recorded else { return Ok(()) };
            let now = record.revision;
            if now.main <= base || now.main > until {
                return Ok(());
            }
            if !follows(at, now) {
                return Err(wrong(now, &format!("it follows {at}, so changes are missing")));
            }
            at = now;
            visit(record)
        })?;
        if at.main == until {
            return Ok(());
        }
        Err(Error::tampered(format!("recording: it ends at revision {}, before {until}", at.main)))
    }

    /// The last change up to the compaction of each key that changed between `base` and it: the others of these keys are
    /// compacted away. Memory: 48 bytes for each key.
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each).
    pub(super) fn superseding(&self, base: i64) -> Result<Superseding> {
        let mut latest = HashMap::new();
        if self.compacted > base {
            self.for_each(base, self.compacted, |record| {
                latest.insert(key_id(record.kv.key), record.revision);
                Ok(())
            })?;
        }
        Ok(Superseding { latest, compacted: self.compacted })
    }
}

/// Which changes a recorded compaction has left.
pub(super) struct Superseding {
    latest: HashMap<KeyId, Revision>,
    compacted: i64,
}

impl Superseding {
    /// Whether a record of the database is still there.
    pub(super) fn keeps_old(&self, record: &Record<'_>) -> bool {
        self.latest.is_empty() || !self.latest.contains_key(&key_id(record.kv.key))
    }

    /// Whether a recorded change is still there. A deletion is only where etcd may still keep it.
    pub(super) fn keeps_new(&self, record: &Record<'_>) -> bool {
        let Revision { main, .. } = record.revision;
        main > self.compacted
            || self.latest.get(&key_id(record.kv.key)) == Some(&record.revision)
                && (!record.tombstone || main == self.compacted)
    }
}

/// Whether `now` is the change after `last`.
fn follows(last: Revision, now: Revision) -> bool {
    now.main == last.main && now.sub == last.sub.saturating_add(1)
        || now.main == last.main.saturating_add(1) && now.sub == 0
}

/// Reads the bodies of one journal in order, and checks that their records are a history ([S13.1]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The first main revision of the journal.
    first: i64,
    at: Option<Revision>,
    last: i64,
    moment: u64,
}

impl Reading {
    /// Expects the first body of a journal that begins with main revision `first`.
    #[must_use]
    pub fn new(first: i64) -> Self {
        Self { first, at: None, last: first.saturating_sub(1), moment: 0 }
    }

    /// The last complete main revision so far, one less than the first before there is one.
    #[must_use]
    pub fn last(&self) -> i64 {
        self.last
    }

    /// Reads the next body.
    ///
    /// # Errors
    /// Tampered when a rule of §13.3 is broken, and those of the entries and of `visit`.
    pub fn body(
        &mut self,
        body: &Body<'_>,
        visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>,
    ) -> Result<()> {
        let head = body.head();
        let mut is_first = true;
        let mut deletion = Vec::new();
        for entry in body.entries() {
            let entry = entry?;
            match entry {
                Entry::Put(value) => {
                    let kv =
                        KeyValue::parse(value).ok_or_else(|| refuse("a value is not a record"))?;
                    let record = self.record(kv, false)?;
                    check_first(&mut is_first, head.main, head.sub, record)?;
                    let raw = (&record.to_key(false)[..], value);
                    visit(Recorded::Record(Record {
                        revision: record,
                        tombstone: false,
                        kv,
                        raw,
                    }))?;
                }
                Entry::Deletion { main, key } => {
                    deletion_value(&mut deletion, key);
                    let kv = KeyValue { key, mod_revision: main, ..KeyValue::default() };
                    let record = self.record(kv, true)?;
                    check_first(&mut is_first, head.main, head.sub, record)?;
                    let raw = (&record.to_key(true)[..], &deletion[..]);
                    // As the bucket's value reads.
                    let kv = KeyValue { mod_revision: 0, ..kv };
                    visit(Recorded::Record(Record { revision: record, tombstone: true, kv, raw }))?;
                }
                Entry::Moment(moment) if moment < self.moment => {
                    return Err(refuse("a moment is earlier than the one before it"));
                }
                other => {
                    if let Entry::Moment(moment) = other {
                        self.moment = moment;
                    }
                    visit(Recorded::Entry(other))?;
                }
            }
        }
        if is_first {
            let next = |at: Revision| head.main == at.main && head.sub == at.sub.saturating_add(1);
            let begins = head.main == self.next_main() && head.sub == 0;
            if !begins && !self.at.is_some_and(next) {
                return Err(refuse("its head names another record than the next to come"));
            }
        }
        self.complete(head.last)
    }

    fn next_main(&self) -> i64 {
        self.at.map_or(self.first, |at| at.main.saturating_add(1))
    }

    /// The revision of the next record.
    fn record(&mut self, kv: KeyValue<'_>, tombstone: bool) -> Result<Revision> {
        let main = kv.mod_revision;
        let now = match self.at {
            Some(at) if at.main == main => Revision { main, sub: at.sub.saturating_add(1) },
            _ => Revision { main, sub: 0 },
        };
        if main < 2 || !self.at.map_or(main == self.first, |at| follows(at, now)) {
            return Err(refuse(&format!(
                "revision {main} comes where {} must be",
                self.next_main()
            )));
        }
        let created = (1..=main).contains(&kv.create_revision) && kv.version >= 1;
        if kv.key.is_empty() || !tombstone && !created {
            return Err(refuse(&format!("a record of revision {main} contradicts itself")));
        }
        self.at = Some(now);
        Ok(now)
    }

    /// Takes note of the last complete revision that a body tells.
    fn complete(&mut self, last: i64) -> Result<()> {
        let so_far = self.next_main().saturating_sub(1);
        if last < self.last || last > so_far || last < so_far.saturating_sub(1) {
            return Err(refuse(&format!("it says that revision {last} is complete, of {so_far}")));
        }
        self.last = last;
        Ok(())
    }
}

fn check_first(is_first: &mut bool, main: i64, sub: i64, record: Revision) -> Result<()> {
    if std::mem::take(is_first) && record != (Revision { main, sub }) {
        return Err(refuse("its head names another first record"));
    }
    Ok(())
}

/// What etcd stores for the deletion of `key`: the key alone.
fn deletion_value(value: &mut Vec<u8>, key: &[u8]) {
    value.clear();
    put_varint(value, key_value::KEY << 3 | 2);
    put_varint(value, key.len() as u64);
    value.extend_from_slice(key);
}

fn refuse(why: &str) -> Error {
    Error::tampered(format!("segment: {why}"))
}
