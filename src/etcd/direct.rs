//! A connection to etcd for calls with one message and one answer.
//!
//! A call talks to HTTP/2 itself, and only the connection's own task stands between it and etcd. tonic's channel and
//! hyper's client pass a call and its answer through three more tasks, which took a seventh of a call's processor time.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::Channel;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::{Request, Response, Uri};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, service_fn};

use super::gather;
use super::settings::{EtcdSettings, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use crate::error::Result;

/// The largest window of HTTP/2.
pub(super) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// How often a ping is sent, and how long its answer may take.
const PINGS: (Duration, Duration) = (KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT);
/// Bytes of the largest headers of an answer.
const MAX_HEADERS: u32 = 16 << 10;

/// A member, connected to when it is first used, and again after the connection was lost.
#[derive(Clone)]
pub(super) struct Direct(Arc<Member>);

struct Member {
    to: To,
    current: Mutex<Option<Attempt>>,
}

/// What to connect to.
#[derive(Clone)]
struct To {
    uri: Uri,
    /// Without it the connection is unencrypted.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    limit: Duration,
    window: u32,
}

/// An attempt to connect, shared by the calls that wait for it. If it fails, they all get its error; the next call makes
/// a new attempt.
type Attempt = Shared<BoxFuture<'static, std::result::Result<Arc<Up>, Failed>>>;

type Failed = Arc<dyn Error + Send + Sync>;

/// A connection that is up. It ends when this is dropped.
struct Up {
    sender: SendRequest<Bytes>,
    /// Each call under way holds it too.
    calls: Arc<()>,
    _wanted: oneshot::Sender<()>,
}

impl Direct {
    /// # Errors
    /// Those of [`EtcdSettings::tls_config`].
    pub(super) fn new(settings: &EtcdSettings, uri: Uri, window: u32) -> Result<Self> {
        let tls = if uri.scheme_str() == Some("https") {
            let name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(name)
                .map_err(|error| crate::Error::usage(format!("etcd endpoint {uri}: {error}")))?;
            Some((settings.tls_config()?, name))
        } else {
            None
        };
        let to = To { uri, tls, limit: settings.dial_timeout, window };
        Ok(Self(Arc::new(Member { to, current: Mutex::new(None) })))
    }

    /// The same member as a channel, for requests of one message.
    pub(super) fn channel(&self) -> Channel {
        let member = self.clone();
        let service = service_fn(move |request| member.clone().send(request));
        Channel::Custom(BoxCloneSyncService::new(service))
    }

    /// Connects, if there is no connection.
    ///
    /// # Errors
    /// Those of the connection, which did not come up.
    pub(super) async fn connect(&self) -> std::result::Result<(), BoxError> {
        self.up().await.map(|_| ()).map_err(BoxError::from)
    }

    async fn send(self, request: Request<Body>) -> std::result::Result<Response<Body>, BoxError> {
        let up = self.up().await?;
        let (mut head, body) = request.into_parts();
        let mut uri = self.0.to.uri.clone().into_parts();
        uri.path_and_query = head.uri.path_and_query().cloned();
        head.uri = Uri::from_parts(uri)?;
        up.send(Request::from_parts(head, ()), body).await
    }

    /// The connection, once it is up.
    async fn up(&self) -> std::result::Result<Arc<Up>, Failed> {
        let attempt = {
            let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
            match &*current {
                Some(attempt) if may_be_used(attempt) => attempt.clone(),
                _ => current.insert(self.0.to.attempt()).clone(),
            }
        };
        attempt.await
    }
}

impl Up {
    async fn send(
        self: Arc<Self>,
        request: Request<()>,
        mut body: Body,
    ) -> std::result::Result<Response<Body>, BoxError> {
        let call = Arc::clone(&self.calls);
        let (response, mut stream) = self.sender.clone().send_request(request, false)?;
        // The message is small or counted, and is in memory already: it is not sent in parts.
        loop {
            let frame = body.frame().await.transpose()?;
            let is_last = frame.is_none() || body.is_end_stream();
            let data = frame.and_then(|frame| frame.into_data().ok()).unwrap_or_default();
            stream.send_data(data, is_last)?;
            if is_last {
                break;
            }
        }
        let response = response.await?;
        Ok(response.map(|stream| Body::new(Answer { stream, _up: self, _call: call })))
    }
}

fn may_be_used(attempt: &Attempt) -> bool {
    match attempt.peek() {
        None => true,
        Some(Err(_)) => false,
        Some(Ok(up)) => {
            let mut context = Context::from_waker(Waker::noop());
            !matches!(up.sender.clone().poll_ready(&mut context), Poll::Ready(Err(_)))
        }
    }
}

impl To {
    /// Begins to connect, in a task: it goes on when the calls that wait for it are dropped.
    fn attempt(&self) -> Attempt {
        let (to, limit) = (self.clone(), self.limit);
        let attempt = async move {
            let connected = timeout(limit, to.connect()).await;
            let late = |_| Err(format!("no connection within {limit:?}").into());
            connected.unwrap_or_else(late).map_err(Arc::from)
        };
        let attempt = attempt.boxed().shared();
        tokio::spawn(attempt.clone());
        attempt
    }

    async fn connect(self) -> std::result::Result<Arc<Up>, BoxError> {
        let stream = gather::connect(self.uri).await?;
        let Some((config, name)) = self.tls else { return begin(stream, self.window, PINGS).await };
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("the server does not speak HTTP/2".into());
        }
        begin(stream, self.window, PINGS).await
    }
}

