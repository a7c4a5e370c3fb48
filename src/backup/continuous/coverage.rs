//! Which journals there are, and which of them count.

use std::collections::BTreeMap;
use std::path::Path;

use futures::{StreamExt, stream};
use serde::Serialize;

use super::join::{self, Join};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, EndReason, Sha256, SnapshotId};
use crate::journal::folder::{self, Folder};
use crate::journal::open::{self, OpenJournal};
use crate::journal::read::ReadJournal;
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::store::Repository;

/// Journals that are opened at once.
const READS: usize = 16;

/// One journal, as its head and end describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalSummary {
    /// The journal, whose time is when it began.
    pub id: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// The first main revision.
    pub first: i64,
    /// The last complete main revision; of a journal that has no end what the names of its segments say.
    pub last: i64,
    /// Every revision committed before this moment is recorded: Unix milliseconds. `None` if that is not known.
    pub complete_ms: Option<u64>,
    /// Number of segments.
    pub segments: u64,
    /// Length of its segments' objects.
    pub stored_bytes: u64,
    /// Why it ended; `None` while it is open, or if its recorder was killed.
    pub ended: Option<&'static str>,
    /// What its seals are worth.
    #[serde(rename = "trust")]
    pub standing: Standing,
}

/// Revisions that no journal holds, between two that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Gap {
    /// The journal before it.
    pub after: SnapshotId,
    /// The journal behind it.
    pub before: SnapshotId,
    /// The last revision before it.
    pub last: i64,
    /// The first revision behind it.
    pub first: i64,
}

/// The gaps between journals that count. Where two hold no common revision nothing shows that they are of one history, so
/// that is a gap, too.
fn gaps(journals: &[JournalSummary]) -> Vec<Gap> {
    let mut reached: BTreeMap<&ClusterName, (SnapshotId, i64)> = BTreeMap::new();
    let mut gaps = Vec::new();
    for journal in journals.iter().filter(|one| one.standing.counts() && one.last >= one.first) {
        let reached = reached.entry(&journal.cluster).or_insert((journal.id, journal.last));
        let (after, last) = *reached;
        if journal.first > last {
            gaps.push(Gap { after, before: journal.id, last, first: journal.first });
        }
        if journal.last >= last {
            *reached = (journal.id, journal.last);
        }
    }
    gaps
}

/// All journals, oldest first, and what is odd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Covered {
    /// Every journal that opens.
    pub journals: Vec<JournalSummary>,
    /// Revisions that none of them holds.
    pub gaps: Vec<Gap>,
    /// What does not open, or does not belong there, and why.
    pub findings: Vec<String>,
}

/// The journals of one cluster that open, with their folders.
pub(super) struct Journals {
    pub(super) open: BTreeMap<SnapshotId, (OpenJournal, Folder)>,
    pub(super) findings: Vec<String>,
}

impl Journals {
    /// Opens the journals of `cluster`, or of all clusters.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn open(
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
    ) -> Result<Self> {
        let (folders, foreign) = folder::list_all(repository).await?;
        let inside = folders.values().flat_map(|folder| &folder.foreign);
        let mut findings: Vec<_> =
            foreign.iter().chain(inside).map(|name| format!("{name}: unknown object")).collect();
        let mut opened = BTreeMap::new();
        let there = folders.into_iter().filter(|(_, folder)| folder.head.is_some());
        let mut opening = stream::iter(there)
            .map(|(id, folder)| async move {
                let journal = open::open(repository, id, &folder, keys).await;
                (id, journal, folder)
            })
            .buffered(READS);
        while let Some((id, journal, folder)) = opening.next().await {
            match journal {
                Ok(journal) if cluster.is_none_or(|name| *name == journal.head.cluster) => {
                    opened.insert(id, (journal, folder));
                }
                Ok(_) => {}
                Err(error) if error.kind().is_general() => return Err(error),
                Err(error) => findings.push(error.to_string()),
            }
        }
        Ok(Self { open: opened, findings })
    }

    /// Up to which segment a journal counts ([S13.8]): `None` for all of it, else the segment that another one names, if
    /// any does.
    pub(super) fn counts_to(
        &self,
        id: SnapshotId,
        newest_snapshot: Option<u64>,
    ) -> Option<Option<Sha256>> {
        let (journal, _) = self.open.get(&id)?;
        if journal.end.is_some() {
            return None;
        }
        let same = |other: &OpenJournal| other.head.cluster == journal.head.cluster;
        let later = || self.open.range(id..).skip(1).map(|(_, (journal, _))| journal);
        let counting = || later().filter(|other| same(other) && other.standing.counts());
        let is_old =
            newest_snapshot.is_some_and(|ms| ms > id.unix_ms().saturating_add(65 * 60_000));
        if counting().next().is_none() && !is_old {
            return None;
        }
        let named = counting().filter_map(|other| other.facts.continues);
        let named = named.filter(|continues| continues.journal == id);
        Some(named.max_by_key(|continues| continues.number).map(|continues| continues.sha256))
    }

    /// The newest journal that counts.
    pub(super) fn newest(&self) -> Option<SnapshotId> {
        let counts = |(_, (journal, _)): &(_, &(OpenJournal, Folder))| journal.standing.counts();
        self.open.iter().rev().find(counts).map(|(id, _)| *id)
    }

    /// The last revision that the names and the end of a journal tell.
    pub(super) fn last_of(&self, id: SnapshotId) -> i64 {
        self.open.get(&id).map_or(0, |(journal, folder)| last(journal, folder))
    }
}

