//! The main job: a real etcd, the program, the stock tools' own restore, an etcd booted from it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version, free_ports};
use crate::place::write_secret;
use crate::support::{python, vector};

/// The program, with nothing of this process's settings.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("STRONGROOM_") || name.starts_with("ETCDCTL_") {
            command.env_remove(name);
        }
    }
    command.env("STRONGROOM_CONFIG", "/dev/null").stdin(Stdio::null());
    command
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// HashKV at `revision`, as etcdctl reports it.
fn hash(etcdctl: &mut Command, revision: u64) -> u64 {
    let revision = revision.to_string();
    let out = run(etcdctl.args(["endpoint", "hashkv", "--rev", &revision, "-w", "json"]));
    let answer: Value = serde_json::from_str(&out).unwrap();
    answer[0]["HashKV"]["hash"].as_u64().unwrap()
}

/// An etcd booted from a data directory that the stock tools restored.
pub(crate) struct Booted {
    child: Child,
    pub(crate) endpoint: String,
}

impl Booted {
    pub(crate) fn from(version: Version, snapshot: &Path, dir: &Path) -> Self {
        Self::with(version, snapshot, dir, &[])
    }

    /// As [`from`](Self::from), with further arguments for the restore.
    pub(crate) fn with(version: Version, snapshot: &Path, dir: &Path, args: &[&str]) -> Self {
        let [client, peer] = free_ports(2)[..] else { unreachable!() };
        let (endpoint, peer) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let data = dir.join("restored-data");
        let cluster = format!("m0={peer}");
        run(version
            .program(version.restorer())
            .args(["snapshot", "restore"])
            .arg(snapshot)
            .arg("--data-dir")
            .arg(&data)
            .args(["--name", "m0", "--initial-cluster", &cluster])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(args));
        let child = version
            .program("etcd")
            .arg("--data-dir")
            .arg(&data)
            .args(["--name", "m0", "--initial-cluster", &cluster])
            .args(["--initial-advertise-peer-urls", &peer, "--listen-peer-urls", &peer])
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let booted = Self { child, endpoint };
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = || {
            let mut ctl = version.program("etcdctl");
            // Needs no user, even with authentication on: a wrong answer is an answer.
            ctl.args(["--endpoints", &booted.endpoint, "get", "x"]).output().unwrap()
        };
        while String::from_utf8_lossy(&status().stderr).contains("deadline") {
            assert!(Instant::now() < deadline, "the restored etcd does not answer");
        }
        booted
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn etcd_flags(etcd: &Etcd, dir: &Path) -> Vec<String> {
    let settings = etcd.settings();
    let mut flags = vec!["--endpoints".to_owned(), settings.endpoints.join(",")];
    let files = [("--cacert", settings.cacert), ("--cert", settings.cert), ("--key", settings.key)];
    for (flag, path) in files {
        if let Some(path) = path {
            flags.extend([flag.to_owned(), path.display().to_string()]);
        }
    }
    if let Some(user) = settings.user {
        let path = dir.join("password");
        write_secret(&path, &format!("{ROOT_PASSWORD}\n"));
        flags.extend(["--user".into(), user, "--password-file".into(), path.display().to_string()]);
    }
    flags
}

async fn round_trip(version: Version, tls: bool, auth: bool) {
    let mut builder = Etcd::builder(version);
    if tls {
        builder = builder.with_tls();
    }
    if auth {
        builder = builder.with_auth();
    }
    let etcd = builder.start().await;
    etcd.fill(200, 900).await;
    etcd.etcdctl(&["del", "key/00007"]);
    etcd.etcdctl(&["compact", "50"]);
    etcd.etcdctl(&["put", "secret", "TOP-SECRET-VALUE"]);

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let strongroom = |args: &[&str]| {
        let mut command = program();
        command.args(["-r", &path("repo"), "-k", &format!("file:{}", path("keyring"))]);
        run(command.args(["-w", "json"]).args(args))
    };
    run(program().args(["key", "generate", "-o", &path("keyring")]));
    strongroom(&["init"]);
    let flags = etcd_flags(&etcd, dir.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let report: Value =
        serde_json::from_str(&strongroom(&[&["backup"], flags.as_slice()].concat())).unwrap();
    let (_, _, revision) = etcd.hash_kv().await;
    assert_eq!(report["revision"].as_i64(), Some(revision));
    assert_eq!(report["compact_revision"], 50);
    let mut live = version.program("etcdctl");
    live.args(["--endpoints", etcd.endpoint()]);
    let settings = etcd.settings();
    if let (Some(ca), Some(cert), Some(key)) = (&settings.cacert, &settings.cert, &settings.key) {
        live.arg("--cacert").arg(ca).arg("--cert").arg(cert).arg("--key").arg(key);
    }
    let user = format!("root:{ROOT_PASSWORD}");
    if auth {
        live.args(["--user", &user]);
    }
    let expected = hash(&mut live, revision as u64);
    drop(etcd);

    assert!(!holds(Path::new(&path("repo")), b"TOP-SECRET-VALUE"));
    strongroom(&["verify", "latest"]);
    strongroom(&["restore", "latest", "--output", &path("etcd.db")]);
    let snapshot = path("etcd.db");
    assert!(holds(Path::new(&snapshot), b"TOP-SECRET-VALUE"));
    let booted = Booted::from(version, Path::new(&snapshot), dir.path());
    let mut restored = version.program("etcdctl");
    restored.args(["--endpoints", &booted.endpoint]);
    if auth {
        restored.args(["--user", &user]);
    }
    assert_eq!(hash(&mut restored, revision as u64), expected);

    if !tls && !auth {
        read_with_python(&path("repo"), report["id"].as_str().unwrap(), dir.path());
    }
}

/// The independent reader opens a backup that was made a moment ago, and comes to the same bytes.
fn read_with_python(repo: &str, id: &str, dir: &Path) {
    let out = dir.join("python.db");
    run(python()
        .arg(vector("open.py"))
        .args([repo, id, "--keyring"])
        .arg(dir.join("keyring"))
        .arg("-o")
        .arg(&out));
    assert_eq!(fs::read(out).unwrap(), fs::read(dir.join("etcd.db")).unwrap());
}

/// Whether any file below `path` holds `needle`.
fn holds(path: &Path, needle: &[u8]) -> bool {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().any(|entry| holds(&entry.unwrap().path(), needle));
    }
    fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle)
}

macro_rules! round_trips {
    ($($name:ident: $version:ident $tls:literal $auth:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            round_trip(Version::$version, $tls, $auth).await;
        }
    )*};
}

round_trips! {
    etcd_3_4_plain: V3_4 false false,
    etcd_3_4_mutual_tls: V3_4 true false,
    etcd_3_4_auth: V3_4 false true,
    etcd_3_4_mutual_tls_and_auth: V3_4 true true,
    etcd_3_5_mutual_tls_and_auth: V3_5 true true,
    etcd_3_6_mutual_tls_and_auth: V3_6 true true,
    etcd_3_7_plain: V3_7 false false,
    etcd_3_7_mutual_tls: V3_7 true false,
    etcd_3_7_auth: V3_7 false true,
    etcd_3_7_mutual_tls_and_auth: V3_7 true true,
}

#[test]
fn the_independent_reader_agrees_on_every_golden_vector() {
    let out = run(python().arg(vector("open.py")).arg("--vectors").arg(vector("repositories")));
    assert!(out.trim_end().ends_with(", 0 failed"), "{out}");
}
