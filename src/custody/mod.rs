//! Where master keys are kept: keyring files, and passphrases over keys in the repository.

pub mod keyfile;
#[cfg(feature = "backup")]
mod passphrases;

#[cfg(feature = "backup")]
pub use passphrases::{
    change_passphrase, create_passphrase_key, open_passphrase_keys, passphrase_keys,
    remove_passphrase_key,
};
