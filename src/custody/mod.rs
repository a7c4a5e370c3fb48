//! Where master keys are kept: keyring files, files of recipients and identities, passphrases over keys in the repository,
//! services. [`open`] is the way from a URI to keys.

mod access;
mod age;
pub mod keyfile;
mod kms;
#[cfg(feature = "backup")]
mod passphrases;
mod public_keys;
mod secrets;
mod uri;

#[cfg(feature = "age-plugins")]
pub use age::{PluginUi, set_plugin_ui};
pub use kms::{KmsRole, KmsUri, Provider};
#[cfg(feature = "kms-plugin")]
pub(crate) use kms::{WrappingKey, wrapping_key};
#[cfg(feature = "backup")]
pub use passphrases::{
    InRepository, change_passphrase, create_passphrase_key, open_passphrase_keys, passphrase_keys,
    remove_passphrase_key,
};
pub use public_keys::{read_identities, read_signers, read_signing_key};
pub use secrets::{PassphraseSettings, open_private, read_pages, read_secret, secret_of_command};
pub use uri::{MasterKeyUri, MasterKeyUris, NamedKey};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::KeyState;
use crate::keys::{KeyFuture, KeySet};

/// Where keys are that a passphrase opens: in a repository, see [`InRepository`].
pub trait PassphraseKeys: Send {
    /// Adds to `keys` those that `named` names, and for `None` all others, which then only open.
    ///
    /// # Errors
    /// [`WrongKey`](crate::ErrorKind::WrongKey) when the passphrase does not open a key that is named; those of the store.
    fn open<'a>(
        &'a mut self,
        named: &'a [Option<NamedKey>],
        keys: &'a mut KeySet,
    ) -> KeyFuture<'a, ()>;
}

/// Adds the public keys, or their secret halves, that `uri` names; nothing for another URI.
///
/// # Errors
/// Those of reading the file.
pub fn open_public(uri: &MasterKeyUri, keys: &mut KeySet) -> Result<()> {
    match uri {
        MasterKeyUri::Recipient(key) => {
            keys.add_recipient(Arc::new(key.as_ref().clone()), KeyState::Sealing);
            Ok(())
        }
        MasterKeyUri::Plugin(key) => age::add_recipient(key.as_ref().clone(), keys),
        MasterKeyUri::Recipients(path) => public_keys::add_recipients(path, keys),
        MasterKeyUri::Identity(path, state) => public_keys::add_identities(path, *state, keys),
        MasterKeyUri::File(_) | MasterKeyUri::Passphrase(_) | MasterKeyUri::Kms(_) => Ok(()),
    }
}

/// Opens the master keys that `uris` name: the only way from a URI to a key.
///
/// `behind_passphrase` is where keys are that a passphrase opens. Without it they are refused, and so are public keys: a
/// value keyring or an audit log has no repository and no signers.
///
/// # Errors
/// Those of [`keyfile::load`] and of [`PassphraseKeys::open`]; [`Usage`](crate::ErrorKind::Usage) for a key that cannot
/// be used here, or without a repository when there is no key at all.
pub async fn open(
    uris: &[MasterKeyUri],
    behind_passphrase: Option<&mut dyn PassphraseKeys>,
) -> Result<KeySet> {
    open_in(&environment(), uris, behind_passphrase).await
}

/// The variables of this process.
pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// As [`open`], with `environment` in place of the process's own: there services find their credentials.
///
/// # Errors
/// Those of [`open`].
pub async fn open_in(
    environment: &BTreeMap<String, String>,
    uris: &[MasterKeyUri],
    behind_passphrase: Option<&mut dyn PassphraseKeys>,
) -> Result<KeySet> {
    let hint = "give --master-key file:PATH; `strongroom key generate` makes one";
    let mut keys = KeySet::new();
    let mut named = Vec::new();
    for uri in uris {
        if behind_passphrase.is_none() && uri.is_public() {
            return Err(Error::usage("a recipient or an identity cannot be used here: anyone can seal to a public key, and \
                                     signatures are looked at in repositories only").hint(hint));
        }
        match uri {
            MasterKeyUri::File(path) => keyfile::add(path, &mut keys)?,
            MasterKeyUri::Passphrase(key) => named.push(*key),
            MasterKeyUri::Kms(uri) => kms::add(uri, environment, &mut keys)?,
            public => open_public(public, &mut keys)?,
        }
    }
    match (behind_passphrase, named.first()) {
        (Some(_), None) => {}
        (Some(place), Some(_)) => place.open(&named, &mut keys).await?,
        (None, Some(first)) => {
            let uri = MasterKeyUri::Passphrase(*first);
            let message = format!("{uri}: a key in a repository cannot be used here");
            return Err(Error::usage(message).hint(hint));
        }
        (None, None) if uris.is_empty() => {
            return Err(Error::usage("no master key given").hint(hint));
        }
        (None, None) => {}
    }
    Ok(keys)
}
