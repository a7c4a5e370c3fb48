//! The proxy: etcd's gRPC API, served with the [`Shim`] between the client and etcd.
//!
//! Each client's streams have connections of their own to etcd, so that a client that does not read holds up itself
//! alone; calls with one answer, which is always taken whole, share one. Calls other than those with values pass through as bytes.

mod access;
mod clients;
mod first;
mod gate;
mod identity;
mod line;
mod log;
mod metrics;
mod pages;
mod threads;
mod tls;
mod wait;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::Channel;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;
use tracing::{info, warn};

pub use crate::settings::ProxySettings;
pub use crate::status_server::listen;
pub use wait::bind;

use crate::audit_log::AuditLog;
use crate::error::{Error, Result};
use crate::etcd::{EtcdSettings, check_version, gathered};
use crate::keys::KeySet;
use crate::limit::limited;
use crate::values::{Budget, Namespace, Room, Scope, Shim};
use access::Access;
use clients::{Clients, Held};
use first::Protocol;
use gate::{Audit, Gate, Users};
use identity::Identity;
use metrics::Metrics;
use pages::Pages;
use threads::Threads;
use tls::{Acceptor, ServerTls};

/// Calls and watches' streams of one connection at once. etcd's own default has no limit.
const MAX_STREAMS: u32 = 16_384;
/// How long a client may take for the TLS handshake and the first bytes after it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request of HTTP/1.1 may take, and its answer.
const HTTP1: Duration = Duration::from_secs(10);
/// The longest headers of such a request, in bytes.
const HTTP1_BUFFER: usize = 16 << 10;
/// How long calls may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Pings that find a client that is gone, or stopped within a request's headers.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15));
/// Bytes of headers that a waiting call may have without being counted.
const FEW_HEADERS: usize = 1024;
/// What is passed to HTTP/2 of an answer that its client does not read.
const SEND_BUFFER: usize = 32 << 10;
/// Bytes of requests that may be under way unread: of one call, and of a connection.
const WINDOW: (u32, u32) = (128 << 10, 512 << 10);
/// Bytes of one answer of etcd that may be under way unread. A call's room covers them.
const ANSWER_WINDOW: u32 = 64 << 10;
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request beyond etcd's `--max-request-bytes`: what etcd allows its envelope.
const MORE: usize = 512 << 10;
/// How long `/readyz` waits for etcd.
const READY: Duration = Duration::from_secs(5);

/// A proxy that is ready to serve.
pub struct Proxy(Arc<Shared>);

struct Shared {
    etcd: EtcdSettings,
    /// How etcd is reached for clients' calls.
    clients_etcd: EtcdSettings,
    identity: Identity,
    acceptor: Option<Acceptor>,
    shim: Shim,
    namespace: Namespace,
    access: Access,
    audit: Option<Audit>,
    /// The last record could not be written.
    unwritable: AtomicBool,
    users: Users,
    metrics: Metrics,
    clients: Clients,
    pages: Pages,
    max_request: usize,
    advertise: Option<Arc<str>>,
    /// How many members of etcd are behind it.
    members: usize,
}

impl Shared {
    fn is_unwritable(&self) -> bool {
        self.unwritable.load(Ordering::Relaxed)
    }

    /// Notes it; whether it was so before.
    fn set_unwritable(&self, unwritable: bool) -> bool {
        self.unwritable.swap(unwritable, Ordering::Relaxed)
    }

    /// Whether requests can be answered now; else why not.
    async fn ready(&self) -> Result<(), String> {
        if self.audit.as_ref().is_some_and(|audit| !audit.fail_open) && self.is_unwritable() {
            return Err("the audit log cannot be written".into());
        }
        self.identity.ready()?;
        let read = timeout(READY, self.namespace.refresh()).await;
        match read {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("etcd does not answer".into()),
        }
    }
}

impl Proxy {
    /// Reads the keyring in etcd and checks the options.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an etcd later than the last one tested. Those of
    /// [`Namespace::open`], and [`Usage`](crate::ErrorKind::Usage) or [`Io`](crate::ErrorKind::Io) for what is wrong
    /// with the TLS files.
    pub async fn prepare(
        settings: ProxySettings,
        masters: Arc<KeySet>,
        audit: Option<AuditLog>,
    ) -> Result<Self> {
        settings.check()?;
        let acceptor = acceptor(&settings)?;
        let namespace = open(&settings, &masters).await?;
        Self::with(settings, acceptor, namespace, audit).await
    }

