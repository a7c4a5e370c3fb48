//! What a recording reports while it runs.

use std::time::Duration;

use crate::format::SnapshotId;

/// What a recording of changes reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalStep {
    /// A journal begins.
    Began {
        /// The journal.
        journal: SnapshotId,
        /// Its first revision.
        revision: i64,
    },
    /// A journal has ended.
    Ended {
        /// The journal.
        journal: SnapshotId,
        /// Its last complete revision that is stored.
        revision: i64,
        /// Why, in words.
        why: &'static str,
    },
    /// etcd sent all changes of a revision.
    Received {
        /// The revision.
        revision: i64,
        /// How many changes it has.
        changes: u64,
    },
    /// The recording has all that etcd had committed at a moment.
    Complete {
        /// The moment, in Unix milliseconds.
        moment: u64,
        /// etcd's revision at that moment.
        revision: i64,
    },
    /// So much waits for the store.
    Waiting {
        /// Bytes in memory.
        queued: u64,
        /// Bytes on the disk.
        spooled: u64,
    },
    /// A segment was stored.
    Stored {
        /// The last complete revision that is stored.
        revision: i64,
        /// Every revision committed before this moment is stored: Unix milliseconds, 0 for unknown.
        complete_ms: u64,
        /// Length of the object.
        bytes: u64,
        /// How long the store took.
        took: Duration,
    },
    /// The watch has ended, and another one is opened.
    Reconnects {
        /// The kind of reason: `etcd_ended_it`, `connection`, `canceled`, `stuck` or `store`.
        reason: &'static str,
        /// Why, in words.
        why: String,
    },
    /// What follows does not follow what was recorded before.
    Gap {
        /// The kind of reason: `first`, `compacted`, `parted`, `behind` or `store`.
        reason: &'static str,
        /// Why, in words.
        why: String,
    },
    /// So many journals have ended and are still to be merged into one object each.
    Unbundled {
        /// How many.
        journals: u64,
    },
    /// A lease was gone before it could be asked for.
    LeaseUnknown,
    /// The member that is watched.
    Watching {
        /// Its version.
        version: String,
        /// Versions before 3.4.36 and 3.5.18 can leave deletions out of a watch.
        is_old: bool,
    },
}

impl JournalStep {
    /// What people are told of it, if anything.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Began { journal, revision } => {
                Some(format!("journal {journal} begins with revision {revision}"))
            }
            Self::Ended { journal, revision, why } => {
                Some(format!("journal {journal} ends with revision {revision}: {why}"))
            }
            Self::Reconnects { why, .. } => Some(why.clone()),
            Self::Gap { why, .. } => Some(format!("the recording has a gap: {why}")),
            Self::Watching { version, is_old: true } => Some(format!(
                "etcd {version} can leave deletions out of a watch after a compaction: use 3.4.36, 3.5.18 or later; until \
                 then only comparing with a snapshot shows what is missing"
            )),
            _ => None,
        }
    }
}
