//! Stanzas as age writes them in headers and as its plugins speak: a line of arguments, then base64 in lines of 64.

#![cfg_attr(
    not(feature = "age-plugins"),
    allow(
        dead_code,
        unused_imports,
        reason = "without plugins keys are only read and stanzas judged"
    )
)]

use data_encoding::BASE64_NOPAD;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Base64 of a full line.
const COLUMNS: usize = 64;
/// The longest body.
const MAX_BODY: usize = 12 << 10;
/// The longest line, with its arguments. Those of the longest encapsulation have 1.7 KiB.
pub(crate) const MAX_LINE: usize = 8 << 10;

/// A stanza of age. Its body may be a secret.
pub(crate) struct AgeStanza {
    /// Its type first.
    pub(crate) args: Vec<String>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl AgeStanza {
    /// Appends its text.
    pub(crate) fn print(args: &[&str], body: &[u8], to: &mut Vec<u8>) {
        to.extend_from_slice(b"->");
        for arg in args {
            to.push(b' ');
            to.extend_from_slice(arg.as_bytes());
        }
        to.push(b'\n');
        let text = Zeroizing::new(BASE64_NOPAD.encode(body));
        for line in text.as_bytes().chunks(COLUMNS) {
            to.extend_from_slice(line);
            to.push(b'\n');
        }
        // The last line is a short one, so that the end is known.
        if text.len().is_multiple_of(COLUMNS) {
            to.push(b'\n');
        }
    }

    /// Reads one or more stanzas.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) for anything else.
    pub(crate) fn parse_all(text: &[u8]) -> Result<Vec<Self>> {
        let (mut reader, mut all) = (AgeReader::default(), Vec::new());
        let lines = text.strip_suffix(b"\n").ok_or_else(malformed)?;
        for line in lines.split(|byte| *byte == b'\n') {
            all.extend(reader.line(line)?);
        }
        match reader.args.is_none() && !all.is_empty() {
            true => Ok(all),
            false => Err(malformed()),
        }
    }
}

/// Puts stanzas together from their lines.
#[derive(Default)]
pub(crate) struct AgeReader {
    args: Option<Vec<String>>,
    body: Zeroizing<Vec<u8>>,
}

impl AgeReader {
    /// Takes a line, without its line break; gives the stanza that it ends.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) for a line that is not one of a stanza.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<Option<AgeStanza>> {
        if self.args.is_none() {
            let text = line.strip_prefix(b"-> ").and_then(|text| std::str::from_utf8(text).ok());
            let args: Vec<_> = text.into_iter().flat_map(|text| text.split(' ')).collect();
            let is_argument =
                |arg: &&str| !arg.is_empty() && arg.bytes().all(|b| b.is_ascii_graphic());
            if args.is_empty() || !args.iter().all(is_argument) || line.len() > MAX_LINE {
                return Err(malformed());
            }
            self.args = Some(args.into_iter().map(str::to_owned).collect());
            // Never grown: that would leave copies of a secret behind.
            self.body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
            return Ok(None);
        }
        let decoded = BASE64_NOPAD.decode(line).map(Zeroizing::new).map_err(|_| malformed())?;
        if line.len() > COLUMNS || self.body.len().saturating_add(decoded.len()) > MAX_BODY {
            return Err(malformed());
        }
        self.body.extend_from_slice(&decoded);
        match line.len() == COLUMNS {
            true => Ok(None),
            false => {
                let (args, body) = (self.args.take(), std::mem::take(&mut self.body));
                Ok(args.map(|args| AgeStanza { args, body }))
            }
        }
    }
}

fn malformed() -> Error {
    Error::tampered("a stanza of age is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(args: &[&str], body: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        AgeStanza::print(args, body, &mut text);
        text
    }

    #[test]
    fn bodies_end_in_a_short_line() {
        assert_eq!(printed(&["a", "b"], b""), b"-> a b\n\n");
        assert_eq!(printed(&["a"], &[0; 3]), b"-> a\nAAAA\n");
        let full = format!("-> a\n{}\n\n", "A".repeat(64));
        assert_eq!(printed(&["a"], &[0; 48]), full.as_bytes());
    }

    #[test]
    fn anything_else_is_malformed() {
        for bad in [
            &b""[..],
            b"\n",
            b"-> a\n",
            b"-> a",
            b"-> \n\n",
            b"->a\n\n",
            b"-> a  b\n\n",
            b"-> a\x7f\n\n",
            b"-> a\nAAAA",
            b"-> a\nAAAB=\n",
            b"-> a\nAB\n",
            b"-> a\n\nx\n",
        ] {
            assert!(AgeStanza::parse_all(bad).is_err(), "{}", bad.escape_ascii());
        }
        let long = format!("-> a\n{}\n\n", "A".repeat(65));
        assert!(AgeStanza::parse_all(long.as_bytes()).is_err());
        assert!(AgeStanza::parse_all(&printed(&["a"], &vec![0; MAX_BODY + 1])).is_err());
        assert!(AgeStanza::parse_all(&printed(&["a", &"b".repeat(MAX_LINE)], b"")).is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(bodies in prop::collection::vec(any::<Vec<u8>>(), 1..4)) {
            let mut text = Vec::new();
            for body in &bodies {
                AgeStanza::print(&["type", "x"], body, &mut text);
            }
            let read = AgeStanza::parse_all(&text).unwrap();
            let read: Vec<_> = read.iter().map(|stanza| stanza.body.to_vec()).collect();
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = AgeStanza::parse_all(&bytes);
        }
    }
}
