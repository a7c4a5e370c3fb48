//! What one request leaves in the log.

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most keys or ranges that one line names; [`Record::more`] counts those left out.
pub const MAX_KEYS: usize = 128;
/// The longest key that a line holds whole, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// The most bytes of a line that its keys take up: with the names it stays below [`MAX_LINE`](super::MAX_LINE).
const MAX_KEYS_TEXT: usize = 40 << 10;
/// The longest name of a client, user, peer, method or outcome, in characters.
const MAX_NAME: usize = 512;

/// One request: who asked for what, when, and what came of it. Never a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When the request came; kept to the microsecond.
    #[serde(serialize_with = "print_time", deserialize_with = "parse_time")]
    pub time: Timestamp,
    /// The subject or common name of the client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The etcd user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The address that the request came from.
    pub peer: String,
    /// The gRPC method, such as `/etcdserverpb.KV/Range`.
    pub method: String,
    /// The keys and ranges that it touched, the first [`MAX_KEYS`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyRange>,
    /// How many more it touched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    /// Its subject besides keys: a lease, a user, a role, a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How many refused requests of the connection since its previous line have no line.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeats: u64,
    /// The revision asked for, or of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The gRPC code's name, such as `OK` or `PERMISSION_DENIED`.
    pub outcome: String,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

impl Record {
    /// The record within the bounds of a line: surplus keys counted instead, overlong names cut.
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        for name in [&mut self.peer, &mut self.method, &mut self.outcome] {
            bound(name);
        }
        [&mut self.client, &mut self.user, &mut self.subject].into_iter().flatten().for_each(bound);
        let mut room = MAX_KEYS_TEXT;
        let mut kept = 0;
        for range in self.keys.iter_mut().take(MAX_KEYS) {
            range.bound();
            let text = serde_json::to_string(range).map_or(usize::MAX, |text| text.len());
            let Some(left) = room.checked_sub(text) else { break };
            room = left;
            kept += 1;
        }
        self.more = self.more.saturating_add(self.keys.len().saturating_sub(kept) as u64);
        self.keys.truncate(kept);
        self
    }
}

fn bound(name: &mut String) {
    if let Some((end, _)) = name.char_indices().nth(MAX_NAME) {
        name.truncate(end);
        name.push('…');
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

pub(super) fn print_time<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.6}"))
}

pub(super) fn parse_time<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

/// One key, or a range of keys as etcd writes it (`rpc.proto`, `RangeRequest.range_end`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "KeyText", into = "KeyText")]
pub struct KeyRange {
    /// The key, or the first of the range.
    pub key: Vec<u8>,
    /// The first key beyond the range; one zero byte: to the end of all keys. `None` or empty: `key` alone.
    pub range_end: Option<Vec<u8>>,
    /// True when a key was longer than [`MAX_KEY_BYTES`] and only its beginning is here.
    pub cut: bool,
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), range_end: None, cut: false }
    }

    /// All keys from `key` on and before `range_end`.
    pub fn range(key: impl Into<Vec<u8>>, range_end: impl Into<Vec<u8>>) -> Self {
        let range_end = Some(range_end.into()).filter(|end: &Vec<u8>| !end.is_empty());
        Self { key: key.into(), range_end, cut: false }
    }

    /// Whether it may hold a key in `[from, to)`, `to = None` for no end. Of what was cut, whatever could be.
    pub fn touches(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let begins_before = |to: &[u8]| self.key.as_slice() < to;
        let reaches = match self.range_end.as_deref() {
            Some([0]) => true,
            Some(end) if !end.is_empty() => from < end || (self.cut && from.starts_with(end)),
            _ if self.cut => self.key.as_slice() >= from || from.starts_with(&self.key),
            _ => self.key.as_slice() >= from,
        };
        reaches && to.is_none_or(begins_before)
    }

    /// Whether it may hold `key`.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.touches(key, Some(&[key, &[0]].concat()))
    }

    fn bound(&mut self) {
        for key in [Some(&mut self.key), self.range_end.as_mut()].into_iter().flatten() {
            if key.len() > MAX_KEY_BYTES {
                key.truncate(MAX_KEY_BYTES);
                self.cut = true;
            }
        }
    }
}

/// As it stands in a line: text where the bytes are printable, else base64 under another name.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct KeyText {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end_base64: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// (text, base64), one of them.
fn print_bytes(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => (Some(text), None),
        Ok(text) => (None, Some(BASE64.encode(text.as_bytes()))),
        Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
    }
}

fn parse_bytes(
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Vec<u8>>, &'static str> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("a key both as text and in base64"),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(base64)) => {
            BASE64.decode(base64.as_bytes()).map(Some).map_err(|_| "a key is not base64")
        }
        (None, None) => Ok(None),
    }
}

