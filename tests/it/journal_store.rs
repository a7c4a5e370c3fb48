//! A recorder whose store is away for a while, and one that is killed then.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::Client;
use rand_core::Rng;
use strongroom::backup::{
    BackupOptions, Moment, RecordOptions, RecordReport, Scope, Target, copy, journals,
    open_replica, plan_restore, record, restore_recorded,
};
use strongroom::crypto::system_rng;
use strongroom::etcd::EtcdSettings;
use strongroom::format::{ClusterName, SnapshotId};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::task::{Control, JournalStep, Step};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::etcd_server::{Etcd, Version};
use crate::faulty::Faulty;
use crate::support::{TestRepo, keys, local};

pub(crate) struct Recording {
    pub(crate) store: Faulty,
    pub(crate) notes: Arc<Mutex<Vec<String>>>,
    /// Bytes that wait for the store.
    waits: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    kill: watch::Sender<bool>,
    job: JoinHandle<Option<strongroom::Result<RecordReport>>>,
}

impl Recording {
    /// Records `etcd` every second.
    async fn start(repo: &TestRepo, etcd: &Etcd) -> Self {
        Self::spooling(repo, etcd, None, None).await
    }

    /// As [`start`](Self::start), with a spool, and a second place.
    pub(crate) async fn spooling(
        repo: &TestRepo,
        etcd: &Etcd,
        spool: Option<&Path>,
        second: Option<Repository>,
    ) -> Self {
        let store = Faulty::passing(local(repo.dir.path()));
        Self::on(store, repo, etcd, spool, second).await.unwrap()
    }

    /// On this store, if the repository opens there.
    pub(crate) async fn on(
        store: Faulty,
        repo: &TestRepo,
        etcd: &Etcd,
        spool: Option<&Path>,
        second: Option<Repository>,
    ) -> strongroom::Result<Self> {
        let mut options = RecordOptions::new(ClusterName::default(), Duration::from_secs(1));
        options.spool = spool.map(Path::to_owned);
        Self::with(store, repo, etcd, (options, keys(&[1])), second).await
    }

    /// As [`on`](Self::on), with these options and keys.
    pub(crate) async fn with(
        store: Faulty,
        repo: &TestRepo,
        etcd: &Etcd,
        (options, keys): (RecordOptions, KeySet),
        second: Option<Repository>,
    ) -> strongroom::Result<Self> {
        let repository = repo.through(Arc::new(store.clone())).await?;
        let endpoints = vec![etcd.endpoint().into()];
        let settings = EtcdSettings { endpoints, ..EtcdSettings::default() };
        let ((stop, stopped), (kill, mut killed)) = (watch::channel(false), watch::channel(false));
        let notes: Arc<Mutex<Vec<String>>> = Arc::default();
        let (heard, waits) = (Arc::clone(&notes), Arc::<AtomicU64>::default());
        let waiting = Arc::clone(&waits);
        let control = Control::default().stop_when(stopped).on_step(move |step| {
            let note = match step {
                Step::Note(note) => Some(note),
                Step::Journal(step) => {
                    if let JournalStep::Waiting { queued, .. } = &step {
                        waiting.store(*queued, Ordering::SeqCst);
                    }
                    step.note()
                }
                _ => None,
            };
            heard.lock().unwrap().extend(note);
        });
        let runtime = tokio::runtime::Handle::current();
        let job = tokio::task::spawn_blocking(move || {
            let (snapshots, second) = (BackupOptions::default(), second.as_ref());
            let recording =
                record(&repository, second, &keys, &settings, &options, &snapshots, &control);
            runtime.block_on(async {
                tokio::select! {
                    report = recording => Some(report),
                    _ = killed.wait_for(|killed| *killed) => None,
                }
            })
        });
        Ok(Self { store, notes, waits, stop, kill, job })
    }

