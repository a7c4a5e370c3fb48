//! A recorder whose store fails at any call, which is killed at any moment, or whose etcd compacts all the time: what was
//! stored restores, nothing more is lost than was waiting, and each gap is named.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use strongroom::backup::{
    Moment, RecordOptions, bundle_journals, journals, plan_restore, verify_journals,
};
use strongroom::crypto::{Suite, system_rng};
use strongroom::format::{ClusterName, KeyState};
use strongroom::keys::{KeySet, Signer, SigningKey};
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::etcd_server::{Etcd, Version};
use crate::faulty::Faulty;
use crate::journal_store::{Recording, put, restores};
use crate::support::{TestRepo, key, keys, local};

/// The last revision that the repository restores; 0 before there is a snapshot.
async fn reached(repo: &TestRepo) -> i64 {
    reached_with(repo, &keys(&[1])).await
}

async fn reached_with(repo: &TestRepo, keys: &KeySet) -> i64 {
    let listed = strongroom::backup::snapshots(&repo.repository, None).await.unwrap();
    if listed.snapshots.is_empty() {
        return 0;
    }
    let dir = tempfile::tempdir().unwrap();
    let plan = plan_restore(&repo.repository, keys, None, None, Moment::Newest, dir.path());
    plan.await.unwrap().revision
}

