//! When a master key last showed that it opens what it should, as reports tell that count.

use std::ops::ControlFlow;

use super::reports::{newest_first, proves_bytes};
use crate::error::{ErrorKind, Result};
use crate::format::{ClusterName, KeyId, Report, ReportOutcome, SnapshotId};
use crate::keys::{KeySet, Recipient};
use crate::store::Repository;

/// Reports that count looked through.
const MOST_READ: usize = 1000;
/// The beginning of a backup's warning that a recipient was never proven. It recurs, so `--quiet` leaves it out.
pub const UNPROVEN: &str = "nothing shows yet that";

/// The kind of a report that one key alone opened a snapshot.
pub(super) const PROVE: &str = "prove";

/// A key that opened a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proof {
    /// The key.
    pub key: KeyId,
    /// Whether it was [proven](super::prove()): nothing else was used to open the snapshot, and that was what was to be shown.
    pub is_proven: bool,
    /// The cluster that it was about.
    pub cluster: Option<ClusterName>,
    /// The report, whose time is when it was written.
    pub report: SnapshotId,
}

/// What the newest reports say of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proofs {
    /// The newest of each kind for a key and a cluster, newest first.
    pub all: Vec<Proof>,
    /// Whether every report was looked at; otherwise only the newest thousand that count.
    pub complete: bool,
}

impl Proofs {
    /// When `key` was last proven, with whichever cluster's snapshot.
    pub fn proven(&self, key: KeyId) -> Option<&Proof> {
        self.all.iter().find(|proof| proof.key == key && proof.is_proven)
    }

    /// When every byte of a snapshot was last verified with `key`.
    pub fn verified(&self, key: KeyId) -> Option<&Proof> {
        self.all.iter().find(|proof| proof.key == key)
    }

    fn note(&mut self, id: SnapshotId, report: &Report) {
        let is_proven = report.kind == PROVE && report.outcome == ReportOutcome::Passed;
        let Some(key) =
            report.key.filter(|_| is_proven || (proves_bytes(report) && report.passed()))
        else {
            return;
        };
        let proof = Proof { key, is_proven, cluster: report.cluster.clone(), report: id };
        let is_same = |one: &Proof| {
            (one.key, one.is_proven, &one.cluster) == (key, is_proven, &proof.cluster)
        };
        if !self.all.iter().any(is_same) {
            self.all.push(proof);
        }
    }
}

/// The one key that did all of it, if it was one.
pub(super) fn only_key(mut opened_by: impl Iterator<Item = Option<KeyId>>) -> Option<KeyId> {
    let first = opened_by.next()??;
    opened_by.all(|key| key == Some(first)).then_some(first)
}

/// What the newest reports say of keys; not further back than where each of `wanted`, if it names any, was proven.
///
/// # Errors
/// Those of the store.
pub async fn proofs(repository: &Repository, keys: &KeySet, wanted: &[KeyId]) -> Result<Proofs> {
    let listed = repository.list("reports").await?;
    let (keys, _) = &keys.available().await;
    let (mut found, mut read) = (Proofs::default(), 0);
    let visit = |id, report: Report| {
        read += 1;
        found.note(id, &report);
        let is_found = |key: &KeyId| found.proven(*key).is_some();
        match !wanted.is_empty() && wanted.iter().all(is_found) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let all = newest_first(repository, keys, listed, MOST_READ, visit).await?;
    found.complete = all && read < MOST_READ;
    Ok(found)
}

/// What to say of the public keys that seal here, do not open here, and were never proven.
///
/// # Errors
/// Those of the store, when it cannot be reached.
pub(super) async fn unproven(repository: &Repository, keys: &KeySet) -> Result<Vec<String>> {
    let public = keys.sealing().filter(|key| key.is_public());
    let public: Vec<KeyId> = public.map(Recipient::id).filter(|id| !keys.holds(*id)).collect();
    if public.is_empty() {
        return Ok(Vec::new());
    }
    let found = match proofs(repository, keys, &public).await {
        Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Interrupted) => {
            return Err(error);
        }
        Err(error) => {
            return Ok(vec![format!(
                "whether the identities of the recipients open a snapshot is unknown: {error}"
            )]);
        }
        Ok(found) => found,
    };
    let of = if found.complete { "no report" } else { "none of the newest 1000 reports" };
    let tell = |id: &KeyId| {
        format!(
            "{UNPROVEN} the identity of recipient {id} opens a snapshot: {of} that counts here says so (where the identity is, run \
             `strongroom key prove -k identity:FILE --signing-key FILE` with a signing key that this host trusts)"
        )
    };
    Ok(public.iter().filter(|id| found.proven(**id).is_none()).map(tell).collect())
}
