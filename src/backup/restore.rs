//! Restore to a file or a stream: fetch and open in parallel, prove the whole, only then show it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::continuous::Recorded;
use super::rewrite::{digest, rewrite};
use serde::Serialize;

use crate::bolt::{Db, FileSource};
use crate::crypto;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::serial;
use crate::format::{ClusterName, KeyId, Sha256, SnapshotId};
use crate::keys::KeySet;
use crate::mvcc::{self, Changes};
use crate::snapshot::open::OpenSnapshot;
use crate::snapshot::read::{Follower, Place, Stream, read_all, stream_failed};
use crate::store::Repository;
use crate::task::{Control, cannot_create_in, parent, run_blocking};

/// Where a restore writes to.
#[non_exhaustive]
pub enum Target {
    /// A file, which appears under its name only when all of it is proved.
    File {
        /// Its path.
        path: PathBuf,
        /// Replace what is there.
        force: bool,
        /// The main revision to go back to, `None` for all that the snapshot holds. Later changes and free pages
        /// are then left out.
        revision: Option<i64>,
        /// With a revision: take the database of an etcd later than the last one tested. Without, nothing in the
        /// database is changed, whatever its version.
        allow_untested: bool,
    },
    /// A stream, such as standard output. What a reader got is only to be trusted when the restore succeeds.
    Stream(Box<dyn Write + Send>),
}

impl Target {
    /// The target with links in its path resolved, if a file can be written there: decided before anything is fetched.
    fn checked(mut self) -> Result<Self> {
        if let Self::File { path, force, .. } = &mut self {
            *path = file_at(path, *force)?;
        }
        Ok(self)
    }
}

/// That a file can be written at `path`; the directory that it is in.
///
/// # Errors
/// Those of [`restore`] that do not depend on the snapshot.
pub(super) fn check_file(path: &Path, force: bool) -> Result<PathBuf> {
    let path = file_at(path, force)?;
    Staged::new(&path, force)?;
    Ok(parent(&path).to_owned())
}

/// Where a file is to be made that is called `path`.
fn file_at(path: &Path, force: bool) -> Result<PathBuf> {
    let shown = path.display();
    match path.metadata() {
        Ok(there) if there.is_dir() => {
            Err(Error::usage(format!("{shown} is a directory"))
                .hint("give the name of a file in it"))
        }
        Ok(there) if !there.is_file() => Err(Error::usage(format!(
            "{shown} is a device, pipe or socket, and --force replaces regular files only"
        ))
        .hint("use `--output -` for a stream")),
        Ok(_) if !force => Err(exists(path)),
        // The file that a link names is replaced, not the link.
        Ok(_) => match path.canonicalize().map_err(|error| Error::io(path, error))? {
            path if is_mount_point(&path) => {
                Err(Error::usage(format!("{shown} is a mount point, which cannot be replaced"))
                    .hint("give another name"))
            }
            path => Ok(path),
        },
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, error)),
        Err(_) if path.symlink_metadata().is_ok() => {
            Err(Error::usage(format!("{shown} is a symbolic link to a file that does not exist"))
                .hint("give the name of the file itself"))
        }
        Err(_) if path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            Err(Error::usage(format!("{shown}: there is no such directory"))
                .hint("give the name of a file, in a directory that exists"))
        }
        Err(_) if !parent(path).is_dir() => {
            Err(Error::usage(format!("{shown}: there is no such directory"))
                .hint("create the directory first"))
        }
        Err(_) => Ok(path.to_owned()),
    }
}

/// Whether something is mounted at `path`, as far as the kernel tells (since Linux 5.8).
fn is_mount_point(path: &Path) -> bool {
    let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Leases of keys whose granted time to live is not known: they have [`RENEWED_LEASE_TTL`](crate::mvcc::RENEWED_LEASE_TTL).
    pub unknown_leases: u64,
    /// The version that the cluster was being downgraded to, and that the restored one will be. Not told for a stream.
    pub downgrade: Option<String>,
    /// What the files beside the snapshot were made of, for people.
    pub included: Vec<String>,
    /// Oddities that did not stop the restore, such as a seal that does not open beside one that does.
    pub findings: Vec<String>,
    /// Wall time.
    #[serde(rename = "duration_seconds", serialize_with = "serial::seconds")]
    pub duration: Duration,
}

/// Restores snapshot `id` as `etcdctl snapshot save` would have written it: the database, then its SHA-256.
///
/// # Errors
/// Those of SPEC.md §8 for a snapshot that is incomplete or changed; [`ErrorKind::AlreadyExists`] for a file that is there
/// already; [`ErrorKind::NotFound`] for a revision that the snapshot does not have; [`ErrorKind::Io`], such as a full disk. Nothing is then left
/// under the target's name.
pub async fn restore(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    target: Target,
    control: &Control,
) -> Result<RestoreReport> {
    restore_with(repository, keys, (id, None), target, control).await
}

