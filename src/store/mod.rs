//! The repository on object storage: names, put-once, ranged reads, listing (SPEC.md §3).
//!
//! Storage variety is [`object_store`]'s own trait. A [`RepositoryUrl`] says where, [`connect`]
//! gives the store there, [`Repository`] holds the rules that make it a repository.
//!
//! Errors name the object; the caller adds the repository's URL as context. They never hold
//! what a store answers word for word, since that may repeat a session token or a signed URL.

mod connect;
mod directory;
mod failure;
mod gate;
mod http;
mod key;
mod listing;
mod local;
mod options;
mod proxy;
mod repository;
mod settings;
mod upload;
mod url;
mod xml;

pub use connect::{Connected, connect, connect_with};
pub use directory::sweep_staged;
pub use local::create_directory;
#[cfg(feature = "cli")]
pub(crate) use options::distance;
pub use repository::{ObjectInfo, Probe, Repository};
pub use settings::RepositorySettings;
pub use upload::Upload;
pub use url::RepositoryUrl;
