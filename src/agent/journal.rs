//! The lane that records the changes between snapshots, while this agent leads.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::state::Shared;
use super::{AgentSettings, Changes, Places, open, warn};
use crate::backup::{RecordJob, SnapshotWanted, Snapshots, Taken};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::{is_new, limited};
use crate::store::Repository;
use crate::task::{Control, JournalStep, Step};

/// Pauses before a recording that failed is begun again: from, to.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A recording that lasted so long was no failure.
const LASTED: Duration = Duration::from_secs(300);
/// How often it is looked whether other keys are to seal.
const KEYS: Duration = Duration::from_secs(3600);

/// Records whenever this agent leads and is set to, until `stop` turns true.
pub(super) async fn lane(
    shared: &Arc<Shared>,
    halted: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut leading = shared.leading.subscribe();
    let mut changes = shared.options();
    let mut failures = 0;
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            _ = leading.wait_for(|leading| *leading) => {}
        }
        let options = changes.borrow_and_update().clone();
        let pause = if options.continuous {
            let begun = Instant::now();
            shared.recorded_now().since.get_or_insert_with(SystemTime::now);
            let recorded = record(shared, &options, &mut changes, halted.clone()).await;
            if begun.elapsed() > LASTED {
                failures = 0;
            }
            match recorded {
                Ok(()) => continue,
                Err(error) => shared.recording_failed(&options, &error, &mut failures),
            }
        } else {
            Duration::MAX
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = changed(&mut changes) => {}
            _ = stop.wait_for(|stop| *stop) => return,
            _ = leading.wait_for(|leading| !leading) => {}
        }
    }
}

/// The second repository, if what is recorded goes there, too. The recording does not wait for it: a copy brings what is
/// missing there.
async fn second_place(options: &AgentSettings, places: &Places) -> Option<Repository> {
    if !options.record.copies {
        return None;
    }
    match options.common.open_replica(&options.copy, &places.repository, false).await {
        Ok(opened) => {
            warn(&opened.warnings);
            Some(opened.repository)
        }
        Err(error) => {
            warn!(event = "journal_note", cluster = %options.cluster(), note = %format!("nothing is stored in the second place: {error}"));
            None
        }
    }
}

/// Resolves when the options have changed. Nobody changes them any more once the sender is gone.
async fn changed(changes: &mut Changes) {
    if changes.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Records until there is a reason to begin again: other options, other keys, another agent.
async fn record(
    shared: &Arc<Shared>,
    options: &Arc<AgentSettings>,
    changes: &mut Changes,
    mut halted: watch::Receiver<bool>,
) -> Result<()> {
    let (sender, end) = watch::channel(false);
    let places = open(options).await?;
    places.keys.check_sealing(Some(options.cluster()), options.backup.unsigned)?;
    let etcd = options.common.etcd()?;
    let control = {
        let (shared, options) = (Arc::clone(shared), Arc::clone(options));
        Control::default().stop_when(end).on_step(move |step| shared.recorded(&options, &step))
    };
    let second = second_place(options, &places).await;
    let job = RecordJob {
        repository: &places.repository,
        second: second.as_ref(),
        keys: &places.keys,
        etcd: &etcd,
        options: &options.record,
        suite: options.backup.suite,
        snapshots: &FromBackups { shared, control: &control },
        seen: Arc::clone(&shared.recording),
        leading: Some(shared.leading.subscribe()),
        control: &control,
    };
    // On the heap: its state is large.
    let mut recording = Box::pin(job.run());
    tokio::select! {
        done = &mut recording => return done.map(drop),
        () = changed(changes) => {}
        () = other_keys(options, &places) => {}
        _ = halted.wait_for(|halted| *halted) => {}
    }
    sender.send_replace(true);
    recording.await.map(drop)
}

/// Resolves when other keys are to seal, or another one to sign.
async fn other_keys(options: &AgentSettings, places: &Places) {
    let ids = |places: &Places| {
        let sealing: Vec<_> = places.keys.sealing().map(|key| key.id()).collect();
        (sealing, places.keys.signing().map(|key| key.public().id()))
    };
    loop {
        sleep(KEYS).await;
        if open(options).await.is_ok_and(|now| ids(&now) != ids(places)) {
            return;
        }
    }
}

/// Asks the lane of the backups for the snapshots.
struct FromBackups<'a> {
    shared: &'a Shared,
    control: &'a Control,
}

/// A snapshot that is wanted until this is dropped.
struct Asking<'a>(&'a Shared, SnapshotWanted);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.wanted.send_modify(|all| all.retain(|one| *one != self.1));
    }
}

#[async_trait]
impl Snapshots for FromBackups<'_> {
    async fn take(&self, wanted: &SnapshotWanted) -> Result<Taken> {
        let mut backups = self.shared.backups.subscribe();
        self.shared.wanted.send_modify(|all| all.push(wanted.clone()));
        let asking = Asking(self.shared, wanted.clone());
        let taking = async {
            loop {
                backups.mark_unchanged();
                if let Some(taken) = self.shared.seen().taken(&asking.1) {
                    return Ok(taken);
                }
                if backups.changed().await.is_err() {
                    return Err(crate::task::interrupted());
                }
            }
        };
        self.control.guard(taking).await
    }
}

impl Shared {
    /// Why recording did not begin or went on; how long to wait.
    fn recording_failed(
        &self,
        options: &AgentSettings,
        error: &Error,
        failures: &mut u32,
    ) -> Duration {
        if error.kind() == ErrorKind::Interrupted {
            return Duration::ZERO;
        }
        let pause = RETRY.0.saturating_mul(1 << (*failures).min(16)).min(RETRY.1);
        *failures = failures.saturating_add(1);
        self.metrics.journal_failed(options, error);
        self.recorded_now().error = Some(error.to_string());
        error!(
            event = "journal_failed",
            cluster = options.cluster().as_str(),
            error = %error,
            kind = error.kind().name(),
            hint = error.hint_text(),
            failures = *failures,
            retry_seconds = pause.as_secs(),
        );
        pause
    }

    /// Takes note of what a recording reports.
    fn recorded(&self, options: &AgentSettings, step: &Step) {
        let cluster = options.cluster().as_str();
        let step = match step {
            Step::Journal(step) => step,
            Step::Note(note) => {
                limited!(info, event = "journal_note", cluster, note);
                return;
            }
            _ => return,
        };
        let mut recorded = self.recorded_now();
        recorded.step(step);
        self.metrics.journal.step(options, step, &recorded);
        drop(recorded);
        match step {
            JournalStep::Began { journal, revision } => {
                info!(event = "journal_started", cluster, journal = %journal, revision);
            }
            JournalStep::Ended { journal, revision, why } => {
                info!(event = "journal_ended", cluster, journal = %journal, revision, reason = why);
            }
            JournalStep::Reconnects { reason, why } => {
                limited!(warn, event = "journal_reconnects", cluster, reason, error = why);
            }
            JournalStep::Gap { reason, why } => {
                warn!(event = "journal_gap", cluster, reason, error = why);
            }
            JournalStep::Watching { is_old: true, .. } => {
                if let Some(warning) = step.note().filter(|note| is_new(note)) {
                    warn!(event = "warning", warning);
                }
            }
            _ => {}
        }
    }
}
