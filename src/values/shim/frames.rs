//! gRPC's messages in HTTP/2 bodies: a flag, four bytes of length, the message (grpc.io, "gRPC over HTTP2").

use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;

const PREFIX: usize = 5;

/// A body's messages.
pub(crate) struct Frames {
    body: Pin<Box<Body>>,
    buffer: BytesMut,
    limit: usize,
    trailers: HeaderMap,
}

impl Frames {
    /// Messages of at most `limit` bytes.
    pub(crate) fn new(body: Body, limit: usize) -> Self {
        Self { body: Box::pin(body), buffer: BytesMut::new(), limit, trailers: HeaderMap::new() }
    }

    /// The next message. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.body.is_end_stream() {
                return self.end();
            }
            match self.body.frame().await.transpose()? {
                None => return self.end(),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
                },
            }
        }
    }

    fn end(&self) -> Result<Option<Bytes>, Status> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        Err(Status::internal("strongroom: a stream ended within a message"))
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(&[flag, a, b, c, d]) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(Status::unimplemented("strongroom: compressed messages are not supported"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            let limit = self.limit;
            // As grpc-go words it.
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {limit})"
            )));
        }
        if self.buffer.len() < PREFIX.saturating_add(length) {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The only message.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        let first = self.next().await?;
        let first = first.ok_or_else(|| Status::internal("strongroom: no message came"))?;
        match self.next().await? {
            None => Ok(first),
            Some(_) => Err(Status::internal("strongroom: more than one message came")),
        }
    }

    /// What stood after the last message.
    pub(crate) fn trailers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.trailers)
    }
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

/// A body of one message with `trailers`.
pub(crate) fn answered(message: &[u8], trailers: HeaderMap) -> Body {
    let frames = [Ok::<_, Status>(Frame::data(framed(message))), Ok(Frame::trailers(trailers))];
    Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)))
}
