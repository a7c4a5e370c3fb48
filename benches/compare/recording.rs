//! An agent that records a real etcd: what it costs etcd and itself, and how old its recovery point is.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::etcd::Etcd;
use crate::measure::{cpu_seconds, resident};

/// Puts by so many clients at once.
const CLIENTS: usize = 64;
/// Puts at full speed, and puts at `FAST` a second.
const PUTS: usize = 60_000;
const PACED_PUTS: usize = 75_000;
/// About half of what the disk of the machine takes that the guide's figures are from.
const FAST: u32 = 2500;
/// Changes a second of a cluster of 1,000 nodes.
const PACE: u32 = 145;
/// How long the recovery point is looked at.
const LOOKED_AT: Duration = Duration::from_secs(60);
const COMPLETE: &str = "strongroom_journal_complete_timestamp_seconds{";

/// What was measured, what it should be, and what it is.
pub type Row = [String; 3];

pub fn row(what: impl Into<String>, goal: impl Into<String>, measured: impl Into<String>) -> Row {
    [what.into(), goal.into(), measured.into()]
}

struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    fn start(dir: &Path, etcd: &Etcd) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let (keyring, config) = (dir.join("keyring"), dir.join("recording.toml"));
        let repository = dir.join("recorded").display().to_string();
        let run = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
            command.env("STRONGROOM_CONFIG", "/dev/null").args(args);
            assert!(
                command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
            );
        };
        let keyring = keyring.display().to_string();
        run(&["key", "generate", "-o", &keyring]);
        run(&["init", "-r", &repository, "-k", &format!("file:{keyring}")]);
        let text = format!(
            "master_keys = [\"file:{keyring}\"]\n[repository]\nurl = {repository:?}\n[etcd]\nendpoints = [{:?}]\n\
             [agent]\nbackup = \"0 0 1 1 *\"\ncontinuous = true\nlisten = {address:?}\n",
            etcd.endpoint
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_strongroom"))
            .env("STRONGROOM_CONFIG", &config)
            .arg("agent")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { child, address };
        let begun = Instant::now();
        while agent.complete().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the agent does not record");
            std::thread::sleep(Duration::from_millis(100));
        }
        agent
    }

    /// Everything that was committed before this time is stored: seconds since 1970.
    fn complete(&self) -> Option<f64> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| line.starts_with(COMPLETE))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What writing showed.
struct Load {
    puts: usize,
    seconds: f64,
    /// The time of each put, in order.
    took: Vec<Duration>,
    /// Processor time of etcd.
    cpu: f64,
}

impl Load {
    /// At full speed.
    async fn full(etcd: &Etcd) -> Self {
        Self::run(etcd, PUTS, None).await
    }

    /// At `FAST` puts a second, or slower if etcd is.
    async fn paced(etcd: &Etcd) -> Self {
        Self::run(etcd, PACED_PUTS, Some(FAST)).await
    }

