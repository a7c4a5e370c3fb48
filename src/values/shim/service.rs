//! The shim as a service: requests of etcd's gRPC API in, their answers out.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Channel, Client, ConnectOptions};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, request};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service};

use super::compare::Read;
use super::frames::{Budget, Frames, answered, single};
use super::op::Op;
use super::rewrite::Rewriter;
use super::scope::{Reserved, Scope};
use super::status::Failure;
use super::txn::{Txn, responses};
use super::wire::{Singles, put_message, put_number, without};
use crate::etcd::from_client;
use crate::values::{Namespace, ValueCipher};

/// etcd's default of 1.5 MiB and what it adds to it (`server/etcdserver/api/v3rpc/grpc.go`).
const DEFAULT_REQUEST: usize = (1536 + 512) << 10;
/// Of a connection's answers at once, and so of one: an answer that is to be rewritten has to fit.
pub(crate) const MAX_ANSWERS: usize = 256 << 20;
/// Of a connection's requests at once.
pub(crate) const MAX_REQUESTS: usize = 64 << 20;
/// Pauses between attempts at a transaction when somebody was faster: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Stands before a channel to etcd and encrypts the values on their way: a service for the requests of etcd's gRPC
/// API.
#[derive(Clone)]
pub struct Shim {
    /// For calls with one answer.
    calls: Channel,
    streams: Channel,
    requests: Budget,
    answers: Budget,
    max_request: usize,
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    namespace: Namespace,
    scope: Scope,
    reserved: Reserved,
}

impl Shared {
    pub(super) fn rewriter<'a>(&'a self, cipher: &'a ValueCipher) -> Rewriter<'a> {
        let trouble = self.namespace.writable().err();
        Rewriter { cipher, scope: &self.scope, reserved: &self.reserved, trouble }
    }

    /// What `work` comes to; when it wants for a key, with keys read anew.
    pub(super) async fn opened<T>(
        &self,
        mut work: impl FnMut(&Rewriter<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let done = work(&self.rewriter(&self.namespace.cipher()));
        match done {
            Err(Failure::UnknownKey(_)) => work(&self.rewriter(&*self.namespace.refresh().await?)),
            done => done,
        }
    }
}

/// etcd's answer to one request.
struct Answer {
    headers: HeaderMap,
    message: Bytes,
    trailers: HeaderMap,
    room: Option<OwnedSemaphorePermit>,
}

impl Answer {
    fn with(self, message: &[u8]) -> Response<Body> {
        let mut response = Response::new(answered(message, self.trailers, self.room));
        *response.headers_mut() = self.headers;
        response
    }
}

impl Shim {
    /// A shim before `upstream`, with the keys of `namespace`, for the keys in `scope`.
    #[must_use]
    pub fn new(upstream: Channel, namespace: Namespace, scope: Scope) -> Self {
        let reserved = Reserved::new(namespace.prefix());
        let shared = Arc::new(Shared { namespace, scope, reserved });
        Self::made(upstream.clone(), upstream, DEFAULT_REQUEST, shared)
    }

    /// A client of etcd through it: the same calls and types as any, with values that etcd does not see.
    ///
    /// # Errors
    /// Those of the client: of logging in, when `options` name a user.
    pub async fn client(self, options: Option<ConnectOptions>) -> crate::Result<Client> {
        let channel = Channel::Custom(BoxCloneSyncService::new(self));
        let client = Client::from_channel(channel, options).await;
        client.map_err(|error| from_client("connect", &error))
    }

    /// With requests of up to `bytes`.
    #[must_use]
    pub fn with_max_request(self, bytes: usize) -> Self {
        Self::made(self.calls, self.streams, bytes, self.shared)
    }

    /// As it is, with memory of its own and other connections to etcd: one for calls with one answer, which is always
    /// taken whole, and one for streams, which go as fast as their reader.
    #[must_use]
    pub fn over(&self, calls: Channel, streams: Channel) -> Self {
        Self::made(calls, streams, self.max_request, Arc::clone(&self.shared))
    }

    fn made(calls: Channel, streams: Channel, max_request: usize, shared: Arc<Shared>) -> Self {
        let requests = Budget::new(MAX_REQUESTS.max(max_request));
        let answers = Budget::new(MAX_ANSWERS);
        Self { calls, streams, requests, answers, max_request, shared }
    }

    fn frames(&self, body: Body) -> Frames {
        Frames::new(body, self.max_request, self.requests.clone())
    }

    /// etcd's answer to `request`, or a failure as gRPC says it.
    pub(crate) async fn respond(self, request: Request<Body>) -> Response<Body> {
        self.answer(request).await.unwrap_or_else(Failure::response)
    }

