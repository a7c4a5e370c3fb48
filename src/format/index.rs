//! The index: where each frame of the database is (SPEC.md §4.3). JSON text only: compression and
//! encryption happen above.

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::header::message_length;
use super::ids::{Sha256, SnapshotId};
use super::json::{self, Base64, Key, MAX_INTEGER, Object, Text};
use super::text::ascends;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::{SecretBytes, SecretKey};

/// The longest index that is read or written, in bytes of JSON.
pub const MAX_INDEX: usize = 64 << 20;
/// The most sources of an index.
pub const MAX_SOURCES: usize = 65_535;
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

/// An earlier snapshot's payload from which frames are used.
pub struct Source {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its payload key; `None` where the writer could not hold it: then its own seal is opened.
    pub payload_key: Option<SecretKey>,
    /// Bytes 56..88 of its payload object.
    pub commitment: [u8; 32],
    /// Length of its payload object in bytes.
    pub length: u64,
}

impl Source {
    /// A second one, with its own copy of the key.
    pub fn duplicate(&self) -> Self {
        let payload_key = self.payload_key.as_ref().map(SecretKey::duplicate);
        Self { payload_key, ..*self }
    }
}

/// Where one frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// 0 is the snapshot's own payload, k is `sources[k - 1]`.
    pub source: u32,
    /// Where the compressed frame begins in the payload's message.
    pub offset: u64,
    /// Length of the compressed frame in bytes.
    pub length: u64,
    /// Keyed BLAKE3 of the plain frame, cut to 16 bytes.
    pub id: [u8; 16],
}

/// The table of a snapshot's frames, in the order of the database.
pub struct Index {
    /// The database.
    pub database: Database,
    /// The key of frame ids; one for a chain.
    pub frame_id_key: SecretKey,
    /// Ascending by snapshot, each used by some frame.
    pub sources: Vec<Source>,
    /// One for each frame of the database.
    pub frames: Vec<FrameRef>,
}

#[derive(Deserialize)]
struct Wire {
    database: Object<Database>,
    frame_id_key: Key<SecretKey>,
    sources: Vec<Object<WireSource>>,
    frames: Vec<FrameRef>,
}

#[derive(Deserialize)]
struct WireSource {
    snapshot: Text<SnapshotId>,
    payload_key: Option<Key<SecretKey>>,
    commitment: Base64<[u8; 32]>,
    length: u64,
}

#[derive(Serialize)]
struct Out<'a> {
    database: Database,
    frame_id_key: Key<&'a SecretKey>,
    sources: Vec<OutSource<'a>>,
    frames: &'a [FrameRef],
}

#[derive(Serialize)]
struct OutSource<'a> {
    snapshot: Text<SnapshotId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_key: Option<Key<&'a SecretKey>>,
    commitment: Base64<[u8; 32]>,
    length: u64,
}

impl<'a> From<&'a Source> for OutSource<'a> {
    fn from(source: &'a Source) -> Self {
        Self {
            snapshot: Text(source.snapshot),
            payload_key: source.payload_key.as_ref().map(Key),
            commitment: Base64(source.commitment),
            length: source.length,
        }
    }
}

impl Serialize for FrameRef {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut tuple = out.serialize_tuple(4)?;
        tuple.serialize_element(&self.source)?;
        tuple.serialize_element(&self.offset)?;
        tuple.serialize_element(&self.length)?;
        tuple.serialize_element(&Base64(self.id))?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for FrameRef {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Tuple;

        impl<'de> Visitor<'de> for Tuple {
            type Value = FrameRef;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("[source, offset, length, id]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FrameRef, A::Error> {
                let missing = || serde::de::Error::custom("a frame has four elements");
                Ok(FrameRef {
                    source: seq.next_element()?.ok_or_else(missing)?,
                    offset: seq.next_element()?.ok_or_else(missing)?,
                    length: seq.next_element()?.ok_or_else(missing)?,
                    id: seq.next_element::<Base64<[u8; 16]>>()?.ok_or_else(missing)?.0,
                })
            }
        }

        json.deserialize_tuple(4, Tuple)
    }
}

impl Index {
    /// Parses an opened and decompressed index of a snapshot whose payload object is
    /// `payload_length` bytes long.
    ///
    /// # Errors
    /// Unsupported for an unknown `requires`, else tampered. None shows the content.
    pub fn parse(bytes: &[u8], payload_length: u64) -> Result<Self> {
        if bytes.len() > MAX_INDEX {
            return Err(Error::tampered(format!("{WHAT}: more than {MAX_INDEX} bytes")));
        }
        let wire: Wire = json::parse_secret(WHAT, bytes)?;
        let source = |Object(source): Object<WireSource>| Source {
            snapshot: source.snapshot.0,
            payload_key: source.payload_key.map(|key| key.0),
            commitment: source.commitment.0,
            length: source.length,
        };
        let index = Self {
            database: wire.database.0,
            frame_id_key: wire.frame_id_key.0,
            sources: wire.sources.into_iter().map(source).collect(),
            frames: wire.frames,
        };
        index.check(payload_length).map_err(|why| Error::tampered(format!("{WHAT}: {why}")))?;
        Ok(index)
    }

