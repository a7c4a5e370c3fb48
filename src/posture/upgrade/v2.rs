//! etcd's old store in a member's data directory: whether the target starts with it. As `etcdutl check v2store` of
//! 3.5.32 and later: the newest snapshot file that the log knows, and the entries of the log after it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use serde::Deserialize;

use super::super::fact::Fact;
use super::super::facts::Host;
use super::super::facts::host::{HostOptions, Reader};
use super::facts::V2;
use crate::datadir::{RecordKind, read_snap, read_wal};
use crate::protobuf::{Fields, Malformed};
use crate::text::clean;

/// The longest file that is read; etcd's logs have 64 MiB.
const MAX_FILE: u64 = 512 << 20;
const MAX_FILES: usize = 256;
/// What a report says of what was found.
const MAX_TOLD: usize = 8;
/// When a file is read again to which etcd was writing.
const PAUSE: Duration = Duration::from_millis(300);

/// Reads the data directory that the host's settings name.
pub(super) fn read(options: &HostOptions, host: &Host) -> Fact<V2> {
    let found = directories(options, host).and_then(|(snap, wal)| of(&snap, &wal));
    Fact::read(found, "the data directory")
}

fn directories(
    options: &HostOptions,
    host: &Host,
) -> std::result::Result<(PathBuf, PathBuf), String> {
    let reader = Reader::find(options).map_err(|error| error.to_string())?;
    let settings = host.settings.need().map_err(|unknown| unknown.0)?;
    let place = |name: &str| {
        let path = settings.value(name).map_err(|unknown| unknown.0)?;
        path.map(|path| reader.absolute(path)).transpose()
    };
    let data =
        place("data-dir")?.ok_or("data-dir is not set: it is in etcd's working directory")?;
    let wal = place("wal-dir")?.unwrap_or_else(|| format!("{data}/member/wal"));
    let snap = format!("{data}/member/snap");
    Ok((reader.seen(Path::new(&snap))?, reader.seen(Path::new(&wal))?))
}

/// What the two directories hold of the old store.
fn of(snap: &Path, wal: &Path) -> std::result::Result<V2, String> {
    let log = Log::read(wal)?;
    let mut snaps = files(snap, "snap")?;
    snaps.reverse();
    let none = snaps.is_empty();
    let mut found = V2::default();
    for path in snaps {
        let bytes = whole(&path)?;
        let Ok(file) = read_snap(&bytes) else { continue };
        // A file that the log does not know was left by a crash, and etcd passes it over.
        if log.snapshots.get(&file.index) == Some(&file.term) && file.index <= log.committed {
            found.snap = Some(file.index);
            found.content = content(file.store)?;
            break;
        }
    }
    if found.snap.is_none() && !none {
        return Err("no snapshot file fits the log".into());
    }
    // What is in the log up to a snapshot file is in that.
    let after = found.snap.map_or(0, |index| index.saturating_add(1));
    if log.first > after.max(1) {
        return Err(format!("the log begins at {}, after its snapshot file", log.first));
    }
    found.entries = log.entries.range(after..).count() as u64;
    let custom = log.entries.range(after..).filter(|(_, is_custom)| **is_custom);
    let told =
        custom.map(|(index, _)| format!("entry {index} of the log is a request of the v2 API"));
    found.content.extend(told.take(MAX_TOLD));
    Ok(found)
}

/// The log of a member.
#[derive(Default)]
struct Log {
    /// Terms of the snapshots that it knows, by their index.
    snapshots: BTreeMap<u64, u64>,
    committed: u64,
    /// Index of the first entry; 0 without entries.
    first: u64,
    /// Whether an entry is a request of the old API that is not etcd's own, by its index.
    entries: BTreeMap<u64, bool>,
}

impl Log {
    fn read(dir: &Path) -> std::result::Result<Self, String> {
        let files = files(dir, "wal")?;
        if files.is_empty() {
            return Err(format!("{}: no log", dir.display()));
        }
        let mut log = Self::default();
        let mut sequence = None;
        for path in &files {
            let number = path
                .file_stem()
                .and_then(OsStr::to_str)
                .and_then(|name| u64::from_str_radix(name.split('-').next()?, 16).ok())
                .ok_or_else(|| format!("{}: not the name of a log", path.display()))?;
            if sequence.is_some_and(|before: u64| before.checked_add(1) != Some(number)) {
                return Err(format!("{}: the log before it is missing", path.display()));
            }
            sequence = Some(number);
            // etcd may be writing to the newest.
            if let Err(why) = log.add(path) {
                if files.last() != Some(path) {
                    return Err(why);
                }
                thread::sleep(PAUSE);
                log.add(path)?;
            }
        }
        Ok(log)
    }

