//! Where a recording begins: behind what was recorded before, or where a snapshot is its base.

use std::collections::BTreeMap;
use std::time::Duration;

use super::before::Before;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::changes::{Change, Complete, Ended, RecordDigest, Revisions, digest_of};
use crate::etcd::seen::change_of;
use crate::etcd::{EtcdSettings, choose_member};
use crate::format::EndReason;
use crate::journal::read::ReadJournal;
use crate::journal::record::MAX_BEHIND;
use crate::mvcc::{Recorded, Recording};

/// Revisions that a journal repeats of the one before.
const OVERLAP: i64 = 63;

/// How long the revisions that etcd and the newest journal have in common may take to arrive.
const COMPARING: Duration = Duration::from_secs(600);
/// How long etcd may be silent while it is compared.
const SILENT: Duration = Duration::from_secs(30);
/// Watches that are tried before the history is taken for another one, where etcd ends each or answers what cannot be used.
const ATTEMPTS: usize = 3;
/// Between them.
const PAUSE: Duration = Duration::from_secs(1);

/// Where a recording begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) first: i64,
    /// Why it follows nothing: a snapshot is taken.
    pub(super) gap: Option<Gap>,
    /// A snapshot holds the first revision, or one before it that leads to it.
    pub(super) has_base: bool,
}

impl Start {
    /// Decides whether it has a base, where what was recorded before `owes` one, and `newest` is the revision of the newest
    /// snapshot. Behind a gap only the snapshot that was taken for it is one: earlier ones may be of another history.
    pub(super) fn based(self, owes: bool, newest: Option<i64>) -> Self {
        if self.gap.is_some() {
            return self;
        }
        // Where the recording goes back to a snapshot, that is its base whatever is missing before it.
        let reaches = newest.is_some_and(|revision| revision >= self.first);
        Self { has_base: (self.has_base && !owes) || reaches, ..self }
    }
}

/// Why a recording does not follow what was recorded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// There was nothing.
    First,
    /// etcd has compacted what is missing.
    Compacted,
    /// etcd's history is another one.
    Parted,
    /// etcd's revision is lower.
    WentBack,
    /// Too much is missing.
    Behind,
    /// The store was away for too long.
    Store,
}

impl Gap {
    /// As metrics and the log name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Compacted => "compacted",
            Self::Parted | Self::WentBack => "parted",
            Self::Behind => "behind",
            Self::Store => "store",
        }
    }

    /// In words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::First => "nothing was recorded before",
            Self::Compacted => "etcd has compacted what was not recorded yet",
            Self::Parted => "etcd has another history than what was recorded",
            Self::WentBack => "etcd's revision is lower than what was recorded",
            Self::Behind => "too many revisions are missing",
            Self::Store => EndReason::STORE.words(),
        }
    }

    fn of(reason: EndReason) -> Self {
        match reason {
            EndReason::COMPACTED => Self::Compacted,
            EndReason::BEHIND => Self::Behind,
            EndReason::STORE => Self::Store,
            _ => Self::Parted,
        }
    }
}

/// How far etcd is.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

impl Now {
    /// Asks `etcd`.
    ///
    /// # Errors
    /// Those of etcd.
    pub(super) async fn ask(etcd: &EtcdSettings) -> Result<Self> {
        let questions = choose_member(etcd).await?.questions(etcd).await?;
        let revision = questions.revision().await?;
        let compacted = questions.compacted(0, revision).await?;
        Ok(Self { revision, compacted })
    }

    /// The first revision that a watch may begin with.
    pub(super) fn first(self) -> i64 {
        self.compacted.max(1).saturating_add(1)
    }
}

