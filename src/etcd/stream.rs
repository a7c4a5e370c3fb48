//! A member's database as a checked stream of bytes.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{MaintenanceClient, SnapshotResponse, SnapshotStreaming};

use super::failure;
use super::protocol::{Checker, Received};
use crate::error::Result;

/// The database of one member, as it comes.
///
/// Bytes are handed out before the digest is known: what is made of them counts only once
/// [`next`](Self::next) has returned `None`.
pub struct SnapshotStream {
    messages: SnapshotStreaming,
    first: Option<SnapshotResponse>,
    checker: Checker,
    idle: Duration,
    storage_version: Option<String>,
    digest: Option<[u8; 32]>,
}

impl SnapshotStream {
    /// Opens the stream and waits for its first message, so that a refusal shows here.
    pub(super) async fn open(client: &mut MaintenanceClient, idle: Duration) -> Result<Self> {
        let opened = tokio::time::timeout(idle, client.snapshot())
            .await
            .map_err(|_| failure::timed_out("snapshot", idle))?;
        let messages = opened.map_err(|error| failure::from_client("snapshot", &error))?;
        let mut stream = Self {
            messages,
            first: None,
            checker: Checker::new(),
            idle,
            storage_version: None,
            digest: None,
        };
        stream.first = stream.message().await?;
        if let Some(first) = &stream.first {
            // The server is asked for its version once; 3.4 and 3.5 leave it empty.
            stream.storage_version =
                Some(failure::clean(first.version())).filter(|version| !version.is_empty());
        } else {
            stream.checker.end()?;
        }
        Ok(stream)
    }

    /// The next bytes of the database, `None` once all have come and agree with etcd's SHA-256.
    ///
    /// Not to be called again after `None` or an error.
    ///
    /// # Errors
    /// [`Unreachable`](crate::ErrorKind::Unreachable) when the connection breaks or stays silent for
    /// the command timeout, [`Denied`](crate::ErrorKind::Denied) when etcd refuses, and those of
    /// [`Checker::message`].
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let message = match self.first.take() {
                Some(first) => Some(first),
                None => self.message().await?,
            };
            let Some(message) = message else {
                self.digest = Some(self.checker.end()?);
                return Ok(None);
            };
            let message = message.0;
            if self.checker.message(&message.blob, message.remaining_bytes)? == Received::Data {
                return Ok(Some(Bytes::from(message.blob)));
            }
        }
    }

    async fn message(&mut self) -> Result<Option<SnapshotResponse>> {
        let what = match self.checker.received() {
            0 => "snapshot".into(),
            received => format!("snapshot, after {received} bytes"),
        };
        tokio::time::timeout(self.idle, self.messages.message())
            .await
            .map_err(|_| failure::timed_out(&what, self.idle))?
            .map_err(|error| failure::from_client(&what, &error))
    }

    /// The database's length in bytes.
    pub fn total(&self) -> u64 {
        let first = self.first.as_ref().map(|first| &first.0);
        first.map_or(self.checker.total(), |first| {
            (first.blob.len() as u64).saturating_add(first.remaining_bytes)
        })
    }

    /// The database's SHA-256, once [`next`](Self::next) has returned `None`.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.digest
    }
}
