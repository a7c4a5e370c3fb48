//! s3s-fs in this process: an S3 server, or, behind a shim, a double of Google Cloud Storage.
//!
//! The double is no Google: it takes the XML API's requests that `object_store` makes, without authentication.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

pub const ACCESS_KEY: &str = "test";
pub const SECRET_KEY: &str = "the-secret-access-key";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Signatures are checked.
    S3,
    /// Google's headers are put into S3's words and back.
    Google,
}

/// What was asked: method, path and query, and the header of server-side encryption.
pub type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Serves the folders of `dir` as buckets until the runtime ends; returns the URL.
pub async fn start(dir: &Path, flavour: Flavour) -> String {
    start_recording(dir, flavour, Seen::default()).await
}

/// As [`start`], and notes each request in `seen`.
pub async fn start_recording(dir: &Path, flavour: Flavour, seen: Seen) -> String {
    start_allowing(dir, flavour, seen, Arc::new(|_| true)).await
}

/// Whether a request may be made.
pub type Allows = Arc<dyn Fn(&Request<Incoming>) -> bool + Send + Sync>;

/// As [`start_recording`], and refuses what `allows` does not, as a store does for which a policy is in force.
pub async fn start_allowing(dir: &Path, flavour: Flavour, seen: Seen, allows: Allows) -> String {
    let mut builder = S3ServiceBuilder::new(FileSystem::new(dir).unwrap());
    if flavour == Flavour::S3 {
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    }
    let s3 = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (s3, seen, allows) = (s3.clone(), seen.clone(), allows.clone());
            let shim = service_fn(move |mut request: Request<Incoming>| {
                let encryption = request.headers().get("x-amz-server-side-encryption");
                let encryption = encryption.map(|value| value.to_str().unwrap().to_owned());
                let what = format!("{} {}", request.method(), request.uri());
                seen.lock().unwrap().push((what, encryption));
                if flavour == Flavour::Google {
                    to_s3(&mut request);
                }
                let (s3, is_allowed) = (s3.clone(), allows(&request));
                async move {
                    if !is_allowed {
                        let text = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
                        let mut denied = hyper::Response::new(s3s::Body::from(text.to_owned()));
                        *denied.status_mut() = hyper::StatusCode::FORBIDDEN;
                        return Ok(denied);
                    }
                    let mut answer = s3.call(request.map(s3s::Body::from)).await?;
                    let generation = HeaderValue::from_static("1");
                    answer.headers_mut().insert("x-goog-generation", generation);
                    Ok::<_, s3s::HttpError>(answer)
                }
            });
            tokio::spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), shim).await;
            });
        }
    });
    url
}

fn to_s3(request: &mut Request<Incoming>) {
    let headers = request.headers_mut();
    headers.remove("authorization");
    if headers.remove("x-goog-if-generation-match").is_some_and(|value| value == "0") {
        headers.insert("if-none-match", HeaderValue::from_static("*"));
    }
    let meta: Vec<_> = headers
        .iter()
        .filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-goog-meta-")?;
            Some((format!("x-amz-meta-{name}"), value.clone()))
        })
        .collect();
    for (name, value) in meta {
        headers.insert(HeaderName::try_from(name).unwrap(), value);
    }
}
