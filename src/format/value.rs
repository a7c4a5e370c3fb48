//! The header of an encrypted value (SPEC.md §10.1).

use super::ids::ValueKeyId;
use crate::error::{Error, Result};

/// Length of the nonce, of either algorithm, in bytes.
const NONCE_LEN: usize = 24;
/// Length of the tag, of either algorithm, in bytes.
const TAG_LEN: usize = 16;

/// What stands before the ciphertext, in bytes.
pub const VALUE_HEADER_LEN: usize = 8 + NONCE_LEN;
/// How much longer an encrypted value is than the value, in bytes.
pub const VALUE_OVERHEAD: usize = VALUE_HEADER_LEN + TAG_LEN;

/// What every encrypted value begins with. No protobuf, JSON or text does.
const MAGIC: [u8; 3] = *b"\0SR";

/// Says how a value is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueHeader {
    /// The byte of the AEAD: 1 XAES-256-GCM, 2 XChaCha20-Poly1305.
    pub algorithm: u8,
    /// The value key.
    pub key: ValueKeyId,
    /// The AEAD's nonce, random.
    pub nonce: [u8; NONCE_LEN],
}

impl ValueHeader {
    /// Whether `value` claims to be encrypted.
    #[must_use]
    pub fn is_present(value: &[u8]) -> bool {
        value.starts_with(&MAGIC)
    }

    /// The header, and what follows it: ciphertext and tag. `None` when the value does not claim to be encrypted.
    ///
    /// # Errors
    /// [`Truncated`](crate::ErrorKind::Truncated) when it is too short,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown algorithm.
    pub fn split(value: &[u8]) -> Result<Option<(Self, &[u8])>> {
        if !Self::is_present(value) {
            return Ok(None);
        }
        let short = || Error::truncated("an encrypted value is shorter than its header and tag");
        let (head, rest) = value.split_first_chunk::<8>().ok_or_else(short)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(short)?;
        if rest.len() < TAG_LEN {
            return Err(short());
        }
        let [_, _, _, algorithm, key @ ..] = *head;
        if !matches!(algorithm, 1 | 2) {
            return Err(Error::unsupported(format!(
                "a value is encrypted by algorithm {algorithm}"
            ))
            .hint("use a newer strongroom"));
        }
        Ok(Some((Self { algorithm, key: ValueKeyId(key), nonce: *nonce }, rest)))
    }

    /// Bytes 0..8, which the associated data repeats.
    #[must_use]
    pub fn prefix(&self) -> [u8; 8] {
        let [m0, m1, m2] = MAGIC;
        let [k0, k1, k2, k3] = self.key.0;
        [m0, m1, m2, self.algorithm, k0, k1, k2, k3]
    }

    /// The header's bytes.
    #[must_use]
    pub fn print(&self) -> [u8; VALUE_HEADER_LEN] {
        let mut bytes = [0; VALUE_HEADER_LEN];
        bytes
            .iter_mut()
            .zip(self.prefix().iter().chain(&self.nonce))
            .for_each(|(to, from)| *to = *from);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn each_rule_of_s10_1() {
        let header =
            ValueHeader { algorithm: 2, key: ValueKeyId([1, 2, 3, 4]), nonce: [9; NONCE_LEN] };
        let value = [&header.print()[..], &[7; 20]].concat();
        assert_eq!(value.get(..8), Some(&b"\0SR\x02\x01\x02\x03\x04"[..]));
        assert_eq!(ValueHeader::split(&value).unwrap(), Some((header, &[7; 20][..])));
        for clear in [&b""[..], b"\0", b"\0S", b"\0Sr", b"{}"] {
            assert_eq!(ValueHeader::split(clear).unwrap(), None);
        }
        for cut in 3..VALUE_OVERHEAD {
            let kind = ValueHeader::split(&value[..cut]).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Truncated, "{cut}");
        }
        let mut other = value;
        other[3] = 3;
        assert_eq!(ValueHeader::split(&other).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
