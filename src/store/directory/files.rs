//! Files below one directory, reached without following a link.
//!
//! Each part of a name is opened on its own, from the folder before it, with `O_NOFOLLOW`: a link that somebody plants
//! leads nowhere. Blocks.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat, fstat, fsync, linkat, mkdirat,
    openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::crypto;
use crate::format::names;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const ANYBODY: Mode = Mode::from_raw_mode(0o666);
const ANYBODY_S_FOLDER: Mode = Mode::from_raw_mode(0o777);
/// Folders within folders that a walk enters: `snapshots/<id>` is 2.
pub(super) const DEPTH: usize = 8;

/// A directory, held open: whatever happens to its path, this stays the same one.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a walk meets.
pub(super) struct Found<'a> {
    pub(super) folder: &'a OwnedFd,
    /// Relative to the root.
    pub(super) name: &'a [u8],
    /// Its last part.
    pub(super) part: &'a CStr,
    pub(super) stat: Stat,
    /// A folder whose inside is not shown: it may not be read or searched, or lies too deep.
    pub(super) is_closed: bool,
}

impl Found<'_> {
    /// What keeps this from being an object, if anything does.
    pub(super) fn oddity(&self) -> Option<String> {
        if self.is_closed {
            return Some("a folder that is not read".into());
        }
        oddity(&self.stat).filter(|_| !self.is_folder())
    }

    pub(super) fn is_folder(&self) -> bool {
        kind_of(&self.stat) == FileType::Directory
    }

    pub(super) fn modified(&self) -> SystemTime {
        modified(&self.stat)
    }

    /// Removes it; a folder only if it is empty.
    pub(super) fn remove(&self) -> Result<()> {
        let flags = if self.is_folder() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(unlinkat(self.folder, self.part, flags)?)
    }
}

impl Root {
    /// Opens the directory at `path`. The path is the operator's own: links in it are followed, this once.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: openat(CWD, path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// A name's path, for messages.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether others than the owner may write in it, and replace what they did not write.
    pub(super) fn is_open_to_others(&self) -> bool {
        fstat(&self.fd).is_ok_and(|stat| stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0)
    }

    /// The folder that `parts` lead to.
    fn folder(&self, parts: &[&str]) -> Result<OwnedFd> {
        self.descend(parts, false)
    }

    fn descend(&self, parts: &[&str], make: bool) -> Result<OwnedFd> {
        let mut at = self.fd.try_clone()?;
        for part in parts {
            at = match open_folder(&at, *part) {
                Err(error) if make && error.kind() == ErrorKind::NotFound => {
                    match mkdirat(&at, *part, ANYBODY_S_FOLDER) {
                        Err(Errno::EXIST) => {}
                        made => {
                            made?;
                            sync_folder(&at)?;
                        }
                    }
                    open_folder(&at, *part)?
                }
                opened => opened?,
            };
        }
        Ok(at)
    }

    /// Opens the regular file `name` to read it.
    pub(super) fn read(&self, name: &str) -> Result<(File, Stat)> {
        let (folders, last) = split(name)?;
        let folder = self.folder(&folders)?;
        // Looked at first: to open a device may do something, to open a FIFO may wait.
        refuse_odd(&statat(&folder, last, AtFlags::SYMLINK_NOFOLLOW)?)?;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(&folder, last, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(refused("a symbolic link")),
            opened => opened?,
        };
        let stat = fstat(&file)?;
        refuse_odd(&stat)?;
        Ok((File::from(file), stat))
    }

