//! `journal record`, killed with SIGKILL again and again: what was stored, or was in the spool, is restored, and nothing
//! goes back.

use std::time::Duration;

use serde_json::json;

use crate::etcd_server::{Etcd, Version};
use crate::journal::{Recording, Seed, revision_of};
use crate::place::Place;
use crate::random_history::Random;

/// The last revision that the repository restores; 0 before there is a snapshot.
fn reached(place: &Place) -> i64 {
    if place.snapshots().is_empty() {
        return 0;
    }
    let restored = place.json(&["restore", "--newest", "--output", "newest.db", "--force"]);
    revision_of(&restored)
}

async fn kills(times: usize) {
    let seed = Seed::new();
    let mut random = Random(seed.0);
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    client.put("a", "before", None).await.unwrap();
    let place = Place::new();
    let endpoint = etcd.endpoint();
    let with_spool = |command: &mut std::process::Command| {
        command.args(["--spool", "spool"]);
    };
    let mut before = 0;
    for round in 0..times {
        let recording = Recording::begin(&place, endpoint, with_spool);
        // From before it opens the repository to behind a few segments.
        let end = tokio::time::Instant::now() + Duration::from_millis(random.below(5000));
        while tokio::time::Instant::now() < end {
            client.put(format!("k/{}", random.below(20)), random.value(), None).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = recording.said();
        recording.kill();
        let now = reached(&place);
        assert!(now >= before, "round {round}: {now} after {before}: {said}");
        before = now;
    }
    let recording = Recording::start_with(&place, endpoint, with_spool);
    let last = client.put("a", "after", None).await.unwrap().header().unwrap().revision();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let said = recording.stop();
    assert!(!said.contains("gap"), "{said}");
    assert_eq!(reached(&place), last);
    let verified = place.json(&["journal", "verify"]);
    assert_eq!((&verified["findings"], &verified["gaps"]), (&json!([]), &json!([])));
    place.succeed(&["--endpoints", endpoint, "backup"]);
    let verified = place.json(&["journal", "verify", "--deep"]);
    let stretches = verified["stretches"].as_array().unwrap();
    assert_eq!(stretches.last().unwrap()["outcome"], "verified", "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_is_killed_a_few_times() {
    kills(4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: a recorder that is killed 60 times"]
async fn soak_of_a_recorder_that_is_killed() {
    kills(60).await;
}
