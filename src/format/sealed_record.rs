//! A value keyring's record: a seal and the line `keyring <base64>` (SPEC.md §10.2).

use data_encoding::BASE64_NOPAD;

use super::seal::{MAX_SEAL, Seal};
use crate::error::{Error, Result};

/// The longest record that is read, in bytes.
pub const MAX_SEALED_RECORD: usize = MAX_SEAL + (2 << 20);

const WORD: &str = "keyring";

/// A seal, and the message that its data key encrypts. What the message holds is checked by whoever opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRecord {
    /// The data key, sealed; vouches for [`line`](Self::line).
    pub seal: Seal,
    /// C(a key of the data key's, …).
    pub message: Vec<u8>,
}

impl SealedRecord {
    /// Parses a record.
    ///
    /// # Errors
    /// Truncated, unsupported or tampered, as for the seal.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_SEALED_RECORD {
            return Err(Error::tampered(format!("{WORD}: {} bytes", bytes.len())));
        }
        let start = format!("\n{WORD} ");
        let at = bytes.windows(start.len()).rposition(|part| part == start.as_bytes());
        let split = at.and_then(|at| bytes.split_at_checked(at.saturating_add(1)));
        let (seal, line) = split
            .ok_or_else(|| Error::truncated(format!("{WORD}: it ends before the line {WORD}")))?;
        let line = line
            .strip_suffix(b"\n")
            .ok_or_else(|| Error::truncated(format!("{WORD}: its last line does not end")))?;
        let (_, text) = line.split_at_checked(start.len().saturating_sub(1)).unwrap_or_default();
        let message =
            BASE64_NOPAD.decode(text).map_err(|_| Error::tampered(format!("{WORD}: no base64")))?;
        Ok(Self { seal: Seal::parse(seal)?, message })
    }

    /// The last line with its LF, whose digest the seal vouches for.
    #[must_use]
    pub fn line(message: &[u8]) -> Vec<u8> {
        format!("{WORD} {}\n", BASE64_NOPAD.encode(message)).into_bytes()
    }

    /// The record's bytes; parsing them gives the same.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        [self.seal.print(), Self::line(&self.message)].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::format::{KeyId, SEALED_KEY_LEN, SealBody, Sha256, Stanza, Subject, Uuid};

    #[test]
    fn a_record_is_a_seal_and_a_line() {
        let stanza = Stanza::local(KeyId([1; 16]), &[2; SEALED_KEY_LEN]);
        let subject = Subject::Values(Uuid([7; 16]));
        let object = Sha256([6; 32]);
        let body = SealBody::new(subject, 1, object, [3; 32], vec![stanza], vec![]).unwrap();
        let good = SealedRecord { seal: body.finish([4; 32]), message: vec![5; 100] };
        let bytes = good.print();
        assert_eq!(SealedRecord::parse(&bytes).unwrap(), good);
        for cut in 0..bytes.len() {
            assert!(SealedRecord::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        let class = |bytes: &[u8]| SealedRecord::parse(bytes).unwrap_err().kind();
        assert_eq!(class(&bytes[..bytes.len() - 1]), ErrorKind::Truncated);
        assert_eq!(class(&[&bytes[..], b"x\n"].concat()), ErrorKind::Tampered);
    }
}
