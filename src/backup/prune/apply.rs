//! Doing what a plan says, in the order of SPEC.md §3.3: whenever it ends, every snapshot is complete, removed or gone.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};

use super::named;
use super::planned::PrunePlan;
use super::steps::{Of, UNDONE, remove, sweep_folder};
use serde::Serialize;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::serial;
use crate::format::{
    CheckOutcome, ClusterName, Part, Report, ReportCheck, ReportDetails, ReportOutcome,
    ReportScope, ReportStep, SnapshotId,
};
use crate::journal::bundle::check_bundle;
use crate::keys::KeySet;
use crate::snapshot::{folder, open, seals};
use crate::store::Repository;
use crate::task::{Control, Step, Unit};

/// Snapshots worked on at once.
const AT_ONCE: usize = 32;

/// Of each kind, in a report.
const MOST_CHECKS: usize = 1000;

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PruneReport {
    /// Snapshots that were removed, oldest first.
    pub removed: Vec<SnapshotId>,
    /// Folders of which nothing is left.
    pub swept: Vec<SnapshotId>,
    /// Journals that were removed, oldest first.
    pub removed_journals: Vec<SnapshotId>,
    /// Folders of journals of which nothing is left.
    pub swept_journals: Vec<SnapshotId>,
    /// Bytes deleted of earlier removals and of backups that were never finished.
    pub freed_bytes: u64,
    /// Snapshots and journals that were pinned after the plan was made: they stay.
    pub pinned: Vec<SnapshotId>,
    /// What the store does not let go of: a lock, a retention rule, missing rights.
    pub refused: Vec<String>,
    /// Wall time.
    #[serde(rename = "duration_seconds", serialize_with = "serial::seconds")]
    pub duration: Duration,
}

/// Carries out `plan`. A snapshot is removed once its manifest is gone; its objects are deleted by a later plan, when
/// the grace period is over.
///
/// # Errors
/// Those of the store, but for what it refuses to delete, which is reported. What was not done is done next time.
pub async fn apply_prune(
    repository: &Repository,
    plan: &PrunePlan,
    control: &Control,
) -> Result<PruneReport> {
    let begun = Instant::now();
    let mut report = PruneReport::default();
    // The clocks of both decide what is due.
    if !plan.is_empty()
        && let Some(skew) = repository.skew().await?
    {
        return Err(Error::new(ErrorKind::Refused, format!("nothing is removed: {skew}"))
            .hint("set the clocks of this host and of the store, then run prune again"));
    }
    settle_marks(repository, plan, &mut report).await?;
    let removals: Vec<_> = plan.removals().collect();
    let total = removals.len() + plan.sweeps.len();
    control.begin_counting("removing", Some(total as u64), Unit::Snapshots);
    let mut removals = stream::iter(removals)
        .map(|planned| async move {
            control.check()?;
            Ok::<_, Error>((planned.of, remove(repository, planned).await))
        })
        .buffered(AT_ONCE);
    while let Some(removed) = removals.next().await {
        let (of, outcome) = removed?;
        match (of, outcome) {
            (Of::Snapshot(id), Ok(true)) => report.removed.push(id),
            (Of::Journal(id), Ok(true)) => report.removed_journals.push(id),
            (Of::Snapshot(id) | Of::Journal(id), Ok(false)) => report.pinned.push(id),
            (_, Err(error)) => drop(unless_refused(Err(error), &mut report)?),
        }
        control.step(Step::Advance(1));
    }
    drop(removals);
    let mut sweeps = stream::iter(plan.sweeps.clone())
        .map(|sweep| async move {
            control.check()?;
            let outcome = sweep_folder(repository, &sweep).await;
            Ok::<_, Error>((sweep, outcome))
        })
        .buffered(AT_ONCE);
    while let Some(swept) = sweeps.next().await {
        let (sweep, outcome) = swept?;
        if unless_refused(outcome, &mut report)? {
            match sweep.of {
                Of::Snapshot(id) => report.swept.push(id),
                Of::Journal(id) => report.swept_journals.push(id),
            }
            report.freed_bytes += sweep.bytes;
        }
        control.step(Step::Advance(1));
    }
    drop(sweeps);
    delete_replaced(repository, plan, control, &mut report).await?;
    report.duration = begun.elapsed();
    Ok(report)
}