    /// The JSON, which holds keys.
    ///
    /// # Errors
    /// Usage when a rule of §4.3 is broken; refused when it is longer than a reader takes.
    pub fn print(&self, payload_length: u64) -> Result<SecretBytes> {
        self.check(payload_length).map_err(|why| Error::usage(format!("{WHAT}: {why}")))?;
        let json = json::print_secret(&Out {
            database: self.database,
            frame_id_key: Key(&self.frame_id_key),
            sources: self.sources.iter().map(OutSource::from).collect(),
            frames: &self.frames,
        })?;
        if json.expose().len() > MAX_INDEX {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{WHAT}: more than {MAX_INDEX} bytes"),
            )
            .hint("use larger frames"));
        }
        Ok(json)
    }

    /// Plain length of frame `n` in bytes; `None` past the last.
    pub fn frame_length(&self, n: usize) -> Option<u64> {
        let Database { size, frame_size, .. } = self.database;
        let start = u64::try_from(n).ok()?.checked_mul(frame_size)?;
        size.checked_sub(start).filter(|left| *left > 0).map(|left| left.min(frame_size))
    }

    fn check(&self, payload_length: u64) -> Result<(), String> {
        let Database { size, frame_size, .. } = self.database;
        if !(MIN_FRAME_SIZE..=MAX_FRAME_SIZE).contains(&frame_size) || !frame_size.is_power_of_two()
        {
            return Err("frame_size is not a power of two of 2^16..2^24".into());
        }
        if size > MAX_INTEGER || u64::try_from(self.frames.len()) != Ok(size.div_ceil(frame_size)) {
            return Err("the number of frames does not fit the database's size".into());
        }
        if self.sources.len() > MAX_SOURCES || !ascends(self.sources.iter().map(|s| s.snapshot)) {
            return Err("too many sources, or they do not ascend".into());
        }
        let objects = std::iter::once(payload_length).chain(self.sources.iter().map(|s| s.length));
        let mut messages = Vec::with_capacity(self.sources.len() + 1);
        for length in objects {
            let message = message_length(length).filter(|_| length <= MAX_INTEGER);
            // The own payload counts as used.
            let used = messages.is_empty();
            messages.push((message.ok_or("no payload object has this length")?, used));
        }
        let bound = compress_bound(frame_size);
        for FrameRef { source, offset, length, .. } in &self.frames {
            let (message, used) = usize::try_from(*source)
                .ok()
                .and_then(|source| messages.get_mut(source))
                .ok_or("a frame's source is not in the table")?;
            *used = true;
            let inside = offset.checked_add(*length).is_some_and(|end| end <= *message);
            if !inside || !(1..=bound).contains(length) {
                return Err("a frame lies outside its payload or is too long".into());
            }
        }
        if !messages.iter().all(|(_, used)| *used) {
            return Err("a source is not used".into());
        }
        Ok(())
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
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) const PAYLOAD: u64 = 5000;

    fn key(byte: u8) -> SecretKey {
        SecretKey::new(|key| key.fill(byte))
    }

    pub(in super::super) fn sample() -> Index {
        let source = |id, payload_key| Source {
            snapshot: SnapshotId(id),
            payload_key,
            commitment: [id as u8; 32],
            length: 88 + 16_400 + 16,
        };
        let frame = |source, offset, length| FrameRef { source, offset, length, id: [3; 16] };
        Index {
            database: Database {
                size: 65_536 * 2 + 1,
                sha256: Sha256([8; 32]),
                frame_size: 65_536,
            },
            frame_id_key: key(1),
            sources: vec![source(1, Some(key(2))), source(2, None)],
            frames: vec![frame(1, 0, 16_384), frame(0, 0, 4896), frame(2, 100, 1)],
        }
    }

    fn text() -> String {
        String::from_utf8(sample().print(PAYLOAD).unwrap().expose().to_vec()).unwrap()
    }

    fn kind(text: &str) -> ErrorKind {
        let error = Index::parse(text.as_bytes(), PAYLOAD).err().expect(text);
        assert!(!format!("{error:?}").contains("AQEB"), "{error}");
        error.kind()
    }

    #[test]
    fn prints_as_specified() {
        // [S4.3.1]
        let text = text();
        assert!(text.starts_with(r#"{"database":{"size":131073,"sha256":"0808"#), "{text}");
        assert!(text.contains(r#","frame_size":65536},"frame_id_key":"AQEB"#));
        assert!(text.contains(r#"{"snapshot":"00000000000000000000000002","commitment":"#));
        assert!(text.ends_with(r#"[2,100,1,"AwMDAwMDAwMDAwMDAwMDAw"]]}"#));
        let index = Index::parse(text.as_bytes(), PAYLOAD).unwrap();
        assert_eq!(index.print(PAYLOAD).unwrap().expose(), text.as_bytes());
        assert_eq!(index.frames, sample().frames);
        assert_eq!(index.sources[0].payload_key.as_ref().unwrap().expose(), &[2; 32]);
        assert_eq!(
            [0, 1, 2, 3].map(|n| index.frame_length(n)),
            [Some(65_536), Some(65_536), Some(1), None]
        );
    }

    #[test]
    fn each_rule_of_s4_3_is_enforced() {
        let text = text();
        for (from, to) in [
            ("\"size\":131073", "\"size\":131072"), // [S4.3.3] number of frames
            ("\"size\":131073", "\"size\":196609"),
            ("\"frame_size\":65536", "\"frame_size\":65537"), // [S4.3.2] power of two
            ("\"frame_size\":65536", "\"frame_size\":32768"),
            ("\"frame_size\":65536", "\"frame_size\":33554432"),
            ("000000000001\"", "000000000002\""), // [S4.3.4] ascending
            ("000000000001\"", "000000000003\""),
            ("[2,100,", "[1,100,"),         // each used
            ("[2,100,", "[3,100,"),         // in the table
            ("[0,0,4896,", "[0,1,4896,"),   // [S4.3.5] extents: own
            ("[1,0,16384,", "[1,1,16384,"), // extents: source's
            ("[0,0,4896,", "[0,0,0,"),      // not empty
            ("[0,0,", "[0,9223372036854775807,"),
            ("\"length\":16504", "\"length\":16488"), // no object's length
            ("[2,100,1,", "[2,100,1,1,"),
            ("[2,100,1,", "[2,100,"),
            ("[2,100,1,", "[-2,100,1,"),
            ("[2,100,1,", "[4294967296,100,1,"),
            ("\"AwMDAwMDAwMDAwMDAwMDAw\"]]", "\"AwMDAwMDAwMDAwMDAwMDAx\"]]"),
            ("\"frame_id_key\":\"AQEB", "\"frame_id_key\":\"AQE"),
            ("{\"database\"", "{\"frames\":[],\"database\""),
        ] {
            assert!(text.contains(from), "{from}");
            assert_eq!(kind(&text.replacen(from, to, 1)), ErrorKind::Tampered, "{from} {to}");
        }
        let required = text.replacen('{', "{\"requires\":[\"z\"],", 1);
        assert_eq!(kind(&required), ErrorKind::Unsupported);
        let unknown = text.replacen('{', "{\"later\":{\"x\":[true]},", 1);
        assert!(Index::parse(unknown.as_bytes(), PAYLOAD).is_ok());
    }

    #[test]
    fn frame_length_bound_is_zstds() {
        // [S4.3.6]
        assert_eq!(compress_bound(1 << 20), 1_052_672);
        assert_eq!(compress_bound(1 << 16), 65_824);
        let mut index = sample();
        let bound = compress_bound(65_536);
        for (length, good) in [(bound, true), (bound + 1, false)] {
            index.frames[1].length = length;
            assert_eq!(
                index.print(super::super::header::object_length(1 << 20).unwrap()).is_ok(),
                good
            );
        }
    }

    proptest! {
        #[test]
        fn any_index_round_trips(lengths in proptest::collection::vec(1u64..65_824, 0..40), id: [u8; 16]) {
            let mut offset = 0;
            let frames: Vec<_> = lengths.iter().map(|length| {
                let frame = FrameRef { source: 0, offset, length: *length, id };
                offset += length;
                frame
            }).collect();
            let size = frames.len() as u64 * 65_536;
            let payload = super::super::header::object_length(offset).unwrap();
            let database = Database { size, sha256: Sha256([1; 32]), frame_size: 65_536 };
            let index = Index { database, frame_id_key: key(9), sources: vec![], frames };
            let json = index.print(payload).unwrap();
            let parsed = Index::parse(json.expose(), payload).unwrap();
            prop_assert_eq!(parsed.frames, index.frames);
            prop_assert_eq!(parsed.database, database);
        }
    }
}
