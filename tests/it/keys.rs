//! Giving up a key must never strand a snapshot.

use std::fs;
use std::sync::Arc;

use strongroom::ErrorKind;
use strongroom::backup::{
    Accept, BackupOptions, Scope, Source, VerifyLevel, backup, check_removable, reseal, verify,
};

use strongroom::crypto::Argon2Cost;
use strongroom::custody::{NamedKey, create_passphrase_key, open_named};
use strongroom::format::KeyState;
use strongroom::keys::{KeySet, MasterKey};
use strongroom::secret::SecretBytes;
use strongroom::task::Control;

use crate::support::{TestRepo, key, keys, small_database};

fn opening(fills: &[u8]) -> KeySet {
    let mut keys = KeySet::new();
    fills.iter().for_each(|fill| keys.add(Arc::new(key(*fill)), KeyState::Retiring));
    keys
}

/// Two keys seal; each is rotated in its own keyring. Whoever removes the first old key, then the second, would be
/// told each time that the seal names another one.
#[tokio::test]
async fn a_key_that_a_seal_names_is_no_reason_to_give_up_another() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1, 2])).await.id;
    check_removable(&repo.repository, &opening(&[1, 2]), key(1).id()).await.unwrap();
    let error =
        check_removable(&repo.repository, &opening(&[2, 3]), key(2).id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    let control = Control::default();
    let mut now = opening(&[2]);
    now.add(Arc::new(key(4)), KeyState::Sealing);
    reseal(&repo.repository, &now, Scope::All, &[], Accept::Counting, &control).await.unwrap();
    check_removable(&repo.repository, &now, key(2).id()).await.unwrap();
    assert!(repo.restore(&opening(&[4]), id).await.is_ok());
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_is_a_reason_to_keep_every_key() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1, 2])).await.id;
    std::fs::write(repo.object(id, "seal.1"), b"nothing of the kind").unwrap();
    let error =
        check_removable(&repo.repository, &opening(&[1, 2]), key(9).id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn one_clusters_snapshots_and_those_that_do_not_say_whose_they_are() {
    let repo = TestRepo::new().await;
    let mut ids = Vec::new();
    for name in ["east", "west", "west"] {
        let mut options = BackupOptions::default();
        options.cluster = name.parse().unwrap();
        let source = Source::File(small_database());
        let control = Control::default();
        let done = backup(&repo.repository, &keys(&[1]), source, &options, &control).await;
        ids.push(done.unwrap().id);
    }
    let west = "west".parse().unwrap();
    let resealed = reseal(
        &repo.repository,
        &keys(&[1, 2]),
        Scope::Cluster(&west),
        &[],
        Accept::Counting,
        &Control::default(),
    )
    .await
    .unwrap();
    assert_eq!(resealed.resealed, ids[1..]);
    let checked = async || {
        let scope = Scope::Cluster(&west);
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Quick, &Control::default()).await
    };
    assert_eq!(checked().await.unwrap().snapshots.len(), 2);
    std::fs::write(repo.object(ids[0], "manifest"), b"{}").unwrap();
    let report = checked().await.unwrap();
    assert_eq!(report.snapshots.len(), 3);
    assert!(report.worst().is_some());
    let nowhere = "north".parse().unwrap();
    std::fs::remove_dir_all(repo.path(&format!("snapshots/{}", ids[0]))).unwrap();
    let scope = Scope::Cluster(&nowhere);
    let nothing =
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Quick, &Control::default()).await;
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A key of before a rotation may be sealed to by a backup that is still running.
#[tokio::test]
async fn a_backup_in_flight_keeps_its_key() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    let running = repo.backup(&keys(&[1])).await.id;
    let both = opening(&[1, 2]);
    let mut to_both = KeySet::new();
    [1, 2].iter().for_each(|fill| to_both.add(Arc::new(key(*fill)), KeyState::Sealing));
    let done = reseal(
        &repo.repository,
        &to_both,
        Scope::Ids(&[id]),
        &[],
        Accept::Counting,
        &Control::default(),
    )
    .await;
    assert_eq!(done.unwrap().resealed, [id]);
    // As it is just before the manifest is written, and before the seal is.
    for part in ["manifest", "seal.1"] {
        std::fs::remove_file(repo.object(running, part)).unwrap();
        let refused = check_removable(&repo.repository, &both, key(1).id()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{part}");
        assert!(refused.to_string().contains(&running.to_string()), "{refused}");
    }
    for part in ["payload", "index"] {
        std::fs::remove_file(repo.object(running, part)).unwrap();
    }
    check_removable(&repo.repository, &both, key(1).id()).await.unwrap();
}

