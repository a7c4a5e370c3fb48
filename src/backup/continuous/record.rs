//! Recording without a gap: where a recording begins, and the snapshot that is taken when it cannot follow the one before.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use super::coverage::Journals;
use crate::backup::create::backup;
use crate::error::{ErrorKind, Result};
use crate::etcd::changes::{Change, ChangeValue, Complete, RecordDigest, Revisions, digest_of};
use crate::etcd::{EtcdSettings, choose_member};
use crate::format::{Continues, EndReason, SnapshotId};
use crate::journal::read::ReadJournal;
use crate::journal::record::{MAX_BEHIND, RecordOptions, Recorder};
use crate::keys::KeySet;
use crate::mvcc::{Recorded, Recording};
use crate::snapshot::input::Source;
use crate::snapshot::options::BackupOptions;
use crate::store::Repository;
use crate::task::{Control, Step};

/// Revisions that a journal repeats of the one before.
const OVERLAP: i64 = 63;

/// Between attempts to begin again while etcd or the store is away.
const AWAY: Duration = Duration::from_secs(5);

/// Between attempts at a snapshot.
const RETRY: Duration = Duration::from_secs(60);

/// How long the revisions that etcd and the newest journal have in common are waited for.
const COMPARING: Duration = Duration::from_secs(30);

/// What was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordReport {
    /// The journals, in order.
    pub journals: Vec<SnapshotId>,
    /// The snapshots that were taken because a recording could not follow the one before.
    pub snapshots: Vec<SnapshotId>,
    /// The last complete revision that is stored.
    pub last: i64,
    /// The last complete revision that etcd has sent. What is above `last` is not stored: the store was away when the job
    /// was stopped.
    pub seen: i64,
}

/// Where a recording begins.
struct Start {
    first: i64,
    /// Why it follows nothing: a snapshot is taken as soon as there is a revision to compare.
    gap: Option<String>,
    /// A snapshot of this revision is the base.
    has_base: bool,
}

/// Records etcd until the job is stopped, and takes a snapshot wherever the recording cannot follow what was recorded
/// before.
///
/// # Errors
/// Those of [`backup`](super::super::backup), and of etcd and the store when another attempt does not help.
pub async fn record(
    repository: &Repository,
    keys: &KeySet,
    etcd: &EtcdSettings,
    options: &RecordOptions,
    snapshots: &BackupOptions,
    control: &Control,
) -> Result<RecordReport> {
    keys.check_sealing(Some(&options.cluster), snapshots.unsigned)?;
    let mut report = RecordReport::default();
    let job = Job { repository, keys, etcd, options, snapshots, control };
    let mut newest = job.newest().await?;
    let mut continues = newest.as_ref().and_then(ReadJournal::continues);
    let mut last = continues.map(|continues| continues.last.cast_signed());
    loop {
        // While this program records, it notices another history by itself.
        let start = match job.start(last, newest.take().as_ref(), &mut report).await {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(report),
            // What is wrong from the beginning is for the operator.
            Err(error) if error.kind() == ErrorKind::Unreachable && !report.journals.is_empty() => {
                control.step(Step::Note(format!("the recording cannot begin again: {error}")));
                tokio::select! {
                    () = control.stopped() => return Ok(report),
                    () = sleep(AWAY) => continue,
                }
            }
            start => start?,
        };
        let reason = job.round(&start, &mut continues, &mut report).await;
        match reason {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(report),
            Err(error) => return Err(error),
            Ok(EndReason::STOPPED | EndReason::LOST_LEAD) => return Ok(report),
            Ok(reason) => {
                let words = reason.words();
                control.step(Step::Note(format!("the recording has a gap: {words}")));
                // Where the store is back soon enough, etcd still has what is missing.
                last = Some(report.last).filter(|_| reason == EndReason::STORE);
            }
        }
    }
}

struct Job<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    etcd: &'a EtcdSettings,
    options: &'a RecordOptions,
    snapshots: &'a BackupOptions,
    control: &'a Control,
}

