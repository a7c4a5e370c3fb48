//! The bolt file format (bbolt `internal/common/{page,meta,bucket}.go`), read from untrusted bytes.
//!
//! A file is pages; two meta pages name the root bucket, a B+ tree of names whose values are buckets,
//! each a B+ tree of its own. Only the meta pages carry a checksum, so every page is checked before a
//! byte of it is used. Nothing is mapped into memory.

mod bucket;
mod db;
mod page;
mod source;

pub use bucket::Bucket;
pub use db::{Db, Meta};
pub use source::{FileSource, ReadAt};