    /// Waits until `words` were said `times` times.
    pub(crate) async fn until(&self, words: &str, times: usize) {
        let begun = Instant::now();
        let said = || self.notes.lock().unwrap().clone();
        while said().iter().filter(|note| note.contains(words)).count() < times {
            assert!(begun.elapsed() < Duration::from_secs(60), "{words}: {:?}", said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn stop(self) -> RecordReport {
        self.try_stop().await.unwrap()
    }

    pub(crate) async fn try_stop(self) -> strongroom::Result<RecordReport> {
        self.stop.send_replace(true);
        self.job.await.unwrap().unwrap()
    }

    /// As [`kill`](Self::kill), if it still records.
    pub(crate) async fn kill_or_end(self) {
        self.kill.send_replace(true);
        drop(self.job.await.unwrap());
    }

    /// What is in memory is gone.
    pub(crate) async fn kill(self) {
        self.kill.send_replace(true);
        assert!(self.job.await.unwrap().is_none());
    }
}

pub(crate) async fn put(client: &mut Client, times: usize, size: usize) -> i64 {
    let mut last = 0;
    for _ in 0..times {
        let mut value = vec![0; size];
        system_rng().fill_bytes(&mut value);
        let answer = client.put("key", value, None).await.unwrap();
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
    recording.until("the store cannot be reached", 1).await;
    // Until more waits than a recorder holds.
    let begun = Instant::now();
    while recording.waits.load(Ordering::SeqCst) <= 32 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    recording.store.set_away(false);
    let last = put(&mut client, 1, 1).await;
    recording.until("begins with revision", 2).await;
    // Reading all of it takes long without optimization.
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        if recording.waits.load(Ordering::SeqCst) == 0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    reaches(&repo.repository, last).await;
    let report = recording.stop().await;
    assert_eq!((report.last, report.seen), (last, last), "{report:?}");
    // Where the store is slow, what is repeated may be too much for memory again.
    assert!(report.snapshots.len() == 1 && report.journals.len() >= 2, "{report:?}");

    let moments = [(Moment::Revision(before + 20), before + 20), (Moment::Newest, last)];
    restores(&repo.repository, report.snapshots[0], &moments).await;
}

/// Somebody else has put an object under the name of a journal's end, or of its seal: all that was recorded is stored and counts.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_whose_name_is_taken_stops_nothing() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    for name in ["end.2", "seal.2"] {
        let (repo, spool) = (TestRepo::new().await, tempfile::tempdir().unwrap());
        let spool = spool.path().join("spool");
        let recording = Recording::spooling(&repo, &etcd, Some(&spool), None).await;
        recording.until("begins with revision", 1).await;
        let last = put(&mut client, 5, 1).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let folder = std::fs::read_dir(repo.path("journals")).unwrap().next().unwrap().unwrap();
        std::fs::write(folder.path().join(name), b"planted").unwrap();
        let notes = Arc::clone(&recording.notes);
        let report = recording.stop().await;
        assert_eq!((report.last, report.seen), (last, last), "{name}: {report:?}");
        assert!(notes.lock().unwrap().iter().any(|note| note.contains("has no end yet")));
        let left = std::fs::read_dir(&spool).unwrap().flatten().map(|entry| entry.path());
        let left: Vec<_> = left.filter(|path| path.is_dir()).collect();
        for dir in left {
            let names: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().collect();
            assert!(names.len() <= 1, "{name}: {names:?}");
        }
        reaches(&repo.repository, last).await;
        // The next one continues, and nothing is missing.
        let recording = Recording::spooling(&repo, &etcd, Some(&spool), None).await;
        recording.until("begins with revision", 1).await;
        let last = put(&mut client, 5, 1).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let report = recording.stop().await;
        assert_eq!((report.last, report.snapshots.len()), (last, 0), "{name}: {report:?}");
        reaches(&repo.repository, last).await;
    }
}

/// Waits until a restore reaches `revision`.
async fn reaches(repository: &Repository, revision: i64) {
    let (keys, begun) = (keys(&[1]), Instant::now());
    loop {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan_restore(repository, &keys, None, None, Moment::Newest, dir.path()).await;
        if plan.is_ok_and(|plan| plan.revision == revision) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{revision} is not stored");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What each moment is restored to behind `snapshot`.
pub(crate) async fn restores(
    repository: &Repository,
    snapshot: SnapshotId,
    moments: &[(Moment, i64)],
) {
    let keys = keys(&[1]);
    let dir = tempfile::tempdir().unwrap();
    for (moment, revision) in moments {
        let plan = plan_restore(repository, &keys, None, Some(snapshot), *moment, dir.path());
        let path = dir.path().join(revision.to_string());
        let target = Target::File { path, force: false, revision: None, allow_untested: false };
        let control = Control::default();
        let plan = plan.await.unwrap();
        assert_eq!(plan.findings, Vec::<String>::new());
        let restored = restore_recorded(repository, &keys, &plan, target, &control).await;
        assert_eq!(restored.unwrap().revision, revision.unsigned_abs());
    }
}

/// Sealed bytes that wait in the spool survive the recorder, whether it is stopped or killed: the next one stores them
/// first. Without them the recording would have a gap, because etcd has compacted them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_spool_is_stored_by_the_next_recorder() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let (repo, spool) = (TestRepo::new().await, tempfile::tempdir().unwrap());
    let spool = spool.path().join("spool");
    let recording = Recording::spooling(&repo, &etcd, Some(&spool), None).await;
    recording.until("begins with revision", 1).await;
    let stored = put(&mut client, 100, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.store.set_away(true);
    let seen = put(&mut client, 100, 100).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let report = recording.stop().await;
    assert_eq!((report.last, report.seen, report.spooled), (stored, seen, seen), "{report:?}");
    let base = report.snapshots[0];
    client.compact(seen - 1, None).await.unwrap();

    // Killed this time: what was in memory is lost, and the interval is what that was.
    let recording = Recording::spooling(&repo, &etcd, Some(&spool), None).await;
    recording.until("begins with revision", 1).await;
    assert!(recording.notes.lock().unwrap()[0].contains("left in the spool"));
    recording.store.set_away(true);
    let spooled = put(&mut client, 100, 100).await;
    tokio::time::sleep(Duration::from_millis(4500)).await;
    recording.kill().await;
    client.compact(spooled - 1, None).await.unwrap();
    let recording = Recording::spooling(&repo, &etcd, Some(&spool), None).await;
    recording.until("begins with revision", 1).await;
    let last = put(&mut client, 1, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let report = recording.stop().await;
    assert_eq!(
        (report.last, report.spooled, report.snapshots.len()),
        (last, last, 0),
        "{report:?}"
    );
    let moments = [seen - 50, seen, spooled - 50, last].map(|at| (Moment::Revision(at), at));
    restores(&repo.repository, base, &moments).await;
    let listed = journals(&repo.repository, &keys(&[1]), None).await.unwrap();
    assert_eq!((listed.gaps.len(), listed.journals.len()), (0, 3), "{listed:?}");
    let left = std::fs::read_dir(spool.join(repo.repository.id().to_string())).unwrap();
    assert_eq!(left.count(), 1, "nothing but the lock");
}

/// Of a journal whose head somebody else put there nothing can count. It does not stay in the spool.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_whose_head_is_taken_leaves_the_spool() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let (repo, dir) = (TestRepo::new().await, tempfile::tempdir().unwrap());
    let spool = dir.path().join("spool");
    let store = Faulty::taken(local(repo.dir.path()), "/head");
    let recording = Recording::on(store, &repo, &etcd, Some(&spool), None).await.unwrap();
    recording.until("another journal follows what is stored", 1).await;
    recording.until("removed from the spool", 1).await;
    recording.until("begins with revision", 2).await;
    let last = put(&mut client, 1, 1).await;
    reaches(&repo.repository, last).await;
    let report = recording.stop().await;
    assert_eq!(report.last, last, "{report:?}");
    let left = std::fs::read_dir(spool.join(repo.repository.id().to_string())).unwrap();
    assert_eq!(left.count(), 1, "nothing but the lock");
}

/// A spool that takes nothing: what waits stays in memory, and is stored when the store is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_loses_nothing() {
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    // As large as it may be, and on a disk that fails.
    for is_full in [true, false] {
        let (repo, dir) = (TestRepo::new().await, tempfile::tempdir().unwrap());
        let spool = dir.path().join("spool");
        let mut options = RecordOptions::new(ClusterName::default(), Duration::from_secs(1));
        options.spool = Some(spool.clone());
        options.spool_max = if is_full { 1 } else { 100 };
        let store = Faulty::passing(local(repo.dir.path()));
        let how = (options, keys(&[1]));
        let recording = Recording::with(store, &repo, &etcd, how, None).await.unwrap();
        recording.until("begins with revision", 1).await;
        put(&mut client, 5, 1).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        recording.store.set_away(true);
        if !is_full {
            std::fs::remove_dir_all(&spool).unwrap();
        }
        put(&mut client, 4, 1 << 20).await;
        recording.until("the spool takes no more, so the rest waits in memory", 1).await;
        put(&mut client, 1, 1).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        recording.store.set_away(false);
        let last = put(&mut client, 1, 1).await;
        reaches(&repo.repository, last).await;
        let report = recording.stop().await;
        assert_eq!((report.last, report.snapshots.len()), (last, 1), "{report:?}");
        assert_eq!(report.journals.len(), 1, "{report:?}");
        restores(&repo.repository, report.snapshots[0], &[(Moment::Newest, last)]).await;
    }
}

/// The second place holds up nothing; what it misses a copy brings, and each state of it restores.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_place_gets_the_same_objects() {
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let (repo, dir) = (TestRepo::new().await, tempfile::tempdir().unwrap());
    drop(open_replica(&repo.repository, local(dir.path()), false).await.unwrap());
    let store = Faulty::passing(local(dir.path()));
    let second = Repository::open(Arc::new(store.clone()), None).await.unwrap();
    let recording = Recording::spooling(&repo, &etcd, None, Some(second)).await;
    recording.until("begins with revision", 1).await;
    put(&mut client, 10, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    store.set_away(true);
    let last = put(&mut client, 10, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let report = recording.stop().await;
    assert_eq!((report.last, report.seen), (last, last), "{report:?}");
    store.set_away(false);
    let target = Repository::open(local(dir.path()), None).await.unwrap();
    let folder = format!("journals/{}", report.journals[0]);
    let (first, there) =
        (repo.repository.list(&folder).await.unwrap(), target.list(&folder).await.unwrap());
    assert!(there.len() >= 3 && there.len() < first.len(), "{there:?}");
    let (keys, control) = (keys(&[1]), Control::default());
    copy(&repo.repository, &target, &keys, Scope::All, &control).await.unwrap();
    assert_eq!(target.list(&folder).await.unwrap().len(), first.len());
    restores(&target, report.snapshots[0], &[(Moment::Newest, last)]).await;
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
