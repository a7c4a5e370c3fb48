//! Requests that no client library sends: any bytes, to any path, under any headers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) const OK: i32 = 0;
pub(crate) const INVALID_ARGUMENT: i32 = 3;
pub(crate) const PERMISSION_DENIED: i32 = 7;
pub(crate) const UNIMPLEMENTED: i32 = 12;
pub(crate) const DATA_LOSS: i32 = 15;

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// One connection.
#[derive(Clone)]
pub(crate) struct Raw {
    sender: http2::SendRequest<Body>,
    authority: String,
}

/// What came back of a request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) http: u16,
    /// `grpc-status`, wherever it stood.
    pub(crate) status: Option<i32>,
    pub(crate) message: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// How the stream broke off, if it did.
    pub(crate) broken: Option<String>,
}

impl Answer {
    /// The first message of the body.
    pub(crate) fn first(&self) -> &[u8] {
        self.body.get(5..).unwrap_or_default()
    }

    fn take(&mut self, headers: &HeaderMap) {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        if let Some(status) = text("grpc-status") {
            self.status = Some(status.parse().unwrap());
            self.message = unescaped(&text("grpc-message").unwrap_or_default());
        }
        self.headers.extend(headers.clone());
    }

    /// A refusal with this code, and nothing else.
    #[track_caller]
    pub(crate) fn assert_refused(&self, code: i32, what: &str) {
        assert_eq!(self.broken, None, "{what}: {self:?}");
        assert_eq!(self.status, Some(code), "{what}: {self:?}");
        assert!(self.body.is_empty(), "{what}: {self:?}");
    }

    #[track_caller]
    pub(crate) fn assert_ok(&self, what: &str) -> &[u8] {
        assert_eq!((self.status, &self.broken), (Some(OK), &None), "{what}: {self:?}");
        self.first()
    }
}

/// A text that servers escape as they like: `%20` is a space.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).unwrap());
        out.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(out).unwrap()
}

impl Raw {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // A request's head and body are two writes: without this the second waits for the first one's acknowledgement.
        stream.set_nodelay(true).unwrap();
        Self::over(stream, address).await
    }

    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        authority: &str,
    ) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self { sender, authority: authority.into() }
    }

    /// A POST as gRPC has it.
    pub(crate) fn request(&self, path: &str) -> http::request::Builder {
        let uri = Uri::builder().scheme("http").authority(&*self.authority).path_and_query(path);
        Request::post(uri.build().unwrap())
            .header(header::TE, "trailers")
            .header(header::CONTENT_TYPE, "application/grpc")
    }

    /// A request with one message, and its answer.
    pub(crate) async fn call(&self, path: &str, message: &[u8]) -> Answer {
        self.send(self.request(path), &framed(message)).await
    }

    pub(crate) async fn send(&self, request: http::request::Builder, body: &[u8]) -> Answer {
        let body = Full::new(Bytes::copy_from_slice(body)).boxed();
        let response = self.sender.clone().send_request(request.body(body).unwrap());
        let mut answer = Answer::default();
        match tokio::time::timeout(LIMIT, response).await {
            Err(_) => answer.broken = Some("no answer".into()),
            Ok(Err(error)) => answer.broken = Some(format!("{error:?}")),
            Ok(Ok(response)) => collect(response, &mut answer).await,
        }
        answer
    }

    /// A request that stays open.
    pub(crate) async fn open(&self, path: &str) -> Stream {
        let (sender, receiver) = mpsc::channel::<Bytes>(64);
        let frames = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|bytes| (Ok(Frame::data(bytes)), receiver))
        });
        let request = self.request(path).body(BodyExt::boxed(StreamBody::new(frames))).unwrap();
        let response = tokio::spawn(self.sender.clone().send_request(request));
        Stream { sender: Some(sender), response: Some(response), body: None, buffer: Vec::new() }
    }
}

async fn collect(response: Response<Incoming>, answer: &mut Answer) {
    answer.http = response.status().as_u16();
    let (head, mut body) = response.into_parts();
    answer.take(&head.headers);
    loop {
        match tokio::time::timeout(LIMIT, body.frame()).await {
            Err(_) => answer.broken = Some("the answer does not end".into()),
            Ok(None) => {}
            Ok(Some(Err(error))) => answer.broken = Some(format!("{error:?}")),
            Ok(Some(Ok(frame))) => {
                match frame.into_data() {
                    Ok(data) => answer.body.extend(data),
                    Err(frame) => answer.take(&frame.into_trailers().unwrap()),
                }
                continue;
            }
        }
        return;
    }
}

/// A request that stays open, with any number of messages in both directions.
pub(crate) struct Stream {
    sender: Option<mpsc::Sender<Bytes>>,
    response: Option<tokio::task::JoinHandle<hyper::Result<Response<Incoming>>>>,
    body: Option<(Answer, Incoming)>,
    buffer: Vec<u8>,
}

impl Stream {
    pub(crate) async fn send(&self, message: &[u8]) {
        // It may have been refused already.
        if let Some(sender) = &self.sender {
            let _ = sender.send(framed(message).into()).await;
        }
    }

