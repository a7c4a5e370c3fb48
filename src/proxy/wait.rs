//! A proxy that is started before its etcd.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::watch;
use tracing::{info, warn};

use super::threads::LOOK;
use super::{Proxy, ProxySettings, Shared};
use crate::audit_log::AuditLog;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::KeySet;
use crate::status_server::{self, Answer};

/// Pauses between attempts to reach etcd: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Takes `address` (`host:port`) without listening: whoever connects is refused until then.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) when it does not have that form, [`Io`](ErrorKind::Io) when that cannot be.
pub async fn bind(address: &str) -> Result<TcpSocket> {
    status_server::check_address(address)?;
    let failed = |error| {
        Error::new(ErrorKind::Io, format!("cannot listen at {address}: {error}")).because(error)
    };
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(address).await.map_err(failed)? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        socket.set_reuseaddr(true).map_err(failed)?;
        match socket.bind(address) {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

impl Proxy {
    /// As [`prepare`](Self::prepare), but waits while etcd cannot be reached, and logs each new reason. Until then `metrics` answers `/healthz`, and why not to `/readyz`. `None` when `stop` turns true before.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), but for [`Unreachable`](ErrorKind::Unreachable).
    pub async fn prepare_when_reachable(
        settings: ProxySettings,
        masters: Arc<KeySet>,
        audit: Option<AuditLog>,
        metrics: Option<&TcpListener>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Option<Self>> {
        settings.check()?;
        let acceptor = super::acceptor(&settings)?;
        // Wrong files are an error now, not only when etcd has been reached.
        super::clients_etcd(&settings)?.balanced()?;
        let waiting = Waiting::default();
        // Ends with this function.
        let (_serving, end) = watch::channel(false);
        if let Some(listener) = metrics {
            waiting.serve(listener, end)?;
        }
        let mut pause = PAUSE.0;
        loop {
            let opened = tokio::select! {
                opened = super::open(&settings, &masters) => opened,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match opened {
                Ok(namespace) => {
                    if waiting.is_waiting() {
                        info!(event = "etcd_reachable");
                    }
                    return Self::with(settings, acceptor, namespace, audit).await.map(Some);
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    if waiting.changed(&error) {
                        warn!(
                            event = "etcd_unreachable",
                            error = %error,
                            kind = error.kind().name(),
                            hint = error.hint_text(),
                        );
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
        if let Some(log) = audit {
            log.close().await?;
        }
        Ok(None)
    }
}

/// Connects for the keyring again whenever the certificates towards etcd change, as long as it runs: without, it could
/// not be confirmed once the old ones have expired.
pub(super) async fn renew(shared: Arc<Shared>) {
    let mut files = shared.etcd.files_changed();
    loop {
        tokio::time::sleep(LOOK).await;
        let changed = shared.etcd.files_changed();
        if changed == files {
            continue;
        }
        // While they do not fit together it tries again.
        if let Ok(client) = shared.etcd.connect().await {
            shared.namespace.use_client(client);
            files = changed;
        }
    }
}

/// What is waited for.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<String>>);

impl Waiting {
    /// Notes why etcd cannot be reached; whether it is another reason than before.
    fn changed(&self, error: &Error) -> bool {
        let text = error.to_string();
        let mut why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *why != text;
        *why = text;
        changed
    }

    /// Whether etcd could not be reached before.
    fn is_waiting(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn answer(&self, path: &str) -> Answer {
        match path {
            "/healthz" => Answer::health(Ok(())),
            "/readyz" => {
                let why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                Answer::health(Err(format!("waiting for etcd: {why}")))
            }
            _ => Answer::not_found("/healthz or /readyz; /metrics once etcd was reached"),
        }
    }

    /// Answers at `listener` until `end`, and leaves it to its owner.
    fn serve(&self, listener: &TcpListener, end: watch::Receiver<bool>) -> Result<()> {
        let twin = listener
            .as_fd()
            .try_clone_to_owned()
            .and_then(|fd| TcpListener::from_std(fd.into()))
            .map_err(|error| Error::io("the metrics listener", error))?;
        let waiting = self.clone();
        let answer = move |path: String| {
            let waiting = waiting.clone();
            async move { waiting.answer(&path) }
        };
        tokio::spawn(status_server::serve(twin, answer, end));
        Ok(())
    }
}