/// Deletes what bundles have replaced.
async fn delete_replaced(
    repository: &Repository,
    plan: &PrunePlan,
    control: &Control,
    report: &mut PruneReport,
) -> Result<()> {
    for replaced in &plan.replaced {
        control.check()?;
        // What the plan knows of the bundle is its length.
        match check_bundle(repository, &replaced.bundled).await {
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => {
                report.refused.push(format!("its segments stay: {error}"));
                continue;
            }
            Ok(()) => {}
        }
        let mut deleting = stream::iter(replaced.objects.clone())
            .map(|name| async move { repository.delete(&name).await })
            .buffered(AT_ONCE);
        let mut is_gone = true;
        while let Some(deleted) = deleting.next().await {
            is_gone &= unless_refused(deleted, report)?;
        }
        if is_gone {
            report.freed_bytes += replaced.bytes;
        }
    }
    Ok(())
}

/// Deletes tombstones of what is kept, and marks what a later run sweeps.
async fn settle_marks(
    repository: &Repository,
    plan: &PrunePlan,
    report: &mut PruneReport,
) -> Result<()> {
    for of in &plan.revive {
        // Somebody else may be removing it just now.
        if of.is_there(repository).await? {
            unless_refused(repository.delete(&of.tombstone()).await, report)?;
        }
    }
    for of in &plan.marks {
        of.mark_to_sweep(repository).await?;
    }
    Ok(())
}

/// The evidence of a removal, for [`store_report`](crate::backup::store_report).
pub fn prune_report(
    plan: &PrunePlan,
    report: &PruneReport,
    cluster: Option<&ClusterName>,
    planned: Duration,
) -> Report {
    let milliseconds = |time: Duration| time.as_millis() as u64;
    let check = |name: String, outcome, detail: String| ReportCheck {
        name,
        outcome,
        detail: detail.chars().take(500).collect(),
    };
    let removed = report
        .removed
        .iter()
        .take(MOST_CHECKS)
        .map(|id| check(id.to_string(), CheckOutcome::Passed, "removed".into()));
    let journals = report.removed_journals.iter().take(MOST_CHECKS);
    let journals =
        journals.map(|id| check(format!("journal {id}"), CheckOutcome::Passed, "removed".into()));
    let refused = report.refused.iter().take(MOST_CHECKS);
    let refused = refused.map(|why| check("stays".into(), CheckOutcome::Failed, why.clone()));
    let counts = format!(
        "{} kept, {} removed, {} bytes freed",
        plan.keep.len(),
        report.removed.len(),
        report.freed_bytes
    );
    let counted = [check("snapshots".into(), CheckOutcome::Passed, counts)];
    Report {
        kind: "prune".into(),
        tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
        snapshot: None,
        cluster: cluster.cloned(),
        level: None,
        key: None,
        scope: cluster.map_or(ReportScope::Repository, |_| ReportScope::Cluster),
        outcome: match report.refused.is_empty() {
            true => ReportOutcome::Passed,
            false => ReportOutcome::Failed,
        },
        details: Some(ReportDetails {
            steps: vec![
                ReportStep { name: "plan".into(), milliseconds: milliseconds(planned) },
                ReportStep { name: "remove".into(), milliseconds: milliseconds(report.duration) },
            ],
            checks: counted.into_iter().chain(removed).chain(journals).chain(refused).collect(),
        }),
    }
}

