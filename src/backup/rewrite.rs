//! A snapshot's database written anew on local disk: as of a revision, or as a member's own.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256 as Hasher};

use super::continuous::Recorded;
use crate::bolt::Db;
use crate::error::{Error, Result};
use crate::format::Sha256;
use crate::mvcc::{self, Changes, Rewritten};
use crate::snapshot::inside::Frames;
use crate::snapshot::open::OpenSnapshot;
use crate::task::{Buffer, Buffers, Control, Step, parent, run_blocking, task_panicked};

const BUFFER: usize = 1 << 20;
/// Buffers that wait for the disk.
const QUEUED: usize = 2;

/// Writes the snapshot's database into `file` of `path`, with the changes that `plan` finds and those that were recorded. Frames that hold nothing but
/// free pages are not fetched; of all others the id is checked, which is a keyed hash of their content. What must be
/// read again is spooled beside the file meanwhile, encrypted.
///
/// # Errors
/// Those of SPEC.md §8, those of [`mvcc::rewrite`], and [`Io`](crate::ErrorKind::Io). The file's content is then
/// undefined.
pub(super) async fn rewrite(
    snapshot: &OpenSnapshot,
    plan: impl FnOnce(&Db<Frames>) -> Result<Changes> + Send + 'static,
    recorded: Option<&Recorded>,
    file: File,
    path: &Path,
    control: &Control,
) -> Result<Rewritten> {
    let frames = Frames::new(snapshot.database.clone(), parent(path));
    let tail = recorded.and_then(|recorded| recorded.tail.clone());
    let (path, watched) = (path.to_owned(), control.clone());
    let written = run_blocking(move || {
        let out = WriteBehind::new(file, watched);
        let db = Db::open(frames)?;
        let changes = plan(&db)?;
        let tail = tail.as_ref().map(|tail| tail.as_tail());
        let (_, written) = mvcc::rewrite_with(&db, &changes, tail, out)
            .map_err(|error| error.context(path.display().to_string()))?;
        Ok(written)
    })
    .await;
    // What the writer met then is but how it was stopped.
    control.check()?;
    written
}

/// SHA-256 of the first `length` bytes of `file`.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io).
pub(super) fn digest(file: &File, length: u64, path: &Path) -> Result<Sha256> {
    let failed = |error| Error::io(path, error);
    let mut file = file;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut rest = BufReader::with_capacity(BUFFER, file.take(length));
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = rest.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok(Sha256(hasher.finalize().into()));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}

/// A file written by a thread of its own, so that the walk that makes it does not wait for the disk. It tells of
/// progress, and takes no more once the job is to stop.
struct WriteBehind {
    file: Arc<File>,
    control: Control,
    buffers: Buffers,
    filling: Buffer,
    /// Where `filling` goes.
    at: u64,
    writer: Option<Writer>,
}

/// The thread, and what hands it buffers.
struct Writer {
    full: SyncSender<(u64, Buffer)>,
    thread: JoinHandle<io::Result<()>>,
}

impl WriteBehind {
    fn new(file: File, control: Control) -> Self {
        let buffers = Buffers::default();
        let filling = buffers.empty(BUFFER);
        Self { file: Arc::new(file), control, buffers, filling, at: 0, writer: None }
    }

    /// Hands on what is buffered.
    fn send(&mut self) -> io::Result<()> {
        self.control.check().map_err(io::Error::other)?;
        let full = std::mem::replace(&mut self.filling, self.buffers.empty(BUFFER));
        let (at, length) = (self.at, full.len() as u64);
        self.at += length;
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::start(self.file.clone())?,
        };
        if writer.full.send((at, full)).is_err() {
            return writer.end();
        }
        self.writer = Some(writer);
        self.control.step(Step::Advance(length));
        Ok(())
    }
}

impl Writer {
    fn start(file: Arc<File>) -> io::Result<Self> {
        let (full, queue) = sync_channel::<(u64, Buffer)>(QUEUED);
        let write = move || {
            while let Ok((at, bytes)) = queue.recv() {
                file.write_all_at(&bytes, at)?;
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("write".into()).spawn(write)?;
        Ok(Self { full, thread })
    }

    /// Waits until all is written.
    fn end(self) -> io::Result<()> {
        drop(self.full);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other(task_panicked())))
    }
}

impl Write for WriteBehind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filling.len() >= BUFFER {
            self.send()?;
        }
        let length = bytes.len().min(BUFFER - self.filling.len());
        self.filling.extend_from_slice(bytes.get(..length).unwrap_or_default());
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.writer.take().map_or(Ok(()), Writer::end)
    }
}

impl Seek for WriteBehind {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.send()?;
        match to {
            SeekFrom::Start(at) => self.at = at,
            SeekFrom::Current(0) => {}
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(self.at)
    }
}
