//! `restore --dry-run`

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use strongroom::Result;
use strongroom::backup::{Destination, MemberOptions, rehearse};

use super::recorded::{journals_of, missing, until};
use super::restore::{options, recorded, target_of};
use super::{Context, FINDINGS};
use crate::args::RestoreArgs;
use crate::output::bytes;

/// Says what a restore would write, and writes nothing.
pub(super) async fn run(args: &RestoreArgs, context: &Context) -> Result<ExitCode> {
    let restores_member = args.member.data_dir.is_some() || args.member.from_manifest.is_some();
    let member = restores_member.then(|| options(args)).transpose()?;
    let (to, place) = destination(args, member.as_ref(), context)?;
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let scratch = std::env::temp_dir();
    let plan = recorded(args, (&repository, &mut keys), &scratch, context).await?;
    let id = match &plan {
        Some(plan) => plan.base,
        None => context.find(&repository, &mut keys, &args.which).await?,
    };
    let places = (to, args.companions_to.as_deref());
    let what = (id, plan.as_ref());
    let found = rehearse(&repository, &keys, what, places, &context.control).await?;
    let missing = missing(plan.as_ref());
    let findings: Vec<_> = found.findings.iter().chain(missing).collect();
    findings.iter().for_each(|finding| context.output.warn(finding));
    let dir = args.companions_to.clone().unwrap_or_default();
    let companions = found.companions.as_ref().map(|names| {
        names.iter().map(|name| dir.join(name).display().to_string()).collect::<Vec<_>>()
    });
    let document = json!({
        "dry_run": true,
        "id": found.id,
        "cluster": found.cluster,
        "revision": found.revision,
        "database_bytes": found.database_bytes,
        "opened_by": found.opened_by,
        "output": args.output.as_ref().map(|path| path.display().to_string()),
        "data_dir": member.as_ref().map(|options| options.data_dir.display().to_string()),
        "companions": companions,
        "journals": journals_of(plan.as_ref()),
        "recorded_until": plan.as_ref().and_then(until),
        "findings": findings,
    });
    let status = if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) };
    context.output.result(document, || {
        let mut lines: Vec<_> =
            companions.iter().flatten().map(|name| format!("would write {name}")).collect();
        if !matches!(to, Destination::Companions) {
            let is_longer = plan.as_ref().is_some_and(|plan| !plan.journals.is_empty());
            let on_top = match is_longer {
                true => " for the snapshot; what was recorded after it comes on top",
                false => "",
            };
            lines.push(format!(
                "would write {place}: snapshot {} of {}, revision {}, {}{on_top}; the database was not read",
                found.id,
                found.cluster,
                found.revision,
                bytes(found.database_bytes),
            ));
        }
        lines.join("\n")
    })?;
    Ok(status)
}

/// Where the restore would write, and its name.
fn destination<'a>(
    args: &'a RestoreArgs,
    member: Option<&'a MemberOptions>,
    context: &Context,
) -> Result<(Destination<'a>, String)> {
    Ok(match (&args.output, member) {
        (Some(path), _) if path == Path::new("-") => {
            target_of(args, path, context)?;
            (Destination::Stream, "standard output".to_owned())
        }
        (Some(path), _) => {
            (Destination::File { path, force: args.force }, path.display().to_string())
        }
        (None, Some(options)) => {
            (Destination::Member(options), options.data_dir.display().to_string())
        }
        (None, None) => (Destination::Companions, String::new()),
    })
}
