//! Master keys: what seals and opens data keys (SPEC.md §2).
//!
//! Bytes in, bytes out; files and repositories are read and written above
//! (`custody::keyfile`, `backup`).

mod keyring;
mod local;
mod passphrase;
pub mod trust;

use std::sync::Arc;

pub use keyring::Keyring;
pub use local::LocalKey;
pub use passphrase::{create_passphrase_object, open_passphrase_object};

use crate::crypto::CryptoRng;
use crate::error::{Error, ErrorKind, Result};
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
    /// [`ErrorKind::Tampered`] when `sealed` was not made by this key with this `context`.
    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<SecretKey>;
}

/// The master keys that a command was given, each with what it may do.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<(Arc<dyn MasterKey>, KeyState)>,
    sources: Vec<ReadStates>,
    accept_untrusted: bool,
}

/// Reads the present states of keys from where they are kept.
pub type ReadStates = Arc<dyn Fn() -> Result<Vec<(KeyId, KeyState)>> + Send + Sync>;

impl KeySet {
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

    /// Lets [`check_current`](Self::check_current) ask `states` what the keys may do by then.
    pub fn add_source(&mut self, states: ReadStates) {
        self.sources.push(states);
    }

    /// That no key which seals here has been retired since it was added. Whoever worked for hours asks before it seals.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for a retired key; those of reading the states.
    pub fn check_current(&self) -> Result<()> {
        for source in &self.sources {
            for (id, state) in source()? {
                if state >= KeyState::Retired && self.state(id).is_some_and(KeyState::seals) {
                    let message = format!("master key {id} was {} meanwhile", state.name());
                    return Err(Error::new(ErrorKind::Refused, message)
                        .hint("run the command again: it then seals to the present key"));
                }
            }
        }
        Ok(())
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
        let keys = self.keys.iter().filter(|(key, _)| key.id() != id).cloned().collect();
        Self { keys, sources: self.sources.clone(), accept_untrusted: self.accept_untrusted }
    }

    /// The keys that new data keys are sealed to.
    pub fn sealing(&self) -> impl Iterator<Item = &dyn MasterKey> {
        self.keys.iter().filter(|(_, state)| state.seals()).map(|(key, _)| key.as_ref())
    }

    /// Lets single snapshots be opened that do not count ([`trust`]). Nothing else changes: they are still not the
    /// latest, push nothing out and are not sealed again.
    pub fn accept_untrusted(&mut self) {
        self.accept_untrusted = true;
    }

    /// Whether single snapshots that do not count are opened.
    pub fn accepts_untrusted(&self) -> bool {
        self.accept_untrusted
    }

    /// Whether any of them can make a snapshot count ([`trust`]): the others only open.
    pub fn can_vouch(&self) -> bool {
        self.keys.iter().any(|(_, state)| state.seals() || *state == KeyState::Retiring)
    }

    /// The keys in `state`.
    pub fn in_state(&self, state: KeyState) -> impl Iterator<Item = KeyId> {
        let fits = move |(_, found): &&(Arc<dyn MasterKey>, KeyState)| *found == state;
        self.keys.iter().filter(fits).map(|(key, _)| key.id())
    }

    /// Puts the key of this id, if it was given, into another state.
    pub fn set_state(&mut self, id: KeyId, state: KeyState) {
        self.keys.iter_mut().filter(|(key, _)| key.id() == id).for_each(|(_, old)| *old = state);
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
