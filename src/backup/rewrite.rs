//! A snapshot's database written anew on local disk: as of a revision, or as a member's own.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256 as Hasher};

use super::continuous::Recorded;
use crate::bolt::Db;
use crate::error::{Error, Result};
use crate::format::Sha256;
use crate::mvcc::{self, Changes, Rewritten};
use crate::snapshot::inside::Frames;
use crate::snapshot::open::OpenSnapshot;
use crate::task::parent;
use crate::task::run_blocking;
use crate::task::{Control, Step};

const BUFFER: usize = 1 << 20;

/// Writes the snapshot's database into `file` of `path`, with the changes that `plan` finds and those that were recorded. Frames that hold nothing but
/// free pages are not fetched; of all others the id is checked, which is a keyed hash of their content. What must be
/// read again is spooled beside the file meanwhile, encrypted.
///
/// # Errors
/// Those of SPEC.md §8, those of [`mvcc::rewrite`], and [`Io`](crate::ErrorKind::Io). The file's content is then
/// undefined.
pub(super) async fn rewrite(
    snapshot: &OpenSnapshot,
    plan: impl FnOnce(&Db<Frames>) -> Result<Changes> + Send + 'static,
    recorded: Option<&Recorded>,
    file: File,
    path: &Path,
    control: &Control,
) -> Result<Rewritten> {
    let frames = Frames::new(snapshot.database.clone(), parent(path));
    let tail = recorded.and_then(|recorded| recorded.tail.clone());
    let (path, watched) = (path.to_owned(), control.clone());
    let written = run_blocking(move || {
        let out = BufWriter::with_capacity(BUFFER, Watched { file, control: watched });
        let db = Db::open(frames)?;
        let changes = plan(&db)?;
        let tail = tail.as_ref().map(|tail| tail.as_tail());
        let (_, written) = mvcc::rewrite_with(&db, &changes, tail, out)
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
