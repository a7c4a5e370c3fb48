//! Which revision was the last at a moment, by what the journals of one history tell.

use std::sync::Arc;

use crate::journal::read::ReadJournal;

/// What one journal tells of when revisions were received.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    /// The first main revision.
    pub(super) first: i64,
    /// The last complete one.
    pub(super) last: i64,
    /// The same watch filled the journal before it up to its end: nothing was missed between them.
    pub(super) is_continued: bool,
    /// When a revision was received; valid up to the next one that is named.
    pub(super) moments: &'a [(i64, u64)],
    /// Every revision committed before the moment is at most this one.
    pub(super) completes: &'a [(i64, u64)],
    /// Revisions behind which the watch was opened again: the next one may have been committed long before it was received.
    pub(super) breaks: &'a [i64],
}

/// What was there at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// This was the last revision.
    Revision {
        revision: i64,
        /// No journal tells when the snapshot's own revision was received.
        is_base_unknown: bool,
    },
    /// The snapshot may hold changes that were made later: what it holds last was received, or recorded again, at this moment.
    BaseIsLater(u64),
    /// Nobody recorded at the moment: between these two, and what followed was received only when recording went on.
    Unknown { until: u64, next: u64 },
    /// Clocks contradict each other: this later revision was received at this moment, and earlier ones after what was asked for.
    Contradicted { revision: i64, at: u64 },
    /// The recording ends before the moment, with this revision; 0 if there is none.
    Beyond { until: u64, revision: i64 },
}

impl Told<'_> {
    /// The moment that is valid for a revision.
    fn moment_of(&self, main: i64) -> Option<u64> {
        let named = self.moments.partition_point(|(at, _)| *at <= main);
        Some(self.moments.get(named.checked_sub(1)?)?.1)
    }

    /// When it began to receive.
    fn began(&self) -> Option<u64> {
        self.moments.first().map(|(_, at)| *at)
    }

    /// The latest moment that it tells.
    fn ended(&self) -> u64 {
        let last = |told: &[(i64, u64)]| told.last().map_or(0, |(_, at)| *at);
        last(self.moments).max(last(self.completes))
    }
}

/// So far may the clock be from the true time without the recorder noticing, in milliseconds.
const JUMP: u64 = 60_000;

/// The moments between two journals that follow each other, where their clocks do not tell that they lie close together.
#[derive(Clone, Copy)]
struct Leap {
    until: u64,
    next: u64,
    /// One watch filled both: no time passed between them, so the clock was set.
    is_set: bool,
}

