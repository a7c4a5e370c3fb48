//! `upgrade-check` on real clusters: before an upgrade, on data that stands in its way, and after it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use strongroom::crypto::sha256;

use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version};
use crate::place::{Place, exits, text, write_secret};

/// `upgrade-check` of this cluster with these further arguments.
fn check(place: &Place, etcd: &Etcd, args: &[&str]) -> Command {
    let endpoints = etcd.endpoints().join(",");
    place.command(&[&["-w", "json", "--endpoints", &endpoints, "upgrade-check"], args].concat())
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", text(&out.stderr)))
}

/// The statuses of each gate, the worst first, and what was said.
fn gates(document: &Value) -> BTreeMap<String, Vec<(String, String)>> {
    let mut gates: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for one in document["checks"].as_array().unwrap() {
        let said = format!("{} {}", one["evidence"], one["why"]);
        let status = one["status"].as_str().unwrap().to_owned();
        gates.entry(one["id"].as_str().unwrap().into()).or_default().push((status, said));
    }
    gates
}

/// `gate` came out so, and says so.
fn assert_gate(document: &Value, gate: &str, status: &str, says: &str) {
    let gates = gates(document);
    let found = gates[gate].iter().any(|(is, said)| is == status && said.contains(says));
    assert!(found, "{gate} {status} {says}: {:?}", gates[gate]);
}

fn program(version: Version) -> String {
    version.programs().join("etcd").to_str().unwrap().to_owned()
}

fn is_known(program: &str, flag: &str) -> bool {
    let out = Command::new(program).args([&format!("--{flag}=zz"), "--version"]).output().unwrap();
    let said = text(&out.stdout) + &text(&out.stderr);
    !said.contains(&format!("flag provided but not defined: -{flag}\n"))
}

/// The flags that etcd's help has.
fn flags(program: &str) -> Vec<String> {
    let out = Command::new(program).arg("--help").output().unwrap();
    let said = text(&out.stdout) + &text(&out.stderr);
    let names = said.lines().filter_map(|line| line.strip_prefix("  --"));
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    names.filter_map(|line| Some(line.split(end).next()?.to_owned())).collect()
}

/// The table has what the programs do not know any more, and nothing else.
#[test]
fn flags_that_the_next_version_does_not_have() {
    let table: Value =
        serde_json::from_str(include_str!("../../src/posture/upgrade/upgrades.json")).unwrap();
    let versions: Vec<_> = Version::ALL.into_iter().collect();
    for pair in versions.windows(2) {
        let (old, new) = (program(pair[0]), program(pair[1]));
        let steps = table["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["to"] == pair[1].name());
        let step = step.filter(|step| step["from"] == pair[0].name()).unwrap();
        let removed: Vec<_> = step["removed"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["flag"].as_str().unwrap().to_owned())
            .collect();
        for flag in &removed {
            assert!(is_known(&old, flag) && !is_known(&new, flag), "{flag} to {}", pair[1].name());
        }
        let later = flags(&new);
        for flag in flags(&old).iter().filter(|flag| !later.contains(flag)) {
            assert!(removed.contains(flag) || is_known(&new, flag), "{flag}");
        }
        // What takes their place is there.
        for one in step["removed"].as_array().unwrap() {
            let instead = one["instead"].as_str().unwrap();
            for word in instead.split(' ').filter_map(|word| word.strip_prefix("--")) {
                let (name, gate) = word.split_once('=').unwrap_or((word, ""));
                assert!(
                    is_known(&new, name) && is_known(&old, name) || pair[1] == Version::V3_5,
                    "{word}"
                );
                let gate = gate.trim_end_matches("=true");
                let help = || text(&Command::new(&new).arg("--help").output().unwrap().stdout);
                assert!(name != "feature-gates" || help().contains(gate), "{word}");
            }
        }
    }
}

/// A host with a process etcd that was started with these words.
fn host(words: &[String]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let proc = root.path().join("proc/77");
    fs::create_dir_all(&proc).unwrap();
    fs::write(proc.join("cmdline"), words.join("\0")).unwrap();
    fs::write(proc.join("environ"), "").unwrap();
    root
}

/// What other members' hosts show was looked at there.
fn waivers(place: &Place, of: &[(&str, &str)]) {
    let day = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 30);
    let day = day.strftime("%Y-%m-%d");
    let one = |(id, member): &(&str, &str)| {
        format!(
            "[[waiver]]\nid = \"{id}\"\nmember = \"{member}\"\nreason = \"run there\"\nby = \"ops\"\nuntil = \"{day}\"\nunknown = true\naccept-critical = true\n"
        )
    };
    fs::write(place.path("waivers"), of.iter().map(one).collect::<String>()).unwrap();
}

