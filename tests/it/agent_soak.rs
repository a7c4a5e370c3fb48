//! Two agents for minutes. Members are killed, the store fails in many ways, an agent is killed, an agent's clock is set, and
//! all the time somebody who may only create objects plants what he likes. The recovery point is never older than two
//! intervals once things work again, the metrics say so meanwhile, and nothing that was stored is lost without a name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand_core::Rng;
use serde_json::Value;
use strongroom::crypto::{random, system_rng};
use strongroom::format::SnapshotId;

use crate::agent::Agent;
use crate::etcd_server::{Etcd, Version};
use crate::place::{Place, text};
use crate::program_on_s3::Moto;

/// Seconds between backups.
const INTERVAL: f64 = 4.0;
/// What an agent that was killed keeps the lead for, what another needs to see it, a retry and a backup.
const TAKES_OVER: f64 = 30.0;
/// Disturbances, one of each kind in turn.
const ROUNDS: usize = 12;
/// An agent may use so much more memory at the end than after its first backups.
const MOST_GROWTH_KIB: u64 = 96 << 10;

/// What stands before the store answers in its place, one connection in a hundred.
const ANSWERS: [&str; 5] = [
    "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 39\r\nConnection: close\r\n\r\n<Error><Code>ExpiredToken</Code></Error>",
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 47\r\nConnection: close\r\n\r\n<Error><Code>RequestTimeTooSkewed</Code></Error>",
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 31\r\nConnection: close\r\n\r\n<html>Please log in here</html>",
    "HTTP/1.1 409 Conflict\r\nContent-Length: 55\r\nConnection: close\r\n\r\n<Error><Code>ConditionalRequestConflict</Code></Error>\n",
];

/// Sets an agent's clock forward or back by the seconds in a file: `clock_gettime` of the system, and those on top.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, time);
    const char *path = getenv("SOAK_CLOCK");
    if (result || id != CLOCK_REALTIME || !path) return result;
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return result;
    if (read(file, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
    close(file);
    return result;
}
"#;

/// Builds what sets clocks.
pub(crate) fn clock_library(place: &Place) -> PathBuf {
    let (source, library) = (place.path("clock.c"), place.path("clock.so"));
    fs::write(&source, CLOCK).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(cc.status().unwrap().success());
    library
}

/// Stands before the store: one connection in forty ends at once, one in a hundred is answered by somebody else, and while
/// `down` none comes through.
pub(crate) fn failing(port: u16, down: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let chance = system_rng().next_u32() % 200;
            if down.load(Ordering::SeqCst) || chance < 5 {
                continue;
            }
            if chance < 7 {
                std::thread::spawn(move || {
                    let _ = client.set_read_timeout(Some(Duration::from_secs(1)));
                    let _ = client.read(&mut [0; 16 << 10]);
                    let answer = ANSWERS[system_rng().next_u32() as usize % ANSWERS.len()];
                    let _ = client.write_all(answer.as_bytes());
                });
                continue;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            let pump = |mut from: TcpStream, mut to: TcpStream, down: Arc<AtomicBool>| {
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 << 10];
                    loop {
                        match from.read(&mut buffer) {
                            Ok(read) if read > 0 && !down.load(Ordering::SeqCst) => {
                                // A connection is used again and again: some end in the middle, and the answer is lost.
                                let ends = system_rng().next_u32().is_multiple_of(400);
                                if ends || to.write_all(&buffer[..read]).is_err() {
                                    break;
                                }
                            }
                            _ => break,
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                    let _ = from.shutdown(std::net::Shutdown::Both);
                });
            };
            let (other_client, other_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            pump(client, server, Arc::clone(&down));
            pump(other_server, other_client, Arc::clone(&down));
        }
    });
    own
}

