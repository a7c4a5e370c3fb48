//! What stands before the shim: who may pass, and what is noted down of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tonic::body::Body;
use tonic::{Code, Status};

use super::Shared;
use super::metrics::code_name;
use crate::audit::{AuditLog, KeyRange, Record};
use crate::values::{
    Budget, Frames, MAX_ANSWERS, MAX_REQUESTS, Shim, Touched, answered, framed, revision_of,
    single, text_of, touched,
};

/// Users whose tokens are remembered; then all are forgotten, and their names missing until they log in again.
const MAX_USERS: usize = 10_000;
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
/// Calls whose request or answer is more than one message.
const STREAMS: [&str; 8] = [
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

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
    requests: Budget,
    answers: Budget,
}

/// A request while it is under way.
struct Underway {
    path: String,
    user: Option<String>,
    time: Timestamp,
    begun: Instant,
}

impl Gate {
    pub(super) fn new(
        shared: Arc<Shared>,
        shim: Shim,
        peer: SocketAddr,
        client: Option<Arc<str>>,
    ) -> Self {
        let requests = Budget::new(MAX_REQUESTS.max(shared.max_request));
        Self { shared, shim, peer, client, requests, answers: Budget::new(MAX_ANSWERS) }
    }

    fn frames(&self, body: Body) -> Frames {
        Frames::new(body, self.shared.max_request, self.requests.clone())
    }