/// As [`restore`], with the changes that were recorded after the snapshot. The target is a file.
///
/// # Errors
/// As [`restore`], and those of the journals.
pub async fn restore_recorded(
    repository: &Repository,
    keys: &KeySet,
    recorded: &Recorded,
    target: Target,
    control: &Control,
) -> Result<RestoreReport> {
    let target = match target {
        Target::File { path, force, allow_untested, .. } => {
            Target::File { path, force, revision: Some(recorded.revision), allow_untested }
        }
        Target::Stream(_) => {
            return Err(Error::usage("a recorded revision is written to a file, not to a stream"));
        }
    };
    restore_with(repository, keys, (recorded.base, Some(recorded)), target, control).await
}

async fn restore_with(
    repository: &Repository,
    keys: &KeySet,
    (id, recorded): (SnapshotId, Option<&Recorded>),
    target: Target,
    control: &Control,
) -> Result<RestoreReport> {
    let started = Instant::now();
    let target = target.checked()?;
    let staged = match &target {
        Target::File { path, force, .. } => Some(Staged::new(path, *force)?),
        Target::Stream(_) => None,
    };
    let snapshot = control.guard(OpenSnapshot::open(repository, id, keys)).await?;
    let body = snapshot.manifest.body();
    let database = *snapshot.database.index().database();
    let (size, sha256) = (database.size, database.sha256);
    let whole = Written { revision: body.revision, size, sha256, unknown_leases: 0 };
    control.begin("restoring", Some(database.size));
    let path = staged.as_ref().map(|staged| staged.path.clone());
    let written = match (target, staged) {
        (Target::Stream(out), _) => {
            control.guard(to_stream(&snapshot, out, control)).await.map(|()| whole)
        }
        (Target::File { revision: Some(revision), allow_untested, .. }, Some(staged)) => {
            let at = At { revision, recorded, allow_untested };
            to_file_at(&snapshot, staged, at, control).await
        }
        (Target::File { .. }, Some(staged)) => {
            control.guard(to_file(&snapshot, staged, &whole, control)).await.map(|()| whole)
        }
        (Target::File { path, .. }, None) => Err(exists(&path)),
    };
    let written = written.context(format!("snapshot {id}"))?;
    let mut findings = snapshot.findings;
    let downgrade = path.and_then(|path| match downgrade(&path, written.size) {
        Ok(downgrade) => downgrade,
        Err(error) => {
            findings.push(format!("whether the cluster was in a downgrade is unknown: {error}"));
            None
        }
    });
    Ok(RestoreReport {
        id,
        cluster: body.cluster.clone(),
        revision: written.revision,
        sha256: written.sha256,
        database_bytes: written.size,
        opened_by: snapshot.opened_by,
        included: body.included.clone(),
        unknown_leases: written.unknown_leases,
        findings,
        downgrade,
        duration: started.elapsed(),
    })
}

/// The downgrade that the database in `path`, of `size` bytes, says its cluster is in.
fn downgrade(path: &Path, size: u64) -> Result<Option<String>> {
    let db = Db::open(FileSource::open(path, Some(size))?)?;
    Ok(mvcc::database_facts(&db)?.downgrade)
}

/// What stands in the file, before its trailer.
struct Written {
    revision: u64,
    size: u64,
    sha256: Sha256,
    unknown_leases: u64,
}

async fn to_stream(snapshot: &OpenSnapshot, out: Stream, control: &Control) -> Result<()> {
    let follower = Follower::Stream(out);
    let follower = read_all(&snapshot.database, Place::Nowhere, follower, control).await?;
    let Follower::Stream(mut out) = follower else { return Ok(()) };
    let sha256 = snapshot.database.index().database().sha256;
    run_blocking(move || out.write_all(&sha256.0).and_then(|()| out.flush()).map_err(stream_failed))
        .await
}

async fn to_file(
    snapshot: &OpenSnapshot,
    staged: Staged,
    whole: &Written,
    control: &Control,
) -> Result<()> {
    let file = staged.file()?;
    let writing = file.try_clone().map_err(|error| Error::io(&staged.path, error))?;
    let place = Place::File(Arc::new(Mutex::new(writing)), staged.path.clone());
    read_all(&snapshot.database, place, Follower::Nobody, control).await?;
    staged.commit(file, whole.size, whole.sha256).await
}

