//! etcd's data model in a database: revisions and what the `meta` bucket says of them
//! (`server/storage/schema/bucket.go`).

mod facts;

pub use facts::{DatabaseFacts, database_facts};
