//! What was recorded before: the newest journal that counts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};
use tokio::time::sleep;

use super::base::{Link, is_base, newest_revision};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::changes::RecordDigest;
use crate::format::{ClusterName, Continues, EndBody, EndObjects, EndReason, SnapshotId};
use crate::journal::folder::Folder;
use crate::journal::read::ReadJournal;
use crate::journal::vouched::vouched;
use crate::journal::{folder, open};
use crate::keys::KeySet;
use crate::snapshot::folder::is_ahead;
use crate::store::Repository;
use crate::task::{Control, Step};

/// Journals that are opened at once.
const READS: usize = 16;

/// Seconds between looks at what was recorded before, while what is listed cannot be read. What is taken for missing then never
/// counts again, because the next journal names what it follows.
const LOOK_AGAIN: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// What was found of earlier recordings.
pub(super) struct Found {
    pub(super) before: Before,
    /// A snapshot is the base of it. A recorder that was killed may not have taken the one that was needed.
    pub(super) has_base: bool,
    /// The revision of the newest snapshot that counts.
    pub(super) newest: Option<i64>,
}

impl Found {
    async fn of(
        before: Before,
        link: Option<Link>,
        (repository, keys, cluster): (&Repository, &KeySet, &ClusterName),
    ) -> Result<Self> {
        if matches!(before, Before::Nothing) {
            return Ok(Self { before, has_base: false, newest: None });
        }
        let newest = newest_revision(repository, keys, cluster).await?;
        let has_base = match (newest, link) {
            (Some(revision), Some(link)) => {
                is_base(revision, repository, keys, cluster, link).await?
            }
            _ => false,
        };
        Ok(Self { before, has_base, newest })
    }
}

/// What was recorded before.
pub(super) enum Before {
    /// Nothing.
    Nothing,
    /// The newest journal, which opens here.
    Journal(Box<ReadJournal>),
    /// Up to this revision, and the last segment if it is named: by the signed end of a journal that does not open here, or
    /// by this program itself, which knows what stands for the records of a revision.
    UpTo(i64, Option<Continues>, Option<(i64, RecordDigest)>),
    /// Something by a recorder that was killed, which does not open here. The names of its segments tell the last revision,
    /// and anybody can plant a name.
    Named(i64),
    /// This program recorded until there was a gap.
    Gap(EndReason),
}

impl Before {
    /// The last segment, which the next journal names. Only so what a killed recorder has recorded counts.
    pub(super) fn continues(&self) -> Option<Continues> {
        match self {
            Self::Journal(journal) => journal.continues(),
            Self::UpTo(_, continues, _) => *continues,
            Self::Nothing | Self::Named(_) | Self::Gap(_) => None,
        }
    }

    /// The state of authentication that was recorded last.
    pub(super) fn auth(&self) -> Option<(bool, u64)> {
        let Self::Journal(journal) = self else { return None };
        journal.survey.auth.last().map(|(_, enabled, revision)| (*enabled, *revision))
    }

    /// Looks for the newest journal of `cluster` that counts; again where something newer does not open, until two looks agree,
    /// and for longer while the store does not give what it lists.
    ///
    /// # Errors
    /// Those of the store; [`Unreachable`](ErrorKind::Unreachable) where less can be read than a moment ago.
    pub(super) async fn look(
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
        control: &Control,
    ) -> Result<Found> {
        let from = (repository, keys, cluster);
        let mut look = Look::at(from).await?;
        let (mut reach, mut furthest) = (look.reach(), look.reach());
        for pause in LOOK_AGAIN {
            if look.is_sure() {
                break;
            }
            if pause == LOOK_AGAIN[1] && look.is_away {
                let note = "the store does not give all that it lists of earlier journals: waiting";
                control.step(Step::Note(note.into()));
            }
            sleep(Duration::from_secs(pause)).await;
            // What was fetched takes up room.
            drop(look);
            look = Look::at(from).await?;
            let agrees = look.reach() == reach;
            reach = look.reach();
            furthest = furthest.max(reach);
            if agrees && !look.is_away {
                break;
            }
        }
        if reach < furthest {
            let text = "less of what was recorded before can be read than a moment ago";
            return Err(Error::new(ErrorKind::Unreachable, text));
        }
        if let (Self::Journal(journal), false) = (&look.before, look.has_end) {
            control.step(Step::Note(format!(
                "journal {} has no end: its recorder was killed, or still records",
                journal.id()
            )));
        }
        Found::of(look.before, look.link, from).await
    }
}

/// What one look at the store found.
struct Look {
    before: Before,
    /// The journal that it is about.
    id: Option<SnapshotId>,
    link: Option<Link>,
    has_end: bool,
    /// Something that may be newer was read and does not open.
    is_doubtful: bool,
    /// The store did not give something that it lists and that may be newer. Nobody who can only create objects causes that.
    is_away: bool,
}

