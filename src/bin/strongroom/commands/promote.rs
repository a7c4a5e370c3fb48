//! `key rotate --staged` and `key promote`: a new key reaches every host before any of them seals with it.

use std::process::ExitCode;

use serde_json::json;
use strongroom::Result;
use strongroom::crypto::system_rng;
use strongroom::custody::keyfile;
use strongroom::format::{KeyId, Time};

use super::Context;

pub(super) fn stage(context: &Context) -> Result<ExitCode> {
    let path = context.settings.keyring_path()?;
    let _lock = keyfile::lock([path])?;
    let (keyring, id) = keyfile::load(path)?.stage(keyfile::now(), &mut system_rng())?;
    keyfile::replace(path, &keyring)?;
    let place = path.display().to_string();
    let json = json!({"id": id.to_string(), "path": place});
    let text = || format!("{place}: staged key {id}");
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context.output.note(&format!(
        "next: copy the keyring off this host, and to every host that uses it; then `strongroom key promote {id}`"
    ));
    Ok(status)
}

pub(super) fn promote(
    id: KeyId,
    at: Option<jiff::Timestamp>,
    context: &Context,
) -> Result<ExitCode> {
    let path = context.settings.keyring_path()?;
    let _lock = keyfile::lock([path])?;
    let now = keyfile::now();
    let at = at.map_or(now, |at| Time::from_unix(at.as_second()));
    let keyring = keyfile::load(path)?.promote(id, at, now)?;
    keyfile::replace(path, &keyring)?;
    let place = path.display().to_string();
    let json = json!({"id": id.to_string(), "path": place, "at": at});
    let later = at > now;
    let status = context.output.done(ExitCode::SUCCESS, json, || match later {
        true => format!("{place}: key {id} becomes primary at {at}"),
        false => format!("{place}: new primary key {id}"),
    })?;
    context.output.note(match later {
        true => {
            "next: copy the keyring off this host, and to every host that uses it before that time"
        }
        false => "next: copy the keyring off this host, and to every host that uses it",
    });
    Ok(status)
}
