//! What retention decides about change journals: whole ones go when they end before the window, and the snapshots that a
//! restore within it begins with stay.

mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::policy::{Retention, Within};
use super::steps::{Of, OldMarks, Sweep, is_old};
use crate::format::{ClusterName, SnapshotId};
use crate::journal::folder::Folder;
use crate::journal::open::{Bundled, OpenJournal};
use crate::journal::read::LONGEST_MS;
use crate::snapshot::grace::GRACE;
use crate::text::counted;

/// Clocks differ, and the last changes of a journal are younger than what it is known to be complete to.
const SLACK_MS: u64 = 5 * 60 * 1000;

/// A journal that is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalRemoval {
    /// The journal.
    pub id: SnapshotId,
    /// Whose it is.
    pub cluster: ClusterName,
    /// The first main revision.
    pub first_revision: i64,
    /// The last complete main revision.
    pub last_revision: i64,
    /// Bytes of its objects, freed by a later run when the grace period is over.
    pub stored_bytes: u64,
    #[serde(skip)]
    pub(super) old: OldMarks,
}

/// What becomes of journals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalPlan {
    /// How far back they are kept, if that is set.
    pub within: Vec<Within>,
    /// How many stay.
    pub kept: usize,
    /// Those that are removed, oldest first.
    pub remove: Vec<JournalRemoval>,
}

/// What a plan says of journals, and of the snapshots that they need.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) plan: JournalPlan,
    /// Snapshots that stay, because a restore within the window begins with them.
    pub(super) bases: BTreeSet<SnapshotId>,
    pub(super) findings: Vec<String>,
    pub(super) blocked: Vec<String>,
    pub(super) sweeps: Vec<Sweep>,
    pub(super) marks: Vec<Of>,
    pub(super) revive: Vec<Of>,
    pub(super) replaced: Vec<Replaced>,
}

/// What a bundle replaces for longer than the grace period: who wrote the bundle could not delete it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) bundled: Bundled,
    pub(super) objects: Vec<String>,
    pub(super) bytes: u64,
}

/// A journal that counts.
#[derive(Clone, Debug)]
pub(super) struct Counting {
    pub(super) id: SnapshotId,
    first: i64,
    pub(super) last: i64,
    /// Nothing that counts was received later.
    ends_ms: u64,
    /// It is known to be complete to here.
    complete_ms: u64,
    /// What follows is of another history, or begins behind a gap.
    is_last: bool,
}

impl Counting {
    /// Of a `journal` that reaches `last`.
    pub(super) fn new(journal: &OpenJournal, last: i64) -> Self {
        let (id, end) = (journal.id(), journal.end.as_ref());
        let complete = end.map(|end| end.complete_ms).filter(|ms| *ms > 0);
        let latest = id.unix_ms().saturating_add(LONGEST_MS);
        let ends = complete.map_or(latest, |ms| ms.saturating_add(SLACK_MS)).min(latest);
        Self {
            id,
            first: journal.first(),
            last,
            ends_ms: ends,
            complete_ms: complete.unwrap_or(id.unix_ms()).min(latest),
            is_last: end.is_some_and(|end| end.reason.breaks()),
        }
    }

    /// Whether a snapshot of `revision` may be followed by this journal.
    pub(super) fn may_follow(&self, id: SnapshotId, revision: i64) -> bool {
        let holds = self.first <= revision && revision <= self.last.max(self.first);
        holds && self.ends_ms >= id.unix_ms()
    }
}

/// What the journals of one cluster come to.
#[derive(Default)]
struct Decided {
    bases: BTreeSet<SnapshotId>,
    remove: BTreeSet<SnapshotId>,
    /// First and last journal of a stretch that no snapshot precedes.
    baseless: Vec<(SnapshotId, SnapshotId)>,
}

/// Journals that follow each other without a gap, oldest first.
pub(super) fn stretches(journals: &[Counting]) -> Vec<Vec<&Counting>> {
    let mut stretches: Vec<Vec<&Counting>> = Vec::new();
    let (mut reached, mut is_over) = (i64::MIN, true);
    for journal in journals {
        match stretches.last_mut() {
            Some(stretch) if !is_over && journal.first <= reached => stretch.push(journal),
            _ => {
                stretches.push(vec![journal]);
                reached = i64::MIN;
            }
        }
        reached = reached.max(journal.last);
        is_over = journal.is_last;
    }
    stretches
}

/// Of snapshots, oldest first, the one that a restore to `since` begins with, or else the oldest, and after that the newest of
/// each day.
fn bases(snapshots: &[SnapshotId], since: u64) -> BTreeSet<SnapshotId> {
    let before = snapshots.iter().rev().find(|id| id.unix_ms() <= since);
    let within = snapshots.iter().filter(|id| id.unix_ms() > since);
    let newest: BTreeMap<_, _> = within.map(|id| (id.unix_ms() / 86_400_000, *id)).collect();
    before.or(snapshots.first()).copied().into_iter().chain(newest.into_values()).collect()
}

