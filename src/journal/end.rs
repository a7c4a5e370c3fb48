//! The end of a journal, and the seal that vouches for it (SPEC.md §13.2).

use crate::crypto;
use crate::envelope::{DataKey, NewSeal, seal_data_key, seal_to_most};
use crate::error::Result;
use crate::format::{EndBody, JournalEnd, Sha256, SnapshotId};
use crate::keys::KeySet;

/// An end and its seal as they are stored, both of this `number`: sealed to every key that seals here.
///
/// # Errors
/// Those of the keys.
pub(super) async fn sealed_end(
    keys: &KeySet,
    data_key: &DataKey,
    number: u32,
    end: EndBody,
) -> Result<[Vec<u8>; 2]> {
    let bytes = printed(data_key, end)?;
    keys.check_current()?;
    let new = NewSeal { generation: number, ..NewSeal::first(digest(&bytes)) };
    let seal = seal_data_key(data_key, new, keys, &mut crypto::system_rng()).await?;
    Ok([bytes, seal.print()])
}

/// The bytes of an end.
///
/// # Errors
/// Those of [`EndBody::signed_bytes`].
pub(super) fn printed(data_key: &DataKey, end: EndBody) -> Result<Vec<u8>> {
    let mac = data_key.manifest_mac(&end.signed_bytes()?);
    Ok(JournalEnd::finish(end, mac)?.print())
}

/// A seal of this `number` that vouches for `object`, of the journal `id`: the recording does not wait for a key that cannot
/// be reached.
///
/// # Errors
/// Those of the keys.
pub(super) async fn seal_for(
    keys: &KeySet,
    (data_key, id): (&DataKey, SnapshotId),
    generation: u32,
    object: &[u8],
) -> Result<Vec<u8>> {
    keys.check_current()?;
    let new = NewSeal { generation, ..NewSeal::first(digest(object)) };
    let rng = &mut crypto::system_rng();
    let (seal, missing) = seal_to_most(data_key, new, keys, rng).await?;
    for one in missing {
        tracing::warn!(event = "journal_seal_missing", journal = %id, key = %one.key, error = %one.error);
    }
    Ok(seal.print())
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(crypto::sha256(&[bytes]))
}
