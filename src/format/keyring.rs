//! The keyring file: master keys on the operator's own disk (SPEC.md §2.5).

use data_encoding::BASE64_NOPAD;
use zeroize::Zeroizing;

use super::ids::KeyId;
use super::json::key_text;
use super::passphrase::Argon2Params;
use super::text::{Line, Lines, ascends, decode_into};
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};

/// The longest keyring file that is read, in bytes.
pub const MAX_KEYRING: usize = 1 << 20;

const CLEAR: &str = "strongroom-keyring/";
const SEALED: &str = "strongroom-keyring-sealed/";
const WHAT: &str = "keyring";

/// Where a master key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Made, not yet used to seal.
    Staged,
    /// Seals and opens; exactly one key is.
    Primary,
    /// Opens, no longer seals.
    Enabled,
    /// Kept, used for nothing.
    Disabled,
    /// Its bytes are gone; the line remembers that it was.
    Destroyed,
}

impl KeyState {
    const ALL: [Self; 5] =
        [Self::Staged, Self::Primary, Self::Enabled, Self::Disabled, Self::Destroyed];

    /// The state of that word.
    pub(super) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == word)
    }

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Primary => "primary",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Destroyed => "destroyed",
        }
    }
}

/// One master key.
pub struct KeyringEntry {
    /// Its id.
    pub id: KeyId,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was made: `YYYY-MM-DDTHH:MM:SSZ`.
    pub created: String,
    /// The key; `None` exactly when destroyed.
    pub master: Option<SecretKey>,
}

impl KeyringEntry {
    fn check(&self) -> Result<(), &'static str> {
        if !is_timestamp(&self.created) {
            return Err("not a time of the form YYYY-MM-DDTHH:MM:SSZ");
        }
        if self.master.is_none() != (self.state == KeyState::Destroyed) {
            return Err("a key is absent exactly when destroyed");
        }
        Ok(())
    }

    fn parse(mut line: Line<'_>) -> Result<Self> {
        let id = line.id()?;
        if line.token()? != "local" {
            return Err(line.unsupported("a key of a type that is not known here"));
        }
        let state = line.token()?;
        let state = KeyState::of(state).ok_or_else(|| line.refuse("no state of a key"))?;
        let created = line.token()?.to_owned();
        let master = match line.token()? {
            "-" => None,
            text => Some(
                SecretKey::try_new(|key| decode_into(text, key).ok_or(()))
                    .map_err(|()| line.refuse("not a key in base64"))?,
            ),
        };
        let entry = Self { id, state, created, master };
        entry.check().map_err(|why| line.refuse(why))?;
        line.end()?;
        Ok(entry)
    }
}

/// A keyring: keys ascending by id, exactly one of them primary.
pub struct Keyring {
    entries: Vec<KeyringEntry>,
}

impl Keyring {
    /// A keyring of these entries; sorts them.
    ///
    /// # Errors
    /// Usage when an id stands twice, not exactly one key is primary, a creation time is malformed
    /// or a key is absent though not destroyed (or the other way round).
    pub fn new(mut entries: Vec<KeyringEntry>) -> Result<Self> {
        entries.sort_by_key(|entry| entry.id);
        let refuse = |why| Error::usage(format!("{WHAT}: {why}"));
        entries.iter().try_for_each(KeyringEntry::check).map_err(refuse)?;
        let keyring = Self { entries };
        keyring.check().map_err(refuse)?;
        Ok(keyring)
    }

    /// Parses the text of a clear keyring file.
    ///
    /// # Errors
    /// Unsupported for another version or type of key; truncated without the final LF; tampered
    /// otherwise. None shows the text.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::open(WHAT, CLEAR, MAX_KEYRING, bytes)?;
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

    /// The clear file's text.
    pub fn print(&self) -> SecretBytes {
        // Exact, since growth would leave copies of keys behind.
        let line = |entry: &KeyringEntry| {
            let master = if entry.master.is_some() { 43 } else { 1 };
            32 + " local ".len()
                + entry.state.name().len()
                + 1
                + entry.created.len()
                + 1
                + master
                + 1
        };
        let capacity = CLEAR.len() + 2 + self.entries.iter().map(line).sum::<usize>();
        let mut out = Zeroizing::new(Vec::with_capacity(capacity));
        out.extend_from_slice(CLEAR.as_bytes());
        out.extend_from_slice(b"1\n");
        for entry in &self.entries {
            let KeyringEntry { id, state, created, master } = entry;
            let head = format!("{id} local {} {created} ", state.name());
            out.extend_from_slice(head.as_bytes());
            match master {
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
        if self.entries.iter().filter(|entry| entry.state == KeyState::Primary).count() != 1 {
            return Err("not exactly one key is primary");
        }
        Ok(())
    }
}

/// A keyring file under a passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKeyring {
    /// How the passphrase becomes a key.
    pub argon2: Argon2Params,
    /// C(T, … [`bound_bytes`](Self::bound_bytes), the clear file's text).
    pub sealed: Vec<u8>,
}

impl SealedKeyring {
    /// Whether `bytes` begin as a sealed keyring file does, of whatever version.
    pub fn is_sealed(bytes: &[u8]) -> bool {
        bytes.starts_with(SEALED.as_bytes())
    }

