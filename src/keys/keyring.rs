//! A keyring: several local master keys with states, one of them primary.

use super::local::{self, LocalKey};
use crate::crypto::CryptoRng;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, KeyId, KeyState, KeyringEntry, Time};
use crate::secret::SecretBytes;

/// The keys of one keyring file. At any time exactly one is primary.
pub struct Keyring(format::Keyring);

impl Keyring {
    /// A keyring of one fresh primary key.
    ///
    /// # Errors
    /// None in practice: those of building a keyring.
    pub fn generate(now: Time, rng: &mut dyn CryptoRng) -> Result<Self> {
        format::Keyring::new(vec![fresh(now, rng)]).map(Self)
    }

    /// Reads a keyring file's text, and checks that each key is the one its id names.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`] and kin, naming what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let keyring = format::Keyring::parse(text)?;
        for entry in keyring.entries() {
            if let Some(master) = &entry.master
                && local::key_id(master) != entry.id
            {
                return Err(Error::tampered(format!(
                    "key {} is not the key its id names",
                    entry.id
                ))
                .hint("restore the keyring file from its off-host copy"));
            }
        }
        Ok(Self(keyring))
    }

    /// The file's text.
    #[must_use]
    pub fn print(&self) -> SecretBytes {
        self.0.print()
    }

    /// Adds a fresh primary key; the primary key before it is retiring from now on. Returns the new id.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] while a later primary key is written down already.
    pub fn rotate(self, now: Time, rng: &mut dyn CryptoRng) -> Result<(Self, KeyId)> {
        let states: Vec<_> = self.0.states(now).map(|(_, state)| state).collect();
        let mut entries = self.0.into_entries();
        for (entry, state) in entries.iter_mut().zip(states) {
            match (entry.state, state) {
                (KeyState::Primary, KeyState::Staged) => {
                    let message = format!("key {} becomes primary at {}", entry.id, entry.since);
                    return Err(Error::new(ErrorKind::Refused, message)
                        .hint("wait until then: this rotation is already planned"));
                }
                // The successor's time would be exact for an older one; nothing is decided by it.
                (KeyState::Primary, _) => (entry.state, entry.since) = (KeyState::Retiring, now),
                _ => {}
            }
        }
        Self::with_fresh(entries, now, rng)
    }

    /// Adds a fresh primary key and retires all others: who stole the keyring has them all. Returns the new id.
    ///
    /// # Errors
    /// None in practice: those of building a keyring.
    pub fn replace_stolen(self, now: Time, rng: &mut dyn CryptoRng) -> Result<(Self, KeyId)> {
        let mut entries = self.0.into_entries();
        for entry in entries.iter_mut().filter(|entry| entry.state < KeyState::Retired) {
            (entry.state, entry.since) = (KeyState::Retired, now);
        }
        Self::with_fresh(entries, now, rng)
    }

    fn with_fresh(
        mut entries: Vec<KeyringEntry>,
        now: Time,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, KeyId)> {
        let new = fresh(now, rng);
        let id = new.id;
        entries.push(new);
        Ok((Self(format::Keyring::new(entries)?), id))
    }

    /// Retires every key that is retiring: from now on they only open. Returns their ids.
    ///
    /// # Errors
    /// None in practice: those of building a keyring.
    pub fn retire(self, now: Time) -> Result<(Self, Vec<KeyId>)> {
        let retiring = self.in_state(KeyState::Retiring, now);
        let mut entries = self.0.into_entries();
        for entry in entries.iter_mut().filter(|entry| retiring.contains(&entry.id)) {
            (entry.state, entry.since) = (KeyState::Retired, now);
        }
        Ok((Self(format::Keyring::new(entries)?), retiring))
    }

    /// Erases a key's material; its line stays, as `destroyed`.
    ///
    /// Whether a snapshot still needs the key is for the caller to find out first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a key, [`ErrorKind::Refused`] for the primary one.
    pub fn destroy(self, id: KeyId, now: Time) -> Result<Self> {
        let Some((_, state, _)) = self.list(now).find(|(known, ..)| *known == id) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("key {id} is not in this keyring"),
            ));
        };
        if state == KeyState::Primary {
            return Err(Error::new(ErrorKind::Refused, format!("key {id} is the primary key"))
                .hint("`strongroom key rotate` makes a new primary key first"));
        }
        let mut entries = self.0.into_entries();
        for entry in entries.iter_mut().filter(|entry| entry.id == id) {
            (entry.state, entry.since, entry.master) = (KeyState::Destroyed, now, None);
        }
        format::Keyring::new(entries).map(Self)
    }

    /// Every key's id, state at `now` and the time of its line, ascending by id.
    pub fn list(&self, now: Time) -> impl Iterator<Item = (KeyId, KeyState, Time)> {
        self.0.states(now).map(|(entry, state)| (entry.id, state, entry.since))
    }

    /// The keys that are in `state` at `now`.
    #[must_use]
    pub fn in_state(&self, state: KeyState, now: Time) -> Vec<KeyId> {
        self.list(now).filter(|(_, found, _)| *found == state).map(|(id, ..)| id).collect()
    }

    /// The keys that open, each with its state at `now`.
    pub(super) fn usable(&self, now: Time) -> impl Iterator<Item = (LocalKey, KeyState)> {
        self.0.states(now).filter_map(|(entry, state)| {
            Some((LocalKey::new(entry.master.as_ref()?.duplicate()), state))
        })
    }
}

