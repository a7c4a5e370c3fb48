//! Recording without a gap, and the snapshots that are taken where it cannot follow what was recorded before.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::before::{Before, Found};
use super::begin::{Gap, Now, Start, start};
use super::bundling;
use crate::backup::create::backup_and_keep;
use crate::crypto::Suite;
use crate::error::{ErrorKind, Result};
use crate::etcd::EtcdSettings;
use crate::etcd::changes::RecordDigest;
use crate::etcd::seen::Seen;
use crate::format::{Continues, EndReason, SnapshotId};
use crate::journal::filling::Places;
use crate::journal::options::RecordOptions;
use crate::journal::outbox::Outbox;
use crate::journal::record::{MAX_BEHIND, Recorder};
use crate::keys::KeySet;
use crate::snapshot::input::Source;
use crate::snapshot::options::BackupOptions;
use crate::store::Repository;
use crate::task::{Control, JournalStep, Step};

/// Between attempts to begin again while etcd or the store is away.
const AWAY: Duration = Duration::from_secs(5);

/// What is stored after a signal to stop.
const AFTER_STOP: Duration = Duration::from_secs(8);

/// Between attempts at a snapshot, and between snapshots because users or roles were changed.
const RETRY: Duration = Duration::from_secs(60);

/// A snapshot that was begun so long ago may be the base of a recording.
const FRESH: Duration = Duration::from_secs(60);

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
    /// The last complete revision that is stored, or waits in the spool: the next recorder there stores it.
    pub spooled: i64,
    /// The first revision at which one of these snapshots differs from what was recorded.
    pub differs_at: Option<i64>,
}

/// Why a recording needs a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is the first one.
    First,
    /// It follows nothing.
    Gap,
    /// Users or roles were changed, which no journal holds.
    Auth,
}

impl Why {
    /// As the log names it.
    #[cfg(feature = "agent")]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Gap => "gap",
            Self::Auth => "auth",
        }
    }
}

/// A snapshot that was taken for a recording.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) id: SnapshotId,
    pub(crate) revision: i64,
}

/// A snapshot that a recording needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotWanted {
    pub(crate) why: Why,
    /// Why, in words.
    pub(crate) words: &'static str,
    /// It was begun then or later.
    pub(crate) since: Instant,
    /// It holds at least this revision.
    pub(crate) revision: i64,
}

impl SnapshotWanted {
    fn now(why: Why, words: &'static str, revision: i64) -> Self {
        Self { why, words, since: Instant::now(), revision }
    }
}

/// Takes the snapshots that a recording needs.
#[async_trait]
pub(crate) trait Snapshots: Send + Sync {
    /// Takes one, or finds one that fits.
    async fn take(&self, wanted: &SnapshotWanted) -> Result<Taken>;
}

/// A recording, and all that it needs.
pub(crate) struct RecordJob<'a> {
    pub(crate) repository: &'a Repository,
    /// The same objects go here, too, as far as it takes them.
    pub(crate) second: Option<&'a Repository>,
    pub(crate) keys: &'a KeySet,
    pub(crate) etcd: &'a EtcdSettings,
    pub(crate) options: &'a RecordOptions,
    pub(crate) suite: Suite,
    pub(crate) snapshots: &'a dyn Snapshots,
    /// What snapshots are compared with.
    pub(crate) seen: Arc<Seen>,
    /// Whether this agent leads, if an agent records.
    pub(crate) leading: Option<watch::Receiver<bool>>,
    pub(crate) control: &'a Control,
}

/// Records etcd until the job is stopped, and takes a snapshot wherever the recording cannot follow what was recorded
/// before. What is stored goes to the `second` place, too; that one never holds up the first.
///
/// # Errors
/// Those of [`backup`](super::super::backup), and of etcd and the store when another attempt does not help.
pub async fn record(
    repository: &Repository,
    second: Option<&Repository>,
    keys: &KeySet,
    etcd: &EtcdSettings,
    options: &RecordOptions,
    snapshots: &BackupOptions,
    control: &Control,
) -> Result<RecordReport> {
    keys.check_sealing(Some(&options.cluster), snapshots.unsigned)?;
    let seen = Arc::<Seen>::default();
    let (recorded, differs) = (Arc::clone(&seen), OnceLock::new());
    let own = Own { repository, keys, etcd, options, snapshots, seen: recorded, differs, control };
    let (suite, snapshots) = (snapshots.suite, &own);
    let leading = None;
    let job = RecordJob {
        repository,
        second,
        keys,
        etcd,
        options,
        suite,
        snapshots,
        seen,
        leading,
        control,
    };
    let report = job.run().await?;
    Ok(RecordReport { differs_at: own.differs.get().copied(), ..report })
}

