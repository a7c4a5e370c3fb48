//! The shim: stands between a client of etcd and etcd, and encrypts the values on their way.

mod compare;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod op;
mod rewrite;
mod scope;
mod service;
mod status;
mod streams;
#[cfg(feature = "proxy")]
mod touched;
mod txn;
mod wire;

#[cfg(feature = "proxy")]
pub(crate) use frames::{Budget, Frames, answered, framed, single};
pub(super) use rewrite::is_lock;
pub(super) use scope::Reserved;
pub use scope::Scope;
pub use service::Shim;
#[cfg(feature = "proxy")]
pub(crate) use service::{MAX_ANSWERS, MAX_REQUESTS};
#[cfg(feature = "proxy")]
pub(crate) use touched::{Touched, revision_of, text_of, touched};
