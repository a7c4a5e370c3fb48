//! Proving that snapshots are whole, at four depths.

use std::env;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;

use super::catalog::{self, Scope};
use super::chain::{self, Link};
use super::continuous::{Stretches, VerifiedStretch, newest_checks, verify_stretches};
use super::deep::{self, Deep};
use super::proofs::only_key;
use crate::crypto;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    CheckOutcome, ClusterName, KeyId, Manifest, Report, ReportCheck, ReportDetails, ReportOutcome,
    ReportScope, ReportStep, SnapshotId,
};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::companions;
use crate::snapshot::folder;
use crate::snapshot::open::{self, OpenSnapshot};
use crate::snapshot::read::{Follower, Place, pieces, read_all};
use crate::snapshot::seals;
use crate::store::Repository;
use crate::task::{Control, Scratch, Step};

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyLevel {
    /// Manifest, seal and the objects' lengths.
    Quick,
    /// The objects' SHA-256 against the manifest's; needs no key, and so proves nothing against who can write the manifest.
    Digests,
    /// Every byte: fetched, opened, decompressed, hashed.
    Full,
    /// As full, and etcd's own structure in it: bolt's pages, the history of revisions, HashKV as etcd answered it.
    Deep,
}

impl VerifyLevel {
    /// Stable name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Digests => "digests",
            Self::Full => "full",
            Self::Deep => "deep",
        }
    }
}

/// Snapshots that a report names one by one, so that it stays below its limit of 1 MiB however many there are: those that
/// failed, and the newest that are good.
const MOST_FAILED: usize = 300;
const MOST_PASSED: usize = 2000;

/// What one snapshot's verification found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The snapshot.
    pub id: SnapshotId,
    /// Nothing, or why it failed.
    pub outcome: Result<()>,
    /// The master key that opened it.
    pub opened_by: Option<KeyId>,
    /// What its seals are worth; unverified where no key was used.
    pub standing: Standing,
    /// Oddities that do not keep it from being restored.
    pub findings: Vec<String>,
    /// What etcd's structure came to, when that was looked at and is sound.
    pub deep: Option<Deep>,
    /// Of one that counts.
    link: Option<Link>,
}

impl Verified {
    fn new(id: SnapshotId) -> Self {
        Self {
            id,
            outcome: Ok(()),
            opened_by: None,
            standing: Standing::Unverified,
            findings: Vec::new(),
            deep: None,
            link: None,
        }
    }

    fn judged(
        &mut self,
        by: Option<KeyId>,
        standing: Standing,
        findings: Vec<String>,
        manifest: &Manifest,
    ) {
        (self.opened_by, self.standing, self.findings) = (by, standing, findings);
        self.link =
            standing.counts().then(|| Link::new(manifest.body(), seals::manifest_digest(manifest)));
        if standing != Standing::Counts {
            self.findings.push(format!("snapshot {}: {standing}", self.id));
        }
    }
}

/// What a verification found.
#[derive(Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How deep it looked.
    pub level: VerifyLevel,
    /// Each snapshot looked at, oldest first.
    pub snapshots: Vec<Verified>,
    /// Of a deep verification: what was recorded between snapshots.
    pub stretches: Vec<VerifiedStretch>,
    /// What is odd about the repository itself.
    pub findings: Vec<String>,
    /// A finding is that a snapshot which another one names is missing, or has another manifest.
    pub is_incomplete: bool,
    /// How much it looked at.
    pub scope: ReportScope,
    /// Snapshots in the scope that it did not get to, oldest first: its time was over. Nothing is known of them.
    pub not_verified: Vec<SnapshotId>,
}

impl VerifyReport {
    /// The error that decides the exit status: what failed before what merely cannot be opened.
    pub fn worst(&self) -> Option<&Error> {
        let severity = |error: &&Error| match error.kind() {
            ErrorKind::Tampered | ErrorKind::Truncated => 3,
            ErrorKind::WrongKey => 1,
            _ => 2,
        };
        self.snapshots
            .iter()
            .filter_map(|verified| verified.outcome.as_ref().err())
            .max_by_key(severity)
    }
}

impl VerifyReport {
    /// Why not all of its scope was verified.
    pub fn unfinished(&self) -> Option<Error> {
        let left = self.not_verified.len();
        (left > 0).then(|| {
            let done = self.snapshots.len();
            let message = format!("{done} snapshots were verified in time, {left} were not");
            Error::new(ErrorKind::Unreachable, message)
                .hint("the store is slow, or a run of all snapshots is due too often")
        })
    }