    async fn with(
        settings: ProxySettings,
        acceptor: Option<Acceptor>,
        namespace: Namespace,
        audit: Option<AuditLog>,
    ) -> Result<Self> {
        let clients_etcd = clients_etcd(&settings)?;
        let bytes = |names: &[String]| names.iter().map(|name| name.clone().into()).collect();
        let scope = Scope::new(bytes(&settings.include), bytes(&settings.exclude));
        let max_request = (settings.max_request_bytes as usize).saturating_add(MORE);
        let shim = Shim::new(settings.etcd.balanced()?, namespace.clone(), scope)
            .with_max_request(max_request)
            .with_unreadable(settings.unreadable_values);
        let asks = acceptor.as_ref().is_none_or(Acceptor::asks_for_certificates);
        let identity = Identity::new(!asks && !settings.insecure_no_client_auth);
        identity.learn(&shim, &clients_etcd).await;
        identity.begin()?;
        let fail_open = settings.audit_fail_open;
        Ok(Self(Arc::new(Shared {
            members: settings.etcd.endpoints.len(),
            advertise: settings.advertise_client_url.map(Arc::from),
            etcd: settings.etcd,
            clients_etcd,
            identity,
            acceptor,
            shim,
            namespace,
            access: Access::new(&settings.allow),
            audit: audit.map(|log| Audit { log, fail_open }),
            unwritable: AtomicBool::new(false),
            users: Users::default(),
            metrics: Metrics::new(settings.cluster.as_ref()),
            clients: Clients::new((settings.max_memory as usize) << 20),
            pages: Pages::default(),
            max_request,
        })))
    }

    /// The value keys in use.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// Serves whoever connects to `listener` until `stop` turns true; then no new calls are taken, and those under way
    /// have five seconds. `metrics` answers `/metrics`, `/healthz` and `/readyz` in HTTP/1.1.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) when the listener fails for good.
    pub async fn serve(
        self,
        listener: TcpListener,
        metrics: Option<TcpListener>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let shared = self.0;
        log::started(&shared, &listener);
        let reporting = tokio::spawn(log::report(shared.namespace.clone()));
        if let Some(listener) = metrics {
            tokio::spawn(metrics::serve(listener, Arc::clone(&shared), stop.clone()));
        }
        let renewing = tokio::spawn(wait::renew(Arc::clone(&shared)));
        tokio::spawn(identity::follow(Arc::clone(&shared), stop.clone()));
        let mut threads = Threads::start(&shared, &stop)?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, peer)) => threads.give(stream, peer),
                // Out of file descriptors, or a client that was gone already: both pass.
                Err(error) => {
                    shared.metrics.accept_failures.inc();
                    limited!(warn, event = "accept_failed", error = %error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        threads.join().await;
        renewing.abort();
        reporting.abort();
        // The counts are advice: without etcd they are lost, and the proxy has ended well all the same.
        if let Err(error) = shared.namespace.flush_usage().await {
            warn!(event = "usage_not_counted", error = %error, kind = error.kind().name());
        }
        let closed = match &shared.audit {
            Some(audit) => audit.log.close().await,
            None => Ok(()),
        };
        info!(event = "stopped");
        closed
    }
}

/// TLS towards clients.
fn acceptor(settings: &ProxySettings) -> Result<Option<Acceptor>> {
    ServerTls::of(settings).map(Acceptor::new).transpose()
}

/// How etcd is reached for clients' calls. A certificate that is given for them has no common name: etcd would take that for
/// the user of every client. Without one the certificate in the settings of etcd is shown, and while authentication is on,
/// clients that have not logged in are refused.
fn clients_etcd(settings: &ProxySettings) -> Result<EtcdSettings> {
    let given = settings.client_cert.clone().zip(settings.client_key.clone());
    let clients = settings.etcd.without_user(given);
    if let Some(path) = &settings.client_cert
        && clients.shows_a_name()
    {
        let text = format!("{}: this certificate has a common name", path.display());
        return Err(Error::usage(text).hint(
            "give --client-cert a certificate without one: etcd would take the name for the user of every client",
        ));
    }
    Ok(clients)
}

/// The value keys in etcd.
async fn open(settings: &ProxySettings, masters: &Arc<KeySet>) -> Result<Namespace> {
    let client = settings.etcd.connect().await?;
    check_version(&client, &settings.etcd).await?;
    Namespace::open(client, settings.values.reserved_prefix.as_bytes(), Arc::clone(masters)).await
}

