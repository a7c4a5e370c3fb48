//! Master keys: what seals and opens data keys (SPEC.md §2).
//!
//! Bytes in, bytes out; files and repositories are read and written above
//! (`envelope::keyfile`, `backup`).

mod keyring;
mod local;
mod passphrase;

use std::sync::Arc;

pub use keyring::Keyring;
pub use local::LocalKey;
pub use passphrase::{create_passphrase_object, open_passphrase_object};

use crate::crypto::CryptoRng;
use crate::error::Result;
use crate::format::KeyId;
use crate::secret::SecretKey;

/// Something that can seal a data key and open what it sealed: the one place where key custody varies.
pub trait MasterKey: Send + Sync {
    /// Names this key in seals.
    fn id(&self) -> KeyId;

    /// Type of the stanzas this key writes (SPEC.md §5), such as `local`.
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

/// The master keys a command has at hand: any of them opens, some of them seal.
#[derive(Default)]
pub struct MasterKeys {
    keys: Vec<Arc<dyn MasterKey>>,
    sealing: Vec<KeyId>,
}

impl MasterKeys {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key that opens and, when `seals`, is sealed to as well. A key given twice counts once.
    pub fn add(&mut self, key: Arc<dyn MasterKey>, seals: bool) {
        let id = key.id();
        if seals && !self.sealing.contains(&id) {
            self.sealing.push(id);
        }
        if !self.holds(id) {
            self.keys.push(key);
        }
    }

    /// Adds every usable key of `keyring`; its primary seals.
    pub fn add_keyring(&mut self, keyring: &Keyring) {
        for (key, primary) in keyring.usable() {
            self.add(Arc::new(key), primary);
        }
    }

    /// The key of this id, if it is at hand.
    pub fn get(&self, id: KeyId) -> Option<&dyn MasterKey> {
        self.keys.iter().find(|key| key.id() == id).map(AsRef::as_ref)
    }

    /// Whether the key of this id is at hand.
    pub fn holds(&self, id: KeyId) -> bool {
        self.get(id).is_some()
    }

    /// All but one of them.
    #[must_use]
    pub fn without(&self, id: KeyId) -> Self {
        let but = |key: &KeyId| *key != id;
        Self {
            keys: self.keys.iter().filter(|key| but(&key.id())).cloned().collect(),
            sealing: self.sealing.iter().copied().filter(but).collect(),
        }
    }

    /// The keys that new data keys are sealed to.
    pub fn sealing(&self) -> impl Iterator<Item = &dyn MasterKey> {
        self.sealing.iter().filter_map(|id| self.get(*id))
    }

    /// The ids of every key at hand.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.id()).collect()
    }

    /// True when there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