/// Asks the store itself; status and body. Without a login it answers 403 for what others put.
fn ask(port: u16, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!(
        "{method} /backups/soak/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nIf-None-Match: *\r\n\
         Authorization: AWS test:unchecked\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let head = if method == "PUT" { head } else { head.replace("If-None-Match: *\r\n", "") };
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    (text(&answer[9..12]).parse().unwrap(), answer.split_off(end))
}

/// Snapshots that the agents said they stored.
type Stored = Arc<std::sync::Mutex<Vec<String>>>;

/// Plants objects until `over`: he may create, and neither read nor replace nor delete. How many he made.
fn plants(port: u16, stored: Stored, over: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let rng = &mut system_rng();
        let mut made = 0;
        while !over.load(Ordering::SeqCst) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            let mut new = |ahead: u64| SnapshotId::new(now + ahead, random(rng)).to_string();
            let (junk, soon, later) = (new(0), new(60_000), new(86_400_000));
            let (journal, report) = (new(1000), new(1000));
            let genuine = stored.lock().unwrap().clone();
            let mut names = vec![
                (format!("snapshots/{junk}/manifest"), b"junk\n".to_vec()),
                (format!("snapshots/{soon}/payload"), vec![7; 1000]),
                (format!("snapshots/{later}/manifest"), b"strongroom-manifest/9\n".to_vec()),
                (format!("snapshots/{junk}/tombstone"), b"junk\n".to_vec()),
                (format!("journals/{journal}/head"), b"junk\n".to_vec()),
                (format!("reports/{report}"), b"junk\n".to_vec()),
                (format!("keys/{}.1", "0".repeat(32)), b"junk\n".to_vec()),
                (format!("snapshots//{soon}"), b"junk".to_vec()),
            ];
            if let [.., older, newest] = genuine.as_slice() {
                // He has seen them elsewhere.
                let read =
                    |id: &str, part| ask(port, "GET", &format!("snapshots/{id}/{part}"), &[]);
                let [manifest, seal] = ["manifest", "seal.1"].map(|part| read(older, part));
                for number in [2, 3, 77, u32::MAX] {
                    names.push((format!("snapshots/{newest}/seal.{number}"), seal.1.clone()));
                }
                names.push((format!("snapshots/{newest}/tombstone"), b"junk\n".to_vec()));
                names.push((format!("snapshots/{older}/tombstone"), b"junk\n".to_vec()));
                names.push((format!("snapshots/{soon}/manifest"), manifest.1));
                names.push((format!("snapshots/{soon}/seal.1"), seal.1));
            }
            for (name, bytes) in names {
                made += usize::from(ask(port, "PUT", &name, &bytes).0 == 200);
            }
            std::thread::sleep(Duration::from_secs(3));
        }
        made
    })
}

/// How old the newest snapshot is, by what the agents export.
fn age(agents: &[Agent]) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let last = agents.iter().filter(|agent| agent.metric("strongroom_agent_leads") == 1.0);
    let last = last.filter_map(|agent| {
        agent.metric_if_there("strongroom_snapshot_last_success_timestamp_seconds")
    });
    now - last.fold(0.0, f64::max)
}

