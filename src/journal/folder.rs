//! Which journals a repository holds, from its listing alone: no key, nothing believed yet.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::format::{JournalPart, ObjectName, SnapshotId, names};
use crate::store::{ObjectInfo, Repository};

/// One journal's objects, as the store lists them.
#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) head: Option<ObjectInfo>,
    pub(crate) seals: BTreeMap<u32, ObjectInfo>,
    pub(crate) ends: BTreeMap<u32, ObjectInfo>,
    /// Objects of each number: names with another last revision may be there too.
    pub(crate) segments: BTreeMap<u64, Vec<ObjectInfo>>,
    pub(crate) bundles: BTreeMap<u32, ObjectInfo>,
    /// It was removed, and can be brought back until it is swept.
    pub(crate) tombstone: Option<ObjectInfo>,
    /// It is being swept, or will be.
    pub(crate) sweep: Option<ObjectInfo>,
    /// Retention keeps it.
    pub(crate) keep: Option<ObjectInfo>,
    /// Names in it that this version does not know.
    pub(crate) foreign: Vec<String>,
}

impl Folder {
    /// Bytes of what it recorded.
    pub(crate) fn recorded_bytes(&self) -> u64 {
        self.recorded().map(|info| info.len).fold(0, u64::saturating_add)
    }

    /// Whether it holds what was recorded and no head, which makes it count, and was not removed.
    pub(crate) fn is_headless(&self) -> bool {
        self.head.is_none() && self.tombstone.is_none() && self.recorded().next().is_some()
    }

    /// That the folder of `id` is [so](Self::is_headless).
    pub(crate) fn headless(id: SnapshotId) -> String {
        format!("journal {id} has segments and no head: nothing of it can be restored")
    }

    /// The last revision that the names of its segments tell: a hint, which anybody can plant.
    pub(crate) fn last_named(&self) -> Option<i64> {
        let last = |info: &ObjectInfo| info.name.rsplit_once('.')?.1.parse().ok();
        self.segments.values().flatten().filter_map(last).max()
    }

    /// What it recorded, in one piece or in many.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = &ObjectInfo> {
        self.segments.values().flatten().chain(self.bundles.values())
    }

    /// What the bundle of this number replaces: so many segments, and earlier bundles. Nothing while the bundle is not there.
    pub(crate) fn replaced(&self, number: u32, segments: u64) -> impl Iterator<Item = &ObjectInfo> {
        let is_there = self.bundles.contains_key(&number);
        let segments = self.segments.range(..=segments).flat_map(|(_, infos)| infos);
        let others = self.bundles.iter().filter(move |(other, _)| **other < number);
        others.map(|(_, info)| info).chain(segments).filter(move |_| is_there)
    }

    /// Whether a seal, an end or a bundle has this number.
    pub(crate) fn has_number(&self, number: u32) -> bool {
        self.seals.contains_key(&number)
            || self.ends.contains_key(&number)
            || self.bundles.contains_key(&number)
    }

    /// All its objects but the marks of a removal.
    pub(crate) fn own(&self) -> impl Iterator<Item = &ObjectInfo> {
        let vouching = self.ends.values().chain(self.seals.values());
        self.recorded().chain(vouching).chain(&self.head).chain(&self.keep)
    }
}

/// Lists all journals, oldest first, and what is below `journals` and in none of their folders.
///
/// # Errors
/// Those of the store.
pub(crate) async fn list_all(
    repository: &Repository,
) -> Result<(BTreeMap<SnapshotId, Folder>, Vec<String>)> {
    Ok(sort(repository.list(names::JOURNALS.trim_end_matches('/')).await?))
}

/// Lists one journal's folder; empty when there is none.
///
/// # Errors
/// Those of the store.
pub(crate) async fn list_one(repository: &Repository, id: SnapshotId) -> Result<Folder> {
    let listing = repository.list(&format!("{}{id}", names::JOURNALS)).await?;
    Ok(sort(listing).0.remove(&id).unwrap_or_default())
}

fn sort(listing: Vec<ObjectInfo>) -> (BTreeMap<SnapshotId, Folder>, Vec<String>) {
    let (mut folders, mut foreign) = (BTreeMap::<_, Folder>::new(), Vec::new());
    for info in listing {
        let Some(ObjectName::Journal { id, part }) = ObjectName::parse(&info.name) else {
            match folder_of(&info.name) {
                Some(id) => folders.entry(id).or_default().foreign.push(info.name),
                None => foreign.push(info.name),
            }
            continue;
        };
        let folder = folders.entry(id).or_default();
        match part {
            JournalPart::Head => folder.head = Some(info),
            JournalPart::Tombstone => folder.tombstone = Some(info),
            JournalPart::Sweep => folder.sweep = Some(info),
            JournalPart::Keep => folder.keep = Some(info),
            JournalPart::Seal(generation) => drop(folder.seals.insert(generation, info)),
            JournalPart::End(generation) => drop(folder.ends.insert(generation, info)),
            JournalPart::Bundle(generation) => drop(folder.bundles.insert(generation, info)),
            JournalPart::Segment { number, .. } => {
                folder.segments.entry(number).or_default().push(info);
            }
        }
    }
    (folders, foreign)
}

fn folder_of(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(names::JOURNALS)?.split('/').next()?.parse().ok()
}
