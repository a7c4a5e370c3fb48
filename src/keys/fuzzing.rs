//! One function for each parser: takes any bytes, must not panic. For fuzz targets and tests.

use std::sync::OnceLock;

use super::{Binding, Recipient};
use super::{
    HpkeIdentity, HpkeRecipient, Identity, IdentityFile, KeySet, Keyring, PublicSigner, Signer,
    SigningKey, at_once,
};
#[cfg(feature = "backup")]
use crate::crypto::slip39::{self, Share};
use crate::crypto::{Kem, system_rng};
use crate::format::{Seal, Sha256, SnapshotId, Stanza, Subject, Time};
use crate::secret::SecretKey;

/// Takes any bytes.
pub type Parser = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Parser)] = &[
    ("hpke", hpke),
    ("identity_file", identity_file),
    ("recipient", recipient),
    ("signers", signers),
    ("signing_key", signing_key),
    ("kubernetes", kubernetes),
    #[cfg(feature = "backup")]
    ("shares", shares),
    ("vouched", vouched),
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

/// What a Kubernetes API server sends to be decrypted.
pub fn kubernetes(data: &[u8]) {
    static KEYRING: OnceLock<Option<Keyring>> = OnceLock::new();
    let new = || Keyring::generate(Time::from_unix(0), &mut system_rng()).ok();
    let Some(keyring) = KEYRING.get_or_init(new) else { return };
    for (id, ..) in keyring.list(Time::from_unix(0)) {
        assert!(keyring.decrypt(id, data).is_err(), "nobody can have made it");
    }
}

/// Shares on paper, one a line.
#[cfg(feature = "backup")]
pub fn shares(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut shares = Vec::new();
    for line in text.lines() {
        if let Ok(share) = Share::parse(line) {
            let again = share.words();
            let again = std::str::from_utf8(again.expose()).map(Share::parse);
            assert!(matches!(again, Ok(Ok(_))));
            shares.push(share);
        }
    }
    // More iterations take a second.
    if shares.first().is_some_and(|share| share.set.exponent < 2) {
        let _ = slip39::combine(&shares, b"");
    }
}

/// A seal with signatures, of which one may be the signer's.
pub fn vouched(data: &[u8]) {
    let _ = trusted(data);
}

/// The seal, if it parses, and how many signatures of the one signer are good.
fn trusted(data: &[u8]) -> Option<(Seal, usize)> {
    static KEYS: OnceLock<KeySet> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let mut keys = KeySet::new();
        keys.trust(Signer::new(signer().public()));
        keys
    });
    let seal = Seal::parse(data).ok()?;
    let signed = keys.signed_by(&seal, None).ok()?;
    Some((seal, signed.trusted.len()))
}

fn signer() -> SigningKey {
    SigningKey::new(SecretKey::new(|seed| seed.fill(3)))
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
    use proptest::sample::Index as At;

    use super::*;
    use crate::format::{KeyId, SealBody};

    fn signed_seal() -> Vec<u8> {
        let (subject, object) = (Subject::Snapshot(SnapshotId(1 << 100)), Sha256([3; 32]));
        let stanza = Stanza::local(KeyId([1; 16]), &[1; 104]);
        let signature = signer().sign(subject, object);
        let seal = SealBody::new(subject, 1, object, [2; 32], vec![stanza], vec![signature]);
        seal.unwrap().finish([3; 32]).print()
    }

    /// Shares of the reference implementation: one a line.
    #[cfg(feature = "backup")]
    fn pages() -> Vec<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/slip39.json");
        let document: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let vectors = document["vectors"].as_array().unwrap().iter();
        let lines = |vector: &serde_json::Value| {
            let shares = vector[1].as_array().unwrap().iter();
            shares.map(|share| share.as_str().unwrap().to_owned() + "\n").collect()
        };
        vectors.map(lines).collect()
    }

    proptest! {
        #[test]
        fn any_bytes(data: Vec<u8>, text in "(age1|age1pq1|srsign1|SRSIGN-SECRET-KEY-1|# signers: )?[ -~\n]{0,200}") {
            for (_, parser) in super::ALL {
                parser(&data);
                parser(text.as_bytes());
            }
        }

        /// Whatever is changed, the signature stands for the same subject and object only.
        #[test]
        fn changed_seals(edits in proptest::collection::vec((any::<At>(), 0..3, any::<u8>()), 1..4)) {
            let mut data = signed_seal();
            let genuine = Seal::parse(&data).unwrap();
            assert_eq!(trusted(&data).unwrap().1, 1);
            for (at, edit, byte) in edits {
                let at = at.index(data.len());
                match edit {
                    0 => data[at] = byte,
                    1 => data.insert(at, byte),
                    _ => drop(data.remove(at)),
                }
            }
            if let Some((seal, 1..)) = trusted(&data) {
                let (seal, genuine) = (seal.body(), genuine.body());
                assert!(seal.subject() == genuine.subject() && seal.object() == genuine.object());
            }
        }

        #[cfg(feature = "backup")]
        #[test]
        fn changed_shares(which: At, at: At, byte: u8) {
            let pages = pages();
            let mut page = pages[which.index(pages.len())].clone().into_bytes();
            let at = at.index(page.len());
            page[at] = byte;
            shares(&page);
        }
    }

    #[cfg(feature = "backup")]
    #[test]
    fn shares_of_others() {
        assert!(pages().len() > 40);
        pages().iter().for_each(|page| shares(page.as_bytes()));
    }
}
