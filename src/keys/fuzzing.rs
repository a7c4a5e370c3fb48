//! One function for each parser: takes any bytes, must not panic. For fuzz targets and tests.

use std::sync::OnceLock;

use super::{Binding, Recipient};
use super::{
    HpkeIdentity, HpkeRecipient, Identity, IdentityFile, PublicSigner, Signer, SigningKey, at_once,
};
use crate::crypto::{Kem, system_rng};
use crate::format::{Sha256, SnapshotId, Stanza, Subject};

/// Takes any bytes.
pub type Parser = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Parser)] = &[
    ("hpke", hpke),
    ("identity_file", identity_file),
    ("recipient", recipient),
    ("signers", signers),
    ("signing_key", signing_key),
];

/// The body of a stanza: its first byte chooses the key.
pub fn hpke(data: &[u8]) {
    static KEYS: OnceLock<Vec<HpkeIdentity>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let new = |kem| HpkeIdentity::generate(kem, &mut system_rng()).ok();
        [Kem::XWing, Kem::X25519].into_iter().filter_map(new).collect()
    });
    let Some((first, body)) = data.split_first() else { return };
    let Some(key) = keys.get(usize::from(first % 2)) else { return };
    let Ok(stanza) = Stanza::new("hpke", Recipient::id(key), &[], body.to_vec()) else { return };
    let subject = Subject::Snapshot(SnapshotId(1));
    let binding = Binding { subject, commitment: [1; 32], object: Sha256([2; 32]) };
    assert!(at_once(key.unwrap(&stanza, &binding)).is_err(), "nobody can have made it");
}

pub fn identity_file(data: &[u8]) {
    let _ = IdentityFile::parse(&String::from_utf8_lossy(data));
}

pub fn recipient(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(key) = text.parse::<HpkeRecipient>() {
        assert!(key.to_string() == text);
    }
    if let Ok(key) = text.parse::<PublicSigner>() {
        assert!(key.to_string() == text);
    }
}

pub fn signers(data: &[u8]) {
    let _ = Signer::parse_file(&String::from_utf8_lossy(data));
}

pub fn signing_key(data: &[u8]) {
    let _ = SigningKey::parse(&String::from_utf8_lossy(data));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes(data: Vec<u8>, text in "(age1|age1pq1|srsign1|SRSIGN-SECRET-KEY-1|# signers: )?[ -~\n]{0,200}") {
            for (_, parser) in super::ALL {
                parser(&data);
                parser(text.as_bytes());
            }
        }
    }
}
