//! `copy`

use std::process::ExitCode;

use serde_json::json;
use strongroom::backup::copy;
use strongroom::keys::KeySet;
use strongroom::{Error, ErrorKind, Result};

use super::{Context, FINDINGS};
use crate::args::CopyArgs;
use crate::output::bytes;

pub(super) async fn run(args: CopyArgs, context: &Context) -> Result<ExitCode> {
    let source = context.repository().await?;
    let opened = context.settings.open_replica(&args.copy, &source, args.trust_store).await?;
    opened.warnings.iter().for_each(|warning| context.output.warn(warning));
    let (target, url) = (opened.repository, opened.url);
    let mut keys = context.master_keys(&source).await?;
    // Keys that only open cannot tell what counts.
    if !keys.can_vouch() {
        keys = KeySet::new();
    }
    let ids = context.find_all(&source, &keys, &args.ids).await?;
    let scope = context.scope(&ids);
    let report = copy(&source, &target, &keys, scope, &context.control).await?;
    for (id, why) in &report.failed {
        context.output.warn(&format!("not copied: snapshot {id}: {why}"));
    }
    for (id, why) in &report.left_out {
        context.output.warn(&format!("left out: snapshot {id}: {why}"));
    }
    for name in &report.differing {
        context.output.warn(&format!(
            "the copy has another {name}: `strongroom key reseal --all -r {url}` seals the copy to the present keys"
        ));
    }
    let strings = |ids: &[strongroom::format::SnapshotId]| {
        ids.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let failed = report.failed.iter().map(|(id, why)| json!({"id": id.to_string(), "detail": why}));
    let left_out =
        report.left_out.iter().map(|(id, why)| json!({"id": id.to_string(), "detail": why}));
    context.output.result(
        json!({
            "to": url.to_string(),
            "copied": strings(&report.copied),
            "present": report.present,
            "written_bytes": report.written_bytes,
            "failed": failed.collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
            "differing_seals": report.differing,
            "duration_seconds": report.duration.as_secs_f64(),
        }),
        || {
            format!(
                "{} snapshots copied to {url}, {} were there; {} written",
                report.copied.len(),
                report.present,
                bytes(report.written_bytes),
            )
        },
    )?;
    context.output.note(&format!(
        "next: `strongroom verify --all --digests -r {url}` reads the copy, without a key"
    ));
    if report.failed.is_empty() {
        let findings = !report.left_out.is_empty() || !report.differing.is_empty();
        return Ok(if findings { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS });
    }
    Err(Error::new(ErrorKind::Tampered, format!("{} snapshots are damaged", report.failed.len()))
        .hint("`strongroom verify` shows what is wrong with each"))
}
