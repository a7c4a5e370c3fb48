//! What a repository holds of journals: those that count, and up to where.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, stream};

use super::{Counting, Known, Replaced, is_swept_to_the_seals, unknown};
use crate::backup::findings::Findings;
use crate::backup::prune::steps::is_old;
use crate::error::Result;
use crate::format::{ClusterName, Continues, SnapshotId};
use crate::journal::fetch::last_of;
use crate::journal::folder::{self, Folder};
use crate::journal::open::{self, OpenJournal};
use crate::keys::KeySet;
use crate::snapshot::folder::is_ahead;
use crate::snapshot::grace::GRACE;
use crate::store::Repository;
use crate::task::Control;

/// Journals that are opened at once.
const READS: usize = 64;

impl Known {
    /// Takes note of what the bundle of `journal` has replaced.
    fn note_replaced(&mut self, journal: &OpenJournal, folder: &Folder) {
        let Some((bundled, objects)) = journal.replaced(folder) else { return };
        let written = folder.ends.get(&bundled.number).map(|info| info.modified);
        let is_due = written.is_some_and(|written| is_old(self.clock, written, GRACE));
        if is_due && !objects.is_empty() && unknown(folder).is_none() {
            let bytes = objects.iter().map(|info| info.len).fold(0, u64::saturating_add);
            let objects = objects.into_iter().map(|info| info.name.clone()).collect();
            self.replaced.push(Replaced { bundled, objects, bytes });
        }
    }

    /// Takes note of a `journal` that opens: it, if it counts.
    fn taken(
        &mut self,
        journal: OpenJournal,
        folder: &Folder,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Option<OpenJournal> {
        let id = journal.id();
        let unread = journal.check_read().err();
        self.is_unread |= unread.is_some();
        if is_ahead(id.begun(), now) {
            let why = "has a time in the future: it is kept and does not count";
            findings.push(format!("journal {id} {why}"));
            return None;
        }
        if !journal.standing.counts() {
            let why = journal.standing;
            findings.push(format!("stays, and does not count: journal {id}: {why}"));
            return None;
        }
        findings.extend(unread.map(|error| format!("journal {id}: {error}")));
        self.note_replaced(&journal, folder);
        Some(journal)
    }

    /// Opens every journal; `clock` is no later than it is by the store's.
    ///
    /// # Errors
    /// Those of the store.
    pub(in crate::backup::prune) async fn read(
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
        clock: Option<SystemTime>,
        control: &Control,
    ) -> Result<Self> {
        let (folders, foreign) = folder::list_all(repository).await?;
        let now = SystemTime::now();
        let written = folders.values().flat_map(Folder::own).map(|info| info.modified).max();
        let mut known = Self {
            folders: BTreeMap::new(),
            counting: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            is_blind: keys.is_blind(),
            clock: clock.max(written).map(|clock| clock.min(now)),
            findings: Vec::new(),
            replaced: Vec::new(),
            is_unread: false,
        };
        let (mut findings, mut opened) = (Findings::default(), Vec::new());
        findings.extend(foreign.iter().map(|name| format!("{name}: unknown object")));
        let is_blind = known.is_blind;
        let mut read = stream::iter(folders)
            .map(|(id, folder)| async move {
                let is_there = folder.head.is_some() || folder.tombstone.is_some();
                let is_opened = is_there && !is_blind && !is_swept_to_the_seals(&folder);
                let journal = match is_opened {
                    true => Some(open::open(repository, id, &folder, keys).await),
                    false => None,
                };
                (id, folder, journal)
            })
            .buffered(READS);
        while let Some((id, folder, journal)) = read.next().await {
            control.check()?;
            match journal {
                None => {}
                Some(Ok(one)) if cluster.is_some_and(|name| *name != one.head.cluster) => {}
                Some(Ok(_)) if folder.head.is_none() => drop(known.tombstones.insert(id)),
                Some(Ok(one)) => opened.extend(known.taken(one, &folder, now, &mut findings)),
                Some(Err(error)) if error.kind().is_general() => return Err(error),
                Some(Err(error)) => {
                    known.is_unread |= error.kind().is_away();
                    findings.push(format!("stays, and does not count: {error}"));
                }
            }
            known.folders.insert(id, folder);
        }
        drop(read);
        known.findings = findings.finish();
        known.count(repository, keys, opened).await?;
        Ok(known)
    }

    /// Takes note of the journals that were `opened` and count, oldest first.
    async fn count(
        &mut self,
        repository: &Repository,
        keys: &KeySet,
        opened: Vec<OpenJournal>,
    ) -> Result<()> {
        // What a later journal says of the one it follows: the last segment is named.
        let mut named: BTreeMap<(ClusterName, SnapshotId), Continues> = BTreeMap::new();
        for one in &opened {
            let Some(continues) = one.facts.continues.filter(|named| named.journal < one.id())
            else {
                continue;
            };
            let key = (one.head.cluster.clone(), continues.journal);
            let known = named.entry(key).or_insert(continues);
            if continues.number > known.number {
                *known = continues;
            }
        }
        let none = Folder::default();
        for one in opened {
            let key = (one.head.cluster.clone(), one.id());
            let folder = self.folders.get(&one.id()).unwrap_or(&none);
            let highest = folder.segments.keys().next_back().copied().unwrap_or(0);
            // Those who trust signers read what is behind it, too.
            let counts = |named: &&Continues| keys.signers().is_empty() || highest <= named.number;
            let mut counting = Counting::new(&one, one.first().saturating_sub(1));
            counting.last = match named.get(&key).filter(counts).filter(|_| one.end.is_none()) {
                Some(named) => named.last.cast_signed(),
                None => last_of(repository, keys, one, folder).await?,
            };
            self.counting.entry(key.0).or_default().push(counting);
        }
        Ok(())
    }
}
