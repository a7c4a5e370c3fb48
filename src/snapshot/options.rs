//! How snapshots are taken.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::crypto::Suite;
use crate::format::ClusterName;

/// How to take a snapshot. [`Default`] is what measured best.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupOptions {
    /// The owner's name for the etcd cluster.
    pub cluster: ClusterName,
    /// zstd level.
    pub level: i32,
    /// What encrypts payload and index.
    pub suite: Suite,
    /// Bytes of frames in memory between etcd and the store. While they last, etcd never waits for the upload.
    pub read_ahead: usize,
    /// Ask every member for its HashKV afterwards, so that members which differ show, and `verify` has something
    /// to compare with. Each reads all its data for that, one after the other.
    pub compare_members: bool,
    /// Files and directories to store beside the snapshot, encrypted: what etcd alone does not bring back.
    pub include: Vec<PathBuf>,
    /// When the database was taken, of a file that lay somewhere before. Otherwise it is now.
    pub taken: Option<SystemTime>,
}

impl BackupOptions {
    /// The moment that the snapshot is of.
    pub(crate) fn moment(&self) -> SystemTime {
        self.taken.unwrap_or_else(SystemTime::now)
    }
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            cluster: ClusterName::default(),
            level: 1,
            suite: Suite::preferred(),
            read_ahead: 32 << 20,
            compare_members: true,
            include: Vec::new(),
            taken: None,
        }
    }
}
