//! Paths.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::statvfs;
use tempfile::TempDir;

use crate::error::{Error, ErrorKind, Result};

/// The directory that `path` lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new directory below `dir` that only this user can read, removed when it is dropped.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) that names `dir`.
pub(crate) fn private_dir_in(dir: &Path, prefix: &str) -> Result<TempDir> {
    let private = Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix(prefix).permissions(private).tempdir_in(dir);
    made.map_err(|error| cannot_create_in(dir, &error))
}

/// That a database of `bytes` fits into `dir`, where `what` writes it: a full disk says nothing about the snapshot.
///
/// # Errors
/// [`ErrorKind::Io`].
pub(crate) fn check_room(dir: &Path, bytes: u64, what: &str) -> Result<()> {
    let found = statvfs(dir).map_err(|error| Error::io(dir, error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    let dir = dir.display();
    let message =
        format!("{dir}: {what} needs {bytes} bytes for the database, and {free} are free");
    Err(Error::new(ErrorKind::Io, message))
}

/// That nothing can be created in `dir`. The error of `tempfile` names a random path in it.
pub(crate) fn cannot_create_in(dir: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::io(dir, rustix::io::Errno::NOENT.into()).hint("create the directory first")
        }
        kind => Error::io(dir, kind.into()),
    }
}
