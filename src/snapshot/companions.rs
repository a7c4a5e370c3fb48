//! Companions: the files that a restore needs and etcd has not, in an encrypted tar beside the snapshot (SPEC.md §4.4).

use std::fs::{self, File, FileType};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};
use zeroize::Zeroizing;

use super::open::read_message;
use crate::envelope::DataKey;
use crate::error::{Error, Result};
use crate::format::{Manifest, Part, Role, padme};
use crate::store::Repository;

/// The longest tar, in bytes. PKI and tokens take kilobytes; a disk included by mistake is an error.
pub const MAX_COMPANIONS: u64 = 64 << 20;

/// The longest padded tar.
const LONGEST: u64 = MAX_COMPANIONS + (MAX_COMPANIONS >> 3);
/// A tar is made of blocks of this many bytes and ends with two of zeros.
const BLOCK: u64 = 512;
const END: u64 = 2 * BLOCK;
/// The mode bits that are stored; and those of the type, which some writers store too.
const MODES: u32 = 0o1777;
const TYPES: u32 = 0o170_000;

/// Packs `paths`, directories with all that is in them, under their absolute names without the leading slash, and pads
/// the tar. Symbolic links stay links. Set-id bits are left out.
///
/// # Errors
/// [`ErrorKind::Io`] for what cannot be read; [`ErrorKind::Usage`] when it is too much, or neither file, directory nor
/// link.
pub(crate) fn pack(paths: &[PathBuf]) -> Result<Zeroizing<Vec<u8>>> {
    // Grown once: a vector that grows leaves copies of keys behind.
    let mut total = END;
    for path in paths {
        measure(path, &mut total)?;
    }
    let capacity = padme(total).unwrap_or(total);
    let mut builder = Builder::new(Vec::with_capacity(capacity as usize));
    for path in paths {
        let absolute = std::path::absolute(path).map_err(|error| Error::io(path, error))?;
        let name: PathBuf =
            absolute.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        append(&mut builder, path, &name)?;
    }
    let tar = builder.into_inner().map(Zeroizing::new);
    let mut tar = tar.map_err(|error| Error::io("companions", error))?;
    check_size(tar.len() as u64)?;
    let padded = padme(tar.len() as u64).unwrap_or_default();
    tar.resize(padded as usize, 0);
    Ok(tar)
}

/// Adds `path` as `name`, and of a directory all that is in it.
fn append(builder: &mut Builder<Vec<u8>>, path: &Path, name: &Path) -> Result<()> {
    let failed = |error| Error::io(path, error).context("companions");
    let found = path.symlink_metadata().map_err(failed)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&found);
    header.set_mode(found.mode() & MODES);
    header.set_size(0);
    if found.is_dir() {
        builder.append_data(&mut header, name, std::io::empty()).map_err(failed)?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            entries.push(entry.map_err(failed)?.file_name());
        }
        entries.sort();
        return entries
            .iter()
            .try_for_each(|entry| append(builder, &path.join(entry), &name.join(entry)));
    }
    if found.is_symlink() {
        let target = fs::read_link(path).map_err(failed)?;
        return builder.append_link(&mut header, name, target).map_err(failed);
    }
    let mut content = Zeroizing::new(Vec::with_capacity(found.len() as usize + 1));
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_COMPANIONS + 1).read_to_end(&mut content).map_err(failed)?;
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, name, content.as_slice()).map_err(failed)
}

/// Adds to `total` what `path` takes in a tar, at most.
fn measure(path: &Path, total: &mut u64) -> Result<()> {
    let failed = |error| Error::io(path, error).context("companions");
    let found = path.symlink_metadata().map_err(failed)?;
    let kind: FileType = found.file_type();
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        let message = format!("companions: {} is not a file, directory or link", path.display());
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
pub(crate) async fn open(
    repository: &Repository,
    manifest: &Manifest,
    data_key: &DataKey,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    if manifest.body().object(&Part::Companions).is_none() {
        return Ok(None);
    }
    let key = data_key.companions_key();
    let place = (Part::Companions, Role::Companions);
    read_message(repository, manifest, place, &key, LONGEST).await.map(Some)
}

/// The names in a padded tar. Everything that [`pack`] does not write is refused.
///
/// # Errors
/// [`ErrorKind::Tampered`].
pub(crate) fn list(tar: &[u8]) -> Result<Vec<PathBuf>> {
    let unread = |error: std::io::Error| Error::tampered("companions: no tar").because(error);
    let mut names = Vec::new();
    let mut end = 0;
    for entry in Archive::new(tar).entries().map_err(unread)? {
        let mut entry = entry.map_err(unread)?;
        let name = entry.path().map_err(unread)?.into_owned();
        let refuse = |why: &str| Err(Error::tampered(format!("companions: {name:?} {why}")));
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return refuse("leads elsewhere");
        }
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::Regular | EntryType::Directory | EntryType::Symlink) {
            return refuse("is not a file, directory or symbolic link");
        }
        if entry.header().mode().map_err(unread)? & !(MODES | TYPES) != 0 {
            return refuse("has a set-id bit");
        }
        if entry.pax_extensions().map_err(unread)?.is_some() {
            return refuse("has a pax header");
        }
        let size = entry.size();
        if std::io::copy(&mut entry, &mut std::io::sink()).map_err(unread)? != size {
            return refuse("is cut short");
        }
        end = entry.raw_file_position().saturating_add(size).next_multiple_of(BLOCK);
        names.push(name);
    }
    let rest = tar.get(end as usize..).unwrap_or_default();
    if padme(end.saturating_add(END)) != Some(tar.len() as u64) || rest.iter().any(|b| *b != 0) {
        return Err(Error::tampered("companions: the tar is not followed by its padding"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use tar::Header;

    use super::*;

    /// A tar of one entry that says what `change` makes it say, padded as ours are.
    fn tar_of(change: impl Fn(&mut Header)) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_mode(0o600);
        header.set_size(0);
        header.set_entry_type(EntryType::Regular);
        change(&mut header);
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        let length = padme(tar.len() as u64 + END).unwrap();
        tar.resize(length as usize, 0);
        tar
    }

    /// Half a kilobyte that describes exabytes, or more than a file: refused at once, with nothing written.
    #[test]
    fn hostile_entries_are_refused() {
        assert_eq!(list(&tar_of(|_| ())).unwrap(), [PathBuf::from("a")]);
        for size in [1, 1 << 20, 1 << 40, 1 << 62, u64::MAX >> 1] {
            let error = list(&tar_of(|header| header.set_size(size))).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Tampered, "{size}");
        }
        for kind in [
            EntryType::GNUSparse,
            EntryType::Link,
            EntryType::Char,
            EntryType::Block,
            EntryType::Fifo,
            EntryType::Continuous,
        ] {
            let tar = tar_of(|header| {
                header.set_entry_type(kind);
                if let Some(gnu) = header.as_gnu_mut().filter(|_| kind == EntryType::GNUSparse) {
                    gnu.realsize = *b"77777777777\0";
                    gnu.sparse[0].offset = *b"77777777770\0";
                    gnu.sparse[0].numbytes = *b"00000000000\0";
                }
            });
            let error = list(&tar).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Tampered, "{kind:?}");
        }
        for mode in [0o4755, 0o2755] {
            list(&tar_of(|header| header.set_mode(mode))).unwrap_err();
        }
    }
}
