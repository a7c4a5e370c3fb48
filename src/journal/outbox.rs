//! What waits for a store: sealed objects, which are stored one after the other in the order in which they were made.
//!
//! What the store does not take waits in the spool, and where there is none, or it is full, in memory.

mod taken;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::bundle::Ended;
use super::options::RecordOptions;
use super::spool::Spool;
use crate::crypto;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::etcd::seen::Seen;
use crate::format::{Continues, EndReason, JournalPart, ObjectName};
use crate::store::Repository;
use crate::task::{Control, JournalStep, Step, run_blocking};
use crate::text::counted;

/// Bytes that may wait in memory.
const MAX_MEMORY: u64 = 32 << 20;
/// Between two attempts to reach etcd or the store.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// When the store takes so long for one object, what waits behind it goes to the spool.
const LATE: Duration = Duration::from_secs(5);

/// A sealed object on its way.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) bytes: Bytes,
    pub(super) kind: Kind,
}

/// What storing an object means.
#[derive(Clone)]
pub(super) enum Kind {
    /// The first object of a journal.
    First,
    /// A segment, and the moment up to which everything is stored with it.
    Segment(Continues, u64),
    /// The end of a journal, which its seal follows.
    End,
    /// The last object of a journal: the seal of its end.
    Last(Arc<Ended>),
    /// What an earlier recorder left in the spool.
    Left,
    Other,
}

/// An object that waits: in memory, or in the spool.
struct Waiting {
    name: String,
    bytes: Option<Bytes>,
    length: u64,
    kind: Kind,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    /// Bytes in memory.
    memory: u64,
    /// The last segment that is stored.
    stored: Option<Continues>,
    /// The last revision that is stored or in the spool.
    safe: i64,
    /// Of a second place: the rest of this journal is left to `copy`.
    skips: bool,
    /// The store, or the spool, has failed, and that was told.
    told: bool,
    told_spool: bool,
}

/// Another name for the segment `name`, with a random last revision. It is higher than its own, so that no reader looks for
/// less than there is.
fn other_name(name: &str) -> Option<String> {
    let Some(ObjectName::Journal { id, part: JournalPart::Segment { number, last } }) =
        ObjectName::parse(name)
    else {
        return None;
    };
    let random = u64::from_le_bytes(crypto::random(&mut crypto::system_rng())) >> 1;
    Some(JournalPart::Segment { number, last: last.max(random) }.of(id))
}

/// What waits for one store.
pub(crate) struct Outbox<'a> {
    repository: &'a Repository,
    spool: Option<Arc<Spool>>,
    /// A second place never holds up the first, and what it misses is no failure.
    is_second: bool,
    inner: Mutex<Inner>,
    changed: Notify,
    emptied: Notify,
    seen: Arc<Seen>,
    /// Where journals go that have ended, and are stored.
    ended: Option<mpsc::UnboundedSender<Arc<Ended>>>,
    control: &'a Control,
}

impl<'a> Outbox<'a> {
    /// For the repository that is recorded to.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] and [`ErrorKind::Io`] of the spool.
    pub(crate) fn new(
        repository: &'a Repository,
        options: &RecordOptions,
        (seen, ended): (Arc<Seen>, mpsc::UnboundedSender<Arc<Ended>>),
        control: &'a Control,
    ) -> Result<Self> {
        let mut outbox = Self::second(repository, control);
        outbox.is_second = false;
        outbox.seen = seen;
        outbox.ended = Some(ended);
        if let Some(dir) = &options.spool {
            let spool = (dir.as_path(), options.spool_bytes());
            let spool = Spool::open(spool, repository.id()).context("spool")?;
            let left = spool.left().context("spool")?;
            left.findings.into_iter().for_each(|finding| outbox.note(finding));
            let mut inner = outbox.inner();
            inner.waiting.extend(left.objects.into_iter().map(|name| Waiting {
                name,
                bytes: None,
                length: 0,
                kind: Kind::Left,
            }));
            drop(inner);
            outbox.spool = Some(Arc::new(spool));
        }
        Ok(outbox)
    }

