//! Two agents that record a cluster of three for minutes: the lead moves, agents are killed and suspended, a clock is set,
//! members fail, the store is away, etcd compacts all the time. What is stored restores; every gap is named.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd_client::Client;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::agent_journal::free_the_lead;
use crate::agent_soak::{clock_library, failing};
use crate::etcd_server::{Etcd, Version};
use crate::journal::{Seed, revision_of};
use crate::place::{Place, text};
use crate::random_history::Random;
use crate::s3_server::{ACCESS_KEY, Flavour, SECRET_KEY, start};

const ROUNDS: usize = 24;
/// A disturbance may last so long.
const PATIENCE: Duration = Duration::from_secs(120);
const COMPLETE: &str = "strongroom_journal_complete_timestamp_seconds{";

/// What each revision put: the key and the value.
type Written = Arc<Mutex<BTreeMap<i64, (String, String)>>>;

/// Writes all the time, and compacts often, until it is over. What may have been written or not is not kept.
async fn write(mut client: Client, mut random: Random, written: Written, over: Arc<AtomicBool>) {
    let mut n = 0_u64;
    while !over.load(Ordering::SeqCst) {
        n += 1;
        let (key, value) = (format!("soak/{}", random.below(50)), n.to_string());
        match client.put(key.clone(), value.clone(), None).await {
            Ok(put) => {
                let revision = put.header().unwrap().revision();
                written.lock().unwrap().insert(revision, (key, value));
                if n.is_multiple_of(40) {
                    let _ = client.compact(revision - random.below(60) as i64, None).await;
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        tokio::time::sleep(Duration::from_millis(10 + random.below(30))).await;
    }
}

struct Soak {
    etcd: Option<Etcd>,
    place: Place,
    config: String,
    env: Vec<(&'static str, String)>,
    /// The store itself.
    server: String,
    agents: Vec<Agent>,
    logs: Vec<Value>,
    down: Arc<AtomicBool>,
    waits: BTreeMap<&'static str, Vec<f64>>,
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

impl Soak {
    fn start_agent(&mut self) {
        let clock = self.place.path(&format!("clock-{}", self.logs.len() + self.agents.len()));
        fs::write(&clock, "0").unwrap();
        let clock = clock.display().to_string();
        let mut env: Vec<_> =
            self.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        env.push(("SOAK_CLOCK", &clock));
        self.agents.push(Agent::start_with(&self.place, &self.config, &env));
        let pid = self.agents.last().unwrap().child.id();
        fs::write(self.place.path(&format!("clock-of-{pid}")), &clock).unwrap();
    }

    fn take_log(&mut self, at: usize) {
        let mut gone = self.agents.remove(at);
        gone.child.kill().unwrap();
        self.logs.extend(gone.lines.lock().unwrap().iter().cloned());
    }

    fn leader(&self) -> usize {
        let leads = |agent: &Agent| agent.metric_if_there("strongroom_agent_leads") == Some(1.0);
        self.agents.iter().position(leads).unwrap_or(0)
    }

    /// Waits until all that was committed by now is stored.
    fn recovers(&mut self, what: &'static str) {
        let (begun, now) = (Instant::now(), seconds_now());
        let is_young = |agent: &Agent| agent.metric_if_there(COMPLETE).is_some_and(|at| at >= now);
        while !self.agents.iter().any(is_young) {
            let last = |agent: &Agent| {
                let lines = agent.lines.lock().unwrap();
                lines[lines.len().saturating_sub(20)..]
                    .iter()
                    .map(|line| format!("{line}\n"))
                    .collect()
            };
            let logs: Vec<String> = self.agents.iter().map(last).collect();
            assert!(begun.elapsed() < PATIENCE, "{what}: {}", logs.join("\n\n"));
            std::thread::sleep(Duration::from_millis(200));
        }
        self.waits.entry(what).or_default().push(begun.elapsed().as_secs_f64());
    }

    fn signal(&self, at: usize, signal: &str) {
        let id = self.agents[at].child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// What `strongroom` exits with and prints, at the store itself.
    fn at_the_store(&self, args: &[&str]) -> (Option<i32>, Value) {
        let mut command = self.place.command(&["-w", "json"]);
        command.args(args).args(["-r", "s3://backups/soak"]);
        command.envs(self.env.iter().map(|(name, value)| (*name, value.as_str())));
        let command = command.env("AWS_ENDPOINT_URL", &self.server).env_remove("LD_PRELOAD");
        let out = command.output().unwrap();
        let said = [&out.stdout[..], &out.stderr].concat();
        let document = serde_json::Deserializer::from_slice(&said).into_iter().next();
        (out.status.code(), document.unwrap().unwrap_or_else(|_| panic!("{}", text(&said))))
    }

    /// All that was written is restored, but for what gaps hold, and the log names each gap.
    fn is_all_there(&self, written: &BTreeMap<i64, (String, String)>, random: &mut Random) {
        let (code, verified) = self.at_the_store(&["journal", "verify"]);
        assert_eq!((code, &verified["findings"]), (Some(0), &json!([])), "{verified}");
        let gaps = verified["gaps"].as_array().unwrap();
        let named = |line: &&Value| line["event"] == "journal_gap" && line["reason"] != "first";
        let named = self.logs.iter().filter(named).count();
        println!("{} revisions; gaps: {gaps:?}, of which {named} were named", written.len());
        assert!(gaps.len() <= named, "{gaps:?}");
        let (code, newest) = self.at_the_store(&["restore", "--newest", "--output", "newest.db"]);
        assert_eq!(code, Some(0), "{newest}");
        assert!(revision_of(&newest) >= *written.keys().last().unwrap(), "{newest}");
        let snapshots = self.at_the_store(&["snapshots"]).1;
        let snapshots: Vec<_> = snapshots.as_array().unwrap().iter().map(revision_of).collect();
        // Behind a gap the next snapshot is the base.
        let is_in_a_gap = |revision: i64| {
            gaps.iter().any(|gap| {
                let [last, first] = ["last_revision", "first_revision"].map(|at| gap[at].as_i64());
                let base = snapshots.iter().filter(|at| Some(**at) >= first).min();
                last < Some(revision) && base.is_none_or(|base| revision < *base)
            })
        };
        for _ in 0..12 {
            let at = random.below(written.len() as u64) as usize;
            let (revision, (key, value)) = written.iter().nth(at).unwrap();
            let at = revision.to_string();
            let args = ["get", "latest", key, "--revision", &at, "--show-value"];
            let (code, got) = self.at_the_store(&args);
            match code {
                Some(0) => assert_eq!(
                    (&got["mod_revision"], &got["value_base64"]),
                    (&json!(revision), &json!(data_encoding::BASE64.encode(value.as_bytes()))),
                    "{got}"
                ),
                _ => assert!(is_in_a_gap(*revision), "{revision}: {got}"),
            }
        }
    }

    async fn disturb(&mut self, round: usize, client: &mut Client) {
        let leader = self.leader();
        match round % 8 {
            0 => {
                let mut etcd = self.etcd.take().unwrap();
                let at = round / 8 % 3;
                etcd.kill(at);
                tokio::time::sleep(Duration::from_secs(2)).await;
                self.recovers("a member is away");
                let back = tokio::task::spawn_blocking(move || {
                    etcd.restart(at);
                    etcd
                });
                self.etcd = Some(back.await.unwrap());
            }
            1 => {
                self.take_log(leader);
                self.start_agent();
                self.recovers("the agent that led was killed");
            }
            2 => {
                self.down.store(true, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(10)).await;
                self.down.store(false, Ordering::SeqCst);
                self.recovers("the store was away for ten seconds");
            }
            3 => {
                free_the_lead(client).await;
                self.recovers("the lead was taken away");
            }
            4 => {
                self.signal(leader, "-STOP");
                tokio::time::sleep(Duration::from_secs(6)).await;
                self.signal(leader, "-CONT");
                self.recovers("the agent that led was suspended");
            }
            at @ (5 | 6) => {
                let pid = self.agents[leader].child.id();
                let clock = self.place.path(&format!("clock-of-{pid}"));
                let clock = fs::read_to_string(clock).unwrap();
                fs::write(&clock, if at == 5 { "120" } else { "-120" }).unwrap();
                tokio::time::sleep(Duration::from_secs(5)).await;
                fs::write(&clock, "0").unwrap();
                self.recovers("the clock was set by two minutes");
            }
            _ => {
                self.down.store(true, Ordering::SeqCst);
                self.take_log(leader);
                self.start_agent();
                tokio::time::sleep(Duration::from_secs(5)).await;
                self.down.store(false, Ordering::SeqCst);
                self.recovers("the store was away when the agent was killed");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: two agents that record, for five minutes"]
async fn soak_of_two_agents_that_record() {
    let seed = Seed::new();
    let etcd = Etcd::builder(Version::V3_5).members(3).start().await;
    let mut client = etcd.client().await;
    let (place, bucket) = (Place::new(), tempfile::tempdir().unwrap());
    fs::create_dir(bucket.path().join("backups")).unwrap();
    let server = start(bucket.path(), Flavour::S3).await;
    let down = Arc::new(AtomicBool::new(false));
    let port = failing(server.rsplit(':').next().unwrap().parse().unwrap(), Arc::clone(&down));
    let at = |port: u16| format!("http://127.0.0.1:{port}");
    let env = vec![
        ("AWS_ENDPOINT_URL", at(port)),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ("LD_PRELOAD", clock_library(&place).display().to_string()),
    ];
    let config = format!(
        "cluster = \"prod\"\nmaster_keys = [\"file:keyring\"]\n[repository]\nurl = \"s3://backups/soak\"\n\
         [etcd]\nendpoints = {:?}\n[journal]\ninterval = \"1s\"\n[agent]\nlog = \"json\"\nlisten = \"LISTEN\"\n\
         backup = \"@every 60s\"\ncontinuous = true\n",
        etcd.endpoints()
    );
    let (written, over) = (Written::default(), Arc::new(AtomicBool::new(false)));
    let writer = write(client.clone(), Random(seed.0), Arc::clone(&written), Arc::clone(&over));
    let writer = tokio::spawn(writer);
    let (agents, logs, waits) = (Vec::new(), Vec::new(), BTreeMap::new());
    let etcd = Some(etcd);
    let mut soak = Soak { etcd, place, config, env, server, agents, logs, down, waits };
    assert_eq!(soak.at_the_store(&["init"]).0, Some(0));
    soak.start_agent();
    soak.start_agent();
    soak.recovers("at first");
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_secs(3)).await;
        soak.disturb(round, &mut client).await;
    }
    over.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    soak.recovers("at the end");
    while !soak.agents.is_empty() {
        soak.take_log(0);
    }
    for (what, seconds) in &soak.waits {
        println!("{what}: all was stored again after {seconds:.1?} s");
    }
    soak.is_all_there(&written.lock().unwrap(), &mut Random(seed.0));
}
