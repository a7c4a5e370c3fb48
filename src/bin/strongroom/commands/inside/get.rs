//! `get` and `history`: one key.

use std::io::IsTerminal;
use std::process::ExitCode;

use data_encoding::BASE64;
use serde_json::{Map, Value};
use strongroom::backup::Inside;
use strongroom::contents::{self, Change, KeyState, key_history};
use strongroom::format::ValueHeader;
use strongroom::keys::KeySet;
use strongroom::mvcc::RecordSource;
use strongroom::secret::SecretBytes;
use strongroom::text::printable;
use strongroom::{Error, Result};

use super::{Context, lease, put_bytes, raw};
use crate::args::{GetArgs, HistoryArgs, WriteOut};
use crate::output::{stream, table};

pub(in crate::commands) async fn get(args: GetArgs, context: &Context) -> Result<ExitCode> {
    let key = raw(&args.key);
    let (show, as_stored) = (args.show_value, args.as_stored);
    let prints = show && context.output.format == WriteOut::Table;
    if prints && !args.force && std::io::stdout().is_terminal() {
        return Err(Error::usage("the value is not written to a terminal: it may be a secret")
            .hint("redirect it to a file or a pipe, or give --force"));
    }
    let own = super::values::own_masters(&args.values).await?;
    let prefix = args.values.reserved_prefix;
    let looked = context
        .look_with_keys(&args.which, args.at.moment(), move |inside, revision, masters| {
            let records = inside.records();
            let state = contents::get(&records, &key, revision)?;
            let mut value = show.then(|| records.value(state.modified)).transpose()?;
            let at = revision.map_or_else(|| Ok(records.span()?.last), Ok)?;
            let mut value_key = None;
            if let Some(stored) = value.as_mut().filter(|_| !as_stored)
                && let Some((header, _)) = ValueHeader::split(stored)?
            {
                let opened =
                    super::values::cipher(inside, &prefix, own.as_ref().unwrap_or(masters))
                        .and_then(|cipher| cipher.open(&key, stored));
                *stored = opened.map_err(|error| match error.hint_text() {
                    Some(_) => error,
                    None => error.hint("--as-stored writes it as etcd holds it"),
                })?;
                value_key = Some(header.key);
            }
            Ok((at, state, value.map(SecretBytes::new), value_key))
        })
        .await?;
    let (at, state, value, value_key) = &looked.answer;
    let json = || {
        let mut map = looked.head(*at);
        put_bytes(&mut map, "key", Some(&raw(&args.key)));
        map.extend(self::json(state));
        let value = value.as_ref().map(|value| BASE64.encode(value.expose()));
        map.insert("value_base64".into(), value.into());
        map.insert("value_key".into(), value_key.map(|id| id.to_string()).into());
        Value::from(map)
    };
    match (context.output.format, value) {
        (WriteOut::Table, Some(value)) => write_value(value.expose())?,
        _ => context.output.result(json(), || self::text(&raw(&args.key), state))?,
    }
    let hint = if show { "" } else { "; --show-value writes the value" };
    context.output.note(&format!("{}{hint}", looked.cost()));
    Ok(ExitCode::SUCCESS)
}

/// What the table shows of a key.
fn text(key: &[u8], state: &KeyState) -> String {
    let rows = [
        ("key", printable(key)),
        ("modified at revision", state.modified.main.to_string()),
        ("created at revision", state.create_revision.to_string()),
        ("version", state.version.to_string()),
        ("lease", lease(state.lease).unwrap_or("none".into())),
        ("value", format!("{} bytes", state.value_bytes)),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    table(&["", ""], &[], rows.into()).trim_start().to_owned()
}

/// Writes the value byte for byte, but no bytes to a terminal that it would act on.
fn write_value(value: &[u8]) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if terminal && !std::str::from_utf8(value).is_ok_and(|text| text.chars().all(plain)) {
        return Err(Error::usage(format!(
            "the value, {} bytes, is not text for a terminal",
            value.len()
        ))
        .hint("redirect it to a file, or use -w json"));
    }
    stream(|out| {
        out.write_all(value)?;
        if terminal { out.write_all(b"\n") } else { Ok(()) }
    })
}

/// What JSON shows of a key, besides the key.
pub(super) fn json(state: &KeyState) -> Map<String, Value> {
    let told = [
        ("mod_revision", Value::from(state.modified.main)),
        ("create_revision", state.create_revision.into()),
        ("version", state.version.into()),
        ("lease", lease(state.lease).into()),
        ("value_bytes", state.value_bytes.into()),
        ("deleted", state.deleted().into()),
    ];
    told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(in crate::commands) async fn history(args: HistoryArgs, context: &Context) -> Result<ExitCode> {
    let key = raw(&args.key);
    let look =
        move |inside: &Inside, revision, _: &KeySet| key_history(&inside.records(), &key, revision);
    let looked = context.look_with_keys(&args.which, args.at.moment(), look).await?;
    let history = &looked.answer;
    context.output.result(&looked, || {
        let row = |change: &Change| {
            vec![
                change.revision.main.to_string(),
                change.what.name().into(),
                change.version.to_string(),
                lease(change.lease).unwrap_or("-".into()),
                change.value_bytes.to_string(),
            ]
        };
        let header = ["REVISION", "CHANGE", "VERSION", "LEASE", "SIZE"];
        table(&header, &[0, 2, 4], history.changes.iter().map(row).collect())
    })?;
    let known = match history.compact_revision {
        0 => format!("all changes up to revision {} are known", history.revision),
        compacted => format!(
            "changes before revision {compacted} were compacted; later ones are known up to revision {}",
            history.revision
        ),
    };
    context.output.note(&format!("{known}; {}", looked.cost()));
    Ok(ExitCode::SUCCESS)
}
