//! The index: where each frame of the database is (SPEC.md §4.3). JSON text only: compression and
//! encryption happen above.

use std::ops::Range;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::header::message_length;
use super::ids::Sha256;
use super::json::{self, Base64, Object, Text};
use super::padding::padme;
use crate::error::{Error, ErrorKind, Result};

/// The longest index that is read or written, in bytes of JSON.
pub const MAX_INDEX: usize = 64 << 20;
/// The largest database, in bytes.
pub const MAX_DATABASE: u64 = 1 << 40;
/// The smallest frame size, in bytes.
pub const MIN_FRAME_SIZE: u64 = 1 << 16;
/// The largest frame size, in bytes.
pub const MAX_FRAME_SIZE: u64 = 1 << 24;

const WHAT: &str = "index";

/// The database a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Size in bytes, without etcd's trailer.
    pub size: u64,
    /// Digest of the database: etcd's trailer.
    #[serde(with = "digest")]
    pub sha256: Sha256,
    /// How many bytes of the database each frame holds (the last may hold fewer): a power of two.
    pub frame_size: u64,
}

mod digest {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Sha256, Text};

    pub(super) fn serialize<S: Serializer>(sha256: &Sha256, out: S) -> Result<S::Ok, S::Error> {
        Text(sha256).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(json: D) -> Result<Sha256, D::Error> {
        Text::deserialize(json).map(|text| text.0)
    }
}

/// One compressed frame as it stands in the payload's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Length of the compressed frame in bytes.
    pub length: u64,
    /// SHA-256 of the compressed frame.
    pub sha256: Sha256,
}

/// The table of a snapshot's frames, in the order of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    database: Database,
    frames: Vec<FrameRef>,
    /// Where each frame begins in the payload's message, and where the last one ends.
    starts: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    database: Object<Database>,
    frames: Vec<FrameRef>,
}

impl Serialize for FrameRef {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut tuple = out.serialize_tuple(2)?;
        tuple.serialize_element(&self.length)?;
        tuple.serialize_element(&Base64(self.sha256.0))?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for FrameRef {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Tuple;

        impl<'de> Visitor<'de> for Tuple {
            type Value = FrameRef;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("[length, sha256]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FrameRef, A::Error> {
                let missing = || serde::de::Error::custom("a frame has two elements");
                Ok(FrameRef {
                    length: seq.next_element()?.ok_or_else(missing)?,
                    sha256: Sha256(seq.next_element::<Base64<_>>()?.ok_or_else(missing)?.0),
                })
            }
        }

        json.deserialize_tuple(2, Tuple)
    }
}

impl Index {
    /// The index of `database`, whose compressed frames are `frames`, one after the other.
    ///
    /// # Errors
    /// Usage when a rule of §4.3 is broken.
    pub fn new(database: Database, frames: Vec<FrameRef>) -> Result<Self> {
        Self::checked(database, frames).map_err(|why| Error::usage(format!("{WHAT}: {why}")))
    }

    /// Parses an opened and decompressed index of a snapshot whose payload object is
    /// `payload_length` bytes long.
    ///
    /// # Errors
    /// Unsupported for an unknown `requires`, else tampered. None shows the content.
    pub fn parse(bytes: &[u8], payload_length: u64) -> Result<Self> {
        if bytes.len() > MAX_INDEX {
            return Err(Error::tampered(format!("{WHAT}: more than {MAX_INDEX} bytes")));
        }
        let Wire { database, frames } = json::parse_secret(WHAT, bytes)?;
        let index = Self::checked(database.0, frames);
        let index = index.map_err(|why| Error::tampered(format!("{WHAT}: {why}")))?;
        if message_length(payload_length) != Some(index.payload_message()) {
            let why = "the payload's length is not that of its frames, padded";
            return Err(Error::tampered(format!("{WHAT}: {why}")));
        }
        Ok(index)
    }