impl Look {
    const fn nothing() -> Self {
        let (before, has_end, is_doubtful, is_away) = (Before::Nothing, false, false, false);
        Self { before, id: None, link: None, has_end, is_doubtful, is_away }
    }

    const fn is_sure(&self) -> bool {
        !self.is_doubtful && !self.is_away
    }

    /// How far it reaches: the journal, how many segments, and the last revision. What is recorded never becomes less.
    fn reach(&self) -> (Option<SnapshotId>, u64, i64) {
        let last = match &self.before {
            Before::Journal(journal) => journal.last(),
            Before::UpTo(last, ..) | Before::Named(last) => *last,
            Before::Nothing | Before::Gap(_) => 0,
        };
        (self.id, self.before.continues().map_or(0, |named| named.number), last)
    }

    /// Notes a journal that does not open.
    fn note(&mut self, error: &Error) {
        match error.kind().is_away() {
            true => self.is_away = true,
            false => self.is_doubtful = true,
        }
    }

    async fn at((repository, keys, cluster): (&Repository, &KeySet, &ClusterName)) -> Result<Self> {
        let (folders, _) = folder::list_all(repository).await?;
        match keys.is_blind() {
            true => Self::blindly(folders, repository, keys, cluster).await,
            false => Self::opening(folders, repository, keys, cluster).await,
        }
    }

    async fn opening(
        folders: BTreeMap<SnapshotId, Folder>,
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
    ) -> Result<Self> {
        let there = folders.into_iter().rev().filter(|(_, folder)| folder.head.is_some());
        // The newest first: earlier ones are opened only where it does not count.
        let mut opened = stream::iter(there)
            .map(|(id, folder)| async move {
                (open::open_of(repository, (id, cluster), &folder, keys).await, folder)
            })
            .buffered(READS);
        let mut look = Self::nothing();
        while let Some((journal, folder)) = opened.next().await {
            let journal = match journal {
                Ok(Some(journal)) if journal.standing.counts() => journal,
                Ok(None) => continue,
                Ok(Some(_)) => {
                    look.is_doubtful = true;
                    continue;
                }
                Err(error) if error.kind().is_general() => return Err(error),
                // `journal list` shows what does not open.
                Err(error) => {
                    look.note(&error);
                    continue;
                }
            };
            (look.id, look.link) = (Some(journal.id()), Some(Link::of(&journal)));
            look.has_end = journal.end.is_some();
            look.is_away |= journal.check_read().is_err();
            let dir = std::env::temp_dir();
            let read = ReadJournal::fetch(repository, keys, journal, &folder, &dir).await?;
            look.is_away |= read.is_cut;
            look.is_doubtful |= !read.survey.findings.is_empty();
            if read.continues().is_some() {
                look.before = Before::Journal(Box::new(read));
                return Ok(look);
            }
        }
        Ok(Self { id: None, ..look })
    }

    /// By signatures alone: no journal opens here.
    async fn blindly(
        folders: BTreeMap<SnapshotId, Folder>,
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
    ) -> Result<Self> {
        let now = SystemTime::now();
        let there = folders.iter().rev().filter(|(_, folder)| folder.head.is_some());
        let mut look = Self::nothing();
        for (id, folder) in there.filter(|(id, _)| !is_ahead(id.begun(), now)) {
            let vouched = match vouched(repository, *id, folder, keys).await {
                Err(error) if error.kind().is_general() => return Err(error),
                Err(error) => {
                    look.note(&error);
                    continue;
                }
                // Anybody can put a folder there.
                Ok(None) => {
                    look.is_doubtful = true;
                    continue;
                }
                Ok(Some(vouched)) => vouched,
            };
            if vouched.head.cluster != *cluster {
                continue;
            }
            look.has_end = vouched.end.is_some();
            (look.before, look.link) = match (vouched.end, folder.last_named()) {
                // It is open, or its recorder was killed.
                (None, Some(last)) => (Before::Named(last), None),
                // Nothing was recorded in it.
                (None, None) => continue,
                (Some(end), _) if end.segments == 0 => continue,
                (Some(end), _) => {
                    let last = end.last.cast_signed();
                    let link = Link { first: vouched.head.first.cast_signed(), continues: None };
                    (Before::UpTo(last, last_segment(&end), None), Some(link))
                }
            };
            return Ok(Self { id: Some(*id), ..look });
        }
        Ok(look)
    }
}

/// The last segment that an end names.
fn last_segment(end: &EndBody) -> Option<Continues> {
    let sha256 = match &end.objects {
        EndObjects::Segments(segments) => segments.last()?.sha256,
        EndObjects::Bundle { replaces, .. } => *replaces,
    };
    Some(Continues { journal: end.journal, number: end.segments, last: end.last, sha256 })
}