/// Where to begin.
///
/// # Errors
/// Those of etcd; [`Unreachable`](ErrorKind::Unreachable) when its history cannot be compared with what was recorded.
pub(super) async fn start(before: &Before, etcd: &EtcdSettings, now: Now) -> Result<Start> {
    let of = |gap| Start { first: now.first(), gap: Some(gap), has_base: false };
    let last = match before {
        Before::Nothing => return Ok(of(Gap::First)),
        Before::Gap(reason) => return Ok(of(Gap::of(*reason))),
        Before::Named(last) => return Ok(start_behind_names(*last, now)),
        Before::Journal(journal) => journal.last(),
        Before::UpTo(last, ..) => *last,
    };
    let mut start = start_after(last, now);
    let (recorded, from, last) = match before {
        _ if start.gap.is_some() => return Ok(start),
        Before::Journal(journal) => (repeated(journal, start.first)?, start.first, last),
        Before::UpTo(_, _, Some((main, _))) if *main <= now.compacted => {
            return Ok(of(Gap::Compacted));
        }
        Before::UpTo(_, _, Some((main, digest))) => {
            // What is repeated must not fill the memory again before anything new is recorded.
            start.first = *main;
            (BTreeMap::from([(*main, *digest)]), *main, *main)
        }
        _ => return Ok(start),
    };
    match is_continued(&recorded, (from, last), etcd).await? {
        true => Ok(start),
        false => Ok(of(Gap::Parted)),
    }
}

/// Where to begin, if `last` was recorded before.
fn start_after(last: i64, now: Now) -> Start {
    let first = last.saturating_sub(OVERLAP).max(now.first());
    let gap = if now.revision < last {
        Gap::WentBack
    } else if last <= now.compacted {
        Gap::Compacted
    } else if now.revision.saturating_sub(first) > MAX_BEHIND {
        Gap::Behind
    } else {
        return Start { first, gap: None, has_base: true };
    };
    Start { first: now.first(), gap: Some(gap), has_base: false }
}

/// Where to begin, if names tell that `last` was recorded before: with all that etcd still has, because they may be wrong.
/// Where even they do not reach that far, something is missing for certain. That nothing is, they do not show.
fn start_behind_names(last: i64, now: Now) -> Start {
    if last > now.revision {
        return Start { first: now.first(), gap: Some(Gap::WentBack), has_base: false };
    }
    // Less than may be missing: etcd goes on before the watch is open.
    let first = now.first().max(now.revision.saturating_sub(MAX_BEHIND / 4 * 3));
    if last >= first {
        return Start { first, gap: None, has_base: false };
    }
    let gap = if last <= now.compacted { Gap::Compacted } else { Gap::Behind };
    Start { first: now.first(), gap: Some(gap), has_base: false }
}

/// Whether etcd's revisions from `first` to `last` are those that were `recorded`. A watch that etcd cancels, or whose answers
/// are of no use, at each of several attempts counts as another history, as it does while recording.
///
/// # Errors
/// Those of etcd; [`Unreachable`](ErrorKind::Unreachable) when it ends the watch or does not answer, which shows no other history.
async fn is_continued(
    recorded: &BTreeMap<i64, RecordDigest>,
    range: (i64, i64),
    etcd: &EtcdSettings,
) -> Result<bool> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let comparing = tokio::time::timeout(COMPARING, compare(recorded, range, etcd));
        let compared = comparing.await.unwrap_or_else(|_| Err(not_compared("etcd takes too long")));
        if let Some(is_continued) = compared? {
            return Ok(is_continued);
        }
    }
    Ok(false)
}

/// As [`is_continued`], with one watch. `None` if etcd cancels it, or an answer is of no use.
async fn compare(
    recorded: &BTreeMap<i64, RecordDigest>,
    (first, last): (i64, i64),
    etcd: &EtcdSettings,
) -> Result<Option<bool>> {
    let choice = choose_member(etcd).await?;
    let questions = choice.questions(etcd).await?;
    let mut watch = questions.watch(choice.member, first).await?;
    let (mut revisions, mut complete) = (Revisions::new(first), Vec::new());
    while revisions.last() < last {
        let next = tokio::time::timeout(SILENT, watch.next()).await;
        let message = match next.map_err(|_| not_compared("etcd does not answer in time"))? {
            Err(error) if error.kind() == ErrorKind::Protocol => return Ok(None),
            message => message?.ok_or_else(|| not_compared("etcd ended the watch"))?,
        };
        match revisions.answer(&message, &mut complete) {
            Ok(()) => {}
            Err(Ended::Compacted(_) | Ended::Parted(_)) => return Ok(Some(false)),
            Err(Ended::Canceled(_) | Ended::Broken(_)) => return Ok(None),
        }
        for one in complete.drain(..).filter(|one: &Complete| one.main <= last) {
            if recorded.get(&one.main).is_some_and(|digest| *digest != one.digest) {
                return Ok(Some(false));
            }
        }
    }
    Ok(Some(true))
}

