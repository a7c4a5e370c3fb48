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

/// Pauses in seconds between looks at what was recorded before. A segment that is missed here may not count later, because the
/// next journal names the one that it follows.
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
        (repository, keys, cluster): From<'_>,
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

    /// Finds the newest journal of `cluster` that counts.
    ///
    /// # Errors
    /// Those of the store; [`Unreachable`](ErrorKind::Unreachable) when less can be read than a moment ago.
    pub(super) async fn look(
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
        control: &Control,
    ) -> Result<Found> {
        let from = (repository, keys, cluster);
        let look = Look::until_sure(from, control).await?;
        if let (Self::Journal(journal), false) = (&look.before, look.has_end) {
            control.step(Step::Note(format!(
                "journal {} has no end: its recorder was killed, or still records",
                journal.id()
            )));
        }
        Found::of(look.before, look.link, from).await
    }
}

/// Where to look, and for what.
type From<'a> = (&'a Repository, &'a KeySet, &'a ClusterName);

/// What one look at the store found.
struct Look {
    before: Before,
    /// The journal that it is about.
    id: Option<SnapshotId>,
    link: Option<Link>,
    has_end: bool,
    /// A journal that may be newer could be read, and does not open or count.
    is_doubtful: bool,
    /// A listed object that may be newer could not be read. Somebody who can only create objects cannot cause that.
    is_away: bool,
}

impl Look {
    const fn nothing() -> Self {
        let (before, has_end, is_doubtful, is_away) = (Before::Nothing, false, false, false);
        Self { before, id: None, link: None, has_end, is_doubtful, is_away }
    }

    /// Looks again where a newer journal does not open, until two looks agree; and where a listed object cannot be read, as long
    /// as [`LOOK_AGAIN`] allows.
    async fn until_sure(from: From<'_>, control: &Control) -> Result<Self> {
        let mut look = Self::at(from).await?;
        let (mut reach, mut furthest) = (look.reach(), look.reach());
        for (round, pause) in LOOK_AGAIN.into_iter().enumerate() {
            if !look.is_doubtful && !look.is_away {
                break;
            }
            if round == 1 && look.is_away {
                let note = "some listed objects of earlier journals cannot be read: trying again for up to a minute";
                control.step(Step::Note(note.into()));
            }
            sleep(Duration::from_secs(pause)).await;
            // Frees what was fetched before fetching it again.
            drop(look);
            look = Self::at(from).await?;
            let agrees = look.reach() == reach;
            reach = look.reach();
            furthest = furthest.max(reach);
            if agrees && !look.is_away {
                break;
            }
        }
        if reach < furthest {
            let text = "earlier journals that could be read a moment ago cannot be read now";
            return Err(Error::new(ErrorKind::Unreachable, text)
                .hint("try again; `strongroom journal list` names the objects"));
        }
        Ok(look)
    }

    /// How far the look reached: the journal, how many segments, and the last revision. It never decreases unless objects become
    /// unreadable.
    fn reach(&self) -> (Option<SnapshotId>, u64, i64) {
        let last = match &self.before {
            Before::Journal(journal) => journal.last(),
            Before::UpTo(last, ..) | Before::Named(last) => *last,
            Before::Nothing | Before::Gap(_) => 0,
        };
        (self.id, self.before.continues().map_or(0, |named| named.number), last)
    }

    /// Remembers why a journal does not open.
    fn note(&mut self, error: &Error) {
        match error.kind().is_away() {
            true => self.is_away = true,
            false => self.is_doubtful = true,
        }
    }

    async fn at((repository, keys, cluster): From<'_>) -> Result<Self> {
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
                Ok(Some(journal)) => {
                    look.is_doubtful = true;
                    look.is_away |= journal.check_read().is_err();
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
        let Self { is_doubtful, is_away, .. } = look;
        Ok(Self { is_doubtful, is_away, ..Self::nothing() })
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
            look.is_away |= vouched.is_unread;
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
