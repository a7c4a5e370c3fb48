//! The files of a log, and their lines.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::line::MAX_LINE;
use crate::error::{Error, ErrorKind, Result};

/// Digits of the number that a rotated file's name ends with.
const DIGITS: usize = 20;

/// `path` with `end` after its name.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// The name of the rotated file that begins with the line `first`.
pub(super) fn rotated(path: &Path, first: u64) -> PathBuf {
    beside(path, &format!(".{first:020}"))
}

/// The rotated files of the log at `path`, oldest first.
pub(super) fn rotated_files(path: &Path) -> Result<Vec<PathBuf>> {
    let directory = directory(path);
    let name = path.file_name().ok_or_else(|| Error::usage("an audit log is a file"))?;
    let mut files = Vec::new();
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(Error::io(directory, error)),
    };
    for entry in listed {
        let entry = entry.map_err(|error| Error::io(directory, error))?.file_name();
        if is_rotated(name, &entry) {
            files.push(path.with_file_name(entry));
        }
    }
    files.sort();
    Ok(files)
}

fn is_rotated(base: &OsStr, name: &OsStr) -> bool {
    let (base, name) = (base.as_encoded_bytes(), name.as_encoded_bytes());
    name.strip_prefix(base)
        .and_then(|rest| rest.strip_prefix(b"."))
        .is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit))
}

/// The directory that holds `path`.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Every file of the log at `path`, oldest first: the rotated ones beside it, then itself.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Io`].
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let mut files = rotated_files(path)?;
    if path.try_exists().map_err(|error| Error::io(path, error))? {
        files.push(path.into());
    }
    if files.is_empty() {
        let message = format!("{}: there is no audit log", path.display());
        return Err(Error::new(ErrorKind::NotFound, message)
            .hint("give the path of the current file; the rotated ones beside it are found"));
    }
    Ok(files)
}

/// What stands next in a file.
pub(super) enum Next<'a> {
    /// A line without its LF.
    Line(&'a [u8]),
    /// A line over [`MAX_LINE`], skipped.
    Overlong,
    /// The file ends within a line: so many bytes of it.
    Torn(u64),
    /// The file ends.
    End,
}

/// Reads a file line by line, holding one line at most.
pub(super) struct LineReader {
    input: BufReader<File>,
    path: PathBuf,
    line: Vec<u8>,
    /// Number of the line given last, from 1.
    pub(super) number: u64,
    /// Where the next line begins.
    pub(super) offset: u64,
}

impl LineReader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let input = BufReader::with_capacity(256 << 10, file);
        Ok(Self { input, path: path.into(), line: Vec::new(), number: 0, offset: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn next(&mut self) -> Result<Next<'_>> {
        self.line.clear();
        let mut length = 0_u64;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io(&self.path, error)),
            };
            if chunk.is_empty() {
                break;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let (text, taken) = match end {
                Some(end) => (chunk.get(..end).unwrap_or_default(), end.saturating_add(1)),
                None => (chunk, chunk.len()),
            };
            // What is beyond the limit is only counted.
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend(text.iter().take(room));
            length = length.saturating_add(taken as u64);
            self.input.consume(taken);
            if end.is_some() {
                self.number = self.number.saturating_add(1);
                self.offset = self.offset.saturating_add(length);
                let overlong = length > MAX_LINE as u64;
                return Ok(if overlong { Next::Overlong } else { Next::Line(&self.line) });
            }
        }
        if length > 0 {
            self.number = self.number.saturating_add(1);
            self.offset = self.offset.saturating_add(length);
            return Ok(Next::Torn(length));
        }
        Ok(Next::End)
    }
}
