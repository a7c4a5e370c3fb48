//! The keyring file: master keys on the operator's own disk (SPEC.md §2.5).

use zeroize::Zeroizing;

use super::ids::KeyId;
use super::json::key_text;
use super::text::{Line, Lines, ascends, decode_into};
use super::time::Time;
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};

/// The longest keyring file that is read, in bytes.
pub const MAX_KEYRING: usize = 1 << 20;

const FAMILY: &str = "strongroom-keyring/";
const WHAT: &str = "keyring";

/// Where a master key is in its life, in the order of that life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyState {
    /// Opens, and does not seal yet.
    Staged,
    /// Seals and opens beside the primary key.
    Sealing,
    /// Seals and opens.
    Primary,
    /// Opens, and what it sealed still counts, with a warning.
    Retiring,
    /// Opens; what it alone sealed does not count.
    Retired,
    /// Its bytes are gone; the line remembers that it was.
    Destroyed,
}

impl KeyState {
    const ALL: [Self; 6] = [
        Self::Staged,
        Self::Sealing,
        Self::Primary,
        Self::Retiring,
        Self::Retired,
        Self::Destroyed,
    ];

    /// The word in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Sealing => "sealing",
            Self::Primary => "primary",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether new data keys are sealed to a key in this state.
    #[must_use]
    pub const fn seals(self) -> bool {
        matches!(self, Self::Sealing | Self::Primary)
    }
}

/// One master key.
pub struct KeyringEntry {
    /// Its id.
    pub id: KeyId,
    /// Its state as written. What it is at some time, [`Keyring::states`] tells.
    pub state: KeyState,
    /// Since when it is in that state; a primary key's may lie ahead.
    pub since: Time,
    /// The key; `None` exactly when destroyed.
    pub master: Option<SecretKey>,
}

impl KeyringEntry {
    fn check(&self) -> Result<(), &'static str> {
        if self.master.is_none() != (self.state == KeyState::Destroyed) {
            return Err("a key is absent exactly when destroyed");
        }
        Ok(())
    }

    fn parse(mut line: Line<'_>) -> Result<Self> {
        let id = line.id()?;
        if line.token()? != "local" {
            return Err(line.unsupported("a key of a kind that is not known here"));
        }
        let word = line.token()?;
        let state = KeyState::ALL.into_iter().find(|state| state.name() == word);
        let state = state.ok_or_else(|| line.refuse("not a state of a key"))?;
        let since = line.id()?;
        let master = match line.token()? {
            "-" => None,
            text => Some(
                SecretKey::try_new(|key| decode_into(text, key).ok_or(()))
                    .map_err(|()| line.refuse("not a key in base64"))?,
            ),
        };
        let entry = Self { id, state, since, master };
        entry.check().map_err(|why| line.refuse(why))?;
        line.end()?;
        Ok(entry)
    }
}

/// A keyring: keys ascending by id, at least one of them primary.
pub struct Keyring {
    entries: Vec<KeyringEntry>,
}

impl Keyring {
    /// A keyring of these entries; sorts them.
    ///
    /// # Errors
    /// Usage when an id stands twice, no key is primary, two become primary at the same time,
    /// or a key is absent though not destroyed (or the other way round).
    pub fn new(mut entries: Vec<KeyringEntry>) -> Result<Self> {
        entries.sort_by_key(|entry| entry.id);
        let refuse = |why| Error::usage(format!("{WHAT}: {why}"));
        entries.iter().try_for_each(KeyringEntry::check).map_err(refuse)?;
        let keyring = Self { entries };
        keyring.check().map_err(refuse)?;
        Ok(keyring)
    }

