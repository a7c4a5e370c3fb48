//! Frames: 1 MiB of database in one zstd frame (SPEC.md §4).

use std::num::NonZero;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use crate::crypto;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Sha256;
use crate::task::Buffer;

/// Bytes of database in one frame.
pub(crate) const FRAME_LEN: usize = 1 << 20;

/// A compressed frame.
pub(crate) struct Compressed {
    pub(crate) bytes: Vec<u8>,
    /// Of the compressed bytes.
    pub(crate) sha256: Sha256,
    /// Length of the plain frame.
    pub(crate) plain: usize,
    /// What is left of the frame's share of the read-ahead; free once this is dropped.
    pub(crate) memory: OwnedSemaphorePermit,
}

/// The read-ahead is counted in KiB, so that any setting fits the semaphore.
pub(crate) const fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// Threads that compress frames, each with one zstd context that it reuses.
pub(crate) struct FramePool {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    frame: Buffer,
    memory: OwnedSemaphorePermit,
    done: oneshot::Sender<Result<Compressed>>,
}

impl FramePool {
    /// One thread for each core. They end when the pool is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a level zstd does not know, [`ErrorKind::Io`] when no thread can start.
    pub(crate) fn new(level: i32) -> Result<Self> {
        if !zstd::compression_level_range().contains(&level) {
            return Err(Error::usage(format!("zstd has no level {level}")));
        }
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..thread::available_parallelism().map_or(2, NonZero::get) {
            let queue = queue.clone();
            let compressor = Compressor::new(level)
                .map_err(|error| Error::new(ErrorKind::Io, "zstd: no memory").because(error))?;
            let mut worker = Worker { compressor, scratch: Vec::new() };
            thread::Builder::new()
                .name("compress".into())
                .spawn(move || {
                    while let Some(job) = next(&queue) {
                        // A receiver that is gone has given up on the whole backup.
                        let _ = job.done.send(worker.compress(&job.frame, job.memory));
                    }
                })
                .map_err(|error| {
                    Error::new(ErrorKind::Io, "cannot start a thread").because(error)
                })?;
        }
        Ok(Self { jobs })
    }

