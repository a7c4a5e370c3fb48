//! A snapshot's database written anew on local disk: as of a revision, or as a member's own.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256 as Hasher};

use super::blocking::run_blocking;
use super::control::{Control, Step};
use super::inside::Frames;
use super::read::{Place, read_all};
use super::restore::parent;
use super::snapshot::OpenSnapshot;
use super::spool::Spool;
use crate::bolt::Db;
use crate::error::{Error, Result};
use crate::format::Sha256;
use crate::mvcc::{self, Changes, Rewritten};

const BUFFER: usize = 1 << 20;

/// Reads the whole snapshot, proves it by its SHA-256, and writes its database into `file` of `path`, with the changes
/// that `plan` finds. What is read is spooled beside it meanwhile, encrypted.
///
/// # Errors
/// Those of SPEC.md §8, those of [`mvcc::rewrite`], and [`Io`](crate::ErrorKind::Io). The file's content is then
/// undefined.
pub(super) async fn rewrite(
    snapshot: &OpenSnapshot,
    plan: impl FnOnce(&Db<Frames>) -> Result<Changes> + Send + 'static,
    file: File,
    path: &Path,
    control: &Control,
) -> Result<Rewritten> {
    let reader = &snapshot.database;
    let spool = Arc::new(Spool::new(parent(path), reader.index()));
    control.guard(read_all(reader, Place::Spool(spool.clone()), None, control)).await?;
    let frames = Frames::over(reader.clone(), spool);
    control.begin("writing the database", None);
    let (path, watched) = (path.to_owned(), control.clone());
    let written = run_blocking(move || {
        let out = BufWriter::with_capacity(BUFFER, Watched { file, control: watched });
        let db = Db::open(frames)?;
        let changes = plan(&db)?;
        let (_, written) = mvcc::rewrite(&db, &changes, out)
            .map_err(|error| error.context(path.display().to_string()))?;
        Ok(written)
    })
    .await;
    // What the writer met then is but how it was stopped.
    control.check()?;
    written
}

/// SHA-256 of the first `length` bytes of `file`.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io).
pub(super) fn digest(file: &File, length: u64, path: &Path) -> Result<Sha256> {
    let failed = |error| Error::io(path, error);
    let mut file = file;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut rest = BufReader::with_capacity(BUFFER, file.take(length));
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = rest.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok(Sha256(hasher.finalize().into()));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}

/// A file that tells of progress, and takes no more once the job is to stop.
struct Watched {
    file: File,
    control: Control,
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.control.check().map_err(io::Error::other)?;
        let written = self.file.write(bytes)?;
        self.control.step(Step::Advance(written as u64));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Watched {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
