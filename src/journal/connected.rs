//! An open watch, and the questions that were asked beside it.

use std::collections::HashMap;
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
    pub(super) leases: Leases,
    pub(super) at_once: Arc<Semaphore>,
    pub(super) asked: Asked,
    /// What etcd has, as long as the watch has not shown it: since when nothing new was shown, by which moment, and up to which
    /// revision.
    pub(super) waits: Option<(Instant, u64, i64)>,
    pub(super) ids: Option<Ids>,
}

/// Leases that etcd was asked about, each with the key that was attached to it last. When that key is deleted the lease may
/// be gone: one that is granted again under the same id has a time to live of its own.
#[derive(Default)]
pub(super) struct Leases {
    known: HashMap<i64, Key>,
    keys: HashMap<Key, i64>,
}

/// What stands for a key.
type Key = [u8; 16];

/// Leases that are remembered.
const MAX_LEASES: usize = 1_000_000;

impl Leases {
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.keys.clear();
    }

    /// `key` was attached to the lease `id`. Whether etcd is to be asked about it.
    pub(super) fn attached(&mut self, key: &[u8], id: i64) -> bool {
        if self.known.len() >= MAX_LEASES && !self.known.contains_key(&id) {
            return false;
        }
        let key = name_of(key);
        let before = self.known.insert(id, key);
        if let Some(before) = before.filter(|before| *before != key) {
            self.keys.remove(&before);
        }
        self.keys.insert(key, id);
        before.is_none()
    }

    /// `key` was deleted.
    pub(super) fn deleted(&mut self, key: &[u8]) {
        let key = name_of(key);
        if let Some(id) = self.keys.remove(&key)
            && self.known.get(&id) == Some(&key)
        {
            self.known.remove(&id);
        }
    }
}

fn name_of(key: &[u8]) -> Key {
    let digest = crate::crypto::sha256(&[key]);
    digest.first_chunk().copied().unwrap_or_default()
}

/// When which question was asked last.
pub(super) struct Asked {
    pub(super) revision: bool,
    pub(super) compacted: Instant,
    pub(super) auth: Instant,
}

/// What etcd answered to a question.
pub(super) enum Answer {
    /// etcd's revision, 0 if it did not tell.
    Revision {
        /// What it had committed before this moment is in it.
        moment: u64,
        revision: i64,
        /// The last revision that was received before etcd was asked: meanwhile more may have come.
        known: i64,
    },
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
                Answer::Revision { moment, revision, known: last }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What etcd is asked about: each lease once, and again when it may be another one under the same id.
    #[test]
    fn a_lease_that_was_granted_again_is_asked_about_again() {
        let mut leases = Leases::default();
        assert!(leases.attached(b"a", 7));
        assert!(!leases.attached(b"a", 7) && !leases.attached(b"b", 7));
        // Not the last key that was attached.
        leases.deleted(b"a");
        assert!(!leases.attached(b"b", 7));
        leases.deleted(b"b");
        assert!(leases.attached(b"b", 7));
        // Attached to another lease meanwhile.
        assert!(leases.attached(b"b", 8));
        leases.deleted(b"b");
        assert!(leases.attached(b"c", 8));
        leases.clear();
        assert!(leases.attached(b"c", 8));
    }
}