/// Takes the snapshots itself.
struct Own<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    etcd: &'a EtcdSettings,
    options: &'a RecordOptions,
    snapshots: &'a BackupOptions,
    seen: Arc<Seen>,
    /// Where a snapshot differed first.
    differs: OnceLock<i64>,
    control: &'a Control,
}

#[async_trait]
impl Snapshots for Own<'_> {
    async fn take(&self, wanted: &SnapshotWanted) -> Result<Taken> {
        self.control.step(Step::Note(format!("taking a snapshot: {}", wanted.words)));
        let mut options = self.snapshots.clone();
        options.cluster = self.options.cluster.clone();
        let source = Source::Etcd(self.etcd.duplicate());
        let (seen, control) = (Some(Arc::clone(&self.seen)), self.control);
        let taking = backup_and_keep(self.repository, self.keys, source, &options, seen, control);
        let (report, _) = taking.await?;
        let (id, revision) = (report.id, report.revision.cast_signed());
        control.step(Step::Note(format!("snapshot {id} holds revision {revision}")));
        let differs = report.journal.and_then(|journal| journal.differs_at);
        if let Some(revision) = differs {
            let _ = self.differs.set(revision);
            for warning in &report.warnings {
                control.step(Step::Note(warning.clone()));
            }
        }
        Ok(Taken { id, revision })
    }
}

