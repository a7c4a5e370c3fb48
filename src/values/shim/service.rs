//! The shim as a service: requests of etcd's gRPC API in, their answers out.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{BoxError, Service};

use super::frames::{Frames, single};
use super::method::{Method, Shape};
use super::op::Op;
use super::rewrite::{BY_VALUE, Lenient, Logs, Rewriter};
use super::session::{self, Judge};
use super::status::Failure;
use super::streams;
use super::txn::{Txn, need};
use super::upstream::{Answer, Parsed, Shim, Unreadable, deadline, passed_on};
use crate::limit::limited;
use crate::protobuf::fields::range;
use crate::protobuf::{Singles, without};

mod concurrency;
mod transactions;

impl Shim {
    async fn respond(mut self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let method = Method::of(request.uri()).ok_or_else(Failure::unknown)?;
        let (head, body) = request.into_parts();
        let mut frames = self.frames(body);
        if method.shape() == Shape::Streams {
            return Ok(self.streams(method, &head.headers, frames, session::everything()));
        }
        let parsed = Parsed::parse(method, &frames.only().await?)?;
        if method.shape() == Shape::Answers {
            return self.answers(&head.headers, &parsed).await;
        }
        Ok(self.call(&head.headers, &parsed).await?.into_response())
    }

    /// The answer to a request of one message with one answer.
    pub(crate) async fn call(
        &mut self,
        headers: &HeaderMap,
        request: &Parsed,
    ) -> Result<Answer, Failure> {
        // On the heap: it is large, and moved from one place to another otherwise.
        let work = Box::pin(self.unary(headers, request));
        match deadline(headers) {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded("context deadline exceeded").into())
            }),
        }
    }

    async fn unary(&mut self, headers: &HeaderMap, request: &Parsed) -> Result<Answer, Failure> {
        let (shared, message) = (Arc::clone(&self.shared), &request.message);
        // Before anything is sealed.
        let due = shared.namespace.lands_by();
        let op = match request.method {
            Method::Range => {
                let message = latest(message)?;
                shared.opened(|with| Op::range(with, &message)).await?
            }
            Method::Put => shared.opened(|with| Ok(Op::Put(with.put_request(message)?))).await?,
            Method::DeleteRange => shared.opened(|with| Op::delete(with, message)).await?,
            Method::Txn => {
                let mut txn = shared.opened(|with| Txn::read(with, message)).await?;
                if txn.is_ours_to_decide(&shared.rewriter(&shared.namespace.cipher())) {
                    return Box::pin(self.decided(headers, &mut txn, need(message)?, due)).await;
                }
                Op::Txn(Box::new(txn))
            }
            Method::Campaign
            | Method::Proclaim
            | Method::Leader
            | Method::Resign
            | Method::Lock
            | Method::Unlock => return Box::pin(self.concurrency(headers, request)).await,
            method => return self.ask(method, headers, message).await,
        };
        let encoded;
        let sent = match &op {
            Op::Range { parts, .. } | Op::Delete { parts } => match &parts[..] {
                [only] => only,
                _ => return Box::pin(self.split(headers, &op)).await,
            },
            Op::Put(request) | Op::Other(request) => request,
            Op::Txn(txn) => {
                encoded = txn.encode(&[], true);
                &encoded
            }
        };
        let answer = if op.writes() {
            let due = op.stores(&shared.scope).then_some(due);
            self.write(request.method, headers, sent, due).await?
        } else {
            self.ask(request.method, headers, sent).await?
        };
        let message = &answer.message.clone();
        self.rewritten(answer, op.writes(), |with| op.response(&[message], with)).await
    }

    /// `answer` with the message that `work` makes. What has been written has happened: values that do not open are
    /// left out then, and do not turn the answer into an error.
    async fn rewritten(
        &self,
        answer: Answer,
        wrote: bool,
        mut work: impl FnMut(&Rewriter<'_>) -> Result<Vec<u8>, Failure>,
    ) -> Result<Answer, Failure> {
        let mut answer = answer;
        if let Some(left_out) = answer.left_out.take() {
            limited!(warn, event = "values_left_out", error = "no memory for an answer's values");
            let (cipher, no_values) = (self.shared.namespace.cipher(), Lenient::default());
            let (lenient, logs) = (Some(&no_values), Logs::None);
            let rewriter = Rewriter { lenient, logs, ..self.shared.rewriter(&cipher) };
            return Ok(answer.with(work(&rewriter)?).marked(&left_out));
        }
        if !wrote && self.shared.unreadable == Unreadable::Error {
            let message = self.shared.opened(work).await?;
            return Ok(answer.with(message));
        }
        let (message, lenient) = self.shared.readable(work).await?;
        Ok(answer.with(message).marked(&lenient))
    }

    /// The answers to a request of one message.
    pub(crate) async fn answers(
        &mut self,
        headers: &HeaderMap,
        request: &Parsed,
    ) -> Result<Response<Body>, Failure> {
        let shared = Arc::clone(&self.shared);
        match request.method {
            Method::RangeStream => {
                // Without an order etcd 3.7 sorts each part of the stream by itself: it repeats keys, and leaves keys out.
                let fields = Singles::<6>::read(&request.message)?;
                let order = fields.number(range::SORT_ORDER)?;
                if order == 0 && fields.number(range::SORT_TARGET)? == BY_VALUE {
                    let refusal = "strongroom: RangeStream does not sort by value";
                    return Err(Status::unimplemented(refusal).into());
                }
                let parts = shared.opened(|with| with.stream_parts(&request.message)).await?;
                streams::range(self, headers, &request.message, parts).await
            }
            Method::Observe => {
                shared.opened(|with| with.allow_below(&request.message)).await?;
                let response = self.send(request.method, headers, single(&request.message)).await?;
                Ok(streams::key_values(response, shared, self.memory.clone()))
            }
            method => {
                let response = self.send(method, headers, single(&request.message)).await?;
                Ok(streams::passed_on(response))
            }
        }
    }

    /// A session of messages in both directions, of which `judge` lets pass what the client may send.
    pub(crate) fn streams(
        self,
        method: Method,
        headers: &HeaderMap,
        requests: Frames,
        judge: Judge,
    ) -> Response<Body> {
        session::open(self, method, passed_on(headers), requests, judge)
    }
}

/// A `RangeRequest` without a revision below zero. etcd takes that for the newest one, but refuses it in a transaction,
/// by which a range around the reserved prefix is read.
fn latest(request: &[u8]) -> Result<Cow<'_, [u8]>, Failure> {
    if Singles::<4>::read(request)?.number(range::REVISION)? >= 0 {
        return Ok(request.into());
    }
    let mut out = Vec::with_capacity(request.len());
    without(request, &[range::REVISION], &mut out)?;
    Ok(out.into())
}

impl Service<Request<Body>> for Shim {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shim = self.clone();
        Box::pin(async move {
            Ok(shim.respond(request).await.unwrap_or_else(|failure| failure.status().into_http()))
        })
    }
}
