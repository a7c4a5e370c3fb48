//! The body of a `kms` stanza: a wrapping key that a service has sealed, and the data key under it (SPEC.md §5.1).

use std::collections::BTreeMap;

use super::seal::SEALED_KEY_LEN;
use crate::error::{Error, Result};

/// The longest text of a service, in bytes: with it a stanza's line stays below its limit.
pub const MAX_KMS_BLOB: usize = 14 << 10;

/// What a `kms` stanza holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsBody<'a> {
    /// The number of the kind of service.
    pub provider: u8,
    /// What the service made of the wrapping key.
    pub blob: &'a [u8],
    /// C(wrapping key, A, data key).
    pub sealed: &'a [u8],
}

impl<'a> KmsBody<'a> {
    /// Takes a stanza's body apart.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) for lengths that do not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let split = || {
            let (provider, mut rest) = bytes.split_first()?;
            let blob = take_field(&mut rest)?;
            let fits = blob.len() <= MAX_KMS_BLOB && rest.len() == SEALED_KEY_LEN;
            fits.then_some(Self { provider: *provider, blob, sealed: rest })
        };
        split().ok_or_else(|| Error::tampered("a stanza of the kind kms is malformed"))
    }

    /// The stanza's body.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) for a blob longer than [`MAX_KMS_BLOB`].
    pub fn print(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![self.provider];
        if self.blob.len() > MAX_KMS_BLOB || put_field(&mut bytes, self.blob).is_none() {
            let (length, most) = (self.blob.len(), MAX_KMS_BLOB);
            let message = format!("the answer has {length} bytes, and a seal has room for {most}");
            return Err(Error::new(crate::ErrorKind::Protocol, message));
        }
        bytes.extend_from_slice(self.sealed);
        Ok(bytes)
    }
}

/// What a plugin of Kubernetes' KMS v2 API answers to `Encrypt`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KmsV2Blob {
    /// The plugin's name of the key that it used.
    pub key_id: Vec<u8>,
    /// The ciphertext.
    pub ciphertext: Vec<u8>,
    /// What the plugin wants to be told when it decrypts.
    pub annotations: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl KmsV2Blob {
    /// Takes a blob apart.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) for lengths that do not fit, or annotations that do not ascend.
    pub fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut parse = || {
            let key_id = take_field(&mut bytes)?.to_vec();
            let ciphertext = take_field(&mut bytes)?.to_vec();
            let (count, rest) = bytes.split_first_chunk()?;
            bytes = rest;
            let mut annotations = BTreeMap::<Vec<u8>, Vec<u8>>::new();
            for _ in 0..u16::from_be_bytes(*count) {
                let (key, value) = (take_field(&mut bytes)?, take_field(&mut bytes)?);
                if annotations.last_key_value().is_some_and(|(last, _)| last.as_slice() >= key) {
                    return None;
                }
                annotations.insert(key.to_vec(), value.to_vec());
            }
            bytes.is_empty().then_some(Self { key_id, ciphertext, annotations })
        };
        parse().ok_or_else(|| Error::tampered("a stanza's text of a KMS plugin is malformed"))
    }

    /// The blob; none if a part of it has no room.
    #[must_use]
    pub fn print(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        put_field(&mut bytes, &self.key_id)?;
        put_field(&mut bytes, &self.ciphertext)?;
        bytes.extend_from_slice(&u16::try_from(self.annotations.len()).ok()?.to_be_bytes());
        for (key, value) in &self.annotations {
            put_field(&mut bytes, key)?;
            put_field(&mut bytes, value)?;
        }
        Some(bytes)
    }
}

/// Takes a field, a length of two bytes and as many bytes, from the front of `bytes`.
pub fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (field, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    *bytes = rest;
    Some(field)
}

/// Appends a field as [`take_field`] reads it; none if it is too long.
pub fn put_field(bytes: &mut Vec<u8>, field: &[u8]) -> Option<()> {
    bytes.extend_from_slice(&u16::try_from(field.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(field);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{KeyId, Stanza};
    use proptest::prelude::*;

    #[test]
    fn the_longest_blob_fits_a_stanza() {
        let longest = KmsBody { provider: 1, blob: &[7; MAX_KMS_BLOB], sealed: &[1; 104] };
        let body = longest.print().unwrap();
        assert_eq!(KmsBody::parse(&body).unwrap(), longest);
        assert!(Stanza::new("kms", KeyId([0; 16]), &[], body).is_ok());
        let longer = KmsBody { blob: &[7; MAX_KMS_BLOB + 1], ..longest };
        assert!(longer.print().is_err());
    }

    #[test]
    fn annotations_ascend_and_nothing_follows() {
        let blob = KmsV2Blob {
            key_id: b"k".to_vec(),
            ciphertext: b"c".to_vec(),
            annotations: BTreeMap::from([(b"a.b".to_vec(), b"1".to_vec())]),
        };
        let good = blob.print().unwrap();
        assert_eq!(good, b"\0\x01k\0\x01c\0\x01\0\x03a.b\0\x011");
        assert_eq!(KmsV2Blob::parse(&good).unwrap(), blob);
        for bad in [
            &b"\0\x01k\0\x01c\0\x01\0\x03a.b\0\x011x"[..],
            b"\0\x01k\0\x01c\0\x02\0\x01a\0\x011\0\x01a\0\x012",
            b"\0\x01k\0\x01c\0\x02\0\x01b\0\x011\0\x01a\0\x012",
            b"\0\x01k\0\x01c\0\x02\0\x01a\0\x011",
            b"\0\x02k",
            b"",
        ] {
            assert!(KmsV2Blob::parse(bad).is_err(), "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_to_what_prints_them(bytes: Vec<u8>) {
            if let Ok(blob) = KmsV2Blob::parse(&bytes) {
                prop_assert_eq!(blob.print().unwrap(), bytes.clone());
            }
            if let Ok(body) = KmsBody::parse(&bytes) {
                prop_assert_eq!(body.print().unwrap(), bytes);
            }
        }
    }
}
