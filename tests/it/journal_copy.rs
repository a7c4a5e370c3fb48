//! Replication of change journals: each prefix of a copy restores, and what does not count stays behind.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use strongroom::backup::{CopyReport, Moment, Scope, copy, open_replica, plan_restore};
use strongroom::format::{JournalPart, SnapshotId};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::etcd_server::{Etcd, Version};
use crate::faulty::Faulty;
use crate::journal::recorded;
use crate::place::Place;
use crate::support::{TestRepo, keys, local, vector};
use crate::vectors::copy_tree;

const LAST: i64 = 5;

/// The golden journal, which reaches revision 5, and a snapshot of revision 2 or less before it.
async fn golden() -> (TestRepo, SnapshotId) {
    repository_of("journal").await
}

async fn repository_of(name: &str) -> (TestRepo, SnapshotId) {
    let dir = tempfile::tempdir().unwrap();
    copy_tree(&vector(&format!("repositories/{name}")), dir.path());
    let repository = Repository::open(local(dir.path()), None).await.unwrap();
    let journal = fs::read_dir(dir.path().join("journals")).unwrap().next().unwrap().unwrap();
    let id = journal.file_name().to_str().unwrap().parse().unwrap();
    (TestRepo { dir, repository }, id)
}

async fn to(test: &TestRepo, target: &Repository, keys: &KeySet) -> strongroom::Result<CopyReport> {
    copy(&test.repository, target, keys, Scope::All, &Control::default()).await
}

/// The last revision that the repository restores.
async fn reached(repository: &Repository) -> i64 {
    let dir = tempfile::tempdir().unwrap();
    let (keys, moment) = (keys(&[1]), Moment::Newest);
    plan_restore(repository, &keys, None, None, moment, dir.path()).await.unwrap().revision
}