impl Shared {
    /// The client URL of every member in member lists for the client of `stream`.
    fn url(&self, stream: &TcpStream) -> Arc<str> {
        let scheme = if self.acceptor.is_some() { "https" } else { "http" };
        match (&self.advertise, stream.local_addr()) {
            (Some(url), _) => Arc::clone(url),
            (None, Ok(address)) => format!("{scheme}://{address}").into(),
            (None, Err(_)) => "".into(),
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        calls: Channel,
        stop: watch::Receiver<bool>,
    ) {
        // Small answers must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Ok(_room) = self.clients.connection(peer.ip()) else {
            self.metrics.connections_refused.inc();
            limited!(
                warn,
                event = "connection_refused",
                peer = %peer.ip(),
                error = "no memory for another connection",
                hint = "see --max-memory"
            );
            return;
        };
        // A client whose connections to etcd cannot be set up finds the connection closed, and tries again.
        let Ok(streams) = self.clients_etcd.independent(ANSWER_WINDOW) else { return };
        let url = self.url(&stream);
        self.metrics.connections.inc();
        let this = Arc::clone(&self);
        let client = |name: Option<Arc<str>>| {
            let memory = this.clients.of(name.as_ref(), peer.ip());
            let shim = this.shim.over(calls, streams, memory.clone());
            let gate = Gate::new(Arc::clone(&this), shim, peer, name, url, memory.clone());
            Arc::new(Connected { shared: Arc::clone(&this), gate: Arc::new(gate), memory })
        };
        let begun = Instant::now();
        let (stream, writing) = gathered(stream, 0);
        match &self.acceptor {
            None => {
                if let Ok(Ok((protocol, stream))) =
                    timeout(HANDSHAKE, first::protocol(stream)).await
                {
                    http(protocol, stream, client(None), stop).await;
                }
            }
            Some(acceptor) => {
                if let Ok(Ok((stream, name))) = timeout(HANDSHAKE, acceptor.accept(stream)).await
                    && let Ok(Ok((protocol, stream))) =
                        timeout(HANDSHAKE.saturating_sub(begun.elapsed()), first::protocol(stream))
                            .await
                {
                    http(protocol, stream, client(name), stop).await;
                }
            }
        }
        // The last answers.
        let _ = timeout(DRAIN, writing).await;
        self.metrics.connections.dec();
    }
}

/// One client's connection.
struct Connected {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    memory: Budget,
}

impl Connected {
    async fn answer(&self, request: Request<Incoming>) -> Response<Held> {
        let page = pages::path_of(&request);
        let request = gate::lean(request);
        let room = match self.room(&request).await {
            Ok(room) => room,
            Err(status) => return status.into_http::<Body>().map(|body| Held::new(body, None)),
        };
        let answer = match page {
            Some(path) => self.page(path).await,
            // On the heap: a call that waits for room is small, and what is large is not moved.
            None => Box::pin(Arc::clone(&self.gate).answer(request.map(Body::new))).await,
        };
        answer.map(|body| Held::new(body, Some(room)))
    }

    /// Room for a call, which waits for it. What its headers take meanwhile counts.
    async fn room(&self, request: &Request<Incoming>) -> Result<Room, Status> {
        let headers = request.headers().values().map(HeaderValue::len).sum::<usize>();
        let _headers = match headers {
            ..=FEW_HEADERS => None,
            bytes => Some(self.memory.take(bytes)?),
        };
        clients::call(&self.memory).await
    }

    /// As [`answer`](Self::answer), in HTTP/1.1.
    async fn answer_plain(&self, request: Request<Incoming>) -> Response<Body> {
        match pages::path_of(&request) {
            Some(path) => self.page(path).await,
            None => {
                let mut response = Response::new(Body::new(Full::from(NO_HTTP1)));
                *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
                response
            }
        }
    }

    async fn page(&self, path: String) -> Response<Body> {
        let page = self.shared.pages.get(&self.shared.etcd, path).await;
        page.map(|body| Body::new(Full::from(body)))
    }
}

/// Serves one connection.
async fn http(
    protocol: Protocol,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Arc<Connected>,
    stop: watch::Receiver<bool>,
) {
    match protocol {
        Protocol::Http1 => http1(stream, client).await,
        Protocol::Http2 => http2(stream, client, stop).await,
    }
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Arc<Connected>,
    mut stop: watch::Receiver<bool>,
) {
    let serving = Arc::clone(&client);
    let service = service_fn(move |request: Request<Incoming>| {
        let client = Arc::clone(&serving);
        async move { Ok::<_, Infallible>(client.answer(request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        // etcd sends none.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let stops = tokio::select! {
        _ = &mut connection => false,
        _ = stop.wait_for(|stop| *stop) => true,
    };
    if stops {
        connection.as_mut().graceful_shutdown();
        // Watches never end by themselves: their clients open them again elsewhere, where they left off.
        let _ = timeout(DRAIN, connection).await;
    }
    client.gate.close().await;
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Arc<Connected>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let client = Arc::clone(&client);
        async move { Ok::<_, Infallible>(client.answer_plain(request).await) }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .max_buf_size(HTTP1_BUFFER)
        .header_read_timeout(HTTP1)
        .keep_alive(false);
    let _ = timeout(HTTP1 * 2, server.serve_connection(TokioIo::new(stream), service)).await;
}

/// The answer to other HTTP/1.1 requests.
const NO_HTTP1: &str =
    "strongroom: the proxy serves etcd's gRPC API, which needs HTTP/2, and /health and /version.\n";
