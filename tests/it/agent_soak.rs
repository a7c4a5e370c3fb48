//! Two agents for minutes, with a clock that runs fast: members are killed, the store fails, the agent is killed. The
//! recovery point is never older than two intervals once things work again, and the metrics say so meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand_core::Rng;
use strongroom::crypto::system_rng;

use crate::agent::Agent;
use crate::etcd_server::{Etcd, Version};
use crate::place::Place;
use crate::program_on_s3::Moto;

/// Seconds between backups.
const INTERVAL: f64 = 4.0;
/// What an agent that was killed keeps the lead for, what another needs to see it, a retry and a backup.
const TAKES_OVER: f64 = 30.0;

/// Stands before the store: one connection in twenty ends at once, and all while `down`.
fn failing(port: u16, down: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            if down.load(Ordering::SeqCst) || system_rng().next_u32().is_multiple_of(20) {
                continue;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            let pump = |mut from: TcpStream, mut to: TcpStream, down: Arc<AtomicBool>| {
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 << 10];
                    loop {
                        match from.read(&mut buffer) {
                            Ok(read) if read > 0 && !down.load(Ordering::SeqCst) => {
                                // A connection is used again and again: some end in the middle.
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
    while age(agents) > 2.0 * INTERVAL {
        let waited = begun.elapsed().as_secs_f64();
        let lines = agents.last().unwrap().lines.lock().unwrap();
        assert!(waited < TAKES_OVER + 2.0 * INTERVAL, "{what}: {lines:#?}");
        drop(lines);
        std::thread::sleep(Duration::from_millis(200));
    }
    begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn soak_of_two_agents() {
    let mut etcd = Etcd::builder(Version::NEWEST).members(3).start().await;
    etcd.fill(200, 500).await;
    let moto = Moto::start();
    assert!(moto.request("PUT", "/backups").starts_with("HTTP/1.1 200"));
    let down = Arc::new(AtomicBool::new(false));
    let port = failing(moto.port, Arc::clone(&down));
    let place = Place::new();
    let endpoint = format!("http://127.0.0.1:{port}");
    let env = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "the-secret-access-key"),
    ];
    let init = |_: ()| {
        let mut command = place.command(&["init"]);
        command.args(["-r", "s3://backups/soak"]).envs(env);
        command.output().unwrap().status.success()
    };
    assert!((0..10).any(|_| init(())));
    let config = format!(
        "cluster = \"prod\"\nmaster_keys = [\"file:keyring\"]\n[repository]\nurl = \"s3://backups/soak\"\n\
         [etcd]\nendpoints = {:?}\n[prune]\nkeep_last = 5\n[agent]\nlog = \"json\"\nlisten = \"LISTEN\"\n\
         backup = \"@every {INTERVAL}s\"\nprune = \"@every 15s\"\nverify = \"@every 10s\"\n",
        etcd.endpoints()
    );
    let mut agents: Vec<_> = (0..2).map(|_| Agent::start_with(&place, &config, &env)).collect();
    recovers(&agents, "at first");
    let mut waits = Vec::new();
    for round in 0..8 {
        tokio::time::sleep(Duration::from_secs_f64(2.0 * INTERVAL)).await;
        match round % 4 {
            0 => {
                etcd.kill(round % 3);
                waits.push(("a member is away", recovers(&agents, "without a member")));
                let back = tokio::task::spawn_blocking(move || {
                    etcd.restart(round % 3);
                    etcd
                });
                etcd = back.await.unwrap();
            }
            1 => {
                let leads =
                    agents.iter().position(|agent| agent.metric("strongroom_agent_leads") == 1.0);
                let mut killed = agents.remove(leads.unwrap());
                killed.child.kill().unwrap();
                agents.push(Agent::start_with(&place, &config, &env));
                waits.push(("the agent was killed", recovers(&agents, "after a kill")));
            }
            2 => {
                down.store(true, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs_f64(4.0 * INTERVAL)).await;
                // What an alert sees.
                assert!(age(&agents) > 2.0 * INTERVAL);
                let failures = agents.iter().map(|agent| {
                    agent
                        .lines
                        .lock()
                        .unwrap()
                        .iter()
                        .filter(|line| line["level"] == "error")
                        .count()
                });
                println!("{} failures in the logs", failures.sum::<usize>());
                down.store(false, Ordering::SeqCst);
                waits.push(("the store is back", recovers(&agents, "after the store was away")));
            }
            _ => {
                etcd.put("soak", &round.to_string()).await;
                waits.push(("nothing", recovers(&agents, "undisturbed")));
            }
        }
    }
    for (what, seconds) in waits {
        println!("{what}: the recovery point was young again after {seconds:.1} s");
    }
    drop(agents);
    let mut verify = place.command(&["verify", "--all"]);
    let out = verify.args(["-r", "s3://backups/soak"]).envs(env).output().unwrap();
    println!("{}", String::from_utf8_lossy(&out.stdout));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
