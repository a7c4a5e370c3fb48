//! What a removal comes to.

use std::collections::BTreeSet;

use serde::Serialize;

use super::journals::{self, JournalPlan, Replaced};
use super::policy::Within;
use super::steps::{Of, OldMarks, Planned, Sweep};
use crate::format::{ClusterName, SnapshotId};

/// A snapshot that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Keeping {
    /// The snapshot.
    pub id: SnapshotId,
    /// Whose it is.
    pub cluster: ClusterName,
    /// Why.
    pub reasons: Vec<&'static str>,
}

/// A snapshot that is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Removal {
    /// The snapshot.
    pub id: SnapshotId,
    /// Whose it is; unknown of one that nothing authenticates.
    pub cluster: Option<ClusterName>,
    /// Bytes of its objects, freed by a later run when the grace period is over.
    pub stored_bytes: u64,
    #[serde(skip)]
    pub(super) old: OldMarks,
}

/// What [`apply_prune`](super::apply_prune) is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunePlan {
    /// How far back the rule about a span reaches, if there is one.
    pub within: Vec<Within>,
    /// Snapshots that stay, oldest first.
    pub keep: Vec<Keeping>,
    /// Snapshots that are removed, oldest first.
    pub remove: Vec<Removal>,
    /// What becomes of journals.
    pub journals: JournalPlan,
    /// What the operator should look at.
    pub findings: Vec<String>,
    /// Folders that stay although they might be due, and why.
    pub blocked: Vec<String>,
    /// Whose objects are deleted now.
    pub(super) sweeps: Vec<Sweep>,
    /// Folders without manifest or tombstone that a run after the grace period may sweep.
    pub(super) marks: Vec<Of>,
    /// Whose tombstones are deleted: what is kept.
    pub(super) revive: Vec<Of>,
    /// What bundles replace.
    pub(super) replaced: Vec<Replaced>,
}

impl PrunePlan {
    /// Bytes that applying it frees now.
    pub fn frees(&self) -> u64 {
        let replaced = self.replaced.iter().map(|one| one.bytes);
        self.sweeps.iter().map(|sweep| sweep.bytes).chain(replaced).sum()
    }

    /// Folders of earlier removals, or of backups that were never finished, whose objects are deleted now.
    pub fn swept(&self) -> impl Iterator<Item = SnapshotId> {
        self.sweeps.iter().filter_map(|sweep| match sweep.of {
            Of::Snapshot(id) => Some(id),
            Of::Journal(_) => None,
        })
    }

    /// The same of journals.
    pub fn swept_journals(&self) -> impl Iterator<Item = SnapshotId> {
        self.sweeps.iter().filter_map(|sweep| match sweep.of {
            Of::Snapshot(_) => None,
            Of::Journal(id) => Some(id),
        })
    }

    /// Adds what becomes of journals; the snapshots that they need.
    pub(super) fn add(&mut self, settled: journals::Settled) -> BTreeSet<SnapshotId> {
        self.journals = settled.plan;
        self.findings.extend(settled.findings);
        self.blocked.extend(settled.blocked);
        self.sweeps.extend(settled.sweeps);
        self.marks.extend(settled.marks);
        self.revive.extend(settled.revive);
        self.replaced.extend(settled.replaced);
        settled.bases
    }

    pub(super) fn removals(&self) -> impl Iterator<Item = Planned> {
        let snapshots = self.remove.iter().map(|one| Planned {
            of: Of::Snapshot(one.id),
            authentic: one.cluster.is_some(),
            old: one.old,
        });
        let journals = self.journals.remove.iter();
        snapshots.chain(journals.map(|one| Planned {
            of: Of::Journal(one.id),
            authentic: true,
            old: one.old,
        }))
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.journals.remove.is_empty()
            && self.sweeps.is_empty()
            && self.marks.is_empty()
            && self.revive.is_empty()
            && self.replaced.is_empty()
    }
}
