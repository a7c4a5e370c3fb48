//! Master keys against the snapshots they open: re-seal, count, remove.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};

use super::catalog::{self, Scope};
use super::folder::Folder;
use super::snapshot::{self, Unsealed};
use crate::crypto;
use crate::envelope::{NewSeal, kept_stanzas, key_ids, open_seal, seal_data_key};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{KeyId, Seal, SnapshotId, Stanza, names};
use crate::keys::MasterKeys;
use crate::store::Repository;
use crate::task::{Control, Step, Unit};

/// Seals read at once.
const READS: usize = 16;

/// What re-sealing did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ResealReport {
    /// Snapshots that have a new seal.
    pub resealed: Vec<SnapshotId>,
    /// Snapshots whose seal named the right keys already.
    pub unchanged: Vec<SnapshotId>,
    /// Snapshots that could not be re-sealed, and why. They are as they were.
    pub failed: Vec<(SnapshotId, Error)>,
    /// Older seals that the store did not let go of: the keys they name still open those snapshots.
    pub lingering: Vec<String>,
}

/// Seals the data keys of the snapshots in `scope` to `keys`' sealing keys.
///
/// Headers only: payloads and manifests stay as they are. Stanzas of keys that are not at hand are kept, unless
/// they are to `drop`; stanzas of keys at hand that no longer seal go. Each snapshot is one step of its own:
/// interrupted half-way, every snapshot still opens, and running it again does the rest.
///
/// It is no revocation: who kept an old seal and its master key can still open that snapshot.
///
/// # Errors
/// [`ErrorKind::Unreachable`] once the store is gone, and [`ErrorKind::Interrupted`]; what was re-sealed until then
/// stays so. What else one snapshot meets stands in the report.
pub async fn reseal(
    repository: &Repository,
    keys: &MasterKeys,
    scope: Scope<'_>,
    drop: &[KeyId],
    control: &Control,
) -> Result<ResealReport> {
    if let Some(key) = keys.sealing().map(|key| key.id()).find(|id| drop.contains(id)) {
        return Err(Error::usage(format!("key {key} is to be dropped, and to be sealed to"))
            .hint("it is the primary key of a keyring given, or the passphrase's: rotate, or leave it out"));
    }
    control
        .guard(async {
            let folders = catalog::folders_of(repository, scope).await?;
            control.begin_counting("re-sealing", Some(folders.len() as u64), Unit::Snapshots);
            let mut report = ResealReport::default();
            for (id, folder) in folders {
                match reseal_one(repository, keys, id, &folder, drop, &mut report).await {
                    Ok(true) => report.resealed.push(id),
                    Ok(false) => report.unchanged.push(id),
                    // Each further one would be tried for minutes; what is done is done.
                    Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                    Err(error) => report.failed.push((id, error)),
                }
                control.step(Step::Advance(1));
            }
            Ok(report)
        })
        .await
}

async fn reseal_one(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
    folder: &Folder,
    drop: &[KeyId],
    report: &mut ResealReport,
) -> Result<bool> {
    let Unsealed { seal, data_key, manifest, .. } =
        snapshot::unseal(repository, id, folder, keys).await?;
    refuse_newer(repository, id, folder, &seal).await?;
    let kept = kept_stanzas(&seal, keys, drop);
    let mut wanted: Vec<KeyId> = kept.iter().map(Stanza::key_id).collect();
    wanted.extend(keys.sealing().map(|key| key.id()));
    wanted.sort_unstable();
    let mut present = key_ids(&seal);
    present.sort_unstable();
    let newest = folder.seals.keys().next_back().copied().unwrap_or(seal.body().generation());
    let only_generation = folder.seals.len() == 1;
    if wanted == present && newest == seal.body().generation() && only_generation {
        return Ok(false);
    }
    let generation = newest.checked_add(1).ok_or_else(|| {
        Error::tampered(format!("{id} has a seal of the last generation there is"))
    })?;
    // From the seal that opened, never from a manifest fetched again.
    let object = seal.body().object();
    let signatures = seal.body().signatures().to_vec();
    let new = NewSeal { generation, object, kept, signatures };
    let text = seal_data_key(&data_key, new, keys, &mut crypto::system_rng())?.print();
    let name = names::seal_name(id, generation);
    repository.put_once(&name, text.into()).await?;
    // Only a new seal that is proved to open may replace the old ones.
    let written = snapshot::read_seal(repository, id, generation).await?;
    let opened = open_seal(&written, object, keys).context(name)?;
    if opened.data_key.commitment() != manifest.body().commitment {
        return Err(Error::tampered("the new seal does not hold the snapshot's data key"));
    }
    for old in folder.seals.keys() {
        let name = names::seal_name(id, *old);
        if let Err(error) = repository.delete(&name).await {
            report.lingering.push(format!("{name}: {error}"));
        }
    }
    Ok(true)
}