    /// Removes the name `name`, never what a link of that name points at, and folders that are then empty.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let (folders, last) = split(name)?;
        let folder = self.folder(&folders)?;
        unlinkat(&folder, last, AtFlags::empty())?;
        sync_folder(&folder)?;
        self.remove_empty_folders(name)
    }

    /// A folder left empty would still look like a snapshot. The repository's own stay, so that nobody takes their places.
    pub(super) fn remove_empty_folders(&self, name: &str) -> Result<()> {
        let (mut folders, _) = split(name)?;
        while let Some(empty) = folders.pop()
            && !(folders.is_empty() && names::FOLDERS.contains(&empty))
        {
            let parent = self.folder(&folders)?;
            if unlinkat(&parent, empty, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            sync_folder(&parent)?;
        }
        Ok(())
    }

    /// Begins to write `name`: under another name, beside it.
    pub(super) fn stage(&self, name: &str) -> Result<Staged> {
        let (folders, last) = split(name)?;
        let digits = u64::from_be_bytes(crypto::random(&mut crypto::system_rng()));
        let staged = format!("{last}#{digits}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        // A folder may go as soon as it is empty: another's removal.
        let mut tries = 3;
        loop {
            let folder = self.descend(&folders, true)?;
            match openat(&folder, staged.as_str(), flags | OFlags::CLOEXEC, ANYBODY) {
                Err(Errno::NOENT) if tries > 0 => tries -= 1,
                opened => {
                    let file = File::from(opened?);
                    let name = last.to_owned();
                    return Ok(Staged { folder, staged, name, file, done: false });
                }
            }
        }
    }

    /// Shows `visit` whatever lies in the folder `name` and `depth` folders below, what is inside a folder before the
    /// folder, until it returns false.
    pub(super) fn walk(
        &self,
        name: &str,
        depth: usize,
        visit: &mut dyn FnMut(&Found<'_>) -> Result<bool>,
    ) -> Result<()> {
        let parts: Vec<_> = name.split('/').filter(|part| !part.is_empty()).collect();
        match self.folder(&parts) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            folder => match walk(&folder?, name.as_bytes(), depth, visit)? {
                // Nothing is left to show it in.
                Walked::Closed => Err(Errno::ACCESS.into()),
                Walked::Whole | Walked::Stopped => Ok(()),
            },
        }
    }
}

/// How the walk of a folder ended.
enum Walked {
    Whole,
    Stopped,
    /// It may not be read or searched.
    Closed,
}

fn walk(
    folder: &OwnedFd,
    prefix: &[u8],
    depth: usize,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<bool>,
) -> Result<Walked> {
    let entries = match Dir::read_from(folder) {
        Err(Errno::ACCESS) => return Ok(Walked::Closed),
        entries => entries?,
    };
    for entry in entries {
        let entry = match entry {
            Err(Errno::ACCESS) => return Ok(Walked::Closed),
            entry => entry?,
        };
        let part = entry.file_name();
        if matches!(part.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match statat(folder, part, AtFlags::SYMLINK_NOFOLLOW) {
            // It went meanwhile.
            Err(Errno::NOENT) => continue,
            Err(Errno::ACCESS) => return Ok(Walked::Closed),
            stat => stat?,
        };
        let mut name = prefix.to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(part.to_bytes());
        let mut is_closed = false;
        if kind_of(&stat) == FileType::Directory {
            let inside = open_folder(folder, part);
            match (inside.map_err(|error| error.kind()), depth.checked_sub(1)) {
                // It became something else meanwhile.
                (Err(ErrorKind::NotFound | ErrorKind::InvalidData), _) => continue,
                (Err(ErrorKind::PermissionDenied), _) | (Ok(_), None) => is_closed = true,
                (Ok(inside), Some(deeper)) => match walk(&inside, &name, deeper, visit)? {
                    Walked::Whole => {}
                    Walked::Stopped => return Ok(Walked::Stopped),
                    Walked::Closed => is_closed = true,
                },
                (Err(kind), _) => return Err(kind.into()),
            }
        }
        if !visit(&Found { folder, name: &name, part, stat, is_closed })? {
            return Ok(Walked::Stopped);
        }
    }
    Ok(Walked::Whole)
}

/// A file that has its own name only once it is published. Dropped before that, it goes.
#[derive(Debug)]
pub(super) struct Staged {
    folder: OwnedFd,
    staged: String,
    name: String,
    file: File,
    done: bool,
}

/// Ways to give a file a name that nobody has, best first. A file system may lack any but the last.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `renameat2` with `RENAME_NOREPLACE`: not on NFS.
    Rename,
    /// `link`, then `unlink`: not on vfat, exFAT and many a CIFS mount.
    Link,
    /// An empty file, made with `O_EXCL` and then replaced: between the two, others see it empty.
    Placeholder,
}

impl Staged {
    /// To write at once from several threads.
    pub(super) fn file(&self) -> Result<File> {
        self.file.try_clone()
    }

    /// Writes all of `pieces`.
    pub(super) fn write<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        for piece in pieces {
            self.file.write_all(piece)?;
        }
        Ok(())
    }

    /// Gives it its name, if nobody has that, once its bytes are on the disk.
    pub(super) fn create(self) -> Result<()> {
        self.create_by(&[Way::Rename, Way::Link, Way::Placeholder])
    }

    fn create_by(mut self, ways: &[Way]) -> Result<()> {
        self.file.sync_all()?;
        let mut missing = Vec::new();
        for way in ways {
            let made = match way {
                Way::Rename => self.rename(),
                Way::Link => self.link(),
                Way::Placeholder => self.replace_placeholder(),
            };
            match made {
                Ok(()) => {
                    self.done = true;
                    return sync_folder(&self.folder);
                }
                Err(
                    Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK,
                ) => missing.push(match way {
                    Way::Rename => "renameat2 with RENAME_NOREPLACE",
                    Way::Link => "hard links",
                    Way::Placeholder => "open with O_EXCL",
                }),
                Err(error) => return Err(error.into()),
            }
        }
        let missing = missing.join(", ");
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "this file system cannot create a file only if there is none: it lacks {missing}"
            ),
        ))
    }

    /// Gives it its name, whoever has that.
    pub(super) fn overwrite(mut self) -> Result<()> {
        self.file.sync_all()?;
        renameat(&self.folder, &self.staged, &self.folder, &self.name)?;
        self.done = true;
        sync_folder(&self.folder)
    }

    fn rename(&self) -> rustix::io::Result<()> {
        let (folder, flags) = (&self.folder, RenameFlags::NOREPLACE);
        renameat_with(folder, &self.staged, folder, &self.name, flags)
    }

    fn link(&self) -> rustix::io::Result<()> {
        linkat(&self.folder, &self.staged, &self.folder, &self.name, AtFlags::empty())?;
        // While it has two names nobody reads it; one that stays is swept as what a killed backup leaves.
        let _ = unlinkat(&self.folder, &self.staged, AtFlags::empty());
        Ok(())
    }

    fn replace_placeholder(&self) -> rustix::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        openat(&self.folder, &self.name, flags | OFlags::CLOEXEC, ANYBODY)?;
        let moved = renameat(&self.folder, &self.staged, &self.folder, &self.name);
        if moved.is_err() {
            let _ = unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
        moved
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.done {
            let _ = unlinkat(&self.folder, &self.staged, AtFlags::empty());
        }
    }
}

