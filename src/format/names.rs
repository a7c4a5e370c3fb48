//! Names of objects within a repository (SPEC.md §3.1).

use std::fmt;
use std::str::FromStr;

use super::ids::{KeyId, SnapshotId};
use super::json::MAX_INTEGER;
use super::text::{decimal, is_name};
use crate::error::{Error, Result};

/// The largest number of a segment: it has 48 bits in its object's header.
pub const MAX_SEGMENT_NUMBER: u64 = (1 << 48) - 1;
/// The repository's own description.
pub const REPOSITORY: &str = "repository.json";
/// What all sealed master keys' names begin with.
pub const KEYS: &str = "keys/";
/// What all snapshots' objects' names begin with.
pub const SNAPSHOTS: &str = "snapshots/";
/// What all journals' objects' names begin with.
pub const JOURNALS: &str = "journals/";
/// What all reports' names begin with.
pub const REPORTS: &str = "reports/";
/// The folders of a repository.
pub const FOLDERS: [&str; 4] = ["keys", "snapshots", "journals", "reports"];

/// A name that this version knows, parsed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// `repository.json`
    RepositoryJson,
    /// `keys/<key id>.<generation>`: a master key sealed by a passphrase.
    Key {
        /// The master key.
        id: KeyId,
        /// Which passphrase: the highest counts.
        generation: u32,
    },
    /// `snapshots/<id>/<part>`
    Snapshot {
        /// The snapshot.
        id: SnapshotId,
        /// Which of its objects.
        part: Part,
    },
    /// `journals/<ulid>/<part>`
    Journal {
        /// The journal.
        id: SnapshotId,
        /// Which of its objects.
        part: JournalPart,
    },
    /// `reports/<ulid>`
    Report {
        /// The report.
        id: SnapshotId,
    },
}

/// One object of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The encrypted frames.
    Payload,
    /// The encrypted frame table.
    Index,
    /// The encrypted companion files.
    Companions,
    /// The data key, sealed; with its generation.
    Seal(u32),
    /// The manifest: the snapshot exists while this does.
    Manifest,
    /// The manifest's bytes, after the snapshot was removed and until it is swept.
    Tombstone,
    /// The snapshot is being swept, or will be.
    Sweep,
    /// Retention keeps the snapshot.
    Keep,
    /// An object of a role that this version does not know; always a legal role.
    Other(String),
}

/// One object of a change journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JournalPart {
    /// The data key, sealed; with its generation.
    Seal(u32),
    /// What it is of: the journal exists while this does.
    Head,
    /// A piece of it.
    Segment {
        /// Its number, from 1.
        number: u64,
        /// The last complete revision after it, a hint.
        last: u64,
    },
    /// What it held when it ended; with the number of the seal that vouches for it.
    End(u32),
    /// All of it in one object; with the number of the end that names it.
    Bundle(u32),
    /// The head's bytes, after the journal was removed and until it is swept.
    Tombstone,
    /// The journal is being swept, or will be.
    Sweep,
    /// Retention keeps the journal.
    Keep,
}

impl JournalPart {
    /// The name of this part of journal `id`: `journals/<id>/<part>`.
    pub fn of(self, id: SnapshotId) -> String {
        format!("{JOURNALS}{id}/{self}")
    }

    fn parse(name: &str) -> Option<Self> {
        let numbered = |prefix| name.strip_prefix(prefix);
        match name {
            "head" => Some(Self::Head),
            "tombstone" => Some(Self::Tombstone),
            "sweep" => Some(Self::Sweep),
            "keep" => Some(Self::Keep),
            _ => {
                if let Some(number) = numbered("seal.") {
                    return generation(number).map(Self::Seal);
                }
                if let Some(number) = numbered("end.") {
                    return generation(number).map(Self::End);
                }
                if let Some(number) = numbered("bundle.") {
                    return generation(number).map(Self::Bundle);
                }
                let (number, last) = numbered("segment.")?.split_once('.')?;
                let number = decimal(number).filter(|n| (1..=MAX_SEGMENT_NUMBER).contains(n))?;
                let last = decimal(last).filter(|last| *last <= MAX_INTEGER)?;
                Some(Self::Segment { number, last })
            }
        }
    }
}

impl fmt::Display for JournalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seal(generation) => write!(f, "seal.{generation}"),
            Self::Head => f.write_str("head"),
            Self::Segment { number, last } => write!(f, "segment.{number}.{last}"),
            Self::End(generation) => write!(f, "end.{generation}"),
            Self::Bundle(generation) => write!(f, "bundle.{generation}"),
            Self::Tombstone => f.write_str("tombstone"),
            Self::Sweep => f.write_str("sweep"),
            Self::Keep => f.write_str("keep"),
        }
    }
}

