//! The KMS plugin: Kubernetes' API servers encrypt with a keyring's keys or with one that a service keeps, over Kubernetes'
//! KMS v2 API (SPEC.md §12).

mod followed;
mod keys;
mod metrics;
mod service;
mod socket;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tower::service_fn;
use tracing::info;

pub use crate::settings::KmsPluginSettings;
pub use crate::status_server::listen;
pub use socket::Socket;

use crate::error::{Error, ErrorKind, Result};
use crate::kms_api::{HEALTHY, Message, Method, Raw, VERSION, exactly, message};
use crate::limit::limited;
use crate::protobuf::put_message;
use crate::text::clean;
use keys::Keys;
use metrics::Metrics;
use service::ANNOTATION;

/// Connections at once. An API server has one for each of its KMS providers.
const CONNECTIONS: usize = 64;
/// Calls of one connection at once.
const MAX_STREAMS: u32 = 128;
/// The longest request: a ciphertext of Kubernetes' longest, 1 KiB, its ids of as much, and a sealed KEK of 14 KiB.
const MAX_REQUEST: usize = 20 << 10;
/// The longest headers, in bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// How long one call may take, its request included.
const CALL: Duration = Duration::from_secs(10);
/// Pings that find a client that is gone.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How long calls may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// A plugin that is ready to serve.
#[derive(Clone)]
pub struct KmsPlugin(Arc<Plugin>);

struct Plugin {
    keys: Keys,
    metrics: Metrics,
    /// Users whose processes may connect.
    users: Vec<u32>,
}

impl KmsPlugin {
    /// Reads the keyring, or asks the service that keeps the key. A service that is down is asked again with each `Status`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the settings name no key, or more than one; those of reading it, and of the service.
    pub async fn new(settings: &KmsPluginSettings) -> Result<Self> {
        let keys = Keys::open(settings.key()?).await?;
        let own = rustix::process::getuid().as_raw();
        let users = [0, own].into_iter().chain(settings.allow_uid.iter().copied()).collect();
        let metrics = Metrics::new(keys.age().is_some());
        Ok(Self(Arc::new(Plugin { keys, metrics, users })))
    }

    /// Reads the keyring file again if it has changed, or asks the service. Every `Status` does so too.
    pub async fn look(&self) {
        self.0.keys.look(Duration::ZERO).await;
    }

    /// Serves those who connect to `socket` until `stop` turns true; then calls under way have five seconds. `metrics`
    /// answers `/metrics`, `/healthz` and `/readyz` in HTTP/1.1.
    ///
    /// # Errors
    /// None: what fails is logged, and tried again.
    pub async fn serve(
        self,
        socket: Socket,
        metrics: Option<TcpListener>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let plugin = self.0;
        plugin.log_start(&socket);
        if let Some(listener) = metrics {
            tokio::spawn(metrics::serve(listener, Arc::clone(&plugin), stop.clone()));
        }
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = socket.listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, _)) if plugin.allows(&stream) => {
                    let Ok(room) = Arc::clone(&room).try_acquire_owned() else {
                        limited!(
                            warn,
                            event = "connection_refused",
                            error = "no room for another connection"
                        );
                        continue;
                    };
                    let (plugin, stop) = (Arc::clone(&plugin), stop.clone());
                    connections.spawn(async move {
                        plugin.connection(stream, stop).await;
                        drop(room);
                    });
                }
                Ok(_) => {}
                // Out of file descriptors: that passes.
                Err(error) => {
                    limited!(warn, event = "accept_failed", error = %error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(socket);
        while connections.join_next().await.is_some() {}
        info!(event = "stopped");
        Ok(())
    }
}

impl Plugin {
    fn log_start(&self, socket: &Socket) {
        info!(
            event = "started",
            version = env!("CARGO_PKG_VERSION"),
            listen = socket.listener.local_addr().ok().and_then(|at| {
                at.as_pathname().map(|path| format!("unix://{}", path.display()))
            }),
            key = self.keys.key_id(),
        );
    }

    /// Whether the process at the other end may connect. The socket's mode says so too; this is the second lock.
    fn allows(&self, stream: &UnixStream) -> bool {
        let user = stream.peer_cred().ok().map(|cred| cred.uid());
        let allowed = user.is_some_and(|user| self.users.contains(&user));
        if !allowed {
            self.metrics.refused.inc();
            limited!(warn, event = "user_refused", uid = user, hint = "see --allow-uid");
        }
        allowed
    }