/// The folders of `name`, and its last part.
fn split(name: &str) -> Result<(Vec<&str>, &str)> {
    let mut parts: Vec<_> = name.split('/').collect();
    let ours = |part: &&str| !part.is_empty() && !matches!(*part, "." | "..");
    match parts.pop() {
        Some(last) if parts.iter().chain([&last]).all(ours) => Ok((parts, last)),
        _ => Err(Error::new(ErrorKind::InvalidInput, "a name that no object can have")),
    }
}

fn open_folder(at: &OwnedFd, part: impl rustix::path::Arg + Copy) -> Result<OwnedFd> {
    match openat(at, part, FOLDER, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let stat = statat(at, part, AtFlags::SYMLINK_NOFOLLOW)?;
            match kind_of(&stat) {
                FileType::Symlink => Err(refused("a symbolic link where a folder belongs")),
                _ => Err(ErrorKind::NotFound.into()),
            }
        }
        opened => Ok(opened?),
    }
}

/// Some file systems do not sync folders, and say so by `EINVAL`.
fn sync_folder(folder: impl AsFd) -> Result<()> {
    match fsync(folder) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        synced => Ok(synced?),
    }
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn oddity(stat: &Stat) -> Option<String> {
    match kind_of(stat) {
        FileType::RegularFile if stat.st_nlink <= 1 => None,
        FileType::RegularFile => Some(format!("a file with {} hard links", stat.st_nlink)),
        FileType::Symlink => Some("a symbolic link".into()),
        FileType::Directory => Some("a folder".into()),
        _ => Some("a device, pipe or socket".into()),
    }
}

