//! Unencrypted databases of etcd that lie about: old snapshots, copies, backups.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Files that are looked at, and how deep.
const MAX_FILES: usize = 20_000;
const MAX_DEPTH: usize = 6;
/// Findings that are named.
const MAX_FOUND: usize = 20;
/// What bolt writes into its first page, and where.
const MAGIC: [u8; 4] = [0xed, 0xda, 0x0c, 0xed];
const MAGIC_AT: u64 = 16;
const MIN_LENGTH: u64 = 16 << 10;
/// Where people put snapshots.
const FOLDERS: [&str; 3] = ["var/backups", "root", "tmp"];

/// A database that is not the member's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stray {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) length: u64,
}

/// Looks beside `data_dir`, and where people put snapshots.
///
/// # Errors
/// What could not be looked at, if nothing was found.
pub(crate) fn find(root: &Path, data_dir: Option<&str>) -> Result<Vec<Stray>, String> {
    let data = data_dir.map(|path| root.join(path.trim_start_matches('/')));
    let beside = data.as_ref().and_then(|path| path.parent()).map(Path::to_path_buf);
    let mut folders: Vec<PathBuf> = beside.filter(|path| path != root).into_iter().collect();
    folders.extend(FOLDERS.iter().map(|folder| root.join(folder)));
    let own = data.as_ref().map(|path| path.join("member"));
    let mut search = Search { root, own, left: MAX_FILES, found: Vec::new(), unread: None };
    for folder in &folders {
        match folder.try_exists() {
            Ok(true) => search.folder(folder, MAX_DEPTH),
            Ok(false) => {}
            Err(error) => search.failed(folder, &error.to_string()),
        }
    }
    search.found.dedup();
    match (search.found.is_empty(), search.unread) {
        (true, Some(why)) => Err(why),
        _ => Ok(search.found),
    }
}

struct Search<'a> {
    root: &'a Path,
    own: Option<PathBuf>,
    left: usize,
    found: Vec<Stray>,
    unread: Option<String>,
}

impl Search<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) {
        if self.own.as_deref() == Some(folder) || self.found.len() >= MAX_FOUND {
            return;
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.failed(folder, &error.to_string()),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth > 0 {
                self.folder(&path, depth.saturating_sub(1));
            } else if kind.is_dir() {
                self.failed(&path, "too deep");
            } else if kind.is_file() {
                match self.left.checked_sub(1) {
                    Some(left) => self.left = left,
                    None => return self.failed(folder, "more than 20,000 files"),
                }
                self.file(&path);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        if metadata.len() < MIN_LENGTH {
            return;
        }
        let mut start = [0; 4];
        match File::open(path).and_then(|file| file.read_exact_at(&mut start, MAGIC_AT)) {
            Ok(()) if start == MAGIC && self.found.len() < MAX_FOUND => {
                let shown = path.strip_prefix(self.root).unwrap_or(path).display();
                let path = crate::text::clean(&format!("/{shown}"));
                self.found.push(Stray { path, mode: metadata.mode(), length: metadata.len() });
            }
            Ok(()) => {}
            Err(error) => self.failed(path, &error.to_string()),
        }
    }

    fn failed(&mut self, path: &Path, why: &str) {
        let shown = path.strip_prefix(self.root).unwrap_or(path).display();
        self.unread.get_or_insert(format!("/{shown}: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_known_by_their_first_page() {
        let root = tempfile::tempdir().unwrap();
        let mut database = vec![0; 32 << 10];
        database[16..20].copy_from_slice(&MAGIC);
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("var/lib/etcd/member/snap/db", &database);
        put("tmp/text", &vec![b'x'; 32 << 10]);
        put("tmp/short", &database[..1000]);
        assert_eq!(find(root.path(), Some("/var/lib/etcd")).unwrap(), []);
        put("root/backups/etcd-2026.snapshot", &database);
        put("var/lib/etcd-old/member/snap/db", &database);
        let found = find(root.path(), Some("/var/lib/etcd")).unwrap();
        let mut paths: Vec<_> = found.iter().map(|stray| stray.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["/root/backups/etcd-2026.snapshot", "/var/lib/etcd-old/member/snap/db"]);
        put("tmp/1/2/3/4/5/6/7/8", b"");
        let other = tempfile::tempdir().unwrap();
        fs::create_dir_all(other.path().join("tmp/1/2/3/4/5/6/7/8")).unwrap();
        assert!(find(other.path(), None).unwrap_err().contains("too deep"));
        // A folder that cannot be looked for is not one that is not there.
        let third = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("root", third.path().join("root")).unwrap();
        assert!(find(third.path(), None).is_err());
    }
}
