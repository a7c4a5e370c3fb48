//! `key rotate`: a new key takes over, the snapshots follow, the old key retires.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use strongroom::backup::{Accept, ResealReport, Scope, newest_by_retiring, reseal};
use strongroom::crypto::{Argon2Cost, system_rng};
use strongroom::custody::keyfile;
use strongroom::custody::{self, InRepository, MasterKeyUri, create_passphrase_key};
use strongroom::format::{KeyId, KeyState, Time};
use strongroom::keys::KeySet;
use strongroom::secret::SecretBytes;
use strongroom::store::Repository;
use strongroom::{Error, ErrorKind, Result};

use super::Context;
use super::key::{RESEALED, confirm_recipients, resealed};
use crate::args::RotateKeyArgs;
use crate::secrets::{Passphrase, passphrase};

/// What took over, and what it took over from.
struct Rotated {
    /// The new key; none when a rotation that was interrupted goes on.
    new: Option<KeyId>,
    /// Where it is: a keyring's path, or a URI to configure.
    place: String,
    old: Vec<KeyId>,
    next: String,
}

pub(super) async fn run(args: RotateKeyArgs, context: &Context) -> Result<ExitCode> {
    if args.finish {
        return finish(&args.expect, context).await;
    }
    let settings = &context.settings;
    let of_file = settings.keyring_paths().next().is_some();
    if of_file || settings.passphrases().flatten().next().is_none() {
        settings.keyring_path()?;
    }
    // Before anything is changed: the snapshots are to follow.
    let repository = match args.offline && of_file {
        true => None,
        false => Some(context.repository().await.map_err(|error| match error.kind() {
            ErrorKind::Usage if of_file => {
                error.hint("give one with --repository, or --offline to change the key only")
            }
            _ => error,
        })?),
    };
    if let Some(repository) = repository.as_ref().filter(|_| of_file && !args.offline) {
        confirm_first(repository, &args.expect, context).await?;
    }
    let (rotated, keys) = match &repository {
        Some(repository) if !of_file => of_passphrase(&args, repository, context).await?,
        _ => (of_keyring(&args, settings.keyring_path()?)?, None),
    };
    let Some(repository) = repository.filter(|_| !args.offline) else {
        let (json, text) = (json_of(&rotated, Value::Null), || text_of(&rotated));
        let status = context.output.done(ExitCode::SUCCESS, json, text)?;
        context.output.note(&format!("next: {}, then `strongroom key reseal --all`", rotated.next));
        return Ok(status);
    };
    // Before the work, which may be interrupted: nobody but this process knows which key is new.
    if let (Some(_), false) = (rotated.new, of_file) {
        context.output.note(&format!("{}: the new key; {}", rotated.place, rotated.next));
    }
    let mut keys = match keys {
        Some(keys) => keys,
        None => context.needed_keys(&repository).await?,
    };
    let (accept, drop) = match args.compromised {
        None => (Accept::Counting, Vec::new()),
        Some(time) => {
            // For this run only: what they sealed is looked at, and judged by its times.
            rotated.old.iter().for_each(|id| keys.set_state(*id, KeyState::Retiring));
            (Accept::Before(system_time(time)), rotated.old.clone())
        }
    };
    let control = &context.control;
    let report = reseal(&repository, &keys, Scope::All, &drop, accept, control).await?;
    let (json, text, code) = resealed(&report, RESEALED, context);
    let text = || format!("{}\n{text}", text_of(&rotated));
    let code = context.output.done(code, json_of(&rotated, json), text)?;
    note_next(&args, &rotated.next, &report, context);
    Ok(code)
}

fn note_next(args: &RotateKeyArgs, next: &str, report: &ResealReport, context: &Context) {
    context.output.note(&format!("next: {next}"));
    if args.compromised.is_none() {
        context.output.note(
            "when every host that backs up has the new key: `strongroom key rotate --finish`",
        );
    } else if !report.untrusted.is_empty() {
        context.output.note(
            "look at each snapshot that is not trusted; `strongroom key reseal ID --accept-untrusted` makes one count again",
        );
    }
}

