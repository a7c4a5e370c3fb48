//! Restore to a file or a stream: fetch and open in parallel, prove the whole, only then show it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::blocking::run_blocking;
use super::control::Control;
use super::read::{Place, Stream, read_all, stdout_failed};
use super::snapshot::OpenSnapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, Sha256, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Where a restore writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// A file, which appears under its name only when all of it is proved.
    File {
        /// Its path.
        path: PathBuf,
        /// Replace what is there.
        force: bool,
    },
    /// Standard output. What a reader got is only to be trusted when the restore succeeds.
    Stdout,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The snapshot.
    pub id: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// The last revision in it.
    pub revision: u64,
    /// SHA-256 of the database, which is also the file's last 32 bytes.
    pub sha256: Sha256,
    /// Length of the database; the file is 32 bytes longer.
    pub database_bytes: u64,
    /// The master key that opened it.
    pub opened_by: KeyId,
    /// Oddities that did not stop the restore, such as a seal that does not open beside one that does.
    pub findings: Vec<String>,
    /// Wall time.
    pub duration: Duration,
}

/// Restores snapshot `id` as `etcdctl snapshot save` would have written it: the database, then its SHA-256.
///
/// # Errors
/// Those of SPEC.md §8 for a snapshot that is not whole; [`ErrorKind::AlreadyExists`] for a file that is there
/// already; [`ErrorKind::Io`], such as a full disk. Nothing is then left under the output's name.
pub async fn restore(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
    output: &Output,
    control: &Control,
) -> Result<RestoreReport> {
    let started = Instant::now();
    control
        .guard(async {
            let snapshot = OpenSnapshot::open(repository, id, keys).await?;
            let database = snapshot.database.index().database;
            control.begin("restoring", Some(database.size));
            match output {
                Output::File { path, force } => to_file(&snapshot, path, *force, control).await?,
                Output::Stdout => {
                    let out: Stream = Box::new(std::io::stdout());
                    let out = read_all(&snapshot.database, Place::Nowhere, Some(out), control);
                    let mut out = out.await?.unwrap_or_else(|| Box::new(std::io::stdout()));
                    out.write_all(&database.sha256.0).map_err(stdout_failed)?;
                    out.flush().map_err(stdout_failed)?;
                }
            }
            Ok(RestoreReport {
                id,
                cluster: snapshot.manifest.body().cluster.clone(),
                revision: snapshot.manifest.body().revision,
                sha256: database.sha256,
                database_bytes: database.size,
                opened_by: snapshot.opened_by,
                findings: snapshot.findings,
                duration: started.elapsed(),
            })
        })
        .await
}

async fn to_file(
    snapshot: &OpenSnapshot,
    path: &Path,
    force: bool,
    control: &Control,
) -> Result<()> {
    let exists = || {
        Error::new(ErrorKind::AlreadyExists, format!("{} exists", path.display()))
            .hint("choose another name, or replace it with --force")
    };
    if !force && path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let io = |error| Error::io(path, error);
    let staged = tempfile::Builder::new()
        .prefix(".strongroom-restore-")
        .tempfile_in(parent)
        .map_err(|error| Error::io(parent, error))?;
    let file = Arc::new(staged.reopen().map_err(io)?);
    let place = Place::File(file.clone(), path.to_owned());
    let database = &snapshot.database.index().database;
    read_all(&snapshot.database, place, None, control).await?;
    let (size, sha256) = (database.size, database.sha256);
    run_blocking({
        let path = path.to_owned();
        move || {
            file.write_all_at(&sha256.0, size)
                .and_then(|()| file.sync_all())
                .map_err(|error| Error::io(path, error))
        }
    })
    .await?;
    // Here, not in the blocking thread: a restore that is dropped while that syncs must take the staged file with it.
    let persisted = if force { staged.persist(path) } else { staged.persist_noclobber(path) };
    persisted.map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(),
        _ => Error::io(path, error.error),
    })?;
    let parent = parent.to_owned();
    run_blocking(move || {
        let synced = File::open(&parent).and_then(|dir| dir.sync_all());
        synced.map_err(|error| Error::io(parent, error))
    })
    .await
}
