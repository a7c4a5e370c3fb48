//! Whether a master key can be given up: what it opens must open with another.

use futures::{StreamExt, stream};

use super::catalog::{self, Scope};
use super::continuous::lost_without;
use super::reseal::all_seals;
use crate::envelope::{key_ids, wrong_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, Seal, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::folder::Folder;
use crate::snapshot::{open, seals};
use crate::store::Repository;

/// Snapshots looked at at once.
const READS: usize = 16;

/// Proves that every snapshot which `key` opens also opens with another of `keys`, so that `key` can be given up.
///
/// Proved by opening: a key that a seal merely names may be destroyed, or sealed in by mistake.
///
/// # Errors
/// [`ErrorKind::Refused`], naming a snapshot that would be lost or whose seals cannot be read.
pub async fn check_removable(repository: &Repository, keys: &KeySet, key: KeyId) -> Result<()> {
    let mut others = keys.without(key);
    // Whether it opens is the question, not who made it.
    others.accept_untrusted();
    let mut folders = catalog::folders_with_removed(repository, Scope::All).await?;
    for (id, folder) in catalog::folders_without_manifest(repository).await? {
        if folder.seals.is_empty() {
            let message = format!(
                "snapshot {id} is being written, or its backup was aborted: it may need the key"
            );
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("wait until no backup runs; a folder that a killed backup left has to be deleted first"));
        }
        folders.push((id, folder));
    }
    if let Some(id) = lost_without(repository, keys, &others).await?.first() {
        let message = format!("journal {id} opens with no other available key");
        return Err(Error::new(ErrorKind::Refused, message).hint(format!(
            "give the other keys too, or seal it to them first: `strongroom key reseal --all --drop {key}`"
        )));
    }
    let mut read = stream::iter(folders)
        .map(|(id, folder)| {
            let others = &others;
            async move { (id, opens_without(repository, others, key, id, &folder).await) }
        })
        .buffered(READS);
    let mut lost = 0;
    let mut first = None;
    while let Some((id, opened)) = read.next().await {
        match opened {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => {
                lost += 1;
                first = first.or(Some((id, error)));
            }
        }
    }
    let Some((id, error)) = first else { return Ok(()) };
    let message =
        format!("{lost} snapshot(s) open with no other available key, such as {id}: {error}");
    Err(Error::new(ErrorKind::Refused, message).hint(format!(
        "give the other keys too, or seal the snapshots to them first: \
         `strongroom key reseal --all --drop {key}`"
    )))
}

async fn opens_without(
    repository: &Repository,
    others: &KeySet,
    key: KeyId,
    id: SnapshotId,
    folder: &Folder,
) -> Result<()> {
    let seals = all_seals(repository, id, folder).await?;
    if folder.manifest.is_none() && folder.tombstone.is_none() {
        // A backup that has sealed its data key and not yet committed, or a snapshot whose manifest is gone.
        let names_another = |seal: &Seal| key_ids(seal).iter().any(|id| *id != key);
        let safe = seals.iter().all(|seal| !key_ids(seal).contains(&key) || names_another(seal));
        return if safe { Ok(()) } else { Err(Error::truncated("it has no manifest yet")) };
    }
    if seals.iter().any(|seal| key_ids(seal).contains(&key)) {
        let manifest = open::read_head(repository, id, folder).await?;
        let authentic = seals::authenticate(repository, folder, others, &manifest).await?;
        if authentic.judged.opened.is_none() {
            return Err(wrong_key(&authentic.seal));
        }
    }
    Ok(())
}
