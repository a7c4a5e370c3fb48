//! Reading a snapshot's frames: fetched and opened in parallel, given out in order.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use futures::stream::{self, Stream as Items};
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256 as Hasher};
use tokio::sync::mpsc;

use super::reader::DatabaseReader;
use crate::error::{Error, Result};
use crate::format::{ObjectEntry, Sha256};
use crate::store::Repository;
use crate::task::Scratch;
use crate::task::{AbortOnDrop, run_blocking, task_died, task_panicked};
use crate::task::{Buffer, Buffers};
use crate::task::{Control, Step};

/// Ranges fetched at once, for stores with latency.
const FETCHES: usize = 8;
/// Stored bytes in one range, and frames in one: bounds memory however well the data compresses.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_FRAMES: usize = 4;

/// Bytes of one piece of an object, and pieces fetched ahead.
const PIECE: u64 = 8 << 20;
const AHEAD: usize = 2;

/// Where each frame goes as soon as it is open, in whatever order that is.
#[derive(Clone)]
pub(crate) enum Place {
    Nowhere,
    /// To its place in a file of this path. One thread writes at a time: the file system lets no more, and those that
    /// wait there for each other keep their cores.
    File(Arc<Mutex<File>>, PathBuf),
    Scratch(Arc<Scratch>),
}

impl Place {
    fn put(&self, reader: &DatabaseReader, at: usize, frame: &[u8]) -> Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::File(file, path) => {
                let file = file.lock().map_err(|_| task_panicked())?;
                let written = file.write_all_at(frame, reader.frame_start(at));
                written.map_err(|error| Error::io(path, error))
            }
            Self::Scratch(spool) => spool.put(at, frame),
        }
    }
}

/// A frame that is open. Whoever follows the reading may keep it.
pub(crate) type Frame = Arc<Buffer>;

/// Frames that follow one another.
pub(crate) type Batch = Vec<Frame>;

/// What takes bytes in order.
pub(crate) type Stream = Box<dyn Write + Send>;

/// Who gets the frames of a database in their order.
pub(crate) enum Follower {
    Nobody,
    Stream(Stream),
    /// Walks over the database; one that has ended is passed over.
    Walks(Vec<mpsc::Sender<Result<Batch>>>),
}

impl Follower {
    fn take(&mut self, batch: Batch) -> Result<()> {
        match self {
            Self::Nobody => {}
            Self::Stream(stream) => {
                for frame in batch {
                    stream.write_all(&frame).map_err(stream_failed)?;
                }
            }
            Self::Walks(walks) => {
                walks.retain(|walk| walk.blocking_send(Ok(batch.clone())).is_ok());
            }
        }
        Ok(())
    }
}

/// Reads the whole database into `place`, and in order to `follower`; compares its SHA-256 with the index's.
///
/// # Errors
/// The first that any frame meets; [`Tampered`](crate::ErrorKind::Tampered) when the digest differs.
pub(crate) async fn read_all(
    reader: &DatabaseReader,
    place: Place,
    mut follower: Follower,
    control: &Control,
) -> Result<Follower> {
    let (sender, mut opened) = mpsc::channel(2);
    let all = 0..reader.frames();
    let producer =
        tokio::spawn(open_frames(reader.clone(), all, place, Buffers::default(), sender));
    // Ends the producer, and so the consumer, when this future is dropped or fails.
    let _stop = AbortOnDrop(producer);
    let control = control.clone();
    let (hasher, follower) = run_blocking(move || {
        let mut hasher = Hasher::new();
        while let Some(batch) = opened.blocking_recv() {
            let batch: Batch = batch?;
            for frame in &batch {
                hasher.update(frame.as_slice());
                control.step(Step::Advance(frame.len() as u64));
            }
            follower.take(batch)?;
        }
        Ok((hasher, follower))
    })
    .await?;
    if Sha256(hasher.finalize().into()) != reader.index().database().sha256 {
        return Err(Error::tampered("the database's SHA-256 is not the one recorded")
            .hint("`strongroom verify` shows which snapshots are good"));
    }
    Ok(follower)
}

pub(crate) fn stream_failed(error: std::io::Error) -> Error {
    Error::io("output", error)
}

/// Fetches and opens frames in batches, several at a time, and sends them in order.
pub(crate) async fn open_frames(
    reader: DatabaseReader,
    frames: Range<usize>,
    place: Place,
    buffers: Buffers,
    sender: mpsc::Sender<Result<Batch>>,
) {
    // One more than there are cores: while one waits for the file's lock, or for its turn, the others work.
    let threads = thread::available_parallelism().map_or(2, |cores| cores.get() + 1);
    let mut batches = stream::iter(reader.batches(frames, BATCH_BYTES, BATCH_FRAMES))
        .map(|batch| {
            let reader = reader.clone();
            async move { tokio::spawn(async move { reader.fetch(batch).await }).await }
        })
        .buffered(FETCHES)
        .map(|fetched| fetched.unwrap_or_else(|error| Err(task_died(error))))
        .map_ok(|sealed| {
            let (reader, place, buffers) = (reader.clone(), place.clone(), buffers.clone());
            run_blocking(move || {
                let mut frames = Batch::new();
                sealed.open(&buffers, |at, frame| {
                    place.put(&reader, at, &frame)?;
                    frames.push(Arc::new(frame));
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

/// An object as it is stored, in pieces. The last item is an error when its SHA-256 differs from the one in the manifest: nothing is
/// to be made of the pieces before the stream has ended.
pub(crate) fn pieces(
    repository: &Repository,
    name: &str,
    object: &ObjectEntry,
) -> impl Items<Item = Result<Bytes>> + Send {
    let ranges = (0..object.length.div_ceil(PIECE))
        .map(|at| at * PIECE..object.length.min((at + 1) * PIECE));
    let fetched = stream::iter(ranges).map(|range| repository.get_range(name, range));
    let fetched = Box::pin(fetched.buffered(AHEAD));
    stream::try_unfold((fetched, Hasher::new()), move |(mut fetched, mut hasher)| async move {
        match fetched.try_next().await? {
            Some(piece) => {
                hasher.update(&piece);
                Ok(Some((piece, (fetched, hasher))))
            }
            None if Sha256(hasher.finalize().into()) == object.sha256 => Ok(None),
            None => Err(Error::tampered("its SHA-256 differs from the one in the manifest")),
        }
    })
}
