//! What only a repository in a local directory needs.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;

use crate::error::{Error, Result};
use crate::format::names;

use super::url::RepositoryUrl;

/// Creates the directory of a local repository, readable by its owner only, and the folders in it, so that nobody else puts
/// something in their place; nothing for other stores.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when it cannot be created. One that exists is left as it is.
pub fn create_directory(url: &RepositoryUrl) -> Result<()> {
    let Some(path) = url.directory() else { return Ok(()) };
    let failed = |e| Error::io(path, e).context("create the repository's directory");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    for folder in names::FOLDERS {
        match fs::create_dir(path.join(folder)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
    }
    Ok(())
}
