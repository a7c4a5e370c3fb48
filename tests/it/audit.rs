//! `audit` against real etcd servers, and against servers that are none.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version};
use crate::place::{Place, text, write_secret};

/// What `audit` says of `endpoint`, with these further arguments.
pub fn audit(endpoint: &str, etcd: Option<&Etcd>, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = crate::end_to_end::program();
    command.current_dir(dir.path()).args(["--endpoints", endpoint, "audit"]);
    if let Some(tls) = etcd.and_then(Etcd::tls) {
        command
            .arg("--cacert")
            .arg(&tls.ca)
            .arg("--cert")
            .arg(&tls.cert)
            .arg("--key")
            .arg(&tls.key);
    }
    command.args(args).output().unwrap()
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", text(&out.stderr)))
}

pub fn as_root(dir: &Path) -> Vec<String> {
    let word = dir.join("word");
    write_secret(&word, ROOT_PASSWORD);
    ["--user", "root", "--password-file", word.to_str().unwrap()].map(str::to_owned).to_vec()
}

/// `AUTH-1 fail critical`, a line for each different outcome; vulnerabilities with their ids. UPD-5 depends on the day.
fn verdicts(document: &Value) -> Vec<String> {
    let one = |check: &Value| {
        let field = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let mut line = format!("{} {}", field("id"), field("status"));
        if field("status") == "fail" {
            line.push_str(&format!(" {}", field("severity")));
        }
        if check["url"].is_string() {
            line.push_str(&format!(" {}", field("title").split(':').next().unwrap()));
        }
        line
    };
    let mut lines: Vec<_> = document["checks"].as_array().unwrap().iter().map(one).collect();
    lines.retain(|line| !line.starts_with("UPD-5"));
    lines.sort();
    lines.dedup();
    lines
}

/// Compares with the lines of `tests/audit/verdicts.txt` for this server; `AUDIT=overwrite` writes them.
fn golden(name: &str, document: &Value) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit").join(format!("{name}.txt"));
    let found = verdicts(document).join("\n") + "\n";
    if std::env::var("AUDIT").as_deref() == Ok("overwrite") {
        fs::write(&path, &found).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), found, "{name}");
}

async fn every_verdict_of(version: Version) {
    let name = |kind: &str| format!("{}-{kind}", version.name());
    let dir = tempfile::tempdir().unwrap();
    let plain = Etcd::builder(version).arg("--enable-pprof").start().await;
    golden(&name("plain"), &json(&audit(plain.endpoint(), None, &["-w", "json"])));
    drop(plain);
    let open = Etcd::builder(version).with_server_tls().with_auth().start().await;
    let root = as_root(dir.path());
    let args: Vec<&str> = root.iter().map(String::as_str).chain(["-w", "json"]).collect();
    let out = audit(open.endpoint(), Some(&open), &args);
    assert!(!text(&out.stdout).contains(ROOT_PASSWORD));
    golden(&name("tls"), &json(&out));
    drop(open);
    let mutual = Etcd::builder(version).with_tls().with_peer_tls().with_auth().start().await;
    let out = audit(mutual.endpoint(), Some(&mutual), &args);
    golden(&name("mutual"), &json(&out));
    outside(version, &mutual);
    drop(mutual);
    // An unencrypted port beside the encrypted one.
    let second = format!("http://127.0.0.1:{}", crate::etcd_server::free_ports(1)[0]);
    let urls = format!("{{endpoint}},{second}");
    let mixed = Etcd::builder(version)
        .with_tls()
        .with_peer_tls()
        .arg(&format!("--listen-client-urls={urls}"))
        .arg(&format!("--advertise-client-urls={urls}"))
        .start()
        .await;
    golden(&name("mixed"), &json(&audit(mixed.endpoint(), Some(&mixed), &["-w", "json"])));
    drop(mixed);
    let own =
        Etcd::builder(version).with_server_tls().with_peer_tls().with_auto_tls().start().await;
    golden(&name("auto"), &json(&audit(own.endpoint(), None, &["-w", "json"])));
    drop(own);
    let metrics = format!("http://127.0.0.1:{}", crate::etcd_server::free_ports(1)[0]);
    let metrics = format!("--listen-metrics-urls={metrics}");
    let certified = Etcd::builder(version).with_tls().with_peer_tls().arg(&metrics).start().await;
    golden(
        &name("metrics"),
        &json(&audit(certified.endpoint(), Some(&certified), &["-w", "json"])),
    );
    drop(certified);
    let bare = Etcd::start(version).await;
    golden(&name("bare"), &json(&audit(bare.endpoint(), None, &["-w", "json"])));
}

