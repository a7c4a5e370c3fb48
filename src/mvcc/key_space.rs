//! The user's keys at a revision.

use super::latest::latest;
use super::record::{check_reachable, records_until};
use super::revision::Revision;
use crate::bolt::{Db, ReadAt};
use crate::error::Result;

/// The keys at one revision, those deleted before it included as long as their deletion is in the database.
/// Values stay there: [`value_at`](super::value_at) reads one.
///
/// Memory: about 70 bytes and the key itself for each key.
pub struct KeySpace {
    revision: i64,
    /// All keys, one behind the other.
    text: Vec<u8>,
    /// In order of their keys.
    entries: Vec<Stored>,
}

struct Stored {
    start: usize,
    end: usize,
    modified: Revision,
    created: i64,
    version: i64,
    lease: i64,
}

/// A key at the key space's revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The user's key.
    pub key: &'a [u8],
    /// Its latest change, a deletion if [`deleted`](Self::deleted).
    pub modified: Revision,
    /// Main revision at which it was created, 0 if deleted.
    pub create_revision: i64,
    /// How many changes since, the latest included; 0 if deleted.
    pub version: i64,
    /// Id of its lease, 0 for none.
    pub lease: i64,
}

impl Entry<'_> {
    /// Whether the key was not there at the revision, and its latest change was its deletion.
    pub fn deleted(&self) -> bool {
        self.version == 0
    }
}

impl KeySpace {
    /// The keys at main revision `at`. Reads the records up to it twice.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when `at` is compacted or was never reached,
    /// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's, and
    /// those of the source.
    pub fn at<R: ReadAt>(db: &Db<R>, at: i64) -> Result<Self> {
        check_reachable(db, at)?;
        let latest = latest(db, at, true)?;
        let mut latest = latest.iter().peekable();
        let (mut text, mut entries) = (Vec::new(), Vec::new());
        records_until(db, at, |record| {
            let modified = record.revision;
            // The record that --bump-revision adds has no key.
            if latest.next_if_eq(&&modified).is_some() && !record.kv.key.is_empty() {
                let start = text.len();
                text.extend_from_slice(record.kv.key);
                entries.push(Stored {
                    start,
                    end: text.len(),
                    modified,
                    created: record.kv.create_revision,
                    version: if record.tombstone { 0 } else { record.kv.version.max(1) },
                    lease: record.kv.lease,
                });
            }
            Ok(())
        })?;
        entries.sort_unstable_by(|a, b| slice(&text, a).cmp(slice(&text, b)));
        Ok(Self { revision: at, text, entries })
    }

    /// Its main revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The keys that begin with `prefix` and were there, in order.
    pub fn live(&self, prefix: &[u8]) -> impl Iterator<Item = Entry<'_>> {
        self.range(prefix).filter(|entry| !entry.deleted())
    }

    /// The keys that begin with `prefix` and whose latest change was their deletion, in order.
    pub fn deleted(&self, prefix: &[u8]) -> impl Iterator<Item = Entry<'_>> {
        self.range(prefix).filter(Entry::deleted)
    }

    /// What is known of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        self.range(key).next().filter(|entry| entry.key == key)
    }

    fn range<'a>(&'a self, prefix: &[u8]) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let from = self.entries.partition_point(|entry| slice(&self.text, entry) < prefix);
        let entries = self.entries.get(from..).unwrap_or_default();
        let count = entries.partition_point(|entry| slice(&self.text, entry).starts_with(prefix));
        entries.iter().take(count).map(|entry| Entry {
            key: slice(&self.text, entry),
            modified: entry.modified,
            create_revision: entry.created,
            version: entry.version,
            lease: entry.lease,
        })
    }
}

fn slice<'a>(text: &'a [u8], entry: &Stored) -> &'a [u8] {
    text.get(entry.start..entry.end).unwrap_or_default()
}
