//! What a repository and the keys show of where things stand.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::backup::{BackupReport, Listing, Summary, newest_reports, proves_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyState, Report, SnapshotId};
use crate::keys::KeySet;
use crate::store::Repository;

/// How many master keys are in which state.
pub(super) type KeyCounts = Vec<(KeyState, usize)>;

/// Counts them.
pub(super) fn count(keys: &KeySet) -> KeyCounts {
    let states = [KeyState::Staged, KeyState::Sealing, KeyState::Primary, KeyState::Retiring];
    states.into_iter().map(|state| (state, keys.in_state(state).count())).collect()
}

/// What a backup found wrong, although it took a snapshot.
pub(super) fn of_backup(report: &BackupReport) -> Option<Error> {
    if report.members.as_ref().is_some_and(|members| members.differing().next().is_some()) {
        return Some(Error::new(ErrorKind::Tampered, "etcd's members differ"));
    }
    if let Some(revision) = report.journal.and_then(|journal| journal.differs_at) {
        let id = report.id;
        let message = format!("snapshot {id} and the change journal differ at revision {revision}");
        return Some(Error::new(ErrorKind::Tampered, message));
    }
    let clocks = "this host's clock and the store's differ";
    report.clocks_differ.then(|| Error::new(ErrorKind::Refused, clocks))
}

/// The newest snapshot.
#[derive(Clone, Debug)]
pub(super) struct Newest {
    pub(super) id: SnapshotId,
    pub(super) begun: SystemTime,
    pub(super) database_bytes: u64,
    pub(super) revision: u64,
}

impl Newest {
    /// The newest that the keys authenticate: planted ones tell nothing of when the last backup was.
    pub(super) fn of(listing: &Listing) -> Option<Self> {
        let now = SystemTime::now();
        let newest = listing.snapshots.iter().rev().find(|one| one.counts_at(now))?;
        let Summary { id, database_bytes, revision, .. } = *newest;
        Some(Self { id, begun: id.begun(), database_bytes, revision })
    }
}

/// When somebody last opened a snapshot of `cluster` and read every byte of it, by the reports that count: 1970 for never. On a
/// host that opens none, signatures decide.
pub(super) async fn last_opened(
    repository: &Repository,
    keys: &KeySet,
    cluster: &ClusterName,
) -> Result<SystemTime> {
    let opens = |report: &Report| {
        let reads_all = proves_bytes(report) || ["prove", "drill"].contains(&&*report.kind);
        (reads_all && report.passed() && report.cluster.as_ref() == Some(cluster)).then_some(())
    };
    let newest = newest_reports(repository, keys, &[()], opens).await?;
    Ok(newest.first().map_or(UNIX_EPOCH, |(_, id, _)| id.begun()))
}
