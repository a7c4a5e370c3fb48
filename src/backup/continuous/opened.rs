//! The journals of a cluster that open, and how much of each counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, stream};

use crate::backup::catalog::{self, Summary};
use crate::backup::findings::Findings;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{ClusterName, Continues, SnapshotId};
use crate::journal::folder::{self, Folder};
use crate::journal::open::{self, Judging, OpenJournal};
use crate::journal::read::{LONGEST_MS, ReadJournal};
use crate::keys::KeySet;
use crate::snapshot::folder::is_ahead;
use crate::store::Repository;
use crate::text::counted;

/// Journals that are opened at once.
pub(super) const AT_ONCE: usize = 16;

/// Which of the journals that are listed are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those with a head.
    Present,
    /// Also those that were removed and can be brought back.
    WithRemoved,
    /// Those whose head names the cluster. What is wrong with others is not looked for.
    OfCluster,
}

/// The journals of one cluster that open, with their folders.
pub(super) struct Journals {
    pub(super) open: BTreeMap<SnapshotId, (OpenJournal, Folder)>,
    /// Objects that are unknown.
    pub(super) unknown: Vec<String>,
    /// What does not open, and why.
    pub(super) failed: Findings,
    pub(super) unopened: u64,
    /// One of any cluster opens.
    is_any_open: bool,
    /// Why one does not open, where the keys are why.
    locked: Option<Error>,
    /// Why one could not be read, where the store is why.
    unread: Option<Error>,
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
    pub(super) fn finding(&self, journal: &OpenJournal, folder: &Folder) -> Option<String> {
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
        Self::open_these((Judging::Reading, Which::Present), repository, keys, cluster, listed)
            .await
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
        Self::open_these((judging, Which::WithRemoved), repository, keys, cluster, listed).await
    }

    /// Opens of the journals that were listed those that are `chosen` and whose heads name `cluster`. Those that are not
    /// chosen and have a head are given back.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn open_chosen(
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
        (folders, foreign): (BTreeMap<SnapshotId, Folder>, Vec<String>),
        chosen: impl Fn(&SnapshotId, &Folder) -> bool,
    ) -> Result<(Self, BTreeMap<SnapshotId, Folder>)> {
        let (folders, mut others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            folders.into_iter().partition(|(id, folder)| chosen(id, folder));
        others.retain(|_, folder| folder.head.is_some());
        let (how, listed) = ((Judging::Reading, Which::OfCluster), (folders, foreign));
        let opened = Self::open_these(how, repository, keys, Some(cluster), listed).await?;
        Ok((opened, others))
    }

    async fn open_these(
        how: (Judging, Which),
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
        (folders, foreign): (BTreeMap<SnapshotId, Folder>, Vec<String>),
    ) -> Result<Self> {
        let mut opened = Self {
            open: BTreeMap::new(),
            unknown: foreign.iter().map(|name| unknown(name)).collect(),
            failed: Findings::default(),
            unopened: 0,
            is_any_open: false,
            locked: None,
            unread: None,
        };
        let headless = folders.iter().filter(|(_, folder)| folder.is_headless());
        opened.failed.extend(headless.map(|(id, _)| Folder::headless(*id)));
        opened.open_more(how, repository, keys, cluster, folders).await?;
        Ok(opened)
    }

    /// Opens further ones.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn open_more(
        &mut self,
        (judging, which): (Judging, Which),
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
        folders: BTreeMap<SnapshotId, Folder>,
    ) -> Result<()> {
        self.unknown
            .extend(folders.values().flat_map(|one| &one.foreign).map(|name| unknown(name)));
        let removed = which == Which::WithRemoved;
        let is_there =
            |folder: &Folder| folder.head.is_some() || (removed && folder.tombstone.is_some());
        let only = cluster.filter(|_| which == Which::OfCluster);
        let there = folders.into_iter().filter(|(_, folder)| is_there(folder));
        let mut opening = stream::iter(there)
            .map(|(id, folder)| async move {
                let journal = match (judging, only) {
                    (Judging::Vouching, _) => {
                        open::open_to_vouch(repository, id, &folder, keys).await.map(Some)
                    }
                    (Judging::Reading, Some(only)) => {
                        open::open_of(repository, (id, only), &folder, keys).await
                    }
                    (Judging::Reading, None) => {
                        open::open(repository, id, &folder, keys).await.map(Some)
                    }
                };
                (id, journal, folder)
            })
            .buffered(AT_ONCE);
        while let Some((id, journal, folder)) = opening.next().await {
            match journal {
                Ok(None) => {}
                Ok(Some(journal)) => {
                    self.is_any_open = true;
                    if cluster.is_none_or(|name| *name == journal.head.cluster) {
                        self.open.insert(id, (journal, folder));
                    }
                }
                Err(error) if error.kind().is_general() => return Err(error),
                // What was removed and is not authentic cannot be brought back.
                Err(error) if folder.head.is_none() && error.kind() != ErrorKind::WrongKey => {}
                Err(error) => {
                    self.failed.push(error.to_string());
                    self.unopened += 1;
                    if error.kind() == ErrorKind::WrongKey {
                        self.locked.get_or_insert(error);
                    } else if error.kind().is_away() {
                        self.unread.get_or_insert(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// What is unknown, then what does not open.
    pub(super) fn take_findings(&mut self) -> Vec<String> {
        let mut findings = std::mem::take(&mut self.unknown);
        findings.append(&mut std::mem::take(&mut self.failed).finish());
        findings
    }

    /// # Errors
    /// [`ErrorKind::WrongKey`] when no journal opens, and the keys are why.
    pub(super) fn check_locked(&mut self) -> Result<()> {
        let what = format!("no key here opens {}", counted(self.unopened, "journal"));
        let locked = self.locked.take().filter(|_| !self.is_any_open);
        locked.map_or(Ok(()), |error| Err(error.context(what)))
    }

    /// # Errors
    /// That of the first listed journal that could not be read, or whose end could not.
    pub(super) fn check_read(&mut self) -> Result<()> {
        let opened = |(id, (journal, _)): (&SnapshotId, &(OpenJournal, Folder))| {
            journal.check_read().context(format!("journal {id}"))
        };
        let unread = self.unread.take().map_or(Ok(()), Err);
        let read = unread.and_then(|()| self.open.iter().try_for_each(opened));
        read.context("a listed journal cannot be read")
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
    pub(super) fn counting_after<'a>(
        &'a self,
        journal: &'a OpenJournal,
    ) -> impl Iterator<Item = &'a OpenJournal> {
        let later = self.open.range(journal.id()..).skip(1).map(|(_, (journal, _))| journal);
        later.filter(|other| other.head.cluster == journal.head.cluster && other.standing.counts())
    }

    /// The last segment of `journal` that a newer one names.
    pub(super) fn named(&self, journal: &OpenJournal) -> Option<Continues> {
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
        // With signers, segments after the named one count, too.
        let highest = folder.segments.keys().next_back().copied().filter(|_| has_signers);
        let is_joined = first <= named.last.cast_signed();
        is_joined.then_some(named.number.max(highest.unwrap_or(0)))
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

fn unknown(name: &str) -> String {
    format!("{name}: unknown object")
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
