//! Recording: a watch of all keys becomes segments, which are stored in order. etcd does not wait for the store: what the
//! store does not take waits, and when there is too much of it the journal ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::connected::{Answer, Asked, COMPACTED_EVERY, Connected, Leases};
use super::filling::{Filling, Places};
use super::options::RecordOptions;
use super::outbox::{LONGEST_PAUSE, PAUSE};
use super::write::{JournalWriter, NewJournal};
use crate::crypto::Suite;
use crate::error::{ErrorKind, Result};
use crate::etcd::changes::{Complete, RecordDigest, Revisions};
use crate::etcd::seen::Seen;
use crate::etcd::watch::loses_deletions;
use crate::etcd::{EtcdSettings, choose_member};
use crate::format::{Continues, EndReason, Entry, JournalFacts, MAX_SEGMENTS, SnapshotId};
use crate::keys::KeySet;
use crate::store::Repository;
use crate::task::{Control, JournalStep, Step};

/// How far behind a watch may be. etcd reads all that is behind for each part of it, while writers wait.
pub(crate) const MAX_BEHIND: i64 = 20_000;
/// A journal is followed by the next after this time, or this many bytes.
const LONGEST: Duration = Duration::from_secs(3600);
const MAX_STORED: u64 = 256 << 20;
/// A watch that shows nothing of what etcd has for so long is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(10);
/// Leases that are asked for at once.
const LEASES_AT_ONCE: usize = 16;
/// Attempts at one revision whose answers are wrong.
pub(super) const ATTEMPTS: u32 = 3;

/// A journal that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// `None` if nothing could be recorded.
    pub(crate) id: Option<SnapshotId>,
    /// The last complete revision that etcd has sent: what is not stored yet waits for that.
    pub(crate) seen: i64,
    pub(crate) reason: EndReason,
    /// The last segment, for the journal that follows.
    pub(crate) continues: Option<Continues>,
    /// The last complete revision, and what stands for its records.
    pub(crate) known: Option<(i64, RecordDigest)>,
}

/// Records one etcd, journal after journal.
pub(crate) struct Recorder<'a> {
    pub(super) repository: &'a Repository,
    pub(super) keys: &'a KeySet,
    pub(super) etcd: &'a EtcdSettings,
    pub(super) options: &'a RecordOptions,
    pub(super) suite: Suite,
    pub(super) control: &'a Control,
    pub(super) places: Places<'a>,
    pub(super) revisions: Revisions,
    pub(super) connected: Option<Connected>,
    /// The last complete revision, with which the next journal begins.
    pub(super) carried: Option<Complete>,
    pub(super) continues: Option<Continues>,
    pub(super) compacted: i64,
    pub(super) auth: Option<(bool, u64)>,
    /// What an earlier recorder saw.
    pub(super) auth_before: Option<(bool, u64)>,
    pub(super) attempts: (i64, u32),
    /// The pause before the next watch: none behind one that has caught up.
    pub(super) pause: Duration,
    /// The last complete revision, for who waits for it.
    pub(super) progress: tokio::sync::watch::Sender<i64>,
    /// How often users and roles were changed, for who waits for it.
    pub(super) auth_changes: tokio::sync::watch::Sender<u64>,
    /// What snapshots are compared with.
    pub(super) seen: Arc<Seen>,
    /// Whether this agent leads, if an agent records.
    pub(super) leading: Option<tokio::sync::watch::Receiver<bool>>,
}