    /// Whether there is something to look at that did not fail.
    fn has_findings(&self) -> bool {
        !self.findings.is_empty()
            || self.snapshots.iter().any(|one| !one.findings.is_empty())
            || self.stretches.iter().any(|one| one.finding().is_some())
    }

    /// The evidence of it, for [`store_report`](super::store_report).
    pub fn evidence(&self, cluster: Option<&ClusterName>, took: Duration) -> Report {
        let check = |verified: &Verified| {
            let (outcome, detail) = match &verified.outcome {
                Ok(()) => {
                    let opened_by = verified.opened_by.map(|id| format!("opened by {id}"));
                    let parts =
                        opened_by.into_iter().chain(verified.deep.as_ref().map(Deep::to_string));
                    (CheckOutcome::Passed, parts.collect::<Vec<_>>().join("; "))
                }
                Err(error) if error.kind() == ErrorKind::WrongKey => {
                    (CheckOutcome::Skipped, error.to_string())
                }
                Err(error) => (CheckOutcome::Failed, error.to_string()),
            };
            let detail = detail.chars().take(200).collect();
            ReportCheck { name: verified.id.to_string(), outcome, detail }
        };
        let (all, left) = (self.snapshots.len(), self.not_verified.len());
        let mut counts = format!("{all} verified, {} failed", self.failed().count());
        let mut counted = CheckOutcome::Passed;
        if left > 0 {
            counts += &format!(", {left} not verified: the time was over");
            counted = CheckOutcome::Skipped;
        }
        let counted = ReportCheck { name: "snapshots".into(), outcome: counted, detail: counts };
        let failed = self.failed().take(MOST_FAILED).map(check);
        let rest = self.snapshots.iter().rev().filter(|one| one.outcome.is_ok());
        let rest = rest.take(MOST_PASSED).map(check);
        let milliseconds = took.as_millis() as u64;
        Report {
            kind: "verify".into(),
            tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
            snapshot: None,
            cluster: cluster.cloned(),
            level: Some(self.level.name().into()),
            key: only_key(self.snapshots.iter().map(|one| one.opened_by)),
            scope: self.scope,
            outcome: match self.worst() {
                Some(_) => ReportOutcome::Failed,
                // What is not known is not good.
                None if left > 0 => ReportOutcome::Failed,
                None if self.stretches.iter().any(VerifiedStretch::is_different) => {
                    ReportOutcome::Failed
                }
                None if self.has_findings() => ReportOutcome::Findings,
                None => ReportOutcome::Passed,
            },
            details: Some(ReportDetails {
                steps: vec![ReportStep { name: "verify".into(), milliseconds }],
                checks: std::iter::once(counted)
                    .chain(failed)
                    .chain(newest_checks(&self.stretches))
                    .chain(rest)
                    .collect(),
            }),
        }
    }

    fn failed(&self) -> impl Iterator<Item = &Verified> {
        self.snapshots.iter().filter(|one| one.outcome.is_err())
    }
}

/// Verifies the snapshots in `scope`; unless it names them, folders that lost their manifest fail as well.
///
/// With a deadline in `control` the newest snapshot comes first and the others in an order that differs from run to run.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is nothing to verify: that is never a success; those of the store.
/// What a snapshot's own bytes do wrong stands in the report.
pub async fn verify(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    level: VerifyLevel,
    control: &Control,
) -> Result<VerifyReport> {
    control
        .guard(async {
            let scope_of_report = match scope {
                Scope::All => ReportScope::Repository,
                Scope::Cluster(_) => ReportScope::Cluster,
                Scope::Ids(_) => ReportScope::One,
            };
            let mut report = VerifyReport {
                level,
                snapshots: Vec::new(),
                stretches: Vec::new(),
                findings: Vec::new(),
                is_incomplete: false,
                scope: scope_of_report,
                not_verified: Vec::new(),
            };
            let listed = control.in_time(in_scope(repository, keys, scope, &mut report)).await;
            let ids = listed.unwrap_or_else(|| Err(out_of_time()))?;
            each(repository, keys, ids, level, control, &mut report).await?;
            if report.snapshots.is_empty() && report.not_verified.is_empty() {
                return Err(Error::new(ErrorKind::NotFound, "there is no snapshot to verify")
                    .hint("take one with `strongroom backup`"));
            }
            if level == VerifyLevel::Deep && report.not_verified.is_empty() {
                verify_journals(repository, keys, scope, control, &mut report).await?;
            }
            report.snapshots.sort_by_key(|verified| verified.id);
            if !matches!(scope, Scope::Ids(_)) && report.not_verified.is_empty() {
                let links = report.snapshots.iter();
                let links = links.filter_map(|one| Some((one.id, one.link.clone()?))).collect();
                let chain = chain::compare(repository, keys, &links).await?;
                report.is_incomplete = !chain.missing.is_empty();
                report.findings.extend(chain.missing.into_iter().chain(chain.again));
            }
            Ok(report)
        })
        .await
}

