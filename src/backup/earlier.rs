//! What a backup tells of the snapshots before it, once: that its cluster's name is new, or that its keys open none of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::envelope::key_ids;
use crate::error::{ErrorKind, Result};
use crate::format::{ClusterName, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::folder::Folder;
use crate::snapshot::open;
use crate::store::Repository;

/// Manifests that are read to find one of the cluster.
const MOST_READ: usize = 200;
/// Snapshots of the cluster that are tried with the keys.
const MOST_TRIED: usize = 20;
/// Names of other clusters in a message.
const MOST_NAMED: usize = 5;

/// The newest snapshots of a repository.
#[derive(Default)]
pub(super) struct Earlier {
    /// All of them were looked at, or enough to answer.
    is_known: bool,
    /// Those of the cluster that the keys did not open.
    locked: usize,
    /// One of the cluster that the keys opened.
    opened: bool,
    /// Other clusters.
    others: BTreeSet<ClusterName>,
    /// A key that is not here opens a snapshot too.
    pub(super) has_recovery: bool,
}

impl Earlier {
    /// Looks at the newest snapshots in `folders` until one of `cluster` opens, unless that one does is known.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn look(
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
        folders: &BTreeMap<SnapshotId, Folder>,
        is_known: bool,
    ) -> Result<Self> {
        let mut found = Self { opened: is_known || keys.is_blind(), ..Self::default() };
        let whole = |folder: &Folder| folder.manifest.is_some() && folder.tombstone.is_none();
        let newest = folders.iter().rev().filter(|(_, folder)| whole(folder));
        for (read, (id, folder)) in newest.enumerate() {
            if found.opened || found.locked == MOST_TRIED {
                break;
            }
            if read == MOST_READ {
                return Ok(found);
            }
            match open::read_manifest(repository, *id).await {
                Err(error) if error.kind().is_general() => return Err(error),
                Err(_) => continue,
                Ok(manifest) if manifest.body().cluster != *cluster => {
                    found.others.insert(manifest.body().cluster.clone());
                    continue;
                }
                Ok(_) => {}
            }
            match open::unseal(repository, *id, folder, keys).await {
                Err(error) if error.kind().is_general() => return Err(error),
                Err(error) => found.locked += usize::from(error.kind() == ErrorKind::WrongKey),
                Ok(_) => found.opened = true,
            }
        }
        found.is_known = true;
        // Only those that were sealed again may be sealed to a key that is elsewhere.
        let resealed =
            |folder: &Folder| whole(folder) && folder.seals.keys().next_back() > Some(&1);
        let newest = folders.iter().rev().find(|(_, folder)| resealed(folder));
        if let Some((id, folder)) = newest {
            let unsealed = open::unseal(repository, *id, folder, keys).await;
            let held = keys.ids();
            found.has_recovery = unsealed
                .is_ok_and(|unsealed| key_ids(&unsealed.seal).iter().any(|id| !held.contains(id)));
        }
        Ok(found)
    }

    /// What the operator should know before the next backup.
    pub(super) fn warnings(&self, cluster: &ClusterName) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_first = self.is_known && !self.opened && self.locked == 0;
        if is_first && !self.others.is_empty() {
            let names: Vec<_> = self.others.iter().map(ClusterName::as_str).collect();
            let shown = names.get(..MOST_NAMED).unwrap_or(&names).join(", ");
            warnings.push(format!(
                "this is the first snapshot of the cluster {cluster}, in a repository with snapshots of {shown}: \
                 if that is a mistake, set cluster or --cluster"
            ));
        }
        if is_first && *cluster == ClusterName::default() {
            warnings.push(format!(
                "the cluster has no name, and is called {cluster}: set cluster = \"NAME\" or --cluster \
                 before another cluster uses this repository"
            ));
        }
        if self.is_known && !self.opened && self.locked > 0 {
            warnings.push(format!(
                "the keys given open none of the {} newest snapshots of {cluster}: other keys do; keep those, \
                 and check that the keys given are the right ones",
                self.locked
            ));
        }
        warnings
    }
}
