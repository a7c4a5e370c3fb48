//! `prune`

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use serde::Serialize;
use serde_json::json;
use strongroom::Result;
use strongroom::backup::{
    JournalRemoval, Keeping, PrunePlan, PruneReport, QUARANTINE, Removal, Retention, Suspect,
    Within, apply_prune, pin, plan_prune, plan_quarantine, plan_removal, prune_report,
    remove_failing_seals, store_report, suspects, undo_removal, unpin,
};
use strongroom::format::{SnapshotId, Time};
use strongroom::text::counted;

use super::{Context, FINDINGS};
use crate::args::{PruneArgs, WriteOut};
use crate::output::{Dated, bytes, created, table, write_stdout};

pub(super) async fn run(args: PruneArgs, context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    if let Some(done) = one(&args, context).await? {
        return Ok(done);
    }
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let begun = Instant::now();
    let cluster = settings.cluster.as_ref();
    let keep = Retention { allow_empty: args.allow_empty, ..args.keep };
    let control = &context.control;
    let plan = match (args.remove.as_slice(), &args.quarantine) {
        (_, Some(ids)) => plan_quarantine(&repository, &keys, ids, control).await?,
        ([], None) => plan_prune(&repository, &keys, &keep, cluster, control).await?,
        (ids, None) => plan_removal(&repository, &keys, ids).await?,
    };
    let planned = begun.elapsed();
    let shown = if args.quarantine.is_some() { quarantined } else { text };
    plan.findings.iter().for_each(|finding| context.output.warn(finding));
    plan.blocked.iter().for_each(|blocked| context.output.warn(blocked));
    if args.dry_run {
        context.output.result(Document::new(&plan, None), || shown(&plan))?;
        context.output.note("nothing was removed; run it without --dry-run to do this");
        return Ok(status(plan.blocked.is_empty()));
    }
    if context.output.format == WriteOut::Table {
        write_stdout(shown(&plan).trim_end())?;
    }
    let report = apply_prune(&repository, &plan, &context.control).await?;
    if !plan.is_empty() {
        let evidence = prune_report(&plan, &report, cluster, planned);
        store_report(&repository, &keys, &evidence).await?;
    }
    for id in &report.pinned {
        context.output.warn(&format!("stays: {id} was pinned after the plan was made"));
    }
    report.refused.iter().for_each(|refused| context.output.warn(&format!("stays: {refused}")));
    let status = status(report.refused.is_empty() && plan.blocked.is_empty());
    let status = context.output.done(status, Document::new(&plan, Some(&report)), || {
        let (removed, freed) = (report.removed.len(), bytes(report.freed_bytes));
        match args.quarantine {
            Some(_) => format!("{removed} removed; {freed} freed by earlier removals"),
            None => format!(
                "{} kept, {removed} removed{}; {freed} freed by earlier removals",
                counted(plan.keep.len(), "snapshot"),
                of_journals(plan.journals.kept, report.removed_journals.len()),
            ),
        }
    })?;
    if let Some(id) = report.removed.iter().chain(&report.removed_journals).next() {
        context.output.note(&match args.quarantine {
            Some(_) => format!(
                "next: after that date run the same command again; `strongroom prune --undo {id}` only if {id} may be authentic"
            ),
            None => format!("`strongroom prune --undo {id}` brings a removed one back"),
        });
    }
    Ok(status)
}

/// Nothing where there are no journals.
fn of_journals(kept: usize, removed: usize) -> String {
    match (kept, removed) {
        (0, 0) => String::new(),
        _ => format!("; {} kept, {removed} removed", counted(kept, "journal")),
    }
}

fn status(all_done: bool) -> ExitCode {
    if all_done { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) }
}

