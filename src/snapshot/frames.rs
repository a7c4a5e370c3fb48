//! Frames: 1 MiB of database in one zstd frame (SPEC.md §4).

use std::num::NonZero;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use zstd::bulk::Compressor;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{decompress, decompressor};

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
}
