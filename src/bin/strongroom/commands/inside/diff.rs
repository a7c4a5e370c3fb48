//! `diff`

use std::process::ExitCode;

use serde_json::{Map, Value};
use strongroom::backup::{Inside, Moment, read_live};
use strongroom::contents::{
    self, Contents, Difference, KeyState, Selection, ValueDigest, What, digest, read,
};
use strongroom::keys::KeySet;
use strongroom::text::printable;
use strongroom::{Error, Result};

use super::{Context, Looked, put_bytes, raw};
use crate::args::{DiffArgs, Which, WriteOut, moment};
use crate::output::{json_lines, lines, stream};
use crate::progress::busy;

/// What `diff` ends with when there are differences.
const DIFFERENT: u8 = 3;
const LIVE: &str = "live";

pub(in crate::commands) async fn diff(args: DiffArgs, context: &Context) -> Result<ExitCode> {
    if args.which.id == LIVE {
        return Err(
            Error::usage("`live` must be the second of the two").hint("strongroom diff ID live")
        );
    }
    let prefix = raw(&args.prefix);
    let before = state(&args.which, &prefix, context).await?;
    let (after, named) = if args.other == LIVE {
        let _busy = busy(context.progress, context.output, "reading etcd");
        let live = read_live(&context.settings.etcd()?, &prefix).await?;
        live.warnings.iter().for_each(|warning| context.output.warn(warning));
        (live.contents, format!("{LIVE} ({})", live.member))
    } else {
        let which = Which { id: args.other.clone(), before: None, accept_untrusted: false };
        let looked = state(&which, &prefix, context).await?;
        (looked.answer, looked.id.to_string())
    };
    let mut counts = [0_u64; 3];
    for difference in contents::diff(&before.answer, &after) {
        if let Some(count) = counts.get_mut(place(difference.what())) {
            *count = count.saturating_add(1);
        }
    }
    let [added, changed, removed] = counts;
    let differences = || contents::diff(&before.answer, &after);
    stream(|out| match context.output.format {
        WriteOut::Json => {
            let mut head = Map::new();
            head.insert("from".into(), before.id.to_string().into());
            head.insert("from_revision".into(), before.answer.revision.into());
            let to = if args.other == LIVE { LIVE } else { &named };
            head.insert("to".into(), to.into());
            head.insert("to_revision".into(), after.revision.into());
            head.insert("added".into(), added.into());
            head.insert("changed".into(), changed.into());
            head.insert("removed".into(), removed.into());
            json_lines(out, &head, "differences", differences().map(|it| json(&it)))
        }
        WriteOut::Table if counts == [0; 3] => Ok(()),
        WriteOut::Table => {
            let header = ["CHANGE", "FROM REV", "TO REV", "FROM SIZE", "TO SIZE", "KEY"];
            lines(out, header, &[1, 2, 3, 4], || differences().map(|it| row(&it)))
        }
    })?;
    context.output.note(&format!(
        "from {} at revision {} to {named} at revision {}: {added} added, {changed} changed, {removed} removed",
        before.id, before.answer.revision, after.revision
    ));
    Ok(if counts == [0; 3] { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

/// The keys of a snapshot, or at the recorded moment that `which` names.
async fn state(
    which: &Which,
    prefix: &[u8],
    context: &Context,
) -> Result<Looked<Contents<ValueDigest>>> {
    let prefix = prefix.to_vec();
    let look = move |inside: &Inside, revision, _: &KeySet| {
        let selection = Selection { prefix: &prefix, revision, ..Selection::default() };
        read(&inside.records(), &selection, digest)
    };
    let Some(moment) = recorded(&which.id)? else {
        return context.look_with_keys(which, None, look).await;
    };
    if which.before.is_some() || which.accept_untrusted {
        return Err(Error::usage("--before and --accept-untrusted go with a snapshot"));
    }
    let latest = Which { id: "latest".into(), before: None, accept_untrusted: false };
    context.look_with_keys(&latest, Some(moment), look).await
}

/// The moment that `rev:N` or `time:T` names.
fn recorded(text: &str) -> Result<Option<Moment>> {
    if let Some(revision) = text.strip_prefix("rev:") {
        let revision = revision.parse().ok().filter(|revision| *revision > 0);
        let revision = revision.ok_or_else(|| {
            Error::usage(format!("{text:?} names no revision")).hint("write rev:48210")
        })?;
        return Ok(Some(Moment::Revision(revision)));
    }
    let Some(time) = text.strip_prefix("time:") else { return Ok(None) };
    let time = moment(time).map_err(|why| Error::usage(format!("{text:?}: {why}")))?;
    Ok(Some(Moment::Time(time.as_millisecond().max(0).unsigned_abs())))
}

fn place(what: What) -> usize {
    match what {
        What::Created => 0,
        What::Changed => 1,
        What::Deleted => 2,
    }
}

fn name(what: What) -> &'static str {
    ["added", "changed", "removed"].get(place(what)).copied().unwrap_or_default()
}

fn row(difference: &Difference<'_>) -> [String; 6] {
    let revision = |state: Option<&KeyState<ValueDigest>>| {
        state.map_or("-".into(), |state| state.modified.main.to_string())
    };
    let size = |state: Option<&KeyState<ValueDigest>>| {
        state.map_or("-".into(), |state| state.value_bytes.to_string())
    };
    [
        name(difference.what()).into(),
        revision(difference.before),
        revision(difference.after),
        size(difference.before),
        size(difference.after),
        printable(difference.key),
    ]
}

fn json(difference: &Difference<'_>) -> Value {
    let mut map = Map::new();
    put_bytes(&mut map, "key", Some(difference.key));
    map.insert("change".into(), name(difference.what()).into());
    let sides = [("from", difference.before), ("to", difference.after)];
    for (side, state) in sides {
        let modified = state.map(|state| state.modified.main);
        map.insert(format!("{side}_mod_revision"), modified.into());
        map.insert(format!("{side}_value_bytes"), state.map(|state| state.value_bytes).into());
    }
    map.into()
}
