//! The journals of a cluster, each fetched once however many snapshots they follow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Moment;
use super::opened::{Extent, Journals};
use crate::error::Result;
use crate::format::{ClusterName, SnapshotId};
use crate::journal::folder::{self, Folder};
use crate::journal::read::ReadJournal;
use crate::keys::KeySet;
use crate::store::Repository;

/// How far the clocks of two hosts may be apart, in milliseconds, and how far apart recorders may follow each other.
const SLACK: u64 = 24 * 3_600_000;
/// The newest journals are always among those that are opened: they show what was recorded last.
const NEWEST: usize = 24;
/// So many journals behind one without an end are opened: the next that counts tells how much of it does.
const FOLLOWING: usize = 4;

/// When the journals began that are opened, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    since: u64,
    until: u64,
}

impl Period {
    /// All.
    pub(super) const ALL: Self = Self { since: 0, until: u64::MAX };

    /// Those that may lead from the snapshot `base` to `moment`. A journal ends 65 minutes after it began ([S13.8]).
    pub(super) fn from(base: SnapshotId, moment: Moment) -> Self {
        let until = match moment {
            Moment::Time(ms) => ms.saturating_add(SLACK),
            Moment::Newest | Moment::Revision(_) => u64::MAX,
        };
        Self { since: base.unix_ms().saturating_sub(SLACK), until }
    }

    fn has(self, other: Self) -> bool {
        self.since <= other.since && self.until >= other.until
    }

    /// Of the journals that are listed those that are opened.
    fn choose(self, folders: &BTreeMap<SnapshotId, Folder>) -> BTreeSet<SnapshotId> {
        let there = || folders.iter().filter(|(_, folder)| folder.head.is_some());
        let within = |id: &SnapshotId| (self.since..=self.until).contains(&id.unix_ms());
        let mut chosen: BTreeSet<_> = there().map(|(id, _)| *id).filter(|id| within(id)).collect();
        chosen.extend(there().map(|(id, _)| *id).rev().take(NEWEST));
        let without_end = there().filter(|(id, folder)| within(id) && folder.ends.is_empty());
        for (id, _) in without_end {
            let behind = folders.range(*id..).filter(|(_, folder)| folder.head.is_some());
            chosen.extend(behind.map(|(id, _)| *id).take(FOLLOWING));
        }
        chosen
    }
}

/// The main revisions that a journal holds, as far as that is known.
#[derive(Clone, Copy)]
struct Reach {
    first: i64,
    last: i64,
}

/// A journal that was fetched, or why it is not used.
#[derive(Default)]
struct Fetched {
    read: Option<Arc<ReadJournal>>,
    findings: Vec<String>,
}

/// The journals that open.
pub(super) struct Shelf<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    /// Where they are fetched to, encrypted as they are stored.
    dir: PathBuf,
    cluster: ClusterName,
    period: Period,
    /// Those that are not fetched.
    journals: Journals,
    extents: BTreeMap<SnapshotId, Extent>,
    /// All of them.
    reaches: BTreeMap<SnapshotId, Reach>,
    fetched: BTreeMap<SnapshotId, Fetched>,
    newest: Option<SnapshotId>,
    /// Objects that are unknown.
    pub(super) warnings: Vec<String>,
    /// What does not open, and why.
    pub(super) findings: Vec<String>,
}

