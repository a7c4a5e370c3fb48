//! What signs, and whom to trust.

use std::path::PathBuf;

use crate::custody::{read_signers, read_signing_key};
use crate::error::Result;
use crate::keys::KeySet;

/// What signs, and whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "cli", command(next_help_heading = "Signatures"))]
pub struct TrustSettings {
    /// File of the key that signs what is written; it is also trusted
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "keys.signing_key",
            long = "signing-key",
            value_name = "FILE",
            env = "STRONGROOM_SIGNING_KEY"
        )
    )]
    pub signing_key: Option<PathBuf>,
    /// File of trusted signers; with one, only what a signer in it has signed counts
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "trust.signers",
            long = "signers",
            value_name = "FILE",
            env = "STRONGROOM_SIGNERS"
        )
    )]
    pub signers: Vec<PathBuf>,
    /// Let X25519 recipients seal beside X-Wing recipients: a quantum computer could then open the snapshots
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "keys.mix_quantum_weak",
            long = "mix-quantum-weak",
            env = "STRONGROOM_MIX_QUANTUM_WEAK"
        )
    )]
    pub mix_quantum_weak: bool,
}

impl TrustSettings {
    /// Adds signers and signing key to `keys`.
    ///
    /// # Errors
    /// Those of [`read_signers`] and [`read_signing_key`].
    pub fn add_to(&self, keys: &mut KeySet) -> Result<()> {
        for path in &self.signers {
            read_signers(path)?.into_iter().for_each(|signer| keys.trust(signer));
        }
        if let Some(path) = &self.signing_key {
            keys.sign_with(read_signing_key(path)?);
        }
        if self.mix_quantum_weak {
            keys.mix_quantum_weak();
        }
        Ok(())
    }
}
