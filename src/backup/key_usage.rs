//! Which master keys open which snapshots, by seals that somebody with the data key made: anybody can plant others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, stream};

use super::catalog::{self, Scope};
use super::findings::Findings;
use crate::envelope::{is_genuine, key_ids};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, Seal, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::folder::{Folder, is_ahead};
use crate::snapshot::open;
use crate::snapshot::seals::{self, Tried};
use crate::store::Repository;

/// Seals read at once.
const READS: usize = 16;
/// Keys that are merely named and are kept: others can plant any number.
const MOST_NAMED: usize = 1000;

/// How many snapshots depend on each master key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUsage {
    /// For each key id: snapshots that count and that it opens, as a seal shows that opened here.
    pub opens: BTreeMap<KeyId, usize>,
    /// For each key id: those of them that no other key opens.
    pub only: BTreeMap<KeyId, Vec<SnapshotId>>,
    /// For each key id, up to a thousand: snapshots with a seal that names it, authentic or not.
    pub named: BTreeMap<KeyId, usize>,
    /// For each key of a service: snapshots with a seal that the service made with an older key of its own.
    pub older: BTreeMap<KeyId, usize>,
    /// Snapshots that no key opens here: which keys do is unknown.
    pub unknown: usize,
    /// Snapshots that do not count and are in no other number.
    pub untrusted: usize,
    /// The newest snapshot of each cluster that counts.
    pub newest: BTreeMap<ClusterName, Newest>,
    /// Snapshots whose seals could not be read, and why.
    pub unreadable: Vec<String>,
}

/// A cluster's newest snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Newest {
    /// The snapshot.
    pub id: SnapshotId,
    /// The keys that open it; none if that is unknown here.
    pub keys: Option<BTreeSet<KeyId>>,
}

/// What the seals of one snapshot show.
struct Found {
    cluster: ClusterName,
    counts: bool,
    /// The keys that open it.
    keys: Option<BTreeSet<KeyId>>,
}

/// Counts which master keys open which snapshots, as far as `keys` can tell.
///
/// # Errors
/// Those of the store.
pub async fn key_usage(repository: &Repository, keys: &KeySet) -> Result<KeyUsage> {
    let mut usage = KeyUsage::default();
    let (mut unreadable, now) = (Findings::default(), SystemTime::now());
    // What only a service opens that does not answer is unknown.
    let (keys, missing) = &keys.available().await;
    unreadable.extend(missing.iter().map(|one| one.error.to_string()));
    let folders = catalog::folders_of(repository, Scope::All).await?;
    let mut read = stream::iter(folders)
        .map(|(id, folder)| async move {
            let seals = all_seals(repository, id, &folder).await;
            let found = match &seals {
                Ok((seals, _)) => Some(look_at(repository, keys, id, seals).await),
                Err(_) => None,
            };
            (id, seals, found)
        })
        .buffered(READS);
    while let Some((id, seals, found)) = read.next().await {
        match seals {
            Ok((seals, unread)) => {
                usage.note_named(&seals);
                usage.note_older(&seals, keys);
                unreadable.extend(unread.map(|why| format!("snapshot {id}: {why}")));
            }
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => unreadable.push(format!("snapshot {id}: {error}")),
        }
        match found {
            None => {}
            Some(Ok(found)) => usage.count(id, found, now),
            Some(Err(error)) if error.kind().is_general() => return Err(error),
            Some(Err(error)) if error.kind() == ErrorKind::WrongKey => usage.unknown += 1,
            Some(Err(error)) => unreadable.push(format!("snapshot {id}: {error}")),
        }
    }
    usage.unreadable = unreadable.finish();
    Ok(usage)
}

/// Opens one of the snapshot's `seals`, if a key here does, and takes the keys of all that are made with its data key.
async fn look_at(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    seals: &[Seal],
) -> Result<Found> {
    let manifest = open::read_manifest(repository, id).await?;
    let mut tried = Tried::new(&manifest, keys, false);
    for seal in seals {
        tried.add(seal.body().generation(), Ok(seal.clone())).await?;
        if tried.is_decided() {
            break;
        }
    }
    let judged = tried.finish()?.judged;
    let object = seals::manifest_digest(&manifest);
    let ids = judged.opened.as_ref().map(|opened| {
        let is_genuine =
            |seal: &&Seal| seal.body().object() == object && is_genuine(seal, &opened.data_key);
        seals.iter().filter(is_genuine).flat_map(key_ids).collect()
    });
    let cluster = manifest.body().cluster.clone();
    Ok(Found { cluster, counts: judged.standing.counts(), keys: ids })
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
    fn count(&mut self, id: SnapshotId, found: Found, now: SystemTime) {
        match &found.keys {
            _ if !found.counts => self.untrusted += 1,
            None => self.unknown += 1,
            Some(keys) => {
                for key in keys {
                    *self.opens.entry(*key).or_default() += 1;
                }
                if let (Some(only), 1) = (keys.first(), keys.len()) {
                    self.only.entry(*only).or_default().push(id);
                }
            }
        }
        let newest = self.newest.get(&found.cluster).map(|newest| newest.id);
        if found.counts && newest < Some(id) && !is_ahead(id.begun(), now) {
            self.newest.insert(found.cluster, Newest { id, keys: found.keys });
        }
    }

    /// By the newest seal: the older ones go when a snapshot is sealed again.
    fn note_older(&mut self, seals: &[Seal], keys: &KeySet) {
        let stanzas = seals.first().into_iter().flat_map(|seal| seal.body().stanzas());
        for stanza in stanzas.filter(|stanza| keys.is_older(stanza)) {
            *self.older.entry(stanza.key_id()).or_default() += 1;
        }
    }

    fn note_named(&mut self, seals: &[Seal]) {
        let all: BTreeSet<KeyId> = seals.iter().flat_map(key_ids).collect();
        for key in all {
            if self.named.len() < MOST_NAMED || self.named.contains_key(&key) {
                *self.named.entry(key).or_default() += 1;
            }
        }
    }
}
