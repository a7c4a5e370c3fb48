//! How far the recording of changes is: what a disaster would cost now.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::task::JournalStep;

/// What was recorded may be so old before it is a problem, or six intervals.
const BEHIND: Duration = Duration::from_secs(60);

/// How far the recording is.
#[derive(Clone, Default)]
pub(super) struct Recorded {
    /// The last revision that is stored.
    pub(super) revision: i64,
    /// Everything that was committed before this moment is stored: Unix milliseconds, 0 for unknown.
    pub(super) complete_ms: u64,
    /// What etcd had at a moment, and is not stored yet.
    waits: Option<(u64, i64)>,
    /// Why nothing is recorded.
    pub(super) error: Option<String>,
    /// When the recording was begun, or should have been.
    pub(super) since: Option<SystemTime>,
}

impl Recorded {
    /// Takes note of `step`.
    pub(super) fn step(&mut self, step: &JournalStep) {
        match step {
            JournalStep::Complete { moment, revision } => {
                self.waits = Some((*moment, *revision));
            }
            JournalStep::Stored { revision, complete_ms, .. } => {
                self.revision = self.revision.max(*revision);
                self.complete_ms = self.complete_ms.max(*complete_ms);
            }
            JournalStep::Began { .. } => self.error = None,
            _ => {}
        }
        // Where all that etcd had is stored, nothing would be lost.
        if let Some((moment, _)) = self.waits.take_if(|(_, revision)| *revision <= self.revision) {
            self.complete_ms = self.complete_ms.max(moment);
        }
    }

    /// The moment up to which everything is stored.
    pub(super) fn until(&self) -> Option<SystemTime> {
        (self.complete_ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(self.complete_ms))
    }

    /// What is wrong with it, with segments of `interval`.
    pub(super) fn problem(&self, interval: Duration, now: SystemTime) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(format!("journal: {error}"));
        }
        let since = self.until().max(self.since)?;
        let age = now.duration_since(since).unwrap_or_default();
        let late = age > BEHIND.max(interval.saturating_mul(6));
        late.then(|| format!("journal: nothing was recorded for {} s", age.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(revision: i64, complete_ms: u64) -> JournalStep {
        JournalStep::Stored { revision, complete_ms, bytes: 1, took: Duration::ZERO }
    }

    /// Nothing is complete that is not stored; and where nothing changes, the recovery point follows the clock.
    #[test]
    fn the_recovery_point_is_what_is_stored() {
        let mut recorded = Recorded::default();
        let complete = |moment, revision| JournalStep::Complete { moment, revision };
        recorded.step(&complete(1000, 5));
        assert_eq!(recorded.until(), None);
        recorded.step(&stored(4, 0));
        assert_eq!(recorded.complete_ms, 0);
        recorded.step(&stored(5, 900));
        assert_eq!(recorded.complete_ms, 1000);
        recorded.step(&complete(2000, 5));
        assert_eq!(recorded.complete_ms, 2000);
        recorded.step(&complete(3000, 6));
        assert_eq!(recorded.complete_ms, 2000);
        recorded.step(&stored(6, 2500));
        assert_eq!((recorded.complete_ms, recorded.revision), (3000, 6));
    }

    #[test]
    fn what_is_late_is_a_problem() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut recorded = Recorded { complete_ms: 1_000_000, ..Recorded::default() };
        let problem = |recorded: &Recorded, interval, now| {
            recorded.problem(Duration::from_secs(interval), at(now))
        };
        assert_eq!(problem(&recorded, 5, 1060), None);
        assert!(problem(&recorded, 5, 1061).is_some());
        assert_eq!(problem(&recorded, 30, 1180), None);
        recorded.since = Some(at(2000));
        assert_eq!(problem(&recorded, 5, 2010), None);
        recorded.error = Some("no key".into());
        assert_eq!(problem(&recorded, 5, 2010).unwrap(), "journal: no key");
    }
}
