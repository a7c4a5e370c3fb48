//! `ls`

use std::process::ExitCode;

use serde_json::{Map, Value};
use strongroom::Result;
use strongroom::contents::{KeyState, Selection, read};
use strongroom::text::printable;

use super::{Context, lease, put_bytes, raw};
use crate::args::{LsArgs, WriteOut};
use crate::output::{json_lines, lines, stream};

pub(in crate::commands) async fn ls(args: LsArgs, context: &Context) -> Result<ExitCode> {
    let prefix = raw(&args.prefix);
    let deleted = args.deleted;
    let looked = context
        .look_with_keys(&args.which, args.at.moment(), move |inside, revision, _| {
            read(&inside.records(), &Selection { prefix: &prefix, revision, deleted }, |_| ())
        })
        .await?;
    let contents = &looked.answer;
    let keys_only = args.keys_only;
    stream(|out| match context.output.format {
        WriteOut::Json => {
            let items = contents.keys.iter().map(|(key, state)| json(key, state, keys_only));
            json_lines(out, looked.head(contents.revision), "keys", items)
        }
        WriteOut::Table if keys_only => {
            contents.keys.keys().try_for_each(|key| writeln!(out, "{}", printable(key)))
        }
        WriteOut::Table => {
            let header = ["MODIFIED", "VERSION", "LEASE", "SIZE", "KEY"];
            lines(out, header, &[0, 1, 3], || {
                contents.keys.iter().map(|(key, state)| row(key, state))
            })
        }
    })?;
    let live = contents.keys.values().filter(|state| !state.deleted()).count();
    let noun = if live == 1 { "key" } else { "keys" };
    context.output.note(&format!(
        "{live} {noun} at revision {} of {}; {}",
        contents.revision,
        looked.id,
        looked.cost()
    ));
    Ok(ExitCode::SUCCESS)
}

fn row(key: &[u8], state: &KeyState) -> [String; 5] {
    let version = if state.deleted() { "deleted".into() } else { state.version.to_string() };
    [
        state.modified.main.to_string(),
        version,
        lease(state.lease).unwrap_or("-".into()),
        state.value_bytes.to_string(),
        printable(key),
    ]
}

fn json(key: &[u8], state: &KeyState, key_only: bool) -> Value {
    let mut map = Map::new();
    put_bytes(&mut map, "key", Some(key));
    if !key_only {
        map.extend(super::get::json(state));
    }
    map.into()
}
