//! Payload and index objects: a header, then one chunked message (SPEC.md §4). No I/O.

use std::ops::Range;

use sha2::{Digest, Sha256 as Hasher};

use crate::crypto::{
    self, CHUNK_LEN, CryptoRng, Label, Opener, PREFIX_LEN, SEALED_CHUNK_LEN, Sealer, Suite, TAG_LEN,
};
use crate::error::{Error, Result};
use crate::format::{HEADER_LEN, ObjectHeader, Role, Sha256, SnapshotId};
use crate::secret::SecretKey;

/// Where the first chunk begins.
const HEAD_LEN: usize = HEADER_LEN + PREFIX_LEN;

/// What a finished object is, as the manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedObject {
    /// Bytes of the whole object.
    pub length: u64,
    /// SHA-256 of the whole object.
    pub sha256: Sha256,
}

/// Encrypts one object as a stream: message bytes in, object bytes out.
pub struct ObjectSealer {
    sealer: Sealer,
    hasher: Hasher,
    hashed: u64,
    /// Object bytes not yet taken: sealed chunks, then the open one.
    out: Vec<u8>,
    /// Where the open chunk begins in `out`.
    open: usize,
}

impl ObjectSealer {
    /// Begins the object of `role` of `snapshot`, encrypted under `key`.
    pub fn new(
        suite: Suite,
        role: Role,
        snapshot: SnapshotId,
        key: &SecretKey,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let header = ObjectHeader { suite: suite.byte(), role, snapshot }.to_bytes();
        let context = crypto::labelled(Label::Object, &[&header]);
        let (sealer, prefix) = Sealer::new(suite, key, &context, rng);
        let out = [header.as_slice(), &prefix].concat();
        Self { sealer, hasher: Hasher::new(), hashed: 0, open: out.len(), out }
    }

    /// Adds `message` bytes.
    ///
    /// # Errors
    /// When the message grows past 2^38 chunks.
    pub fn write(&mut self, mut message: &[u8]) -> Result<()> {
        self.out.reserve(message.len() + message.len() / CHUNK_LEN * TAG_LEN + SEALED_CHUNK_LEN);
        while !message.is_empty() {
            let room = CHUNK_LEN - (self.out.len() - self.open);
            let (now, later) = message.split_at(room.min(message.len()));
            self.out.extend_from_slice(now);
            message = later;
            if now.len() == room {
                let chunk = self.out.get_mut(self.open..).unwrap_or_default();
                let tag = self.sealer.seal_chunk(chunk)?;
                self.out.extend_from_slice(&tag);
                self.open = self.out.len();
            }
        }
        Ok(())
    }

    /// Takes the object bytes that are ready: none of them is plaintext.
    pub fn take(&mut self) -> Vec<u8> {
        let open = self.out.split_off(self.open);
        self.open = 0;
        let ready = std::mem::replace(&mut self.out, open);
        self.count(&ready);
        ready
    }

    /// Ends the message. The object's last bytes, and what it is.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(mut self) -> Result<(Vec<u8>, SealedObject)> {
        let mut out = std::mem::take(&mut self.out);
        let last = out.get_mut(self.open..).unwrap_or_default();
        let Self { sealer, mut hasher, hashed, .. } = self;
        let tag = sealer.finish(last)?;
        out.extend_from_slice(&tag);
        hasher.update(&out);
        let object = SealedObject {
            length: hashed + out.len() as u64,
            sha256: Sha256(hasher.finalize().into()),
        };
        Ok((out, object))
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.hashed += bytes.len() as u64;
    }
}

/// Opens any part of one object. Shared by threads.
pub struct ObjectOpener {
    opener: Opener,
    message_len: u64,
}

impl ObjectOpener {
    /// How many bytes of the object [`new`](Self::new) needs.
    pub const HEAD_LEN: u64 = HEAD_LEN as u64;

    /// Opens an object by its first [`HEAD_LEN`](Self::HEAD_LEN) bytes; it is `object_len` long in all.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered), `Truncated` or `Unsupported`, as SPEC.md §8 says.
    pub fn new(
        head: &[u8],
        role: Role,
        snapshot: SnapshotId,
        key: &SecretKey,
        object_len: u64,
    ) -> Result<Self> {
        let (header, prefix) = head
            .split_at_checked(HEADER_LEN)
            .ok_or_else(|| Error::truncated("the object is shorter than its header"))?;
        let parsed = ObjectHeader::parse(header)?;
        if parsed.role != role || parsed.snapshot != snapshot {
            return Err(Error::tampered("the object's header names another snapshot or role"));
        }
        let suite = Suite::from_byte(parsed.suite)
            .ok_or_else(|| Error::unsupported(format!("unknown suite {}", parsed.suite)))?;
        let message_len = crypto::plain_len(object_len.saturating_sub(HEADER_LEN as u64))?;
        let context = crypto::labelled(Label::Object, &[header]);
        let opener = Opener::new(suite, key, &context, prefix)?;
        Ok(Self { opener, message_len })
    }

    /// Length of the whole message. Only to be believed once [`last_chunk`](Self::last_chunk) has opened.
    pub fn message_len(&self) -> u64 {
        self.message_len
    }

    /// The message range that the final chunk holds; opening it proves the object's length.
    pub fn last_chunk(&self) -> Range<u64> {
        self.message_len / CHUNK_LEN as u64 * CHUNK_LEN as u64..self.message_len
    }

