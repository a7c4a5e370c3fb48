//! Who else could read or replace a file of secrets: its owner and mode, and those of each directory and symbolic link on
//! the way to it.
//!
//! As ssh does for its keys. In addition a directory that others may write is accepted if its sticky bit keeps them from
//! replacing what is not theirs: Kubernetes mounts secrets in such directories.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::fstatfs;
use rustix::process::geteuid;

use crate::error::{Error, ErrorKind, Result};

/// File systems that keep no modes of files, by their number in `statfs(2)`.
const WITHOUT_MODES: [(u64, &str); 7] = [
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x5346_544e, "ntfs"),
    (0x7366_746e, "ntfs3"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
];
/// Symbolic links that are followed, as the kernel's limit is.
const MOST_LINKS: usize = 40;
const ROOT: u32 = 0;
const STICKY: u32 = 0o1000;

/// Checks that nobody but the owner and the group may read `file` of `path`, that only the owner may write it, and that
/// nobody else can put another file in its place.
///
/// # Errors
/// [`ErrorKind::Denied`], with what to do; [`ErrorKind::Io`] when that cannot be read.
pub(super) fn check_private(path: &Path, file: &File, meta: &Metadata) -> Result<()> {
    let own = geteuid().as_raw();
    check_mode(path, meta.mode(), without_modes(file))?;
    check_owner(path, meta.uid(), own)?;
    check_way(path, meta, own)
}

/// Checks that nobody but its owner can change a file that holds no secret and decides what is believed.
///
/// # Errors
/// As [`check_private`].
pub(super) fn check_authentic(path: &Path, meta: &Metadata) -> Result<()> {
    let own = geteuid().as_raw();
    if meta.mode() & 0o022 != 0 {
        let name = path.display();
        let message = format!("others can change {name} (mode {:04o})", meta.mode() & 0o7777);
        return Err(denied(message).hint(format!("chmod go-w {name}; then check what it says")));
    }
    check_owner(path, meta.uid(), own)?;
    check_way(path, meta, own)
}

/// Checks that only root, this process's user or `owner` can listen at the socket of `path`; false if nothing is there.
///
/// # Errors
/// [`ErrorKind::Denied`], with what to do; [`ErrorKind::Io`] when that cannot be read.
#[cfg(feature = "kms-v2")]
pub(super) fn check_socket(path: &Path, owner: Option<u32>) -> Result<bool> {
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        meta => meta.map_err(|error| Error::io(path, error))?,
    };
    let name = path.display();
    if !std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) {
        return Err(denied(format!("{name} is not a socket")));
    }
    if !may_own_socket(meta.uid(), owner) {
        let message = format!("{name} belongs to user {}, who can read what is sent", meta.uid());
        return Err(denied(message).hint(format!(
            "if that user is the plugin's, say so: unix://{name}?owner={}",
            meta.uid()
        )));
    }
    if meta.mode() & 0o002 != 0 {
        let message = format!("everybody can use {name} (mode {:04o})", meta.mode() & 0o7777);
        return Err(denied(message).hint(format!("chmod o-rwx {name}, or give the plugin a umask")));
    }
    check_way(path, &meta, owner.unwrap_or_else(|| geteuid().as_raw()))?;
    Ok(true)
}

/// Whether a socket that this user owns may be used.
#[cfg(feature = "kms-v2")]
pub(super) fn may_own_socket(user: u32, owner: Option<u32>) -> bool {
    user == ROOT || user == geteuid().as_raw() || Some(user) == owner
}

fn without_modes(file: &File) -> Option<&'static str> {
    let kind = u64::try_from(fstatfs(file).ok()?.f_type).ok()? & 0xffff_ffff;
    WITHOUT_MODES.into_iter().find(|(number, _)| *number == kind).map(|(_, name)| name)
}

/// The group may read: Kubernetes and systemd give a service its secrets so.
fn check_mode(path: &Path, mode: u32, without_modes: Option<&str>) -> Result<()> {
    if mode & 0o037 == 0 {
        return Ok(());
    }
    let path = path.display();
    let message = format!("{path} is open to others (mode {:04o})", mode & 0o7777);
    Err(match without_modes {
        None => denied(message).hint(format!("chmod 600 {path}; then consider who may have read it")),
        Some(name) => denied(format!("{message}: its file system, {name}, keeps no modes")).hint(
            "mount it with the options uid=YOU,umask=077, or copy the file to another file system and give that copy",
        ),
    })
}

