//! The proxy beside etcd itself and beside `etcd grpc-proxy`: throughput, added latency, what a request costs, memory of
//! idle watches.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::Client;

const VALUE: usize = 1024;
const CONNECTIONS: usize = 32;
const WATCHES: usize = 1000;
/// How long one way is measured in one round.
const ROUND: Duration = Duration::from_secs(4);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, args: &[&str], address: &str) -> Killed {
    let child = Command::new(program)
        .args(args)
        .env("ETCD_LOG_LEVEL", "error")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child = Killed(child);
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn address() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

/// Puts and gets in turn on each of so many connections; requests a second, and the median's seconds of a request.
async fn load(endpoint: &str, connections: usize) -> (f64, f64) {
    let mut tasks = Vec::new();
    for at in 0..connections {
        let mut client = Client::connect([endpoint], None).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let (value, mut times) = (vec![at as u8; VALUE], Vec::new());
            let begun = Instant::now();
            while begun.elapsed() < ROUND {
                let key = format!("bench/{at}/{}", times.len() % 512);
                let one = Instant::now();
                client.put(&*key, value.clone(), None).await.unwrap();
                times.push(one.elapsed().as_secs_f64());
                let one = Instant::now();
                client.get(&*key, None).await.unwrap();
                times.push(one.elapsed().as_secs_f64());
            }
            times
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    (times.len() as f64 / ROUND.as_secs_f64(), median(&mut times))
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// What a process has used since it began: seconds of processor time, and how often its threads have gone to sleep.
#[derive(Clone, Copy, Default)]
struct Used {
    seconds: f64,
    sleeps: f64,
}

impl Used {
    fn of(pid: u32) -> Self {
        let mut used = Self::default();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let task = task.unwrap().path();
            let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
            let nanoseconds = read("schedstat");
            let nanoseconds = nanoseconds.split_whitespace().next().unwrap_or("0");
            used.seconds += nanoseconds.parse::<f64>().unwrap() / 1e9;
            let status = read("status");
            let sleeps =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            used.sleeps += sleeps.map_or(0.0, |sleeps| sleeps.trim().parse::<f64>().unwrap());
        }
        used
    }

    /// For each of so many requests, in microseconds and in sleeps.
    fn each(self, before: Self, requests: f64) -> (f64, f64) {
        ((self.seconds - before.seconds) * 1e6 / requests, (self.sleeps - before.sleeps) / requests)
    }
}

/// Measures `runs` rounds and prints the table.
pub async fn run(runs: usize, dir: &Path) {
    let etcd = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/etcd-3.5/bin/etcd");
    let strongroom = Path::new(env!("CARGO_BIN_EXE_strongroom"));
    let (direct, peer, ours, grpc) = (address(), address(), address(), address());
    let url = |address: &str| format!("http://{address}");
    let data = dir.join("etcd").display().to_string();
    let (client_url, peer_url) = (url(&direct), url(&peer));
    let etcd_itself = start(
        &etcd,
        &[
            "--data-dir",
            &data,
            "--listen-client-urls",
            &client_url,
            "--advertise-client-urls",
            &client_url,
            "--listen-peer-urls",
            &peer_url,
            "--initial-advertise-peer-urls",
            &peer_url,
            "--initial-cluster",
            &format!("default={peer_url}"),
            "--quota-backend-bytes",
            "8000000000",
        ],
        &direct,
    );
    let keyring = dir.join("keyring").display().to_string();
    assert!(
        Command::new(strongroom)
            .args(["key", "generate", "-q", "-o", &keyring])
            .status()
            .unwrap()
            .success()
    );
    let key = format!("file:{keyring}");
    assert!(
        Command::new(strongroom)
            .args(["value", "init", "-q", "-k", &key, "--endpoints", &client_url])
            .status()
            .unwrap()
            .success()
    );
    let proxy = start(
        strongroom,
        &["proxy", "-k", &key, "--endpoints", &client_url, "--listen", &ours],
        &ours,
    );
    let grpc_proxy = start(
        &etcd,
        &["grpc-proxy", "start", "--endpoints", &direct, "--listen-addr", &grpc],
        &grpc,
    );
    let ways = [
        ("etcd itself", url(&direct), etcd_itself.0.id()),
        ("strongroom proxy", url(&ours), proxy.0.id()),
        ("etcd grpc-proxy", url(&grpc), grpc_proxy.0.id()),
    ];
    let mut rates = [const { Vec::new() }; 3];
    let mut latencies = [const { Vec::new() }; 3];
    let mut costs = [const { (Vec::new(), Vec::new()) }; 3];
    let mut sleeps = [const { (Vec::new(), Vec::new()) }; 3];
    for _ in 0..runs {
        for (at, (_, endpoint, pid)) in ways.iter().enumerate() {
            let before = Used::of(*pid);
            let (rate, _) = load(endpoint, CONNECTIONS).await;
            let (cost, slept) = Used::of(*pid).each(before, rate * ROUND.as_secs_f64());
            rates[at].push(rate);
            costs[at].0.push(cost);
            sleeps[at].0.push(slept);
            let before = Used::of(*pid);
            let (rate, latency) = load(endpoint, 1).await;
            let (cost, slept) = Used::of(*pid).each(before, rate * ROUND.as_secs_f64());
            latencies[at].push(latency);
            costs[at].1.push(cost);
            sleeps[at].1.push(slept);
        }
    }
    let rates = rates.map(|mut rates| median(&mut rates));
    let latencies = latencies.map(|mut latencies| median(&mut latencies));
    println!(
        "| way | requests/s, {CONNECTIONS} connections | of etcd's | median latency, one connection | added |"
    );
    println!("|---|---|---|---|---|");
    for (at, (name, ..)) in ways.iter().enumerate() {
        println!(
            "| {name} | {:.0} | {:.2} | {:.3} ms | {:.3} ms |",
            rates[at],
            rates[at] / rates[0],
            latencies[at] * 1000.0,
            (latencies[at] - latencies[0]) * 1000.0
        );
    }
    println!("strongroom / grpc-proxy: {:.2}", rates[1] / rates[2]);

    println!(
        "\n| process | µs of processor time a request, {CONNECTIONS} connections / one | sleeps a request |"
    );
    println!("|---|---|---|");
    for (at, (name, ..)) in ways.iter().enumerate() {
        let ((many, one), (asleep, alone)) = (&mut costs[at], &mut sleeps[at]);
        let (many, one, asleep, alone) = (median(many), median(one), median(asleep), median(alone));
        println!("| {name} | {many:.1} / {one:.1} | {asleep:.2} / {alone:.2} |");
    }

    let fresh_address = address();
    let fresh = start(
        strongroom,
        &["proxy", "-k", &key, "--endpoints", &client_url, "--listen", &fresh_address],
        &fresh_address,
    );
    let before = resident_mib(fresh.0.id());
    let mut client = Client::connect([url(&fresh_address)], None).await.unwrap();
    let mut stream = client.watch("idle/0", None).await.unwrap();
    for at in 1..WATCHES {
        stream.watch(format!("idle/{at}"), None).await.unwrap();
        stream.message().await.unwrap().unwrap();
    }
    let (after, loaded) = (resident_mib(fresh.0.id()), resident_mib(proxy.0.id()));
    println!(
        "resident memory: {before:.0} MiB at first, {after:.0} MiB with {WATCHES} idle watches, {loaded:.0} MiB after the load"
    );
}