/// What somebody without a certificate sees: everything behind one is unknown, and nothing of it is passed.
fn outside(version: Version, mutual: &Etcd) {
    let without = ["--cacert", mutual.tls().unwrap().ca.to_str().unwrap(), "-w", "json"];
    let name = format!("{}-outside", version.name());
    golden(&name, &json(&audit(mutual.endpoint(), None, &without)));
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_of_real_servers() {
    for version in Version::ENDS {
        every_verdict_of(version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the versions between the oldest and the newest"]
async fn long_verdicts_of_all_versions() {
    for version in [Version::V3_5, Version::V3_6] {
        every_verdict_of(version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_an_endpoint_is_unknown() {
    let etcd = Etcd::builder(Version::NEWEST).members(2).start().await;
    let document = json(&audit(etcd.endpoint(), None, &["-w", "json"]));
    // What the member list says of it is known.
    let of_second = document["checks"].as_array().unwrap().iter();
    let of_second = of_second.filter(|one| one["member"] == "m1" && one["id"] != "NET-1");
    let statuses: Vec<_> = of_second.map(|one| one["status"].as_str().unwrap()).collect();
    assert!(
        statuses.len() > 10 && statuses.iter().all(|status| *status == "unknown"),
        "{statuses:?}"
    );
    let all = etcd.endpoints().join(",");
    let document = json(&audit(&all, None, &["-w", "json", "--skip", "NET-1"]));
    assert!(document["checks"].as_array().unwrap().iter().all(|one| one["member"] != "m1"));
}

/// Forwards to `to`, and counts the connections.
fn counted(to: &str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, to) = (Arc::clone(&count), to.to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            counter.fetch_add(1, Ordering::Relaxed);
            let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut client, &mut server);
                let _ = server.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut back, &mut forth);
                let _ = forth.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    (address, count)
}

/// The calls that etcd counted, such as `Range`.
fn calls(etcd: &Etcd) -> Vec<(String, u64)> {
    let at = etcd.endpoint().trim_start_matches("http://");
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let counts = answer.lines().filter_map(|line| {
        let rest = line.strip_prefix("grpc_server_started_total{")?;
        let name = rest.split_once("grpc_method=\"")?.1.split_once('"')?.0;
        let count = rest.rsplit_once(' ')?.1.parse::<f64>().ok()?;
        (count > 0.0).then_some((name.to_owned(), count as u64))
    });
    counts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_little_and_writes_nothing() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let revision = etcd.client().await.status().await.unwrap().header().unwrap().revision();
    let before = calls(&etcd);
    let (address, count) = counted(etcd.endpoint().trim_start_matches("http://"));
    let out = audit(&format!("http://{address}"), None, &["-w", "json"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    assert!(count.load(Ordering::Relaxed) <= 6, "{count:?}");
    let mut made: Vec<_> = calls(&etcd);
    for (name, count) in &mut made {
        *count -= before.iter().find(|(other, _)| other == name).map_or(0, |(_, count)| *count);
    }
    made.retain(|(_, count)| *count > 0);
    let reads = [
        "Range",
        "Status",
        "MemberList",
        "Alarm",
        "LeaseLeases",
        "UserList",
        "UserGet",
        "RoleList",
        "RoleGet",
    ];
    for (name, count) in &made {
        assert!(reads.contains(&name.as_str()) && *count <= 2, "{name}: {count}");
    }
    let after = etcd.client().await.status().await.unwrap().header().unwrap().revision();
    assert_eq!(after, revision);
    drop(etcd);
    let etcd = Etcd::builder(Version::NEWEST).with_tls().start().await;
    let (address, count) = counted(etcd.endpoint().trim_start_matches("https://"));
    let revision = etcd.client().await.status().await.unwrap().header().unwrap().revision();
    // Connections in all, and those that only send a ClientHello.
    let mut made = Vec::new();
    for probe in ["none", "gentle", "full"] {
        let before = count.load(Ordering::Relaxed);
        let args = ["-w", "json", "--probe", probe];
        let out = audit(&format!("https://{address}"), Some(&etcd), &args);
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        made.push(count.load(Ordering::Relaxed) - before);
    }
    let [none, gentle, full] = made[..] else { unreachable!() };
    assert!((4..=7).contains(&none) && full <= 20, "{made:?}");
    assert_eq!(gentle - none, 3, "{made:?}");
    assert!((4..=14).contains(&(full - none)), "{made:?}");
    let after = etcd.client().await.status().await.unwrap().header().unwrap().revision();
    assert_eq!(after, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_differ() {
    let mut etcd = Etcd::builder(Version::V3_6).members(2).with_tls().with_peer_tls().start().await;
    let etcd = tokio::task::spawn_blocking(move || {
        etcd.replace(1, Version::V3_7);
        etcd.add_learner();
        etcd
    });
    let etcd = etcd.await.unwrap();
    let args = ["-w", "json", "--deep"];
    let document = json(&audit(&etcd.endpoints().join(","), Some(&etcd), &args));
    let versions: Vec<_> = document["members"].as_array().unwrap().iter().collect();
    assert!(versions[0]["version"].as_str().unwrap().starts_with("3.6"), "{versions:?}");
    assert!(versions[1]["version"].as_str().unwrap().starts_with("3.7"), "{versions:?}");
    let status = |id: &str, member: &str| {
        let checks = document["checks"].as_array().unwrap();
        let of = |one: &&Value| {
            one["id"] == id && one["member"].as_str().unwrap_or_default().starts_with(member)
        };
        let one = checks.iter().find(of).unwrap_or_else(|| panic!("{id} {member}"));
        one["status"].as_str().unwrap().to_owned()
    };
    // Two have the same data, and the learner tells nothing of its own.
    let checks = document["checks"].as_array().unwrap().iter();
    let of: Vec<_> = checks.filter(|one| one["id"] == "MON-3").collect();
    let statuses: BTreeSet<_> = of.iter().map(|one| one["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["pass", "unknown"].into());
    assert!(of.iter().any(|one| one["why"].as_str().is_some_and(|why| why.contains("learner"))));
    // The learner's peer port is without TLS.
    for (id, member, wanted) in [
        ("UPD-3", "", "fail"),
        ("TLS-2", "m0", "pass"),
        ("TLS-3", "m1", "pass"),
        ("TLS-2", "m2", "fail"),
        ("TLS-3", "m2", "not-applicable"),
        ("AUTH-2", &etcd.endpoints()[2], "pass"),
    ] {
        assert_eq!(status(id, member), wanted, "{id} {member}");
    }
}

/// A server that answers every connection with `answer`, after it has read something.
fn server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            std::thread::spawn(move || {
                let mut request = [0; 1024];
                let _ = client.read(&mut request);
                let _ = client.write_all(answer);
                if answer.is_empty() {
                    std::thread::sleep(Duration::from_secs(60));
                }
            });
        }
    });
    address
}

#[test]
fn what_is_not_etcd_passes_nothing() {
    let yes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for answer in [&yes[..], b"\x15\x03\x03\x00\x02\x02\x28", b"garbage\r\n\r\n"] {
        for scheme in ["http", "https"] {
            let out = audit(&format!("{scheme}://{}", server(answer)), None, &["-w", "json"]);
            if out.status.code() == Some(4) {
                continue;
            }
            let document = json(&out);
            let passed: Vec<_> =
                verdicts(&document).into_iter().filter(|line| line.contains(" pass")).collect();
            assert!(passed.is_empty(), "{answer:?} {scheme}: {passed:?}");
            assert_eq!(out.status.code(), Some(3));
        }
    }
}

#[test]
fn who_does_not_answer() {
    let silent = server(b"");
    let out = audit(&format!("https://{silent}"), None, &[]);
    assert_eq!(out.status.code(), Some(4), "{}", text(&out.stdout));
    assert!(text(&out.stderr).contains("no endpoint answers"), "{}", text(&out.stderr));
}

#[test]
fn what_is_asked_for_must_be_there() {
    let place = Place::new();
    let said = place.fail(2, &["audit", "--only", "AUTH-1,TSL-1"]);
    assert!(said.contains("TSL-1") && said.contains("--list"), "{said}");
    let said = place.fail(2, &["audit", "--only", "BAK-1,AUTH-1"]);
    assert!(said.contains("BAK-1 is not checked in these scopes"), "{said}");
    fs::write(place.path("table"), "{}").unwrap();
    let said = place.fail(2, &["audit", "--advisories", "table"]);
    assert!(said.contains("not a table of advisories"), "{said}");
}

/// A host with one etcd, kept as a tree of files.
pub fn fake_host(flags: &str, environ: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str, mode: u32| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let line = format!("etcd --data-dir=/var/lib/etcd --key-file=/pki/server.key {flags}");
    put("proc/77/cmdline", &line.replace(' ', "\0"), 0o444);
    put("proc/77/environ", environ, 0o400);
    put("proc/77/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", 0o444);
    put("proc/77/status", "Name:\tetcd\nUid:\t0\t0\t0\t0\n", 0o444);
    put("proc/swaps", "Filename Type Size Used Priority\n", 0o444);
    put("pki/server.key", "key", 0o644);
    put("var/lib/etcd/member/snap/db", "db", 0o600);
    put("var/lib/etcd/member/wal/0.wal", "", 0o600);
    put("sys/devices/sda/slaves/.keep", "", 0o444);
    fs::remove_file(root.path().join("sys/devices/sda/slaves/.keep")).unwrap();
    fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
    std::os::unix::fs::symlink("../../devices/sda", root.path().join("sys/dev/block/8:1")).unwrap();
    for folder in ["var/lib/etcd", "var/lib/etcd/member/snap", "var/lib/etcd/member/wal"] {
        fs::set_permissions(root.path().join(folder), fs::Permissions::from_mode(0o700)).unwrap();
    }
    root
}

const VARIABLES: &str = "ETCD_CLIENT_CERT_AUTH=true\0PASSWORD=hunter2";

#[test]
fn what_a_host_shows() {
    let host = |flags: &str| {
        let root = fake_host(flags, VARIABLES);
        let args = ["--scope", "host", "--host", root.path().to_str().unwrap(), "-w", "json"];
        let out = audit("http://127.0.0.1:1", None, &args);
        assert!(!text(&out.stdout).contains("hunter2"));
        verdicts(&json(&out))
    };
    let found = host("--listen-client-urls=https://10.0.0.1:2379 --trusted-ca-file=/none");
    for wanted in [
        "AUTH-2 pass",
        "AUTH-5 fail medium",
        // The CA's file is not there.
        "TLS-7 unknown",
        "TLS-9 unknown",
        "TLS-10 fail high",
        "REST-1 fail high",
        "REST-2 pass",
        "REST-5 pass",
        "REST-6 pass",
        "REST-7 not-applicable",
        "UPD-4 pass",
    ] {
        assert!(found.contains(&wanted.to_owned()), "{wanted}: {found:?}");
    }
    // A configuration file alone counts: the variable for certificates does not.
    let root = fake_host("--config-file=/etc/etcd.yaml", VARIABLES);
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/etcd.yaml"), "data-dir: /var/lib/etcd\n").unwrap();
    let args = ["--scope", "host", "--host", root.path().to_str().unwrap(), "-w", "json"];
    let found = verdicts(&json(&audit("http://127.0.0.1:1", None, &args)));
    assert!(found.contains(&"AUTH-2 fail critical".to_owned()), "{found:?}");
    fs::remove_file(root.path().join("proc/77/cmdline")).unwrap();
    assert_eq!(audit("http://127.0.0.1:1", None, &args).status.code(), Some(2));
}

#[test]
fn what_the_repository_shows() {
    let place = Place::new();
    place.backup();
    let run = |args: &[&str]| {
        let out =
            place.run(&[&["-w", "json", "audit", "--scope", "repository"][..], args].concat());
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        json(&out)
    };
    let document = run(&["--report"]);
    let found = verdicts(&document);
    for wanted in ["BAK-1 pass", "BAK-2 fail high", "BAK-3 fail high", "RBAC-1 not-applicable"] {
        assert!(found.contains(&wanted.to_owned()), "{wanted}: {found:?}");
    }
    assert!(document["since"].is_null());
    place.succeed(&["verify", "latest", "--record"]);
    let sarif = place.path("audit.sarif");
    let document = run(&["--report", "--sarif", sarif.to_str().unwrap()]);
    assert_eq!(document["since"]["new"].as_array().unwrap().len(), 0);
    let written: Value = serde_json::from_slice(&fs::read(sarif).unwrap()).unwrap();
    assert_eq!(written["version"], "2.1.0");
    let reports = place.json(&["reports"]);
    let kinds: Vec<_> = reports.as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(kinds, ["audit", "verify", "audit"]);
}
