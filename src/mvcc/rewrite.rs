//! A database written anew: as of a revision, without free pages, with what a restore changes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::facts::database_facts;
use super::leases::leases;
use super::record::{Record, for_each_record_at};
use super::revision::Revision;
use super::tail::Tail;
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
    rewrite_with(db, changes, None, out)
}

/// As [`rewrite`], with the changes of `tail` behind the database's own. `changes` names the revision then, which the
/// tail reaches. What etcd had compacted by then is left out, as far as it takes no memory to know; etcd deletes the rest
/// when it starts.
///
/// Memory: also 48 bytes for each key that changed up to the compaction.
///
/// # Errors
/// As [`rewrite`], and those of the recording.
pub fn rewrite_with<R: ReadAt, W: Write + Seek>(
    db: &Db<R>,
    changes: &Changes,
    tail: Option<Tail<'_>>,
    out: W,
) -> Result<(W, Rewritten)> {
    let facts = database_facts(db)?;
    let last_change = changes.revision.unwrap_or(facts.revision);
    let tail = tail.filter(|_| last_change > facts.revision);
    let revision = last_change.checked_add(changes.bump).filter(|_| changes.bump >= 0);
    let revision = revision.ok_or_else(|| {
        Error::usage(format!("a bump of {} from revision {last_change}", changes.bump))
    })?;
    let mut written = Rewritten { revision, last_change, ..Rewritten::default() };
    let mut writer = Writer::new(out, facts.page_size)?;

    writer.bucket(b"key")?;
    let mut leased = Leased::default();
    let mut put = |record: Record<'_>| {
        leased.note(&record, facts.revision);
        written.records = written.records.saturating_add(1);
        writer.put(record.raw.0, record.raw.1)
    };
    match tail {
        None => for_each_record_at(db, last_change, put)?,
        Some(tail) => {
            let superseding = tail.superseding(facts.revision)?;
            for_each_record_at(db, facts.revision, |record| {
                if superseding.keeps_old(&record) { put(record) } else { Ok(()) }
            })?;
            tail.for_each(facts.revision, last_change, |record| {
                if superseding.keeps_new(&record) { put(record) } else { Ok(()) }
            })?;
        }
    }
    if changes.bump > 0 {
        writer.put(&Revision { main: revision, sub: 0 }.to_key(false), b"")?;
    }

    let mut buckets = small_buckets(db, changes)?;
    let leases = buckets.entry(b"lease".to_vec()).or_default();
    written.renewed_leases = renew(db, &leased, tail, leases)?;
    let meta = buckets.entry(b"meta".to_vec()).or_default();
    let recorded = tail.map_or(0, |tail| tail.compacted);
    let compacted = if changes.mark_compacted { revision } else { recorded };
    if compacted > 0 && (changes.mark_compacted || compacted > facts.compact_revision) {
        let compacted = Revision { main: compacted, sub: 0 }.to_key(false);
        meta.insert(b"scheduledCompactRev".to_vec(), compacted);
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

/// The keys that have a lease, which, and whether the key was put behind the database.
#[derive(Default)]
struct Leased(HashMap<Vec<u8>, (i64, bool)>);

impl Leased {
    fn note(&mut self, record: &Record<'_>, base: i64) {
        if record.kv.lease != 0 {
            let lease = (record.kv.lease, record.revision.main > base);
            self.0.insert(record.kv.key.to_vec(), lease);
        } else if !self.0.is_empty() {
            self.0.remove(record.kv.key);
        }
    }
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

/// Adds the leases that keys have and the bucket has not; of how many the time to live is not known. A lease that was
/// granted again behind the database has the time to live that the tail tells.
fn renew<R: ReadAt>(
    db: &Db<R>,
    leased: &Leased,
    tail: Option<Tail<'_>>,
    records: &mut Records,
) -> Result<u64> {
    // A lease that is none is an error here, and not only when etcd starts.
    let known: HashMap<i64, i64> =
        leases(db)?.into_iter().map(|lease| (lease.id, lease.ttl)).collect();
    let mut renewed = 0_u64;
    for (id, is_behind) in leased.0.values() {
        let granted = tail.and_then(|tail| tail.ttls.get(id)).copied().filter(|ttl| *ttl > 0);
        let entry = records.entry(id.to_be_bytes().to_vec());
        let is_another = *is_behind && granted.is_some_and(|ttl| known.get(id) != Some(&ttl));
        if matches!(entry, Entry::Occupied(_)) && !is_another {
            continue;
        }
        let mut record = Vec::new();
        put_number(&mut record, lease::ID, *id);
        put_number(&mut record, lease::TTL, granted.unwrap_or(RENEWED_LEASE_TTL));
        entry.insert_entry(record);
        renewed = renewed.saturating_add(u64::from(granted.is_none()));
    }
    Ok(renewed)
}
