//! Restore to a file or a stream: fetch and open in parallel, prove the whole, only then show it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::blocking::run_blocking;
use super::control::Control;
use super::read::{Place, Stream, read_all, stdout_failed};
use super::rewrite::{digest, rewrite};
use super::snapshot::OpenSnapshot;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, Sha256, SnapshotId};
use crate::keys::MasterKeys;
use crate::mvcc::Changes;
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
        /// The main revision to go back to, `None` for all that the snapshot holds. Later changes and free pages
        /// are then left out.
        revision: Option<i64>,
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
/// already; [`ErrorKind::NotFound`] for a revision that the snapshot has not; [`ErrorKind::Io`], such as a full disk. Nothing is then left
/// under the output's name.
pub async fn restore(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
    output: &Output,
    control: &Control,
) -> Result<RestoreReport> {
    let started = Instant::now();
    let snapshot = control.guard(OpenSnapshot::open(repository, id, keys)).await?;
    let body = snapshot.manifest.body();
    let database = snapshot.database.index().database;
    let whole = Written { revision: body.revision, size: database.size, sha256: database.sha256 };
    control.begin("restoring", Some(database.size));
    let written = match output {
        Output::Stdout => control.guard(to_stdout(&snapshot, control)).await.map(|()| whole),
        Output::File { path, force, revision: None } => {
            control.guard(to_file(&snapshot, path, *force, &whole, control)).await.map(|()| whole)
        }
        Output::File { path, force, revision: Some(revision) } => {
            to_file_at(&snapshot, path, *force, *revision, control).await
        }
    };
    let written = written.context(format!("snapshot {id}"))?;
    Ok(RestoreReport {
        id,
        cluster: body.cluster.clone(),
        revision: written.revision,
        sha256: written.sha256,
        database_bytes: written.size,
        opened_by: snapshot.opened_by,
        findings: snapshot.findings,
        duration: started.elapsed(),
    })
}

/// What stands in the file, before its trailer.
struct Written {
    revision: u64,
    size: u64,
    sha256: Sha256,
}

async fn to_stdout(snapshot: &OpenSnapshot, control: &Control) -> Result<()> {
    let out: Stream = Box::new(std::io::stdout());
    let out = read_all(&snapshot.database, Place::Nowhere, Some(out), control);
    let mut out = out.await?.unwrap_or_else(|| Box::new(std::io::stdout()));
    out.write_all(&snapshot.database.index().database.sha256.0).map_err(stdout_failed)?;
    out.flush().map_err(stdout_failed)
}

async fn to_file(
    snapshot: &OpenSnapshot,
    path: &Path,
    force: bool,
    whole: &Written,
    control: &Control,
) -> Result<()> {
    let staged = Staged::new(path, force)?;
    let file = Arc::new(staged.file()?);
    let place = Place::File(file.clone(), path.to_owned());
    read_all(&snapshot.database, place, None, control).await?;
    staged.commit(file, whole.size, whole.sha256).await
}

/// Not to be dropped midway: the writer would go on without it. It stops by itself.
async fn to_file_at(
    snapshot: &OpenSnapshot,
    path: &Path,
    force: bool,
    revision: i64,
    control: &Control,
) -> Result<Written> {
    let staged = Staged::new(path, force)?;
    let file = staged.file()?;
    let changes = Changes { revision: Some(revision), ..Changes::default() };
    let writing = file.try_clone().map_err(|error| Error::io(path, error))?;
    let rewritten = rewrite(snapshot, |_| Ok(changes), writing, path, control).await?;
    let size = rewritten.database_bytes;
    let (file, sha256) = run_blocking({
        let path = path.to_owned();
        move || digest(&file, size, &path).map(|sha256| (file, sha256))
    })
    .await?;
    control.guard(staged.commit(Arc::new(file), size, sha256)).await?;
    Ok(Written { revision: rewritten.revision.cast_unsigned(), size, sha256 })
}

/// A file that is written under a name of its own, and gone if nothing comes of it.
struct Staged<'a> {
    temporary: NamedTempFile,
    path: &'a Path,
    force: bool,
}

impl<'a> Staged<'a> {
    fn new(path: &'a Path, force: bool) -> Result<Self> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let parent = parent(path);
        let temporary = tempfile::Builder::new()
            .prefix(".strongroom-restore-")
            .tempfile_in(parent)
            .map_err(|error| Error::io(parent, error))?;
        Ok(Self { temporary, path, force })
    }

    fn file(&self) -> Result<File> {
        self.temporary.reopen().map_err(|error| Error::io(self.path, error))
    }

    /// Adds the trailer to `file`, a database of `size` bytes, and gives it its name.
    async fn commit(self, file: Arc<File>, size: u64, sha256: Sha256) -> Result<()> {
        let Self { temporary, path, force } = self;
        run_blocking({
            let path = path.to_owned();
            move || {
                file.write_all_at(&sha256.0, size)
                    .and_then(|()| file.sync_all())
                    .map_err(|error| Error::io(path, error))
            }
        })
        .await?;
        // Here, not in the blocking thread: a restore that is dropped while that syncs must take the file with it.
        let named = if force { temporary.persist(path) } else { temporary.persist_noclobber(path) };
        named.map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(path),
            _ => Error::io(path, error.error),
        })?;
        let parent = parent(path).to_owned();
        run_blocking(move || {
            let synced = File::open(&parent).and_then(|dir| dir.sync_all());
            synced.map_err(|error| Error::io(parent, error))
        })
        .await
    }
}

fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{} exists", path.display()))
        .hint("choose another name, or replace it with --force")
}

/// The folder that `path` lies in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
