//! Where master keys are kept: keyring files, and passphrases over keys in the repository. `open` and
//! [`open_without_repository`] are the way from a URI to keys.

mod access;
pub mod keyfile;
#[cfg(feature = "backup")]
mod passphrases;
mod secrets;
mod uri;

#[cfg(feature = "backup")]
pub use passphrases::{
    change_passphrase, create_passphrase_key, open_passphrase_keys, passphrase_keys,
    remove_passphrase_key,
};
pub use secrets::{PassphraseSettings, read_secret, secret_of_command};
pub use uri::{MasterKeyUri, MasterKeyUris, NamedKey};

use crate::error::{Error, Result};
use crate::keys::KeySet;
#[cfg(feature = "backup")]
use crate::{secret::SecretBytes, store::Repository};

/// Opens the master keys that `uris` name. `ask` gives the passphrase; it is called only if one is needed, and once.
///
/// # Errors
/// Those of [`keyfile::load`] and of `ask`; [`WrongKey`](crate::ErrorKind::WrongKey) when the passphrase does not open
/// a key that is named; those of [`open_passphrase_keys`].
#[cfg(feature = "backup")]
pub async fn open(
    uris: &[MasterKeyUri],
    repository: &Repository,
    ask: impl FnOnce() -> Result<SecretBytes>,
) -> Result<KeySet> {
    let mut keys = KeySet::new();
    let behind_passphrases = open_files(uris, &mut keys)?;
    if !behind_passphrases.is_empty() {
        passphrases::open_named(repository, ask()?, &behind_passphrases, &mut keys).await?;
    }
    Ok(keys)
}

/// Opens the master keys that `uris` name, for what has no repository: a value keyring, an audit log.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) when there is no key, or one is behind a passphrase, which only a repository
/// holds; those of [`keyfile::load`].
pub async fn open_without_repository(uris: &[MasterKeyUri]) -> Result<KeySet> {
    let hint = "give --master-key file:PATH; `strongroom key generate` makes one";
    let mut keys = KeySet::new();
    if let Some(named) = open_files(uris, &mut keys)?.first() {
        let uri = MasterKeyUri::Passphrase(*named);
        let message = format!("{uri}: a key in a repository cannot be used here");
        return Err(Error::usage(message).hint(hint));
    }
    if uris.is_empty() {
        return Err(Error::usage("no master key given").hint(hint));
    }
    Ok(keys)
}

/// Opens the keyring files among `uris`; the keys that are behind passphrases.
fn open_files(uris: &[MasterKeyUri], keys: &mut KeySet) -> Result<Vec<Option<NamedKey>>> {
    let mut behind_passphrases = Vec::new();
    for uri in uris {
        match uri {
            MasterKeyUri::File(path) => keyfile::add(path, keys)?,
            MasterKeyUri::Passphrase(named) => behind_passphrases.push(*named),
        }
    }
    Ok(behind_passphrases)
}
