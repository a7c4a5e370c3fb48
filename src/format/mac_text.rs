//! A text of three lines: what it is, JSON, and a MAC over both with their LFs (SPEC.md §6.1). Manifests and the head
//! and end of a journal are such texts.

use data_encoding::BASE64_NOPAD;
use serde::Serialize;

use super::json;
use super::text::Lines;
use crate::error::{Error, ErrorKind, Result};

/// Lines 1 and 2 as they stand, and the MAC of line 3, which is not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MacText {
    signed: Vec<u8>,
    mac: [u8; 32],
}

/// Lines 1 and 2, which the MAC covers, with `value` as JSON.
///
/// # Errors
/// Refused when the text would be longer than `limit`.
pub(super) fn signed_bytes(
    what: &str,
    family: &str,
    limit: usize,
    value: &impl Serialize,
) -> Result<Vec<u8>> {
    let mut bytes = format!("{family}1\n").into_bytes();
    bytes.extend_from_slice(&json::print(value)?);
    bytes.push(b'\n');
    // Room for the MAC line.
    if bytes.len() + 64 > limit {
        return Err(Error::new(ErrorKind::Refused, format!("{what}: too long")));
    }
    Ok(bytes)
}

impl MacText {
    /// What [`signed_bytes`] returned, with its MAC.
    pub(super) fn new(signed: Vec<u8>, mac: [u8; 32]) -> Self {
        Self { signed, mac }
    }

    /// Parses `bytes`, of which `body` reads the JSON.
    ///
    /// # Errors
    /// Those of [`Lines`] and of `body`.
    pub(super) fn parse<B>(
        what: &'static str,
        family: &str,
        limit: usize,
        bytes: &[u8],
        body: impl FnOnce(&[u8]) -> Result<B>,
    ) -> Result<(B, Self)> {
        let mut lines = Lines::open(what, family, limit, bytes)?;
        let text = lines.raw()?;
        let signed = bytes.get(..bytes.len() - lines.left()).unwrap_or_default().to_vec();
        let body = body(text.as_bytes())?;
        let mut line = lines.keyword("hmac-sha256")?;
        let mac = line.base64()?;
        line.end()?;
        lines.finish()?;
        Ok((body, Self { signed, mac }))
    }

    pub(super) fn mac(&self) -> &[u8; 32] {
        &self.mac
    }

    /// What the MAC covers, as it was read: unknown keys and all.
    pub(super) fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// The object's bytes.
    pub(super) fn print(&self) -> Vec<u8> {
        let mac = BASE64_NOPAD.encode(&self.mac);
        [&self.signed, format!("hmac-sha256 {mac}\n").as_bytes()].concat()
    }
}

/// A text object of one kind: its parsed body beside the bytes that its MAC covers.
macro_rules! mac_text {
    ($(#[$doc:meta])* $name:ident, $body:ident, $what:ident, $family:ident, $limit:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            body: $body,
            text: MacText,
        }

        impl $name {
            /// Parses the object.
            ///
            /// # Errors
            /// Unsupported for another version or an unknown `requires`; truncated when the MAC line is missing or
            /// unfinished; tampered otherwise.
            pub fn parse(bytes: &[u8]) -> Result<Self> {
                let (body, text) = MacText::parse($what, $family, $limit, bytes, $body::parse)?;
                Ok(Self { body, text })
            }

            /// `body` with its MAC over its signed bytes.
            ///
            /// # Errors
            /// Those of the body's `signed_bytes`.
            pub fn finish(body: $body, mac: [u8; 32]) -> Result<Self> {
                let text = MacText::new(body.signed_bytes()?, mac);
                Ok(Self { body, text })
            }

            /// What it says.
            pub fn body(&self) -> &$body {
                &self.body
            }

            /// The MAC over [`signed_bytes`](Self::signed_bytes).
            pub fn mac(&self) -> &[u8; 32] {
                self.text.mac()
            }

            /// What the MAC covers, as it was read: unknown keys and all.
            pub fn signed_bytes(&self) -> &[u8] {
                self.text.signed()
            }

            /// The object's bytes.
            pub fn print(&self) -> Vec<u8> {
                self.text.print()
            }
        }
    };
}
pub(super) use mac_text;
