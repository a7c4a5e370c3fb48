//! The strict line reader of every text object (SPEC.md §0.2).
//!
//! It accepts exactly what the printers write, so that print(parse(x)) = x and a MAC over
//! re-printed lines is a MAC over the bytes that were read. Errors name the line, never its
//! content: some of these texts hold keys.

use data_encoding::BASE64_NOPAD;

use crate::error::{Error, Result};

/// A text object whose first line has been recognised; yields the lines after it.
pub(crate) struct Lines<'a> {
    what: &'static str,
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    /// Opens `bytes`, whose first line must be `family` followed by `1`.
    ///
    /// `what` names the object in errors; more than `limit` bytes are refused unread.
    ///
    /// # Errors
    /// Unsupported when the family is ours and the version is not 1; truncated when the last LF
    /// is missing; tampered otherwise.
    pub(crate) fn open(
        what: &'static str,
        family: &str,
        limit: usize,
        bytes: &'a [u8],
    ) -> Result<Self> {
        if bytes.len() > limit {
            return Err(Error::tampered(format!("{what}: more than {limit} bytes")));
        }
        // The version comes before every other rule: a later version may have other rules.
        if let Some(version) = foreign_version(family, bytes) {
            return Err(Error::unsupported(format!("{what}: {family}{version} is not known here"))
                .hint("use a newer strongroom"));
        }
        if bytes.last() != Some(&b'\n') {
            return Err(Error::truncated(format!("{what}: its last line has no end")));
        }
        let text = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| text.bytes().all(|c| matches!(c, b'\n' | 0x20..=0x7e)))
            .ok_or_else(|| Error::tampered(format!("{what}: not printable ASCII lines")))?;
        let mut lines = Self { what, rest: text, number: 0 };
        let first = lines.raw()?;
        if first.strip_prefix(family) == Some("1") {
            Ok(lines)
        } else {
            Err(Error::tampered(format!("{what}: the first line is not {family}1")))
        }
    }

    /// The next line without its LF; truncated when there is none.
    pub(crate) fn raw(&mut self) -> Result<&'a str> {
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or_else(|| {
            Error::truncated(format!("{}: a line is missing at the end", self.what))
        })?;
        self.rest = rest;
        Ok(line)
    }

    /// The next line's tokens.
    pub(crate) fn line(&mut self) -> Result<Line<'a>> {
        let text = self.raw()?;
        let line = Line { what: self.what, number: self.number, rest: Some(text) };
        // Covers the empty line, leading, doubled and trailing spaces.
        if text.split(' ').any(str::is_empty) {
            return Err(line.refuse("tokens are not parted by single spaces"));
        }
        Ok(line)
    }

    /// The next line, which must begin with `keyword`; its tokens after that.
    pub(crate) fn keyword(&mut self, keyword: &str) -> Result<Line<'a>> {
        let mut line = self.line()?;
        if line.token()? == keyword {
            Ok(line)
        } else {
            Err(line.refuse(format!("expected `{keyword}`")))
        }
    }

    /// Whether every line has been read.
    pub(crate) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are still unread.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Whether the next line begins with `token`.
    pub(crate) fn next_is(&self, token: &str) -> bool {
        self.rest.strip_prefix(token).is_some_and(|rest| rest.starts_with([' ', '\n']))
    }

    /// Tampered unless every line has been read.
    pub(crate) fn finish(self) -> Result<()> {
        if self.is_done() {
            Ok(())
        } else {
            Err(Error::tampered(format!("{}: more after line {}", self.what, self.number)))
        }
    }
}

/// The version in the first line, when the family is ours and the version is another than 1.
fn foreign_version(family: &str, bytes: &[u8]) -> Option<u32> {
    let rest = bytes.strip_prefix(family.as_bytes())?;
    let end = rest.iter().position(|c| *c == b'\n')?;
    let version = std::str::from_utf8(rest.get(..end)?).ok()?;
    decimal(version).and_then(|n| u32::try_from(n).ok()).filter(|n| *n != 1)
}

/// One line of a text object, read token by token.
pub(crate) struct Line<'a> {
    what: &'static str,
    number: usize,
    rest: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// The next token.
    pub(crate) fn token(&mut self) -> Result<&'a str> {
        let rest = self.rest.ok_or_else(|| self.refuse("too few tokens"))?;
        match rest.split_once(' ') {
            Some((token, rest)) => {
                self.rest = Some(rest);
                Ok(token)
            }
            None => {
                self.rest = None;
                Ok(rest)
            }
        }
    }

    /// Everything after the tokens read so far: at least one token.
    pub(crate) fn tail(mut self) -> Result<&'a str> {
        self.rest.take().ok_or_else(|| self.refuse("too few tokens"))
    }

    /// The next token as a decimal number.
    pub(crate) fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        decimal(self.token()?)
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| self.refuse("a number is malformed or out of range"))
    }

    /// The next token as an identifier.
    pub(crate) fn id<T: std::str::FromStr<Err = Error>>(&mut self) -> Result<T> {
        self.token()?.parse().map_err(|error: Error| self.refuse(error.to_string()))
    }

    /// The next token as unpadded base64 of exactly `N` bytes.
    pub(crate) fn base64<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        decode_into(self.token()?, &mut out)
            .ok_or_else(|| self.refuse(format!("not the base64 of {N} bytes")))?;
        Ok(out)
    }

    /// Refuses more tokens.
    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_none() { Ok(()) } else { Err(self.refuse("too many tokens")) }
    }

    /// A tampered error about this line.
    pub(crate) fn refuse(&self, why: impl std::fmt::Display) -> Error {
        Error::tampered(format!("{}: line {}: {why}", self.what, self.number))
    }

    /// An unsupported error about this line.
    pub(crate) fn unsupported(&self, why: impl std::fmt::Display) -> Error {
        Error::unsupported(format!("{}: line {}: {why}", self.what, self.number))
            .hint("use a newer strongroom")
    }
}

