//! Incremental snapshots: what the chain holds is stored once, and every snapshot restores by itself.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strongroom::backup::{
    BackupOptions, BackupReport, Control, Scope, Source, Step, VerifyLevel, backup, verify,
};
use strongroom::crypto::system_rng;
use strongroom::format::SnapshotId;
use strongroom::keys::MasterKeys;
use strongroom::{ErrorKind, Result};

use rand_core::Rng;

use crate::place::{Place, long_database, text};
use crate::support::{TestRepo, keys, python, vector};

const FRAME: usize = 1 << 20;
const LENGTH: usize = 8 * FRAME + 4096;

/// A repository and a database that changes between backups.
struct Chain {
    repo: TestRepo,
    database: Vec<u8>,
}

impl Chain {
    async fn new() -> Self {
        Self { repo: TestRepo::new().await, database: long_database(LENGTH) }
    }

    /// Other random bytes in one frame.
    fn change(&mut self, frame: usize) {
        let at = frame * FRAME;
        let end = LENGTH.min(at + FRAME);
        system_rng().fill_bytes(&mut self.database[at + FRAME.min(end - at) / 2..end]);
    }

    async fn backup_with(
        &self,
        keys: &MasterKeys,
        change: impl FnOnce(&mut BackupOptions),
        control: &Control,
    ) -> Result<BackupReport> {
        let path = self.repo.path("now.db");
        fs::write(&path, &self.database).unwrap();
        let mut options = BackupOptions::default();
        change(&mut options);
        backup(&self.repo.repository, keys, Source::File(path), &options, control).await
    }

    async fn backup(&self, keys: &MasterKeys) -> BackupReport {
        self.backup_with(keys, |_| {}, &Control::default()).await.unwrap()
    }

