//! gRPC's messages in HTTP/2 bodies: a flag, four bytes of length, the message (grpc.io, "gRPC over HTTP2").

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

use super::budget::{Budget, Room};
use super::status::broke_off;

const PREFIX: usize = 5;

/// Messages up to this size are not counted: what every call takes covers them.
const GRANULE: usize = 4096;
/// How long a client may take to send one message.
const UNFINISHED: Duration = Duration::from_secs(30);
/// Answers above this size are sent without a copy, in two pieces.
const COPIED: usize = 64 << 10;

/// Who sends the messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// Without room they are refused at once: those that wait would keep others of their connection from arriving.
    Client,
    /// They wait for room, and etcd waits with them.
    Etcd,
}

impl From {
    /// What it means when a body fails, or ends within a message.
    fn broken(self) -> Status {
        match self {
            Self::Client => Status::cancelled("strongroom: the client went away"),
            Self::Etcd => broke_off(),
        }
    }
}

/// A body's messages.
pub(crate) struct Frames {
    body: Pin<Box<Body>>,
    buffer: BytesMut,
    limit: usize,
    budget: Budget,
    from: From,
    /// How long the client may take to send one message.
    patience: Duration,
    /// When the message that is being read has to be there.
    due: Option<Instant>,
    /// Room for the message that is being read.
    reading: Option<Room>,
    /// Room for the message that was read last.
    read: Option<Room>,
    trailers: HeaderMap,
}

impl Frames {
    /// A client's messages, of at most `limit` bytes.
    pub(crate) fn new(body: Body, limit: usize, budget: Budget) -> Self {
        Self::made(body, limit, budget, From::Client)
    }

    /// etcd's messages, of at most `limit` bytes.
    pub(crate) fn of_etcd(body: Body, limit: usize, budget: Budget) -> Self {
        Self::made(body, limit, budget, From::Etcd)
    }

    fn made(body: Body, limit: usize, budget: Budget, from: From) -> Self {
        Self {
            body: Box::pin(body),
            buffer: BytesMut::new(),
            limit,
            budget,
            from,
            patience: UNFINISHED,
            due: None,
            reading: None,
            read: None,
            trailers: HeaderMap::new(),
        }
    }

    /// The next message. Safe to drop and call again. The room for the one before is free again, unless
    /// [`room`](Self::room) took it.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        self.read = None;
        loop {
            if let Some(length) = self.length()? {
                if length > GRANULE && self.reading.is_none() {
                    self.reading = Some(self.room_for(length).await?);
                    let whole = length.saturating_add(PREFIX);
                    self.buffer.reserve(whole.saturating_sub(self.buffer.len()));
                }
                if self.buffer.len() >= PREFIX.saturating_add(length) {
                    self.buffer.advance(PREFIX);
                    self.read = self.reading.take();
                    self.due = None;
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            if !self.more().await? {
                return self.end();
            }
        }
    }

    /// The length of an answer that comes, and whether there is room for it; none at the end.
    pub(super) async fn announced(&mut self) -> Result<Option<(usize, bool)>, Status> {
        let length = loop {
            match self.prefix()? {
                Some(length) => break length,
                None if self.more().await? => {}
                None => return self.end().map(|_| None),
            }
        };
        let fits = length <= self.limit && (length <= GRANULE || self.has_room(length).await);
        Ok(Some((length, fits)))
    }

    /// Leaves out the prefix of the message that comes.
    pub(super) fn skip_prefix(&mut self) {
        self.buffer.advance(PREFIX);
    }

    /// Takes room for the message that is being read, if there is any in time.
    async fn has_room(&mut self, length: usize) -> bool {
        self.reading = self.room_for(length).await.ok();
        self.reading.is_some()
    }

    /// Reads some more; false at the end.
    pub(super) async fn more(&mut self) -> Result<bool, Status> {
        if self.body.is_end_stream() {
            return Ok(false);
        }
        let Some(frame) = self.frame().await? else { return Ok(false) };
        match frame.into_data() {
            Ok(data) => self.buffer.extend_from_slice(&data),
            Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
        }
        Ok(true)
    }

    /// What was read and not yet given out.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    async fn room_for(&mut self, length: usize) -> Result<Room, Status> {
        match self.from {
            From::Client => self.budget.take(length),
            // The rewritten message takes as much again.
            From::Etcd => self.budget.wait(length.saturating_mul(2)).await,
        }
    }

    fn due(&self) -> Option<Instant> {
        Instant::now().checked_add(self.patience)
    }

    async fn frame(&mut self) -> Result<Option<Frame<Bytes>>, Status> {
        if self.due.is_none() && self.from == From::Client && !self.buffer.is_empty() {
            self.due = self.due();
        }
        let frame = self.body.frame();
        let frame = match self.due {
            None => frame.await,
            Some(due) => timeout_at(due, frame).await.map_err(|_| unfinished())?,
        };
        frame.transpose().map_err(|_| self.from.broken())
    }

    /// What keeps room for the last message: to be held as long as that is.
    pub(crate) fn room(&mut self) -> Option<Room> {
        self.read.take()
    }

