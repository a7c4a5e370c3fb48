//! What only a repository in a local directory needs.

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use crate::error::{Error, Result};

use super::url::RepositoryUrl;

/// Creates the directory of a local repository, readable by its owner only; nothing for other stores.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when it cannot be created. One that exists is left as it is.
pub fn create_directory(url: &RepositoryUrl) -> Result<()> {
    match url.directory() {
        Some(path) => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| Error::io(path, e).context("create the repository's directory")),
        None => Ok(()),
    }
}