    /// Says that no more messages come.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    /// The next message, or how it ended.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>, Answer> {
        tokio::time::timeout(LIMIT, self.read()).await.expect("the stream is silent")
    }

    /// The next message, if there is one within a moment.
    pub(crate) async fn silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.read()).await.is_err()
    }

    async fn read(&mut self) -> Result<Vec<u8>, Answer> {
        if let Some(response) = self.response.as_mut() {
            let response = response.await.unwrap();
            self.response = None;
            let mut answer = Answer::default();
            match response {
                Err(error) => {
                    answer.broken = Some(format!("{error:?}"));
                    return Err(answer);
                }
                Ok(response) => {
                    answer.http = response.status().as_u16();
                    let (head, body) = response.into_parts();
                    answer.take(&head.headers);
                    self.body = Some((answer, body));
                }
            }
        }
        loop {
            if let Some(length) = self.buffer.get(1..5) {
                let end = 5 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.buffer.len() >= end {
                    let rest = self.buffer.split_off(end);
                    return Ok(std::mem::replace(&mut self.buffer, rest).split_off(5));
                }
            }
            let (answer, body) = self.body.as_mut().expect("it has ended");
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend(data),
                    Err(frame) => answer.take(&frame.into_trailers().unwrap()),
                },
                Some(Err(error)) => {
                    answer.broken = Some(format!("{error:?}"));
                    return Err(self.body.take().unwrap().0);
                }
                None => return Err(self.body.take().unwrap().0),
            }
        }
    }
}

/// A message as gRPC frames it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// What came back of a request that was written frame by frame.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) data: Vec<u8>,
    pub(crate) reset: Option<u32>,
    pub(crate) ended: bool,
}

/// One request over HTTP/2 with exactly these header bytes, whatever HTTP thinks of them.
pub(crate) async fn write_http2(address: &str, headers: &[(&str, &str)], body: &[u8]) -> Wire {
    let mut block = Vec::new();
    for (name, value) in headers {
        // A literal, neither indexed nor compressed.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    sent.extend(frame(1, 4, 1, &block));
    sent.extend(frame(0, 1, 1, body));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&sent).await.unwrap();
    let mut wire = Wire::default();
    let read = async {
        let mut head = [0; 9];
        while !wire.ended && wire.reset.is_none() && stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.unwrap();
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match (head[3], head[8]) {
                (0, 1) => wire.data.extend(&payload),
                (3, 1) => wire.reset = Some(number(0)),
                (7, _) => wire.reset = Some(number(4)),
                _ => {}
            }
            wire.ended |= head[3] < 2 && head[8] == 1 && head[4] & 1 == 1;
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("no answer");
    wire
}

/// A message of protobuf, before its encoding.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Number(u64, u64),
    /// A bool or an enum.
    Choice(u64, u64),
    Bytes(u64, Vec<u8>),
    Message(u64, Vec<Node>),
    /// As `Message`, and there may be several.
    Many(u64, Vec<Node>),
}

pub(crate) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

impl Node {
    pub(crate) fn field(&self) -> u64 {
        match self {
            Self::Number(field, _)
            | Self::Choice(field, _)
            | Self::Bytes(field, _)
            | Self::Message(field, _)
            | Self::Many(field, _) => *field,
        }
    }

    /// Its type on the wire, and what follows the tag.
    pub(crate) fn content(&self) -> (u64, Vec<u8>) {
        let mut out = Vec::new();
        match self {
            Self::Number(_, number) | Self::Choice(_, number) => {
                varint(*number, &mut out);
                return (0, out);
            }
            Self::Bytes(_, bytes) => {
                varint(bytes.len() as u64, &mut out);
                out.extend(bytes);
            }
            Self::Message(_, nodes) | Self::Many(_, nodes) => {
                let inner = encode(nodes);
                varint(inner.len() as u64, &mut out);
                out.extend(inner);
            }
        }
        (2, out)
    }
}

pub(crate) fn encode(nodes: &[Node]) -> Vec<u8> {
    let mut out = Vec::new();
    for node in nodes {
        let (kind, content) = node.content();
        varint(node.field() << 3 | kind, &mut out);
        out.extend(content);
    }
    out
}

pub(crate) fn number(field: u64, number: u64) -> Node {
    Node::Number(field, number)
}

pub(crate) fn choice(field: u64, number: u64) -> Node {
    Node::Choice(field, number)
}

pub(crate) fn bytes(field: u64, bytes: impl AsRef<[u8]>) -> Node {
    Node::Bytes(field, bytes.as_ref().into())
}

pub(crate) fn message<const N: usize>(field: u64, nodes: [Node; N]) -> Node {
    Node::Message(field, nodes.into())
}

pub(crate) fn many<const N: usize>(field: u64, nodes: [Node; N]) -> Node {
    Node::Many(field, nodes.into())
}

/// The fields of an encoded message: number, and the value as bytes or as a varint's number.
pub(crate) fn decode(mut message: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    fn take(message: &mut &[u8]) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let (first, rest) = message.split_first().unwrap();
            *message = rest;
            number |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if *first < 0x80 {
                return number;
            }
        }
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = take(&mut message);
        let value = take(&mut message);
        let mut content = Vec::new();
        if tag & 7 == 2 {
            let (first, rest) = message.split_at(value as usize);
            (content, message) = (first.to_vec(), rest);
        }
        fields.push((tag >> 3, value, content));
    }
    fields
}

/// The number or the bytes of a field, or what protobuf takes for it when it is not there.
pub(crate) fn number_of(message: &[u8], field: u64) -> u64 {
    decode(message).iter().find(|(one, ..)| *one == field).map_or(0, |(_, number, _)| *number)
}

pub(crate) fn bytes_of(message: &[u8], field: u64) -> Vec<u8> {
    decode(message).into_iter().find(|(one, ..)| *one == field).map_or(Vec::new(), |found| found.2)
}
