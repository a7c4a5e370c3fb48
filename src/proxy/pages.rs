//! `/health` and `/version`, as etcd answers them: the only plain HTTP that is served.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::etcd::EtcdSettings;

/// How long etcd may take. It gives its own check of health 5 s and twice an election's timeout.
const LIMIT: Duration = Duration::from_secs(10);
/// Alarms that a client may leave out of its health (etcd's `etcdhttp/health.go`).
const ALARMS: [&str; 2] = ["CORRUPT", "NOSPACE"];

/// What etcd answered last, and when it was asked, by path: of those there are few. However many clients ask, etcd is
/// asked by one at a time: those that have waited for that one get its answer.
#[derive(Default)]
pub(super) struct Pages(Mutex<BTreeMap<String, (Instant, Response<Bytes>)>>);

/// etcd's path for `request`, if that is for one of its pages.
pub(super) fn path_of<B>(request: &Request<B>) -> Option<String> {
    if request.method() != Method::GET {
        return None;
    }
    match request.uri().path() {
        "/version" => Some("/version".into()),
        "/health" => Some(health(request.uri().query().unwrap_or_default())),
        _ => None,
    }
}

/// The path with what etcd understands of `query`.
fn health(query: &str) -> String {
    let asks = |wanted: &str| query.split('&').any(|part| part == wanted);
    let alarms = ALARMS.map(|alarm| format!("exclude={alarm}"));
    let mut known: Vec<_> = alarms.iter().map(String::as_str).filter(|part| asks(part)).collect();
    known.extend(Some("serializable=true").filter(|part| asks(part)));
    if known.is_empty() { "/health".into() } else { format!("/health?{}", known.join("&")) }
}

impl Pages {
    /// etcd's page at `path`, which is one of [`path_of`].
    pub(super) async fn get(&self, etcd: &EtcdSettings, path: String) -> Response<Bytes> {
        let begun = Instant::now();
        let mut pages = self.0.lock().await;
        if let Some((asked, page)) = pages.get(&path)
            && *asked >= begun
        {
            return page.clone();
        }
        let asked = Instant::now();
        let page = match timeout(LIMIT, etcd.page(&path)).await {
            Ok(Ok(page)) => forwarded(page),
            Ok(Err(error)) => unknown(&path, &error.to_string()),
            Err(_) => unknown(&path, "etcd does not answer"),
        };
        pages.insert(path, (asked, page.clone()));
        page
    }
}

/// The parts of etcd's answer that clients get.
fn forwarded(page: Response<Bytes>) -> Response<Bytes> {
    let (head, body) = page.into_parts();
    let mut forwarded = Response::new(body);
    *forwarded.status_mut() = head.status;
    for name in [header::CONTENT_TYPE, header::X_CONTENT_TYPE_OPTIONS] {
        if let Some(value) = head.headers.get(&name) {
            forwarded.headers_mut().insert(name, value.clone());
        }
    }
    forwarded
}

/// etcd does not tell: then it is not healthy.
fn unknown(path: &str, why: &str) -> Response<Bytes> {
    let why = format!("strongroom: {why}");
    let (body, kind) = if path.starts_with("/health") {
        (json!({"health": "false", "reason": why}).to_string(), "application/json")
    } else {
        (format!("{why}\n"), "text/plain; charset=utf-8")
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_understands() {
        let path = |method: Method, uri: &str| {
            path_of(&Request::builder().method(method).uri(uri).body(()).unwrap())
        };
        for (uri, expected) in [
            ("/version", Some("/version")),
            ("/version?x=y", Some("/version")),
            ("/health", Some("/health")),
            (
                "/health?x&serializable=true&exclude=NOSPACE",
                Some("/health?exclude=NOSPACE&serializable=true"),
            ),
            ("/health?exclude=NOSPACE%20HTTP", Some("/health")),
            ("/health/", None),
            ("/%68ealth", None),
            ("/metrics", None),
            ("/", None),
        ] {
            assert_eq!(path(Method::GET, uri).as_deref(), expected, "{uri}");
            assert_eq!(path(Method::POST, uri), None);
        }
    }
}
