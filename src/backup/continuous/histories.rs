//! Snapshots of several histories under one name: etcd was restored to an earlier revision in between, or is another one.

use crate::backup::catalog::{self, Listing, Summary};
use crate::error::{Error, ErrorKind, Result};
use crate::format::SnapshotId;
use crate::keys::KeySet;
use crate::store::Repository;

/// Places at which revisions go back that are looked at: anybody can plant manifests.
const MOST: usize = 64;

/// The snapshots of `listing` by history, the newest first: etcd's revision never goes back. Where it seems to, only a
/// snapshot that counts shows it; the others are left out there.
///
/// # Errors
/// Those of the store.
pub(super) async fn of<'a>(
    repository: &Repository,
    keys: &KeySet,
    listing: &'a Listing,
) -> Result<Vec<Vec<&'a Summary>>> {
    let mut histories: Vec<Vec<&Summary>> = vec![Vec::new()];
    let mut looked_at = 0;
    for one in &listing.snapshots {
        let Some(history) = histories.last_mut() else { break };
        let mut is_another = false;
        while looked_at < MOST
            && let Some(before) = history.last().filter(|before| before.revision > one.revision)
        {
            looked_at += 1;
            if !counts(repository, keys, before.id).await? {
                history.pop();
                continue;
            }
            is_another = counts(repository, keys, one.id).await?;
            break;
        }
        if is_another {
            histories.push(vec![one]);
        } else {
            history.push(one);
        }
    }
    histories.reverse();
    Ok(histories)
}

async fn counts(repository: &Repository, keys: &KeySet, id: SnapshotId) -> Result<bool> {
    match catalog::authenticate(repository, keys, id).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind().is_general() => Err(error),
        Err(_) => Ok(false),
    }
}

/// That the revision is in two histories: which one is meant only a snapshot's id tells.
pub(super) fn ambiguous(revision: i64, newer: SnapshotId, older: SnapshotId) -> Error {
    let message = format!(
        "revision {revision} is in two histories: etcd was restored between the snapshots {older} and {newer}, or is another \
         one"
    );
    Error::new(ErrorKind::Usage, message).hint(format!(
        "give the snapshot in the place of latest: `{newer} --revision {revision}` is the newer history, \
         `{older} --revision {revision}` the older"
    ))
}
