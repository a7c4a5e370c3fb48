//! `backup`

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use strongroom::Result;
use strongroom::backup::{ONE_KEY, Source, UNPROVEN, backup};

use super::{Context, FINDINGS};
use crate::args::BackupArgs;
use crate::output::{Dated, bytes};

pub(super) async fn run(args: BackupArgs, context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    let source = match args.file {
        Some(path) => Source::File(path),
        None => Source::Etcd(settings.etcd()?),
    };
    let mut options = args.options;
    options.cluster = settings.cluster.clone().unwrap_or_default();
    options.recovery = settings.recovery;
    options.compare_members = !args.no_compare;
    options.taken = args.taken.map(|time| {
        UNIX_EPOCH + Duration::from_millis(time.as_millisecond().max(0).unsigned_abs())
    });
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let report = backup(&repository, &keys, source, &options, &context.control).await?;
    let is_known = |warning: &str| warning == ONE_KEY || warning.starts_with(UNPROVEN);
    let recurs = |warning: &str| context.output.quiet && is_known(warning);
    let warnings = report.warnings.iter().filter(|warning| !recurs(warning));
    warnings.for_each(|warning| context.output.warn(warning));
    let differ =
        report.members.as_ref().is_some_and(|members| members.differing().next().is_some());
    let found = differ || report.clocks_differ || !report.seals_missing.is_empty();
    let status = if found { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS };
    let status = context.output.done(status, Dated::new(&report, report.id), || {
        format!(
            "snapshot {} of {}: revision {}, {} of database stored in {}, {:.1} s",
            report.id,
            report.cluster,
            report.revision,
            bytes(report.database_bytes),
            bytes(report.stored_bytes),
            report.duration.as_secs_f64(),
        )
    })?;
    if !report.included.is_empty() {
        context.output.note(&format!("included: {}", report.included.join(", ")));
    }
    context.output.note(&match report.blind {
        true => format!(
            "next: `strongroom verify {} --digests` verifies what is stored; where the identity is, leave --digests out",
            report.id
        ),
        false => format!("next: `strongroom verify {}` verifies it", report.id),
    });
    Ok(status)
}
