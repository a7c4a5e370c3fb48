//! The agent: backs up, replicates, prunes, verifies, drills and audits by a schedule, with nobody watching.
//!
//! What was done and when is read from the repository, and who works is decided by a lease in etcd: an agent keeps nothing
//! on its host, and any number may stand by.

mod audit;
mod audit_metrics;
mod due;
mod found;
mod journal;
mod journal_metrics;
mod labels;
mod late;
mod leader;
mod metrics;
mod operation;
mod page;
mod recorded;
mod runs;
mod state;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

pub use crate::settings::{AgentSettings, Schedule, Schedules};
pub use crate::status_server::listen;
pub use operation::Operation;

use crate::error::{Error, Result};
use crate::format::Time;
use crate::keys::KeySet;
use crate::limit::is_new;
use crate::settings::retiring;
use crate::status_server::Answer;
use crate::store::Repository;
use crate::task::Control;
use state::{Shared, unix_ms};

/// Pauses before work that failed is tried again: from, to.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Where snapshots go, and what seals them.
struct Places {
    repository: Repository,
    keys: KeySet,
}

/// Opens repository and keys, again for each piece of work: keys and credentials may have been rotated.
async fn open(settings: &AgentSettings) -> Result<Places> {
    let opened = settings.common.open_repository().await?;
    warn(&opened.warnings);
    if let Err(error) = opened.sweep().await {
        warn(&[format!("files of killed backups could not be removed: {error}")]);
    }
    settings.common.check_keys()?;
    let ask = || {
        Err(Error::usage("a passphrase is needed")
            .hint("set STRONGROOM_PASSPHRASE_FILE or STRONGROOM_PASSPHRASE_COMMAND"))
    };
    let keys = settings.common.open_keys(&opened.repository, ask).await?;
    warn(&retiring(&keys));
    Ok(Places { repository: opened.repository, keys })
}

/// Logs warnings, each once a day: what they tell of may last.
fn warn(warnings: &[String]) {
    for warning in warnings.iter().filter(|warning| is_new(warning)) {
        tracing::warn!(event = "warning", warning);
    }
}

impl AgentSettings {
    /// When `operation` is done; `None` for never, and for copies, which follow backups.
    pub fn schedule(&self, operation: Operation) -> Option<&Schedule> {
        let Schedules { backup, prune, verify, verify_all, drill, audit } = &self.schedules;
        match operation {
            Operation::Backup => backup.as_ref(),
            Operation::Copy => None,
            Operation::Prune => prune.as_ref(),
            Operation::Verify => verify.as_ref(),
            Operation::VerifyAll => verify_all.as_ref(),
            Operation::Drill => drill.as_ref(),
            Operation::Audit => audit.as_ref(),
        }
    }
}

/// The options, which may change while the agent runs; the cluster may not.
pub type Changes = watch::Receiver<Arc<AgentSettings>>;

/// Works until `stop` turns true; what is under way then is ended, and leaves nothing half-visible.
///
/// `listener` answers `/` with a status page, `/metrics`, `/healthz` and `/readyz` in HTTP/1.1.
///
/// # Errors
/// None for what fails on the way: it is logged (`tracing`), counted and tried again.
pub async fn run(
    options: Changes,
    listener: Option<TcpListener>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    started(&options.borrow());
    let shared = Arc::new(Shared::new(options.clone()));
    if let Some(listener) = listener {
        let shared = Arc::clone(&shared);
        let answer = move |path: String| {
            let shared = Arc::clone(&shared);
            async move { answer(&shared, &path) }
        };
        tokio::spawn(crate::status_server::serve(listener, answer, stop.clone()));
    }
    let (leading, halted) = (Arc::clone(&shared.leading), shared.halted(stop.clone()));
    let (ended, end) = watch::channel(false);
    let leader = tokio::spawn(leader::lead(options, leading, Arc::clone(&shared.trouble), end));
    // A long verification must not keep a backup waiting.
    let backups = lane(&shared, &[Operation::Backup], halted.clone(), stop.clone());
    let rest = [
        Operation::Copy,
        Operation::Prune,
        Operation::Verify,
        Operation::VerifyAll,
        Operation::Drill,
        Operation::Audit,
    ];
    let journal = journal::lane(&shared, halted.clone(), stop.clone());
    let work = async { tokio::join!(backups, lane(&shared, &rest, halted, stop), journal) };
    tokio::select! {
        _ = work => {}
        () = shared.reloads() => {}
    }
    // The lead is kept until nothing of ours runs any more.
    ended.send_replace(true);
    let ended = leader.await;
    info!(event = "stopped");
    ended.map_err(crate::task::task_died)
}

/// Logs what the agent is going to do.
fn started(options: &AgentSettings) {
    let schedule = |operation| options.schedule(operation).map(ToString::to_string);
    let next = |operation| {
        let next = options.schedule(operation)?.next(SystemTime::now());
        Some(utc(next))
    };
    info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        cluster = options.cluster().as_str(),
        agent = options.name(),
        replica = options.copy.url.is_some(),
        continuous = options.continuous,
        backup = schedule(Operation::Backup),
        backup_next = next(Operation::Backup),
        prune = schedule(Operation::Prune),
        prune_next = next(Operation::Prune),
        verify = schedule(Operation::Verify),
        verify_next = next(Operation::Verify),
        verify_all = schedule(Operation::VerifyAll),
        verify_all_next = next(Operation::VerifyAll),
        drill = schedule(Operation::Drill),
        drill_next = next(Operation::Drill),
        audit = schedule(Operation::Audit),
        audit_next = next(Operation::Audit),
    );
}

/// `time` as the log writes it.
fn utc(time: SystemTime) -> String {
    Time::from_unix(i64::try_from(unix_ms(time) / 1000).unwrap_or(i64::MAX)).to_string()
}

fn answer(shared: &Shared, path: &str) -> Answer {
    match path {
        "/" => page::page(shared),
        "/metrics" => Answer::metrics(shared.metrics()),
        "/healthz" => Answer::health(Ok(())),
        "/readyz" => Answer::health(shared.ready()),
        _ => Answer::not_found("/, /metrics, /healthz or /readyz"),
    }
}

/// Does `operations`, one after the other, whenever one is due and this agent leads.
async fn lane(
    shared: &Shared,
    operations: &[Operation],
    halted: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut leading = shared.leading.subscribe();
    let mut changes = shared.options();
    let mut wanted = shared.wanted.subscribe();
    let takes = operations.contains(&Operation::Backup);
    loop {
        wanted.mark_unchanged();
        tokio::select! {
            _ = leading.wait_for(|leading| *leading) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let due = match shared.next_due(operations).await {
            Ok(due) => due,
            Err(error) => {
                shared.unread(&error);
                (SystemTime::now() + RETRY.0, None)
            }
        };
        let wait = due.0.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            // Not longer at a time, should the clock be set.
            () = tokio::time::sleep(wait.min(Duration::from_secs(30))) => {}
            _ = stop.wait_for(|stop| *stop) => return,
            _ = leading.wait_for(|leading| !leading) => {
                shared.forget();
                continue;
            }
            Ok(()) = wanted.changed(), if takes => continue,
            // Nobody changes them any more once the sender is gone.
            Ok(()) = changes.changed() => continue,
        }
        if let Some(operation) = due.1.filter(|_| due.0 <= SystemTime::now()) {
            let control = Control::default().stop_when(halted.clone());
            shared.work(operation, &control).await;
        }
    }
}
