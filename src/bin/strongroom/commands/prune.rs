//! `prune`

use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{
    PrunePlan, PruneReport, apply_prune, pin, plan_prune, plan_removal, prune_report, store_report,
    undo_removal, unpin,
};
use strongroom::format::SnapshotId;

use super::{Context, FINDINGS};
use crate::args::{PruneArgs, WriteOut};
use crate::output::{bytes, created, table, write_stdout};

pub(super) async fn run(args: PruneArgs, context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    if let Some(done) = one(&args, context).await? {
        return Ok(done);
    }
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let begun = Instant::now();
    let cluster = settings.cluster.as_ref();
    let plan = match args.remove.as_slice() {
        [] => plan_prune(&repository, &keys, &args.keep, cluster, &context.control).await?,
        ids => plan_removal(&repository, &keys, ids).await?,
    };
    let planned = begun.elapsed();
    plan.findings.iter().for_each(|finding| context.output.warn(finding));
    plan.blocked.iter().for_each(|blocked| context.output.warn(blocked));
    if args.dry_run {
        context.output.result(json(&plan, None), || text(&plan))?;
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
        context.output.warn(&format!("stays: snapshot {id} was pinned meanwhile"));
    }
    report.refused.iter().for_each(|refused| context.output.warn(&format!("stays: {refused}")));
    context.output.result(json(&plan, Some(&report)), || {
        format!(
            "{} snapshots kept, {} removed; {} freed, of earlier removals",
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
    let json = json!({ "id": id.to_string(), "done": done });
    context.output.result(json, || format!("snapshot {id}: {done}"))?;
    Ok(Some(ExitCode::SUCCESS))
}

fn json(plan: &PrunePlan, report: Option<&PruneReport>) -> Value {
    let keep = plan.keep.iter().map(|keeping| {
        json!({
            "id": keeping.id.to_string(),
            "cluster": keeping.cluster.as_str(),
            "created": created(keeping.id),
            "reasons": keeping.reasons,
        })
    });
    let remove = plan.remove.iter().map(|removal| {
        json!({
            "id": removal.id.to_string(),
            "cluster": removal.cluster.as_str(),
            "created": created(removal.id),
            "stored_bytes": removal.stored_bytes,
        })
    });
    let mut json = json!({
        "keep": keep.collect::<Vec<_>>(),
        "remove": remove.collect::<Vec<_>>(),
        "sweep": plan.swept().map(|id| id.to_string()).collect::<Vec<_>>(),
        "frees_bytes": plan.frees(),
        "findings": plan.findings,
        "blocked": plan.blocked,
    });
    if let (Some(report), Some(map)) = (report, json.as_object_mut()) {
        let ids = |ids: &[SnapshotId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        map.insert("removed".into(), ids(&report.removed).into());
        map.insert("swept".into(), ids(&report.swept).into());
        map.insert("freed_bytes".into(), report.freed_bytes.into());
        map.insert("pinned".into(), ids(&report.pinned).into());
        map.insert("refused".into(), report.refused.clone().into());
        map.insert("duration_seconds".into(), report.duration.as_secs_f64().into());
    }
    json
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
    let mut text = table(&["ID", "CLUSTER", "CREATED", "", "WHY"], &[], rows.collect());
    let swept = plan.swept().count();
    if swept > 0 {
        let freed = bytes(plan.frees());
        text += &format!("and deleted: {freed} of {swept} removed earlier or never finished\n");
    }
    text
}
