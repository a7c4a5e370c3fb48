//! `prune`

use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{
    PrunePlan, PruneReport, RepackReport, apply_prune, plan_prune, prune_report, repack,
    store_report,
};
use strongroom::format::SnapshotId;

use super::{Context, FINDINGS};
use crate::args::{PruneArgs, WriteOut};
use crate::output::{bytes, created, table, write_stdout};

pub(super) async fn run(args: PruneArgs, context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    let mut retention = args.keep.retention();
    if retention.is_empty() {
        retention = settings.prune.retention();
    }
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let begun = Instant::now();
    let cluster = settings.cluster.as_ref();
    let plan = plan_prune(&repository, &keys, &retention, cluster, &context.control).await?;
    let planned = begun.elapsed();
    plan.findings.iter().for_each(|finding| context.output.warn(finding));
    if args.dry_run {
        context.output.result(json(&plan, None), || text(&plan))?;
        context.output.note("nothing was removed; without --dry-run that is what happens");
        return Ok(ExitCode::SUCCESS);
    }
    if context.output.format == WriteOut::Table {
        write_stdout(text(&plan).trim_end())?;
    }
    let report = apply_prune(&repository, &plan, &context.control).await?;
    if !plan.is_empty() {
        let evidence = prune_report(&plan, &report, cluster, planned);
        store_report(&repository, &keys, &evidence).await?;
    }
    let repacked = if args.repack {
        let options = settings.backup_options();
        repack(&repository, &keys, cluster, &options, &context.control).await?
    } else {
        RepackReport::default()
    };
    for (id, why) in &repacked.skipped {
        context.output.warn(&format!("snapshot {id} is not repacked: {why}"));
    }
    report.refused.iter().for_each(|refused| context.output.warn(&format!("stays: {refused}")));
    let mut done = json(&plan, Some(&report));
    if let Some(map) = done.as_object_mut().filter(|_| args.repack) {
        let pair = |(old, new): &(SnapshotId, SnapshotId)| json!({"snapshot": old.to_string(), "by": new.to_string()});
        map.insert("replaced".into(), repacked.replaced.iter().map(pair).collect());
    }
    context.output.result(done, || {
        let mut text = format!(
            "{} snapshots kept, {} removed; {} freed now, by what earlier prunes removed",
            plan.keep.len(),
            report.removed.len(),
            bytes(report.freed_bytes),
        );
        if args.repack {
            let (count, written) = (repacked.replaced.len(), bytes(repacked.written_bytes));
            text += &format!("; {count} written anew, {written}");
        }
        text
    })?;
    Ok(if report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
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
            "payload_bytes": removal.payload_bytes,
            "payload_in_use": removal.in_use,
        })
    });
    let mut json = json!({
        "keep": keep.collect::<Vec<_>>(),
        "remove": remove.collect::<Vec<_>>(),
        "sweep": plan.swept().map(|id| id.to_string()).collect::<Vec<_>>(),
        "frees_bytes": plan.frees(),
        "findings": plan.findings,
    });
    if let (Some(report), Some(map)) = (report, json.as_object_mut()) {
        let ids = |ids: &[SnapshotId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        map.insert("removed".into(), ids(&report.removed).into());
        map.insert("swept".into(), ids(&report.swept).into());
        map.insert("freed_bytes".into(), report.freed_bytes.into());
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
        let payload = bytes(removal.payload_bytes);
        let why = match removal.in_use {
            true => format!("its payload stays, {payload}: kept snapshots use it"),
            false => format!("its payload goes a day later, {payload}"),
        };
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
        text += &format!("and what is left of {swept} earlier ones: {}\n", bytes(plan.frees()));
    }
    text
}
