//! That a master key opens what it should, shown with that key alone, and recorded.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use super::catalog::{self, Scope};
use super::proofs::PROVE;
use super::reports::store_report;
use super::verify::{VerifyLevel, verify};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    CheckOutcome, ClusterName, KeyId, Report, ReportCheck, ReportDetails, ReportOutcome,
    ReportScope, ReportStep, SnapshotId,
};
use crate::keys::{KeySet, Recipient};
use crate::snapshot::folder::is_ahead;
use crate::store::Repository;
use crate::task::Control;

/// What one key did with a cluster's newest snapshot.
#[derive(Debug)]
#[non_exhaustive]
pub struct Proved {
    /// The key.
    pub key: KeyId,
    /// The cluster.
    pub cluster: ClusterName,
    /// Its newest snapshot that counts.
    pub snapshot: SnapshotId,
    /// Nothing, or why the key does not open it.
    pub outcome: Result<()>,
    /// The report of it.
    pub report: SnapshotId,
}

/// Reads every byte of the newest snapshot of `cluster`, or of each cluster, with each key that opens and seals here, one
/// at a time, and stores a report of each.
///
/// # Errors
/// [`ErrorKind::Usage`] without such a key, and when the report would not count; [`ErrorKind::NotFound`] when no snapshot
/// counts; those of the store. That a key does not open a snapshot is an outcome.
pub async fn prove(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
    control: &Control,
) -> Result<Vec<Proved>> {
    let opening: Vec<KeyId> =
        keys.sealing().map(Recipient::id).filter(|id| keys.holds(*id)).collect();
    check(keys, &opening)?;
    let mut newest: BTreeMap<ClusterName, SnapshotId> = BTreeMap::new();
    let now = SystemTime::now();
    for one in catalog::judged(repository, keys, cluster).await?.snapshots {
        if one.standing.counts() && !is_ahead(one.id.begun(), now) {
            newest.insert(one.cluster, one.id);
        }
    }
    if newest.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no snapshot that counts").hint(
            "take one with `strongroom backup`; `strongroom snapshots` shows what each is worth",
        ));
    }
    let mut done = Vec::new();
    for (cluster, id) in newest {
        for key in &opening {
            done.push(one(repository, keys, *key, (&cluster, id), control).await?);
        }
    }
    Ok(done)
}

/// That there is a key to prove, and that a report of it would count.
fn check(keys: &KeySet, opening: &[KeyId]) -> Result<()> {
    if opening.is_empty() {
        return Err(Error::usage("no key is given that seals and opens").hint(
            "give the key that is to be tested, such as -k identity:FILE or -k file:KEYRING",
        ));
    }
    let is_signed = keys.signing().is_some();
    if !is_signed && (!keys.signers().is_empty() || keys.sealing().all(Recipient::is_public)) {
        return Err(Error::usage("no signing key is given, so the report would not count").hint(
            "give --signing-key FILE, and trust its signer on the hosts that back up; to look without a report: `strongroom verify latest`",
        ));
    }
    keys.check_sealing(None, false)
}

async fn one(
    repository: &Repository,
    keys: &KeySet,
    key: KeyId,
    (cluster, id): (&ClusterName, SnapshotId),
    control: &Control,
) -> Result<Proved> {
    let begun = Instant::now();
    let scope = Scope::Ids(&[id]);
    let found = verify(repository, &keys.only(&[key]), scope, VerifyLevel::Full, control).await?;
    let unfinished = found.unfinished();
    let outcome = match (found.snapshots.into_iter().next(), unfinished) {
        (Some(verified), _) => verified.outcome,
        (None, Some(error)) => return Err(error),
        (None, None) => return Err(Error::new(ErrorKind::Internal, "no snapshot was verified")),
    };
    let (passed, detail) = match &outcome {
        Ok(()) => (true, format!("opened by {key} alone")),
        Err(error) => (false, error.to_string().chars().take(200).collect()),
    };
    let milliseconds = begun.elapsed().as_millis() as u64;
    let report = Report {
        kind: PROVE.into(),
        tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
        snapshot: Some(id),
        cluster: Some(cluster.clone()),
        level: Some(VerifyLevel::Full.name().into()),
        key: Some(key),
        scope: ReportScope::One,
        outcome: if passed { ReportOutcome::Passed } else { ReportOutcome::Failed },
        details: Some(ReportDetails {
            steps: vec![ReportStep { name: PROVE.into(), milliseconds }],
            checks: vec![ReportCheck {
                name: id.to_string(),
                outcome: if passed { CheckOutcome::Passed } else { CheckOutcome::Failed },
                detail,
            }],
        }),
    };
    let report = store_report(repository, keys, &report).await?;
    Ok(Proved { key, cluster: cluster.clone(), snapshot: id, outcome, report })
}
