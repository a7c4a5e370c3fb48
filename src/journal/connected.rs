//! An open watch, and the questions that were asked beside it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::write::unix_ms;
use crate::etcd::changes::Ids;
use crate::etcd::watch::{Questions, Watch};

/// How often etcd is asked how far it is compacted, and whether users and roles have changed.
pub(super) const COMPACTED_EVERY: Duration = Duration::from_secs(30);
const AUTH_EVERY: Duration = Duration::from_secs(10);

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

    /// Asks what is to be asked again; the recording has revision `last`, and knows that etcd is compacted up to `known`.
    pub(super) fn ask_what_is_due(&mut self, known: i64, last: i64) {
        let questions = self.questions.clone();
        if !std::mem::replace(&mut self.asked.revision, true) {
            let (questions, moment) = (questions.clone(), unix_ms());
            self.ask(async move {
                let revision = questions.revision().await.unwrap_or(0);
                Answer::Revision(moment, revision)
            });
        }
        if self.asked.compacted.elapsed() >= COMPACTED_EVERY && last > known {
            self.asked.compacted = Instant::now();
            let questions = questions.clone();
            self.ask(async move {
                questions.compacted(known, last).await.map_or(Answer::Nothing, Answer::Compacted)
            });
        }
        if self.asked.auth.elapsed() >= AUTH_EVERY {
            self.asked.auth = Instant::now();
            self.ask(async move {
                let found = questions.auth_status().await;
                found.map_or(Answer::Nothing, |(enabled, revision)| Answer::Auth(enabled, revision))
            });
        }
    }
}
