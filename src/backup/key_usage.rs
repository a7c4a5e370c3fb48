//! Which master keys the snapshots' seals name.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};

use super::catalog::{self, Scope};
use crate::envelope::key_ids;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, Seal, SnapshotId};
use crate::snapshot::folder::Folder;
use crate::snapshot::seals;
use crate::store::Repository;

/// Seals read at once.
const READS: usize = 16;

/// How many snapshots depend on each master key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUsage {
    /// For each key id: snapshots whose newest seal names it.
    pub opens: BTreeMap<KeyId, usize>,
    /// For each key id: the snapshots that no other key opens.
    pub only: BTreeMap<KeyId, Vec<SnapshotId>>,
    /// For each key id: snapshots where any generation names it, older ones included.
    pub named: BTreeMap<KeyId, usize>,
    /// Snapshots whose seals could not be read, and why.
    pub unreadable: Vec<String>,
}

/// Counts which master keys open which snapshots. Needs no key.
///
/// # Errors
/// Those of the store.
pub async fn key_usage(repository: &Repository) -> Result<KeyUsage> {
    let mut usage = KeyUsage::default();
    let folders = catalog::folders_of(repository, Scope::All).await?;
    let mut read = stream::iter(folders)
        .map(|(id, folder)| async move { (id, all_seals(repository, id, &folder).await) })
        .buffered(READS);
    while let Some((id, seals)) = read.next().await {
        match seals {
            Ok((seals, unread)) => {
                usage.count(id, &seals);
                usage.unreadable.extend(unread.map(|why| format!("snapshot {id}: {why}")));
            }
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => usage.unreadable.push(format!("snapshot {id}: {error}")),
        }
    }
    Ok(usage)
}

/// The seals of `id` from the newest down, and why there may be others. One that breaks a rule of the format is none:
/// anybody can plant it, and it names no key.
pub(super) async fn all_seals(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
) -> Result<(Vec<Seal>, Option<Error>)> {
    let (generations, all) = seals::generations(folder);
    let mut unread = (!all).then(|| seals::too_many(id));
    let mut read = Vec::new();
    for generation in generations {
        match seals::read_seal(repository, id, generation).await {
            Ok(seal) => read.push(seal),
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) if error.kind() == ErrorKind::Unsupported => unread = Some(error),
            Err(_) => {}
        }
    }
    Ok((read, unread))
}

impl KeyUsage {
    fn count(&mut self, id: SnapshotId, seals: &[Seal]) {
        let Some(newest) = seals.first() else { return };
        let keys = key_ids(newest);
        for key in &keys {
            *self.opens.entry(*key).or_default() += 1;
        }
        if let [only] = keys.as_slice() {
            self.only.entry(*only).or_default().push(id);
        }
        let mut all: Vec<KeyId> = seals.iter().flat_map(key_ids).collect();
        all.sort_unstable();
        all.dedup();
        for key in all {
            *self.named.entry(key).or_default() += 1;
        }
    }
}