impl Part {
    /// The name of this part of snapshot `id`: `snapshots/<id>/<part>`.
    pub fn of(&self, id: SnapshotId) -> String {
        format!("{SNAPSHOTS}{id}/{self}")
    }

    fn parse(name: &str) -> Option<Self> {
        match name {
            "payload" => Some(Self::Payload),
            "index" => Some(Self::Index),
            "companions" => Some(Self::Companions),
            "manifest" => Some(Self::Manifest),
            "tombstone" => Some(Self::Tombstone),
            "sweep" => Some(Self::Sweep),
            "keep" => Some(Self::Keep),
            _ => match name.strip_prefix("seal.") {
                Some(number) => generation(number).map(Self::Seal),
                // No role of a later version has this name.
                None if name == "seal" => None,
                None => is_name(name).then(|| Self::Other(name.into())),
            },
        }
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::parse(name).ok_or_else(|| Error::tampered("no part of a snapshot has this name"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload => f.write_str("payload"),
            Self::Index => f.write_str("index"),
            Self::Companions => f.write_str("companions"),
            Self::Seal(generation) => write!(f, "seal.{generation}"),
            Self::Manifest => f.write_str("manifest"),
            Self::Tombstone => f.write_str("tombstone"),
            Self::Sweep => f.write_str("sweep"),
            Self::Keep => f.write_str("keep"),
            Self::Other(role) => f.write_str(role),
        }
    }
}

impl ObjectName {
    /// Parses a listed path, relative to the repository. `None`: not ours, to be left alone.
    pub fn parse(path: &str) -> Option<Self> {
        if path == REPOSITORY {
            return Some(Self::RepositoryJson);
        }
        if let Some(rest) = path.strip_prefix(KEYS) {
            let (id, number) = rest.split_once('.')?;
            return Some(Self::Key { id: id.parse().ok()?, generation: generation(number)? });
        }
        if let Some(rest) = path.strip_prefix(REPORTS) {
            return Some(Self::Report { id: rest.parse().ok()? });
        }
        if let Some(rest) = path.strip_prefix(JOURNALS) {
            let (id, part) = rest.split_once('/')?;
            return Some(Self::Journal { id: id.parse().ok()?, part: JournalPart::parse(part)? });
        }
        let (id, part) = path.strip_prefix(SNAPSHOTS)?.split_once('/')?;
        Some(Self::Snapshot { id: id.parse().ok()?, part: Part::parse(part)? })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RepositoryJson => f.write_str(REPOSITORY),
            Self::Key { id, generation } => write!(f, "{KEYS}{id}.{generation}"),
            Self::Snapshot { id, part } => write!(f, "{SNAPSHOTS}{id}/{part}"),
            Self::Journal { id, part } => write!(f, "{JOURNALS}{id}/{part}"),
            Self::Report { id } => write!(f, "{REPORTS}{id}"),
        }
    }
}

/// `keys/<key id>.<generation>`
pub fn key_name(id: KeyId, generation: u32) -> String {
    format!("{KEYS}{id}.{generation}")
}

/// A generation as it stands in names and texts: 1..2^32−1.
fn generation(text: &str) -> Option<u32> {
    decimal(text).and_then(|n| u32::try_from(n).ok()).filter(|n| *n != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        // [S3.1]
        for name in [
            "repository.json",
            "keys/00112233445566778899aabbccddeeff.1",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/payload",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/index",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/companions",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/seal.4294967295",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/manifest",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/tombstone",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/sweep",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/keep",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/parity-2",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/seal.1",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/head",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/segment.281474976710655.9223372036854775807",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/segment.1.0",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/end.2",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/bundle.3",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/tombstone",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/sweep",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/keep",
            "reports/01ARZ3NDEKTSV4RRFFQ69G5FAV",
        ] {
            assert_eq!(ObjectName::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_foreign() {
        for name in [
            "",
            "repository.json.tmp",
            "/repository.json",
            "keys/00112233445566778899aabbccddeeff",
            "keys/00112233445566778899aabbccddeeff.0",
            "keys/00112233445566778899aabbccddeeff.01",
            "keys/00112233445566778899AABBCCDDEEFF.1",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/seal",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/seal.",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/seal.4294967296",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/payload.tmp",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/a/b",
            "snapshots/01ARZ3NDEKTSV4RRFFQ69G5FAV/..",
            "snapshots/91ARZ3NDEKTSV4RRFFQ69G5FAV/index",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/segment.0.1",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/segment.01.1",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/segment.1",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/segment.281474976710656.1",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/segment.1.9223372036854775808",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/end.0",
            "journals/01ARZ3NDEKTSV4RRFFQ69G5FAV/manifest",
            "reports/x",
        ] {
            assert_eq!(ObjectName::parse(name), None, "{name}");
        }
    }
}
