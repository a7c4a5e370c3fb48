//! Several members as one channel: requests go round those that are connected.
//!
//! A request of which a member got nothing, because its connection did not come up or had ended, goes to the next one.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::Channel;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::{BoxError, Service as _};

use super::dial::Dial;

/// Pauses between attempts to connect to a member: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A channel to several members. Connects when it is first used.
#[derive(Clone)]
pub(super) struct Balanced(Arc<Members>);

struct Members {
    dials: Vec<Dial>,
    states: watch::Sender<Vec<State>>,
    next: AtomicUsize,
}

#[derive(Clone)]
enum State {
    Unused,
    /// With the error of the last attempt, if there was one.
    Connecting(Option<Arc<dyn Error + Send + Sync>>),
    Up(Channel),
}

impl Balanced {
    pub(super) fn new(dials: Vec<Dial>) -> Self {
        let states = watch::Sender::new(vec![State::Unused; dials.len()]);
        Self(Arc::new(Members { dials, states, next: AtomicUsize::new(0) }))
    }

    /// Sends one request to the member whose turn it is, or to the next when that one got nothing of it.
    ///
    /// # Errors
    /// The member's, or the last one's when none could be reached.
    pub(super) async fn send(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let kept = Kept::new(body);
        let mut attempts = self.0.dials.len();
        loop {
            let (at, mut channel) = self.0.pick().await?;
            let request = Request::from_parts(head.clone(), Body::new(kept.clone()));
            let sent = match poll_fn(|context| channel.poll_ready(context)).await {
                Ok(()) => channel.call(request).await,
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            attempts = attempts.saturating_sub(1);
            if kept.begun.load(Ordering::Acquire) {
                return Err(error);
            }
            self.0.connect(at);
            if attempts == 0 {
                return Err(error);
            }
        }
    }
}

impl Members {
    /// The next of those that are connected; waits for the first when none is, unless each of them has failed.
    async fn pick(self: &Arc<Self>) -> Result<(usize, Channel), BoxError> {
        let mut states = self.states.subscribe();
        loop {
            if let Some(up) = self.up(&states.borrow_and_update()) {
                return Ok(up);
            }
            (0..self.dials.len()).for_each(|at| self.begin(at));
            let failed = self.states.borrow().iter().try_fold(None, |_, state| match state {
                State::Connecting(Some(error)) => Some(Some(Arc::clone(error))),
                _ => None,
            });
            if let Some(error) = failed {
                return Err(error.map_or_else(
                    || Status::unavailable("no endpoint is given").into(),
                    BoxError::from,
                ));
            }
            states.changed().await?;
        }
    }

    fn up(&self, states: &[State]) -> Option<(usize, Channel)> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..states.len()).find_map(|step| {
            let at = first.wrapping_add(step).checked_rem(states.len())?;
            match states.get(at)? {
                State::Up(channel) => Some((at, channel.clone())),
                _ => None,
            }
        })
    }

    /// Connects to a member that nobody has connected to.
    fn begin(self: &Arc<Self>, at: usize) {
        if matches!(self.states.borrow().get(at), Some(State::Unused)) {
            self.connect(at);
        }
    }

    /// Leaves a member out until it can be reached.
    fn connect(self: &Arc<Self>, at: usize) {
        let Some(dial) = self.dials.get(at).cloned() else { return };
        let connects = self.states.send_if_modified(|states| match states.get_mut(at) {
            Some(state @ (State::Unused | State::Up(_))) => {
                *state = State::Connecting(None);
                true
            }
            _ => false,
        });
        if connects {
            tokio::spawn(until_up(Arc::downgrade(self), at, dial));
        }
    }
}

/// Tries until the member is connected, or nobody wants it any more.
async fn until_up(members: Weak<Members>, at: usize, dial: Dial) {
    let mut pause = PAUSE.0;
    loop {
        let connected = dial.at_once().await;
        let Some(members) = members.upgrade() else { return };
        let (state, up) = match connected {
            Ok(channel) => (State::Up(channel), true),
            Err(error) => (State::Connecting(Some(error.into())), false),
        };
        members.states.send_modify(|states| {
            if let Some(place) = states.get_mut(at) {
                *place = state;
            }
        });
        drop(members);
        if up {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE.1);
    }
}

/// A request's body, which stays ours when the request is dropped before anything of it was sent.
#[derive(Clone)]
struct Kept {
    body: Arc<Mutex<Body>>,
    /// Whether a connection has asked for it. etcd does nothing before a message is there.
    begun: Arc<AtomicBool>,
}

impl Kept {
    fn new(body: Body) -> Self {
        Self { body: Arc::new(Mutex::new(body)), begun: Arc::default() }
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.begun.store(true, Ordering::Release);
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    fn request() -> Request<Body> {
        Request::post("http://etcd/etcdserverpb.KV/Range").body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_says_so() {
        let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
        let dials = endpoints.map(|endpoint| Dial::Plain(Endpoint::from_static(endpoint)));
        let balanced = Balanced::new(dials.to_vec());
        for _ in 0..2 {
            let error = balanced.clone().send(request()).await.unwrap_err();
            assert_eq!(Status::from_error(error).code(), tonic::Code::Unavailable);
        }
    }
}
