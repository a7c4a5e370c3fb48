//! Whether a snapshot is the base of what was recorded before: without one, nothing that it holds can be restored.

use crate::backup::choose;
use crate::error::Result;
use crate::format::{ClusterName, Continues};
use crate::journal::folder;
use crate::journal::open::{self, OpenJournal};
use crate::keys::KeySet;
use crate::snapshot::folder as snapshots;
use crate::store::Repository;

/// Journals that are opened on the way back to the base.
const MOST: usize = 200;

/// Where a journal begins, and what the same recorder wrote before.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) first: i64,
    pub(super) continues: Option<Continues>,
}

impl Link {
    pub(super) fn of(journal: &OpenJournal) -> Self {
        Self { first: journal.first(), continues: journal.facts.continues }
    }
}

/// The revision of the newest snapshot of `cluster` that counts.
///
/// # Errors
/// Those of the store and of the keys.
pub(super) async fn newest_revision(
    repository: &Repository,
    keys: &KeySet,
    cluster: &ClusterName,
) -> Result<Option<i64>> {
    let folders = snapshots::list_all(repository).await?.snapshots;
    let newest = choose::newest(repository, keys, cluster, None, &folders).await?;
    Ok(newest.map(|manifest| manifest.body().revision.cast_signed()))
}

/// Whether a snapshot of `revision` is one that the journals of `cluster` follow of which `last` is the newest.
///
/// # Errors
/// Those of the store and of the keys.
pub(super) async fn is_base(
    revision: i64,
    repository: &Repository,
    keys: &KeySet,
    cluster: &ClusterName,
    last: Link,
) -> Result<bool> {
    let mut link = last;
    for _ in 0..MOST {
        if link.first <= revision {
            return Ok(true);
        }
        // What has no common revision with it does not follow it.
        let Some(before) = link.continues.filter(|one| link.first <= one.last.cast_signed()) else {
            return Ok(false);
        };
        let folder = folder::list_one(repository, before.journal).await?;
        let journal = match open::open(repository, before.journal, &folder, keys).await {
            Ok(journal) => journal,
            Err(error) if error.kind().is_general() => return Err(error),
            Err(_) => return Ok(false),
        };
        let is_broken = journal.end.as_ref().is_some_and(|end| end.reason.breaks());
        if !journal.standing.counts() || journal.head.cluster != *cluster || is_broken {
            return Ok(false);
        }
        link = Link::of(&journal);
    }
    Ok(false)
}
