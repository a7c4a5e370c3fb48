//! What was recorded before: the newest journal that counts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};
use tokio::time::sleep;

use super::base::{Link, is_base, newest_revision};
use crate::error::Result;
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
const READS: usize = 4;

/// Looks at what was recorded before: where something does not open, until two agree. A store or a network may answer wrongly
/// for a moment, and what is taken for missing then never counts again, because the next journal names what it follows.
const LOOKS: usize = 5;

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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

    /// Looks for the newest journal of `cluster` that counts.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn look(
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
        control: &Control,
    ) -> Result<Found> {
        let from = (repository, keys, cluster);
        let mut look = Look::at(from).await?;
        for _ in 1..LOOKS {
            if look.is_sure {
                break;
            }
            sleep(LOOK_AGAIN).await;
            let again = Look::at(from).await?;
            let agrees = again.before.end() == look.before.end();
            look = again;
            if agrees {
                break;
            }
        }
        if let (Self::Journal(journal), false) = (&look.before, look.has_end) {
            control.step(Step::Note(format!(
                "journal {} has no end: its recorder was killed, or still records",
                journal.id()
            )));
        }
        Found::of(look.before, look.link, from).await
    }

    /// Where it ends: the last segment if it is known, and the last revision.
    fn end(&self) -> (Option<Continues>, i64) {
        let last = match self {
            Self::Journal(journal) => journal.last(),
            Self::UpTo(last, ..) | Self::Named(last) => *last,
            Self::Nothing | Self::Gap(_) => 0,
        };
        (self.continues(), last)
    }
}

/// What one look at the store found.
struct Look {
    before: Before,
    link: Option<Link>,
    has_end: bool,
    /// Nothing that may be newer failed to open.
    is_sure: bool,
}

impl Look {
    const fn nothing(is_sure: bool) -> Self {
        Self { before: Before::Nothing, link: None, has_end: false, is_sure }
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
        let mut is_sure = true;
        while let Some((journal, folder)) = opened.next().await {
            let journal = match journal {
                Ok(Some(journal)) if journal.standing.counts() => journal,
                Ok(None) => continue,
                Err(error) if error.kind().is_general() => return Err(error),
                // `journal list` shows what does not open.
                Ok(Some(_)) | Err(_) => {
                    is_sure = false;
                    continue;
                }
            };
            let (has_end, link) = (journal.end.is_some(), Some(Link::of(&journal)));
            let dir = std::env::temp_dir();
            let read = ReadJournal::fetch(repository, keys, journal, &folder, &dir).await?;
            is_sure &= read.survey.findings.is_empty();
            if read.continues().is_some() {
                let before = Before::Journal(Box::new(read));
                return Ok(Self { before, link, has_end, is_sure });
            }
        }
        Ok(Self::nothing(is_sure))
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
        let mut is_sure = true;
        for (id, folder) in there.filter(|(id, _)| !is_ahead(id.begun(), now)) {
            let vouched = match vouched(repository, *id, folder, keys).await {
                Err(error) if error.kind().is_general() => return Err(error),
                // Anybody can put a folder there.
                Ok(None) | Err(_) => {
                    is_sure = false;
                    continue;
                }
                Ok(Some(vouched)) => vouched,
            };
            if vouched.head.cluster != *cluster {
                continue;
            }
            let has_end = vouched.end.is_some();
            let (before, link) = match (vouched.end, folder.last_named()) {
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
            return Ok(Self { before, link, has_end, is_sure });
        }
        Ok(Self::nothing(is_sure))
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
