//! gRPC's messages in HTTP/2 bodies: a flag, four bytes of length, the message (grpc.io, "gRPC over HTTP2").

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

const PREFIX: usize = 5;

/// The unit in which memory is counted, in bytes; smaller messages are not.
const GRANULE: usize = 4096;
/// How long a message waits for others to make room.
const WAIT: Duration = Duration::from_secs(30);

/// How much of one connection's messages may be in memory at once.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    /// So many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(GRANULE))))
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let full = || {
            Status::resource_exhausted(
                "strongroom: too many large messages at once on this connection",
            )
        };
        let units = u32::try_from(bytes.div_ceil(GRANULE)).map_err(|_| full())?;
        let room = tokio::time::timeout(WAIT, Arc::clone(&self.0).acquire_many_owned(units)).await;
        room.ok().and_then(Result::ok).ok_or_else(full)
    }
}

/// A body's messages.
pub(crate) struct Frames {
    body: Pin<Box<Body>>,
    buffer: BytesMut,
    limit: usize,
    budget: Budget,
    /// Room for the message that is being read.
    reading: Option<OwnedSemaphorePermit>,
    /// Room for the message that was read last.
    read: Option<OwnedSemaphorePermit>,
    trailers: HeaderMap,
    /// What it means when the body fails.
    broken: fn() -> Status,
}

impl Frames {
    /// Messages of at most `limit` bytes, which `budget` has room for.
    pub(crate) fn new(body: Body, limit: usize, budget: Budget) -> Self {
        Self::made(body, limit, budget, || Status::cancelled("strongroom: the client went away"))
    }

    /// As [`new`](Self::new), of an answer of etcd's.
    pub(crate) fn of_etcd(body: Body, limit: usize, budget: Budget) -> Self {
        Self::made(body, limit, budget, super::status::broke_off)
    }

    fn made(body: Body, limit: usize, budget: Budget, broken: fn() -> Status) -> Self {
        Self {
            body: Box::pin(body),
            buffer: BytesMut::new(),
            limit,
            budget,
            reading: None,
            read: None,
            trailers: HeaderMap::new(),
            broken,
        }
    }

    /// The next message. Safe to drop and call again. The room for the one before is free again, unless
    /// [`room`](Self::room) took it.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        self.read = None;
        loop {
            if let Some(length) = self.length()? {
                if length > GRANULE && self.reading.is_none() {
                    self.reading = Some(self.budget.take(length).await?);
                }
                if self.buffer.len() >= PREFIX.saturating_add(length) {
                    self.buffer.advance(PREFIX);
                    self.read = self.reading.take();
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            if self.body.is_end_stream() {
                return self.end();
            }
            match self.body.frame().await.transpose().map_err(|_| (self.broken)())? {
                None => return self.end(),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
                },
            }
        }
    }

    /// What keeps room for the last message: to be held as long as that is.
    pub(crate) fn room(&mut self) -> Option<OwnedSemaphorePermit> {
        self.read.take()
    }

    fn end(&self) -> Result<Option<Bytes>, Status> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        Err((self.broken)())
    }

    /// The length of the message that comes, once that is known.
    fn length(&self) -> Result<Option<usize>, Status> {
        let Some(&[flag, a, b, c, d]) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(compressed());
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            let limit = self.limit;
            // As grpc-go words it.
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {limit})"
            )));
        }
        Ok(Some(length))
    }

    /// The only message.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        let first = self.next().await?;
        let first = first.ok_or_else(|| Status::internal("strongroom: no message came"))?;
        let room = self.room();
        match self.next().await? {
            None => {
                self.read = room;
                Ok(first)
            }
            Some(_) => Err(Status::internal("strongroom: more than one message came")),
        }
    }

    /// What stood after the last message.
    pub(crate) fn trailers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.trailers)
    }
}

/// Compressed messages are refused, with the header that gRPC asks for (grpc.io, "Compression").
pub(crate) fn compressed() -> Status {
    let mut status = Status::unimplemented("strongroom: compressed messages are not supported");
    let identity = tonic::metadata::MetadataValue::from_static("identity");
    status.metadata_mut().insert("grpc-accept-encoding", identity);
    status
}

/// `message` in its frame.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len().saturating_add(PREFIX));
    frame.put_u8(0);
    // No message here is anywhere near 4 GiB: `Frames` bounds those that come in.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// A body of one message.
pub(crate) fn single(message: &[u8]) -> Body {
    Body::new(http_body_util::Full::new(framed(message)))
}

/// A body of one message with `trailers`, which keeps `room` until it is sent.
pub(crate) fn answered(
    message: &[u8],
    trailers: HeaderMap,
    room: Option<OwnedSemaphorePermit>,
) -> Body {
    let frames = [Frame::data(framed(message)), Frame::trailers(trailers)].into_iter();
    let frames = frames.map(move |frame| {
        let _held = &room;
        Ok::<_, Status>(frame)
    });
    Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)))
}
