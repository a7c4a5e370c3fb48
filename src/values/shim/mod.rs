//! The shim: stands between a client of etcd and etcd, and encrypts the values on their way.

mod budget;
mod compare;
mod frames;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "proxy")]
mod members;
mod method;
mod op;
mod rewrite;
mod schema;
mod scope;
mod service;
mod session;
mod skim;
mod status;
mod streams;
#[cfg(feature = "proxy")]
mod touched;
mod txn;
mod upstream;

#[cfg(feature = "proxy")]
pub(crate) use budget::{Budget, Room};
#[cfg(feature = "proxy")]
pub(crate) use frames::{Frames, compressed};
#[cfg(feature = "proxy")]
pub(crate) use members::with_client_urls;
#[cfg(feature = "proxy")]
pub(crate) use method::{Method, Needs, Shape};
pub(super) use rewrite::is_lock;
pub(super) use scope::Reserved;
pub use scope::Scope;
#[cfg(feature = "proxy")]
pub(crate) use session::Judge;
#[cfg(feature = "proxy")]
pub(crate) use status::Failure;
pub use status::error_kind;
#[cfg(feature = "proxy")]
pub(crate) use touched::{About, Touched, granted, lease_keys, revision_of, text_of, time_to_live};
#[cfg(feature = "proxy")]
pub(crate) use upstream::{Answer, PASSED_ON, Parsed};
pub use upstream::{Shim, Unreadable};
