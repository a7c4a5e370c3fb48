//! What a plugin encrypts with: the keys of a keyring, or a key that a service keeps.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::followed::Followed;
use super::service::{ANNOTATION, Encrypted, Service};
use crate::crypto::{constant_time_eq, random, system_rng};
use crate::custody::MasterKeyUri;
use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyId;
use crate::kms_api::exactly;

/// The keys of a plugin.
pub(super) enum Keys {
    Keyring(Arc<Followed>),
    Service(Box<Service>),
}

impl Keys {
    /// # Errors
    /// Those of reading the keyring; of the service, unless it is down.
    pub(super) async fn open(uri: &MasterKeyUri) -> Result<Self> {
        let keys = match uri {
            MasterKeyUri::File(path) => Self::Keyring(Arc::new(Followed::open(path)?)),
            MasterKeyUri::Kms(uri) => Self::Service(Box::new(Service::open(uri).await?)),
            other => {
                return Err(Error::usage(format!("{other} cannot be the key of a KMS plugin")));
            }
        };
        if let Self::Keyring(keyring) = &keys {
            self_test(keyring)?;
        }
        Ok(keys)
    }

    /// Reads the keyring again if its file has changed; asks the service, unless it was asked `within` this time.
    pub(super) async fn look(&self, within: Duration) {
        match self {
            Self::Keyring(keyring) => keyring.look().await,
            Self::Service(service) => service.look(within).await,
        }
    }

    /// The key that encrypts now.
    pub(super) fn key_id(&self) -> Option<String> {
        match self {
            Self::Keyring(keyring) => {
                let now = keyring.now();
                now.keyring.primary(now.time).map(|(id, _)| id.to_string())
            }
            Self::Service(service) => service.reported().ok(),
        }
    }

    /// What the status says: the key that encrypts now, and whether all is well. Of a service both are of one moment.
    pub(super) fn status(&self) -> (String, Result<(), String>) {
        match self {
            Self::Keyring(_) => (self.key_id().unwrap_or_default(), self.health()),
            Self::Service(service) => match service.reported() {
                Ok(id) => (id, Ok(())),
                Err(why) => (String::new(), Err(why)),
            },
        }
    }

    /// For how many seconds it has encrypted. Of a key of a service that is unknown.
    pub(super) fn age(&self) -> Option<i64> {
        let Self::Keyring(keyring) = self else { return None };
        let now = keyring.now();
        let (_, since) = now.keyring.primary(now.time)?;
        Some(now.time.unix() - since.unix())
    }

    /// Why nothing can be encrypted, if so.
    ///
    /// # Errors
    /// The reason.
    pub(super) fn health(&self) -> Result<(), String> {
        match self {
            Self::Service(service) => service.reported().map(drop),
            Self::Keyring(keyring) => match keyring.trouble() {
                Some(why) => Err(why),
                None => self_test(keyring).map_err(|error| error.to_string()),
            },
        }
    }

    /// That somebody asked for a key that is not here.
    pub(super) fn missing(&self) -> Option<String> {
        match self {
            Self::Keyring(keyring) => keyring.missing(),
            Self::Service(_) => None,
        }
    }

    /// # Errors
    /// [`ErrorKind::Usage`] for a text of the wrong length; [`ErrorKind::WrongKey`] without a primary key; those of a service.
    pub(super) async fn encrypt(&self, text: &[u8]) -> Result<Encrypted> {
        match self {
            Self::Keyring(keyring) => {
                let now = keyring.now();
                let (id, ciphertext) = now.keyring.encrypt(text, now.time, &mut system_rng())?;
                Ok(Encrypted { ciphertext, key_id: id.to_string(), kek: None })
            }
            Self::Service(service) => service.encrypt(text).await,
        }
    }

    /// Decrypts what [`encrypt`](Self::encrypt) answered, here or on another node.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what it never answered, [`ErrorKind::NotFound`] for another key's, [`ErrorKind::WrongKey`] and
    /// [`ErrorKind::Unreachable`] when the key cannot be used, [`ErrorKind::Tampered`] and [`ErrorKind::Truncated`].
    pub(super) async fn decrypt(
        &self,
        key_id: &[u8],
        annotation: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let foreign = || Error::usage("not a key id of ours");
        let whole = std::str::from_utf8(key_id).map_err(|_| foreign())?;
        let first = whole.split(':').next().unwrap_or_default();
        let id: KeyId = first.parse().map_err(|_| foreign())?;
        match self {
            Self::Keyring(keyring) => {
                if !annotation.is_empty() {
                    return Err(Error::usage("a key of a keyring has no annotation"));
                }
                if first != whole {
                    return Err(foreign());
                }
                decrypt_by_keyring(keyring, id, ciphertext).await
            }
            Self::Service(service) => {
                let [name, sealed] =
                    exactly(annotation).map_err(|_| Error::usage("a malformed annotation"))?;
                if name != ANNOTATION.as_bytes() {
                    return Err(Error::usage(format!("the annotation {ANNOTATION} is missing")));
                }
                service.decrypt((id, whole), sealed, ciphertext).await
            }
        }
    }
}

async fn decrypt_by_keyring(
    keyring: &Arc<Followed>,
    id: KeyId,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let is_unknown = |opened: &Result<_>| {
        opened.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::NotFound)
    };
    let mut opened = keyring.now().keyring.decrypt(id, ciphertext);
    if is_unknown(&opened) {
        // Another node may have it already, and the file been copied since the last look.
        keyring.look().await;
        opened = keyring.now().keyring.decrypt(id, ciphertext);
    }
    if is_unknown(&opened) {
        keyring.missed(id);
    }
    opened
}

/// That the primary key encrypts, and decrypts what it encrypted.
fn self_test(keyring: &Followed) -> Result<()> {
    let now = keyring.now();
    let text = random::<32>(&mut system_rng());
    let (id, sealed) = now.keyring.encrypt(&text, now.time, &mut system_rng())?;
    match constant_time_eq(&now.keyring.decrypt(id, &sealed)?, &text) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Internal, format!("key {id} does not work"))),
    }
}
