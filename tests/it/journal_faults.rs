//! A recorder whose store fails at any call, which is killed at any moment, or whose etcd compacts all the time: what was
//! stored restores, nothing more is lost than was waiting, and each gap is named.

use std::time::{Duration, SystemTime};

use strongroom::backup::{
    Moment, RecordOptions, bundle_journals, journals, plan_restore, verify_journals,
};
use strongroom::crypto::Suite;
use strongroom::format::ClusterName;
use strongroom::task::Control;

use crate::etcd_server::{Etcd, Version};
use crate::faulty::Faulty;
use crate::journal_store::{Recording, put, restores};
use crate::support::{TestRepo, keys, local};

/// The last revision that the repository restores; 0 before there is a snapshot.
async fn reached(repo: &TestRepo) -> i64 {
    let listed = strongroom::backup::snapshots(&repo.repository, None).await.unwrap();
    if listed.snapshots.is_empty() {
        return 0;
    }
    let (keys, dir) = (keys(&[1]), tempfile::tempdir().unwrap());
    let plan = plan_restore(&repo.repository, &keys, None, None, Moment::Newest, dir.path());
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

/// A recorder that takes over begins after everything that is stored, even if one read of the newest journal fails once. etcd
/// has compacted the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_once_causes_no_gap() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    let mut before = Faulty::passing(local(repo.dir.path()));
    for (at, part) in ["/head", "/seal.1", "/segment.2.", "/bundle.", ""].into_iter().enumerate() {
        let recording = Recording::on(before, &repo, &etcd, None, None).await.unwrap();
        recording.until("begins with revision", 1).await;
        let mut last = 0;
        for _ in 0..3 {
            last = put(&mut client, 40, 1).await;
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(recording.store.has_stumbled(), at > 0, "{part}");
        match part == "/bundle." {
            true => {
                recording.stop().await;
                let (cluster, control) = (ClusterName::default(), Control::default());
                let how = (Suite::Aes256Gcm, SystemTime::UNIX_EPOCH);
                let keys = keys(&[1]);
                bundle_journals(&repo.repository, &keys, &cluster, how, &control).await.unwrap();
            }
            false => recording.kill().await,
        }
        assert_eq!(reached(&repo).await, last, "before {part}");
        client.compact(last - 1, None).await.unwrap();
        before = Faulty::stumbling(local(repo.dir.path()), part);
    }
    let listed = journals(&repo.repository, &keys(&[1]), None).await.unwrap();
    assert_eq!((listed.gaps, listed.findings), (vec![], vec![]));
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
    let recording = Recording::with(store, &repo, &etcd, options, None).await.unwrap();
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

/// Behind a gap, the rest of a journal may wait in the spool of its recorder, with its end: nobody else writes one.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_ends_a_journal_whose_rest_may_wait() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    for is_killed in [true, false] {
        let recording = Recording::spooling(&repo, &etcd, None, None).await;
        recording.until("begins with revision", 1).await;
        put(&mut client, 5, 1).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        match is_killed {
            true => recording.kill().await,
            false => drop(recording.stop().await),
        }
        let last = put(&mut client, 5, 1).await;
        client.compact(last, None).await.unwrap();
    }
    let listed = journals(&repo.repository, &keys(&[1]), None).await.unwrap();
    assert_eq!((listed.journals.len(), listed.gaps.len()), (2, 1), "{listed:?}");
    let folder = repo.path(&format!("journals/{}", listed.journals[0].id));
    let names = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    for path in names() {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3 * 3600)).unwrap();
    }
    let (cluster, control) = (ClusterName::default(), Control::default());
    let how = (Suite::Aes256Gcm, SystemTime::UNIX_EPOCH);
    bundle_journals(&repo.repository, &keys(&[1]), &cluster, how, &control).await.unwrap();
    assert!(!names().any(|path| path.to_str().unwrap().contains("/end.")));
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
        for second in 0..24 {
            recording.store.set_away((4..20).contains(&second));
            last = put(&mut client, 2, 2 << 20).await;
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
