//! Where a drill keeps its unencrypted copy, and how what a killed drill left is found and removed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock, statfs, statvfs};
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::task::{check_room, private_dir_in};

const PREFIX: &str = ".strongroom-drill-";
const LOCK: &str = "lock";
/// A directory without a lock is one that its drill has just made, unless it is older than this.
const WITHOUT_LOCK: Duration = Duration::from_secs(3600);
const SHARED_MEMORY: &str = "/dev/shm";
const SCRATCH_DIR: &str =
    "a drill needs disk space for the database: name a directory with --scratch-dir or TMPDIR";
/// Linux, `include/uapi/linux/magic.h`: `TMPFS_MAGIC`.
const TMPFS: u64 = 0x0102_1994;

/// A directory that only this user can read, locked for as long as its drill lives.
pub(super) struct Place {
    /// Before the lock, which is in it.
    dir: TempDir,
    _lock: File,
}

impl Place {
    /// A new directory for a database of `bytes`: below `given`, else in memory where twice the database fits into half
    /// of what is free, else in TMPDIR. What killed drills left there is removed first.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn new(given: Option<&Path>, bytes: u64) -> Result<Self> {
        let temporary = std::env::temp_dir();
        let memory = Path::new(SHARED_MEMORY);
        let parent = match given {
            Some(given) => given,
            None if fits_into_memory(memory, bytes) => memory,
            None => &temporary,
        };
        sweep(parent);
        if given.is_none() {
            sweep(memory);
            sweep(&temporary);
        }
        let dir = private_dir_in(parent, PREFIX).map_err(|error| error.hint(SCRATCH_DIR))?;
        check_room(parent, bytes, "a drill").map_err(|error| error.hint(SCRATCH_DIR))?;
        // Locked before it has its name: a sweep between the two would take the drill for dead.
        let (path, new) = (dir.path().join(LOCK), dir.path().join("lock.new"));
        let failed = |error: std::io::Error| Error::io(&path, error);
        let mut options = OpenOptions::new();
        let lock = options.write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        fs::rename(&new, &path).map_err(failed)?;
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes this user's scratch directories below `parent` whose drill has ended. What cannot be removed stays: it is
/// no reason not to drill.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `dir` is a directory of this user that no drill has locked.
fn is_abandoned(dir: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let Ok(metadata) = fs::symlink_metadata(dir) else { return false };
    if !metadata.is_dir() || metadata.uid() != own {
        return false;
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    match options.open(dir.join(LOCK)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let age = metadata.modified().ok().and_then(|changed| changed.elapsed().ok());
            age.is_some_and(|age| age > WITHOUT_LOCK)
        }
        Err(_) => false,
    }
}

/// Whether twice `bytes` fit into half of what is free in the tmpfs `dir`, in this machine's memory, and in what this
/// process's control groups allow. What cannot be established does not fit.
fn fits_into_memory(dir: &Path, bytes: u64) -> bool {
    let is_tmpfs = statfs(dir).is_ok_and(|found| found.f_type as u64 == TMPFS);
    let free = || {
        let found = statvfs(dir).ok()?;
        let in_tmpfs = found.f_bavail.saturating_mul(found.f_frsize);
        Some(in_tmpfs.min(memory_available()?).min(allowed_by_groups()?))
    };
    is_tmpfs && free().is_some_and(|free| bytes.saturating_mul(2) <= free / 2)
}

/// `MemAvailable` of /proc/meminfo (proc(5)), in bytes.
fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What the memory limits of this process's control group and those above it leave (cgroup v2). A tmpfs counts towards
/// them, and whatever exceeds them is killed.
fn allowed_by_groups() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    if !root.join("cgroup.controllers").exists() {
        return None;
    }
    let mut least = u64::MAX;
    let mut group: Option<PathBuf> = Some(root.join(own));
    while let Some(dir) = group.filter(|dir| dir.starts_with(root)) {
        let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
        // The root has neither file.
        if let Some(limit) = read("memory.max").filter(|limit| limit.trim() != "max") {
            let used = read("memory.current")?.trim().parse::<u64>().ok()?;
            least = least.min(limit.trim().parse::<u64>().ok()?.saturating_sub(used));
        }
        group = dir.parent().map(Path::to_path_buf);
    }
    Some(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_drill_holds_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let living = Place::new(Some(parent.path()), 0).unwrap();
        let dead = parent.path().join(".strongroom-drill-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(dead.join("db"), "secret").unwrap();
        let new = parent.path().join(".strongroom-drill-new");
        fs::create_dir(&new).unwrap();
        let other = parent.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(LOCK), "").unwrap();
        let link = parent.path().join(".strongroom-drill-link");
        std::os::unix::fs::symlink(&other, &link).unwrap();

        let second = Place::new(Some(parent.path()), 0).unwrap();
        assert!(living.path().exists() && second.path().exists());
        assert!(!dead.exists());
        assert!(new.exists() && link.symlink_metadata().is_ok() && other.join(LOCK).exists());
    }

    #[test]
    fn a_database_that_is_too_large_is_not_put_into_memory() {
        assert!(!fits_into_memory(Path::new(SHARED_MEMORY), u64::MAX / 4));
        assert!(!fits_into_memory(Path::new("/proc"), 0));
    }
}