/// What concerns one snapshot or journal and no rule.
async fn one(args: &PruneArgs, context: &Context) -> Result<Option<ExitCode>> {
    let (id, done) = if let Some(id) = args.undo {
        let repository = context.repository().await?;
        let keys = context.needed_keys(&repository).await?;
        undo_removal(&repository, &keys, id).await?;
        (id, "brought back and pinned")
    } else if let Some(id) = args.pin {
        pin(&context.repository().await?, id, "pinned by its operator").await?;
        (id, "pinned")
    } else if let Some(id) = args.unpin {
        unpin(&context.repository().await?, id).await?;
        (id, "not pinned")
    } else if let Some(ids) = args.quarantine.as_ref().filter(|ids| ids.is_empty() || args.seals) {
        return quarantine(ids, context).await.map(Some);
    } else {
        return Ok(None);
    };
    let json = json!({ "id": id, "done": done });
    context.output.done(ExitCode::SUCCESS, json, || format!("{id}: {done}")).map(Some)
}

/// Without ids, lists the folders that nothing authenticates; with ids, deletes the seals of these that fail.
async fn quarantine(ids: &[SnapshotId], context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let keys = context.needed_keys(&repository).await?;
    if ids.is_empty() {
        let found = suspects(&repository, &keys, &context.control).await?;
        context.output.result(&found, || {
            let time = |time: Option<SystemTime>| {
                time.map_or_else(String::new, |time| Time::from(time).to_string())
            };
            let row = |one: &Suspect| {
                let (objects, stored) = (one.objects.to_string(), bytes(one.stored_bytes));
                let id = one.id.to_string();
                vec![id, objects, stored, time(one.written), time(one.removed), one.why.clone()]
            };
            let header = ["ID", "OBJECTS", "STORED", "WRITTEN", "REMOVED", "WHY"];
            table(&header, &[1, 2], found.iter().map(row).collect())
        })?;
        context.output.note(&match found.len() {
            0 => "nothing to quarantine: each folder is authentic, or needs a key that is not available to tell".into(),
            n => format!("{} that no key authenticates; after you have looked at one: `strongroom prune --quarantine ID`", counted(n, "folder")),
        });
        return Ok(status(found.is_empty()));
    }
    let mut deleted = Vec::new();
    for id in ids {
        deleted.extend(remove_failing_seals(&repository, &keys, *id, &context.control).await?);
    }
    context.output.done(ExitCode::SUCCESS, json!({ "deleted": deleted }), || {
        deleted.iter().map(|name| format!("{name}: deleted\n")).collect::<String>()
            + &format!("deleted: {}", counted(deleted.len(), "seal"))
    })
}

/// A plan, and what came of it; null for a plan that is only shown.
#[derive(Serialize)]
struct Document<'a> {
    within: &'a [Within],
    keep: Vec<Dated<'a, Keeping>>,
    remove: Vec<Dated<'a, Removal>>,
    sweep: Vec<SnapshotId>,
    journals: Journals<'a>,
    frees_bytes: u64,
    findings: &'a [String],
    blocked: &'a [String],
    removed: Option<&'a [SnapshotId]>,
    swept: Option<&'a [SnapshotId]>,
    freed_bytes: Option<u64>,
    pinned: Option<&'a [SnapshotId]>,
    refused: Option<&'a [String]>,
    duration_seconds: Option<f64>,
}

/// The part of a plan that is about journals.
#[derive(Serialize)]
struct Journals<'a> {
    within: &'a [Within],
    kept: usize,
    remove: Vec<Dated<'a, JournalRemoval>>,
    sweep: Vec<SnapshotId>,
    removed: Option<&'a [SnapshotId]>,
    swept: Option<&'a [SnapshotId]>,
}

fn dated<T>(all: &[T], id: impl Fn(&T) -> SnapshotId) -> Vec<Dated<'_, T>> {
    all.iter().map(|one| Dated::new(one, id(one))).collect()
}

