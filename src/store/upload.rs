//! Writing an object of unknown length, in parts.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayloadMut};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::error::{Context, Error, ErrorKind, Result};

use super::failure::failed;
use super::repository::Repository;

/// Length of the first parts, above the 5 MiB that S3 demands.
const PART: usize = 8 << 20;
/// A part is twice as long after each of so many: 10,000 parts, the most that S3 takes, hold 484 GiB.
const PARTS_PER_SIZE: u32 = 2_000;
const MOST_PARTS: u32 = 10_000;
/// Parts on their way at once unless told otherwise: one is sent while the next is made.
const IN_FLIGHT: usize = 2;

/// An object being written. It appears whole at [`finish`](Upload::finish), or never.
///
/// Memory holds the parts in flight and the one being filled. A short object is written by one
/// create-if-absent. A failure aborts the upload at the store; dropping it tries to.
#[derive(Debug)]
pub struct Upload {
    repository: Repository,
    name: String,
    path: Path,
    buffer: PutPayloadMut,
    most_in_flight: usize,
    in_flight: JoinSet<object_store::Result<()>>,
    /// The multipart upload being begun, until it is one: whoever stops waiting for it leaves it here to be ended.
    beginning: Option<JoinHandle<object_store::Result<Box<dyn MultipartUpload>>>>,
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: u32,
    len: u64,
    dead: bool,
}

impl Upload {
    pub(super) fn new(repository: Repository, name: String, path: Path) -> Self {
        Self {
            repository,
            name,
            path,
            buffer: PutPayloadMut::new(),
            most_in_flight: IN_FLIGHT,
            in_flight: JoinSet::new(),
            beginning: None,
            multipart: None,
            parts: 0,
            len: 0,
            dead: false,
        }
    }

    /// Appends bytes; waits while too many parts are on their way.
    ///
    /// # Errors
    /// Those of the store, also of an earlier part. The upload is then aborted.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        if self.dead {
            return Err(Error::new(
                ErrorKind::Io,
                format!("{}: the upload was aborted", self.name),
            ));
        }
        while !bytes.is_empty() {
            let room = self.part_len().saturating_sub(self.buffer.content_length());
            let piece = bytes.split_to(room.min(bytes.len()));
            self.len += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.buffer.push(piece);
            if self.buffer.content_length() >= self.part_len() {
                let sent = self.send_part().await;
                self.or_abort(sent).await?;
            }
        }
        Ok(())
    }

    /// Completes the object and returns its length in bytes.
    ///
    /// # Errors
    /// Those of the store; [`Protocol`](ErrorKind::Protocol) if the object then has another length.
    /// The upload is then aborted.
    pub async fn finish(mut self) -> Result<u64> {
        if self.dead {
            return Err(Error::new(
                ErrorKind::Io,
                format!("{}: the upload was aborted", self.name),
            ));
        }
        if self.multipart.is_none() {
            let payload = std::mem::take(&mut self.buffer).freeze();
            self.repository.create(&self.name, payload).await.context("upload")?;
            return Ok(self.len);
        }
        let done = self.complete().await;
        self.or_abort(done).await?;
        Ok(self.len)
    }

    /// Gives the object up and removes its parts from the store.
    ///
    /// # Errors
    /// Those of the store; the parts may then remain until the bucket's lifecycle rule removes them.
    pub async fn abort(mut self) -> Result<()> {
        self.cancel().await
    }

    fn part_len(&self) -> usize {
        PART << (self.parts / PARTS_PER_SIZE)
    }

    /// Sends the buffer as a part. Nothing is lost if the caller stops waiting.
    async fn send_part(&mut self) -> Result<()> {
        if self.parts == MOST_PARTS {
            return Err(Error::unsupported(format!(
                "{}: too long for a multipart upload",
                self.name
            )));
        }
        while self.in_flight.len() >= self.most_in_flight {
            self.wait_one().await?;
        }
        if self.multipart.is_none() {
            let (store, path) = (Arc::clone(self.repository.store()), self.path.clone());
            let begin = move || tokio::spawn(async move { store.put_multipart(&path).await });
            let created = self.beginning.get_or_insert_with(begin).await;
            self.beginning = None;
            let created = created.map_err(|e| self.died(&e))?;
            self.multipart = Some(created.map_err(|e| self.failed(&e))?);
        }
        if let Some(multipart) = &mut self.multipart {
            let part = multipart.put_part(std::mem::take(&mut self.buffer).freeze());
            self.in_flight.spawn(part);
            self.parts += 1;
        }
        Ok(())
    }

    async fn wait_one(&mut self) -> Result<()> {
        match self.in_flight.join_next().await {
            Some(Ok(sent)) => sent.map_err(|e| self.failed(&e)),
            Some(Err(e)) => Err(self.died(&e)),
            None => Ok(()),
        }
    }

    async fn complete(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.send_part().await?;
        }
        while !self.in_flight.is_empty() {
            self.wait_one().await?;
        }
        let completed = match &mut self.multipart {
            Some(multipart) => multipart.complete().await.map(drop),
            None => Ok(()),
        };
        if let Err(raw) = completed {
            let error = self.failed(&raw);
            // A directory knows for certain that somebody else's file has the name.
            if let object_store::Error::AlreadyExists { source, .. } = &raw
                && source.is::<std::io::Error>()
            {
                return Err(error);
            }
            // It may have been done all the same, and the answer lost: the object tells.
            match self.repository.len(&self.name).await {
                Ok(stored) if stored == self.len => {}
                _ => return Err(error),
            }
        }
        self.multipart = None;
        let stored = self.repository.len(&self.name).await?;
        if stored != self.len {
            let text = format!("{}: the store kept {stored} of {} bytes", self.name, self.len);
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        Ok(())
    }

    async fn or_abort(&mut self, done: Result<()>) -> Result<()> {
        let Err(error) = done else { return Ok(()) };
        match self.cancel().await {
            Ok(()) => Err(error),
            Err(left) => Err(error.hint(format!(
                "The parts sent so far could not be removed ({left}): a lifecycle rule for incomplete uploads removes them."
            ))),
        }
    }

    async fn cancel(&mut self) -> Result<()> {
        self.dead = true;
        self.in_flight.shutdown().await;
        if let Some(beginning) = self.beginning.take() {
            // One that fails leaves nothing.
            self.multipart = beginning.await.map_err(|e| self.died(&e))?.ok();
        }
        match self.multipart.take() {
            Some(mut multipart) => multipart.abort().await.map_err(|e| self.failed(&e)),
            None => Ok(()),
        }
    }

    fn died(&self, error: &JoinError) -> Error {
        Error::new(ErrorKind::Internal, format!("{}: upload: {error}", self.name))
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        failed(&self.name, error).context("upload")
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (beginning, multipart) = (self.beginning.take(), self.multipart.take());
        self.in_flight.abort_all();
        if beginning.is_none() && multipart.is_none() {
            return;
        }
        // The best that a destructor can do; a failure leaves parts for the lifecycle rule.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let multipart = match beginning {
                    Some(beginning) => beginning.await.ok().and_then(std::result::Result::ok),
                    None => multipart,
                };
                if let Some(mut multipart) = multipart {
                    let _ = multipart.abort().await;
                }
            });
        }
    }
}
