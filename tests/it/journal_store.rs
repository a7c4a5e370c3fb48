//! A recorder whose store is away for a while.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::Client;
use strongroom::backup::{
    BackupOptions, Moment, RecordOptions, RecordReport, Target, plan_restore, record,
    restore_recorded,
};
use strongroom::etcd::EtcdSettings;
use strongroom::format::ClusterName;
use strongroom::task::{Control, Step};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::etcd_server::{Etcd, Version};
use crate::faulty::Faulty;
use crate::support::{TestRepo, keys, local};

struct Recording {
    store: Faulty,
    notes: Arc<Mutex<Vec<String>>>,
    stop: watch::Sender<bool>,
    job: JoinHandle<strongroom::Result<RecordReport>>,
}

impl Recording {
    /// Records `etcd` every second.
    async fn start(repo: &TestRepo, etcd: &Etcd) -> Self {
        let store = Faulty::passing(local(repo.dir.path()));
        let repository = repo.through(Arc::new(store.clone())).await.unwrap();
        let endpoints = vec![etcd.endpoint().into()];
        let settings = EtcdSettings { endpoints, ..EtcdSettings::default() };
        let cluster = ClusterName::default();
        let options = RecordOptions { cluster, interval: Duration::from_secs(1) };
        let (stop, stopped) = watch::channel(false);
        let notes: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&notes);
        let control = Control::default().stop_when(stopped).on_step(move |step| {
            if let Step::Note(note) = step {
                heard.lock().unwrap().push(note);
            }
        });
        let runtime = tokio::runtime::Handle::current();
        let job = tokio::task::spawn_blocking(move || {
            let (keys, snapshots) = (keys(&[1]), BackupOptions::default());
            runtime.block_on(record(&repository, &keys, &settings, &options, &snapshots, &control))
        });
        Self { store, notes, stop, job }
    }

    /// Waits until `words` were said `times` times.
    async fn until(&self, words: &str, times: usize) {
        let begun = Instant::now();
        let said = || self.notes.lock().unwrap().clone();
        while said().iter().filter(|note| note.contains(words)).count() < times {
            assert!(begun.elapsed() < Duration::from_secs(25), "{words}: {:?}", said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) -> RecordReport {
        self.stop.send_replace(true);
        self.job.await.unwrap().unwrap()
    }
}

async fn put(client: &mut Client, times: usize, size: usize) -> i64 {
    let mut last = 0;
    for _ in 0..times {
        let answer = client.put("key", vec![7; size], None).await.unwrap();
        last = answer.header().unwrap().revision();
    }
    last
}

/// What the recorder could not store while the store was away is recorded again, and what it had stored still counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_away_leaves_no_gap() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    let recording = Recording::start(&repo, &etcd).await;
    recording.until("begins with revision", 1).await;
    // More than the next journal repeats: what the first one holds is needed.
    let before = put(&mut client, 100, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.store.set_away(true);
    put(&mut client, 36, 1 << 20).await;
    recording.until("a journal cannot begin", 1).await;
    recording.store.set_away(false);
    let last = put(&mut client, 1, 1).await;
    recording.until("begins with revision", 2).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let report = recording.stop().await;
    assert_eq!((report.last, report.seen), (last, last), "{report:?}");
    assert_eq!((report.snapshots.len(), report.journals.len()), (1, 2), "{report:?}");

    let keys = keys(&[1]);
    let dir = tempfile::tempdir().unwrap();
    for (moment, revision) in [
        (Moment::Revision(before - 80), before - 80),
        (Moment::Revision(before + 20), before + 20),
        (Moment::Newest, last),
    ] {
        let snapshot = Some(report.snapshots[0]);
        let plan = plan_restore(&repo.repository, &keys, None, snapshot, moment, dir.path());
        let path = dir.path().join(revision.to_string());
        let target = Target::File { path, force: false, revision: None, allow_untested: false };
        let control = Control::default();
        let plan = plan.await.unwrap();
        let restored = restore_recorded(&repo.repository, &keys, &plan, target, &control).await;
        assert_eq!(restored.unwrap().revision, revision.unsigned_abs());
    }
}

/// A recorder that is stopped while the store is away says that something is missing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_stored_at_the_end_is_told() {
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    let stored = put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    let recording = Recording::start(&repo, &etcd).await;
    recording.until("begins with revision", 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.store.set_away(true);
    let seen = put(&mut client, 3, 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let report = recording.stop().await;
    assert_eq!((report.last, report.seen), (stored, seen), "{report:?}");
}
