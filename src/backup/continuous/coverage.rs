//! Which journals there are, and which of them count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, stream};
use serde::Serialize;

use super::join::{self, Join};
use crate::backup::catalog::{self, Summary};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, Continues, EndReason, SnapshotId};
use crate::journal::folder::{self, Folder};
use crate::journal::open::{self, Judging, OpenJournal};
use crate::journal::read::{LONGEST_MS, ReadJournal};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::folder::is_ahead;
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

/// The journals of one cluster that open, with their folders.
pub(super) struct Journals {
    pub(super) open: BTreeMap<SnapshotId, (OpenJournal, Folder)>,
    /// First what is unknown, then what does not open.
    pub(super) findings: Vec<String>,
    /// How many findings are objects that are unknown.
    pub(super) unknown: usize,
    unopened: u64,
    /// Why none opens, if the keys are why.
    locked: Option<Error>,
}

/// The last segment of a journal that counts, where not all of it does ([S13.8]).
pub(super) struct Extent(Option<Continues>);

impl Extent {
    /// Leaves out what does not count, and says so if there is any.
    pub(super) fn cut(&self, read: &mut ReadJournal) -> Option<String> {
        let before = read.last();
        read.cut_after(self.0.map(|named| named.sha256));
        (read.last() < before).then(|| self.words(read.id()))
    }

    fn words(&self, id: SnapshotId) -> String {
        let why = "it has no end, and a later journal or snapshot counts";
        match self.0 {
            None => format!("journal {id} does not count: {why}"),
            Some(named) => {
                let Continues { number, last, .. } = named;
                format!("journal {id} counts up to segment {number}, revision {last}: {why}")
            }
        }
    }

