//! `backup`

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{Source, backup};
use strongroom::etcd::{Comparison, MemberHash};

use super::{Context, FINDINGS};
use crate::args::BackupArgs;
use crate::output::{bytes, created};

pub(super) async fn run(args: BackupArgs, context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    let source = match args.file {
        Some(path) => Source::File(path),
        None => Source::Etcd(settings.etcd()?),
    };
    let mut options = args.options;
    options.cluster = settings.cluster.clone().unwrap_or_default();
    options.compare_members = !args.no_compare;
    options.taken = args.taken.map(|time| {
        UNIX_EPOCH + Duration::from_millis(time.as_millisecond().max(0).unsigned_abs())
    });
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let report = backup(&repository, &keys, source, &options, &context.control).await?;
    report.warnings.iter().for_each(|warning| context.output.warn(warning));
    let sealed_by: Vec<String> = report.sealed_by.iter().map(ToString::to_string).collect();
    context.output.result(
        json!({
            "id": report.id.to_string(),
            "cluster": report.cluster.as_str(),
            "created": created(report.id),
            "revision": report.revision,
            "compact_revision": report.compact_revision,
            "database_bytes": report.database_bytes,
            "stored_bytes": report.stored_bytes,
            "duration_seconds": report.duration.as_secs_f64(),
            "sealed_by": sealed_by,
            "member": report.member.as_ref().map(|member| json!({
                "id": format!("{:016x}", member.id),
                "name": member.name,
                "endpoint": member.endpoint,
            })),
            "members": report.members.as_ref().map(members),
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
    context.output.note(&format!("next: `strongroom verify {}` verifies it", report.id));
    let differ =
        report.members.as_ref().is_some_and(|members| members.differing().next().is_some());
    Ok(if differ { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS })
}

fn members(compared: &Comparison) -> Value {
    let differing: Vec<u64> = compared.differing().map(|member| member.id).collect();
    let one = |member: &MemberHash| {
        json!({
            "id": format!("{:016x}", member.id),
            "name": member.name,
            "hash": member.hash,
            "compact_revision": member.compact_revision,
            "agrees": !differing.contains(&member.id),
        })
    };
    json!({
        "revision": compared.revision,
        "hashes": compared.answers.iter().map(one).collect::<Vec<_>>(),
        "left_out": compared.left_out,
    })
}
