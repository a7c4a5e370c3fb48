//! Small files, read with a limit.

use std::fs::File;
use std::io::{Error, Read};
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;

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
