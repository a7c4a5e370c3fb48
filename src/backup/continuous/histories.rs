//! Snapshots of several histories under one name: etcd was restored to an earlier revision in between, or is another one.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::backup::catalog::{self, Listing, Summary};
use crate::error::{Error, ErrorKind, Result};
use crate::format::SnapshotId;
use crate::keys::KeySet;
use crate::mvcc::RecordSource;
use crate::snapshot::inside::{View, look_inside};
use crate::store::Repository;

/// Revisions up to the wanted one that are compared.
const COMPARED: i64 = 64;
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

/// Whether both are of one history at `revision`: they hold the same records of it and of the revisions before it. Both must
/// hold one.
///
/// # Errors
/// Those of reading them.
pub(super) async fn are_one(
    repository: &Repository,
    keys: &KeySet,
    revision: i64,
    (one, other): (View, View),
) -> Result<bool> {
    let (one, other) =
        (digests(repository, keys, one, revision), digests(repository, keys, other, revision));
    let (one, other) = (one.await?, other.await?);
    let first = one.compacted.max(other.compacted).saturating_add(1);
    let is_any = one.by_revision.range(first..).next().is_some();
    Ok(is_any && one.by_revision.range(first..).eq(other.by_revision.range(first..)))
}

/// What stands for the records of the last revisions.
struct Digests {
    compacted: i64,
    by_revision: BTreeMap<i64, Vec<[u8; 32]>>,
}

async fn digests(repository: &Repository, keys: &KeySet, view: View, last: i64) -> Result<Digests> {
    look_inside(repository, keys, view, move |inside| {
        let records = inside.records();
        let compacted = records.span()?.compacted;
        let mut by_revision: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        records.scan(last.saturating_sub(COMPARED).max(2)..=last, &mut |record| {
            let (key, value) = record.raw;
            let digest = Sha256::new().chain_update(key).chain_update(value).finalize();
            by_revision.entry(record.revision.main).or_default().push(digest.into());
            Ok(())
        })?;
        by_revision.values_mut().for_each(|digests| digests.sort_unstable());
        Ok(Digests { compacted, by_revision })
    })
    .await
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
