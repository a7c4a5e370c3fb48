//! Doing what a plan says, in the order of SPEC.md §3.3: whenever it ends, every snapshot is complete, removed or gone.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};

use super::plan::{PrunePlan, Removal, Sweep};
use serde::Serialize;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::serial;
use crate::format::{
    CheckOutcome, ClusterName, MAX_MANIFEST, Part, Report, ReportCheck, ReportDetails,
    ReportOutcome, ReportScope, ReportStep, SnapshotId,
};
use crate::keys::KeySet;
use crate::snapshot::{folder, open, seals};
use crate::store::Repository;
use crate::task::{Control, Step, Unit};

/// What a sweep mark says.
const SWEEP: &str = "strongroom-sweep/1\n";
/// What a keep mark begins with; a line of reason follows.
const KEEP: &str = "strongroom-keep/1\n";
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
    /// Bytes deleted of earlier removals and of backups that were never finished.
    pub freed_bytes: u64,
    /// Snapshots that were pinned after the plan was made: they stay.
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
    for id in &plan.revive {
        // Somebody else may be removing it just now.
        if exists(repository, *id, &Part::Manifest).await? {
            let name = Part::Tombstone.of(*id);
            unless_refused(repository.delete(&name).await, &mut report)?;
        }
    }
    for id in &plan.marks {
        put_mark(repository, *id, &Part::Sweep, SWEEP).await?;
    }
    let total = plan.remove.len() + plan.sweeps.len();
    control.begin_counting("removing", Some(total as u64), Unit::Snapshots);
    let mut removals = stream::iter(plan.remove.clone())
        .map(|removal| async move {
            control.check()?;
            Ok::<_, Error>((removal.id, remove(repository, &removal).await))
        })
        .buffered(AT_ONCE);
    while let Some(removed) = removals.next().await {
        let (id, outcome) = removed?;
        match outcome {
            Ok(true) => report.removed.push(id),
            Ok(false) => report.pinned.push(id),
            Err(error) => drop(unless_refused(Err(error), &mut report)?),
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
            report.swept.push(sweep.id);
            report.freed_bytes += sweep.bytes;
        }
        control.step(Step::Advance(1));
    }
    report.duration = begun.elapsed();
    Ok(report)
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
            checks: counted.into_iter().chain(removed).chain(refused).collect(),
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

/// Step one of a removal: from then on the snapshot is in no list. False for one that was pinned since it was planned.
async fn remove(repository: &Repository, removal: &Removal) -> Result<bool> {
    let id = removal.id;
    let (manifest, tombstone) = (Part::Manifest.of(id), Part::Tombstone.of(id));
    let folder = folder::list_one(repository, id).await?;
    if folder.keep.is_some() {
        return Ok(false);
    }
    let bytes = match repository.get(&manifest, MAX_MANIFEST as u64).await {
        // Another prune was faster, and its tombstone stays.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        read => read?,
    };
    // An old one would be swept at once. One that came after the plan is of another prune at work.
    let there = folder.tombstone.map(|info| info.modified);
    if there.is_some() && there == removal.old_tombstone {
        repository.delete(&tombstone).await?;
    }
    // Beside a manifest nothing is swept: an interrupted sweep left it, or it was planted to prevent an undo.
    if removal.old_mark {
        repository.delete(&Part::Sweep.of(id)).await?;
    }
    repository.put_once(&tombstone, bytes.clone()).await?;
    if let Err(error) = repository.delete(&manifest).await {
        if error.kind() == ErrorKind::Denied {
            // It stays, and is to be seen.
            let _ = repository.delete(&tombstone).await;
        }
        return Err(error);
    }
    if exists(repository, id, &Part::Keep).await? {
        repository.put_once(&manifest, bytes).await?;
        repository.delete(&tombstone).await?;
        return Ok(false);
    }
    // Another prune may have taken the tombstone for an old one, and deleted it.
    if !exists(repository, id, &Part::Tombstone).await? {
        repository.put_once(&tombstone, bytes).await?;
    }
    Ok(true)
}

/// Step two: deletes all that is left, each object only while there is no manifest.
async fn sweep_folder(repository: &Repository, sweep: &Sweep) -> Result<()> {
    let id = sweep.id;
    put_mark(repository, id, &Part::Sweep, SWEEP).await?;
    let mark = Part::Sweep.of(id);
    for name in sweep.objects.iter().filter(|name| **name != mark) {
        if exists(repository, id, &Part::Manifest).await? {
            repository.delete(&mark).await?;
            let message = format!("snapshot {id} has a manifest again");
            return Err(Error::new(ErrorKind::Refused, message).hint(
                "somebody brought it back while it was being swept: `strongroom verify` it",
            ));
        }
        repository.delete(name).await?;
    }
    repository.delete(&mark).await
}

/// Brings back snapshot `id`, which was removed and not yet swept, and pins it.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when it was not removed; [`Refused`](ErrorKind::Refused) when its objects are
/// being deleted; those of SPEC.md §8 when `keys` do not authenticate it, or something of it is missing; those of the
/// store.
pub async fn undo_removal(repository: &Repository, keys: &KeySet, id: SnapshotId) -> Result<()> {
    let folder = folder::list_one(repository, id).await?;
    if folder.manifest.is_some() || folder.tombstone.is_none() {
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
    put_mark(repository, id, &Part::Keep, &keep_mark("its removal was undone")).await?;
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

/// Makes retention keep snapshot `id` until it is [unpinned](unpin). `reason` is for people, one line of ASCII.
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
    if folder.manifest.is_none() {
        return Err(open::missing_manifest(id, &folder));
    }
    // What it says does not matter, and whoever pinned it first has said why.
    match folder.keep {
        Some(_) => Ok(()),
        None => put_mark(repository, id, &Part::Keep, &keep_mark(reason)).await,
    }?;
    // A prune that had looked before may have removed it; one that looks after it puts it back.
    match exists(repository, id, &Part::Manifest).await? {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Refused, format!("snapshot {id} was being removed"))
            .hint(format!("if `strongroom show {id}` does not find it, `strongroom prune --undo {id}` brings it back"))),
    }
}

fn keep_mark(reason: &str) -> String {
    format!("{KEEP}{reason}\n")
}

/// Lets retention decide about snapshot `id` again.
///
/// # Errors
/// Those of the store.
pub async fn unpin(repository: &Repository, id: SnapshotId) -> Result<()> {
    repository.delete(&Part::Keep.of(id)).await
}

async fn exists(repository: &Repository, id: SnapshotId, part: &Part) -> Result<bool> {
    match repository.len(&part.of(id)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts a mark, unless there is one.
async fn put_mark(repository: &Repository, id: SnapshotId, part: &Part, text: &str) -> Result<()> {
    if exists(repository, id, part).await? {
        return Ok(());
    }
    let bytes = text.to_owned().into_bytes();
    match repository.put_once(&part.of(id), bytes.into()).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        put => put,
    }
}
