//! Bytes that are not what was written: each gives the right kind of error, loses nothing, shows nothing.

use std::fs;
use std::path::Path;

use strongroom::backup::{Scope, VerifyLevel, verify};
use strongroom::format::SnapshotId;
use strongroom::task::Control;
use strongroom::{ErrorKind, Result};

use crate::support::{TestRepo, keys, small_database};

const PARTS: [&str; 4] = ["manifest", "seal.1", "index", "payload"];

/// Restore and full verification agree on the kind of failure.
async fn kinds(repo: &TestRepo, id: SnapshotId) -> (Result<Vec<u8>>, Option<ErrorKind>) {
    let restored = repo.restore(&keys(&[1]), id).await;
    let report = verify(
        &repo.repository,
        &keys(&[1]),
        Scope::Ids(&[id]),
        VerifyLevel::Full,
        &Control::default(),
    )
    .await
    .unwrap();
    let verified = report.worst().map(strongroom::Error::kind);
    assert_eq!(restored.as_ref().err().map(strongroom::Error::kind), verified);
    (restored, verified)
}

fn is_integrity(kind: Option<ErrorKind>) -> bool {
    matches!(kind, Some(ErrorKind::Tampered | ErrorKind::Truncated | ErrorKind::Unsupported))
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn each_object_missing_empty_or_extended() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    for part in PARTS {
        let path = repo.object(id, part);
        let whole = fs::read(&path).unwrap();

        fs::remove_file(&path).unwrap();
        let (restored, kind) = kinds(&repo, id).await;
        assert_eq!(kind, Some(ErrorKind::Truncated), "{part} missing: {:?}", restored.err());

        fs::write(&path, b"").unwrap();
        let (restored, kind) = kinds(&repo, id).await;
        assert!(is_integrity(kind), "{part} empty: {:?}", restored.err());

        let longer = [&whole[..], b"x"].concat();
        fs::write(&path, longer).unwrap();
        let (restored, kind) = kinds(&repo, id).await;
        assert!(is_integrity(kind), "{part} extended: {:?}", restored.err());

        fs::write(&path, &whole).unwrap();
        kinds(&repo, id).await.0.unwrap();
    }
}

#[tokio::test]
async fn each_object_cut_anywhere() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    for part in PARTS {
        let path = repo.object(id, part);
        let whole = fs::read(&path).unwrap();
        let step = if whole.len() > 2000 { 97 } else { 13 };
        for cut in (0..whole.len()).step_by(step) {
            fs::write(&path, &whole[..cut]).unwrap();
            let (restored, kind) = kinds(&repo, id).await;
            assert!(is_integrity(kind), "{part} cut at {cut}: {:?}", restored.err());
        }
        fs::write(&path, &whole).unwrap();
    }
    kinds(&repo, id).await.0.unwrap();
}

#[tokio::test]
async fn each_object_with_a_bit_flipped_anywhere() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    for part in PARTS {
        let path = repo.object(id, part);
        let bits = fs::metadata(&path).unwrap().len() as usize * 8;
        // Every byte of the heads, a sample of the rest; another bit each time.
        let tail = (1024..bits).step_by(if bits > 16_000 { 1601 } else { 89 });
        for bit in (0..bits.min(1024)).step_by(7).chain(tail) {
            flip(&path, bit);
            let (restored, kind) = kinds(&repo, id).await;
            // A key id that names another key is no damage that a reader without it could tell.
            let key_id = part == "seal.1" && kind == Some(ErrorKind::WrongKey);
            assert!(is_integrity(kind) || key_id, "{part} bit {bit}: {:?}", restored.err());
            flip(&path, bit);
        }
    }
    kinds(&repo, id).await.0.unwrap();
}

