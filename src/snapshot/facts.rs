//! What a snapshot is of, sealed into its manifest.

use crate::crypto::{self, CryptoRng, Label, Suite};
use crate::envelope::DataKey;
use crate::error::Result;
use crate::format::{Facts, Manifest, SnapshotId};

/// Seals `facts` for the manifest of `id`.
///
/// # Errors
/// None that a caller can cause.
pub(crate) fn seal(
    facts: &Facts,
    data_key: &DataKey,
    id: SnapshotId,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let context = crypto::labelled(Label::Facts, &[&id.to_bytes()]);
    crypto::seal(Suite::Aes256Gcm, &data_key.facts_key(), &context, &facts.print()?, rng)
}

/// Opens the facts in `manifest`.
///
/// # Errors
/// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered).
pub(crate) fn open(manifest: &Manifest, data_key: &DataKey) -> Result<Facts> {
    let context = crypto::labelled(Label::Facts, &[&manifest.body().snapshot.to_bytes()]);
    let key = data_key.facts_key();
    Facts::parse(&crypto::open(Suite::Aes256Gcm, &key, &context, &manifest.body().facts)?)
}
