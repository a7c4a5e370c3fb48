//! Writes to a connection, gathered: what several tasks have for it within the same moment goes out at once.
//!
//! HTTP/2 writes the headers of a request, its message, and the answers to pings one by one. Each write is a system call
//! and wakes the peer. Here they go into a small pipe, and one task for each connection writes what is in it after the
//! tasks that are ready had their turn. Meant for runtimes of one thread.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, Join, duplex, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Error};
use tower::{BoxError, ServiceExt as _, service_fn};

/// Bytes that wait to be written; more have to wait outside.
const ROOM: usize = 16 << 10;
/// How long the peer may take nothing. Pings end a connection before.
const STALLED: Duration = Duration::from_secs(30);
/// Turns of the other tasks before something is written to etcd: a request's message follows its headers, and an
/// answer is passed on to its client before etcd's ping is answered.
const TURNS: u32 = 6;

/// A connection whose writes are gathered.
pub(crate) type Gathered = Join<OwnedReadHalf, DuplexStream>;

/// Gathers what is written to `stream` for so many `turns` of the other tasks. The task ends after the connection is shut
/// down or dropped, when all is written.
pub(crate) fn gathered(stream: TcpStream, turns: u32) -> (Gathered, JoinHandle<()>) {
    let (read, write) = stream.into_split();
    let (into, pipe) = duplex(ROOM);
    let task = tokio::spawn(async move {
        // The connection's own half sees what went wrong: its next write fails.
        let _ = write_all(pipe, write, turns).await;
    });
    (join(read, into), task)
}

async fn write_all(
    mut pipe: DuplexStream,
    mut write: OwnedWriteHalf,
    turns: u32,
) -> std::io::Result<()> {
    let mut waiting = Vec::with_capacity(ROOM);
    while pipe.read_buf(&mut waiting).await? > 0 {
        wait(turns).await;
        // What came meanwhile.
        if turns > 0 && waiting.len() < waiting.capacity() {
            tokio::select! {
                biased;
                read = pipe.read_buf(&mut waiting) => drop(read?),
                () = std::future::ready(()) => {}
            }
        }
        timeout(STALLED, write.write_all(&waiting)).await??;
        waiting.clear();
    }
    Ok(())
}

/// Lets the tasks that are ready have so many turns.
async fn wait(turns: u32) {
    let mut left = turns;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left = left.saturating_sub(1);
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// As [`Endpoint::connect_lazy`].
pub(super) fn lazily(endpoint: &Endpoint) -> Channel {
    endpoint
        .connect_with_connector_lazy(service_fn(|to| async { connect(to).await.map(TokioIo::new) }))
}

/// As [`Endpoint::connect`].
pub(super) async fn at_once(endpoint: &Endpoint) -> Result<Channel, Error> {
    endpoint
        .connect_with_connector(service_fn(|to| {
            Box::pin(async { connect(to).await.map(TokioIo::new) })
        }))
        .await
}

/// A connection to the host and port in `to`.
pub(super) async fn connect(to: Uri) -> Result<Gathered, BoxError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let stream = connector.oneshot(to).await?;
    Ok(gathered(stream.into_inner(), TURNS).0)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_written_one_by_one_arrives_at_once() {
        let (one, mut other) = pair().await;
        let (mut one, _) = gathered(one, TURNS);
        one.write_all(b"headers,").await.unwrap();
        tokio::task::spawn(async move {
            one.write_all(b"message").await.unwrap();
            std::future::pending::<()>().await;
        });
        let mut read = [0; 100];
        let length = other.read(&mut read).await.unwrap();
        assert_eq!(&read[..length], b"headers,message");
    }

    #[tokio::test]
    async fn all_is_written_before_the_end() {
        for turns in [0, TURNS] {
            let (one, mut other) = pair().await;
            let (mut one, task) = gathered(one, turns);
            let sent: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
            let expected = sent.clone();
            tokio::spawn(async move { one.write_all(&sent).await.unwrap() });
            let mut read = Vec::new();
            other.read_to_end(&mut read).await.unwrap();
            assert!(read == expected);
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_fails_the_next_write() {
        let (one, other) = pair().await;
        let (mut one, task) = gathered(one, 0);
        drop(other);
        while one.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
        task.await.unwrap();
    }
}