/// What a window that begins at `since` keeps of `journals`; `snapshots` are those that count, with their revisions, and
/// both are sorted.
fn decide(journals: &[Counting], snapshots: &[(SnapshotId, i64)], since: u64) -> Decided {
    let mut decided = Decided::default();
    for stretch in stretches(journals) {
        if stretch.iter().all(|journal| journal.ends_ms < since) {
            decided.remove.extend(stretch.iter().map(|journal| journal.id));
            continue;
        }
        let follows = |(id, revision): &(SnapshotId, i64)| {
            let is_followed = stretch.iter().any(|journal| journal.may_follow(*id, *revision));
            is_followed.then_some(*id)
        };
        let joined: Vec<_> = snapshots.iter().filter_map(follows).collect();
        let bases = bases(&joined, since);
        // What leads from the base to the window is needed too.
        let needed_since = bases.first().map_or(since, |id| id.unix_ms().min(since));
        let gone = stretch.iter().filter(|journal| journal.ends_ms < needed_since);
        decided.remove.extend(gone.map(|journal| journal.id));
        let holds_something = stretch.iter().any(|journal| journal.last >= journal.first);
        if let (true, Some(first), Some(last)) =
            (bases.is_empty() && holds_something, stretch.first(), stretch.last())
        {
            decided.baseless.push((first.id, last.id));
        }
        decided.bases.extend(bases);
    }
    decided
}

/// What a repository holds of journals.
pub(super) struct Known {
    folders: BTreeMap<SnapshotId, Folder>,
    /// Those that count, oldest first.
    counting: BTreeMap<ClusterName, Vec<Counting>>,
    /// Tombstones that authenticate.
    tombstones: BTreeSet<SnapshotId>,
    /// No key opens a journal here.
    is_blind: bool,
    clock: Option<SystemTime>,
    findings: Vec<String>,
    replaced: Vec<Replaced>,
    /// A listed journal could not be read, so the snapshots and journals that it needs are unknown.
    pub(super) is_unread: bool,
}

impl Known {
    /// Those of `cluster` that count, oldest first.
    pub(super) fn counting(&self, cluster: &ClusterName) -> &[Counting] {
        self.counting.get(cluster).map_or(&[][..], Vec::as_slice)
    }

    /// Decides about all of them. `snapshots` are those that count, of each cluster; `revisions` are theirs. Nothing is removed
    /// where not all `snapshots` that are listed could be read, or not all journals.
    pub(super) fn settle(
        self,
        (snapshots, all_read): (&BTreeMap<ClusterName, BTreeSet<SnapshotId>>, bool),
        revisions: &BTreeMap<SnapshotId, i64>,
        retention: &Retention,
    ) -> Settled {
        let mut settled = Settled::default();
        let there = self.folders.values().filter(|folder| folder.head.is_some()).count();
        match retention.continuous {
            None if there > 0 => settled.findings.push(format!(
                "not removed: {}: without --keep-continuous none is, and no snapshot is kept for it",
                counted(there, "journal")
            )),
            Some(_) if self.is_blind && there > 0 => settled.findings.push(format!(
                "not removed: {}: no key here opens it",
                counted(there, "journal")
            )),
            _ => {}
        }
        let empty = BTreeSet::new();
        for cluster in self.counting.keys().chain(snapshots.keys()).collect::<BTreeSet<_>>() {
            let ids = snapshots.get(cluster).unwrap_or(&empty);
            let ids: Vec<_> = ids
                .iter()
                .filter_map(|id| revisions.get(id).map(|revision| (*id, *revision)))
                .collect();
            self.settle_one(cluster, &ids, retention, &mut settled);
        }
        if (self.is_unread || !all_read) && !settled.plan.remove.is_empty() {
            settled.plan.remove.clear();
            settled.blocked.push(not_given("journal"));
        }
        settled.plan.remove.sort_by_key(|removal| removal.id);
        settled.plan.kept = there.saturating_sub(settled.plan.remove.len());
        self.sweeps(&mut settled, retention.grace.unwrap_or(GRACE));
        let without_head = self.folders.iter().filter(|(_, folder)| folder.is_headless());
        settled.findings.extend(without_head.map(|(id, _)| Folder::headless(*id)));
        settled.findings.extend(self.findings);
        settled.replaced = self.replaced;
        settled
    }

