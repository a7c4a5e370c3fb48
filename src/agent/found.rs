//! What a repository and the keys show of where things stand.

use std::time::SystemTime;

use crate::backup::{Listing, Summary};
use crate::format::{KeyState, SnapshotId};
use crate::keys::KeySet;

/// How many master keys are in which state.
pub(super) type KeyCounts = Vec<(KeyState, usize)>;

/// Counts them.
pub(super) fn count(keys: &KeySet) -> KeyCounts {
    let states = [KeyState::Staged, KeyState::Sealing, KeyState::Primary, KeyState::Retiring];
    states.into_iter().map(|state| (state, keys.in_state(state).count())).collect()
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
