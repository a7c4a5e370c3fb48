//! Encryption at rest and disaster recovery for etcd.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod bolt;
pub mod crypto;
pub mod error;
#[cfg(feature = "backup")]
pub mod etcd;
pub mod format;
pub mod mvcc;
pub mod secret;

pub use error::{Error, ErrorKind, Result};