    fn settle_one(
        &self,
        cluster: &ClusterName,
        snapshots: &[(SnapshotId, i64)],
        retention: &Retention,
        settled: &mut Settled,
    ) {
        let Some((span, clock)) = retention.continuous.zip(self.clock) else { return };
        let clock = clock.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let clock = u64::try_from(clock).unwrap_or(u64::MAX);
        let journals = self.counting(cluster);
        if self.is_blind && self.folders.values().any(|folder| folder.head.is_some()) {
            // Which of them the journals follow is not known: enough for all that may be recorded.
            let ids: Vec<_> = snapshots.iter().map(|(id, _)| *id).collect();
            settled.bases.extend(bases(&ids, span.before(clock)));
            return;
        }
        // A recording that stopped is not removed because time goes on.
        let Some(newest) = journals.iter().map(|journal| journal.complete_ms).max() else { return };
        let since = span.before(clock.min(newest));
        settled.plan.within.push(Within::new(cluster, span, since));
        let decided = decide(journals, snapshots, since);
        for (first, last) in decided.baseless {
            settled.findings.push(format!(
                "cluster {cluster}: no snapshot is followed by the journals {first} to {last}: nothing can be restored with them"
            ));
        }
        settled.bases.extend(decided.bases);
        let gone = journals.iter().filter(|journal| decided.remove.contains(&journal.id));
        for journal in gone {
            let Some(folder) = self.folders.get(&journal.id) else { continue };
            let id = journal.id;
            match unknown(folder) {
                _ if folder.keep.is_some() => {}
                Some(why) => {
                    settled.blocked.push(format!("journal {id} is not removed: {why}"));
                }
                None => settled.plan.remove.push(removal_of(journal, cluster, folder)),
            }
        }
    }

    /// What becomes of tombstones, removed journals and what recorders that died left.
    fn sweeps(&self, settled: &mut Settled, grace: Duration) {
        let removed: BTreeSet<_> = settled.plan.remove.iter().map(|removal| removal.id).collect();
        let counting: BTreeSet<_> =
            self.counting.values().flatten().map(|journal| journal.id).collect();
        for (id, folder) in &self.folders {
            let old = |when, age| is_old(self.clock, when, age);
            match (&folder.head, &folder.tombstone) {
                (Some(_), Some(_)) if counting.contains(id) && !removed.contains(id) => {
                    settled
                        .findings
                        .push(format!("journal {id} had a tombstone beside its head, and is kept"));
                    settled.revive.push(Of::Journal(*id));
                }
                (Some(_), _) => {}
                (None, Some(tombstone)) => {
                    let is_due = self.tombstones.contains(id) && old(tombstone.modified, grace);
                    if is_due || is_swept_to_the_seals(folder) {
                        sweep(*id, folder, settled);
                    }
                }
                (None, None) => {
                    let youngest = folder.own().map(|info| info.modified).max();
                    match &folder.sweep {
                        _ if youngest.is_some_and(|when| !old(when, GRACE)) => {}
                        Some(mark) if old(mark.modified, GRACE) => sweep(*id, folder, settled),
                        Some(_) => {}
                        None => settled.marks.push(Of::Journal(*id)),
                    }
                }
            }
        }
    }
}

/// The removal of `journal`.
pub(super) fn removal_of(
    journal: &Counting,
    cluster: &ClusterName,
    folder: &Folder,
) -> JournalRemoval {
    JournalRemoval {
        id: journal.id,
        cluster: cluster.clone(),
        first_revision: journal.first,
        last_revision: journal.last,
        stored_bytes: folder.own().map(|info| info.len).sum(),
        old: OldMarks {
            tombstone: folder.tombstone.as_ref().map(|info| info.modified),
            mark: folder.sweep.is_some(),
        },
    }
}

/// A sweep that was interrupted: the tombstone may have lost the seals that authenticate it.
fn is_swept_to_the_seals(folder: &Folder) -> bool {
    folder.head.is_none() && folder.sweep.is_some() && folder.recorded().next().is_none()
}

/// Why none of these is removed while a listed object cannot be read.
pub(super) fn not_given(what: &str) -> String {
    format!(
        "no {what} is removed: some listed objects cannot be read, so it is unknown which {what}s are still needed"
    )
}

/// Why nothing in `folder` may be deleted: a name that a newer version may have given.
fn unknown(folder: &Folder) -> Option<String> {
    let name = folder.foreign.first()?;
    Some(format!("{name} is unknown here, and may be a newer strongroom's"))
}

/// Plans to delete all that is in `folder`, unless there is something that this version does not know.
fn sweep(id: SnapshotId, folder: &Folder, settled: &mut Settled) {
    if let Some(why) = unknown(folder) {
        settled.blocked.push(format!("what is left of journal {id} is not deleted: {why}"));
        return;
    }
    // What was recorded, ends, seals, and the marks.
    let objects: Vec<_> = folder.own().chain(&folder.tombstone).chain(&folder.sweep).collect();
    settled.sweeps.push(Sweep {
        of: Of::Journal(id),
        bytes: objects.iter().map(|info| info.len).sum(),
        objects: objects.into_iter().map(|info| info.name.clone()).collect(),
    });
}

#[cfg(test)]
mod tests;
