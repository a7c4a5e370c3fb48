//! A member of etcd whose data has changed on its disk: what was recorded of it before and its next snapshot disagree, and
//! everybody who looks is told at which revision.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::agent::Agent;
use crate::agent_journal::{continuous, events, put, stored, until};
use crate::etcd_server::{Etcd, Version};
use crate::journal::Recording;
use crate::place::{Place, text};

const GOOD: &str = "a value that was acknowledged";
const BAD: &str = "a value that nobody has put..";

/// Puts `BAD` where the stopped member has `GOOD`: bolt has no checksum of its pages.
fn corrupt(etcd: &Etcd) {
    let path = etcd.database(0);
    let mut bytes = fs::read(&path).unwrap();
    let places: Vec<_> = bytes
        .windows(GOOD.len())
        .enumerate()
        .filter(|(_, window)| *window == GOOD.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + BAD.len()].copy_from_slice(BAD.as_bytes());
    }
    fs::write(path, bytes).unwrap();
}

/// What the repository of `place` tells of it.
fn is_told(place: &Place, differs: i64) {
    let named = format!("differs from the next snapshot at revision {differs}");
    let out = place.run(&["-w", "json", "journal", "verify", "--deep", "--record"]);
    let verified: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(3), "{verified}");
    assert_eq!(verified["stretches"][0]["outcome"], "differs", "{verified}");
    assert!(verified["stretches"][0]["detail"].as_str().unwrap().ends_with(&named), "{verified}");
    assert_eq!(place.json(&["journal", "list"])["stretches"][0]["verified"], "differs");
    let out = place.run(&["verify", "latest", "--deep"]);
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.code() == Some(3) && said.contains(&named), "{said}");
    // The newest snapshot is the base, and what was recorded before contradicts it.
    let out = place.run(&["restore", "--newest", "--output", "newest.db"]);
    let said = text(&out.stderr);
    assert!(
        out.status.code() == Some(3) && said.contains(&format!("revision {differs}")),
        "{said}"
    );
    // From the snapshot before, what was recorded is restored.
    let base = place.snapshots().remove(0);
    let at = differs.to_string();
    let got = place.run(&["get", &base, "victim", "--revision", &at, "--show-value"]);
    assert_eq!(text(&got.stdout), GOOD, "{}", text(&got.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_contradicts_what_was_recorded_is_told() {
    let mut etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    put(&mut client, "before", 3).await;
    let (place, other) = (Place::new(), Place::new());
    let agent = Agent::start(&place, &continuous(&etcd));
    let recording = Recording::start(&other, &etcd);
    agent.wait("journal_started", 1);
    put(&mut client, "good", 20).await;
    let differs = client.put("victim", GOOD, None).await.unwrap().header().unwrap().revision();
    let last = put(&mut client, "good", 20).await;
    stored(&agent, last);
    tokio::time::sleep(Duration::from_secs(3)).await;
    etcd.kill(0);
    corrupt(&etcd);
    let restarting = tokio::task::spawn_blocking(move || {
        etcd.restart(0);
        etcd
    });
    let etcd = restarting.await.unwrap();
    let mut client = etcd.client().await;
    stored(&agent, put(&mut client, "good", 1).await);
    // A snapshot is taken for what no journal holds.
    client.role_add("reader").await.unwrap();
    agent.wait("backup_finding", 1);
    let finding = events(&agent, "backup_finding").remove(0);
    let error = finding["error"].as_str().unwrap();
    assert!(
        error.ends_with(&format!("the change journal differ at revision {differs}")),
        "{error}"
    );
    let count = || agent.metric_if_there("strongroom_journal_disagreements_total{");
    until("it is not counted", &agent, || count() == Some(1.0));
    assert_eq!(agent.metric_if_there("strongroom_journal_verified_revision{"), None);
    assert!(agent.get("/").1.contains(&format!("differ at revision {differs}")));
    agent.end();
    is_told(&place, differs);

    recording.until(&format!("the snapshot and the change journal differ at revision {differs}"));
    let (status, said) = recording.end();
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains(&format!("what was recorded differ at revision {differs}")), "{said}");
    is_told(&other, differs);
}