fn objects(dir: &Path, id: SnapshotId) -> Vec<(String, Vec<u8>)> {
    let Ok(folder) = fs::read_dir(dir.join(format!("journals/{id}"))) else { return Vec::new() };
    let read = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    let mut objects: Vec<_> = folder.map(|entry| read(entry.unwrap())).collect();
    objects.sort();
    objects
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_what_is_copied_restores() {
    let (test, id) = golden().await;
    let dir = tempfile::tempdir().unwrap();
    drop(open_replica(&test.repository, local(dir.path()), false).await.unwrap());
    let (mut calls, mut last, mut seen) = (0, 0, Vec::new());
    loop {
        let store = Faulty::new(local(dir.path()), calls, false);
        let copied = match Repository::open(Arc::new(store), None).await {
            Ok(target) => to(&test, &target, &keys(&[1])).await,
            Err(error) => Err(error),
        };
        let target = Repository::open(local(dir.path()), None).await.unwrap();
        if !strongroom::backup::snapshots(&target, None).await.unwrap().snapshots.is_empty() {
            let now = reached(&target).await;
            assert!(now >= last, "{now} after {last}");
            last = now;
            seen.push(now);
        }
        if copied.is_ok_and(|report| report.not_remembered.is_none()) {
            break;
        }
        calls += 1;
    }
    assert_eq!(last, LAST);
    seen.dedup();
    assert!(seen.len() > 2, "{seen:?}");
    assert_eq!(objects(test.dir.path(), id), objects(dir.path(), id));
    let target = Repository::open(local(dir.path()), None).await.unwrap();
    let again = to(&test, &target, &keys(&[1])).await.unwrap();
    assert_eq!((again.journals.copied.len(), again.journals.present), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_count_or_is_damaged_stays_behind() {
    let (test, id) = golden().await;
    let dir = tempfile::tempdir().unwrap();
    let (target, _) = open_replica(&test.repository, local(dir.path()), false).await.unwrap();
    // Nothing of it counts by other keys; without keys everything that parses is copied.
    let report = to(&test, &target, &keys(&[9])).await.unwrap();
    assert!(report.journals.left_out.contains_key(&id) && objects(dir.path(), id).is_empty());
    // One that is damaged: what is before the damage is copied, and the rest is named.
    let path = |part: JournalPart| test.path(&part.of(id));
    let segment = path(JournalPart::Segment { number: 3, last: 3 });
    let good = fs::read(&segment).unwrap();
    let mut bytes = good.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&segment, bytes).unwrap();
    // Planted beside good ones: they stay behind.
    fs::write(path(JournalPart::Segment { number: 2, last: 9 }), "x").unwrap();
    fs::write(path(JournalPart::Seal(3)), "x").unwrap();
    fs::write(path(JournalPart::End(1)), "x").unwrap();
    let report = to(&test, &target, &keys(&[1])).await.unwrap();
    assert!(report.journals.failed[&id].contains("segment 3"), "{:?}", report.journals);
    let names = || objects(dir.path(), id).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(), ["head", "seal.1", "segment.1.1", "segment.2.2"]);
    assert_eq!(reached(&target).await, 2);
    fs::write(&segment, good).unwrap();
    let report = to(&test, &target, &keys(&[1])).await.unwrap();
    assert_eq!((&report.journals.copied[..], report.journals.failed.len()), (&[id][..], 0));
    assert_eq!(reached(&target).await, LAST);
    assert!(names().iter().all(|name| !["segment.2.9", "seal.3", "end.1"].contains(&&**name)));
    // What the copy's own retention removed does not come back.
    let own = dir.path().join(format!("journals/{id}"));
    fs::rename(own.join("head"), own.join("tombstone")).unwrap();
    let report = to(&test, &target, &keys(&[1])).await.unwrap();
    assert_eq!(report.journals.present, 1);
    assert!(!own.join("head").exists());
    // Another head in the copy.
    fs::write(own.join("head"), "x").unwrap();
    let report = to(&test, &target, &KeySet::new()).await.unwrap();
    assert!(report.journals.failed[&id].contains("another one"), "{:?}", report.journals);
}

/// The end by which a journal counts is copied however many objects others have put beside it.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_among_planted_ones_is_copied() {
    let (test, id) = golden().await;
    let dir = tempfile::tempdir().unwrap();
    let (target, _) = open_replica(&test.repository, local(dir.path()), false).await.unwrap();
    let path = |part: JournalPart| test.path(&part.of(id));
    // Where the numbers that follow are taken, the last is the next one.
    fs::rename(path(JournalPart::End(2)), path(JournalPart::End(u32::MAX))).unwrap();
    for number in 3..80 {
        fs::write(path(JournalPart::End(number)), "x").unwrap();
    }
    let report = to(&test, &target, &keys(&[1])).await.unwrap();
    assert_eq!((&report.journals.copied[..], report.journals.failed.len()), (&[id][..], 0));
    let ends: Vec<_> = objects(dir.path(), id).into_iter().map(|(name, _)| name).collect();
    assert!(ends.contains(&JournalPart::End(u32::MAX).to_string()), "{ends:?}");
}

/// However many objects of a segment's length lie before it, it is copied, and they stay behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_among_planted_ones_is_copied() {
    let (test, id) = golden().await;
    let dir = tempfile::tempdir().unwrap();
    let (target, _) = open_replica(&test.repository, local(dir.path()), false).await.unwrap();
    let path = |number, last| test.path(&JournalPart::Segment { number, last }.of(id));
    let length = fs::metadata(path(2, 2)).unwrap().len() as usize;
    (100..180).for_each(|last| fs::write(path(2, last), vec![0; length]).unwrap());
    let before = objects(test.dir.path(), id).len();
    let report = to(&test, &target, &keys(&[1])).await.unwrap();
    assert_eq!((&report.journals.copied[..], report.journals.failed.len()), (&[id][..], 0));
    assert_eq!(reached(&target).await, LAST);
    assert_eq!(objects(dir.path(), id).len(), before - 80);
    // An object of this length that the copy has under such a name takes the place of none.
    let copied = |number, last| dir.path().join(JournalPart::Segment { number, last }.of(id));
    fs::rename(copied(2, 2), copied(2, 100)).unwrap();
    to(&test, &target, &keys(&[1])).await.unwrap();
    assert!(copied(2, 2).exists());
}

