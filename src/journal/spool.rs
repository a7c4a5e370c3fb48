//! The spool: a directory for sealed objects of journals that the store has not taken yet. Nothing in it is plaintext.
//!
//! Only files that this user alone can have written are sent, and only those that are what their names say.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::{Access, FlockOperation, OFlags, access, flock};

use super::sealed::LONGEST;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    JournalEnd, JournalHead, JournalPart, ObjectHeader, ObjectName, Role, Seal, SnapshotId,
    Subject, Uuid,
};

/// What files begin with that are not complete.
const NEW: &str = ".new-";
/// Locked by the recorder that uses the spool.
const LOCK: &str = "lock";
const PRIVATE: u32 = 0o700;
/// Objects below `journals/` lie in one directory, with a point for each slash.
const FOLDER: &str = "journals/";

/// A directory for what waits, locked.
pub(super) struct Spool {
    dir: PathBuf,
    origin: Uuid,
    /// Bytes that it may hold.
    max: u64,
    used: AtomicU64,
    _lock: File,
}

/// What an earlier recorder left.
pub(super) struct Left {
    /// Objects, in the order in which they are to be stored.
    pub(super) objects: Vec<String>,
    /// What is not sent, and why.
    pub(super) findings: Vec<String>,
}

impl Spool {
    /// Opens the spool of at most so many bytes for the repository `origin`, below a directory; both are created if they are
    /// not there.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when others may write to it or another recorder uses it; [`ErrorKind::Io`].
    pub(super) fn open((given, max): (&Path, u64), origin: Uuid) -> Result<Self> {
        let dir = given.join(origin.to_string());
        for dir in [given, &dir] {
            let created = DirBuilder::new().recursive(true).mode(PRIVATE).create(dir);
            created.map_err(|error| Error::io(dir, error))?;
            check_dir(dir, Some(rustix::process::geteuid().as_raw()))?;
        }
        let path = dir.join(LOCK);
        let mut lock = OpenOptions::new();
        let lock = lock.write(true).create(true).truncate(false).mode(0o600);
        let lock = lock.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let lock = lock.open(&path).map_err(|error| Error::io(&path, error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = format!("{}: another recorder uses this spool", dir.display());
            return Err(Error::new(ErrorKind::Refused, text)
                .hint("give each recorder on this host a spool directory of its own"));
        }
        Ok(Self { dir, origin, max, used: AtomicU64::new(0), _lock: lock })
    }

    /// What is in it, before anything is added.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn left(&self) -> Result<Left> {
        let failed = |error| Error::io(&self.dir, error);
        let (mut objects, mut findings, mut used) = (Vec::new(), Vec::new(), 0_u64);
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy().into_owned();
            if name == LOCK {
                continue;
            }
            if name.starts_with(NEW) {
                // A recorder was killed while it wrote this.
                fs::remove_file(self.dir.join(&name)).map_err(failed)?;
                continue;
            }
            match self.is_ours(&name) {
                Ok((order, length)) => {
                    used = used.saturating_add(length);
                    objects.push((order, object_of(&name)));
                }
                Err(error) => {
                    findings.push(format!("{}: not sent: {error}", self.dir.join(&name).display()));
                }
            }
        }
        objects.sort();
        self.used.store(used, Ordering::Relaxed);
        Ok(Left { objects: objects.into_iter().map(|(_, name)| name).collect(), findings })
    }

    /// Where the file stands in the order of storing, and its length, if it is what its name says.
    fn is_ours(&self, file: &str) -> Result<(Order, u64)> {
        let refuse = |why: &str| Error::new(ErrorKind::Refused, why.to_owned());
        let Some(ObjectName::Journal { id, part }) = ObjectName::parse(&object_of(file)) else {
            return Err(refuse("it has not the name of a journal's object"));
        };
        let order = order(id, &part).ok_or_else(|| refuse("nothing of this name is spooled"))?;
        let bytes = self.read_file(file)?;
        let is_its = match part {
            JournalPart::Segment { number, .. } => {
                let header = ObjectHeader::parse(&bytes)?;
                header.snapshot == id && header.role == Role::Segment(number)
            }
            JournalPart::Head => {
                let head = JournalHead::parse(&bytes)?;
                head.body().journal == id && head.body().origin == self.origin
            }
            JournalPart::End(_) => {
                let end = JournalEnd::parse(&bytes)?;
                end.body().journal == id && end.body().origin == self.origin
            }
            JournalPart::Seal(number) => {
                let seal = Seal::parse(&bytes)?;
                let body = seal.body();
                body.subject() == Subject::Journal(id) && body.generation() == number
            }
            _ => false,
        };
        if !is_its {
            return Err(refuse("it is an object of another place"));
        }
        Ok((order, bytes.len() as u64))
    }

    /// Bytes in it.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Adds the object `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it is full, or the disk is: nothing is added.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        if self.used().saturating_add(length) > self.max {
            let text = format!("{}: it holds {} MiB", self.dir.display(), self.max >> 20);
            return Err(Error::new(ErrorKind::Io, text));
        }
        let path = self.dir.join(file_of(name));
        let failed = |error| Error::io(&path, error);
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(NEW).permissions(Permissions::from_mode(0o600));
        let mut file = builder.tempfile_in(&self.dir).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_data()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        // Its name, too: what is here is reported as stored safely.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        self.used.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// The bytes of the object `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Refused`] for a file that others can have written.
    pub(super) fn read(&self, name: &str) -> Result<Bytes> {
        self.read_file(&file_of(name)).map(Bytes::from)
    }

    fn read_file(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.dir.join(file);
        let failed = |error| Error::io(&path, error);
        let mut options = OpenOptions::new();
        // Neither a link nor a pipe is waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = options.read(true).custom_flags(flags).open(&path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_file() || !is_own || metadata.mode() & 0o077 != 0 || metadata.nlink() != 1 {
            let text =
                format!("{}: not a file that only this user can read and write", path.display());
            return Err(Error::new(ErrorKind::Refused, text));
        }
        if metadata.len() > LONGEST {
            return Err(Error::tampered(format!("{}: too long", path.display())));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Removes the object `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(file_of(name));
        let failed = |error| Error::io(&path, error);
        let length = fs::symlink_metadata(&path).map_err(failed)?.len();
        fs::remove_file(&path).map_err(failed)?;
        let less = |used: u64| Some(used.saturating_sub(length));
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(())
    }
}

/// A journal, then which of its objects, in the order of storing.
type Order = (SnapshotId, u8, u64);

fn order(id: SnapshotId, part: &JournalPart) -> Option<Order> {
    let (kind, number) = match part {
        JournalPart::Seal(1) => (0, 1),
        JournalPart::Head => (1, 0),
        JournalPart::Segment { number, .. } => (2, *number),
        JournalPart::End(number) => (3, u64::from(*number)),
        JournalPart::Seal(number) => (4, u64::from(*number)),
        _ => return None,
    };
    Some((id, kind, number))
}

/// Whether `name` is that of an object without which nothing of a journal counts.
pub(super) fn is_beginning(name: &str) -> bool {
    let Some(ObjectName::Journal { part, .. }) = ObjectName::parse(name) else { return false };
    matches!(part, JournalPart::Head | JournalPart::Seal(1))
}

fn file_of(object: &str) -> String {
    object.strip_prefix(FOLDER).unwrap_or(object).replace('/', ".")
}

fn object_of(file: &str) -> String {
    format!("{FOLDER}{}", file.replacen('.', "/", 1))
}

/// That the spool `dir` is there or can be created. Whose it is does not matter yet.
///
/// # Errors
/// [`ErrorKind::Refused`] when others may write to it; [`ErrorKind::Usage`] when it cannot be created.
pub(super) fn check(dir: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_ok() {
        return check_dir(dir, None);
    }
    let failed = |why: String| {
        Error::usage(format!("journal.spool: {} cannot be created: {why}", dir.display()))
            .hint("create it for the user that records, with mode 0700, or name another directory")
    };
    for above in dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match fs::metadata(above) {
            Ok(found) if found.is_dir() => {
                let may = access(above, Access::WRITE_OK | Access::EXEC_OK);
                return may.map_err(|error| failed(format!("{}: {error}", above.display())));
            }
            Ok(_) => return Err(failed(format!("{} is not a directory", above.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(format!("{}: {error}", above.display()))),
        }
    }
    Err(failed("no directory above it is there".into()))
}

/// That nobody else can write to `dir`, or read it; and that it is of the user `owner`.
fn check_dir(dir: &Path, owner: Option<u32>) -> Result<()> {
    let metadata = fs::symlink_metadata(dir).map_err(|error| Error::io(dir, error))?;
    let is_own = owner.is_none_or(|owner| metadata.uid() == owner);
    if metadata.is_dir() && is_own && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let text =
        format!("{}: a spool must be a directory that only this user can use", dir.display());
    Err(Error::new(ErrorKind::Refused, text)
        .hint("give a directory of its own: owned by the recorder's user, mode 0700"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const JOURNAL: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn segment(number: u64) -> (String, Vec<u8>) {
        let id: SnapshotId = JOURNAL.parse().unwrap();
        let header = ObjectHeader { suite: 1, role: Role::Segment(number), snapshot: id };
        let name = JournalPart::Segment { number, last: 7 }.of(id);
        (name, [&header.to_bytes()[..], &[7; 1000]].concat())
    }

    fn try_open(dir: &Path) -> Result<Spool> {
        Spool::open((&dir.join("spool"), 10_000), Uuid([3; 16]))
    }

    fn open(dir: &Path) -> Spool {
        try_open(dir).unwrap()
    }

    #[test]
    fn what_is_put_is_left_in_order_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        for number in [10, 2, 1] {
            let (name, bytes) = segment(number);
            spool.put(&name, &bytes).unwrap();
        }
        assert_eq!(spool.used(), 3 * 1032);
        // Another recorder on this host.
        let error = try_open(dir.path()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        drop(spool);
        let spool = open(dir.path());
        fs::write(spool.dir.join(".new-x"), "cut off").unwrap();
        let left = spool.left().unwrap();
        assert_eq!(left.objects, [1, 2, 10].map(|number| segment(number).0));
        assert_eq!((left.findings.len(), spool.used()), (0, 3 * 1032));
        let (name, bytes) = segment(2);
        assert_eq!(spool.read(&name).unwrap(), bytes);
        spool.remove(&name).unwrap();
        assert_eq!((spool.left().unwrap().objects.len(), spool.used()), (2, 2 * 1032));
        assert!(!spool.dir.join(".new-x").exists());
        let long = vec![0; 9000];
        assert_eq!(spool.put("journals/x/head", &long).unwrap_err().kind(), ErrorKind::Io);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(
            (mode(&spool.dir), mode(&spool.dir.join(file_of(&segment(1).0)))),
            (0o700, 0o600)
        );
    }

    #[test]
    fn a_place_that_cannot_be_a_spool() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        assert!(check(&at("a/b/spool")).is_ok() && !at("a").exists());
        fs::write(at("file"), "").unwrap();
        let why = check(&at("file/spool")).unwrap_err();
        assert!(why.kind() == ErrorKind::Usage && why.to_string().contains("cannot be created"));
        assert_eq!(check(&at("file")).unwrap_err().kind(), ErrorKind::Refused);
        fs::create_dir(at("open")).unwrap();
        fs::set_permissions(at("open"), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(check(&at("open")).unwrap_err().kind(), ErrorKind::Refused);
        drop(try_open(dir.path()).unwrap());
        assert!(check(&at("spool")).is_ok());
    }

    #[test]
    fn what_somebody_planted_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        let path = |name: &str| spool.dir.join(file_of(name));
        let private = |name: &str, bytes: &[u8]| {
            fs::write(path(name), bytes).unwrap();
            fs::set_permissions(path(name), Permissions::from_mode(0o600)).unwrap();
        };
        let (one, bytes) = segment(1);
        private(&one, &bytes);
        // Another number, others can write, a link, no journal's object, one that is never spooled, a pipe's name.
        private(&segment(2).0, &bytes);
        private(&segment(3).0, &segment(3).1);
        fs::set_permissions(path(&segment(3).0), Permissions::from_mode(0o620)).unwrap();
        private("elsewhere", &segment(4).1);
        symlink(spool.dir.join("elsewhere"), path(&segment(4).0)).unwrap();
        private(&format!("journals/{JOURNAL}/bundle.3"), &bytes);
        private(&format!("journals/{JOURNAL}/head"), b"junk");
        private(&format!("journals/{JOURNAL}/seal.1"), b"junk");
        fs::create_dir(path(&segment(5).0)).unwrap();
        let left = spool.left().unwrap();
        assert_eq!(left.objects, [one]);
        assert_eq!(left.findings.len(), 8, "{:?}", left.findings);
        drop(spool);
        fs::set_permissions(dir.path().join("spool"), Permissions::from_mode(0o770)).unwrap();
        let error = try_open(dir.path()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
}