fn check_owner(path: &Path, owner: u32, own: u32) -> Result<()> {
    if owner == ROOT || owner == own {
        return Ok(());
    }
    let path = path.display();
    let message = format!("{path} belongs to user {owner}, who can change it");
    Err(denied(message).hint(format!("run strongroom as that user, or chown {own} {path}")))
}

/// Follows `path` from the root as the kernel does, one name after the other. Each directory is checked before what is in
/// it is looked at: a symbolic link can be replaced where it is, and what it leads to where that is.
fn check_way(path: &Path, opened: &Metadata, own: u32) -> Result<()> {
    let named = std::path::absolute(path).map_err(|error| Error::io(path, error))?;
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    let mut left = names(&named);
    let mut found = None;
    while let Some(name) = left.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let entry = at.join(name);
        let look = |path: &Path| fs::symlink_metadata(path).map_err(|error| Error::io(path, error));
        let (dir, meta) = (look(&at)?, look(&entry)?);
        check_directory(&at, (dir.uid(), dir.gid(), dir.mode()), meta.uid(), own)
            .map_err(|error| error.context(path.display().to_string()))?;
        if !meta.is_symlink() {
            at = entry;
            found = Some((meta.dev(), meta.ino()));
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(denied(format!("{}: too many symbolic links", path.display())));
        }
        let target = fs::read_link(&entry).map_err(|error| Error::io(&entry, error))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(names(&target));
    }
    if found == Some((opened.dev(), opened.ino())) {
        return Ok(());
    }
    Err(denied(format!("{}: another file took its place while it was opened", path.display()))
        .hint("run the command again"))
}

/// The names in `path`, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter(|part| {
        matches!(part, std::path::Component::Normal(_) | std::path::Component::ParentDir)
    });
    names.map(|part| part.as_os_str().to_owned()).collect()
}

fn check_directory(
    dir: &Path,
    (owner, group, mode): (u32, u32, u32),
    entry: u32,
    own: u32,
) -> Result<()> {
    check_owner(dir, owner, own).map_err(|error| {
        error.hint("run strongroom as that user, or keep the file in a directory of your own")
    })?;
    let stays = mode & STICKY != 0 && (entry == ROOT || entry == own);
    // Distributions with umask 002 give each user a group of the same number, with no other member.
    let is_private = own != ROOT && owner == own && group == own;
    let open = if is_private { 0o002 } else { 0o022 };
    if mode & open == 0 || stays {
        return Ok(());
    }
    let dir = dir.display();
    let message =
        format!("others can replace files in {dir} (mode {:04o}), this one too", mode & 0o7777);
    Err(denied(message).hint(format!("chmod go-w {dir}, or keep the file in another directory")))
}