impl<'a> Shelf<'a> {
    /// Opens the heads of the journals of `cluster` that began in `period`.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn open(
        repository: &'a Repository,
        keys: &'a KeySet,
        (cluster, period): (&ClusterName, Period),
        dir: &Path,
    ) -> Result<Self> {
        let listed = folder::list_all(repository).await?;
        let ids = period.choose(&listed.0);
        let chosen = |id: &SnapshotId, _: &Folder| ids.contains(id);
        let mut journals =
            Journals::open_chosen(repository, keys, Some(cluster), listed, chosen).await?;
        let extents = journals.extents(repository, keys).await?;
        let reach = |id: &SnapshotId| {
            let first = journals.open.get(id).map_or(0, |(journal, _)| journal.first());
            Reach { first, last: journals.last_of(*id) }
        };
        Ok(Self {
            repository,
            keys,
            dir: dir.to_owned(),
            cluster: cluster.clone(),
            period,
            reaches: journals.open.keys().map(|id| (*id, reach(id))).collect(),
            newest: journals.newest(),
            warnings: journals.findings.drain(..journals.unknown).collect(),
            findings: std::mem::take(&mut journals.findings),
            journals,
            extents,
            fetched: BTreeMap::new(),
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether these are the journals of `cluster` that began in `period`.
    pub(super) fn is_of(&self, cluster: &ClusterName, period: Period) -> bool {
        self.cluster == *cluster && self.period.has(period)
    }

    /// The newest journal that counts.
    pub(super) fn newest(&self) -> Option<SnapshotId> {
        self.newest
    }

    /// The first main revision of a journal.
    pub(super) fn first_of(&self, id: SnapshotId) -> Option<i64> {
        self.reaches.get(&id).map(|reach| reach.first)
    }

    /// The journal that may lead on from the revision `end`: of those that hold it and are not `tried` the one that began
    /// first. Later ones repeat what it holds, with other moments; and what is recorded later chooses no other journals.
    /// `or_quiet`: one that adds nothing will do, too.
    pub(super) fn next(
        &self,
        end: i64,
        or_quiet: bool,
        tried: &BTreeSet<SnapshotId>,
    ) -> Option<SnapshotId> {
        let leads_on = |reach: &Reach| {
            reach.first <= end && (reach.last > end || or_quiet && reach.last == end)
        };
        let mut rest = self.reaches.iter().filter(|(id, _)| !tried.contains(id));
        rest.find(|(_, reach)| leads_on(reach)).map(|(id, _)| *id)
    }

    /// The journal `id`, fetched if it was not yet, and what is odd about it.
    ///
    /// # Errors
    /// Those of the store, and [`Io`](crate::ErrorKind::Io).
    pub(super) async fn take(
        &mut self,
        id: SnapshotId,
    ) -> Result<(Option<Arc<ReadJournal>>, Vec<String>)> {
        if !self.fetched.contains_key(&id) {
            let fetched = self.fetch(id).await?;
            self.fetched.insert(id, fetched);
        }
        let fetched = self.fetched.get(&id);
        let read = fetched.and_then(|fetched| fetched.read.clone());
        Ok((read, fetched.map(|fetched| fetched.findings.clone()).unwrap_or_default()))
    }

    async fn fetch(&mut self, id: SnapshotId) -> Result<Fetched> {
        let Some((journal, folder)) = self.journals.open.remove(&id) else {
            return Ok(Fetched::default());
        };
        let unused = |why: String| Ok(Fetched { read: None, findings: vec![why] });
        if !journal.standing.counts() {
            return unused(format!("journal {id} does not count: {}", journal.standing));
        }
        let (repository, keys) = (self.repository, self.keys);
        let read = ReadJournal::fetch(repository, keys, journal, &folder, &self.dir).await;
        let mut read = match read {
            Err(error) if !error.kind().is_general() => return unused(error.to_string()),
            read => read?,
        };
        let cut = self.extents.get(&id).and_then(|extent| extent.cut(&mut read));
        let findings = cut.into_iter().chain(std::mem::take(&mut read.survey.findings)).collect();
        Ok(Fetched { read: Some(Arc::new(read)), findings })
    }

    /// Lets go of fetched journals that lead to no later snapshot than `base`: those that ended before it was begun.
    pub(super) fn forget(&mut self, base: SnapshotId) {
        // A journal lives an hour, by a clock that may be behind.
        let least = base.unix_ms().saturating_sub(SLACK + 2 * 3_600_000);
        let lives = |id: &SnapshotId| id.unix_ms() > least;
        self.reaches.retain(|id, _| lives(id));
        self.fetched.retain(|id, _| lives(id));
    }
}
