//! `repository.json` (SPEC.md §3.2).

use serde::{Deserialize, Serialize};

use super::ids::Uuid;
use super::json::{self, Text};
use crate::error::{Error, Result};

/// The longest `repository.json` that is read, in bytes.
pub const MAX_REPOSITORY: usize = 4096;

const WHAT: &str = "repository.json";
const FORMAT: u64 = 1;

/// What a repository says of itself. Not authenticated: a caller may pin the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepositoryInfo {
    /// Names this repository; a manifest's `origin`.
    pub id: Uuid,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u64,
    id: Text<Uuid>,
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

impl RepositoryInfo {
    /// Parses the object.
    ///
    /// # Errors
    /// Unsupported for another format number, truncated without the final LF, else tampered.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_REPOSITORY {
            return Err(Error::tampered(format!("{WHAT}: more than {MAX_REPOSITORY} bytes")));
        }
        let Some((b'\n', line)) = bytes.split_last() else {
            return Err(Error::truncated(format!("{WHAT}: its last line has no end")));
        };
        let Format { format } = json::parse(WHAT, line)?;
        if format != FORMAT {
            return Err(Error::unsupported(format!("{WHAT}: format {format} is not known here"))
                .hint("use a newer strongroom"));
        }
        if !line.iter().all(|c| matches!(c, 0x20..=0x7e)) {
            return Err(Error::tampered(format!("{WHAT}: not one line of printable ASCII")));
        }
        let wire: Wire = json::parse(WHAT, line)?;
        Ok(Self { id: wire.id.0 })
    }

    /// The object's bytes.
    pub fn print(&self) -> Vec<u8> {
        format!("{{\"format\":{FORMAT},\"id\":\"{}\"}}\n", self.id).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn round_trip_and_refusals() {
        // [S3.2]
        let text = b"{\"format\":1,\"id\":\"f81d4fae-7dec-41d0-a765-00a0c91e6bf6\"}\n";
        assert_eq!(RepositoryInfo::parse(text).unwrap().print(), text);
        let kind = |text: &[u8]| RepositoryInfo::parse(text).unwrap_err().kind();
        assert_eq!(kind(b"{\"format\":2,\"uuid\":1}\n"), ErrorKind::Unsupported);
        assert_eq!(kind(text.strip_suffix(b"\n").unwrap()), ErrorKind::Truncated);
        assert_eq!(kind(b""), ErrorKind::Truncated);
        assert_eq!(kind(b"{\"format\":1}\n"), ErrorKind::Tampered);
        assert_eq!(kind(b"{\"format\":1,\"id\":\"x\"}\n"), ErrorKind::Tampered);
        assert_eq!(
            kind(b"{\"format\":1,\n\"id\":\"f81d4fae-7dec-41d0-a765-00a0c91e6bf6\"}\n"),
            ErrorKind::Tampered
        );
        assert_eq!(kind(&[b' '; MAX_REPOSITORY + 1]), ErrorKind::Tampered);
    }
}
