//! What was recorded before: the newest journal that counts.

use std::time::SystemTime;

use futures::{StreamExt, stream};

use super::base::{Link, is_base, newest_revision};
use crate::error::Result;
use crate::etcd::changes::RecordDigest;
use crate::format::{ClusterName, Continues, EndBody, EndObjects, EndReason};
use crate::journal::read::ReadJournal;
use crate::journal::vouched::vouched;
use crate::journal::{folder, open};
use crate::keys::KeySet;
use crate::snapshot::folder::is_ahead;
use crate::store::Repository;
use crate::task::{Control, Step};

/// Journals that are opened at once.
const READS: usize = 4;

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
        let newest = newest_revision(repository, keys, cluster).await?;
        let has_base = match (newest, link) {
            (Some(revision), Some(link)) => {
                is_base(revision, repository, keys, cluster, link).await?
            }
            _ => false,
        };
        Ok(Self { before, has_base, newest })
    }

    const fn nothing() -> Self {
        Self { before: Before::Nothing, has_base: false, newest: None }
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
        if keys.is_blind() {
            return Self::look_blindly(repository, keys, cluster).await;
        }
        let (folders, _) = folder::list_all(repository).await?;
        let there = folders.into_iter().rev().filter(|(_, folder)| folder.head.is_some());
        // The newest first: earlier ones are opened only where it does not count.
        let mut opened = stream::iter(there)
            .map(|(id, folder)| async move {
                (id, open::open(repository, id, &folder, keys).await, folder)
            })
            .buffered(READS);
        while let Some((id, journal, folder)) = opened.next().await {
            let journal = match journal {
                Ok(journal) => journal,
                Err(error) if error.kind().is_general() => return Err(error),
                // `journal list` shows what does not open.
                Err(_) => continue,
            };
            if !journal.standing.counts() || journal.head.cluster != *cluster {
                continue;
            }
            let (has_end, link) = (journal.end.is_some(), Link::of(&journal));
            let dir = std::env::temp_dir();
            let read = ReadJournal::fetch(repository, keys, journal, &folder, &dir).await?;
            if read.continues().is_none() {
                continue;
            }
            if !has_end {
                control.step(Step::Note(format!(
                    "journal {id} has no end: its recorder was killed, or still records"
                )));
            }
            let before = Self::Journal(Box::new(read));
            return Found::of(before, Some(link), (repository, keys, cluster)).await;
        }
        Ok(Found::nothing())
    }

    /// By signatures alone: no journal opens here.
    async fn look_blindly(
        repository: &Repository,
        keys: &KeySet,
        cluster: &ClusterName,
    ) -> Result<Found> {
        let (folders, _) = folder::list_all(repository).await?;
        let now = SystemTime::now();
        let there = folders.iter().rev().filter(|(_, folder)| folder.head.is_some());
        for (id, folder) in there.filter(|(id, _)| !is_ahead(id.begun(), now)) {
            let vouched = match vouched(repository, *id, folder, keys).await {
                Err(error) if error.kind().is_general() => return Err(error),
                // Anybody can put a folder there.
                Ok(None) | Err(_) => continue,
                Ok(Some(vouched)) => vouched,
            };
            if vouched.head.cluster != *cluster {
                continue;
            }
            match (vouched.end, folder.last_named()) {
                // It is open, or its recorder was killed.
                (None, Some(last)) => {
                    return Found::of(Self::Named(last), None, (repository, keys, cluster)).await;
                }
                // Nothing was recorded in it.
                (None, None) => {}
                (Some(end), _) if end.segments == 0 => {}
                (Some(end), _) => {
                    let last = end.last.cast_signed();
                    let before = Self::UpTo(last, last_segment(&end), None);
                    let link = Link { first: vouched.head.first.cast_signed(), continues: None };
                    return Found::of(before, Some(link), (repository, keys, cluster)).await;
                }
            }
        }
        Ok(Found::nothing())
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