    /// Adds what a file has; all of it or nothing.
    fn add(&mut self, path: &Path) -> std::result::Result<(), String> {
        let named = |why: String| format!("{}: {why}", path.display());
        let bytes = whole(path)?;
        let records = read_wal(&bytes).map_err(|error| named(error.to_string()))?;
        let malformed = |_: Malformed| named("a record is malformed".into());
        for record in records {
            match record.kind {
                RecordKind::Entry => {
                    let (index, is_custom) = entry(record.data).map_err(malformed)?;
                    if self.first == 0 || index < self.first {
                        self.first = index;
                    }
                    // A later entry of the same index replaces it, and all after it.
                    self.entries.split_off(&index);
                    self.entries.insert(index, is_custom);
                }
                RecordKind::Snapshot => {
                    let [index, term] = numbers(record.data, [1, 2]).map_err(malformed)?;
                    self.snapshots.insert(index, term);
                }
                RecordKind::State => {
                    let [committed] = numbers(record.data, [3]).map_err(malformed)?;
                    self.committed = committed;
                }
                RecordKind::Metadata | RecordKind::Checksum => {}
            }
        }
        Ok(())
    }
}

/// The files with this ending, by their names.
fn files(dir: &Path, ending: &str) -> std::result::Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension() == Some(OsStr::new(ending)) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(format!("{}: more than {MAX_FILES} files", dir.display()));
        }
    }
    files.sort();
    Ok(files)
}

fn whole(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(format!("{}: not a file of at most {MAX_FILE} bytes", path.display()));
    }
    fs::read(path).map_err(failed)
}

/// Fields that are numbers; 0 if they are missing.
fn numbers<const N: usize>(
    bytes: &[u8],
    wanted: [u64; N],
) -> std::result::Result<[u64; N], Malformed> {
    let (mut fields, mut found) = (Fields(bytes), [0; N]);
    while let Some((number, field)) = fields.next()? {
        for (at, into) in wanted.iter().zip(&mut found) {
            if *at == number {
                *into = field.int64()?.cast_unsigned();
            }
        }
    }
    Ok(found)
}

/// `raftpb.Entry`: its index, and whether it is a request of the old API that a 3.6 does not replay.
fn entry(bytes: &[u8]) -> std::result::Result<(u64, bool), Malformed> {
    let [kind, index] = numbers(bytes, [1, 3])?;
    let (mut fields, mut data) = (Fields(bytes), &[][..]);
    while let Some((number, field)) = fields.next()? {
        if number == 4 {
            data = field.bytes()?;
        }
    }
    // 0 is a request, the others are changes of members.
    let is_custom = kind == 0 && !data.is_empty() && is_custom(data)?;
    Ok((index, is_custom))
}

/// An `InternalRaftRequest`, whose field 2 is a request of the old API; or such a request alone, as old versions wrote it:
/// its field 2 is the method, a word that is no message.
fn is_custom(data: &[u8]) -> std::result::Result<bool, Malformed> {
    let mut fields = Fields(data);
    while let Some((number, field)) = fields.next()? {
        if number == 2 {
            let inner = field.bytes()?;
            let request = Request::parse(inner).or_else(|Malformed| Request::parse(data))?;
            return Ok(!request.is_own());
        }
    }
    Ok(false)
}

/// `etcdserverpb.Request`
#[derive(Default)]
struct Request<'a> {
    method: &'a [u8],
    path: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> std::result::Result<Self, Malformed> {
        let (mut fields, mut request) = (Fields(bytes), Self::default());
        while let Some((number, field)) = fields.next()? {
            match number {
                2 => request.method = field.bytes()?,
                3 => request.path = field.bytes()?,
                _ => {}
            }
        }
        Ok(request)
    }

    /// What etcd writes itself: a member's name and URLs, and the cluster's version.
    fn is_own(&self) -> bool {
        let member = || {
            let id = self.path.strip_prefix(b"/0/members/")?.strip_suffix(b"/attributes")?;
            ((1..=16).contains(&id.len()) && id.iter().all(u8::is_ascii_hexdigit)).then_some(())
        };
        self.method == b"PUT" && (self.path == b"/0/version" || member().is_some())
    }
}

/// A node of the old store, in JSON.
#[derive(Deserialize)]
struct Node {
    #[serde(rename = "Children")]
    children: Option<BTreeMap<String, Node>>,
}

#[derive(Deserialize)]
struct Store {
    #[serde(rename = "Root")]
    root: Node,
}

impl Node {
    fn has_children(&self) -> bool {
        self.children.as_ref().is_some_and(|children| !children.is_empty())
    }
}

