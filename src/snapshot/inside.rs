//! Looking inside a snapshot: its database read at random, without fetching it whole.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::env;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::ahead::Ahead;
use super::open::OpenSnapshot;
use super::read::{Batch, Frame};
use super::reader::DatabaseReader;
use crate::bolt::{Db, ReadAt};
use crate::crypto::CHUNK_LEN;
use crate::error::{Context, Error, Result};
use crate::format::{Facts, SnapshotId};
use crate::keys::KeySet;
use crate::mvcc::{Followed, RecordedTail};
use crate::store::Repository;
use crate::task::{Scratch, run_blocking};

/// Frames kept in memory: 32 MiB.
const RECENT_FRAMES: usize = 32;
/// The same of a walk whose frames are all in the spool.
const RECENT_SPOOLED: usize = 20;
/// Chunks from the spool kept in memory: 4 MiB.
const RECENT_CHUNKS: usize = 256;

/// What to look at: a snapshot, and what was recorded after it.
#[derive(Clone, Debug)]
pub struct View {
    /// The snapshot.
    pub id: SnapshotId,
    pub(crate) tail: Option<Arc<RecordedTail>>,
}

impl From<SnapshotId> for View {
    fn from(id: SnapshotId) -> Self {
        Self { id, tail: None }
    }
}

/// An opened snapshot, for work on its database.
pub struct Inside {
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// What its sealed facts say of it.
    pub facts: Facts,
    /// Its database. Every frame read is authenticated.
    pub db: Db<Frames>,
    tail: Option<Arc<RecordedTail>>,
}

impl Inside {
    /// Its records, followed by those that were recorded after it where that was asked for.
    #[must_use]
    pub fn records(&self) -> Followed<'_, Frames> {
        Followed::new(&self.db, self.tail.as_ref().map(|tail| (tail.as_tail(), tail.until)))
    }
}

/// Opens what `view` shows and hands it to `look`, which runs on a thread of its own and may block.
///
/// # Errors
/// [`WrongKey`](crate::ErrorKind::WrongKey), [`Tampered`](crate::ErrorKind::Tampered) and
/// [`Truncated`](crate::ErrorKind::Truncated) when it does not open; the store's errors; those of `look`.
pub async fn look_inside<T: Send + 'static>(
    repository: &Repository,
    keys: &KeySet,
    view: impl Into<View>,
    look: impl FnOnce(&Inside) -> Result<T> + Send + 'static,
) -> Result<T> {
    let View { id, tail } = view.into();
    let OpenSnapshot { facts, database, .. } = OpenSnapshot::open(repository, id, keys).await?;
    let frames = Frames::new(database, &env::temp_dir());
    run_blocking(move || look(&Inside { id, facts, db: Db::open(frames)?, tail }))
        .await
        .context(format!("snapshot {id}"))
}

/// Random access to the database through its frames, fetched when they are first asked for. Blocks: not for
/// async threads.
///
/// A walk that goes straight on, or nearly, finds the next frames opened already. A frame that has left memory and is
/// asked for again, as a walk in key order over the pages of an old database asks for each again and again, goes to an
/// encrypted spool: so no frame is fetched more than twice, and most only once.
pub struct Frames {
    reader: DatabaseReader,
    spool: Arc<Scratch>,
    fetched: Cell<u64>,
    /// Which frames were fetched before.
    seen: RefCell<Vec<bool>>,
    recent: RefCell<VecDeque<(usize, Frame)>>,
    ahead: RefCell<Ahead>,
    /// Chunks from the spool by their number, each in the one place its number gives.
    chunks: RefCell<Vec<Chunk>>,
}

#[derive(Clone)]
struct Chunk {
    number: u64,
    bytes: Zeroizing<Vec<u8>>,
}

impl Frames {
    /// To be read from a thread that may block; spools below `dir`.
    pub(crate) fn new(reader: DatabaseReader, dir: &Path) -> Self {
        let spool = Arc::new(Scratch::new(dir, reader.index()));
        Self::over(reader.clone(), spool, Ahead::new(reader))
    }

    /// Over the stream `coming` of all frames, each of which is in `spool` before it comes.
    pub(crate) fn following(
        reader: DatabaseReader,
        spool: Arc<Scratch>,
        coming: mpsc::Receiver<Result<Batch>>,
    ) -> Self {
        Self::over(reader.clone(), spool, Ahead::shared(reader, coming))
    }

    fn over(reader: DatabaseReader, spool: Arc<Scratch>, ahead: Ahead) -> Self {
        let empty = Chunk { number: u64::MAX, bytes: Zeroizing::default() };
        let seen = vec![false; reader.frames()];
        Self {
            reader,
            spool,
            fetched: Cell::default(),
            seen: seen.into(),
            recent: RefCell::default(),
            ahead: ahead.into(),
            chunks: RefCell::new(vec![empty; RECENT_CHUNKS]),
        }
    }

    /// Stored bytes of the payload that were fetched so far, and how many it has in all.
    #[must_use]
    pub fn fetched(&self) -> (u64, u64) {
        (self.fetched.get(), self.reader.index().stored_bytes())
    }

    /// Keeps a frame in memory, and in the spool if it was there before and had to leave.
    fn keep(&self, at: usize, frame: Frame, is_spooled: bool) -> Result<()> {
        let length = self.reader.index().frames().get(at).map_or(0, |frame| frame.length);
        self.fetched.set(self.fetched.get() + length);
        let mut seen = self.seen.borrow_mut();
        if !is_spooled
            && let Some(seen) = seen.get_mut(at)
            && std::mem::replace(seen, true)
            && !self.spool.has(at)
        {
            self.spool.put(at, &frame)?;
        }
        let mut recent = self.recent.borrow_mut();
        recent.truncate(if is_spooled { RECENT_SPOOLED } else { RECENT_FRAMES } - 1);
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
            let mut ahead = self.ahead.borrow_mut();
            let is_spooled = ahead.is_spooled();
            if self.spool.has(at) && !(is_spooled && ahead.is_near(at)) {
                return self.copy_spooled(at, length, offset, buf);
            }
            ahead.bring(at, |at, frame| self.keep(at, frame, is_spooled))?;
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