/// Verifies `ids` until the time is over.
async fn each(
    repository: &Repository,
    keys: &KeySet,
    mut ids: Vec<SnapshotId>,
    level: VerifyLevel,
    control: &Control,
    report: &mut VerifyReport,
) -> Result<()> {
    if control.has_deadline() {
        ids.sort_by_cached_key(|_| crypto::random::<8>(&mut crypto::system_rng()));
        if let Some(newest) = (0..ids.len()).max_by_key(|at| ids.get(*at)) {
            ids.swap(0, newest);
        }
    }
    let mut ids = ids.into_iter();
    while let Some(id) = ids.next() {
        let mut verified = Verified::new(id);
        let looked_at = one(repository, keys, level, control, &mut verified);
        match control.in_time(looked_at).await {
            None => {
                report.not_verified = std::iter::once(id).chain(ids).collect();
                report.not_verified.sort_unstable();
                return Ok(());
            }
            Some(Err(Failure::Job(error))) => return Err(error),
            Some(Err(Failure::Snapshot(error))) => verified.outcome = Err(error),
            Some(Ok(())) => {}
        }
        report.snapshots.push(verified);
    }
    Ok(())
}

fn out_of_time() -> Error {
    Error::new(ErrorKind::Unreachable, "the time was over before the snapshots were listed")
        .hint("nothing was verified: the store is slow, or lists more than it should")
}

/// Verifies what was recorded before each snapshot in `scope`, back to the snapshot before it.
async fn verify_journals(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    control: &Control,
    report: &mut VerifyReport,
) -> Result<()> {
    let (wanted, dir) = (Stretches::of(scope), env::temp_dir());
    report.stretches = verify_stretches(repository, keys, &wanted, &dir, control).await?;
    report.findings.extend(report.stretches.iter().filter_map(VerifiedStretch::finding));
    Ok(())
}

/// The snapshots in `scope`; what their listing shows is noted in the report.
async fn in_scope(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    report: &mut VerifyReport,
) -> Result<Vec<SnapshotId>> {
    let cluster = match scope {
        Scope::Ids(ids) => return Ok(ids.to_vec()),
        Scope::Cluster(cluster) => Some(cluster),
        Scope::All => None,
    };
    let listing = catalog::snapshots(repository, cluster).await?;
    report.findings = listing.findings;
    report.snapshots.extend(listing.orphans.into_iter().map(orphan));
    // Not from the listing: a manifest that does not parse must not be passed over.
    let folders = catalog::folders_of(repository, scope).await?;
    let ids: Vec<_> = folders.into_iter().map(|(id, _)| id).collect();
    if cluster.is_some() {
        look_past(repository, keys, &ids, report).await?;
    }
    Ok(ids)
}

/// Looks at the snapshots that are left out because their manifests, which anyone may have altered, name other clusters.
async fn look_past(
    repository: &Repository,
    keys: &KeySet,
    chosen: &[SnapshotId],
    report: &mut VerifyReport,
) -> Result<()> {
    let mut others = 0;
    for (id, folder) in catalog::folders_of(repository, Scope::All).await? {
        if chosen.contains(&id) {
            continue;
        }
        match open::unseal(repository, id, &folder, keys).await {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) if error.kind() != ErrorKind::WrongKey => {
                report.snapshots.push(Verified { outcome: Err(error), ..Verified::new(id) });
            }
            _ => others += 1,
        }
    }
    if others > 0 {
        report.findings.push(format!("{others} snapshot(s) of other clusters are not verified"));
    }
    Ok(())
}

fn orphan(id: SnapshotId) -> Verified {
    let error = Error::truncated(format!("snapshot {id} has no manifest"))
        .hint("a backup that was killed, or a manifest that was deleted");
    Verified { outcome: Err(error), ..Verified::new(id) }
}

/// What keeps a snapshot from being verified.
enum Failure {
    /// The snapshot itself.
    Snapshot(Error),
    /// Something that all snapshots need: the store, or disk space. It says nothing about the snapshot.
    Job(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unreachable => Self::Job(error),
            _ => Self::Snapshot(error),
        }
    }
}