/// What is in it beside etcd's own: `/0` is that, and `/2` has directories that stay when all users are gone.
fn content(store: &[u8]) -> std::result::Result<Vec<String>, String> {
    let store: Store = serde_json::from_slice(store)
        .map_err(|_| "the v2 store of the snapshot file is malformed".to_owned())?;
    let children = store.root.children.into_iter().flatten();
    let is_custom = |name: &str, node: &Node| match name {
        "0" => false,
        "2" => node.children.iter().flatten().any(|(_, child)| child.has_children()),
        _ => node.has_children(),
    };
    let custom = children.filter(|(name, node)| is_custom(name, node));
    let told = custom.map(|(name, _)| format!("the v2 store has data below /{}", clean(&name)));
    Ok(told.take(MAX_TOLD).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::Cluster;

    fn request(method: &str, path: &str) -> Vec<u8> {
        let field = |number: u8, text: &str| {
            [&[number << 3 | 2, text.len() as u8][..], text.as_bytes()].concat()
        };
        [vec![0x08, 1], field(2, method), field(3, path)].concat()
    }

    fn wrapped(request: &[u8]) -> Vec<u8> {
        [&[0x08, 1, 0x12, request.len() as u8][..], request].concat()
    }

    #[test]
    fn requests_of_the_old_api() {
        for (method, path, custom) in [
            ("PUT", "/0/members/8e9e05c52164694d/attributes", false),
            ("PUT", "/0/version", false),
            ("PUT", "/1/foo", true),
            ("DELETE", "/0/version", true),
            ("SYNC", "", true),
            ("GET", "/1/a", true),
            ("PUT", "/0/members/x/attributes", true),
            ("PUT", "/0/members//attributes", true),
        ] {
            let request = request(method, path);
            assert_eq!(is_custom(&request), Ok(custom), "{method} {path}");
            assert_eq!(is_custom(&wrapped(&request)), Ok(custom), "{method} {path}");
        }
        // A put of the new API: ID, and field 4.
        assert_eq!(is_custom(&[0x08, 1, 0x22, 3, 0x0a, 1, b'a']), Ok(false));
        assert!(is_custom(&[0x12, 9]).is_err() && entry(&[0x22]).is_err());
    }

    #[test]
    fn what_is_in_the_old_store() {
        let store =
            |root: &str| content(format!("{{\"Root\": {{\"Children\": {root}}}}}").as_bytes());
        let leaf = "{\"Children\": null}";
        for (root, wanted) in [
            ("null".to_owned(), 0),
            (format!("{{\"0\": {{\"Children\": {{\"members\": {leaf}}}}}, \"1\": {leaf}}}"), 0),
            (format!("{{\"1\": {{\"Children\": {{\"foo\": {leaf}}}}}}}"), 1),
            ("{\"2\": {\"Children\": {\"users\": {\"Children\": {}}}}}".to_owned(), 0),
            (
                format!(
                    "{{\"2\": {{\"Children\": {{\"users\": {{\"Children\": {{\"a\": {leaf}}}}}}}}}}}"
                ),
                1,
            ),
        ] {
            assert_eq!(store(&root).unwrap().len(), wanted, "{root}");
        }
        assert!(content(b"{}").is_err() && content(b"").is_err());
        let deep = "{\"Children\": {\"a\": ".repeat(10_000);
        assert!(store(&deep).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = (is_custom(&bytes), entry(&bytes), content(&bytes));
        }
    }

    #[test]
    fn a_data_directory() {
        let (dir, cluster) =
            (tempfile::tempdir().unwrap(), Cluster::parse("a=http://h:1", "t").unwrap());
        let (snap, wal) = (dir.path().join("snap"), dir.path().join("wal"));
        fs::create_dir(&snap).unwrap();
        assert!(of(&snap, &wal).is_err());
        fs::create_dir(&wal).unwrap();
        assert!(of(&snap, &wal).unwrap_err().contains("no log"));
        let log = wal.join(crate::datadir::WAL_NAME);
        let bytes = cluster.wal(&cluster.members[0]);
        fs::write(&log, &bytes).unwrap();
        assert_eq!(of(&snap, &wal).unwrap(), V2 { entries: 1, ..V2::default() });
        fs::write(snap.join("0000000000000001-0000000000000001.snap"), cluster.snap()).unwrap();
        assert_eq!(of(&snap, &wal).unwrap(), V2 { snap: Some(1), ..V2::default() });
        // One that the log does not name.
        fs::write(snap.join("0000000000000001-0000000000000001.snap"), "x").unwrap();
        assert!(of(&snap, &wal).unwrap_err().contains("fits"));
        fs::write(&log, &bytes[..bytes.len() - 9]).unwrap();
        assert!(of(&snap, &wal).is_err());
        fs::write(&log, &bytes).unwrap();
        fs::write(wal.join("0000000000000002-0000000000000009.wal"), &bytes).unwrap();
        assert!(of(&snap, &wal).unwrap_err().contains("missing"));
    }
}
