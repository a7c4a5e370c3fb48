//! What can be read of a key space: a database's records, or those and the changes that were recorded after it.

use std::collections::HashMap;
use std::ops::{ControlFlow, RangeInclusive};

use super::facts::{Span, database_facts};
use super::leases::leases;
use super::record::{Record, records_until, scan_records, value_at, wrong};
use super::revision::Revision;
use super::tail::Tail;
use crate::bolt::{Db, ReadAt};
use crate::error::{Error, Result};

/// Takes one record.
pub type Visit<'a> = &'a mut dyn FnMut(Record<'_>) -> Result<()>;

/// Records of a key space.
pub trait RecordSource {
    /// Which revisions it holds.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's.
    fn span(&self) -> Result<Span>;

    /// Gives `visit` each record of the main revisions `revisions`, in no order.
    ///
    /// # Errors
    /// Tampered, and those of the source and of `visit`.
    fn scan(&self, revisions: RangeInclusive<i64>, visit: Visit<'_>) -> Result<()>;

    /// Gives `visit` each record up to main revision `until`, in order.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    fn in_order(&self, until: i64, visit: Visit<'_>) -> Result<()>;

    /// Gives `visit` the value of each of the changes `revisions`, which ascend and are no deletions, until it breaks.
    ///
    /// # Errors
    /// Tampered when one is not there, and as [`scan`](Self::scan).
    fn values(
        &self,
        revisions: &[Revision],
        visit: &mut dyn FnMut(Vec<u8>) -> Result<ControlFlow<()>>,
    ) -> Result<()>;

    /// Granted seconds of each lease that is known.
    ///
    /// # Errors
    /// As [`span`](Self::span).
    fn lease_ttls(&self) -> Result<HashMap<i64, i64>>;

    /// The value of the change `revision`.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    fn value(&self, revision: Revision) -> Result<Vec<u8>> {
        let mut found = None;
        self.values(&[revision], &mut |value| {
            found = Some(value);
            Ok(ControlFlow::Break(()))
        })?;
        found.ok_or_else(|| is_gone(revision))
    }
}

fn is_gone(revision: Revision) -> Error {
    wrong(revision, "it is not there, and it was a moment before")
}

impl<R: ReadAt> RecordSource for Db<R> {
    fn span(&self) -> Result<Span> {
        Ok(database_facts(self)?.span())
    }

    fn scan(&self, revisions: RangeInclusive<i64>, visit: Visit<'_>) -> Result<()> {
        scan_records(self, revisions, visit)
    }

    fn in_order(&self, until: i64, visit: Visit<'_>) -> Result<()> {
        records_until(self, until, visit)
    }

    fn values(
        &self,
        revisions: &[Revision],
        visit: &mut dyn FnMut(Vec<u8>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        for revision in revisions {
            let value = value_at(self, *revision)?.ok_or_else(|| is_gone(*revision))?;
            if visit(value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lease_ttls(&self) -> Result<HashMap<i64, i64>> {
        Ok(leases(self)?.into_iter().map(|lease| (lease.id, lease.ttl)).collect())
    }
}

/// A database and what was recorded after it, as one.
pub struct Followed<'a, R: ReadAt> {
    db: &'a Db<R>,
    /// The recording, and its last revision that is read.
    tail: Option<(Tail<'a>, i64)>,
}

impl<'a, R: ReadAt> Followed<'a, R> {
    /// `db`, followed by `tail` up to the main revision beside it.
    pub fn new(db: &'a Db<R>, tail: Option<(Tail<'a>, i64)>) -> Self {
        Self { db, tail }
    }

    /// The recording, its last revision and the database's, where `until` lies behind that.
    fn behind(&self, until: i64) -> Result<Option<(&Tail<'a>, i64, i64)>> {
        let Some((tail, last)) = &self.tail else { return Ok(None) };
        let (base, until) = (database_facts(self.db)?.revision, until.min(*last));
        Ok((until > base).then_some((tail, base, until)))
    }
}

impl<R: ReadAt> RecordSource for Followed<'_, R> {
    fn span(&self) -> Result<Span> {
        let span = self.db.span()?;
        let last = self.tail.as_ref().map_or(span.last, |(_, last)| span.last.max(*last));
        Ok(Span { last, ..span })
    }

    fn scan(&self, revisions: RangeInclusive<i64>, visit: Visit<'_>) -> Result<()> {
        let Some((tail, base, until)) = self.behind(*revisions.end())? else {
            return self.db.scan(revisions, visit);
        };
        if *revisions.start() <= base {
            self.db.scan(*revisions.start()..=base, visit)?;
        }
        tail.for_each(base, until, |record| {
            if record.revision.main < *revisions.start() { Ok(()) } else { visit(record) }
        })
    }

    fn in_order(&self, until: i64, visit: Visit<'_>) -> Result<()> {
        let Some((tail, base, until)) = self.behind(until)? else {
            return self.db.in_order(until, visit);
        };
        self.db.in_order(base, visit)?;
        tail.for_each(base, until, visit)
    }

    fn values(
        &self,
        revisions: &[Revision],
        visit: &mut dyn FnMut(Vec<u8>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let last = revisions.last().map_or(0, |revision| revision.main);
        let Some((tail, base, until)) = self.behind(last)? else {
            return self.db.values(revisions, visit);
        };
        let (stored, recorded) =
            revisions.split_at(revisions.partition_point(|revision| revision.main <= base));
        let mut flow = ControlFlow::Continue(());
        self.db.values(stored, &mut |value| {
            flow = visit(value)?;
            Ok(flow)
        })?;
        let mut wanted = recorded.iter().peekable();
        if flow.is_break() {
            return Ok(());
        }
        tail.for_each(base, until, |record| {
            let is_wanted = flow.is_continue() && !record.tombstone;
            if is_wanted && wanted.next_if(|wanted| **wanted == record.revision).is_some() {
                flow = visit(record.kv.value.to_vec())?;
            }
            Ok(())
        })?;
        match wanted.next() {
            Some(missing) if flow.is_continue() => Err(is_gone(*missing)),
            _ => Ok(()),
        }
    }

    fn lease_ttls(&self) -> Result<HashMap<i64, i64>> {
        let mut ttls = self.db.lease_ttls()?;
        if let Some((tail, _)) = &self.tail {
            ttls.extend(tail.ttls);
        }
        Ok(ttls)
    }
}
