//! Small files, read with a limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest file that is read: settings, certificates, /proc.
const MAX_FILE: u64 = 1 << 20;

/// A file of at most 1 MiB.
pub(super) fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(wrong)?;
    file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes).map_err(wrong)?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_FILE) {
        true => Ok(bytes),
        false => Err(format!("{}: longer than 1 MiB", path.display())),
    }
}
