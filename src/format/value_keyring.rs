//! The value keys of a namespace, as JSON (SPEC.md §10.2). Its seal and encryption are done above.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::{Uuid, ValueKeyId};
use super::json::{self, Base64, Key, Text};
use super::keyring::{KeyState, is_timestamp};
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};

/// The most value keys in one keyring, destroyed ones included.
pub const MAX_VALUE_KEYS: usize = 1024;
/// The most prefixes whose values may be in clear, and the longest of them in bytes.
pub const MAX_MIGRATE: usize = 64;
const MAX_PREFIX: usize = 1024;
const WHAT: &str = "value keyring";

/// One value key.
pub struct ValueKeyEntry {
    /// Its id.
    pub id: ValueKeyId,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was made: `YYYY-MM-DDTHH:MM:SSZ`.
    pub created: String,
    /// The key; `None` exactly when destroyed.
    pub key: Option<SecretKey>,
}

/// All value keys of one namespace.
pub struct ValueKeyring {
    /// The namespace, which is bound into every value.
    pub namespace: Uuid,
    /// Counts the record's writes, from 1.
    pub serial: u32,
    /// The keys, oldest first; exactly one is primary.
    pub keys: Vec<ValueKeyEntry>,
    /// Under these prefixes a value that is not encrypted passes as it is.
    pub migrate: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Read {
    keys: Vec<ReadKey>,
    #[serde(default)]
    migrate: Vec<Base64<Vec<u8>>>,
}

#[derive(Deserialize)]
struct ReadKey {
    id: Text<ValueKeyId>,
    key: Option<Key<SecretKey>>,
    state: String,
    created: String,
}

#[derive(Serialize)]
struct Written<'a> {
    keys: Vec<WrittenKey<'a>>,
    migrate: Vec<Base64<&'a [u8]>>,
}

#[derive(Serialize)]
struct WrittenKey<'a> {
    id: Text<ValueKeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Key<&'a SecretKey>>,
    state: &'static str,
    created: &'a str,
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
            let state = KeyState::of(&key.state)
                .ok_or_else(|| Error::tampered(format!("{WHAT}: no state of a key")))?;
            let (id, created, key) = (key.id.0, key.created, key.key.map(|key| key.0));
            keys.push(ValueKeyEntry { id, state, created, key });
        }
        let migrate = read.migrate.into_iter().map(|prefix| prefix.0).collect();
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
            created: &entry.created,
        });
        let migrate = self.migrate.iter().map(|prefix| Base64(prefix.as_slice()));
        json::print_secret(&Written { keys: keys.collect(), migrate: migrate.collect() })
    }

    fn check(&self) -> Result<(), &'static str> {
        let ids: BTreeSet<ValueKeyId> = self.keys.iter().map(|entry| entry.id).collect();
        if self.serial == 0 || self.keys.len() > MAX_VALUE_KEYS {
            return Err("serial 0, or too many keys");
        }
        if ids.len() != self.keys.len() {
            return Err("a key stands twice");
        }
        if self.keys.iter().filter(|entry| entry.state == KeyState::Primary).count() != 1 {
            return Err("not exactly one key is primary");
        }
        if self.keys.iter().any(|entry| entry.key.is_none() != (entry.state == KeyState::Destroyed))
        {
            return Err("a key is absent exactly when destroyed");
        }
        if self.keys.iter().any(|entry| !is_timestamp(&entry.created)) {
            return Err("no time of creation");
        }
        if self.migrate.len() > MAX_MIGRATE || self.migrate.iter().any(|p| p.len() > MAX_PREFIX) {
            return Err("too many or too long prefixes");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const GOOD: &str = r#"{"keys":[{"id":"00000001","key":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE","state":"primary","created":"2026-02-28T23:59:59Z"},{"id":"00000002","state":"destroyed","created":"2026-02-28T23:59:59Z"}],"migrate":["L2Ev"]}"#;

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
        ] {
            let kind = parse(&GOOD.replacen(from, to, 1)).err().map(|error| error.kind());
            assert_eq!(kind, Some(ErrorKind::Tampered), "{from} {to}");
        }
        assert!(ValueKeyring::parse(Uuid([1; 16]), 0, GOOD.as_bytes()).is_err());
    }
}