    async fn connection(self: Arc<Self>, stream: UnixStream, mut stop: watch::Receiver<bool>) {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let plugin = Arc::clone(&self);
            async move { Ok::<_, Infallible>(plugin.answer(request).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let stops = tokio::select! {
            _ = &mut connection => false,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        if stops {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(DRAIN, connection).await;
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let Some(method) = Method::of(request.uri().path()) else {
            return Status::unimplemented("strongroom: only KMS v2 is served").into_http();
        };
        let begun = Instant::now();
        let this = Arc::clone(&self);
        let service = service_fn(move |request: tonic::Request<Message>| {
            let plugin = Arc::clone(&this);
            async move { plugin.call(method, &request.into_inner()).await.map(tonic::Response::new) }
        });
        let mut grpc = Grpc::new(Raw).max_decoding_message_size(MAX_REQUEST);
        let answer = match timeout(CALL, grpc.unary(service, request)).await {
            Ok(answer) => answer,
            Err(_) => Status::deadline_exceeded("strongroom: the call took too long").into_http(),
        };
        // A status in the headers is an error; that of a good answer comes last.
        let failed = Status::from_header_map(answer.headers());
        self.metrics.called(
            method,
            failed.map_or(Code::Ok, |status| status.code()),
            begun.elapsed(),
        );
        answer
    }

    async fn call(&self, method: Method, request: &[u8]) -> Result<Message, Status> {
        match method {
            Method::Status => {
                let [] = exactly(request).map_err(|_| malformed(method))?;
                Ok(self.status().await)
            }
            Method::Encrypt => {
                let [plaintext, _uid] = exactly(request).map_err(|_| malformed(method))?;
                self.encrypt(plaintext).await
            }
            Method::Decrypt => {
                let fields = exactly(request).map_err(|_| malformed(method))?;
                // One annotation at most is written.
                let [ciphertext, _uid, key_id, annotation] = fields;
                self.decrypt(ciphertext, key_id, annotation).await
            }
        }
    }

    async fn status(&self) -> Message {
        self.keys.look(Duration::ZERO).await;
        let (key, health) = self.keys.status();
        let health = health.as_ref().map_or_else(String::as_str, |()| HEALTHY);
        message(&[VERSION.as_bytes(), health.as_bytes(), key.as_bytes()])
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Message, Status> {
        let encrypted = self.keys.encrypt(plaintext).await.map_err(|error| status_of(&error))?;
        let mut answer = message(&[&encrypted.ciphertext, encrypted.key_id.as_bytes()]);
        if let Some(kek) = encrypted.kek {
            put_message(&mut answer, 3, &message(&[ANNOTATION.as_bytes(), &kek]));
        }
        Ok(answer)
    }

    async fn decrypt(
        &self,
        ciphertext: &[u8],
        key_id: &[u8],
        annotation: &[u8],
    ) -> Result<Message, Status> {
        let opened = self.keys.decrypt(key_id, annotation, ciphertext).await;
        let opened = opened.map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                self.metrics.unknown_keys.inc();
            }
            limited!(
                warn,
                event = "kms_decrypt_refused",
                key = clean(&String::from_utf8_lossy(key_id)),
                error = %error,
                kind = error.kind().name()
            );
            status_of(&error)
        })?;
        Ok(message(&[&opened]))
    }

    /// Healthy, and nobody has asked for a key that is not here.
    fn ready(&self) -> Result<(), String> {
        self.keys.health()?;
        self.keys.missing().map_or(Ok(()), Err)
    }
}

/// What an API server gets for an error.
fn status_of(error: &Error) -> Status {
    let text = format!("strongroom: {error}");
    match error.kind() {
        ErrorKind::Unreachable => Status::unavailable(text),
        ErrorKind::Usage | ErrorKind::Tampered | ErrorKind::Truncated => {
            Status::invalid_argument(text)
        }
        _ => Status::failed_precondition(text),
    }
}

fn malformed(method: Method) -> Status {
    let text = format!("strongroom: not a request of KMS v2's {}", method.name());
    Status::invalid_argument(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_of_another_user_is_not_served() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        let now = crate::custody::keyfile::now();
        let ring = crate::keys::Keyring::generate(now, &mut crate::crypto::system_rng()).unwrap();
        crate::custody::keyfile::create(&path, &ring).unwrap();
        let keys = Keys::open(&crate::custody::MasterKeyUri::File(path)).await.unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        let own = rustix::process::getuid().as_raw();
        let mut plugin = Plugin { keys, metrics: Metrics::new(true), users: vec![own] };
        assert!(plugin.allows(&stream));
        plugin.users = vec![own + 1];
        assert!(!plugin.allows(&stream));
        assert_eq!(plugin.metrics.refused.get(), 1);
    }
}
