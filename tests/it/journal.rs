//! Change journals: what was recorded of a real etcd restores to what it was, at any revision and any recorded moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use rand_core::Rng;
use serde_json::Value;
use strongroom::bolt::Db;
use strongroom::crypto::system_rng;
use strongroom::mvcc::{self, HashKv, Revision};

use crate::etcd_server::{Etcd, Version};
use crate::member::{Plan, hash};
use crate::place::Place;
use crate::random_history::{Entry, Random, range, step};

const STEPS: usize = 160;

/// `journal record`, which runs until it is stopped.
pub(crate) struct Recording {
    child: Option<Child>,
    log: PathBuf,
}

impl Recording {
    /// Starts it, and waits until etcd sends it each new revision.
    pub(crate) fn start(place: &Place, etcd: &Etcd) -> Self {
        Self::start_at(place, etcd.endpoint())
    }

    /// As [`start`](Self::start), of the etcd at `endpoint`.
    pub(crate) fn start_at(place: &Place, endpoint: &str) -> Self {
        Self::start_with(place, endpoint, |_| {})
    }

    /// As [`start_at`](Self::start_at), with what `more` adds to the command.
    pub(crate) fn start_with(
        place: &Place,
        endpoint: &str,
        more: impl FnOnce(&mut Command),
    ) -> Self {
        let recording = Self::begin(place, endpoint, more);
        recording.until("recording member");
        recording.until("begins with revision");
        // etcd looks at new watches every 100 ms (watchable_store.go, syncWatchersLoop). What is compacted before that
        // is lost to the watch, and is a gap.
        std::thread::sleep(Duration::from_millis(500));
        recording
    }

