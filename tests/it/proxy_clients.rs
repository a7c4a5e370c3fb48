//! Programs that nobody here wrote, through the proxy: etcdctl's every command does what it does directly.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::etcd_server::{Etcd, Version};
use crate::proxy_gate::{Program, keyring, output};

/// One line for etcdctl, and what it reads; `|` parts the two.
const COMMANDS: &[&str] = &[
    "put a plaintext-one",
    "put --prev-kv a plaintext-two",
    "put b|plaintext from standard input",
    "put --ignore-value a",
    "put --ignore-lease a plaintext-three",
    "get a",
    "get a -w fields",
    "get a -w json",
    "get --print-value-only a",
    "get --prefix= --keys-only a",
    "get --from-key a",
    "get --prefix b --hex",
    "get a z --sort-by=VALUE --order=DESCEND",
    "get a z --sort-by=MODIFY --limit=1",
    "get a --rev=4",
    "get a --consistency=s",
    "txn|value(\"a\") = \"plaintext-three\"\n\nput c plaintext-four\nget a\n\nput c no\n\n",
    "txn|value(\"a\") < \"a\"\n\nput c no\n\nput d plaintext-five\nget --prefix c\n\n",
    "txn|mod(\"a\") > \"1\"\nver(\"none\") = \"0\"\n\ndel c --prev-kv\n\n\n",
    "del a --prev-kv",
    "del none",
    "put a plaintext-six",
    "compaction 5",
    "compaction 5",
    "get a --rev=3",
    "defrag",
    "alarm list",
    "alarm disarm",
    "lease list",
    "lease grant 0",
    "lease revoke 123",
    "lease timetolive 123",
    "lease keep-alive --once 123",
    "lock name echo locked",
    "endpoint health",
    "role add r",
    "role grant-permission r readwrite a",
    "role grant-permission r read --prefix=true plain",
    "role get r",
    "role list",
    "role revoke-permission r a",
    "user add u:secret",
    "user grant-role u r",
    "user get u",
    "user list",
    "user passwd u --interactive=false|changed",
    "user revoke-role u r",
    "user delete u",
    "role delete r",
    "user add root:root",
    "user grant-role root root",
    "auth enable",
    "get a",
    "get a --user=root:root",
    "put a plaintext-seven --user=root:root",
    "put a no --user=root:wrong",
    "get a --user=root:root -w fields",
    "txn --user=root:root|value(\"a\") = \"plaintext-seven\"\n\nget a\n\n\n",
    "auth disable --user=root:root",
    "move-leader 1",
    "member promote 1",
    "member remove 1",
    "member update 1 --peer-urls=http://127.0.0.1:1",
    "version",
    "nonsense",
];

fn etcdctl(version: Version, endpoint: &str, line: &str, dir: &TempDir) -> (Option<i32>, String) {
    let (args, input) = line.split_once('|').unwrap_or((line, ""));
    // One that waits for ever is to be named, not waited for.
    let mut child = Command::new("timeout")
        .arg("20")
        .arg(version.programs().join("etcdctl"))
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={endpoint}"))
        .args(args.split(' '))
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Without what names a server or a moment.
fn plain(text: &str, endpoint: &str) -> String {
    let mut text = text.replace(endpoint, "ENDPOINT");
    for name in [
        "\"cluster_id\":",
        "\"member_id\":",
        "\"raft_term\":",
        "\"ClusterID\" : ",
        "\"MemberID\" : ",
        "\"RaftTerm\" : ",
        "took = ",
        "took ",
        "cluster ",
        "lease ",
    ] {
        let parts: Vec<_> = text.split(name).collect();
        let rest = parts[1..].iter().map(|part| {
            part.trim_start_matches(|c: char| {
                c.is_ascii_hexdigit() || matches!(c, '.' | 'm' | 'µ' | 's')
            })
        });
        text = std::iter::once(parts[0]).chain(rest).collect::<Vec<_>>().join(name);
    }
    text
}

fn every_command(version: Version) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (direct, behind) =
        runtime.block_on(async { (Etcd::start(version).await, Etcd::start(version).await) });
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    crate::proxy_gate::init(behind.endpoint(), &key, "/strongroom/");
    let program = Program::start(&["-k", &key, "--endpoints", behind.endpoint()]);
    // The keyring's record is a revision too.
    direct.etcdctl(&["put", "x", "x"]);
    direct.etcdctl(&["del", "x"]);
    behind.etcdctl(&["put", "/strongroom/x", "x"]);
    let there = direct.endpoint().trim_start_matches("http://");
    for line in COMMANDS {
        let (status, expected) = etcdctl(version, there, line, &dir);
        let (got_status, got) = etcdctl(version, &program.address, line, &dir);
        assert_eq!(got_status, status, "{line}: {got}");
        // The key of a lock is named for its lease.
        assert_eq!(plain(&got, &program.address), plain(&expected, there), "{line}");
    }
    for line in [
        "member list",
        "endpoint status -w json",
        "endpoint hashkv",
        "snapshot save through.db",
        "member add m1 --learner --peer-urls=http://127.0.0.1:1,http://127.0.0.1:2",
    ] {
        let (status, text) = etcdctl(version, &program.address, line, &dir);
        assert_eq!(status, Some(0), "{line}: {text}");
    }
    let (_, granted) = etcdctl(version, &program.address, "lease grant 100", &dir);
    let lease = granted.split(' ').nth(1).unwrap();
    for line in [
        format!("put --lease={lease} leased plaintext-eight"),
        format!("lease timetolive {lease} --keys"),
        format!("lease keep-alive --once {lease}"),
        format!("lease revoke {lease}"),
    ] {
        let (status, text) = etcdctl(version, &program.address, &line, &dir);
        assert_eq!(status, Some(0), "{line}: {text}");
    }
    assert_eq!(etcdctl(version, &program.address, "get leased", &dir).1, "");
    streams(version, &program, &dir);

    behind.etcdctl(&["defrag"]);
    for file in ["through.db".into(), behind.database(0)] {
        let bytes = fs::read(dir.path().join(file)).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds("strongroom") && !holds("plaintext"), "a value in clear");
    }
    program.end();
    let (status, text) = output(&["value", "status", "-k", &key, "--endpoints", behind.endpoint()]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("values not encrypted: 0"), "{text}");
}

