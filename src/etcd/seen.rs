//! What a recording has seen of etcd's history: 16 bytes for each revision, with which each snapshot is compared. No I/O.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::changes::{Change, ChangeValue, Complete, RecordDigest, digest_of};
use crate::bolt::{Db, ReadAt};
use crate::error::Result;
use crate::format::Continues;
use crate::mvcc::{self, Record, Revision};

/// Revisions that are remembered: 16 MiB.
const MOST: usize = 1 << 20;

/// The revisions that a recording has seen and etcd may still have.
#[derive(Default)]
pub(crate) struct Seen(Mutex<History>);

#[derive(Default)]
struct History {
    first: i64,
    digests: VecDeque<RecordDigest>,
    /// The newest segment that is stored.
    stored: Option<Continues>,
}

impl History {
    fn last(&self) -> i64 {
        let count = i64::try_from(self.digests.len()).unwrap_or(i64::MAX);
        self.first.saturating_add(count).saturating_sub(1)
    }

    fn of(&self, main: i64) -> Option<&RecordDigest> {
        let at = usize::try_from(main.checked_sub(self.first)?).ok()?;
        self.digests.get(at)
    }
}

/// What comparing a snapshot with a recording showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// The newest segment that was stored then.
    pub(crate) stored: Option<Continues>,
    /// The first and the last of the revisions that are the same in both, if any was compared.
    pub(crate) equal: Option<(i64, i64)>,
    /// The first revision that differs.
    pub(crate) differs: Option<i64>,
}

impl Seen {
    fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another recording begins, which has seen nothing.
    pub(crate) fn begin(&self) {
        let mut history = self.history();
        history.digests.clear();
        history.stored = None;
    }

    /// Takes the next revision; one that was seen before changes nothing.
    pub(crate) fn add(&self, complete: &Complete) {
        let mut history = self.history();
        if history.digests.is_empty() {
            history.first = complete.main;
        }
        let next = history.last().saturating_add(1);
        if complete.main < next {
            return;
        }
        if complete.main > next {
            history.digests.clear();
            history.first = complete.main;
        }
        history.digests.push_back(complete.digest);
        if history.digests.len() > MOST {
            history.digests.pop_front();
            history.first = history.first.saturating_add(1);
        }
    }

    /// etcd is compacted up to `main`: no later snapshot has all of what is below.
    pub(crate) fn compacted(&self, main: i64) {
        let mut history = self.history();
        let below = usize::try_from(main.saturating_sub(history.first).saturating_add(1));
        let below = below.unwrap_or(0).min(history.digests.len());
        history.digests.drain(..below);
        history.first = history.first.max(main.saturating_add(1));
        if history.digests.capacity() > 4 * history.digests.len().max(1024) {
            history.digests.shrink_to_fit();
        }
    }

    /// A segment is stored.
    pub(crate) fn stored(&self, segment: Continues) {
        self.history().stored = Some(segment);
    }

    /// The last revision that was seen; `None` while none was.
    pub(crate) fn last(&self) -> Option<i64> {
        let history = self.history();
        (!history.digests.is_empty()).then(|| history.last())
    }

    /// Compares the snapshot `db` with what was seen; `None` if nothing was seen and nothing is stored.
    ///
    /// # Errors
    /// Those of reading it.
    pub(crate) fn compare<R: ReadAt>(&self, db: &Db<R>) -> Result<Option<Compared>> {
        let facts = mvcc::database_facts(db)?;
        let (from, to, digests, stored) = {
            let history = self.history();
            if history.digests.is_empty() && history.stored.is_none() {
                return Ok(None);
            }
            // At its compact revision a snapshot has only the records that lasted.
            let from = history.first.max(facts.compact_revision.saturating_add(1)).max(2);
            let to = facts.revision.min(history.last());
            let digests: Vec<_> = (from..=to).map_while(|main| history.of(main).copied()).collect();
            (from, to, digests, history.stored)
        };
        let mut compared = Compared { stored, ..Compared::default() };
        if digests.is_empty() {
            return Ok(Some(compared));
        }
        compared.differs = first_that_differs(db, from, &digests)?;
        compared.equal = Some((from, to)).filter(|_| compared.differs.is_none());
        Ok(Some(compared))
    }
}

/// The first revision from `from` on whose records are not what `digests` say.
fn first_that_differs<R: ReadAt>(
    db: &Db<R>,
    from: i64,
    digests: &[RecordDigest],
) -> Result<Option<i64>> {
    let mut expected = (from..).zip(digests);
    let mut open: (i64, Vec<Change>) = (from, Vec::new());
    let mut differs = None;
    let mut complete = |main: i64, changes: &[Change]| match expected.next() {
        Some((is, digest)) if is == main && *digest == digest_of(changes) => {
            ControlFlow::Continue(())
        }
        Some((is, _)) => {
            differs = Some(is);
            ControlFlow::Break(())
        }
        None => ControlFlow::Break(()),
    };
    let mut is_over = false;
    mvcc::for_each_record(db, Revision { main: from, sub: 0 }, |record| {
        let main = record.revision.main;
        if main != open.0 {
            let flow = complete(open.0, &open.1);
            open = (main, Vec::new());
            is_over = flow.is_break();
            if is_over {
                return Ok(flow);
            }
        }
        open.1.push(change_of(&record));
        Ok(ControlFlow::Continue(()))
    })?;
    if !is_over {
        let _ = complete(open.0, &open.1);
        // What follows is missing.
        differs = differs.or(expected.next().map(|(main, _)| main));
    }
    Ok(differs)
}

