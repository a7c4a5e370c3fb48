//! Every change of one key.

use serde::{Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::format::serial;
use crate::mvcc::{RecordSource, Revision};
use crate::text::printable;

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The key was not there before.
    Created,
    /// It was.
    Changed,
    /// It is not there any more.
    Deleted,
}

impl What {
    /// Stable lower-case name, as in `-w json` output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }
}

/// One change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// When.
    #[serde(serialize_with = "main")]
    pub revision: Revision,
    /// What.
    #[serde(rename = "change")]
    pub what: What,
    /// How many changes since the key was created, this one included; 0 for a deletion.
    pub version: i64,
    /// Id of its lease, 0 for none.
    #[serde(serialize_with = "serial::lease")]
    pub lease: i64,
    /// The value's length.
    pub value_bytes: u64,
}

/// The changes of a key that a database knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyHistory {
    /// The key.
    #[serde(flatten, serialize_with = "serial::key")]
    pub key: Vec<u8>,
    /// What was changed before this main revision is gone, except the state that it left.
    pub compact_revision: i64,
    /// The main revision up to which it goes.
    pub revision: i64,
    /// Oldest first; never empty.
    pub changes: Vec<Change>,
}

/// A revision as reports tell it: its main one.
fn main<S: Serializer>(revision: &Revision, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_i64(revision.main)
}

/// Every change of `key` up to the main revision `at`, the last one if `None`. Reads all records up to it.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when there is none, [`Tampered`](ErrorKind::Tampered) when the database breaks a
/// rule of bolt's or etcd's, and those of the source.
pub fn key_history<S: RecordSource + ?Sized>(
    source: &S,
    key: &[u8],
    at: Option<i64>,
) -> Result<KeyHistory> {
    let span = source.span()?;
    let revision = at.unwrap_or(span.last);
    span.check(revision)?;
    let mut changes = Vec::new();
    source.scan(0..=revision, &mut |record| {
        if record.kv.key != key {
            return Ok(());
        }
        let version = if record.tombstone { 0 } else { record.kv.version.max(1) };
        let what = match version {
            0 => What::Deleted,
            1 => What::Created,
            _ => What::Changed,
        };
        changes.push(Change {
            revision: record.revision,
            what,
            version,
            lease: record.kv.lease,
            value_bytes: record.kv.value.len() as u64,
        });
        Ok(())
    })?;
    changes.sort_unstable_by_key(|change: &Change| change.revision);
    // A key in etcd cannot be empty, and the record that --bump-revision adds has one.
    if changes.is_empty() || key.is_empty() {
        let message = format!("key {}: no change of it in this snapshot", printable(key));
        return Err(
            Error::new(ErrorKind::NotFound, message).hint("`ls` lists the keys of a snapshot; --revision and --time look at recorded changes, too")
        );
    }
    Ok(KeyHistory { key: key.to_vec(), compact_revision: span.compacted, revision, changes })
}
