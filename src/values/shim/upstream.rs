//! The shim's side towards etcd: one request and its answer, and what all requests share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_client::{Channel, Client, ConnectOptions};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service};

use super::budget::{Budget, DEFAULT_MEMORY, Room};
use super::frames::{Frames, answered, single};
use super::method::{Method, Shape};
use super::rewrite::{Lenient, Logs, Rewriter};
use super::scope::{Reserved, Scope};
use super::skim::{Kind, written};
use super::status::{Failure, lost};
use crate::etcd::from_client;
use crate::protobuf::fields::{HEADER, range};
use crate::protobuf::{Singles, put_bytes, put_number};
use crate::values::{Namespace, ValueCipher};

/// etcd's default of 1.5 MiB and what it adds to it (`server/etcdserver/api/v3rpc/grpc.go`).
const DEFAULT_REQUEST: usize = (1536 + 512) << 10;
/// The largest answer: it has to be in memory to be rewritten.
pub(super) const MAX_ANSWERS: usize = 256 << 20;
/// Headers of a client that etcd reads; others are not sent on. The version and the deadline are in them.
pub(crate) const PASSED_ON: [&str; 5] =
    ["authorization", "token", "hasleader", "client-api-version", TIMEOUT];
const TIMEOUT: &str = "grpc-timeout";
/// The largest number in that header has eight digits.
const MOST_MILLISECONDS: u128 = 99_999_999;
/// The header that names the keys whose values an answer leaves out.
const UNREADABLE: &str = "strongroom-unreadable-keys";

/// Stands before a channel to etcd and encrypts the values on their way: a service for the requests of etcd's gRPC
/// API.
#[derive(Clone)]
pub struct Shim {
    /// For calls with one answer.
    calls: Channel,
    streams: Channel,
    pub(super) memory: Budget,
    max_request: usize,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) namespace: Namespace,
    pub(super) scope: Scope,
    pub(super) reserved: Reserved,
    /// What happens to lists with a value that does not open.
    pub(super) unreadable: Unreadable,
}

/// What a read answers when one of several values does not open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Unreadable {
    /// An error that names the key.
    #[default]
    Error,
    /// The other values, and the key without a value; the header `strongroom-unreadable-keys` names the key.
    Omit,
}

impl Shared {
    pub(super) fn rewriter<'a>(&'a self, cipher: &'a ValueCipher) -> Rewriter<'a> {
        let trouble = self.namespace.writable().err();
        let (scope, reserved) = (&self.scope, &self.reserved);
        Rewriter { cipher, scope, reserved, lenient: None, logs: Logs::NotUnknownKeys, trouble }
    }

    /// The result of `work`. If a key is unknown, the keyring is read again first.
    pub(super) async fn opened<T>(
        &self,
        mut work: impl FnMut(&Rewriter<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let done = work(&self.rewriter(&self.namespace.cipher()));
        match done {
            Err(Failure::UnknownKey(_)) => {
                let cipher = self.namespace.refresh().await?;
                work(&Rewriter { logs: Logs::All, ..self.rewriter(&cipher) })
            }
            done => done,
        }
    }

    /// As [`opened`](Self::opened), but values that do not open are left out, and their keys returned.
    pub(super) async fn readable<T>(
        &self,
        mut work: impl FnMut(&Rewriter<'_>) -> Result<T, Failure>,
    ) -> Result<(T, Lenient), Failure> {
        match self.opened(&mut work).await {
            Ok(done) => Ok((done, Lenient::default())),
            Err(_) => {
                let (cipher, lenient) = (self.namespace.cipher(), Lenient::default());
                let rewriter =
                    Rewriter { lenient: Some(&lenient), logs: Logs::All, ..self.rewriter(&cipher) };
                let done = work(&rewriter)?;
                Ok((done, lenient))
            }
        }
    }
}

/// A request as it is sent to etcd: its method and the canonical encoding of its message.
#[derive(Clone)]
pub(crate) struct Parsed {
    pub(crate) method: Method,
    pub(crate) message: Bytes,
}

impl Parsed {
    /// # Errors
    /// `INVALID_ARGUMENT` for a message that holds anything unknown, out of range or ambiguous, or has no key.
    pub(crate) fn parse(method: Method, message: &[u8]) -> Result<Self, Status> {
        let message = method.canonical(message).map_err(|refused| refused.status())?;
        Ok(Self { method, message: message.into() })
    }

    /// Bytes that the parts of the request take up besides its message: an operation of a transaction may be a few bytes
    /// long, and takes a hundred times as much once it is taken apart.
    #[cfg(feature = "proxy")]
    pub(crate) fn parts_size(&self) -> usize {
        let parts = match self.method {
            Method::Txn => super::txn::parts(&self.message).unwrap_or(usize::MAX),
            _ => 0,
        };
        // A call's room covers a few.
        parts.saturating_sub(FEW_PARTS).saturating_mul(PART)
    }
}

/// See [`Parsed::parts_size`].
#[cfg(feature = "proxy")]
const PART: usize = 1024;
#[cfg(feature = "proxy")]
const FEW_PARTS: usize = 32;

/// The answer to a request of one message.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
    pub(crate) trailers: HeaderMap,
    /// Keys whose values do not open and were left out.
    pub(crate) unreadable: u64,
    /// Keys whose values were left out for lack of memory.
    pub(super) left_out: Option<Lenient>,
    pub(super) room: Option<Room>,
}

impl Answer {
    pub(super) fn with(self, message: Vec<u8>) -> Self {
        Self { message: message.into(), ..self }
    }

