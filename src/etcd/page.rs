//! etcd's plain HTTP pages, `/health` and `/version`.

use std::future::poll_fn;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::body::Body;
use tower::{BoxError, Service as _};
use url::Url;

use super::failure;
use super::settings::EtcdSettings;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of the largest page.
const MAX_PAGE: usize = 64 << 10;

impl EtcdSettings {
    /// The page at `path`, such as `/version`, of the first endpoint that answers.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) and [`Io`](ErrorKind::Io) for wrong settings;
    /// [`Unreachable`](ErrorKind::Unreachable) when no endpoint answers.
    pub(crate) async fn page(&self, path: &str) -> Result<Response<Bytes>> {
        let mut last = Error::usage("no etcd endpoint is given");
        for name in &self.endpoints {
            let url = self.url(name)?;
            let fetched = async {
                match url.scheme() {
                    "http" => plain(&url, path).await,
                    _ => self.encrypted(name, path).await,
                }
            };
            match timeout(self.command_timeout, fetched).await {
                Ok(Ok(page)) => return Ok(page),
                Ok(Err(error)) => {
                    let text = format!("{name}: {}", failure::chain(&*error));
                    last = Error::new(ErrorKind::Unreachable, text);
                }
                Err(_) => last = failure::timed_out(name, self.command_timeout),
            }
        }
        Err(last)
    }

    /// With TLS etcd serves its pages in HTTP/2 too, beside gRPC.
    async fn encrypted(&self, name: &str, path: &str) -> Result<Response<Bytes>, BoxError> {
        let mut channel = self.target(name)?.channel.connect().await?;
        poll_fn(|context| channel.poll_ready(context)).await?;
        let response = channel.call(Request::get(path).body(Body::empty())?).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_PAGE).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

async fn plain(url: &Url, path: &str) -> Result<Response<Bytes>, BoxError> {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err("the endpoint has no host".into());
    };
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(http::header::HOST, format!("{host}:{port}"));
    let fetch = async {
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_PAGE).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::pin!(fetch);
    tokio::select! {
        fetched = &mut fetch => fetched,
        // The connection may end as soon as the answer was received.
        _ = connection => fetch.await,
    }
}
