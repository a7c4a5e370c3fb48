//! Side by side with what people use today, on the same machine, in the same run.
//!
//! `scripts/bench [--size MIB] [--runs N] [--dir DIR] [--guide] [--levels] [--memory MIB,…] [--proxy]
//! [--agent] [--days N] [--many]`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![allow(missing_docs, unreachable_pub, clippy::indexing_slicing)]

mod agent;
mod etcd;
mod generator;
mod journal;
mod measure;
mod proxy;
mod recording;
mod report;
mod saved;
mod suite;
mod year;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Compares strongroom with the bare stream, with etcdctl + zstd + age and with restic.
#[derive(Parser)]
struct Args {
    /// Size of the database in MiB
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Rounds; each runs everything once
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where everything is written: a tmpfs
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Seed of the generated data
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the table into src/guide/benchmarks.md and the chart into benches/results.svg
    #[arg(long)]
    guide: bool,
    /// Instead: each zstd level on 1 MiB frames of the database, on one core
    #[arg(long)]
    levels: bool,
    /// Instead: peak memory of backup and restore at these sizes in MiB
    #[arg(long, value_delimiter = ',')]
    memory: Vec<u64>,
    /// Instead: the memory of an agent that took a backup and waits
    #[arg(long)]
    agent: bool,
    /// Instead: so many days of hourly snapshots of an etcd in a steady state, in a store with a clock of its own
    #[arg(long)]
    days: Option<u64>,
    /// Instead: start such an etcd, say where, and write to it for so many minutes at its real pace: to be recorded meanwhile
    #[arg(long)]
    churn: Option<u64>,
    /// Instead: ten thousand snapshots, listed and planned to be removed, with 20 ms for each request
    #[arg(long)]
    many: bool,
    /// Instead: what an hour of changes costs to store, and a restore through it
    #[arg(long)]
    journal: bool,
    /// Instead: the proxy beside etcd itself and etcd's own proxy
    #[arg(long)]
    proxy: bool,
    /// Instead: only start the filled etcd, say where, and wait
    #[arg(long)]
    hold: bool,
    /// cargo bench passes this
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir =
            tempfile::Builder::new().prefix("strongroom-bench-").tempdir_in(&args.dir).unwrap();
        if args.proxy {
            return proxy::run(args.runs, dir.path()).await;
        }
        if args.journal {
            return publish("journal", &journal::run(dir.path(), args.runs).await, args.guide);
        }
        if let Some(days) = args.days {
            return year::run(dir.path(), days).await;
        }
        if let Some(minutes) = args.churn {
            return year::churn(dir.path(), Duration::from_secs(60 * minutes)).await;
        }
        if args.many {
            return year::ten_thousand(dir.path()).await;
        }
        if args.agent {
            return agent::run(&args, dir.path()).await;
        }
        if !args.memory.is_empty() {
            return report::memory(&suite::memory(&args, dir.path()).await);
        }
        let suite = suite::Suite::prepare(&args, dir.path()).await;
        if args.hold {
            return suite.hold().await;
        }
        if args.levels {
            return report::levels(&suite.levels());
        }
        let results = suite.run(args.runs).await;
        let table = report::table(&results);
        publish("bench", &table, args.guide);
        if args.guide {
            let project = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            std::fs::write(project.join("benches/results.svg"), report::chart(&results)).unwrap();
        }
    });
}

/// Prints a table, and puts it into the guide between the marks of this name if it is to be there.
fn publish(mark: &str, table: &str, in_guide: bool) {
    println!("{table}");
    if in_guide {
        let guide = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/guide/benchmarks.md");
        let text = std::fs::read_to_string(&guide).unwrap();
        std::fs::write(guide, report::put(&text, mark, table)).unwrap();
    }
}
