//! Looking inside a snapshot: its database read at random, without fetching it whole.

use std::cell::{Cell, RefCell};
use std::env;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::blocking::run_blocking;
use super::read::read_some;
use super::snapshot::{DatabaseReader, OpenSnapshot};
use super::spool::Spool;
use crate::bolt::{Db, ReadAt};
use crate::crypto::CHUNK_LEN;
use crate::error::{Context, Error, Result};
use crate::format::{Facts, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Frames fetched at once by a walk that goes straight on.
const MOST_AHEAD: usize = 32;
/// Opened chunks kept: 4 MiB.
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
    keys: &MasterKeys,
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
/// A frame that was read stays at hand in an encrypted spool, so that a walk which returns to it, as one over
/// the pages of an old database does again and again, fetches it once.
pub struct Frames {
    reader: DatabaseReader,
    handle: Handle,
    spool: Arc<Spool>,
    /// The last frame that was missing, and how many were fetched with it.
    ahead: Cell<(usize, usize)>,
    fetched: Cell<u64>,
    /// Chunks by their number, each in the one place its number gives.
    recent: RefCell<Vec<Chunk>>,
}

#[derive(Clone)]
struct Chunk {
    number: u64,
    bytes: Zeroizing<Vec<u8>>,
}

impl Frames {
    /// To be read from a thread that may block; spools below `dir`.
    pub(super) fn new(reader: DatabaseReader, dir: &Path) -> Self {
        let spool = Arc::new(Spool::new(dir, reader.index()));
        Self::over(reader, spool)
    }

    /// Over a spool that may hold frames already.
    pub(super) fn over(reader: DatabaseReader, spool: Arc<Spool>) -> Self {
        let empty = Chunk { number: u64::MAX, bytes: Zeroizing::default() };
        Self {
            reader,
            handle: Handle::current(),
            spool,
            ahead: Cell::default(),
            fetched: Cell::default(),
            recent: RefCell::new(vec![empty; RECENT_CHUNKS]),
        }
    }

    /// Stored bytes of the payload that were fetched so far, and how many it has in all.
    #[must_use]
    pub fn fetched(&self) -> (u64, u64) {
        let all = self.reader.index().frames.iter().map(|frame| frame.length).sum();
        (self.fetched.get(), all)
    }

    /// Fetches frame `at`, and more behind it the longer the walk has gone straight on.
    fn fetch(&self, at: usize) -> Result<()> {
        let frames = &self.reader.index().frames;
        let (last, count) = self.ahead.get();
        let count = if last + count == at { (2 * count).clamp(1, MOST_AHEAD) } else { 1 };
        let missing = (at..frames.len()).take(count).take_while(|at| !self.spool.has(*at)).count();
        let range = at..at + missing;
        self.handle.block_on(read_some(&self.reader, range.clone(), &self.spool))?;
        self.ahead.set((at, missing));
        let fetched: u64 =
            frames.get(range).unwrap_or_default().iter().map(|frame| frame.length).sum();
        self.fetched.set(self.fetched.get() + fetched);
        Ok(())
    }

    /// Copies from chunk `number`, from its byte `within` on; how much, 0 behind the database's end.
    fn copy(&self, number: u64, within: usize, buf: &mut [u8]) -> Result<usize> {
        let mut recent = self.recent.borrow_mut();
        let Some(chunk) = recent.get_mut((number % RECENT_CHUNKS as u64) as usize) else {
            return Ok(0);
        };
        if chunk.number != number {
            let index = self.reader.index();
            let chunks = index.database.frame_size / CHUNK_LEN as u64;
            let at = (number / chunks) as usize;
            let Some(length) = index.frame_length(at) else { return Ok(0) };
            if !self.spool.has(at) {
                self.fetch(at)?;
            }
            chunk.number = u64::MAX;
            self.spool.chunk(at, number % chunks, length, &mut chunk.bytes)?;
            chunk.number = number;
        }
        let bytes = chunk.bytes.get(within..).unwrap_or_default();
        let length = bytes.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), bytes.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }
}

impl ReadAt for Frames {
    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let mut offset = offset;
        while !buf.is_empty() {
            let (number, within) = (offset / CHUNK_LEN as u64, offset % CHUNK_LEN as u64);
            let length = self.copy(number, within as usize, buf)?;
            if length == 0 {
                let message = format!("offset {offset} lies behind the database's end");
                return Err(Error::tampered(message));
            }
            buf = buf.split_at_mut(length).1;
            offset += length as u64;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.reader.index().database.size
    }
}
