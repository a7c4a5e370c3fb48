//! Looking inside a snapshot: its database read at random, without fetching it whole.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::env;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::open::OpenSnapshot;
use super::read::open_frames;
use super::reader::DatabaseReader;
use crate::bolt::{Db, ReadAt};
use crate::crypto::CHUNK_LEN;
use crate::error::{Context, Error, Result};
use crate::format::{Facts, SnapshotId};
use crate::keys::KeySet;
use crate::store::Repository;
use crate::task::Buffer;
use crate::task::Scratch;
use crate::task::{AbortOnDrop, run_blocking};

/// Frames kept in memory: 32 MiB.
const RECENT_FRAMES: usize = 32;
/// A walk that has gone straight on so often will go on so.
const STEPS: usize = 2;
/// Chunks from the spool kept in memory: 4 MiB.
const RECENT_CHUNKS: usize = 256;

/// An opened snapshot, for work on its database.
pub struct Inside {
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// What its sealed facts say of it.
    pub facts: Facts,
    /// Its database. Every frame read is authenticated.
    pub db: Db<Frames>,
}

/// Opens `id` and hands it to `look`, which runs on a thread of its own and may block.
///
/// # Errors
/// [`WrongKey`](crate::ErrorKind::WrongKey), [`Tampered`](crate::ErrorKind::Tampered) and
/// [`Truncated`](crate::ErrorKind::Truncated) when it does not open; the store's errors; those of `look`.
pub async fn look_inside<T: Send + 'static>(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    look: impl FnOnce(&Inside) -> Result<T> + Send + 'static,
) -> Result<T> {
    let OpenSnapshot { facts, database, .. } = OpenSnapshot::open(repository, id, keys).await?;
    let frames = Frames::new(database, &env::temp_dir());
    run_blocking(move || look(&Inside { id, facts, db: Db::open(frames)? }))
        .await
        .context(format!("snapshot {id}"))
}

/// Random access to the database through its frames, fetched when they are first asked for. Blocks: not for
/// async threads.
///
/// A walk that goes straight on finds the next frames opened already. A frame that has left memory and is asked for
/// again, as a walk in key order over the pages of an old database asks for each again and again, goes to an
/// encrypted spool: so no frame is fetched more than twice, and most only once.
pub struct Frames {
    reader: DatabaseReader,
    handle: Handle,
    spool: Arc<Scratch>,
    fetched: Cell<u64>,
    /// Which frames were fetched before.
    seen: RefCell<Vec<bool>>,
    recent: RefCell<VecDeque<(usize, Buffer)>>,
    ahead: RefCell<Ahead>,
    /// Chunks from the spool by their number, each in the one place its number gives.
    chunks: RefCell<Vec<Chunk>>,
}

/// Frames that are being opened before they are asked for.
#[derive(Default)]
struct Ahead {
    /// The next frame to come, or behind the one that was fetched last.
    next: usize,
    /// How often the walk has gone straight on.
    steps: usize,
    coming: Option<Coming>,
}

/// Batches of frames in order, and the task that opens them.
type Coming = (mpsc::Receiver<Result<Vec<Buffer>>>, AbortOnDrop<()>);

#[derive(Clone)]
struct Chunk {
    number: u64,
    bytes: Zeroizing<Vec<u8>>,
}

impl Frames {
    /// To be read from a thread that may block; spools below `dir`.
    pub(crate) fn new(reader: DatabaseReader, dir: &Path) -> Self {
        let spool = Arc::new(Scratch::new(dir, reader.index()));
        Self::over(reader, spool)
    }

    /// Over a spool that may hold frames already.
    pub(crate) fn over(reader: DatabaseReader, spool: Arc<Scratch>) -> Self {
        let empty = Chunk { number: u64::MAX, bytes: Zeroizing::default() };
        let seen = vec![false; reader.frames()];
        Self {
            reader,
            handle: Handle::current(),
            spool,
            fetched: Cell::default(),
            seen: seen.into(),
            recent: RefCell::default(),
            ahead: RefCell::default(),
            chunks: RefCell::new(vec![empty; RECENT_CHUNKS]),
        }
    }

    /// Stored bytes of the payload that were fetched so far, and how many it has in all.
    #[must_use]
    pub fn fetched(&self) -> (u64, u64) {
        (self.fetched.get(), self.reader.index().stored_bytes())
    }

