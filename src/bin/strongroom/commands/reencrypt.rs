//! `key reencrypt`

use std::process::ExitCode;

use serde_json::json;
use strongroom::Result;
use strongroom::backup::{ReencryptReport, Reencryption, reencrypt};
use strongroom::format::SnapshotId;

use super::key::{confirm_recipients, not_changed};
use super::{Context, FINDINGS};
use crate::args::ReencryptArgs;

pub(super) async fn run(args: ReencryptArgs, context: &Context) -> Result<ExitCode> {
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let ids = context.find_all(&repository, &keys, &args.chosen.ids).await?;
    let scope = context.scope(&ids);
    confirm_recipients(&repository, &keys, scope, &args.recipients.expect).await?;
    let how = Reencryption { drop: &args.recipients.drop, keep_old: args.keep_old };
    let report = reencrypt(&repository, &keys, scope, &how, &context.control).await?;
    tell(&report, context)
}

fn tell(report: &ReencryptReport, context: &Context) -> Result<ExitCode> {
    let (failed, worst) = not_changed(&report.failed, context);
    report.left.iter().for_each(|left| context.output.warn(left));
    if let Some(warning) = journals(&report.journals) {
        context.output.warn(&warning);
    }
    let done = report.done.iter().map(|(old, new)| json!({"old": old, "new": new}));
    let (count, removed) = (report.done.len(), report.removed.len());
    let json = json!({
        "reencrypted": done.collect::<Vec<_>>(), "before": report.before, "removed": report.removed,
        "failed": failed, "journals": report.journals, "left": report.left,
    });
    let is_all = report.left.is_empty() && report.journals.is_empty();
    let findings = if is_all { 0 } else { FINDINGS };
    let status = ExitCode::from(worst.unwrap_or(findings));
    let status = context.output.done(status, json, || {
        format!(
            "{count} encrypted again, {} before, {removed} old ones removed, {} failed",
            report.before,
            report.failed.len()
        )
    })?;
    if removed > 0 {
        context.output.note(
            "next: the old ones open with their old keys until `strongroom prune` deletes them after the grace period; replicas keep theirs: \
             run `strongroom copy`, then `strongroom prune --remove ID -r REPLICA`",
        );
    }
    Ok(status)
}

/// What to do about the journals that are not encrypted again.
fn journals(ids: &[SnapshotId]) -> Option<String> {
    let (first, last) = (ids.first()?, ids.last()?);
    let which = match ids.len() {
        1 => format!("1 journal ({first}) is"),
        count => format!("{count} journals ({first} to {last}) are"),
    };
    Some(format!(
        "{which} not encrypted again, and an old key may open them: `prune --keep-continuous` removes them with time, \
         `strongroom prune --remove ID` now; -w json lists them"
    ))
}
