//! Where snapshots are copied to, and what a copy did.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::format::SnapshotId;
use crate::format::serial;
use crate::store::RepositoryUrl;

/// Where snapshots are copied to.
#[derive(Clone, Default)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct CopySettings {
    /// The second repository; `copy` and the agent create it if there is none
    #[cfg_attr(
        feature = "cli",
        arg(id = "copy.url", long = "to", value_name = "URL", env = "STRONGROOM_COPY_URL")
    )]
    pub url: Option<RepositoryUrl>,
    /// The options of its store; without them those of the first.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub options: Option<BTreeMap<String, String>>,
}

/// What a copy did with journals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalsCopied {
    /// Journals of which something was copied, oldest first.
    pub copied: Vec<SnapshotId>,
    /// Journals in the scope of which the copy had everything already.
    pub present: usize,
    /// Journals of which the copy had something already that was read there and compared, oldest first.
    pub compared: Vec<SnapshotId>,
    /// Journals of which the copy had something already that later runs compare; null where nothing remembers it.
    pub not_compared: Option<usize>,
    /// Identifies the journals that are complete and correct in the copy, so that later runs skip them.
    #[serde(skip)]
    pub(super) marks: Vec<String>,
    /// Journals that are damaged, and why; what is good before the damage is copied.
    #[serde(serialize_with = "serial::details")]
    pub failed: BTreeMap<SnapshotId, String>,
    /// Journals that do not count (SPEC.md §13.4), and why; they are not copied.
    #[serde(serialize_with = "serial::details")]
    pub left_out: BTreeMap<SnapshotId, String>,
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CopyReport {
    /// Snapshots that are there now and were not, oldest first.
    pub copied: Vec<SnapshotId>,
    /// Snapshots in the scope that were there already. Whose they are is not looked at.
    pub present: usize,
    /// Snapshots that were there already and whose objects were read there and compared with their digests, oldest first.
    pub compared: Vec<SnapshotId>,
    /// Snapshots that were there already and are compared by later runs; null where nothing remembers it: without a key, and
    /// on a blind host, which compares some at random.
    pub not_compared: Option<usize>,
    /// Why the next run does not remember what was compared.
    pub not_remembered: Option<String>,
    /// What became of journals.
    pub journals: JournalsCopied,
    /// Bytes written.
    pub written_bytes: u64,
    /// Snapshots that are damaged, and why: nothing of theirs shows in the copy.
    #[serde(serialize_with = "serial::details")]
    pub failed: BTreeMap<SnapshotId, String>,
    /// Snapshots that do not count (SPEC.md §5.3), and why; they are not copied.
    #[serde(serialize_with = "serial::details")]
    pub left_out: BTreeMap<SnapshotId, String>,
    /// Seals, and keys behind passphrases, whose bytes differ in the copy under the same name.
    #[serde(rename = "differing_seals")]
    pub differing: Vec<String>,
    /// The newest snapshot in the scope that the copy has now.
    #[serde(skip)]
    pub newest: Option<SnapshotId>,
    /// Wall time.
    #[serde(rename = "duration_seconds", serialize_with = "serial::seconds")]
    pub duration: Duration,
}

impl CopyReport {
    /// Takes note of what became of `id`.
    ///
    /// # Errors
    /// What is not about `id`, and ends the whole copy.
    pub(super) fn note(&mut self, id: SnapshotId, written: Result<u64>) -> Result<bool> {
        match written {
            Ok(bytes) => {
                self.written_bytes += bytes;
                Ok(true)
            }
            Err(error) if error.kind().is_general() => Err(error),
            Err(error) => {
                self.failed.insert(id, error.to_string());
                Ok(false)
            }
        }
    }
}
