//! The keys at a revision, in one pass.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::mvcc::{Record, RecordSource, Revision};

/// Which keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Those that begin with it.
    pub prefix: &'a [u8],
    /// As they were at this main revision; the database's last one if `None`.
    pub revision: Option<i64>,
    /// Also those whose latest change was their deletion, as far as that was not compacted away.
    pub deleted: bool,
}

/// Keys at one revision, and of each value what was asked for.
///
/// Memory: about 200 bytes, the key and a `T` for each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents<T> {
    /// The main revision.
    pub revision: i64,
    /// In order.
    pub keys: BTreeMap<Box<[u8]>, KeyState<T>>,
}

/// A key at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState<T = ()> {
    /// Its latest change, a deletion if [`deleted`](Self::deleted).
    pub modified: Revision,
    /// Main revision at which it was created, 0 if deleted.
    pub create_revision: i64,
    /// How many changes since, the latest included; 0 if deleted.
    pub version: i64,
    /// Id of its lease, 0 for none.
    pub lease: i64,
    /// The value's length.
    pub value_bytes: u64,
    /// What was asked of the value.
    pub value: T,
}

impl<T> KeyState<T> {
    /// As `record` left its key; `value` is what was asked of the value.
    pub(crate) fn of(record: &Record<'_>, value: T) -> Self {
        Self {
            modified: record.revision,
            create_revision: record.kv.create_revision,
            version: if record.tombstone { 0 } else { record.kv.version.max(1) },
            lease: record.kv.lease,
            value_bytes: record.kv.value.len() as u64,
            value,
        }
    }

    /// Whether the key was not there at the revision, and its latest change was its deletion.
    pub fn deleted(&self) -> bool {
        self.version == 0
    }
}

/// Reads the selected keys; `of_value` makes of each value what is to be kept of it. Reads the records up to the
/// revision once; those of deleted keys take memory meanwhile, whether selected or not.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) when the revision is compacted or was never reached,
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's, and those of the
/// source.
pub fn read<S: RecordSource + ?Sized, T>(
    source: &S,
    selection: &Selection<'_>,
    mut of_value: impl FnMut(&[u8]) -> T,
) -> Result<Contents<T>> {
    let span = source.span()?;
    let revision = selection.revision.unwrap_or(span.last);
    span.check(revision)?;
    let mut keys: BTreeMap<Box<[u8]>, KeyState<T>> = BTreeMap::new();
    source.scan(0..=revision, &mut |record| {
        let (key, kv) = (record.kv.key, &record.kv);
        // The record that --bump-revision adds has no key.
        if key.is_empty() || !key.starts_with(selection.prefix) {
            return Ok(());
        }
        let known = keys.get_mut(key);
        if known.as_ref().is_some_and(|known| known.modified > record.revision) {
            return Ok(());
        }
        let state = KeyState::of(&record, of_value(kv.value));
        match known {
            Some(known) => *known = state,
            None => drop(keys.insert(Box::from(key), state)),
        }
        Ok(())
    })?;
    if !selection.deleted {
        keys.retain(|_, state| !state.deleted());
    }
    Ok(Contents { revision, keys })
}
