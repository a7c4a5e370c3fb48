//! Looking inside a snapshot: its database read at random, without fetching it whole.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::runtime::Handle;

use super::blocking::run_blocking;
use super::snapshot::{DatabaseReader, OpenSnapshot};
use crate::bolt::{Db, ReadAt};
use crate::error::{Context, Error, Result};
use crate::format::{Facts, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Frames kept: a walk over the key bucket returns to pages of the same few frames.
const CACHED_FRAMES: usize = 16;

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
    let frames = Frames::new(database);
    run_blocking(move || look(&Inside { id, facts, db: Db::open(frames)? }))
        .await
        .context(format!("snapshot {id}"))
}

/// Random access to the database through its frames, the last few kept. Blocks: not for async threads.
pub struct Frames {
    reader: DatabaseReader,
    handle: Handle,
    cached: RefCell<VecDeque<(usize, Vec<u8>)>>,
    fetched: Cell<u64>,
}

impl Frames {
    /// To be read from a thread that may block.
    pub(super) fn new(reader: DatabaseReader) -> Self {
        Self {
            reader,
            handle: Handle::current(),
            cached: RefCell::default(),
            fetched: Cell::default(),
        }
    }

    /// Stored bytes of the payload that were fetched so far, and how many it has in all.
    #[must_use]
    pub fn fetched(&self) -> (u64, u64) {
        let all = self.reader.index().frames.iter().map(|frame| frame.length).sum();
        (self.fetched.get(), all)
    }

    /// Copies from frame `at`, from its byte `within` on; how much, 0 behind its end.
    fn copy(&self, at: usize, within: usize, buf: &mut [u8]) -> Result<usize> {
        let mut cached = self.cached.borrow_mut();
        match cached.iter().position(|(cached, _)| *cached == at) {
            Some(0) => {}
            Some(position) => {
                let frame = cached.remove(position);
                frame.into_iter().for_each(|frame| cached.push_front(frame));
            }
            None => {
                let frame = self.handle.block_on(self.reader.frame(at))?;
                let length = self.reader.index().frames.get(at).map_or(0, |frame| frame.length);
                self.fetched.set(self.fetched.get() + length);
                cached.truncate(CACHED_FRAMES - 1);
                cached.push_front((at, frame));
            }
        }
        let frame = cached.front().and_then(|(_, frame)| frame.get(within..)).unwrap_or_default();
        let length = frame.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), frame.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }
}

impl ReadAt for Frames {
    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let frame_size = self.reader.index().database.frame_size;
        let mut offset = offset;
        while !buf.is_empty() {
            let (at, within) = (offset / frame_size, offset % frame_size);
            let length = self.copy(at as usize, within as usize, buf)?;
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
