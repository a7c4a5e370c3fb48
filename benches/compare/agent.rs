//! The memory of an agent that waits.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Args;
use crate::measure::resident;
use crate::suite::Suite;

/// An agent that has taken a backup and waits for the next.
pub async fn run(args: &Args, dir: &Path) {
    let suite = Suite::prepare(args, dir).await;
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
