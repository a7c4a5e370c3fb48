//! What a service does for a key, and how it fails.

use std::pin::Pin;

use crate::error::Error;
#[cfg(any(feature = "aws-kms", feature = "pkcs11", feature = "vault"))]
use crate::error::ErrorKind;
use crate::secret::{SecretBytes, SecretKey};

/// What a call of a service comes to.
pub(super) type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// A service that seals and opens 32 bytes with a key that it keeps.
///
/// Its calls are neither limited in time nor tried again here: [`KmsKey`](super::key::KmsKey) does that for all of them.
pub(super) trait Service: Send + Sync {
    /// Sees whether the key can be used, before any work is done: the service's own name of the key that seals now, if
    /// the service has such names.
    fn status(&self) -> Call<'_, Option<String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Whether only [`wrap`](Self::wrap) shows that the key seals, and there is no status: the right to look at a key is
    /// another than that to use it.
    fn shows_by_sealing(&self) -> bool {
        false
    }

    /// Seals a wrapping key. The blob is at most [`MAX_KMS_BLOB`](crate::format::MAX_KMS_BLOB) bytes.
    fn wrap<'a>(&'a self, key: &'a SecretKey) -> Call<'a, Vec<u8>>;

    /// Opens what [`wrap`](Self::wrap) made. What comes back is checked by the caller, its length too.
    fn unwrap<'a>(&'a self, blob: &'a [u8]) -> Call<'a, SecretBytes>;

    /// The service's own name of the key that sealed `blob`, as far as the blob tells.
    fn version(&self, blob: &[u8]) -> Option<String>;
}

/// Why a service did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It cannot be reached or does not answer: tried once more, and then unreachable.
    Down(String),
    /// It answers that this key may not be used: no permission, disabled, no such key. With its own word.
    Refused(String),
    /// It answers what it must not. Never tried again.
    Wrong(String),
    /// Something on this host has to be put right, as the mode of a socket or a file with a PIN.
    Here(Error),
}

#[cfg(any(feature = "aws-kms", feature = "pkcs11", feature = "vault"))]
impl Failure {
    /// What an error on the way to a service means.
    pub(super) fn of(error: Error) -> Self {
        let text = || match error.hint_text() {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        };
        match error.kind() {
            ErrorKind::Unreachable | ErrorKind::Internal => Self::Down(text()),
            ErrorKind::Tampered | ErrorKind::Protocol => Self::Wrong(text()),
            ErrorKind::WrongKey => Self::Refused(text()),
            _ => Self::Here(error),
        }
    }
}

/// What a service answers in JSON.
#[cfg(any(feature = "aws-kms", feature = "vault"))]
pub(super) fn parsed<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|_| Failure::Wrong("its answer is not what was asked for".into()))
}

/// The bytes that a service answers in base64.
#[cfg(any(feature = "aws-kms", feature = "vault"))]
pub(super) fn decoded(text: &str) -> Result<Vec<u8>, Failure> {
    let bytes = data_encoding::BASE64.decode(text.as_bytes());
    bytes.map_err(|_| Failure::Wrong("its answer is not base64".into()))
}
