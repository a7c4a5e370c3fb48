//! The repository on object storage: put once, read ranges, list, delete.

mod failure;
mod repository;
mod upload;
mod url;

pub use repository::{ObjectInfo, Repository};
pub use upload::Upload;
pub use url::{Connected, RepositoryUrl, connect};