    pub(super) fn marked(mut self, lenient: &Lenient) -> Self {
        self.unreadable = lenient.count();
        if let Some(value) = lenient.header() {
            self.headers.insert(UNREADABLE, value);
        }
        self
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(answered(self.message, self.trailers, self.room));
        *response.headers_mut() = self.headers;
        response
    }
}

impl Shim {
    /// A shim before `upstream`, with the keys of `namespace`, for the keys in `scope`.
    #[must_use]
    pub fn new(upstream: Channel, namespace: Namespace, scope: Scope) -> Self {
        let reserved = Reserved::new(namespace.prefix());
        let unreadable = Unreadable::default();
        let shared = Arc::new(Shared { namespace, scope, reserved, unreadable });
        let (calls, streams, memory) = (upstream.clone(), upstream, Budget::new(DEFAULT_MEMORY));
        Self { calls, streams, memory, max_request: DEFAULT_REQUEST, shared }
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
        Self { max_request: bytes, ..self }
    }

    /// With another answer to reads of values that do not open.
    #[must_use]
    pub fn with_unreadable(self, unreadable: Unreadable) -> Self {
        let Shared { namespace, scope, reserved, .. } = &*self.shared;
        let (namespace, scope, reserved) = (namespace.clone(), scope.clone(), reserved.clone());
        let shared = Arc::new(Shared { namespace, scope, reserved, unreadable });
        Self { shared, ..self }
    }

    /// The same shim with a client's memory and with other connections to etcd: one for calls with one answer and one for
    /// streams.
    #[cfg(feature = "proxy")]
    pub(crate) fn over(&self, calls: Channel, streams: Channel, memory: Budget) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { calls, streams, memory, max_request: self.max_request, shared }
    }

    pub(super) fn frames(&self, body: Body) -> Frames {
        Frames::new(body, self.max_request, self.memory.clone())
    }

    /// The header of etcd's answers as of now, for an answer that etcd does not give; empty if it does not say.
    pub(super) async fn header(&mut self, headers: &HeaderMap) -> Vec<u8> {
        let mut request = Vec::new();
        put_bytes(&mut request, range::KEY, self.shared.reserved.prefix());
        put_number(&mut request, range::SERIALIZABLE, 1);
        put_number(&mut request, range::COUNT_ONLY, 1);
        let Ok(answer) = self.ask(Method::Range, headers, &request).await else {
            return Vec::new();
        };
        let header = Singles::<1>::read(&answer.message).and_then(|fields| fields.message(HEADER));
        header.ok().flatten().map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// One request with one answer.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        headers: &HeaderMap,
        message: &[u8],
    ) -> Result<Answer, Failure> {
        self.asked(method, headers, message, None).await
    }