    /// Which bytes of the object hold `message`, whole chunks.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) for a range outside the message.
    pub fn sealed_range(&self, message: &Range<u64>) -> Result<Range<u64>> {
        if message.start > message.end || message.end > self.message_len {
            return Err(Error::tampered(format!(
                "bytes {}..{} lie outside the object's message of {}",
                message.start, message.end, self.message_len
            )));
        }
        let (first, last) = self.chunks(message);
        let end = self.message_len - last * CHUNK_LEN as u64;
        let tail = end.min(CHUNK_LEN as u64) + TAG_LEN as u64;
        let at = |chunk: u64| HEAD_LEN as u64 + chunk * SEALED_CHUNK_LEN as u64;
        Ok(at(first)..at(last) + tail)
    }

    /// Decrypts in place `sealed`, the bytes of [`sealed_range`](Self::sealed_range), and returns exactly `message`.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered), naming the chunk.
    pub fn open<'a>(&self, message: &Range<u64>, sealed: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let wanted = self.sealed_range(message)?;
        if sealed.len() as u64 != wanted.end - wanted.start {
            return Err(Error::truncated("the store returned another length than was asked for"));
        }
        let (first, _) = self.chunks(message);
        let final_chunk = self.message_len / CHUNK_LEN as u64;
        let (mut from, mut to) = (0, 0);
        for index in first.. {
            let end = sealed.len().min(from + SEALED_CHUNK_LEN);
            let Some(chunk) = sealed.get_mut(from..end).filter(|chunk| !chunk.is_empty()) else {
                break;
            };
            let opened = self.opener.open_chunk(index, index == final_chunk, chunk)?.len();
            sealed.copy_within(from..from + opened, to);
            (from, to) = (end, to + opened);
        }
        let skip = (message.start - first * CHUNK_LEN as u64) as usize;
        let length = (message.end - message.start) as usize;
        sealed
            .get_mut(skip..skip + length)
            .ok_or_else(|| Error::tampered("the object's chunks hold less than its length says"))
    }

    /// First and last chunk of a range; an empty range counts as the chunk it stands in.
    fn chunks(&self, message: &Range<u64>) -> (u64, u64) {
        let first = message.start / CHUNK_LEN as u64;
        // A message whose length is a multiple of a chunk's ends with an empty chunk.
        let last = match message.end == self.message_len {
            true => self.message_len,
            false => message.end.saturating_sub(1).max(message.start),
        };
        (first, last / CHUNK_LEN as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::system_rng;

    const ID: SnapshotId = SnapshotId(42);

    fn key() -> SecretKey {
        SecretKey::new(|bytes| bytes.fill(9))
    }

    fn seal(message: &[u8], step: usize) -> (Vec<u8>, SealedObject) {
        let mut sealer =
            ObjectSealer::new(Suite::Aes256Gcm, Role::Payload, ID, &key(), &mut system_rng());
        let mut bytes = Vec::new();
        for part in message.chunks(step) {
            sealer.write(part).unwrap();
            bytes.extend(sealer.take());
        }
        let (tail, object) = sealer.finish().unwrap();
        bytes.extend(tail);
        (bytes, object)
    }

    fn read(bytes: &[u8], range: Range<u64>) -> Result<Vec<u8>> {
        let opener =
            ObjectOpener::new(&bytes[..HEAD_LEN], Role::Payload, ID, &key(), bytes.len() as u64)?;
        let at = opener.sealed_range(&range)?;
        let mut sealed = bytes[at.start as usize..at.end as usize].to_vec();
        Ok(opener.open(&range, &mut sealed)?.to_vec())
    }

    proptest! {
        #[test]
        fn any_range_reads_back(len in 0usize..70_000, step in 1usize..40_000, cut: (u16, u16)) {
            let message: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let (bytes, object) = seal(&message, step);
            prop_assert_eq!(object.length, bytes.len() as u64);
            prop_assert_eq!(object.sha256.0, crypto::sha256(&[&bytes]));
            let (a, b) = (cut.0 as usize % (len + 1), cut.1 as usize % (len + 1));
            let (a, b) = (a.min(b), a.max(b));
            prop_assert_eq!(&read(&bytes, a as u64..b as u64).unwrap(), &message[a..b]);
        }
    }

    /// All of a message whose last chunk is empty: all of its object.
    #[test]
    fn a_message_of_whole_chunks_reads_back() {
        for chunks in 0..4 {
            let message = vec![7; chunks * CHUNK_LEN];
            let (bytes, _) = seal(&message, 9999);
            let opener = ObjectOpener::new(
                &bytes[..HEAD_LEN],
                Role::Payload,
                ID,
                &key(),
                bytes.len() as u64,
            )
            .unwrap();
            let mut sealed = bytes[HEAD_LEN..].to_vec();
            assert_eq!(opener.open(&(0..message.len() as u64), &mut sealed).unwrap(), message);
        }
    }

    #[test]
    fn every_header_bit_is_bound() {
        let (bytes, _) = seal(b"hello", 5);
        for bit in 0..HEAD_LEN * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, 0..5).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_are_proved_by_the_last_chunk() {
        let (mut bytes, _) = seal(&vec![1; 3 * CHUNK_LEN], 9999);
        bytes.truncate(HEAD_LEN + 2 * SEALED_CHUNK_LEN + 100);
        assert!(read(&bytes, 0..5).is_ok());
        let opener =
            ObjectOpener::new(&bytes[..HEAD_LEN], Role::Payload, ID, &key(), bytes.len() as u64)
                .unwrap();
        assert!(read(&bytes, opener.last_chunk()).is_err());
    }
}
