//! Restore to a file or a stream: fetch and open in parallel, prove the whole, only then show it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256 as Hasher};
use tokio::sync::mpsc;

use super::blocking::{AbortOnDrop, run_blocking, task_died};
use super::buffers::{Buffer, Buffers};
use super::control::Control;
use super::snapshot::{DatabaseReader, OpenSnapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, Sha256, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Ranges fetched at once, for stores with latency.
const FETCHES: usize = 8;
/// Stored bytes in one range, and frames in one: bounds memory however well the data compresses.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_FRAMES: usize = 4;

/// Where a restore writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// A file, which appears under its name only when all of it is proved.
    File {
        /// Its path.
        path: PathBuf,
        /// Replace what is there.
        force: bool,
    },
    /// Standard output. What a reader got is only to be trusted when the restore succeeds.
    Stdout,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The snapshot.
    pub id: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// The last revision in it.
    pub revision: u64,
    /// SHA-256 of the database, which is also the file's last 32 bytes.
    pub sha256: Sha256,
    /// Length of the database; the file is 32 bytes longer.
    pub database_bytes: u64,
    /// The master key that opened it.
    pub opened_by: KeyId,
    /// Oddities that did not stop the restore, such as a seal that does not open beside one that does.
    pub findings: Vec<String>,
    /// Wall time.
    pub duration: Duration,
}

/// Restores snapshot `id` as `etcdctl snapshot save` would have written it: the database, then its SHA-256.
///
/// # Errors
/// Those of SPEC.md §8 for a snapshot that is not whole; [`ErrorKind::AlreadyExists`] for a file that is there
/// already; [`ErrorKind::Io`], such as a full disk. Nothing is then left under the output's name.
pub async fn restore(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
    output: &Output,
    control: &Control,
) -> Result<RestoreReport> {
    let started = Instant::now();
    control
        .guard(async {
            let snapshot = OpenSnapshot::open(repository, id, keys).await?;
            let database = snapshot.database.index().database;
            control.begin("restoring", Some(database.size));
            match output {
                Output::File { path, force } => to_file(&snapshot, path, *force, control).await?,
                Output::Stdout => {
                    let out: Box<dyn Write + Send> = Box::new(std::io::stdout());
                    let mut out =
                        read_all(&snapshot.database, Sink::in_order(out), control).await?;
                    out.write(&database.sha256.0)?;
                    out.flush()?;
                }
            }
            Ok(RestoreReport {
                id,
                cluster: snapshot.manifest.body().cluster.clone(),
                revision: snapshot.manifest.body().revision,
                sha256: database.sha256,
                database_bytes: database.size,
                opened_by: snapshot.opened_by,
                findings: snapshot.findings,
                duration: started.elapsed(),
            })
        })
        .await
}

async fn to_file(
    snapshot: &OpenSnapshot,
    path: &Path,
    force: bool,
    control: &Control,
) -> Result<()> {
    let exists = || {
        Error::new(ErrorKind::AlreadyExists, format!("{} exists", path.display()))
            .hint("choose another name, or replace it with --force")
    };
    if !force && path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let io = |error| Error::io(path, error);
    let staged = tempfile::Builder::new()
        .prefix(".strongroom-restore-")
        .tempfile_in(parent)
        .map_err(|error| Error::io(parent, error))?;
    let file = Arc::new(staged.reopen().map_err(io)?);
    let sink = Sink::in_place(file.clone(), path.to_owned());
    let database = &snapshot.database.index().database;
    read_all(&snapshot.database, sink, control).await?;
    let (size, sha256) = (database.size, database.sha256);
    run_blocking({
        let path = path.to_owned();
        move || {
            file.write_all_at(&sha256.0, size)
                .and_then(|()| file.sync_all())
                .map_err(|error| Error::io(path, error))
        }
    })
    .await?;
    // Here, not in the blocking thread: a restore that is dropped while that syncs must take the staged file with it.
    let persisted = if force { staged.persist(path) } else { staged.persist_noclobber(path) };
    persisted.map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(),
        _ => Error::io(path, error.error),
    })?;
    let parent = parent.to_owned();
    run_blocking(move || {
        let synced = File::open(&parent).and_then(|dir| dir.sync_all());
        synced.map_err(|error| Error::io(parent, error))
    })
    .await
}