/// A decimal number as the format writes it: digits only, no leading zero.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let canonical =
        text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// Decodes unpadded base64 straight into `out`, which it must fill exactly.
///
/// Nothing is buffered on the way, so that a key leaves no second copy.
pub(crate) fn decode_into(text: &str, out: &mut [u8]) -> Option<()> {
    let fits = BASE64_NOPAD.decode_len(text.len()).ok()? == out.len();
    if !fits {
        return None;
    }
    let written = BASE64_NOPAD.decode_mut(text.as_bytes(), out).ok()?;
    (written == out.len()).then_some(())
}

/// Whether `token` is a name of the kind used for stanza types, roles and features:
/// `[a-z0-9][a-z0-9-]{0,31}`.
pub(crate) fn is_name(token: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    token.len() <= 32
        && token.bytes().next().is_some_and(plain)
        && token.bytes().all(|c| plain(c) || c == b'-')
}

/// Whether `text` is 1 to `longest` characters that a terminal prints as they are.
pub(crate) fn is_printable(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|c| matches!(c, 0x20..=0x7e))
}

/// Whether each item is greater than the one before it.
pub(crate) fn ascends<T: PartialOrd>(items: impl IntoIterator<Item = T>) -> bool {
    items.into_iter().is_sorted_by(|a, b| a < b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn kind(bytes: &[u8]) -> ErrorKind {
        fn read(bytes: &[u8]) -> Result<()> {
            let mut lines = Lines::open("thing", "strongroom-thing/", 64, bytes)?;
            let mut line = lines.keyword("n")?;
            line.number::<u32>()?;
            line.base64::<1>()?;
            line.end()?;
            lines.finish()
        }
        read(bytes).unwrap_err().kind()
    }

    #[test]
    fn each_rule_of_s0_2_is_enforced() {
        use ErrorKind::{Tampered, Truncated, Unsupported};
        for (bytes, want) in [
            (&b"strongroom-thing/1\nn 7 AA"[..], Truncated), // [S0.2.2] last LF
            (b"strongroom-thing/1\n", Truncated),            // last line missing
            (b"", Truncated),
            (b"strongroom-thing/2\nwhat\xff", Unsupported), // [S8.2] version first
            (b"strongroom-thing/01\nn 7 AA\n", Tampered),   // not a version number
            (b"strongroom-thong/1\nn 7 AA\n", Tampered),    // not our magic
            (b"strongroom-thing/1\r\nn 7 AA\n", Tampered),  // [S0.2.1] CR
            (b"strongroom-thing/1\nn 7 AA \n", Tampered),   // [S0.2.3] trailing space
            (b"strongroom-thing/1\nn  7 AA\n", Tampered),   // two spaces
            (b"strongroom-thing/1\n n 7 AA\n", Tampered),   // leading space
            (b"strongroom-thing/1\n\nn 7 AA\n", Tampered),  // empty line
            (b"strongroom-thing/1\nn 7 AA\n\n", Tampered),  // empty line at the end
            (b"strongroom-thing/1\nn 07 AA\n", Tampered),   // [S0.2.4] leading zero
            (b"strongroom-thing/1\nn +7 AA\n", Tampered),   // sign
            (b"strongroom-thing/1\nn 4294967296 AA\n", Tampered), // range
            (b"strongroom-thing/1\nn 99999999999999999999 AA\n", Tampered),
            (b"strongroom-thing/1\nn 7 AA==\n", Tampered), // [S0.2.6] padding
            (b"strongroom-thing/1\nn 7 AB\n", Tampered),   // unused bits
            (b"strongroom-thing/1\nn 7 AAA\n", Tampered),  // two bytes
            (b"strongroom-thing/1\nn 7 A\n", Tampered),    // no bytes at all
            (b"strongroom-thing/1\nn 7 -w\n", Tampered),   // URL alphabet
            (b"strongroom-thing/1\nn 7 AA AA\n", Tampered), // too many tokens
            (b"strongroom-thing/1\nn 7\n", Tampered),      // too few
            (b"strongroom-thing/1\nm 7 AA\n", Tampered),   // wrong keyword
            (b"strongroom-thing/1\nn 7 \xc3\xa9\n", Tampered), // not ASCII
            (b"strongroom-thing/1\nn 7 A\tA\n", Tampered), // control character
        ] {
            assert_eq!(kind(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(kind(&[b'a'; 65]), Tampered);
    }
}
