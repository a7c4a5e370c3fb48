//! `verify`

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use strongroom::backup::{
    Deep, Listing, Verified, VerifyLevel, VerifyReport, store_report, verify,
};
use strongroom::crypto::{random, system_rng};
use strongroom::format::{KeyId, SnapshotId};
use strongroom::keys::trust::Standing;
use strongroom::store::Repository;
use strongroom::{Error, ErrorKind, Result};

use super::{Context, DAMAGED, FINDINGS, journal};
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
        VerifyLevel::Digests => context.settings.open_keys_unasked(&repository).await?,
        _ => context.needed_keys(&repository).await?,
    };
    let ids = match args.subset {
        Some(percent) => subset(&context.listing(&repository).await?, percent)?,
        None => context.find_all(&repository, &keys, &args.ids).await?,
    };
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
    let rows: Vec<_> = report.snapshots.iter().map(|one| Row::new(level, one)).collect();
    let json = json!({
        "checked": checked, "failed": failed, "snapshots": rows, "findings": report.findings,
        "journals": report.stretches.iter().map(journal::stretch_json).collect::<Vec<_>>(),
        "report": recorded,
    });
    let text = || {
        let rows = rows.iter().map(|row| {
            vec![row.id.to_string(), row.status.into(), row.level.into(), row.detail.clone()]
        });
        let text = table(&["SNAPSHOT", "STATUS", "LEVEL", "DETAIL"], &[], rows.collect());
        text + &journal::stretches_text(&report.stretches)
    };
    let status = context.output.done_if(recorded.is_some(), exit(&report), json, text)?;
    context.output.note(&format!("{} of {checked} {}", checked - failed, verified(level)));
    if failed > 0 {
        context.output.note(&format!("next: {DAMAGED}"));
    }
    Ok(status)
}

/// Of each cluster the newest snapshot, and `percent` of the others, drawn at random.
fn subset(listing: &Listing, percent: f64) -> Result<Vec<SnapshotId>> {
    let mut newest = BTreeMap::new();
    for one in &listing.snapshots {
        newest.insert(&one.cluster, one.id);
    }
    let mut chosen: BTreeSet<_> = newest.into_values().collect();
    let ids = listing.snapshots.iter().map(|one| one.id);
    let mut others: Vec<_> = ids.filter(|id| !chosen.contains(id)).collect();
    let count = (others.len() as f64 * percent / 100.0).ceil() as usize;
    others.sort_by_cached_key(|_| random::<8>(&mut system_rng()));
    chosen.extend(others.into_iter().take(count));
    match chosen.is_empty() {
        true => Err(Error::new(ErrorKind::NotFound, "there is no snapshot to verify")
            .hint("take one with `strongroom backup`")),
        false => Ok(chosen.into_iter().collect()),
    }
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
    let found = report.is_incomplete
        || report.stretches.iter().any(|one| one.finding().is_some())
        || report.snapshots.iter().any(untrusted);
    let findings = if found { FINDINGS } else { 0 };
    ExitCode::from(report.worst().map_or(findings, |error| error.kind().exit_code()))
}

/// One snapshot in the document and in the table.
#[derive(Serialize)]
struct Row<'a> {
    id: SnapshotId,
    status: &'static str,
    level: &'static str,
    detail: String,
    opened_by: Option<KeyId>,
    trust: Standing,
    error: Option<&'static str>,
    findings: &'a [String],
    deep: Option<&'a Deep>,
}

impl<'a> Row<'a> {
    fn new(level: VerifyLevel, verified: &'a Verified) -> Self {
        let (status, detail) = match &verified.outcome {
            Ok(()) => {
                let opened_by = verified.opened_by.map(|id| format!("opened by {id}"));
                let deep = verified.deep.as_ref().map(ToString::to_string);
                ("ok", opened_by.into_iter().chain(deep).collect::<Vec<_>>().join("; "))
            }
            Err(error) if error.kind() == ErrorKind::WrongKey => ("locked", error.to_string()),
            Err(error) => ("failed", error.to_string()),
        };
        Self {
            id: verified.id,
            status,
            level: level.name(),
            detail,
            opened_by: verified.opened_by,
            trust: verified.standing,
            error: verified.outcome.as_ref().err().map(|error| error.kind().name()),
            findings: &verified.findings,
            deep: verified.deep.as_ref(),
        }
    }
}
