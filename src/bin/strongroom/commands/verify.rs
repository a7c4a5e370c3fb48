//! `verify`

use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use strongroom::backup::{
    Deep, HashCheck, Verified, VerifyLevel, VerifyReport, store_report, verify,
};
use strongroom::format::SnapshotId;
use strongroom::keys::KeySet;
use strongroom::keys::trust::Standing;
use strongroom::store::Repository;
use strongroom::{ErrorKind, Result};

use super::{Context, FINDINGS};
use crate::args::VerifyArgs;
use crate::output::table;

pub(super) async fn run(args: VerifyArgs, context: &Context) -> Result<ExitCode> {
    let level = match args {
        VerifyArgs { quick: true, .. } => VerifyLevel::Quick,
        VerifyArgs { digests: true, .. } => VerifyLevel::Digests,
        VerifyArgs { deep: true, .. } => VerifyLevel::Deep,
        _ => VerifyLevel::Full,
    };
    let begun = Instant::now();
    let repository = context.repository().await?;
    let keys = match level {
        VerifyLevel::Digests => KeySet::new(),
        _ => context.needed_keys(&repository).await?,
    };
    let ids = context.find_all(&repository, &keys, &args.ids).await?;
    let report = verify(&repository, &keys, context.scope(&ids), level, &context.control).await?;
    for finding in report.findings.iter().chain(report.snapshots.iter().flat_map(|v| &v.findings)) {
        context.output.warn(finding);
    }
    let recorded = match args.record {
        true => Some(record(&report, begun, &repository, context).await?),
        false => None,
    };
    let failed = report.snapshots.iter().filter(|verified| verified.outcome.is_err()).count();
    let checked = report.snapshots.len();
    let rows = report.snapshots.iter().map(|verified| row(level, verified)).collect::<Vec<_>>();
    context.output.result(
        json!({
            "checked": checked, "failed": failed, "snapshots": rows, "findings": report.findings,
            "report": recorded.map(|id| id.to_string()),
        }),
        || {
            let cell = |row: &Value, key: &str| {
                row.get(key).and_then(Value::as_str).unwrap_or("").to_owned()
            };
            let rows = rows
                .iter()
                .map(|row| ["id", "status", "level", "detail"].map(|key| cell(row, key)).to_vec());
            table(&["SNAPSHOT", "STATUS", "LEVEL", "DETAIL"], &[], rows.collect())
        },
    )?;
    context.output.note(&format!("{} of {checked} {}", checked - failed, verified(level)));
    if failed > 0 {
        context.output.note(
            "next: delete nothing; try another key or another copy of the repository, or restore an older snapshot that verifies",
        );
    }
    Ok(exit(&report))
}

/// Stores what was verified as a report.
async fn record(
    report: &VerifyReport,
    begun: Instant,
    repository: &Repository,
    context: &Context,
) -> Result<SnapshotId> {
    // What needs no key to verify needs one to be sealed.
    let keys = context.needed_keys(repository).await?;
    let report = report.evidence(context.settings.cluster.as_ref(), begun.elapsed());
    store_report(repository, &keys, &report).await
}

/// What a success at this level means, and no more than that.
fn verified(level: VerifyLevel) -> &'static str {
    match level {
        VerifyLevel::Full => "verified: every byte decrypted and hashed",
        VerifyLevel::Deep => {
            "verified: every byte decrypted and hashed, every page and revision checked"
        }
        VerifyLevel::Quick => "have an authentic manifest and objects of the right lengths",
        _ => "have the bytes that their manifests name",
    }
}

fn exit(report: &VerifyReport) -> ExitCode {
    let untrusted = |one: &Verified| matches!(one.standing, Standing::NotTrusted(_));
    let findings = if report.snapshots.iter().any(untrusted) { FINDINGS } else { 0 };
    ExitCode::from(report.worst().map_or(findings, |error| error.kind().exit_code()))
}

fn row(level: VerifyLevel, verified: &Verified) -> Value {
    let opened_by = verified.opened_by.map(|id| id.to_string());
    let (status, detail) = match &verified.outcome {
        Ok(()) => {
            let opened_by = opened_by.as_ref().map(|id| format!("opened by {id}"));
            let parts =
                opened_by.into_iter().chain(verified.deep.as_ref().map(ToString::to_string));
            ("ok", parts.collect::<Vec<_>>().join("; "))
        }
        Err(error) if error.kind() == ErrorKind::WrongKey => ("locked", error.to_string()),
        Err(error) => ("failed", error.to_string()),
    };
    let error = verified.outcome.as_ref().err().map(|error| error.kind().name());
    json!({
        "id": verified.id.to_string(),
        "status": status,
        "level": level.name(),
        "detail": detail,
        "opened_by": opened_by,
        "trust": verified.standing.to_string(),
        "error": error,
        "findings": verified.findings,
        "deep": verified.deep.as_ref().map(deep),
    })
}

fn deep(deep: &Deep) -> Value {
    json!({
        "pages": deep.pages, "free_pages": deep.free_pages, "records": deep.records,
        "hash_kv": match &deep.hash {
            HashCheck::Equal => "equal",
            HashCheck::Inconclusive(_) => "inconclusive",
            _ => "not recorded",
        },
    })
}
