//! `prune`

use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use strongroom::Result;
use strongroom::backup::{
    Keeping, PrunePlan, PruneReport, Removal, Retention, Within, apply_prune, pin, plan_prune,
    plan_removal, prune_report, store_report, undo_removal, unpin,
};
use strongroom::format::SnapshotId;

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
    let plan = match args.remove.as_slice() {
        [] => plan_prune(&repository, &keys, &keep, cluster, &context.control).await?,
        ids => plan_removal(&repository, &keys, ids).await?,
    };
    let planned = begun.elapsed();
    plan.findings.iter().for_each(|finding| context.output.warn(finding));
    plan.blocked.iter().for_each(|blocked| context.output.warn(blocked));
    if args.dry_run {
        context.output.result(Document::new(&plan, None), || text(&plan))?;
        context.output.note("nothing was removed; run it without --dry-run to do this");
        return Ok(status(plan.blocked.is_empty()));
    }
    if context.output.format == WriteOut::Table {
        write_stdout(text(&plan).trim_end())?;
    }
    let report = apply_prune(&repository, &plan, &context.control).await?;
    if !plan.is_empty() {
        let evidence = prune_report(&plan, &report, cluster, planned);
        store_report(&repository, &keys, &evidence).await?;
    }
    for id in &report.pinned {
        context.output.warn(&format!("stays: snapshot {id} was pinned after the plan was made"));
    }
    report.refused.iter().for_each(|refused| context.output.warn(&format!("stays: {refused}")));
    context.output.result(Document::new(&plan, Some(&report)), || {
        format!(
            "{} snapshots kept, {} removed; {} freed by earlier removals",
            plan.keep.len(),
            report.removed.len(),
            bytes(report.freed_bytes),
        )
    })?;
    if let Some(id) = report.removed.first() {
        context.output.note(&format!("`strongroom prune --undo {id}` brings a removed one back"));
    }
    Ok(status(report.refused.is_empty() && plan.blocked.is_empty()))
}

fn status(all_done: bool) -> ExitCode {
    if all_done { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) }
}

/// What concerns one snapshot and no rule.
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
    } else {
        return Ok(None);
    };
    let json = json!({ "id": id, "done": done });
    context.output.result(json, || format!("snapshot {id}: {done}"))?;
    Ok(Some(ExitCode::SUCCESS))
}

/// A plan, and what came of it; null for a plan that is only shown.
#[derive(Serialize)]
struct Document<'a> {
    within: &'a [Within],
    keep: Vec<Dated<'a, Keeping>>,
    remove: Vec<Dated<'a, Removal>>,
    sweep: Vec<SnapshotId>,
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

impl<'a> Document<'a> {
    fn new(plan: &'a PrunePlan, report: Option<&'a PruneReport>) -> Self {
        Self {
            within: &plan.within,
            keep: plan.keep.iter().map(|keeping| Dated::new(keeping, keeping.id)).collect(),
            remove: plan.remove.iter().map(|removal| Dated::new(removal, removal.id)).collect(),
            sweep: plan.swept().collect(),
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

fn text(plan: &PrunePlan) -> String {
    let keep = plan
        .keep
        .iter()
        .map(|keeping| (keeping.id, &keeping.cluster, "keep", keeping.reasons.join(", ")));
    let remove = plan.remove.iter().map(|removal| {
        let why = format!("{}, deleted after the grace period", bytes(removal.stored_bytes));
        (removal.id, &removal.cluster, "remove", why)
    });
    let mut rows: Vec<_> = keep.chain(remove).collect();
    rows.sort_by_key(|row| row.0);
    let rows = rows.into_iter().map(|(id, cluster, what, why)| {
        vec![id.to_string(), cluster.to_string(), created(id), what.into(), why]
    });
    let within = plan.within.iter().map(|within| {
        let Within { cluster, span, since } = within;
        format!("{cluster}: every snapshot of the last {span} is kept, back to {since}\n")
    });
    let mut text: String = within.collect();
    text += &table(&["ID", "CLUSTER", "CREATED", "", "WHY"], &[], rows.collect());
    let swept = plan.swept().count();
    if swept > 0 {
        let freed = bytes(plan.frees());
        text += &format!(
            "also deletes {freed} of {swept} snapshots removed earlier or never finished\n"
        );
    }
    text
}
