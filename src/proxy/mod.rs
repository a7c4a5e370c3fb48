//! The proxy: etcd's gRPC API, served with the [`Shim`] between the client and etcd.
//!
//! Each client's connection has connections of its own to etcd, so that a client that does not read holds up itself
//! alone. Calls other than those with values pass through as bytes.

mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Channel;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tower::Service;

pub use tls::ServerTls;

use crate::error::{Error, ErrorKind, Result};
use crate::etcd::EtcdSettings;
use crate::keys::MasterKeys;
use crate::values::{Namespace, Scope, Shim};
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
}

/// A proxy that is ready to serve.
pub struct Proxy {
    etcd: EtcdSettings,
    acceptor: Option<Acceptor>,
    shim: Shim,
    namespace: Namespace,
}

impl Proxy {
    /// Reads the keyring in etcd, or creates it (with a key made at `now`, `YYYY-MM-DDTHH:MM:SSZ`), and checks the
    /// options.
    ///
    /// # Errors
    /// Those of [`Namespace::open_or_create`], and [`Usage`](ErrorKind::Usage) or [`Io`](ErrorKind::Io) for what is
    /// wrong with the TLS files.
    pub async fn prepare(
        options: ProxyOptions,
        masters: Arc<MasterKeys>,
        now: &str,
    ) -> Result<Self> {
        let acceptor = options.tls.map(Acceptor::new).transpose()?;
        let client = options.etcd.connect().await?;
        let namespace =
            Namespace::open_or_create(client, &options.prefix, masters, now).await?;
        let shim = Shim::new(options.etcd.balanced()?, namespace.clone(), options.scope)
            .with_max_request(options.max_request);
        Ok(Self { etcd: options.etcd, acceptor, shim, namespace })
    }

    /// The value keys in use.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Serves whoever connects to `listener` until `stop` turns true; then no new calls are taken, and those under way
    /// have five seconds.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) when the listener fails for good.
    pub async fn serve(self, listener: TcpListener, mut stop: watch::Receiver<bool>) -> Result<()> {
        let proxy = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (proxy, stop) = (Arc::clone(&proxy), stop.clone());
                    connections.spawn(async move { proxy.connection(stream, peer, stop).await });
                }
                // Out of descriptors, or a client that was gone already: neither is for ever.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        proxy.namespace.flush_usage().await
    }

    async fn connection(&self, stream: TcpStream, _peer: SocketAddr, stop: watch::Receiver<bool>) {
        // Small answers must not wait for each other.
        let _ = stream.set_nodelay(true);
        // A client whose connections to etcd cannot be set up finds the connection closed, and tries again.
        let Ok(channel) = self.etcd.balanced() else { return };
        match &self.acceptor {
            None => self.http(stream, channel, stop).await,
            Some(acceptor) => {
                let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
                if let Ok(Ok(stream)) = handshake.await {
                    self.http(stream, channel, stop).await;
                }
            }
        }
    }

    async fn http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        channel: Channel,
        mut stop: watch::Receiver<bool>,
    ) {
        let shim = self.shim.over(channel);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut shim = shim.clone();
            async move {
                if !is_grpc(&request) {
                    return Ok::<_, Infallible>(not_grpc());
                }
                let response = shim.call(request.map(Body::new)).await;
                Ok(response.unwrap_or_else(|error| tonic::Status::from_error(error).into_http()))
            }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .max_send_buf_size(SEND_BUFFER)
            .adaptive_window(true)
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

/// Listens at `address` (`host:port`).
///
/// # Errors
/// [`Io`](ErrorKind::Io) when that cannot be.
pub async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::new(ErrorKind::Io, format!("cannot listen at {address}")).because(error)
    })
}
