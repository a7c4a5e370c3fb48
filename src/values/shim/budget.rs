//! Memory for messages: one limit for the process, shared so that no client can use all of it.
//!
//! A client gets room as long as what it holds is not more than twice what is then left for all. So one client alone
//! gets two thirds, two get two fifths each, and however many there are, something is left for the next one. Its
//! calls and connections count apart: while they are not more than half of what is left, messages do not keep it from
//! calling.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Line, Notify};
use tonic::Status;

/// The default limit for messages.
pub(crate) const DEFAULT_MEMORY: usize = 512 << 20;
/// Calls of one client that wait to begin; more are refused. What waits takes memory that is not counted.
#[cfg(feature = "proxy")]
const MAX_WAITING: usize = 4096;
/// How long to wait for room.
const WAIT: Duration = Duration::from_secs(120);

/// One client's share of a process's memory.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Account>);

struct Pool {
    bytes: usize,
    /// How long to wait for room.
    patience: Duration,
    used: Mutex<usize>,
    freed: Notify,
}

struct Account {
    pool: Arc<Pool>,
    /// Changes only while the pool is locked, as the next.
    used: AtomicUsize,
    /// Of that, what calls and connections take.
    calls: AtomicUsize,
    /// The first in line tries again whenever room was given back.
    line: Line<()>,
    /// Calls that wait to begin: they must not delay calls in progress.
    #[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "only the proxy counts calls"))]
    door: Line<()>,
    /// How many of those there are.
    #[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "only the proxy counts calls"))]
    waiting: AtomicUsize,
}

/// What room is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Message,
    Call,
}

impl For {
    /// Whether a client may hold `bytes` for this while `left` are left for all.
    fn may_have(self, bytes: usize, left: usize) -> bool {
        match self {
            Self::Message => bytes <= left.saturating_mul(2),
            Self::Call => bytes <= left / 2,
        }
    }
}

impl Budget {
    /// A process's memory, with one client.
    pub(crate) fn new(bytes: usize) -> Self {
        Self::with_patience(bytes, WAIT)
    }

    fn with_patience(bytes: usize, patience: Duration) -> Self {
        let pool = Pool { bytes, patience, used: Mutex::new(0), freed: Notify::new() };
        Self::of(Arc::new(pool))
    }

    /// Another client's share of the same memory.
    #[cfg(feature = "proxy")]
    pub(crate) fn another(&self) -> Self {
        Self::of(Arc::clone(&self.0.pool))
    }

    /// Whether this share is used elsewhere.
    #[cfg(feature = "proxy")]
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// What all clients have taken.
    #[cfg(feature = "proxy")]
    pub(crate) fn used(&self) -> usize {
        *self.0.pool.lock()
    }

    fn of(pool: Arc<Pool>) -> Self {
        let (line, door) = (Line::default(), Line::default());
        let (used, calls, waiting) = Default::default();
        Self(Arc::new(Account { pool, used, calls, line, door, waiting }))
    }

    /// Room, without waiting.
    ///
    /// # Errors
    /// [`ResourceExhausted`](tonic::Code::ResourceExhausted) when there is none now.
    pub(crate) fn take(&self, bytes: usize) -> Result<Room, Status> {
        self.attempt(bytes, For::Message).ok_or_else(|| exhausted(bytes))
    }

    /// Room for something that was received already: after those of the same client that wait longer, unless there is room
    /// for it now.
    ///
    /// # Errors
    /// [`ResourceExhausted`](tonic::Code::ResourceExhausted) when there can never be enough,
    /// [`Unavailable`](tonic::Code::Unavailable) when there was not in time: clients try that again.
    pub(crate) async fn wait(&self, bytes: usize) -> Result<Room, Status> {
        match self.queue(bytes, For::Message, &self.0.line).await {
            Some(room) => room,
            None => Err(Status::unavailable(format!(
                "strongroom: no memory for {bytes} more bytes of this client's messages in time"
            ))),
        }
    }

    /// Room for a connection, without waiting.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[cfg(feature = "proxy")]
    pub(crate) fn connect(&self, bytes: usize) -> Result<Room, Status> {
        self.attempt(bytes, For::Call).ok_or_else(|| exhausted(bytes))
    }

    /// Room for a call, after those of the same client that wait longer.
    ///
    /// # Errors
    /// [`ResourceExhausted`](tonic::Code::ResourceExhausted) when there is not enough in time, or too many wait.
    #[cfg(feature = "proxy")]
    pub(crate) async fn enter(&self, bytes: usize) -> Result<Room, Status> {
        let _waits = Waits::new(&self.0).ok_or_else(|| exhausted(bytes))?;
        let entered = self.queue(bytes, For::Call, &self.0.door).await;
        entered.unwrap_or_else(|| Err(exhausted(bytes)))
    }

    /// Room after those in `line`; none when there is not enough in time.
    async fn queue(
        &self,
        bytes: usize,
        what: For,
        line: &Line<()>,
    ) -> Option<Result<Room, Status>> {
        if let Some(room) = self.attempt(bytes, what) {
            return Some(Ok(room));
        }
        if !self.0.pool.ever_has(bytes, what) {
            return Some(Err(exhausted(bytes)));
        }
        let wait = async {
            let _first = line.lock().await;
            loop {
                let freed = self.0.pool.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if let Some(room) = self.attempt(bytes, what) {
                    return room;
                }
                freed.await;
            }
        };
        tokio::time::timeout(self.0.pool.patience, wait).await.ok().map(Ok)
    }

