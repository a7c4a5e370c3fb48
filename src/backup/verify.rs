//! Verifying snapshots, at four depths.

mod report;

use std::env;
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;

use super::catalog::{self, Scope};
use super::chain;
use super::continuous::{Stretches, VerifiedStretch, verify_stretches};
use super::deep::{self, Deep};
use crate::crypto;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{Manifest, ReportScope, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::companions;
use crate::snapshot::folder;
use crate::snapshot::open::{self, OpenSnapshot};
use crate::snapshot::read::{Follower, Place, pieces, read_all};
use crate::snapshot::seals;
use crate::store::Repository;
use crate::task::{Control, Scratch, Step};
use crate::text::counted;

pub use report::{Verified, VerifyLevel, VerifyReport};

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
        report
            .findings
            .push(format!("not verified: {} of other clusters", counted(others, "snapshot")));
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
