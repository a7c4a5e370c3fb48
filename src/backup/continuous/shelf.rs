//! The journals of a cluster, each fetched once however many snapshots they follow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::coverage::{Extent, Journals};
use crate::error::Result;
use crate::format::{ClusterName, SnapshotId};
use crate::journal::read::ReadJournal;
use crate::keys::KeySet;
use crate::store::Repository;

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
    /// Opens the heads of the journals of `cluster`.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn open(
        repository: &'a Repository,
        keys: &'a KeySet,
        cluster: &ClusterName,
        dir: &Path,
    ) -> Result<Self> {
        let mut journals = Journals::open(repository, keys, Some(cluster)).await?;
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

    /// Whether these are the journals of `cluster`.
    pub(super) fn is_of(&self, cluster: &ClusterName) -> bool {
        self.cluster == *cluster
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
        // A journal lives an hour.
        let lives = |id: &SnapshotId| id.unix_ms().saturating_add(2 * 3_600_000) > base.unix_ms();
        self.reaches.retain(|id, _| lives(id));
        self.fetched.retain(|id, _| lives(id));
    }
}
