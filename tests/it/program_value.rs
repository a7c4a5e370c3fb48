//! `strongroom value …`, as a shell uses it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::etcd_server::{Etcd, Version};
use crate::place::Place;
use crate::proxy_gate::keyring;

struct Shell {
    etcd: Etcd,
    dir: TempDir,
    key: String,
}

impl Shell {
    fn run(&self, args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_strongroom"))
            .args(["value"])
            .args(args)
            .args(["--endpoints", self.etcd.endpoint(), "-k", &self.key])
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that fails at once reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), output.stdout, error)
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let (status, output, error) = self.run(&[args, &["-w", "json"]].concat(), b"");
        assert_eq!(status, Some(0), "{args:?}: {error}");
        serde_json::from_slice(&output).unwrap()
    }
}

#[test]
fn from_the_first_key_to_the_last() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let etcd = runtime.block_on(Etcd::start(Version::NEWEST));
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    let shell = Shell { etcd, dir, key };

    let (status, _, error) = shell.run(&["status"], b"");
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("value init"), "{error}");
    let first = shell.json(&["init"])["primary"].clone();
    assert_eq!(shell.json(&["init"])["primary"], first);

    let (status, sealed, error) = shell.run(&["seal", "/a"], b"hunter2");
    assert_eq!((status, sealed.len()), (Some(0), 48 + 7), "{error}");
    let (status, opened, _) = shell.run(&["open", "/a"], &sealed);
    assert_eq!((status, &opened[..]), (Some(0), &b"hunter2"[..]));
    let (status, opened, error) = shell.run(&["open", "/b"], &sealed);
    assert_eq!((status, opened.len()), (Some(13), 0), "{error}");
    assert!(error.contains("/b") && !error.contains("hunter2"), "{error}");

    shell.etcd.etcdctl(&["put", "/app/x", "unencrypted"]);
    shell.etcd.etcdctl(&["put", "/app/y", "unencrypted too"]);
    assert_eq!(shell.json(&["status"])["unencrypted"], 2);
    let phase = |phase: &str, more: &[&str]| {
        let args = ["migrate", "--prefix", "/app/", "--settle", "1ms", "--phase", phase];
        shell.json(&[&args[..], more].concat())
    };
    let (status, _, error) = shell.run(&["migrate", "--prefix", "/app/", "--phase", "off"], b"");
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("phase done") && error.contains("admit-back"), "{error}");
    assert!(!error.contains("waiting"), "{error}");
    assert_eq!(phase("encrypt", &["--dry-run"])["sealed"], 2);
    assert_eq!(phase("admit", &[])["phase"], "admit");
    let status = shell.json(&["status"]);
    assert_eq!(status["migration"][0]["phase"], "admit", "{status}");
    assert_eq!(phase("encrypt", &[])["sealed"], 2);
    shell.etcd.etcdctl(&["put", "/app/late", "unencrypted"]);
    let args = ["migrate", "--prefix", "/app/", "--settle", "1ms", "--phase", "done"];
    let (status, _, error) = shell.run(&args, b"");
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("/app/late") && !error.contains("waiting"), "{error}");
    shell.etcd.etcdctl(&["del", "/app/late"]);
    let (status, _, said) = shell.run(&args, b"");
    assert!(status == Some(0) && said.contains("waiting 1ms"), "{said}");
    assert_eq!(shell.json(&["migrate", "--prefix", "/app/"])["unchanged"], 2);

    let same = shell.json(&["rotate", "--older-than", "1d", "--used", "1000"]);
    assert_eq!((&same["rotated"], &same["id"]), (&false.into(), &first));
    let second = shell.json(&["rotate", "--settle", "100ms"]);
    assert_ne!(second["id"], first);
    let first = first.as_str().unwrap();
    shell.json(&["disable", first]);
    let (status, _, error) = shell.run(&["destroy", first], b"");
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains(": 2"), "{error}");
    let (status, ..) = shell.run(&["open", "/a"], &sealed);
    assert_eq!(status, Some(12));
    shell.json(&["enable", first]);
    assert_eq!(shell.json(&["migrate", "--prefix", ""])["resealed"], 2);
    shell.json(&["disable", first]);
    shell.json(&["destroy", first]);
    let status = shell.json(&["status"]);
    assert_eq!(status["keys"][0]["state"], "destroyed");
    assert_eq!(
        (&status["keys"][1]["state"], &status["keys"][1]["values"]),
        (&"primary".into(), &2.into())
    );
    assert_eq!(status["keys"][1]["id"], second["id"]);

    let file = shell.dir.path().join("sealed").display().to_string();
    let (status, record, error) = shell.run(&["keyring", "export"], b"");
    assert_eq!(status, Some(0), "{error}");
    let (status, ..) = shell.run(&["keyring", "export", "-o", &file], b"");
    assert_eq!((status, std::fs::read(&file).unwrap()), (Some(0), record.clone()));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&file, "an older one").unwrap();
    let (status, _, error) = shell.run(&["keyring", "export", "-o", &file], b"");
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("exists") && error.contains("another name"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"an older one");
    std::fs::write(&file, &record).unwrap();
    shell.etcd.etcdctl(&["del", "/strongroom/keyring"]);
    for refused in ["init", "status"] {
        let (status, _, error) = shell.run(&[refused], b"");
        assert_eq!(status, Some(1), "{error}");
        assert!(error.contains("/app/x") && error.contains("keyring import"), "{error}");
    }
    assert_eq!(shell.json(&["keyring", "import", &file])["imported"], true);
    assert_eq!(shell.json(&["keyring", "import", &file])["imported"], false);
    shell.json(&["status"]);

    shell.etcd.etcdctl(&["put", "/strange", "clear"]);
    let (status, _, error) =
        shell.run(&["migrate", "--prefix", "/strange", "-k", "passphrase"], b"");
    assert_eq!(status, Some(2), "{error}");
}