/// Refuses when a newer seal of the same data key is there that no key at hand opens: replacing it would lock its
/// owners out, and revive keys that were given up.
async fn refuse_newer(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    opened: &Seal,
) -> Result<()> {
    let opened = opened.body();
    for generation in folder.seals.range(opened.generation().saturating_add(1)..).map(|(g, _)| *g) {
        let Ok(newer) = snapshot::read_seal(repository, id, generation).await else { continue };
        if newer.body().commitment() == opened.commitment() {
            let ids: Vec<String> = key_ids(&newer).iter().map(ToString::to_string).collect();
            let message = format!("seal {generation} is newer than those that open here");
            return Err(Error::new(ErrorKind::WrongKey, message)
                .hint(format!("give a key that opens it: {}", ids.join(", "))));
        }
    }
    Ok(())
}

async fn opens_without(
    repository: &Repository,
    others: &MasterKeys,
    key: KeyId,
    id: SnapshotId,
    folder: &Folder,
) -> Result<()> {
    let seals = seals(repository, id, folder).await?;
    if folder.manifest.is_none() {
        // A backup that has sealed its data key and not yet committed, or a snapshot whose manifest is gone.
        let names_another = |seal: &Seal| key_ids(seal).iter().any(|id| *id != key);
        let safe = seals.iter().all(|seal| !key_ids(seal).contains(&key) || names_another(seal));
        return if safe { Ok(()) } else { Err(Error::truncated("it has no manifest yet")) };
    }
    if seals.iter().any(|seal| key_ids(seal).contains(&key)) {
        snapshot::unseal(repository, id, folder, others).await?;
    }
    Ok(())
}

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
        .map(|(id, folder)| async move { (id, seals(repository, id, &folder).await) })
        .buffered(READS);
    while let Some((id, seals)) = read.next().await {
        match seals {
            Ok(seals) => usage.count(id, &seals),
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => usage.unreadable.push(format!("snapshot {id}: {error}")),
        }
    }
    Ok(usage)
}

async fn seals(repository: &Repository, id: SnapshotId, folder: &Folder) -> Result<Vec<Seal>> {
    let mut seals = Vec::new();
    for generation in folder.seals.keys().rev() {
        seals.push(snapshot::read_seal(repository, id, *generation).await?);
    }
    Ok(seals)
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

/// Proves that every snapshot which `key` opens also opens with another of `keys`, so that `key` can be given up.
///
/// Proved by opening: a key that a seal merely names may be destroyed, or sealed in by mistake.
///
/// # Errors
/// [`ErrorKind::Refused`], naming a snapshot that would be lost or whose seals cannot be read.
pub async fn check_removable(repository: &Repository, keys: &MasterKeys, key: KeyId) -> Result<()> {
    let others = keys.without(key);
    let mut folders = catalog::folders_of(repository, Scope::All).await?;
    for (id, folder) in catalog::folders_without_manifest(repository).await? {
        if folder.seals.is_empty() {
            let message =
                format!("snapshot {id} is being written, or was given up: it may need the key");
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("wait until no backup runs; a folder that a killed backup left has to be deleted first"));
        }
        folders.push((id, folder));
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
        format!("{lost} snapshot(s) open with no other key at hand, such as {id}: {error}");
    Err(Error::new(ErrorKind::Refused, message).hint(format!(
        "give the other keys too, or seal the snapshots to them first: \
         `strongroom key reseal --all --drop {key}`"
    )))
}
