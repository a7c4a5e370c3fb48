//! Answers that are streams: elections observed, ranges that stream, snapshots.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tonic::Status;
use tonic::body::Body;

use super::budget::Budget;
use super::frames::{Frames, framed, held, single};
use super::method::Method;
use super::status::{Failure, broke_off};
use super::upstream::{MAX_ANSWERS, Shared, Shim};
use crate::protobuf::fields::{
    HEADER, header, leader_response, range, range_response, range_stream_response,
};
use crate::protobuf::{Raw, Singles, put_message, put_number, without};

/// A stream's end: `status` as trailers.
pub(super) fn trailers_of(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Fails only for a message that is no header value, and messages are percent-encoded.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("2"));
    }
    trailers
}

/// The trailers of etcd's answer; the loss of etcd when there are none.
pub(super) fn end_of(frames: &mut Frames) -> HeaderMap {
    let trailers = frames.trailers();
    if trailers.contains_key(Status::GRPC_STATUS) { trailers } else { trailers_of(&broke_off()) }
}

/// `response` unchanged, except that the loss of etcd becomes trailers.
pub(super) fn passed_on(response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    response.map(|body| {
        Body::new(StreamBody::new(stream::unfold(Some(body), |body| async {
            let mut body = body?;
            let lost = || Some((Ok::<_, Status>(Frame::trailers(trailers_of(&broke_off()))), None));
            match body.frame().await {
                Some(Ok(frame)) => match frame.trailers_ref() {
                    None => Some((Ok(frame), Some(body))),
                    Some(end) if end.contains_key(Status::GRPC_STATUS) => Some((Ok(frame), None)),
                    Some(_) => lost(),
                },
                None if body.is_end_stream() => lost(),
                None | Some(Err(_)) => lost(),
            }
        })))
    })
}

/// A `LeaderResponse` after another.
pub(super) fn key_values(
    response: Response<Body>,
    shared: Arc<Shared>,
    answers: Budget,
) -> Response<Body> {
    if response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    response.map(|body| {
        let state = (Frames::of_etcd(body, MAX_ANSWERS, answers), shared);
        until_end(state, |(frames, shared)| {
            Box::pin(async move {
                match frames.next().await {
                    Ok(Some(message)) => shared
                        .opened(|with| with.with_key_values(&message, leader_response::KV))
                        .await
                        .map(|message| held(framed(&message), frames.room()))
                        .map_err(|failure| trailers_of(&failure.status())),
                    Ok(None) => Err(end_of(frames)),
                    Err(status) => Err(trailers_of(&status)),
                }
            })
        })
    })
}

/// A body of the messages in their frames that `next` gives, until it gives trailers.
fn until_end<S: Send + 'static>(
    state: S,
    next: for<'a> fn(&'a mut S) -> futures::future::BoxFuture<'a, Result<Bytes, HeaderMap>>,
) -> Body {
    Body::new(StreamBody::new(stream::unfold(Some(state), move |state| async move {
        let mut state = state?;
        let done = next(&mut state).await;
        Some(match done {
            Ok(message) => (Ok::<_, Status>(Frame::data(message)), Some(state)),
            Err(end) => (Ok(Frame::trailers(end)), None),
        })
    })))
}

/// A range that streams: one of etcd's streams after another, one for each side of the reserved prefix, all at the
/// revision of the first. As etcd does it, the last message alone has a header, `more` and `count`
/// (`server/etcdserver/v3_server.go`, `rangeStream`).
struct Ranges {
    shim: Shim,
    headers: HeaderMap,
    parts: VecDeque<Vec<u8>>,
    frames: Frames,
    keys_only: bool,
    counts_only: bool,
    /// How many more keys the client wants; none for no limit.
    left: Option<i64>,
    /// The number of keys in the parts that are done.
    header: Option<Bytes>,
    revision: i64,
    count: i64,
}