/// A record of the bucket as the watch sent it.
pub(crate) fn change_of(record: &Record<'_>) -> Change {
    let value = match record.tombstone {
        true => ChangeValue::Deletion(Bytes::copy_from_slice(record.kv.key)),
        false => ChangeValue::Put(Bytes::copy_from_slice(record.raw.1)),
    };
    Change { revision: record.revision, value }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::bolt::Writer;
    use crate::format::{Sha256, SnapshotId};
    use crate::protobuf::{put_message, put_number};

    /// The records of main revision `main`: keys with what they are set to, or that they are deleted.
    type Revisions<'a> = Vec<(i64, Vec<(&'a str, Option<&'a str>)>)>;

    fn raw(main: i64, key: &str, value: Option<&str>) -> Vec<u8> {
        let mut kv = Vec::new();
        put_message(&mut kv, 1, key.as_bytes());
        if let Some(value) = value {
            put_number(&mut kv, 2, main);
            put_number(&mut kv, 3, main);
            put_number(&mut kv, 4, 1);
            put_message(&mut kv, 5, value.as_bytes());
        }
        kv
    }

    /// A snapshot of them, compacted at `compacted`.
    fn database(revisions: &Revisions<'_>, compacted: i64) -> Vec<u8> {
        let mut writer = Writer::new(Cursor::new(Vec::new()), 1024).unwrap();
        writer.bucket(b"key").unwrap();
        for (main, changes) in revisions {
            for (sub, (key, value)) in (0..).zip(changes) {
                let at = Revision { main: *main, sub }.to_key(value.is_none());
                writer.put(&at, &raw(*main, key, *value)).unwrap();
            }
        }
        writer.bucket(b"meta").unwrap();
        for name in ["finishedCompactRev", "scheduledCompactRev"] {
            let at = Revision { main: compacted, sub: 0 }.to_key(false);
            writer.put(name.as_bytes(), &at).unwrap();
        }
        writer.finish().unwrap().0.into_inner()
    }

    /// What a watch shows of them.
    fn seen(revisions: &Revisions<'_>) -> Seen {
        let seen = Seen::default();
        for (main, changes) in revisions {
            let of = |(sub, (key, value)): (i64, &(&str, Option<&str>))| Change {
                revision: Revision { main: *main, sub },
                value: match value {
                    Some(_) => ChangeValue::Put(raw(*main, key, *value).into()),
                    None => ChangeValue::Deletion(Bytes::copy_from_slice(key.as_bytes())),
                },
            };
            let changes: Vec<_> = (0..).zip(changes).map(of).collect();
            seen.add(&Complete { main: *main, digest: digest_of(&changes), changes });
        }
        seen
    }

    fn compare(seen: &Seen, revisions: &Revisions<'_>, compacted: i64) -> Compared {
        let bytes = database(revisions, compacted);
        seen.compare(&Db::open(&bytes[..]).unwrap()).unwrap().unwrap()
    }

    fn history() -> Revisions<'static> {
        vec![
            (5, vec![("a", Some("1"))]),
            (6, vec![("a", None), ("b", Some("2")), ("c", None)]),
            (7, vec![("b", Some("3"))]),
            (8, vec![("b", None)]),
        ]
    }

    #[test]
    fn what_is_the_same_is_equal() {
        let (seen, all) = (seen(&history()), history());
        assert_eq!(compare(&seen, &all, 3).equal, Some((5, 8)));
        // At its compact revision a snapshot has only some records.
        assert_eq!(compare(&seen, &all, 6).equal, Some((7, 8)));
        assert_eq!(compare(&seen, &all[..2].to_vec(), 3).equal, Some((5, 6)));
        let later = (9, vec![("d", Some("4"))]);
        let longer = [all, vec![later]].concat();
        assert_eq!(compare(&seen, &longer, 3).equal, Some((5, 8)));
        // Nothing in common.
        assert_eq!(compare(&seen, &longer, 8), Compared::default());
    }

    #[test]
    fn what_differs_is_named() {
        let seen = seen(&history());
        type Change<'a> = &'a dyn Fn(&mut Revisions<'static>);
        let changes: [(i64, Change<'_>); 5] = [
            (5, &|all| all[0].1[0].1 = Some("0")),
            // A deletion that a watch left out, or a corrupt member has lost.
            (6, &|all| {
                all[1].1.pop();
            }),
            (6, &|all| all[1].1.push(("e", None))),
            (7, &|all| all[2].1[0] = ("b", None)),
            (8, &|all| all[3].1[0] = ("c", None)),
        ];
        for (at, change) in changes {
            let mut other = history();
            change(&mut other);
            let compared = compare(&seen, &other, 3);
            assert_eq!((compared.differs, compared.equal), (Some(at), None));
        }
        let without = |at: usize| {
            let mut other = history();
            other.remove(at);
            other
        };
        assert_eq!(compare(&seen, &without(1), 3).differs, Some(6));
        assert_eq!(compare(&seen, &without(0), 3).differs, Some(5));
    }

    #[test]
    fn what_etcd_has_compacted_is_forgotten() {
        let seen = seen(&history());
        seen.compacted(6);
        assert_eq!(compare(&seen, &history(), 3).equal, Some((7, 8)));
        seen.compacted(20);
        assert_eq!(seen.last(), None);
        let stored = Continues { journal: SnapshotId(1), number: 2, last: 8, sha256: Sha256::NONE };
        seen.stored(stored);
        let expected = Compared { stored: Some(stored), ..Compared::default() };
        assert_eq!(compare(&seen, &history(), 3), expected);
        seen.begin();
        let bytes = database(&history(), 3);
        assert_eq!(seen.compare(&Db::open(&bytes[..]).unwrap()).unwrap(), None);
    }
}
