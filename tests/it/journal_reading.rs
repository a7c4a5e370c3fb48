//! Recorded moments are looked at without restoring them, compared, written back into etcd, and verified to the last byte.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::BASE64;
use etcd_client::{Client, GetOptions};
use serde_json::Value;
use strongroom::backup::{DrillOptions, drill, snapshots};
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::etcd_server::{Etcd, Version};
use crate::journal::{Recording, Seed, load, now};
use crate::place::Place;
use crate::random_history::{Entry, Random, range, step};
use crate::support::local;

/// What `ls` says of the keys, as etcd answered it, with lengths in the place of values.
fn listed(document: &Value) -> Vec<(Vec<u8>, u64, i64, i64, i64, i64)> {
    let key = |row: &Value| {
        let text = row["key"].as_str().map(|text| text.as_bytes().to_vec());
        let base64 = || BASE64.decode(row["key_base64"].as_str().unwrap().as_bytes()).unwrap();
        text.unwrap_or_else(base64)
    };
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    let lease = |row: &Value| {
        row["lease"].as_str().map_or(0, |lease| i64::from_str_radix(lease, 16).unwrap())
    };
    let rows = document["keys"].as_array().unwrap().iter();
    rows.map(|row| {
        (
            key(row),
            row["value_bytes"].as_u64().unwrap(),
            number(row, "create_revision"),
            number(row, "mod_revision"),
            number(row, "version"),
            lease(row),
        )
    })
    .collect()
}

fn expected(entries: &[Entry]) -> Vec<(Vec<u8>, u64, i64, i64, i64, i64)> {
    let row = |(key, value, created, modified, version, lease): &Entry| {
        (key.clone(), value.len() as u64, *created, *modified, *version, *lease)
    };
    entries.iter().map(row).collect()
}

fn values(entries: &[Entry]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    entries.iter().map(|entry| (entry.0.clone(), entry.1.clone())).collect()
}

/// How many keys were added, changed and removed.
fn differences(before: &[Entry], after: &[Entry]) -> [usize; 3] {
    let (before, after) = (values(before), values(after));
    let added = after.keys().filter(|key| !before.contains_key(*key)).count();
    let removed = before.keys().filter(|key| !after.contains_key(*key)).count();
    let is_changed = |(key, value): &(&Vec<u8>, &Vec<u8>)| {
        before.get(*key).is_some_and(|before| before != *value)
    };
    [added, after.iter().filter(is_changed).count(), removed]
}

async fn live(client: &mut Client, prefix: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let answer = client.get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap();
    answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())).collect()
}

/// Each way to look at revision `at`.
fn look(place: &Place, at: i64, entries: &[Entry], random: &mut Random) {
    let revision = at.to_string();
    let document = place.json(&["ls", "latest", "--revision", &revision]);
    assert_eq!((listed(&document), &document["revision"]), (expected(entries), &Value::from(at)));
    if entries.is_empty() {
        return;
    }
    let entry = &entries[random.below(entries.len() as u64) as usize];
    let key = std::str::from_utf8(&entry.0).unwrap();
    let got = place.succeed(&["get", "latest", key, "--revision", &revision, "--show-value"]);
    assert!(got.stdout == entry.1, "{key} at {at}");
    let history = place.json(&["history", "latest", key, "--revision", &revision]);
    let changes = history["changes"].as_array().unwrap();
    assert_eq!(changes.last().unwrap()["revision"], entry.3, "{history}");
    assert_eq!(changes.last().unwrap()["version"], entry.4, "{history}");
}

