//! What was done, by whichever agent or person, as the repository tells.

use std::time::SystemTime;

use super::found::{KeyCounts, Newest, count, last_opened};
use super::operation::Operation;
use super::{AgentSettings, Places, open};
use crate::backup::{Listing, judged, newest_reports};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Report;
use crate::keys::KeySet;
use crate::store::Repository;

/// When an operation was last carried out.
pub(super) struct LastRun {
    pub(super) operation: Operation,
    pub(super) at: SystemTime,
    pub(super) passed: bool,
}

/// What the keys authenticate in the repository, and what it lists.
pub(super) struct Found {
    pub(super) last: Vec<LastRun>,
    pub(super) newest: Option<Newest>,
    pub(super) listing: Listing,
    pub(super) keys: KeyCounts,
    /// When a snapshot was last opened, by whoever has a key.
    pub(super) opened: SystemTime,
    /// Why not all of it is known: a service that opens does not answer.
    pub(super) hidden: Option<Error>,
}

/// Reads what was done, by whichever agent or person. What only a service opens that is down is left out.
pub(super) async fn last_runs(options: &AgentSettings) -> Result<Found> {
    let Places { repository, keys } = open(options).await?;
    match read_runs(options, &repository, &keys).await {
        Err(error) if error.kind() == ErrorKind::Unreachable => {
            let (up, missing) = keys.available().await;
            if missing.is_empty() {
                return Err(error);
            }
            let found = read_runs(options, &repository, &up).await?;
            Ok(Found { hidden: Some(error), ..found })
        }
        found => found,
    }
}

async fn read_runs(
    options: &AgentSettings,
    repository: &Repository,
    keys: &KeySet,
) -> Result<Found> {
    let mut last = Vec::new();
    let listing = judged(repository, keys, Some(options.cluster())).await?;
    let newest = Newest::of(&listing);
    last.extend(newest.iter().map(|newest| LastRun {
        operation: Operation::Backup,
        at: newest.begun,
        passed: true,
    }));
    let wanted = [Operation::Prune, Operation::Verify, Operation::VerifyAll, Operation::Drill];
    let of = |report: &Report| {
        Operation::of(report, keys.is_blind())
            .filter(|_| report.cluster.as_ref() == Some(options.cluster()))
    };
    for (operation, id, report) in newest_reports(repository, keys, &wanted, of).await? {
        last.push(LastRun { operation, at: id.begun(), passed: report.passed() });
    }
    let opened = last_opened(repository, keys, options.cluster()).await?;
    Ok(Found { last, newest, listing, keys: count(keys), opened, hidden: None })
}