    fn attempt(&self, bytes: usize, what: For) -> Option<Room> {
        let account = &self.0;
        let mut used = account.pool.lock();
        let held = account.held(what).load(Ordering::Relaxed).checked_add(bytes)?;
        let all = used.checked_add(bytes)?;
        if !what.may_have(held, account.pool.bytes.checked_sub(all)?) {
            return None;
        }
        *used = all;
        account.count(what, |held| held.saturating_add(bytes));
        Some(Room { account: Arc::clone(account), what, bytes })
    }
}

/// One of a client's calls that wait, until this is dropped.
#[cfg(feature = "proxy")]
struct Waits<'a>(&'a AtomicUsize);

#[cfg(feature = "proxy")]
impl<'a> Waits<'a> {
    fn new(account: &'a Account) -> Option<Self> {
        let before = account.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Self(&account.waiting);
        (before < MAX_WAITING).then_some(waits)
    }
}

#[cfg(feature = "proxy")]
impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Account {
    fn held(&self, what: For) -> &AtomicUsize {
        match what {
            For::Message => &self.used,
            For::Call => &self.calls,
        }
    }

    fn count(&self, what: For, change: impl Fn(usize) -> usize) {
        let change = |held: &AtomicUsize| {
            held.store(change(held.load(Ordering::Relaxed)), Ordering::Relaxed);
        };
        change(&self.used);
        if what == For::Call {
            change(&self.calls);
        }
    }
}

impl Pool {
    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ever_has(&self, bytes: usize, what: For) -> bool {
        self.bytes.checked_sub(bytes).is_some_and(|left| what.may_have(bytes, left))
    }
}

fn exhausted(bytes: usize) -> Status {
    let text = format!("strongroom: no memory for {bytes} more bytes of this client's messages");
    Status::resource_exhausted(text)
}

/// Memory that is taken until this is dropped.
pub(crate) struct Room {
    account: Arc<Account>,
    what: For,
    bytes: usize,
}

impl Room {
    /// Gives back all except `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if let Some(back) = self.bytes.checked_sub(bytes).filter(|back| *back > 0) {
            self.bytes = bytes;
            self.give(back);
        }
    }

    fn give(&self, bytes: usize) {
        let pool = &self.account.pool;
        {
            let mut used = pool.lock();
            *used = used.saturating_sub(bytes);
            self.account.count(self.what, |held| held.saturating_sub(bytes));
        }
        pool.freed.notify_waiters();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_always_left_for_another() {
        let first = Budget::new(900);
        let taken = first.take(600).unwrap();
        assert!(first.take(1).is_err());
        let others: Vec<_> = (0..5).map(|_| first.another()).collect();
        let rooms: Vec<_> = others.iter().map(|other| other.take(1)).collect();
        assert!(rooms.iter().all(Result::is_ok));
        drop((taken, rooms));
        assert_eq!(*first.0.pool.lock(), 0);
        let mut all = first.take(600).unwrap();
        all.shrink(100);
        all.shrink(200);
        assert_eq!((*first.0.pool.lock(), first.0.used.load(Ordering::Relaxed)), (100, 100));
    }

    #[cfg(feature = "proxy")]
    #[tokio::test]
    async fn messages_do_not_keep_calls_from_beginning() {
        let budget = Budget::new(900);
        let messages = budget.take(600).unwrap();
        let call = budget.enter(100).await.unwrap();
        assert!(budget.take(1).is_err() && budget.attempt(1, For::Call).is_none());
        assert!(budget.another().take(100).is_ok());
        drop(messages);
        assert!(budget.take(400).is_ok());
        drop(call);
        assert_eq!(budget.0.calls.load(Ordering::Relaxed), 0);
    }

    #[cfg(feature = "proxy")]
    #[tokio::test]
    async fn more_calls_do_not_wait_than_are_allowed() {
        let budget = Budget::new(900);
        let calls: Vec<_> = (0..3).map(|_| budget.connect(100).unwrap()).collect();
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(budget.enter(100))).collect();
        for call in &mut waiting {
            assert!(futures::poll!(call).is_pending());
        }
        let refused = tokio::time::timeout(WAIT / 2, budget.enter(100)).await.unwrap();
        assert_eq!(refused.err().unwrap().code(), tonic::Code::ResourceExhausted);
        drop((waiting, calls));
        assert!(budget.enter(100).await.is_ok());
    }

    #[tokio::test]
    async fn small_ones_pass_by_those_who_wait() {
        let budget = Budget::new(900);
        let held = budget.take(500).unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.wait(400).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(budget.wait(50).await.unwrap());
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.unwrap().unwrap();
    }

    /// Clients end for good on `RESOURCE_EXHAUSTED`, watches among them.
    #[tokio::test]
    async fn what_may_fit_later_can_be_tried_again() {
        let budget = Budget::with_patience(900, Duration::from_millis(20));
        let held = budget.take(500).unwrap();
        let late = budget.wait(400).await.err().unwrap();
        assert_eq!(late.code(), tonic::Code::Unavailable);
        drop(held);
        assert!(budget.wait(400).await.is_ok());
    }

    #[tokio::test]
    async fn what_never_fits_is_refused_at_once() {
        let budget = Budget::new(900);
        let refused = tokio::time::timeout(WAIT / 2, budget.wait(601)).await.unwrap();
        assert_eq!(refused.err().unwrap().code(), tonic::Code::ResourceExhausted);
        assert!(budget.wait(600).await.is_ok());
    }
}
