//! The shim: stands between a client of etcd and etcd, and encrypts the values on their way.

mod compare;
mod frames;
mod op;
mod rewrite;
mod scope;
mod service;
mod status;
mod streams;
mod txn;
mod wire;

pub(super) use rewrite::is_lock;
pub use scope::Scope;
pub(super) use scope::{Reserved, prefix_end};
pub use service::Shim;
