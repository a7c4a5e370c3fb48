//! What a repository holds, from its listing alone: no key, nothing believed yet.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{MAX_MANIFEST, Manifest, ObjectName, Part, SnapshotId, names};
use crate::store::{ObjectInfo, Repository};

/// Clocks differ; a snapshot further ahead than this is a finding, not the latest.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);

/// Generations of seals that are looked for where the store does not list ([S5.18]), and objects asked for at once.
const SEALS_BY_NAME: u32 = 64;
const LOOK_UPS: usize = 16;

/// One snapshot's objects, as the store lists them.
#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) manifest: Option<ObjectInfo>,
    /// It was removed, and can be brought back until it is swept (SPEC.md §3.3).
    pub(crate) tombstone: Option<ObjectInfo>,
    /// It is being swept, or will be.
    pub(crate) sweep: Option<ObjectInfo>,
    /// Retention keeps it.
    pub(crate) keep: Option<ObjectInfo>,
    /// Names in it that this version does not know.
    pub(crate) foreign: Vec<String>,
    pub(crate) seals: BTreeMap<u32, ObjectInfo>,
    /// Every other object.
    pub(crate) objects: BTreeMap<Part, ObjectInfo>,
}

impl Folder {
    /// The length of the object `part`, if it is there.
    pub(crate) fn length(&self, part: &Part) -> Option<u64> {
        self.objects.get(part).map(|info| info.len)
    }

    /// How long ago index or seal was written, whichever is older: what a later object says hides nothing.
    pub(crate) fn sealed_since(&self, now: SystemTime) -> Option<Duration> {
        let index = self.objects.get(&Part::Index);
        now.duration_since(self.seals.values().chain(index).map(|info| info.modified).min()?).ok()
    }

    /// All its objects but the marks of a removal.
    fn own(&self) -> impl Iterator<Item = &ObjectInfo> {
        let heads = self.manifest.iter().chain(&self.keep);
        self.objects.values().chain(self.seals.values()).chain(heads)
    }

    /// All its objects.
    pub(crate) fn every(&self) -> impl Iterator<Item = &ObjectInfo> {
        self.own().chain(&self.tombstone).chain(&self.sweep)
    }

    /// When the last of its objects but the marks of a removal was written, by the store's clock.
    pub(crate) fn youngest(&self) -> Option<SystemTime> {
        self.own().map(|info| info.modified).max()
    }

    /// The youngest object's age by the store's clock; `None` when there is none or it lies ahead.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.youngest()?).ok()
    }
}

/// A repository's listing, sorted into folders.
pub(crate) struct Folders {
    pub(crate) snapshots: BTreeMap<SnapshotId, Folder>,
    /// Names in no snapshot's folder.
    pub(crate) foreign: Vec<String>,
}

/// Lists every snapshot's folder.
pub(crate) async fn list_all(repository: &Repository) -> Result<Folders> {
    Ok(sort(repository.list("snapshots").await?))
}

/// Lists one snapshot's folder; empty when there is none.
pub(crate) async fn list_one(repository: &Repository, id: SnapshotId) -> Result<Folder> {
    let mut folders = sort(repository.list(&format!("snapshots/{id}")).await?);
    Ok(folders.snapshots.remove(&id).unwrap_or_default())
}

/// As [`list_one`]; where the store does not list, what is found by name, so that a snapshot whose id is known can be read
/// without the right to list: fixed names, the roles that its manifest names, and the first seals (SPEC.md §5.2).
///
/// # Errors
/// Those of the store.
pub(crate) async fn list_or_look_up(repository: &Repository, id: SnapshotId) -> Result<Folder> {
    match list_one(repository, id).await {
        Err(error) if error.kind() == ErrorKind::Denied => look_up(repository, id, error).await,
        listed => listed,
    }
}

async fn look_up(repository: &Repository, id: SnapshotId, denied: Error) -> Result<Folder> {
    let manifest = Part::Manifest.of(id);
    let Ok(bytes) = repository.get(&manifest, MAX_MANIFEST as u64).await else {
        return Err(denied);
    };
    let objects = Manifest::parse(&bytes).map(|manifest| manifest.body().objects.clone());
    let named = objects.unwrap_or_default().into_iter().map(|object| object.part);
    let fixed = [Part::Manifest, Part::Tombstone, Part::Sweep, Part::Keep];
    let seals = (1..=SEALS_BY_NAME).map(Part::Seal);
    let parts: Vec<Part> = fixed.into_iter().chain(named).chain(seals).collect();
    let mut infos = stream::iter(parts)
        .map(|part| async move { repository.info(&part.of(id)).await })
        .buffered(LOOK_UPS);
    let mut found = Vec::new();
    while let Some(info) = infos.next().await {
        match info {
            Ok(info) => found.push(info),
            // Without the right to list, some stores do not tell absent from denied.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sort(found).snapshots.remove(&id).unwrap_or_default())
}

fn sort(listing: Vec<ObjectInfo>) -> Folders {
    let mut folders = Folders { snapshots: BTreeMap::new(), foreign: Vec::new() };
    for info in listing {
        let Some(ObjectName::Snapshot { id, part }) = ObjectName::parse(&info.name) else {
            match folder_of(&info.name) {
                Some(id) => folders.snapshots.entry(id).or_default().foreign.push(info.name),
                None => folders.foreign.push(info.name),
            }
            continue;
        };
        let folder = folders.snapshots.entry(id).or_default();
        match part {
            Part::Manifest => folder.manifest = Some(info),
            Part::Tombstone => folder.tombstone = Some(info),
            Part::Sweep => folder.sweep = Some(info),
            Part::Keep => folder.keep = Some(info),
            Part::Seal(generation) => {
                folder.seals.insert(generation, info);
            }
            part => {
                folder.objects.insert(part, info);
            }
        }
    }
    folders
}

/// The snapshot in whose folder the object `name` lies.
fn folder_of(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(names::SNAPSHOTS)?.split('/').next()?.parse().ok()
}

/// Whether `time` is further ahead than clocks differ.
pub(crate) fn is_ahead(time: SystemTime, now: SystemTime) -> bool {
    time > now + MAX_AHEAD
}