    async fn answer(mut self, mut request: Request<Body>) -> Result<Response<Body>, Failure> {
        // What etcd compressed could not be rewritten.
        request.headers_mut().remove("grpc-accept-encoding");
        let path = request.uri().path().to_owned();
        match &*path {
            "/etcdserverpb.KV/Range"
            | "/etcdserverpb.KV/Put"
            | "/etcdserverpb.KV/DeleteRange"
            | "/etcdserverpb.KV/Txn"
            | "/v3electionpb.Election/Campaign"
            | "/v3electionpb.Election/Proclaim"
            | "/v3electionpb.Election/Leader"
            | "/v3electionpb.Election/Resign"
            | "/v3lockpb.Lock/Lock"
            | "/v3lockpb.Lock/Unlock" => {
                let limit = deadline(request.headers());
                let work = self.unary(&path, request);
                match limit {
                    None => work.await,
                    Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                        Err(Status::deadline_exceeded("context deadline exceeded").into())
                    }),
                }
            }
            "/etcdserverpb.KV/RangeStream" => self.range_stream(request).await,
            "/v3electionpb.Election/Observe" => {
                let response = self.send(request).await?;
                Ok(super::streams::key_values(
                    response,
                    Arc::clone(&self.shared),
                    self.answers.clone(),
                ))
            }
            "/etcdserverpb.Watch/Watch" => {
                let (sender, requests) =
                    super::streams::with_cancels(request, |body| self.frames(body));
                let response = self.send(requests).await?;
                Ok(super::streams::watch(
                    response,
                    Arc::clone(&self.shared),
                    self.answers.clone(),
                    sender,
                ))
            }
            path if path != "/etcdserverpb.KV/Compact" && carries_values(path) => {
                Err(Failure::unknown())
            }
            _ => self.send(request).await,
        }
    }

    async fn unary(
        &mut self,
        path: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let (head, body) = request.into_parts();
        let mut frames = self.frames(body);
        let message = frames.only().await?;
        let shared = Arc::clone(&self.shared);
        let op = match path {
            "/etcdserverpb.KV/Range" => shared.opened(|with| Op::range(with, &message)).await?,
            "/etcdserverpb.KV/Put" => {
                shared.opened(|with| Ok(Op::Put(with.put_request(&message)?))).await?
            }
            "/etcdserverpb.KV/DeleteRange" => {
                shared.opened(|with| Op::delete(with, &message)).await?
            }
            "/etcdserverpb.KV/Txn" => {
                let mut txn = shared.opened(|with| Txn::read(with, &message)).await?;
                if txn.is_ours_to_decide(&shared.rewriter(&shared.namespace.cipher())) {
                    return self.decided(&head, &mut txn).await;
                }
                Op::Txn(Box::new(txn))
            }
            _ => return self.concurrency(path, &head, &message).await,
        };
        let encoded;
        let sent = match &op {
            Op::Range { parts, .. } | Op::Delete { parts } => match &parts[..] {
                [only] => only,
                _ => return self.split(&head, &op).await,
            },
            Op::Put(request) | Op::Other(request) => request,
            Op::Txn(txn) => {
                encoded = txn.encode(&[]);
                &encoded
            }
        };
        let answer = self.ask(path, &head, sent).await?;
        let message = shared.opened(|with| op.response(&[&answer.message], with)).await?;
        Ok(answer.with(&message))
    }

    /// An operation on both sides of the reserved prefix, at one moment.
    async fn split(&mut self, head: &request::Parts, op: &Op) -> Result<Response<Body>, Failure> {
        let mut request = Vec::new();
        op.put(&mut request, 2, &[]);
        let answer = self.ask("/etcdserverpb.KV/Txn", head, &request).await?;
        let kind = if matches!(op, Op::Range { .. }) { 1 } else { 3 };
        let message = self
            .shared
            .opened(|with| {
                let mut parts = Vec::new();
                for op in responses(&answer.message)? {
                    let part = Singles::<3>::read(op)?.message(kind)?.unwrap_or_default();
                    // Its header would be that of the moment before.
                    parts.push(Vec::new());
                    without(part, &[1], parts.last_mut().ok_or_else(Failure::malformed)?)?;
                }
                let given: Vec<_> = parts.iter().map(Vec::as_slice).collect();
                let mut message = Vec::new();
                if let Some(header) = Singles::<1>::read(&answer.message)?.message(1)? {
                    put_message(&mut message, 1, header);
                }
                message.extend(op.response(&given, with)?);
                Ok(message)
            })
            .await?;
        Ok(answer.with(&message))
    }

    /// A transaction that compares what etcd cannot read.
    async fn decided(
        &mut self,
        head: &request::Parts,
        txn: &mut Txn,
    ) -> Result<Response<Body>, Failure> {
        let shared = Arc::clone(&self.shared);
        let mut pause = PAUSE.0;
        loop {
            let (read, rooms) = self.compared(head, txn).await?;
            let guarded = shared.opened(|with| txn.decide(&read, with)).await?;
            drop((read, rooms));
            let answer = self.ask("/etcdserverpb.KV/Txn", head, &guarded.request).await?;
            let message =
                shared.opened(|with| txn.guarded_answer(&guarded, &answer.message, with)).await?;
            if let Some(message) = message {
                return Ok(answer.with(&message));
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
    }

    /// All that a transaction compares, at one revision, and what keeps room for it.
    async fn compared(
        &mut self,
        head: &request::Parts,
        txn: &Txn,
    ) -> Result<(Vec<Read>, Vec<OwnedSemaphorePermit>), Failure> {
        let mut compares = Vec::new();
        txn.compares(&mut compares);
        let cipher = self.shared.namespace.cipher();
        let shared = Arc::clone(&self.shared);
        let with = shared.rewriter(&cipher);
        let asked: Vec<_> = compares.iter().map(|compare| compare.requests(&with)).collect();
        let all: Vec<_> = asked.iter().flatten().collect();
        let (mut revision, mut parts, mut rooms) = (0, Vec::new(), Vec::new());
        // Fewer than any etcd takes by default, so that its own limit need not be known.
        for chunk in all.chunks(MOST_READS) {
            let mut request = Vec::new();
            for range in chunk {
                let (mut range, mut op) = ((*range).clone(), Vec::new());
                put_number(&mut range, 4, revision);
                put_message(&mut op, 1, &range);
                put_message(&mut request, 2, &op);
            }
            let answer = self.ask("/etcdserverpb.KV/Txn", head, &request).await?;
            for op in responses(&answer.message)? {
                let part = Singles::<1>::read(op)?.message(1)?.unwrap_or_default();
                parts.push(answer.message.slice_ref(part));
            }
            if revision == 0 {
                let header = Singles::<1>::read(&answer.message)?.message(1)?.unwrap_or_default();
                revision = Singles::<3>::read(header)?.number(3)?;
            }
            rooms.extend(answer.room);
        }
        let mut parts = parts.into_iter();
        let read = asked.iter().map(|requests| Read {
            revision,
            parts: parts.by_ref().take(requests.len()).collect(),
        });
        Ok((read.collect(), rooms))
    }

    async fn range_stream(&mut self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let (mut head, body) = request.into_parts();
        let mut frames = self.frames(body);
        let message = frames.only().await?;
        let op = self.shared.opened(|with| Op::range(with, &message)).await?;
        let Op::Range { parts, .. } = &op else { return Err(Failure::malformed()) };
        let [only] = &parts[..] else {
            return Err(Status::unimplemented(
                "strongroom: stream the two sides of its reserved prefix one by one",
            )
            .into());
        };
        head.headers.remove(http::header::CONTENT_LENGTH);
        let response = self.send(Request::from_parts(head, single(only))).await?;
        Ok(super::streams::range(response, Arc::clone(&self.shared), self.answers.clone()))
    }

    /// One request as the client of `head` would send it.
    async fn ask(
        &mut self,
        path: &str,
        head: &request::Parts,
        message: &[u8],
    ) -> Result<Answer, Failure> {
        let mut request = Request::new(single(message));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = path.parse().map_err(|_| Failure::malformed())?;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = head.headers.clone();
        request.headers_mut().remove(http::header::CONTENT_LENGTH);
        let (head, body) = through(&mut self.calls, request).await?.into_parts();
        if head.headers.get(Status::GRPC_STATUS).is_some() {
            return Err(Failure::Refused(Box::new(Response::from_parts(head, Body::empty()))));
        }
        let mut frames = Frames::new(body, MAX_ANSWERS, self.answers.clone());
        let message = frames.next().await?;
        let room = frames.room();
        if message.is_some() && frames.next().await?.is_some() {
            return Err(Failure::malformed());
        }
        let trailers = frames.trailers();
        let refused = trailers.get(Status::GRPC_STATUS).is_none_or(|status| status != "0");
        match message {
            Some(message) if !refused => {
                Ok(Answer { headers: head.headers, message, trailers, room })
            }
            _ if trailers.get(Status::GRPC_STATUS).is_none() => {
                Err(Status::unavailable("strongroom: etcd's answer broke off").into())
            }
            _ => {
                let mut response = Response::new(Body::empty());
                response.headers_mut().extend(head.headers);
                response.headers_mut().extend(trailers);
                Err(Failure::Refused(Box::new(response)))
            }
        }
    }

    async fn send(&mut self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        through(&mut self.streams, request).await
    }
}

async fn through(channel: &mut Channel, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let lost = |error: BoxError| Failure::Status(Status::from_error(error));
    futures::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(lost)?;
    channel.call(request).await.map_err(lost)
}

/// Whether calls of this service may carry values.
fn carries_values(path: &str) -> bool {
    ["/etcdserverpb.KV/", "/etcdserverpb.Watch/", "/v3electionpb.", "/v3lockpb."]
        .iter()
        .any(|service| path.starts_with(service))
}

/// See [`Shim::compared`].
const MOST_READS: usize = 64;

mod concurrency;

impl Service<Request<Body>> for Shim {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shim = self.clone();
        Box::pin(async move { Ok(shim.respond(request).await) })
    }
}

/// How long the client of a request waits.
fn deadline(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}
