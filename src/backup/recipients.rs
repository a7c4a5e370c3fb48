//! Public keys that sealing again would add.

use futures::{StreamExt, stream};

use super::catalog::{self, Scope};
use super::continuous::journal_seals;
use crate::envelope::key_ids;
use crate::error::Result;
use crate::format::{KeyId, SnapshotId};
use crate::keys::{KeySet, Recipient};
use crate::snapshot::folder::Folder;
use crate::snapshot::{open, seals};
use crate::store::Repository;

/// Snapshots read at once.
const READS: usize = 16;

/// The public keys among those that seal to which some snapshot or journal in `scope` is not sealed yet, as far as a seal
/// that opens shows: whoever holds one of them opens more after [`reseal`](super::reseal()).
///
/// # Errors
/// Those of the store.
pub async fn new_recipients(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
) -> Result<Vec<KeyId>> {
    let public = keys.sealing().filter(|key| key.is_public());
    let mut left: Vec<KeyId> = public.map(Recipient::id).collect();
    let mut new = Vec::new();
    if left.is_empty() {
        return Ok(new);
    }
    let mut note = |present: &[KeyId]| {
        left.retain(|id| {
            let is_present = present.contains(id);
            if !is_present {
                new.push(*id);
            }
            is_present
        });
        left.is_empty()
    };
    let folders = catalog::folders_with_removed(repository, scope).await?;
    let mut read = stream::iter(folders)
        .map(|(id, folder)| async move { sealed_to(repository, keys, id, &folder).await })
        .buffered(READS);
    while let Some(present) = read.next().await {
        if note(&present?) {
            return Ok(new);
        }
    }
    drop(read);
    let cluster = match scope {
        Scope::All => None,
        Scope::Cluster(cluster) => Some(cluster),
        Scope::Ids(_) => return Ok(new),
    };
    for seal in journal_seals(repository, keys, cluster).await? {
        if note(&key_ids(&seal)) {
            break;
        }
    }
    Ok(new)
}

/// The keys of the seal by which a snapshot counts; none if it does not open, for then its lines are not verified.
async fn sealed_to(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    folder: &Folder,
) -> Result<Vec<KeyId>> {
    let read = async {
        let manifest = open::read_head(repository, id, folder).await?;
        seals::authenticate(repository, folder, keys, &manifest).await
    };
    match read.await {
        Ok(authentic) if authentic.judged.opened.is_some() => Ok(key_ids(&authentic.seal)),
        Err(error) if error.kind().is_general() => Err(error),
        Ok(_) | Err(_) => Ok(Vec::new()),
    }
}