/// Somebody with an old keyring must not replace a newer seal that it does not open.
#[tokio::test]
async fn a_newer_seal_of_others_is_not_replaced() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    let old = std::fs::read(repo.object(id, "seal.1")).unwrap();
    let mut new = opening(&[1]);
    new.add(Arc::new(key(2)), KeyState::Sealing);
    let (drop, control) = ([key(1).id()], Control::default());
    reseal(&repo.repository, &new, Scope::All, &drop, Accept::Counting, &control).await.unwrap();
    // It could not be deleted.
    std::fs::write(repo.object(id, "seal.1"), old).unwrap();
    let accept = Accept::Counting;
    let report = reseal(&repo.repository, &keys(&[1]), Scope::All, &[], accept, &control).await;
    assert!(report.unwrap().lingering[0].contains("seal.2"));
    assert!(repo.object(id, "seal.2").exists());
    assert!(repo.restore(&keys(&[2]), id).await.is_ok());
}

/// The cluster in a manifest is in clear: who alters it must not hide the snapshot from a verification of its cluster.
#[tokio::test]
async fn a_manifest_that_was_moved_to_another_cluster_fails() {
    let repo = TestRepo::new().await;
    let ids = [repo.backup(&keys(&[1])).await.id, repo.backup(&keys(&[1])).await.id];
    let path = repo.object(ids[1], "manifest");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"cluster\":\"default\"", "\"cluster\":\"defaulu\""))
        .unwrap();
    let scope = "default".parse().unwrap();
    let scope = Scope::Cluster(&scope);
    let report =
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Quick, &Control::default()).await;
    let report = report.unwrap();
    assert_eq!(report.worst().map(strongroom::Error::kind), Some(ErrorKind::Tampered));
    // Without a key that could tell, it is at least counted.
    let report =
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Digests, &Control::default())
            .await;
    assert_eq!(report.unwrap().snapshots.len(), 2);
}

/// [S2.4] Whoever can create objects plants generations of the key, and other keys, that cost as much Argon2id as is
/// spent at all: the key that is named opens all the same.
#[tokio::test]
async fn planted_passphrase_keys_do_not_use_up_what_may_be_spent() {
    let repo = TestRepo::new().await;
    let word = || SecretBytes::new(b"correct horse".to_vec());
    let key = create_passphrase_key(&repo.repository, word(), Argon2Cost::default()).await.unwrap();
    let text = fs::read_to_string(repo.path(&format!("keys/{}.1", key.id()))).unwrap();
    let cost = Argon2Cost::default();
    let from = format!("argon2id {} ", cost.m_kib);
    assert!(text.contains(&from));
    for n in 2..=9 {
        let planted = text
            .replace("generation 1\n", &format!("generation {n}\n"))
            .replace(&from, &format!("argon2id {} ", 8 * cost.m_kib));
        fs::write(repo.path(&format!("keys/{}.{n}", key.id())), &planted).unwrap();
        let other = format!("{n:032}");
        let planted = text
            .replace(&key.id().to_string(), &other)
            .replace(&from, &format!("argon2id {} ", 8 * cost.m_kib));
        fs::write(repo.path(&format!("keys/{other}.1")), planted).unwrap();
    }
    let mut keys = KeySet::new();
    let named = NamedKey { id: key.id(), retiring: false };
    open_named(&repo.repository, word(), &[Some(named)], &mut keys).await.unwrap();
    assert_eq!(keys.state(key.id()), Some(KeyState::Sealing));
}
