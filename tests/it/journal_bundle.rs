//! Bundles: whatever call fails, everything that was recorded restores, and from a bundle the same as from segments.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::ObjectStore;
use strongroom::backup::{
    Accept, Moment, Retention, Scope, apply_prune, bundle_journals, copy, journals, open_replica,
    plan_prune, plan_removal, plan_restore, reseal, verify_journals,
};
use strongroom::crypto::Suite;
use strongroom::format::{ClusterName, KeyState, SnapshotId};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::faulty::Faulty;
use crate::journal_vectors::{copy as copy_tree, restored};
use crate::support::{key, keys, local, vector};

const JOURNAL: &str = "01M8D98CF9R1XFRHXMRX2V8YEN";
const SNAPSHOT: &str = "01M8D98CCF4510T8JAX8146E3A";
/// The last revision that the journal holds.
const LAST: i64 = 5;

/// The golden journal, five segments and an end.
fn golden() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_tree(&vector("repositories/journal"), dir.path());
    dir
}

async fn open(dir: &Path) -> Repository {
    Repository::open(local(dir), None).await.unwrap()
}

async fn bundled(repository: &Repository) -> strongroom::Result<usize> {
    bundled_with(repository, &keys(&[1, 2])).await
}

async fn bundled_with(repository: &Repository, keys: &KeySet) -> strongroom::Result<usize> {
    let (cluster, control) = (ClusterName::default(), Control::default());
    let how = (Suite::Aes256Gcm, SystemTime::UNIX_EPOCH);
    bundle_journals(repository, keys, &cluster, how, &control).await
}