impl<'a> Recorder<'a> {
    /// Records from main revision `first` on, which etcd must still have.
    pub(crate) fn new(
        repository: &'a Repository,
        keys: &'a KeySet,
        etcd: &'a EtcdSettings,
        (options, suite): (&'a RecordOptions, Suite),
        control: &'a Control,
        (places, first): (Places<'a>, i64),
    ) -> Self {
        Self {
            repository,
            keys,
            etcd,
            options,
            suite,
            control,
            places,
            revisions: Revisions::new(first),
            connected: None,
            carried: None,
            continues: None,
            compacted: 0,
            auth: None,
            auth_before: None,
            attempts: (0, 0),
            pause: Duration::ZERO,
            progress: tokio::sync::watch::Sender::new(first.saturating_sub(1)),
            auth_changes: tokio::sync::watch::Sender::new(0),
            seen: Arc::default(),
            leading: None,
        }
    }

    /// Names the last segment of an earlier journal in the next one. Users and roles that are not those of `auth` have
    /// changed since.
    pub(crate) fn continues(&mut self, continues: Option<Continues>, auth: Option<(bool, u64)>) {
        (self.continues, self.auth_before) = (continues, auth);
    }

    /// Notes in `seen` what snapshots are compared with.
    pub(crate) fn note_in(&mut self, seen: Arc<Seen>) {
        seen.begin();
        self.seen = seen;
    }

    /// Tells by `leading` why it is stopped.
    pub(crate) fn led_by(&mut self, leading: Option<tokio::sync::watch::Receiver<bool>>) {
        self.leading = leading;
    }

    /// Changes whenever etcd's users or roles do.
    pub(crate) fn auth_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.auth_changes.subscribe()
    }

    /// Shows the last complete revision.
    pub(crate) fn progress(&self) -> tokio::sync::watch::Receiver<i64> {
        self.progress.subscribe()
    }

    /// Records one journal until it ends.
    ///
    /// # Errors
    /// Those of etcd that another attempt does not mend, of the keys and of the store. What was stored before counts.
    pub(crate) async fn journal(&mut self) -> Result<Journal> {
        if let Some(reason) = self.connect().await? {
            let (seen, continues) = (self.revisions.last(), self.continues);
            return Ok(Journal { id: None, seen, reason, continues, known: self.known() });
        }
        let first = match &self.carried {
            Some(carried) => carried.main,
            None => self.revisions.last().saturating_add(1),
        };
        let (cluster, facts) = (self.options.cluster.clone(), self.facts());
        let new = NewJournal { cluster, first, facts };
        let (writer, objects) =
            JournalWriter::new(self.repository.id(), self.keys, new, self.suite).await?;
        let id = writer.id();
        objects.into_iter().for_each(|object| self.places.push(object));
        self.tell(JournalStep::Began { journal: id, revision: first });
        let mut filling = Filling::new(writer, self.places, first);
        let reason = self.listen(&mut filling).await?;
        self.continues = filling.end(reason).await?.or(self.continues);
        let (seen, continues) = (self.revisions.last(), self.continues);
        Ok(Journal { id: Some(id), seen, reason, continues, known: self.known() })
    }

    fn known(&self) -> Option<(i64, RecordDigest)> {
        self.carried.as_ref().map(|carried| (carried.main, carried.digest))
    }

    pub(super) fn step(&self, note: String) {
        self.control.step(Step::Note(note));
    }

    pub(super) fn tell(&self, step: JournalStep) {
        self.control.step(Step::Journal(step));
    }

    /// Gives up the watch, so that another one is opened.
    pub(super) fn reconnect(&mut self, reason: &'static str, why: String) {
        self.connected = None;
        self.tell(JournalStep::Reconnects { reason, why });
    }

    /// Why the recording ends that was stopped.
    fn why_stopped(&self) -> EndReason {
        match &self.leading {
            Some(leading) if !*leading.borrow() => EndReason::LOST_LEAD,
            _ => EndReason::STOPPED,
        }
    }

    /// Waits before another attempt, longer each time, unless the job is stopped.
    async fn wait(&mut self) -> Result<()> {
        tokio::select! {
            () = self.control.stopped() => {}
            () = sleep(self.pause) => {}
        }
        self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
        self.control.check()
    }

    fn facts(&self) -> JournalFacts {
        let member = self.connected.as_ref().map(|connected| &connected.watch.member);
        JournalFacts {
            cluster_id: member.map_or(0, |member| member.cluster_id),
            member_id: member.map_or(0, |member| member.id),
            version: member.map(|member| member.version.clone()).filter(|text| !text.is_empty()),
            raft_term: member.map_or(0, |member| member.raft_term),
            interval_ms: u64::try_from(self.options.interval.as_millis()).unwrap_or(0),
            continues: self.continues,
        }
    }

    /// Opens a watch, unless there is one. Why it cannot be, if what is to come is gone.
    async fn connect(&mut self) -> Result<Option<EndReason>> {
        while self.connected.is_none() {
            self.wait().await?;
            match self.control.guard(self.try_connect()).await {
                Ok(Some(reason)) => return Ok(Some(reason)),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    self.step(format!("etcd cannot be watched: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn try_connect(&mut self) -> Result<Option<EndReason>> {
        let choice = choose_member(self.etcd).await?;
        let questions = choice.questions(self.etcd).await?;
        let revision = questions.revision().await?;
        let last = self.revisions.last();
        if revision < last {
            return Ok(Some(EndReason::PARTED));
        }
        self.compacted = questions.compacted(self.compacted, revision).await?;
        let Some(from) = self.revisions.reconnect(self.compacted) else {
            return Ok(Some(EndReason::COMPACTED));
        };
        if revision.saturating_sub(from) > MAX_BEHIND {
            return Ok(Some(EndReason::BEHIND));
        }
        let watch = questions.watch(choice.member.clone(), from).await?;
        self.step(format!("recording {}", choice.reason));
        let version = choice.member.version.clone();
        let is_old = loses_deletions(&version);
        self.tell(JournalStep::Watching { version, is_old });
        let (sender, answers) = mpsc::unbounded_channel();
        let long_ago = Instant::now().checked_sub(COMPACTED_EVERY).unwrap_or_else(Instant::now);
        let asked = Asked { revision: false, compacted: Instant::now(), auth: long_ago };
        self.connected = Some(Connected {
            watch,
            questions,
            answers,
            sender,
            leases: Leases::default(),
            at_once: Arc::new(Semaphore::new(LEASES_AT_ONCE)),
            asked,
            waits: None,
            ids: None,
        });
        Ok(None)
    }

    /// Fills segments until the journal is to end.
    async fn listen(&mut self, filling: &mut Filling<'_>) -> Result<EndReason> {
        if let Some(carried) = self.carried.clone() {
            filling.revision(&carried)?;
        }
        filling.cutter.entry(&Entry::Compacted(self.compacted))?;
        if let Some((enabled, revision)) = self.auth {
            filling.cutter.entry(&Entry::Auth { enabled, revision })?;
        }
        if let Some(connected) = &mut self.connected {
            // Each journal tells of its leases and its member.
            connected.leases.clear();
            connected.ids = None;
        }
        let filled = self.fill(filling).await;
        if filled.is_err() {
            // The first error says more.
            let _ = filling.cut_pending();
        }
        filled
    }

    /// Stores what was received if the watch is gone, then opens another. Returns why the journal is to end, if it is.
    async fn reconnect_or_end(&mut self, filling: &mut Filling<'_>) -> Result<Option<EndReason>> {
        if self.connected.is_none() {
            // etcd may be away for long.
            filling.cut_pending()?;
        }
        match self.connect().await {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(self.why_stopped())),
            other => other,
        }
    }

    async fn fill(&mut self, filling: &mut Filling<'_>) -> Result<EndReason> {
        let mut tick = interval(self.options.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let begun = Instant::now();
        loop {
            if let Some(reason) = self.reconnect_or_end(filling).await? {
                return Ok(reason);
            }
            let Some(connected) = &mut self.connected else { continue };
            let event = tokio::select! {
                biased;
                () = self.control.stopped() => return Ok(self.why_stopped()),
                Some(answer) = connected.answers.recv() => Event::Answer(answer),
                // Before messages, which may come without a pause.
                _ = tick.tick() => Event::Tick,
                () = at(filling.cut_by()) => Event::Due,
                message = connected.watch.next() => Event::Message(message),
            };
            let reason = match event {
                Event::Message(Ok(Some(message))) => self.message(&message, filling)?,
                Event::Message(Ok(None)) => {
                    self.reconnect("etcd_ended_it", "etcd ended the watch".into());
                    None
                }
                Event::Message(Err(error)) if error.kind() == ErrorKind::Unreachable => {
                    self.reconnect("connection", format!("the watch broke off: {error}"));
                    None
                }
                Event::Message(Err(error)) if error.kind() == ErrorKind::Protocol => {
                    self.is_of_no_use(&error.to_string())
                }
                Event::Message(Err(error)) => return Err(error),
                Event::Answer(answer) => self.answer(answer, filling)?,
                Event::Tick => {
                    self.end_interval(filling);
                    None
                }
                Event::Due => {
                    filling.cut_if_scheduled()?;
                    None
                }
            };
            if let Some(reason) = reason {
                return Ok(reason);
            }
            if filling.is_blocked() {
                return Ok(EndReason::STORE);
            }
            let (bytes, segments) = filling.sealed();
            let is_full = bytes > MAX_STORED || segments.saturating_add(16) > MAX_SEGMENTS;
            let clock_was_set = filling.clock_was_set();
            if clock_was_set {
                self.step("this host's clock was set: the next journal begins".into());
            }
            if clock_was_set || begun.elapsed() > LONGEST || is_full {
                return Ok(EndReason::ROLLED);
            }
        }
    }
}

enum Event {
    Message(Result<Option<bytes::Bytes>>),
    Answer(Answer),
    Tick,
    /// The deadline of the scheduled cut has passed.
    Due,
}

/// Waits until `time`; never returns for `None`.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
