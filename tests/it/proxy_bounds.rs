//! What clients can take of the proxy: files, time and memory.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream as Socket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use crate::etcd_server::{Etcd, Version};
use crate::proxy_gate::{Authority, keyring};

/// The program as a proxy for `etcd`, started by a shell after `before`.
struct Server {
    child: Child,
    address: SocketAddr,
    metrics: SocketAddr,
    dir: TempDir,
}

impl Server {
    fn start(etcd: &Etcd, before: &str, args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let key = keyring(dir.path());
        let init = ["value", "init", "-k", &key, "--endpoints", etcd.endpoint()];
        assert_eq!(crate::proxy_gate::output(&init).0, Some(0));
        let ports = crate::etcd_server::free_ports(2);
        let [address, metrics] =
            [ports[0], ports[1]].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (listen, metrics_listen) = (address.to_string(), metrics.to_string());
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{before}; exec \"$@\""), "sh"]);
        command.args([env!("CARGO_BIN_EXE_strongroom"), "proxy", "-k", &key]);
        command.args(["--endpoints", etcd.endpoint(), "--listen", &listen]);
        command.args(["--metrics-listen", &metrics_listen]).args(args);
        let errors = fs::File::create(dir.path().join("errors")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(errors).spawn().unwrap();
        let server = Self { child, address, metrics, dir };
        let begun = Instant::now();
        while Socket::connect(address).is_err() || !server.scrape().contains("# EOF") {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", server.errors());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.dir.path().join("errors")).unwrap()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// MiB in memory.
    fn resident(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// Clock ticks of a 100th of a second.
    fn processor_time(&self) -> u64 {
        let stat = self.proc("stat");
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn scrape(&self) -> String {
        use std::io::Write;
        let mut text = String::new();
        if let Ok(mut stream) = Socket::connect(self.metrics) {
            let _ = write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let _ = stream.read_to_string(&mut text);
        }
        text
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.scrape();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Sender = SendRequest<BoxBody<Bytes, std::convert::Infallible>>;

/// A connection from 127.0.0.`from`, whose answers stay where they are until they are read.
async fn connect(server: &Server, from: u8) -> Sender {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(65_535).initial_connection_window_size(16 << 20);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A call whose request is what comes from the channel.
async fn open(sender: &mut Sender, path: &str) -> (mpsc::Sender<Bytes>, PendingAnswer) {
    open_with(sender, path, "").await
}

/// As [`open`], with a header that nobody reads.
async fn open_with(
    sender: &mut Sender,
    path: &str,
    header: &str,
) -> (mpsc::Sender<Bytes>, PendingAnswer) {
    let (pieces, mut receiver) = mpsc::channel::<Bytes>(64);
    let body = StreamBody::new(futures::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }));
    let request = Request::post(format!("http://proxy/etcdserverpb.{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-header", header)
        .body(BodyExt::boxed(body))
        .unwrap();
    sender.ready().await.unwrap();
    (pieces, tokio::spawn(sender.send_request(request)))
}

type PendingAnswer = tokio::task::JoinHandle<hyper::Result<Response<Incoming>>>;

/// The gRPC status of an answer that is read to its end, and the length of what came before.
async fn finish(answer: PendingAnswer) -> (String, usize) {
    let answer = answer.await.unwrap().unwrap();
    let in_headers = answer.headers().get("grpc-status").cloned();
    let rest = answer.into_body().collect().await.unwrap();
    let in_trailers = rest.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    let status = in_headers.or(in_trailers).unwrap();
    (status.to_str().unwrap().into(), rest.to_bytes().len())
}

fn message(bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], &length[..], bytes].concat().into()
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut length = bytes.len();
    let mut out = vec![number << 3 | 2];
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn put(key: &str, value: &[u8]) -> Bytes {
    message(&[field(1, key.as_bytes()), field(2, value)].concat())
}

/// All keys with this prefix, which ends with `/`.
fn list(prefix: &str) -> Bytes {
    let end = prefix.replace('/', "0");
    message(&[field(1, prefix.as_bytes()), field(2, end.as_bytes())].concat())
}

async fn call(sender: &mut Sender, path: &str, message: Bytes) -> (String, usize) {
    let (pieces, answer) = open(sender, path).await;
    pieces.send(message).await.unwrap();
    drop(pieces);
    tokio::time::timeout(Duration::from_secs(20), finish(answer)).await.expect("an answer in time")
}

const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const RESOURCE_EXHAUSTED: &str = "8";

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_of_many_connections_have_one_memory() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let server = Server::start(&etcd, "true", &["--max-memory", "32"]);
    let value = vec![7_u8; 1 << 20];
    let (mut all, mut held) = (Vec::new(), Vec::new());
    for connection in 0..40 {
        let mut sender = connect(&server, 2).await;
        for at in 0..4 {
            let (pieces, answer) = open(&mut sender, "KV/Put").await;
            // Not the last byte.
            let message = put(&format!("{connection}/{at}"), &value);
            let _ = pieces.send(message.slice(..message.len() - 1)).await;
            held.push(pieces);
            all.push(answer);
        }
        held.push(mpsc::channel(1).0);
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::mem::forget(sender);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let resident = server.resident();
    assert!(resident < 100, "{resident} MiB: 160 of requests are under way");
    let refused: Vec<_> = all.into_iter().filter(|answer| answer.is_finished()).collect();
    assert!(refused.len() > 100, "{}", refused.len());
    for answer in refused {
        assert_eq!(finish(answer).await.0, RESOURCE_EXHAUSTED);
    }
    // What one address holds leaves room for others.
    let mut other = connect(&server, 3).await;
    assert_eq!(call(&mut other, "KV/Put", put("a", &value)).await.0, OK);
    assert!(server.metric("strongroom_proxy_memory_used_bytes ") > 16 << 20);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_queue_and_those_unread_hold_up_nobody_else() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let server = Server::start(&etcd, "true", &["--max-memory", "16"]);
    let mut client = connect(&server, 2).await;
    for at in 0..3 {
        let stored = call(&mut client, "KV/Put", put(&format!("l/{at}"), &[7; 512 << 10])).await;
        assert_eq!(stored.0, OK);
    }
    // Each takes 3 MiB while it is decrypted, and there are 10 for one client.
    let lists = (0..8).map(|_| {
        let mut client = client.clone();
        async move { call(&mut client, "KV/Range", list("l/")).await }
    });
    for (status, length) in join_all(lists).await {
        assert!(status == OK && length > 3 << 19, "{status} {length}");
    }
    // The first are in memory, and the others wait for room.
    let mut unread = Vec::new();
    for _ in 0..8 {
        let (pieces, answer) = open(&mut client, "KV/Range").await;
        pieces.send(list("l/")).await.unwrap();
        unread.push(answer);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(server.metric("strongroom_proxy_memory_used_bytes ") > 6 << 20);
    let small = message(&field(1, b"l/none"));
    assert_eq!(call(&mut client, "KV/Range", small.clone()).await.0, OK);
    for from in 3..6 {
        let mut other = connect(&server, from).await;
        for _ in 0..10 {
            assert_eq!(call(&mut other, "KV/Range", small.clone()).await.0, OK);
        }
    }
    let one = message(&field(1, b"l/1"));
    assert_eq!(call(&mut connect(&server, 3).await, "KV/Range", one).await.0, OK);
    for (status, length) in join_all(unread.into_iter().map(finish)).await {
        assert!(status == OK && length > 3 << 19, "{status} {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_at_once_than_there_is_memory_for_wait_for_each_other() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let server = Server::start(&etcd, "true", &["--max-memory", "16"]);
    let client = connect(&server, 2).await;
    let calls = (0..1000).map(|at: i32| {
        let mut client = client.clone();
        async move { call(&mut client, "KV/Put", put(&at.to_string(), b"value")).await.0 }
    });
    assert!(join_all(calls).await.iter().all(|status| status == OK));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_nobody_reads_take_no_memory_while_calls_wait() {
    const WAITING: usize = 3000;
    let etcd = Etcd::start(Version::NEWEST).await;
    let server = Server::start(&etcd, "true", &["--max-memory", "16"]);
    let mut client = connect(&server, 2).await;
    // Calls that are not finished take all the room for calls.
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(open(&mut client, "KV/Put").await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = server.resident();
    for at in 0..WAITING {
        // Another one each time, in full.
        let header = format!("{at:08}").repeat(1500);
        held.push(open_with(&mut client, "KV/Put", &header).await);
    }
    // All of them have arrived when this one is refused.
    for _ in 0..2000 {
        held.push(open(&mut client, "KV/Put").await);
    }
    let (_pieces, answer) = open(&mut client, "KV/Put").await;
    let refused = tokio::time::timeout(Duration::from_secs(20), finish(answer)).await.unwrap();
    assert_eq!(refused.0, RESOURCE_EXHAUSTED);
    let grown = server.resident() - before;
    // 4096 calls wait. With the headers it was 146 MiB, and a third of that without them.
    assert!(grown < 64, "{grown} MiB");
}

/// Operations of a few bytes take far more once they are taken apart.
#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_transaction_count() {
    let etcd = Etcd::start(Version::V3_5).await;
    let server = Server::start(&etcd, "true", &["--max-memory", "32"]);
    let mut client = connect(&server, 2).await;
    let range = field(2, &field(1, &field(1, b"k")));
    let before = server.resident();
    let calls = (0..8).map(|_| {
        let (mut client, many) = (client.clone(), message(&range.repeat(250_000)));
        async move { call(&mut client, "KV/Txn", many).await.0 }
    });
    let statuses = join_all(calls).await;
    assert!(statuses.iter().all(|status| status == RESOURCE_EXHAUSTED), "{statuses:?}");
    let grown = server.resident() - before;
    assert!(grown < 120, "{grown} MiB for requests of 14 MiB");
    // Each of these is decided here, after a read.
    let compare = field(1, &[&[0x10, 3][..], &field(3, b"k"), &field(7, b"v")].concat());
    for (count, expected) in [(128, OK), (5000, INVALID_ARGUMENT)] {
        let answer = call(&mut client, "KV/Txn", message(&compare.repeat(count))).await;
        assert_eq!(answer.0, expected, "{count} comparisons");
    }
    assert_eq!(call(&mut client, "KV/Txn", message(&range.repeat(128))).await.0, OK);
}

/// What was deleted is in the log, though there is no memory for the answer, and after any number of refusals.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_large_hides_no_write() {
    let etcd = Etcd::start(Version::V3_5).await;
    let log = TempDir::new().unwrap();
    let log = log.path().join("audit.log").display().to_string();
    let server = Server::start(&etcd, "true", &["--max-memory", "16", "--audit-log", &log]);
    let mut client = connect(&server, 2).await;
    for at in 0..7 {
        let stored = call(&mut client, "KV/Put", put(&format!("l/{at}"), &[7; 1 << 20])).await;
        assert_eq!(stored.0, OK);
    }
    for _ in 0..60 {
        let refused = call(&mut client, "KV/Put", message(&field(9, b"x"))).await;
        assert_eq!(refused.0, INVALID_ARGUMENT);
    }
    let delete = [field(1, b"l/"), field(2, b"l0"), vec![0x18, 1]].concat();
    assert_eq!(call(&mut client, "KV/DeleteRange", message(&delete)).await.0, OK);
    let query = ["audit-log", "query", &log, "--method", "DeleteRange"];
    let (status, lines) = crate::proxy_gate::output(&query);
    assert!(status == Some(0) && lines.contains("l/"), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_used_up_are_waited_for() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let server = Server::start(&etcd, "ulimit -n 48", &[]);
    let mut connected: Vec<_> = (0..80).map(|_| Socket::connect(server.address).unwrap()).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = server.processor_time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = server.processor_time() - begun;
    assert!(used < 100, "{used} of 200 ticks");
    connected.clear();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut client = connect(&server, 2).await;
    assert_eq!(call(&mut client, "KV/Put", put("a", b"")).await.0, OK);
    assert!(server.metric("strongroom_proxy_accept_failures_total ") > 5);
    let errors = server.errors();
    let said = errors.matches("accept_failed error=\"Too many open files").count();
    assert!((1..=3).contains(&said), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_files_that_may_be_open_are_taken() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let server = Server::start(&etcd, "ulimit -Sn 100", &[]);
    let limits = server.proc("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<_> = line.split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "{line}");
}

/// Whether the server closes `stream` within `seconds`.
fn closes(mut stream: impl Read + Send + 'static, seconds: u64) -> impl Future<Output = bool> {
    let (sender, closed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        while stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {}
        let _ = sender.send(());
    });
    async move { tokio::time::timeout(Duration::from_secs(seconds), closed).await.is_ok() }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let other = Etcd::start(Version::NEWEST).await;
    let plain = Server::start(&other, "true", &[]);
    let dir = TempDir::new().unwrap();
    let authority = Authority::new(dir.path());
    authority.certify("proxy");
    let [cert, key, ca] = ["proxy.crt", "proxy.key", "ca.crt"].map(|name| authority.path(name));
    let tls = ["--listen-cert", &cert, "--listen-key", &key, "--listen-trusted-ca", &ca];
    let tls = Server::start(&etcd, "true", &tls);
    let half = |server: &Server, bytes: &[u8]| {
        use std::io::Write;
        let mut stream = Socket::connect(server.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    // The last: after the handshake nothing comes.
    let mut handshaken = Command::new("openssl");
    handshaken.args(["s_client", "-quiet", "-alpn", "h2", "-connect", &tls.address.to_string()]);
    handshaken.args(["-CAfile", &ca, "-cert", &cert, "-key", &key]).stdin(Stdio::piped());
    let mut handshaken = handshaken.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let after_handshake = handshaken.stdout.take().unwrap();
    let (a, b, c, d, e) = tokio::join!(
        closes(half(&plain, b""), 20),
        closes(half(&plain, &PREFACE[..20]), 20),
        closes(half(&tls, b""), 20),
        closes(half(&tls, b"\x16\x03\x01"), 20),
        closes(after_handshake, 20),
    );
    let _ = handshaken.kill();
    let _ = handshaken.wait();
    assert_eq!([a, b, c, d, e], [true; 5]);
}

#[ignore = "takes 40 s"]
#[tokio::test(flavor = "multi_thread")]
async fn long_requests_that_are_not_finished_are_ended() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let server = Server::start(&etcd, "true", &[]);
    let mut client = connect(&server, 2).await;
    let mut unfinished = Vec::new();
    for bytes in [&b""[..], b"\0\0", b"\0\0\0\0\x10abc", b"\0\0\x01\0\0abc"] {
        let (pieces, answer) = open(&mut client, "KV/Put").await;
        pieces.send(Bytes::copy_from_slice(bytes)).await.unwrap();
        unfinished.push((pieces, answer));
    }
    // A watch may be silent as long as it likes, but not in the middle of a message.
    let (_silent, silent) = open(&mut client, "Watch/Watch").await;
    let (half, answer) = open(&mut client, "Watch/Watch").await;
    half.send(Bytes::from_static(b"\0\0\0\0\x10abc")).await.unwrap();
    let half_headers = {
        use std::io::Write;
        let mut stream = Socket::connect(server.address).unwrap();
        stream.write_all(PREFACE).unwrap();
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82").unwrap();
        closes(stream, 35)
    };
    let (closed, ()) = tokio::join!(half_headers, async {
        for (_held, answer) in unfinished {
            let answer = tokio::time::timeout(Duration::from_secs(35), finish(answer)).await;
            // DEADLINE_EXCEEDED
            assert_eq!(answer.unwrap().0, "4");
        }
        assert_eq!(finish(answer).await.0, "4");
    });
    assert!(closed);
    let silent = silent.await.unwrap().unwrap().into_body().collect();
    assert!(tokio::time::timeout(Duration::from_secs(1), silent).await.is_err());
}