    /// Fetches frame `at`, and begins to open those behind it when the walk has gone straight on.
    fn fetch(&self, at: usize) -> Result<()> {
        let mut ahead = self.ahead.borrow_mut();
        if ahead.next == at {
            ahead.steps += 1;
        } else {
            // What was coming is not wanted.
            *ahead = Ahead::default();
        }
        let straight_on = ahead.steps >= STEPS;
        let batch = match &mut ahead.coming {
            Some((coming, _)) => coming.blocking_recv(),
            None => {
                let end = if straight_on { self.reader.frames() } else { at + 1 };
                let mut coming = self.open(at..end);
                let batch = coming.0.blocking_recv();
                ahead.coming = straight_on.then_some(coming);
                batch
            }
        };
        let batch = batch.ok_or_else(|| Error::tampered("the index ends too early"))??;
        for (at, frame) in (at..).zip(batch) {
            self.keep(at, frame)?;
            ahead.next = at + 1;
        }
        Ok(())
    }

    fn open(&self, frames: Range<usize>) -> Coming {
        let (sender, receiver) = mpsc::channel(2);
        let opening = open_frames(self.reader.clone(), frames, super::read::Place::Nowhere, sender);
        (receiver, AbortOnDrop(self.handle.spawn(opening)))
    }

    /// Keeps a frame in memory, and in the spool if it was there before and had to leave.
    fn keep(&self, at: usize, frame: Buffer) -> Result<()> {
        let length = self.reader.index().frames().get(at).map_or(0, |frame| frame.length);
        self.fetched.set(self.fetched.get() + length);
        let mut seen = self.seen.borrow_mut();
        if let Some(seen) = seen.get_mut(at)
            && std::mem::replace(seen, true)
            && !self.spool.has(at)
        {
            self.spool.put(at, &frame)?;
        }
        let mut recent = self.recent.borrow_mut();
        recent.truncate(RECENT_FRAMES - 1);
        recent.push_front((at, frame));
        Ok(())
    }

    /// Copies from `offset` on, as far as one frame or chunk goes; how much, 0 behind the database's end.
    fn copy(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let index = self.reader.index();
        let frame_size = index.database().frame_size;
        let at = (offset / frame_size) as usize;
        let Some(length) = index.frame_length(at) else { return Ok(0) };
        let within = (offset % frame_size) as usize;
        for _ in 0..2 {
            let recent = self.recent.borrow();
            if let Some((_, frame)) = recent.iter().find(|(recent, _)| *recent == at) {
                return Ok(copy(frame, within, buf));
            }
            drop(recent);
            if self.spool.has(at) {
                return self.copy_spooled(at, length, offset, buf);
            }
            self.fetch(at)?;
        }
        Ok(0)
    }

    fn copy_spooled(&self, at: usize, length: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let number = offset / CHUNK_LEN as u64;
        let mut chunks = self.chunks.borrow_mut();
        let Some(chunk) = chunks.get_mut((number % RECENT_CHUNKS as u64) as usize) else {
            return Ok(0);
        };
        if chunk.number != number {
            let in_frame = self.reader.index().database().frame_size / CHUNK_LEN as u64;
            chunk.number = u64::MAX;
            self.spool.chunk(at, number % in_frame, length, &mut chunk.bytes)?;
            chunk.number = number;
        }
        Ok(copy(&chunk.bytes, (offset % CHUNK_LEN as u64) as usize, buf))
    }
}

/// Copies from `bytes`, from `within` on; how much.
fn copy(bytes: &[u8], within: usize, buf: &mut [u8]) -> usize {
    let bytes = bytes.get(within..).unwrap_or_default();
    let length = bytes.len().min(buf.len());
    if let (Some(to), Some(from)) = (buf.get_mut(..length), bytes.get(..length)) {
        to.copy_from_slice(from);
    }
    length
}

impl ReadAt for Frames {
    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let mut offset = offset;
        while !buf.is_empty() {
            let length = self.copy(offset, buf)?;
            if length == 0 {
                let message = format!("offset {offset} is beyond the end of the database");
                return Err(Error::tampered(message));
            }
            buf = buf.split_at_mut(length).1;
            offset += length as u64;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.reader.index().database().size
    }
}
