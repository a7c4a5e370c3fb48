//! A small HTTP/1.1 server for those who watch a service: metrics, health, a page.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::error::{Error, ErrorKind, Result};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Connections at once: nobody takes all our files by asking.
const CONNECTIONS: usize = 64;

/// One answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
}

impl Answer {
    /// `/metrics`, as `prometheus-client` writes them.
    pub(crate) fn metrics(body: String) -> Self {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        Self { status: StatusCode::OK, kind, body }
    }

    /// `/healthz` or `/readyz`: well, or why not.
    pub(crate) fn health(state: std::result::Result<(), String>) -> Self {
        let (status, body) = match state {
            Ok(()) => (StatusCode::OK, "ok\n".into()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        };
        Self { status, kind: "text/plain; charset=utf-8", body }
    }

    /// For a request to another host's name: a page in a browser may have made it come here (DNS rebinding).
    fn misdirected() -> Self {
        let kind = "text/plain; charset=utf-8";
        let body = "use this host's address or name, or localhost; /metrics and /healthz are served under every name\n".into();
        Self { status: StatusCode::MISDIRECTED_REQUEST, kind, body }
    }

    /// For any other path: `paths` is what there is.
    pub(crate) fn not_found(paths: &str) -> Self {
        let kind = "text/plain; charset=utf-8";
        Self { status: StatusCode::NOT_FOUND, kind, body: format!("{paths}\n") }
    }
}

impl From<Answer> for Response<Full<Bytes>> {
    fn from(answer: Answer) -> Self {
        let mut response = Self::new(Full::new(answer.body.into()));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.kind));
        // Nothing is loaded from anywhere, and nothing runs.
        let policy = "default-src 'none'; style-src 'unsafe-inline'";
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// Answers paths by `answer` until `stop` turns true.
pub(crate) async fn serve<F>(
    listener: TcpListener,
    answer: impl Fn(String) -> F + Clone + Send + 'static,
    mut stop: watch::Receiver<bool>,
) where
    F: Future<Output = Answer> + Send,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path();
                let host = request.headers().get(header::HOST);
                let answered = (is_public(path) || is_here(host)).then(|| answer(path.to_owned()));
                async move {
                    let answered = match answered {
                        Some(answered) => answered.await,
                        None => Answer::misdirected(),
                    };
                    Ok::<_, Infallible>(Response::from(answered))
                }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(REQUEST).keep_alive(false);
            let connection = server.serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(REQUEST, connection).await;
            drop(slot);
        });
    }
}

/// Paths that are answered under every name: Prometheus and probes use names of services and of pods. What they answer
/// are numbers and the clusters' names.
fn is_public(path: &str) -> bool {
    matches!(path, "/metrics" | "/healthz")
}

/// Whether a `Host` is an address, localhost or this host's own name. Clients without the header are no browsers.
fn is_here(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let own = rustix::system::uname();
    let own = own.nodename().to_string_lossy();
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(&own)
}

/// The gRPC code's name in the specification's spelling.
#[cfg(any(feature = "kms-plugin", feature = "proxy"))]
pub(crate) fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Checks that `address` has the form HOST:PORT.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) when it does not.
pub(crate) fn check_address(address: &str) -> Result<()> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(Error::usage(format!("cannot listen at {address:?}: it is not HOST:PORT"))
            .hint("write an address such as 127.0.0.1:2479, or 0.0.0.0:2479 for all interfaces")),
    }
}

/// An address to listen at, as it is typed.
#[cfg(feature = "cli")]
pub(crate) fn parse_address(text: &str) -> Result<String> {
    check_address(text).map(|()| text.to_owned())
}

/// Listens at `address` (`host:port`).
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) when it does not have that form, [`Io`](ErrorKind::Io) when that cannot be.
pub async fn listen(address: &str) -> Result<TcpListener> {
    check_address(address)?;
    TcpListener::bind(address).await.map_err(|error| {
        Error::new(ErrorKind::Io, format!("cannot listen at {address}")).because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_hosts_are_refused() {
        let own = rustix::system::uname();
        let own = format!("{}:9481", own.nodename().to_string_lossy());
        let here = |host: &str| is_here(Some(&HeaderValue::from_str(host).unwrap()));
        for host in ["127.0.0.1:9481", "10.0.0.1", "[::1]:9481", "[::1]", "LocalHost:1", &own] {
            assert!(here(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9481", "127.0.0.1.evil.example:9481", "", "[::1"]
        {
            assert!(!here(host), "{host}");
        }
        assert!(is_here(None));
    }
}
