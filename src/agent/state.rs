//! What an agent knows: when what was done, what is due, what went wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::due::{Due, Run};
use super::found::Newest;
use super::metrics::Metrics;
use super::operation::{self, Done, Operation};
use super::recorded::Recorded;
use super::runs::{Found, LastRun, last_runs};
use super::{AgentSettings, Changes, RETRY};
use crate::backup::{Listing, SnapshotWanted, Summary, Taken, Why, is_ahead};
use crate::crypto;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::seen::Seen;
use crate::format::SnapshotId;
use crate::keys::trust::Standing;
use crate::limit::limited;
use crate::task::Control;

/// What all parts of an agent share.
pub(super) struct Shared {
    options: Changes,
    pub(super) leading: Arc<watch::Sender<bool>>,
    /// Why etcd cannot be reached.
    pub(super) trouble: Arc<watch::Sender<Option<String>>>,
    pub(super) metrics: Metrics,
    /// How far the recording of changes is.
    recorded: Mutex<Recorded>,
    /// What it has seen.
    pub(super) recording: Arc<Seen>,
    /// The snapshots that it waits for.
    pub(super) wanted: watch::Sender<Vec<SnapshotWanted>>,
    /// Changes when a snapshot may have been taken.
    pub(super) backups: watch::Sender<()>,
    known: Mutex<Known>,
    reading: tokio::sync::Mutex<()>,
}

/// What the page shows.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// Read from the repository since this agent leads.
    pub(super) read: bool,
    /// When it was read last, if a service that opens did not answer: what was done is known in part.
    hidden: Option<Instant>,
    pub(super) since: Option<SystemTime>,
    pub(super) done: BTreeMap<Operation, Run>,
    /// The snapshots' times and lengths, oldest first.
    pub(super) snapshots: Vec<(SnapshotId, u64)>,
    pub(super) recovery: Option<Duration>,
    /// How many snapshots there are of each standing.
    pub(super) standings: BTreeMap<&'static str, usize>,
    /// The newest snapshot that counts.
    pub(super) newest: Option<Newest>,
    /// When the last backup of this agent was begun that took a snapshot.
    pub(super) begun: Option<Instant>,
    /// The newest snapshot that counted since this agent was started, while the repository has only older ones.
    pub(super) lost: Option<SnapshotId>,
    /// What the last backup found to look at.
    pub(super) warnings: Vec<String>,
    pub(super) running: BTreeMap<Operation, SystemTime>,
    /// Why the repository cannot be read.
    pub(super) unread: Option<String>,
}

impl Known {
    /// The snapshot that is wanted, if it was taken.
    pub(super) fn taken(&self, wanted: &SnapshotWanted) -> Option<Taken> {
        let newest = self.newest.as_ref().filter(|_| self.read || self.hidden.is_some())?;
        let revision = newest.revision.cast_signed();
        let fits = self.begun? >= wanted.since && revision >= wanted.revision;
        fits.then_some(Taken { id: newest.id, revision })
    }

    /// Whether it is to be read again.
    fn is_unread(&self) -> bool {
        !self.read && self.hidden.is_none_or(|at| at.elapsed() >= HIDDEN)
    }

    /// Takes note of what is known while a service does not answer.
    fn read_in_part(&mut self, found: Found) {
        self.hidden = Some(Instant::now());
        let backup = found.newest.as_ref().map(|newest| newest.begun);
        if let Some(at) = backup.filter(|at| !is_ahead(*at, SystemTime::now())) {
            let run = self.done.entry(Operation::Backup).or_default();
            run.last = Some(run.last.map_or(at, |last| last.max(at)));
        }
        if found.newest.as_ref().map(|newest| newest.id) > self.newest() {
            self.newest = found.newest;
        }
    }

    fn newest(&self) -> Option<SnapshotId> {
        self.newest.as_ref().map(|newest| newest.id)
    }
}

/// How often the repository is read again while a service that opens does not answer.
const HIDDEN: Duration = Duration::from_secs(60);

/// Before etcd has answered for the first time.
pub(super) const NOT_YET: &str = "it was not asked yet";