async fn one(
    repository: &Repository,
    keys: &KeySet,
    level: VerifyLevel,
    control: &Control,
    verified: &mut Verified,
) -> Result<(), Failure> {
    let id = verified.id;
    match level {
        VerifyLevel::Quick => {
            let folder = folder::list_or_look_up(repository, id).await?;
            let unsealed = open::unseal(repository, id, &folder, keys).await?;
            open::open_facts(&unsealed)?;
            let by = unsealed.opened()?.opened_by;
            let findings = unsealed.findings;
            verified.judged(Some(by), unsealed.standing, findings, &unsealed.manifest);
            Ok(open::check_lengths(&unsealed.manifest, &folder)?)
        }
        VerifyLevel::Digests => {
            let folder = folder::list_or_look_up(repository, id).await?;
            if folder.manifest.is_none() {
                return Err(open::missing_manifest(id, &folder).into());
            }
            let manifest = open::read_manifest(repository, id).await?;
            if !keys.signers().is_empty() {
                let authentic = seals::authenticate(repository, &folder, keys, &manifest).await?;
                let judged = &authentic.judged;
                let by = judged.opened.as_ref().map(|opened| opened.opened_by);
                verified.judged(by, judged.standing, authentic.findings, &manifest);
            }
            open::check_lengths(&manifest, &folder)?;
            Ok(digests(repository, &manifest, control).await?)
        }
        VerifyLevel::Full | VerifyLevel::Deep => {
            let mut opened = OpenSnapshot::open_any(repository, id, keys).await?;
            let findings = std::mem::take(&mut opened.findings);
            verified.judged(Some(opened.opened_by), opened.standing, findings, &opened.manifest);
            if let Some(tar) =
                companions::open(repository, &opened.manifest, &opened.data_key).await?
            {
                companions::list(&tar)?;
            }
            control
                .begin(&format!("verifying {id}"), Some(opened.database.index().database().size));
            if level == VerifyLevel::Full {
                let follower = Follower::Nobody;
                read_all(&opened.database, Place::Nowhere, follower, control).await?;
                return Ok(());
            }
            if opened.facts.etcd.hash_kv.as_ref().is_some_and(|hash| !hash.differing.is_empty()) {
                verified.findings.push(format!(
                    "snapshot {id}: etcd's members disagreed about their data when it was taken"
                ));
            }
            verified.deep = Some(walk(&opened, control).await?);
            Ok(())
        }
    }
}

/// Walks over the database, in a scratch file whose disk space is reserved before.
async fn walk(opened: &OpenSnapshot, control: &Control) -> Result<Deep, Failure> {
    let spool = Arc::new(Scratch::new(&env::temp_dir(), opened.database.index()));
    spool.reserve().map_err(Failure::Job)?;
    let walked = deep::walk(opened, spool.clone(), control).await;
    walked.map_err(|error| match spool.has_failed() {
        true => Failure::Job(error),
        false => error.context(format!("snapshot {}", opened.manifest.body().snapshot)).into(),
    })
}

/// That the objects of `manifest` are what it says they are.
///
/// # Errors
/// Those of SPEC.md §8, and of the store.
pub(super) async fn digests(
    repository: &Repository,
    manifest: &Manifest,
    control: &Control,
) -> Result<()> {
    let manifest = manifest.body();
    let total = manifest.objects.iter().map(|object| object.length).sum();
    control.begin(&format!("digesting {}", manifest.snapshot), Some(total));
    for object in &manifest.objects {
        let name = object.part.of(manifest.snapshot);
        let mut pieces = pin!(pieces(repository, &name, object));
        while let Some(piece) = pieces.try_next().await.context(name.clone())? {
            control.step(Step::Advance(piece.len() as u64));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_many_snapshots_fits() {
        let id = |ms| SnapshotId::new(ms, [7; 10]);
        let failed = |ms| Verified {
            outcome: Err(Error::tampered("\u{fffd}".repeat(5000))),
            ..Verified::new(id(ms))
        };
        let mut snapshots: Vec<_> = (0..9000).map(failed).collect();
        snapshots.extend((9000..20_000).map(|ms| Verified::new(id(ms))));
        let (findings, scope) = (Vec::new(), ReportScope::Repository);
        let report = VerifyReport {
            level: VerifyLevel::Full,
            snapshots,
            stretches: Vec::new(),
            findings,
            is_incomplete: false,
            scope,
            not_verified: Vec::new(),
        };
        let report = report.evidence(None, Duration::ZERO);
        let details = report.details.unwrap();
        assert!(details.print().unwrap().len() < 1 << 20);
        assert_eq!(details.checks[0].detail, "20000 verified, 9000 failed");
        assert!(details.checks.iter().any(|check| check.name == id(19_999).to_string()));
    }
}