    /// Parses the file.
    ///
    /// # Errors
    /// Unsupported for another version; truncated when the last line is missing or unfinished;
    /// tampered otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // The clear text's limit, in base64 and with every chunk's overhead, fits in twice as much.
        let mut lines = Lines::open(WHAT, SEALED, 2 * MAX_KEYRING, bytes)?;
        let argon2 = Argon2Params::parse(&mut lines)?;
        let mut line = lines.keyword("sealed")?;
        let sealed = line.base64_vec()?;
        line.end()?;
        lines.finish()?;
        Ok(Self { argon2, sealed })
    }

    /// Every byte before the line `sealed`, which the encryption's context covers.
    ///
    /// # Errors
    /// Usage when an Argon2id parameter is out of range.
    pub fn bound_bytes(argon2: &Argon2Params) -> Result<Vec<u8>> {
        Ok(format!("{SEALED}1\n{}", argon2.print()?).into_bytes())
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// Those of [`bound_bytes`](Self::bound_bytes).
    pub fn print(&self) -> Result<Vec<u8>> {
        let mut bytes = Self::bound_bytes(&self.argon2)?;
        bytes.extend_from_slice(
            format!("sealed {}\n", BASE64_NOPAD.encode(&self.sealed)).as_bytes(),
        );
        Ok(bytes)
    }
}

/// Whether `text` is `YYYY-MM-DDTHH:MM:SSZ` and a real date of the Gregorian calendar.
pub(super) fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 20
        && bytes.iter().zip(b"0000-00-00T00:00:00Z").all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            _ => byte == form,
        });
    let at = |from: usize, to: usize| text.get(from..to).and_then(|n| n.parse::<u32>().ok());
    let (Some(year), Some(month), Some(day)) = (at(0, 4), at(5, 7), at(8, 10)) else {
        return false;
    };
    let (Some(hour), Some(minute), Some(second)) = (at(11, 13), at(14, 16), at(17, 19)) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    shape && (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    fn entry(id: u8, state: KeyState) -> KeyringEntry {
        let master = (state != KeyState::Destroyed).then(|| SecretKey::new(|key| key.fill(id)));
        KeyringEntry { id: KeyId([id; 16]), state, created: "2026-02-28T23:59:59Z".into(), master }
    }

    fn sample() -> String {
        let entries = vec![
            entry(3, KeyState::Destroyed),
            entry(1, KeyState::Primary),
            entry(2, KeyState::Enabled),
        ];
        let text = Keyring::new(entries).unwrap().print();
        String::from_utf8(text.expose().to_vec()).unwrap()
    }

    #[test]
    fn each_rule_of_s2_5_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        let text = sample();
        let keyring = Keyring::parse(text.as_bytes()).unwrap();
        assert_eq!(keyring.print().expose(), text.as_bytes());
        assert_eq!(keyring.entries()[1].master.as_ref().unwrap().expose(), &[2; 32]);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let swapped = [lines[0], lines[2], lines[1], lines[3]].concat();
        for (text, want) in [
            (text.replace("keyring/1", "keyring/7"), Unsupported),
            (text.replacen(" local ", " tpm ", 1), Unsupported),
            (text.trim_end().to_owned(), Truncated),
            (swapped, Tampered),
            (text.replace("enabled", "primary"), Tampered),
            (text.replace("primary", "enabled"), Tampered),
            (text.replace("enabled", "destroyed"), Tampered),
            (text.replace("destroyed", "disabled"), Tampered),
            (text.replace("enabled", "retired"), Tampered),
            (text.replace("02-28T", "02-29T"), Tampered),
            (text.replace("T23:", "T24:"), Tampered),
            (text.replace("AgIC", "AgI"), Tampered),
            (lines[0].to_owned(), Tampered),
        ] {
            let error = Keyring::parse(text.as_bytes()).err().unwrap();
            assert_eq!(error.kind(), want, "{text}");
            assert!(!format!("{error:?}").contains("AQEBAQ"), "{error}");
        }
        assert!(
            Keyring::new(vec![entry(1, KeyState::Primary), entry(1, KeyState::Enabled)]).is_err()
        );
    }

    #[test]
    fn calendar() {
        assert!(is_timestamp("2024-02-29T00:00:00Z"));
        for bad in [
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-04-30T00:00:60Z",
            "2026-04-30 00:00:00Z",
            "2026-04-30T00:00:00",
            "+026-04-30T00:00:00Z",
            "2026-04-30T00:00:00z",
        ] {
            assert!(!is_timestamp(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_sealed_keyring_round_trips(m_kib in 128u32.., salt: [u8; 16], sealed: Vec<u8>) {
            prop_assume!(!sealed.is_empty());
            let file = SealedKeyring { argon2: Argon2Params { m_kib, t: 3, p: 4, salt }, sealed };
            let bytes = file.print().unwrap();
            prop_assert!(SealedKeyring::is_sealed(&bytes));
            prop_assert_eq!(SealedKeyring::parse(&bytes).unwrap(), file);
        }
    }
}
