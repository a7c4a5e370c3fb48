//! Where master keys are kept: keyring files, and passphrases over keys in the repository. [`open`] is the way from a
//! URI to keys.

pub mod keyfile;
#[cfg(feature = "backup")]
mod passphrases;
mod uri;

#[cfg(feature = "backup")]
pub use passphrases::{
    change_passphrase, create_passphrase_key, open_named, open_passphrase_keys, passphrase_keys,
    remove_passphrase_key,
};
pub use uri::{MasterKeyUri, NamedKey};

use crate::error::{Error, Result};
use crate::keys::KeySet;
#[cfg(feature = "backup")]
use crate::{secret::SecretBytes, store::Repository};

/// Opens the master keys that `uris` name. `ask` gives the passphrase; it is called only if one is needed, and once.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when `uris` is empty; those of [`keyfile::add`] and [`open_named`]; those of
/// `ask`.
#[cfg(feature = "backup")]
pub async fn open(
    uris: &[MasterKeyUri],
    repository: &Repository,
    ask: impl FnOnce() -> Result<SecretBytes>,
) -> Result<KeySet> {
    let mut keys = KeySet::new();
    let mut behind_passphrases = Vec::new();
    for uri in uris {
        match uri {
            MasterKeyUri::File(path) => keyfile::add(path, &mut keys)?,
            MasterKeyUri::Passphrase(named) => behind_passphrases.push(*named),
        }
    }
    if !behind_passphrases.is_empty() {
        open_named(repository, ask()?, &behind_passphrases, &mut keys).await?;
    }
    Ok(keys)
}

/// Opens the keyring files that `uris` name, for what has no repository.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when there is none, or one names a passphrase; those of [`keyfile::add`].
pub fn open_files(uris: &[MasterKeyUri]) -> Result<KeySet> {
    let hint = "give --master-key file:PATH; `strongroom key generate` makes one";
    let mut keys = KeySet::new();
    for uri in uris {
        match uri {
            MasterKeyUri::File(path) => keyfile::add(path, &mut keys)?,
            MasterKeyUri::Passphrase(_) => {
                let message = format!("{uri}: a key in a repository cannot be used here");
                return Err(Error::usage(message).hint(hint));
            }
        }
    }
    if uris.is_empty() {
        return Err(Error::usage("no master key given").hint(hint));
    }
    Ok(keys)
}
