//! `key prove`

use std::process::ExitCode;

use serde_json::json;
use strongroom::backup::{Proved, prove};
use strongroom::{Error, Result};

use super::Context;
use crate::output::table;

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let cluster = context.settings.cluster.as_ref();
    let done = prove(&repository, &keys, cluster, &context.control).await?;
    let json = done.iter().map(|one| {
        json!({
            "key": one.key, "cluster": one.cluster.as_str(), "snapshot": one.snapshot,
            "passed": one.outcome.is_ok(), "error": error(one).map(|error| error.kind().name()),
            "detail": error(one).map(ToString::to_string), "report": one.report,
        })
    });
    let failed = done.iter().filter_map(error).map(|error| error.kind().exit_code()).max();
    let status = failed.map_or(ExitCode::SUCCESS, ExitCode::from);
    let status = context.output.done(status, json.collect::<Vec<_>>(), || {
        let rows = done.iter().map(|one| {
            let status = if one.outcome.is_ok() { "passed" } else { "failed" };
            let detail = error(one).map(ToString::to_string).unwrap_or_default();
            let [key, snapshot] = [one.key.to_string(), one.snapshot.to_string()];
            vec![key, one.cluster.to_string(), snapshot, status.into(), detail]
        });
        table(&["KEY", "CLUSTER", "SNAPSHOT", "STATUS", "DETAIL"], &[], rows.collect())
    })?;
    if failed.is_none() {
        context.output.note("each key alone opened every byte; `strongroom key list` shows it");
    }
    Ok(status)
}

fn error(one: &Proved) -> Option<&Error> {
    one.outcome.as_ref().err()
}