impl Shared {
    pub(super) fn new(options: Changes) -> Self {
        let metrics = Metrics::new();
        let current = options.borrow().clone();
        metrics.promises(&current);
        metrics.audited.shown(&current, certificate_expires(&current));
        metrics.leads(&current, false);
        Self {
            options,
            leading: Arc::new(watch::Sender::new(false)),
            trouble: Arc::new(watch::Sender::new(Some(NOT_YET.into()))),
            metrics,
            recorded: Mutex::default(),
            recording: Arc::default(),
            wanted: watch::Sender::new(Vec::new()),
            backups: watch::Sender::new(()),
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn options(&self) -> Changes {
        self.options.clone()
    }

    pub(super) fn current(&self) -> Arc<AgentSettings> {
        self.options.borrow().clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recorded_now(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> Known {
        self.known().clone()
    }

    pub(super) fn metrics(&self) -> String {
        self.metrics.leads(&self.current(), *self.leading.borrow());
        self.metrics.print()
    }

    /// Whether it reaches etcd, and leads and can read its repository, or stands by.
    pub(super) fn ready(&self) -> std::result::Result<(), String> {
        if let Some(why) = &*self.trouble.borrow() {
            return Err(format!("etcd cannot be reached: {why}"));
        }
        match &self.known().unread {
            Some(why) => Err(format!("the repository cannot be read: {why}")),
            None => Ok(()),
        }
    }

    /// Turns true when work must end: the agent stops, or another may lead.
    pub(super) fn halted(&self, mut stop: watch::Receiver<bool>) -> watch::Receiver<bool> {
        let (sender, halted) = watch::channel(false);
        let mut leading = self.leading.subscribe();
        tokio::spawn(async move {
            loop {
                let halt = *stop.borrow_and_update() || !*leading.borrow_and_update();
                sender.send_if_modified(|now| std::mem::replace(now, halt) != halt);
                tokio::select! {
                    changed = stop.changed() => if changed.is_err() { return },
                    changed = leading.changed() => if changed.is_err() { return },
                }
            }
        });
        halted
    }

    /// Another agent may work from now on.
    pub(super) fn forget(&self) {
        let mut known = self.known();
        (known.read, known.hidden) = (false, None);
        known.unread = None;
        known.done.remove(&Operation::Audit);
        drop(known);
        *self.recorded_now() = Recorded::default();
        self.metrics.stands_by(&self.current());
    }

    /// Tells of changed options; never ends.
    pub(super) async fn reloads(&self) {
        let mut changes = self.options();
        while changes.changed().await.is_ok() {
            self.metrics.promises(&self.current());
            info!(event = "config_reloaded", cluster = self.current().cluster().as_str());
        }
        std::future::pending().await
    }

    pub(super) fn unread(&self, error: &Error) {
        let mut known = self.known();
        let text = error.to_string();
        if known.unread.as_ref() != Some(&text) {
            limited!(
                error,
                event = "repository_unreadable",
                cluster = self.current().cluster().as_str(),
                error = text,
                kind = error.kind().name(),
                hint = error.hint_text()
            );
            known.unread = Some(text);
        }
    }

    /// Which of `operations` is next, and when.
    pub(super) async fn next_due(
        &self,
        operations: &[Operation],
    ) -> Result<(SystemTime, Option<Operation>)> {
        let options = self.current();
        self.read(&options).await?;
        let known = self.known();
        // What has to open snapshots waits for the service; a backup has to seal only.
        let fits = |operation: &&Operation| known.read || **operation == Operation::Backup;
        let operations: Vec<_> = operations.iter().filter(fits).copied().collect();
        let next = self.due(&known, &operations);
        Ok(next.map_or((SystemTime::now() + Duration::from_secs(60), None), |(at, operation)| {
            (at, Some(operation))
        }))
    }

    /// Which of `operations` is due first, and when.
    pub(super) fn due(
        &self,
        known: &Known,
        operations: &[Operation],
    ) -> Option<(SystemTime, Operation)> {
        let options = self.current();
        let due = Due {
            done: &known.done,
            since: known.since,
            replica: options.copy.url.is_some(),
            wanted: self.wanted.borrow().iter().any(|wanted| known.taken(wanted).is_none()),
        };
        due.next(operations, |operation| options.schedule(operation), SystemTime::now())
    }

    /// Reads from the repository what was done, by whichever agent, once for each time that this one leads.
    async fn read(&self, options: &AgentSettings) -> Result<()> {
        let _one = self.reading.lock().await;
        if !self.known().is_unread() {
            return Ok(());
        }
        // Before the repository has answered: if it never does, everything is overdue.
        let since = *self.known().since.get_or_insert_with(SystemTime::now);
        let before = self.known().newest();
        let found = last_runs(options).await?;
        self.metrics.keys(options, &found.keys);
        if let Some(error) = &found.hidden {
            self.unread(error);
            self.known().read_in_part(found);
            self.backups.send_replace(());
            return Ok(());
        }
        self.metrics.opened(options, Some(found.opened));
        let Found { last, newest, listing, .. } = found;
        let mut known = self.known();
        (known.read, known.hidden) = (true, None);
        if known.unread.take().is_some() {
            info!(event = "repository_readable", cluster = options.cluster().as_str());
        }
        known.since = Some(since);
        let now = SystemTime::now();
        for LastRun { operation, at, passed } in last {
            if is_ahead(at, now) {
                continue;
            }
            let run = known.done.entry(operation).or_default();
            let before = run.last.filter(|last| !is_ahead(*last, now));
            run.last = Some(before.map_or(at, |last| last.max(at)));
            run.jitter = jitter(options);
            if passed {
                self.metrics.succeeded(options, operation, at);
            } else {
                run.error = Some("its last report has findings".into());
            }
        }
        self.listed(options, &mut known, &listing, before);
        if let Some(newest) = &newest {
            self.metrics.newest(options, newest);
        }
        known.newest = newest;
        drop(known);
        self.backups.send_replace(());
        Ok(())
    }

    /// Takes note of a listing; `before` is the newest snapshot that was known when it began.
    fn listed(
        &self,
        options: &AgentSettings,
        known: &mut Known,
        listing: &Listing,
        before: Option<SnapshotId>,
    ) {
        let now = SystemTime::now();
        let row = |one: &Summary| (one.id, one.stored_bytes);
        let times = listing.snapshots.iter().filter(|one| !is_ahead(one.id.begun(), now));
        known.snapshots = times.map(row).collect();
        known.standings = standings(listing);
        self.metrics.repository(options, listing, &known.standings);
        let newest = Newest::of(listing).map(|newest| newest.id);
        // What was taken while this host's clock was ahead does not count yet.
        let last = known.lost.max(before).filter(|last| !is_ahead(last.begun(), now));
        let lost = last.filter(|last| newest.is_none_or(|newest| newest < *last));
        if let Some(lost) = lost.filter(|_| known.lost != lost) {
            error!(
                event = "newest_snapshot_missing",
                cluster = options.cluster().as_str(),
                snapshot = %lost,
                newest = newest.map(tracing::field::display),
                hint = "somebody removed it, or put back an older state of the repository: `strongroom verify --all`"
            );
        }
        known.lost = lost;
        self.metrics.newest_is_missing(options, lost.is_some());
    }

    /// Carries out `operation` and takes note of what came of it.
    pub(super) async fn work(&self, operation: Operation, control: &Control) {
        let options = self.current();
        self.metrics.audited.shown(&options, certificate_expires(&options));
        let (begun, time) = (Instant::now(), SystemTime::now());
        let before = self.known().newest();
        self.known().running.insert(operation, time);
        let (cluster, name) = (options.cluster().as_str(), operation.name());
        let reason = (operation == Operation::Backup).then(|| self.reason());
        info!(event = %format_args!("{operation}_started"), cluster, operation = name, reason);
        let seen = options.continuous.then(|| Arc::clone(&self.recording));
        // On the heap: the jobs' states are large.
        let done = Box::pin(operation::run(operation, &options, seen, control)).await;
        self.known().running.remove(&operation);
        match done {
            Ok(done) => self.done(operation, &options, (time, begun, before), done),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                warn!(event = %format_args!("{operation}_interrupted"), cluster, operation = name);
                self.forget();
            }
            Err(error) => self.failed(operation, &options, begun.elapsed(), &error),
        }
    }

    fn done(
        &self,
        operation: Operation,
        options: &AgentSettings,
        (time, begun, before): (SystemTime, Instant, Option<SnapshotId>),
        mut done: Done,
    ) {
        let took = begun.elapsed();
        self.measured(options, time, &mut done);
        (done.log)(took.as_secs_f64());
        self.metrics.keys(options, &done.keys);
        if let Some(finding) = &done.finding {
            error!(
                event = %format_args!("{operation}_finding"),
                cluster = options.cluster().as_str(),
                operation = operation.name(),
                error = %finding,
                kind = finding.kind().name(),
                hint = finding.hint_text(),
            );
            self.metrics.found(options, operation);
            if matches!(operation, Operation::Verify | Operation::VerifyAll) {
                self.metrics.verify_failed(options);
            }
        } else {
            self.metrics.succeeded(options, operation, time);
        }
        self.metrics.ended(options, operation, took, done.finding.as_ref());
        let mut known = self.known();
        known.recovery = done.recovery.or(known.recovery);
        if let Some(newest) = done.newest {
            (known.newest, known.warnings) = (Some(newest), done.warnings);
            known.begun = Some(begun);
        }
        let error = done.finding.map(|finding| finding.to_string());
        let ended = Some(SystemTime::now());
        let run = Run { last: Some(time), error, ended, jitter: jitter(options), ..Run::default() };
        known.done.insert(operation, run);
        if let Some(listing) = &done.listing {
            self.listed(options, &mut known, listing, before);
        }
        drop(known);
        self.backups.send_replace(());
    }

    /// What `done` means for the metrics, but for its end.
    fn measured(&self, options: &AgentSettings, time: SystemTime, done: &mut Done) {
        if let Some(newest) = &done.newest {
            self.metrics.newest(options, newest);
            let cluster = options.cluster().as_str();
            let [sealed, missing] = &done.seals;
            self.metrics.seals_missing.taken(cluster, sealed, missing, done.late.take());
        }
        self.metrics.journal.compared(options, done.compared);
        if let Some(ways) = done.independent {
            self.metrics.independent(options, ways);
        }
        if let Some(copied) = done.copied {
            self.metrics.copied(options, copied);
        }
        self.metrics.opened(options, done.opened);
        if let Some(recovery) = done.recovery {
            self.metrics.recovered(options, recovery);
        }
        done.audit.iter().for_each(|one| self.metrics.audited.update(options, one, time));
    }

    /// Why a backup is taken now.
    fn reason(&self) -> &'static str {
        let known = self.known();
        let wanted = self.wanted.borrow();
        let first = wanted.iter().find(|wanted| known.taken(wanted).is_none());
        match first {
            Some(wanted) => wanted.why.name(),
            None if known.newest.is_none() => Why::First.name(),
            None => "schedule",
        }
    }

    fn failed(&self, operation: Operation, options: &AgentSettings, took: Duration, error: &Error) {
        self.metrics.ended(options, operation, took, Some(error));
        let mut known = self.known();
        let run = known.done.entry(operation).or_default();
        let pause = RETRY.0.saturating_mul(1 << run.failures.min(16)).min(RETRY.1);
        run.failures += 1;
        run.error = Some(error.to_string());
        run.retry = Some(SystemTime::now() + pause);
        let failures = run.failures;
        drop(known);
        error!(
            event = %format_args!("{operation}_failed"),
            cluster = options.cluster().as_str(),
            operation = operation.name(),
            error = %error,
            kind = error.kind().name(),
            hint = error.hint_text(),
            failures,
            retry_seconds = pause.as_secs(),
        );
    }

    /// When `operation` should have been done by, if that is past.
    pub(super) fn overdue(&self, known: &Known, operation: Operation) -> Option<SystemTime> {
        let options = self.current();
        let due = Due { done: &known.done, since: known.since, replica: false, wanted: false };
        due.overdue(operation, options.schedule(operation)?, SystemTime::now())
    }
}

/// How many snapshots there are of each standing, by its name.
fn standings(listing: &Listing) -> BTreeMap<&'static str, usize> {
    let mut standings = BTreeMap::from(Standing::NAMES.map(|name| (name, 0)));
    for one in &listing.snapshots {
        *standings.entry(one.standing.name()).or_default() += 1;
    }
    standings
}

fn certificate_expires(options: &AgentSettings) -> Option<SystemTime> {
    options.common.etcd.certificate_expires()
}

fn jitter(options: &AgentSettings) -> Duration {
    let random = u32::from_be_bytes(crypto::random(&mut crypto::system_rng()));
    options.jitter.unwrap_or_default().mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Milliseconds since 1970.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