/// Waits until the recovery point is young again; how long that took.
fn recovers(agents: &[Agent], what: &str) -> f64 {
    let begun = Instant::now();
    while !(0.0..=2.0 * INTERVAL).contains(&age(agents)) {
        let waited = begun.elapsed().as_secs_f64();
        assert!(
            waited < TAKES_OVER + 2.0 * INTERVAL,
            "{what}: {} s old: {}",
            age(agents),
            agents.iter().map(last_lines).collect::<Vec<_>>().join("\n\n")
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    begun.elapsed().as_secs_f64()
}

fn last_lines(agent: &Agent) -> String {
    let lines = agent.lines.lock().unwrap();
    let last = lines[lines.len().saturating_sub(25)..].iter();
    last.map(|line| format!("{line}\n")).collect()
}

fn leads(agents: &[Agent]) -> usize {
    agents.iter().position(|agent| agent.metric("strongroom_agent_leads") == 1.0).unwrap()
}

/// Memory of a process that is in use now.
fn resident_kib(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

struct Soak {
    etcd: Option<Etcd>,
    place: Place,
    config: String,
    env: Vec<(&'static str, String)>,
    agents: Vec<Agent>,
    /// Logs of agents that are gone.
    logs: Vec<Value>,
    /// After its first backups, by its process.
    memory: BTreeMap<u32, u64>,
    down: Arc<AtomicBool>,
    waits: Vec<(&'static str, f64)>,
}

impl Soak {
    fn start_agent(&mut self) {
        let number = self.logs.len() + self.agents.len();
        let clock = self.place.path(&format!("clock-{number}"));
        fs::write(&clock, "0").unwrap();
        let mut env: Vec<_> =
            self.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let path = clock.to_str().unwrap();
        env.push(("SOAK_CLOCK", path));
        self.agents.push(Agent::start_with(&self.place, &self.config, &env));
        let pid = self.agents.last().unwrap().child.id();
        fs::rename(&clock, self.place.path(&format!("clock-of-{pid}"))).unwrap();
        std::os::unix::fs::symlink(self.place.path(&format!("clock-of-{pid}")), &clock).unwrap();
    }

    fn take_log(&mut self, at: usize) {
        let mut gone = self.agents.remove(at);
        gone.child.kill().unwrap();
        self.logs.extend(gone.lines.lock().unwrap().iter().cloned());
    }

    fn lines(&self) -> Vec<Value> {
        let running = self.agents.iter().flat_map(|agent| agent.lines.lock().unwrap().clone());
        self.logs.iter().cloned().chain(running).collect()
    }

    fn wait(&mut self, what: &'static str) {
        self.waits.push((what, recovers(&self.agents, what)));
    }

    /// Sets the clock of the agent that leads for a while, and sets it right again.
    async fn set_clock(&mut self, seconds: i64, what: &'static str) {
        let agent = &self.agents[leads(&self.agents)];
        let clock = self.place.path(&format!("clock-of-{}", agent.child.id()));
        fs::write(&clock, seconds.to_string()).unwrap();
        tokio::time::sleep(Duration::from_secs_f64(4.0 * INTERVAL)).await;
        fs::write(&clock, "0").unwrap();
        self.wait(what);
    }

    async fn disturb(&mut self, round: usize) {
        match round % 6 {
            0 => {
                let mut etcd = self.etcd.take().unwrap();
                etcd.kill(round % 3);
                self.wait("a member is away");
                let back = tokio::task::spawn_blocking(move || {
                    etcd.restart(round % 3);
                    etcd
                });
                self.etcd = Some(back.await.unwrap());
            }
            1 => {
                self.take_log(leads(&self.agents));
                self.start_agent();
                self.wait("the agent that led was killed");
            }
            2 => {
                self.down.store(true, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs_f64(4.0 * INTERVAL)).await;
                // What an alert sees.
                assert!(age(&self.agents) > 2.0 * INTERVAL);
                self.down.store(false, Ordering::SeqCst);
                self.wait("the store was away");
            }
            3 => self.set_clock(600, "the clock was ten minutes ahead").await,
            4 => self.set_clock(-600, "the clock was ten minutes behind").await,
            _ => {
                self.etcd.as_ref().unwrap().put("soak", &round.to_string()).await;
                self.wait("nothing");
            }
        }
    }

    /// `strongroom` at the store itself.
    fn at_the_store(&self, port: u16, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.args(["-r", "s3://backups/soak"]);
        command.envs(self.env.iter().map(|(name, value)| (*name, value.as_str())));
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
        command.env_remove("LD_PRELOAD");
        command
    }

    /// What the agents said of a snapshot, and when they removed something.
    fn told_of(&self, id: &str) -> Vec<String> {
        let lines = self.logs.iter().map(Value::to_string);
        lines.filter(|line| line.contains(id) || line.contains("\"prune")).collect()
    }

    /// Every snapshot that an agent said it stored is there, or was removed by name; all that counts opens; the newest restores.
    fn all_is_there(&self, port: u16, stored: &[String]) {
        let is_there = |id: &str, part: &str| {
            ask(port, "GET", &format!("snapshots/{id}/{part}"), &[]).0 == 200
        };
        let (mut here, mut removed) = (Vec::new(), 0);
        for id in stored {
            match is_there(id, "manifest") {
                true => here.push(id.as_str()),
                false => {
                    assert!(is_there(id, "tombstone"), "{id} is lost: {:#?}", self.told_of(id));
                    removed += 1;
                }
            }
        }
        println!("stored: {}, of these removed by prune: {removed}", stored.len());
        let out = self.at_the_store(port, &["-w", "json", "verify", "--all"]).output().unwrap();
        // What was planted fails.
        assert_eq!(out.status.code(), Some(13), "{}", text(&out.stderr));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let rows = report["snapshots"].as_array().unwrap();
        let good: Vec<_> = rows.iter().filter(|row| row["status"] == "ok").collect();
        println!("verify --all: {} verified, {} planted fail", good.len(), rows.len() - good.len());
        for id in &here {
            assert!(good.iter().any(|row| row["id"] == *id), "{id} does not verify");
        }
        // A backup whose agent was killed, or whose last answer was lost, is there without having been told.
        assert!(good.len() >= here.len());
        let restore = ["-w", "json", "restore", "latest", "--output", "newest.db"];
        let out = self.at_the_store(port, &restore).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let restored: Value = serde_json::from_slice(&out.stdout).unwrap();
        println!("latest: {} at revision {}", restored["id"], restored["revision"]);
        // What was taken while the clock was ahead is passed over until that time comes.
        let soon = SystemTime::now() + Duration::from_secs(300);
        let begun = |id: &&&str| id.parse::<SnapshotId>().unwrap().begun() < soon;
        assert!(restored["id"].as_str().unwrap() >= *here.iter().filter(begun).max().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn soak_of_two_agents() {
    let etcd = Etcd::builder(Version::NEWEST).members(3).start().await;
    etcd.fill(200, 500).await;
    let moto = Moto::start();
    assert!(moto.request("PUT", "/backups").starts_with("HTTP/1.1 200"));
    let down = Arc::new(AtomicBool::new(false));
    let port = failing(moto.port, Arc::clone(&down));
    let place = Place::new();
    let endpoint = format!("http://127.0.0.1:{port}");
    let env = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "the-secret-access-key".into()),
        ("LD_PRELOAD", clock_library(&place).display().to_string()),
    ];
    let config = format!(
        "cluster = \"prod\"\nmaster_keys = [\"file:keyring\"]\n[repository]\nurl = \"s3://backups/soak\"\n\
         [etcd]\nendpoints = {:?}\n[prune]\nkeep_last = 5\n[copy]\nurl = \"second\"\n[agent]\nlog = \"json\"\n\
         listen = \"LISTEN\"\nbackup = \"@every {INTERVAL}s\"\nprune = \"@every 15s\"\nverify = \"@every 10s\"\n\
         verify_all = \"@every 40s\"\n",
        etcd.endpoints()
    );
    let (logs, memory, waits, agents) = (Vec::new(), BTreeMap::new(), Vec::new(), Vec::new());
    let (etcd, env) = (Some(etcd), env.to_vec());
    let mut soak = Soak { etcd, place, config, env, agents, logs, memory, down, waits };
    let init = || soak.at_the_store(moto.port, &["init"]).output().unwrap().status.success();
    assert!(init());
    soak.start_agent();
    soak.start_agent();
    recovers(&soak.agents, "at first");
    let (stored, over) = (Stored::default(), Arc::new(AtomicBool::new(false)));
    let planter = plants(moto.port, Arc::clone(&stored), Arc::clone(&over));
    let ids = |lines: &[Value]| {
        let done = lines.iter().filter(|line| line["event"] == "backup_finished");
        done.map(|line| line["snapshot"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_secs_f64(2.0 * INTERVAL)).await;
        *stored.lock().unwrap() = ids(&soak.lines());
        soak.disturb(round).await;
        if round == 5 {
            let memory = soak.agents.iter().map(|agent| (agent.child.id(), resident_kib(agent)));
            soak.memory = memory.collect();
        }
    }
    // Undisturbed at the end.
    tokio::time::sleep(Duration::from_secs_f64(2.0 * INTERVAL)).await;
    soak.wait("at the end");
    over.store(true, Ordering::SeqCst);
    println!("{} objects were planted", planter.join().unwrap());
    for (what, seconds) in &soak.waits {
        println!("{what}: the recovery point was young again after {seconds:.1} s");
    }
    for agent in &soak.agents {
        let (id, now) = (agent.child.id(), resident_kib(agent));
        let before = soak.memory.get(&id).copied();
        println!("memory of an agent: {before:?} KiB, at the end {now} KiB");
        assert!(now < before.unwrap_or(now) + MOST_GROWTH_KIB);
    }
    let leader = &soak.agents[leads(&soak.agents)];
    assert_eq!(leader.metric("strongroom_newest_snapshot_missing"), 0.0);
    while !soak.agents.is_empty() {
        soak.take_log(0);
    }
    let mut events = BTreeMap::<String, usize>::new();
    for line in &soak.logs {
        *events.entry(line["event"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
    }
    println!("{events:#?}");
    // The alerts that belong here, and none that does not.
    assert!(events["verify_all_finding"] > 0 && events["backup_failed"] > 0, "planted, and away");
    let told = |what: &str| soak.logs.iter().any(|line| line.to_string().contains(what));
    assert!(told("ahead of the store's") && told("behind the store's"));
    // A login page in the place of a seal makes a snapshot disappear for one listing; a clock does not.
    for line in soak.logs.iter().filter(|line| line["event"] == "newest_snapshot_missing") {
        let at: jiff::Timestamp = line["time"].as_str().unwrap().parse().unwrap();
        let id: SnapshotId = line["snapshot"].as_str().unwrap().parse().unwrap();
        let at = UNIX_EPOCH + Duration::from_secs(at.as_second() as u64);
        assert!(id.begun() < at + Duration::from_secs(300), "{line}");
    }
    soak.all_is_there(moto.port, &ids(&soak.logs));
}
