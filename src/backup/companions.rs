//! The files beside a snapshot, put back into a directory.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tar::Archive;
use zeroize::Zeroizing;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::SnapshotId;
use crate::keys::KeySet;
use crate::snapshot::companions::{list, open};
use crate::snapshot::folder;
use crate::snapshot::open::{check_lengths, unseal};
use crate::store::Repository;
use crate::task::{Control, cannot_create_in, parent, private_dir_in, run_blocking};

/// Restores the companions of snapshot `id` below `dir`, which must be empty or not be there yet: each under the
/// absolute name that it had. Modes stay, and for root owners. Gives their names.
///
/// # Errors
/// [`ErrorKind::NotFound`] when it has none, [`ErrorKind::AlreadyExists`] when there is something in `dir`; those of
/// SPEC.md §8 and [`ErrorKind::Io`]. Nothing is then left.
pub async fn restore_companions(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    dir: &Path,
    control: &Control,
) -> Result<Vec<PathBuf>> {
    let tar = fetch(repository, keys, id, dir, control).await?;
    let dir = dir.to_owned();
    run_blocking(move || check(&dir).and_then(|()| unpack(&tar, &dir))).await
}

/// The names of what [`restore_companions`] would restore, and nothing is written.
///
/// # Errors
/// Those of [`restore_companions`].
pub(super) async fn companions_for(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    dir: &Path,
    control: &Control,
) -> Result<Vec<PathBuf>> {
    list(&fetch(repository, keys, id, dir, control).await?)
}

async fn fetch(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    dir: &Path,
    control: &Control,
) -> Result<Zeroizing<Vec<u8>>> {
    check(dir)?;
    let opened = async {
        let folder = folder::list_or_look_up(repository, id).await?;
        let unsealed = unseal(repository, id, &folder, keys).await?;
        unsealed.check_trusted(keys)?;
        check_lengths(&unsealed.manifest, &folder)?;
        let tar = open(repository, &unsealed.manifest, &unsealed.opened()?.data_key).await?;
        tar.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "it has no companions")
                .hint("`strongroom backup --include PATH` stores them")
        })
    };
    control.guard(opened).await.context(format!("snapshot {id}"))
}

/// That `dir` can be made: decided before anything is fetched.
fn check(dir: &Path) -> Result<()> {
    let empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(Error::io(dir, error)),
    };
    if !empty {
        let message = format!("{} is not empty", dir.display());
        return Err(Error::new(ErrorKind::AlreadyExists, message)
            .hint("companions go into a directory of their own; look at them, then move them"));
    }
    match fs::metadata(parent(dir)) {
        Ok(_) => Ok(()),
        Err(error) => Err(cannot_create_in(parent(dir), &error)),
    }
}

fn unpack(tar: &[u8], dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io(dir, error);
    let names = list(tar)?;
    let scratch = private_dir_in(parent(dir), ".strongroom-restore-")?;
    // Nobody looks into it before it has its owner and mode.
    let inner = scratch.path().join("companions");
    DirBuilder::new().mode(0o700).create(&inner).map_err(failed)?;
    let mut archive = Archive::new(tar);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
    archive.unpack(&inner).map_err(failed)?;
    for name in &names {
        let path = inner.join(name);
        if path.symlink_metadata().map_err(failed)?.is_file() {
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
        }
    }
    fs::rename(&inner, dir).map_err(failed)?;
    File::open(parent(dir)).and_then(|parent| parent.sync_all()).map_err(failed)?;
    Ok(names)
}
