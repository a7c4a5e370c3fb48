//! An agent that records a real etcd: what it costs etcd and itself, and how old its recovery point is.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::etcd::Etcd;
use crate::measure::{cpu_seconds, resident};

/// Puts at full speed, by so many clients at once.
const PUTS: usize = 60_000;
const CLIENTS: usize = 64;
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

/// What writing at full speed showed.
struct Load {
    per_second: f64,
    slowest: Duration,
    etcd_cpu: f64,
}

async fn load(etcd: &Etcd) -> Load {
    let (begun, before) = (Instant::now(), cpu_seconds(etcd.pid()).unwrap());
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let mut connection = etcd.client().await;
        clients.push(tokio::spawn(async move {
            let (value, mut slowest) = ("x".repeat(1024), Duration::ZERO);
            for _ in 0..PUTS / CLIENTS {
                let put = Instant::now();
                connection.put(format!("load/{client}"), value.clone(), None).await.unwrap();
                slowest = slowest.max(put.elapsed());
            }
            slowest
        }));
    }
    let mut slowest = Duration::ZERO;
    for client in clients {
        slowest = slowest.max(client.await.unwrap());
    }
    let per_second = PUTS as f64 / begun.elapsed().as_secs_f64();
    Load { per_second, slowest, etcd_cpu: cpu_seconds(etcd.pid()).unwrap() - before }
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

/// The rows of the table.
pub async fn run(dir: &Path) -> Vec<Row> {
    let etcd = Etcd::start(&dir.join("etcd")).await;
    // What comes first is slower.
    load(&etcd).await;
    let alone = load(&etcd).await;
    let agent = Agent::start(dir, &etcd);
    let id = agent.child.id();
    let (cpu, memory) = (cpu_seconds(id).unwrap(), resident(id).unwrap());
    let recorded = load(&etcd).await;
    // What waits is stored.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cpu = cpu_seconds(id).unwrap() - cpu;
    let grown = resident(id).unwrap().saturating_sub(memory);
    let ages = ages(&agent, &etcd).await;
    let percentile = |part: usize| ages[(ages.len() * part / 100).min(ages.len() - 1)];
    vec![
        row(
            "recovery point, a local directory, an interval of 5 s",
            "p99 ≤ 6 s",
            format!("p50 {:.1} s, p99 {:.1} s", percentile(50), percentile(99)),
        ),
        row(
            "etcd's processor time, puts at full speed",
            "≤ +6 %",
            format!(
                "{:+.0} % ({:.0} puts/s, {:.0} without a recorder)",
                (recorded.etcd_cpu / alone.etcd_cpu - 1.0) * 100.0,
                recorded.per_second,
                alone.per_second
            ),
        ),
        row(
            "the slowest put",
            "≤ 2 × that without a recorder",
            format!("{:.0?}, {:.0?} without", recorded.slowest, alone.slowest),
        ),
        row(
            "the agent's processor time",
            "≤ 10 µs a change",
            format!("{:.1} µs", cpu * 1e6 / PUTS as f64),
        ),
        row("memory", "≤ +64 MiB", format!("{:+.0} MiB", grown as f64 / f64::from(1 << 20))),
    ]
}
