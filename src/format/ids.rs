//! Identifiers: what names a key, a snapshot, a repository, a cluster (SPEC.md §0).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;

use super::Time;
use crate::error::{Error, Result};

/// Names a master key and tells nothing of it: 16 bytes, 32 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        hex(text).map(Self).ok_or_else(|| Error::tampered("a key id is 32 lower-case hex digits"))
    }
}

/// Names a value key within its namespace: 4 bytes, 8 hex digits in text; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueKeyId(pub [u8; 4]);

impl fmt::Display for ValueKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ValueKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ValueKeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        hex(text).filter(|id| *id != [0; 4]).map(Self).ok_or_else(|| {
            Error::tampered("a value key's id is 8 lower-case hex digits, not all zero")
        })
    }
}

/// A SHA-256 digest; 64 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// No digest: what the seal of an audit log vouches for.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        hex(text).map(Self).ok_or_else(|| Error::tampered("a SHA-256 is 64 lower-case hex digits"))
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// A UUID (RFC 9562) in its 36-character lower-case form; its bytes in text order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// A version 4 UUID of 16 random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
        *version = (*version & 0x0f) | 0x40;
        *variant = (*variant & 0x3f) | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        hex(&digits)
            .map(Self)
            .filter(|uuid| uuid.to_string() == text)
            .ok_or_else(|| Error::tampered("a UUID is 36 lower-case characters"))
    }
}

/// Names a snapshot, report or journal: a ULID, whose first 48 bits are the time it was begun (a snapshot's etcd stream).
///
/// Orders by time. Text: 26 upper-case Crockford base32 characters, the first 0..7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u128);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl SnapshotId {
    /// The id of a snapshot begun at `unix_ms` (UTC), with 80 random bits.
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        let random = random.iter().fold(0u128, |sum, byte| (sum << 8) | u128::from(*byte));
        Self((u128::from(unix_ms & 0xffff_ffff_ffff) << 80) | random)
    }

    /// When the snapshot was begun, in milliseconds since 1970-01-01 UTC.
    pub fn unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// When the snapshot was begun, to the second.
    pub fn created(self) -> Time {
        Time::from_unix(i64::try_from(self.unix_ms() / 1000).unwrap_or(i64::MAX))
    }

    /// When the snapshot was begun.
    pub fn begun(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.unix_ms())
    }

    /// The 16 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for digit in (0..26).rev() {
            let value = (self.0 >> (5 * digit)) as usize & 31;
            let letter = CROCKFORD.get(value).copied().unwrap_or(b'0');
            write!(f, "{}", char::from(letter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SnapshotId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits: Option<Vec<usize>> =
            text.bytes().map(|byte| CROCKFORD.iter().position(|c| *c == byte)).collect();
        match digits.as_deref() {
            Some(digits @ [0..=7, ..]) if digits.len() == 26 => {
                Ok(Self(digits.iter().fold(0, |sum, digit| (sum << 5) | *digit as u128)))
            }
            _ => Err(Error::tampered("a snapshot id is a ULID: 26 characters, the first 0 to 7")),
        }
    }
}

/// What a data key belongs to; 17 bytes wherever it is bound into a derivation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One snapshot.
    Snapshot(SnapshotId),
    /// One namespace of encrypted values.
    Values(Uuid),
    /// One report.
    Report(SnapshotId),
    /// One file of an audit log.
    Audit(SnapshotId),
    /// One change journal.
    Journal(SnapshotId),
}

impl Subject {
    /// The 17 bytes: 01 to 05, then the id.
    pub fn to_bytes(self) -> [u8; 17] {
        let (tag, id) = match self {
            Self::Snapshot(id) => (1, id.to_bytes()),
            Self::Values(uuid) => (2, uuid.0),
            Self::Report(id) => (3, id.to_bytes()),
            Self::Audit(id) => (4, id.to_bytes()),
            Self::Journal(id) => (5, id.to_bytes()),
        };
        let mut bytes = [tag; 17];
        if let Some(tail) = bytes.get_mut(1..) {
            tail.copy_from_slice(&id);
        }
        bytes
    }
}

/// The owner's name for one etcd cluster: `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ClusterName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = text.len() <= 64
            && text.bytes().next().is_some_and(plain)
            && text.bytes().all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(Error::usage(format!("{text:?} is not a cluster name"))
                .hint("use 1 to 64 of a-z 0-9 . _ -, the first a letter or digit"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulid_of_the_specification() {
        // github.com/ulid/spec: 01ARZ3NDEKTSV4RRFFQ69G5FAV
        let id: SnapshotId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        assert_eq!(id.unix_ms(), 1_469_922_850_259);
        assert_eq!(id.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert!("8ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<SnapshotId>().is_err());
        assert!("01arz3ndektsv4rrffq69g5fav".parse::<SnapshotId>().is_err());
    }

    #[test]
    fn uuid_round_trips_in_lower_case_only() {
        let text = "f81d4fae-7dec-41d0-a765-00a0c91e6bf6";
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        assert!("F81D4FAE-7dec-41d0-a765-00a0c91e6bf6".parse::<Uuid>().is_err());
        assert!("f81d4fae7dec41d0a76500a0c91e6bf6".parse::<Uuid>().is_err());
    }
}
