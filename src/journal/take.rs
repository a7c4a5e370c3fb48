//! What a watch sends, and what etcd answers beside it, goes into the segment that is being filled.

use std::time::Duration;

use tokio::time::Instant;

use super::connected::Answer;
use super::filling::Filling;
use super::outbox::PAUSE;
use super::record::{ATTEMPTS, MAX_BEHIND, Recorder, STUCK};
use crate::error::Result;
use crate::etcd::changes::{ChangeValue, Complete, Ended, Ids};
use crate::format::{EndReason, Entry};
use crate::mvcc::KeyValue;
use crate::task::JournalStep;

impl Recorder<'_> {
    /// Takes an answer of the watch.
    pub(super) fn message(
        &mut self,
        message: &bytes::Bytes,
        filling: &mut Filling<'_>,
    ) -> Result<Option<EndReason>> {
        let mut complete = Vec::new();
        let ended = self.revisions.answer(message, &mut complete);
        self.member(filling)?;
        for one in complete {
            self.leases(&one);
            filling.revision(&one)?;
            self.seen.add(&one);
            let changes = one.changes.len() as u64;
            self.tell(JournalStep::Received { revision: one.main, changes });
            self.carried = Some(one);
        }
        self.advance(filling)?;
        Ok(match ended {
            // While this program was suspended, or too slow, etcd went on: it would read all that is missing for each part.
            Ok(()) => (self.revisions.behind() > MAX_BEHIND).then_some(EndReason::BEHIND),
            Err(Ended::Compacted(_)) => Some(EndReason::COMPACTED),
            Err(Ended::Parted(_)) => Some(EndReason::PARTED),
            Err(Ended::Canceled(why) | Ended::Broken(why)) => self.is_of_no_use(&why),
        })
    }

    /// Gives up a watch that etcd canceled, or whose answers cannot be used. Why the journal is to end, after several attempts at
    /// one revision.
    pub(super) fn is_of_no_use(&mut self, why: &str) -> Option<EndReason> {
        self.reconnect("canceled", format!("the watch is of no more use: {why}"));
        let last = self.revisions.last();
        let before = if self.attempts.0 == last { self.attempts.1 } else { 0 };
        self.attempts = (last, before.saturating_add(1));
        (self.attempts.1 >= ATTEMPTS).then_some(EndReason::PARTED)
    }

    /// Notes which member is listened to.
    fn member(&mut self, filling: &mut Filling<'_>) -> Result<()> {
        let Some(connected) = &mut self.connected else { return Ok(()) };
        let ids = self.revisions.ids();
        if let Some(Ids { member, term, .. }) = ids.filter(|_| ids != connected.ids) {
            connected.ids = ids;
            filling.cutter.entry(&Entry::Member { id: member, term })?;
        }
        Ok(())
    }

    /// Asks for the leases that are seen for the first time, or again after they may have been revoked.
    fn leases(&mut self, complete: &Complete) {
        let Some(connected) = &mut self.connected else { return };
        for change in &complete.changes {
            let value = match &change.value {
                ChangeValue::Put(value) => value,
                ChangeValue::Deletion(key) => {
                    connected.leases.deleted(key);
                    continue;
                }
            };
            let Some(KeyValue { key, lease: id, .. }) = KeyValue::parse(value) else { continue };
            if id == 0 || !connected.leases.attached(key, id) {
                continue;
            }
            let (questions, at_once) = (connected.questions.clone(), connected.at_once.clone());
            connected.ask(async move {
                let _one = at_once.acquire_owned().await;
                match questions.granted_ttl(id).await {
                    Ok(ttl) => Answer::Lease(id, ttl),
                    Err(_) => Answer::Nothing,
                }
            });
        }
    }

    /// Tells how far the recording is, and makes a scheduled cut once the segment is complete.
    fn advance(&mut self, filling: &mut Filling<'_>) -> Result<()> {
        let last = self.revisions.last();
        let is_news =
            self.progress.send_if_modified(|known| std::mem::replace(known, last) != last);
        let waits = self.connected.as_mut().and_then(|connected| connected.waits.as_mut());
        if let Some((since, ..)) = waits.filter(|_| is_news) {
            *since = Instant::now();
        }
        if is_news {
            // A watch that shows something may break off before it has caught up. Meanwhile etcd goes on.
            self.pause = self.pause.min(PAUSE);
        }
        // Before the last revision was repeated, the watch may be of another history.
        if let Some(connected) = &mut self.connected
            && let Some((_, moment, revision)) = connected.waits
            && last >= revision
            && !self.revisions.is_repeating()
        {
            connected.waits = None;
            // The watch has caught up, so earlier failures no longer count.
            self.attempts = (0, 0);
            self.pause = Duration::ZERO;
            if filling.complete(moment) {
                self.tell(JournalStep::Complete { moment, revision });
            }
            filling.cut_if_scheduled()?;
        }
        Ok(())
    }

    /// Takes an answer to a question.
    pub(super) fn answer(
        &mut self,
        answer: Answer,
        filling: &mut Filling<'_>,
    ) -> Result<Option<EndReason>> {
        match answer {
            Answer::Revision { moment, revision, known } => {
                if revision != 0 && revision < known {
                    return Ok(Some(EndReason::PARTED));
                }
                if let Some(connected) = &mut self.connected {
                    connected.asked.revision = false;
                    // An earlier answer is kept until it is reached: behind a busy etcd a later one always is further.
                    let waits = (Instant::now(), moment, revision);
                    let later = Some(waits).filter(|_| revision != 0);
                    connected.waits = connected.waits.or(later);
                }
                self.advance(filling)?;
            }
            Answer::Compacted(revision) if revision > self.compacted => {
                self.compacted = revision;
                self.seen.compacted(revision);
                filling.cutter.entry(&Entry::Compacted(revision))?;
            }
            Answer::Auth(enabled, revision) if self.auth != Some((enabled, revision)) => {
                let before = self.auth.replace((enabled, revision)).or(self.auth_before);
                if before.is_some_and(|before| before != (enabled, revision)) {
                    self.auth_changes.send_modify(|changes| *changes = changes.saturating_add(1));
                }
                filling.cutter.entry(&Entry::Auth { enabled, revision })?;
            }
            Answer::Lease(id, ttl) => {
                if ttl.is_none() {
                    self.tell(JournalStep::LeaseUnknown);
                }
                filling.cutter.entry(&Entry::Lease { id, ttl: ttl.unwrap_or(0) })?;
            }
            Answer::Compacted(_) | Answer::Auth(..) | Answer::Nothing => {}
        }
        Ok(None)
    }

    /// Schedules a cut, and asks etcd the questions that are due.
    pub(super) fn end_interval(&mut self, filling: &mut Filling<'_>) {
        filling.schedule_cut(self.options.interval);
        let (last, known) = (self.revisions.last(), self.compacted);
        let Some(connected) = &mut self.connected else { return };
        if connected.waits.is_some_and(|(since, ..)| since.elapsed() > STUCK) {
            self.reconnect("stuck", "the watch is stuck".into());
            return;
        }
        connected.ask_what_is_due(known, last);
    }
}
