//! Streams in both directions: watches, and leases kept alive.
//!
//! Each message of the client is parsed and judged before etcd gets it. What is refused is answered as etcd answers it: a
//! watch is canceled, and the others of the stream go on; a stream that keeps leases alive ends with the status. When etcd is lost the stream ends with `UNAVAILABLE`, so that clients
//! open it again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use super::budget::Room;
use super::frames::{Frames, framed, held};
use super::method::Method;
use super::status::Failure;
use super::streams::trailers_of;
use super::upstream::{MAX_ANSWERS, Parsed, Shim};
use crate::protobuf::fields::{HEADER, watch, watch_cancel, watch_response};
use crate::protobuf::{Singles, put_bytes, put_message, put_number};

/// Decides on each message of a stream, or on why it cannot be parsed; an error refuses that message alone.
pub(crate) type Judge =
    Arc<dyn Fn(Result<Parsed, Status>) -> BoxFuture<'static, Result<Parsed, Status>> + Send + Sync>;

/// Lets everything pass.
pub(super) fn everything() -> Judge {
    Arc::new(|message| Box::pin(std::future::ready(message)))
}

/// Answers and cancellations made here that wait to be sent.
const WAITING: usize = 64;

/// What the half that reads the client tells the half that answers.
enum Notice {
    /// An answer made here, to be sent after etcd has answered so many creations of watches.
    Answer { after: u64, message: Bytes },
    /// The client's half failed: the stream ends.
    Failed(Status),
}

/// The half that reads the client, and feeds etcd.
struct Client {
    shim: Shim,
    method: Method,
    headers: HeaderMap,
    requests: Frames,
    judge: Judge,
    /// Creations of watches that went to etcd.
    created: u64,
    notices: mpsc::Sender<Notice>,
    cancels: mpsc::Receiver<i64>,
}

/// The half that answers.
struct Answers {
    shim: Shim,
    method: Method,
    etcd: Etcd,
    notices: Option<mpsc::Receiver<Notice>>,
    /// Answers made here whose turn has not come.
    local: VecDeque<(u64, Bytes)>,
    /// Creations that etcd answered.
    created: u64,
    cancel: mpsc::Sender<i64>,
    /// Watches that were cancelled here and may still have events on the way.
    cancelled: BTreeSet<i64>,
}

enum Etcd {
    Opens(BoxFuture<'static, Result<Response<Body>, Failure>>),
    Answers(Box<Frames>),
}

/// The client's response, which begins at once: etcd may have nothing to say for long.
pub(super) fn open(
    shim: Shim,
    method: Method,
    headers: HeaderMap,
    requests: Frames,
    judge: Judge,
) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (cancel, cancels) = mpsc::channel(WAITING);
    let mut client = Client {
        shim: shim.clone(),
        method,
        headers: headers.clone(),
        requests,
        judge,
        created: 0,
        notices: sender,
        cancels,
    };
    let mut upstream = shim.clone();
    // Etcd is asked once there is something to ask: a stream that failed before its client has written would fail that
    // write, which Python's grpc.aio takes for an internal error.
    let etcd = Etcd::Opens(Box::pin(async move {
        let first = client.next().await;
        let messages = stream::iter(first).chain(stream::unfold(client, |mut client| async {
            let message = client.next().await?;
            Some((message, client))
        }));
        let frames = messages.map(|message| Ok::<_, Status>(Frame::data(framed(&message))));
        upstream.send(method, &headers, Body::new(StreamBody::new(frames))).await
    }));
    let answers = Answers {
        shim,
        method,
        etcd,
        notices: Some(receiver),
        local: VecDeque::new(),
        created: 0,
        cancel,
        cancelled: BTreeSet::new(),
    };
    let frames = stream::unfold(Some(answers), |answers| async {
        let mut answers = answers?;
        Some(match answers.next().await {
            Ok(message) => {
                let message = held(framed(&message), answers.room());
                (Ok::<_, Status>(Frame::data(message)), Some(answers))
            }
            Err(end) => (Ok(Frame::trailers(end)), None),
        })
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

impl Client {
    /// The next message for etcd; none when the client has ended its half, or it failed.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let message = tokio::select! {
                biased;
                Some(id) = self.cancels.recv() => return Some(cancel(id)),
                message = self.requests.next() => message,
            };
            let message = match message {
                Ok(message) => message?,
                Err(status) => {
                    let _ = self.notices.send(Notice::Failed(status)).await;
                    return None;
                }
            };
            match (self.judge)(Parsed::parse(self.method, &message)).await {
                Ok(parsed) => {
                    let create = Singles::<1>::read(&parsed.message)
                        .and_then(|one| one.message(watch::CREATE));
                    if self.method == Method::Watch && matches!(create, Ok(Some(_))) {
                        self.created = self.created.saturating_add(1);
                    }
                    return Some(parsed.message);
                }
                Err(status) => {
                    let is_watch = self.method == Method::Watch;
                    let notice = if is_watch {
                        let message = self.refusal(&status).await;
                        Notice::Answer { after: self.created, message }
                    } else {
                        Notice::Failed(status)
                    };
                    if self.notices.send(notice).await.is_err() || !is_watch {
                        return None;
                    }
                }
            }
        }
    }

