//! The repository on object storage: names, put-once, ranged reads, listing (SPEC.md §3).
//!
//! Storage variety is [`object_store`]'s own trait. A [`RepositoryUrl`] says where, [`connect`]
//! gives the store there, [`Repository`] holds the rules that make it a repository.
//!
//! Errors name the object; the caller adds the repository's URL as context. They never hold
//! what a store answers word for word, since that may repeat a session token or a signed URL.

#[cfg(feature = "aws-kms")]
mod aws;
mod clock;
mod clouds;
mod connect;
mod directory;
mod failure;
mod fault;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod gate;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod http;
mod key;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod listing;
mod local;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod options;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod proxy;
mod repository;
pub(crate) mod seals;
mod settings;
mod upload;
mod url;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod xml;

#[cfg(feature = "aws-kms")]
pub(crate) use aws::{AwsAnswer, AwsService};
pub(crate) use clock::Skew;
pub use connect::{Connected, connect, connect_with};
pub use directory::sweep_staged;
pub use local::create_directory;
pub use repository::{ObjectInfo, Probe, Repository};
pub use settings::RepositorySettings;
pub use upload::Upload;
pub use url::RepositoryUrl;
