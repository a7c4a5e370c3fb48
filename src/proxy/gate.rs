//! What stands before the shim: which requests are served, who may make them, and what the audit log says of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{
    HeaderMap, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, Uri, header,
};
use sha2::{Digest, Sha256};
use tonic::body::Body;
use tonic::{Code, Status};

use super::Shared;
use super::access::Rule;
use super::line::{Line, Refusals, unwritable};
use super::log;
use crate::audit_log::AuditLog;
use crate::error::Result as StrongroomResult;
use crate::limit::limited;
use crate::protobuf::fields::{authenticate_response, named};
use crate::values::{
    About, Answer, Budget, Failure, Frames, Judge, Method, Needs, PASSED_ON, Parsed, Shape, Shim,
    compressed, granted, lease_keys, revision_of, text_of, time_to_live, with_client_urls,
};

/// Users whose tokens are remembered; then all are forgotten, and their names missing until they log in again.
const MAX_USERS: usize = 10_000;
/// How long a client may keep a lease alive before its keys are looked at again.
const LEASE_CHECK: Duration = Duration::from_secs(30);
/// Leases of one stream that are remembered as checked.
const MAX_LEASES: usize = 10_000;
/// Leases that one request may name: etcd's default for the operations of a transaction.
const MAX_LEASES_NAMED: usize = 128;

/// The log, and what becomes of requests when it cannot be written.
pub(super) struct Audit {
    pub(super) log: AuditLog,
    pub(super) fail_open: bool,
}

/// etcd's users by their tokens' digests.
#[derive(Default)]
pub(super) struct Users(Mutex<HashMap<[u8; 32], String>>);

impl Users {
    fn learn(&self, token: &str, user: String) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= MAX_USERS {
            users.clear();
        }
        users.insert(Sha256::digest(token).into(), user);
    }

    fn of(&self, headers: &HeaderMap) -> Option<String> {
        let token = headers.get("token").or_else(|| headers.get("authorization"))?;
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.get::<[u8; 32]>(&Sha256::digest(token).into()).cloned()
    }
}

/// One connection's way to the shim.
pub(super) struct Gate {
    shared: Arc<Shared>,
    shim: Shim,
    peer: SocketAddr,
    /// The common name in the client's certificate.
    client: Option<Arc<str>>,
    /// The proxy's own URL, for clients that ask for the cluster's.
    url: Arc<str>,
    memory: Budget,
    pub(super) refusals: Refusals,
}

impl Gate {
    pub(super) fn new(
        shared: Arc<Shared>,
        shim: Shim,
        peer: SocketAddr,
        client: Option<Arc<str>>,
        url: Arc<str>,
        memory: Budget,
    ) -> Self {
        Self { shared, shim, peer, client, url, memory, refusals: Refusals::new() }
    }

    pub(super) fn audit(&self) -> Option<&Audit> {
        self.shared.audit.as_ref()
    }

    pub(super) fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn log_denied(&self, method: Method, status: &Status) {
        log::denied(self.client(), self.peer, method, status);
    }

