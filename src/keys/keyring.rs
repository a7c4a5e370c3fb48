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
        format::Keyring::new(vec![fresh(KeyState::Primary, now, rng)]).map(Self)
    }

    /// A keyring of `key` alone, primary since `now`.
    ///
    /// # Errors
    /// None in practice: those of building a keyring.
    pub fn of_key(key: LocalKey, now: Time) -> Result<Self> {
        format::Keyring::new(vec![entry(key, KeyState::Primary, now)]).map(Self)
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
        Self::with_fresh(entries, KeyState::Primary, now, rng)
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
        Self::with_fresh(entries, KeyState::Primary, now, rng)
    }

    /// Adds a fresh staged key: it opens, and does not seal until it is [promoted](Self::promote). Returns its id.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] while another key is staged.
    pub fn stage(self, now: Time, rng: &mut dyn CryptoRng) -> Result<(Self, KeyId)> {
        if let Some(id) = self.in_state(KeyState::Staged, now).first() {
            return Err(Error::new(ErrorKind::Refused, format!("key {id} is staged already"))
                .hint(format!("`strongroom key promote {id}` makes it the primary key")));
        }
        Self::with_fresh(self.settled(now), KeyState::Staged, now, rng)
    }

    /// Makes the staged key `id` the primary one from `at` on; the primary key before it is retiring from then on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a key; [`ErrorKind::Refused`] for a key that is not staged, or while another
    /// promotion is planned; [`ErrorKind::Usage`] when `at` lies before `now` or before the last promotion.
    pub fn promote(self, id: KeyId, at: Time, now: Time) -> Result<Self> {
        self.check_promotion(id, at, now)?;
        let mut entries = self.settled(now);
        for entry in &mut entries {
            if entry.id == id {
                (entry.state, entry.since) = (KeyState::Primary, at);
            } else if entry.state == KeyState::Primary && at <= now {
                (entry.state, entry.since) = (KeyState::Retiring, now);
            }
        }
        format::Keyring::new(entries).map(Self)
    }

    /// The lines with what time has made of them: a primary key that was followed by another one is retiring, and stays so
    /// when a clock is set back.
    fn settled(self, now: Time) -> Vec<KeyringEntry> {
        let states: Vec<_> = self.0.states(now).map(|(_, state)| state).collect();
        let mut entries = self.0.into_entries();
        for (entry, state) in entries.iter_mut().zip(states) {
            if (entry.state, state) == (KeyState::Primary, KeyState::Retiring) {
                (entry.state, entry.since) = (state, now);
            }
        }
        entries
    }

    fn check_promotion(&self, id: KeyId, at: Time, now: Time) -> Result<()> {
        let refused = |message| Error::new(ErrorKind::Refused, message);
        let state = self.list(now).find(|(known, ..)| *known == id).map(|(_, state, _)| state);
        let Some(state) = state else {
            let message = format!("key {id} is not in this keyring");
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        if state != KeyState::Staged {
            return Err(refused(format!("key {id} is {}", state.name())).hint(
                "only a staged key can become primary, and only once: `strongroom key rotate --staged` makes a new one",
            ));
        }
        if at < now {
            return Err(Error::usage(format!("{at} lies in the past")));
        }
        let others = || self.0.entries().iter().filter(|entry| entry.id != id);
        let primaries = || others().filter(|entry| entry.state == KeyState::Primary);
        let planned = primaries().find(|entry| entry.since > now);
        if let Some(planned) = planned.filter(|_| primaries().count() > 1) {
            let message = format!("key {} becomes primary at {}", planned.id, planned.since);
            return Err(refused(message).hint("wait until then, or remove that key"));
        }
        match primaries().map(|entry| entry.since).max() {
            Some(since) if at > now && at <= since => {
                Err(Error::usage(format!("the present primary key is primary since {since}"))
                    .hint("give a later time"))
            }
            _ => Ok(()),
        }
    }

    fn with_fresh(
        mut entries: Vec<KeyringEntry>,
        state: KeyState,
        now: Time,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, KeyId)> {
        let new = fresh(state, now, rng);
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

    pub(super) fn entries(&self) -> &[KeyringEntry] {
        self.0.entries()
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

fn fresh(state: KeyState, now: Time, rng: &mut dyn CryptoRng) -> KeyringEntry {
    entry(LocalKey::generate(rng), state, now)
}

fn entry(key: LocalKey, state: KeyState, since: Time) -> KeyringEntry {
    KeyringEntry { id: key.id(), state, since, master: Some(key.into_master()) }
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
    fn a_staged_key_is_promoted_at_its_time_and_only_once() {
        let (ring, first) = generated();
        let (ring, second) = ring.stage(at(10), &mut system_rng()).unwrap();
        assert_eq!((state(&ring, first), state(&ring, second)), (Primary, Staged));
        let again = || Keyring::parse(ring.print().expose()).unwrap();
        let refused = again().stage(at(11), &mut system_rng());
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::Refused);
        let kind = |ring: Keyring, id, time, now| {
            ring.promote(id, at(time), at(now)).err().map(|error| error.kind())
        };
        assert_eq!(kind(again(), second, 19, 20), Some(ErrorKind::Usage));
        assert_eq!(kind(again(), first, 20, 20), Some(ErrorKind::Refused));
        assert_eq!(kind(again(), KeyId([0; 16]), 20, 20), Some(ErrorKind::NotFound));

        // At once, and later: the same keys at the same time.
        let now = again().promote(second, at(20), at(20)).unwrap();
        assert_eq!((state(&now, first), state(&now, second)), (Retiring, Primary));
        let later = || again().promote(second, at(50), at(20)).unwrap();
        for (time, want) in [(49, [Primary, Staged]), (50, [Retiring, Primary])] {
            let found = [first, second]
                .map(|id| later().list(at(time)).find(|(known, ..)| *known == id).unwrap().1);
            assert_eq!(found, want, "{time}");
        }
        // The time can be changed until it has come; another key has to wait.
        assert_eq!(kind(later(), second, 60, 49), None);
        assert_eq!(kind(later(), second, 60, 50), Some(ErrorKind::Refused));
        let staged = later().stage(at(21), &mut system_rng());
        assert_eq!(staged.err().unwrap().kind(), ErrorKind::Refused);
        let (ring, third) = later().stage(at(50), &mut system_rng()).unwrap();
        let ring = ring.promote(third, at(70), at(50)).unwrap();
        // A key that was primary never is again.
        for (id, now) in [(first, 50), (second, 70), (first, 70)] {
            let ring = Keyring::parse(ring.print().expose()).unwrap();
            assert_eq!(kind(ring, id, 80, now), Some(ErrorKind::Refused));
        }
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
