//! What the program says: transcripts under tests/cmd, and what a transcript cannot show.
//!
//! `TRYCMD=overwrite` writes the transcripts anew.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::end_to_end::program;
use crate::place::{Place, text, write_secret};
use crate::support::small_database;

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .env("STRONGROOM_CONFIG", "/dev/null")
        .env("COLUMNS", "100")
        .case("tests/cmd/*.trycmd");
}

#[test]
fn flag_then_variable_then_file() {
    let place = Place::new();
    place.backup();
    let works = |filed: &str, variable: Option<&str>, typed: Option<&str>| {
        let config = format!("master_keys = [\"file:keyring\"]\n[repository]\nurl = \"{filed}\"\n");
        fs::write(place.path("strongroom.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.env_clear().current_dir(place.dir.path()).stdin(Stdio::null());
        command.args(["--config", "strongroom.toml", "verify", "latest"]);
        if let Some(url) = variable {
            command.env("STRONGROOM_REPOSITORY", url);
        }
        if let Some(url) = typed {
            command.args(["--repository", url]);
        }
        command.output().unwrap().status.success()
    };
    assert!(works("repo", None, None));
    assert!(!works("elsewhere", None, None));
    assert!(works("elsewhere", Some("repo"), None));
    assert!(!works("repo", Some("elsewhere"), None));
    assert!(works("elsewhere", Some("elsewhere"), Some("repo")));
    assert!(!works("repo", Some("repo"), Some("elsewhere")));
}

#[test]
fn json_is_all_there_is_on_standard_output() {
    let place = Place::new();
    let id = place.backup();
    for args in [
        &["snapshots"][..],
        &["show", "latest"],
        &["verify", "latest"],
        &["verify", "--all", "--digests"],
        &["key", "list"],
        &["key", "reseal", "--all"],
        &["restore", "latest", "--output", "etcd.db"],
        &["key", "rotate"],
    ] {
        let out = place.succeed(&[&["-w", "json"], args].concat());
        assert!(serde_json::from_slice::<Value>(&out.stdout).is_ok(), "{args:?}");
        // A person's advice is none of a program's business.
        assert!(!text(&out.stderr).contains("next:"), "{args:?}");
    }
    let out = place.succeed(&["-w", "json", "snapshots"]);
    let list: Value = serde_json::from_slice(&out.stdout).unwrap();
    for field in ["id", "cluster", "created", "revision", "database_bytes", "stored_bytes"] {
        assert!(!list[0][field].is_null(), "{field}");
    }
    assert_eq!(list[0]["id"], id.as_str());
}

#[test]
fn a_failure_is_json_on_standard_error() {
    let place = Place::new();
    place.backup();
    let out = place.run(&["-w", "json", "show", "ZZZZ"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stdout.is_empty());
    let error: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "not-found");
    assert!(error["error"]["message"].is_string() && error["error"]["hint"].is_string());
}

#[test]
fn restore_writes_the_database_and_nothing_else() {
    let place = Place::new();
    place.backup();
    let out = place.succeed(&["-w", "json", "restore", "latest", "--output", "-"]);
    let database = fs::read(small_database()).unwrap();
    assert!(out.stdout.starts_with(&database[..4096]));
    place.succeed(&["restore", "latest", "--output", "etcd.db"]);
    assert_eq!(out.stdout, fs::read(place.path("etcd.db")).unwrap());

    fs::write(place.path("etcd.db"), "precious").unwrap();
    let refused = place.run(&["restore", "latest", "--output", "etcd.db"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--force"));
    assert_eq!(fs::read(place.path("etcd.db")).unwrap(), b"precious");
    place.succeed(&["restore", "latest", "--output", "etcd.db", "--force"]);
    assert_eq!(out.stdout, fs::read(place.path("etcd.db")).unwrap());
}

/// The whole id must reach the verification, although no listing holds a broken manifest.
#[test]
fn a_broken_manifest_is_an_integrity_failure() {
    let place = Place::new();
    let id = place.backup();
    let manifest = place.path(&format!("repo/snapshots/{}/manifest", id));
    let mut bytes = fs::read(&manifest).unwrap();
    let at = bytes.windows(10).position(|window| window == b"\"revision\"").unwrap();
    bytes[at + 1] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    for args in [&["verify", &id][..], &["verify", "--all"]] {
        assert_eq!(place.run(args).status.code(), Some(13), "{args:?}");
    }
}

#[test]
fn another_keyring_opens_nothing() {
    let place = Place::new();
    place.backup();
    place.succeed(&["key", "generate", "-o", "other"]);
    for args in [&["verify", "latest"][..], &["restore", "latest", "--output", "etcd.db"]] {
        let mut command = program();
        command.current_dir(place.dir.path()).args(["-r", "repo", "-k", "file:other"]);
        let out = command.args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(12), "{args:?}: {}", text(&out.stderr));
    }
    assert!(!place.path("etcd.db").exists());
}

#[test]
fn passphrases_come_from_files_and_commands() {
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir.path().join("word"), "correct horse\r\n");
    let with = |key: &str, variable: (&str, &str), args: &[&str]| {
        let mut command = program();
        command.current_dir(dir.path()).args(["-r", "repo", "-k", key]).args(args);
        command.env(variable.0, variable.1).output().unwrap()
    };
    let key = |made: std::process::Output| {
        assert!(made.status.success(), "{}", text(&made.stderr));
        text(&made.stdout).lines().find(|line| line.starts_with("passphrase:")).unwrap().to_owned()
    };
    let database = small_database();
    let file = ("STRONGROOM_PASSPHRASE_FILE", "word");
    let uri = key(with("passphrase", file, &["init"]));
    let run = |variable: (&str, &str), args: &[&str]| with(&uri, variable, args);
    assert!(run(file, &["backup", "--file", database.to_str().unwrap()]).status.success());
    let command = ("STRONGROOM_PASSPHRASE_COMMAND", "printf 'correct horse'");
    assert!(run(command, &["verify", "latest"]).status.success());
    let wrong = ("STRONGROOM_PASSPHRASE_COMMAND", "echo wrong");
    assert_eq!(run(wrong, &["verify", "latest"]).status.code(), Some(12));
    let again = with("passphrase", file, &["init"]);
    assert_eq!(again.status.code(), Some(1), "it has one already");
    fs::remove_dir_all(dir.path().join("repo/keys")).unwrap();
    let uri = key(with("passphrase", file, &["init"]));
    let run = |variable: (&str, &str), args: &[&str]| with(&uri, variable, args);
    assert!(run(file, &["backup", "--file", database.to_str().unwrap()]).status.success());
    write_secret(&dir.path().join("word"), "\n");
    assert_eq!(run(file, &["verify", "latest"]).status.code(), Some(2));
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let place = Place::new();
    place.backup();
    for args in [&["completions", "bash"][..], &["snapshots"], &["restore", "latest", "-o", "-"]] {
        let mut child =
            place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert!(!text(&out.stderr).contains("panicked"), "{args:?}");
        assert_eq!(out.status.signal(), None, "{args:?}");
    }
}

/// A store that takes connections and never answers.
#[test]
fn a_signal_ends_whatever_waits_for_the_store() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let id = "01J00000000000000000000000";
    let run = |args: &&[&str]| {
        let mut command = place.command(args);
        command.args(["-r", "s3://backups/p"]).env("AWS_ENDPOINT_URL", &url);
        command.env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let commands: &[&[&str]] = &[
        &["snapshots"],
        &["show", id],
        &["verify", "--all"],
        &["prune", "--keep-last", "1"],
        &["restore", id, "-o", "out.db"],
        &["copy", "--to", "second"],
        &["key", "reseal", "--all"],
        &["ls", id],
        &["stats", id],
        &["diff", id, id],
        &["drill", id],
        &["reports"],
        &["key", "list"],
        &["key", "rotate"],
        &["prune", "--quarantine"],
        &["init"],
    ];
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut children: Vec<_> = commands.iter().map(run).collect();
    for child in &children {
        while !catches_term(child.id()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        terminate(child);
    }
    for (child, args) in children.iter_mut().zip(commands) {
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(130), "{args:?}: {status}");
    }
}

/// Whether the process has its handler of SIGTERM, which is signal 15.
fn catches_term(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

/// A listener that accepts and never answers, as a dead etcd does.
#[test]
fn a_signal_ends_a_backup_that_waits_for_etcd() {
    let place = Place::new();
    place.backup();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let before = objects(&place.path("repo"));
    let child = place
        .command(&["backup", "--endpoints", &endpoint, "--dial-timeout", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has its signal handlers once it connects.
    let _held = listener.accept().unwrap();
    let sent = Instant::now();
    terminate(&child);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
    assert!(sent.elapsed() < Duration::from_secs(8));
    assert_eq!(objects(&place.path("repo")), before);
}

#[test]
fn progress_is_one_json_object_a_line() {
    let place = Place::new();
    place.backup();
    let out = place.succeed(&["--progress", "json", "-q", "verify", "latest"]);
    let lines = text(&out.stderr);
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");
    assert_eq!(last["done"], last["total"]);
}

/// Every file below `dir`.
fn objects(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(objects(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}
