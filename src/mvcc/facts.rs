//! What a database says about itself, read from a few pages.

use crate::bolt::{Bucket, Db, ReadAt};
use crate::error::{Error, Result};

/// What a database says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// The key-value store's revision: the latest change, or a later compaction or bump.
    pub revision: i64,
    /// Revisions below it, and deletions at it, are gone; 0 if nothing was ever compacted. A compaction
    /// that is scheduled and not finished counts: etcd finishes it when it starts.
    pub compact_revision: i64,
    /// Raft term of the last applied entry; etcd 3.5 and later.
    pub raft_term: Option<u64>,
    /// Raft index of the last applied entry (`consistent_index`), 0 if it is not recorded.
    pub raft_index: u64,
    /// Schema version such as `3.6.0`; etcd 3.6 and later.
    pub storage_version: Option<String>,
    /// Version of the cluster such as `3.5.0`: the oldest member's.
    pub cluster_version: Option<String>,
    /// bolt's page size in bytes.
    pub page_size: u32,
    /// Bytes of the file in use or free for use, a multiple of the page size.
    pub database_bytes: u64,
}

/// Reads the facts.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's.
pub fn database_facts<R: ReadAt>(db: &Db<R>) -> Result<DatabaseFacts> {
    let keys = required(db, "key")?;
    let meta = required(db, "meta")?;
    let last = keys.last()?.map(|(key, _)| {
        main_revision(&key).ok_or_else(|| {
            Error::tampered("database: the last key of the bucket \"key\" is no revision")
        })
    });
    let scheduled = revision(&meta, "scheduledCompactRev")?;
    let finished = revision(&meta, "finishedCompactRev")?;
    let cluster_version = match db.bucket(b"cluster")? {
        Some(cluster) => version(&cluster, "clusterVersion")?,
        None => None,
    };
    let header = db.meta();
    Ok(DatabaseFacts {
        // An empty store is at revision 1.
        revision: last.transpose()?.unwrap_or(1).max(scheduled).max(finished).max(1),
        compact_revision: scheduled.max(finished),
        raft_term: number(&meta, "term")?,
        raft_index: number(&meta, "consistent_index")?.unwrap_or(0),
        storage_version: version(&meta, "storageVersion")?,
        cluster_version,
        page_size: header.page_size,
        database_bytes: header.high_water.saturating_mul(u64::from(header.page_size)),
    })
}

fn required<'db, R: ReadAt>(db: &'db Db<R>, name: &str) -> Result<Bucket<'db, R>> {
    db.bucket(name.as_bytes())?.ok_or_else(|| {
        Error::tampered(format!("database: no bucket {name:?}, so it is not etcd's"))
    })
}

/// The main revision of a key of the bucket `key`: `main | '_' | sub`, and `t` after it for a deletion.
fn main_revision(key: &[u8]) -> Option<i64> {
    let (main, rest) = key.split_first_chunk()?;
    let (separator, rest) = rest.split_first()?;
    let (sub, mark) = rest.split_first_chunk()?;
    let (main, sub) = (i64::from_be_bytes(*main), i64::from_be_bytes(*sub));
    (*separator == b'_' && main >= 0 && sub >= 0 && matches!(mark, [] | [b't'])).then_some(main)
}

fn wrong(key: &str) -> Error {
    Error::tampered(format!("database: the value of {key:?} has not the form that etcd gives it"))
}

/// The main revision that `key` of the bucket `meta` holds, 0 if it is absent.
fn revision<R: ReadAt>(meta: &Bucket<'_, R>, key: &str) -> Result<i64> {
    match meta.get(key.as_bytes())? {
        None => Ok(0),
        Some(value) => {
            main_revision(&value).filter(|_| value.len() == 17).ok_or_else(|| wrong(key))
        }
    }
}

fn number<R: ReadAt>(meta: &Bucket<'_, R>, key: &str) -> Result<Option<u64>> {
    let Some(value) = meta.get(key.as_bytes())? else {
        return Ok(None);
    };
    let value = <[u8; 8]>::try_from(value).map_err(|_| wrong(key))?;
    Ok(Some(u64::from_be_bytes(value)))
}

fn version<R: ReadAt>(bucket: &Bucket<'_, R>, key: &str) -> Result<Option<String>> {
    let Some(value) = bucket.get(key.as_bytes())? else {
        return Ok(None);
    };
    let plain =
        value.len() <= 32 && value.iter().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(b));
    String::from_utf8(value).ok().filter(|_| plain).map(Some).ok_or_else(|| wrong(key))
}
