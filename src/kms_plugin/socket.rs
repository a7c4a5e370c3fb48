//! The plugin's Unix socket: who may connect, and that nobody else can put another one in its place.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::{getuid, umask};
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Error, ErrorKind, Result};

/// A socket that is listened at; it is removed when this is dropped.
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another process may listen there by now.
        if file(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Socket {
    /// Listens at `path`, for the owner of this process and root. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] for a directory in which others can replace the
    /// socket, [`ErrorKind::AlreadyExists`] when something else is there, [`ErrorKind::Io`].
    pub async fn bind(path: &Path) -> Result<Self> {
        check_directory(path.parent().unwrap_or(Path::new("/")))?;
        make_room(path).await?;
        // There is no moment at which others can connect.
        let before = umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(|error| Error::io(path, error))?;
        let file = file(path).map_err(|error| Error::io(path, error))?;
        Ok(Self { listener, path: path.to_owned(), file })
    }
}

fn file(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// That only root and the owner of this process can change what is in `directory`.
fn check_directory(directory: &Path) -> Result<()> {
    let meta = fs::metadata(directory).map_err(|error| {
        Error::io(directory, error).hint("create the socket's directory first, with mode 700")
    })?;
    let own = [0, getuid().as_raw()].contains(&meta.uid());
    if own && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let message = format!("{}: others can replace a socket in this directory", directory.display());
    Err(Error::new(ErrorKind::Denied, message)
        .hint("use a directory of this service's own user, with mode 700"))
}

/// Removes the socket of a process that has ended.
async fn make_room(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(path, error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            let message = format!("{} exists and is not a socket", path.display());
            return Err(Error::new(ErrorKind::AlreadyExists, message).hint("choose another path"));
        }
        Ok(_) => {}
    }
    if UnixStream::connect(path).await.is_ok() {
        let message = format!("{}: another process listens there", path.display());
        return Err(Error::new(ErrorKind::AlreadyExists, message)
            .hint("stop that process, or choose another path"));
    }
    fs::remove_file(path).map_err(|error| Error::io(path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn is_its_owners_alone_and_replaces_only_what_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kms.sock");
        let kind = async |path: &Path| Socket::bind(path).await.err().map(|error| error.kind());
        let socket = Socket::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(kind(&path).await, Some(ErrorKind::AlreadyExists));
        drop(socket);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!((path.exists(), kind(&path).await), (true, None));
        // Somebody else's is left alone.
        let socket = Socket::bind(&path).await.unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        let other = Socket::bind(&path).await.unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
        fs::write(&path, b"mine").unwrap();
        assert_eq!(kind(&path).await, Some(ErrorKind::AlreadyExists));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(kind(&dir.path().join("other")).await, Some(ErrorKind::Denied));
    }
}
