//! A store that is slow without end, or does what it says it does not: a verification that has a deadline says what it did not
//! get to, and a removal loses nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom::ErrorKind;
use strongroom::backup::{Scope, VerifyLevel, apply_prune, plan_removal, undo_removal, verify};
use strongroom::format::{CheckOutcome, ReportOutcome};
use strongroom::task::Control;
use strongroom::text::counted;

use crate::faulty::Faulty;
use crate::support::{TestRepo, keys, local};

/// What a test waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_verified_in_time_is_not_known() {
    let repo = TestRepo::new().await;
    let keys = keys(&[1]);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(repo.backup(&keys).await.id);
    }
    let hangs = |part: String| Arc::new(Faulty::hanging(local(repo.dir.path()), part));
    let soon = || Control::default().end_at(Instant::now() + PATIENCE);
    // The newest is verified first, and the others in some order.
    let store = repo.through(hangs(format!("{}/payload", ids[1]))).await.unwrap();
    let found = verify(&store, &keys, Scope::All, VerifyLevel::Full, &soon()).await.unwrap();
    let mut seen: Vec<_> = found.snapshots.iter().map(|one| one.id).collect();
    assert!(seen.contains(&ids[3]) && !seen.contains(&ids[1]), "{seen:?}");
    assert!(found.snapshots.iter().all(|one| one.outcome.is_ok()));
    assert!(found.not_verified.contains(&ids[1]));
    let (done, left) = (seen.len(), found.not_verified.len());
    seen.extend(&found.not_verified);
    seen.sort_unstable();
    assert_eq!(seen, ids);
    let error = found.unfinished().unwrap();
    let said = format!("verified in time: {}; not verified: {left}", counted(done, "snapshot"));
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unreachable, said));
    let report = found.evidence(None, PATIENCE);
    let checks = report.checks();
    assert_eq!(report.outcome, ReportOutcome::Failed);
    assert_eq!(checks[0].outcome, CheckOutcome::Skipped);
    assert!(checks[0].detail.contains(&format!("{left} not verified")), "{checks:?}");
    assert!(checks.iter().all(|check| check.name != ids[1].to_string()));
    // Nothing at all is established when not even a seal comes.
    let store = repo.through(hangs("/seal.".into())).await.unwrap();
    let found = verify(&store, &keys, Scope::All, VerifyLevel::Quick, &soon()).await.unwrap();
    assert_eq!((found.snapshots.len(), found.not_verified), (0, ids));
    // Without a deadline it waits, and a stop ends it.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let control = Control::default().stop_when(stopped);
    let waits = verify(&store, &keys, Scope::All, VerifyLevel::Quick, &control);
    let stops = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.send_replace(true);
    };
    let (found, ()) = tokio::join!(waits, stops);
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Interrupted);
}

/// Somebody answers with another object when the removal reads the manifest: nothing is removed, and nothing half done.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_for_a_removal_is_what_was_planned() {
    let repo = TestRepo::new().await;
    let keys = keys(&[1]);
    let (old, other) = (repo.backup(&keys).await.id, repo.backup(&keys).await.id);
    let manifest = |id| repo.object(id, "manifest");
    let (genuine, foreign) =
        (std::fs::read(manifest(old)).unwrap(), std::fs::read(manifest(other)).unwrap());
    let plan = plan_removal(&repo.repository, &keys, &[old]).await.unwrap();
    let login = &b"<html>Please log in here</html>\n"[..];
    for answer in [login, &foreign] {
        std::fs::write(manifest(old), answer).unwrap();
        let error = apply_prune(&repo.repository, &plan, &Control::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tampered, "{error}");
        assert!(manifest(old).exists() && !repo.object(old, "tombstone").exists());
    }
    std::fs::write(manifest(old), genuine).unwrap();
    let report = apply_prune(&repo.repository, &plan, &Control::default()).await.unwrap();
    assert_eq!(report.removed, [old]);
    undo_removal(&repo.repository, &keys, old).await.unwrap();
    repo.restore(&keys, old).await.unwrap();
}

/// The manifest is gone although the store says that it may not be deleted: the tombstone stays, and brings it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_done_and_refused_can_be_undone() {
    let repo = TestRepo::new().await;
    let keys = keys(&[1]);
    let (old, _) = (repo.backup(&keys).await.id, repo.backup(&keys).await.id);
    let store = Arc::new(Faulty::refusing(local(repo.dir.path()), "/manifest"));
    let store = repo.through(store).await.unwrap();
    let plan = plan_removal(&store, &keys, &[old]).await.unwrap();
    let report = apply_prune(&store, &plan, &Control::default()).await.unwrap();
    assert!(report.removed.is_empty() && report.refused.len() == 1, "{report:?}");
    assert!(!repo.object(old, "manifest").exists() && repo.object(old, "tombstone").exists());
    undo_removal(&repo.repository, &keys, old).await.unwrap();
    repo.restore(&keys, old).await.unwrap();
}
