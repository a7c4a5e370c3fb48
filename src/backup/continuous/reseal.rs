//! Journals' data keys sealed to the present master keys.

use super::coverage::Journals;
use crate::crypto;
use crate::envelope::{NewSeal, kept_stanzas, key_ids, seal_data_key};
use crate::error::{Context, Error, Result};
use crate::format::{ClusterName, JournalPart, KeyId, Seal, SnapshotId, Stanza};
use crate::journal::folder::Folder;
use crate::journal::open::OpenJournal;
use crate::keys::KeySet;
use crate::store::Repository;

/// What sealing journals again came to.
#[derive(Default)]
pub(in crate::backup) struct Resealed {
    /// Journals that have a new seal.
    pub(in crate::backup) resealed: Vec<SnapshotId>,
    /// Journals that count and could not be sealed again.
    pub(in crate::backup) failed: Vec<(SnapshotId, Error)>,
}

/// Seals the journals that count, of `cluster` or of all, to `keys`' sealing keys. Stanzas of keys that are not available or
/// are retiring are kept, but for those to `drop`. Seals that stand there stay: none of them is needed any more.
///
/// # Errors
/// Those of the store.
pub(in crate::backup) async fn reseal(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
    drop: &[KeyId],
) -> Result<Resealed> {
    let journals = Journals::open(repository, keys, cluster).await?.open;
    let mut done = Resealed::default();
    for (id, (journal, folder)) in journals {
        if !journal.standing.counts() {
            continue;
        }
        match one(repository, keys, &journal, &folder, drop).await {
            Ok(true) => done.resealed.push(id),
            Ok(false) => {}
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => done.failed.push((id, error.context(format!("journal {id}")))),
        }
    }
    Ok(done)
}

/// Whether a new seal was needed.
async fn one(
    repository: &Repository,
    keys: &KeySet,
    journal: &OpenJournal,
    folder: &Folder,
    drop: &[KeyId],
) -> Result<bool> {
    let seal = &journal.seal;
    let kept = kept_stanzas(seal, keys, drop);
    let mut wanted: Vec<KeyId> = kept.iter().map(Stanza::key_id).collect();
    wanted.extend(keys.sealing().map(|key| key.id()));
    wanted.sort_unstable();
    let mut present = key_ids(seal);
    present.sort_unstable();
    if wanted == present {
        return Ok(false);
    }
    // An end and its seal have one number.
    let taken = folder.seals.keys().chain(folder.ends.keys()).max().copied().unwrap_or(0);
    let generation = taken
        .checked_add(1)
        .ok_or_else(|| Error::tampered("it has used up its generations of seals"))?;
    let (object, signatures) = (seal.body().object(), seal.body().signatures().to_vec());
    let new = NewSeal { generation, object, kept, signatures, sign: false };
    let seal = seal_data_key(&journal.data_key, new, keys, &mut crypto::system_rng()).await?;
    let name = JournalPart::Seal(generation).of(journal.id());
    repository.put_once(&name, seal.print().into()).await.context(name)?;
    Ok(true)
}

/// The seals by which the journals that count do so.
///
/// # Errors
/// Those of the store.
pub(in crate::backup) async fn seals(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
) -> Result<Vec<Seal>> {
    let open = Journals::open(repository, keys, cluster).await?.open;
    let counting = open.into_values().filter(|(journal, _)| journal.standing.counts());
    Ok(counting.map(|(journal, _)| journal.seal).collect())
}

/// The journals that open with `keys` and not with `others`.
///
/// # Errors
/// Those of the store.
pub(in crate::backup) async fn lost_without(
    repository: &Repository,
    keys: &KeySet,
    others: &KeySet,
) -> Result<Vec<SnapshotId>> {
    let open = Journals::open(repository, keys, None).await?.open;
    let still = Journals::open(repository, others, None).await?.open;
    Ok(open.into_keys().filter(|id| !still.contains_key(id)).collect())
}
