//! The agent: backs up, replicates, prunes, verifies and drills by a schedule, with nobody watching.
//!
//! What was done and when is read from the repository, and who works is decided by a lease in etcd: an agent keeps nothing
//! on its host, and any number may stand by.

mod leader;
mod metrics;
mod operation;
mod page;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

pub use crate::settings::{Schedule, Schedules};
pub use crate::status_server::listen;
pub use operation::Operation;

use crate::backup::{BackupOptions, Retention};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::EtcdSettings;
use crate::format::{ClusterName, Time};
use crate::keys::KeySet;
use crate::status_server::Answer;
use crate::store::Repository;
use crate::task::Control;
use state::{Shared, unix_ms};

/// Pauses before work that failed is tried again: from, to.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Where snapshots go, and what seals them.
pub struct Places {
    /// The repository.
    pub repository: Repository,
    /// The master keys.
    pub keys: KeySet,
}

/// Opens the places, anew for each piece of work: keys and credentials may have been rotated.
pub type OpenPlaces = Box<dyn Fn() -> BoxFuture<'static, Result<Places>> + Send + Sync>;

/// Opens the second repository, which snapshots of the first are copied to.
pub type OpenReplica =
    Box<dyn Fn(Repository) -> BoxFuture<'static, Result<Repository>> + Send + Sync>;

/// What an agent is to do.
pub struct AgentOptions {
    /// The owner's name for the etcd cluster.
    pub cluster: ClusterName,
    /// Which agent this is, for people: a host's name.
    pub name: String,
    /// Opens repository and keys.
    pub places: OpenPlaces,
    /// Opens the second repository, if there is one.
    pub replica: Option<OpenReplica>,
    /// How to reach etcd; asked anew for each piece of work.
    pub etcd: Box<dyn Fn() -> Result<EtcdSettings> + Send + Sync>,
    /// How backups are taken.
    pub backup: BackupOptions,
    /// What is kept.
    pub retention: Retention,
    /// When.
    pub schedules: Schedules,
    /// Work begins up to so much later than its time, so that many clusters do not begin at once.
    pub jitter: Duration,
    /// The etcd that drills start.
    pub drill_etcd: PathBuf,
}

impl AgentOptions {
    /// When `operation` is done; `None` for never, and for copies, which follow backups.
    pub fn schedule(&self, operation: Operation) -> Option<&Schedule> {
        let Schedules { backup, prune, verify, verify_all, drill } = &self.schedules;
        match operation {
            Operation::Backup => Some(backup),
            Operation::Copy => None,
            Operation::Prune => prune.as_ref(),
            Operation::Verify => verify.as_ref(),
            Operation::VerifyAll => verify_all.as_ref(),
            Operation::Drill => drill.as_ref(),
        }
    }
}

/// The options, which may change while the agent runs; the cluster may not.
pub type Changes = watch::Receiver<Arc<AgentOptions>>;

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
    let leader = tokio::spawn(leader::lead(options, leading, end));
    // A long verification must not keep a backup waiting.
    let backups = lane(&shared, &[Operation::Backup], halted.clone(), stop.clone());
    let rest = [
        Operation::Copy,
        Operation::Prune,
        Operation::Verify,
        Operation::VerifyAll,
        Operation::Drill,
    ];
    let work = async { tokio::join!(backups, lane(&shared, &rest, halted, stop)) };
    tokio::select! {
        _ = work => {}
        () = shared.reloads() => {}
    }
    // The lead is kept until nothing of ours runs any more.
    ended.send_replace(true);
    let ended = leader.await;
    info!(event = "stopped");
    ended.map_err(|error| Error::new(ErrorKind::Io, "the agent's task panicked").because(error))
}

/// Logs what the agent is going to do.
fn started(options: &AgentOptions) {
    let schedule = |operation| options.schedule(operation).map(ToString::to_string);
    let next = |operation| {
        let next = options.schedule(operation)?.next(SystemTime::now());
        Some(utc(next))
    };
    info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        cluster = options.cluster.as_str(),
        agent = options.name,
        replica = options.replica.is_some(),
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
    loop {
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
            _ = changes.changed() => continue,
        }
        if let Some(operation) = due.1.filter(|_| due.0 <= SystemTime::now()) {
            let control = Control::default().stop_when(halted.clone());
            shared.work(operation, &control).await;
        }
    }
}