    /// For a second place, which has no spool: what it misses a copy brings.
    pub(crate) fn second(repository: &'a Repository, control: &'a Control) -> Self {
        Self {
            repository,
            spool: None,
            is_second: true,
            inner: Mutex::default(),
            changed: Notify::new(),
            emptied: Notify::new(),
            seen: Arc::default(),
            ended: None,
            control,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, note: String) {
        self.control.step(Step::Note(note));
    }

    /// Adds an object behind all others.
    pub(super) fn push(&self, object: Object) {
        let mut inner = self.inner();
        let is_first = matches!(object.kind, Kind::First);
        if self.is_second
            && (inner.skips || inner.memory > MAX_MEMORY)
            && !(is_first && inner.waiting.is_empty())
        {
            let is_news = !std::mem::replace(&mut inner.skips, true);
            drop(inner);
            if is_news {
                self.note(
                    "the second place is away: `strongroom copy` brings what it misses".into(),
                );
            }
            return;
        }
        inner.skips = false;
        let Object { name, bytes, kind } = object;
        let length = bytes.len() as u64;
        inner.memory = inner.memory.saturating_add(length);
        inner.waiting.push_back(Waiting { name, bytes: Some(bytes), length, kind });
        drop(inner);
        self.changed.notify_one();
        self.tell_waiting();
    }

    /// Tells how much waits.
    fn tell_waiting(&self) {
        if self.is_second {
            return;
        }
        let queued = self.inner().memory;
        let spooled = self.spool.as_ref().map_or(0, |spool| spool.used());
        self.control.step(Step::Journal(JournalStep::Waiting { queued, spooled }));
    }

    /// Whether more waits in memory than may.
    pub(super) fn is_full(&self) -> bool {
        self.inner().memory > MAX_MEMORY
    }

    /// The last segment that is stored; `None` before there is one.
    pub(crate) fn stored(&self) -> Option<Continues> {
        self.inner().stored
    }

    /// The last revision that is stored or in the spool; 0 before there is one.
    pub(crate) fn safe(&self) -> i64 {
        self.inner().safe
    }

    /// Waits until everything is stored.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.inner().waiting.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Stores what waits until that is empty or the store is away.
    ///
    /// # Errors
    /// Those of the store and of the spool.
    pub(crate) async fn send_left(&self) -> Result<()> {
        let count = self.inner().waiting.len();
        if count > 0 {
            self.note(format!(
                "storing {} that an earlier recorder left in the spool",
                counted(count, "object")
            ));
        }
        while self.send_first().await? {}
        Ok(())
    }

    /// Stores what waits, and what is added, one after the other. It ends only when another attempt does not help.
    pub(crate) async fn run(&self) -> Error {
        let mut pause = PAUSE;
        loop {
            match self.send_first().await {
                Ok(true) => pause = PAUSE,
                Ok(false) => self.changed.notified().await,
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    if !std::mem::replace(&mut self.inner().told, true) {
                        let which = if self.is_second { "second place" } else { "store" };
                        self.note(format!(
                            "the {which} cannot be reached, and is tried again: {error}"
                        ));
                    }
                    self.beside(sleep(pause), Duration::ZERO).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) if self.is_second => {
                    self.note(format!("the second place takes no more of this journal: {error}"));
                    let mut inner = self.inner();
                    inner.waiting.clear();
                    (inner.memory, inner.skips) = (0, true);
                }
                Err(error) => return error,
            }
        }
    }