fn names(dir: &Path) -> Vec<String> {
    let folder = fs::read_dir(dir.join("journals").join(JOURNAL)).unwrap();
    let mut names: Vec<_> =
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn part(dir: &Path, name: &str) -> PathBuf {
    dir.join("journals").join(JOURNAL).join(name)
}

/// As if `name` had been written two hours ago.
fn make_old(dir: &Path, name: &str) {
    let file = fs::File::options().append(true).open(part(dir, name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(2 * 3600)).unwrap();
}

/// What is restored, and what a verification finds.
async fn is_all_there(dir: &Path) -> (i64, String) {
    let repository = open(dir).await;
    let found = restored(&repository, SNAPSHOT.parse().unwrap(), 2).await;
    assert_eq!(found.0, LAST);
    let verified = verify_journals(&repository, &keys(&[1]), None).await.unwrap();
    assert_eq!((verified.findings, verified.journals[0].segments), (vec![], 5));
    let listed = journals(&repository, &keys(&[1]), None).await.unwrap();
    assert_eq!((listed.findings.len(), listed.journals[0].last), (0, LAST));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_what_was_recorded_restores() {
    let expected = is_all_there(golden().path()).await;
    for once in [false, true] {
        let dir = golden();
        let mut calls = 0;
        loop {
            let store = Faulty::new(local(dir.path()), calls, once);
            let done = match Repository::open(Arc::new(store), None).await {
                Ok(repository) => bundled(&repository).await,
                Err(error) => Err(error),
            };
            assert_eq!(is_all_there(dir.path()).await, expected);
            if done.is_ok_and(|bundled| bundled == 1) {
                break;
            }
            calls += 1;
            assert!(calls < 100);
        }
        assert!(calls > 10, "{calls}");
        // The segments stay for an hour; then whatever call fails deletes no more than the bundle replaces.
        let newest = names(dir.path()).into_iter().filter(|name| name.starts_with("end.")).max();
        make_old(dir.path(), &newest.unwrap());
        calls = 0;
        let is_needed =
            |name: &String| !name.starts_with("segment.") && !name.starts_with("bundle.");
        while names(dir.path()).iter().filter(|name| !is_needed(name)).count() > 1 {
            let store = Faulty::new(local(dir.path()), calls, once);
            if let Ok(repository) = Repository::open(Arc::new(store), None).await {
                let _ = bundled(&repository).await;
            }
            assert_eq!(is_all_there(dir.path()).await, expected);
            calls += 1;
            assert!(calls < 100);
        }
        let bundles = names(dir.path()).iter().filter(|name| name.starts_with("bundle.")).count();
        assert_eq!(bundles, 1);
    }
}

/// A bundle that is damaged is a finding, and the segments count as long as they are there.
/// While the end that names the bundle cannot be read, nobody vouches for the one that names the segments. Where that has happened,
/// the journal is bundled again.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_end_does_not_take_the_place_of_a_later_one() {
    let (dir, control) = (golden(), Control::default());
    assert_eq!(bundled(&open(dir.path()).await).await.unwrap(), 1);
    let mut both = keys(&[1, 2]);
    both.add(Arc::new(key(77)), KeyState::Sealing);
    let again = async |store: Arc<dyn ObjectStore>| {
        let repository = Repository::open(store, None).await.unwrap();
        reseal(&repository, &both, Scope::All, &[], Accept::Counting, &control).await.unwrap()
    };
    for name in ["end.3", "seal.3"] {
        let store = Faulty::stumbling(local(dir.path()), format!("{JOURNAL}/{name}"));
        let done = again(Arc::new(store.clone())).await;
        assert!(store.has_stumbled() && done.journals.is_empty(), "{name}: {done:?}");
        assert!(!names(dir.path()).contains(&"seal.4".into()));
    }
    let genuine = ["end.3", "seal.3"].map(|name| (name, fs::read(part(dir.path(), name)).unwrap()));
    genuine.iter().for_each(|(name, _)| fs::write(part(dir.path(), name), "junk").unwrap());
    assert_eq!(again(local(dir.path())).await.journals.len(), 1);
    genuine.iter().for_each(|(name, bytes)| fs::write(part(dir.path(), name), bytes).unwrap());
    assert!(names(dir.path()).contains(&"seal.4".into()));
    make_old(dir.path(), "end.3");
    let repository = open(dir.path()).await;
    assert_eq!(bundled_with(&repository, &both).await.unwrap(), 1);
    is_all_there(dir.path()).await;
    make_old(dir.path(), "end.5");
    assert_eq!(bundled_with(&repository, &both).await.unwrap(), 0);
    assert!(!names(dir.path()).iter().any(|name| name.starts_with("segment.")));
    is_all_there(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_bundle_leaves_the_segments() {
    let dir = golden();
    assert_eq!(bundled(&open(dir.path()).await).await.unwrap(), 1);
    let good = fs::read(part(dir.path(), "bundle.3")).unwrap();
    let reached = async || {
        let (repository, scratch) = (open(dir.path()).await, tempfile::tempdir().unwrap());
        let keys = keys(&[1]);
        let plan = plan_restore(&repository, &keys, None, None, Moment::Newest, scratch.path());
        let plan = plan.await.unwrap();
        (plan.revision, plan.findings.join(", "))
    };
    for at in [0, 40, 100, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(part(dir.path(), "bundle.3"), &bytes).unwrap();
        let (revision, findings) = reached().await;
        assert!(revision == LAST && findings.contains("bundle"), "{revision} {findings}");
    }
    fs::write(part(dir.path(), "bundle.3"), &good[1..]).unwrap();
    assert_eq!(reached().await.0, LAST);
    fs::remove_file(part(dir.path(), "segment.4.5")).unwrap();
    let (revision, findings) = reached().await;
    assert!(revision == 3 && findings.contains("missing"), "{revision} {findings}");
    fs::write(part(dir.path(), "bundle.3"), &good).unwrap();
    assert_eq!(reached().await, (LAST, String::new()));
}

/// A copy brings the bundle, with keys and without, to a place that has the segments and to one that has nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_brings_the_bundle() {
    let dir = golden();
    let source = open(dir.path()).await;
    let target = tempfile::tempdir().unwrap();
    let (replica, _) = open_replica(&source, local(target.path()), false).await.unwrap();
    let (all, control) = (Scope::All, Control::default());
    copy(&source, &replica, &keys(&[1]), all, &control).await.unwrap();
    assert_eq!(bundled(&source).await.unwrap(), 1);
    make_old(dir.path(), "end.3");
    assert_eq!(bundled(&source).await.unwrap(), 0);
    assert_eq!(
        names(dir.path()),
        ["bundle.3", "end.2", "end.3", "head", "seal.1", "seal.2", "seal.3"]
    );
    // Both what had the segments, and what has nothing yet; with keys and without.
    for keys in [keys(&[1]), strongroom::keys::KeySet::new()] {
        let fresh = tempfile::tempdir().unwrap();
        let (other, _) = open_replica(&source, local(fresh.path()), false).await.unwrap();
        for target in [&replica, &other] {
            let report = copy(&source, target, &keys, all, &control).await.unwrap();
            assert_eq!(report.journals.failed.len(), 0, "{report:?}");
        }
        is_all_there(fresh.path()).await;
        assert_eq!(names(fresh.path()), names(dir.path()));
    }
    is_all_there(target.path()).await;
    let report = copy(&source, &replica, &keys(&[1]), all, &control).await.unwrap();
    assert_eq!((report.journals.present, report.journals.copied.len()), (1, 0));
}

/// A year of journals, one an hour: a restore from today's snapshot asks the store about those of about two days.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_opened_follows_what_is_asked() {
    let dir = golden();
    let begun = JOURNAL.parse::<SnapshotId>().unwrap().unix_ms();
    for hour in 1..365 * 24 {
        let id = SnapshotId::new(begun - hour * 3_600_000, [7; 10]).to_string();
        let folder = dir.path().join("journals").join(id);
        fs::create_dir(&folder).unwrap();
        for name in ["head", "seal.1", "end.2", "seal.2"] {
            fs::write(folder.join(name), "junk\n").unwrap();
        }
    }
    let asked = async |moment| {
        let store = Faulty::new(local(dir.path()), usize::MAX / 2, true);
        let repository = Repository::open(Arc::new(store.clone()), None).await.unwrap();
        let (keys, scratch) = (keys(&[1]), tempfile::tempdir().unwrap());
        let plan = plan_restore(&repository, &keys, None, None, moment, scratch.path()).await;
        assert_eq!(plan.unwrap().revision, LAST);
        usize::MAX / 2 - store.calls_left()
    };
    for moment in [Moment::Newest, Moment::Revision(LAST)] {
        let calls = asked(moment).await;
        assert!(calls < 250, "{moment:?}: {calls}");
    }
}

/// Where the recorder could not delete what a bundle replaces, prune does.
#[tokio::test(flavor = "multi_thread")]
async fn prune_deletes_what_a_bundle_replaces() {
    let dir = golden();
    let repository = open(dir.path()).await;
    assert_eq!(bundled(&repository).await.unwrap(), 1);
    let retention = Retention { last: 1, ..Retention::default() };
    let (keys, control) = (keys(&[1]), Control::default());
    let plan = plan_prune(&repository, &keys, &retention, None, &control).await.unwrap();
    assert!(plan.is_empty(), "{plan:?}");
    let old = SystemTime::now() - Duration::from_secs(49 * 3600);
    let file = fs::File::options().append(true).open(part(dir.path(), "end.3")).unwrap();
    file.set_modified(old).unwrap();
    let plan = plan_prune(&repository, &keys, &retention, None, &control).await.unwrap();
    assert!(plan.frees() > 4096 * 5, "{plan:?}");
    let report = apply_prune(&repository, &plan, &control).await.unwrap();
    assert_eq!(report.freed_bytes, plan.frees());
    assert!(names(dir.path()).iter().all(|name| !name.starts_with("segment.")));
    is_all_there(dir.path()).await;
}

/// Somebody put an object of the bundle's length in its place: nothing is deleted for it, and a copy does not take it.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_bundle_replaces_nothing() {
    let dir = golden();
    let source = open(dir.path()).await;
    let target = tempfile::tempdir().unwrap();
    let (replica, _) = open_replica(&source, local(target.path()), false).await.unwrap();
    let (keys, control) = (keys(&[1]), Control::default());
    copy(&source, &replica, &keys, Scope::All, &control).await.unwrap();
    assert_eq!(bundled(&source).await.unwrap(), 1);
    let good = fs::read(part(dir.path(), "bundle.3")).unwrap();
    let junk = vec![7; good.len()];
    fs::write(part(target.path(), "bundle.3"), &junk).unwrap();
    let report = copy(&source, &replica, &keys, Scope::All, &control).await.unwrap();
    assert_eq!(report.journals.failed.len(), 1, "{report:?}");
    assert!(!part(target.path(), "end.3").exists());
    fs::remove_file(part(target.path(), "bundle.3")).unwrap();
    let report = copy(&source, &replica, &keys, Scope::All, &control).await.unwrap();
    assert_eq!(report.journals.failed.len(), 0, "{report:?}");

    // The same beside its end: neither the recorder nor prune deletes a segment.
    fs::write(part(dir.path(), "bundle.3"), &junk).unwrap();
    let file = fs::File::options().append(true).open(part(dir.path(), "end.3")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(49 * 3600)).unwrap();
    let is_segment = |name: &String| name.starts_with("segment.");
    bundled(&source).await.unwrap();
    assert_eq!(names(dir.path()).iter().filter(|name| is_segment(name)).count(), 5);
    let retention = Retention { last: 1, ..Retention::default() };
    let plan = plan_prune(&source, &keys, &retention, None, &control).await.unwrap();
    let report = apply_prune(&source, &plan, &control).await.unwrap();
    assert_eq!((report.refused.len(), report.freed_bytes), (1, 0), "{report:?}");
    assert_eq!(names(dir.path()).iter().filter(|name| is_segment(name)).count(), 5);
}

/// The name of a segment that somebody planted beside a journal without an end tells nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_name_tells_prune_nothing() {
    let dir = golden();
    ["end.2", "seal.2"].iter().for_each(|name| fs::remove_file(part(dir.path(), name)).unwrap());
    fs::write(part(dir.path(), "segment.9.9223372036854775807"), "junk").unwrap();
    let repository = open(dir.path()).await;
    let plan = plan_removal(&repository, &keys(&[1]), &[JOURNAL.parse().unwrap()]).await.unwrap();
    assert_eq!(plan.journals.remove[0].last_revision, LAST);
}