fn leaps(journals: &[Told<'_>]) -> impl Iterator<Item = Leap> {
    journals.iter().zip(journals.iter().skip(1)).filter_map(|(one, two)| {
        let (until, next) = (one.ended(), two.began()?);
        let is_set = two.is_continued;
        (next > until.saturating_add(JUMP)).then_some(Leap { until, next, is_set })
    })
}

/// Whether a later journal may contradict what these tell of a moment: a clock was set ahead, or the moment lies where
/// nobody recorded, by clocks of which one may have been wrong.
pub(super) fn is_in_doubt(journals: &[Told<'_>], ms: u64) -> bool {
    leaps(journals).any(|leap| leap.is_set || (leap.until..leap.next).contains(&ms))
}

/// What the journals of a chain tell, in its order.
pub(super) fn told(chain: &[Arc<ReadJournal>]) -> Vec<Told<'_>> {
    let mut before: Option<&Arc<ReadJournal>> = None;
    let told = chain.iter().map(|journal| {
        let is_continued = before.replace(journal).is_some_and(|before| {
            before.survey.reason == Some(crate::format::EndReason::ROLLED)
                && before.last() == journal.first()
        });
        let survey = &journal.survey;
        let (moments, completes) = (&survey.moments[..], &survey.completes[..]);
        // Each journal begins by naming the member.
        let breaks = survey.breaks.get(1..).unwrap_or_default();
        let (first, last) = (journal.first(), journal.last());
        Told { first, last, is_continued, moments, completes, breaks }
    });
    told.collect()
}

/// The last revision that was received at `ms` or before, unless clocks that were set leave that unknown.
pub(super) fn revision_at(base: i64, journals: &[Told<'_>], ms: u64) -> At {
    let set = |leap: &Leap| leap.is_set && leap.until < ms && ms < leap.next;
    if let Some(Leap { until, next, .. }) = leaps(journals).find(set) {
        return At::Unknown { until, next };
    }
    let at = received_at(base, journals, ms);
    let At::Revision { revision, .. } = at else { return at };
    // What a journal holds that was received after `ms` was received before all that only later ones hold.
    let after = journals.iter().position(|one| {
        let mut later = one.moments.iter().filter(|(_, at)| *at > ms);
        one.last > revision && later.any(|(main, _)| *main <= one.last)
    });
    let Some((one, rest)) = after.and_then(|at| journals.get(at..)?.split_first()) else {
        return at;
    };
    let next = one.last.saturating_add(1);
    let mut new =
        rest.iter().filter(|other| other.last >= next).filter_map(|it| it.moment_of(next));
    match new.find(|moment| *moment <= ms) {
        Some(at) => At::Contradicted { revision: next, at },
        None => at,
    }
}

/// As the first journal that holds a revision tells it. `journals` are in the order in which they began, so that the first
/// one that holds a revision tells when it was received: the later ones repeat it, with the time at which they did.
fn received_at(base: i64, journals: &[Told<'_>], ms: u64) -> At {
    let holds_base = journals.iter().find(|one| (one.first..=one.last).contains(&base));
    let base_moment = holds_base.and_then(|one| one.moment_of(base));
    if let Some(moment) = base_moment.filter(|moment| *moment > ms) {
        return At::BaseIsLater(moment);
    }
    let is_base_unknown = base_moment.is_none();
    let found = |revision| At::Revision { revision, is_base_unknown };
    // Up to when nothing but `done` was there.
    let complete = |done: i64| {
        let completes = journals.iter().flat_map(|one| one.completes);
        completes.filter(|(last, _)| *last <= done).map(|(_, at)| *at).max().unwrap_or(0)
    };
    let (mut done, mut heard) = (base, 0);
    for journal in journals {
        // The chain may have journals that add nothing.
        if journal.last <= done {
            continue;
        }
        let next = done.saturating_add(1);
        if let Some(moment) = journal.moment_of(next).filter(|moment| *moment > ms) {
            // It recorded already when it repeated or received `done`.
            let is_live = journal.is_continued
                || journal.first <= done
                    && journal.moment_of(done).is_some_and(|at| at <= ms)
                    && !journal.breaks.contains(&done);
            if is_live || complete(done) >= ms {
                return found(done);
            }
            return At::Unknown { until: complete(done).max(heard), next: moment };
        }
        let mut later = journal.moments.iter().filter(|(main, _)| *main > next);
        if let Some((main, next)) = later.find(|(_, at)| *at > ms) {
            let before = main.saturating_sub(1).min(journal.last);
            if journal.breaks.contains(&before) && complete(before) < ms {
                let until = complete(before).max(journal.moment_of(before).unwrap_or(0));
                return At::Unknown { until, next: *next };
            }
            return found(before);
        }
        done = journal.last;
        heard = heard.max(journal.moment_of(done).unwrap_or(0));
    }
    let until = complete(done).max(heard);
    if until >= ms { found(done) } else { At::Beyond { until, revision: done } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal<'a>(
        (first, last): (i64, i64),
        moments: &'a [(i64, u64)],
        completes: &'a [(i64, u64)],
    ) -> Told<'a> {
        Told { first, last, is_continued: false, moments, completes, breaks: &[] }
    }

    fn revision(at: At) -> Option<i64> {
        match at {
            At::Revision { revision, is_base_unknown: false } => Some(revision),
            _ => None,
        }
    }

    /// The second recorder repeats 8 to 20 at 500, and receives 21 at 600.
    #[test]
    fn what_a_later_recorder_repeats_keeps_its_moment() {
        let one = journal((5, 20), &[(5, 100), (13, 200), (18, 300)], &[(12, 150), (20, 320)]);
        let two = journal((8, 21), &[(8, 500), (21, 600)], &[(20, 550), (21, 650)]);
        let at = |ms| revision_at(10, &[one, two], ms);
        assert_eq!(revision(at(250)), Some(17));
        assert_eq!(revision(at(199)), Some(12));
        assert_eq!(revision(at(310)), Some(20));
        assert_eq!(revision(at(320)), Some(20));
        assert_eq!(revision(at(599)), Some(20));
        assert_eq!(revision(at(600)), Some(21));
        assert_eq!(at(651), At::Beyond { until: 650, revision: 21 });
        assert_eq!(at(99), At::BaseIsLater(100));
        // The heartbeat that names 20 is evidence up to 550.
        assert_eq!(revision(at(400)), Some(20));
    }

    /// 21 and 22 were written while nobody recorded: when is not known.
    #[test]
    fn what_was_written_while_nobody_recorded_has_no_moment() {
        let one = journal((5, 20), &[(5, 100), (18, 300)], &[(20, 320)]);
        let two = journal((8, 23), &[(8, 500), (23, 600)], &[(22, 550), (23, 650)]);
        let at = |ms| revision_at(10, &[one, two], ms);
        assert_eq!(revision(at(320)), Some(20));
        assert_eq!(at(321), At::Unknown { until: 320, next: 500 });
        assert_eq!(at(499), At::Unknown { until: 320, next: 500 });
        assert_eq!(revision(at(500)), Some(22));
        let rolled = Told { first: 20, is_continued: true, ..two };
        let rolled = Told { moments: &[(20, 400), (21, 500)], ..rolled };
        assert_eq!(revision(revision_at(10, &[one, rolled], 450)), Some(20));
        assert_eq!(revision(revision_at(10, &[one, rolled], 350)), Some(20));
    }

    /// The watch broke off behind 12, and what had been committed meanwhile was received at 300.
    #[test]
    fn what_was_missed_while_the_watch_was_away_has_no_moment() {
        let told = journal((5, 20), &[(5, 100), (13, 300)], &[(12, 150), (20, 320)]);
        let at = |ms| revision_at(10, &[Told { breaks: &[12], ..told }], ms);
        assert_eq!(revision(at(150)), Some(12));
        assert_eq!(at(151), At::Unknown { until: 150, next: 300 });
        assert_eq!(revision(at(300)), Some(20));
        // It broke off behind the snapshot's own revision.
        let at = |ms| revision_at(12, &[Told { breaks: &[12], ..told }], ms);
        assert_eq!(at(200), At::Unknown { until: 150, next: 300 });
        assert_eq!(revision(revision_at(12, &[told], 200)), Some(12));
    }

    /// The clock was set ahead before the second journal, and corrected before the third.
    #[test]
    fn a_clock_that_was_set_ahead_and_corrected_gives_no_older_state() {
        let one = journal((5, 20), &[(5, 100), (18, 300)], &[(20, 320)]);
        let ahead =
            journal((20, 25), &[(20, 100_000), (21, 100_001)], &[(20, 100_000), (25, 100_002)]);
        let quiet = journal((20, 20), &[(20, 100_000)], &[(20, 100_002)]);
        let right = journal((25, 40), &[(25, 400), (30, 500)], &[(40, 700)]);
        let continued = |told| Told { is_continued: true, ..told };
        let at = |two, three, ms| revision_at(10, &[one, two, three], ms);
        let unknown = At::Unknown { until: 320, next: 100_000 };
        assert_eq!(at(continued(ahead), continued(right), 600), unknown);
        assert_eq!(revision_at(10, &[one, continued(ahead)], 600), unknown);
        let rest = continued(Told { first: 20, ..right });
        assert_eq!(at(continued(quiet), rest, 600), unknown);
        // Other recorders.
        let contradicted = At::Contradicted { revision: 26, at: 400 };
        assert_eq!(at(ahead, right, 600), contradicted);
        assert_eq!(
            at(quiet, Told { first: 20, ..right }, 600),
            At::Revision { revision: 40, is_base_unknown: false }
        );
        // Before it was set.
        assert_eq!(revision(at(continued(ahead), continued(right), 299)), Some(17));
        // What is read next decides.
        assert!(is_in_doubt(&[one, ahead], 600) && is_in_doubt(&[one, continued(ahead)], 5));
        assert!(!is_in_doubt(&[one, ahead], 299) && !is_in_doubt(&[one, right], 350));
        // It shows as later what it received first.
        assert_eq!(at(ahead, right, 100_000), contradicted);
    }

    /// A moment that names a revision before the snapshot's is valid behind it, too.
    #[test]
    fn a_moment_is_valid_up_to_the_next() {
        let one = journal((5, 20), &[(5, 100), (9, 200)], &[(20, 320)]);
        assert_eq!(revision_at(10, &[one], 150), At::BaseIsLater(200));
        let rest = journal((10, 30), &[(10, 400)], &[(30, 420)]);
        assert_eq!(revision(revision_at(10, &[one, rest], 210)), Some(20));
        assert_eq!(revision_at(10, &[one, rest], 350), At::Unknown { until: 320, next: 400 });
        assert_eq!(revision_at(10, &[], 350), At::Beyond { until: 0, revision: 10 });
        let none = journal((9, 10), &[], &[(10, 400)]);
        let unknown = At::Revision { revision: 10, is_base_unknown: true };
        assert_eq!(revision_at(10, &[none], 350), unknown);
    }
}
