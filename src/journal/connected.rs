//! An open watch, and the questions that were asked beside it.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::etcd::changes::Ids;
use crate::etcd::watch::{Questions, Watch};

/// An open watch.
pub(super) struct Connected {
    pub(super) watch: Watch,
    pub(super) questions: Questions,
    pub(super) answers: mpsc::UnboundedReceiver<Answer>,
    pub(super) sender: mpsc::UnboundedSender<Answer>,
    /// Leases asked for since the journal began.
    pub(super) leases: HashSet<i64>,
    pub(super) at_once: Arc<Semaphore>,
    pub(super) asked: Asked,
    /// What etcd has, as long as the watch has not shown it: since when, by which moment, and up to which revision.
    pub(super) waits: Option<(Instant, u64, i64)>,
    pub(super) ids: Option<Ids>,
}

/// When which question was asked last.
pub(super) struct Asked {
    pub(super) revision: bool,
    pub(super) compacted: Instant,
    pub(super) auth: Instant,
}

/// What etcd answered to a question.
pub(super) enum Answer {
    /// All revisions that were committed at this moment.
    Revision(u64, i64),
    Compacted(i64),
    Auth(bool, u64),
    Lease(i64, Option<i64>),
    /// A question was not answered.
    Nothing,
}

impl Connected {
    /// Asks in a task, which ends by itself: each question has a limit.
    pub(super) fn ask(&self, question: impl Future<Output = Answer> + Send + 'static) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            // Nobody waits for it when the watch was given up.
            let _ = sender.send(question.await);
        });
    }
}
