//! etcd's data model in a database: every change by its revision, the keys at a revision, HashKV, leases, and
//! what the `meta` bucket says of them (`server/storage/schema/bucket.go`, `server/storage/mvcc`).

mod check;
mod compare;
mod facts;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod key_space;
mod latest;
mod leases;
#[cfg(test)]
mod model;
#[cfg(any(feature = "audit-log", feature = "etcd"))]
mod range;
mod record;
mod revision;
mod rewrite;
mod source;
mod tail;
mod tested;

pub use check::{History, check_all, check_history};
pub use compare::first_difference;
pub use facts::{Compaction, DatabaseFacts, Span, compaction, database_facts};
pub use hash::{HashKv, Inconclusive, hash_kv};
pub use key_space::{Entry, KeySpace};
pub use leases::{Lease, leases};
#[cfg(feature = "client")]
pub(crate) use range::NO_END;
#[cfg(any(feature = "audit-log", feature = "etcd"))]
pub(crate) use range::prefix_end;
pub use record::{
    KeyValue, Record, check_reachable, for_each_record, for_each_record_at, history, scan_records,
    value_at,
};
pub use revision::Revision;
pub use rewrite::{Changes, RENEWED_LEASE_TTL, Records, Rewritten, rewrite, rewrite_with};
pub use source::{Followed, RecordSource, Visit};
pub use tail::{Reading, Recorded, RecordedTail, Recording, Tail};
pub use tested::EtcdVersion;