/// False for what the store refuses, which the report then says.
fn unless_refused(outcome: Result<()>, report: &mut PruneReport) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Denied => {
            report.refused.push(error.to_string());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Brings back the snapshot or journal `id`, which was removed and not yet swept, and pins it.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when it was not removed; [`Refused`](ErrorKind::Refused) when its objects are
/// being deleted; those of SPEC.md §8 when `keys` do not authenticate it, or something of it is missing; those of the
/// store.
pub async fn undo_removal(repository: &Repository, keys: &KeySet, id: SnapshotId) -> Result<()> {
    let folder = folder::list_one(repository, id).await?;
    if folder.manifest.is_some() || folder.tombstone.is_none() {
        if named::undo_removal(repository, keys, id).await? {
            return Ok(());
        }
        return Err(Error::new(ErrorKind::NotFound, format!("snapshot {id} was not removed")));
    }
    if folder.sweep.is_some() {
        let manifest = open::read_tombstone(repository, id).await;
        let complete = manifest.and_then(|manifest| open::check_lengths(&manifest, &folder));
        return Err(marked(id, complete.is_ok()));
    }
    let named = async {
        let manifest = open::read_tombstone(repository, id).await?;
        let standing =
            seals::authenticate(repository, &folder, keys, &manifest).await?.judged.standing;
        if !standing.counts() {
            return Err(Error::new(ErrorKind::Refused, standing.to_string()));
        }
        open::check_lengths(&manifest, &folder)?;
        Ok(manifest)
    };
    let manifest = named.await.context(format!("snapshot {id}"))?;
    Of::Snapshot(id).mark_to_keep(repository, UNDONE).await?;
    let name = Part::Manifest.of(id);
    repository.put_once(&name, manifest.print().into()).await?;
    // A sweep that began meanwhile left its mark; or it has seen the manifest, taken the mark away and stopped, after it had
    // deleted something.
    let now = folder::list_one(repository, id).await?;
    if now.sweep.is_some() || open::check_lengths(&manifest, &now).is_err() {
        repository.delete(&name).await?;
        return Err(marked(id, open::check_lengths(&manifest, &now).is_ok()));
    }
    repository.delete(&Part::Tombstone.of(id)).await
}

/// Why a removed snapshot with a mark is not brought back.
fn marked(id: SnapshotId, complete: bool) -> Error {
    let mark = Part::Sweep.of(id);
    let (state, hint) = match complete {
        true => (
            "all its objects are still there",
            format!(
                "if no prune is running, delete {mark} from the store and run the command again"
            ),
        ),
        false => ("objects of it are gone", "it cannot be brought back; a copy may have it".into()),
    };
    let message = format!(
        "snapshot {id} is marked for sweeping by {mark}: its grace period is over, or somebody put the mark there; {state}"
    );
    Error::new(ErrorKind::Refused, message).hint(hint)
}

/// Makes retention keep the snapshot or journal `id` until it is [unpinned](unpin). `reason` is for people, one line of ASCII.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when there is no snapshot `id`; [`Refused`](ErrorKind::Refused) when it was removed;
/// those of the store.
pub async fn pin(repository: &Repository, id: SnapshotId, reason: &str) -> Result<()> {
    let folder = folder::list_one(repository, id).await?;
    if folder.manifest.is_none() && folder.tombstone.is_some() {
        let message = format!("snapshot {id} was removed: a pin would not keep it");
        return Err(Error::new(ErrorKind::Refused, message)
            .hint(format!("`strongroom prune --undo {id}` brings it back, and pins it")));
    }
    let of = match folder.manifest {
        Some(_) => Of::Snapshot(id),
        None if Of::Journal(id).is_there(repository).await? => Of::Journal(id),
        None => return Err(open::missing_manifest(id, &folder)),
    };
    // What it says does not matter, and whoever pinned it first has said why.
    of.mark_to_keep(repository, reason).await?;
    // A prune that had looked before may have removed it; one that looks after it puts it back.
    match of.is_there(repository).await? {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Refused, format!("{of} was being removed"))
            .hint(format!("if it is not listed, `strongroom prune --undo {id}` brings it back"))),
    }
}

/// Lets retention decide about the snapshot or journal `id` again.
///
/// # Errors
/// Those of the store.
pub async fn unpin(repository: &Repository, id: SnapshotId) -> Result<()> {
    match Of::Journal(id).is_pinned(repository).await? {
        true => Of::Journal(id).unpin(repository).await,
        false => Of::Snapshot(id).unpin(repository).await,
    }
}
