//! Master keys: what seals and opens data keys (SPEC.md §2).
//!
//! A [`Recipient`] seals, an [`Identity`] opens, and a [`KeySet`] is what a command was given of both. Bytes in, bytes
//! out; files and repositories are read and written above (`custody::keyfile`, `backup`).

mod age;
mod age_stanza;
mod binding;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
mod identity_file;
mod keyring;
mod kubernetes;
mod local;
#[cfg(feature = "backup")]
mod paper;
mod passphrase;
mod recipient;
mod sealers;
mod set;
mod signing;
mod text;
pub mod trust;

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

#[cfg(feature = "age-plugins")]
pub(crate) use age::{AGE, FILE_KEY, inner, open as open_age, seal as seal_age};
pub use age::{PluginIdentity, PluginRecipient};
#[cfg(feature = "age-plugins")]
pub(crate) use age_stanza::{AgeReader, AgeStanza, MAX_LINE};
pub use binding::Binding;
pub use identity_file::{IdentityFile, MAX_IDENTITY_FILE};
pub use keyring::Keyring;
pub use kubernetes::MAX_KUBERNETES_TEXT;
#[cfg(feature = "kms-plugin")]
pub(crate) use kubernetes::{decrypt_under, encrypt_under};
pub use local::LocalKey;
#[cfg(feature = "backup")]
pub use paper::PaperKey;
pub use passphrase::{create_passphrase_object, open_passphrase_object};
pub use recipient::{HpkeIdentity, HpkeRecipient, check_strengths, strength_of};
pub use sealers::Missing;
pub use set::{KeySet, ReadStates};
pub use signing::{
    MAX_SIGNERS, PublicSigner, SignedBy, Signer, SigningKey, unsigned_refused, would_not_count,
};

use crate::crypto::{self, CryptoRng, Label};
use crate::error::{Error, Result};
use crate::format::{KeyId, Stanza};
use crate::secret::SecretKey;

/// What sealing or opening comes to: at once with a key that this process holds, later with one of a remote service.
pub type KeyFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What breaks a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// A symmetric key, or one of a service or a plugin: nothing that is known here.
    Other,
    /// A public key that a quantum computer does not break.
    PostQuantum,
    /// A public key that a quantum computer breaks.
    QuantumWeak,
}

/// What takes a key away when it is lost, destroyed, forgotten or switched off: keys with equal ones go together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DependsOn {
    /// Files of this host. Whether there are copies elsewhere is unknown here.
    Host,
    /// A passphrase; the key is in the repository.
    Passphrase,
    /// The service of this name.
    Service(String),
    /// A place of its own: what opens with the key is not here.
    Elsewhere(KeyId),
}

impl fmt::Display for DependsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("this host"),
            Self::Passphrase => f.write_str("a passphrase"),
            Self::Service(name) => f.write_str(name),
            Self::Elsewhere(_) => f.write_str("elsewhere"),
        }
    }
}

/// The first 16 bytes of SHA-256("strongroom/v1/key-id" ‖ 00 ‖ kind ‖ 00 ‖ data…) (SPEC.md §2.3).
pub(crate) fn key_id(kind: &str, data: &[&[u8]]) -> KeyId {
    let label = crypto::labelled(Label::KeyId, &[kind.as_bytes(), &[0]]);
    let digest = crypto::sha256(&[&[label.as_slice()], data].concat());
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    KeyId(id)
}

/// The id of a key that a service keeps, of the kind of service `provider` and named there `identity`.
#[must_use]
pub fn kms_key_id(provider: &str, identity: &str) -> KeyId {
    key_id("kms", &[provider.as_bytes(), &[0], identity.as_bytes()])
}

/// What opening a stanza takes, from least to most: what takes less is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// This process holds the key.
    Own,
    /// A service has opened it before, and what it answered is remembered.
    Remembered,
    /// A service is asked, which may not answer, and writes it down.
    Service,
    /// A person has to do something.
    Person,
}

impl Effort {
    /// Whether it has an effect outside of this process, which nobody's planted bytes may cause.
    #[must_use]
    pub fn is_felt(self) -> bool {
        self >= Self::Service
    }
}

/// Something that seals data keys.
pub trait Recipient: Send + Sync {
    /// Names this key in seals.
    fn id(&self) -> KeyId;

    /// Whether it is a public key: who seals to it need not be able to open, so what it opens shows nothing of its maker.
    fn is_public(&self) -> bool {
        false
    }

    /// What breaks it, as far as is known before it seals: a plugin's key shows it in its stanzas ([`strength_of`]).
    fn strength(&self) -> Strength {
        Strength::Other
    }

    /// The service without which nothing opens what is sealed to this key, if there is one. Keys of one service have the
    /// same name here.
    fn service(&self) -> Option<String> {
        None
    }

    /// Seals `data_key` as a stanza of this key, which opens with an equal `binding` only.
    ///
    /// # Errors
    /// Those of the service behind the key, if there is one.
    fn wrap<'a>(
        &'a self,
        data_key: &'a SecretKey,
        binding: &'a Binding,
        rng: &'a mut (dyn CryptoRng + Send),
    ) -> KeyFuture<'a, Stanza>;

    /// Sees whether it can seal now. A key that this process holds always can.
    ///
    /// # Errors
    /// Those of the service behind the key.
    fn check(&self) -> KeyFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The same key for a job that writes many seals: a service is asked once for many of them. None if that makes no
    /// difference.
    fn sharing(&self) -> Option<Arc<dyn Recipient>> {
        None
    }

    /// Whether the service would seal with another key of its own than the one that sealed `stanza`, as far as is known
    /// since [`check`](Self::check).
    fn is_older(&self, stanza: &Stanza) -> bool {
        let _ = stanza;
        false
    }
}

/// Something that opens data keys.
pub trait Identity: Send + Sync {
    /// The keys whose stanzas it opens.
    fn ids(&self) -> Vec<KeyId>;

    /// Opens a stanza that [`Recipient::wrap`] made; `None` for a stanza of another kind or key.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) when it is this key's and was not made with this `binding`;
    /// those of the service behind the key.
    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> KeyFuture<'a, Option<SecretKey>>;

    /// What opening `stanza` takes.
    fn effort(&self, stanza: &Stanza) -> Effort {
        let _ = stanza;
        Effort::Own
    }
}

/// The outcome of `future`, which does not have to wait: that of sealing or opening with keys that this process holds.
///
/// # Errors
/// Its own, and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it would have to wait for a remote key.
pub fn at_once<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(Error::unsupported("a remote master key cannot be used here")
            .hint("give a keyring file with --master-key file:PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_has_to_wait_is_refused() {
        assert_eq!(at_once(std::future::ready(Ok(7))).unwrap(), 7);
        let error = at_once(std::future::pending::<Result<()>>()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