    fn end(&self) -> Result<Option<Bytes>, Status> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        Err(self.from.broken())
    }

    /// The length of the message that comes, once that is known.
    fn length(&self) -> Result<Option<usize>, Status> {
        let length = self.prefix()?;
        if let Some(length) = length
            && length > self.limit
        {
            let limit = self.limit;
            // As grpc-go words it.
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {limit})"
            )));
        }
        Ok(length)
    }

    /// As [`length`](Self::length), of any length.
    fn prefix(&self) -> Result<Option<usize>, Status> {
        let Some(&[flag, a, b, c, d]) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(match self.from {
                From::Client => compressed(),
                // None was asked for: it is something else that answers.
                From::Etcd => Status::unavailable("strongroom: what etcd answers is not gRPC"),
            });
        }
        Ok(Some(u32::from_be_bytes([a, b, c, d]) as usize))
    }

    /// The only message.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        self.due = self.due();
        let first = self.next().await?;
        let first = first.ok_or_else(|| Status::internal("strongroom: no message came"))?;
        let room = self.room();
        self.due = self.due();
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

fn unfinished() -> Status {
    Status::deadline_exceeded("strongroom: the request was not complete in time")
}

/// `message` in its frame.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len().saturating_add(PREFIX));
    frame.put_slice(&prefix(message));
    frame.put_slice(message);
    frame.freeze()
}

fn prefix(message: &[u8]) -> [u8; PREFIX] {
    // No message here is anywhere near 4 GiB: `Frames` bounds those that come in.
    let [a, b, c, d] = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// A body of one message.
pub(crate) fn single(message: &[u8]) -> Body {
    Body::new(http_body_util::Full::new(framed(message)))
}

/// A body of one message with `trailers`. `room` is taken until the message was sent.
pub(crate) fn answered(message: Bytes, trailers: HeaderMap, room: Option<Room>) -> Body {
    let (head, message) = if message.len() > COPIED {
        (Some(Bytes::copy_from_slice(&prefix(&message))), message)
    } else {
        (None, framed(&message))
    };
    let message = held(message, room);
    let frames =
        [head.map(Frame::data), Some(Frame::data(message)), Some(Frame::trailers(trailers))];
    let frames = frames.into_iter().flatten().map(Ok::<_, Status>);
    Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)))
}

/// `bytes`, which keep as much of `room` as they need for as long as they are in memory, in any queue.
pub(crate) fn held(bytes: Bytes, room: Option<Room>) -> Bytes {
    struct Held(Bytes, #[allow(dead_code, reason = "it is dropped with the bytes")] Room);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    match room {
        None => bytes,
        Some(mut room) => {
            room.shrink(bytes.len());
            Bytes::from_owner(Held(bytes, room))
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    /// A body of `pieces`, which never ends.
    fn unfinished(pieces: &[&[u8]]) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        let pieces = stream::iter(pieces).map(|piece| Ok::<_, Status>(Frame::data(piece)));
        Body::new(StreamBody::new(pieces.chain(stream::pending())))
    }

    fn requests(pieces: &[&[u8]]) -> Frames {
        let frames = Frames::new(unfinished(pieces), 100, Budget::new(1 << 20));
        Frames { patience: Duration::from_millis(50), ..frames }
    }

    #[tokio::test]
    async fn a_request_has_to_be_finished_in_time() {
        for begun in ["", "\0\0", "\0\0\0\0\x10abc", "\0\0\0\0\x01a"] {
            let refused = requests(&[begun.as_bytes()]).only().await.unwrap_err();
            assert_eq!(refused.code(), Code::DeadlineExceeded);
        }
    }

    #[tokio::test]
    async fn a_stream_may_be_silent_between_messages_and_not_within_one() {
        let mut frames = requests(&[b"\0\0\0\0\x01a"]);
        assert_eq!(frames.next().await.unwrap().unwrap(), "a");
        let silent = Duration::from_millis(200);
        assert!(tokio::time::timeout(silent, frames.next()).await.is_err());
        let mut frames = requests(&[b"\0\0\0\0\x01a\0"]);
        assert_eq!(frames.next().await.unwrap().unwrap(), "a");
        assert_eq!(frames.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_message_takes_room_while_it_grows_and_while_it_is_sent() {
        let budget = Budget::new(300_000);
        let length = 100_000_u32.to_be_bytes();
        let begin = [&[0], &length[..], b"abc"].concat();
        let mut growing = Frames::new(unfinished(&[&begin]), 1 << 20, budget.clone());
        assert!(futures::poll!(std::pin::pin!(growing.next())).is_pending());
        let mut second = Frames::new(unfinished(&[&begin]), 1 << 20, budget.clone());
        assert!(futures::poll!(std::pin::pin!(second.next())).is_pending());
        let mut third = Frames::new(unfinished(&[&begin]), 1 << 20, budget.clone());
        assert_eq!(third.next().await.unwrap_err().code(), Code::ResourceExhausted);
        drop((growing, second));
        let room = budget.take(200_000).unwrap();
        let mut body = answered(Bytes::from(vec![1; 150_000]), HeaderMap::new(), Some(room));
        let mut sent = Vec::new();
        while let Some(frame) = body.frame().await {
            sent.extend(frame.unwrap().into_data());
        }
        drop(body);
        assert_eq!(sent.concat().len(), 150_005);
        // It is in a queue, and counts until it leaves it.
        assert!(budget.take(100_000).is_err());
        drop(sent);
        assert!(budget.take(200_000).is_ok());
    }
}
