//! A chain of journals that leads on from a snapshot, as far as what they hold is of one history.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::Moment;
use super::coverage::parted;
use super::join::{self, Join};
use super::moments;
use super::shelf::Shelf;
use crate::bolt::Db;
use crate::error::Result;
use crate::format::SnapshotId;
use crate::journal::read::ReadJournal;
use crate::snapshot::inside::Frames;
use crate::snapshot::open::OpenSnapshot;
use crate::task::run_blocking;

/// A journal that counts and is of another history.
pub(super) struct Parted {
    pub(super) id: SnapshotId,
    /// The revision at which it parted.
    pub(super) at: i64,
    /// What to say.
    pub(super) text: String,
}

/// A chain of journals that is being built.
pub(super) struct Building {
    /// The last revision that is reached.
    pub(super) end: i64,
    pub(super) chain: Vec<Arc<ReadJournal>>,
    pub(super) parted: Vec<Parted>,
    pub(super) warnings: Vec<String>,
    /// What may be missing, and why.
    pub(super) findings: Vec<String>,
}

impl Building {
    /// The journals that lead from `snapshot`, whose last revision is `base`, to `moment`, as far as there are any.
    ///
    /// # Errors
    /// Those of the store, and of reading the snapshot.
    pub(super) async fn lead(
        shelf: &mut Shelf<'_>,
        snapshot: &Arc<OpenSnapshot>,
        base: i64,
        moment: Moment,
    ) -> Result<Self> {
        let mut building = Self {
            end: base,
            chain: Vec::new(),
            parted: Vec::new(),
            warnings: shelf.warnings.clone(),
            findings: shelf.findings.clone(),
        };
        let mut tried = BTreeSet::new();
        loop {
            let next = match building.has_reached(moment) {
                true => None,
                false => {
                    let or_quiet = building.chain.is_empty() || matches!(moment, Moment::Time(_));
                    shelf.next(building.end, or_quiet, &tried)
                }
            };
            // The newest one shows whether what was recorded last is of the same history.
            let is_of_interest = |id: &SnapshotId| {
                !tried.contains(id)
                    && shelf.first_of(*id).is_some_and(|first| first <= building.end)
                    && !matches!(moment, Moment::Time(ms) if ms < id.unix_ms())
            };
            let Some(next) = next.or(shelf.newest().filter(is_of_interest)) else { break };
            tried.insert(next);
            let (read, findings) = shelf.take(next).await?;
            building.findings.extend(findings);
            if let Some(read) = read {
                building = building.step(read, snapshot.clone(), shelf.dir()).await?;
            }
        }
        Ok(building)
    }

    fn has_reached(&self, moment: Moment) -> bool {
        match moment {
            Moment::Newest => false,
            Moment::Revision(revision) => self.end >= revision,
            Moment::Time(ms) => {
                let last = self.chain.last();
                last.is_some_and(|journal| journal.survey.moments.iter().any(|(_, at)| *at > ms))
                    && !moments::is_in_doubt(&moments::told(&self.chain), ms)
            }
        }
    }

    /// Adds a journal, if it is of the same history.
    async fn step(
        mut self,
        read: Arc<ReadJournal>,
        snapshot: Arc<OpenSnapshot>,
        dir: &Path,
    ) -> Result<Self> {
        let dir = dir.to_owned();
        run_blocking(move || {
            let overlaps = |one: &&Arc<ReadJournal>| one.first() <= read.last();
            let (join, before) = match self.chain.iter().rev().find(overlaps) {
                None => {
                    let frames = Frames::new(snapshot.database.clone(), &dir);
                    let range = read.first()..=read.last();
                    let join = join::with_database(&Db::open(frames)?, &*read, range)?;
                    (join, snapshot.manifest.body().snapshot)
                }
                Some(before) => {
                    let range = read.first().max(before.first())..=read.last().min(before.last());
                    (join::journals(&**before, &*read, range)?, before.id())
                }
            };
            self.add(read, join, before);
            Ok(self)
        })
        .await
    }

    fn add(&mut self, read: Arc<ReadJournal>, join: Join, before: SnapshotId) {
        let id = read.id();
        match join {
            // One that adds nothing may still tell that nothing has changed.
            Join::Joined(_) if read.last() < self.end => {}
            Join::Joined(_) => {
                self.end = self.end.max(read.last());
                self.chain.push(read);
            }
            Join::Parted(at) => {
                let text = parted(before, id, at);
                self.findings.push(text.clone());
                self.parted.push(Parted { id, at, text });
            }
            // It ended before what is reached.
            Join::Apart if read.last() < self.end => {}
            Join::Apart => {
                let text = format!(
                    "journal {id} has no revision to compare with {before}, and is not used"
                );
                match read.last() > self.end {
                    true => self.findings.push(text),
                    // It holds no later revision.
                    false => self.warnings.push(text),
                }
            }
        }
    }

    /// Leaves the journals that lead from `base` to `revision`: what is stored later must change nothing.
    pub(super) fn keep_needed(&mut self, base: i64, revision: i64) {
        let mut done = base;
        self.chain.retain(|journal| {
            let is_needed = done < revision && journal.last() > done;
            done = done.max(journal.last());
            is_needed
        });
    }
}
