//! Joins: two sources are of one history if they hold the same records of a same revision (SPEC.md §13.4).

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};

use sha2::{Digest, Sha256};

use crate::bolt::{Db, ReadAt};
use crate::error::Result;
use crate::mvcc::{self, Record, Recorded, Recording, Revision};

/// What a comparison shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// One history: so many records are equal.
    Joined(u64),
    /// Two histories: they differ at this revision.
    Parted(i64),
    /// There is nothing to compare.
    Apart,
}

/// What stands for the records of each revision.
type Digests = BTreeMap<i64, Sums>;

#[derive(Clone, Default)]
struct Sums {
    hasher: Sha256,
    records: u64,
    /// Each record by itself, of the one revision that is partly compacted.
    each: BTreeMap<Vec<u8>, [u8; 32]>,
}

fn add(digests: &mut Digests, record: &Record<'_>, partly: i64) {
    let sums = digests.entry(record.revision.main).or_default();
    let (key, value) = record.raw;
    if record.revision.main == partly {
        sums.each.insert(key.to_vec(), Sha256::digest(value).into());
    }
    for part in [key, value] {
        sums.hasher.update((part.len() as u64).to_be_bytes());
        sums.hasher.update(part);
    }
    sums.records = sums.records.saturating_add(1);
}

/// The records of `recording` in `range`.
fn recorded(
    recording: &dyn Recording,
    range: &RangeInclusive<i64>,
    partly: i64,
) -> Result<Digests> {
    let mut digests = Digests::new();
    recording.for_each(&mut |recorded| {
        if let Recorded::Record(record) = recorded
            && range.contains(&record.revision.main)
        {
            add(&mut digests, &record, partly);
        }
        Ok(())
    })?;
    Ok(digests)
}

/// Compares a snapshot with a journal that holds the revisions `range`.
///
/// # Errors
/// Those of reading them.
pub(super) fn with_database<R: ReadAt>(
    db: &Db<R>,
    recording: &dyn Recording,
    range: RangeInclusive<i64>,
) -> Result<Join> {
    let facts = mvcc::database_facts(db)?;
    // Below its compact revision a snapshot has only some of the records, and of that revision those that lasted.
    let partly = facts.compact_revision;
    let first = (*range.start()).max(partly).max(2);
    let range = first..=(*range.end()).min(facts.revision);
    if range.is_empty() {
        return Ok(Join::Apart);
    }
    let mut stored = Digests::new();
    mvcc::for_each_record(db, Revision { main: first, sub: 0 }, |record| {
        if record.revision.main > *range.end() {
            return Ok(ControlFlow::Break(()));
        }
        add(&mut stored, &record, partly);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(compare(&stored, &recorded(recording, &range, partly)?, partly))
}

/// Compares two journals that both hold the revisions `range`.
///
/// # Errors
/// Those of reading them.
pub(super) fn journals(
    one: &dyn Recording,
    other: &dyn Recording,
    range: RangeInclusive<i64>,
) -> Result<Join> {
    if range.is_empty() {
        return Ok(Join::Apart);
    }
    Ok(compare(&recorded(one, &range, 0)?, &recorded(other, &range, 0)?, 0))
}

/// `partly`: the revision of which `stored` may lack records.
fn compare(stored: &Digests, recorded: &Digests, partly: i64) -> Join {
    let mut compared = 0_u64;
    for main in stored.keys().chain(recorded.keys()) {
        let (one, other) = (stored.get(main), recorded.get(main));
        if *main == partly {
            let (Some(one), Some(other)) = (one, other) else { continue };
            let is_there =
                |(key, digest): (&Vec<u8>, &[u8; 32])| other.each.get(key) == Some(digest);
            if !one.each.iter().all(is_there) {
                return Join::Parted(*main);
            }
            compared = compared.saturating_add(one.records);
            continue;
        }
        let sum = |sums: Option<&Sums>| sums.map(|sums| sums.hasher.clone().finalize());
        if sum(one) != sum(other) {
            return Join::Parted(*main);
        }
        compared = compared.saturating_add(one.map_or(0, |sums| sums.records));
    }
    if compared == 0 { Join::Apart } else { Join::Joined(compared) }
}
