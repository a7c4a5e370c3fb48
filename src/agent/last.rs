//! What was done before, as the repository shows it.

use std::time::SystemTime;

use super::found::{KeyCounts, Newest, count};
use super::operation::Operation;
use super::{AgentSettings, open};
use crate::backup::{Listing, judged, newest_reports};
use crate::error::Result;
use crate::format::Report;

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
}

/// Reads what was done, by whichever agent or person.
pub(super) async fn last_runs(options: &AgentSettings) -> Result<Found> {
    let places = open(options).await?;
    let (repository, keys) = (&places.repository, &places.keys);
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
    Ok(Found { last, newest, listing, keys: count(keys) })
}
