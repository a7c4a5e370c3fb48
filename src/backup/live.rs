//! The keys of a running etcd.

use std::collections::BTreeMap;

use crate::contents::{Contents, KeyState, ValueDigest, digest};
use crate::error::Result;
use crate::etcd::{EtcdSettings, choose_member};
use crate::mvcc::Revision;

/// The keys of a running etcd at one revision.
#[derive(Debug)]
#[non_exhaustive]
pub struct LiveContents {
    /// The keys.
    pub contents: Contents<ValueDigest>,
    /// The member that was read.
    pub member: String,
    /// What the owner of the cluster should know.
    pub warnings: Vec<String>,
}

/// Reads the keys that begin with `prefix` as they are now, page by page at one revision.
///
/// # Errors
/// Those of [`choose_member`] and [`Choice::for_each_key`](crate::etcd::Choice::for_each_key).
pub async fn read_live(settings: &EtcdSettings, prefix: &[u8]) -> Result<LiveContents> {
    let choice = choose_member(settings).await?;
    let mut keys = BTreeMap::new();
    let revision = choice
        .for_each_key(prefix, |kv| {
            let state = KeyState {
                // Its place within the transaction is not told.
                modified: Revision { main: kv.mod_revision, sub: 0 },
                create_revision: kv.create_revision,
                version: kv.version,
                lease: kv.lease,
                value_bytes: kv.value.len() as u64,
                value: digest(kv.value),
            };
            keys.insert(Box::from(kv.key), state);
        })
        .await?;
    Ok(LiveContents {
        contents: Contents { revision, keys },
        member: choice.member.endpoint.clone(),
        warnings: choice.warnings,
    })
}
