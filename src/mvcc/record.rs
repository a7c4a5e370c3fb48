//! The records of the bucket `key`: every change that was not compacted away, oldest first.

use std::ops::{ControlFlow, RangeInclusive};

use sha2::{Digest, Sha256};

use super::facts::{database_facts, required};
use super::revision::{Revision, parse_key};
use crate::bolt::{Bucket, Db, ReadAt};
use crate::error::{Error, Result};
#[cfg(feature = "client")]
use crate::protobuf::Singles;
use crate::protobuf::fields::key_value;
use crate::protobuf::{Fields, Malformed};

/// etcd's `mvccpb.KeyValue`, borrowed from its bytes. A deletion's has a key and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    /// The user's key; empty only in the record that `--bump-revision` adds.
    pub key: &'a [u8],
    /// Main revision of the change that created the key.
    pub create_revision: i64,
    /// Main revision of this change.
    pub mod_revision: i64,
    /// How many changes since the key was created, this one included.
    pub version: i64,
    /// The user's value.
    pub value: &'a [u8],
    /// Id of the lease the key is attached to, 0 for none.
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Parses a record's value as etcd does: unknown fields are passed over, of a field that stands twice the last
    /// counts. `None` if it is no such message.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let parse = || {
            let (mut fields, mut kv) = (Fields(bytes), Self::default());
            while let Some((number, field)) = fields.next()? {
                match number {
                    key_value::KEY => kv.key = field.bytes()?,
                    key_value::CREATE_REVISION => kv.create_revision = field.int64()?,
                    key_value::MOD_REVISION => kv.mod_revision = field.int64()?,
                    key_value::VERSION => kv.version = field.int64()?,
                    key_value::VALUE => kv.value = field.bytes()?,
                    key_value::LEASE => kv.lease = field.int64()?,
                    _ => {}
                }
            }
            Ok::<_, Malformed>(kv)
        };
        parse().ok()
    }

    /// As [`parse`](Self::parse), and no field may stand twice: where values are encrypted, two readers must not take
    /// two meanings from the same bytes.
    #[cfg(feature = "client")]
    pub(crate) fn parse_strict(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let fields = Singles::<6>::read(bytes)?;
        Ok(Self {
            key: fields.bytes(key_value::KEY)?,
            create_revision: fields.number(key_value::CREATE_REVISION)?,
            mod_revision: fields.number(key_value::MOD_REVISION)?,
            version: fields.number(key_value::VERSION)?,
            value: fields.bytes(key_value::VALUE)?,
            lease: fields.number(key_value::LEASE)?,
        })
    }
}

/// Stands for a user's key, which may be long, at 16 bytes. SHA-256, so that nobody can choose two keys
/// that share one.
pub(super) type KeyId = [u8; 16];

pub(super) fn key_id(key: &[u8]) -> KeyId {
    let digest: [u8; 32] = Sha256::digest(key).into();
    *digest.first_chunk().unwrap_or(&[0; 16])
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When.
    pub revision: Revision,
    /// Whether it deleted the key.
    pub tombstone: bool,
    /// What.
    pub kv: KeyValue<'a>,
    /// Key and value as they are in the bucket.
    pub raw: (&'a [u8], &'a [u8]),
}

impl<'a> Record<'a> {
    /// Parses a record of the bucket `key`.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) naming the revision.
    pub fn parse(key: &'a [u8], value: &'a [u8]) -> Result<Self> {
        let (revision, tombstone) = parse_key(key)?;
        let kv = KeyValue::parse(value)
            .ok_or_else(|| wrong(revision, "its value is not an mvccpb.KeyValue"))?;
        Ok(Self { revision, tombstone, kv, raw: (key, value) })
    }
}

/// Gives each record from `from` on to `visit`, in order, until it breaks.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's, and those of
/// `visit` and of the source.
pub fn for_each_record<R: ReadAt>(
    db: &Db<R>,
    from: Revision,
    mut visit: impl FnMut(Record<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let records = required(db, "key")?;
    records.for_each(&from.to_key(false), |key, value| visit(Record::parse(key, value)?))
}

/// Gives `visit` the records that were there at main revision `at`: written in their order into a bucket
/// `key`, they bring the key space back to that revision.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) when `at` is compacted or was never reached, else as
/// [`for_each_record`].
pub fn for_each_record_at<R: ReadAt>(
    db: &Db<R>,
    at: i64,
    visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    check_reachable(db, at)?;
    records_until(db, at, visit)
}

/// Gives `visit` each record of the main revisions `revisions`, as they lie in the file and in no order: of an
/// encrypted snapshot that is far less to fetch (see [`Bucket::scan`]).
///
/// # Errors
/// As [`for_each_record`].
pub fn scan_records<R: ReadAt>(
    db: &Db<R>,
    revisions: RangeInclusive<i64>,
    mut visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    let first = |main: i64| Revision { main, sub: 0 }.to_key(false);
    let end = revisions.end().checked_add(1).map(first);
    required(db, "key")?.scan(&first(*revisions.start()), end.as_deref(), |key, value| {
        visit(Record::parse(key, value)?)
    })
}

/// Gives `visit` each change of the user's key `key`, oldest first. Reads all records.
///
/// # Errors
/// As [`for_each_record`].
pub fn history<R: ReadAt>(
    db: &Db<R>,
    key: &[u8],
    mut visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    for_each_record(db, Revision::default(), |record| {
        if record.kv.key == key {
            visit(record)?;
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// The value that the change `revision` gave its key; `None` if there is no such change or it is a deletion.
///
/// # Errors
/// As [`for_each_record`].
pub fn value_at<R: ReadAt>(db: &Db<R>, revision: Revision) -> Result<Option<Vec<u8>>> {
    let records: Bucket<'_, R> = required(db, "key")?;
    let key = revision.to_key(false);
    let Some(value) = records.get(&key)? else {
        return Ok(None);
    };
    Record::parse(&key, &value).map(|record| Some(record.kv.value.to_vec()))
}

pub(super) fn records_until<R: ReadAt>(
    db: &Db<R>,
    at: i64,
    mut visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    for_each_record(db, Revision::default(), |record| {
        // Keys order by main revision first.
        if record.revision.main > at {
            return Ok(ControlFlow::Break(()));
        }
        visit(record).map(ControlFlow::Continue)
    })
}

/// Checks that the database knows the key space at main revision `at`.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) when `at` is compacted or was never reached, else as
/// [`database_facts`](super::database_facts).
pub fn check_reachable<R: ReadAt>(db: &Db<R>, at: i64) -> Result<()> {
    database_facts(db)?.span().check(at)
}

/// An error that names the revision and the rule it breaks.
pub(super) fn wrong(revision: Revision, rule: &str) -> Error {
    Error::tampered(format!("database revision {revision}: {rule}"))
}
