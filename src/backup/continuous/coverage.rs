//! Which journals there are, and which of them count.

use std::collections::BTreeMap;

use serde::Serialize;

use super::join::{self, Join};
use super::opened::Journals;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, EndReason, SnapshotId};
use crate::journal::read::ReadJournal;
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::store::Repository;

/// One journal, as its head and end describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalSummary {
    /// The journal, whose time is when it began.
    pub id: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// The first main revision.
    #[serde(rename = "first_revision")]
    pub first: i64,
    /// The last complete main revision, as far as it is known: one less than the first if nothing is.
    #[serde(rename = "last_revision")]
    pub last: i64,
    /// Whether `last` is known: in a listing, of a journal that has no end, only if another journal tells.
    #[serde(skip)]
    pub last_is_known: bool,
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
    #[serde(rename = "last_revision")]
    pub last: i64,
    /// The first revision behind it.
    #[serde(rename = "first_revision")]
    pub first: i64,
}

/// The gaps between journals that count. Where two hold no common revision nothing shows that they are of one history, so
/// that is a gap, too.
fn gaps(journals: &[JournalSummary]) -> Vec<Gap> {
    let mut reached: BTreeMap<&ClusterName, (SnapshotId, i64)> = BTreeMap::new();
    let mut gaps = Vec::new();
    for journal in journals.iter().filter(|one| one.standing.counts()) {
        if !journal.last_is_known {
            // Whether there is a gap behind it is unknown: `journal verify` reads it.
            reached.remove(&journal.cluster);
            continue;
        }
        if journal.last < journal.first {
            continue;
        }
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
    /// Number of journals that do not open, of whichever cluster.
    pub unopened: u64,
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
    let mut all = Journals::open(repository, keys, cluster).await?;
    all.check_locked()?;
    let extents = all.extents(repository, keys).await?;
    let mut findings = all.take_findings();
    let mut journals = Vec::new();
    for (id, (journal, folder)) in &all.open {
        findings.extend(journal.findings.iter().map(|finding| format!("journal {id}: {finding}")));
        let extent = extents.get(id);
        findings.extend(extent.and_then(|extent| extent.finding(journal, folder)));
        let end = journal.end.as_ref();
        // Anybody can plant a name that tells a last revision.
        let last = end.map(|end| end.last).or_else(|| Some(all.named(journal)?.last));
        journals.push(JournalSummary {
            id: *id,
            cluster: journal.head.cluster.clone(),
            first: journal.first(),
            last: last.map_or(journal.first().saturating_sub(1), u64::cast_signed),
            last_is_known: last.is_some() || extent.is_some(),
            complete_ms: end.map(|end| end.complete_ms).filter(|ms| *ms > 0),
            segments: end.map_or(folder.segments.len() as u64, |end| end.segments),
            stored_bytes: folder.recorded_bytes(),
            ended: end.map(|end| end.reason).map(EndReason::words),
            standing: journal.standing,
        });
    }
    Ok(Covered { gaps: gaps(&journals), journals, findings, unopened: all.unopened })
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
    let mut opened = Journals::open(repository, keys, cluster).await?;
    opened.check_locked()?;
    let extents = opened.extents(repository, keys).await?;
    let (mut findings, mut journals) = (opened.take_findings(), Vec::new());
    // Of each cluster the one to compare the next with.
    let mut before: BTreeMap<ClusterName, ReadJournal> = BTreeMap::new();
    for (id, (journal, folder)) in opened.open {
        let (head, standing) = (journal.head.clone(), journal.standing);
        if !standing.counts() {
            findings.push(format!("journal {id} does not count: {standing}"));
            continue;
        }
        let expected = journal.end.clone();
        let dir = std::env::temp_dir();
        let mut read = match ReadJournal::fetch(repository, keys, journal, &folder, &dir).await {
            Ok(read) => read,
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => {
                findings.push(error.to_string());
                continue;
            }
        };
        findings.append(&mut read.survey.findings);
        findings.extend(extents.get(&id).and_then(|extent| extent.cut(&mut read)));
        if let Some(end) = expected.filter(|end| end.last.cast_signed() != read.last()) {
            findings.push(format!(
                "journal {id}: its segments reach revision {}, and its end says {}",
                read.last(),
                end.last
            ));
        }
        journals.push(JournalSummary {
            id,
            cluster: head.cluster.clone(),
            first: read.first(),
            last: read.last(),
            last_is_known: true,
            complete_ms: Some(read.survey.complete_ms).filter(|ms| *ms > 0),
            segments: read.survey.segments.len() as u64,
            stored_bytes: read.survey.stored_bytes,
            ended: read.survey.reason.map(EndReason::words),
            standing,
        });
        if let Some(before) = before.get(&head.cluster) {
            let (first, last) = (before.first().max(read.first()), before.last().min(read.last()));
            if let Join::Parted(at) = join::journals(before, &read, first..=last)? {
                findings.push(parted(before.id(), id, at));
            }
        }
        if read.last() >= read.first() {
            before.insert(head.cluster, read);
        }
    }
    Ok(Covered { gaps: gaps(&journals), journals, findings, unopened: opened.unopened })
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
        .hint("`strongroom journal list` shows what is recorded; `restore --newest` takes the last revision")
}