    async fn run(etcd: &Etcd, puts: usize, a_second: Option<u32>) -> Self {
        let (begun, before) = (Instant::now(), cpu_seconds(etcd.pid()).unwrap());
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let mut connection = etcd.client().await;
            clients.push(tokio::spawn(async move {
                let (value, mut took) = ("x".repeat(1024), Vec::new());
                // The puts of all clients are spread evenly.
                let pace = a_second.map(|rate| Duration::from_secs(1) / rate);
                for nth in 0..puts / CLIENTS {
                    if let Some(pace) = pace {
                        let at = begun + pace * (nth * CLIENTS + client) as u32;
                        tokio::time::sleep_until(at.into()).await;
                    }
                    let put = Instant::now();
                    connection.put(format!("load/{client}"), value.clone(), None).await.unwrap();
                    took.push(put.elapsed());
                }
                took
            }));
        }
        let mut took = Vec::new();
        for client in clients {
            took.extend(client.await.unwrap());
        }
        took.sort();
        let (puts, seconds) = (took.len(), begun.elapsed().as_secs_f64());
        Self { puts, seconds, took, cpu: cpu_seconds(etcd.pid()).unwrap() - before }
    }

    fn per_second(&self) -> f64 {
        self.puts as f64 / self.seconds
    }

    fn slowest(&self) -> Duration {
        self.took.last().copied().unwrap_or_default()
    }

    /// In milliseconds.
    fn p99(&self) -> f64 {
        self.took[self.took.len() * 99 / 100].as_secs_f64() * 1e3
    }

    fn rows(&self, alone: &Self, what: &str, goals: [&str; 2]) -> [Row; 2] {
        let more = (self.cpu / self.puts as f64) / (alone.cpu / alone.puts as f64) - 1.0;
        [
            row(
                format!("etcd's processor time a put, {what}"),
                goals[0],
                format!(
                    "{:+.0} % ({:.0} puts/s, {:.0} without a recorder)",
                    more * 100.0,
                    self.per_second(),
                    alone.per_second()
                ),
            ),
            row(
                format!("the slowest put, {what}"),
                goals[1],
                format!(
                    "{:.0?}, {:.0?} without; p99 {:.1} ms, {:.1} ms without",
                    self.slowest(),
                    alone.slowest(),
                    self.p99(),
                    alone.p99()
                ),
            ),
        ]
    }
}

/// How old the recovery point is, looked at ten times a second while a cluster of 1,000 nodes writes.
async fn ages(agent: &Agent, etcd: &Etcd) -> Vec<f64> {
    let mut client = etcd.client().await;
    let (begun, mut written, mut ages) = (Instant::now(), 0_u32, Vec::new());
    while begun.elapsed() < LOOKED_AT {
        tokio::time::sleep_until((begun + Duration::from_secs(1) / PACE * written).into()).await;
        client.put(format!("paced/{}", written % 1000), "x".repeat(1024), None).await.unwrap();
        written += 1;
        if written.is_multiple_of(PACE / 10) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
            ages.extend(agent.complete().map(|at| now - at));
        }
    }
    ages.sort_by(f64::total_cmp);
    ages
}

/// The rows of the table. etcd writes to the disk below `target`, with fsync.
pub async fn run(dir: &Path) -> Vec<Row> {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let etcd = Etcd::start_with(&data.path().join("etcd"), &[]).await;
    // The first load is slower.
    Load::full(&etcd).await;
    let (alone, alone_paced) = (Load::full(&etcd).await, Load::paced(&etcd).await);
    let agent = Agent::start(dir, &etcd);
    let id = agent.child.id();
    let (cpu, memory) = (cpu_seconds(id).unwrap(), resident(id).unwrap());
    let (paced, full) = (Load::paced(&etcd).await, Load::full(&etcd).await);
    // The agent stores what still waits.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cpu = cpu_seconds(id).unwrap() - cpu;
    let grown = resident(id).unwrap().saturating_sub(memory);
    let ages = ages(&agent, &etcd).await;
    let percentile = |part: usize| ages[(ages.len() * part / 100).min(ages.len() - 1)];
    let mut rows = vec![row(
        "recovery point, a local directory, an interval of 5 s",
        "p99 ≤ 6 s",
        format!("p50 {:.1} s, p99 {:.1} s", percentile(50), percentile(99)),
    )];
    let goals = ["≤ +6 % at 7000", "≤ 2 × that without a recorder"];
    rows.extend(paced.rows(&alone_paced, &format!("{FAST} puts a second"), goals));
    rows.extend(full.rows(&alone, "puts at full speed", ["–"; 2]));
    let puts = (full.puts + paced.puts) as f64;
    let mib = grown as f64 / f64::from(1 << 20);
    rows.push(row(
        "the agent's processor time",
        "≤ 10 µs a change",
        format!("{:.1} µs", cpu * 1e6 / puts),
    ));
    rows.push(row("memory", "≤ +64 MiB", format!("{mib:+.0} MiB")));
    rows
}
