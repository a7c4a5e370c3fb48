//! The proxy: etcd's gRPC API, served with the [`Shim`] between the client and etcd.
//!
//! Each client's streams have connections of their own to etcd, so that a client that does not read holds up itself
//! alone; calls with one answer, which is always taken whole, share one. Calls other than those with values pass through as bytes.

mod access;
mod gate;
mod metrics;
mod threads;
mod tls;
mod wait;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::Channel;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::body::Body;

pub use crate::observe::listen;
pub use access::Access;
pub use tls::ServerTls;
pub use wait::bind;

use crate::audit::AuditLog;
use crate::error::{Error, Result};
use crate::etcd::EtcdSettings;
use crate::keys::MasterKeys;
use crate::values::{Namespace, Scope, Shim};
use gate::{Audit, Gate, Users};
use metrics::Metrics;
use threads::Threads;
use tls::Acceptor;

/// Calls and watches' streams of one connection at once. etcd's own default has no limit.
const MAX_STREAMS: u32 = 16_384;
/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long calls may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Pings that find a client that is gone.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// What a connection holds for a client that does not read.
const SEND_BUFFER: usize = 1 << 20;
/// Bytes of requests that may be under way unread: of one call, and 16 times that of a connection.
const WINDOW: u32 = 1 << 20;
/// How long `/readyz` waits for etcd.
const READY: Duration = Duration::from_secs(5);

/// How to serve.
pub struct ProxyOptions {
    /// The etcd behind the proxy. Its user, if there is one, is only for the proxy's own keyring: clients log in
    /// themselves.
    pub etcd: EtcdSettings,
    /// The prefix that strongroom keeps for itself; ends with `/`.
    pub prefix: Vec<u8>,
    /// The keys whose values are encrypted.
    pub scope: Scope,
    /// TLS towards clients; without it they talk in clear.
    pub tls: Option<ServerTls>,
    /// Bytes of the largest request; etcd's `--max-request-bytes` and 512 KiB.
    pub max_request: usize,
    /// Which client certificate may touch which keys.
    pub access: Access,
    /// Where every request is noted down.
    pub audit: Option<AuditLog>,
    /// Whether requests are answered when the audit log cannot be written.
    pub audit_fail_open: bool,
}

/// A proxy that is ready to serve.
pub struct Proxy(Arc<Shared>);

struct Shared {
    etcd: EtcdSettings,
    acceptor: Option<Acceptor>,
    shim: Shim,
    namespace: Namespace,
    access: Access,
    audit: Option<Audit>,
    /// The last record could not be written.
    unwritable: AtomicBool,
    users: Users,
    metrics: Metrics,
    max_request: usize,
}

impl Shared {
    fn is_unwritable(&self) -> bool {
        self.unwritable.load(Ordering::Relaxed)
    }

    fn set_unwritable(&self, unwritable: bool) {
        self.unwritable.store(unwritable, Ordering::Relaxed);
    }

    /// Whether requests can be answered now; else why not.
    async fn ready(&self) -> Result<(), String> {
        if self.audit.as_ref().is_some_and(|audit| !audit.fail_open) && self.is_unwritable() {
            return Err("the audit log cannot be written".into());
        }
        let read = tokio::time::timeout(READY, self.namespace.refresh()).await;
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
    /// Those of [`Namespace::open`], and [`Usage`](crate::ErrorKind::Usage) or [`Io`](crate::ErrorKind::Io) for what
    /// is wrong with the TLS files.
    pub async fn prepare(mut options: ProxyOptions, masters: Arc<MasterKeys>) -> Result<Self> {
        let acceptor = acceptor(&mut options)?;
        let namespace = open(&options, &masters).await?;
        Self::with(options, acceptor, namespace)
    }

    fn with(
        options: ProxyOptions,
        acceptor: Option<Acceptor>,
        namespace: Namespace,
    ) -> Result<Self> {
        let shim = Shim::new(options.etcd.balanced()?, namespace.clone(), options.scope)
            .with_max_request(options.max_request);
        let fail_open = options.audit_fail_open;
        Ok(Self(Arc::new(Shared {
            etcd: options.etcd,
            acceptor,
            shim,
            namespace,
            access: options.access,
            audit: options.audit.map(|log| Audit { log, fail_open }),
            unwritable: AtomicBool::new(false),
            users: Users::default(),
            metrics: Metrics::new(),
            max_request: options.max_request,
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
        if let Some(listener) = metrics {
            tokio::spawn(metrics::serve(listener, Arc::clone(&shared), stop.clone()));
        }
        let renewing = tokio::spawn(wait::renew(Arc::clone(&shared)));
        let mut threads = Threads::start(&shared, &stop)?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, peer)) => threads.give(stream, peer),
                // Out of descriptors, or a client that was gone already: neither is for ever.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        drop(listener);
        threads.join().await;
        renewing.abort();
        // Whatever fails here, the rest is still to end well.
        let counted = shared.namespace.flush_usage().await;
        if let Some(audit) = &shared.audit {
            audit.log.close().await?;
        }
        counted
    }
}

/// TLS towards clients.
fn acceptor(options: &mut ProxyOptions) -> Result<Option<Acceptor>> {
    let checks_names = options.tls.as_ref().is_some_and(|tls| tls.trusted_ca.is_some());
    if !options.access.is_open() && !checks_names {
        return Err(Error::usage("rules about clients' certificates need certificates")
            .hint("give --listen-trusted-ca"));
    }
    options.tls.take().map(Acceptor::new).transpose()
}

/// The value keys in etcd.
async fn open(options: &ProxyOptions, masters: &Arc<MasterKeys>) -> Result<Namespace> {
    let client = options.etcd.connect().await?;
    Namespace::open(client, &options.prefix, Arc::clone(masters)).await
}

impl Shared {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        calls: Channel,
        stop: watch::Receiver<bool>,
    ) {
        // Small answers must not wait for each other.
        let _ = stream.set_nodelay(true);
        // A client whose connections to etcd cannot be set up finds the connection closed, and tries again.
        let Ok(streams) = self.etcd.balanced() else { return };
        let shim = self.shim.over(calls, streams);
        let gate = |client| Arc::new(Gate::new(Arc::clone(&self), shim, peer, client));
        self.metrics.connections.inc();
        match &self.acceptor {
            None => http(stream, gate(None), stop).await,
            Some(acceptor) => {
                let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
                if let Ok(Ok((stream, client))) = handshake.await {
                    http(stream, gate(client), stop).await;
                }
            }
        }
        self.metrics.connections.dec();
    }
}

/// Serves one connection.
async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    gate: Arc<Gate>,
    mut stop: watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let gate = Arc::clone(&gate);
        async move {
            if !is_grpc(&request) {
                return Ok::<_, Infallible>(not_grpc());
            }
            Ok(gate.answer(request.map(Body::new)).await)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW.saturating_mul(16))
        // etcd sends none.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    // Watches never end by themselves: their clients open them again elsewhere, where they left off.
    let _ = tokio::time::timeout(DRAIN, connection).await;
}

/// Whether it is gRPC. etcd answers others in JSON, which would pass by the encryption.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

fn not_grpc() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}