async fn looked_at(version: Version) {
    let seed = Seed::new();
    let mut random = Random(seed.0);
    let etcd = Etcd::start(version).await;
    let mut client = etcd.client().await;
    let mut leases = Vec::new();
    let mut answers = load(&mut client, &mut random, &mut leases, 20).await;
    let compacted = *answers.keys().nth(answers.len() / 2).unwrap();
    let place = Place::new();
    let recording = Recording::start(&place, &etcd);
    answers.retain(|revision, _| *revision > compacted);
    answers.extend(load(&mut client, &mut random, &mut leases, 60).await);
    let then = *answers.keys().last().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let moment = now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    answers.extend(load(&mut client, &mut random, &mut leases, 10).await);
    let last = *answers.keys().last().unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.stop();

    let revisions: Vec<_> = answers.keys().copied().collect();
    let any = |random: &mut Random| revisions[random.below(revisions.len() as u64) as usize];
    let (one, other) = (any(&mut random), any(&mut random));
    for at in [one, last] {
        look(&place, at, &answers[&at], &mut random);
    }
    let document = place.json(&["ls", "latest", "--time", &moment]);
    assert_eq!(listed(&document), expected(&answers[&then]), "{document}");
    let beyond = (last + 5).to_string();
    let said = place.fail(1, &["ls", "latest", "--revision", &beyond]);
    assert!(said.contains(&format!("reaches revision {last}")), "{said}");

    let [before, after] = [one, other].map(|at| format!("rev:{at}"));
    let out = place.run(&["-w", "json", "diff", &before, &after]);
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let counts = differences(&answers[&one], &answers[&other]);
    assert_eq!(
        ["added", "changed", "removed"].map(|n| document[n].as_u64().unwrap() as usize),
        counts
    );
    assert_eq!(out.status.code(), Some(if counts == [0; 3] { 0 } else { 3 }));
    let at = format!("time:{moment}");
    let out = place.run(&["-w", "json", "diff", &at, "live", "--endpoints", etcd.endpoint()]);
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let counts = differences(&answers[&then], &answers[&last]);
    assert_eq!(
        ["added", "changed", "removed"].map(|n| document[n].as_u64().unwrap() as usize),
        counts
    );

    // Into etcd, as it was at a recorded revision, at a moment and at the last revision.
    let revision = one.to_string();
    let ways: [(i64, &[&str]); 3] =
        [(one, &["--revision", &revision]), (then, &["--to-time", &moment]), (last, &["--newest"])];
    for (at, way) in ways {
        let wanted: BTreeMap<_, _> =
            values(&answers[&at]).into_iter().filter(|(key, _)| key.starts_with(b"a/")).collect();
        let args =
            ["restore", "latest", "--to-cluster", "--prefix", "a/", "--delete", "--rate", "9999"];
        let all = [&args[..], &["--endpoints", etcd.endpoint()], way].concat();
        if wanted.is_empty() {
            assert!(place.fail(1, &all).contains("no key has the prefix"));
            continue;
        }
        let done = place.json(&all);
        assert_eq!(done["revision"], at, "{done}");
        assert_eq!(live(&mut client, "a/").await, wanted, "{done}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_moment_is_looked_at_3_4() {
    looked_at(Version::V3_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_moment_is_looked_at_3_7() {
    looked_at(Version::V3_7).await;
}

/// Snapshot and journals give the next snapshot, whatever was compacted meanwhile, and drills use them every second time.
#[tokio::test(flavor = "multi_thread")]
async fn stretches_are_verified_deep() {
    for version in Version::ENDS {
        let seed = Seed::new();
        let mut random = Random(seed.0);
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let place = Place::new();
        let mut leases = Vec::new();
        load(&mut client, &mut random, &mut leases, 10).await;
        let recording = Recording::start(&place, &etcd);
        for _ in 0..2 {
            for _ in 0..40 {
                step(&mut client, &mut random, &mut leases).await;
            }
            // It has all been recorded when etcd compacts it.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            let (revision, _) = range(&mut client, 0).await;
            // The newest revision stays: of a deletion, compaction leaves nothing that a journal could be compared with.
            client.compact(revision - 1 - random.below(10) as i64, None).await.unwrap();
            place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
        }
        tokio::time::sleep(Duration::from_millis(2500)).await;
        recording.stop();
        let list = place.json(&["journal", "list"]);
        assert_eq!(list["stretches"].as_array().unwrap().len(), 2, "{list}");
        assert_eq!(list["stretches"][0]["verified"], "not yet");
        let verified = place.json(&["verify", "latest", "--deep"]);
        assert_eq!(verified["journals"].as_array().unwrap().len(), 1, "{verified}");
        assert_eq!(verified["journals"][0]["outcome"], "verified", "{verified}");
        let verified = place.json(&["journal", "verify", "--deep", "--record"]);
        for stretch in verified["stretches"].as_array().unwrap() {
            assert_eq!(
                (&stretch["outcome"], &stretch["hash_kv"]),
                (&"verified".into(), &"equal".into())
            );
        }
        let list = place.json(&["journal", "list"]);
        for stretch in list["stretches"].as_array().unwrap() {
            assert_eq!(
                (&stretch["verified"], &stretch["report"]),
                (&"deep".into(), &verified["report"])
            );
        }
        let etcd_program = version.programs().join("etcd").display().to_string();
        let levels = [Value::from("journals"), Value::Null, Value::from("journals")];
        for level in levels {
            assert_eq!(rehearsed(&place, &etcd_program).await, None, "the snapshot itself");
            let drilled = place.json(&["drill", "--etcd", &etcd_program]);
            assert_eq!(
                (&drilled["passed"], &drilled["level"]),
                (&true.into(), &level),
                "{drilled}"
            );
            let checks = drilled["checks"].as_array().unwrap();
            let hash = checks.iter().find(|check| check["name"] == "HashKV").unwrap();
            assert_eq!(hash["outcome"], "passed", "{drilled}");
        }
    }
}

/// What the newest snapshot was restored through, in a drill that is to restore the snapshot itself.
async fn rehearsed(place: &Place, etcd: &str) -> Option<String> {
    let key = format!("file:{}", place.path("keyring").display());
    let keys = strongroom::custody::open(&[key.parse().unwrap()], None).await.unwrap();
    let repository = Repository::open(local(&place.path("repo")), None).await.unwrap();
    let id = snapshots(&repository, None).await.unwrap().snapshots.iter().map(|one| one.id).max();
    let options =
        DrillOptions { etcd: etcd.into(), through_journals: false, ..DrillOptions::default() };
    let control = Control::default();
    let drilled = drill(&repository, &keys, id.unwrap(), &options, &control).await.unwrap();
    assert!(drilled.report.passed());
    drilled.report.level
}

/// Another etcd under the same name: what was recorded does not lead to its snapshot, and a revision that both have is
/// restored only from a snapshot that is named.
#[tokio::test(flavor = "multi_thread")]
async fn two_histories_are_told_apart() {
    let (one, other) = (Etcd::start(Version::V3_5).await, Etcd::start(Version::V3_6).await);
    let fill = async |etcd: &Etcd, value: &str, puts: usize| {
        let mut client = etcd.client().await;
        for _ in 0..puts {
            client.put("a", value, None).await.unwrap();
        }
        range(&mut client, 0).await.0
    };
    let place = Place::new();
    fill(&one, "one", 5).await;
    let recording = Recording::start(&place, &one);
    fill(&one, "one", 10).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.stop();
    let there = fill(&other, "other", 12).await;
    place.succeed(&["--endpoints", other.endpoint(), "backup"]);
    let out = place.run(&["-w", "json", "journal", "verify", "--deep"]);
    let verified: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(3), "{verified}");
    assert_eq!(verified["stretches"][0]["outcome"], "differs", "{verified}");
    let why = verified["stretches"][0]["detail"].as_str().unwrap();
    assert!(why.ends_with("differs from the next snapshot at revision 2"), "{why}");

    place.succeed(&["--endpoints", one.endpoint(), "backup"]);
    place.succeed(&["--endpoints", other.endpoint(), "backup"]);
    let snapshots = place.snapshots();
    let (older, newer) = (&snapshots[2], &snapshots[3]);
    let at = (there - 2).to_string();
    for args in [&["get", "latest", "a"][..], &["restore", "latest", "--output", "x.db"]] {
        let said = place.fail(2, &[args, &["--revision", &at]].concat());
        assert!(said.contains(&format!("`{older} --revision {at}`")), "{said}");
        assert!(said.contains(&format!("`{newer} --revision {at}`")), "{said}");
    }
    for (snapshot, value) in [(older, "one"), (newer, "other")] {
        let got = place.succeed(&["get", snapshot, "a", "--revision", &at, "--show-value"]);
        assert_eq!(got.stdout, value.as_bytes());
    }
}

/// A file that is older than the last snapshot is not another history.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_file_is_of_the_same_history() {
    let etcd = Etcd::start(Version::V3_6).await;
    let place = Place::new();
    let mut client = etcd.client().await;
    for value in ["one", "two", "three", "four"] {
        client.put("a", value, None).await.unwrap();
        client.put("b", value, None).await.unwrap();
        place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
    }
    let second = place.snapshots().remove(1);
    place.succeed(&["restore", &second, "--output", "old.db"]);
    place.succeed(&["backup", "--file", "old.db"]);
    let got = place.succeed(&["get", "latest", "a", "--revision", "4", "--show-value"]);
    assert_eq!(got.stdout, b"two");
}
