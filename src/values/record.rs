//! The value keyring's record as etcd holds it: one key, which is written only if it has not changed since it was read.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};

use crate::error::{Error, ErrorKind, Result};
use crate::text::printable;

/// The longest that a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The record and its place in etcd's history.
pub(super) struct Record {
    /// Sealed by the master keys.
    pub(super) bytes: Vec<u8>,
    /// The revision that wrote it.
    pub(super) revision: i64,
}

/// The record's key.
pub(super) fn key(prefix: &[u8]) -> Vec<u8> {
    [prefix, b"keyring"].concat()
}

/// Reads the record, linearizably.
pub(super) async fn read(client: &Client, prefix: &[u8]) -> Result<Option<Record>> {
    let mut kv = client.kv_client();
    let answer = within("read the value keyring", kv.get(key(prefix), None)).await?;
    Ok(answer
        .kvs()
        .first()
        .map(|kv| Record { bytes: kv.value().to_vec(), revision: kv.mod_revision() }))
}

/// Whether `key`, last changed at `revision`, was put; 0 for a key that is not there.
pub(super) async fn put_if_unchanged(
    client: &Client,
    key: &[u8],
    revision: i64,
    value: Vec<u8>,
) -> Result<bool> {
    let guard = Compare::mod_revision(key, CompareOp::Equal, revision);
    let txn = Txn::new().when([guard]).and_then([TxnOp::put(key, value, None)]);
    let mut kv = client.kv_client();
    Ok(within("write the value keyring", kv.txn(txn)).await?.succeeded())
}

/// A usage count and its mod revision.
pub(super) async fn usage(client: &Client, key: &[u8]) -> Result<(u64, i64)> {
    let mut kv = client.kv_client();
    let answer = within("read a value key's usage", kv.get(key, None)).await?;
    Ok(answer.kvs().first().map_or((0, 0), |record| {
        let count = record.value_str().ok().and_then(|text| text.parse().ok());
        (count.unwrap_or(0), record.mod_revision())
    }))
}

pub(super) async fn add_usage(client: &Client, key: &[u8], count: u64) -> Result<()> {
    loop {
        let (before, revision) = usage(client, key).await?;
        let sum = before.saturating_add(count).to_string().into_bytes();
        if put_if_unchanged(client, key, revision, sum).await? {
            return Ok(());
        }
    }
}

pub(super) async fn within<T>(
    what: &str,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| crate::etcd::from_client(what, &error)),
        Err(_) => {
            Err(Error::new(ErrorKind::Unreachable, format!("{what}: no answer in {TIMEOUT:?}")))
        }
    }
}

/// Refuses a prefix that cannot be reserved.
pub(super) fn check_prefix(prefix: &[u8]) -> Result<()> {
    if prefix.len() < 2 || !prefix.ends_with(b"/") {
        return Err(Error::usage("the reserved prefix must be a name that ends with a slash")
            .hint("such as /strongroom/"));
    }
    Ok(())
}

/// The record was deleted.
pub(super) fn deleted(prefix: &[u8]) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("the value keyring under {} was deleted", printable(prefix)),
    )
    .hint("put it back with `strongroom value keyring import` or, from a backup, `strongroom restore --to-cluster`")
}