/// The last revision that the end of a journal tells, or the names of its segments.
pub(in crate::backup) fn last(journal: &OpenJournal, folder: &Folder) -> i64 {
    if let Some(end) = &journal.end {
        return end.last.cast_signed();
    }
    let names = folder.segments.values().flatten().filter_map(|info| {
        let last = info.name.rsplit_once('.')?.1;
        last.parse::<i64>().ok()
    });
    names.max().unwrap_or_else(|| journal.first().saturating_sub(1))
}

/// Lists the journals of `cluster`, or of all clusters. Heads and ends are authenticated, segments are not read.
///
/// # Errors
/// Those of the store.
pub async fn journals(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
) -> Result<Covered> {
    let Journals { open, mut findings } = Journals::open(repository, keys, cluster).await?;
    let mut journals = Vec::new();
    for (id, (journal, folder)) in open {
        findings.extend(journal.findings.iter().map(|finding| format!("journal {id}: {finding}")));
        let end = journal.end.as_ref();
        journals.push(JournalSummary {
            id,
            cluster: journal.head.cluster.clone(),
            first: journal.first(),
            last: last(&journal, &folder),
            complete_ms: end.map(|end| end.complete_ms).filter(|ms| *ms > 0),
            segments: end.map_or(folder.segments.len() as u64, |end| end.segments),
            stored_bytes: folder.segment_bytes(),
            ended: end.map(|end| end.reason).map(EndReason::words),
            standing: journal.standing,
        });
    }
    Ok(Covered { gaps: gaps(&journals), journals, findings })
}

/// Opens every segment of the journals of `cluster`, and compares those that overlap.
///
/// # Errors
/// Those of the store; [`ErrorKind::Tampered`] names nothing: what is wrong is in the findings.
pub async fn verify_journals(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
) -> Result<Covered> {
    let opened = Journals::open(repository, keys, cluster).await?;
    let (mut findings, mut journals) = (opened.findings, Vec::new());
    let mut before: Option<ReadJournal> = None;
    for (id, (journal, folder)) in opened.open {
        let (head, standing) = (journal.head.clone(), journal.standing);
        let expected = journal.end.clone();
        let dir = std::env::temp_dir();
        let read =
            match ReadJournal::fetch(repository, keys, journal, &folder, Path::new(&dir)).await {
                Ok(read) => read,
                Err(error) if error.kind().is_general() => return Err(error),
                Err(error) => {
                    findings.push(error.to_string());
                    continue;
                }
            };
        findings.extend(read.survey.findings.iter().cloned());
        if let Some(end) = expected.filter(|end| end.last.cast_signed() != read.last()) {
            findings.push(format!(
                "journal {id}: its segments reach revision {}, and its end says {}",
                read.last(),
                end.last
            ));
        }
        if let Some(before) = &before {
            let (first, last) = (before.first().max(read.first()), before.last().min(read.last()));
            if let Join::Parted(at) = join::journals(before, &read, first..=last)? {
                findings.push(parted(before.id(), id, at));
            }
        }
        journals.push(JournalSummary {
            id,
            cluster: head.cluster,
            first: read.first(),
            last: read.last(),
            complete_ms: Some(read.survey.complete_ms).filter(|ms| *ms > 0),
            segments: read.survey.segments.len() as u64,
            stored_bytes: read.survey.stored_bytes,
            ended: read.survey.reason.map(EndReason::words),
            standing,
        });
        before = Some(read);
    }
    Ok(Covered { gaps: gaps(&journals), journals, findings })
}

/// That two sources are of two histories.
pub(super) fn parted(one: SnapshotId, other: SnapshotId, at: i64) -> String {
    format!(
        "the histories of {one} and {other} parted at revision {at}: etcd was restored, or one of them is of another etcd"
    )
}

/// That nothing reaches what was asked for.
pub(super) fn not_covered(message: String) -> Error {
    Error::new(ErrorKind::NotFound, message)
        .hint("`strongroom journal list` shows what is recorded; --newest takes the last revision")
}
