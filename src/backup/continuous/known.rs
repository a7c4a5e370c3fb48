//! What reports say of the stretches between snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::deep::{self, Stretch, StretchOutcome, Stretches, VerifiedStretch};
use crate::backup::reports::newest_first;
use crate::backup::show::show;
use crate::error::Result;
use crate::format::{
    CheckOutcome, ClusterName, Report, ReportCheck, ReportDetails, ReportOutcome, ReportScope,
    ReportStep, SnapshotId,
};
use crate::keys::KeySet;
use crate::store::Repository;

/// Snapshots that are looked at at once.
const READS: usize = 16;
/// Reports that count looked through.
const MOST_READ: usize = 500;
/// Stretches that a report names one by one: it must stay below 1 MiB.
const MOST_NAMED: usize = 2000;

/// A stretch, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KnownStretch {
    /// Which.
    #[serde(flatten)]
    pub stretch: Stretch,
    /// `deep` if snapshot and journals gave the next snapshot, `differs` if they did not; `not yet` if that is not known.
    pub verified: &'static str,
    /// The report that says so.
    pub report: Option<SnapshotId>,
    /// The first revision that was compared with the second snapshot when that was taken, and is equal. Only looked for where
    /// `verified` is `not yet`.
    pub compared_from: Option<i64>,
    /// The last one.
    pub compared_to: Option<i64>,
}

/// The `wanted` stretches, with what the newest report about each says.
///
/// # Errors
/// Those of the store.
pub async fn known_stretches(
    repository: &Repository,
    keys: &KeySet,
    wanted: &Stretches,
) -> Result<Vec<KnownStretch>> {
    let stretches = deep::stretches(repository, keys, wanted).await?;
    let mut unknown: BTreeSet<_> = stretches.iter().map(Stretch::name).collect();
    let mut known = BTreeMap::new();
    if !unknown.is_empty() {
        let listed = repository.list("reports").await?;
        let visit = |id, report: Report| {
            for check in report.checks() {
                let verified = match check.outcome {
                    CheckOutcome::Passed => "deep",
                    CheckOutcome::Failed => "differs",
                    CheckOutcome::Skipped => continue,
                };
                if unknown.remove(&check.name) {
                    known.insert(check.name.clone(), (verified, id));
                }
            }
            match unknown.is_empty() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        newest_first(repository, keys, listed, MOST_READ, visit).await?;
    }
    let with_known = |stretch: Stretch| {
        let found = known.get(&stretch.name()).copied();
        async move {
            let (verified, report) = found.map_or(("not yet", None), |(is, id)| (is, Some(id)));
            let compared = match found {
                Some(_) => None,
                None => compared(repository, keys, stretch.to).await?,
            };
            let (compared_from, compared_to) = compared.unzip();
            Ok(KnownStretch { verified, report, compared_from, compared_to, stretch })
        }
    };
    stream::iter(stretches).map(with_known).buffered(READS).try_collect().await
}

/// The revisions that were compared with the snapshot `id` when it was taken, and are equal.
async fn compared(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<Option<(i64, i64)>> {
    match show(repository, keys, id).await {
        Ok(details) => {
            let equal = details.facts.and_then(|facts| facts.journal?.equal);
            Ok(equal.map(|(from, to)| (from.cast_signed(), to.cast_signed())))
        }
        Err(error) if error.kind().is_general() => Err(error),
        // What is wrong with a snapshot its own verification tells.
        Err(_) => Ok(None),
    }
}

/// The evidence of a deep verification of journals, for [`store_report`](crate::backup::store_report).
#[must_use]
pub fn stretches_report(
    stretches: &[VerifiedStretch],
    cluster: Option<&ClusterName>,
    has_findings: bool,
    took: Duration,
) -> Report {
    // What is not known is not good.
    let is_unknown = |one: &VerifiedStretch| !matches!(one.outcome, StretchOutcome::Verified(_));
    let step = ReportStep { name: "verify".into(), milliseconds: took.as_millis() as u64 };
    Report {
        kind: "journal".into(),
        tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
        snapshot: None,
        cluster: cluster.cloned(),
        level: Some("deep".into()),
        key: None,
        scope: if cluster.is_some() { ReportScope::Cluster } else { ReportScope::Repository },
        outcome: match (
            stretches.iter().any(VerifiedStretch::is_different),
            has_findings || stretches.iter().any(is_unknown),
        ) {
            (true, _) => ReportOutcome::Failed,
            (false, true) => ReportOutcome::Findings,
            (false, false) => ReportOutcome::Passed,
        },
        details: Some(ReportDetails { steps: vec![step], checks: newest_checks(stretches) }),
    }
}

/// What a report says of the newest of `stretches`.
pub(in crate::backup) fn newest_checks(stretches: &[VerifiedStretch]) -> Vec<ReportCheck> {
    let skipped = stretches.len().saturating_sub(MOST_NAMED);
    stretches.iter().skip(skipped).map(VerifiedStretch::check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::HashCheck;

    fn verified(outcome: StretchOutcome) -> VerifiedStretch {
        let (from, to) = (SnapshotId::new(1, [1; 10]), SnapshotId::new(2, [2; 10]));
        let cluster = ClusterName::default();
        let stretch = Stretch { cluster, from, to, first_revision: 5, last_revision: 9 };
        VerifiedStretch { stretch, outcome }
    }

    /// Only what was compared, all of it, has passed.
    #[test]
    fn a_report_of_what_is_not_known_has_findings() {
        let good = || verified(StretchOutcome::Verified(HashCheck::Equal));
        let of =
            |outcome| stretches_report(&[good(), verified(outcome)], None, false, Duration::ZERO);
        let because = || "because".to_owned();
        assert_eq!(of(good().outcome).outcome, ReportOutcome::Passed);
        for unknown in [
            StretchOutcome::Incomplete(because()),
            StretchOutcome::NotRecorded(because()),
            StretchOutcome::NotVerified,
        ] {
            assert_eq!(of(unknown).outcome, ReportOutcome::Findings);
        }
        assert_eq!(of(StretchOutcome::Differs(because())).outcome, ReportOutcome::Failed);
        let found = verified(StretchOutcome::Incomplete(because())).finding().unwrap();
        assert!(found.ends_with("revisions 5 to 9: because"), "{found}");
    }
}
