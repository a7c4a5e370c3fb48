//! The log of the agent and of the proxy, through the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::Client;
use serde_json::Value;
use strongroom::agent::Operation;

use crate::end_to_end::program;
use crate::etcd_server::{Etcd, Version, free_ports};
use crate::place::Place;
use crate::proxy_gate::{init, keyring};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Rust files below `dir`.
fn sources(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// What stands between `open` and `"` at each place.
fn after<'a>(text: &'a str, open: &str) -> Vec<&'a str> {
    text.split(open).skip(1).map(|rest| rest.split_once('"').unwrap().0).collect()
}

#[test]
fn the_guide_lists_every_event() {
    let mut files = Vec::new();
    sources(&Path::new(ROOT).join("src"), &mut files);
    let mut written = BTreeSet::new();
    for text in &files {
        written.extend(after(text, "event = \"").into_iter().map(str::to_owned));
        for suffix in after(text, "event = %format_args!(\"{operation}") {
            written.extend(Operation::ALL.iter().map(|operation| format!("{operation}{suffix}")));
        }
    }
    assert!(written.len() > 40, "{written:?}");
    let guide = fs::read_to_string(Path::new(ROOT).join("src/guide/operations.md")).unwrap();
    let table = guide.split_once("| event | level |").unwrap().1.split_once("\n\n").unwrap().0;
    let names = table.lines().skip(2).map(|row| row.split(" | ").next().unwrap());
    let listed: Vec<_> =
        names.flat_map(|names| names.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    let twice = listed.len();
    let listed: BTreeSet<_> = listed.into_iter().collect();
    assert_eq!(twice, listed.len(), "a name stands twice");
    assert_eq!(written, listed);
}

/// Runs a service until `done` sees what it logged, ends it by SIGTERM; the lines.
pub(crate) fn until(command: &mut Command, dir: &Path, done: impl Fn(&str) -> bool) -> Vec<String> {
    let path = dir.join("log");
    let log = fs::File::create(&path).unwrap();
    let mut child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let begun = Instant::now();
    let read = || fs::read_to_string(&path).unwrap();
    while !done(&read()) && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success(), "{}", read());
    assert!(begun.elapsed() < Duration::from_secs(30), "{}", read());
    read().lines().map(str::to_owned).collect()
}

/// A line of text: level, event and fields.
fn parts(line: &str) -> (&str, &str, &str) {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{line}");
    let (level, rest) = rest.split_once(' ').unwrap();
    let (event, fields) = rest.split_once(' ').unwrap_or((rest, ""));
    (level, event, fields)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_logs_in_text_and_json() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let place = Place::new();
    let config = |log: &str| {
        let endpoints = etcd.endpoints();
        let started = Version::NEWEST.programs().join("etcd");
        let text = format!(
            "cluster = \"prod\"\nmaster_keys = [\"file:keyring\"]\n[repository]\nurl = \"repo\"\n\
             [etcd]\nendpoints = {endpoints:?}\n[agent]\n{log}\nbackup = \"@every 1s\"\ndrill = \"5 4 * * 0\"\n[drill]\netcd = {started:?}\n"
        );
        fs::write(place.path("agent.toml"), text).unwrap();
        let mut command = program();
        command.current_dir(place.dir.path()).env("STRONGROOM_CONFIG", "agent.toml").arg("agent");
        command
    };
    let done = |log: &str| log.contains("backup_finished");

    let lines = until(&mut config(""), place.dir.path(), done);
    let events: Vec<_> = lines.iter().map(|line| parts(line).1).collect();
    assert_eq!(&events[..3], ["started", "leader_elected", "backup_started"], "{lines:#?}");
    assert_eq!(events.last(), Some(&"stopped"), "{lines:#?}");
    assert!(events.contains(&"stopping"), "{lines:#?}");
    let (level, _, fields) = parts(&lines[0]);
    assert_eq!(level, "INFO");
    assert!(fields.contains("cluster=\"prod\"") && fields.contains("version="), "{fields}");
    assert!(fields.contains("drill=\"5 4 * * 0\" drill_next=\"20"), "{fields}");
    assert!(fields.contains("backup_next=") && !fields.contains("prune"), "{fields}");

    let lines = until(&mut config("log = \"json\""), place.dir.path(), done);
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let finished = lines.iter().find(|line| line["event"] == "backup_finished").unwrap();
    let names: Vec<_> = finished.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["time", "level", "event", "cluster", "operation", "seconds", "snapshot"];
    assert_eq!(&names[..7], expected);
    assert_eq!((&finished["level"], &finished["operation"]), (&"info".into(), &"backup".into()));
    assert!(finished["seconds"].is_f64() && finished["revision"].is_u64(), "{finished}");
    // There is one key: that is said once a day.
    let warnings = lines.iter().filter(|line| line["event"] == "warning");
    let other = |line: &&Value| !line["warning"].as_str().unwrap().contains("key");
    assert_eq!(warnings.filter(other).count(), 0, "{lines:#?}");
}

