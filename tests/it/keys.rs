//! Giving up a key must never strand a snapshot.

use std::sync::Arc;

use strongroom::ErrorKind;
use strongroom::backup::{
    BackupOptions, Control, Scope, Source, VerifyLevel, backup, check_removable, reseal, verify,
};
use strongroom::keys::{MasterKey, MasterKeys};

use crate::support::{TestRepo, key, keys, small_database};

fn opening(fills: &[u8]) -> MasterKeys {
    let mut keys = MasterKeys::new();
    fills.iter().for_each(|fill| keys.add(Arc::new(key(*fill)), false));
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
    now.add(Arc::new(key(4)), true);
    reseal(&repo.repository, &now, Scope::All, &[], &control).await.unwrap();
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
    let resealed =
        reseal(&repo.repository, &keys(&[1, 2]), Scope::Cluster(&west), &[], &Control::default())
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
