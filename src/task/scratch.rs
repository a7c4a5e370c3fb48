//! A database's frames on local disk for as long as they are walked over: encrypted under a key that is never
//! written, in a file without a name.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{cannot_create_in, task_panicked};
use crate::crypto::{self, CHUNK_LEN, Opener, PREFIX_LEN, SEALED_CHUNK_LEN, Suite, TAG_LEN};
use crate::error::{Error, Result};
use crate::format::Index;
use crate::secret::SecretKey;

/// Frames, each sealed as one message and put once. Threads may put and read at once.
pub(crate) struct Scratch {
    dir: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    key: SecretKey,
    /// Length of a frame's place in the file.
    place: u64,
    kept: Vec<OnceLock<Opener>>,
    has_failed: AtomicBool,
}

impl Scratch {
    /// An empty spool for the frames of `index`. There is no file, which is below `dir`, before there is a frame.
    pub(crate) fn new(dir: &Path, index: &Index) -> Self {
        Self {
            dir: dir.to_owned(),
            file: Mutex::default(),
            key: SecretKey::random(&mut crypto::system_rng()),
            place: crypto::sealed_len(index.database().frame_size),
            kept: index.frames().iter().map(|_| OnceLock::new()).collect(),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Takes the disk space that all frames need, on file systems that can do that.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), such as a full disk.
    pub(crate) fn reserve(&self) -> Result<()> {
        let length = (self.kept.len() as u64).saturating_mul(self.place);
        match rustix::fs::fallocate(self.file()?, FallocateFlags::empty(), 0, length) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(()),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Whether a directory or disk has failed, which says nothing about the snapshot.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    pub(crate) fn has(&self, at: usize) -> bool {
        self.kept.get(at).is_some_and(|kept| kept.get().is_some())
    }

    /// Keeps frame `at`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), such as a full disk.
    pub(crate) fn put(&self, at: usize, frame: &[u8]) -> Result<()> {
        let (suite, rng) = (Suite::preferred(), &mut crypto::system_rng());
        let context = (at as u64).to_be_bytes();
        let sealed = crypto::seal(suite, &self.key, &context, frame, rng)?;
        let prefix = sealed.get(..PREFIX_LEN).unwrap_or_default();
        let opener = Opener::new(suite, &self.key, &context, prefix)?;
        let written = self.file()?.write_all_at(&sealed, at as u64 * self.place);
        written.map_err(|error| self.failed(error))?;
        if let Some(kept) = self.kept.get(at) {
            let _ = kept.set(opener);
        }
        Ok(())
    }

    /// Chunk `chunk` of frame `at`, which is `length` bytes long, into `buf`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), and [`Tampered`](crate::ErrorKind::Tampered) when the file was altered meanwhile.
    pub(crate) fn chunk(
        &self,
        at: usize,
        chunk: u64,
        length: u64,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        let opener = self.kept.get(at).and_then(OnceLock::get);
        let opener = opener.ok_or_else(|| Error::tampered(format!("frame {at} is not spooled")))?;
        let last = length / CHUNK_LEN as u64;
        let sealed = if chunk < last {
            SEALED_CHUNK_LEN
        } else {
            (length % CHUNK_LEN as u64) as usize + TAG_LEN
        };
        buf.resize(sealed, 0);
        let offset = PREFIX_LEN as u64 + chunk * SEALED_CHUNK_LEN as u64;
        let read = self.file()?.read_exact_at(buf, at as u64 * self.place + offset);
        read.map_err(|error| self.failed(error))?;
        let plain = opener.open_chunk(chunk, chunk == last, buf)?.len();
        buf.truncate(plain);
        Ok(())
    }

    fn file(&self) -> Result<Arc<File>> {
        let mut file = self.file.lock().map_err(|_| task_panicked())?;
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        let made = tempfile::tempfile_in(&self.dir);
        let made = made.map_err(|error| self.note(cannot_create_in(&self.dir, &error)))?;
        let made = Arc::new(made);
        *file = Some(made.clone());
        Ok(made)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        self.note(Error::io(&self.dir, error))
    }

    fn note(&self, error: Error) -> Error {
        self.has_failed.store(true, Ordering::Relaxed);
        error.hint(
            "what is read from a snapshot is kept in TMPDIR, encrypted: set TMPDIR to a directory with enough space",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::format::{Database, FrameRef, Sha256};

    fn index(frames: usize) -> Index {
        let frame = FrameRef { length: 1, sha256: Sha256([0; 32]) };
        let size = (frames as u64) << 16;
        let database = Database { size, sha256: Sha256([0; 32]), frame_size: 1 << 16 };
        Index::new(database, vec![frame; frames]).unwrap()
    }

    #[test]
    fn what_was_put_is_there_chunk_by_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let count = 7;
        let spool = Scratch::new(dir.path(), &index(count));
        let frame = |at: usize| -> Vec<u8> {
            // The last is short, and ends with a chunk or within one.
            let length = if at + 1 == count { CHUNK_LEN + 7 } else { 1 << 16 };
            (0..length).map(|byte| (byte / 251 + at) as u8).collect()
        };
        let order = (0..count).rev();
        for at in order {
            assert!(!spool.has(at));
            spool.put(at, &frame(at)).unwrap();
            assert!(spool.has(at));
        }
        let mut buf = Vec::new();
        for at in 0..count {
            let whole = frame(at);
            for (number, chunk) in whole.chunks(CHUNK_LEN).enumerate() {
                spool.chunk(at, number as u64, whole.len() as u64, &mut buf).unwrap();
                assert!(buf == chunk, "frame {at}, chunk {number}");
            }
        }
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "a file with a name");
        // Read from the disk, not from memory: what changes there is noticed.
        let file = spool.file.lock().unwrap().clone().unwrap();
        file.write_all_at(&[0; 64], 100).unwrap();
        let error = spool.chunk(0, 0, 1 << 16, &mut buf).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tampered);
    }
}
