//! What waits for the store: bodies in order, which are sealed and stored one after the other.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::cut::{Cut, Cutter, RAW};
use super::write::{JournalWriter, SealedSegment, unix_ms};
use crate::error::{ErrorKind, Result};
use crate::etcd::changes::Complete;
use crate::etcd::seen::Seen;
use crate::format::{Continues, EndReason};
use crate::task::{Control, JournalStep, Step};

/// Bytes that may wait for the store.
const MAX_QUEUE: usize = 32 << 20;
/// How often a moment is stored when nothing changes.
const QUIET: Duration = Duration::from_secs(60);
/// Between two attempts to reach etcd or the store.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

const _: () = assert!(RAW < MAX_QUEUE);

/// The segment that is being filled, and where it goes.
pub(super) struct Filling<'a> {
    pub(super) cutter: Cutter,
    pub(super) queue: &'a Queue<'a>,
    cut_at: Instant,
    pub(super) segments: u64,
    clock: Clock,
}

/// The host's clock. Moments never decrease, and are never further ahead than the time that has really passed allows: a
/// journal whose moments lie long after its beginning does not count.
struct Clock {
    begun: (u64, Instant),
    last: u64,
}

/// How far the clock may be from where it should be.
const AHEAD: u64 = 60_000;
const BEHIND: u64 = 1_000;

impl Clock {
    fn new() -> Self {
        Self { begun: (unix_ms(), Instant::now()), last: 0 }
    }

    /// Where it should be.
    fn expected(&self) -> u64 {
        let passed = u64::try_from(self.begun.1.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.begun.0.saturating_add(passed)
    }

    fn now(&mut self) -> u64 {
        self.last = self.last.max(unix_ms().min(self.expected().saturating_add(AHEAD)));
        self.last
    }

    /// Whether somebody has set it.
    fn was_set(&self) -> bool {
        let (now, expected) = (unix_ms(), self.expected());
        now > expected.saturating_add(AHEAD) || now.saturating_add(BEHIND) < expected
    }
}

impl<'a> Filling<'a> {
    pub(super) fn new(queue: &'a Queue<'a>, first: i64) -> Self {
        let (cutter, clock) = (Cutter::new(first), Clock::new());
        Self { cutter, queue, cut_at: Instant::now(), segments: 0, clock }
    }

    /// Whether the clock was set since the journal began.
    pub(super) fn clock_was_set(&self) -> bool {
        self.clock.was_set()
    }

    pub(super) fn revision(&mut self, complete: &Complete) -> Result<()> {
        let mut cuts = Vec::new();
        self.cutter.revision(complete, self.clock.now(), &mut cuts)?;
        cuts.into_iter().for_each(|cut| self.push(cut));
        Ok(())
    }

    pub(super) fn tick(&mut self) {
        let quiet = self.cut_at.elapsed() >= QUIET && self.cutter.has_news();
        if self.cutter.has_entries() || quiet {
            self.cut();
        }
    }

    pub(super) fn cut(&mut self) {
        let cut = self.cutter.cut();
        self.push(cut);
    }

    fn push(&mut self, cut: Cut) {
        self.cut_at = Instant::now();
        self.segments = self.segments.saturating_add(1);
        self.queue.waiting.fetch_add(cut.body.len(), Ordering::Relaxed);
        // Who takes it ends only after this.
        let _ = self.queue.sender.send(Some(cut));
        self.queue.tell_waiting();
    }
}

/// What waits for the store.
pub(super) struct Queue<'a> {
    sender: mpsc::UnboundedSender<Option<Cut>>,
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// Bytes of segments that are stored.
    stored: AtomicU64,
    /// The last complete revision that is stored, and the segment that holds it.
    last: Mutex<(i64, Option<Continues>)>,
    /// What snapshots are compared with.
    seen: Arc<Seen>,
    control: &'a Control,
}

impl<'a> Queue<'a> {
    /// An empty queue, and what takes from it.
    pub(super) fn new(
        first: i64,
        seen: Arc<Seen>,
        control: &'a Control,
    ) -> (Self, mpsc::UnboundedReceiver<Option<Cut>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let last = Mutex::new((first.saturating_sub(1), None));
        let (waiting, stored) = (AtomicUsize::new(0), AtomicU64::new(0));
        (Self { sender, waiting, stored, last, seen, control }, receiver)
    }

    /// Tells how much waits.
    fn tell_waiting(&self) {
        let queued = self.waiting.load(Ordering::Relaxed) as u64;
        self.control.step(Step::Journal(JournalStep::Waiting { queued, spooled: 0 }));
    }

    /// Takes note of what `writer` has stored last.
    fn note(&self, writer: &JournalWriter<'_>, raw: usize, took: Duration) {
        let (last, segment) = (writer.last(), writer.continues());
        let before = self.stored.swap(writer.stored_bytes(), Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (last, segment);
        self.waiting.fetch_sub(raw, Ordering::Relaxed);
        if let Some(segment) = segment {
            self.seen.stored(segment);
        }
        self.control.step(Step::Journal(JournalStep::Stored {
            revision: last,
            complete_ms: writer.complete_ms(),
            bytes: writer.stored_bytes().saturating_sub(before),
            took,
        }));
        self.tell_waiting();
    }

    /// The last complete revision that is stored, and the last segment; `None` before there is one.
    pub(super) fn last(&self) -> (i64, Option<Continues>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more waits than may.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > MAX_QUEUE
    }

    /// Bytes of segments that are stored.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Nothing follows.
    pub(super) fn close(&self) {
        let _ = self.sender.send(None);
    }
}

/// Stores what is in the queue, one after the other, until it is closed. What the store did not take is sent again.
pub(super) async fn store_all<'a>(
    mut writer: JournalWriter<'a>,
    mut cuts: mpsc::UnboundedReceiver<Option<Cut>>,
    queue: &Queue<'_>,
) -> (JournalWriter<'a>, Option<crate::Error>) {
    while let Some(Some(cut)) = cuts.recv().await {
        let (raw, begun) = (cut.body.len(), Instant::now());
        let stored = match writer.seal_segment(cut) {
            Ok(sealed) => store(&mut writer, &sealed).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            return (writer, Some(error));
        }
        queue.note(&writer, raw, begun.elapsed());
    }
    (writer, None)
}

async fn store(writer: &mut JournalWriter<'_>, sealed: &SealedSegment) -> Result<()> {
    let mut pause = PAUSE;
    loop {
        match writer.segment(sealed).await {
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// Stores the end of a journal, and tries again while the store cannot be reached.
pub(super) async fn store_end(writer: &JournalWriter<'_>, reason: EndReason) -> Result<()> {
    let mut pause = PAUSE;
    loop {
        match writer.end(reason).await {
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}
