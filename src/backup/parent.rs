//! The snapshot that an incremental leans on: frames that its chain holds are named, not stored again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::folder::{self, Folder};
use super::frames::FRAME_LEN;
use super::grace::{Since, still_there};
use super::options::BackupOptions;
use super::snapshot::{self, OpenSnapshot};
use crate::error::{ErrorKind, Result};
use crate::format::{FrameRef, SnapshotId, Source, names};
use crate::keys::MasterKeys;
use crate::secret::SecretKey;
use crate::store::Repository;

/// Snapshots whose index is tried, from the newest down.
const ATTEMPTS: usize = 5;
/// Manifests read ahead: the first is mostly the one.
const AHEAD: usize = 2;

/// A frame that the chain holds, by its source among [`Parent::sources`].
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) source: usize,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The frames of a chain, by their ids.
pub(super) type KnownFrames = Arc<HashMap<[u8; 16], Known>>;

/// An authenticated snapshot and all that it is made of.
pub(super) struct Parent {
    pub(super) id: SnapshotId,
    pub(super) frame_id_key: SecretKey,
    pub(super) frames: KnownFrames,
    /// Ascending: payloads of the parent and of those it depends on.
    sources: Vec<Source>,
    since: Since,
}

impl Parent {
    /// The newest snapshot of the cluster that `keys` open, if the chain that it belongs to is young enough. What is
    /// wrong with newer ones is warned of.
    pub(super) async fn find(
        repository: &Repository,
        keys: &MasterKeys,
        options: &BackupOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>> {
        let BackupOptions { cluster, full_every, .. } = options;
        if full_every.is_zero() {
            return Ok(None);
        }
        let now = options.moment();
        let begins_after =
            |id: SnapshotId| now.duration_since(id.begun()).unwrap_or_default() < *full_every;
        let since = Since::now();
        let folders = folder::list_all(repository).await?.snapshots;
        let usable = |id: SnapshotId, folder: &Folder| {
            folder.manifest.is_some()
                && folder.tombstone.is_none()
                && !folder::is_ahead(id.begun(), now)
                && begins_after(id)
        };
        let ids = folders.into_iter().rev().filter(|(id, folder)| usable(*id, folder));
        let mut manifests = stream::iter(ids)
            .map(|(id, _)| async move { (id, snapshot::read_manifest(repository, id).await) })
            .buffered(AHEAD);
        let mut attempts = 0;
        while let Some((id, manifest)) = manifests.next().await {
            let opened = match manifest {
                Ok(manifest) if manifest.body().cluster != *cluster => continue,
                Ok(_) => OpenSnapshot::open(repository, id, keys).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(snapshot) => {
                    let first = snapshot.manifest.body().depends_on.first().copied();
                    let same_size =
                        snapshot.database.index().database.frame_size == FRAME_LEN as u64;
                    let usable = same_size && begins_after(first.unwrap_or(id));
                    let parent = usable.then(|| Self::of(&snapshot, since));
                    return Ok(parent);
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                // It was removed meanwhile.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && folder::list_one(repository, id).await?.manifest.is_none() => {}
                Err(error) => warnings.push(format!("nothing is taken over from {error}")),
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                break;
            }
        }
        Ok(None)
    }

    /// All that `snapshots`, of one chain, are made of, but for the payloads of those in `blocked`.
    pub(super) fn without<'a>(
        blocked: &BTreeSet<SnapshotId>,
        snapshots: impl Iterator<Item = &'a OpenSnapshot>,
    ) -> Option<Self> {
        let mut merged: Option<Self> = None;
        for snapshot in snapshots {
            let mut next = Self::of(snapshot, Since::now());
            next.forget(blocked);
            merged = Some(match merged {
                // Another chain's frames have other ids.
                Some(kept) if kept.frame_id_key.expose() == next.frame_id_key.expose() => {
                    kept.and(next)
                }
                Some(kept) => kept,
                None => next,
            });
        }
        merged
    }

    fn forget(&mut self, blocked: &BTreeSet<SnapshotId>) {
        let sources = &self.sources;
        let is_blocked = |known: &Known| {
            sources.get(known.source).is_none_or(|source| blocked.contains(&source.snapshot))
        };
        let frames = self.frames.iter().filter(|(_, known)| !is_blocked(known));
        self.frames = Arc::new(frames.map(|(id, known)| (*id, *known)).collect());
    }

    /// What either holds.
    fn and(self, other: Self) -> Self {
        let place = |sources: &[Source], snapshot: SnapshotId| {
            sources.iter().position(|source| source.snapshot == snapshot)
        };
        let mut all: Vec<Source> = self.sources.iter().map(Source::duplicate).collect();
        for source in &other.sources {
            if place(&all, source.snapshot).is_none() {
                all.push(source.duplicate());
            }
        }
        all.sort_by_key(|source| source.snapshot);
        let mut frames = HashMap::new();
        for one in [&other, &self] {
            let places: Vec<_> =
                one.sources.iter().map(|source| place(&all, source.snapshot)).collect();
            for (id, known) in one.frames.iter() {
                if let Some(source) = places.get(known.source).copied().flatten() {
                    frames.insert(*id, Known { source, ..*known });
                }
            }
        }
        Self { frames: Arc::new(frames), sources: all, ..self }
    }

    fn of(snapshot: &OpenSnapshot, since: Since) -> Self {
        let id = snapshot.manifest.body().snapshot;
        let index = snapshot.database.index();
        let (length, commitment) = snapshot.database.own_payload();
        let payload_key = Some(snapshot.data_key.payload_key());
        let mut sources = vec![(0, Source { snapshot: id, payload_key, commitment, length })];
        for (at, source) in (1_u32..).zip(&index.sources) {
            sources.push((at, source.duplicate()));
        }
        sources.sort_by_key(|(_, source)| source.snapshot);
        let place: HashMap<u32, usize> =
            sources.iter().enumerate().map(|(at, (number, _))| (*number, at)).collect();
        let frames = index.frames.iter().filter_map(|frame| {
            let source = *place.get(&frame.source)?;
            Some((frame.id, Known { source, offset: frame.offset, length: frame.length }))
        });
        Self {
            id,
            frame_id_key: index.frame_id_key.duplicate(),
            frames: Arc::new(frames.collect()),
            sources: sources.into_iter().map(|(_, source)| source).collect(),
            since,
        }
    }

    /// The sources that `table` uses, whose frames name them by their place among the parent's plus one; from then on
    /// by that among those returned.
    pub(super) fn used_sources(&self, table: &mut [FrameRef]) -> Vec<Source> {
        let used: BTreeSet<u32> =
            table.iter().map(|frame| frame.source).filter(|source| *source != 0).collect();
        let renumbered: HashMap<u32, u32> = used.iter().copied().zip(1..).collect();
        for frame in table.iter_mut() {
            frame.source = renumbered.get(&frame.source).copied().unwrap_or_default();
        }
        let used = used.iter().filter_map(|number| self.sources.get(*number as usize - 1));
        used.map(Source::duplicate).collect()
    }

    /// Makes sure, before the manifest that names them, that the payloads of `sources` are there, and that nobody may
    /// yet have begun to remove them.
    pub(super) async fn recheck(
        &self,
        repository: &Repository,
        sources: &[SnapshotId],
    ) -> Result<()> {
        self.since.check(|| format!("snapshot {}, which this one depends on,", self.id))?;
        let used = self.sources.iter().filter(|source| sources.contains(&source.snapshot));
        let wanted: Vec<_> = used
            .map(|source| (names::snapshot_object(source.snapshot, "payload"), source.length))
            .collect();
        still_there(repository, wanted).await
    }
}
