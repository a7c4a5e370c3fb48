//! Any part of a snapshot's database, read from its payload: fetched, decrypted, compared, decompressed.

use std::ops::Range;
use std::sync::Arc;

use crate::compress::{decompress, decompressor};
use crate::crypto;
use crate::envelope::{DataKey, ObjectOpener};
use crate::error::{Context, Error, Result};
use crate::format::{Index, Part, Role, SnapshotId};
use crate::secret::SecretKey;
use crate::store::Repository;
use crate::task::{Buffer, Buffers};

/// Reads the database that an index describes, any part of it.
#[derive(Clone)]
pub(crate) struct DatabaseReader(Arc<Inner>);

struct Inner {
    repository: Repository,
    index: Index,
    /// The payload object.
    name: String,
    opener: ObjectOpener,
}

impl DatabaseReader {
    /// Opens the payload of snapshot `id`, whose last chunk proves its length.
    pub(crate) async fn open(
        repository: &Repository,
        id: SnapshotId,
        data_key: &DataKey,
        payload_len: u64,
        index: Index,
    ) -> Result<Self> {
        let name = Part::Payload.of(id);
        let key = data_key.payload_key();
        let opener = open_payload(repository, &name, id, &key, payload_len, index.stored_bytes())
            .await
            .context(name.clone())?;
        Ok(Self(Arc::new(Inner { repository: repository.clone(), index, name, opener })))
    }

    pub(crate) fn index(&self) -> &Index {
        &self.0.index
    }

    /// How many frames the database has.
    pub(crate) fn frames(&self) -> usize {
        self.0.index.frames().len()
    }

    /// Where the plain frame `at` begins in the database.
    pub(crate) fn frame_start(&self, at: usize) -> u64 {
        at as u64 * self.0.index.database().frame_size
    }

    /// Groups `which` frames: at most `bytes` stored in each group, unless it is one frame, and `count` frames.
    pub(crate) fn batches(
        &self,
        which: Range<usize>,
        bytes: u64,
        count: usize,
    ) -> Vec<Range<usize>> {
        let stored = |frames: Range<usize>| {
            self.0.index.stored(frames).map_or(u64::MAX, |range| range.end - range.start)
        };
        let mut batches: Vec<Range<usize>> = Vec::new();
        for at in which.start..which.end.min(self.frames()) {
            match batches.last_mut() {
                Some(batch) if batch.len() < count && stored(batch.start..at + 1) <= bytes => {
                    batch.end = at + 1;
                }
                _ => batches.push(at..at + 1),
            }
        }
        batches
    }

    /// Fetches one batch's stored bytes, still sealed.
    pub(crate) async fn fetch(&self, batch: Range<usize>) -> Result<SealedBatch> {
        let inner = &self.0;
        let message = inner.index.stored(batch.clone());
        let message =
            message.ok_or_else(|| Error::tampered("the index does not have these frames"))?;
        let range = inner.opener.sealed_range(&message)?;
        let sealed = inner.repository.get_range(&inner.name, range).await?;
        Ok(SealedBatch { reader: self.clone(), frames: batch, message, sealed: sealed.into() })
    }
}

/// Opens the payload's header and its last chunk, whose padding after the `stored` bytes of frames must be zeros.
async fn open_payload(
    repository: &Repository,
    name: &str,
    id: SnapshotId,
    key: &SecretKey,
    length: u64,
    stored: u64,
) -> Result<ObjectOpener> {
    let head_len = ObjectOpener::HEAD_LEN;
    if length < head_len {
        return Err(Error::truncated("shorter than its header"));
    }
    let head = repository.get_range(name, 0..head_len).await?;
    let opener = ObjectOpener::new(&head, Role::Payload, id, key, length)?;
    let last = opener.last_chunk();
    let mut sealed = repository.get_range(name, opener.sealed_range(&last)?).await?.to_vec();
    let chunk = opener.open(&last, &mut sealed)?;
    let frames = stored.saturating_sub(last.start) as usize;
    if chunk.iter().skip(frames).any(|byte| *byte != 0) {
        return Err(Error::tampered("its padding is not zeros"));
    }
    Ok(opener)
}

/// The stored bytes of some frames, as fetched.
pub(crate) struct SealedBatch {
    reader: DatabaseReader,
    frames: Range<usize>,
    message: Range<u64>,
    sealed: Vec<u8>,
}

impl SealedBatch {
    /// Decrypts each frame, compares its SHA-256 with the index's, decompresses it and hands it to `each`, with its
    /// number.
    pub(crate) fn open(
        mut self,
        buffers: &Buffers,
        mut each: impl FnMut(usize, Buffer) -> Result<()>,
    ) -> Result<()> {
        let Inner { index, name, opener, .. } = &*self.reader.0;
        let message = opener.open(&self.message, &mut self.sealed).context(name.clone())?;
        let mut decompressor = decompressor()?;
        let mut rest: &[u8] = message;
        for at in self.frames {
            let frame = index.frames().get(at).zip(index.frame_length(at));
            let Some((frame, length)) = frame else { break };
            let named = |error: Error| error.context(format!("frame {at}"));
            let (stored, later) = rest
                .split_at_checked(frame.length as usize)
                .ok_or_else(|| named(Error::tampered("it ends after its payload")))?;
            rest = later;
            if crypto::sha256(&[stored]) != frame.sha256.0 {
                return Err(named(Error::tampered(
                    "its SHA-256 differs from the one in the index",
                )));
            }
            let mut plain = buffers.of_length(length as usize);
            decompress(&mut decompressor, stored, &mut plain).map_err(named)?;
            each(at, plain)?;
        }
        Ok(())
    }
}
