//! The values of an etcd, page by page.

use std::time::Duration;

use etcd_client::{Client, KeyValue};

use super::shim::{Reserved, is_lock};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::Pages;
use crate::format::ValueHeader;
use crate::mvcc::prefix_end;

/// How long etcd may take for one page.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The keys with a prefix, without the reserved ones and etcd's locks.
pub(super) struct Values {
    pages: Pages,
    reserved: Reserved,
}

impl Values {
    pub(super) fn new(client: &Client, reserved: &[u8], prefix: &[u8]) -> Self {
        // No key is empty; the least is a zero byte.
        let first = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        let pages = Pages::new(client.kv_client(), TIMEOUT, first, prefix_end(prefix));
        Self { pages, reserved: Reserved::new(reserved) }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<KeyValue>>> {
        let Some(mut answer) = self.pages.next().await? else { return Ok(None) };
        let counts =
            |kv: &KeyValue| !self.reserved.holds(kv.key()) && !is_lock(kv.key(), kv.value());
        Ok(Some(answer.take_kvs().into_iter().filter(counts).collect()))
    }
}

/// Up to `most` keys whose values are encrypted, as their first bytes say; within `limit` those that were found.
pub(super) async fn encrypted_keys(
    client: &Client,
    reserved: &[u8],
    most: usize,
    limit: Option<Duration>,
) -> Result<Vec<Vec<u8>>> {
    find(Values::new(client, reserved, b""), is_encrypted, most, limit).await
}

/// Whether a value is encrypted, or damaged so that this is unknown.
pub(super) fn is_encrypted(kv: &KeyValue) -> bool {
    !matches!(ValueHeader::split(kv.value()), Ok(None))
}

/// Up to `most` keys whose values are as `wanted`; within `limit` those that were found.
pub(super) async fn find(
    mut values: Values,
    wanted: impl Fn(&KeyValue) -> bool,
    most: usize,
    limit: Option<Duration>,
) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let search = async {
        while let Some(page) = values.next().await? {
            let more = most.saturating_sub(found.len());
            let fitting = page.iter().filter(|kv| wanted(kv)).take(more);
            found.extend(fitting.map(|kv| kv.key().to_vec()));
            if found.len() >= most {
                break;
            }
        }
        Ok(())
    };
    match limit {
        None => search.await?,
        Some(limit) => match tokio::time::timeout(limit, search).await {
            Ok(searched) => searched?,
            // What was found until then is enough.
            Err(_) if !found.is_empty() => {}
            Err(_) => {
                let text = format!("not all keys could be read in {limit:?}");
                return Err(Error::new(ErrorKind::Unreachable, text));
            }
        },
    }
    Ok(found)
}