/// A bundle of the same length under another number is not the one that the end names.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_missing_is_told() {
    let (test, id) = repository_of("journal-bundled").await;
    let dir = tempfile::tempdir().unwrap();
    let (target, _) = open_replica(&test.repository, local(dir.path()), false).await.unwrap();
    let path = |part: JournalPart| test.path(&part.of(id));
    fs::rename(path(JournalPart::Bundle(3)), path(JournalPart::Bundle(9))).unwrap();
    let report = to(&test, &target, &keys(&[1])).await.unwrap();
    assert!(report.journals.failed[&id].contains("is missing"), "{:?}", report.journals);
    fs::rename(path(JournalPart::Bundle(9)), path(JournalPart::Bundle(3))).unwrap();
    let report = to(&test, &target, &keys(&[1])).await.unwrap();
    assert_eq!(report.journals.failed.len(), 0);
    assert_eq!(reached(&target).await, LAST);
}

/// Bytes of the same length are not taken for the same: what is there is read once, which reports in the copy record.
#[tokio::test(flavor = "multi_thread")]
async fn what_rots_in_the_copy_is_found() {
    let (test, id) = golden().await;
    let dir = tempfile::tempdir().unwrap();
    let (target, _) = open_replica(&test.repository, local(dir.path()), false).await.unwrap();
    let keys = keys(&[1]);
    let state = |report: &CopyReport| {
        let journals = &report.journals;
        (journals.compared.clone(), journals.not_compared, journals.failed.get(&id).cloned())
    };
    // What was written now was verified on the way, and is remembered.
    for _ in 0..2 {
        let report = to(&test, &target, &keys).await.unwrap();
        assert_eq!(state(&report), (vec![], Some(0), None));
    }
    let forget = || fs::remove_dir_all(dir.path().join("reports")).unwrap();
    for part in [JournalPart::Segment { number: 2, last: 2 }, JournalPart::End(2)] {
        forget();
        let path = dir.path().join(part.of(id));
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let report = to(&test, &target, &keys).await.unwrap();
        let why = state(&report).2.unwrap_or_default();
        let named = format!("{}: it has other bytes in the copy", part.of(id));
        assert!(why.contains(&named), "{part:?}: {why}");
        // It is not remembered as good.
        assert!(state(&to(&test, &target, &keys).await.unwrap()).2.is_some());
        fs::write(&path, good).unwrap();
        let report = to(&test, &target, &keys).await.unwrap();
        assert_eq!(state(&report), (vec![id], Some(0), None));
        let report = to(&test, &target, &keys).await.unwrap();
        assert_eq!(state(&report), (vec![], Some(0), None));
    }
    // Without a key there is no memory, and no comparison.
    let report = to(&test, &target, &KeySet::new()).await.unwrap();
    assert_eq!(state(&report), (vec![], None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_copies_what_is_recorded_and_says_what_is() {
    let etcd = Etcd::start(Version::V3_6).await;
    let place = Place::new();
    recorded(&place, &etcd).await;
    let copied = place.json(&["copy", "--to", "replica"]);
    assert_eq!(copied["journals"]["copied"].as_array().unwrap().len(), 1, "{copied}");
    let (_, newer, last) = recorded(&place, &etcd).await;
    let copied = place.json(&["copy", "--to", "replica"]);
    // The second recorder bundles the first journal, which is then copied again.
    let (again, present) = (&copied["journals"]["copied"], &copied["journals"]["present"]);
    assert!(again.to_string().contains(&newer), "{copied}");
    let copies = again.as_array().unwrap().len() as u64;
    assert_eq!(copies + present.as_u64().unwrap(), 2, "{copied}");
    fs::rename(place.path("repo"), place.path("lost")).unwrap();
    fs::rename(place.path("replica"), place.path("repo")).unwrap();
    let restored = place.json(&["restore", "--newest", "--output", "newest.db"]);
    assert_eq!(restored["revision"], last);
    assert_eq!(place.json(&["journal", "verify"])["findings"], serde_json::json!([]));
    let listed = place.run(&["snapshots"]);
    let said = String::from_utf8(listed.stderr).unwrap();
    assert!(said.contains("continuous default: 2"), "{said}");
    assert!(said.contains(&format!("–{last}, 2 journals")), "{said}");
}