fn fresh(now: Time, rng: &mut dyn CryptoRng) -> KeyringEntry {
    let key = LocalKey::generate(rng);
    let (id, state) = (key.id(), KeyState::Primary);
    KeyringEntry { id, state, since: now, master: Some(key.into_master()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::keys::{KeySet, Recipient};
    use KeyState::{Destroyed, Primary, Retired, Retiring, Staged};

    fn at(seconds: i64) -> Time {
        Time::from_unix(seconds)
    }

    fn generated() -> (Keyring, KeyId) {
        let ring = Keyring::generate(at(0), &mut system_rng()).unwrap();
        let id = ring.list(at(0)).next().unwrap().0;
        (ring, id)
    }

    fn state(ring: &Keyring, id: KeyId) -> KeyState {
        let ring = Keyring::parse(ring.print().expose()).unwrap();
        ring.list(at(100)).find(|(known, ..)| *known == id).unwrap().1
    }

    #[test]
    fn a_key_retires_in_two_steps() {
        let (ring, old) = generated();
        let (ring, new) = ring.rotate(at(5), &mut system_rng()).unwrap();
        assert_eq!((state(&ring, old), state(&ring, new)), (Retiring, Primary));
        let mut keys = KeySet::new();
        keys.add_keyring(&ring, at(5));
        assert_eq!((keys.state(old), keys.state(new)), (Some(Retiring), Some(Primary)));
        assert_eq!(keys.sealing().map(Recipient::id).collect::<Vec<_>>(), [new]);
        let (ring, retired) = ring.retire(at(6)).unwrap();
        assert_eq!(retired, [old]);
        assert_eq!((state(&ring, old), state(&ring, new)), (Retired, Primary));
    }

    /// Also the key that was to become primary, and one that was retiring.
    #[test]
    fn all_keys_of_a_stolen_keyring_are_retired_at_once() {
        let (ring, first) = generated();
        let (ring, second) = ring.rotate(at(1), &mut system_rng()).unwrap();
        let (other, third) = generated();
        let mut entries = ring.0.into_entries();
        let later = |entry| KeyringEntry { since: at(90), ..entry };
        entries.extend(other.0.into_entries().into_iter().map(later));
        let ring = Keyring(format::Keyring::new(entries).unwrap());
        let (ring, new) = ring.replace_stolen(at(5), &mut system_rng()).unwrap();
        let states = [first, second, third, new].map(|id| state(&ring, id));
        assert_eq!(states, [Retired, Retired, Retired, Primary]);
        assert_eq!(ring.list(at(5)).find(|(id, ..)| *id == third).unwrap().2, at(5));
    }

    #[test]
    fn a_rotation_waits_for_a_promotion_that_is_written_down() {
        let (ring, first) = generated();
        let (other, second) = generated();
        let mut entries = ring.0.into_entries();
        entries.extend(
            other.0.into_entries().into_iter().map(|entry| KeyringEntry { since: at(50), ..entry }),
        );
        let text = format::Keyring::new(entries).unwrap().print();
        let ring = || Keyring::parse(text.expose()).unwrap();
        let refused = ring().rotate(at(49), &mut system_rng());
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::Refused);
        assert_eq!(ring().in_state(Staged, at(49)), [second]);
        let (rotated, third) = ring().rotate(at(50), &mut system_rng()).unwrap();
        let states = [first, second, third].map(|id| state(&rotated, id));
        assert_eq!(states, [Retiring, Retiring, Primary]);
    }

    #[test]
    fn a_destroyed_key_is_gone_and_the_primary_cannot_be() {
        let (ring, old) = generated();
        assert_eq!(ring.destroy(old, at(1)).err().unwrap().kind(), ErrorKind::Refused);
        let (ring, old) = generated();
        let (ring, _) = ring.rotate(at(1), &mut system_rng()).unwrap();
        let ring = ring.destroy(old, at(2)).unwrap();
        assert_eq!(state(&ring, old), Destroyed);
        assert!(ring.usable(at(2)).all(|(key, _)| key.id() != old));
        assert_eq!(ring.destroy(KeyId([0; 16]), at(2)).err().unwrap().kind(), ErrorKind::NotFound);
    }

    /// An old copy of a keyring still says `primary`.
    #[test]
    fn of_two_copies_of_a_keyring_the_later_state_counts() {
        let (ring, old) = generated();
        let copy = Keyring::parse(ring.print().expose()).unwrap();
        let (ring, _) = ring.replace_stolen(at(1), &mut system_rng()).unwrap();
        for rings in [[&ring, &copy], [&copy, &ring]] {
            let mut keys = KeySet::new();
            rings.iter().for_each(|ring| keys.add_keyring(ring, at(2)));
            assert_eq!(keys.state(old), Some(Retired));
        }
    }

    #[test]
    fn a_key_under_another_id_is_refused() {
        let mut text = generated().0.print().expose().to_vec();
        let at = text.iter().position(|b| *b == b'\n').unwrap() + 1;
        text[at] = if text[at] == b'0' { b'1' } else { b'0' };
        assert_eq!(Keyring::parse(&text).err().unwrap().kind(), ErrorKind::Tampered);
    }
}
