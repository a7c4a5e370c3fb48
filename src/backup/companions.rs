//! Companions: the files that a restore needs and etcd has not, in an encrypted tar beside the snapshot (SPEC.md §4.4).

use std::fs::{self, DirBuilder, File, FileType};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Builder};
use zeroize::Zeroizing;

use super::blocking::run_blocking;
use super::control::Control;
use super::folder;
use super::restore::parent;
use super::snapshot::{check_lengths, read_message, unseal};
use crate::envelope::DataKey;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{Manifest, Role, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// The longest tar, in bytes. PKI and tokens take kilobytes; who includes a disk by mistake is told so.
pub const MAX_COMPANIONS: u64 = 64 << 20;

/// Packs `paths`, directories with all that is in them, under their absolute names without the leading slash.
/// Links stay links; what is neither file, directory nor link is an error.
///
/// # Errors
/// [`ErrorKind::Io`] for what cannot be read; [`ErrorKind::Usage`] when it is too much.
pub(super) fn pack(paths: &[PathBuf]) -> Result<Zeroizing<Vec<u8>>> {
    // Grown once: a vector that grows leaves copies of keys behind.
    let mut total = 1024;
    for path in paths {
        measure(path, &mut total)?;
    }
    let mut builder = Builder::new(Vec::with_capacity(total as usize));
    builder.follow_symlinks(false);
    for path in paths {
        let absolute = std::path::absolute(path).map_err(|error| Error::io(path, error))?;
        let name: PathBuf =
            absolute.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        let added = if is_dir {
            builder.append_dir_all(&name, path)
        } else {
            builder.append_path_with_name(path, &name)
        };
        added.map_err(|error| Error::io(path, error))?;
    }
    let tar = builder.into_inner().map(Zeroizing::new);
    let tar = tar.map_err(|error| Error::io("companions", error))?;
    check_size(tar.len() as u64)?;
    Ok(tar)
}

/// Adds to `total` what `path` takes in a tar, at most.
fn measure(path: &Path, total: &mut u64) -> Result<()> {
    let failed = |error| Error::io(path, error).context("companions");
    let found = path.symlink_metadata().map_err(failed)?;
    let kind: FileType = found.file_type();
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        let message = format!("companions: {} is no file, directory or link", path.display());
        return Err(Error::usage(message));
    }
    // Header, and as much again for a long name.
    *total = total.saturating_add(found.len().next_multiple_of(512)).saturating_add(4096);
    check_size(*total)?;
    if kind.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            measure(&entry.map_err(failed)?.path(), total)?;
        }
    }
    Ok(())
}

fn check_size(bytes: u64) -> Result<()> {
    if bytes <= MAX_COMPANIONS {
        return Ok(());
    }
    Err(Error::usage(format!("companions: more than {} MiB", MAX_COMPANIONS >> 20))
        .hint("they are for keys, certificates and tokens; back up the rest with a file backup"))
}

/// Opens the companions of a snapshot; `None` if it has none.
pub(super) async fn open(
    repository: &Repository,
    manifest: &Manifest,
    data_key: &DataKey,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    if manifest.body().object(Role::Companions.name()).is_none() {
        return Ok(None);
    }
    let key = data_key.companions_key();
    read_message(repository, manifest, Role::Companions, &key, MAX_COMPANIONS).await.map(Some)
}

/// The names in a tar, each of whose bytes is read.
///
/// # Errors
/// [`ErrorKind::Tampered`] when it is no tar, or a name leads elsewhere.
pub(super) fn list(tar: &[u8]) -> Result<Vec<PathBuf>> {
    let read = || {
        let mut names = Vec::new();
        for entry in Archive::new(tar).entries()? {
            let mut entry = entry?;
            names.push(entry.path()?.into_owned());
            std::io::copy(&mut entry.by_ref(), &mut std::io::sink())?;
        }
        Ok(names)
    };
    let names: Vec<PathBuf> = read()
        .map_err(|error: std::io::Error| Error::tampered("companions: no tar").because(error))?;
    let stays = |name: &PathBuf| name.components().all(|part| matches!(part, Component::Normal(_)));
    match names.iter().find(|name| !stays(name)) {
        None => Ok(names),
        Some(name) => Err(Error::tampered(format!("companions: {name:?} leads elsewhere"))),
    }
}

/// Restores the companions of snapshot `id` below `dir`, which must be empty or not be there yet: each under the
/// absolute name that it had. Modes stay, and for root owners. Gives their names.
///
/// # Errors
/// [`ErrorKind::NotFound`] when it has none, [`ErrorKind::AlreadyExists`] when there is something in `dir`; those of
/// SPEC.md §8 and [`ErrorKind::Io`]. Nothing is then left.
pub async fn restore_companions(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
    dir: &Path,
    control: &Control,
) -> Result<Vec<PathBuf>> {
    let opened = async {
        let folder = folder::list_one(repository, id).await?;
        let unsealed = unseal(repository, id, &folder, keys).await?;
        check_lengths(&unsealed.manifest, &folder)?;
        let tar = open(repository, &unsealed.manifest, &unsealed.data_key).await?;
        tar.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "it has no companions")
                .hint("`strongroom backup --include PATH` stores them")
        })
    };
    let tar = control.guard(opened).await.context(format!("snapshot {id}"))?;
    let dir = dir.to_owned();
    run_blocking(move || unpack(&tar, &dir)).await
}

fn unpack(tar: &[u8], dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io(dir, error);
    let empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    if !empty {
        let message = format!("{} is not empty", dir.display());
        return Err(Error::new(ErrorKind::AlreadyExists, message)
            .hint("companions go into a directory of their own; look at them, then move them"));
    }
    let names = list(tar)?;
    let scratch = tempfile::Builder::new().prefix(".strongroom-restore-").tempdir_in(parent(dir));
    let scratch = scratch.map_err(failed)?;
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
