//! A few requests over one connection.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PROBE;
use crate::etcd::chain;

/// The longest answer that is read: etcd's metrics have about 200 KiB.
const MAX_BODY: usize = 4 << 20;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.status == StatusCode::OK
    }

    /// The body as text, what is not UTF-8 replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection of HTTP/1.1; ends when dropped.
pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Over `stream`, to a server that is called `host`.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn new(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: String,
    ) -> Result<Self, String> {
        let made = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let (sender, connection) = made;
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, host, task })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, String> {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> Result<Answer, String> {
        self.ask("POST", path, body).await
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            self.sender.ready().await.map_err(|error| error.to_string())?;
            let sent = self.sender.send_request(request).await;
            let answer = sent.map_err(|error| chain(&error))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
            Ok(Answer { status, body: body.to_bytes().to_vec() })
        };
        let asked = timeout(PROBE, exchange).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {PROBE:?}")))
    }
}
