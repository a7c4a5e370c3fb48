//! What an upgrade depends on, beside what an audit reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::fact::Fact;
use super::state::ClusterState;
use super::table::Target;
use crate::etcd::Comparison;
use crate::format::SnapshotId;

/// What is known of an upgrade.
pub(crate) struct Upgrade {
    /// What `--to` says.
    pub(crate) target: Fact<Target>,
    /// How old the snapshot may be.
    pub(crate) max_age: Duration,
    /// etcd's id of the cluster.
    pub(crate) cluster_id: Fact<u64>,
    /// What the members' data hashes to.
    pub(crate) hashes: Fact<Comparison>,
    pub(crate) stored: Fact<Stored>,
    /// The newest snapshot was opened and verified, with etcd's structures in it; or what is wrong with it.
    pub(crate) verified: Fact<std::result::Result<(), String>>,
    /// What the v2 store of the host's member has.
    pub(crate) v2: Fact<V2>,
    /// Restored and started, with the target's program and with the current one.
    pub(crate) there: Fact<Rehearsed>,
    pub(crate) back: Fact<Rehearsed>,
    /// The cluster as it was before the upgrade, and what it answers of that now.
    pub(crate) before: Option<Before>,
}

/// The newest snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: SnapshotId,
    pub(crate) revision: u64,
    pub(crate) cluster_id: Option<u64>,
    /// The members in its database, by their id.
    pub(crate) members: BTreeMap<u64, StoredMember>,
    /// Members that were removed.
    pub(crate) removed: BTreeSet<u64>,
}

/// A member, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredMember {
    pub(crate) name: String,
    pub(crate) learner: bool,
}

/// What the old store of a member has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct V2 {
    /// What of it a 3.6 does not start with.
    pub(crate) content: Vec<String>,
    /// Entries of the log that were looked at, after this snapshot file.
    pub(crate) entries: u64,
    pub(crate) snap: Option<u64>,
}

/// A snapshot that was restored and served.
#[derive(Clone, Debug)]
pub(crate) struct Rehearsed {
    pub(crate) version: String,
    /// From the first byte to an etcd that answers.
    pub(crate) took: Duration,
    /// HashKV of what was served, if it is the snapshot's.
    pub(crate) hash: Option<String>,
    /// What differs.
    pub(crate) differs: Vec<String>,
}

/// Before the upgrade, and now.
pub(crate) struct Before {
    pub(crate) state: ClusterState,
    /// HashKV and the number of keys at the revision of before.
    pub(crate) hashes: Fact<Comparison>,
    pub(crate) keys: Fact<i64>,
}