#[tokio::test]
async fn objects_swapped_with_another_snapshots() {
    let repo = TestRepo::new().await;
    let a = repo.backup(&keys(&[1])).await.id;
    let b = repo.backup(&keys(&[1])).await.id;
    for part in PARTS {
        let whole = fs::read(repo.object(a, part)).unwrap();
        fs::copy(repo.object(b, part), repo.object(a, part)).unwrap();
        let (restored, kind) = kinds(&repo, a).await;
        assert!(is_integrity(kind), "{part}: {:?}", restored.err());
        fs::write(repo.object(a, part), whole).unwrap();
    }
    // All of them together: still another snapshot's.
    for part in PARTS {
        fs::copy(repo.object(b, part), repo.object(a, part)).unwrap();
    }
    assert_eq!(kinds(&repo, a).await.1, Some(ErrorKind::Tampered));
    repo.restore(&keys(&[1]), b).await.unwrap();
}

#[tokio::test]
async fn a_planted_higher_seal_is_a_finding_and_no_more() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    let good = fs::read(repo.object(id, "seal.1")).unwrap();
    let other = repo.backup(&keys(&[1])).await.id;
    let others = fs::read(repo.object(other, "seal.1")).unwrap();
    for planted in [&b"garbage"[..], b"", &good, &others] {
        fs::write(repo.object(id, "seal.4294967295"), planted).unwrap();
        let report = verify(
            &repo.repository,
            &keys(&[1]),
            Scope::Ids(&[id]),
            VerifyLevel::Full,
            &Control::default(),
        )
        .await
        .unwrap();
        assert!(report.worst().is_none());
        assert_eq!(report.snapshots[0].findings.len(), 1, "{:?}", report.snapshots[0].findings);
        repo.restore(&keys(&[1]), id).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_key_is_told_which_keys_would_open() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1, 2])).await.id;
    let error = repo.restore(&keys(&[3]), id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    for key in keys(&[1, 2]).ids() {
        assert!(error.to_string().contains(&key.to_string()), "{error}");
    }
    repo.restore(&keys(&[2]), id).await.unwrap();
}

#[tokio::test]
async fn an_old_folder_without_a_manifest_fails_verification() {
    let repo = TestRepo::new().await;
    let lost = repo.backup(&keys(&[1])).await.id;
    repo.backup(&keys(&[1])).await;
    fs::remove_file(repo.object(lost, "manifest")).unwrap();
    let all = async || {
        verify(&repo.repository, &keys(&[1]), Scope::All, VerifyLevel::Quick, &Control::default())
            .await
            .unwrap()
    };
    // As young as this, it may be a backup that is still running.
    assert!(all().await.worst().is_none());
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 86400);
    for part in ["payload", "index", "seal.1"] {
        fs::File::options()
            .write(true)
            .open(repo.object(lost, part))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    let report = all().await;
    assert_eq!(report.worst().unwrap().kind(), ErrorKind::Truncated);
    assert!(report.snapshots.iter().any(|verified| verified.id == lost));
}

#[tokio::test]
async fn verifying_nothing_is_no_success() {
    let repo = TestRepo::new().await;
    let error =
        verify(&repo.repository, &keys(&[1]), Scope::All, VerifyLevel::Full, &Control::default())
            .await
            .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_snapshot_from_the_future_is_never_the_latest() {
    use strongroom::backup::{select, snapshots};
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    // A bucket writer without a key can copy a folder under a later name.
    let fake: SnapshotId = "7ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse().unwrap();
    fs::create_dir(repo.path(&format!("snapshots/{fake}"))).unwrap();
    for part in PARTS {
        fs::copy(repo.object(id, part), repo.object(fake, part)).unwrap();
    }
    let listing = snapshots(&repo.repository, None).await.unwrap();
    assert_eq!(select(&listing, "latest", None).unwrap(), id);
    assert!(!listing.findings.is_empty());
}

#[tokio::test]
async fn two_backups_at_once_both_stand() {
    let repo = TestRepo::new().await;
    let keys = &keys(&[1]);
    let (a, b) = tokio::join!(repo.backup(keys), repo.backup(keys));
    let original = fs::read(small_database()).unwrap();
    for id in [a.id, b.id] {
        assert_eq!(repo.restore(keys, id).await.unwrap(), original);
    }
}
