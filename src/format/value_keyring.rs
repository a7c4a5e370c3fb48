//! The value keys of a namespace, as JSON (SPEC.md §10.2). Its seal and encryption are done above.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::{Uuid, ValueKeyId};
use super::json::{self, Base64, Key, Text};
use super::time::Time;
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};

/// The most value keys in one keyring, destroyed ones included.
pub const MAX_VALUE_KEYS: usize = 1024;
/// The most prefixes under migration, and the longest of them in bytes.
pub const MAX_MIGRATE: usize = 64;
const MAX_PREFIX: usize = 1024;
const WHAT: &str = "value keyring";

/// Where a value key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKeyState {
    /// Opens, and does not seal yet.
    Staged,
    /// Seals and opens; exactly one key is.
    Primary,
    /// Opens, no longer seals.
    Enabled,
    /// Kept, used for nothing.
    Disabled,
    /// Its bytes are gone; the entry remembers that it was.
    Destroyed,
}

impl ValueKeyState {
    const ALL: [Self; 5] =
        [Self::Staged, Self::Primary, Self::Enabled, Self::Disabled, Self::Destroyed];

    /// The state of that word.
    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == word)
    }

    /// The word in the record.
    #[must_use]
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

/// One value key.
pub struct ValueKeyEntry {
    /// Its id.
    pub id: ValueKeyId,
    /// Where it is in its life.
    pub state: ValueKeyState,
    /// When it was made.
    pub created: Time,
    /// The key; `None` exactly when destroyed.
    pub key: Option<SecretKey>,
}

/// The phase of the values of some keys on the way to encryption, or back.
///
/// A program in any phase reads what programs in the adjacent phases write. So phases follow each other one by one, and
/// each begins after every program has followed the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPhase {
    /// On the way to encryption: both are read, and values are written unencrypted.
    Admit,
    /// On the way to encryption: both are read, and values are written encrypted.
    Encrypt,
    /// Only encrypted values are read and written: every key that is under no migration.
    Done,
    /// On the way back: both are read, and values are written encrypted.
    AdmitBack,
    /// On the way back: both are read, and values are written unencrypted.
    Decrypt,
    /// Only unencrypted values are read and written.
    Off,
}

impl MigrationPhase {
    /// All, in their order.
    pub const ALL: [Self; 6] =
        [Self::Admit, Self::Encrypt, Self::Done, Self::AdmitBack, Self::Decrypt, Self::Off];

    /// Its name in the record and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Encrypt => "encrypt",
            Self::Done => "done",
            Self::AdmitBack => "admit-back",
            Self::Decrypt => "decrypt",
            Self::Off => "off",
        }
    }

    /// The phase of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// Whether values are written encrypted.
    #[must_use]
    pub const fn encrypts(self) -> bool {
        matches!(self, Self::Encrypt | Self::Done | Self::AdmitBack)
    }

    /// Whether unencrypted values are read.
    #[must_use]
    pub const fn accepts_unencrypted(self) -> bool {
        !matches!(self, Self::Done)
    }

    /// Whether encrypted values are read.
    #[must_use]
    pub const fn accepts_encrypted(self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Whether `next` may follow: programs in the two phases read what the others write.
    #[must_use]
    pub fn leads_to(self, next: Self) -> bool {
        self.distance().abs_diff(next.distance()) <= 1
    }

    /// The distance from unencrypted values.
    const fn distance(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Admit | Self::Decrypt => 1,
            Self::Encrypt | Self::AdmitBack => 2,
            Self::Done => 3,
        }
    }
}

/// A prefix of keys whose values are not, or not only, encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The keys with this prefix.
    pub prefix: Vec<u8>,
    /// Their phase; never [`Done`](MigrationPhase::Done), which is the end of a migration.
    pub phase: MigrationPhase,
}

