//! A snapshot's database as the source of another snapshot.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256 as Hasher};

use super::reader::DatabaseReader;
use crate::error::{Error, Result};
use crate::format::EtcdFacts;
use crate::task::{Buffers, run_blocking};

/// Stored bytes fetched at once, and frames.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_FRAMES: usize = 8;

/// A stored database being read from its first frame to its last.
pub(crate) struct StoredInput {
    reader: DatabaseReader,
    facts: EtcdFacts,
    batches: VecDeque<Range<usize>>,
    open: VecDeque<Bytes>,
    buffers: Buffers,
    hasher: Hasher,
}

impl StoredInput {
    pub(crate) fn new(reader: DatabaseReader, facts: EtcdFacts) -> Self {
        let batches = reader.batches(0..reader.frames(), BATCH_BYTES, BATCH_FRAMES).into();
        let (open, buffers) = (VecDeque::new(), Buffers::default());
        Self { reader, facts, batches, open, buffers, hasher: Hasher::new() }
    }

    pub(crate) fn size(&self) -> u64 {
        self.reader.index().database().size
    }

    pub(crate) fn facts(&self) -> EtcdFacts {
        self.facts.clone()
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.open.pop_front() {
            return Ok(Some(bytes));
        }
        let Some(batch) = self.batches.pop_front() else { return Ok(None) };
        let sealed = self.reader.fetch(batch).await?;
        let (buffers, mut hasher) = (self.buffers.clone(), std::mem::take(&mut self.hasher));
        let (hasher, open) = run_blocking(move || {
            let mut open = VecDeque::new();
            sealed.open(&buffers, |_, frame| {
                hasher.update(frame.as_slice());
                open.push_back(Bytes::from_owner(frame));
                Ok(())
            })?;
            Ok((hasher, open))
        })
        .await?;
        (self.hasher, self.open) = (hasher, open);
        Ok(self.open.pop_front())
    }

    /// The database's SHA-256, which is the one that its index names.
    pub(crate) fn finish(self) -> Result<[u8; 32]> {
        let digest: [u8; 32] = self.hasher.finalize().into();
        match digest == self.reader.index().database().sha256.0 {
            true => Ok(digest),
            false => Err(Error::tampered("its database has another SHA-256 than its index names")),
        }
    }
}
