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
    /// A piece of a change journal, with its number: 1 to [`MAX_SEGMENT_NUMBER`](super::names::MAX_SEGMENT_NUMBER).
    Segment(u64),
    /// All of a finished change journal.
    Bundle,
}

impl Role {
    /// The byte in the header.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Payload => 0,
            Self::Index => 1,
            Self::Companions => 2,
            Self::Segment(_) => 3,
            Self::Bundle => 4,
        }
    }

    /// The part of a snapshot that has this role; `None` for those of a journal.
    pub const fn part(self) -> Option<Part> {
        match self {
            Self::Payload => Some(Part::Payload),
            Self::Index => Some(Part::Index),
            Self::Companions => Some(Part::Companions),
            Self::Segment(_) | Self::Bundle => None,
        }
    }

    /// The number in the header: a segment's, else 0.
    const fn number(self) -> u64 {
        match self {
            Self::Segment(number) => number,
            _ => 0,
        }
    }

    /// # Errors
    /// Unsupported for a byte that is not known; tampered for a number that the role has not.
    fn parse(byte: u8, number: u64) -> Result<Self> {
        match (byte, number) {
            (0, 0) => Ok(Self::Payload),
            (1, 0) => Ok(Self::Index),
            (2, 0) => Ok(Self::Companions),
            (3, 1..) => Ok(Self::Segment(number)),
            (4, 0) => Ok(Self::Bundle),
            (0..=4, _) => Err(Error::tampered("object header: its role does not have this number")),
            (other, _) => Err(unknown("role", other)),
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
    /// Whose it is: a snapshot's id, or a journal's.
    pub snapshot: SnapshotId,
}

impl ObjectHeader {
    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let [a, b, c, d, e, f, g] = *MAGIC;
        let [i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15] =
            self.snapshot.to_bytes();
        let (suite, role) = (self.suite, self.role.byte());
        let [_, _, n0, n1, n2, n3, n4, n5] = self.role.number().to_be_bytes();
        [
            a, b, c, d, e, f, g, VERSION, suite, role, n0, n1, n2, n3, n4, n5, //
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
        let [version, suite, role, number @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
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
        let number = number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let role = Role::parse(*role, number)?;
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
    use crate::format::names::MAX_SEGMENT_NUMBER;
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
                    // A segment has a number.
                    Err(error) if bit == 9 * 8 + 1 => {
                        assert_eq!(error.kind(), ErrorKind::Tampered);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
                },
            }
        }
        let short = ObjectHeader::parse(&bytes[..31]).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::Truncated);
    }

    #[test]
    fn only_segments_have_a_number() {
        // [S4.1.4]
        let of = |role| ObjectHeader { suite: 1, role, snapshot: SnapshotId(7) }.to_bytes();
        let mut bytes = of(Role::Segment(1 << 40));
        assert_eq!(bytes[9..16], [3, 1, 0, 0, 0, 0, 0]);
        bytes[10..16].fill(0);
        assert_eq!(ObjectHeader::parse(&bytes).unwrap_err().kind(), ErrorKind::Tampered);
        let mut bytes = of(Role::Bundle);
        bytes[15] = 1;
        assert_eq!(ObjectHeader::parse(&bytes).unwrap_err().kind(), ErrorKind::Tampered);
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
        fn any_header_round_trips(suite in 1u8..=2, role in 0u8..5, n in 1..=MAX_SEGMENT_NUMBER, id: u128) {
            let roles = [Role::Payload, Role::Index, Role::Companions, Role::Segment(n), Role::Bundle];
            let role = roles[usize::from(role)];
            let header = ObjectHeader { suite, role, snapshot: SnapshotId(id) };
            prop_assert_eq!(ObjectHeader::parse(&header.to_bytes()).unwrap(), header);
        }
    }
}
