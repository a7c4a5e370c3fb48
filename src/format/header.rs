//! The header of encrypted objects, and the lengths that follow from chunking (SPEC.md §4.1, §1).

use super::ids::SnapshotId;
use super::names::Part;
use crate::error::{Error, Result};

/// Length of [`ObjectHeader`] in bytes.
pub const HEADER_LEN: usize = 32;
/// Where the commitment of the chunked encryption begins in an object: after header and salt.
pub const COMMITMENT_OFFSET: usize = HEADER_LEN + 24;
/// Where chunk 0 begins in an object; chunk k is at `CHUNKS_OFFSET + k * 16400`.
pub const CHUNKS_OFFSET: usize = COMMITMENT_OFFSET + 32;

/// Plain bytes of a full chunk.
const CHUNK: u64 = 16_384;
/// The same with its tag.
const SEALED_CHUNK: u64 = CHUNK + 16;
/// Salt and commitment, before the chunks.
const PREFIX: u64 = 24 + 32;

const MAGIC: &[u8; 7] = b"SRDATA\0";
const VERSION: u8 = 1;

/// What an encrypted object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Frames of the database.
    Payload,
    /// The frame table.
    Index,
    /// A tar of what a restore also needs.
    Companions,
}

impl Role {
    /// The byte in the header.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Payload => 0,
            Self::Index => 1,
            Self::Companions => 2,
        }
    }

    /// The part of a snapshot that has this role.
    pub const fn part(self) -> Part {
        match self {
            Self::Payload => Part::Payload,
            Self::Index => Part::Index,
            Self::Companions => Part::Companions,
        }
    }
}

/// The 32 bytes an encrypted object begins with; the context of its encryption covers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectHeader {
    /// The AEAD: 1 AES-256-GCM, 2 ChaCha20-Poly1305.
    pub suite: u8,
    /// What the object holds.
    pub role: Role,
    /// Whose it is.
    pub snapshot: SnapshotId,
}

impl ObjectHeader {
    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let [a, b, c, d, e, f, g] = *MAGIC;
        let [i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15] =
            self.snapshot.to_bytes();
        let (suite, role) = (self.suite, self.role.byte());
        [
            a, b, c, d, e, f, g, VERSION, suite, role, 0, 0, 0, 0, 0, 0, //
            i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15,
        ]
    }

    /// Parses the header that `bytes` begin with.
    ///
    /// # Errors
    /// Truncated when shorter than [`HEADER_LEN`]; unsupported for a version, suite or role that
    /// is not known; tampered otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(Error::truncated("object header: shorter than 32 bytes"));
        };
        let (magic, rest) = header.split_at(MAGIC.len());
        let [version, suite, role, zero @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            rest
        else {
            return Err(Error::truncated("object header: shorter than 32 bytes"));
        };
        if magic != MAGIC {
            return Err(Error::tampered("object header: not one of strongroom's objects"));
        }
        if *version != VERSION {
            return Err(unknown("version", *version));
        }
        if !matches!(suite, 1 | 2) {
            return Err(unknown("suite", *suite));
        }
        let role = match role {
            0 => Role::Payload,
            1 => Role::Index,
            2 => Role::Companions,
            other => return Err(unknown("role", *other)),
        };
        if zero.iter().any(|byte| *byte != 0) {
            return Err(Error::tampered("object header: reserved bytes are not zero"));
        }
        let id = header.last_chunk::<16>().map_or(0, |id| u128::from_be_bytes(*id));
        Ok(Self { suite: *suite, role, snapshot: SnapshotId(id) })
    }
}

fn unknown(what: &str, value: u8) -> Error {
    Error::unsupported(format!("object header: {what} {value} is not known here"))
        .hint("use a newer strongroom")
}

/// Length of the message inside an object of `object_length` bytes; `None` if no object has that
/// length (§1's truncation rule).
pub fn message_length(object_length: u64) -> Option<u64> {
    let chunks = object_length.checked_sub(HEADER_LEN as u64 + PREFIX)?;
    let last = (chunks % SEALED_CHUNK).checked_sub(SEALED_CHUNK - CHUNK)?;
    Some(chunks / SEALED_CHUNK * CHUNK + last)
}

/// Length of the object around a message of `message_length` bytes; `None` on overflow.
pub fn object_length(message_length: u64) -> Option<u64> {
    let tags = (message_length / CHUNK + 1).checked_mul(SEALED_CHUNK - CHUNK)?;
    message_length.checked_add(tags)?.checked_add(HEADER_LEN as u64 + PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn every_flipped_bit_is_refused_or_changes_the_header() {
        // [S4.1]
        let header = ObjectHeader { suite: 1, role: Role::Index, snapshot: SnapshotId(7 << 100) };
        let bytes = header.to_bytes();
        assert_eq!(ObjectHeader::parse(&bytes).unwrap(), header);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let got = ObjectHeader::parse(&flipped);
            match bit / 8 {
                0..=6 | 10..=15 => assert_eq!(got.unwrap_err().kind(), ErrorKind::Tampered),
                7 => assert_eq!(got.unwrap_err().kind(), ErrorKind::Unsupported),
                _ => match got {
                    Ok(other) => assert_ne!(other, header),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
                },
            }
        }
        let short = ObjectHeader::parse(&bytes[..31]).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::Truncated);
    }

    #[test]
    fn lengths_at_chunk_boundaries() {
        // [S1.4]: the last chunk is always shorter than 16384, possibly empty.
        for (message, object) in
            [(0, 104), (1, 105), (16_383, 16_487), (16_384, 88 + 16_400 + 16), (16_385, 16_505)]
        {
            assert_eq!(object_length(message), Some(object));
            assert_eq!(message_length(object), Some(message));
        }
        for object in [0, 87, 88, 103, 88 + 16_400, 88 + 16_400 + 15] {
            assert_eq!(message_length(object), None, "{object}");
        }
        assert_eq!(object_length(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn lengths_are_inverse(message in 0..u64::MAX / 2) {
            prop_assert_eq!(message_length(object_length(message).unwrap()), Some(message));
        }

        #[test]
        fn any_header_round_trips(suite in 1u8..=2, role in 0u8..3, id: u128) {
            let role = [Role::Payload, Role::Index, Role::Companions][usize::from(role)];
            let header = ObjectHeader { suite, role, snapshot: SnapshotId(id) };
            prop_assert_eq!(ObjectHeader::parse(&header.to_bytes()).unwrap(), header);
        }
    }
}