/// Commands that go on until they are stopped.
fn streams(version: Version, program: &Program, dir: &TempDir) {
    let start = |args: &[&str]| {
        let mut command = version.program("etcdctl");
        command.arg(format!("--endpoints={}", program.address)).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let run = |line: &str| etcdctl(version, &program.address, line, dir).1;
    let mut watch = start(&["watch", "w", "--prefix", "--prev-kv"]);
    let mut elect = start(&["elect", "office", "plaintext-candidate"]);
    let mut mirror =
        start(&["make-mirror", "--prefix=w", "--dest-prefix=mirror/", &program.address]);
    std::thread::sleep(Duration::from_secs(1));
    run("put w1 plaintext-nine");
    run("put w1 plaintext-ten");
    run("del w1");
    run("put w2 plaintext-last");
    std::thread::sleep(Duration::from_millis(500));
    let observed = Command::new("timeout")
        .arg("1")
        .arg(version.programs().join("etcdctl"))
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", program.address))
        .args(["elect", "-l", "office"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&observed.stdout).contains("plaintext-candidate"));
    for child in [&mut watch, &mut elect, &mut mirror] {
        child.kill().unwrap();
    }
    let seen = String::from_utf8(watch.wait_with_output().unwrap().stdout).unwrap();
    assert!(seen.contains("plaintext-nine") && seen.contains("DELETE"), "{seen}");
    assert_eq!(run("get --print-value-only mirror/2"), "plaintext-last\n");
}

#[test]
fn every_command_of_etcdctl_3_4() {
    every_command(Version::V3_4);
}

#[test]
fn every_command_of_etcdctl_3_7() {
    every_command(Version::V3_7);
}

/// What a client's script prints, directly and through the proxy; nothing of it is in etcd.
fn script(command: impl Fn(&str) -> Command) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (direct, behind) = runtime.block_on(async {
        (Etcd::start(Version::NEWEST).await, Etcd::start(Version::NEWEST).await)
    });
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    crate::proxy_gate::init(behind.endpoint(), &key, "/strongroom/");
    let program = Program::start(&["-k", &key, "--endpoints", behind.endpoint()]);
    let run = |address: &str| {
        let output = command(address).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = run(direct.endpoint().trim_start_matches("http://"));
    assert!(expected.lines().count() > 7 && expected.contains("plaintext"), "{expected}");
    assert_eq!(run(&program.address), expected);
    behind.etcdctl(&["defrag"]);
    let bytes = fs::read(behind.database(0)).unwrap();
    assert!(!bytes.windows(9).any(|part| part == b"plaintext"));
    program.end();
}

#[test]
fn aetcd_of_python() {
    script(|address| {
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut command = crate::support::python();
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/with_aetcd.py"));
        command.args([host, port]);
        command
    });
}

#[test]
fn etcd3_of_node() {
    script(|address| {
        let mut command = Command::new("node");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/with_etcd3.cjs"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/node/node_modules")).arg(address);
        command
    });
}
