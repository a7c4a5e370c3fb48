//! What a repository holds, from its listing alone: no key, nothing believed yet.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::format::{ObjectName, Part, SnapshotId, names};
use crate::store::{ObjectInfo, Repository};

/// Clocks differ; a snapshot further ahead than this is a finding, not the latest.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);

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
