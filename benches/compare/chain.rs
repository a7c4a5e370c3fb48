//! Incremental backups at 1 % churn, a long chain restored, an agent that waits.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{GetOptions, Txn, TxnOp};

use crate::Args;
use crate::generator::{Random, entry};
use crate::measure::{Cost, pipeline, resident, size};
use crate::suite::Suite;

/// Incrementals in the chain that is restored.
const CHAIN: usize = 100;

struct Churn {
    keys: Vec<Vec<u8>>,
    random: Random,
}

impl Churn {
    async fn new(suite: &Suite) -> Self {
        let mut client = suite.etcd.client().await;
        let (mut keys, mut from) = (Vec::new(), vec![0]);
        loop {
            let options = GetOptions::new().with_from_key().with_keys_only().with_limit(5000);
            let page = client.get(from.clone(), Some(options)).await.unwrap();
            keys.extend(page.kvs().iter().map(|kv| kv.key().to_vec()));
            if !page.more() {
                return Self { keys, random: Random::new(7) };
            }
            from = [keys.last().unwrap(), &b"\0"[..]].concat();
        }
    }

    /// Overwrites one key in a hundred.
    async fn go(&mut self, suite: &Suite) {
        let mut client = suite.etcd.client().await;
        let mut left = self.keys.len() / 100;
        while left > 0 {
            let now = left.min(100);
            let mut chosen = std::collections::BTreeSet::new();
            while chosen.len() < now {
                chosen.insert(self.random.next() as usize % self.keys.len());
            }
            let puts = chosen.into_iter().map(|at| {
                let (_, value) = entry(at as u64, &mut self.random);
                TxnOp::put(self.keys[at].clone(), value, None)
            });
            client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
            left -= now;
        }
        // What is written is committed to the file within 100 ms.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn range(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::MAX, 0_f64), |(l, h), v| (l.min(*v), h.max(*v)));
    format!("{low:.2}–{high:.2}")
}

pub async fn run(args: &Args, dir: &Path) {
    let suite = Suite::prepare(args, dir).await;
    let mut churn = Churn::new(&suite).await;
    let (full, first) = {
        let (costs, stored) = suite.backup(&["--no-compare"]);
        (costs[0], stored)
    };
    suite.restic_backup();
    let walls = |costs: &[Cost]| costs.iter().map(|cost| cost.wall).collect::<Vec<_>>();
    let (mut streams, mut ours, mut restics) = (Vec::new(), Vec::new(), Vec::new());
    let (mut new, mut new_restic) = (Vec::new(), Vec::new());
    let mut before = first;
    for _ in 0..args.runs {
        churn.go(&suite).await;
        streams.push(suite.bare_stream());
        ours.push(pipeline(vec![suite.strongroom(&["backup", "--no-compare"])], None, None));
        let now = size(&suite.path("repository"));
        new.push((now - before) as f64);
        before = now;
        let there = size(&suite.path("restic"));
        suite.save();
        let backup = suite.restic(&["backup", "--stdin", "--stdin-filename", "etcd.db"]);
        restics.push(pipeline(vec![backup], Some(&suite.path("saved.db")), None));
        new_restic.push((size(&suite.path("restic")) - there) as f64);
    }
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let (stream, mine, restic) =
        (median(walls(&streams)), median(walls(&ours)), median(walls(&restics)));
    println!(
        "etcd 3.5, {:.0} MiB, 1 % of the keys overwritten before each of {} runs",
        mib(suite.database as f64),
        args.runs
    );
    println!("full backup                {:.2} s, {:.1} MiB stored", full.wall, mib(first as f64));
    println!("bare snapshot stream       {stream:.2} s ({})", range(&walls(&streams)));
    println!(
        "strongroom backup          {mine:.2} s ({}), {:.2} × the stream; {:.2} MiB new, {:.2} % of the full one",
        range(&walls(&ours)),
        mine / stream,
        mib(median(new.clone())),
        100.0 * median(new) / first as f64
    );
    println!(
        "restic backup of the file  {restic:.2} s ({}), {:.2} × the stream; {:.2} MiB new",
        range(&walls(&restics)),
        restic / stream,
        mib(median(new_restic))
    );
    for at in args.runs..CHAIN {
        churn.go(&suite).await;
        pipeline(vec![suite.strongroom(&["backup", "--no-compare"])], None, None);
        if at % 20 == 0 {
            eprintln!("{at} of {CHAIN} incrementals");
        }
    }
    let sources = suite.depends_on("latest");
    let restore = |suite: &Suite, id: &str| {
        let out = suite.fresh("restored.db").display().to_string();
        let cost = pipeline(vec![suite.strongroom(&["restore", id, "--output", &out])], None, None);
        fs::remove_file(out).unwrap();
        cost.wall
    };
    let hundredth = suite.latest();
    pipeline(vec![suite.strongroom(&["backup", "--no-compare", "--full"])], None, None);
    let whole = suite.latest();
    let (mut chained, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        chained.push(restore(&suite, &hundredth));
        alone.push(restore(&suite, &whole));
    }
    let (chained, alone) = (median(chained), median(alone));
    println!(
        "restore of the {CHAIN}th incremental ({sources} sources) {chained:.2} s, of a full one {alone:.2} s: {:.2} ×",
        chained / alone
    );
    agent(&suite);
}

/// An agent that has taken a backup and waits for the next.
fn agent(suite: &Suite) {
    let config = suite.path("agent.toml");
    let text = format!(
        "master_keys = [\"file:{}\"]\n[repository]\nurl = {:?}\n[etcd]\nendpoints = [{:?}]\n[agent]\nbackup = \"0 0 1 1 *\"\n",
        suite.path("keyring").display(),
        suite.path("repository").display().to_string(),
        suite.etcd.endpoint
    );
    fs::write(&config, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .env("STRONGROOM_CONFIG", &config)
        .arg("agent")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        most = most.max(resident(child.id()).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(100));
    }
    let waits = resident(child.id()).unwrap_or_default();
    let _ = child.kill();
    let _ = child.wait();
    println!(
        "agent that waits           {} KiB resident, {} KiB at most in ten seconds",
        waits >> 10,
        most >> 10
    );
}
