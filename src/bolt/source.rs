//! Where the bytes of a database come from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Random access to a database's bytes, without the digest that follows them in a snapshot file.
pub trait ReadAt {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`Truncated`](crate::ErrorKind::Truncated) when the bytes end before, or those of the source.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Length in bytes.
    fn size(&self) -> u64;
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let bytes = from.and_then(|bytes| bytes.get(..buf.len())).ok_or_else(|| {
            Error::truncated(format!("database: it ends before byte {offset} + {}", buf.len()))
        })?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// A database in a local file.
pub struct FileSource {
    file: File,
    path: PathBuf,
    size: u64,
}

impl FileSource {
    /// The first `size` bytes of the file at `path`, all of them if `None`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) when the file cannot be opened.
    pub fn open(path: &Path, size: Option<u64>) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let length = file.metadata().map_err(|error| Error::io(path, error))?.len();
        Ok(Self { file, path: path.to_owned(), size: size.map_or(length, |size| size.min(length)) })
    }
}

impl ReadAt for FileSource {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(Error::truncated(format!(
                "{}: it ends before byte {offset} + {}",
                self.path.display(),
                buf.len()
            )));
        }
        self.file.read_exact_at(buf, offset).map_err(|error| Error::io(&self.path, error))
    }

    fn size(&self) -> u64 {
        self.size
    }
}