    /// As [`ask`](Self::ask), for a request that may change something: the answer comes even without the memory for it.
    /// After `due` etcd's answer is not waited for: see [`Namespace::lands_by`].
    pub(super) async fn write(
        &mut self,
        method: Method,
        headers: &HeaderMap,
        message: &[u8],
        due: Option<Instant>,
    ) -> Result<Answer, Failure> {
        let kind = Kind::of(method);
        let Some(due) = due else { return self.asked(method, headers, message, kind).await };
        let left = due.saturating_duration_since(Instant::now());
        let mut headers = headers.clone();
        if deadline(&headers).is_none_or(|limit| limit > left) {
            let limit = format!("{}m", left.as_millis().min(MOST_MILLISECONDS));
            if let Ok(limit) = HeaderValue::try_from(limit) {
                headers.insert(TIMEOUT, limit);
            }
        }
        let asked = self.asked(method, &headers, message, kind);
        // As etcd says it.
        let late = || Status::unavailable("etcdserver: request timed out").into();
        match tokio::time::timeout(left, asked).await {
            Err(_) => Err(late()),
            Ok(Err(Failure::Status(status)))
                if status.code() == tonic::Code::DeadlineExceeded && Instant::now() >= due =>
            {
                Err(late())
            }
            Ok(asked) => asked,
        }
    }

    async fn asked(
        &mut self,
        method: Method,
        headers: &HeaderMap,
        message: &[u8],
        writes: Option<Kind>,
    ) -> Result<Answer, Failure> {
        let request = request(method, headers, single(message));
        // A call that may wait for another client uses another connection than those that do not.
        let channel =
            if method.shape() == Shape::Waits { &mut self.streams } else { &mut self.calls };
        let (head, body) = through(channel, request).await?.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return Err(refusal(status).into());
        }
        let mut frames = Frames::of_etcd(body, MAX_ANSWERS, self.memory.clone());
        let (message, left_out) = match writes {
            None => (frames.next().await?, None),
            Some(kind) => written(&mut frames, kind).await?.unzip(),
        };
        let left_out = left_out.flatten();
        let room = frames.room();
        if message.is_some() && frames.next().await?.is_some() {
            return Err(Failure::malformed());
        }
        let trailers = frames.trailers();
        match (message, Status::from_header_map(&trailers)) {
            (Some(message), Some(status)) if status.code() == tonic::Code::Ok => Ok(Answer {
                headers: head.headers,
                message,
                trailers,
                unreadable: 0,
                left_out,
                room,
            }),
            (_, Some(status)) if status.code() != tonic::Code::Ok => Err(status.into()),
            _ => Err(Status::unavailable("strongroom: etcd's answer was incomplete").into()),
        }
    }

    pub(super) async fn send(
        &mut self,
        method: Method,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response<Body>, Failure> {
        through(&mut self.streams, request(method, headers, body)).await
    }
}

/// A request to etcd. Of the client's headers it has only those that etcd reads.
fn request(method: Method, headers: &HeaderMap, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = method.uri();
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = passed_on(headers);
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

pub(super) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in PASSED_ON {
        for value in headers.get_all(name) {
            match name {
                // As it is read here.
                TIMEOUT => drop(kept.insert(name, value.clone())),
                _ => drop(kept.append(name, value.clone())),
            }
        }
    }
    kept
}

async fn through(channel: &mut Channel, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let failed = |error: BoxError| Failure::Status(lost(error));
    futures::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
    let response = channel.call(request).await.map_err(failed)?;
    // Something between that is not etcd, such as a load balancer without one.
    if response.status() != http::StatusCode::OK
        && !response.headers().contains_key(Status::GRPC_STATUS)
    {
        let text = format!("strongroom: no answer from etcd: HTTP status {}", response.status());
        return Err(Status::unavailable(text).into());
    }
    Ok(response)
}

/// `status`, which came in place of an answer.
fn refusal(status: Status) -> Status {
    match status.code() {
        tonic::Code::Ok => Status::unavailable("strongroom: etcd's answer has no message"),
        _ => status,
    }
}

/// How long the client of a request waits.
pub(super) fn deadline(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    // The last of several, as grpc-go reads it.
    let text = headers.get_all(TIMEOUT).iter().next_back()?.to_str().ok()?;
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
