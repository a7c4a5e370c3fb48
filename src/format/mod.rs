//! Our own bytes, as SPEC.md says: parse and print, no I/O.

mod ids;

pub use ids::{ClusterName, KeyId, Sha256, SnapshotId, Subject, Uuid};