async fn begin<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    window: u32,
    every: (Duration, Duration),
) -> std::result::Result<Arc<Up>, BoxError> {
    let (sender, mut connection) = Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(MAX_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let calls = Arc::new(());
    let unanswered = unanswered(connection.ping_pong(), Arc::downgrade(&calls), every);
    let (wanted, unwanted) = oneshot::channel();
    tokio::spawn(run(connection, unwanted, unanswered));
    Ok(Arc::new(Up { sender, calls, _wanted: wanted }))
}

/// The connection's task.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    connection: Connection<S>,
    unwanted: oneshot::Receiver<()>,
    unanswered: impl Future<Output = ()>,
) {
    tokio::select! {
        // Calls see what went wrong.
        _ = connection => {}
        _ = unwanted => {}
        () = unanswered => {}
    }
}

/// Ends when a ping was not answered. There are none without calls: etcd ends the connections of clients that send them.
async fn unanswered(
    pings: Option<PingPong>,
    calls: Weak<()>,
    (every, limit): (Duration, Duration),
) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(every).await;
        if calls.strong_count() > 1 {
            match timeout(limit, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {}
                _ => return,
            }
        }
    }
}

/// The body of an answer. The connection is kept until it was read.
struct Answer {
    stream: RecvStream,
    _up: Arc<Up>,
    _call: Arc<()>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, h2::Error>>> {
        let frame = match ready!(self.stream.poll_data(context)) {
            Some(Ok(data)) => {
                // An error means that the stream has ended.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Some(Ok(Frame::data(data)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                let trailers = ready!(self.stream.poll_trailers(context)).transpose();
                trailers.map(|trailers| trailers.map(Frame::trailers))
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// A member that counts connections, gives each so many answers, and then closes it.
    async fn member(answers: usize) -> (Direct, mpsc::UnboundedReceiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (accepted, connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.send(()).unwrap();
                tokio::spawn(serve(stream, answers));
            }
        });
        (direct(&endpoint), connections)
    }

    async fn serve(stream: tokio::net::TcpStream, answers: usize) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        for _ in 0..answers {
            let Some(Ok((request, mut respond))) = connection.accept().await else { return };
            assert_eq!(request.uri().path(), "/etcdserverpb.KV/Range");
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from(vec![7; 1 << 20]), true).unwrap();
        }
        connection.graceful_shutdown();
        while connection.accept().await.is_some() {}
    }

    fn direct(endpoint: &str) -> Direct {
        let settings = EtcdSettings::default();
        Direct::new(&settings, endpoint.parse().unwrap(), 64 << 10).unwrap()
    }

    /// The length of an answer.
    async fn call(direct: &Direct) -> std::result::Result<usize, BoxError> {
        let request = Request::post("/etcdserverpb.KV/Range").body(Body::empty()).unwrap();
        let response = direct.clone().send(request).await?;
        Ok(response.into_body().collect().await?.to_bytes().len())
    }

    #[tokio::test]
    async fn calls_share_a_connection() {
        let (direct, mut connections) = member(usize::MAX).await;
        let lengths = join_all((0..10).map(|_| call(&direct))).await;
        assert!(lengths.into_iter().all(|length| length.unwrap() == 1 << 20));
        assert_eq!(call(&direct).await.unwrap(), 1 << 20);
        connections.recv().await.unwrap();
        assert!(connections.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_lost_connection_is_made_again() {
        let (direct, mut connections) = member(1).await;
        for _ in 0..5 {
            assert_eq!(call(&direct).await.unwrap(), 1 << 20);
            connections.recv().await.unwrap();
            // Until its end was noticed.
            let is_up = || may_be_used(direct.0.current.lock().unwrap().as_ref().unwrap());
            while is_up() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_at_once_and_the_next_call_tries_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let direct = direct(&format!("http://{address}"));
        for _ in 0..2 {
            let error = call(&direct).await.unwrap_err();
            let error = crate::etcd::chain(&*error);
            assert!(error.contains("refused"), "{error}");
        }
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move { serve(listener.accept().await.unwrap().0, 1).await });
        assert_eq!(call(&direct).await.unwrap(), 1 << 20);
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_while_it_connects_takes_no_other_with_it() {
        let (direct, _connections) = member(usize::MAX).await;
        {
            let dropped = std::pin::pin!(call(&direct));
            assert!(futures::poll!(dropped).is_pending());
        }
        assert_eq!(call(&direct).await.unwrap(), 1 << 20);
    }

    #[tokio::test]
    async fn the_connection_ends_with_its_member() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let direct = direct(&format!("http://{}", listener.local_addr().unwrap()));
        let (accepted, connected) = tokio::join!(listener.accept(), direct.connect());
        connected.unwrap();
        drop(direct);
        let mut read = Vec::new();
        let mut stream = accepted.unwrap().0;
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut read).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_does_not_answer_pings_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(1 << 20);
        let soon = Duration::from_millis(20);
        let up = begin(ours, 64 << 10, (soon, soon)).await.unwrap();
        let request = Request::post("http://etcd/etcdserverpb.KV/Range").body(()).unwrap();
        assert!(up.send(request, Body::empty()).await.is_err());
    }
}
