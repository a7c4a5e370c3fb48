//! Values that other programs read and write, from SPEC.md alone: `tests/clients/value.py` and `tests/clients/go/value.go`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use etcd_client::Client;

use crate::behind::{Behind, client, go_client};
use crate::etcd_server::Version;
use crate::support::{python, vector};

/// Starts a program to seal or open a value of a key.
type Start<'a> = &'a dyn Fn(&str, &str) -> Command;

fn in_python(what: &str) -> Command {
    let mut command = python();
    command.arg(client("value.py")).arg(what);
    command
}

fn in_go(what: &str) -> Command {
    let mut command = go_client("value");
    command.arg(what);
    command
}

fn vectors(mut command: Command) {
    let output = command.arg(vector("values.json")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("passed, 0 failed\n") && !text.starts_with('0'), "{text}");
}

#[test]
fn golden_values_in_python() {
    let mut command = python();
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(client("value_vectors.py"));
    vectors(command);
}

#[test]
fn golden_values_in_go() {
    vectors(in_go("vectors"));
}

fn run(mut command: Command, input: &[u8]) -> (bool, Vec<u8>) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), output.stdout)
}

/// Each of three programs opens what each of them sealed, by the keyring of a real etcd; so does the proxy.
#[test]
fn each_opens_what_the_others_sealed() {
    let behind = Behind::start(Version::NEWEST);
    let proxy = behind.proxy(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keyring = behind.dir.path().join("keyring");
    let record = behind.dir.path().join("record");
    let mut direct = runtime.block_on(behind.etcd.client());
    let got = runtime.block_on(direct.get("/strongroom/keyring", None)).unwrap();
    fs::write(&record, got.kvs()[0].value()).unwrap();
    let other = |mut command: Command, key: &str| {
        command.args([&*keyring, &*record, Path::new(key)]);
        command
    };
    let ours = |what: &str, key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(["value", what, key, "-k", &behind.key]);
        command.args(["--endpoints", behind.etcd.endpoint()]);
        command
    };
    let programs: [(&str, Start<'_>); 3] = [
        ("strongroom", &ours),
        ("python", &|what, key| other(in_python(what), key)),
        ("go", &|what, key| other(in_go(what), key)),
    ];
    let mut through = runtime.block_on(Client::connect([proxy.endpoint()], None)).unwrap();
    let large = vec![7; 100_000];
    for (writer, write) in &programs {
        for (key, value) in [("/a", &b"hunter2"[..]), ("/ü", b""), ("/large", &large)] {
            let (done, sealed) = run(write("seal", key), value);
            assert!(done && sealed.len() == value.len() + 48, "{writer} seals {key}");
            for (reader, read) in &programs {
                let opened = run(read("open", key), &sealed);
                assert_eq!(opened, (true, value.to_vec()), "{reader} opens {writer}'s {key}");
                let moved = run(read("open", "/other"), &sealed);
                assert_eq!(moved, (false, Vec::new()), "{reader} opens a moved value");
            }
            runtime.block_on(direct.put(key, sealed, None)).unwrap();
            let got = runtime.block_on(through.get(key, None)).unwrap();
            assert_eq!(got.kvs()[0].value(), value, "the proxy opens {writer}'s {key}");
        }
    }
    runtime.block_on(through.put("/by-proxy", "hunter2", None)).unwrap();
    let stored = runtime.block_on(direct.get("/by-proxy", None)).unwrap();
    for (reader, read) in &programs {
        let opened = run(read("open", "/by-proxy"), stored.kvs()[0].value());
        assert_eq!(opened, (true, b"hunter2".to_vec()), "{reader} opens the proxy's");
    }
}