/// A snapshot holds the keyring of its own values: no etcd is needed to read them.
#[test]
fn values_of_a_snapshot_open_without_etcd() {
    let place = Place::new();
    place.succeed(&["key", "generate", "-o", "values"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let etcd = runtime.block_on(Etcd::start(Version::NEWEST));
    let endpoint = etcd.endpoint().to_owned();
    let with_etcd = |args: &[&str], input: &[u8]| {
        let mut command = place.command_with("file:values", args);
        command.args(["--endpoints", &endpoint]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}");
        output.stdout
    };
    with_etcd(&["value", "init"], b"");
    let sealed = with_etcd(&["value", "seal", "/a"], b"hunter2");
    let put = async |key: &str, value: &[u8]| {
        etcd.client().await.put(key, value, None).await.unwrap();
    };
    runtime.block_on(put("/a", &sealed));
    runtime.block_on(put("/moved", &sealed));
    runtime.block_on(put("/plain", b"as it is"));
    with_etcd(&["value", "rotate", "--settle", "1ms"], b"");
    place.succeed(&["backup", "--endpoints", &endpoint]);
    drop(etcd);

    let get = |key: &str, more: &[&str]| {
        let mut command = place.command(&["get", "latest", key, "--show-value"]);
        command.args(more).output().unwrap()
    };
    let both = ["-k", "file:keyring", "-k", "file:values"];
    assert_eq!(get("/a", &both).stdout, b"hunter2");
    assert_eq!(get("/plain", &[]).stdout, b"as it is");
    assert_eq!(get("/a", &["--as-stored"]).stdout, sealed);
    let output = get("/a", &[&both[..], &["-w", "json"]].concat());
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["value_base64"], "aHVudGVyMg==");
    assert!(shown["value_key"].is_string(), "{shown}");
    // Without its master key, under another key, with the keyring elsewhere.
    for (key, more, code) in [
        ("/a", &[][..], 12),
        ("/moved", &both[..], 13),
        ("/a", &[&both[..], &["--reserved-prefix", "/other/"]].concat(), 1),
    ] {
        let output = get(key, more);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{error}");
        assert!(!error.contains("hunter2"));
    }

    let args = ["value", "open", "/a", "--snapshot", "latest"];
    let mut child = place
        .command(&args)
        .args(both)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&sealed).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"hunter2");
}
