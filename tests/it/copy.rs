//! Replication: the copy is the same, whole or not there, and opens with the same keys.

use std::fs;
use std::sync::Arc;

use strongroom::ErrorKind;
use strongroom::backup::{Scope, apply_prune, copy, open_replica, plan_prune};

use strongroom::crypto::Argon2Cost;
use strongroom::custody::create_passphrase_key;
use strongroom::keys::KeySet;
use strongroom::secret::SecretBytes;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::faulty::Faulty;
use crate::place::Place;
use crate::prune::{Series, last};
use crate::support::{local, restore_bytes};

async fn replica(series: &Series, dir: &std::path::Path) -> Repository {
    open_replica(&series.repo.repository, local(dir), false).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_is_the_same_and_what_was_removed_stays_away() {
    let mut series = Series::new(5).await;
    series.prune(&last(2)).await;
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let control = Control::default();
    let report =
        copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    assert_eq!((report.copied, report.present, report.failed.len()), (series.ids(), 0, 0));
    for (id, database) in &series.databases {
        let copied = crate::support::restore_bytes(&target, &series.keys, *id).await.unwrap().0;
        assert!(copied[..database.len()] == **database);
    }
    let again =
        copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    assert_eq!((again.copied.len(), again.present, again.written_bytes), (0, 2, 0));
    // What the copy's own retention removed does not come back, and the rest still restores.
    let plan = plan_prune(&target, &series.keys, &last(1), None, &control).await.unwrap();
    apply_prune(&target, &plan, &control).await.unwrap();
    let mut database = series.databases.values().next_back().unwrap().clone();
    database[77] ^= 1;
    let newest = series.backup(&database).await;
    let report =
        copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    assert_eq!(report.copied, [newest]);
    let listed = strongroom::backup::snapshots(&target, None).await.unwrap().snapshots;
    assert_eq!(listed.len(), 2);
    crate::support::restore_bytes(&target, &series.keys, newest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_it_goes_on_from_there() {
    let mut series = Series::new(3).await;
    series.prune(&last(2)).await;
    let control = Control::default();
    let mut calls = 0;
    let dir = tempfile::tempdir().unwrap();
    drop(replica(&series, dir.path()).await);
    loop {
        let store = Faulty::new(local(dir.path()), calls, false);
        let copied = match series.repo.through(Arc::new(store)).await {
            Ok(target) => {
                copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await
            }
            Err(error) => Err(error),
        };
        // What shows is whole.
        let target = replica(&series, dir.path()).await;
        for one in strongroom::backup::snapshots(&target, None).await.unwrap().snapshots {
            crate::support::restore_bytes(&target, &series.keys, one.id).await.unwrap();
        }
        if copied.is_ok_and(|report| report.failed.is_empty()) {
            break;
        }
        calls += 1;
        if calls % 3 == 0 {
            let snapshots = dir.path().join("snapshots");
            let _ = fs::remove_dir_all(snapshots);
        }
    }
    assert!(calls > 5, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_stays_behind() {
    let series = Series::new(3).await;
    let ids = series.ids();
    let payload = series.repo.object(ids[1], "payload");
    let mut bytes = fs::read(&payload).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&payload, bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let control = Control::default();
    let report =
        copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    assert_eq!(report.copied, [ids[0], ids[2]]);
    assert_eq!(report.failed.keys().copied().collect::<Vec<_>>(), ids[1..2]);
    assert!(!dir.path().join(format!("snapshots/{}/manifest", ids[1])).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_in_the_copy_comes_back_and_what_was_removed_does_not() {
    let series = Series::new(4).await;
    let ids = series.ids();
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let control = Control::default();
    copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    let plan = plan_prune(&target, &series.keys, &last(2), None, &control).await.unwrap();
    apply_prune(&target, &plan, &control).await.unwrap();
    fs::remove_file(dir.path().join(format!("snapshots/{}/index", ids[2]))).unwrap();
    fs::remove_dir_all(dir.path().join(format!("snapshots/{}", ids[3]))).unwrap();
    let report =
        copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    assert_eq!((&report.copied[..], report.failed.len()), (&ids[3..], 0));
    for one in strongroom::backup::snapshots(&target, None).await.unwrap().snapshots {
        assert!(ids[2..].contains(&one.id));
        crate::support::restore_bytes(&target, &series.keys, one.id).await.unwrap();
    }
    let again =
        copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    assert_eq!((again.copied.len(), again.present, again.written_bytes), (0, 4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_beside_a_manifest_keeps_nothing_back() {
    let series = Series::new(2).await;
    let ids = series.ids();
    let manifest = series.repo.object(ids[0], "manifest");
    fs::copy(manifest, series.repo.object(ids[0], "tombstone")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let control = Control::default();
    let report =
        copy(&series.repo.repository, &target, &KeySet::new(), Scope::All, &control).await.unwrap();
    assert_eq!(report.copied, ids);
    assert!(!dir.path().join(format!("snapshots/{}/tombstone", ids[0])).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_tombstone_in_the_copy_is_reported() {
    let series = Series::new(1).await;
    let id = series.ids()[0];
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let folder = dir.path().join(format!("snapshots/{id}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tombstone"), "x").unwrap();
    let (keys, control) = (KeySet::new(), Control::default());
    let report = copy(&series.repo.repository, &target, &keys, Scope::All, &control).await.unwrap();
    assert!(!report.failed.is_empty() && report.newest.is_none());
}

/// Whoever can create objects in the copy puts a payload of the right length there before the copy does.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_in_the_copy_is_not_taken_for_copied() {
    let series = Series::new(2).await;
    let ids = series.ids();
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let length = fs::metadata(series.repo.object(ids[0], "payload")).unwrap().len();
    let folder = dir.path().join(format!("snapshots/{}", ids[0]));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("payload"), vec![7; length as usize]).unwrap();
    let control = Control::default();
    let report =
        copy(&series.repo.repository, &target, &series.keys, Scope::All, &control).await.unwrap();
    assert_eq!(report.copied, ids[1..]);
    assert!(report.failed[&ids[0]].contains("in the copy"), "{:?}", report.failed);
    assert!(!folder.join("manifest").exists());
}

/// [S2.4] Objects under the names of passphrase keys, in either place, stop nothing.
#[tokio::test(flavor = "multi_thread")]
async fn planted_passphrase_keys_stop_no_copy() {
    let series = Series::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let word = SecretBytes::new(b"correct horse".to_vec());
    let repository = &series.repo.repository;
    let key = create_passphrase_key(repository, word, Argon2Cost::default()).await.unwrap();
    let name = format!("keys/{}.1", key.id());
    fs::write(series.repo.path(&format!("keys/{}.1", "0".repeat(32))), vec![b'x'; 9000]).unwrap();
    fs::write(series.repo.path(&format!("keys/{}.1", "1".repeat(32))), b"junk").unwrap();
    fs::create_dir_all(dir.path().join("keys")).unwrap();
    fs::write(dir.path().join(&name), b"junk").unwrap();
    let control = Control::default();
    let report = copy(repository, &target, &series.keys, Scope::All, &control).await.unwrap();
    assert_eq!((report.copied, report.differing), (series.ids(), vec![name.clone()]));
    fs::remove_file(dir.path().join(&name)).unwrap();
    copy(repository, &target, &series.keys, Scope::All, &control).await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("keys")).unwrap().count(), 1);
}

/// Seals planted in the source by the hundred do not follow the good ones into the copy.
#[tokio::test(flavor = "multi_thread")]
async fn planted_seals_do_not_bury_the_copy() {
    let series = Series::new(1).await;
    let id = series.ids()[0];
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let control = Control::default();
    let seal = fs::read_to_string(series.repo.object(id, "seal.1")).unwrap();
    let again = async |present| {
        let repository = &series.repo.repository;
        let report = copy(repository, &target, &series.keys, Scope::All, &control).await.unwrap();
        assert_eq!((report.present, report.failed.len()), (present, 0));
        let names = fs::read_dir(dir.path().join(format!("snapshots/{id}"))).unwrap();
        let names = names.map(|one| one.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("seal")).count()
    };
    assert_eq!(again(0).await, 1);
    for n in 2..300 {
        let planted = seal.replace("generation 1\n", &format!("generation {n}\n"));
        fs::write(series.repo.object(id, &format!("seal.{n}")), planted).unwrap();
    }
    assert!(again(1).await <= 64);
    assert!(again(1).await <= 64);
    restore_bytes(&target, &series.keys, id).await.unwrap();
}

/// Of the same lengths as the good one, so that no listing tells.
#[tokio::test]
async fn a_manifest_that_is_another_in_the_copy_is_named() {
    let series = Series::new(2).await;
    let id = series.ids()[0];
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let control = Control::default();
    let again = async || {
        let repository = &series.repo.repository;
        copy(repository, &target, &series.keys, Scope::All, &control).await.unwrap()
    };
    assert_eq!(again().await.copied.len(), 2);
    assert!(again().await.failed.is_empty());
    let path = dir.path().join(format!("snapshots/{id}/manifest"));
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let failed = again().await.failed;
    assert!(failed.len() == 1 && failed[&id].contains("another one in the copy"), "{failed:?}");
}

/// What is no part of a snapshot is not published, although the manifest names it by its digest.
#[tokio::test]
async fn a_copy_takes_nothing_but_parts_of_snapshots() {
    let series = Series::new(2).await;
    let ids = series.ids();
    let (payload, index) = ("payload", "index");
    // Another snapshot's, and another part: both begin as objects of ours do.
    for (id, part, other) in [(ids[0], payload, ids[1]), (ids[1], index, ids[1])] {
        let manifest = series.repo.object(id, "manifest");
        let planted = series.repo.object(other, payload);
        let bytes = fs::read(planted).unwrap();
        let old = fs::read(series.repo.object(id, part)).unwrap();
        let text = fs::read_to_string(&manifest).unwrap();
        let sha = |bytes: &[u8]| {
            let digest = <sha2::Sha256 as sha2::Digest>::digest(bytes);
            data_encoding::HEXLOWER.encode(&digest)
        };
        let length = |bytes: &[u8]| format!("\"length\":{}", bytes.len());
        let (was, is) = (sha(&old), sha(&bytes));
        assert!(text.contains(&was), "{text}");
        let text = text.replace(&was, &is).replace(&length(&old), &length(&bytes));
        fs::write(manifest, text).unwrap();
        fs::write(series.repo.object(id, part), bytes).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let target = replica(&series, dir.path()).await;
    let control = Control::default();
    let nothing = KeySet::new();
    let report =
        copy(&series.repo.repository, &target, &nothing, Scope::All, &control).await.unwrap();
    assert!(report.copied.is_empty(), "{report:?}");
    assert_eq!(report.failed.len(), 2);
    for (id, part) in [(ids[0], payload), (ids[1], index)] {
        assert!(report.failed[&id].contains("of another place"), "{:?}", report.failed);
        assert!(!dir.path().join(format!("snapshots/{id}/{part}")).exists());
    }
}

#[tokio::test]
async fn another_repository_is_no_copy() {
    let (series, other) = (Series::new(1).await, Series::new(0).await);
    let store = local(other.repo.dir.path());
    let error = open_replica(&series.repo.repository, store, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn the_program_copies_and_the_copy_opens() {
    let place = Place::new();
    let ids: Vec<_> = (0..3).map(|_| place.backup()).collect();
    assert!(place.fail(2, &["copy"]).contains("--to"));
    let done = place.json(&["copy", &ids[1], "--to", "second"]);
    assert_eq!(done["copied"], serde_json::json!([ids[1]]));
    let done = place.json(&["copy", "--to", "second"]);
    let others = serde_json::json!([ids[0], ids[2]]);
    assert_eq!((&done["copied"], &done["present"]), (&others, &1.into()));
    for args in [&["verify", "--all", "--digests"][..], &["verify", "--all"]] {
        let mut command = place.command(args);
        command.args(["-r", "second"]);
        assert!(command.output().unwrap().status.success(), "{args:?}");
    }
}
