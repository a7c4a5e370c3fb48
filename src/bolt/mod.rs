//! The bolt file format (bbolt `internal/common/{page,meta,bucket}.go`): read from untrusted bytes, checked,
//! written.
//!
//! A file is pages; two meta pages name the root bucket, a B+ tree of names whose values are buckets,
//! each a B+ tree of its own. Only the meta pages carry a checksum, so every page is checked before a
//! byte of it is used. Nothing is mapped into memory: a walk holds one page of each level, and the
//! writer what it has not written yet of one page of each level.

mod bucket;
mod check;
mod cursor;
mod db;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
mod page;
mod scan;
mod source;
mod tree;
mod writer;

pub use bucket::Bucket;
pub use check::{BucketSize, Checked, Order, check, check_with};
pub use cursor::Cursor;
pub use db::{Db, Meta};
pub use source::{FileSource, ReadAt};
pub use writer::Writer;
