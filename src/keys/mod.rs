//! Master keys: what seals and opens data keys (SPEC.md §2).
//!
//! Bytes in, bytes out; files and repositories are read and written above
//! (`envelope::keyfile`, `backup`).

mod keyring;
mod local;
mod passphrase;
pub mod trust;

use std::sync::Arc;

pub use keyring::Keyring;
pub use local::LocalKey;
pub use passphrase::{create_passphrase_object, open_passphrase_object};

use crate::crypto::CryptoRng;
use crate::error::Result;
use crate::format::{KeyId, KeyState, Time};
use crate::secret::SecretKey;

/// Something that can seal a data key and open what it sealed: the one place where key custody varies.
pub trait MasterKey: Send + Sync {
    /// Names this key in seals.
    fn id(&self) -> KeyId;

    /// Kind of the stanzas this key writes (SPEC.md §5), such as `local`.
    fn stanza_type(&self) -> &'static str;

    /// Seals `data_key`; what comes back opens with the same `context` only.
    ///
    /// # Errors
    /// Those of the service behind the key, if there is one.
    fn seal(
        &self,
        context: &[u8],
        data_key: &SecretKey,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u8>>;

    /// Opens what [`seal`](Self::seal) made.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) when `sealed` was not made by this key with this `context`.
    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<SecretKey>;
}

/// The master keys that a command was given, each with what it may do.
#[derive(Default)]
pub struct MasterKeys {
    keys: Vec<(Arc<dyn MasterKey>, KeyState)>,
}

impl MasterKeys {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key in `state`. Of a key that is given twice, as by an old copy of a keyring, the later state counts.
    pub fn add(&mut self, key: Arc<dyn MasterKey>, state: KeyState) {
        match self.keys.iter_mut().find(|(known, _)| known.id() == key.id()) {
            Some((_, known)) => *known = state.max(*known),
            None => self.keys.push((key, state)),
        }
    }

    /// Adds the keys of `keyring`, each in its state at `now`.
    pub fn add_keyring(&mut self, keyring: &Keyring, now: Time) {
        for (key, state) in keyring.usable(now) {
            self.add(Arc::new(key), state);
        }
    }

    fn find(&self, id: KeyId) -> Option<&(Arc<dyn MasterKey>, KeyState)> {
        self.keys.iter().find(|(key, _)| key.id() == id)
    }

    /// The key of this id, if it was given.
    pub fn get(&self, id: KeyId) -> Option<&dyn MasterKey> {
        self.find(id).map(|(key, _)| key.as_ref())
    }

    /// What the key of this id may do, if it was given.
    pub fn state(&self, id: KeyId) -> Option<KeyState> {
        self.find(id).map(|(_, state)| *state)
    }

    /// Whether the key of this id was given.
    pub fn holds(&self, id: KeyId) -> bool {
        self.find(id).is_some()
    }

    /// All but one of them.
    #[must_use]
    pub fn without(&self, id: KeyId) -> Self {
        Self { keys: self.keys.iter().filter(|(key, _)| key.id() != id).cloned().collect() }
    }

    /// The keys that new data keys are sealed to.
    pub fn sealing(&self) -> impl Iterator<Item = &dyn MasterKey> {
        self.keys.iter().filter(|(_, state)| state.seals()).map(|(key, _)| key.as_ref())
    }

    /// The ids of every key.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|(key, _)| key.id()).collect()
    }

    /// True when there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
