//! `restore`

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use strongroom::backup::{Output, restore};
use strongroom::{Error, Result};

use super::Context;
use crate::args::RestoreArgs;
use crate::output::bytes;

pub(super) async fn run(args: RestoreArgs, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let id = context.find(&repository, &args.which).await?;
    let stdout = args.output == Path::new("-");
    let target = match (stdout, args.revision) {
        (true, None) => Output::Stdout,
        (true, Some(_)) => {
            return Err(Error::usage("an earlier revision is written to a file, not to a stream")
                .hint("give --output the name of a file"));
        }
        (false, revision) => {
            Output::File { path: args.output.clone(), force: args.force, revision }
        }
    };
    let report = restore(&repository, &keys, id, &target, &context.control).await?;
    report.findings.iter().for_each(|finding| context.output.warn(finding));
    let path = args.output.display().to_string();
    if stdout {
        context
            .output
            .note(&format!("snapshot {id} restored and proved: revision {}", report.revision));
        return Ok(ExitCode::SUCCESS);
    }
    context.output.result(
        json!({
            "id": report.id.to_string(),
            "cluster": report.cluster.as_str(),
            "output": path,
            "revision": report.revision,
            "sha256": report.sha256.to_string(),
            "database_bytes": report.database_bytes,
            "opened_by": report.opened_by.to_string(),
            "findings": report.findings,
            "duration_seconds": report.duration.as_secs_f64(),
        }),
        || {
            format!(
                "{path}: snapshot {id} of {}, revision {}, {}, proved by SHA-256 {}",
                report.cluster,
                report.revision,
                bytes(report.database_bytes),
                report.sha256,
            )
        },
    )?;
    context.output.note(&format!(
        "next, on every member: etcdutl snapshot restore {path} --data-dir … --initial-cluster-token NEW …"
    ));
    Ok(ExitCode::SUCCESS)
}
