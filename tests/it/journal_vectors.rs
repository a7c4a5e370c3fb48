//! Golden vectors of journals: beside a snapshot in `tests/vectors/repositories/journal*`, read here and by `open.py`.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use etcd_client::PutOptions;
use serde_json::{Value, json};
use strongroom::backup::{
    BackupOptions, Moment, RecordOptions, RecordReport, Stretches, Target, bundle_journals,
    known_stretches, plan_restore, record, restore_recorded,
};
use strongroom::bolt::Db;
use strongroom::crypto::Suite;
use strongroom::etcd::EtcdSettings;
use strongroom::format::{ClusterName, SnapshotId};
use strongroom::mvcc::{self, Revision};
use strongroom::store::Repository;
use strongroom::task::Control;
use tokio::sync::watch;

use crate::etcd_server::{Etcd, Version};
use crate::support::{TestRepo, keys, local, restore_bytes, vector};

const NAME: &str = "journal";
/// The same journal as a bundle, without its segments.
const BUNDLED: &str = "journal-bundled";
/// The snapshot was taken while the journal was recorded, and compared with it: its facts say so.
const COMPARED: &str = "journal-compared";

fn repositories() -> PathBuf {
    vector("repositories")
}

/// Records of the main revisions from `first` on, each as two lengths and its bytes: SHA-256 of all.
fn digest(database: &[u8], first: i64) -> String {
    let db = Db::open(database).unwrap();
    let mut bytes = Vec::new();
    mvcc::for_each_record(&db, Revision { main: first, sub: 0 }, |record| {
        for part in [record.raw.0, record.raw.1] {
            bytes.extend((part.len() as u32).to_be_bytes());
            bytes.extend(part);
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    data_encoding::HEXLOWER.encode(&strongroom::crypto::sha256(&[&bytes]))
}

/// Restores the last revision of `journal` behind `snapshot`: that revision, and the digest of its records from the first
/// of the journal on.
pub(crate) async fn restored(
    repository: &Repository,
    snapshot: SnapshotId,
    first: i64,
) -> (i64, String) {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(&[1]);
    let plan = plan_restore(repository, &keys, None, Some(snapshot), Moment::Newest, dir.path());
    let plan = plan.await.unwrap();
    assert_eq!(plan.journals.len(), 1, "{:?}", plan.warnings);
    let path = dir.path().join("restored.db");
    let target =
        Target::File { path: path.clone(), force: false, revision: None, allow_untested: false };
    let control = Control::default();
    let report = restore_recorded(repository, &keys, &plan, target, &control).await.unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.len() - 32);
    (report.revision.cast_signed(), digest(&bytes, first))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_golden_journal_restores_what_it_must() {
    for name in [NAME, BUNDLED, COMPARED] {
        let spec = fs::read(repositories().join(format!("{name}.json"))).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        let repository = Repository::open(local(&repositories().join(name)), None).await.unwrap();
        let snapshot = spec["snapshot"].as_str().unwrap().parse().unwrap();
        for journal in spec["journals"].as_object().unwrap().values() {
            let first = spec["first"].as_i64().unwrap();
            let (last, records) = restored(&repository, snapshot, first).await;
            assert_eq!((&json!(last), &json!(records)), (&journal["last"], &journal["records"]));
        }
    }
}

/// What is recorded of `etcd` while `changes` are made.
async fn record_while(
    etcd: &Etcd,
    repository: &Repository,
    changes: impl Future<Output = ()>,
) -> RecordReport {
    let settings =
        EtcdSettings { endpoints: vec![etcd.endpoint().into()], ..EtcdSettings::default() };
    let options = RecordOptions::new(ClusterName::default(), Duration::from_secs(1));
    let (stop, stopped) = watch::channel(false);
    let control = Control::default().stop_when(stopped);
    let (keys, snapshots) = (keys(&[1, 2]), BackupOptions::default());
    let changes = async {
        changes.await;
        stop.send_replace(true);
    };
    let (recorded, ()) = tokio::join!(
        record(repository, None, &keys, &settings, &options, &snapshots, &control),
        changes
    );
    recorded.unwrap()
}

/// Keeps a repository as the vector `name`, with what a reader must restore.
async fn keep(test: &TestRepo, name: &str, snapshot: SnapshotId, journal: SnapshotId) {
    // The recording begins with the first snapshot's revision.
    let first = 2;
    let (last, records) = restored(&test.repository, snapshot, first).await;
    let (_, report) = restore_bytes(&test.repository, &keys(&[1, 2]), snapshot).await.unwrap();
    let spec = json!({
        "class": "ok",
        "keyring": "../../../keys/test-only/keyring",
        "snapshot": snapshot.to_string(),
        "sha256": report.sha256.to_string(),
        "first": first,
        "journals": { journal.to_string(): { "last": last, "records": records } },
    });
    copy(test.dir.path(), &repositories().join(name));
    let text = serde_json::to_string_pretty(&spec).unwrap() + "\n";
    fs::write(repositories().join(format!("{name}.json")), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the vector of a journal if it is missing"]
async fn write_missing_vectors_of_journals() {
    let place = repositories().join(NAME);
    if place.exists() {
        return;
    }
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    client.put("a", "1", None).await.unwrap();
    let test = TestRepo::new().await;
    let changes = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let lease = client.lease_grant(600, None).await.unwrap().id();
        let leased = Some(PutOptions::new().with_lease(lease));
        client.put("a", "2", leased).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        client.delete("a", None).await.unwrap();
        client.put("b", vec![7; 300], None).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    };
    let recorded = record_while(&etcd, &test.repository, changes).await;
    let (snapshot, journal) = (recorded.snapshots[0], recorded.journals[0]);
    keep(&test, NAME, snapshot, journal).await;
}

/// The golden snapshot tells what it was compared with, and `journal list` shows it.
#[tokio::test(flavor = "multi_thread")]
async fn the_golden_comparison_is_read() {
    let repository = Repository::open(local(&repositories().join(COMPARED)), None).await.unwrap();
    let stretches = known_stretches(&repository, &keys(&[1]), &Stretches::default()).await.unwrap();
    assert_eq!(stretches.len(), 1, "{stretches:?}");
    let [from, to] = [stretches[0].compared_from, stretches[0].compared_to];
    assert!(from.is_some_and(|from| to.is_some_and(|to| from < to)), "{stretches:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the vector of a snapshot that was compared with a journal if it is missing"]
async fn write_missing_vectors_of_comparisons() {
    let place = repositories().join(COMPARED);
    if place.exists() {
        return;
    }
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    client.put("a", "1", None).await.unwrap();
    let test = TestRepo::new().await;
    let changes = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        for n in 2..6 {
            client.put("a", n.to_string(), None).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        // A snapshot is taken for what no journal holds.
        client.role_add("reader").await.unwrap();
        tokio::time::sleep(Duration::from_secs(15)).await;
        client.put("b", "1", None).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    };
    let recorded = record_while(&etcd, &test.repository, changes).await;
    let [_, snapshot] = recorded.snapshots[..] else { panic!("{recorded:?}") };
    keep(&test, COMPARED, snapshot, recorded.journals[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the vector of a bundle if it is missing"]
async fn write_missing_vectors_of_bundles() {
    let place = repositories().join(BUNDLED);
    if place.exists() {
        return;
    }
    copy(&repositories().join(NAME), &place);
    let repository = Repository::open(local(&place), None).await.unwrap();
    let (cluster, control) = (ClusterName::default(), Control::default());
    let how = (Suite::Aes256Gcm, SystemTime::UNIX_EPOCH);
    let bundled = bundle_journals(&repository, &keys(&[1, 2]), &cluster, how, &control).await;
    assert_eq!(bundled.unwrap(), 1);
    for info in repository.list("journals").await.unwrap() {
        if info.name.contains("/segment.") {
            fs::remove_file(place.join(info.name)).unwrap();
        }
    }
    let spec = |name: &str| repositories().join(format!("{name}.json"));
    fs::copy(spec(NAME), spec(BUNDLED)).unwrap();
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
