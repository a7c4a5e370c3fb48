//! `restore --to-cluster`

use std::process::ExitCode;

use serde::Serialize;
use strongroom::backup::{
    Action, Applied, DEFAULT_RATE, Plan, Planned, Recorded, Refused, Wanted, WantedKeys,
    apply_plan, plan_to_cluster,
};
use strongroom::etcd::choose_member;
use strongroom::format::SnapshotId;
use strongroom::text::{counted, printable};
use strongroom::{Error, Result};

use super::inside::{lease, raw};
use super::recorded::{journals_of, missing, until};
use super::{Context, FINDINGS, restore};
use crate::args::{RestoreArgs, WriteOut};
use crate::output::{json_lines, lines, stream, table};

pub(super) async fn run(args: &RestoreArgs, context: &Context) -> Result<ExitCode> {
    let mut wanted = wanted(args)?;
    let settings = context.settings.etcd()?;
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let dir = std::env::temp_dir();
    let recorded = restore::recorded(args, (&repository, &mut keys), &dir, context).await?;
    let view = match &recorded {
        Some(recorded) => recorded.view(),
        None => context.find(&repository, &mut keys, &args.which).await?.into(),
    };
    wanted.revision = recorded.as_ref().map(|recorded| recorded.revision);
    let choice = choose_member(&settings).await?;
    let plan =
        plan_to_cluster(&repository, &keys, view, &wanted, &choice, &context.control).await?;
    let missing = missing(recorded.as_ref());
    let before = recorded.iter().flat_map(|recorded| &recorded.warnings).chain(missing);
    let told: Vec<_> = before.chain(&choice.warnings).cloned().collect();
    let all = missing.iter().chain(&choice.warnings).chain(&plan.warnings);
    all.for_each(|warning| context.output.warn(warning));
    let head = Head::new(&plan, recorded.as_ref(), &told, args.dry_run);
    if args.dry_run {
        show(&plan, head, context)?;
        return Ok(ExitCode::from(if missing.is_empty() { 0 } else { FINDINGS }));
    }
    let rate = args.cluster.rate.unwrap_or(DEFAULT_RATE);
    let applied = apply_plan(&repository, &keys, &plan, &choice, rate, &context.control).await?;
    let findings = applied.conflicts.len() + applied.refused.len() + missing.len();
    let status = if findings > 0 { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS };
    let status = report(status, &plan, head, &applied, context)?;
    match applied.stopped {
        Some(error) if error.hint_text().is_some() => Err(error),
        Some(error) => {
            Err(error.hint("run it again: what is done is kept, and the rest is planned again"))
        }
        None => Ok(status),
    }
}

fn wanted(args: &RestoreArgs) -> Result<Wanted> {
    let flags = &args.cluster;
    let keys = match (&flags.only, &flags.prefix) {
        (Some(key), None) => WantedKeys::One(raw(key)),
        (None, Some(prefix)) => WantedKeys::Prefix {
            from: raw(prefix),
            to: raw(flags.to_prefix.as_ref().unwrap_or(prefix)),
        },
        _ => return Err(Error::usage("no keys are selected: give --only KEY or --prefix P")),
    };
    Ok(Wanted {
        keys,
        revision: None,
        delete: flags.delete,
        leases: flags.leases.map(Into::into).unwrap_or_default(),
    })
}

/// The fields that every plan has in JSON.
#[derive(Serialize)]
struct Head<'a> {
    id: SnapshotId,
    revision: i64,
    member: &'a str,
    live_revision: i64,
    dry_run: bool,
    warnings: Vec<&'a String>,
    unchanged: u64,
    journals: Vec<String>,
    recorded_until: Option<String>,
}

impl<'a> Head<'a> {
    fn new(
        plan: &'a Plan,
        recorded: Option<&Recorded>,
        warnings: &'a [String],
        dry_run: bool,
    ) -> Self {
        Self {
            id: plan.id,
            revision: plan.revision,
            member: &plan.member,
            live_revision: plan.live_revision,
            dry_run,
            warnings: warnings.iter().chain(&plan.warnings).collect(),
            unchanged: plan.unchanged,
            journals: journals_of(recorded),
            recorded_until: recorded.and_then(until),
        }
    }
}

/// What a plan would do.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    create: u64,
    change: u64,
    delete: u64,
    would_delete: u64,
}

