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
use super::failed::Failed;

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

/// Whether the error says only that the connection is gone.
fn is_unexplained(error: &hyper::Error) -> bool {
    let explained =
        std::error::Error::source(error).is_some_and(|source| source.is::<hyper::Error>());
    error.is_closed() || (error.is_canceled() && !explained)
}

/// One connection of HTTP/1.1; ends when dropped.
pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    /// Until it is waited for.
    task: Option<JoinHandle<Result<(), hyper::Error>>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
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
    ) -> Result<Self, Failed> {
        let made = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| Failed::before_answer(&error))?;
        Ok(Self { sender, host, task: Some(tokio::spawn(connection)) })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, Failed> {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> Result<Answer, Failed> {
        self.ask("POST", path, body).await
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, Failed> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            if self.sender.ready().await.is_err() {
                return Err(self.ended().await);
            }
            let answer = match self.sender.send_request(request).await {
                Ok(answer) => answer,
                Err(error) if is_unexplained(&error) => return Err(self.ended().await),
                Err(error) => return Err(Failed::before_answer(&error)),
            };
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
            Ok(Answer { status, body: body.to_bytes().to_vec() })
        };
        let asked = timeout(PROBE, exchange).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {PROBE:?}").into()))
    }

    /// Why the connection ended: only its task knows.
    async fn ended(&mut self) -> Failed {
        let Some(task) = self.task.take() else { return Failed::closed() };
        match task.await {
            Ok(Err(error)) => Failed::before_answer(&error),
            _ => Failed::closed(),
        }
    }
}