    /// Starts it, and does not wait.
    pub(crate) fn begin(place: &Place, endpoint: &str, more: impl FnOnce(&mut Command)) -> Self {
        let log = place.path("record.log");
        let mut command =
            place.command(&["--endpoints", endpoint, "journal", "record", "--interval", "1s"]);
        more(&mut command);
        let child = command
            .stdout(File::create(place.path("record.out")).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child: Some(child), log }
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has said `words`.
    pub(crate) fn until(&self, words: &str) {
        self.until_times(words, 1);
    }

    /// Waits until it has said `words` so many times.
    pub(crate) fn until_times(&self, words: &str, times: usize) {
        let begun = Instant::now();
        while self.said().matches(words).count() < times {
            assert!(begun.elapsed() < Duration::from_secs(30), "{words}: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Stops it as an operator does.
    pub(crate) fn stop(self) -> String {
        let (status, said) = self.end();
        assert_eq!(status, Some(0), "{said}");
        said
    }

    /// As [`stop`](Self::stop), with any exit status.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        self.signal("-TERM");
        let status = self.child.take().unwrap().wait().unwrap();
        (status.code(), self.said())
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One record of the bucket `key`.
struct Raw {
    revision: Revision,
    tombstone: bool,
    user_key: Vec<u8>,
    raw: (Vec<u8>, Vec<u8>),
}

fn database(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.len() - 32);
    bytes
}

fn records(db: &Db<&[u8]>) -> Vec<Raw> {
    let mut records = Vec::new();
    mvcc::for_each_record(db, Revision::default(), |record| {
        records.push(Raw {
            revision: record.revision,
            tombstone: record.tombstone,
            user_key: record.kv.key.to_vec(),
            raw: (record.raw.0.to_vec(), record.raw.1.to_vec()),
        });
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    records
}

/// What etcd's compaction at `at` leaves; deletions at `at` itself are left out, as old versions do.
fn compacted(records: &[Raw], at: i64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut latest: HashMap<&[u8], Revision> = HashMap::new();
    for record in records.iter().filter(|record| record.revision.main <= at) {
        latest.insert(&record.user_key, record.revision);
    }
    let is_kept = |record: &&Raw| {
        record.revision.main > at
            || !record.tombstone && latest[&record.user_key[..]] == record.revision
    };
    records.iter().filter(is_kept).map(|record| record.raw.clone()).collect()
}

/// A transaction in which nested ones put a key and delete it again, in one revision.
async fn nested(client: &mut Client, random: &mut Random) {
    let key = random.key();
    let put = Txn::new().and_then([TxnOp::put(key.clone(), random.value(), None)]);
    let delete = Txn::new().and_then([TxnOp::delete(key, None)]);
    client.txn(Txn::new().and_then([TxnOp::txn(put), TxnOp::txn(delete)])).await.unwrap();
}

/// The seed of a random history: another each time, or that of the environment. A failure names it.
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    pub(crate) fn new() -> Self {
        let given = std::env::var("STRONGROOM_SEED").ok();
        Self(given.map_or_else(|| system_rng().next_u64(), |seed| seed.parse().unwrap()))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat it: STRONGROOM_SEED={}", self.0);
        }
    }
}

/// Random changes; the answer at each revision.
pub(crate) async fn load(
    client: &mut Client,
    random: &mut Random,
    leases: &mut Vec<i64>,
    steps: usize,
) -> BTreeMap<i64, Vec<Entry>> {
    let mut answers = BTreeMap::new();
    for at in 0..steps {
        match random.below(8) {
            0 => nested(client, random).await,
            1 => {
                let options = PutOptions::new().with_ignore_lease();
                // It is refused unless the key is there.
                let _ = client.put(random.key(), random.value(), Some(options)).await;
            }
            _ => step(client, random, leases).await,
        }
        let (revision, entries) = range(client, 0).await;
        answers.insert(revision, entries);
        if at == steps / 2 {
            // It is refused where it has been compacted before.
            let _ = client.compact(revision - random.below(10) as i64, None).await;
        }
    }
    answers
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

pub(crate) fn revision_of(report: &Value) -> i64 {
    report["revision"].as_i64().unwrap()
}

/// Every lease that a key has is there, with the time to live that it was granted for. Where etcd did not tell that within
/// a second, which happens on a machine with more to do, it is counted as unknown.
fn check_leases(db: &Db<&[u8]>, live: &[Entry], unknown: u64) {
    let found: BTreeMap<i64, i64> =
        mvcc::leases(db).unwrap().into_iter().map(|lease| (lease.id, lease.ttl)).collect();
    let used: BTreeSet<i64> = live.iter().map(|entry| entry.5).filter(|id| *id != 0).collect();
    let missing: Vec<_> = used.iter().filter(|id| !found.contains_key(id)).collect();
    assert!(missing.is_empty(), "{missing:?} of {found:?}");
    let other: Vec<_> = found.values().filter(|ttl| **ttl != 3000).collect();
    assert_eq!(other.len() as u64, unknown, "{found:?}");
    assert!(other.iter().all(|ttl| **ttl == mvcc::RENEWED_LEASE_TTL), "{found:?}");
}

async fn exact(version: Version) {
    let seed = Seed::new();
    let mut random = Random(seed.0);
    let etcd = Etcd::start(version).await;
    let mut client = etcd.client().await;
    let mut leases = Vec::new();
    // What the first snapshot holds.
    load(&mut client, &mut random, &mut leases, 20).await;
    let place = Place::new();
    let recording = Recording::start(&place, &etcd);
    let base = place.snapshots().remove(0);
    let mut answers = load(&mut client, &mut random, &mut leases, STEPS).await;
    let moment_revision = *answers.keys().last().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let moment = now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    answers.extend(load(&mut client, &mut random, &mut leases, 20).await);
    let last = *answers.keys().last().unwrap();
    // Past the next segment, and the next question for etcd's revision.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    let said = recording.stop();
    assert!(said.contains("the recorder was stopped"), "{said}");
    let list = place.json(&["journal", "list"]);
    assert_eq!(list["journals"][0]["last_revision"], last, "{list}");
    assert_eq!(place.json(&["journal", "verify"])["findings"], serde_json::json!([]));

    // The oracle: a later snapshot of the same etcd.
    place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
    place.succeed(&["restore", "latest", "--output", "oracle.db"]);
    let oracle = database(&place.path("oracle.db"));
    let oracle = Db::open(&oracle[..]).unwrap();
    let facts = mvcc::database_facts(&oracle).unwrap();
    let restored = place.json(&["restore", &base, "--newest", "--output", "newest.db"]);
    assert_eq!((revision_of(&restored), &restored["id"]), (last, &Value::from(base.as_str())));
    let newest = database(&place.path("newest.db"));
    let newest = Db::open(&newest[..]).unwrap();
    strongroom::bolt::check(&newest).unwrap();
    mvcc::check_history(&newest).unwrap();
    let (ours, theirs) = (records(&newest), records(&oracle));
    let at = facts.compact_revision;
    assert_eq!(compacted(&ours, at), compacted(&theirs, at), "compacted at {at}");
    check_leases(&newest, &answers[&last], restored["unknown_leases"].as_u64().unwrap());

    // HashKV, of every revision that etcd still has.
    for revision in answers.keys().copied().filter(|revision| *revision > at) {
        let expected = hash(&mut client, revision).await;
        let found = mvcc::hash_kv(&newest, revision, at).unwrap();
        assert_eq!(found, HashKv::Hash(expected), "revision {revision}");
    }

    // A moment, and a revision in the middle.
    let restored = place.json(&["restore", &base, "--to-time", &moment, "--output", "moment.db"]);
    assert_eq!(revision_of(&restored), moment_revision, "{restored}");
    let middle = *answers.keys().nth(random.below(answers.len() as u64) as usize).unwrap();
    let plan = Plan::new(version, 1);
    let then = middle.to_string();
    let members = plan.initial_cluster(1);
    place.succeed(&[
        "restore",
        &base,
        "--data-dir",
        "data",
        "--revision",
        &then,
        "--name",
        "m0",
        "--initial-cluster",
        &members,
    ]);
    let _member = plan.start(0, &place.path("data"), &[]);
    let mut restored = plan.client(0).await;
    assert_eq!(range(&mut restored, 0).await, (middle, answers[&middle].clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_exact_on_3_4() {
    exact(Version::V3_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_exact_on_3_5() {
    exact(Version::V3_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_exact_on_3_6() {
    exact(Version::V3_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_exact_on_3_7() {
    exact(Version::V3_7).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: 1,000 recorded histories, or as many on each version as STRONGROOM_HISTORIES says"]
async fn long_recorded_histories() {
    let given = std::env::var("STRONGROOM_HISTORIES").ok();
    let count: usize = given.map_or(250, |count| count.parse().unwrap());
    for round in 1..=count {
        // Most of the time they wait.
        futures::future::join_all(Version::ALL.into_iter().map(exact)).await;
        eprintln!("round {round} of {count}: {} histories match", Version::ALL.into_iter().count());
    }
}

/// A recorder that was killed loses what it had not stored; the next follows, and both join.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_recorder_is_followed_without_a_gap() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    for n in 0..10 {
        client.put(format!("before/{n}"), "x", None).await.unwrap();
    }
    let place = Place::new();
    let recording = Recording::start(&place, &etcd);
    // More than the next journal repeats: what the killed one holds is needed.
    for n in 0..100 {
        client.put(format!("during/{n}"), "x", None).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.kill();
    client.put("between", "x", None).await.unwrap();
    let recording = Recording::start(&place, &etcd);
    client.put("after", "x", None).await.unwrap();
    let (last, entries) = range(&mut client, 0).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let said = recording.stop();
    assert!(!said.contains("taking a snapshot"), "{said}");
    assert_eq!(place.snapshots().len(), 1);
    let list = place.json(&["journal", "list"]);
    assert_eq!(list["gaps"], serde_json::json!([]));
    assert_eq!(list["journals"].as_array().unwrap().len(), 2);
    assert_eq!(list["journals"][0]["ended"], Value::Null);
    let restored = place.json(&["restore", "--newest", "--output", "newest.db"]);
    assert_eq!(revision_of(&restored), last, "{restored}");
    assert_eq!(restored["journals"].as_array().unwrap().len(), 2);
    let newest = database(&place.path("newest.db"));
    let keys = mvcc::KeySpace::at(&Db::open(&newest[..]).unwrap(), last).unwrap();
    assert_eq!(keys.live(b"").count(), entries.len());
}

/// What etcd has compacted while nobody recorded is a gap: a snapshot is taken, and what was recorded before still
/// restores.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_followed_by_a_snapshot() {
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    client.put("a", "1", None).await.unwrap();
    let place = Place::new();
    let recording = Recording::start(&place, &etcd);
    client.put("a", "2", None).await.unwrap();
    let (first, _) = range(&mut client, 0).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.stop();
    let before = place.snapshots().remove(0);
    for n in 0..10 {
        client.put("a", format!("gap {n}"), None).await.unwrap();
    }
    let (last, _) = range(&mut client, 0).await;
    client.compact(last, None).await.unwrap();
    let recording = Recording::start(&place, &etcd);
    client.put("a", "later", None).await.unwrap();
    recording.until("the recording begins here");
    let (later, _) = range(&mut client, 0).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let said = recording.stop();
    assert!(said.contains("etcd has compacted what was not recorded yet"), "{said}");
    let gaps = &place.json(&["journal", "list"])["gaps"];
    assert_eq!(gaps[0]["last_revision"], first, "{gaps}");
    assert!(gaps[0]["first_revision"].as_i64().unwrap() > last, "{gaps}");
    let restored = place.json(&["restore", &before, "--newest", "--output", "before.db"]);
    assert_eq!(revision_of(&restored), first);
    let restored = place.json(&["restore", "--newest", "--output", "after.db"]);
    assert_eq!(revision_of(&restored), later);
    // What lies in the gap is refused, and what is there is named.
    let missing = (first + 2).to_string();
    let said = place.fail(1, &["restore", &before, "--revision", &missing, "--output", "x.db"]);
    assert!(said.contains(&format!("reaches revision {first}")), "{said}");
}

/// Records a few segments; the snapshot that they follow, the journal, and the last revision.
pub(crate) async fn recorded(place: &Place, etcd: &Etcd) -> (String, String, i64) {
    let mut client = etcd.client().await;
    client.put("a", "0", None).await.unwrap();
    let recording = Recording::start(place, etcd);
    for n in 1..5 {
        client.put("a", n.to_string(), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let (last, _) = range(&mut client, 0).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    recording.stop();
    let list = place.json(&["journal", "list"]);
    let journal = list["journals"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(journal["last_revision"], last, "{list}");
    (place.snapshots().pop().unwrap(), journal["id"].as_str().unwrap().to_owned(), last)
}

fn segments(place: &Place, repository: &str, journal: &str) -> Vec<PathBuf> {
    let folder = place.path(repository).join("journals").join(journal);
    let number = |path: &PathBuf| -> u64 {
        path.to_str()
            .unwrap()
            .rsplit("segment.")
            .next()
            .unwrap()
            .split('.')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> =
        names.filter(|path| path.to_str().unwrap().contains("segment.")).collect();
    names.sort_by_key(number);
    names
}

/// [S13.3]: what is missing, moved or of another journal ends what counts there, and is named; the rest restores.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_moved_is_noticed() {
    let etcd = Etcd::start(Version::V3_5).await;
    let place = Place::new();
    let (snapshot, journal, last) = recorded(&place, &etcd).await;
    assert!(segments(&place, "repo", &journal).len() >= 4);
    let copy = |from: &str, to: &str| {
        let copied =
            Command::new("cp").current_dir(place.dir.path()).args(["-r", from, to]).status();
        assert!(copied.unwrap().success());
    };
    // Only this journal: the other one would reach as far, and its recorder bundles this one.
    copy("repo", "alone");
    let (_, other, _) = recorded(&place, &etcd).await;
    type Attack<'a> = &'a dyn Fn(&[PathBuf], &[PathBuf]);
    let attacks: [(&str, Attack<'_>); 5] = [
        ("middle", &|own, _| fs::remove_file(&own[1]).unwrap()),
        ("last", &|own, _| fs::remove_file(own.last().unwrap()).unwrap()),
        ("swapped", &|own, _| {
            let (one, two) = (fs::read(&own[1]).unwrap(), fs::read(&own[2]).unwrap());
            fs::write(&own[1], two).unwrap();
            fs::write(&own[2], one).unwrap();
        }),
        ("replayed", &|own, other| {
            fs::copy(&other[1], &own[1]).unwrap();
        }),
        ("flipped", &|own, _| {
            let mut bytes = fs::read(&own[2]).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&own[2], bytes).unwrap();
        }),
    ];
    for (name, attack) in attacks {
        copy("alone", name);
        attack(&segments(&place, name, &journal), &segments(&place, "repo", &other));
        let run = |args: &[&str]| {
            let all = [&["-r", name, "-k", "file:keyring", "-w", "json"], args].concat();
            place.bare(&all).output().unwrap()
        };
        let verified = run(&["journal", "verify"]);
        assert_eq!(verified.status.code(), Some(3), "{name}");
        let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert!(verified["findings"].to_string().contains(&journal), "{name}: {verified}");
        let output = format!("{name}.db");
        let restored = run(&["restore", &snapshot, "--newest", "--output", &output]);
        let said = String::from_utf8_lossy(&restored.stderr).into_owned();
        // It may be less than what was recorded.
        assert!(restored.status.code() == Some(3) && said.contains("count"), "{name}: {said}");
        let restored: Value = serde_json::from_slice(&restored.stdout).unwrap();
        let reached = revision_of(&restored);
        assert!(reached <= last && (reached < last || name == "last"), "{name}: {restored}");
    }
}

/// A journal is sealed to the new key as snapshots are, and still counts when the old one is retired.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_outlives_the_rotation_of_its_key() {
    let etcd = Etcd::start(Version::V3_5).await;
    let place = Place::new();
    let (snapshot, _, last) = recorded(&place, &etcd).await;
    assert_eq!(place.json(&["key", "rotate"])["snapshots"]["journals"], 1);
    place.succeed(&["key", "rotate", "--finish"]);
    assert_eq!(place.json(&["journal", "list"])["journals"][0]["trust"], "trusted");
    let restored = place.json(&["restore", &snapshot, "--newest", "--output", "newest.db"]);
    assert_eq!(revision_of(&restored), last);
    assert_eq!(place.json(&["journal", "verify"])["findings"], serde_json::json!([]));
}

/// A recorder that starts again repeats revisions with its own time: that changes no moment, and what was written while
/// nobody recorded has none. What is recorded later changes no byte of what a snapshot and a revision give.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_recorder_changes_no_moment() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    client.put("a", "0", None).await.unwrap();
    let place = Place::new();
    let recording = Recording::start(&place, &etcd);
    let base = place.snapshots().remove(0);
    for n in 0..5 {
        client.put("a", n.to_string(), None).await.unwrap();
    }
    let (expected, _) = range(&mut client, 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let moment = now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for n in 0..3 {
        client.put("b", n.to_string(), None).await.unwrap();
    }
    let (last, _) = range(&mut client, 0).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.stop();
    let pinned = expected.to_string();
    let restore = |output: &str| {
        let args = ["restore", &base, "--revision", &pinned, "--output", output];
        place.json(&args);
        fs::read(place.path(output)).unwrap()
    };
    let first = restore("first.db");

    let unrecorded = now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.put("c", "unrecorded", None).await.unwrap();
    client.compact(expected - 1, None).await.unwrap();
    let recording = Recording::start(&place, &etcd);
    client.put("c", "recorded", None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.stop();
    let restored = place.json(&["restore", "--to-time", &moment, "--output", "moment.db"]);
    assert_eq!(revision_of(&restored), expected, "{restored}");
    assert!(first == restore("second.db"));
    let said = place.fail(1, &["restore", "--to-time", &unrecorded, "--output", "x.db"]);
    assert!(said.contains("nobody recorded at") && said.contains("next recording"), "{said}");
    let before = "2020-01-01T00:00:00Z";
    let said = place.fail(1, &["restore", &base, "--to-time", before, "--output", "x.db"]);
    assert!(said.contains("was begun at"), "{said}");
    let restored = place.json(&["restore", "--newest", "--output", "newest.db"]);
    assert_eq!(revision_of(&restored), last + 2);
}

/// Another etcd of the same name, with no fewer revisions: as after a restore into the same place.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_notices_another_history_that_is_no_shorter() {
    let (one, other) = (Etcd::start(Version::V3_5).await, Etcd::start(Version::V3_5).await);
    let place = Place::new();
    let mut recorded = Vec::new();
    for (etcd, value, puts) in [(&one, "one", 5), (&other, "other", 8)] {
        let mut client = etcd.client().await;
        for _ in 0..puts {
            client.put("a", value, None).await.unwrap();
        }
        let recording = Recording::start(&place, etcd);
        client.put("a", value, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        recorded.push(recording.stop());
    }
    assert!(recorded[1].contains("another history than what was recorded"), "{recorded:?}");
    let snapshots = place.snapshots();
    assert_eq!(snapshots.len(), 2);
    // The newest history is restored, and of the older one only what was asked for by its snapshot.
    let restored = place.json(&["restore", "--newest", "--output", "newest.db"]);
    assert!(snapshots.contains(&restored["id"].as_str().unwrap().to_owned()));
    let db = database(&place.path("newest.db"));
    let keys = mvcc::KeySpace::at(&Db::open(&db[..]).unwrap(), revision_of(&restored)).unwrap();
    let live: Vec<_> = keys.live(b"").collect();
    assert_eq!(live.len(), 1);
}
