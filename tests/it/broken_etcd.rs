//! The program against an etcd that breaks off, stalls or lies: the right exit status, and nothing left.

use std::fs;
use std::process::Output;

use crate::fake_etcd::{self, Script, Step, good_steps};
use crate::place::{Place, long_database};

const UNREACHABLE: i32 = 4;
const INTEGRITY: i32 = 13;

/// Backs up from an etcd that plays `steps`.
async fn backup(place: &Place, steps: Vec<Step>) -> Output {
    let endpoint = fake_etcd::start(Script { steps, ..Script::default() }).await;
    let args = ["-w", "json", "--endpoints", &endpoint, "--command-timeout", "1s", "backup"];
    let mut command = place.command(&args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_broken_stream_stays() {
    let place = Place::new();
    let database = long_database(1 << 20);
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
        let out = backup(&place, steps).await;
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{name}: {error}");
        assert!(error.contains(says), "{name}: {error}");
        assert!(out.stdout.is_empty(), "{name}");
        assert!(place.snapshots().is_empty(), "{name}");
        assert!(place.objects().is_empty(), "{name}");
    }
    let out = backup(&place, good).await;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    place.succeed(&["verify", "--all"]);
    place.succeed(&["restore", "latest", "-o", "restored.db"]);
    assert_eq!(fs::read(place.path("restored.db")).unwrap()[..database.len()], database[..]);
}