impl Job<'_> {
    /// The last segment of the newest journal that counts. The next journal names it, and so makes what was recorded by a
    /// recorder that was killed count.
    async fn newest(&self) -> Result<Option<ReadJournal>> {
        let cluster = Some(&self.options.cluster);
        let mut journals = Journals::open(self.repository, self.keys, cluster).await?;
        while let Some((id, (journal, folder))) = journals.open.pop_last() {
            if !journal.standing.counts() {
                continue;
            }
            let has_end = journal.end.is_some();
            let dir = std::env::temp_dir();
            let read =
                ReadJournal::fetch(self.repository, self.keys, journal, &folder, &dir).await?;
            if read.continues().is_none() {
                continue;
            }
            if !has_end {
                self.control.step(Step::Note(format!(
                    "journal {id} has no end: its recorder was killed, or still records"
                )));
            }
            return Ok(Some(read));
        }
        Ok(None)
    }

    /// Records from `start` on until there is a gap, or the job is stopped.
    async fn round(
        &self,
        start: &Start,
        continues: &mut Option<Continues>,
        report: &mut RecordReport,
    ) -> Result<EndReason> {
        let (repository, keys, control) = (self.repository, self.keys, self.control);
        let options = (self.options, self.snapshots.suite);
        let mut recorder =
            Recorder::new(repository, keys, self.etcd, options, control, start.first);
        recorder.continues(*continues);
        let mut progress = recorder.progress();
        let RecordReport { journals, snapshots, last, seen } = report;
        let recording = async {
            loop {
                let journal = recorder.journal().await?;
                *continues = journal.continues;
                journals.extend(journal.id);
                *last = journal.last;
                *seen = journal.seen.max(*seen);
                if journal.reason != EndReason::ROLLED {
                    return Ok(journal.reason);
                }
            }
        };
        // etcd had compacted what the snapshot holds last: another one joins once a revision is recorded.
        let joining = async {
            let begun = !start.has_base && progress.wait_for(|at| *at >= start.first).await.is_ok();
            if !begun {
                return std::future::pending().await;
            }
            loop {
                match self.snapshot("the recording begins here").await {
                    Err(error) if error.kind() != ErrorKind::Interrupted => {
                        self.control.step(Step::Note(format!("the snapshot failed: {error}")));
                        sleep(RETRY).await;
                    }
                    other => return other,
                }
            }
        };
        let mut recording = std::pin::pin!(recording);
        tokio::select! {
            reason = &mut recording => reason,
            taken = joining => {
                snapshots.push(taken?);
                recording.await
            }
        }
    }

    /// Where to begin when revision `last` was recorded, in `journal` if another program did it.
    async fn start(
        &self,
        last: Option<i64>,
        journal: Option<&ReadJournal>,
        report: &mut RecordReport,
    ) -> Result<Start> {
        let now = self.now().await?;
        let mut start = start_after(last, now);
        if let (None, Some(journal)) = (&start.gap, journal)
            && !self.control.guard(self.is_continued(journal, start.first)).await?
        {
            start.gap = Some("etcd has another history than what was recorded".into());
        }
        let Some(why) = &start.gap else { return Ok(start) };
        let id = self.snapshot(why).await?;
        report.snapshots.push(id);
        // It holds what was missing.
        report.seen = report.last;
        let revision = crate::backup::catalog::authenticate(self.repository, self.keys, id)
            .await?
            .revision
            .cast_signed();
        let now = self.now().await?;
        let has_base = revision > now.compacted && revision > 1;
        let first = if has_base { revision } else { now.compacted.max(1).saturating_add(1) };
        Ok(Start { first, gap: None, has_base })
    }

    /// Whether etcd's revisions from `first` to the last one of `journal` are those that it holds.
    async fn is_continued(&self, journal: &ReadJournal, first: i64) -> Result<bool> {
        let recorded = repeated(journal, first)?;
        let choice = choose_member(self.etcd).await?;
        let questions = choice.questions(self.etcd).await?;
        let mut watch = questions.watch(choice.member, first).await?;
        let mut revisions = Revisions::new(first);
        let comparing = async {
            let mut complete = Vec::new();
            while revisions.last() < journal.last() {
                let Some(message) = watch.next().await? else { return Ok(false) };
                if revisions.answer(&message, &mut complete).is_err() {
                    return Ok(false);
                }
                for one in complete.drain(..).filter(|one: &Complete| one.main <= journal.last()) {
                    let is_same = recorded.get(&one.main).is_none_or(|is| *is == one.digest);
                    if !is_same {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        };
        // What cannot be compared is a gap.
        tokio::time::timeout(COMPARING, comparing).await.unwrap_or(Ok(false))
    }

    async fn now(&self) -> Result<Now> {
        let asking = async {
            let questions = choose_member(self.etcd).await?.questions(self.etcd).await?;
            let revision = questions.revision().await?;
            let compacted = questions.compacted(0, revision).await?;
            Ok(Now { revision, compacted })
        };
        self.control.guard(asking).await
    }

    async fn snapshot(&self, why: &str) -> Result<SnapshotId> {
        self.control.step(Step::Note(format!("taking a snapshot: {why}")));
        let mut options = self.snapshots.clone();
        options.cluster = self.options.cluster.clone();
        let source = Source::Etcd(self.etcd.duplicate());
        let report = backup(self.repository, self.keys, source, &options, self.control).await?;
        self.control
            .step(Step::Note(format!("snapshot {} holds revision {}", report.id, report.revision)));
        Ok(report.id)
    }
}

/// What stands for the records of each complete revision of `journal` from `first` on.
fn repeated(journal: &ReadJournal, first: i64) -> Result<BTreeMap<i64, RecordDigest>> {
    let mut changes: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
    journal.for_each(&mut |recorded| {
        if let Recorded::Record(record) = recorded
            && (first..=journal.last()).contains(&record.revision.main)
        {
            let value = match record.tombstone {
                true => ChangeValue::Deletion(Bytes::copy_from_slice(record.kv.key)),
                false => ChangeValue::Put(Bytes::copy_from_slice(record.raw.1)),
            };
            let change = Change { revision: record.revision, value };
            changes.entry(record.revision.main).or_default().push(change);
        }
        Ok(())
    })?;
    Ok(changes.into_iter().map(|(main, changes)| (main, digest_of(&changes))).collect())
}

#[derive(Clone, Copy)]
struct Now {
    revision: i64,
    compacted: i64,
}

/// Where to begin, if `last` was recorded before.
fn start_after(last: Option<i64>, now: Now) -> Start {
    let of = |first, gap: Option<&str>| {
        let has_base = gap.is_none();
        Start { first, gap: gap.map(str::to_owned), has_base }
    };
    let next = now.compacted.max(1).saturating_add(1);
    let Some(last) = last else { return of(next, Some("nothing was recorded before")) };
    let first = last.saturating_sub(OVERLAP).max(next);
    if now.revision < last {
        of(next, Some("etcd's revision is lower than what was recorded"))
    } else if last <= now.compacted {
        of(next, Some("etcd has compacted what was not recorded yet"))
    } else if now.revision.saturating_sub(first) > MAX_BEHIND {
        of(next, Some("too many revisions are missing"))
    } else {
        of(first, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_follows_what_etcd_still_has() {
        let at = |last, revision, compacted| {
            let start = start_after(last, Now { revision, compacted });
            (start.first, start.gap.is_some())
        };
        assert_eq!(at(None, 100, 0), (2, true));
        assert_eq!(at(Some(100), 100, 0), (37, false));
        assert_eq!(at(Some(10), 100, 0), (2, false));
        assert_eq!(at(Some(100), 5000, 60), (61, false));
        assert_eq!(at(Some(100), 5000, 99), (100, false));
        // [S13.4]: without a common revision there is no join.
        assert_eq!(at(Some(100), 5000, 100), (101, true));
        assert!(at(Some(100), 99, 0).1 && at(Some(100), 50_000, 0).1);
        assert!(!at(Some(100), 20_037, 0).1 && at(Some(100), 20_038, 0).1);
    }
}