/// Where frames go. Each is either written in place by the thread that opened it, or in order.
pub(super) struct Sink {
    file: Option<(Arc<File>, PathBuf)>,
    stream: Option<Box<dyn Write + Send>>,
}

impl Sink {
    /// Reads and proves, keeps nothing.
    pub(super) fn nowhere() -> Self {
        Self { file: None, stream: None }
    }

    fn in_place(file: Arc<File>, path: PathBuf) -> Self {
        Self { file: Some((file, path)), stream: None }
    }

    fn in_order(stream: Box<dyn Write + Send>) -> Self {
        Self { file: None, stream: Some(stream) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.write_all(bytes).map_err(|error| Error::io("standard output", error))
    }

    fn flush(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.flush().map_err(|error| Error::io("standard output", error))
    }
}

/// Reads the whole database into `sink` and compares its SHA-256 with the index's.
///
/// # Errors
/// The first that any frame meets; [`ErrorKind::Tampered`] when the digest differs.
pub(super) async fn read_all(
    reader: &DatabaseReader,
    sink: Sink,
    control: &Control,
) -> Result<Sink> {
    let (sender, mut opened) = mpsc::channel(2);
    let producer = tokio::spawn(open_all(reader.clone(), sink.file.clone(), sender));
    // Ends the producer, and so the consumer, when this future is dropped or fails.
    let _stop = AbortOnDrop(producer);
    let (mut sink, control) = (sink, control.clone());
    let (hasher, sink) = run_blocking(move || {
        let mut hasher = Hasher::new();
        while let Some(batch) = opened.blocking_recv() {
            let batch: Vec<Buffer> = batch?;
            for frame in batch {
                hasher.update(frame.as_slice());
                sink.write(&frame)?;
                control.step(super::Step::Advance(frame.len() as u64));
            }
        }
        Ok((hasher, sink))
    })
    .await?;
    if Sha256(hasher.finalize().into()) != reader.index().database.sha256 {
        return Err(Error::tampered("the database's SHA-256 is not the one recorded")
            .hint("`strongroom verify` tells which snapshots are whole"));
    }
    Ok(sink)
}

/// Fetches and opens every batch, several at a time, and sends them in order.
async fn open_all(
    reader: DatabaseReader,
    file: Option<(Arc<File>, PathBuf)>,
    sender: mpsc::Sender<Result<Vec<Buffer>>>,
) {
    // One more than there are cores: while one waits for the file's lock, or for its turn, the others work.
    let threads = thread::available_parallelism().map_or(2, |cores| cores.get() + 1);
    let buffers = Buffers::default();
    let mut batches = stream::iter(reader.batches(BATCH_BYTES, BATCH_FRAMES))
        .map(|batch| {
            let reader = reader.clone();
            async move { tokio::spawn(async move { reader.fetch(batch).await }).await }
        })
        .buffered(FETCHES)
        .map(|fetched| fetched.unwrap_or_else(|error| Err(task_died(error))))
        .map_ok(|sealed| {
            let (reader, file, buffers) = (reader.clone(), file.clone(), buffers.clone());
            run_blocking(move || {
                let mut frames = Vec::new();
                sealed.open(false, &buffers, |at, frame| {
                    if let Some((file, path)) = &file {
                        file.write_all_at(&frame, reader.frame_start(at))
                            .map_err(|error| Error::io(path, error))?;
                    }
                    frames.push(frame);
                    Ok(())
                })?;
                Ok(frames)
            })
        })
        .try_buffered(threads);
    while let Some(batch) = batches.next().await {
        let failed = batch.is_err();
        if sender.send(batch).await.is_err() || failed {
            return;
        }
    }
}