impl From<KeyRange> for KeyText {
    fn from(range: KeyRange) -> Self {
        let (key, key_base64) = print_bytes(range.key);
        let (range_end, range_end_base64) = range.range_end.map(print_bytes).unwrap_or_default();
        Self { key, key_base64, range_end, range_end_base64, cut: range.cut }
    }
}

impl TryFrom<KeyText> for KeyRange {
    type Error = &'static str;

    fn try_from(text: KeyText) -> Result<Self, Self::Error> {
        let key = parse_bytes(text.key, text.key_base64)?.ok_or("a range without a key")?;
        let range_end = parse_bytes(text.range_end, text.range_end_base64)?;
        Ok(Self { key, range_end, cut: text.cut })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn sample() -> Record {
        Record {
            time: "2026-01-31T12:00:00.123456Z".parse().unwrap(),
            client: Some("CN=kube-apiserver".into()),
            user: None,
            peer: "10.0.0.1:4711".into(),
            method: "/etcdserverpb.KV/Range".into(),
            keys: vec![KeyRange::range("/a", "/b"), KeyRange::key(vec![0xff, 0])],
            more: 0,
            subject: None,
            repeats: 0,
            revision: Some(7),
            outcome: "OK".into(),
            duration_us: 321,
        }
    }

    #[test]
    fn a_record_reads_as_specified() {
        let text = serde_json::to_string(&sample()).unwrap();
        let want = concat!(
            r#"{"time":"2026-01-31T12:00:00.123456Z","client":"CN=kube-apiserver","peer":"10.0.0.1:4711","#,
            r#""method":"/etcdserverpb.KV/Range","keys":[{"key":"/a","range_end":"/b"},{"key_base64":"/wA="}],"#,
            r#""revision":7,"outcome":"OK","duration_us":321}"#
        );
        assert_eq!(text, want);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), sample());
        let whole = Record { time: "2026-01-31T12:00:00Z".parse().unwrap(), ..sample() };
        assert!(serde_json::to_string(&whole).unwrap().contains("12:00:00.000000Z"));
    }

    #[test]
    fn ranges_hold_what_etcd_says() {
        let covers = |range: &KeyRange, key: &str| range.covers(key.as_bytes());
        let one = KeyRange::key("/a");
        assert!(covers(&one, "/a") && !covers(&one, "/a0") && !covers(&one, "/"));
        let range = KeyRange::range("/a", "/b");
        assert!(covers(&range, "/a") && covers(&range, "/a/x"));
        assert!(!covers(&range, "/b") && !covers(&range, "/Z"));
        let from = KeyRange::range("/a", [0]);
        assert!(covers(&from, "/zzz") && !covers(&from, "/Z"));
        let all = KeyRange::range([0], [0]);
        assert!(covers(&all, "a") && all.touches(b"/x", None));
        assert!(one.touches(b"/", Some(b"0")) && !one.touches(b"/b", Some(b"/c")));
        let mut long = KeyRange::key(vec![b'k'; 3000]);
        long.bound();
        assert!(long.cut && long.key.len() == MAX_KEY_BYTES);
        assert!(long.covers(&[b'k'; 3000]) && !long.covers(b"kk"));
    }

    proptest! {
        #[test]
        fn any_record_fits_a_line_and_reads_back(
            client in proptest::option::of(".{0,600}"), peer in any::<String>(),
            keys in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..1500),
                proptest::option::of(".{0,9}")), 0..150)) {
            let ranges: Vec<KeyRange> = keys.into_iter().map(|(key, end)| match end {
                Some(end) => KeyRange::range(key, end),
                None => KeyRange::key(key),
            }).collect();
            let (count, keys) = (ranges.len(), ranges);
            let record = Record { client, peer, keys, ..sample() }.bounded();
            prop_assert_eq!(record.keys.len() + record.more as usize, count);
            let text = serde_json::to_string(&record).unwrap();
            prop_assert!(text.len() < super::super::MAX_LINE - 1024, "{}", text.len());
            prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }

        #[test]
        fn touching_is_the_cut_of_two_ranges(key in "[a-c]{1,2}", end in proptest::option::of("[a-c]{1,2}"),
            from in "[a-c]{1,2}", to in "[a-c]{1,2}", probe in "[a-c]{1,2}") {
            let range = end.map_or_else(|| KeyRange::key(key.clone()), |end| KeyRange::range(key.clone(), end));
            if range.covers(probe.as_bytes()) && from <= probe && probe < to {
                prop_assert!(range.touches(from.as_bytes(), Some(to.as_bytes())));
            }
        }
    }
}