fn not_compared(why: &str) -> Error {
    let text = format!("cannot compare etcd's history with what was recorded: {why}");
    Error::new(ErrorKind::Unreachable, text)
}

/// What stands for the records of each complete revision of `journal` from `first` on.
fn repeated(journal: &ReadJournal, first: i64) -> Result<BTreeMap<i64, RecordDigest>> {
    let mut changes: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
    journal.for_each(&mut |recorded| {
        if let Recorded::Record(record) = recorded
            && (first..=journal.last()).contains(&record.revision.main)
        {
            changes.entry(record.revision.main).or_default().push(change_of(&record));
        }
        Ok(())
    })?;
    Ok(changes.into_iter().map(|(main, changes)| (main, digest_of(&changes))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_follows_what_etcd_still_has() {
        let at = |last, revision, compacted| {
            let start = start_after(last, Now { revision, compacted });
            (start.first, start.gap)
        };
        assert_eq!(at(100, 100, 0), (37, None));
        assert_eq!(at(10, 100, 0), (2, None));
        assert_eq!(at(100, 5000, 60), (61, None));
        assert_eq!(at(100, 5000, 99), (100, None));
        // [S13.4]: without a common revision there is no join.
        assert_eq!(at(100, 5000, 100), (101, Some(Gap::Compacted)));
        assert_eq!(at(100, 99, 0), (2, Some(Gap::WentBack)));
        assert_eq!(at(100, 20_037, 0), (37, None));
        assert_eq!(at(100, 20_038, 0), (2, Some(Gap::Behind)));
    }

    #[test]
    fn a_base_behind_a_gap_is_the_snapshot_that_was_taken_for_it() {
        let has_base = |gap, has_base, owes, newest| {
            Start { first: 100, gap, has_base }.based(owes, newest).has_base
        };
        assert!(has_base(None, true, false, None));
        assert!(!has_base(None, true, true, Some(99)));
        assert!(has_base(None, true, true, Some(100)));
        assert!(!has_base(None, false, false, Some(99)));
        for gap in [Gap::First, Gap::Compacted, Gap::Parted, Gap::WentBack] {
            assert!(has_base(Some(gap), true, true, None));
            // A snapshot of a later revision, of another history.
            assert!(!has_base(Some(gap), false, false, Some(5000)));
        }
    }

    /// A host that opens no journal does not begin each recording with a snapshot.
    #[tokio::test]
    async fn what_is_unknown_is_recorded_again_as_far_as_etcd_allows() {
        let at = async |before: &Before, revision, compacted| {
            let start = start(before, &EtcdSettings::default(), Now { revision, compacted }).await;
            let Start { first, gap, has_base } = start.unwrap();
            assert!(!has_base);
            (first, gap)
        };
        assert_eq!(at(&Before::Nothing, 100, 0).await, (2, Some(Gap::First)));
        assert_eq!(at(&Before::Named(90), 100, 0).await, (2, None));
        assert_eq!(at(&Before::Named(29_900), 30_000, 0).await, (15_000, None));
        assert_eq!(at(&Before::Named(29_900), 30_000, 29_000).await, (29_001, None));
        // etcd's revision went back, or somebody planted the name.
        assert_eq!(at(&Before::Named(101), 100, 0).await, (2, Some(Gap::WentBack)));
        // Whatever the names are worth, something is missing.
        assert_eq!(at(&Before::Named(14_999), 30_000, 0).await, (2, Some(Gap::Behind)));
        let compacted = (29_001, Some(Gap::Compacted));
        assert_eq!(at(&Before::Named(29_000), 30_000, 29_000).await, compacted);
        assert_eq!(at(&Before::Named(0), 30_000, 29_000).await, compacted);
        // etcd has compacted the revision to compare with.
        let own = Before::UpTo(100, None, Some((50, [0; 16])));
        assert_eq!(at(&own, 200, 60).await, (61, Some(Gap::Compacted)));
        let behind = Before::Gap(EndReason::BEHIND);
        assert_eq!(at(&behind, 30_000, 29_000).await, (29_001, Some(Gap::Behind)));
    }
}