/// Answers `request`, which is asked of etcd in `parts`.
pub(super) async fn range(
    shim: &mut Shim,
    headers: &HeaderMap,
    request: &[u8],
    parts: Vec<Vec<u8>>,
) -> Result<Response<Body>, Failure> {
    let fields = Singles::<9>::read(request)?;
    let limit = fields.number(range::LIMIT)?;
    let mut parts = VecDeque::from(parts);
    let first = parts.pop_front().ok_or_else(Failure::malformed)?;
    let response = shim.send(Method::RangeStream, headers, single(&first)).await?;
    if response.headers().contains_key(Status::GRPC_STATUS) {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let ranges = Ranges {
        shim: shim.clone(),
        headers: headers.clone(),
        parts,
        frames: Frames::of_etcd(body, MAX_ANSWERS, shim.memory.clone()),
        keys_only: fields.flag(range::KEYS_ONLY)?,
        counts_only: fields.flag(range::COUNT_ONLY)?,
        left: (limit > 0).then_some(limit),
        header: None,
        revision: fields.number(range::REVISION)?,
        count: 0,
    };
    let body = until_end(ranges, |ranges| {
        Box::pin(async move {
            let next = ranges.next().await;
            let next = next.map(|message| held(framed(&message), ranges.frames.room()));
            next.map_err(|end| match end {
                Ok(trailers) => trailers,
                Err(failure) => trailers_of(&failure.status()),
            })
        })
    });
    Ok(Response::from_parts(head, body))
}

impl Ranges {
    /// The next `RangeStreamResponse`, or the end.
    async fn next(&mut self) -> Result<Vec<u8>, Result<HeaderMap, Failure>> {
        loop {
            let message = match self.frames.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Ok(end_of(&mut self.frames))),
                Err(status) => return Err(Err(status.into())),
            };
            if let Some(out) = self.message(&message).await.map_err(Err)? {
                return Ok(out);
            }
        }
    }

    async fn message(&mut self, message: &Bytes) -> Result<Option<Vec<u8>>, Failure> {
        let part = Singles::<1>::read(message)?.bytes(range_stream_response::RANGE_RESPONSE)?;
        let fields = Singles::<1>::read(part)?;
        let mut opened = if self.keys_only {
            part.to_vec()
        } else {
            let shared = self.shim.shared.clone();
            shared.opened(|with| with.with_key_values(part, range_response::KVS)).await?
        };
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(super::rewrite::kvs(part)?);
        }
        if let Some(header) = fields.message(HEADER)? {
            let count = numbered(part, range_response::COUNT)?;
            let more = numbered(part, range_response::MORE)? != 0;
            self.count = self.count.saturating_add(count);
            if self.header.is_none() {
                self.header = Some(message.slice_ref(header));
                if self.revision == 0 {
                    self.revision = Singles::<3>::read(header)?.number(header::REVISION)?;
                }
            }
            let rest = self.rest(more).await?;
            let mut kept = Vec::new();
            let rewritten = [HEADER, range_response::MORE, range_response::COUNT];
            without(&opened, &rewritten, &mut kept)?;
            opened = match rest {
                // Without keys the message would say that there are none.
                Rest::Follows if kept.is_empty() => return Ok(None),
                Rest::Follows => kept,
                Rest::Ended { more } => {
                    let mut last = Vec::new();
                    put_message(&mut last, HEADER, self.header.as_deref().unwrap_or_default());
                    last.extend_from_slice(&kept);
                    put_number(&mut last, range_response::MORE, i64::from(more));
                    put_number(&mut last, range_response::COUNT, self.count);
                    last
                }
            };
        }
        let mut out = Vec::new();
        without(message, &[range_stream_response::RANGE_RESPONSE], &mut out)?;
        put_message(&mut out, range_stream_response::RANGE_RESPONSE, &opened);
        Ok(Some(out))
    }

    /// Continues with the next part. If the client wants no more keys, that part is only counted.
    async fn rest(&mut self, more: bool) -> Result<Rest, Failure> {
        let Some(next) = self.parts.pop_front() else { return Ok(Rest::Ended { more }) };
        let mut request = Vec::new();
        without(&next, &[range::LIMIT, range::REVISION, range::COUNT_ONLY], &mut request)?;
        put_number(&mut request, range::REVISION, self.revision);
        let full = self.left == Some(0) || more;
        put_number(&mut request, range::COUNT_ONLY, i64::from(full || self.counts_only));
        if full && !self.counts_only {
            let answer = self.shim.ask(Method::Range, &self.headers, &request).await?;
            let count = numbered(&answer.message, range_response::COUNT)?;
            self.count = self.count.saturating_add(count);
            return Ok(Rest::Ended { more: more || count > 0 });
        }
        put_number(&mut request, range::LIMIT, self.left.unwrap_or(0));
        let response = self.shim.send(Method::RangeStream, &self.headers, single(&request)).await?;
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(status.into());
        }
        let answers = self.shim.memory.clone();
        self.frames = Frames::of_etcd(response.into_body(), MAX_ANSWERS, answers);
        Ok(Rest::Follows)
    }
}

/// What comes after a part of a range.
enum Rest {
    Follows,
    Ended { more: bool },
}

/// The number in field `number` of a `RangeResponse`.
fn numbered(message: &[u8], number: u64) -> Result<i64, Failure> {
    let mut fields = Raw::new(message);
    while let Some((at, field, _)) = fields.next()? {
        if at == number {
            return Ok(field.int64()?);
        }
    }
    Ok(0)
}
