//! Which journals a repository holds, from its listing alone: no key, nothing believed yet.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::format::{JournalPart, ObjectName, SnapshotId};
use crate::store::{ObjectInfo, Repository};

/// One journal's objects, as the store lists them.
#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) head: Option<ObjectInfo>,
    pub(crate) seals: BTreeMap<u32, ObjectInfo>,
    pub(crate) ends: BTreeMap<u32, ObjectInfo>,
    /// Objects of each number: names with another last revision may be there too.
    pub(crate) segments: BTreeMap<u64, Vec<ObjectInfo>>,
}

impl Folder {
    /// Bytes of its segments.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segments.values().flatten().map(|info| info.len).fold(0, u64::saturating_add)
    }
}

/// Lists all journals, oldest first, and what is in their folders and is not known here.
///
/// # Errors
/// Those of the store.
pub(crate) async fn list_all(
    repository: &Repository,
) -> Result<(BTreeMap<SnapshotId, Folder>, Vec<String>)> {
    let (mut folders, mut foreign) = (BTreeMap::<_, Folder>::new(), Vec::new());
    for info in repository.list("journals").await? {
        let Some(ObjectName::Journal { id, part }) = ObjectName::parse(&info.name) else {
            foreign.push(info.name);
            continue;
        };
        let folder = folders.entry(id).or_default();
        match part {
            JournalPart::Head => folder.head = Some(info),
            JournalPart::Seal(generation) => {
                folder.seals.insert(generation, info);
            }
            JournalPart::End(generation) => {
                folder.ends.insert(generation, info);
            }
            JournalPart::Segment { number, .. } => {
                folder.segments.entry(number).or_default().push(info);
            }
            JournalPart::Bundle(_)
            | JournalPart::Tombstone
            | JournalPart::Sweep
            | JournalPart::Keep => {}
        }
    }
    Ok((folders, foreign))
}
