//! What several tests use: repositories and keys here, servers and clients in the files beside.

pub mod behind;
pub mod etcd_server;
pub mod fake_etcd;
pub mod kms;
pub mod kms_fault;
pub mod place;
pub mod proxied;
pub mod raw;
pub mod s3_server;
pub mod transit_double;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use strongroom::Result;
use strongroom::backup::{
    BackupOptions, BackupReport, RestoreReport, Source, Target, backup, restore,
};
use strongroom::crypto::{CryptoRng, system_rng};
use strongroom::envelope::{self, DataKey, NewSeal, Opened};
use strongroom::format::{KeyState, Seal, Sha256, SnapshotId};
use strongroom::keys::{KeySet, LocalKey, at_once};
use strongroom::secret::SecretKey;
use strongroom::store::{Repository, connect};
use strongroom::task::Control;

/// A file under `tests/vectors`.
pub fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// A small database of a real etcd.
pub fn small_database() -> PathBuf {
    vector("etcd/etcd-3.5.db")
}

/// Keys made of `fill` bytes: the same in every run.
pub fn key(fill: u8) -> LocalKey {
    LocalKey::new(SecretKey::new(|bytes| bytes.fill(fill)))
}

/// Several keys, all of which seal.
pub fn keys(fills: &[u8]) -> KeySet {
    let mut keys = KeySet::new();
    fills.iter().for_each(|fill| keys.add(Arc::new(key(*fill)), KeyState::Sealing));
    keys
}

/// Opens a seal with keys that are here.
pub fn open_seal(seal: &Seal, object: Sha256, keys: &KeySet) -> Result<Opened> {
    at_once(envelope::open_seal(seal, object, keys))
}

/// Seals a data key to keys that are here.
pub fn seal_data_key(
    data_key: &DataKey,
    new: NewSeal,
    keys: &KeySet,
    rng: &mut (dyn CryptoRng + Send),
) -> Result<Seal> {
    at_once(envelope::seal_data_key(data_key, new, keys, rng))
}

/// A repository in a temporary directory.
pub struct TestRepo {
    pub dir: tempfile::TempDir,
    pub repository: Repository,
}

impl TestRepo {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (repository, _) =
            Repository::init(local(dir.path()), false, &mut system_rng()).await.unwrap();
        Self { dir, repository }
    }

    /// The same directory, opened through another store.
    pub async fn through(&self, store: Arc<dyn ObjectStore>) -> Result<Repository> {
        Repository::open(store, None).await
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn object(&self, id: SnapshotId, part: &str) -> PathBuf {
        self.path(&format!("snapshots/{id}/{part}"))
    }

    pub async fn backup(&self, keys: &KeySet) -> BackupReport {
        backup_file(&self.repository, keys).await.unwrap()
    }

    pub async fn restore(&self, keys: &KeySet, id: SnapshotId) -> Result<Vec<u8>> {
        restore_bytes(&self.repository, keys, id).await.map(|(bytes, _)| bytes)
    }
}

pub fn local(dir: &Path) -> Arc<dyn ObjectStore> {
    connect(&dir.to_str().unwrap().parse().unwrap(), &Default::default()).unwrap().store
}

pub async fn backup_file(repository: &Repository, keys: &KeySet) -> Result<BackupReport> {
    backup_of(repository, keys, &small_database()).await
}

pub async fn backup_of(
    repository: &Repository,
    keys: &KeySet,
    database: &Path,
) -> Result<BackupReport> {
    let source = Source::File(database.to_owned());
    backup(repository, keys, source, &BackupOptions::default(), &Control::default()).await
}

/// Restores into a fresh directory, and makes sure that a failure leaves nothing there.
pub async fn restore_bytes(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<(Vec<u8>, RestoreReport)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("restored.db");
    let target =
        Target::File { path: path.clone(), force: false, revision: None, allow_untested: false };
    let restored = restore(repository, keys, id, target, &Control::default()).await;
    match restored {
        Ok(report) => Ok((std::fs::read(path).unwrap(), report)),
        Err(error) => {
            let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
            assert!(left.is_empty(), "a failed restore left {left:?}");
            Err(error)
        }
    }
}

/// Opens the only stanza of the newest snapshot's seal, of a key with this name, by code that is not ours.
pub fn open_stanza(repository: &Path, name: &str) {
    let mut command = python();
    command.arg(crate::behind::client("open_stanza.py")).arg(vector("")).arg(repository).arg(name);
    assert_eq!(crate::end_to_end::run(&mut command), "opened\n");
}

/// Python with what the independent reader needs.
pub fn python() -> std::process::Command {
    let venv = std::env::var_os("STRONGROOM_TEST_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv"), PathBuf::from);
    let path = venv.join("bin/python");
    assert!(path.exists(), "{} is missing: run scripts/get-tools", path.display());
    std::process::Command::new(path)
}
