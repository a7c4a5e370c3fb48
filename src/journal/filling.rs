//! The segment that is being filled. When it is cut it is sealed, and goes where it is stored.

use std::time::Duration;

use tokio::time::Instant;

use super::cut::{Cut, Cutter};
use super::outbox::{Object, Outbox};
use super::write::{JournalWriter, unix_ms};
use crate::error::Result;
use crate::etcd::changes::Complete;
use crate::format::{Continues, EndReason, Entry};

/// How often a moment is stored when nothing changes.
const QUIET: Duration = Duration::from_secs(60);

/// How long a scheduled cut waits for etcd's revision at most.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Where sealed objects go.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    pub(crate) first: &'a Outbox<'a>,
    /// A second place.
    pub(crate) second: Option<&'a Outbox<'a>>,
}

impl Places<'_> {
    pub(super) fn push(&self, object: Object) {
        if let Some(second) = self.second {
            second.push(object.clone());
        }
        self.first.push(object);
    }
}

/// The segment that is being filled, and where it goes.
pub(super) struct Filling<'a> {
    pub(super) cutter: Cutter,
    writer: JournalWriter<'a>,
    places: Places<'a>,
    cut_at: Instant,
    /// The deadline of a scheduled cut. The segment is cut earlier if it is known to be complete.
    cut_by: Option<Instant>,
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

    /// Whether it may have shown this moment since the journal began.
    fn has_shown(&mut self, moment: u64) -> bool {
        moment <= self.now()
    }

    /// Whether somebody has set it.
    fn was_set(&self) -> bool {
        let (now, expected) = (unix_ms(), self.expected());
        now > expected.saturating_add(AHEAD) || now.saturating_add(BEHIND) < expected
    }
}

impl<'a> Filling<'a> {
    /// A journal that begins with revision `first`.
    pub(super) fn new(writer: JournalWriter<'a>, places: Places<'a>, first: i64) -> Self {
        let (cutter, clock) = (Cutter::new(first), Clock::new());
        Self { cutter, writer, places, cut_at: Instant::now(), cut_by: None, clock }
    }

    /// Whether the clock was set since the journal began.
    pub(super) fn clock_was_set(&self) -> bool {
        self.clock.was_set()
    }

    /// Whether more waits for the store than may.
    pub(super) fn is_blocked(&self) -> bool {
        self.places.first.is_full()
    }

    /// Bytes of the segments, and how many there are.
    pub(super) fn sealed(&self) -> (u64, u64) {
        (self.writer.bytes(), self.writer.segments())
    }

    pub(super) fn revision(&mut self, complete: &Complete) -> Result<()> {
        let mut cuts = Vec::new();
        self.cutter.revision(complete, self.clock.now(), &mut cuts)?;
        cuts.into_iter().try_for_each(|cut| self.push(cut))
    }

    /// Everything that was committed before `moment` is recorded. A moment that the clock showed before it was set back, or
    /// shows since it was set ahead, tells nothing: whether this one does.
    pub(super) fn complete(&mut self, moment: u64) -> bool {
        let tells = self.clock.has_shown(moment);
        if tells {
            self.cutter.complete(moment);
        }
        tells
    }

    /// Schedules a cut at the end of an `interval`. The segment waits for etcd's revision, so that it is known to be complete up
    /// to this moment and not only to the one before.
    pub(super) fn schedule_cut(&mut self, interval: Duration) {
        self.cut_by = Some(Instant::now() + LONGEST_WAIT.min(interval / 4));
    }

    /// The deadline of the scheduled cut, if there is one.
    pub(super) fn cut_by(&self) -> Option<Instant> {
        self.cut_by
    }

    /// Cuts the segment if a cut is scheduled.
    ///
    /// # Errors
    /// Those of sealing.
    pub(super) fn cut_if_scheduled(&mut self) -> Result<()> {
        if self.cut_by.is_some() { self.cut_pending() } else { Ok(()) }
    }

    /// Cuts the segment if it has entries, or if no moment was stored for [`QUIET`].
    ///
    /// # Errors
    /// Those of sealing.
    pub(super) fn cut_pending(&mut self) -> Result<()> {
        self.cut_by = None;
        let quiet = self.cut_at.elapsed() >= QUIET && self.cutter.has_news();
        if self.cutter.has_entries() || quiet { self.cut() } else { Ok(()) }
    }

    fn cut(&mut self) -> Result<()> {
        let cut = self.cutter.cut();
        self.push(cut)
    }

    fn push(&mut self, cut: Cut) -> Result<()> {
        self.cut_at = Instant::now();
        let object = self.writer.segment(cut)?;
        self.places.push(object);
        Ok(())
    }

    /// Ends the journal. Its last segment, for the journal that follows.
    ///
    /// # Errors
    /// Those of sealing and of the keys.
    pub(super) async fn end(mut self, reason: EndReason) -> Result<Option<Continues>> {
        self.cutter.entry(&Entry::End(reason))?;
        self.cut()?;
        let continues = self.writer.continues();
        for object in self.writer.end(reason).await? {
            self.places.push(object);
        }
        Ok(continues)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set ahead by a day, or back by one: what the clock shows, or showed, is no moment of this journal.
    #[test]
    fn a_clock_that_was_set_tells_nothing_of_what_is_complete() {
        const DAY: u64 = 86_400_000;
        let clock = |begun| Clock { begun: (begun, Instant::now()), last: 0 };
        let now = unix_ms();
        let mut right = clock(now);
        assert!(!right.was_set() && right.has_shown(now));
        let mut ahead = clock(now.saturating_sub(DAY));
        assert!(ahead.was_set() && !ahead.has_shown(now));
        assert!(ahead.has_shown(now.saturating_sub(DAY)));
        // The journal that begins after it was set back.
        assert!(!right.has_shown(now.saturating_add(DAY)));
    }
}