fn denied(message: String) -> Error {
    Error::new(ErrorKind::Denied, message)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const OWN: u32 = 1000;
    const OTHER: u32 = 1001;

    fn checked(path: &Path) -> Result<()> {
        let file = File::open(path).unwrap();
        check_private(path, &file, &file.metadata().unwrap())
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn owners_and_modes() {
        let path = Path::new("/x");
        for (mode, good) in
            [(0o600, true), (0o640, true), (0o440, true), (0o604, false), (0o620, false)]
        {
            assert_eq!(check_mode(path, mode, None).is_ok(), good, "{mode:o}");
        }
        let error = check_mode(path, 0o755, Some("vfat")).unwrap_err();
        assert!(error.to_string().contains("vfat"), "{error}");
        assert!(error.hint_text().unwrap().contains("umask=077"), "{error:?}");
        for (owner, good) in [(ROOT, true), (OWN, true), (OTHER, false)] {
            assert_eq!(check_owner(path, owner, OWN).is_ok(), good, "{owner}");
        }
        for (owner, group, mode, entry, good) in [
            (ROOT, ROOT, 0o755, ROOT, true),
            (OWN, OTHER, 0o700, OWN, true),
            (OTHER, OTHER, 0o755, OWN, false),
            (OWN, OTHER, 0o775, OWN, false),
            (OWN, OWN, 0o775, OWN, true),
            (OWN, OWN, 0o757, OWN, false),
            (ROOT, OWN, 0o775, OWN, false),
            // /tmp; a volume of Kubernetes with an fsGroup.
            (ROOT, ROOT, 0o1777, OWN, true),
            (ROOT, OWN, 0o3777, ROOT, true),
            (ROOT, ROOT, 0o1777, OTHER, false),
            (OTHER, OTHER, 0o1777, OWN, false),
        ] {
            let checked = check_directory(path, (owner, group, mode), entry, OWN);
            assert_eq!(checked.is_ok(), good, "{owner} {group} {mode:o} {entry}");
        }
        assert!(check_directory(path, (ROOT, ROOT, 0o775), ROOT, ROOT).is_err());
    }

    /// A volume of Kubernetes: the file is a link to a link, in a directory that everybody may write.
    #[test]
    fn the_directories_of_the_file_and_of_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("..2026")).unwrap();
        fs::write(volume.join("..2026/keyring"), "x").unwrap();
        set(&volume.join("..2026/keyring"), 0o440);
        symlink("..2026", volume.join("..data")).unwrap();
        symlink("..data/keyring", volume.join("keyring")).unwrap();
        set(&volume, 0o3777);
        checked(&volume.join("keyring")).unwrap();
        // Without the sticky bit another user can replace the link.
        set(&volume, 0o777);
        let error = checked(&volume.join("keyring")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.hint_text().unwrap().contains("chmod go-w"), "{error:?}");
        set(&volume, 0o755);
        // The directory of the link alone, and a directory further above.
        let links = dir.path().join("links");
        fs::create_dir_all(links.join("below")).unwrap();
        symlink(volume.join("keyring"), links.join("below/keyring")).unwrap();
        checked(&links.join("below/keyring")).unwrap();
        set(&links, 0o775);
        assert!(checked(&links.join("below/keyring")).is_err());
        set(&links, 0o755);
        set(&volume.join("..2026"), 0o775);
        assert!(checked(&links.join("below/keyring")).is_err());
        set(&volume.join("..2026"), 0o755);
        checked(&links.join("below/keyring")).unwrap();
        // What another user owns. Only root can make that.
        if geteuid().is_root() {
            std::os::unix::fs::chown(volume.join("..2026/keyring"), Some(OTHER), None).unwrap();
            let error = checked(&volume.join("keyring")).unwrap_err();
            assert!(error.to_string().contains("belongs to user 1001"), "{error}");
        }
    }
    /// A chain of links: the directory of one in the middle is neither above the name given nor above the file.
    #[test]
    fn every_link_and_directory_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for name in ["first", "middle/of", "real/deep", "elsewhere"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let file = root.join("real/deep/keyring");
        fs::write(&file, "x").unwrap();
        set(&file, 0o600);
        symlink("../middle/of/link", root.join("first/keyring")).unwrap();
        symlink(root.join("real/up/../deep/keyring"), root.join("middle/of/link")).unwrap();
        // The link `up` leads away: the kernel's `..` is then the directory above where it leads.
        symlink("../real/deep", root.join("elsewhere/over")).unwrap();
        symlink("../elsewhere/over", root.join("real/up")).unwrap();
        let path = root.join("first/keyring");
        assert_eq!(fs::canonicalize(&path).unwrap(), file);
        checked(&path).unwrap();
        for name in ["first", "middle", "middle/of", "elsewhere", "real", "real/deep"] {
            set(&root.join(name), 0o777);
            let error = checked(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{name}: {error}");
            let told = format!("others can replace files in {}", root.join(name).display());
            assert!(error.to_string().contains(&format!("{told} (mode 0777)")), "{name}: {error}");
            set(&root.join(name), 0o755);
        }
        checked(&path).unwrap();
        // A link that another user owns can be replaced by him in a directory with a sticky bit.
        if geteuid().is_root() {
            set(&root.join("middle/of"), 0o1777);
            checked(&path).unwrap();
            let link = root.join("middle/of/link");
            std::os::unix::fs::lchown(&link, Some(OTHER), None).unwrap();
            assert!(checked(&path).is_err());
            std::os::unix::fs::lchown(&link, Some(ROOT), None).unwrap();
        }
        // Another file than the one that is open.
        let open = File::open(&path).unwrap();
        fs::rename(&file, root.join("real/deep/old")).unwrap();
        fs::write(&file, "y").unwrap();
        set(&file, 0o600);
        let error = check_private(&path, &open, &open.metadata().unwrap()).unwrap_err();
        assert!(error.to_string().contains("another file took its place"), "{error}");
        symlink("loop", root.join("loop")).unwrap();
        let error = check_private(&root.join("loop"), &open, &open.metadata().unwrap());
        assert!(error.unwrap_err().to_string().contains("too many symbolic links"));
    }
}
