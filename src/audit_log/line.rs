//! A line: its kind, its number, its chain value, and on some a MAC (SPEC.md §11.1).

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{parse_time, print_time};
use crate::crypto;
use crate::envelope::DataKey;
use crate::error::{Error, ErrorKind, Result};

/// The longest line, LF included, in bytes.
pub const MAX_LINE: usize = 64 << 10;

/// A chain value: SHA-256 of the one before and the line's bytes.
pub(super) type Chain = [u8; 32];

/// What the first line of the first file is chained to.
pub(super) const START: Chain = [0; 32];

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first of a file: seal and link. [`Header`]
    Log,
    /// A [`Record`](super::Record).
    Request,
    /// The log before did not end well. [`Resumed`]
    Resumed,
    /// Records were refused because they could not be written. [`Lost`]
    Lost,
    /// Authenticates all before it. [`Mark`]
    Checkpoint,
    /// A checkpoint and the last line of its file. [`Mark`]
    Closed,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Log, Self::Request, Self::Resumed, Self::Lost, Self::Checkpoint, Self::Closed];

    const fn word(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Request => "request",
            Self::Resumed => "resumed",
            Self::Lost => "lost",
            Self::Checkpoint => "checkpoint",
            Self::Closed => "closed",
        }
    }

    /// Whether its lines carry a MAC.
    pub(super) const fn authenticates(self) -> bool {
        matches!(self, Self::Log | Self::Checkpoint | Self::Closed)
    }
}

/// First line of a file.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    /// 1.
    pub(super) version: u32,
    /// The file's ULID: what its data key belongs to.
    pub(super) log: String,
    #[serde(serialize_with = "print_time", deserialize_with = "parse_time")]
    pub(super) time: Timestamp,
    /// The end of the file before; none for the first there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<Previous>,
    /// The seal of the data key (SPEC.md §5).
    pub(super) seal: String,
}

/// Where the file before ended.
#[derive(Serialize, Deserialize)]
pub(super) struct Previous {
    pub(super) seq: u64,
    /// Hexadecimal.
    pub(super) chain: String,
}

impl Previous {
    /// Its chain value, if it is one.
    pub(super) fn chain(&self) -> Option<Chain> {
        unhex(self.chain.as_bytes())
    }
}

/// What was found when the log was opened again.
#[derive(Serialize, Deserialize)]
pub(super) struct Resumed {
    #[serde(serialize_with = "print_time", deserialize_with = "parse_time")]
    pub(super) time: Timestamp,
    /// Bytes of torn lines that were cut from the file before.
    pub(super) cut: u64,
    /// Lines of it after its last checkpoint: chained, but authenticated only since.
    pub(super) unauthenticated: u64,
    /// Whether the current file was not there at all.
    pub(super) missing: bool,
}

/// How many records could not be written before this line.
#[derive(Serialize, Deserialize)]
pub(super) struct Lost {
    #[serde(serialize_with = "print_time", deserialize_with = "parse_time")]
    pub(super) time: Timestamp,
    pub(super) records: u64,
}

/// A checkpoint's own content.
#[derive(Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(serialize_with = "print_time", deserialize_with = "parse_time")]
    pub(super) time: Timestamp,
}

/// A line before it has a number: its kind and its content as a JSON object with a member at least.
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) body: Vec<u8>,
}

impl Draft {
    /// # Errors
    /// [`ErrorKind::Usage`] when it does not fit a line.
    pub(super) fn new(kind: Kind, content: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(content)
            .map_err(|error| Error::new(ErrorKind::Usage, "audit log: a record").because(error))?;
        // Kind, number, chain and MAC take less than 300 bytes.
        if body.len() > MAX_LINE - 300 || !body.starts_with(b"{\"") {
            return Err(Error::usage(format!("audit log: a line of {} bytes", body.len())));
        }
        Ok(Self { kind, body })
    }

    /// Appends the line numbered `seq` to `out` and gives its chain value; `key` makes its MAC.
    pub(super) fn print(
        &self,
        seq: u64,
        before: &Chain,
        key: &DataKey,
        out: &mut Vec<u8>,
    ) -> Chain {
        let start = out.len();
        let inner = self.body.get(1..self.body.len().saturating_sub(1)).unwrap_or_default();
        out.extend_from_slice(
            format!("{{\"type\":\"{}\",\"seq\":{seq},", self.kind.word()).as_bytes(),
        );
        out.extend_from_slice(inner);
        let chain = chain(before, out.get(start..).unwrap_or_default());
        out.extend_from_slice(CHAIN);
        out.extend_from_slice(HEXLOWER.encode(&chain).as_bytes());
        if self.kind.authenticates() {
            out.extend_from_slice(MAC);
            out.extend_from_slice(HEXLOWER.encode(&key.audit_mac(&chain, seq)).as_bytes());
        }
        out.extend_from_slice(END);
        out.push(b'\n');
        chain
    }
}

const CHAIN: &[u8] = b",\"chain\":\"";
const MAC: &[u8] = b"\",\"mac\":\"";
const END: &[u8] = b"\"}";
/// Digits of a chain value or MAC.
const HEX: usize = 64;

/// SHA-256(the chain value before ‖ the line up to its own).
fn chain(before: &Chain, signed: &[u8]) -> Chain {
    crypto::sha256(&[before, signed])
}

fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    HEXLOWER.decode(text).ok()?.try_into().ok()
}

/// A line as it was read. Nothing of it is checked but its form.
pub(super) struct Line<'a> {
    pub(super) kind: Kind,
    pub(super) seq: u64,
    /// The chain value that it claims.
    pub(super) chain: Chain,
    /// Its MAC; `Some` exactly for a kind that authenticates.
    pub(super) mac: Option<[u8; 32]>,
    signed: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line without its LF apart; `None` when it has not the form that a writer gives it.
    pub(super) fn parse(whole: &'a [u8]) -> Option<Self> {
        let rest = whole.strip_prefix(b"{\"type\":\"")?;
        let kind = Kind::ALL.into_iter().find(|kind| {
            rest.strip_prefix(kind.word().as_bytes()).is_some_and(|rest| rest.starts_with(b"\""))
        })?;
        let rest = rest.get(kind.word().len()..)?.strip_prefix(b"\",\"seq\":")?;
        let digits = rest.split(|byte| *byte == b',').next()?;
        let seq: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        if seq.to_string().as_bytes() != digits {
            return None;
        }
        let mut left = whole.strip_suffix(END)?;
        let mut mac = None;
        if kind.authenticates() {
            let (before, text) = left.split_at_checked(left.len().checked_sub(HEX)?)?;
            mac = Some(unhex(text)?);
            left = before.strip_suffix(MAC)?;
        }
        let (before, text) = left.split_at_checked(left.len().checked_sub(HEX)?)?;
        Some(Self {
            kind,
            seq,
            chain: unhex(text)?,
            mac,
            signed: before.strip_suffix(CHAIN)?,
            whole,
        })
    }

    /// Whether it follows from the line whose chain value is `before`.
    pub(super) fn follows(&self, before: &Chain) -> bool {
        chain(before, self.signed) == self.chain
    }

    /// Its content; `None` when that is not what its kind holds.
    pub(super) fn content<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(self.whole).ok()
    }
}

/// A chain value as text.
pub(super) fn hex(chain: &Chain) -> String {
    HEXLOWER.encode(chain)
}