/// All value keys of one namespace.
pub struct ValueKeyring {
    /// The namespace, which is bound into every value.
    pub namespace: Uuid,
    /// Counts the record's writes, from 1.
    pub serial: u32,
    /// The keys, oldest first; exactly one is primary.
    pub keys: Vec<ValueKeyEntry>,
    /// The prefixes under migration; none is a prefix of another.
    pub migrate: Vec<Migration>,
}

#[derive(Deserialize)]
struct Read {
    keys: Vec<ReadKey>,
    #[serde(default)]
    migrate: Vec<ReadMigration>,
}

#[derive(Deserialize)]
struct ReadMigration {
    prefix: Base64<Vec<u8>>,
    phase: String,
}

#[derive(Deserialize)]
struct ReadKey {
    id: Text<ValueKeyId>,
    key: Option<Key<SecretKey>>,
    state: String,
    created: Text<Time>,
}

#[derive(Serialize)]
struct Written<'a> {
    keys: Vec<WrittenKey<'a>>,
    migrate: Vec<WrittenMigration<'a>>,
}

#[derive(Serialize)]
struct WrittenMigration<'a> {
    prefix: Base64<&'a [u8]>,
    phase: &'static str,
}

#[derive(Serialize)]
struct WrittenKey<'a> {
    id: Text<ValueKeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Key<&'a SecretKey>>,
    state: &'static str,
    created: Text<Time>,
}

impl ValueKeyring {
    /// Parses the JSON of an opened record; namespace and serial are those of its seal.
    ///
    /// # Errors
    /// Unsupported for an unknown `requires`, else tampered.
    pub fn parse(namespace: Uuid, serial: u32, json: &[u8]) -> Result<Self> {
        let read: Read = json::parse_secret(WHAT, json)?;
        let mut keys = Vec::new();
        for key in read.keys {
            let state = ValueKeyState::of(&key.state)
                .ok_or_else(|| Error::tampered(format!("{WHAT}: unknown state of a key")))?;
            let (id, created, key) = (key.id.0, key.created.0, key.key.map(|key| key.0));
            keys.push(ValueKeyEntry { id, state, created, key });
        }
        let mut migrate = Vec::new();
        for entry in read.migrate {
            let phase = MigrationPhase::of(&entry.phase)
                .ok_or_else(|| Error::tampered(format!("{WHAT}: unknown phase of a migration")))?;
            migrate.push(Migration { prefix: entry.prefix.0, phase });
        }
        let keyring = Self { namespace, serial, keys, migrate };
        keyring.check().map_err(|why| Error::tampered(format!("{WHAT}: {why}")))?;
        Ok(keyring)
    }

    /// The JSON. Secret.
    ///
    /// # Errors
    /// Usage when it breaks a rule, such as too many keys.
    pub fn print(&self) -> Result<SecretBytes> {
        self.check().map_err(|why| Error::usage(format!("{WHAT}: {why}")))?;
        let keys = self.keys.iter().map(|entry| WrittenKey {
            id: Text(entry.id),
            key: entry.key.as_ref().map(Key),
            state: entry.state.name(),
            created: Text(entry.created),
        });
        let migrate = self.migrate.iter().map(|entry| WrittenMigration {
            prefix: Base64(entry.prefix.as_slice()),
            phase: entry.phase.name(),
        });
        json::print_secret(&Written { keys: keys.collect(), migrate: migrate.collect() })
    }

