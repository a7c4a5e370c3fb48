//! The repository on object storage: put once, read ranges, list, delete.

mod failure;
mod repository;
mod upload;

pub use repository::{ObjectInfo, Repository};
pub use upload::Upload;