    async fn restores(&self, keys: &MasterKeys, id: SnapshotId, database: &[u8]) {
        let restored = self.repo.restore(keys, id).await.unwrap();
        assert!(restored[..LENGTH] == *database, "{id} restores to other bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_stored_once() {
    let (mut chain, keys) = (Chain::new().await, keys(&[1, 2]));
    let mut kept = Vec::new();
    let mut ids = Vec::new();
    for step in 0..6 {
        if step > 0 {
            chain.change(step + 1);
        }
        let report = chain.backup(&keys).await;
        if step == 0 {
            assert!(report.depends_on.is_empty() && report.stored_bytes > 7 << 20);
        } else {
            // All that came before holds a frame of this one.
            assert_eq!(report.depends_on, ids, "step {step}");
            let stored = report.stored_bytes;
            assert!((1 << 19..(1 << 20) + 8192).contains(&stored), "{stored} bytes at step {step}");
        }
        ids.push(report.id);
        kept.push(chain.database.clone());
    }
    // Nothing of the second snapshot's is used any more: it is not depended on.
    chain.change(2);
    let report = chain.backup(&keys).await;
    let mut wanted = ids.clone();
    wanted.remove(1);
    assert_eq!(report.depends_on, wanted);
    for (id, database) in ids.iter().zip(&kept) {
        chain.restores(&keys, *id, database).await;
    }
    let repository = &chain.repo.repository;
    let control = Control::default();
    let checked = verify(repository, &keys, Scope::All, VerifyLevel::Full, &control).await.unwrap();
    assert_eq!(checked.snapshots.len(), 7);
    assert!(checked.snapshots.iter().all(|one| one.outcome.is_ok()));
    // Any one of the keys opens the whole chain.
    chain.restores(&crate::support::keys(&[2]), ids[5], &kept[5]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changed_or_everything() {
    let (mut chain, keys) = (Chain::new().await, keys(&[1]));
    let first = chain.backup(&keys).await;
    let same = chain.backup(&keys).await;
    assert_eq!(same.depends_on, [first.id]);
    assert!(same.stored_bytes < 8192, "{} bytes", same.stored_bytes);
    let database = chain.database.clone();
    chain.database = long_database(LENGTH);
    let other = chain.backup(&keys).await;
    assert!(other.depends_on.is_empty(), "nothing was to be taken over");
    chain.restores(&keys, same.id, &database).await;
    chain.restores(&keys, other.id, &chain.database).await;
    let every = |options: &mut BackupOptions| options.full_every = Duration::ZERO;
    let full = chain.backup_with(&keys, every, &Control::default()).await.unwrap();
    assert!(full.depends_on.is_empty() && full.stored_bytes > 7 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_ends_when_it_is_old() {
    let (mut chain, keys) = (Chain::new().await, keys(&[1]));
    chain.backup(&keys).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    chain.change(3);
    chain.backup(&keys).await;
    // The newest is young enough, but not what it depends on.
    let full_every = |options: &mut BackupOptions| options.full_every = Duration::from_secs(1);
    let report = chain.backup_with(&keys, full_every, &Control::default()).await.unwrap();
    assert!(report.depends_on.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_proves_itself_is_leant_on() {
    let (mut chain, keys) = (Chain::new().await, keys(&[1]));
    let first = chain.backup(&keys).await;
    chain.change(5);
    let second = chain.backup(&keys).await;
    // Another cluster's are not looked at.
    let other = |options: &mut BackupOptions| options.cluster = "other".parse().unwrap();
    let report = chain.backup_with(&keys, other, &Control::default()).await.unwrap();
    assert!(report.depends_on.is_empty() && report.warnings.len() == 2, "{report:?}");
    // One that is being removed neither.
    let manifest = chain.repo.object(second.id, "manifest");
    let tombstone = chain.repo.object(second.id, "tombstone");
    fs::copy(&manifest, &tombstone).unwrap();
    assert_eq!(chain.backup(&keys).await.depends_on, [first.id]);
    fs::remove_file(tombstone).unwrap();
    // Nor one that was altered, and that is said.
    for part in ["manifest", "index"] {
        let last = chain.backup(&keys).await;
        let path = chain.repo.object(last.id, part);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let report = chain.backup(&keys).await;
        let warned = report.warnings.iter().any(|warning| warning.contains(&last.id.to_string()));
        assert!(warned && !report.depends_on.contains(&last.id), "{:?}", report.warnings);
        assert!(!report.depends_on.is_empty());
        for folder in [last.id, report.id] {
            fs::remove_dir_all(chain.repo.path(&format!("snapshots/{folder}"))).unwrap();
        }
    }
    // Nor any that the keys at hand do not open.
    let report = chain.backup(&crate::support::keys(&[9])).await;
    assert!(report.depends_on.is_empty() && report.warnings.len() > 2, "{:?}", report.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_goes_away_fails_the_backup() {
    let (mut chain, keys) = (Chain::new().await, keys(&[1]));
    let first = chain.backup(&keys).await;
    chain.change(5);
    let payload = chain.repo.object(first.id, "payload");
    let gone = AtomicBool::new(false);
    let control = Control::default().on_step(move |step| {
        if matches!(step, Step::Advance(_)) && !gone.swap(true, Ordering::SeqCst) {
            fs::remove_file(&payload).unwrap();
        }
    });
    let error = chain.backup_with(&keys, |_| {}, &control).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let folders = fs::read_dir(chain.repo.path("snapshots")).unwrap();
    let left: Vec<_> = folders
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| !path.to_string_lossy().contains(&first.id.to_string()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_program_says_what_depends_on_what() {
    let place = Place::new();
    let database = place.path("etcd.db");
    let mut bytes = long_database(LENGTH);
    fs::write(&database, &bytes).unwrap();
    let first = place.json(&["backup", "--file", "etcd.db"]);
    assert_eq!((&first["kind"], &first["depends_on"]), (&"full".into(), &serde_json::json!([])));
    bytes[7 * FRAME + 5] ^= 1;
    fs::write(&database, &bytes).unwrap();
    let second = place.json(&["backup", "--file", "etcd.db"]);
    assert_eq!(second["kind"], "incremental");
    assert_eq!(second["depends_on"], serde_json::json!([first["id"]]));
    let id = second["id"].as_str().unwrap();
    assert_eq!(place.json(&["show", id])["depends_on"], second["depends_on"]);
    assert!(text(&place.succeed(&["show", id]).stdout).contains(first["id"].as_str().unwrap()));
    let rows = place.json(&["snapshots"]);
    assert_eq!((&rows[0]["kind"], &rows[1]["kind"]), (&"full".into(), &"incremental".into()));
    for flags in [&["--full"][..], &["--full-every", "1ms"]] {
        let mut args = vec!["backup", "--file", "etcd.db"];
        args.extend(flags);
        assert_eq!(place.json(&args)["kind"], "full");
    }
    // An independent reader opens it too.
    let restored = python()
        .arg(vector("open.py"))
        .arg(place.path("repo"))
        .args([id, "--keyring"])
        .arg(place.path("keyring"))
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    let sha256 = place.json(&["restore", id, "-o", "out.db"])["sha256"].clone();
    assert!(text(&restored.stdout).contains(sha256.as_str().unwrap()));
    assert!(fs::read(place.path("out.db")).unwrap()[..LENGTH] == bytes[..]);
}