/// Names of keys are clients' bytes, and stored values are whoever's who can write to etcd.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_logs_what_does_not_open_and_stays_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let key = keyring(dir.path());
    let etcd = Etcd::start(Version::NEWEST).await;
    init(etcd.endpoint(), &key, "/strongroom/");
    let mut direct = etcd.client().await;
    // A value that was encrypted under a key that is not in the keyring.
    let hostile = "/app/a\n2026-01-01T00:00:00Z INFO stopped\u{1b}[2J\u{9b}31m\u{202e}\"x";
    let name = strongroom::text::printable(hostile.as_bytes());
    let missing = "01020304";
    let mut value = b"\0SR\x01\x01\x02\x03\x04".to_vec();
    value.resize(80, 7);
    direct.put(hostile, value, None).await.unwrap();
    for format in ["text", "json"] {
        let port = free_ports(1)[0];
        let address = format!("127.0.0.1:{port}");
        let mut command = program();
        command.args(["proxy", "-k", &key, "--endpoints", etcd.endpoint(), "--listen", &address]);
        command.args(["--log", format, "--unreadable-values", "omit"]);
        let handle = tokio::runtime::Handle::current();
        let asked = std::cell::Cell::new(false);
        let ask = |log: &str| {
            if !asked.get() && log.contains("started") {
                asked.set(true);
                tokio::task::block_in_place(|| {
                    handle.block_on(async {
                        let mut client = Client::connect([&address], None).await.unwrap();
                        for _ in 0..50 {
                            let answer = client.get(hostile, None).await.unwrap();
                            assert_eq!(answer.kvs()[0].value(), b"");
                            client.put("/strongroom/x", "", None).await.unwrap_err();
                        }
                    });
                });
            }
            asked.get()
        };
        let lines = until(&mut command, dir.path(), ask);
        let count = |event: &str| lines.iter().filter(|line| line.contains(event)).count();
        assert_eq!(count("value_unreadable"), 1, "limited: {lines:#?}");
        assert_eq!(count("request_denied"), 1, "limited: {lines:#?}");
        assert!(lines.len() < 8, "{lines:#?}");
        let line = lines.iter().find(|line| line.contains("value_unreadable")).unwrap();
        let bad = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!line.contains(bad), "{line}");
        match format {
            "json" => {
                let fields: Value = serde_json::from_str(line).unwrap();
                assert_eq!(
                    (fields["key"].as_str().unwrap(), fields["value_key"].as_str().unwrap()),
                    (&*name, missing)
                );
                assert_eq!(
                    (fields["level"].as_str(), fields["kind"].as_str()),
                    (Some("warning"), Some("wrong-key"))
                );
            }
            _ => {
                let (level, event, fields) = parts(line);
                assert_eq!((level, event), ("WARNING", "value_unreadable"));
                let expected = format!("key={} value_key=\"{missing}\" ", Value::from(&*name));
                assert!(fields.starts_with(&expected), "{fields}");
            }
        }
    }
}

/// Most often it was there before the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_not_encrypted_is_not_called_tampered() {
    let dir = tempfile::tempdir().unwrap();
    let key = keyring(dir.path());
    let etcd = Etcd::start(Version::NEWEST).await;
    init(etcd.endpoint(), &key, "/strongroom/");
    etcd.client().await.put("/app/old", "from before", None).await.unwrap();
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let mut command = program();
    command.args(["proxy", "-k", &key, "--endpoints", etcd.endpoint(), "--listen", &address]);
    command.args(["--log", "json"]);
    let handle = tokio::runtime::Handle::current();
    let ask = |log: &str| {
        if log.contains("started") && !log.contains("value_unreadable") {
            tokio::task::block_in_place(|| {
                handle.block_on(async {
                    let mut client = Client::connect([&address], None).await.unwrap();
                    let error = client.get("/app/old", None).await.unwrap_err().to_string();
                    assert!(error.contains("it is not encrypted"), "{error}");
                });
            });
        }
        log.contains("value_unreadable")
    };
    let lines = until(&mut command, dir.path(), ask);
    let line = lines.iter().find(|line| line.contains("value_unreadable")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["kind"], &line["value_key"]), (&"not-encrypted".into(), &Value::Null));
    assert!(line["hint"].as_str().unwrap().contains("strongroom value migrate"), "{line}");
}
