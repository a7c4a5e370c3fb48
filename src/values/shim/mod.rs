//! The shim: stands between a client of etcd and etcd, and encrypts the values on their way.

mod compare;
mod op;
mod rewrite;
mod scope;
mod status;
mod txn;
mod wire;

pub use scope::Scope;
