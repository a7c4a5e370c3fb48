//! The log's writer: one thread that writes what any number of requests hand it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::file::{
    CHECKPOINT_AFTER, CHECKPOINT_LINES, End, LogFile, lock, sync_directory, truncate,
};
use super::line::{Draft, Kind, Lost, Resumed};
use super::reader::{directory, rotated, rotated_files};
use super::record::Record;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::KeySet;

/// Requests under way that are to be recorded; more wait in [`AuditLog::reserve`].
const QUEUE: usize = 64 << 10;
/// Records that one write holds at most.
const BATCH: usize = 256;

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The size in bytes at which a file is closed and the next begun; a write may exceed it.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_bytes: 256 << 20 }
    }
}

/// A log that is open for writing. Clones share it; [`close`](Self::close) it at the end.
#[derive(Clone)]
pub struct AuditLog {
    sender: mpsc::Sender<Message>,
    path: PathBuf,
    trouble: Arc<Mutex<Option<String>>>,
}

enum Message {
    Line(Draft, oneshot::Sender<Result<()>>),
    Close(oneshot::Sender<Result<()>>),
}

impl AuditLog {
    /// Opens the log at `path` and begins a new file, linked to the one before if there is one.
    ///
    /// A file that did not end well is cut back to its last whole line, and the new one says so. The data keys are
    /// sealed to `keys`, now and at each rotation.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when another process writes this log or no key seals; [`ErrorKind::Tampered`] when the
    /// file there is no audit log; [`ErrorKind::Io`].
    pub fn open(path: impl Into<PathBuf>, options: Options, keys: Arc<KeySet>) -> Result<Self> {
        Self::start(Writer::open(path.into(), options, keys)?)
    }

