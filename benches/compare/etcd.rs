//! A throwaway etcd full of generated data.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, Txn, TxnOp};

use crate::generator::{Random, entry};

/// Puts in one transaction: below etcd's limits of 128 operations and 1.5 MiB.
const BATCH: u64 = 100;
const WRITERS: u64 = 8;

pub struct Etcd {
    child: Child,
    pub endpoint: String,
}

/// The folder of etcd 3.5's programs.
pub fn programs() -> PathBuf {
    std::env::var_os("STRONGROOM_TEST_ETCD_3_5").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/etcd-3.5/bin"),
        PathBuf::from,
    )
}

impl Etcd {
    /// Starts it without fsync, so that the disk does not limit the measurement.
    pub async fn start(data: &Path) -> Self {
        Self::start_with(data, &["--unsafe-no-fsync"]).await
    }

    /// Starts it with these flags besides those that say where it listens.
    pub async fn start_with(data: &Path, flags: &[&str]) -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (endpoint, peer) =
            (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let child = Command::new(programs().join("etcd"))
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(flags)
            .args(["--quota-backend-bytes", "8589934592"])
            .args(["--snapshot-count", "5000"])
            // A compaction pauses less often.
            .args(["--experimental-compaction-batch-limit", "10000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd 3.5: run scripts/get-etcd");
        let etcd = Self { child, endpoint };
        let deadline = Instant::now() + Duration::from_secs(60);
        while etcd.size().await.is_none() {
            assert!(Instant::now() < deadline, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        etcd
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn client(&self) -> Client {
        Client::connect([&self.endpoint], None).await.unwrap()
    }

    /// Size of the database file.
    pub async fn size(&self) -> Option<u64> {
        let mut client = Client::connect([&self.endpoint], None).await.ok()?;
        Some(client.status().await.ok()?.db_size() as u64)
    }

    /// Adds entries until the database has `size` bytes. Returns how many there are.
    pub async fn fill(&self, size: u64, seed: u64) -> u64 {
        let mut next = 0;
        while self.size().await.unwrap() < size {
            let mut writers = Vec::new();
            for _ in 0..WRITERS {
                let (mut client, first) = (self.client().await, next);
                next += 5 * BATCH;
                writers.push(tokio::spawn(async move {
                    let mut random = Random::new(seed ^ first);
                    for batch in 0..5 {
                        let from = first + batch * BATCH;
                        let puts = (from..from + BATCH).map(|n| {
                            let (key, value) = entry(n, &mut random);
                            TxnOp::put(key, value, None)
                        });
                        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
                    }
                }));
            }
            for writer in writers {
                writer.await.unwrap();
            }
        }
        next
    }

    /// Reads a whole snapshot stream and keeps nothing: the limit for any backup.
    pub async fn bare_stream(&self) -> (f64, u64) {
        let mut client = self.client().await;
        let start = Instant::now();
        let mut stream = client.snapshot().await.unwrap();
        let mut bytes = 0;
        while let Some(message) = stream.message().await.unwrap() {
            bytes += message.blob().len() as u64;
        }
        (start.elapsed().as_secs_f64(), bytes - 32)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