    fn check(&self) -> Result<(), &'static str> {
        let ids: BTreeSet<ValueKeyId> = self.keys.iter().map(|entry| entry.id).collect();
        if self.serial == 0 || self.keys.len() > MAX_VALUE_KEYS {
            return Err("serial 0, or too many keys");
        }
        if ids.len() != self.keys.len() {
            return Err("two keys have the same id");
        }
        if self.keys.iter().filter(|entry| entry.state == ValueKeyState::Primary).count() != 1 {
            return Err("not exactly one key is primary");
        }
        if self
            .keys
            .iter()
            .any(|entry| entry.key.is_none() != (entry.state == ValueKeyState::Destroyed))
        {
            return Err("a key is absent exactly when destroyed");
        }
        self.check_migrate()
    }

    fn check_migrate(&self) -> Result<(), &'static str> {
        let all = &self.migrate;
        if all.len() > MAX_MIGRATE || all.iter().any(|entry| entry.prefix.len() > MAX_PREFIX) {
            return Err("too many or too long prefixes under migration");
        }
        if all.iter().any(|entry| entry.phase == MigrationPhase::Done) {
            return Err("a migration that is done");
        }
        let covers = |at: usize, prefix: &[u8]| {
            all.iter()
                .enumerate()
                .any(|(other, entry)| other != at && prefix.starts_with(&entry.prefix))
        };
        if all.iter().enumerate().any(|(at, entry)| covers(at, &entry.prefix)) {
            return Err("a prefix under migration starts with another");
        }
        Ok(())
    }

    /// The phase that is set for exactly `prefix`.
    #[must_use]
    pub fn phase(&self, prefix: &[u8]) -> MigrationPhase {
        let entry = self.migrate.iter().find(|entry| entry.prefix == prefix);
        entry.map_or(MigrationPhase::Done, |entry| entry.phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const GOOD: &str = r#"{"keys":[{"id":"00000001","key":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE","state":"primary","created":"2026-02-28T23:59:59Z"},{"id":"00000002","state":"destroyed","created":"2026-02-28T23:59:59Z"}],"migrate":[{"prefix":"L2Ev","phase":"admit"},{"prefix":"L2Iv","phase":"off"}]}"#;

    #[test]
    fn each_rule_of_s10_2() {
        let parse = |json: &str| ValueKeyring::parse(Uuid([1; 16]), 1, json.as_bytes());
        assert_eq!(parse(GOOD).unwrap().print().unwrap().expose(), GOOD.as_bytes());
        for (from, to) in [
            ("primary", "enabled"),
            ("primary", "destroyed"),
            ("\"destroyed\"", "\"primary\""),
            ("primary", "first"),
            ("00000001", "00000000"),
            ("00000001", "00000002"),
            ("AQE\"", "AQ\""),
            ("02-28", "02-30"),
            ("L2Ev", "L2F"),
            ("L2Ev", "L2Iv"),
            ("L2Ev", "L2IvYw"),
            ("L2Ev", ""),
            ("admit", "done"),
            ("admit", "none"),
        ] {
            let kind = parse(&GOOD.replacen(from, to, 1)).err().map(|error| error.kind());
            assert_eq!(kind, Some(ErrorKind::Tampered), "{from} {to}");
        }
        assert!(ValueKeyring::parse(Uuid([1; 16]), 0, GOOD.as_bytes()).is_err());
    }

    /// What a program in one phase writes, a program in a phase next to it reads.
    #[test]
    fn neighbouring_phases_understand_each_other() {
        for from in MigrationPhase::ALL {
            assert_eq!(MigrationPhase::of(from.name()), Some(from));
            for to in MigrationPhase::ALL {
                let reads = |reader: MigrationPhase, writer: MigrationPhase| {
                    if writer.encrypts() {
                        reader.accepts_encrypted()
                    } else {
                        reader.accepts_unencrypted()
                    }
                };
                assert!(reads(from, from));
                let understood = reads(from, to) && reads(to, from);
                assert!(understood || !from.leads_to(to), "{from:?} {to:?}");
            }
        }
        let way = MigrationPhase::ALL;
        assert!(way.windows(2).all(|pair| pair[0].leads_to(pair[1])) && way[5].leads_to(way[0]));
        assert!(!MigrationPhase::Admit.leads_to(MigrationPhase::Done));
        assert!(!MigrationPhase::Off.leads_to(MigrationPhase::Encrypt));
    }
}
