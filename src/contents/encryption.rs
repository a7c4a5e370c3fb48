//! How Kubernetes' API server stored a value, as the value's beginning tells
//! (`staging/src/k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::protobuf::Fields;
use crate::text::printable;

const ENCRYPTED: &[u8] = b"k8s:enc:";
/// What Kubernetes' own encoding begins with, encrypted or not.
const KUBERNETES: [&[u8]; 2] = [ENCRYPTED, b"k8s\0"];
/// The longest provider, version and name taken; Kubernetes' names have at most 253 bytes.
const MAX_NAME: usize = 253;
/// The longest key id: Kubernetes refuses a longer one from a KMS plugin.
const MAX_KEY_ID: usize = 1024;
/// The most keys told apart; a cluster has a handful.
const MAX_KEYS: usize = 10_000;

/// How a value is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// Readable by anyone who has the database (`identity`, or no encryption configured).
    Unencrypted,
    /// Encrypted by the API server.
    Encrypted(KeyInUse),
    /// It begins as an encrypted value does, and no known version of Kubernetes goes on like that.
    Unknown,
}

/// The key that an encrypted value needs, as far as the value names it. All text is fit to print.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KeyInUse {
    /// `aescbc`, `aesgcm`, `secretbox` or `kms`.
    pub provider: String,
    /// `v1` or `v2`.
    pub version: String,
    /// The key's name in the `EncryptionConfiguration`; with `kms`, the plugin's name there.
    pub name: String,
    /// The key id that the KMS plugin gave, with `kms` `v2`.
    pub key_id: Option<String>,
}

impl Protection {
    /// That of `value`.
    pub fn of(value: &[u8]) -> Self {
        match value.strip_prefix(ENCRYPTED) {
            None => Self::Unencrypted,
            Some(rest) => KeyInUse::parse(rest).map_or(Self::Unknown, Self::Encrypted),
        }
    }
}

/// Whether only Kubernetes writes such values. Custom resources are JSON, so that it does not write only these.
pub(crate) fn is_kubernetes(value: &[u8]) -> bool {
    KUBERNETES.iter().any(|start| value.starts_with(start))
}

impl KeyInUse {
    /// From what follows `k8s:enc:`.
    fn parse(rest: &[u8]) -> Option<Self> {
        let (provider, rest) = part(rest)?;
        let (version, rest) = part(rest)?;
        let (name, rest) = part(rest)?;
        let key_id = match (provider, version) {
            (b"aescbc" | b"aesgcm" | b"secretbox" | b"kms", b"v1") => None,
            (b"kms", b"v2") => Some(printable(key_id(rest)?)),
            _ => return None,
        };
        Some(Self {
            provider: printable(provider),
            version: printable(version),
            name: printable(name),
            key_id,
        })
    }
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().take(MAX_NAME.saturating_add(1)).position(|byte| *byte == b':')?;
    Some((bytes.get(..at)?, bytes.get(at.saturating_add(1)..)?))
}

/// Field 2 of `EncryptedObject` (`encrypt/envelope/kmsv2/v2/api.proto`).
fn key_id(bytes: &[u8]) -> Option<&[u8]> {
    let (mut fields, mut id) = (Fields(bytes), None);
    while let Some((number, field)) = fields.next().ok()? {
        if number == 2 {
            id = Some(field.bytes().ok()?);
        }
    }
    id.filter(|id| id.len() <= MAX_KEY_ID)
}

/// Each [`Protection`] once, under a small number.
#[derive(Default)]
pub(crate) struct Protections {
    known: BTreeMap<Protection, usize>,
    /// Values counted under each number.
    values: Vec<u64>,
}

impl Protections {
    /// Counts one more value of this protection; its number.
    pub(crate) fn count(&mut self, protection: Protection) -> usize {
        let full = self.known.len() >= MAX_KEYS && !self.known.contains_key(&protection);
        let protection = if full { Protection::Unknown } else { protection };
        let next = self.values.len();
        let number = *self.known.entry(protection).or_insert(next);
        if number == next {
            self.values.push(0);
        }
        if let Some(values) = self.values.get_mut(number) {
            *values = values.saturating_add(1);
        }
        number
    }

    /// All, by number, with how many values were counted.
    pub(crate) fn into_all(self) -> Vec<(Protection, u64)> {
        let mut all: Vec<_> = self.known.into_iter().collect();
        all.sort_unstable_by_key(|(_, number)| *number);
        all.into_iter().map(|(protection, _)| protection).zip(self.values).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_something(start in 0_usize..5, rest in prop::collection::vec(any::<u8>(), 0..60)) {
            let starts = ["", "k8s:enc:", "k8s:enc:kms:v2:", "k8s:enc:kms:v2:x:", "k8s:enc:kms:v2:x:\x12"];
            if let Protection::Encrypted(key) = Protection::of(&[starts[start].as_bytes(), &rest].concat()) {
                let told = [Some(key.name), key.key_id].into_iter().flatten().collect::<String>();
                prop_assert!(!told.contains(char::is_control));
            }
        }
    }

    fn encrypted(value: &[u8]) -> (String, String, String, Option<String>) {
        match Protection::of(value) {
            Protection::Encrypted(key) => (key.provider, key.version, key.name, key.key_id),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_provider_is_told() {
        for provider in ["aescbc", "aesgcm", "secretbox", "kms"] {
            let value = format!("k8s:enc:{provider}:v1:key-1:\u{1}bytes:more");
            let told = (provider.to_owned(), "v1".to_owned(), "key-1".to_owned(), None);
            assert_eq!(encrypted(value.as_bytes()), told);
        }
        // EncryptedObject {encryptedData: "xy", keyID: "id-7", encryptedDEKSource: "z", type: 1}
        let v2 = b"k8s:enc:kms:v2:vault:\x0a\x02xy\x12\x04id-7\x1a\x01z\x28\x01";
        let told = ("kms".to_owned(), "v2".to_owned(), "vault".to_owned(), Some("id-7".to_owned()));
        assert_eq!(encrypted(v2), told);
    }

    #[test]
    fn clear_and_unknown() {
        for clear in [&b"k8s\0\n\x02v1"[..], b"{\"kind\":\"Foo\"}", b"", b"k8s:en"] {
            assert_eq!(Protection::of(clear), Protection::Unencrypted);
        }
        let long = [b"k8s:enc:aescbc:v1:", &[b'x'; 254][..], b":"].concat();
        for unknown in [
            &b"k8s:enc:"[..],
            b"k8s:enc:aescbc:v1:key",
            b"k8s:enc:aescbc:v2:key:x",
            b"k8s:enc:rot13:v1:key:x",
            b"k8s:enc:kms:v2:name:\x12\x7fshort",
            b"k8s:enc:kms:v2:name:",
            &long,
        ] {
            assert_eq!(Protection::of(unknown), Protection::Unknown);
        }
    }

    #[test]
    fn names_are_fit_to_print() {
        assert_eq!(encrypted(b"k8s:enc:aesgcm:v1:a\x1b[2J:x").2, "a\\u{1b}[2J");
    }
}
