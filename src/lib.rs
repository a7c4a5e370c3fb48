//! Encryption at rest and disaster recovery for etcd.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(feature = "backup")]
pub mod backup;
pub mod bolt;
pub mod crypto;
pub mod envelope;
pub mod error;
#[cfg(feature = "backup")]
pub mod etcd;
pub mod format;
pub mod keys;
pub mod mvcc;
pub mod secret;
#[cfg(feature = "backup")]
pub mod store;

pub use error::{Error, ErrorKind, Result};