/// Recorders one after the other: of each the store fails at another call, once or for ever. With `kills` each is killed.
async fn whatever_call_fails(calls: impl Iterator<Item = usize>, once: bool, kills: bool) {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let (repo, spool) = (TestRepo::new().await, tempfile::tempdir().unwrap());
    let spool = spool.path().join("spool");
    let mut before = 0;
    for calls in calls {
        let store = Faulty::new(local(repo.dir.path()), calls, once);
        let Ok(recording) = Recording::on(store, &repo, &etcd, Some(&spool), None).await else {
            continue;
        };
        tokio::time::sleep(Duration::from_millis(700)).await;
        put(&mut client, 20, 10).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        match kills {
            true => recording.kill_or_end().await,
            false => drop(recording.try_stop().await),
        }
        let now = reached(&repo).await;
        assert!(now >= before, "{now} after {before}: call {calls}");
        before = now;
    }
    let recording = Recording::spooling(&repo, &etcd, Some(&spool), None).await;
    recording.until("begins with revision", 1).await;
    let last = put(&mut client, 1, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let report = recording.stop().await;
    assert_eq!((report.last, report.seen), (last, last), "{report:?}");
    assert_eq!(reached(&repo).await, last);
    // etcd still had everything: there is no gap behind the first snapshot.
    let listed = journals(&repo.repository, &keys(&[1]), None).await.unwrap();
    assert_eq!(listed.gaps, vec![], "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn some_calls_of_a_recorder_fail() {
    whatever_call_fails([3, 12, 17, 25].into_iter(), false, false).await;
}

/// The folder of the newest journal.
fn newest(repo: &TestRepo) -> String {
    let folders = std::fs::read_dir(repo.path("journals")).unwrap();
    folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).max().unwrap()
}

/// Recorders one after the other, each of which fails once to read a part of the newest journal. They begin after everything that
/// is stored: etcd has compacted the rest. Those that are blind go by signatures.
async fn take_over(parts: &[&str], is_blind: bool) {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    let (mut before, mut owner) = (Faulty::passing(local(repo.dir.path())), keys(&[1]));
    let mut signers = Vec::new();
    for (at, part) in parts.iter().chain(&[""]).enumerate() {
        let mut own = keys(&[1]);
        if is_blind {
            own = KeySet::new();
            own.add_recipient(Arc::new(key(1)), KeyState::Sealing);
            let signing = SigningKey::generate(&mut system_rng());
            signers.push(signing.public());
            own.sign_with(signing);
            signers.iter().for_each(|public| own.trust(Signer::new(*public)));
            owner.trust(Signer::new(*signers.last().unwrap()));
        }
        let options = RecordOptions::new(ClusterName::default(), Duration::from_secs(1));
        let recording = Recording::with(before, &repo, &etcd, (options, own), None).await.unwrap();
        recording.until("begins with revision", 1).await;
        let mut last = 0;
        for _ in 0..3 {
            last = put(&mut client, 40, 1).await;
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(recording.store.has_stumbled(), at > 0, "before {part}");
        match is_blind || *part == "/bundle." {
            true => drop(recording.stop().await),
            false => recording.kill().await,
        }
        if *part == "/bundle." {
            let (cluster, control) = (ClusterName::default(), Control::default());
            let how = (Suite::Aes256Gcm, SystemTime::UNIX_EPOCH);
            bundle_journals(&repo.repository, &owner, &cluster, how, &control).await.unwrap();
        }
        assert_eq!(reached_with(&repo, &owner).await, last, "before {part}");
        client.compact(last - 1, None).await.unwrap();
        before = Faulty::stumbling(local(repo.dir.path()), newest(&repo) + part);
    }
    let listed = journals(&repo.repository, &owner, None).await.unwrap();
    assert_eq!((listed.gaps, listed.findings), (vec![], vec![]));
    // Who only seals takes another one, because it cannot follow the journals back to the first.
    let taken = strongroom::backup::snapshots(&repo.repository, None).await.unwrap();
    assert_eq!(taken.snapshots.len(), if is_blind { 2 } else { 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_once_causes_no_gap() {
    take_over(&["/head", "/seal.1", "/segment.2.", "/bundle."], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_once_causes_no_gap_for_those_who_only_seal() {
    take_over(&["/head", "/seal.2", "/end.2"], true).await;
}

/// The recorder stores what it received as soon as etcd goes away, without waiting for the interval to end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_is_stored_when_etcd_goes() {
    let mut etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    let options = RecordOptions::new(ClusterName::default(), Duration::from_secs(600));
    let store = Faulty::passing(local(repo.dir.path()));
    let how = (options, keys(&[1]));
    let recording = Recording::with(store, &repo, &etcd, how, None).await.unwrap();
    recording.until("begins with revision", 1).await;
    // Behind the segment of the first interval.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let last = put(&mut client, 5, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(reached(&repo).await < last);
    etcd.kill(0);
    recording.until("etcd cannot be watched", 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reached(&repo).await, last);
    recording.kill().await;
}

/// Two recorders, one after the other, both of which ended hours ago. The first is killed, or stopped; behind a gap the second
/// does not follow it. The folder of the first journal.
async fn two_journals(repo: &TestRepo, is_killed: bool, has_gap: bool) -> PathBuf {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    for at in 0..2 {
        let recording = Recording::spooling(repo, &etcd, None, None).await;
        recording.until("begins with revision", 1).await;
        for _ in 0..2 {
            put(&mut client, 5, 1).await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        match is_killed && at == 0 {
            true => recording.kill().await,
            false => drop(recording.stop().await),
        }
        if has_gap {
            let last = put(&mut client, 5, 1).await;
            client.compact(last, None).await.unwrap();
        }
    }
    let listed = journals(&repo.repository, &keys(&[1]), None).await.unwrap();
    assert_eq!((listed.journals.len(), listed.gaps.len()), (2, usize::from(has_gap)), "{listed:?}");
    let folder = repo.path(&format!("journals/{}", listed.journals[0].id));
    for path in files(&folder) {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3 * 3600)).unwrap();
    }
    folder
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

async fn bundle(repository: &Repository) {
    let (cluster, control) = (ClusterName::default(), Control::default());
    let how = (Suite::Aes256Gcm, SystemTime::UNIX_EPOCH);
    bundle_journals(repository, &keys(&[1]), &cluster, how, &control).await.unwrap();
}

/// Behind a gap, the rest of a journal may wait in the spool of its recorder, with its end: nobody else writes one.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_ends_a_journal_whose_rest_may_wait() {
    let repo = TestRepo::new().await;
    let folder = two_journals(&repo, true, true).await;
    bundle(&repo.repository).await;
    assert!(!files(&folder).iter().any(|path| path.to_str().unwrap().contains("/end.")));
}

/// A journal whose end cannot be read gets no other one, which would name less.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_ends_a_journal_whose_end_cannot_be_read() {
    for part in ["/end.2", "/seal.2"] {
        let repo = TestRepo::new().await;
        let folder = two_journals(&repo, false, false).await;
        // The second recorder has bundled it.
        for name in ["bundle.3", "end.3", "seal.3"] {
            std::fs::remove_file(folder.join(name)).unwrap();
        }
        let before = files(&folder).len();
        let id = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let store = Faulty::stumbling(local(repo.dir.path()), id + part);
        bundle(&repo.through(Arc::new(store.clone())).await.unwrap()).await;
        assert!(store.has_stumbled());
        assert_eq!(files(&folder).len(), before, "{part}: {:?}", files(&folder));
        bundle(&repo.repository).await;
        let is_bundle = |path: &PathBuf| path.to_str().unwrap().contains("/bundle.");
        assert!(files(&folder).iter().any(is_bundle), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: each call of a recorder fails, and it is killed behind each"]
async fn long_whatever_call_of_a_recorder_fails() {
    for (once, kills) in [(false, false), (true, false), (false, true), (true, true)] {
        whatever_call_fails(0..40, once, kills).await;
    }
}

/// etcd compacts all the time, and the store is away for longer than it keeps: without a spool that is a gap, which is named
/// and followed by a snapshot.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: compactions each second while the store is away"]
async fn long_compactions_while_the_store_is_away() {
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    for spools in [true, false] {
        let (repo, spool) = (TestRepo::new().await, tempfile::tempdir().unwrap());
        let spool = spool.path().join("spool");
        let spool = Some(&*spool).filter(|_| spools);
        let recording = Recording::spooling(&repo, &etcd, spool, None).await;
        recording.until("begins with revision", 1).await;
        let mut last = 0;
        for second in 0..60 {
            recording.store.set_away((4..52).contains(&second));
            last = put(&mut client, 1, 1 << 20).await;
            client.compact(last - 1, None).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        last = put(&mut client, 1, 1).await.max(last);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let report = recording.stop().await;
        assert_eq!((report.last, report.seen), (last, last), "{report:?}");
        let listed = journals(&repo.repository, &keys(&[1]), None).await.unwrap();
        assert_eq!(report.snapshots.len() - 1, listed.gaps.len(), "{listed:?}");
        assert_eq!(listed.gaps.is_empty(), spools, "{report:?} {listed:?}");
        let verified = verify_journals(&repo.repository, &keys(&[1]), None).await.unwrap();
        assert_eq!(verified.findings, Vec::<String>::new());
        let newest = *report.snapshots.last().unwrap();
        restores(&repo.repository, newest, &[(Moment::Newest, last)]).await;
    }
}