    /// Remembers whether the log can be written. What has happened is not undone: an error stops what comes next.
    pub(super) fn written(&self, written: StrongroomResult<()>) -> Result<(), Status> {
        match (self.shared.set_unwritable(written.is_err()), &written) {
            (false, Err(error)) => limited!(error, event = "audit_log_unwritable", error = %error),
            (true, Ok(())) => limited!(info, event = "audit_log_writable"),
            _ => {}
        }
        let Err(error) = written else { return Ok(()) };
        self.shared.metrics.audit_failed();
        match self.audit() {
            Some(audit) if !audit.fail_open => Err(unwritable(&error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let begun = Instant::now();
        let Some(method) = served(&request) else {
            self.shared.metrics.called("other", Code::Unimplemented, None);
            let (path, is_grpc) = (request.uri().path().to_owned(), is_grpc(request.headers()));
            return match Box::pin(self.refused(&path, is_grpc)).await {
                Ok(response) => response,
                Err(status) => status.into_http(),
            };
        };
        let answered = self.serve(method, request).await;
        let code = answered.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let took = matches!(method.shape(), Shape::Unary).then(|| begun.elapsed());
        self.shared.metrics.called(method.path(), code, took);
        answered.unwrap_or_else(Status::into_http)
    }

    /// What is no method of etcd's gRPC API is never sent on: etcd may read more into it than is seen here.
    async fn refused(
        self: &Arc<Self>,
        path: &str,
        is_grpc: bool,
    ) -> Result<Response<Body>, Status> {
        let line = Line::begin(self, path, None).await?;
        line.end(Code::Unimplemented, None).await?;
        let mut response = Status::unimplemented("strongroom: unknown method").into_http();
        if !is_grpc {
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        }
        Ok(response)
    }

    async fn serve(
        self: &Arc<Self>,
        method: Method,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let mut headers = head.headers;
        let user = self.shared.users.of(&headers);
        let mut line = Line::begin(self, method.path(), user.clone()).await?;
        let refused = match () {
            () if is_compressed(&headers) => Some(compressed()),
            () if matches!(self.rule(), Rule::Nothing) => Some(denied()),
            () if method.is_about_one_member() && self.shared.members > 1 => {
                Some(Status::failed_precondition(format!(
                    "strongroom: this call acts on one member, and {} are behind the proxy: \
                     connect to the member itself",
                    self.shared.members
                )))
            }
            () => self.shared.identity.admit(method, &mut headers).err(),
        };
        if let Some(status) = refused {
            self.log_denied(method, &status);
            line.end(status.code(), None).await?;
            return Err(status);
        }
        let mut frames = Frames::new(body, self.shared.max_request, self.memory.clone());
        if method.shape() == Shape::Streams {
            line.end(Code::Ok, None).await?;
            return Ok(self.session(method, headers, user, frames));
        }
        let served = async {
            let request = Parsed::parse(method, &frames.only().await?)?;
            let _room = self.memory.take(request.parts_size())?;
            let about = About::of(&request).map_err(malformed)?;
            line.about(about.clone());
            if method == Method::Authenticate {
                line.of_user(text_of(&request.message, named::NAME));
            }
            self.admit(&headers, method, &about).await?;
            line.asks();
            self.ask(&headers, &request).await
        };
        let asked = match served.await {
            Ok(answered) => answered,
            Err(status) => {
                self.log_denied(method, &status);
                line.end(status.code(), None).await?;
                return Err(status);
            }
        };
        line.subject(asked.granted);
        line.end(Code::Ok, asked.revision).await?;
        Ok(asked.response)
    }

    /// The shim's answer to a request that is admitted.
    async fn ask(&self, headers: &HeaderMap, request: &Parsed) -> Result<Asked, Status> {
        let mut shim = self.shim.clone();
        if request.method.shape() == Shape::Answers {
            let answers = Box::pin(shim.answers(headers, request));
            let response = answers.await.map_err(Failure::status)?;
            return match Status::from_header_map(response.headers()) {
                Some(status) if status.code() != Code::Ok => Err(status),
                _ => Ok(Asked { response, revision: None, granted: None }),
            };
        }
        let mut answer = shim.call(headers, request).await.map_err(Failure::status)?;
        self.learn(request, &answer);
        self.shared.identity.done(request.method);
        if answer.unreadable > 0 {
            self.shared.metrics.unreadable(answer.unreadable);
        }
        if has_members(request.method) {
            let told = with_client_urls(&answer.message, &self.url).map_err(malformed)?;
            answer.message = told.into();
        }
        let revision = revision_of(&answer.message);
        let is_grant = request.method == Method::LeaseGrant;
        let granted = is_grant.then(|| granted(&answer.message)).flatten();
        Ok(Asked { response: answer.into_response(), revision, granted })
    }

    /// Remembers whose a token is.
    fn learn(&self, request: &Parsed, answer: &Answer) {
        if request.method == Method::Authenticate
            && let (Some(user), Some(token)) = (
                text_of(&request.message, named::NAME),
                text_of(&answer.message, authenticate_response::TOKEN),
            )
        {
            self.shared.users.learn(&token, user);
        }
    }

    /// A stream in both directions, of which each message is judged.
    fn session(
        self: &Arc<Self>,
        method: Method,
        headers: HeaderMap,
        user: Option<String>,
        frames: Frames,
    ) -> Response<Body> {
        let gate = Arc::clone(self);
        let (checked, judged) = (Arc::new(Mutex::new(HashMap::new())), headers.clone());
        let judge: Judge = Arc::new(move |message| {
            let (gate, checked) = (Arc::clone(&gate), Arc::clone(&checked));
            let (headers, user) = (judged.clone(), user.clone());
            Box::pin(async move { gate.judge(method, &headers, user, message, &checked).await })
        });
        self.shim.clone().streams(method, &headers, frames, judge)
    }

    /// One message of a stream.
    async fn judge(
        self: &Arc<Self>,
        method: Method,
        headers: &HeaderMap,
        user: Option<String>,
        message: Result<Parsed, Status>,
        checked: &Mutex<HashMap<i64, Instant>>,
    ) -> Result<Parsed, Status> {
        let about = match &message {
            Ok(message) => About::of(message).map_err(malformed)?,
            Err(_) => About::default(),
        };
        if message.is_ok() && !is_news(&about, checked) {
            return message;
        }
        let mut line = Line::begin(self, method.path(), user).await?;
        line.about(about.clone());
        let judged = match message {
            Ok(message) => match self.shared.identity.check_message(method, headers).await {
                Ok(()) => self.admit(headers, method, &about).await.map(|()| message),
                Err(status) => Err(status),
            },
            Err(status) => Err(status),
        };
        let code = judged.as_ref().map_or_else(Status::code, |_| Code::Ok);
        line.end(code, None).await?;
        if code != Code::Ok {
            self.shared.metrics.called(method.path(), code, None);
            let status = judged.as_ref().err();
            status.into_iter().for_each(|status| self.log_denied(method, status));
        } else if let [lease] = about.leases[..] {
            let mut checked = checked.lock().unwrap_or_else(PoisonError::into_inner);
            if checked.len() >= MAX_LEASES {
                checked.clear();
            }
            checked.insert(lease, Instant::now());
        }
        judged
    }

    fn rule(&self) -> Rule<'_> {
        self.shared.access.rule(self.client())
    }

    /// Refuses who may not, and everybody while the log cannot be written and requests depend on it.
    async fn admit(
        self: &Arc<Self>,
        headers: &HeaderMap,
        method: Method,
        about: &About,
    ) -> Result<(), Status> {
        let rule = self.rule();
        if let Rule::Prefixes(_) = rule {
            let permitted = match method.needs() {
                Needs::Everything => false,
                Needs::Nothing => true,
                Needs::Keys => !about.keys.is_empty() && rule.holds(&about.keys),
                Needs::Lease => !about.leases.is_empty(),
            };
            if !permitted {
                return Err(denied());
            }
            Box::pin(self.admit_leases(headers, &rule, about)).await?;
        }
        match self.audit() {
            Some(audit) if !audit.fail_open && self.shared.is_unwritable() => {
                // Whether it can be written again shows only when it is.
                Line::begin(self, method.path(), None).await?.end(Code::Unavailable, None).await
            }
            _ => Ok(()),
        }
    }

    /// Leases belong to nobody in etcd. Here a client with prefixes may use one whose keys are all its own: to attach a
    /// key to another's would let it be ended by the other, and stop the other from keeping it alive.
    async fn admit_leases(
        &self,
        headers: &HeaderMap,
        rule: &Rule<'_>,
        about: &About,
    ) -> Result<(), Status> {
        let mut leases = about.leases.clone();
        leases.sort_unstable();
        leases.dedup();
        if leases.len() > MAX_LEASES_NAMED {
            return Err(Status::invalid_argument("strongroom: too many leases in one request"));
        }
        for lease in leases {
            let asked = time_to_live(lease);
            let answer = self.shim.clone().ask(Method::LeaseTimeToLive, headers, &asked).await;
            let answer = answer.map_err(Failure::status)?;
            if !rule.holds(&lease_keys(&answer.message).map_err(malformed)?) {
                return Err(denied());
            }
        }
        Ok(())
    }
}

/// What came of a request, and what the log says of it.
struct Asked {
    response: Response<Body>,
    revision: Option<i64>,
    /// The lease that etcd granted.
    granted: Option<String>,
}

/// Whether a message of a stream is to be judged: one that creates a watch, and now and then one that keeps a lease
/// alive.
fn is_news(about: &About, checked: &Mutex<HashMap<i64, Instant>>) -> bool {
    let checked = checked.lock().unwrap_or_else(PoisonError::into_inner);
    match about.leases[..] {
        [lease] => checked.get(&lease).is_none_or(|since| since.elapsed() >= LEASE_CHECK),
        _ => !about.keys.is_empty(),
    }
}

/// `request` with copies of what is read of its head: the rest must not take memory while the call waits.
pub(super) fn lean<B>(request: Request<B>) -> Request<B> {
    let (mut head, body) = request.into_parts();
    let mut kept = HeaderMap::new();
    for name in READ.into_iter().chain(PASSED_ON) {
        for value in head.headers.get_all(name) {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                kept.append(name, value);
            }
        }
    }
    head.headers = kept;
    head.uri = match Method::of(&head.uri) {
        Some(method) => Uri::from_static(method.path()),
        None => {
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            let path = path.get(..path.len().min(MAX_PATH)).unwrap_or("/");
            Uri::try_from(path).unwrap_or_default()
        }
    };
    Request::from_parts(head, body)
}

/// Headers that are read here.
const READ: [&str; 2] = ["content-type", "grpc-encoding"];
/// Bytes of an unknown path that are logged.
const MAX_PATH: usize = 256;

/// The method of a request, if it is one of etcd's gRPC API, exactly.
fn served(request: &Request<Body>) -> Option<Method> {
    let is_call = request.method() == HttpMethod::POST && is_grpc(request.headers());
    is_call.then(|| Method::of(request.uri())).flatten()
}

/// etcd answers other kinds of content in JSON, which would pass by the encryption.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
    matches!(
        (kinds.next(), kinds.next()),
        (Some(b"application/grpc" | b"application/grpc+proto"), None)
    )
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get_all("grpc-encoding").iter().any(|encoding| encoding != "identity")
}

/// Whether the answer tells of the cluster's members.
fn has_members(method: Method) -> bool {
    matches!(
        method,
        Method::MemberList
            | Method::MemberAdd
            | Method::MemberRemove
            | Method::MemberUpdate
            | Method::MemberPromote
    )
}

/// As etcd says it.
fn denied() -> Status {
    Status::permission_denied("etcdserver: permission denied")
}

fn malformed<E>(_: E) -> Status {
    Status::internal("strongroom: a message that does not follow etcd's API")
}
