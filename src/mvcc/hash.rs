//! HashKV: etcd's hash over the records, by which members are compared
//! (`server/storage/mvcc/hash.go`, etcd 3.4 `mvcc/kvstore.go`).

use super::latest::latest;
use super::revision::Revision;
use super::source::RecordSource;
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
pub fn hash_kv<S: RecordSource + ?Sized>(
    source: &S,
    revision: i64,
    compact_revision: i64,
) -> Result<HashKv> {
    let span = source.span()?;
    let compacted = compact_revision.max(0);
    if revision > span.last {
        return Ok(HashKv::Inconclusive(Inconclusive::Later(span.last)));
    }
    if compacted < span.compacted {
        return Ok(HashKv::Inconclusive(Inconclusive::Compacted(span.compacted)));
    }
    if revision < compacted {
        return Ok(HashKv::Inconclusive(Inconclusive::Compacted(compacted)));
    }
    let kept = match compacted {
        0 => Vec::new(),
        _ => match latest(source, revision, false)? {
            kept if kept.is_empty() => latest(source, compacted, false)?,
            kept => kept,
        },
    };
    hash(source, revision, compacted, &kept).map(HashKv::Hash)
}

/// Hashes the records up to main revision `until`, of those up to `compacted` only the `kept`.
fn hash<S: RecordSource + ?Sized>(
    source: &S,
    until: i64,
    compacted: i64,
    kept: &[Revision],
) -> Result<u32> {
    let mut kept = kept.iter().peekable();
    let mut hash = crc32c::crc32c(b"key");
    source.in_order(until, &mut |record| {
        let (revision, (key, value)) = (record.revision, record.raw);
        while kept.next_if(|kept| **kept < revision).is_some() {}
        // A deletion is never kept, so those at `compacted` are skipped here too.
        if revision.main > compacted || kept.peek().is_some_and(|kept| **kept == revision) {
            hash = crc32c::crc32c_append(hash, key);
            hash = crc32c::crc32c_append(hash, value);
        }
        Ok(())
    })?;
    Ok(hash)
}
