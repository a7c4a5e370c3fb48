//! The newest snapshot restored and served: by the program of the target, and by the current one.

use std::path::Path;

use super::super::fact::Fact;
use super::super::facts::repository::RepositoryOptions;
use super::facts::Rehearsed;
use crate::backup::{DrillOptions, drill, drill_version};
use crate::error::Result;
use crate::format::{CheckOutcome, SnapshotId};
use crate::task::Control;

/// Drills snapshot `id` with `program`.
pub(super) async fn rehearse(
    of: &RepositoryOptions<'_>,
    id: SnapshotId,
    program: &Path,
    options: &DrillOptions,
    control: &Control,
) -> Fact<Rehearsed> {
    let options = DrillOptions {
        etcd: program.to_owned(),
        dir: options.dir.clone(),
        live: None,
        allow_untested: options.allow_untested,
        through_journals: options.through_journals,
    };
    let source = format!("drill of snapshot {id} with {}", program.display());
    match run(of, id, &options, control).await {
        Ok(rehearsed) => Fact::known(rehearsed, source),
        Err(error) => Fact::unknown(format!("{source}: {error}")),
    }
}

async fn run(
    of: &RepositoryOptions<'_>,
    id: SnapshotId,
    options: &DrillOptions,
    control: &Control,
) -> Result<Rehearsed> {
    let version = drill_version(options).await?;
    let drilled = drill(of.repository, of.keys, id, options, control).await?;
    let checks = drilled.report.checks();
    let hash = checks
        .iter()
        .find(|check| check.name == "HashKV" && check.outcome == CheckOutcome::Passed)
        .map(|check| check.detail.clone());
    let failed = checks.iter().filter(|check| check.outcome == CheckOutcome::Failed);
    let differs = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    Ok(Rehearsed { version, took: drilled.recovery, hash, differs })
}