    /// Queues `frame`, which `memory` pays for; what comes back resolves when it is compressed.
    pub(crate) fn compress(
        &self,
        frame: Buffer,
        memory: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<Result<Compressed>> {
        let (done, receiver) = oneshot::channel();
        // Should every thread have died, the receiver finds its sender dropped.
        let _ = self.jobs.send(Job { frame, memory, done });
        receiver
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    queue.lock().ok()?.recv().ok()
}

/// What one thread compresses with.
struct Worker {
    compressor: Compressor<'static>,
    /// Takes whatever zstd may need at most, so that the result is allocated at its own length.
    scratch: Vec<u8>,
}

impl Worker {
    fn compress(&mut self, frame: &[u8], mut memory: OwnedSemaphorePermit) -> Result<Compressed> {
        self.scratch.resize(zstd_safe::compress_bound(frame.len()), 0);
        let length =
            self.compressor.compress_to_buffer(frame, self.scratch.as_mut_slice()).map_err(
                |error| Error::new(ErrorKind::Io, "zstd cannot compress a frame").because(error),
            )?;
        let bytes = self.scratch.get(..length).unwrap_or_default().to_vec();
        drop(memory.split(memory.num_permits().saturating_sub(kib(length))));
        let sha256 = Sha256(crypto::sha256(&[&bytes]));
        Ok(Compressed { bytes, sha256, plain: frame.len(), memory })
    }
}

/// One zstd frame of `plain`, then zeros up to a multiple of `block` bytes.
///
/// # Errors
/// [`ErrorKind::Io`] when zstd has no memory.
pub(crate) fn compress_padded(plain: &[u8], level: i32, block: u64) -> Result<Zeroizing<Vec<u8>>> {
    let compressed = zstd::bulk::compress(plain, level).map(Zeroizing::new);
    let mut compressed = compressed
        .map_err(|error| Error::new(ErrorKind::Io, "zstd cannot compress").because(error))?;
    let padded = (compressed.len() as u64).next_multiple_of(block);
    compressed.resize(padded as usize, 0);
    Ok(compressed)
}

/// Opens what [`compress_padded`] made, at most `max` bytes.
///
/// # Errors
/// [`ErrorKind::Tampered`].
pub(crate) fn decompress_padded(bytes: &[u8], block: u64, max: u64) -> Result<Vec<u8>> {
    let length = zstd_safe::find_frame_compressed_size(bytes).unwrap_or(bytes.len());
    let (frame, padding) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
    if (length as u64).next_multiple_of(block) != bytes.len() as u64
        || padding.iter().any(|byte| *byte != 0)
    {
        return Err(Error::tampered("zstd frame: what follows is not its padding"));
    }
    decompress_at_most(frame, max)
}

/// A context for [`decompress`], to be used for many frames.
///
/// # Errors
/// [`ErrorKind::Io`] when there is no memory.
pub(crate) fn decompressor() -> Result<Decompressor<'static>> {
    Decompressor::new().map_err(|error| Error::new(ErrorKind::Io, "zstd: no memory").because(error))
}

/// Opens one zstd frame that must yield exactly `into.len()` bytes and end where `bytes` end.
///
/// Memory is `into` and zstd's own fixed context, whatever the frame claims.
///
/// # Errors
/// [`ErrorKind::Tampered`].
pub(crate) fn decompress(
    decompressor: &mut Decompressor<'_>,
    bytes: &[u8],
    into: &mut [u8],
) -> Result<()> {
    let bad = |what: &str| Error::tampered(format!("zstd frame: {what}"));
    let content = zstd_safe::get_frame_content_size(bytes).ok().flatten();
    if content != Some(into.len() as u64) {
        return Err(bad("its content size is not the one its place asks for"));
    }
    if zstd_safe::find_frame_compressed_size(bytes) != Ok(bytes.len()) {
        return Err(bad("it ends before or after its place"));
    }
    match decompressor.decompress_to_buffer(bytes, into) {
        Ok(length) if length == into.len() => Ok(()),
        Ok(_) => Err(bad("it is shorter than it says")),
        Err(error) => Err(bad("it does not decompress").because(error)),
    }
}

/// Opens one zstd frame of unknown length, at most `max` bytes.
///
/// # Errors
/// [`ErrorKind::Tampered`].
fn decompress_at_most(bytes: &[u8], max: u64) -> Result<Vec<u8>> {
    let length = zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let length = length.filter(|length| *length <= max).ok_or_else(|| {
        Error::tampered(format!("zstd frame: no content size, or one above {max} bytes"))
    })?;
    let mut opened = vec![0; length as usize];
    decompress(&mut decompressor()?, bytes, &mut opened)?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn compresses_and_opens_again() {
        let pool = FramePool::new(1).unwrap();
        let frames: Vec<Vec<u8>> = (0..9u8).map(|i| vec![i; 1 << 16]).collect();
        let buffers = crate::task::Buffers::default();
        let lend = |frame: &Vec<u8>| {
            let mut buffer = buffers.empty(frame.len());
            buffer.extend_from_slice(frame);
            buffer
        };
        let memory = Arc::new(tokio::sync::Semaphore::new(9 * 64));
        let permit = || memory.clone().try_acquire_many_owned(64).unwrap();
        let waiting: Vec<_> =
            frames.iter().map(|frame| pool.compress(lend(frame), permit())).collect();
        for (frame, done) in frames.iter().zip(waiting) {
            let done = done.await.unwrap().unwrap();
            let mut back = vec![0; frame.len()];
            decompress(&mut decompressor().unwrap(), &done.bytes, &mut back).unwrap();
            assert_eq!(&back, frame);
            assert_eq!(done.sha256.0, crypto::sha256(&[&done.bytes]));
            assert!(done.memory.num_permits() < 64, "only the compressed bytes are still paid for");
        }
        assert_eq!(memory.available_permits(), 9 * 64);
    }

    #[test]
    fn refuses_more_less_and_trailing_bytes() {
        let frame = zstd::bulk::compress(&[7; 1000], 1).unwrap();
        let decompress =
            |bytes: &[u8], into: &mut [u8]| decompress(&mut decompressor().unwrap(), bytes, into);
        assert!(decompress(&frame, &mut [0; 1000]).is_ok());
        assert!(decompress(&frame, &mut [0; 999]).is_err());
        assert!(decompress(&frame, &mut [0; 1001]).is_err());
        let mut long = frame.clone();
        long.push(0);
        assert!(decompress(&long, &mut [0; 1000]).is_err());
        let twice = [frame.as_slice(), &frame].concat();
        assert!(decompress(&twice, &mut [0; 2000]).is_err());
        assert!(decompress(&frame[..frame.len() - 1], &mut [0; 1000]).is_err());
    }

    #[test]
    fn padding_is_zeros_up_to_the_block_and_no_more() {
        // [S4.5.3]
        let padded = compress_padded(&[7; 1000], 1, 4096).unwrap().to_vec();
        assert_eq!(padded.len(), 4096);
        let open = |bytes: &[u8]| decompress_padded(bytes, 4096, 1 << 20);
        assert_eq!(open(&padded).unwrap(), [7; 1000]);
        let mut set = padded.clone();
        *set.last_mut().unwrap() = 1;
        assert!(open(&set).is_err());
        assert!(open(&[padded.as_slice(), &[0; 4096]].concat()).is_err());
        assert!(open(&padded[..4095]).is_err());
        assert!(open(&zstd::bulk::compress(&[7; 1000], 1).unwrap()).is_err());
        assert!(open(&[]).is_err());
    }

    #[test]
    fn a_bomb_is_refused_by_its_claim() {
        let bomb = zstd::bulk::compress(&vec![0; 1 << 24], 19).unwrap();
        assert!(bomb.len() < 4096);
        assert!(decompress_at_most(&bomb, 1 << 20).is_err());
        assert_eq!(decompress_at_most(&bomb, 1 << 24).unwrap().len(), 1 << 24);
    }
}