/// Recipients are confirmed before the keyring is changed. A passphrase key is rotated without them.
async fn confirm_first(
    repository: &Repository,
    expected: &[KeyId],
    context: &Context,
) -> Result<()> {
    if !expected.is_empty() || context.settings.master_keys().any(MasterKeyUri::is_public) {
        let keys = context.needed_keys(repository).await?;
        confirm_recipients(repository, &keys, Scope::All, expected).await?;
    }
    Ok(())
}

fn json_of(rotated: &Rotated, snapshots: Value) -> Value {
    let old: Vec<_> = rotated.old.iter().map(ToString::to_string).collect();
    json!({
        "id": rotated.new.map(|id| id.to_string()), "path": rotated.place, "old": old,
        "snapshots": snapshots,
    })
}

fn text_of(rotated: &Rotated) -> String {
    match rotated.new {
        Some(id) => format!("{}: new primary key {id}", rotated.place),
        None => format!("{}: the rotation continues; no new key was made", rotated.place),
    }
}

/// Step one for a keyring file.
fn of_keyring(args: &RotateKeyArgs, path: &Path) -> Result<Rotated> {
    let _lock = keyfile::lock([path])?;
    let (keyring, now) = (keyfile::load(path)?, keyfile::now());
    let retiring = keyring.in_state(KeyState::Retiring, now);
    let place = path.display().to_string();
    let next = "copy the keyring off this host, and to every host that backs up".to_owned();
    if args.compromised.is_none() && !retiring.is_empty() {
        if args.offline {
            let message = format!("{place}: a rotation is not finished");
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("`strongroom key rotate --finish` ends it"));
        }
        return Ok(Rotated { new: None, place, old: retiring, next });
    }
    let (keyring, id, old) = match args.compromised {
        None => {
            let (keyring, id) = keyring.rotate(now, &mut system_rng())?;
            let old = keyring.in_state(KeyState::Retiring, now);
            (keyring, id, old)
        }
        Some(stolen) => {
            let (keyring, id) = keyring.replace_stolen(now, &mut system_rng())?;
            // Keys that were still in use at that time: one that was retired before it vouches for nothing.
            let stolen = Time::from_unix(stolen.as_second());
            let used = |(_, state, since): &(KeyId, KeyState, Time)| {
                *state == KeyState::Retired && *since >= stolen
            };
            let old = keyring.list(now).filter(used).map(|(id, ..)| id).collect();
            (keyring, id, old)
        }
    };
    keyfile::replace(path, &keyring)?;
    Ok(Rotated { new: Some(id), place, old, next })
}

/// Step one for a passphrase key: its state is what the configuration says.
async fn of_passphrase(
    args: &RotateKeyArgs,
    repository: &Repository,
    context: &Context,
) -> Result<(Rotated, Option<KeySet>)> {
    let named: Vec<_> = context.settings.passphrases().flatten().collect();
    let of = |retiring| named.iter().filter(move |key| key.retiring == retiring).map(|key| key.id);
    let (sealing, retiring): (Vec<KeyId>, Vec<KeyId>) = (of(false).collect(), of(true).collect());
    let [old] = sealing.as_slice() else {
        return Err(Error::usage("exactly one key is to be rotated").hint(
            "give one keyring file, or one passphrase:KEYID; `strongroom key list` shows the ids",
        ));
    };
    let word = passphrase(Passphrase::Present, &context.settings.passphrase)?;
    let again = SecretBytes::new(word.expose().to_vec());
    let uris: Vec<_> = named.iter().map(|key| MasterKeyUri::Passphrase(Some(*key))).collect();
    let mut keys =
        custody::open(&uris, Some(&mut InRepository::new(repository, || Ok(again)))).await?;
    context.settings.trust.add_to(&mut keys)?;
    if args.compromised.is_none() && !retiring.is_empty() {
        let place = format!("passphrase:{old}");
        let next = "`strongroom key rotate --finish` when every host uses it".to_owned();
        return Ok((Rotated { new: None, place, old: retiring, next }, Some(keys)));
    }
    let new = create_passphrase_key(repository, word, Argon2Cost::default()).await?;
    let (id, state) = (new.id(), KeyState::Retiring);
    keys.add(Arc::new(new), KeyState::Sealing);
    keys.set_state(*old, state);
    let next = match args.compromised {
        None => {
            format!("configure --master-key passphrase:{id} --master-key passphrase:{old}?retiring")
        }
        Some(_) => format!("configure --master-key passphrase:{id} instead of passphrase:{old}"),
    };
    let place = format!("passphrase:{id}");
    let old = [vec![*old], retiring].concat();
    Ok((Rotated { new: Some(id), place, old, next }, Some(keys)))
}

