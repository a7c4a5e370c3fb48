//! Opens frames before a walk asks for them.

use std::ops::Range;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::read::{Batch, Frame, Place, open_frames};
use super::reader::DatabaseReader;
use crate::error::{Error, Result};
use crate::task::{AbortOnDrop, Buffers};

/// A walk that went straight on this often is expected to go on.
const STEPS: usize = 2;
/// A walk in key order often needs a frame a little ahead and then the ones before it: within this distance it keeps
/// its stream, and what it passes stays in memory.
const NEAR: usize = 16;
/// With a stream that others read too, one frame far ahead may be fetched for this many that the stream brought.
const ALONE: usize = 16;

/// The frames that a walk asks for, and those it will probably ask for next. Blocks.
pub(super) struct Ahead {
    reader: DatabaseReader,
    handle: Handle,
    buffers: Buffers,
    coming: Option<mpsc::Receiver<Result<Batch>>>,
    /// Opens what is coming, unless somebody else does.
    opening: Option<AbortOnDrop<()>>,
    shared: bool,
    /// The first frame that `coming` has still to bring.
    next: usize,
    /// The number after the last frame that was fetched alone.
    after: usize,
    /// How often in a row the next frame was the one fetched alone.
    steps: usize,
    /// Frames fetched alone.
    alone: usize,
}

impl Ahead {
    pub(super) fn new(reader: DatabaseReader) -> Self {
        Self {
            reader,
            handle: Handle::current(),
            buffers: Buffers::default(),
            coming: None,
            opening: None,
            shared: false,
            next: 0,
            after: 0,
            steps: 0,
            alone: 0,
        }
    }

    /// Over a stream of all frames, each of which is in the spool before it comes.
    pub(super) fn shared(reader: DatabaseReader, coming: mpsc::Receiver<Result<Batch>>) -> Self {
        Self { coming: Some(coming), shared: true, ..Self::new(reader) }
    }

    /// Whether the stream brings frame `at` soon.
    pub(super) fn is_near(&self, at: usize) -> bool {
        self.coming.is_some() && (self.next..self.next + NEAR).contains(&at)
    }

    /// Whether every frame that was brought is in the spool already.
    pub(super) fn is_spooled(&self) -> bool {
        self.shared
    }

    /// Gives `keep` frame `at`, and those that come before it.
    pub(super) fn bring(
        &mut self,
        at: usize,
        mut keep: impl FnMut(usize, Frame) -> Result<()>,
    ) -> Result<()> {
        let much_alone = self.alone > self.next / ALONE;
        if self.is_near(at) || self.shared && at >= self.next && much_alone {
            return self.pull(at, keep);
        }
        self.steps = if self.after == at { self.steps + 1 } else { 0 };
        self.after = at + 1;
        if self.steps >= STEPS && !self.shared {
            let (coming, opening) = self.open(at..self.reader.frames());
            (self.coming, self.opening) = (Some(coming), Some(opening));
            (self.next, self.steps) = (at, 0);
            return self.pull(at, keep);
        }
        self.alone += 1;
        let (mut coming, _opening) = self.open(at..at + 1);
        let frame = receive(&mut coming)?.into_iter().next().ok_or_else(too_early)?;
        keep(at, frame)
    }

    /// Takes from the stream until it has brought frame `at`.
    fn pull(&mut self, at: usize, mut keep: impl FnMut(usize, Frame) -> Result<()>) -> Result<()> {
        while self.next <= at {
            let coming = self.coming.as_mut().ok_or_else(too_early)?;
            for frame in receive(coming)? {
                keep(self.next, frame)?;
                self.next += 1;
            }
        }
        Ok(())
    }

    fn open(&self, frames: Range<usize>) -> (mpsc::Receiver<Result<Batch>>, AbortOnDrop<()>) {
        let (sender, receiver) = mpsc::channel(2);
        let opening =
            open_frames(self.reader.clone(), frames, Place::Nowhere, self.buffers.clone(), sender);
        (receiver, AbortOnDrop(self.handle.spawn(opening)))
    }
}

fn receive(coming: &mut mpsc::Receiver<Result<Batch>>) -> Result<Batch> {
    coming.blocking_recv().ok_or_else(too_early)?
}

fn too_early() -> Error {
    Error::tampered("the index ends too early")
}
