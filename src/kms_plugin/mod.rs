//! The KMS plugin: Kubernetes' API servers encrypt with a keyring's keys, over Kubernetes' KMS v2 API (SPEC.md §12).

mod followed;
mod metrics;
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

use crate::crypto::{constant_time_eq, system_rng};
use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyId;
use crate::kms_api::{HEALTHY, Message, Method, Raw, VERSION, exactly, message};
use crate::limit::limited;
use followed::Followed;
use metrics::Metrics;

/// Connections at once. An API server has one for each of its KMS providers.
const CONNECTIONS: usize = 64;
/// Calls of one connection at once.
const MAX_STREAMS: u32 = 128;
/// The longest request: a ciphertext of Kubernetes' longest, 1 KiB, with its ids of as much.
const MAX_REQUEST: usize = 4 << 10;
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
    keys: Arc<Followed>,
    metrics: Metrics,
    /// Users whose processes may connect.
    users: Vec<u32>,
}

impl KmsPlugin {
    /// Reads the keyring.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the settings name no keyring file, or more than one; those of reading it.
    pub fn new(settings: &KmsPluginSettings) -> Result<Self> {
        let keys = Arc::new(Followed::open(settings.keyring()?)?);
        let own = rustix::process::getuid().as_raw();
        let users = [0, own].into_iter().chain(settings.allow_uid.iter().copied()).collect();
        let plugin = Plugin { keys, metrics: Metrics::new(), users };
        plugin.self_test()?;
        Ok(Self(Arc::new(plugin)))
    }

    /// Reads the keyring file again if it has changed. Every `Status` does so too.
    pub async fn look(&self) {
        self.0.keys.look().await;
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
        let now = self.keys.now();
        info!(
            event = "started",
            version = env!("CARGO_PKG_VERSION"),
            listen = socket.listener.local_addr().ok().and_then(|at| {
                at.as_pathname().map(|path| format!("unix://{}", path.display()))
            }),
            key = now.keyring.primary(now.time).map(|(id, _)| id.to_string()),
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
                self.encrypt(plaintext)
            }
            Method::Decrypt => {
                let fields = exactly(request).map_err(|_| malformed(method))?;
                let [ciphertext, _uid, key_id, annotations] = fields;
                // None are written.
                if !annotations.is_empty() {
                    return Err(malformed(method));
                }
                self.decrypt(ciphertext, key_id).await
            }
        }
    }

    async fn status(&self) -> Message {
        self.keys.look().await;
        let now = self.keys.now();
        let key = now.keyring.primary(now.time).map(|(id, _)| id.to_string()).unwrap_or_default();
        let health = self.health();
        let health = health.as_ref().map_or_else(String::as_str, |()| HEALTHY);
        message(&[VERSION.as_bytes(), health.as_bytes(), key.as_bytes()])
    }

    fn encrypt(&self, plaintext: &[u8]) -> Result<Message, Status> {
        let now = self.keys.now();
        let (id, ciphertext) =
            now.keyring.encrypt(plaintext, now.time, &mut system_rng()).map_err(|error| {
                let text = format!("strongroom: {error}");
                match error.kind() {
                    ErrorKind::Usage => Status::invalid_argument(text),
                    _ => Status::failed_precondition(text),
                }
            })?;
        Ok(message(&[&ciphertext, id.to_string().as_bytes()]))
    }

    async fn decrypt(&self, ciphertext: &[u8], key_id: &[u8]) -> Result<Message, Status> {
        let id = std::str::from_utf8(key_id).ok().and_then(|id| id.parse::<KeyId>().ok());
        let id = id.ok_or_else(|| Status::invalid_argument("strongroom: not a key id of ours"))?;
        let mut opened = self.keys.now().keyring.decrypt(id, ciphertext);
        if is_unknown(&opened) {
            // Another node may have it already, and the file been copied since the last look.
            self.keys.look().await;
            opened = self.keys.now().keyring.decrypt(id, ciphertext);
        }
        if is_unknown(&opened) {
            self.keys.missed(id);
            self.metrics.unknown_keys.inc();
        }
        let opened = opened.map_err(|error| {
            limited!(
                warn,
                event = "kms_decrypt_refused",
                key = %id,
                error = %error,
                kind = error.kind().name()
            );
            let text = format!("strongroom: {error}");
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::WrongKey => Status::failed_precondition(text),
                _ => Status::invalid_argument(text),
            }
        })?;
        Ok(message(&[&opened]))
    }

    /// Well, or why not.
    fn health(&self) -> Result<(), String> {
        match self.keys.trouble() {
            Some(why) => Err(why),
            None => self.self_test().map_err(|error| error.to_string()),
        }
    }

    /// Healthy, and nobody has asked for a key that is not here.
    fn ready(&self) -> Result<(), String> {
        self.health()?;
        self.keys.missing().map_or(Ok(()), Err)
    }

    /// That the primary key encrypts, and decrypts what it encrypted.
    fn self_test(&self) -> Result<()> {
        let now = self.keys.now();
        let text = crate::crypto::random::<32>(&mut system_rng());
        let (id, sealed) = now.keyring.encrypt(&text, now.time, &mut system_rng())?;
        match constant_time_eq(&now.keyring.decrypt(id, &sealed)?, &text) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Internal, format!("key {id} does not work"))),
        }
    }
}

fn is_unknown<T>(opened: &Result<T>) -> bool {
    opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
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
        let ring = crate::keys::Keyring::generate(now, &mut system_rng()).unwrap();
        crate::custody::keyfile::create(&path, &ring).unwrap();
        let keys = Arc::new(Followed::open(&path).unwrap());
        let (stream, _other) = UnixStream::pair().unwrap();
        let own = rustix::process::getuid().as_raw();
        let mut plugin = Plugin { keys, metrics: Metrics::new(), users: vec![own] };
        assert!(plugin.allows(&stream));
        plugin.users = vec![own + 1];
        assert!(!plugin.allows(&stream));
        assert_eq!(plugin.metrics.refused.get(), 1);
    }
}
