//! Whether the records are a history that etcd can have written.

use std::ops::ControlFlow;

use super::facts::database_facts;
use super::record::{Record, for_each_record, wrong};
use super::revision::Revision;
use crate::bolt::{Checked, Db, Order, ReadAt, check_with};
use crate::error::Result;

/// A history without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Number of records, deletions included.
    pub records: u64,
    /// Number of deletions.
    pub deletions: u64,
    /// The first record.
    pub first: Option<Revision>,
    /// The last record.
    pub last: Option<Revision>,
}

/// Reads every record and checks that the history has no gap: behind the compact revision each main revision
/// follows the one before and its changes count 0, 1, 2…; and that each record tells of its own revision.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) naming revision and rule, and those of the source.
pub fn check_history<R: ReadAt>(db: &Db<R>) -> Result<History> {
    let mut checker = HistoryChecker::new(db)?;
    for_each_record(db, Revision::default(), |record| {
        checker.next(&record)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(checker.history)
}

/// As [`check_history`], and bolt's own [`check`](crate::bolt::check), in one walk.
///
/// # Errors
/// As those two.
pub fn check_all<R: ReadAt>(db: &Db<R>) -> Result<(Checked, History)> {
    let mut checker = HistoryChecker::new(db)?;
    let checked = check_with(db, Order::Key, |bucket, key, value| match bucket {
        b"key" => checker.next(&Record::parse(key, value)?),
        _ => Ok(()),
    })?;
    Ok((checked, checker.history))
}

/// Takes records in order and finds what is missing between them.
struct HistoryChecker {
    /// A compaction leaves gaps up to here.
    start: i64,
    history: History,
}

impl HistoryChecker {
    fn new<R: ReadAt>(db: &Db<R>) -> Result<Self> {
        // The first change is revision 2: an empty store is at 1.
        let start = database_facts(db)?.compact_revision.max(1);
        Ok(Self { start, history: History::default() })
    }

    fn next(&mut self, record: &Record<'_>) -> Result<()> {
        check_record(record)?;
        let (history, start, now) = (&mut self.history, self.start, record.revision);
        let last = history.last.filter(|last| last.main >= start);
        let last = last.unwrap_or(Revision { main: start, sub: 0 });
        let next = now.main == last.main.saturating_add(1) && now.sub == 0;
        let same = now.main == last.main && now.sub == last.sub.saturating_add(1);
        if now.main > start && !next && !same && !is_bump(record) {
            return Err(wrong(now, &format!("it follows {last}, so changes are missing")));
        }
        history.records = history.records.saturating_add(1);
        history.deletions = history.deletions.saturating_add(record.tombstone.into());
        history.first.get_or_insert(now);
        history.last = Some(now);
        Ok(())
    }
}

/// The record that `etcdutl snapshot restore --bump-revision` adds: a revision and no value.
fn is_bump(record: &Record<'_>) -> bool {
    !record.tombstone && record.revision.sub == 0 && record.raw.1.is_empty()
}

fn check_record(record: &Record<'_>) -> Result<()> {
    let Record { revision, kv, tombstone, .. } = record;
    if is_bump(record) {
        return Ok(());
    }
    if kv.key.is_empty() {
        return Err(wrong(*revision, "it changes no key"));
    }
    let born = 1..=kv.mod_revision;
    if !tombstone
        && (kv.mod_revision != revision.main
            || !born.contains(&kv.create_revision)
            || kv.version < 1)
    {
        return Err(wrong(
            *revision,
            &format!(
                "its revision is {}, created at {}, version {}",
                kv.mod_revision, kv.create_revision, kv.version
            ),
        ));
    }
    Ok(())
}