    /// Parses the text of a keyring file.
    ///
    /// # Errors
    /// Unsupported for another version or kind of key; truncated without the final LF; tampered
    /// otherwise. None shows the text.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::open(WHAT, FAMILY, MAX_KEYRING, bytes)?;
        let mut entries = Vec::new();
        while !lines.is_done() {
            entries.push(KeyringEntry::parse(lines.line()?)?);
        }
        let keyring = Self { entries };
        keyring.check().map_err(|why| Error::tampered(format!("{WHAT}: {why}")))?;
        Ok(keyring)
    }

    /// The entries, ascending by id.
    pub fn entries(&self) -> &[KeyringEntry] {
        &self.entries
    }

    /// Takes the keyring apart, to build another.
    pub fn into_entries(self) -> Vec<KeyringEntry> {
        self.entries
    }

    /// What each key is at `now` ([S2.5.3]): of the primary lines the newest that is not ahead counts, or the
    /// oldest if all are; those before it are retiring, those after it staged.
    pub fn states(&self, now: Time) -> impl Iterator<Item = (&KeyringEntry, KeyState)> {
        let times = || self.primaries().map(|entry| entry.since);
        let current = times().filter(|since| *since <= now).max().or_else(|| times().min());
        self.entries.iter().map(move |entry| {
            let state = match (entry.state, current) {
                (KeyState::Primary, Some(current)) if entry.since < current => KeyState::Retiring,
                (KeyState::Primary, Some(current)) if entry.since > current => KeyState::Staged,
                (state, _) => state,
            };
            (entry, state)
        })
    }

    fn primaries(&self) -> impl Iterator<Item = &KeyringEntry> {
        self.entries.iter().filter(|entry| entry.state == KeyState::Primary)
    }

    /// The file's text.
    pub fn print(&self) -> SecretBytes {
        let head = |entry: &KeyringEntry| {
            format!("{} local {} {} ", entry.id, entry.state.name(), entry.since)
        };
        // Exact, since growth would leave copies of keys behind.
        let line = |entry: &KeyringEntry| {
            head(entry).len() + if entry.master.is_some() { 43 } else { 1 } + 1
        };
        let capacity = FAMILY.len() + 2 + self.entries.iter().map(line).sum::<usize>();
        let mut out = Zeroizing::new(Vec::with_capacity(capacity));
        out.extend_from_slice(FAMILY.as_bytes());
        out.extend_from_slice(b"1\n");
        for entry in &self.entries {
            out.extend_from_slice(head(entry).as_bytes());
            match &entry.master {
                Some(master) => {
                    let text = Zeroizing::new(key_text(master));
                    out.extend_from_slice(&*text);
                }
                None => out.push(b'-'),
            }
            out.push(b'\n');
        }
        debug_assert_eq!(out.len(), capacity);
        SecretBytes::new(std::mem::take(&mut *out))
    }

    fn check(&self) -> Result<(), &'static str> {
        if !ascends(self.entries.iter().map(|entry| entry.id)) {
            return Err("keys do not ascend by id");
        }
        let mut times: Vec<Time> = self.primaries().map(|entry| entry.since).collect();
        times.sort_unstable();
        if times.is_empty() || !ascends(times) {
            return Err("no key is primary, or two become primary at the same time");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use KeyState::{Destroyed, Primary, Retired, Retiring, Sealing, Staged};
    use proptest::prelude::*;

    fn entry(id: u8, state: KeyState, since: i64) -> KeyringEntry {
        let master = (state != Destroyed).then(|| SecretKey::new(|key| key.fill(id)));
        KeyringEntry { id: KeyId([id; 16]), state, since: Time::from_unix(since), master }
    }

    fn states(keyring: &Keyring, now: i64) -> Vec<KeyState> {
        keyring.states(Time::from_unix(now)).map(|(_, state)| state).collect()
    }

    fn sample() -> String {
        let entries = [Primary, Retiring, Destroyed, Retired, Sealing, Staged];
        let entries = entries.into_iter().zip(1..).map(|(state, id)| entry(id, state, 1000));
        let text = Keyring::new(entries.collect()).unwrap().print();
        String::from_utf8(text.expose().to_vec()).unwrap()
    }

    #[test]
    fn each_rule_of_s2_5_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let text = sample();
        let keyring = Keyring::parse(text.as_bytes()).unwrap();
        assert_eq!(keyring.print().expose(), text.as_bytes());
        assert_eq!(keyring.entries()[1].master.as_ref().unwrap().expose(), &[2; 32]);
        assert_eq!(states(&keyring, 0), [Primary, Retiring, Destroyed, Retired, Sealing, Staged]);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let swapped = [lines[0], lines[2], lines[1], lines[3]].concat();
        for (text, want) in [
            (text.replace("keyring/1", "keyring/7"), Unsupported),
            (text.replacen(" local ", " tpm ", 1), Unsupported), // [S2.5.1]
            (text.replacen(" local ", " hpke ", 1), Unsupported),
            (text.trim_end().to_owned(), Truncated),
            (swapped, Tampered),                             // [S2.5.3] order
            (text.replace("retiring", "primary"), Tampered), // at the same time
            (text.replace("primary", "retiring"), Tampered), // none
            (text.replace("retiring", "destroyed"), Tampered),
            (text.replace("destroyed", "retired"), Tampered),
            (text.replace("retired", "enabled"), Tampered), // [S2.5.2]
            (text.replace("01-01T", "02-29T"), Tampered),
            (text.replace("AgIC", "AgI"), Tampered),
            (lines[0].to_owned(), Tampered),
        ] {
            let error = Keyring::parse(text.as_bytes()).err().unwrap();
            assert_eq!(error.kind(), want, "{text}");
            assert!(!format!("{error:?}").contains("AQEBAQ"), "{error}");
        }
        assert!(Keyring::new(vec![entry(1, Primary, 0), entry(1, Retired, 0)]).is_err());
        assert!(Keyring::new(Vec::new()).is_err());
    }

    /// [S2.5.3]
    #[test]
    fn a_second_primary_is_staged_until_its_time() {
        let entries = vec![entry(1, Primary, 100), entry(2, Primary, 200), entry(3, Retired, 50)];
        let keyring = Keyring::new(entries).unwrap();
        for (now, want) in [
            (0, [Primary, Staged, Retired]), // A clock that is behind: something must seal.
            (100, [Primary, Staged, Retired]),
            (199, [Primary, Staged, Retired]),
            (200, [Retiring, Primary, Retired]),
            (i64::MAX, [Retiring, Primary, Retired]),
        ] {
            assert_eq!(states(&keyring, now), want, "{now}");
        }
    }

    proptest! {
        #[test]
        fn at_any_time_one_key_is_primary_and_none_comes_back(
            times in proptest::collection::btree_set(0i64..1000, 1..6), now in 0i64..1000, later in 0i64..1000,
        ) {
            let entries = times.iter().zip(1..).map(|(since, id)| entry(id, Primary, *since));
            let keyring = Keyring::new(entries.collect()).unwrap();
            let now_states = states(&keyring, now);
            prop_assert_eq!(now_states.iter().filter(|state| **state == Primary).count(), 1);
            for (before, after) in now_states.into_iter().zip(states(&keyring, now.max(later))) {
                prop_assert!(before <= after, "{before:?} became {after:?}");
            }
        }
    }
}
