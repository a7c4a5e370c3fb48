//! Keys of a running etcd at one revision.

use std::time::Duration;

use etcd_client::{GetOptions, GetResponse, KvClient};
use tonic::Code;

use super::choose::Choice;
use super::failure;
use crate::error::{Error, ErrorKind, Result};
use crate::mvcc::{KeyValue, prefix_end};

/// Bytes that a page should have: enough to be quick, little enough for any memory.
const PAGE: usize = 2 << 20;
/// The longest answer taken. One value of etcd's is 1.5 MiB unless its limits were raised.
const MAX_ANSWER: usize = 64 << 20;
/// Keys asked for at first, and at most.
const FIRST_KEYS: i64 = 200;
const MAX_KEYS: i64 = 20_000;

impl Choice {
    /// Gives `visit` every key that begins with `prefix`, in order, all as they were at one revision: the one that
    /// it returns, the member's last when it is called.
    ///
    /// # Errors
    /// [`Unreachable`](ErrorKind::Unreachable) when the member does not answer or compacts the revision away while
    /// it is read, [`Denied`](ErrorKind::Denied) when the user may not read the keys,
    /// [`Protocol`](ErrorKind::Protocol) when the answers are not what was asked for.
    pub async fn for_each_key(
        &self,
        prefix: &[u8],
        visit: impl FnMut(KeyValue<'_>),
    ) -> Result<i64> {
        // A key in etcd cannot be empty; a range from "\0" to "\0" is everything.
        let first = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        self.for_each_between(first, prefix_end(prefix), visit).await
    }

    /// Gives `visit` the one key `key`, if it is there; the revision at which it was so.
    ///
    /// # Errors
    /// As [`for_each_key`](Self::for_each_key).
    #[cfg(feature = "backup")]
    pub(crate) async fn key(&self, key: &[u8], visit: impl FnMut(KeyValue<'_>)) -> Result<i64> {
        self.for_each_between(key.to_vec(), [key, &[0]].concat(), visit).await
    }

    async fn for_each_between(
        &self,
        first: Vec<u8>,
        end: Vec<u8>,
        visit: impl FnMut(KeyValue<'_>),
    ) -> Result<i64> {
        let mut pages = Pages::new(self.client().kv_client(), self.timeout(), first, end);
        pages.is_pinned = true;
        pages.read(visit).await.map_err(|error| error.context(self.member.endpoint.clone()))
    }
}

/// A range of keys, in pages of about [`PAGE`] bytes.
pub(crate) struct Pages {
    client: KvClient,
    timeout: Duration,
    /// Where the next page begins; `None` after the last.
    next: Option<Vec<u8>>,
    end: Vec<u8>,
    limit: i64,
    /// All pages are as the keys were at the revision of the first.
    is_pinned: bool,
    /// 0 before the first answer.
    revision: i64,
}

impl Pages {
    /// The keys from `first` up to `end`, each page as of the time it is read.
    pub(crate) fn new(client: KvClient, timeout: Duration, first: Vec<u8>, end: Vec<u8>) -> Self {
        Self {
            client: client.max_decoding_message_size(MAX_ANSWER),
            timeout,
            next: Some(first),
            end,
            limit: FIRST_KEYS,
            is_pinned: false,
            revision: 0,
        }
    }

    async fn read(&mut self, mut visit: impl FnMut(KeyValue<'_>)) -> Result<i64> {
        while let Some(answer) = self.next().await? {
            for kv in answer.kvs() {
                visit(KeyValue {
                    key: kv.key(),
                    create_revision: kv.create_revision(),
                    mod_revision: kv.mod_revision(),
                    version: kv.version(),
                    value: kv.value(),
                    lease: kv.lease(),
                });
            }
        }
        Ok(self.revision)
    }

    /// The next page, checked.
    ///
    /// # Errors
    /// As [`Choice::for_each_key`].
    pub(crate) async fn next(&mut self) -> Result<Option<GetResponse>> {
        let Some(first) = self.next.take() else { return Ok(None) };
        let answer = self.page(&first).await?;
        let told = answer.header().map_or(0, |header| header.revision());
        if self.revision == 0 {
            self.revision = told;
        }
        if self.revision <= 0 || told < self.revision {
            return Err(wrong("it has no revision, or an earlier one than before"));
        }
        let (mut next, mut bytes) = (first, 0_usize);
        for kv in answer.kvs() {
            if kv.key() < next.as_slice() {
                return Err(wrong("keys come out of order"));
            }
            next = [kv.key(), &[0]].concat();
            bytes = bytes.saturating_add(kv.key().len()).saturating_add(kv.value().len());
        }
        if answer.more() {
            if answer.kvs().is_empty() {
                return Err(wrong("a page is empty, and it is not the last"));
            }
            self.adapt(answer.kvs().len(), bytes);
            self.next = Some(next);
        }
        Ok(Some(answer))
    }

    /// The next page, of fewer keys if it would be too long.
    async fn page(&mut self, first: &[u8]) -> Result<GetResponse> {
        let revision = if self.is_pinned { self.revision } else { 0 };
        loop {
            let options = GetOptions::new()
                .with_range(self.end.clone())
                .with_revision(revision)
                .with_limit(self.limit);
            let asked = self.client.get(first, Some(options));
            let answer = tokio::time::timeout(self.timeout, asked)
                .await
                .map_err(|_| failure::timed_out("range", self.timeout))?;
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) if is_too_long(&error) && self.limit > 1 => {
                    self.limit = (self.limit / 8).max(1);
                }
                Err(error) if is_compacted(&error) => {
                    let message = format!(
                        "range: etcd compacted revision {} while it was being read",
                        self.revision
                    );
                    return Err(Error::new(ErrorKind::Unreachable, message).hint("run it again"));
                }
                Err(error) => {
                    let error = failure::from_client("range", &error);
                    let denied = error.kind() == ErrorKind::Denied;
                    return Err(if denied {
                        error.hint("the etcd user must be allowed to read these keys")
                    } else {
                        error
                    });
                }
            }
        }
    }

    /// Asks for so many keys that the next page has about [`PAGE`] bytes.
    fn adapt(&mut self, keys: usize, bytes: usize) {
        let wanted = PAGE.saturating_mul(keys.max(1)) / bytes.max(1);
        let most = self.limit.saturating_mul(4).min(MAX_KEYS);
        self.limit = i64::try_from(wanted).unwrap_or(MAX_KEYS).clamp(1, most);
    }
}

fn is_too_long(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
            && status.message().contains("message"))
}

pub(super) fn is_compacted(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.code() == Code::OutOfRange && status.message().contains("compacted"))
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("range: {what}"))
}
