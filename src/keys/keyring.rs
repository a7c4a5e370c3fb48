//! A keyring: several local master keys with states, one of them primary.

use super::local::LocalKey;
use crate::crypto::CryptoRng;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, KeyId, KeyState, KeyringEntry};
use crate::secret::SecretBytes;

/// The keys of one keyring file. Exactly one is primary.
pub struct Keyring {
    entries: Vec<KeyringEntry>,
}

impl Keyring {
    /// A keyring of one fresh primary key. `now` is `YYYY-MM-DDTHH:MM:SSZ`.
    pub fn generate(now: &str, rng: &mut dyn CryptoRng) -> Self {
        Self { entries: vec![entry(LocalKey::generate(rng), KeyState::Primary, now)] }
    }

    /// Reads a keyring file's text, and checks that each key is the one its id names.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`] and kin, naming what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let entries = format::Keyring::parse(text)?.into_entries();
        for entry in &entries {
            if let Some(master) = &entry.master
                && super::local::key_id(master) != entry.id
            {
                return Err(Error::tampered(format!(
                    "key {} is not the key its id names",
                    entry.id
                ))
                .hint("restore the keyring file from its off-host copy"));
            }
        }
        Ok(Self { entries })
    }

    /// The file's text.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the keyring was given a malformed time.
    pub fn print(self) -> Result<SecretBytes> {
        Ok(format::Keyring::new(self.entries)?.print())
    }

    /// Adds a fresh key as primary; the old primary stays enabled, so that it still opens. Returns the new id.
    pub fn rotate(&mut self, now: &str, rng: &mut dyn CryptoRng) -> KeyId {
        let new = entry(LocalKey::generate(rng), KeyState::Primary, now);
        let id = new.id;
        for old in &mut self.entries {
            if old.state == KeyState::Primary {
                old.state = KeyState::Enabled;
            }
        }
        self.entries.push(new);
        self.entries.sort_by_key(|entry| entry.id);
        id
    }

    /// Erases a key's material; its line stays, as `destroyed`.
    ///
    /// Whether a snapshot still needs the key is for the caller to find out first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a key, [`ErrorKind::Refused`] for the primary one.
    pub fn destroy(&mut self, id: KeyId) -> Result<()> {
        let entry = self.entries.iter_mut().find(|entry| entry.id == id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("key {id} is not in this keyring"))
        })?;
        if entry.state == KeyState::Primary {
            return Err(Error::new(ErrorKind::Refused, format!("key {id} is the primary key"))
                .hint("`strongroom key rotate` makes a new primary key first"));
        }
        entry.state = KeyState::Destroyed;
        entry.master = None;
        Ok(())
    }

    /// Every key's id, state and time of creation, ascending by id.
    pub fn list(&self) -> impl Iterator<Item = (KeyId, KeyState, &str)> {
        self.entries.iter().map(|entry| (entry.id, entry.state, entry.created.as_str()))
    }

    /// The keys that may open, each with whether it is the primary one.
    ///
    /// Disabled keys are left out: disabling is how an owner tests that nothing needs a key.
    pub(super) fn usable(&self) -> impl Iterator<Item = (LocalKey, bool)> {
        self.entries.iter().filter_map(|entry| {
            let master = entry.master.as_ref().filter(|_| entry.state != KeyState::Disabled)?;
            let copy = master.duplicate();
            Some((LocalKey::new(copy), entry.state == KeyState::Primary))
        })
    }
}

fn entry(key: LocalKey, state: KeyState, now: &str) -> KeyringEntry {
    use super::MasterKey;
    KeyringEntry { id: key.id(), state, created: now.into(), master: Some(key.into_master()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::keys::MasterKeys;

    const NOW: &str = "2026-11-23T00:00:00Z";

    #[test]
    fn rotation_keeps_the_old_key_for_opening() {
        let mut rng = system_rng();
        let mut ring = Keyring::generate(NOW, &mut rng);
        let (old, ..) = ring.list().next().unwrap();
        let new = ring.rotate(NOW, &mut rng);
        let ring = Keyring::parse(ring.print().unwrap().expose()).unwrap();
        let mut keys = MasterKeys::new();
        keys.add_keyring(&ring);
        assert!(keys.holds(old) && keys.holds(new));
        assert_eq!(keys.sealing().map(|key| key.id()).collect::<Vec<_>>(), [new]);
    }

    #[test]
    fn a_destroyed_key_is_gone_and_the_primary_cannot_be() {
        let mut rng = system_rng();
        let mut ring = Keyring::generate(NOW, &mut rng);
        let (old, ..) = ring.list().next().unwrap();
        assert_eq!(ring.destroy(old).unwrap_err().kind(), ErrorKind::Refused);
        ring.rotate(NOW, &mut rng);
        ring.destroy(old).unwrap();
        let ring = Keyring::parse(ring.print().unwrap().expose()).unwrap();
        assert!(ring.usable().all(|(key, _)| key.id() != old));
        assert_eq!(ring.list().count(), 2);
    }

    use crate::keys::MasterKey;

    #[test]
    fn a_key_under_another_id_is_refused() {
        let mut rng = system_rng();
        let text = Keyring::generate(NOW, &mut rng).print().unwrap();
        let mut text = text.expose().to_vec();
        let at = text.iter().position(|b| *b == b'\n').unwrap() + 1;
        text[at] = if text[at] == b'0' { b'1' } else { b'0' };
        assert_eq!(Keyring::parse(&text).err().unwrap().kind(), ErrorKind::Tampered);
    }
}
