//! The latest change of each key.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::revision::Revision;
use super::source::RecordSource;
use crate::error::Result;

/// Stands for a user's key, which may be long, at 16 bytes. SHA-256, so that nobody can choose two keys
/// that share one.
pub(super) type KeyId = [u8; 16];

pub(super) fn key_id(key: &[u8]) -> KeyId {
    let digest: [u8; 32] = Sha256::digest(key).into();
    *digest.first_chunk().unwrap_or(&[0; 16])
}

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
