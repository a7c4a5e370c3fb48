//! One file of the log while it is written: appended to, cut back when a write fails, closed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::line::{Chain, Draft, Header, Kind, Line, Mark, Previous, START, hex};
use super::reader::{LineReader, Next, beside};
use crate::crypto;
use crate::envelope::{DataKey, NewSeal, seal_data_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Sha256, SnapshotId, Subject};
use crate::keys::{KeySet, at_once};

/// A checkpoint follows after at most so many lines.
pub const CHECKPOINT_LINES: u64 = 1024;
/// A checkpoint follows at most so long after a line.
pub const CHECKPOINT_AFTER: Duration = Duration::from_secs(10);

/// Where a chain stands.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) chain: Chain,
}

/// How a file ends that was written before.
pub(super) struct End {
    /// Number of its first line.
    pub(super) first: u64,
    /// Its last whole line.
    pub(super) last: Link,
    /// Bytes up to the end of that line, and of all.
    pub(super) whole: u64,
    pub(super) length: u64,
    /// Lines after the last checkpoint.
    pub(super) unauthenticated: u64,
    /// Whether its last line closes it.
    pub(super) closed: bool,
}

impl End {
    /// Reads the file at `path` to its end. Checks form only: a broken chain is for `verify` to find, and must not
    /// keep the log from going on.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`] when it does not begin as a log does; [`ErrorKind::Io`].
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut reader = LineReader::open(path)?;
        let mut end: Option<Self> = None;
        loop {
            let next = reader.next()?;
            let line = match next {
                Next::Line(text) => Line::parse(text),
                Next::Overlong => None,
                Next::Torn(_) | Next::End => break,
            };
            match (&mut end, line) {
                (None, Some(line)) if line.kind == Kind::Log => {
                    end = Some(Self {
                        first: line.seq,
                        last: Link { seq: line.seq, chain: line.chain },
                        whole: 0,
                        length: 0,
                        unauthenticated: 0,
                        closed: false,
                    });
                }
                (None, _) => return Err(no_log(path)),
                (Some(end), Some(line)) => {
                    end.last = Link { seq: line.seq, chain: line.chain };
                    end.closed = line.kind == Kind::Closed;
                    let open = end.unauthenticated.saturating_add(1);
                    end.unauthenticated = if line.kind.authenticates() { 0 } else { open };
                }
                (Some(_), None) => continue,
            }
            if let Some(end) = &mut end {
                end.whole = reader.offset;
            }
        }
        let mut end = end.ok_or_else(|| no_log(path))?;
        end.length = reader.offset;
        Ok(end)
    }
}

fn no_log(path: &Path) -> Error {
    Error::tampered(format!("{}: this is not an audit log", path.display()))
        .hint("move the file away and keep it; the log then starts a new one")
}

/// The file that is written.
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    pub(super) length: u64,
    /// Number of its first line.
    pub(super) first: u64,
    pub(super) last: Link,
    /// Lines since the last checkpoint.
    pub(super) unauthenticated: u64,
    data_key: DataKey,
    /// A write failed and left bytes beyond `length`.
    dirty: bool,
    #[cfg(test)]
    pub(super) room: Option<super::tests::Room>,
}