/// The run of its own that ends a rotation.
async fn finish(expected: &[KeyId], context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let keys = context.keys_to_finish(&repository).await?;
    let old = retiring(&keys, context)?;
    if old.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no key that is given is being retired").hint(
            "`strongroom key rotate` begins a rotation; `strongroom key list` shows the states",
        ));
    }
    let late = newest_by_retiring(&repository, &keys).await?;
    if let Some((cluster, id)) = late.first() {
        let message = format!(
            "only a key that is being retired seals the newest snapshot of cluster {cluster}, {id}"
        );
        return Err(Error::new(ErrorKind::Refused, message).hint(
            "give the host that took it the new key, and take a snapshot; or seal this one with `strongroom key reseal`",
        ));
    }
    confirm_recipients(&repository, &keys, Scope::All, expected).await?;
    let control = &context.control;
    let again =
        async || reseal(&repository, &keys, Scope::All, &old, Accept::Counting, control).await;
    let mut report = again().await?;
    refuse_failures(&mut report)?;
    let mut places = Vec::new();
    for path in context.settings.keyring_paths() {
        let _lock = keyfile::lock([path])?;
        let (keyring, retired) = keyfile::load(path)?.retire(keyfile::now())?;
        if !retired.is_empty() {
            keyfile::replace(path, &keyring)?;
            places.push(path.display().to_string());
        }
    }
    // What a backup on this host sealed between the two steps; a later one finds the key retired.
    let late = again().await?;
    report.resealed.extend(late.resealed);
    report.journals.extend(late.journals);
    let (json, text, code) = resealed(&report, RESEALED, context);
    let ids: Vec<String> = old.iter().map(ToString::to_string).collect();
    let json = json!({"retired": ids, "places": places, "snapshots": json});
    let text = || format!("retired: {}\n{text}", ids.join(" "));
    let code = context.output.done(code, json, text)?;
    for named in context.settings.passphrases().flatten().filter(|named| named.retiring) {
        let id = named.id;
        context.output.note(&format!(
            "next: remove passphrase:{id}?retiring from the configuration; `strongroom key remove {id}` deletes the key"
        ));
    }
    if !places.is_empty() {
        context.output.note("next: copy the keyring off this host again, and to every host");
    }
    Ok(code)
}

/// The keys that are to be retired: also those that only one of several keyrings has retired, where an earlier run was
/// interrupted.
fn retiring(keys: &KeySet, context: &Context) -> Result<Vec<KeyId>> {
    let mut old: BTreeSet<KeyId> = keys.in_state(KeyState::Retiring).collect();
    for path in context.settings.keyring_paths() {
        old.extend(keyfile::load(path)?.in_state(KeyState::Retiring, keyfile::now()));
    }
    Ok(old.into_iter().collect())
}

/// What the store did not do, and what counts by the old key alone, must be done before that key is retired.
fn refuse_failures(report: &mut ResealReport) -> Result<()> {
    let ResealReport { failed, counting, .. } = &report;
    let matters = |(id, error): &(_, Error)| error.kind().is_general() || counting.contains(id);
    match failed.iter().position(matters) {
        Some(at) => {
            let (id, error) = report.failed.swap_remove(at);
            Err(error.context(format!("snapshot {id}")).hint("the old key is not retired yet"))
        }
        None => Ok(()),
    }
}

pub(super) fn system_time(time: jiff::Timestamp) -> SystemTime {
    let since = u64::try_from(time.as_millisecond()).unwrap_or_default();
    UNIX_EPOCH + Duration::from_millis(since)
}
