//! `restore --to-cluster`

use std::process::ExitCode;

use serde_json::{Map, Value};
use strongroom::backup::{
    Action, Applied, DEFAULT_RATE, Plan, Planned, Refused, Wanted, WantedKeys, apply_plan,
    plan_to_cluster,
};
use strongroom::etcd::choose_member;
use strongroom::text::printable;
use strongroom::{Error, Result};

use super::inside::{lease, put_bytes, raw};
use super::{Context, FINDINGS};
use crate::args::{RestoreArgs, WriteOut};
use crate::output::{json_lines, lines, stream};

pub(super) async fn run(args: &RestoreArgs, context: &Context) -> Result<ExitCode> {
    let wanted = wanted(args)?;
    let settings = context.settings.etcd()?;
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let id = context.find(&repository, &mut keys, &args.which).await?;
    let choice = choose_member(&settings).await?;
    let plan = plan_to_cluster(&repository, &keys, id, &wanted, &choice, &context.control).await?;
    choice.warnings.iter().chain(&plan.warnings).for_each(|warning| context.output.warn(warning));
    if args.cluster.dry_run {
        return show(&plan, &choice.warnings, context);
    }
    let rate = args.cluster.rate.unwrap_or(DEFAULT_RATE);
    let applied = apply_plan(&repository, &keys, &plan, &choice, rate, &context.control).await?;
    report(&plan, &choice.warnings, &applied, context)?;
    let findings = applied.conflicts.len() + applied.refused.len();
    match applied.stopped {
        Some(error) if error.hint_text().is_some() => Err(error),
        Some(error) => {
            Err(error.hint("run it again: what is done is kept, and the rest is planned again"))
        }
        None if findings > 0 => Ok(ExitCode::from(FINDINGS)),
        None => Ok(ExitCode::SUCCESS),
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
        revision: args.revision,
        delete: flags.delete,
        leases: flags.leases.map(Into::into).unwrap_or_default(),
    })
}

fn head(plan: &Plan, warnings: &[String], dry_run: bool) -> Map<String, Value> {
    let warnings: Vec<&String> = warnings.iter().chain(&plan.warnings).collect();
    let head = [
        ("id", Value::from(plan.id.to_string())),
        ("revision", plan.revision.into()),
        ("member", plan.member.clone().into()),
        ("live_revision", plan.live_revision.into()),
        ("dry_run", dry_run.into()),
        ("warnings", serde_json::json!(warnings)),
    ];
    head.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn show(plan: &Plan, warnings: &[String], context: &Context) -> Result<ExitCode> {
    let count = |action| plan.count(action);
    stream(|out| match context.output.format {
        WriteOut::Json => {
            let mut head = head(plan, warnings, true);
            for action in [Action::Create, Action::Change, Action::Delete, Action::Leave] {
                head.insert(action.name().replace('-', "_"), count(action).into());
            }
            head.insert("unchanged".into(), plan.unchanged.into());
            json_lines(out, &head, "keys", plan.keys.iter().map(json))
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
    Ok(ExitCode::SUCCESS)
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

fn json(planned: &Planned) -> Value {
    let mut map = Map::new();
    put_bytes(&mut map, "key", Some(&planned.key));
    map.insert("action".into(), planned.action.name().into());
    let (source, live) = (planned.source, planned.live_mod_revision);
    map.insert("snapshot_mod_revision".into(), source.map(|source| source.main).into());
    map.insert("value_bytes".into(), source.map(|_| planned.value_bytes).into());
    map.insert("lease".into(), source.and_then(|_| lease(planned.lease)).into());
    map.insert("live_mod_revision".into(), (live != 0).then_some(live).into());
    map.into()
}

fn report(plan: &Plan, warnings: &[String], applied: &Applied, context: &Context) -> Result<()> {
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
    let mut json = head(plan, warnings, false);
    let numbers = [
        ("created", applied.created),
        ("changed", applied.changed),
        ("deleted", applied.deleted),
        ("unchanged", plan.unchanged),
        ("only_in_etcd", plan.count(Action::Leave)),
        ("left", applied.left),
        ("leases_granted", applied.leases_granted),
    ];
    json.extend(numbers.map(|(name, number)| (name.to_owned(), number.into())));
    json.insert("conflicts".into(), applied.conflicts.iter().map(|key| named(key)).collect());
    let refused = |refused: &Refused| {
        let mut item = named(&refused.key);
        if let Some(map) = item.as_object_mut() {
            map.insert("message".into(), refused.error.to_string().into());
            map.insert("hint".into(), refused.error.hint_text().into());
        }
        item
    };
    json.insert("refused".into(), applied.refused.iter().map(refused).collect());
    json.insert("stopped".into(), applied.stopped.as_ref().map(|error| error.kind().name()).into());
    json.insert("duration_seconds".into(), applied.duration.as_secs_f64().into());
    context.output.result(json, || table(applied, &summary))?;
    advise(plan, applied, context);
    Ok(())
}

/// A key alone, in JSON.
fn named(key: &[u8]) -> Value {
    let mut map = Map::new();
    put_bytes(&mut map, "key", Some(key));
    map.into()
}

fn table(applied: &Applied, summary: &str) -> String {
    let mut text = String::new();
    for key in &applied.conflicts {
        text.push_str(&format!("conflict  {}\n", printable(key)));
    }
    for refused in &applied.refused {
        text.push_str(&format!("refused   {}: {}\n", printable(&refused.key), refused.error));
    }
    text + summary
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
        output.note(&format!("{left} keys are only in etcd and stay; --delete deletes them"));
    }
}