impl LogFile {
    /// Writes a file with nothing but its header as `<path>.new`, forced to disk.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when there is no key to seal to; [`ErrorKind::Io`].
    pub(super) fn create(path: &Path, before: Option<Link>, keys: &KeySet) -> Result<Self> {
        let mut rng = crypto::system_rng();
        let time = Timestamp::now();
        let log =
            SnapshotId::new(time.as_millisecond().max(0).unsigned_abs(), crypto::random(&mut rng));
        let data_key = DataKey::generate(Subject::Audit(log), &mut rng);
        // In a thread of its own: a remote key would need the proxy's runtime.
        let seal = seal_data_key(&data_key, NewSeal::first(Sha256::NONE), keys, &mut rng);
        let seal = at_once(seal)?.print();
        let header = Header {
            version: 1,
            log: log.to_string(),
            time,
            previous: before.map(|link| Previous { seq: link.seq, chain: hex(&link.chain) }),
            seal: String::from_utf8_lossy(&seal).into_owned(),
        };
        let header = Draft::new(Kind::Log, &header).map_err(|_| {
            Error::unsupported("audit log: a seal to so many keys does not fit its line")
        })?;
        let path = beside(path, ".new");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(&path, error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io(&path, error))?;
        let last = before.unwrap_or(Link { seq: 0, chain: START });
        let first = last.seq.saturating_add(1);
        let mut log = Self {
            file,
            path,
            length: 0,
            first,
            last,
            unauthenticated: 0,
            data_key,
            dirty: false,
            #[cfg(test)]
            room: None,
        };
        log.append(&[header])?;
        log.sync()?;
        Ok(log)
    }

    /// The file's name from now on.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn rename(&mut self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).map_err(|error| Error::io(to, error))?;
        self.path = to.into();
        Ok(())
    }

    /// Writes all of `drafts` as the next lines, or none of them.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn append(&mut self, drafts: &[Draft]) -> Result<()> {
        let mut bytes = Vec::with_capacity(drafts.iter().map(|draft| draft.body.len() + 256).sum());
        let (mut last, mut open) = (self.last, self.unauthenticated);
        for draft in drafts {
            let seq =
                last.seq.checked_add(1).ok_or_else(|| Error::usage("audit log: it is full"))?;
            let chain = draft.print(seq, &last.chain, &self.data_key, &mut bytes);
            last = Link { seq, chain };
            open = if draft.kind.authenticates() { 0 } else { open.saturating_add(1) };
        }
        let failed = |error, path: &Path| Error::io(path, error).context("audit log");
        if self.dirty {
            self.cut().map_err(|error| failed(error, &self.path))?;
        }
        if let Err(error) = self.write(&bytes) {
            // A torn line would be the next one's beginning.
            self.dirty = true;
            let _ = self.cut();
            return Err(failed(error, &self.path));
        }
        self.length = self.length.saturating_add(bytes.len() as u64);
        (self.last, self.unauthenticated) = (last, open);
        Ok(())
    }

    /// Takes the last line back that [`append`](Self::append) wrote.
    pub(super) fn undo(&mut self, to: Link, length: u64, unauthenticated: u64) {
        (self.last, self.length, self.unauthenticated) = (to, length, unauthenticated);
        self.dirty = true;
        let _ = self.cut();
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.dirty = false;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(room) = &self.room {
            let fits = room.take(bytes.len());
            self.file.write_all(&bytes[..fits])?;
            return match fits < bytes.len() {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            };
        }
        self.file.write_all(bytes)
    }

    /// Writes a line that authenticates all before it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn mark(&mut self, kind: Kind) -> Result<()> {
        self.append(&[Draft::new(kind, &Mark { time: Timestamp::now() })?])
    }

    /// Forces it to disk.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(&self.path, error).context("audit log"))
    }
}

/// Cuts the torn end off a file.
///
/// # Errors
/// [`ErrorKind::Io`].
pub(super) fn truncate(path: &Path, length: u64) -> Result<()> {
    let cut = || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()
    };
    cut().map_err(|error| Error::io(path, error))
}

/// The lock that keeps a second writer away; held as long as the file is open.
///
/// # Errors
/// [`ErrorKind::Refused`] when another process holds it; [`ErrorKind::Io`].
pub(super) fn lock(path: &Path) -> Result<File> {
    let name = beside(path, ".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|error| Error::io(&name, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let message = format!("{}: another process writes this audit log", path.display());
            Err(Error::new(ErrorKind::Refused, message).hint("give each proxy its own log"))
        }
        Err(fs::TryLockError::Error(error)) => Err(Error::io(&name, error)),
    }
}

/// Forces a directory's names to disk.
///
/// # Errors
/// [`ErrorKind::Io`].
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| Error::io(path, error))
}