    /// The JSON.
    ///
    /// # Errors
    /// Refused when it is longer than a reader takes.
    pub fn print(&self) -> Result<Vec<u8>> {
        let wire = Wire { database: Object(self.database), frames: self.frames.clone() };
        let json = json::print(&wire)?;
        if json.len() > MAX_INDEX {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{WHAT}: more than {MAX_INDEX} bytes"),
            )
            .hint("use larger frames"));
        }
        Ok(json)
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// One for each frame of the database, in its order.
    pub fn frames(&self) -> &[FrameRef] {
        &self.frames
    }

    /// Plain length of frame `n` in bytes; `None` past the last.
    pub fn frame_length(&self, n: usize) -> Option<u64> {
        let Database { size, frame_size, .. } = self.database;
        let start = u64::try_from(n).ok()?.checked_mul(frame_size)?;
        size.checked_sub(start).filter(|left| *left > 0).map(|left| left.min(frame_size))
    }

    /// Where the compressed frames `which` lie in the payload's message; `None` past the last.
    pub fn stored(&self, which: Range<usize>) -> Option<Range<u64>> {
        Some(*self.starts.get(which.start)?..*self.starts.get(which.end)?)
    }

    /// Bytes of all compressed frames.
    pub fn stored_bytes(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Length of the payload's message: all frames, and their padding.
    pub fn payload_message(&self) -> u64 {
        padme(self.stored_bytes()).unwrap_or(u64::MAX)
    }

    fn checked(database: Database, frames: Vec<FrameRef>) -> Result<Self, &'static str> {
        let Database { size, frame_size, .. } = database;
        if !(MIN_FRAME_SIZE..=MAX_FRAME_SIZE).contains(&frame_size) || !frame_size.is_power_of_two()
        {
            return Err("frame_size is not a power of two of 2^16..2^24");
        }
        if !(1..=MAX_DATABASE).contains(&size) {
            return Err("the database's size is not 1 to 2^40");
        }
        if u64::try_from(frames.len()) != Ok(size.div_ceil(frame_size)) {
            return Err("the number of frames does not fit the database's size");
        }
        // No sum wraps: at most 2^24 frames of a little over 2^24 bytes.
        let mut starts = Vec::with_capacity(frames.len() + 1);
        let mut end = 0;
        starts.push(end);
        for frame in &frames {
            if !(1..=compress_bound(frame_size)).contains(&frame.length) {
                return Err("a frame is empty or too long");
            }
            end += frame.length;
            starts.push(end);
        }
        Ok(Self { database, frames, starts })
    }
}

