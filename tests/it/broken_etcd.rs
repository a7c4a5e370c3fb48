//! The program against an etcd that breaks off, stalls or lies: the right exit status, and nothing left.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::end_to_end::program;
use crate::fake_etcd::{self, Script, Step, good_steps};
use crate::support::small_database;

const UNREACHABLE: i32 = 4;
const INTEGRITY: i32 = 13;

/// Backs up from an etcd that plays `steps`.
async fn backup(dir: &Path, steps: Vec<Step>) -> Output {
    let endpoint = fake_etcd::start(Script { steps, ..Script::default() }).await;
    let mut command = program();
    command.current_dir(dir).args(["-r", "repo", "-k", "file:keyring", "-w", "json"]);
    command.args(["--endpoints", &endpoint, "--command-timeout", "1s", "backup"]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn run(dir: &Path, args: &[&str]) -> Value {
    let mut command = program();
    command.current_dir(dir).args(["-r", "repo", "-k", "file:keyring", "-w", "json"]).args(args);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// A real database, made longer by bytes that no page of it is.
fn database() -> Vec<u8> {
    let mut database = fs::read(small_database()).unwrap();
    database.resize(1 << 20, 7);
    database
}

/// The objects of all snapshots; a staged file is none.
fn objects(dir: &Path) -> usize {
    let Ok(folders) = fs::read_dir(dir.join("repo/snapshots")) else { return 0 };
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.filter(|file| !file.as_ref().unwrap().path().to_string_lossy().contains('#')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_broken_stream_stays() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["key", "generate", "-o", "keyring"]);
    run(dir.path(), &["init"]);
    let database = database();
    let good = good_steps(&database);
    let last = good.len() - 1;
    let left = |at: usize| (database.len() - at * 32 * 1024) as u64;
    let with = |edit: &dyn Fn(&mut Vec<Step>)| {
        let mut steps = good.clone();
        edit(&mut steps);
        steps
    };
    let cases: Vec<(&str, Vec<Step>, i32, &str)> = vec![
        ("dies", with(&|all| all[1] = Step::Fail("etcd is going down")), UNREACHABLE, "going down"),
        ("stalls", with(&|all| all[1] = Step::Stall), UNREACHABLE, "1s"),
        ("does not end", with(&|all| all.push(Step::Stall)), UNREACHABLE, "1s"),
        ("empty blobs", with(&|all| all[1] = Step::Forever(vec![], left(1))), 1, "empty"),
        ("too much", with(&|all| all.insert(last, Step::Send(vec![7; 4096], 0))), 1, "snapshot"),
        ("too little", with(&|all| all.truncate(last - 1)), 1, "snapshot"),
        ("no digest", with(&|all| all.truncate(last)), 1, "snapshot"),
        ("wrong digest", with(&|all| all[last] = Step::Send(vec![1; 32], 0)), INTEGRITY, "SHA-256"),
        ("no bolt file", good_steps(&vec![7; 1 << 20]), INTEGRITY, "meta page"),
    ];
    for (name, steps, code, says) in cases {
        let out = backup(dir.path(), steps).await;
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{name}: {error}");
        assert!(error.contains(says), "{name}: {error}");
        assert!(out.stdout.is_empty(), "{name}");
        assert_eq!(run(dir.path(), &["snapshots"]), Value::Array(vec![]), "{name}");
        assert_eq!(objects(dir.path()), 0, "{name}");
    }
    let out = backup(dir.path(), good).await;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    run(dir.path(), &["verify", "--all"]);
    run(dir.path(), &["restore", "latest", "-o", "restored.db"]);
    assert_eq!(fs::read(dir.path().join("restored.db")).unwrap()[..database.len()], database[..]);
}