    /// As [`cut`](Self::cut), as far as the names of the segments in `folder` tell.
    fn finding(&self, journal: &OpenJournal, folder: &Folder) -> Option<String> {
        let is_cut = match self.0 {
            None => last(journal, folder) >= journal.first(),
            Some(named) => folder.segments.keys().any(|number| *number > named.number),
        };
        is_cut.then(|| self.words(journal.id()))
    }
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
        let listed = folder::list_all(repository).await?;
        Self::open_these((Judging::Reading, false), repository, keys, cluster, listed).await
    }

    /// As [`open`](Self::open), with the journals that were removed and can be brought back.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn open_with_removed(
        judging: Judging,
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
    ) -> Result<Self> {
        let listed = folder::list_all(repository).await?;
        Self::open_these((judging, true), repository, keys, cluster, listed).await
    }

    /// Opens of the journals that were `listed` those that are `chosen`.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn open_chosen(
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
        (mut folders, foreign): (BTreeMap<SnapshotId, Folder>, Vec<String>),
        chosen: impl Fn(&SnapshotId, &Folder) -> bool,
    ) -> Result<Self> {
        folders.retain(|id, folder| chosen(id, folder));
        let judging = (Judging::Reading, false);
        Self::open_these(judging, repository, keys, cluster, (folders, foreign)).await
    }

    async fn open_these(
        (judging, removed): (Judging, bool),
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
        (folders, foreign): (BTreeMap<SnapshotId, Folder>, Vec<String>),
    ) -> Result<Self> {
        let inside = folders.values().flat_map(|folder| &folder.foreign);
        let mut findings: Vec<_> =
            foreign.iter().chain(inside).map(|name| format!("{name}: unknown object")).collect();
        let (unknown, mut unopened, mut locked) = (findings.len(), 0, None);
        let headless = folders.iter().filter(|(_, folder)| folder.is_headless());
        findings.extend(headless.map(|(id, _)| Folder::headless(*id)));
        let (mut opened, mut is_any_open) = (BTreeMap::new(), false);
        let is_there =
            |folder: &Folder| folder.head.is_some() || (removed && folder.tombstone.is_some());
        let there = folders.into_iter().filter(|(_, folder)| is_there(folder));
        let mut opening = stream::iter(there)
            .map(|(id, folder)| async move {
                let journal = match judging {
                    Judging::Reading => open::open(repository, id, &folder, keys).await,
                    Judging::Vouching => open::open_to_vouch(repository, id, &folder, keys).await,
                };
                (id, journal, folder)
            })
            .buffered(READS);
        while let Some((id, journal, folder)) = opening.next().await {
            match journal {
                Ok(journal) => {
                    is_any_open = true;
                    if cluster.is_none_or(|name| *name == journal.head.cluster) {
                        opened.insert(id, (journal, folder));
                    }
                }
                Err(error) if error.kind().is_general() => return Err(error),
                // What was removed and is not authentic cannot be brought back.
                Err(error) if folder.head.is_none() && error.kind() != ErrorKind::WrongKey => {}
                Err(error) => {
                    findings.push(error.to_string());
                    unopened += 1;
                    if error.kind() == ErrorKind::WrongKey {
                        locked.get_or_insert(error);
                    }
                }
            }
        }
        let locked = locked.filter(|_| !is_any_open);
        Ok(Self { open: opened, findings, unknown, unopened, locked })
    }

    /// # Errors
    /// [`ErrorKind::WrongKey`] when no journal opens, and the keys are why.
    fn check_locked(&mut self) -> Result<()> {
        let what = match self.unopened {
            1 => "1 journal does not open here".to_owned(),
            n => format!("{n} journals do not open here"),
        };
        self.locked.take().map_or(Ok(()), |error| Err(error.context(what)))
    }

    /// The journals of which not all counts.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn extents(
        &self,
        repository: &Repository,
        keys: &KeySet,
    ) -> Result<BTreeMap<SnapshotId, Extent>> {
        let mut extents = BTreeMap::new();
        let without_end = || self.open.values().filter(|(journal, _)| journal.end.is_none());
        // With signers each segment shows by itself that it counts.
        let Some((oldest, _)) = without_end().next().filter(|_| keys.signers().is_empty()) else {
            return Ok(extents);
        };
        let wanted = without_end().map(|(journal, _)| journal.head.cluster.clone()).collect();
        let after = is_old_at(oldest.id());
        let newest = newest_snapshots(repository, keys, &wanted, after).await?;
        for (journal, _) in without_end() {
            let id = journal.id();
            let newest = newest.get(&journal.head.cluster);
            let is_old = newest.is_some_and(|ms| *ms > is_old_at(id));
            if is_old || self.counting_after(journal).next().is_some() {
                extents.insert(id, Extent(self.named(journal)));
            }
        }
        Ok(extents)
    }

    /// The journals of the same cluster that are newer and count.
    fn counting_after<'a>(
        &'a self,
        journal: &'a OpenJournal,
    ) -> impl Iterator<Item = &'a OpenJournal> {
        let later = self.open.range(journal.id()..).skip(1).map(|(_, (journal, _))| journal);
        later.filter(|other| other.head.cluster == journal.head.cluster && other.standing.counts())
    }

    /// The last segment of `journal` that a newer one names.
    fn named(&self, journal: &OpenJournal) -> Option<Continues> {
        self.named_by(journal).map(|(named, _)| named)
    }

    /// As [`named`](Self::named), with the first revision of the newer one.
    fn named_by(&self, journal: &OpenJournal) -> Option<(Continues, i64)> {
        let named = self
            .counting_after(journal)
            .filter_map(|other| Some((other.facts.continues?, other.first())));
        named
            .filter(|(continues, _)| continues.journal == journal.id())
            .max_by_key(|(continues, _)| continues.number)
    }

    /// The number of segments that an end of the journal `id` must name, where its recorder wrote none. `None` while another
    /// one may still be stored that nothing else holds: it waits in the spool of a recorder.
    pub(super) fn ends_at(&self, id: SnapshotId, has_signers: bool) -> Option<u64> {
        let (journal, folder) = self.open.get(&id)?;
        let (named, first) = self.named_by(journal)?;
        if !has_signers {
            // What is behind does not count.
            return Some(named.number);
        }
        let highest = folder.segments.keys().next_back().copied().unwrap_or(0);
        (first <= named.last.cast_signed()).then_some(named.number.max(highest))
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

/// A journal that has no end counts by itself while no snapshot is newer than this, in Unix milliseconds ([S13.8]).
fn is_old_at(id: SnapshotId) -> u64 {
    id.unix_ms().saturating_add(LONGEST_MS)
}

/// When the newest snapshot of each cluster was begun that counts, is later than `after` and not ahead of the clock.
async fn newest_snapshots(
    repository: &Repository,
    keys: &KeySet,
    clusters: &BTreeSet<ClusterName>,
    after: u64,
) -> Result<BTreeMap<ClusterName, u64>> {
    let (listing, now) = (catalog::snapshots(repository, None).await?, SystemTime::now());
    let mut newest = BTreeMap::new();
    let may_be = |one: &&Summary| {
        one.id.unix_ms() > after
            && clusters.contains(&one.cluster)
            && !is_ahead(one.id.begun(), now)
    };
    for one in listing.snapshots.iter().rev().filter(may_be) {
        if newest.contains_key(&one.cluster) {
            continue;
        }
        // Anybody can plant a manifest: only one that counts tells how old a journal is.
        match catalog::authenticate(repository, keys, one.id).await {
            Ok(body) => {
                newest.insert(body.cluster, one.id.unix_ms());
            }
            Err(error) if error.kind().is_general() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(newest)
}

/// The last revision that the end of a journal tells, or the names of its segments.
fn last(journal: &OpenJournal, folder: &Folder) -> i64 {
    if let Some(end) = &journal.end {
        return end.last.cast_signed();
    }
    folder.last_named().unwrap_or_else(|| journal.first().saturating_sub(1))
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
    let mut findings = std::mem::take(&mut all.findings);
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
    let (mut findings, mut journals) = (opened.findings, Vec::new());
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
        .hint("`strongroom journal list` shows what is recorded; --newest takes the last revision")
}