    pub(super) async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let mut underway = Underway {
            path: request.uri().path().to_owned(),
            user: self.shared.users.of(request.headers()),
            time: Timestamp::now(),
            begun: Instant::now(),
        };
        let looks = self.shared.audit.is_some() || !self.shared.access.is_open();
        let is_stream = STREAMS.contains(&&*underway.path);
        let answered = match (looks, is_stream) {
            (false, _) => Ok(self.pass(request).await),
            (true, true) => self.stream(&underway, request).await,
            (true, false) => self.call(&mut underway, request).await,
        };
        let response = answered.unwrap_or_else(|status| status.into_http());
        // Only what failed at once says so in its headers; the shim's own answers carry it there too.
        let code =
            Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
        let took = (!is_stream).then(|| underway.begun.elapsed());
        self.shared.metrics.called(&underway.path, code, took);
        response
    }

    async fn pass(&self, request: Request<Body>) -> Response<Body> {
        self.shim.clone().respond(request).await
    }

    /// A call of one message and one answer.
    async fn call(
        &self,
        underway: &mut Underway,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let (mut head, body) = request.into_parts();
        let mut request = self.frames(body);
        let message = request.only().await?;
        if underway.path == AUTHENTICATE {
            underway.user = text_of(&message, 1);
        }
        let about = about(&underway.path, &message)?;
        self.admit(underway, &about).await?;
        head.headers.remove(http::header::CONTENT_LENGTH);
        let sent = Request::from_parts(head, single(&message));
        let (mut head, body) = self.pass(sent).await.into_parts();
        let mut frames = Frames::new(body, MAX_ANSWERS, self.answers.clone());
        let (answer, room, trailers) = match frames.next().await {
            Ok(answer) => {
                let room = frames.room();
                // The trailers come after it.
                frames.next().await?;
                (answer, room, frames.trailers())
            }
            Err(status) => {
                self.note(underway, about, status.code(), None).await?;
                return Err(status);
            }
        };
        let status =
            Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&head.headers));
        let code = status.map_or(Code::Ok, |status| status.code());
        if let (Some(answer), AUTHENTICATE) = (&answer, &*underway.path)
            && let (Some(token), Some(user)) = (text_of(answer, 2), underway.user.clone())
        {
            self.shared.users.learn(&token, user);
        }
        self.note(underway, about, code, answer.as_deref().and_then(revision_of)).await?;
        Ok(match answer {
            Some(answer) => Response::from_parts(head, answered(&answer, trailers, room)),
            None => {
                head.headers.extend(trailers);
                Response::from_parts(head, Body::empty())
            }
        })
    }

    /// A call with a stream of messages, each looked at before it goes on. What comes back is not.
    async fn stream(
        self: &Arc<Self>,
        underway: &Underway,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        if underway.path != "/etcdserverpb.Watch/Watch" {
            let one_message =
                !underway.path.ends_with("/LeaseKeepAlive") && !underway.path.starts_with("/grpc.");
            let (request, found) = if one_message {
                let (mut head, body) = request.into_parts();
                let message = self.frames(body).only().await?;
                head.headers.remove(http::header::CONTENT_LENGTH);
                let found = about(&underway.path, &message)?;
                (Request::from_parts(head, single(&message)), found)
            } else {
                (request, Vec::new())
            };
            self.admit(underway, &found).await?;
            let response = self.pass(request).await;
            let code = Status::from_header_map(response.headers())
                .map_or(Code::Ok, |status| status.code());
            self.note(underway, found, code, None).await?;
            return Ok(response);
        }
        self.admit(underway, &[]).await?;
        let (gate, path, user) = (Arc::clone(self), underway.path.clone(), underway.user.clone());
        let request = request.map(|body| {
            let frames = self.frames(body);
            Body::new(StreamBody::new(futures::stream::try_unfold(
                (gate, path, user, frames),
                |(gate, path, user, mut frames)| async {
                    let Some(message) = frames.next().await? else { return Ok(None) };
                    gate.watch(&path, user.clone(), &message).await?;
                    Ok::<_, Status>(Some((
                        Frame::data(framed(&message)),
                        (gate, path, user, frames),
                    )))
                },
            )))
        });
        Ok(self.pass(request).await)
    }

    /// One `WatchRequest`.
    async fn watch(&self, path: &str, user: Option<String>, message: &Bytes) -> Result<(), Status> {
        let found = about(path, message)?;
        if found.is_empty() {
            return Ok(());
        }
        let (time, begun) = (Timestamp::now(), Instant::now());
        let underway = Underway { path: path.to_owned(), user, time, begun };
        self.admit(&underway, &found).await?;
        self.note(&underway, found, Code::Ok, None).await
    }

    /// Refuses who may not, and everybody while the log cannot be written and that is how it is to be.
    async fn admit(&self, underway: &Underway, found: &[Touched]) -> Result<(), Status> {
        if !self.shared.access.permits(self.client.as_deref(), &underway.path, found) {
            self.note(underway, found.to_vec(), Code::PermissionDenied, None).await?;
            // As etcd words it.
            return Err(Status::permission_denied("etcdserver: permission denied"));
        }
        match &self.shared.audit {
            Some(audit) if !audit.fail_open && self.shared.is_unwritable() => {
                // Whether it can be written again shows only when it is.
                self.note(underway, found.to_vec(), Code::Unavailable, None).await
            }
            _ => Ok(()),
        }
    }

    /// Notes a request down.
    async fn note(
        &self,
        underway: &Underway,
        found: Vec<Touched>,
        code: Code,
        revision: Option<i64>,
    ) -> Result<(), Status> {
        let Some(audit) = &self.shared.audit else { return Ok(()) };
        let asked = found.iter().map(|touched| touched.revision).find(|revision| *revision > 0);
        let keys = found.into_iter().map(|touched| KeyRange::range(touched.key, touched.end));
        let micros = underway.begun.elapsed().as_micros();
        let record = Record {
            time: underway.time,
            client: self.client.as_deref().map(str::to_owned),
            user: underway.user.clone(),
            peer: self.peer.to_string(),
            method: underway.path.clone(),
            keys: keys.collect(),
            more: 0,
            revision: revision.or(asked),
            outcome: code_name(code).into(),
            duration_us: u64::try_from(micros).unwrap_or(u64::MAX),
        };
        let written = audit.log.record(record).await;
        self.shared.set_unwritable(written.is_err());
        match written {
            Ok(()) => Ok(()),
            Err(error) => {
                self.shared.metrics.audit_failed();
                if audit.fail_open {
                    return Ok(());
                }
                Err(Status::unavailable(format!(
                    "strongroom: the audit log cannot be written: {error}"
                )))
            }
        }
    }
}

fn about(path: &str, message: &[u8]) -> Result<Vec<Touched>, Status> {
    touched(path, message)
        .map_err(|_| Status::internal("strongroom: a message that is none of etcd's API"))
}
