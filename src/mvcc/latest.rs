//! The latest change of each key.

use std::collections::HashMap;

use super::record::key_id;
use super::revision::Revision;
use super::source::RecordSource;
use crate::error::Result;

/// The revision of the latest change of each key at main revision `at`, in order; without `deleted`, only of
/// keys that were there.
///
/// Memory: about 70 bytes for each key.
pub(super) fn latest<S: RecordSource + ?Sized>(
    source: &S,
    at: i64,
    deleted: bool,
) -> Result<Vec<Revision>> {
    let mut latest = HashMap::new();
    source.in_order(at, &mut |record| {
        let id = key_id(record.kv.key);
        if record.tombstone && !deleted {
            latest.remove(&id);
        } else {
            latest.insert(id, record.revision);
        }
        Ok(())
    })?;
    let mut revisions: Vec<_> = latest.into_values().collect();
    revisions.sort_unstable();
    Ok(revisions)
}