    /// Stores the first object. False if there is none.
    async fn send_first(&self) -> Result<bool> {
        let first =
            self.inner().waiting.front().map(|first| (first.name.clone(), first.bytes.clone()));
        let Some((name, bytes)) = first else {
            self.emptied.notify_waiters();
            return Ok(false);
        };
        let bytes = match (bytes, &self.spool) {
            (Some(bytes), _) => bytes,
            (None, Some(spool)) => {
                let (spool, name) = (Arc::clone(spool), name.clone());
                run_blocking(move || spool.read(&name)).await.context("spool")?
            }
            (None, None) => return Err(Error::new(ErrorKind::Io, format!("{name}: lost"))),
        };
        let (length, begun) = (bytes.len() as u64, Instant::now());
        match self.beside(self.put(&name, bytes.clone()), LATE).await {
            Ok(()) => self.took_first(length, begun.elapsed()).await?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => self.is_taken(&bytes, e).await?,
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Stores an object. Where somebody else has put one under the name of a segment, it is stored under a name that nobody can
    /// know before: what the name says of the last revision decides nothing ([S13.6]).
    async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let taken = match self.repository.put_once(name, bytes.clone()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => error,
            stored => return stored,
        };
        let Some(other) = other_name(name) else { return Err(taken) };
        self.note(format!(
            "{taken}; somebody else put it there, and the segment gets another name"
        ));
        self.repository.put_once(&other, bytes).await
    }

    /// Takes note that the first object, of `length` bytes, is stored.
    async fn took_first(&self, length: u64, took: Duration) -> Result<()> {
        let (first, was_away) = {
            let mut inner = self.inner();
            (inner.waiting.pop_front(), std::mem::take(&mut inner.told))
        };
        let Some(first) = first else { return Ok(()) };
        if was_away && !self.is_second {
            self.note("the store takes objects again".into());
        }
        match (&first.bytes, &self.spool) {
            (Some(_), _) => {
                let mut inner = self.inner();
                inner.memory = inner.memory.saturating_sub(length);
            }
            (None, Some(spool)) => {
                let (spool, name) = (Arc::clone(spool), first.name.clone());
                run_blocking(move || spool.remove(&name)).await.context("spool")?;
            }
            (None, None) => {}
        }
        self.told_stored(first.kind, length, took);
        self.tell_waiting();
        if self.inner().waiting.is_empty() {
            self.emptied.notify_waiters();
        }
        Ok(())
    }

    fn told_stored(&self, kind: Kind, bytes: u64, took: Duration) {
        if self.is_second {
            return;
        }
        match kind {
            Kind::Segment(segment, complete_ms) => {
                let revision = segment.last.cast_signed();
                let mut inner = self.inner();
                inner.stored = Some(segment);
                inner.safe = inner.safe.max(revision);
                drop(inner);
                self.seen.stored(segment);
                let step = JournalStep::Stored { revision, complete_ms, bytes, took };
                self.control.step(Step::Journal(step));
            }
            Kind::Last(ended) => {
                let (journal, revision) = (ended.head.journal, ended.end.last.cast_signed());
                let why = EndReason::words(ended.end.reason);
                self.control.step(Step::Journal(JournalStep::Ended { journal, revision, why }));
                self.hand_over(ended);
            }
            Kind::First | Kind::End | Kind::Left | Kind::Other => {}
        }
    }

    fn hand_over(&self, ended: Arc<Ended>) {
        if let Some(sender) = &self.ended {
            // Nobody bundles any more when the recording was stopped.
            let _ = sender.send(ended);
        }
    }

    /// Does `work`. When it has taken longer than `after`, or much waits in memory, that goes to the spool meanwhile.
    async fn beside<T>(&self, work: impl Future<Output = T>, after: Duration) -> T {
        let (mut work, begun) = (std::pin::pin!(work), Instant::now());
        loop {
            let left = after.saturating_sub(begun.elapsed());
            if left.is_zero() || self.inner().memory > MAX_MEMORY / 2 {
                self.spill().await;
            }
            tokio::select! {
                done = &mut work => return done,
                () = self.changed.notified() => {}
                () = sleep(left), if !left.is_zero() => {}
            }
        }
    }

    /// Moves what waits in memory to the spool, as far as there is room: the oldest first.
    pub(crate) async fn spill(&self) {
        let Some(spool) = &self.spool else { return };
        loop {
            let next = {
                let inner = self.inner();
                let next = inner.waiting.iter().find(|waiting| waiting.bytes.is_some());
                next.and_then(|next| Some((next.name.clone(), next.bytes.clone()?)))
            };
            let Some((name, bytes)) = next else { return };
            let (spool, file) = (Arc::clone(spool), name.clone());
            if let Err(error) = run_blocking(move || spool.put(&file, &bytes)).await {
                if !std::mem::replace(&mut self.inner().told_spool, true) {
                    self.note(format!(
                        "the spool takes no more, so the rest waits in memory: {error}"
                    ));
                }
                return;
            }
            self.is_spooled(&name);
            self.tell_waiting();
        }
    }

    fn is_spooled(&self, name: &str) {
        let mut inner = self.inner();
        inner.told_spool = false;
        let Some(one) = inner.waiting.iter_mut().find(|waiting| waiting.name == name) else {
            return;
        };
        one.bytes = None;
        let (length, kind) = (one.length, one.kind.clone());
        inner.memory = inner.memory.saturating_sub(length);
        if let Kind::Segment(segment, _) = kind {
            inner.safe = inner.safe.max(segment.last.cast_signed());
        }
    }

    /// Stores what waits, within `patience`; the rest goes to the spool.
    ///
    /// # Errors
    /// Those of the store that another attempt does not mend.
    pub(crate) async fn settle(&self, patience: Duration) -> Result<()> {
        let sending = async {
            tokio::select! {
                error = self.run() => Err(error),
                () = self.emptied() => Ok(()),
            }
        };
        let sent = timeout(patience, sending).await;
        self.spill().await;
        sent.unwrap_or(Ok(()))
    }
}