impl RecordJob<'_> {
    /// Records until the job is stopped.
    ///
    /// # Errors
    /// Those of [`record`].
    pub(crate) async fn run(&self) -> Result<RecordReport> {
        let mut report = RecordReport::default();
        loop {
            match self.run_once(&mut report).await {
                // Somebody puts objects where a journal's belong. Nobody knows the name of the next journal.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let note = format!("another journal follows what is stored: {error}");
                    self.control.step(Step::Note(note));
                    tokio::select! {
                        () = self.control.stopped() => return Ok(report),
                        () = sleep(AWAY) => {}
                    }
                }
                done => return done.map(|()| report),
            }
        }
    }

    async fn run_once(&self, report: &mut RecordReport) -> Result<()> {
        let (sender, ended) = mpsc::unbounded_channel();
        let seen = (Arc::clone(&self.seen), sender);
        let first = Outbox::new(self.repository, self.options, seen, self.control)?;
        let second = self.second.map(|second| Outbox::second(second, self.control));
        let places = Places { first: &first, second: second.as_ref() };
        self.control.guard(first.send_left()).await?;
        let also = async {
            match &second {
                Some(second) => second.run().await,
                None => std::future::pending().await,
            }
        };
        let from = (self.repository, self.keys);
        let of = (&self.options.cluster, self.suite);
        let bundling = bundling::run(from, of, ended, self.control);
        let recorded = tokio::select! {
            // Each on the heap: together they are large for a thread's stack.
            recorded = Box::pin(self.rounds(places, report)) => recorded,
            error = Box::pin(first.run()) => Err(error),
            error = Box::pin(also) => Err(error),
            never = Box::pin(bundling) => match never {},
        };
        // Who stops has no time.
        let settled = first.settle(AFTER_STOP);
        let (settled, _) = tokio::join!(settled, async {
            if let Some(second) = &second {
                // What it does not take, a copy brings.
                let _ = second.settle(AFTER_STOP).await;
            }
        });
        let stored = first.stored().map_or(0, |segment| segment.last.cast_signed());
        if stored > 0 {
            report.last = stored;
        }
        report.spooled = first.safe().max(report.last).max(report.spooled);
        match recorded.and(settled) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    async fn rounds(&self, places: Places<'_>, report: &mut RecordReport) -> Result<()> {
        let cluster = &self.options.cluster;
        let looked = Before::look(self.repository, self.keys, cluster, self.control);
        let Found { mut before, has_base, mut newest } = self.control.guard(looked).await?;
        let (mut continues, mut auth) = (before.continues(), before.auth());
        // What is recorded has no base yet, and needs a snapshot.
        let mut owes = !has_base;
        loop {
            // While this program records, it notices another history by itself.
            let start = match self.start(&before, report).await {
                // What is wrong from the beginning is for the operator.
                Err(error)
                    if error.kind() == ErrorKind::Unreachable && !report.journals.is_empty() =>
                {
                    let note = format!("the recording cannot begin again: {error}");
                    self.control.step(Step::Note(note));
                    tokio::select! {
                        () = self.control.stopped() => return Ok(()),
                        () = sleep(AWAY) => continue,
                    }
                }
                start => start?,
            };
            let start = start.based(owes, newest.take());
            let had = report.snapshots.len();
            let from = (&mut continues, auth.take());
            let (reason, known) = self.round(places, &start, from, report).await?;
            owes = !start.has_base && report.snapshots.len() == had;
            match reason {
                EndReason::STOPPED | EndReason::LOST_LEAD => return Ok(()),
                EndReason::STORE => {
                    let emptied = async {
                        places.first.emptied().await;
                        Ok(())
                    };
                    self.control.guard(emptied).await?;
                    // Where the store is back soon enough, etcd still has what is missing.
                    // It may be another etcd by then.
                    before = Before::UpTo(report.seen, continues, known);
                }
                reason => before = Before::Gap(reason),
            }
        }
    }

    /// Records from `start` on until there is a gap, or the job is stopped: why it ended, and its last revision.
    async fn round(
        &self,
        places: Places<'_>,
        start: &Start,
        (continues, auth): (&mut Option<Continues>, Option<(bool, u64)>),
        report: &mut RecordReport,
    ) -> Result<(EndReason, Option<(i64, RecordDigest)>)> {
        let (repository, keys, control) = (self.repository, self.keys, self.control);
        let options = (self.options, self.suite);
        let places = (places, start.first);
        let mut recorder = Recorder::new(repository, keys, self.etcd, options, control, places);
        recorder.continues(*continues, auth);
        recorder.note_in(Arc::clone(&self.seen));
        recorder.led_by(self.leading.clone());
        let (progress, auth) = (recorder.progress(), recorder.auth_changes());
        let RecordReport { journals, snapshots, seen, .. } = report;
        let recording = async {
            loop {
                let journal = recorder.journal().await?;
                *continues = journal.continues;
                journals.extend(journal.id);
                *seen = journal.seen.max(*seen);
                if journal.reason != EndReason::ROLLED {
                    return Ok((journal.reason, journal.known));
                }
            }
        };
        let taken = Mutex::new(Vec::new());
        let reason = tokio::select! {
            reason = recording => reason,
            never = self.beside(start, progress, auth, &taken) => match never {},
        };
        // What follows may be another history.
        self.seen.begin();
        snapshots.extend(taken.into_inner().unwrap_or_else(PoisonError::into_inner));
        reason
    }

    /// Takes the snapshots that are needed while it records.
    async fn beside(
        &self,
        start: &Start,
        mut progress: watch::Receiver<i64>,
        mut auth: watch::Receiver<u64>,
        taken: &Mutex<Vec<SnapshotId>>,
    ) -> Infallible {
        // etcd had compacted what the snapshot holds last: another one joins once a revision is recorded.
        let joining = async {
            if !start.has_base && progress.wait_for(|at| *at >= start.first).await.is_ok() {
                let wanted =
                    SnapshotWanted::now(Why::Gap, "the recording begins here", start.first);
                self.insist(&wanted, taken).await;
            }
        };
        // No journal holds users and roles.
        let following = async {
            while auth.changed().await.is_ok() {
                self.insist(
                    &SnapshotWanted::now(Why::Auth, "users or roles were changed", 0),
                    taken,
                )
                .await;
                sleep(RETRY).await;
            }
        };
        tokio::join!(joining, following);
        std::future::pending().await
    }

    /// Takes a snapshot; where that fails it tries again. One that is stopped is not taken.
    async fn insist(&self, wanted: &SnapshotWanted, taken: &Mutex<Vec<SnapshotId>>) {
        loop {
            match self.snapshots.take(wanted).await {
                Ok(one) => {
                    taken.lock().unwrap_or_else(PoisonError::into_inner).push(one.id);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return,
                Err(error) => {
                    self.control.step(Step::Note(format!("the snapshot failed: {error}")));
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Where to begin behind what was recorded `before`; where there is a gap, with a snapshot that is taken now.
    async fn start(&self, before: &Before, report: &mut RecordReport) -> Result<Start> {
        let now = self.control.guard(Now::ask(self.etcd)).await?;
        let start = self.control.guard(start(before, self.etcd, now)).await?;
        let Some(gap) = start.gap else { return Ok(start) };
        let why = if gap == Gap::First { Why::First } else { Why::Gap };
        if why == Why::Gap {
            let (reason, why) = (gap.name(), gap.words().to_owned());
            self.control.step(Step::Journal(JournalStep::Gap { reason, why }));
        }
        let since = Instant::now().checked_sub(FRESH).unwrap_or_else(Instant::now);
        let wanted = SnapshotWanted { why, words: gap.words(), since, revision: 0 };
        let Taken { id, revision } = self.snapshots.take(&wanted).await?;
        report.snapshots.push(id);
        // It holds what was missing.
        (report.seen, report.last, report.spooled) = (0, 0, 0);
        let now = self.control.guard(Now::ask(self.etcd)).await?;
        let is_near = now.revision.saturating_sub(revision) <= MAX_BEHIND;
        let has_base = revision > now.compacted && revision > 1 && is_near;
        let first = if has_base { revision } else { now.first() };
        Ok(Start { first, gap: Some(gap), has_base })
    }
}
