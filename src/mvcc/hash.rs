//! HashKV: etcd's hash over the records, by which members are compared
//! (`server/storage/mvcc/hash.go`, etcd 3.4 `mvcc/kvstore.go`).

use std::ops::ControlFlow;

use super::facts::{database_facts, required};
use super::latest::latest;
use super::revision::Revision;
use super::revision::parse_key;
use crate::bolt::{Db, ReadAt};
use crate::error::Result;

/// What a database says about a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKv {
    /// The hash: a member with the same records answers the same.
    Hash(u32),
    /// It cannot be computed from this database, sound or not.
    Inconclusive(Inconclusive),
}

/// Why a hash cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inconclusive {
    /// The revision is later than the database's, which this is.
    Later(i64),
    /// The database was compacted at this revision, which is later than the one asked for or than the
    /// compaction that the member had seen.
    Compacted(i64),
}

/// The hash that a member answers to HashKV at main revision `revision` when `compact_revision` is in its
/// answer (0 or -1: never compacted), whatever its version.
///
/// A member skips records that its compaction at C is still to delete: those up to C which no key has for
/// its value at `revision`, and since etcd 3.4.34 and 3.5.16 deletions at C, which earlier versions delete.
/// If no key has a value at `revision`, it hashes what is there up to C; this function then takes the
/// compaction for finished.
///
/// Reads the records twice, or thrice if no key has a value. Memory: about 70 bytes for each key.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's, and those of
/// the source.
pub fn hash_kv<R: ReadAt>(db: &Db<R>, revision: i64, compact_revision: i64) -> Result<HashKv> {
    let facts = database_facts(db)?;
    let compacted = compact_revision.max(0);
    if revision > facts.revision {
        return Ok(HashKv::Inconclusive(Inconclusive::Later(facts.revision)));
    }
    if compacted < facts.compact_revision {
        return Ok(HashKv::Inconclusive(Inconclusive::Compacted(facts.compact_revision)));
    }
    if revision < compacted {
        return Ok(HashKv::Inconclusive(Inconclusive::Compacted(compacted)));
    }
    let kept = match compacted {
        0 => Vec::new(),
        _ => match latest(db, revision, false)? {
            kept if kept.is_empty() => latest(db, compacted, false)?,
            kept => kept,
        },
    };
    hash(db, revision, compacted, &kept).map(HashKv::Hash)
}

/// Hashes the records up to main revision `until`, of those up to `compacted` only the `kept`.
fn hash<R: ReadAt>(db: &Db<R>, until: i64, compacted: i64, kept: &[Revision]) -> Result<u32> {
    let mut kept = kept.iter().peekable();
    let mut hash = crc32c::crc32c(b"key");
    required(db, "key")?.for_each(&[], |key, value| {
        let (revision, _) = parse_key(key)?;
        if revision.main > until {
            return Ok(ControlFlow::Break(()));
        }
        while kept.next_if(|kept| **kept < revision).is_some() {}
        // A deletion is never kept, so those at `compacted` are skipped here too.
        if revision.main > compacted || kept.peek().is_some_and(|kept| **kept == revision) {
            hash = crc32c::crc32c_append(hash, key);
            hash = crc32c::crc32c_append(hash, value);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(hash)
}