/// The built-in table, as if it were complete to this day.
fn advisories_of_today() -> String {
    let mut table: Value =
        serde_json::from_str(include_str!("../../src/posture/advisories.json")).unwrap();
    table["complete_to"] = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string().into();
    table.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_ready_is_upgraded() {
    let (old, new) = (Version::V3_6, Version::V3_7);
    let mut etcd = Etcd::builder(old).members(3).start().await;
    etcd.fill(60, 100).await;
    etcd.etcdctl(&["compact", "20"]);
    let place = Place::new();
    // Members of a new cluster write what their version stores some seconds after they answer.
    let deadline = Instant::now() + Duration::from_secs(60);
    let stored = || gates(&json(&check(&place, &etcd, &["--to", "3.7"]).output().unwrap()));
    while stored()["UG-8"].iter().any(|(status, _)| status != "pass") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
    }
    fs::create_dir(place.path("scratch")).unwrap();
    waivers(&place, &[("UG-7", "m1"), ("UG-7", "m2")]);
    fs::write(place.path("advisories.json"), advisories_of_today()).unwrap();
    let root = host(&etcd.command_line(0));
    let (target, current) = (program(new), program(old));
    let rehearse = ["--etcd", &target, "--current-etcd", &current, "--scratch-dir", "scratch"];
    let files = ["--waivers", "waivers", "--advisories", "advisories.json"];
    let on_host = [&["--host", root.path().to_str().unwrap()], &files[..]].concat();
    let all = [
        &["--to", "3.7", "--backup", "--save", "before.json", "--sarif", "gates.sarif"],
        &rehearse[..],
        &on_host,
    ]
    .concat();
    let out = check(&place, &etcd, &all).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
    let document = json(&out);
    assert_gate(&document, "UG-1", "pass", "may be upgraded to 3.7.3");
    assert_gate(&document, "UG-6", "not-applicable", "3.7.3");
    assert_gate(&document, "UG-12", "pass", "with the same HashKV");
    let sarif: Value =
        serde_json::from_slice(&fs::read(place.path("gates.sarif")).unwrap()).unwrap();
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    assert_eq!((rules.len(), rules[0]["id"].as_str()), (14, Some("UG-1")));
    let order = document["plan"]["order"].as_array().unwrap();
    let leaders: Vec<_> = order.iter().map(|one| one["leader"].as_bool().unwrap()).collect();
    assert_eq!(leaders, [false, false, true]);
    let snapshots = place.json(&["snapshots"]);
    assert_eq!(snapshots[0]["tags"], serde_json::json!(["before-upgrade"]));
    // Nothing was written to etcd, and no report.
    assert_eq!(place.json(&["reports"]).as_array().unwrap().len(), 0);

    // Without programs and hosts nothing of these is passed; nor with a snapshot that is too old.
    std::thread::sleep(Duration::from_secs(2));
    let out = check(&place, &etcd, &["--to", "3.7", "--max-age", "1s"]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    let document = json(&out);
    for gate in ["UG-7", "UG-12", "UG-13"] {
        assert_gate(&document, gate, "unknown", "");
    }
    assert_gate(&document, "UG-4", "pass", "");
    assert_gate(&document, "UG-11", "fail", "the limit is 0 min");

    // Before the upgrade the versions are wrong.
    let out = check(&place, &etcd, &["--after", "before.json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert_gate(&json(&out), "UA-1", "fail", "3.7.3 was wanted");
    for planned in order {
        let at = planned["name"].as_str().unwrap().strip_prefix('m').unwrap().parse().unwrap();
        etcd.upgrade(at, new);
    }
    etcd.put("later", "").await;
    // The cluster's version follows.
    let deadline = Instant::now() + Duration::from_secs(60);
    let after = || check(&place, &etcd, &["--after", "before.json"]).output().unwrap();
    let mut out = after();
    while out.status.code() != Some(0) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
        out = after();
    }
    assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
    assert_gate(&json(&out), "UA-4", "pass", "as before");
    let kept = fs::read_to_string(place.path("before.json")).unwrap();
    let mut state: Value = serde_json::from_str(&kept).unwrap();
    state["hash"] = 1.into();
    state["keys"] = 59.into();
    fs::write(place.path("other.json"), state.to_string()).unwrap();
    let out = check(&place, &etcd, &["--after", "other.json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert_gate(&json(&out), "UA-4", "fail", "and it was 1");
    assert_gate(&json(&out), "UA-5", "fail", "59 before");
}

/// Each step's rehearsal, where nothing but the version is in the way.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "two etcd, each restored and served twice"]
async fn long_rehearsals_of_each_step() {
    for (old, new) in [(Version::V3_4, Version::V3_5), (Version::V3_5, Version::V3_6)] {
        let etcd = Etcd::start(old).await;
        etcd.fill(60, 100).await;
        let place = Place::new();
        let (target, current) = (program(new), program(old));
        let args = ["--to", new.name(), "--backup", "--etcd", &target, "--current-etcd", &current];
        let out = check(&place, &etcd, &args).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        let document = json(&out);
        for gate in ["UG-3", "UG-4", "UG-5", "UG-9", "UG-10", "UG-11", "UG-12", "UG-13"] {
            assert_gate(&document, gate, "pass", "");
        }
        assert_gate(&document, "UG-1", "fail", "begins at");
        assert_gate(&document, "UG-8", "not-applicable", "");
        // The other way round, the programs are of the wrong versions.
        let args = ["--to", new.name(), "--etcd", &target, "--current-etcd", &target];
        let out = check(&place, &etcd, &args).output().unwrap();
        assert_gate(&json(&out), "UG-13", "unknown", "--current-etcd");
    }
}

/// A snapshot file with these bytes in the place of others of the same length.
fn with_bytes(file: &Path, pairs: &[(String, String)]) {
    let mut bytes = fs::read(file).unwrap();
    bytes.truncate(bytes.len() - 32);
    for (from, to) in pairs {
        assert_eq!(from.len(), to.len());
        let found: Vec<_> = bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, window)| *window == from.as_bytes())
            .map(|(at, _)| at)
            .collect();
        assert!(!found.is_empty(), "{from}");
        for at in found {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    let sum = sha256(&[&bytes]);
    bytes.extend(sum);
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_an_upgrade_would_bring_back() {
    let etcd = Etcd::builder(Version::V3_5).members(3).start().await;
    let place = Place::new();
    let file = place.path("snapshot.db");
    let path = file.to_str().unwrap();
    etcd.etcdctl(&["snapshot", "save", path]);
    place.json(&["backup", "--file", path]);
    let run = || {
        let out = check(&place, &etcd, &["--to", "3.6"]).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        json(&out)
    };
    let document = run();
    assert_gate(&document, "UG-1", "fail", "begins at 3.5.32");
    for gate in ["UG-2", "UG-3", "UG-4", "UG-5", "UG-9", "UG-10", "UG-14"] {
        assert_gate(&document, gate, "pass", "");
    }
    assert_gate(&document, "UG-8", "not-applicable", "no storage version");
    // A file does not say which cluster it is of.
    assert_gate(&document, "UG-11", "unknown", "which cluster");

    let list: Value =
        serde_json::from_str(&etcd.etcdctl(&["member", "list", "-w", "json"])).unwrap();
    let member = |at: usize| {
        let name = format!("m{at}");
        let members = list["members"].as_array().unwrap();
        members.iter().find(|one| one["name"] == *name).unwrap().clone()
    };
    let id = format!("{:x}", member(2)["ID"].as_u64().unwrap());
    let (rest, last) = id.split_at(id.len() - 1);
    let other = format!("{rest}{}", if last == "0" { "1" } else { "0" });
    let urls = format!("\"peerURLs\":[{}]", member(1)["peerURLs"][0]);
    let learner = format!("{:width$}", "\"isLearner\":true", width = urls.len());
    with_bytes(&file, &[(id, other.clone()), (urls, learner)]);
    place.json(&["backup", "--file", path]);
    let document = run();
    assert_gate(&document, "UG-4", "fail", &format!("m2 ({other}) is in the database"));
    assert_gate(&document, "UG-4", "fail", "and not in the database");
    assert_gate(
        &document,
        "UG-5",
        "fail",
        "m1 is a member that votes, and in the database a learner",
    );
}

/// Writes a key by the v2 API.
fn put_v2(etcd: &Etcd) {
    let at = etcd.endpoint().trim_start_matches("http://");
    let mut stream = TcpStream::connect(at).unwrap();
    let head = "PUT /v2/keys/foo HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nvalue=a";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 201 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_the_old_api() {
    let etcd =
        Etcd::builder(Version::V3_5).arg("--enable-v2").arg("--snapshot-count=100").start().await;
    let place = Place::new();
    let data = etcd.database(0).parent().unwrap().parent().unwrap().to_owned();
    // A copy of the data directory at this moment, and what is found in it.
    let copied = || {
        let root =
            host(&["etcd", "--name=m0", "--data-dir=/data", "--enable-v2"].map(str::to_owned));
        fs::create_dir(root.path().join("data")).unwrap();
        let copy = Command::new("cp").arg("-r").arg(&data).arg(root.path().join("data")).status();
        assert!(copy.unwrap().success());
        let args = ["--to", "3.6", "--host", root.path().to_str().unwrap()];
        let out = check(&place, &etcd, &args).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        (root, json(&out))
    };
    let (_, document) = copied();
    assert_gate(&document, "UG-6", "pass", "entries of the log");
    assert_gate(&document, "UG-7", "fail", "enable-v2 (flag) is not in 3.6");
    put_v2(&etcd);
    assert_gate(&copied().1, "UG-6", "fail", "is a request of the v2 API");
    // With enough entries there is a snapshot file, and the log after it has none of this.
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_snap = |path: &Path| path.extension().is_some_and(|ending| ending == "snap");
    let has_snap =
        || fs::read_dir(data.join("snap")).unwrap().any(|one| is_snap(&one.unwrap().path()));
    while !has_snap() {
        assert!(Instant::now() < deadline);
        for _ in 0..50 {
            etcd.put("a", "b").await;
        }
    }
    let (root, document) = copied();
    assert_gate(&document, "UG-6", "fail", "the v2 store has data below /1");
    let found = &gates(&document)["UG-6"];
    assert!(!found.iter().any(|(_, said)| said.contains("a request of")), "{found:?}");
    // 3.6 does refuse it.
    let mut command = Version::V3_6.program("etcd");
    command.args(["--name=m0", "--data-dir"]).arg(root.path().join("data"));
    command.args([
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:0",
    ]);
    command
        .args(["--listen-peer-urls=http://127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let out = child.wait_with_output().unwrap();
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(said.contains("disallowed custom content in v2store"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_login_and_without() {
    let etcd = Etcd::builder(Version::V3_6).with_tls().with_auth().start().await;
    let place = Place::new();
    write_secret(&place.path("word"), ROOT_PASSWORD);
    let tls = etcd.tls().unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let certificate =
        ["--cacert", &path(&tls.ca), "--cert", &path(&tls.cert), "--key", &path(&tls.key)]
            .map(str::to_owned);
    let run = |login: &[&str]| {
        let certificate: Vec<_> = certificate.iter().map(String::as_str).collect();
        let args = [&["--to", "3.7"], &certificate[..], login].concat();
        let out = check(&place, &etcd, &args).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        assert!(!text(&out.stdout).contains(ROOT_PASSWORD));
        json(&out)
    };
    let document = run(&["--user", "root", "--password-file", "word"]);
    assert_gate(&document, "UG-10", "pass", "by 1");
    assert_gate(&document, "UG-8", "pass", "storage version 3.6.0");
    assert_gate(&document, "UG-2", "fail", "none may stop");
    // There is no snapshot.
    assert_gate(&document, "UG-11", "unknown", "--backup");
    let document = run(&[]);
    assert_gate(&document, "UG-10", "unknown", "");
}

#[test]
fn what_cannot_be_checked() {
    let place = Place::new();
    let (target, endpoint) = (program(Version::V3_5), ["--endpoints", "http://127.0.0.1:1"]);
    for (args, says) in [
        (&["--to", "3.9"][..], "upgrades are known to 3.5, 3.6, 3.7"),
        (&["--to", "3.6", "--etcd", &target], "--etcd is etcd 3.5"),
        (&["--after", "nothing.json", "--to", "3.6"], "cannot be used with"),
    ] {
        let said = place.fail(2, &[&endpoint[..], &["upgrade-check"], args].concat());
        assert!(said.contains(says), "{said}");
    }
    fs::write(place.path("bad.json"), "{}").unwrap();
    let said = place.fail(2, &["upgrade-check", "--after", "bad.json"]);
    assert!(said.contains("not the state of a cluster") && said.contains("--save"), "{said}");
    let nobody = [&endpoint[..], &["upgrade-check", "--to", "3.6"]].concat();
    assert!(exits(4, &mut place.command(&nobody)).contains("no endpoint answers"));
}
