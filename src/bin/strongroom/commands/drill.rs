//! `drill` and `reports`

use std::process::ExitCode;

use serde_json::{Value, json};
use strongroom::backup::{
    DrillReport, ListedReport, Reports, drill, report, reports, store_report,
};
use strongroom::format::{CheckOutcome, Report, ReportOutcome};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::{Error, ErrorKind, Result};

use super::{Context, FINDINGS};
use crate::args::{DrillArgs, Which};
use crate::output::{created, table};

pub(super) async fn run(args: DrillArgs, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let id = args.id.unwrap_or_else(|| "latest".into());
    let which = Which { id, before: args.before, accept_untrusted: false };
    let id = context.find(&repository, &mut keys, &which).await?;
    let mut options = args.options;
    options.live = Some(context.settings.etcd()?);
    options.allow_untested = context.settings.etcd.allow_untested;
    let drilled = drill(&repository, &keys, id, &options, &context.control).await?;
    let stored = store_report(&repository, &keys, &drilled.report).await?;
    let DrillReport { report, recovery, .. } = &drilled;
    let mut json = json_of(report);
    if let Some(map) = json.as_object_mut() {
        map.insert("report".into(), stored.to_string().into());
        map.insert("recovery_seconds".into(), recovery.as_secs_f64().into());
    }
    let status = if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) };
    let status = context.output.done(status, json, || text_of(report))?;
    let outcome =
        if report.passed() { "it serves the snapshot's data" } else { "its data DIFFERS" };
    context.output.note(&format!(
        "snapshot {id}: restored and serving after {:.1} s; {outcome}; report {stored}",
        recovery.as_secs_f64()
    ));
    Ok(status)
}

/// What a report says, for programs.
fn json_of(report: &Report) -> Value {
    json!({
        "kind": report.kind,
        "tool": report.tool,
        "snapshot": report.snapshot.map(|id| id.to_string()),
        "cluster": report.cluster.as_ref().map(|name| name.as_str()),
        "level": report.level,
        "key": report.key,
        "scope": report.scope,
        "outcome": report.outcome.name(),
        "passed": report.passed(),
        "steps": report.details.as_ref().map(|details| &details.steps),
        "checks": report.details.as_ref().map(|details| &details.checks),
    })
}

fn text_of(report: &Report) -> String {
    let seconds = |milliseconds: u64| format!("{:.1} s", milliseconds as f64 / 1000.0);
    let Some(details) = &report.details else {
        return format!("{}: {}", report.kind, report.outcome.name());
    };
    let steps = details
        .steps
        .iter()
        .map(|step| vec![step.name.clone(), "done".into(), seconds(step.milliseconds)]);
    let checks = details.checks.iter().map(|check| {
        let outcome = match check.outcome {
            CheckOutcome::Passed => "equal",
            CheckOutcome::Failed => "DIFFERS",
            CheckOutcome::Skipped => "skipped",
        };
        vec![check.name.clone(), outcome.into(), check.detail.clone()]
    });
    table(&["WHAT", "OUTCOME", "DETAIL"], &[], steps.chain(checks).collect())
}

/// One report: by its full id without a listing.
async fn show_report(
    id: &str,
    repository: &Repository,
    keys: &KeySet,
    context: &Context,
) -> Result<ExitCode> {
    let id = id.to_ascii_uppercase();
    let mut listed = match id.parse() {
        Ok(id) => vec![report(repository, keys, id).await?],
        Err(_) => reports(repository, keys).await?.listed,
    };
    listed.retain(|one| one.id.to_string().starts_with(&id) || one.id.to_string().ends_with(&id));
    match listed.as_slice() {
        [ListedReport { report: Ok(report), standing, .. }] => {
            let mut json = json_of(report);
            if let Some(map) = json.as_object_mut() {
                map.insert("trust".into(), standing.to_string().into());
            }
            context.output.result(json, || text_of(report))?;
            if report.details.is_none() {
                context.output.note("no available key opens the details");
            }
            if !standing.counts() {
                context.output.warn(&format!("the report is {standing}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        [_] => listed.remove(0).report.map(|_| ExitCode::SUCCESS),
        _ => {
            let message = format!("{} reports of that id", listed.len());
            Err(Error::new(ErrorKind::NotFound, message).hint("`strongroom reports` lists them"))
        }
    }
}

pub(super) async fn list(id: Option<String>, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let keys = context.master_keys(&repository).await?;
    if let Some(id) = id {
        return show_report(&id, &repository, &keys, context).await;
    }
    let Reports { listed, left_out, .. } = reports(&repository, &keys).await?;
    if left_out > 0 {
        context.output.warn(&format!("{left_out} older reports are not listed"));
    }
    let row = |one: &ListedReport| match &one.report {
        Ok(report) => {
            let snapshot = report.snapshot.map(|id| id.to_string());
            let outcome = match report.outcome {
                ReportOutcome::Failed => "FAILED",
                outcome => outcome.name(),
            };
            (Some(report.kind.clone()), outcome, snapshot, one.standing.to_string())
        }
        Err(error) => (None, "broken", None, error.to_string()),
    };
    let json = |one: &ListedReport| {
        let (kind, outcome, snapshot, trust) = row(one);
        json!({
            "id": one.id, "created": one.id.created(), "kind": kind,
            "outcome": outcome.to_lowercase(), "snapshot": snapshot, "trust": trust,
        })
    };
    context.output.result(listed.iter().map(json).collect::<Vec<_>>(), || {
        let rows = listed.iter().map(|one| {
            let (kind, outcome, snapshot, trust) = row(one);
            let [kind, snapshot] = [kind, snapshot].map(Option::unwrap_or_default);
            vec![one.id.to_string(), created(one.id), kind, outcome.into(), snapshot, trust]
        });
        table(&["ID", "CREATED", "KIND", "OUTCOME", "SNAPSHOT", "TRUST"], &[], rows.collect())
    })?;
    Ok(ExitCode::SUCCESS)
}
