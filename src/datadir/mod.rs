//! A member's data directory as bytes (etcd `etcdutl/snapshot/v3_snapshot.go`): who the members are, the log and the
//! snapshot file that say so, and the same in the database's own buckets.
//!
//! ```text
//! member/snap/db                    the database: bolt and mvcc write it, with [`Cluster::buckets`] and [`Cluster::meta`]
//! member/snap/<term>-<index>.snap   Cluster::snap
//! member/wal/<sequence>-<index>.wal Cluster::wal
//! ```
//!
//! etcd starts from these as from a member that was stopped: it has applied the log up to the entry that added the last
//! member. Without the log's snapshot record a member that joins later would replay the log from its beginning, and stay
//! empty.

mod cluster;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
mod read;
mod snap;
mod static_pod;
mod wal;

pub use cluster::{Cluster, Member};
pub use read::{Record, RecordKind, SnapFile, read_snap, read_wal};
pub use snap::SNAP_NAME_TERM;
#[cfg(feature = "posture")]
pub(crate) use static_pod::command_line;
pub use static_pod::{MAX_STATIC_POD, StaticPod};
pub use wal::WAL_NAME;