    /// As etcd refuses to create a watch (`server/etcdserver/api/v3rpc/watch.go`). It ends no other of the stream.
    async fn refusal(&mut self, status: &Status) -> Bytes {
        let mut out = Vec::new();
        put_message(&mut out, HEADER, &self.shim.header(&self.headers).await);
        // `clientv3.InvalidWatchID`, created, canceled, and the reason as Go prints a status.
        put_number(&mut out, watch_response::WATCH_ID, -1);
        put_number(&mut out, watch_response::CREATED, 1);
        put_number(&mut out, watch_response::CANCELED, 1);
        let (code, text) = (super::status::go_name(status.code()), status.message());
        let reason = format!("rpc error: code = {code} desc = {text}");
        put_bytes(&mut out, watch_response::CANCEL_REASON, reason.as_bytes());
        out.into()
    }
}

/// A `WatchRequest` that cancels.
fn cancel(id: i64) -> Bytes {
    let (mut cancel, mut request) = (Vec::new(), Vec::new());
    put_number(&mut cancel, watch_cancel::WATCH_ID, id);
    put_message(&mut request, watch::CANCEL, &cancel);
    request.into()
}

impl Answers {
    /// The next message for the client, or the trailers with which the stream ends.
    async fn next(&mut self) -> Result<Bytes, HeaderMap> {
        loop {
            if let Some((after, _)) = self.local.front()
                && *after <= self.created
                && let Some((_, message)) = self.local.pop_front()
            {
                return Ok(message);
            }
            let notice = async {
                match &mut self.notices {
                    Some(notices) => notices.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // As long as they wait for etcd, no more are taken: the client waits too.
                notice = notice, if self.local.len() < WAITING => match notice {
                    Some(Notice::Answer { after, message }) => self.local.push_back((after, message)),
                    Some(Notice::Failed(status)) => return Err(trailers_of(&status)),
                    None => self.notices = None,
                },
                answered = self.etcd.next(&self.shim) => {
                    let Some(message) = answered? else { continue };
                    if let Some(message) = self.message(&message).await.map_err(|failure| trailers_of(&failure.status()))? {
                        return Ok(message);
                    }
                }
            }
        }
    }

    /// What keeps room for etcd's last message.
    fn room(&mut self) -> Option<Room> {
        match &mut self.etcd {
            Etcd::Answers(frames) => frames.room(),
            Etcd::Opens(_) => None,
        }
    }

    /// The client's message for one of etcd's.
    async fn message(&mut self, message: &Bytes) -> Result<Option<Bytes>, Failure> {
        if self.method != Method::Watch {
            return Ok(Some(message.clone()));
        }
        let fields = Singles::<4>::read(message)?;
        let id = fields.number(watch_response::WATCH_ID)?;
        let created = fields.flag(watch_response::CREATED)?;
        let ended = fields.flag(watch_response::CANCELED)?;
        self.created = self.created.saturating_add(u64::from(created));
        if self.cancelled.contains(&id) {
            // What etcd still sends before it hears of the end, and that end.
            if created || ended {
                self.cancelled.remove(&id);
            }
            if !created {
                return Ok(None);
            }
        }
        match self.shim.shared.opened(|with| with.watch_response(message)).await {
            Ok(response) => Ok(response.map(Bytes::from)),
            Err(failure) => {
                // A watch with an event that does not open is cancelled, with the reason.
                self.cancelled.insert(id);
                let _ = self.cancel.send(id).await;
                let mut out = Vec::new();
                put_message(&mut out, HEADER, fields.bytes(HEADER)?);
                put_number(&mut out, watch_response::WATCH_ID, id);
                put_number(&mut out, watch_response::CANCELED, 1);
                let reason = failure.status();
                let reason = reason.message().as_bytes();
                put_bytes(&mut out, watch_response::CANCEL_REASON, reason);
                Ok(Some(out.into()))
            }
        }
    }
}

impl Etcd {
    /// etcd's next message, or nothing once it has begun to answer; or the trailers with which it ends.
    async fn next(&mut self, shim: &Shim) -> Result<Option<Bytes>, HeaderMap> {
        match self {
            Self::Opens(opens) => {
                let response = opens.await.map_err(|failure| trailers_of(&failure.status()))?;
                let (head, body) = response.into_parts();
                if let Some(status) = Status::from_header_map(&head.headers) {
                    return Err(trailers_of(&status));
                }
                *self = Self::Answers(Box::new(Frames::of_etcd(
                    body,
                    MAX_ANSWERS,
                    shim.memory.clone(),
                )));
                Ok(None)
            }
            Self::Answers(frames) => match frames.next().await {
                Ok(Some(message)) => Ok(Some(message)),
                Ok(None) => Err(super::streams::end_of(frames)),
                Err(status) => Err(trailers_of(&status)),
            },
        }
    }
}