    pub(super) fn start(writer: Writer) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (path, trouble) = (writer.path.clone(), Arc::clone(&writer.trouble));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Error::io(&path, error))?;
        std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || runtime.block_on(writer.serve(receiver)))
            .map_err(|error| Error::io(&path, error))?;
        Ok(Self { sender, path, trouble })
    }

    /// Writes one line; returns once the file has it (not yet the disk: see the [module](super)).
    ///
    /// Lines stand in the order in which this was first polled. More keys than a line holds are counted instead, and
    /// overlong names are cut. A record whose future is dropped may be written all the same.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it could not be written, and [`ErrorKind::Refused`] once the log is closed. Nothing of
    /// it is in the file then; whether the request goes on is the caller's to decide. The next record tries again,
    /// and the log then says how many are missing.
    pub async fn record(&self, record: Record) -> Result<()> {
        self.reserve().await?.record(record).await
    }

    /// Reserves a place for the line of a request before the request has any effect. With that place, writing the line does
    /// not wait: it happens even when the request is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] once the log is closed.
    pub async fn reserve(&self) -> Result<Reserved> {
        let permit = self.sender.clone().reserve_owned().await;
        Ok(Reserved(permit.map_err(|_| closed())?))
    }

    /// Ends the file with its closing line, on disk, and gives up the lock. Records handed in before are written first.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when that could not be written: the next opening then finds an unclean end;
    /// [`ErrorKind::Refused`] when it is closed already.
    pub async fn close(&self) -> Result<()> {
        self.ask(Message::Close).await
    }

    async fn ask(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<()>>) -> Message,
    ) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.sender.send(message(done)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Used and total bytes of the file system that holds the log, as `df` counts them.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn disk_use(&self) -> Result<(u64, u64)> {
        let directory = directory(&self.path);
        let stat = rustix::fs::statvfs(directory)
            .map_err(|error| Error::io(directory, io::Error::from(error)))?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let total = used.saturating_add(stat.f_bavail);
        Ok((used.saturating_mul(stat.f_frsize), total.saturating_mul(stat.f_frsize)))
    }

    /// Why the last checkpoint or rotation failed, while it has not succeeded since: no record's outcome tells.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A place in the log for one line; see [`AuditLog::reserve`].
pub struct Reserved(mpsc::OwnedPermit<Message>);

impl Reserved {
    /// Writes the line; returns once the file has it, as [`AuditLog::record`] does.
    ///
    /// # Errors
    /// As [`AuditLog::record`].
    pub async fn record(self, record: Record) -> Result<()> {
        self.send(record)?.await.map_err(|_| closed())?
    }

    /// Writes the line, and does not wait until the file has it. If it cannot be written, the log says later that a
    /// line is missing.
    pub fn leave(self, record: Record) {
        // Every record can be written as JSON.
        let _ = self.send(record);
    }

    fn send(self, record: Record) -> Result<oneshot::Receiver<Result<()>>> {
        let draft = Draft::new(Kind::Request, &record.bounded())?;
        let (done, answer) = oneshot::channel();
        self.0.send(Message::Line(draft, done));
        Ok(answer)
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Refused, "the audit log is closed")
}

/// What the thread owns.
pub(super) struct Writer {
    path: PathBuf,
    keys: Arc<KeySet>,
    pub(super) file: LogFile,
    max_bytes: u64,
    /// The length at which the next rotation is tried.
    rotate_at: u64,
    /// Records refused since the last one that was written.
    lost: u64,
    /// When the next checkpoint is due.
    due: Option<Instant>,
    /// A checkpoint is written but not on disk.
    unsynced: bool,
    trouble: Arc<Mutex<Option<String>>>,
    _lock: File,
}

impl Writer {
    pub(super) fn open(path: PathBuf, options: Options, keys: Arc<KeySet>) -> Result<Self> {
        let held = lock(&path)?;
        let (before, resumed) = settle(&path)?;
        let mut file = LogFile::create(&path, before.as_ref().map(|end| end.last), &keys)?;
        if let Some(resumed) = resumed {
            file.append(&[Draft::new(Kind::Resumed, &resumed)?])?;
            file.mark(Kind::Checkpoint)?;
            file.sync()?;
        }
        match before {
            Some(end) if path.exists() => set_aside(&path, end.first)?,
            _ => {}
        }
        file.rename(&path)?;
        sync_directory(directory(&path))?;
        let max_bytes = options.max_bytes;
        Ok(Self {
            path,
            keys,
            file,
            max_bytes,
            rotate_at: max_bytes,
            lost: 0,
            due: None,
            unsynced: false,
            trouble: Arc::default(),
            _lock: held,
        })
    }

    async fn serve(mut self, mut receiver: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = receiver.recv_many(&mut batch, BATCH);
            let count = match self.due {
                Some(due) => timeout_at(due, received).await.ok(),
                None => Some(received.await),
            };
            match count {
                None => self.checkpoint(),
                Some(0) => {
                    let finished = self.finish();
                    self.tell(finished);
                    return;
                }
                Some(_) => {
                    if let Some(done) = self.take(&mut batch) {
                        let finished = self.finish();
                        // The lock goes before the answer: who closed may open again at once.
                        drop(self);
                        let _ = done.send(finished);
                        return;
                    }
                }
            }
        }
    }

    /// Writes a batch and answers those who wait; gives back who asked to close.
    fn take(&mut self, batch: &mut Vec<Message>) -> Option<oneshot::Sender<Result<()>>> {
        let (mut drafts, mut waiting, mut close) = (Vec::new(), Vec::new(), None);
        for message in batch.drain(..) {
            match message {
                Message::Line(draft, done) if close.is_none() => {
                    drafts.push(draft);
                    waiting.push(done);
                }
                Message::Close(done) if close.is_none() => close = Some(done),
                // Dropped unanswered: the log is closed.
                _ => {}
            }
        }
        if !drafts.is_empty() {
            let written = self.write(drafts);
            if written.is_err() {
                self.lost = self.lost.saturating_add(waiting.len() as u64);
            }
            for done in waiting {
                let _ = done.send(written.as_ref().map_err(again).copied());
            }
            self.after_write();
        }
        close
    }

    fn write(&mut self, mut drafts: Vec<Draft>) -> Result<()> {
        if self.unsynced {
            self.file.sync()?;
            self.unsynced = false;
        }
        if self.lost > 0 {
            let lost = Lost { time: Timestamp::now(), records: self.lost };
            drafts.insert(0, Draft::new(Kind::Lost, &lost)?);
        }
        self.file.append(&drafts)?;
        self.lost = 0;
        Ok(())
    }

    fn after_write(&mut self) {
        if self.file.length >= self.rotate_at {
            let rotated = self.rotate();
            // Not at every write again: making a file forces two to disk.
            self.rotate_at = match rotated {
                Ok(()) => self.max_bytes,
                Err(_) => self.file.length.saturating_add(1 << 20),
            };
            self.tell(rotated);
        }
        if self.file.unauthenticated >= CHECKPOINT_LINES {
            self.checkpoint();
        } else if self.file.unauthenticated == 0 {
            self.due = None;
        } else if self.due.is_none() {
            self.due = Some(Instant::now() + CHECKPOINT_AFTER);
        }
    }

    fn checkpoint(&mut self) {
        let written = self.file.mark(Kind::Checkpoint).and_then(|()| {
            self.unsynced = true;
            self.file.sync()
        });
        self.unsynced &= written.is_err();
        self.due = written.is_err().then(|| Instant::now() + CHECKPOINT_AFTER);
        self.tell(written);
    }

    /// Closes the file and begins the next; on failure everything is as before.
    fn rotate(&mut self) -> Result<()> {
        let (last, length, open) = (self.file.last, self.file.length, self.file.unauthenticated);
        self.file.mark(Kind::Closed)?;
        let begun = self.begin_next();
        match begun {
            Ok(next) => {
                self.file = next;
                sync_directory(directory(&self.path))
            }
            Err(error) => {
                self.file.undo(last, length, open);
                Err(error)
            }
        }
    }

    fn begin_next(&mut self) -> Result<LogFile> {
        self.file.sync()?;
        let mut next = LogFile::create(&self.path, Some(self.file.last), &self.keys)?;
        #[cfg(test)]
        next.room.clone_from(&self.file.room);
        set_aside(&self.path, self.file.first)?;
        if let Err(error) = next.rename(&self.path) {
            let _ = fs::rename(rotated(&self.path, self.file.first), &self.path);
            return Err(error);
        }
        Ok(next)
    }

    fn finish(&mut self) -> Result<()> {
        if self.lost > 0 {
            let lost = Lost { time: Timestamp::now(), records: self.lost };
            self.file.append(&[Draft::new(Kind::Lost, &lost)?])?;
        }
        self.file.mark(Kind::Closed)?;
        self.file.sync()
    }

    fn tell(&self, outcome: Result<()>) {
        let trouble = outcome.err().map(|error| error.to_string());
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// The same error for one more who waits.
fn again(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

/// Looks at what was written before: how it ends, cut back to whole lines, and what is to be said of it.
fn settle(path: &Path) -> Result<(Option<End>, Option<Resumed>)> {
    let time = Timestamp::now();
    if path.try_exists().map_err(|error| Error::io(path, error))? {
        let end = End::read(path)?;
        let cut = end.length.saturating_sub(end.whole);
        if cut > 0 {
            truncate(path, end.whole)?;
        }
        let unauthenticated = end.unauthenticated;
        let clean = end.closed && cut == 0;
        let resumed = Resumed { time, cut, unauthenticated, missing: false };
        return Ok((Some(end), (!clean).then_some(resumed)));
    }
    match rotated_files(path)?.last() {
        None => Ok((None, None)),
        Some(newest) => {
            let end = End::read(newest)?;
            let unauthenticated = end.unauthenticated;
            Ok((Some(end), Some(Resumed { time, cut: 0, unauthenticated, missing: true })))
        }
    }
}

/// Gives the current file the name of a rotated one; never over another.
fn set_aside(path: &Path, first: u64) -> Result<()> {
    let to = rotated(path, first);
    if to.try_exists().map_err(|error| Error::io(&to, error))? {
        let message = format!("{}: it exists already", to.display());
        return Err(Error::new(ErrorKind::AlreadyExists, message)
            .hint("two logs are mixed up in this directory: move one of them away"));
    }
    fs::rename(path, &to).map_err(|error| Error::io(&to, error))
}
