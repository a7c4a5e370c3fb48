//! A database written anew: as of a revision, without free pages, with what a restore changes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::facts::database_facts;
use super::leases::leases;
use super::record::for_each_record_at;
use super::revision::Revision;
use crate::bolt::{Db, ReadAt, Writer};
use crate::error::{Error, Result};
use crate::protobuf::fields::lease;
use crate::protobuf::put_number;

/// Time to live in seconds of a lease that was revoked after the revision which is restored: how long it was
/// granted for is known no more, and without a lease its keys would never expire.
pub const RENEWED_LEASE_TTL: i64 = 300;

/// The buckets of users, roles and whether they count (`server/storage/schema/auth.go`).
const AUTH: [&[u8]; 3] = [b"auth", b"authRoles", b"authUsers"];

/// What a rewritten database has otherwise than the one it comes from. The default changes nothing but that
/// free pages, and with them what was deleted, are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The main revision that is to be the last; `None` for the database's own.
    pub revision: Option<i64>,
    /// Main revisions that a record without a key leaps over at the end, so that no client has seen a revision
    /// that is still to come; 0 for none (`etcdutl snapshot restore --bump-revision`).
    pub bump: i64,
    /// Marks everything before that record compacted, so that each watch starts over (`--mark-compacted`).
    pub mark_compacted: bool,
    /// Leaves out users, roles and passwords: anyone may do anything then.
    pub without_auth: bool,
    /// Buckets that get these records instead of their own, which may be none.
    pub buckets: BTreeMap<Vec<u8>, Records>,
    /// Records of the bucket `meta` that are set, beside those it has.
    pub meta: Records,
}

/// Records of a bucket.
pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    /// The key-value store's revision, the bump included.
    pub revision: i64,
    /// The main revision of the last change, before any bump.
    pub last_change: i64,
    /// Number of changes, deletions included.
    #[serde(skip)]
    pub records: u64,
    /// Leases that were revoked later and are there again, for [`RENEWED_LEASE_TTL`].
    pub renewed_leases: u64,
    /// Length in bytes.
    pub database_bytes: u64,
}

/// Writes `db` with `changes` to `out`, which is given back behind the database.
///
/// Memory: the keys that have a lease; each bucket but `key` is small.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) when the revision is compacted or was never reached,
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's,
/// [`Usage`](crate::ErrorKind::Usage) for a bump that leads nowhere, and those of source and output.
pub fn rewrite<R: ReadAt, W: Write + Seek>(
    db: &Db<R>,
    changes: &Changes,
    out: W,
) -> Result<(W, Rewritten)> {
    let facts = database_facts(db)?;
    let last_change = changes.revision.unwrap_or(facts.revision);
    let revision = last_change.checked_add(changes.bump).filter(|_| changes.bump >= 0);
    let revision = revision.ok_or_else(|| {
        Error::usage(format!("a bump of {} from revision {last_change}", changes.bump))
    })?;
    let mut written = Rewritten { revision, last_change, ..Rewritten::default() };
    let mut writer = Writer::new(out, facts.page_size)?;

    writer.bucket(b"key")?;
    let mut leased: HashMap<Vec<u8>, i64> = HashMap::new();
    for_each_record_at(db, last_change, |record| {
        if record.kv.lease != 0 {
            leased.insert(record.kv.key.to_vec(), record.kv.lease);
        } else if !leased.is_empty() {
            leased.remove(record.kv.key);
        }
        written.records = written.records.saturating_add(1);
        writer.put(record.raw.0, record.raw.1)
    })?;
    if changes.bump > 0 {
        writer.put(&Revision { main: revision, sub: 0 }.to_key(false), b"")?;
    }

    let mut buckets = small_buckets(db, changes)?;
    let leases = buckets.entry(b"lease".to_vec()).or_default();
    written.renewed_leases = renew(db, &leased, leases)?;
    let meta = buckets.entry(b"meta".to_vec()).or_default();
    if changes.mark_compacted {
        let everything = Revision { main: revision, sub: 0 }.to_key(false);
        meta.insert(b"scheduledCompactRev".to_vec(), everything);
    }
    meta.extend(changes.meta.clone());
    for (name, records) in &buckets {
        writer.bucket(name)?;
        for (key, value) in records {
            writer.put(key, value)?;
        }
    }
    let (out, database_bytes) = writer.finish()?;
    Ok((out, Rewritten { database_bytes, ..written }))
}

/// Every bucket but `key`, with its records as they are to be.
fn small_buckets<R: ReadAt>(db: &Db<R>, changes: &Changes) -> Result<BTreeMap<Vec<u8>, Records>> {
    let mut buckets = BTreeMap::new();
    for (name, bucket) in db.buckets()? {
        let dropped = changes.without_auth && AUTH.contains(&name.as_slice());
        if name == b"key" {
            continue;
        }
        let mut records = Records::new();
        if !dropped && !changes.buckets.contains_key(&name) {
            bucket.for_each(&[], |key, value| {
                records.insert(key.to_vec(), value.to_vec());
                Ok(ControlFlow::Continue(()))
            })?;
        }
        buckets.insert(name, records);
    }
    buckets.extend(changes.buckets.clone());
    Ok(buckets)
}

/// Adds the leases that keys have and the bucket has not; how many.
fn renew<R: ReadAt>(
    db: &Db<R>,
    leased: &HashMap<Vec<u8>, i64>,
    records: &mut Records,
) -> Result<u64> {
    // A lease that is none is an error here, and not only when etcd starts.
    leases(db)?;
    let mut renewed = 0_u64;
    for id in leased.values() {
        if let Entry::Vacant(vacant) = records.entry(id.to_be_bytes().to_vec()) {
            let record = vacant.insert(Vec::new());
            put_number(record, lease::ID, *id);
            put_number(record, lease::TTL, RENEWED_LEASE_TTL);
            renewed = renewed.saturating_add(1);
        }
    }
    Ok(renewed)
}