impl<'a> Document<'a> {
    fn new(plan: &'a PrunePlan, report: Option<&'a PruneReport>) -> Self {
        Self {
            within: &plan.within,
            keep: dated(&plan.keep, |keeping| keeping.id),
            remove: dated(&plan.remove, |removal| removal.id),
            sweep: plan.swept().collect(),
            journals: Journals {
                within: &plan.journals.within,
                kept: plan.journals.kept,
                remove: dated(&plan.journals.remove, |removal| removal.id),
                sweep: plan.swept_journals().collect(),
                removed: report.map(|report| &*report.removed_journals),
                swept: report.map(|report| &*report.swept_journals),
            },
            frees_bytes: plan.frees(),
            findings: &plan.findings,
            blocked: &plan.blocked,
            removed: report.map(|report| &*report.removed),
            swept: report.map(|report| &*report.swept),
            freed_bytes: report.map(|report| report.freed_bytes),
            pinned: report.map(|report| &*report.pinned),
            refused: report.map(|report| &*report.refused),
            duration_seconds: report.map(|report| report.duration.as_secs_f64()),
        }
    }
}

/// The plan of `--quarantine ID`.
fn quarantined(plan: &PrunePlan) -> String {
    let due = Time::from(SystemTime::now() + QUARANTINE);
    let rows = plan.remove.iter().map(|removal| {
        let size = bytes(removal.stored_bytes);
        let why = format!("{size}; its objects can be deleted from {due} on, by the same command");
        vec![removal.id.to_string(), "remove".into(), why]
    });
    let mut text = match plan.remove.is_empty() {
        true => String::new(),
        false => table(&["ID", "", "WHY"], &[], rows.collect()),
    };
    let swept = plan.swept().count();
    if swept > 0 {
        text += &format!("deletes {} of {swept} folders removed earlier\n", bytes(plan.frees()));
    }
    text
}

fn text(plan: &PrunePlan) -> String {
    let keep = plan
        .keep
        .iter()
        .map(|keeping| (keeping.id, Some(&keeping.cluster), "keep", keeping.reasons.join(", ")));
    let remove = plan.remove.iter().map(|removal| {
        let why = format!("{}, deleted after the grace period", bytes(removal.stored_bytes));
        (removal.id, removal.cluster.as_ref(), "remove", why)
    });
    let journals = plan.journals.remove.iter().map(|removal| {
        let JournalRemoval { first_revision, last_revision, stored_bytes, .. } = removal;
        let stored = bytes(*stored_bytes);
        let why = format!(
            "journal of revisions {first_revision}–{last_revision}, {stored}, deleted after the grace period"
        );
        (removal.id, Some(&removal.cluster), "remove", why)
    });
    let mut rows: Vec<_> = keep.chain(remove).chain(journals).collect();
    rows.sort_by_key(|row| row.0);
    let rows = rows.into_iter().map(|(id, cluster, what, why)| {
        let cluster = cluster.map_or_else(|| "unknown".into(), ToString::to_string);
        vec![id.to_string(), cluster, created(id), what.into(), why]
    });
    let within = plan.within.iter().map(|within| {
        let Within { cluster, span, since } = within;
        format!("{cluster}: every snapshot of the last {span} is kept, back to {since}\n")
    });
    let journals = plan.journals.within.iter().map(|within| {
        let Within { cluster, span, since } = within;
        format!("{cluster}: what was recorded in the last {span} is kept, back to {since}\n")
    });
    let mut text: String = within.chain(journals).collect();
    text += &table(&["ID", "CLUSTER", "CREATED", "", "WHY"], &[], rows.collect());
    let (swept, journals) = (plan.swept().count(), plan.swept_journals().count());
    if swept + journals > 0 {
        let freed = bytes(plan.frees());
        let journals = match journals {
            0 => String::new(),
            n => format!(" and {}", counted(n, "journal")),
        };
        text += &format!(
            "also deletes {freed} of {}{journals} removed earlier or never finished\n",
            counted(swept, "snapshot")
        );
    }
    text
}
