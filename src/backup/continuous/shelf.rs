//! The journals of a cluster, each fetched once however many snapshots they follow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Moment;
use super::opened::{AT_ONCE, Extent, Journals, Which};
use crate::error::Result;
use crate::format::{ClusterName, SnapshotId};
use crate::journal::folder::{self, Folder};
use crate::journal::open::{Judging, OpenJournal};
use crate::journal::read::ReadJournal;
use crate::keys::KeySet;
use crate::store::Repository;

/// How far the clocks of two hosts may be apart, in milliseconds, and how far apart recorders may follow each other.
const SLACK: u64 = 24 * 3_600_000;
/// The newest journals are always among those that are opened: they show what was recorded last.
const NEWEST: usize = 24;
/// So many journals that count behind one without an end are opened: the next of its recorder tells how much of it counts.
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
        chosen
    }

    /// Which of the `others` are opened, too, now that it is known which of the `journals` count: anybody can put heads
    /// between them. `most` at one place. Empty when all is known.
    fn choose_more(
        self,
        journals: &Journals,
        others: &BTreeMap<SnapshotId, Folder>,
        most: usize,
    ) -> BTreeSet<SnapshotId> {
        let newest = journals.newest();
        let newer = others.keys().rev().copied().take_while(|id| Some(*id) > newest);
        let mut chosen: BTreeSet<_> = newer.take(most).collect();
        let within = journals.open.range(first_at(self.since)..).map(|(_, (journal, _))| journal);
        let within = within.take_while(|one| one.id().unix_ms() <= self.until);
        for journal in within.filter(|one| one.end.is_none()) {
            let enough = journals.counting_after(journal).nth(FOLLOWING - 1).map(OpenJournal::id);
            let behind = others.range(journal.id()..).map(|(id, _)| *id);
            let behind = behind.take_while(|id| enough.is_none_or(|enough| *id < enough));
            chosen.extend(behind.take(most));
        }
        chosen
    }
}

/// The first id that a moment, in Unix milliseconds, can have.
fn first_at(ms: u64) -> SnapshotId {
    SnapshotId::new(ms, [0; 10])
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
        let (mut journals, mut others) =
            Journals::open_chosen(repository, keys, cluster, listed, chosen).await?;
        // Each round waits for the one before: twice as many in each, so that many others take few rounds.
        let mut most = AT_ONCE;
        loop {
            let more = period.choose_more(&journals, &others, most);
            most = most.saturating_mul(2);
            let more: BTreeMap<_, _> =
                more.into_iter().filter_map(|id| Some((id, others.remove(&id)?))).collect();
            if more.is_empty() {
                break;
            }
            let how = (Judging::Reading, Which::OfCluster);
            journals.open_more(how, repository, keys, Some(cluster), more).await?;
        }
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
            warnings: std::mem::take(&mut journals.unknown),
            findings: std::mem::take(&mut journals.failed).finish(),
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

#[cfg(all(test, feature = "internals"))]
mod tests {
    use std::time::Duration;

    use object_store::memory::InMemory;

    use super::*;
    use crate::crypto::system_rng;
    use crate::format::{JournalPart, KeyState};
    use crate::journal::generated::{Generated, generate};
    use crate::keys::LocalKey;

    /// Whoever can create objects puts heads between journals, and behind the newest. What counts is found among them.
    #[tokio::test]
    async fn planted_heads_hide_no_journal() {
        let store = Arc::new(InMemory::new());
        let (repository, _) = Repository::init(store, true, &mut system_rng()).await.unwrap();
        let mut keys = KeySet::new();
        keys.add(Arc::new(LocalKey::generate(&mut system_rng())), KeyState::Primary);
        let cluster = ClusterName::default();
        for _ in 0..6 {
            let changes = vec![Err(b"key".to_vec())];
            let one = Generated { main: 2, after: Duration::ZERO, changes, compacted: None };
            let interval = Duration::from_secs(1);
            generate(&repository, &keys, cluster.clone(), interval, [one]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (folders, _) = folder::list_all(&repository).await.unwrap();
        let (ids, ms) = (folders.keys().copied(), |id: SnapshotId| id.unix_ms());
        let ids: Vec<_> = ids.collect();
        for part in [JournalPart::End(2), JournalPart::Seal(2)] {
            repository.delete(&part.of(ids[0])).await.unwrap();
        }
        for planted in 0..60 {
            for ms in [ms(ids[0]) + 1, ms(ids[5]) + 1] {
                let head = JournalPart::Head.of(SnapshotId::new(ms, [planted; 10]));
                repository.put_once(&head, "junk".into()).await.unwrap();
            }
        }
        let period = Period { since: ms(ids[0]), until: ms(ids[0]) };
        let dir = std::env::temp_dir();
        let shelf = Shelf::open(&repository, &keys, (&cluster, period), &dir).await.unwrap();
        assert_eq!(shelf.newest(), Some(ids[5]));
        // It has no end, and what follows it tells how much of it counts: nothing, because none names it.
        assert!(shelf.reaches.keys().eq(ids.iter()), "{:?}", shelf.reaches.keys());
        assert!(shelf.extents.contains_key(&ids[0]));
        assert_eq!(shelf.findings.len(), 120);
    }

    /// Of the journals of other clusters nothing but the heads is read.
    #[tokio::test]
    async fn seals_of_other_clusters_are_not_read() {
        let store = Arc::new(InMemory::new());
        let (repository, _) = Repository::init(store, true, &mut system_rng()).await.unwrap();
        let mut keys = KeySet::new();
        keys.add(Arc::new(LocalKey::generate(&mut system_rng())), KeyState::Primary);
        let (ours, other): (_, ClusterName) = (ClusterName::default(), "other".parse().unwrap());
        // More than are opened at first. Whose seal is read is among the findings.
        for _ in 0..2 * NEWEST {
            let changes = vec![Err(b"key".to_vec())];
            let one = Generated { main: 2, after: Duration::ZERO, changes, compacted: None };
            let interval = Duration::from_secs(1);
            generate(&repository, &keys, other.clone(), interval, [one]).await.unwrap();
        }
        let (folders, _) = folder::list_all(&repository).await.unwrap();
        for (id, seal) in folders.iter().flat_map(|(id, one)| one.seals.keys().map(|n| (*id, *n))) {
            let name = JournalPart::Seal(seal).of(id);
            repository.delete(&name).await.unwrap();
            repository.put_once(&name, "junk".into()).await.unwrap();
        }
        let shown = Journals::open(&repository, &keys, None).await.unwrap().take_findings();
        assert!(shown.iter().all(|finding| finding.contains("seal")) && !shown.is_empty());
        let dir = std::env::temp_dir();
        // Within the period, and behind it.
        for period in [Period::ALL, Period { since: 0, until: 0 }] {
            let shelf = Shelf::open(&repository, &keys, (&ours, period), &dir).await.unwrap();
            assert_eq!((shelf.newest(), shelf.findings), (None, Vec::new()));
        }
    }
}
