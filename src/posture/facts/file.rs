//! Small files, read with a limit.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The longest file that is read: settings, certificates, /proc.
const MAX_FILE: u64 = 1 << 20;

/// A regular file of at most 1 MiB; of anything else, such as a FIFO, a read could wait without end.
pub(super) fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let wrong = |error: Error| format!("{}: {error}", path.display());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| wrong(error.into()))?;
    let file = File::from(file);
    if !file.metadata().map_err(wrong)?.is_file() {
        return Err(format!("{}: not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes).map_err(wrong)?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_FILE) {
        true => Ok(bytes),
        false => Err(format!("{}: longer than 1 MiB", path.display())),
    }
}

/// Links that are followed for one path, as in Linux.
const MAX_LINKS: usize = 40;

/// `path` without links, as a process with the root `root` sees it: a link to `/x` is to `x` below that root.
///
/// # Errors
/// A part of it is not there or cannot be read, or there are too many links.
pub(super) fn resolved(root: &Path, path: &Path) -> std::io::Result<PathBuf> {
    let parts = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
    };
    let (mut left, mut done, mut links) = (parts(path), PathBuf::from("/"), 0);
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => done = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                done.pop();
            }
            Some(Component::Normal(name)) => {
                let next = done.join(name);
                match fs::read_link(below(root, &next)) {
                    Ok(_) if links == MAX_LINKS => {
                        let why = format!("{}: more than {MAX_LINKS} links", path.display());
                        return Err(Error::other(why));
                    }
                    Ok(target) => {
                        links += 1;
                        left.extend(parts(&target));
                    }
                    // It is there and is not a link.
                    Err(error) if error.kind() == ErrorKind::InvalidInput => done = next,
                    Err(error) => return Err(error),
                }
            }
            _ => {}
        }
    }
    Ok(done)
}

/// Where the absolute path `path` of a process with the root `root` is.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_end_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("mnt/plain/member")).unwrap();
        fs::create_dir_all(at("var/lib")).unwrap();
        symlink("/mnt/plain", at("var/lib/etcd")).unwrap();
        symlink("../../../../../../mnt/plain/member", at("var/lib/up")).unwrap();
        symlink("loop", at("var/lib/loop")).unwrap();
        let found = |path: &str| resolved(root.path(), Path::new(path));
        for (path, wanted) in [
            ("/var/lib/etcd/member", "/mnt/plain/member"),
            ("/var/lib/up", "/mnt/plain/member"),
            ("/var/lib/./etcd/../../mnt", "/mnt"),
            ("/", "/"),
        ] {
            assert_eq!(found(path).unwrap(), Path::new(wanted), "{path}");
        }
        assert!(found("/var/lib/loop").unwrap_err().to_string().contains("more than 40 links"));
        assert_eq!(found("/var/lib/none").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for (path, why) in [(fifo.as_path(), "not a regular file"), (folder.path(), "not a")] {
            assert!(read(path).unwrap_err().contains(why));
        }
        assert!(!read(Path::new("/proc/self/cmdline")).unwrap().is_empty());
    }
}
