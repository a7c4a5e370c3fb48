//! `key …`

use std::process::ExitCode;

use serde_json::{Value, json};
use strongroom::backup::{
    Accept, LONGEST_BACKUP, ResealReport, Scope, Untrusted, check_removable, new_recipients,
};
use strongroom::crypto::Argon2Cost;
use strongroom::custody::keyfile;
use strongroom::custody::{change_passphrase, passphrase_keys, remove_passphrase_key};
use strongroom::format::{KeyId, KeyState, SnapshotId, Time};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::{Error, ErrorKind, Result};

use super::{Context, FINDINGS};
use crate::args::ResealArgs;
use crate::output::{Dated, created};
use crate::secrets::{self, Passphrase};

pub(super) async fn reseal(args: ResealArgs, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let ids = context.find_all(&repository, &keys, &args.chosen.ids).await?;
    let accept = match args.accept_untrusted {
        true => {
            keys.accept_untrusted();
            Accept::Untrusted
        }
        false => Accept::Counting,
    };
    let (scope, control) = (context.scope(&ids), &context.control);
    confirm_recipients(&repository, &keys, scope, &args.recipients.expect).await?;
    let report = strongroom::backup::reseal(
        &repository,
        &keys,
        scope,
        &args.recipients.drop,
        accept,
        control,
    )
    .await?;
    let (json, text, code) = resealed(&report, RESEALED, context);
    let code = context.output.done(code, json, || text)?;
    context.output.note(
        "sealing again does not revoke: anyone who kept an old seal and its master key can still open that snapshot",
    );
    Ok(code)
}

/// That whoever runs the command means every public key that it adds to a seal: a configuration that somebody altered may name
/// one of his own, and what is sealed to it he opens.
pub(super) async fn confirm_recipients(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    expected: &[KeyId],
) -> Result<()> {
    let sealing: Vec<KeyId> = keys.sealing().map(|key| key.id()).collect();
    if let Some(id) = expected.iter().find(|id| !sealing.contains(id)) {
        return Err(Error::usage(format!(
            "--expect names key {id}, and that key does not seal here"
        )));
    }
    let new = new_recipients(repository, keys, scope).await?;
    for id in new.into_iter().filter(|id| !expected.contains(id)) {
        if !secrets::confirm(&format!("Seal the snapshots to the public key {id}? Type yes: "))? {
            let message = format!(
                "not confirmed: sealing to the public key {id}, whose identity is not here"
            );
            return Err(Error::new(ErrorKind::Refused, message).hint(format!(
                "compare the id with the one that `strongroom key generate --recipient` printed, then give --expect {id}"
            )));
        }
    }
    Ok(())
}

