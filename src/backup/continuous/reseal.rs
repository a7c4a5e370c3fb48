//! Journals' data keys sealed to the present master keys.

use std::collections::BTreeSet;

use super::opened::Journals;
use crate::crypto;
use crate::envelope::{NewSeal, kept_stanzas, key_ids, seal_data_key};
use crate::error::{Context, Error, Result};
use crate::format::{ClusterName, JournalPart, KeyId, MAX_SIGNATURES, Seal, SnapshotId, Stanza};
use crate::journal::folder::Folder;
use crate::journal::open::{Judging, OpenJournal, read_seal};
use crate::keys::KeySet;
use crate::store::Repository;
use crate::store::seals::{is_always_read, next_generation};

/// What sealing journals again came to.
#[derive(Default)]
pub(in crate::backup) struct Resealed {
    /// Journals that have a new seal.
    pub(in crate::backup) resealed: Vec<SnapshotId>,
    /// Journals that count and could not be sealed again.
    pub(in crate::backup) failed: Vec<(SnapshotId, Error)>,
    /// Journals that do not open, do not count or were not to be sealed again, and why.
    pub(in crate::backup) left: Vec<String>,
}

/// How journals are sealed again.
pub(in crate::backup) struct JournalJob<'a> {
    /// Keys whose stanzas are left out.
    pub(in crate::backup) drop: &'a [KeyId],
    /// Whether the signing key signs, too.
    pub(in crate::backup) sign: bool,
    /// Whether anything is written; else every journal is left as it is.
    pub(in crate::backup) changes: bool,
}

/// Seals the journals that count, of `cluster` or of all, and removed ones that can be brought back, to `keys`' sealing keys.
/// Stanzas of keys that are not available or are retiring are kept, but for those to drop. Seals that stand there stay: none of
/// them is needed any more.
///
/// # Errors
/// Those of the store.
pub(in crate::backup) async fn reseal(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
    job: &JournalJob<'_>,
) -> Result<Resealed> {
    let judging = if job.sign { Judging::Vouching } else { Judging::Reading };
    let journals = Journals::open_with_removed(judging, repository, keys, cluster).await?;
    // Objects that are unknown are no journals.
    let mut done = Resealed { left: journals.failed.finish(), ..Resealed::default() };
    for (id, (journal, folder)) in journals.open {
        if !job.changes || !journal.standing.counts() {
            done.left.push(format!("journal {id}: {}", journal.standing));
            continue;
        }
        match one(repository, keys, &journal, &folder, job).await {
            Ok(true) => {
                if job.sign && journal.end.is_none() {
                    let text = "it has no end: of it counts for those who trust signers what its segments' signatures cover";
                    done.left.push(format!("journal {id}: {text}"));
                }
                done.resealed.push(id);
            }
            Ok(false) => {}
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => done.failed.push((id, error.context(format!("journal {id}")))),
        }
    }
    Ok(done)
}

/// Whether a new seal was needed. It vouches for what the present one does: the end, or the head while there is none.
async fn one(
    repository: &Repository,
    keys: &KeySet,
    journal: &OpenJournal,
    folder: &Folder,
    job: &JournalJob<'_>,
) -> Result<bool> {
    // Who recorded it may have bundled it since: then another end is the one to vouch for.
    if journal.lacks_segments(folder) && !folder.bundles.is_empty() {
        let text = "its end names segments that are gone, and there is a bundle, whose end does not count here";
        return Err(Error::truncated(text)
            .hint("trust the signer of the bundle's end, then vouch for it: `strongroom journal list` shows it then"));
    }
    // Else the new seal would cover the head, or an earlier end, and supersede the unread one.
    journal.check_read()?;
    let seal = &journal.seal;
    let kept = kept_stanzas(seal, keys, job.drop);
    let mut wanted: Vec<KeyId> = kept.iter().map(Stanza::key_id).collect();
    wanted.extend(keys.sealing().map(|key| key.id()));
    wanted.sort_unstable();
    let mut present = key_ids(seal);
    present.sort_unstable();
    let (object, mut signatures) = (seal.body().object(), seal.body().signatures().to_vec());
    let own = keys.signing().filter(|_| job.sign);
    let own = own.map(|key| key.sign(seal.body().subject(), object));
    let is_signed = own.as_ref().is_none_or(|own| signatures.contains(own));
    // An end and its seal have one number.
    let is_taken = |number| folder.seals.contains_key(&number) || folder.ends.contains_key(&number);
    let number = seal.body().generation();
    let next = next_generation(number, is_taken);
    let improves = !is_always_read(number) && next.is_some_and(|next| next > number);
    if wanted == present && is_signed && !improves {
        return Ok(false);
    }
    if let Some(own) = own.filter(|_| !is_signed) {
        // One that does not verify may stand under the same name.
        signatures.retain(|one| one.key_id != own.key_id);
        signatures.truncate(MAX_SIGNATURES - 1);
        signatures.push(own);
        signatures.sort_by_key(|signature| signature.key_id);
    }
    let generation =
        next.ok_or_else(|| Error::tampered("it has used up its generations of seals"))?;
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
    let open = Journals::open_with_removed(Judging::Reading, repository, keys, cluster).await?.open;
    let counting = open.into_values().filter(|(journal, _)| journal.standing.counts());
    Ok(counting.map(|(journal, _)| journal.seal).collect())
}

/// The journals that a key may open which `keys` do not seal to any more: one of their seals names it, or the first seal is gone,
/// which may have named any.
///
/// # Errors
/// [`WrongKey`](crate::ErrorKind::WrongKey) when no journal opens; those of the store.
pub(in crate::backup) async fn sealed_to_others(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
) -> Result<Vec<SnapshotId>> {
    let mut journals = Journals::open(repository, keys, cluster).await?;
    journals.check_locked()?;
    let present: BTreeSet<KeyId> = keys.sealing().map(|key| key.id()).collect();
    let mut found = Vec::new();
    for (id, (_, folder)) in &journals.open {
        let mut is_known = folder.seals.contains_key(&1);
        for number in folder.seals.keys() {
            let name = JournalPart::Seal(*number).of(*id);
            match read_seal(repository, *id, *number, &name).await {
                Err(error) if error.kind().is_of_store() => return Err(error),
                Err(_) => is_known = false,
                Ok(seal) => is_known &= key_ids(&seal).iter().all(|key| present.contains(key)),
            }
        }
        if !is_known {
            found.push(*id);
        }
    }
    Ok(found)
}

/// The journals that `others` do not open, or of which they do not open the end, although `keys` do.
///
/// # Errors
/// Those of the store, also for a listed journal that cannot be read.
pub(in crate::backup) async fn lost_without(
    repository: &Repository,
    keys: &KeySet,
    others: &KeySet,
) -> Result<Vec<SnapshotId>> {
    let read = Judging::Reading;
    let mut with = Journals::open_with_removed(read, repository, keys, None).await?;
    with.check_read()?;
    let mut without = Journals::open_with_removed(read, repository, others, None).await?;
    without.check_read()?;
    let has_end = |(journal, _): &(OpenJournal, Folder)| journal.end.is_some();
    let is_lost = |(id, one): &(SnapshotId, (OpenJournal, Folder))| {
        without.open.get(id).is_none_or(|other| has_end(one) && !has_end(other))
    };
    Ok(with.open.into_iter().filter(is_lost).map(|(id, _)| id).collect())
}
