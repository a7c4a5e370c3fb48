//! What only a repository in a local directory needs.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};

use super::repository::PROBE_PREFIX;
use super::url::RepositoryUrl;

/// Folders deep below the repository's root that are searched: `snapshots/<id>` is 2.
const DEPTH: u8 = 3;

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

/// Removes what interrupted writes left under `root`: files staged as `name#1` by
/// `LocalFileSystem`, last written longer than `older_than` ago. Returns how many.
///
/// A folder left empty goes too, so that it does not look like a snapshot. Blocks.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when a folder cannot be read or a file not removed.
pub fn sweep_staged(root: &Path, older_than: Duration) -> Result<u64> {
    let Some(before) = SystemTime::now().checked_sub(older_than) else {
        return Ok(0);
    };
    let ours = |name: &str| name.starts_with("repository.json#") || name.starts_with(PROBE_PREFIX);
    let mut removed = sweep_folder(root, before, 0, &ours)?;
    for folder in ["keys", "reports", "snapshots"] {
        removed += sweep_folder(&root.join(folder), before, DEPTH, &|_| true)?;
    }
    Ok(removed)
}

fn sweep_folder(
    folder: &Path,
    before: SystemTime,
    depth: u8,
    ours: &dyn Fn(&str) -> bool,
) -> Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(|e| Error::io(folder, e))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let path = entry.path();
        // A file may vanish meanwhile: its writer was still alive and has finished.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if let Some(deeper) = depth.checked_sub(1) {
                let swept = sweep_folder(&path, before, deeper, ours)?;
                removed += swept;
                // An aborted upload leaves its folder. This removes an empty one only.
                if swept > 0 || metadata.modified().is_ok_and(|changed| changed < before) {
                    let _ = fs::remove_dir(&path);
                }
            }
        } else if is_staged(&entry.file_name().to_string_lossy(), ours)
            && metadata.modified().is_ok_and(|written| written < before)
        {
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// As `LocalFileSystem` names and hides them: a name, `#`, digits.
fn is_staged(name: &str, ours: &dyn Fn(&str) -> bool) -> bool {
    ours(name)
        && name.split_once('#').is_some_and(|(_, digits)| {
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        })
}