fn refuse_odd(stat: &Stat) -> Result<()> {
    match kind_of(stat) {
        FileType::Directory => Err(ErrorKind::NotFound.into()),
        _ => oddity(stat).map_or(Ok(()), |what| Err(refused(&what))),
    }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{what}, which is not followed or read"))
}

pub(super) fn modified(stat: &Stat) -> SystemTime {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds)).unwrap_or(UNIX_EPOCH)
}

/// As staged files are named: a name, `#`, digits.
pub(super) fn is_staged(part: &CStr) -> bool {
    part.to_str().ok().and_then(|part| part.split_once('#')).is_some_and(|(name, digits)| {
        !name.is_empty() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repositorys_own_folders_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for folder in ["snapshots/id", "reports/of", "probe/of"] {
            root.stage(&format!("{folder}/a")).unwrap().create().unwrap();
            root.remove(&format!("{folder}/a")).unwrap();
            assert!(!dir.path().join(folder).exists(), "{folder}");
        }
        assert!(dir.path().join("snapshots").exists() && dir.path().join("reports").exists());
        assert!(!dir.path().join("probe").exists());
    }

    /// However a file gets its name: whole, once, and with nothing left beside it.
    #[test]
    fn each_way_creates_and_none_replaces() {
        for way in [Way::Rename, Way::Link, Way::Placeholder] {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::open(dir.path()).unwrap();
            let create = |bytes: &[u8]| {
                let mut staged = root.stage("a/b").unwrap();
                staged.write([bytes].into_iter()).unwrap();
                staged.create_by(&[way])
            };
            create(b"first").unwrap();
            let error = create(b"second").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{way:?}: {error}");
            assert_eq!(std::fs::read(dir.path().join("a/b")).unwrap(), b"first", "{way:?}");
            assert_eq!(root.read("a/b").unwrap().1.st_size, 5, "{way:?}");
            let names = std::fs::read_dir(dir.path().join("a")).unwrap().count();
            assert_eq!(names, 1, "{way:?}");
        }
    }

    #[test]
    fn what_a_file_system_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let error = root.stage("x").unwrap().create_by(&[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("only if there is none"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_name_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        for name in ["../secret", "a/../../secret", "/etc/passwd", "", "a//b", "."] {
            assert!(root.read(name).is_err(), "{name}");
            assert!(root.stage(name).is_err(), "{name}");
            assert!(root.remove(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_folder_that_may_not_be_searched_is_closed() {
        use std::{fs, os::unix::fs::PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        fs::create_dir_all(folder.join("c")).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o400)).unwrap();
        // The superuser may search any.
        let is_closed = fs::metadata(folder.join("c")).is_err();
        let mut found = Vec::new();
        let mut visit = |one: &Found<'_>| {
            found.push((one.name.to_vec(), one.is_closed));
            Ok(true)
        };
        Root::open(dir.path()).unwrap().walk("", DEPTH, &mut visit).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(found.contains(&(b"a/b".to_vec(), is_closed)), "{found:?}");
    }
}
