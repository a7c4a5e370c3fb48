//! The end of a journal, and the seal that vouches for it (SPEC.md §13.2).

use crate::crypto;
use crate::envelope::{DataKey, NewSeal, seal_data_key};
use crate::error::Result;
use crate::format::{EndBody, JournalEnd, Sha256};
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
    let mac = data_key.manifest_mac(&end.signed_bytes()?);
    let bytes = JournalEnd::finish(end, mac)?.print();
    let seal = seal_for(keys, data_key, number, &bytes).await?;
    Ok([bytes, seal])
}

/// A seal of this `number` that vouches for `object`.
///
/// # Errors
/// Those of the keys.
pub(super) async fn seal_for(
    keys: &KeySet,
    data_key: &DataKey,
    generation: u32,
    object: &[u8],
) -> Result<Vec<u8>> {
    keys.check_current()?;
    let object = Sha256(crypto::sha256(&[object]));
    let new = NewSeal { generation, ..NewSeal::first(object) };
    let seal = seal_data_key(data_key, new, keys, &mut crypto::system_rng()).await?;
    Ok(seal.print())
}