/// What was done.
#[derive(Serialize)]
struct Done<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    only_in_etcd: u64,
    #[serde(flatten)]
    applied: &'a Applied,
}

fn show(plan: &Plan, head: Head<'_>, context: &Context) -> Result<()> {
    let count = |action| plan.count(action);
    stream(|out| match context.output.format {
        WriteOut::Json => {
            let shown = Shown {
                head,
                create: count(Action::Create),
                change: count(Action::Change),
                delete: count(Action::Delete),
                would_delete: count(Action::Leave),
            };
            json_lines(out, shown, "keys", plan.keys.iter())
        }
        WriteOut::Table if plan.keys.is_empty() => Ok(()),
        WriteOut::Table => {
            let header = ["ACTION", "SNAPSHOT REV", "LIVE REV", "SIZE", "LEASE", "KEY"];
            lines(out, header, &[1, 2, 3], || plan.keys.iter().map(row))
        }
    })?;
    context.output.note(&format!(
        "nothing is written. From {} at revision {} to {} at revision {}: {} to create, {} to change, {} unchanged, {}",
        plan.id,
        plan.revision,
        plan.member,
        plan.live_revision,
        count(Action::Create),
        count(Action::Change),
        plan.unchanged,
        match (count(Action::Delete), count(Action::Leave)) {
            (0, 0) => "0 to delete".into(),
            (0, left) => format!("{left} only in etcd, which --delete would delete"),
            (deleted, _) => format!("{deleted} to delete"),
        },
    ));
    Ok(())
}

fn row(planned: &Planned) -> [String; 6] {
    let or_dash = |number: i64| if number == 0 { "-".into() } else { number.to_string() };
    let size = planned.source.map_or("-".into(), |_| planned.value_bytes.to_string());
    [
        planned.action.name().into(),
        or_dash(planned.source.map_or(0, |source| source.main)),
        or_dash(planned.live_mod_revision),
        size,
        lease(planned.lease).unwrap_or("-".into()),
        printable(&planned.key),
    ]
}

fn report(
    status: ExitCode,
    plan: &Plan,
    head: Head<'_>,
    applied: &Applied,
    context: &Context,
) -> Result<ExitCode> {
    let summary = format!(
        "snapshot {} at revision {} to {}: {} created, {} changed, {} deleted, {} unchanged, {} conflicts, {} refused, {} left",
        plan.id,
        plan.revision,
        plan.member,
        applied.created,
        applied.changed,
        applied.deleted,
        plan.unchanged,
        applied.conflicts.len(),
        applied.refused.len(),
        applied.left,
    );
    let done = Done { head, only_in_etcd: plan.count(Action::Leave), applied };
    let status = context.output.done(status, done, || text(applied, &summary))?;
    advise(plan, applied, context);
    Ok(status)
}

fn text(applied: &Applied, summary: &str) -> String {
    let conflict =
        |key: &[u8]| vec!["conflict".into(), printable(key), "changed by another client".into()];
    let refused = |refused: &Refused| {
        vec!["refused".into(), printable(&refused.key), refused.error.to_string()]
    };
    let rows: Vec<_> = applied
        .conflicts
        .iter()
        .map(|key| conflict(key))
        .chain(applied.refused.iter().map(refused))
        .collect();
    if rows.is_empty() {
        return summary.to_owned();
    }
    table(&["NOT WRITTEN", "KEY", "WHY"], &[], rows) + summary
}

fn advise(plan: &Plan, applied: &Applied, context: &Context) {
    let output = &context.output;
    if !applied.conflicts.is_empty() {
        output.note(&format!(
            "{} of the keys were changed by another client and were not written: look at them with --dry-run, then run it again",
            applied.conflicts.len()
        ));
    }
    let mut hints: Vec<_> =
        applied.refused.iter().filter_map(|refused| refused.error.hint_text()).collect();
    hints.sort_unstable();
    hints.dedup();
    hints.iter().for_each(|hint| output.note(&format!("hint: {hint}")));
    let written = applied.created + applied.changed + applied.deleted > 0;
    if written && plan.is_kubernetes() {
        output.note(
            "the API servers and all who watch them see these as ordinary changes, at new revisions: nothing needs a \
             restart. An object whose owner is gone is collected as garbage again: restore the owner as well",
        );
    }
    let left = plan.count(Action::Leave);
    if left > 0 {
        let left = counted(left, "key");
        output.note(&format!("only in etcd, not deleted: {left}; --delete deletes them"));
    }
}