/// The longest zstd frame around `plain` bytes that an index may name, in bytes.
///
/// zstd's own `ZSTD_COMPRESSBOUND` (zstd.h): compression in one call never exceeds it.
pub const fn compress_bound(plain: u64) -> u64 {
    let small = 128 << 10;
    plain + (plain >> 8) + if plain < small { (small - plain) >> 11 } else { 0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::header::object_length;
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn sample() -> Index {
        let frame = |length, byte| FrameRef { length, sha256: Sha256([byte; 32]) };
        let database =
            Database { size: 65_536 * 2 + 1, sha256: Sha256([8; 32]), frame_size: 65_536 };
        Index::new(database, vec![frame(16_384, 3), frame(4896, 4), frame(1, 5)]).unwrap()
    }

    pub(in super::super) fn payload() -> u64 {
        object_length(padme(16_384 + 4896 + 1).unwrap()).unwrap()
    }

    fn text() -> String {
        String::from_utf8(sample().print().unwrap()).unwrap()
    }

    fn kind(text: &str) -> ErrorKind {
        Index::parse(text.as_bytes(), payload()).expect_err(text).kind()
    }

    #[test]
    fn prints_as_specified() {
        // [S4.3.1]
        let text = text();
        assert!(text.starts_with(r#"{"database":{"size":131073,"sha256":"0808"#), "{text}");
        assert!(text.contains(r#","frame_size":65536},"frames":[[16384,"AwMD"#), "{text}");
        assert!(text.ends_with(r#"[1,"BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"]]}"#), "{text}");
        let index = Index::parse(text.as_bytes(), payload()).unwrap();
        assert_eq!(index, sample());
        assert_eq!(index.print().unwrap(), text.as_bytes());
        let lengths = [0, 1, 2, 3].map(|n| index.frame_length(n));
        assert_eq!(lengths, [Some(65_536), Some(65_536), Some(1), None]);
        assert_eq!(index.stored(0..1), Some(0..16_384));
        assert_eq!(index.stored(1..3), Some(16_384..21_281));
        assert_eq!(index.stored(1..4), None);
        assert_eq!(index.stored_bytes(), 21_281);
    }

    #[test]
    fn each_rule_of_s4_3_is_enforced() {
        let text = text();
        for (from, to) in [
            ("\"size\":131073", "\"size\":131072"), // [S4.3.3] number of frames
            ("\"size\":131073", "\"size\":196609"),
            ("\"size\":131073", "\"size\":0"),
            ("\"frame_size\":65536", "\"frame_size\":65537"), // [S4.3.2] power of two
            ("\"frame_size\":65536", "\"frame_size\":32768"),
            ("\"frame_size\":65536", "\"frame_size\":33554432"),
            ("[4896,", "[0,"),    // [S4.3.4] not empty
            ("[4896,", "[9000,"), // [S4.5.2] the payload's length
            ("[4896,", "[9223372036854775807,"),
            ("[4896,", "[4896,1,"),
            ("[4896,", "["),
            ("[4896,", "[-4896,"),
            ("BQUFBQU\"]]", "BQUFBQV\"]]"),
            ("BQUFBQU\"]]", "BQUFBQUF\"]]"),
            ("{\"database\"", "{\"frames\":[],\"database\""),
        ] {
            assert!(text.contains(from), "{from}");
            assert_eq!(kind(&text.replacen(from, to, 1)), ErrorKind::Tampered, "{from} {to}");
        }
        let required = text.replacen('{', "{\"requires\":[\"z\"],", 1);
        assert_eq!(kind(&required), ErrorKind::Unsupported);
        let unknown = text.replacen('{', "{\"later\":{\"x\":[true]},", 1);
        assert!(Index::parse(unknown.as_bytes(), payload()).is_ok());
    }

    #[test]
    fn a_payload_of_another_length_is_tampered() {
        // [S4.5.2]
        for length in [0, payload() - 1, payload() + 1, payload() * 2] {
            let error = Index::parse(text().as_bytes(), length).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Tampered);
        }
    }

    #[test]
    fn a_database_has_1_to_2_40_bytes() {
        // [S4.3.3]
        let database = |size| Database { size, sha256: Sha256([0; 32]), frame_size: 1 << 24 };
        let frame = FrameRef { length: 1, sha256: Sha256([0; 32]) };
        assert!(Index::new(database(1 << 40), vec![frame; 1 << 16]).is_ok());
        assert!(Index::new(database((1 << 40) + 1), vec![frame; (1 << 16) + 1]).is_err());
        assert!(Index::new(database(0), Vec::new()).is_err());
    }

    #[test]
    fn frame_length_bound_is_zstds() {
        // [S4.3.4]
        assert_eq!(compress_bound(1 << 20), 1_052_672);
        assert_eq!(compress_bound(1 << 16), 65_824);
        let bound = compress_bound(65_536);
        for (length, good) in [(bound, true), (bound + 1, false)] {
            let mut frames = sample().frames;
            frames[1].length = length;
            assert_eq!(Index::new(*sample().database(), frames).is_ok(), good);
        }
    }

    proptest! {
        #[test]
        fn any_index_round_trips(lengths in proptest::collection::vec(1u64..65_824, 1..40), sha256: [u8; 32]) {
            let frames: Vec<_> =
                lengths.iter().map(|length| FrameRef { length: *length, sha256: Sha256(sha256) }).collect();
            let size = frames.len() as u64 * 65_536;
            let database = Database { size, sha256: Sha256([1; 32]), frame_size: 65_536 };
            let index = Index::new(database, frames).unwrap();
            let payload = object_length(index.payload_message()).unwrap();
            let parsed = Index::parse(&index.print().unwrap(), payload).unwrap();
            prop_assert_eq!(parsed, index);
        }
    }
}
