//! When which operation is due: a pure function of what is known and of the time.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::operation::Operation;
use super::{RETRY, Schedule};
use crate::backup::is_ahead;

/// What is known of one operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// When the last one began, by whichever agent.
    pub(super) last: Option<SystemTime>,
    /// How often it failed since.
    pub(super) failures: u32,
    /// What is wrong.
    pub(super) error: Option<String>,
    /// When the last one was over, where this agent saw it.
    pub(super) ended: Option<SystemTime>,
    /// Not before this time, after a failure.
    pub(super) retry: Option<SystemTime>,
    /// How much later than the schedule says.
    pub(super) jitter: Duration,
}

/// What decides when an operation is due.
pub(super) struct Due<'a> {
    /// When each operation ran.
    pub(super) done: &'a BTreeMap<Operation, Run>,
    /// When this agent began to lead.
    pub(super) since: Option<SystemTime>,
    /// Whether backups are copied to a second repository.
    pub(super) replica: bool,
    /// Whether a recording waits for a snapshot.
    pub(super) wanted: bool,
}

impl Due<'_> {
    /// The first of `operations` that is due after what is known at `now`, and when: a time that has passed for what is
    /// due. None when none of them ever is.
    pub(super) fn next<'s>(
        &self,
        operations: &[Operation],
        schedule: impl Fn(Operation) -> Option<&'s Schedule>,
        now: SystemTime,
    ) -> Option<(SystemTime, Operation)> {
        let due = |operation: &Operation| {
            Some((self.of(*operation, schedule(*operation), now)?, *operation))
        };
        operations.iter().filter_map(due).min()
    }

    /// When `operation` should have been done by, if that is past `now`: also while it is running.
    pub(super) fn overdue(
        &self,
        operation: Operation,
        schedule: &Schedule,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let last = self.done.get(&operation).and_then(|run| run.last);
        let last = last.filter(|last| !is_ahead(*last, now)).or(self.since)?;
        let due = schedule.next(schedule.next(last));
        (due < now).then_some(due)
    }

    fn of(
        &self,
        operation: Operation,
        schedule: Option<&Schedule>,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let none = Run::default();
        let run = self.done.get(&operation).unwrap_or(&none);
        let due = match operation {
            Operation::Copy => self.copy(run, now)?,
            _ => {
                let schedule = schedule?;
                let is_wanted = self.wanted && operation == Operation::Backup;
                // A clock that was ahead must not put off what is due.
                let due = match run.last.filter(|last| !is_ahead(*last, now)) {
                    Some(last) => schedule.next(last.min(now)) + run.jitter,
                    // What the last audit found is known to the agent that made it alone.
                    None if matches!(operation, Operation::Backup | Operation::Audit) => now,
                    None => schedule.next(self.since.map_or(now, |since| since.min(now))),
                };
                if is_wanted { due.min(now) } else { due }
            }
        };
        // One that lies further ahead was set while the clock was.
        let retry = run.retry.filter(|retry| *retry <= now + RETRY.1);
        Some(retry.map_or(due, |retry| retry.max(due)))
    }

    /// After each backup.
    fn copy(&self, run: &Run, now: SystemTime) -> Option<SystemTime> {
        // A clock that was ahead must not put off what is due.
        let past = |time: &SystemTime| !is_ahead(*time, now);
        let backup = self.done.get(&Operation::Backup)?;
        let backup = backup.ended.filter(past).max(backup.last.filter(past))?;
        let copied = run.last.filter(past).is_some_and(|last| last > backup);
        (self.replica && !copied).then_some(backup)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn around_now() -> impl Strategy<Value = SystemTime> {
        (NOW - 200_000..NOW + 200_000).prop_map(at)
    }

    fn runs() -> impl Strategy<Value = Run> {
        let time = || proptest::option::of(around_now());
        (time(), time(), time(), 0..600_u64).prop_map(|(last, ended, retry, jitter)| Run {
            last,
            ended,
            retry,
            jitter: Duration::from_secs(jitter),
            ..Run::default()
        })
    }

    fn done() -> impl Strategy<Value = BTreeMap<Operation, Run>> {
        let one = proptest::sample::select(Operation::ALL.to_vec());
        proptest::collection::btree_map(one, runs(), 0..6)
    }

    fn schedules() -> impl Strategy<Value = Schedule> {
        let texts = ["@every 15m", "0 * * * *", "30 2 * * * Europe/Berlin", "@every 1d"];
        proptest::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
    }

    proptest! {
        /// Whatever the clocks of the agents before said, the next run is at most one interval, the jitter and the longest
        /// pause after a failure away.
        #[test]
        fn nothing_is_put_off_for_long(done in done(), since in proptest::option::of(around_now()), schedule in schedules()) {
            let now = at(NOW);
            let due = Due { done: &done, since, replica: true, wanted: false };
            for operation in Operation::ALL.into_iter().filter(|one| *one != Operation::Copy) {
                let (time, _) = due.next(&[operation], |_| Some(&schedule), now).unwrap();
                let jitter = done.get(&operation).map_or(Duration::ZERO, |run| run.jitter);
                let latest = (schedule.next(now) + jitter).max(now + RETRY.1);
                prop_assert!(time <= latest, "{operation}: {time:?} after {latest:?}");
            }
        }

        /// What is due stays due until it runs.
        #[test]
        fn waiting_makes_nothing_less_due(mut done in done(), since in around_now(), later in 0..500_000_u64, schedule in schedules()) {
            // What is ahead is not believed until its time comes.
            done.values_mut().for_each(|run| {
                run.last = run.last.map(|last| last.min(at(NOW)));
                run.ended = run.ended.map(|ended| ended.min(at(NOW)));
            });
            let due = Due { done: &done, since: Some(since), replica: true, wanted: false };
            for operation in Operation::ALL {
                let at_now = due.next(&[operation], |_| Some(&schedule), at(NOW));
                let after = due.next(&[operation], |_| Some(&schedule), at(NOW + later));
                if at_now.is_some_and(|(time, _)| time <= at(NOW)) {
                    prop_assert!(after.is_some_and(|(time, _)| time <= at(NOW + later)), "{operation}");
                }
            }
        }

        #[test]
        fn a_failure_is_not_repeated_at_once(done in done(), pause in 1..300_u64, schedule in schedules()) {
            let mut done = done;
            for operation in Operation::ALL {
                done.entry(operation).or_default().retry = Some(at(NOW + pause));
            }
            let due = Due { done: &done, since: Some(at(NOW)), replica: true, wanted: false };
            if let Some((time, _)) = due.next(&Operation::ALL, |_| Some(&schedule), at(NOW)) {
                prop_assert!(time >= at(NOW + pause));
            }
        }

        /// Each backup is copied once.
        #[test]
        fn a_copy_follows_each_backup(backup in runs(), copied in proptest::option::of(around_now())) {
            let past = |time: &SystemTime| !is_ahead(*time, at(NOW));
            let ended = backup.ended.filter(past).max(backup.last.filter(past));
            let last = copied;
            let copy = Run { last, ..Run::default() };
            let done = BTreeMap::from([(Operation::Backup, backup), (Operation::Copy, copy)]);
            for replica in [true, false] {
                let due = Due { done: &done, since: None, replica, wanted: false };
                let due = due.next(&[Operation::Copy], |_| None, at(NOW));
                let wanted = replica && ended.is_some() && last.filter(past) <= ended;
                prop_assert_eq!(due.is_some(), wanted);
            }
        }
    }

    /// A failure while the clock was ahead by hours does not put off the next attempt for as long.
    #[test]
    fn a_pause_ends_when_the_clock_is_set_back() {
        let schedule = "@every 1m".parse().unwrap();
        let run = Run { last: Some(at(NOW - 60)), retry: Some(at(NOW + 7200)), ..Run::default() };
        let done = BTreeMap::from([(Operation::Backup, run)]);
        let due = Due { done: &done, since: None, replica: false, wanted: false };
        let next = due.next(&[Operation::Backup], |_| Some(&schedule), at(NOW));
        assert_eq!(next, Some((at(NOW), Operation::Backup)));
    }

    /// A run that hangs has no end: what counts is when the one before it began, or when this agent began to lead.
    #[test]
    fn what_never_ends_is_overdue() {
        let schedule = "@every 1h".parse().unwrap();
        let run = |last| Run { last: Some(at(last)), ..Run::default() };
        let overdue = |done: &BTreeMap<_, _>, since, now| {
            let due = Due { done, since, replica: false, wanted: false };
            due.overdue(Operation::Backup, &schedule, at(now))
        };
        let hung = BTreeMap::from([(Operation::Backup, run(NOW))]);
        assert_eq!(overdue(&hung, None, NOW + 7100), None);
        assert_eq!(overdue(&hung, None, NOW + 7300), Some(at(NOW + 7200)));
        let first = BTreeMap::new();
        assert_eq!(overdue(&first, Some(at(NOW)), NOW + 7300), Some(at(NOW + 7200)));
        assert_eq!(overdue(&first, None, NOW + 7300), None);
    }

    #[test]
    fn without_a_schedule_nothing_is_due() {
        let done = BTreeMap::new();
        let due = Due { done: &done, since: None, replica: false, wanted: false };
        assert_eq!(due.next(&Operation::ALL, |_| None, at(NOW)), None);
    }

    /// A snapshot that a recording waits for is due at once, but not before the pause after a failure.
    #[test]
    fn what_a_recording_waits_for_is_due_at_once() {
        let schedule = "@every 1d".parse().unwrap();
        let due = |retry| {
            let run = Run { last: Some(at(NOW - 60)), retry, ..Run::default() };
            let done = BTreeMap::from([(Operation::Backup, run)]);
            let due = Due { done: &done, since: None, replica: false, wanted: true };
            due.next(&[Operation::Backup], |_| Some(&schedule), at(NOW)).unwrap().0
        };
        assert_eq!(due(None), at(NOW));
        assert_eq!(due(Some(at(NOW + 20))), at(NOW + 20));
    }

    #[test]
    fn a_first_backup_and_audit_are_due_at_once_and_the_rest_by_its_schedule() {
        let (done, schedule) = (BTreeMap::new(), "@every 1h".parse().unwrap());
        let due = Due { done: &done, since: Some(at(NOW - 60)), replica: false, wanted: false };
        let next = |operation| due.next(&[operation], |_| Some(&schedule), at(NOW));
        assert_eq!(next(Operation::Backup), Some((at(NOW), Operation::Backup)));
        assert_eq!(next(Operation::Audit), Some((at(NOW), Operation::Audit)));
        assert_eq!(next(Operation::Drill), Some((at(NOW + 3540), Operation::Drill)));
    }
}
