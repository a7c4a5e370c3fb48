//! One thread for a connection and all that belongs to it: a call crosses no threads on its way to etcd and back.
//!
//! On a runtime of several threads every message wakes another one, which took 44 % of the proxy's samples
//! (`perf record`, during `scripts/bench --proxy`).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use etcd_client::Channel;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{ANSWER_WINDOW, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::EtcdSettings;

type Accepted = (std::net::TcpStream, SocketAddr);

/// As many threads as the machine has cores.
pub(super) struct Threads {
    senders: Vec<mpsc::UnboundedSender<Accepted>>,
    ends: Vec<oneshot::Receiver<()>>,
    next: usize,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>, stop: &watch::Receiver<bool>) -> Result<Self> {
        let mut threads = Self { senders: Vec::new(), ends: Vec::new(), next: 0 };
        for at in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            let failed = |error| Error::new(ErrorKind::Io, "cannot start threads").because(error);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(failed)?;
            let (sender, receiver) = mpsc::unbounded_channel();
            let (end, ended) = oneshot::channel();
            let (shared, stop) = (Arc::clone(shared), stop.clone());
            thread::Builder::new()
                .name(format!("proxy-{at}"))
                .spawn(move || {
                    runtime.block_on(work(receiver, shared, stop));
                    let _ = end.send(());
                })
                .map_err(failed)?;
            threads.senders.push(sender);
            threads.ends.push(ended);
        }
        Ok(threads)
    }

    /// Gives a connection to the next thread.
    pub(super) fn give(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Ok(stream) = stream.into_std() else { return };
        self.next = self.next.wrapping_add(1) % self.senders.len().max(1);
        if let Some(sender) = self.senders.get(self.next) {
            let _ = sender.send((stream, peer));
        }
    }

    /// Waits until all connections have ended.
    pub(super) async fn join(self) {
        drop(self.senders);
        for ended in self.ends {
            let _ = ended.await;
        }
    }
}

async fn work(
    mut receiver: mpsc::UnboundedReceiver<Accepted>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut look = tokio::time::interval(LOOK);
    let mut generation = Generation::new(&shared.clients_etcd);
    let mut stopping = false;
    loop {
        tokio::select! {
            accepted = receiver.recv() => match accepted {
                None => break,
                Some((stream, peer)) => {
                    if let (Ok(stream), Ok(channel)) = (TcpStream::from_std(stream), &generation.channel) {
                        let (channel, end) = (channel.clone(), generation.end.subscribe());
                        connections.spawn(Arc::clone(&shared).connection(stream, peer, channel, end));
                    }
                }
            },
            Some(_) = connections.join_next() => {}
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                generation.end.send_replace(true);
            }
            // Clients come again at once, and find the new certificates in use.
            _ = look.tick(), if !stopping => {
                if generation.channel.is_err() || generation.files != shared.clients_etcd.files_changed() {
                    generation.end.send_replace(true);
                    generation = Generation::new(&shared.clients_etcd);
                }
            }
        }
    }
    generation.end.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// How often the files of the connection to etcd are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// The connections that were made with the same certificates towards etcd.
struct Generation {
    files: Vec<Option<SystemTime>>,
    /// To etcd, for all calls of one answer: those never wait for a client that does not read.
    channel: Result<Channel>,
    /// Turns true when they are to end.
    end: watch::Sender<bool>,
}

impl Generation {
    fn new(etcd: &EtcdSettings) -> Self {
        Self {
            files: etcd.files_changed(),
            channel: etcd.direct(ANSWER_WINDOW),
            end: watch::Sender::new(false),
        }
    }
}
