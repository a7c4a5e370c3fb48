//! What a recorder owes is taken by the next one: the snapshot that a recording follows, and that of changed users.

use std::fs;
use std::time::Duration;

use crate::etcd_server::{Etcd, Version};
use crate::journal::Recording;
use crate::place::Place;

/// Records some revisions, and stops.
async fn record_some(place: &Place, etcd: &Etcd) -> String {
    let recording = Recording::start(place, etcd);
    for at in 0..5 {
        etcd.put("a", &at.to_string()).await;
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_without_a_base_gets_one() {
    let etcd = Etcd::start(Version::V3_6).await;
    etcd.put("a", "before").await;
    let place = Place::new();
    record_some(&place, &etcd).await;
    let said = record_some(&place, &etcd).await;
    assert!(!said.contains("taking a snapshot"), "{said}");
    // As if the first recorder had been killed before its snapshot was stored.
    let base = place.snapshots().remove(0);
    fs::remove_dir_all(place.path(&format!("repo/snapshots/{base}"))).unwrap();
    let said = record_some(&place, &etcd).await;
    assert!(said.contains("taking a snapshot: the recording begins here"), "{said}");
    assert_eq!(place.snapshots().len(), 1);
    let said = record_some(&place, &etcd).await;
    assert!(!said.contains("taking a snapshot"), "{said}");
    assert_eq!(place.json(&["journal", "list"])["gaps"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_were_changed_while_nobody_recorded_get_a_snapshot() {
    let etcd = Etcd::start(Version::V3_6).await;
    let place = Place::new();
    record_some(&place, &etcd).await;
    etcd.etcdctl(&["user", "add", "later:word"]);
    let said = record_some(&place, &etcd).await;
    assert!(said.contains("taking a snapshot: users or roles were changed"), "{said}");
    let said = record_some(&place, &etcd).await;
    assert!(!said.contains("taking a snapshot"), "{said}");
}