/// What was done to a snapshot, in a count and in a sentence.
pub(super) type Words = [&'static str; 2];
pub(super) const RESEALED: Words = ["re-sealed", "sealed again"];

/// What re-sealing did, for programs and for people, and its exit status; what to look at is warned of.
pub(super) fn resealed(
    report: &ResealReport,
    [done, sentence]: Words,
    context: &Context,
) -> (Value, String, ExitCode) {
    for old in &report.lingering {
        context.output.warn(&format!("a seal stays, and its keys still open it: {old}"));
    }
    for Untrusted { id, written, sealed, standing, .. } in &report.untrusted {
        let told = |what: &str, time: &Option<_>| {
            time.map_or_else(String::new, |time| format!(", {what} written {}", Time::from(time)))
        };
        context.output.warn(&format!(
            "snapshot {id} is not {sentence}: begun {}{}{}: {standing}",
            created(*id),
            told("manifest", written),
            told("seal", sealed)
        ));
    }
    for left in &report.journals_left {
        context.output.warn(&format!("not sealed again: {left}"));
    }
    let (failed, worst) = not_changed(&report.failed, context);
    let untrusted = report.untrusted.iter().map(|one| Dated::new(one, one.id));
    let (again, unchanged) = (report.resealed.len(), report.unchanged.len());
    let json = json!({
        "resealed": again, "unchanged": unchanged, "untrusted": untrusted.collect::<Vec<_>>(),
        "failed": failed, "lingering": report.lingering,
        "journals": report.journals.len(), "journals_left": report.journals_left,
    });
    let text = format!(
        "{again} {done}, {unchanged} unchanged, {} not trusted, {} failed{}",
        report.untrusted.len(),
        report.failed.len(),
        match report.journals.len() {
            0 => String::new(),
            journals => format!("; journals {done}: {journals}"),
        }
    );
    let findings = !report.lingering.is_empty()
        || !report.untrusted.is_empty()
        || !report.journals_left.is_empty();
    (json, text, ExitCode::from(worst.unwrap_or(if findings { FINDINGS } else { 0 })))
}

/// The snapshots that stay as they are, for programs, and the exit status of that if there are any; each is warned of.
pub(super) fn not_changed(
    failed: &[(SnapshotId, Error)],
    context: &Context,
) -> (Vec<Value>, Option<u8>) {
    for (id, error) in failed {
        let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
        context.output.warn(&format!("snapshot {id} was not changed: {error}{hint}"));
    }
    let json = failed.iter().map(|(id, error)| {
        json!({"id": id.to_string(), "error": error.kind().name(), "detail": error.to_string()})
    });
    (json.collect(), failed.iter().map(|(_, error)| error.kind().exit_code()).max())
}

pub(super) async fn remove(id: KeyId, now: bool, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    // From the proof that other keys open everything until this one is gone, so that two removals at once do not each
    // rely on the other's key.
    let lock = keyfile::lock(context.settings.keyring_paths())?;
    let keys = context.needed_keys(&repository).await?;
    if !now {
        refuse_after_rotation(context)?;
    }
    let passed_over = check_removable(&repository, &keys, id, now).await?;
    passed_over.iter().for_each(|what| context.output.warn(&format!("passed over: {what}")));
    let mut places = Vec::new();
    // The keyrings first: what stands in the repository under a key's id may have been planted there.
    for path in context.settings.keyring_paths() {
        let keyring = keyfile::load(path)?;
        let now = keyfile::now();
        if keyring.list(now).any(|(found, ..)| found == id) {
            keyfile::replace(path, &keyring.destroy(id, now)?)?;
            places.push(path.display().to_string());
        }
    }
    if passphrase_keys(&repository).await?.contains_key(&id) {
        remove_passphrase_key(&repository, id).await?;
        places.push("the repository".to_owned());
    }
    drop(lock);
    if places.is_empty() {
        let message = format!("key {id} is in none of the keyrings given");
        return Err(Error::new(ErrorKind::NotFound, message)
            .hint("name its keyring with --master-key file:PATH"));
    }
    let places = places.join(" and ");
    let json = json!({"id": id.to_string(), "removed_from": places});
    let text = || format!("key {id} was removed from {places}");
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context
        .output
        .note("copies of the keyring still hold it; other repositories may still need it");
    Ok(status)
}

/// A backup that began before a rotation seals to the key of then, and shows only when it ends.
fn refuse_after_rotation(context: &Context) -> Result<()> {
    for path in context.settings.keyring_paths() {
        let keyring = keyfile::load(path)?;
        let now = keyfile::now();
        let primary = keyring.list(now).find(|(_, state, _)| *state == KeyState::Primary);
        let age = primary.map(|(.., since)| now.unix().abs_diff(since.unix()));
        let alone = keyring.list(now).count() < 2;
        if !alone && age.is_some_and(|age| age < LONGEST_BACKUP.as_secs()) {
            let message = format!("{}: its primary key is younger than a day", path.display());
            return Err(Error::new(ErrorKind::Refused, message).hint(
                "a backup that began before the rotation would need the old key: wait a day, or give --now if no backup is running",
            ));
        }
    }
    Ok(())
}

pub(super) async fn passphrase(id: Option<KeyId>, context: &Context) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let keys = passphrase_keys(&repository).await?;
    if keys.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "this repository has no passphrase key"));
    }
    let old = secrets::passphrase(Passphrase::Present, &context.settings.passphrase)?;
    let settings = &context.settings.passphrase;
    let new = secrets::new_passphrase(Passphrase::Replacement, settings, context.output)?;
    let id = change_passphrase(&repository, id, old, new, Argon2Cost::default()).await?;
    let text = || format!("key {id} opens with the new passphrase");
    let json = json!({"id": id.to_string()});
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context.output.note("copies of the repository made before still open with the old one");
    Ok(status)
}
