//! The agent on a real etcd: it works by itself, one at a time, and tells.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::end_to_end::program;
use crate::etcd_server::{Etcd, Version, free_ports};
use crate::place::Place;

/// A running agent, with what it logged.
pub struct Agent {
    pub child: Child,
    address: String,
    pub lines: Arc<Mutex<Vec<Value>>>,
}

impl Agent {
    pub fn start(place: &Place, config: &str) -> Self {
        Self::start_with(place, config, &[])
    }

    /// With further environment variables.
    pub fn start_with(place: &Place, config: &str, env: &[(&str, &str)]) -> Self {
        let port = free_ports(1)[0];
        let address = format!("127.0.0.1:{port}");
        let path = place.path(&format!("agent-{port}.toml"));
        // Tests of journals ask for recordings, others do without.
        let records = config.lines().any(|line| line == "continuous = true");
        fs::write(&path, config.replace("LISTEN", &address)).unwrap();
        let mut child = program()
            .current_dir(place.dir.path())
            .env("STRONGROOM_CONFIG", &path)
            .env("STRONGROOM_AGENT_CONTINUOUS", records.to_string())
            .envs(env.iter().copied())
            .arg("agent")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (to, from) = (Arc::clone(&lines), BufReader::new(child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                to.lock().unwrap().push(line);
            }
        });
        let begun = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not listen: {lines:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, lines }
    }

    /// Waits until so many lines of the log have this event.
    pub fn wait(&self, event: &str, count: usize) {
        let fits = |line: &&Value| line["event"] == event;
        let begun = Instant::now();
        while self.lines.lock().unwrap().iter().filter(fits).count() < count {
            assert!(begun.elapsed() < Duration::from_secs(60), "{event}: {:#?}", self.lines);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.get_of("localhost", path)
    }

    fn get_of(&self, host: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// The value of a metric whose line begins so.
    pub fn metric(&self, begins: &str) -> f64 {
        self.metric_if_there(begins).unwrap_or_else(|| panic!("no {begins}"))
    }

    /// Of all samples of a metric.
    pub fn sum(&self, begins: &str) -> f64 {
        let text = self.get("/metrics").1;
        let samples = text.lines().filter(|line| line.starts_with(begins));
        samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    pub fn metric_if_there(&self, begins: &str) -> Option<f64> {
        let text = self.get("/metrics").1;
        let line = text.lines().find(|line| line.starts_with(begins))?;
        Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .args([signal, &self.child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn end(mut self) {
        self.signal("-TERM");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {:#?}", self.lines);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The page as a browser takes it: it draws the timeline, and asks nobody for anything.
fn in_a_browser(agent: &Agent, place: &Place) {
    let browser = std::env::var_os("STRONGROOM_TEST_BROWSER").unwrap_or("chromium".into());
    if browser.is_empty() {
        println!("SKIPPED: there is no browser here");
        return;
    }
    let dump = |extra: &[&str]| {
        let out = Command::new(&browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", place.path("chromium").display()))
            .args(["--virtual-time-budget=2000", "--window-size=1000,900"])
            .args(extra)
            .arg(format!("http://{}/", agent.address))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let dom = dump(&["--dump-dom"]);
    assert!(dom.contains("<svg id=\"timeline\"") && dom.contains("<rect x="), "{dom}");
    assert!(dom.contains("<tr id=\"backup\">") && !dom.contains("<script"), "{dom}");
    let picture = place.path("page.png");
    dump(&[&format!("--screenshot={}", picture.display())]);
    assert!(fs::metadata(picture).unwrap().len() > 5_000);
}

pub fn config(etcd: &Etcd, extra: &str) -> String {
    let endpoints = format!("{:?}", etcd.endpoints());
    let settings = etcd.settings();
    let tls: String = [("cacert", settings.cacert), ("cert", settings.cert), ("key", settings.key)]
        .into_iter()
        .filter_map(|(name, path)| path.map(|path| format!("{name} = {path:?}\n")))
        .collect();
    format!(
        "cluster = \"prod\"\nmaster_keys = [\"file:keyring\"]\n[repository]\nurl = \"repo\"\n\
         [etcd]\nendpoints = {endpoints}\n{tls}[prune]\nkeep_last = 3\n{extra}\
         [agent]\nlog = \"json\"\nlisten = \"LISTEN\"\nbackup = \"@every 1s\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn it_backs_up_copies_prunes_verifies_and_drills() {
    let etcd = Etcd::builder(Version::NEWEST).with_tls().start().await;
    etcd.fill(20, 100).await;
    let place = Place::new();
    let program = Version::NEWEST.programs().join("etcd");
    let more = format!(
        "prune = \"@every 3s\"\nverify = \"@every 2s\"\nverify_all = \"@every 4s\"\ncontinuous = true\ndrill = \"@every 1h\"\netcd = {program:?}\n"
    );
    let agent = Agent::start(&place, &(config(&etcd, "[copy]\nurl = \"second\"\n") + &more));
    for (operation, count) in
        [("backup", 4), ("copy", 2), ("prune", 1), ("verify", 1), ("verify_all", 1)]
    {
        agent.wait(&format!("{operation}_finished"), count);
    }
    assert_eq!(agent.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(agent.get("/readyz").0, 200);
    assert_eq!(agent.metric("strongroom_agent_leads"), 1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(agent.metric("strongroom_certificate_expiry_timestamp_seconds") > now);
    assert!(agent.metric("strongroom_repository_objects") >= 12.0);
    assert!(
        agent.metric(
            "strongroom_operations_total{cluster=\"prod\",operation=\"backup\",result=\"success\""
        ) >= 4.0
    );
    assert_eq!(
        agent.metric(
            "strongroom_schedule_expected_interval_seconds{cluster=\"prod\",operation=\"prune\"}"
        ),
        3.0
    );
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let last = agent.metric("strongroom_snapshot_last_success_timestamp_seconds");
    assert!((now - 60.0..=now).contains(&last), "{last} {now}");
    let newest = place.snapshots().pop().unwrap();
    let page = agent.get("/").1;
    assert!(page.contains("id=timeline") && page.contains("id=verdict class=good"), "{page}");
    assert!(page.contains(&newest), "{page}");
    let warning = "<ul id=warnings><li>only one master key";
    assert!(page.contains(warning) && page.contains(env!("CARGO_PKG_VERSION")), "{page}");
    let version = format!("strongroom_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(agent.metric(&version), 1.0);
    // One keyring on one host: said once a day, however often it backs up.
    assert_eq!(agent.metric("strongroom_independent_openers{"), 1.0);
    let lines = agent.lines.lock().unwrap();
    let said = |line: &&Value| line.to_string().contains("one loss takes every key");
    assert_eq!(lines.iter().filter(said).count(), 1, "{lines:#?}");
    drop(lines);
    in_a_browser(&agent, &place);
    // Nothing of it is a secret.
    let keyring = fs::read_to_string(place.path("keyring")).unwrap();
    let secret = keyring.split_whitespace().last().unwrap().to_owned();
    let told = format!("{:?}{page}{}", agent.lines.lock().unwrap(), agent.get("/metrics").1);
    assert!(!told.contains(&secret));
    // Reading the configuration again takes effect without an end.
    let path = place.path(&format!("agent-{}.toml", agent.address.rsplit_once(':').unwrap().1));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replace("@every 3s", "@every 7s")
            .replace("drill = \"@every 1h\"", "drill = \"@every 1s\"\naudit = \"@every 1h\""),
    )
    .unwrap();
    agent.signal("-HUP");
    agent.wait("config_reloaded", 1);
    agent.wait("drill_finished", 1);
    assert_eq!(
        agent.metric(
            "strongroom_schedule_expected_interval_seconds{cluster=\"prod\",operation=\"prune\"}"
        ),
        7.0
    );
    assert!(agent.metric("strongroom_drill_recovery_seconds") > 0.0);
    audited(&agent);
    assert!(agent.get("/").1.contains("id=recovery>"));
    crate::deploy::asked_for_is_there(&agent.get("/metrics").1, "strongroom_");
    agent.end();
    for args in [&["verify", "--all"][..], &["verify", "--all", "-r", "second"]] {
        let out = place.command(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let kinds: Vec<_> = place
        .json(&["reports"])
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["kind"].clone())
        .collect();
    for kind in ["prune", "verify", "drill", "audit"] {
        assert!(kinds.iter().any(|known| *known == kind), "{kinds:?}");
    }
}

/// The first audit is made at once. The test's cluster has one key for its backups and peers without TLS.
fn audited(agent: &Agent) {
    agent.wait("audit_finished", 1);
    agent.wait("audit_finding", 1);
    for (check, severity) in [("BAK-3", "high"), ("TLS-2", "critical")] {
        let labels = format!(
            "{{cluster=\"prod\",check=\"{check}\",severity=\"{severity}\",status=\"fail\"}}"
        );
        assert_eq!(agent.metric(&format!("strongroom_audit_findings{labels}")), 1.0, "{check}");
    }
    assert!(agent.metric("strongroom_audit_last_success_timestamp_seconds{") > 0.0);
    for of in ["agent", "server"] {
        let name = format!(
            "strongroom_certificate_expiry_timestamp_seconds{{cluster=\"prod\",use=\"{of}\"}}"
        );
        assert!(agent.metric(&name) > agent.metric("strongroom_audit_last_success"), "{of}");
    }
    let page = agent.get("/").1;
    let row = page.split_once("<tr id=audit>").unwrap().1.split("<tr").next().unwrap();
    assert!(row.contains("checks of the cluster fail: ") && row.contains("BAK-3"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_works_and_another_takes_over_3_4() {
    let etcd = Etcd::builder(Version::OLDEST).members(3).start().await;
    let place = Place::new();
    let config = config(&etcd, "");
    let mut agents = vec![Agent::start(&place, &config)];
    agents[0].wait("backup_finished", 1);
    agents.push(Agent::start(&place, &config));
    agents[0].wait("backup_finished", 4);
    // The second did nothing meanwhile.
    assert!(agents[1].lines.lock().unwrap().iter().all(|line| line["event"] != "backup_started"));
    assert_eq!(agents[1].metric("strongroom_agent_leads"), 0.0);
    agents[0].child.kill().unwrap();
    agents[1].wait("backup_finished", 1);
    // It ends well, and gives way at once.
    agents.pop().unwrap().end();
    assert_eq!(etcd.etcdctl(&["get", "--keys-only", "--prefix", "/strongroom-agent/"]).trim(), "");
    let third = Agent::start(&place, &config);
    third.wait("backup_finished", 1);
    third.end();
    let ids = place.snapshots();
    place.succeed(&["verify", "--all"]);
    assert!(ids.len() >= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_and_counted() {
    let mut etcd = Etcd::start(Version::NEWEST).await;
    let place = Place::new();
    let agent = Agent::start(&place, &config(&etcd, ""));
    agent.wait("backup_finished", 2);
    // The store goes away, and comes back.
    fs::rename(place.path("repo"), place.path("elsewhere")).unwrap();
    agent.wait("backup_failed", 2);
    assert!(
        agent.metric(
            "strongroom_operations_total{cluster=\"prod\",operation=\"backup\",result=\"failure\""
        ) >= 2.0
    );
    assert!(agent.get("/").1.contains("class=bad"));
    let done = agent
        .lines
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line["event"] == "backup_finished")
        .count();
    fs::rename(place.path("elsewhere"), place.path("repo")).unwrap();
    agent.wait("backup_finished", done + 1);
    // So does etcd.
    etcd.kill(0);
    std::thread::sleep(Duration::from_secs(6));
    let done = agent
        .lines
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line["event"] == "backup_finished")
        .count();
    let etcd = tokio::task::spawn_blocking(move || {
        etcd.restart(0);
        etcd
    });
    let _etcd = etcd.await.unwrap();
    agent.wait("backup_finished", done + 1);
    agent.end();
    place.succeed(&["verify", "--all"]);
}

/// And a page in a browser that another name led here gets no answer.
#[test]
fn an_agent_that_cannot_reach_etcd_says_so() {
    let place = Place::new();
    let config = format!(
        "master_keys = [\"file:keyring\"]\n[repository]\nurl = \"repo\"\n\
         [etcd]\nendpoints = [\"http://127.0.0.1:{}\"]\n[agent]\nlog = \"json\"\nlisten = \"LISTEN\"\n",
        free_ports(1)[0]
    );
    let agent = Agent::start(&place, &config);
    agent.wait("etcd_unreachable", 1);
    let (status, why) = agent.get("/readyz");
    assert!(status == 503 && why.starts_with("etcd cannot be reached: "), "{why}");
    let page = agent.get("/").1;
    let verdict = "<div id=verdict class=bad>Needs attention:<ul><li>etcd cannot be reached: ";
    assert!(page.contains(verdict), "{page}");
    assert_eq!(agent.get("/healthz").0, 200);
    // A page in a browser may come under a name that its owner made lead here; Prometheus comes under a service's.
    for (path, status) in [("/", 421), ("/readyz", 421), ("/metrics", 200), ("/healthz", 200)] {
        assert_eq!(agent.get_of("strongroom.backups.svc:9481", path).0, status, "{path}");
    }
    for path in ["/", "/metrics", "/healthz"] {
        assert_eq!(agent.get_of(&agent.address, path).0, 200, "{path}");
    }
    agent.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_place_that_is_away_is_a_failure_of_copies_alone() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let place = Place::new();
    let port = free_ports(1)[0];
    let second = format!(
        "[copy]\nurl = \"s3://nobody/there\"\n[copy.options]\naws_endpoint = \"http://127.0.0.1:{port}\"\n\
         allow_http = \"true\"\naws_region = \"x\"\naws_access_key_id = \"x\"\naws_secret_access_key = \"x\"\n"
    );
    let agent = Agent::start(&place, &config(&etcd, &second));
    agent.wait("copy_failed", 1);
    agent.wait("backup_finished", 3);
    let lines = agent.lines.lock().unwrap().clone();
    assert!(lines.iter().all(|line| line["event"] != "copy_finished"));
    agent.end();
}

/// What rots in the second place is found by the full verification, although lengths and listings stay the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_rots_is_found() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let place = Place::new();
    let more = config(&etcd, "[copy]\nurl = \"second\"\n") + "verify_all = \"@every 2s\"\n";
    let agent = Agent::start(&place, &more);
    agent.wait("verify_all_finished", 2);
    let lines = agent.lines.lock().unwrap().clone();
    assert!(lines.iter().all(|line| line["event"] != "verify_all_finding"), "{lines:?}");
    // What is being copied has no manifest yet.
    let copied = fs::read_dir(place.path("second/snapshots")).unwrap();
    let mut copied = copied.map(|entry| entry.unwrap().path());
    let payload = copied.find(|dir| dir.join("manifest").exists()).unwrap().join("payload");
    let mut bytes = fs::read(&payload).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(payload, bytes).unwrap();
    agent.wait("verify_all_finding", 1);
    let lines = agent.lines.lock().unwrap().clone();
    let found = lines.iter().find(|line| line["event"] == "verify_all_finding").unwrap();
    assert!(found["error"].as_str().unwrap().contains("the replica"), "{found}");
    // The newest that the replica has is none that the source has not.
    let newest = agent.metric("strongroom_snapshot_last_success_timestamp_seconds");
    let copied = agent.metric("strongroom_copy_newest_snapshot_timestamp_seconds");
    assert!(copied > 0.0 && copied <= newest, "{copied} {newest}");
    agent.end();
}

/// Planted objects stop nothing and are counted; the newest snapshot cannot disappear unnoticed.
#[tokio::test(flavor = "multi_thread")]
async fn planted_and_missing_snapshots_are_told() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let place = Place::new();
    let database = crate::support::small_database();
    for _ in 0..2 {
        place.succeed(&["backup", "--cluster", "prod", "--file", database.to_str().unwrap()]);
    }
    let genuine = place.snapshots()[0].clone();
    crate::planted_objects::plant(&place.path("repo"), &genuine);
    let more = config(&etcd, "[copy]\nurl = \"second\"\n").replace("@every 1s", "@every 1h")
        + "prune = \"@every 2s\"\nverify = \"@every 2s\"\nverify_all = \"@every 2s\"\n";
    let agent = Agent::start(&place, &more);
    for operation in ["copy", "prune", "verify", "verify_all"] {
        agent.wait(&format!("{operation}_finished"), 1);
    }
    agent.wait("prune_finished", 2);
    let count = |trust: &str| {
        let name = "strongroom_repository_snapshots_by_trust";
        agent.metric(&format!("{name}{{cluster=\"prod\",trust=\"{trust}\"}}"))
    };
    assert_eq!((count("trusted"), count("not trusted")), (2.0, 0.0));
    assert!(agent.get("/").1.contains("id=snapshots"));
    assert_eq!(agent.metric("strongroom_newest_snapshot_missing"), 0.0);
    let trusted = place.json(&["show", "latest", "--cluster", "prod"])["id"].clone();
    fs::remove_dir_all(place.path("repo/snapshots").join(trusted.as_str().unwrap())).unwrap();
    agent.wait("newest_snapshot_missing", 1);
    let lines = agent.lines.lock().unwrap().clone();
    let told = lines.iter().find(|line| line["event"] == "newest_snapshot_missing").unwrap();
    assert_eq!((&told["snapshot"], &told["newest"]), (&trusted, &Value::from(genuine)));
    assert_eq!(agent.metric("strongroom_newest_snapshot_missing"), 1.0);
    assert!(agent.get("/").1.contains("was the newest, and is not there any more"));
    agent.end();
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let place = Place::new();
    let says = |config: &str| {
        fs::write(place.path("agent.toml"), config).unwrap();
        let mut command = place.command(&["agent"]);
        command.env("STRONGROOM_CONFIG", place.path("agent.toml"));
        crate::place::exits(2, &mut command)
    };
    assert!(says("[agent]\nbackup = \"61 * * * *\"").contains("line 2"));
    assert!(says("[agent]\nprune = \"0 3 * * *\"").contains("keep_"));
    assert!(
        says("[agent]\nlog = \"yaml\"").contains("line 2: agent.log: must be one of text, json")
    );
    let good = "master_keys = [\"file:keyring\"]\n[repository]\nurl = \"repo\"\n";
    let error =
        says(&format!("{good}[agent]\ndrill = \"@every 1h\"\netcd = \"/nonexistent/etcd\""));
    assert!(error.contains("agent.drill") && error.contains("/nonexistent/etcd"), "{error}");
    fs::write(place.path("waivers"), "[[waiver]]\nid = \"AUTH-4\"\n").unwrap();
    let error = says(&format!("{good}[audit]\nwaivers = \"waivers\"\n[agent]\naudit = \"@daily\""));
    assert!(error.contains("waivers: not a file of waivers"), "{error}");
    assert!(says("[agent]\nbakcup = \"0 3 * * *\"").contains("line 2"));
}