/// A revision to restore.
struct At<'a> {
    revision: i64,
    recorded: Option<&'a Recorded>,
    allow_untested: bool,
}

/// Not to be dropped midway: the writer would go on without it. It stops by itself.
async fn to_file_at(
    snapshot: &OpenSnapshot,
    staged: Staged,
    At { revision, recorded, allow_untested }: At<'_>,
    control: &Control,
) -> Result<Written> {
    let path = &staged.path;
    let file = staged.file()?;
    let plan = move |db: &Db<_>| {
        mvcc::database_facts(db)?.etcd_version(allow_untested)?;
        Ok(Changes { revision: Some(revision), ..Changes::default() })
    };
    let writing = file.try_clone().map_err(|error| Error::io(path, error))?;
    let rewritten = rewrite(snapshot, plan, recorded, writing, path, control).await?;
    let size = rewritten.database_bytes;
    let (file, sha256) = run_blocking({
        let path = path.to_owned();
        move || digest(&file, size, &path).map(|sha256| (file, sha256))
    })
    .await?;
    control.guard(staged.commit(file, size, sha256)).await?;
    let unknown_leases = rewritten.renewed_leases;
    Ok(Written { revision: rewritten.revision.cast_unsigned(), size, sha256, unknown_leases })
}

/// A file that has no name yet, so that it is gone if nothing comes of it, even if the process is killed; on a file
/// system that has no such files, one under a name of its own.
struct Staged {
    temporary: Temporary,
    path: PathBuf,
    force: bool,
}

enum Temporary {
    Unnamed(File),
    Named(NamedTempFile),
}

const STAGED: &str = ".strongroom-restore-";

impl Staged {
    fn new(path: &Path, force: bool) -> Result<Self> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let parent = parent(path);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        // An unnamed file gets its name through /proc.
        let names = Path::new("/proc/self/fd").is_dir();
        let temporary = match rustix::fs::open(parent, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) if names => Temporary::Unnamed(file.into()),
            Err(error @ (Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::NOSPC)) => {
                return Err(Error::io(parent, error.into()));
            }
            _ => Temporary::Named(
                tempfile::Builder::new()
                    .prefix(STAGED)
                    .tempfile_in(parent)
                    .map_err(|error| cannot_create_in(parent, &error))?,
            ),
        };
        Ok(Self { temporary, path: path.to_owned(), force })
    }

    fn file(&self) -> Result<File> {
        let file = match &self.temporary {
            Temporary::Unnamed(file) => file.try_clone(),
            Temporary::Named(named) => named.reopen(),
        };
        file.map_err(|error| Error::io(&self.path, error))
    }

    /// Adds the trailer to `file`, a database of `size` bytes, and gives it its name.
    async fn commit(self, file: File, size: u64, sha256: Sha256) -> Result<()> {
        let path = self.path.clone();
        run_blocking({
            let path = path.clone();
            move || {
                file.write_all_at(&sha256.0, size)
                    .and_then(|()| file.sync_all())
                    .map_err(|error| Error::io(path, error))
            }
        })
        .await?;
        // Here, not in the blocking thread: a restore that is dropped while that syncs must take the file with it.
        self.name().map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&path),
            std::io::ErrorKind::ResourceBusy => Error::io(&path, error)
                .hint("it may be a mount point, which cannot be replaced: give another name"),
            _ => Error::io(&path, error),
        })?;
        run_blocking(move || {
            let synced = File::open(parent(&path)).and_then(|dir| dir.sync_all());
            synced.map_err(|error| Error::io(path, error))
        })
        .await
    }

    fn name(self) -> std::io::Result<()> {
        let Self { temporary, path, force } = self;
        let file = match temporary {
            Temporary::Named(named) if force => return Ok(named.persist(&path).map(drop)?),
            Temporary::Named(named) => return Ok(named.persist_noclobber(&path).map(drop)?),
            Temporary::Unnamed(file) => file,
        };
        let link = |name: &Path| {
            // What open(2) says of O_TMPFILE.
            let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, unnamed, CWD, name, AtFlags::SYMLINK_FOLLOW)
        };
        match link(&path) {
            Err(rustix::io::Errno::EXIST) if force => {
                let random = u64::from_be_bytes(crypto::random(&mut crypto::system_rng()));
                let staged = parent(&path).join(format!("{STAGED}{random:x}"));
                link(&staged)?;
                std::fs::rename(&staged, &path).inspect_err(|_| {
                    let _ = std::fs::remove_file(&staged);
                })
            }
            linked => Ok(linked?),
        }
    }
}

fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{} exists", path.display()))
        .hint("choose another name, or replace it with --force")
}
