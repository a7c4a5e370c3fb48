//! How a caller watches a job and stops it.

use std::future;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::journal_step::JournalStep;
use crate::error::{Error, ErrorKind, Result};

/// What a running job reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A new phase began; `total` units lie ahead, if that is known.
    Begin {
        /// What is being done, such as `reading etcd`.
        what: String,
        /// How many units it will take.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// So many more units are done.
    Advance(u64),
    /// Something to tell the operator now, such as which member was chosen.
    Note(String),
    /// What a recording came to.
    Journal(JournalStep),
}

/// What a job counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// Bytes of database, or of objects.
    Bytes,
    /// Snapshots.
    Snapshots,
    /// Keys of etcd.
    Keys,
}

type Listener = dyn Fn(Step) + Send + Sync;

/// Watches one job, and stops it. The default neither listens nor stops.
#[derive(Clone, Default)]
pub struct Control {
    listener: Option<Arc<Listener>>,
    stop: Option<watch::Receiver<bool>>,
    deadline: Option<Instant>,
}

impl Control {
    /// Calls `listener` at each step. It must return quickly.
    #[must_use]
    pub fn on_step(mut self, listener: impl Fn(Step) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Stops the job, with [`ErrorKind::Interrupted`], once `stop` holds true.
    #[must_use]
    pub fn stop_when(mut self, stop: watch::Receiver<bool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Ends a job that has parts, such as a verification of many snapshots, at `deadline`: its result says what was not done.
    #[must_use]
    pub fn end_at(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Whether there is a time at which the job ends.
    pub(crate) fn has_deadline(&self) -> bool {
        self.deadline.is_some()
    }

    /// Runs `work` unless the deadline comes first.
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok(),
            None => Some(work.await),
        }
    }

    pub(crate) fn step(&self, step: Step) {
        if let Some(listener) = &self.listener {
            listener(step);
        }
    }

    pub(crate) fn begin(&self, what: &str, total: Option<u64>) {
        self.begin_counting(what, total, Unit::Bytes);
    }

    pub(crate) fn begin_counting(&self, what: &str, total: Option<u64>, unit: Unit) {
        self.step(Step::Begin { what: what.into(), total, unit });
    }

    /// Resolves when the job is to stop.
    pub(crate) async fn stopped(&self) {
        match self.stop.clone() {
            Some(mut stop) => {
                if stop.wait_for(|stop| *stop).await.is_err() {
                    future::pending().await
                }
            }
            None => future::pending().await,
        }
    }

    /// Fails once the job is to stop.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.stop {
            Some(stop) if *stop.borrow() => Err(interrupted()),
            _ => Ok(()),
        }
    }

    /// Runs `work` unless the job is stopped first.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stopped() => Err(interrupted()),
            result = work => result,
        }
    }
}

pub(crate) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
}
