//! Brings keys of a snapshot back into a running etcd: [`plan_to_cluster`] compares and changes nothing,
//! [`apply_plan`] makes the changes, each only if its key still is as the plan saw it.

mod apply;
mod plan;

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use crate::backup::View;
use crate::contents::KUBERNETES_ROOTS;
use crate::format::{SnapshotId, serial};
use crate::mvcc::Revision;

pub use apply::{Applied, DEFAULT_RATE, Refused, apply_plan};
pub use plan::plan_to_cluster;

/// Where strongroom keeps what is its own in etcd.
const RESERVED: &[u8] = b"/strongroom/";

/// Which keys to bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedKeys {
    /// One.
    One(Vec<u8>),
    /// Those that begin with `from`, which is replaced by `to`.
    Prefix {
        /// What they begin with in the snapshot.
        from: Vec<u8>,
        /// What they are to begin with in etcd: the same, to restore them in place.
        to: Vec<u8>,
    },
}

/// What to bring back, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which keys.
    pub keys: WantedKeys,
    /// As they were at this main revision; the snapshot's last one if `None`.
    pub revision: Option<i64>,
    /// Delete the keys below the prefix that the snapshot does not have.
    pub delete: bool,
    /// What becomes of leases.
    pub leases: Leases,
}

/// What becomes of a key that was attached to a lease.
///
/// The default is [`New`](Self::New): keys that were meant to expire (a lock, the registration of a process) expire again,
/// and it does not matter which leases etcd still has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leases {
    /// It is attached to a new lease, one for each old one, with the same time to live. Unless a client finds the lease and
    /// renews it, it expires and the key is deleted, as was intended.
    #[default]
    New,
    /// It is attached to the lease with the same id; etcd refuses it when there is none.
    Keep,
    /// It is attached to none, and stays until it is deleted.
    Drop,
}

/// What is to be done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// etcd has no such key.
    Create,
    /// etcd has another value, or has it attached to a lease when the snapshot does not, or the reverse.
    Change,
    /// The snapshot has no such key, and etcd's is to be deleted.
    Delete,
    /// The snapshot has no such key, and etcd's stays as it is.
    Leave,
}

impl Action {
    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Delete => "delete",
            Self::Leave => "would-delete",
        }
    }
}

/// A key that is not the same in etcd and in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The key in etcd.
    pub key: Box<[u8]>,
    /// What is to be done.
    pub action: Action,
    /// The change that gave it the snapshot's value; `None` if the snapshot has no such key.
    pub source: Option<Revision>,
    /// Length of the snapshot's value in bytes.
    pub value_bytes: u64,
    /// Its lease in the snapshot, 0 for none.
    pub lease: i64,
    /// etcd's mod revision of it when the plan was made, 0 for a key that was not there.
    pub live_mod_revision: i64,
}

impl Serialize for Planned {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            #[serde(flatten, serialize_with = "serial::key")]
            key: &'a [u8],
            action: &'static str,
            snapshot_mod_revision: Option<i64>,
            value_bytes: Option<u64>,
            #[serde(serialize_with = "serial::lease")]
            lease: i64,
            live_mod_revision: Option<i64>,
        }
        Row {
            key: &self.key,
            action: self.action.name(),
            snapshot_mod_revision: self.source.map(|source| source.main),
            value_bytes: self.source.map(|_| self.value_bytes),
            lease: self.source.map_or(0, |_| self.lease),
            live_mod_revision: Some(self.live_mod_revision).filter(|live| *live != 0),
        }
        .serialize(out)
    }
}

/// What differs between a snapshot and a running etcd. Holds no values.
///
/// Memory: about 80 bytes and the key itself for each key that differs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The snapshot.
    pub id: SnapshotId,
    view: View,
    /// The revision that is brought back.
    pub revision: i64,
    /// etcd's revision when it was compared.
    pub live_revision: i64,
    /// The member that was read.
    pub member: String,
    /// The keys that differ, in order.
    pub keys: Vec<Planned>,
    /// How many keys are the same.
    pub unchanged: u64,
    /// What the operator should know before the plan is applied.
    pub warnings: Vec<String>,
    leases: Leases,
    /// Granted seconds of the snapshot's leases that are needed.
    ttls: HashMap<i64, i64>,
    etcd_cluster: u64,
}

impl Plan {
    /// How many keys are to be treated so.
    pub fn count(&self, action: Action) -> u64 {
        self.keys.iter().filter(|planned| planned.action == action).count() as u64
    }

    /// Whether Kubernetes' objects are among the keys that differ.
    pub fn is_kubernetes(&self) -> bool {
        let below = |key: &[u8], root: &str| {
            key.strip_prefix(root.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let mut keys = self.keys.iter();
        keys.any(|planned| KUBERNETES_ROOTS.iter().any(|root| below(&planned.key, root)))
    }
}
