//! A recorder whose host's clock is set: nothing that was recorded is lost, and times that are in doubt are not answered.

use std::fs;
use std::time::Duration;

use crate::agent_soak::clock_library;
use crate::etcd_server::{Etcd, Version};
use crate::journal::{Recording, now, revision_of};
use crate::place::Place;

/// Sets the clock by so many seconds while it records, and right again; each time another journal begins.
async fn a_clock_is_set(etcd: &Etcd, seconds: i64) {
    let mut client = etcd.client().await;
    let mut put = async |value: &str| {
        let put = client.put("a", value, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        put.header().unwrap().revision()
    };
    put("before").await;
    let place = Place::new();
    let (library, clock) = (clock_library(&place), place.path("clock"));
    fs::write(&clock, "0").unwrap();
    let recording = Recording::start_with(&place, etcd.endpoint(), |command| {
        command.env("LD_PRELOAD", &library).env("SOAK_CLOCK", &clock);
    });
    let right = put("right").await;
    let moment = now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::write(&clock, seconds.to_string()).unwrap();
    put("wrong").await;
    recording.until("this host's clock was set");
    recording.until_times("begins with revision", 2);
    put("wrong again").await;
    fs::write(&clock, "0").unwrap();
    put("right again").await;
    recording.until_times("this host's clock was set", 2);
    let last = put("last").await;
    let said = recording.stop();
    assert!(!said.contains("gap"), "{said}");
    assert_eq!(place.snapshots().len(), 1, "{said}");
    let list = place.json(&["journal", "list"]);
    assert_eq!(list["gaps"], serde_json::json!([]), "{list}");
    assert_eq!(place.json(&["journal", "verify"])["findings"], serde_json::json!([]));
    let said = place.succeed(&["restore", "--newest", "--output", "newest.db", "--dry-run"]).stdout;
    assert!(String::from_utf8_lossy(&said).contains("what was recorded after it comes on top"));
    let restored = place.json(&["restore", "--newest", "--output", "newest.db"]);
    assert_eq!(revision_of(&restored), last, "{restored}");
    // A moment before it was set is answered rightly, or it is said that it cannot be.
    let args = ["-w", "json", "restore", "--to-time", &moment, "--output", "moment.db"];
    let out = place.run(&args);
    match out.status.code() {
        Some(0) => {
            let restored = serde_json::from_slice(&out.stdout).unwrap();
            assert_eq!(revision_of(&restored), right, "{restored}");
        }
        code => assert_eq!((code, seconds < 0), (Some(1), true), "{out:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_loses_nothing() {
    let etcds = (Etcd::start(Version::V3_5).await, Etcd::start(Version::V3_6).await);
    tokio::join!(a_clock_is_set(&etcds.0, 3600), a_clock_is_set(&etcds.1, -3600));
}
