//! `backup`

use std::process::ExitCode;

use serde_json::json;
use strongroom::Result;
use strongroom::backup::{BackupOptions, LONGEST_BACKUP, Source, backup};
use strongroom::store::sweep_staged;

use super::Context;
use crate::args::BackupArgs;
use crate::output::{bytes, created};

pub(super) async fn run(args: BackupArgs, context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    let source = match args.file {
        Some(path) => Source::File(path),
        None => Source::Etcd(settings.etcd()?),
    };
    let mut options = BackupOptions::default();
    let config = &settings.backup;
    options.cluster = settings.cluster.clone().unwrap_or_default();
    options.level = args.level.or(config.level).unwrap_or(options.level);
    options.suite = args.suite.or(config.suite).unwrap_or(options.suite);
    if let Some(mib) = args.read_ahead.or(config.read_ahead) {
        options.read_ahead = (mib as usize) << 20;
    }
    let (repository, directory) = context.repository_and_directory().await?;
    if let Some(directory) = directory {
        // What a killed backup was still writing. Nobody else removes it in a directory.
        sweep_staged(&directory, LONGEST_BACKUP)?;
    }
    let keys = context.needed_keys(&repository).await?;
    let report = backup(&repository, &keys, source, &options, &context.control).await?;
    report.warnings.iter().for_each(|warning| context.output.warn(warning));
    let sealed_by: Vec<String> = report.sealed_by.iter().map(ToString::to_string).collect();
    context.output.result(
        json!({
            "id": report.id.to_string(),
            "cluster": report.cluster.as_str(),
            "created": created(report.id),
            "kind": "full",
            "revision": report.revision,
            "compact_revision": report.compact_revision,
            "database_bytes": report.database_bytes,
            "stored_bytes": report.stored_bytes,
            "duration_seconds": report.duration.as_secs_f64(),
            "sealed_by": sealed_by,
            "member": report.member,
            "warnings": report.warnings,
        }),
        || {
            format!(
                "snapshot {} of {}: revision {}, {} of database stored in {}, {:.1} s",
                report.id,
                report.cluster,
                report.revision,
                bytes(report.database_bytes),
                bytes(report.stored_bytes),
                report.duration.as_secs_f64(),
            )
        },
    )?;
    context.output.note(&format!("next: `strongroom verify {}` proves it", report.id));
    Ok(ExitCode::SUCCESS)
}
