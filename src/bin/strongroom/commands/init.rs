//! `init`

use std::process::ExitCode;

use serde_json::json;
use strongroom::crypto::{Argon2Cost, system_rng};
use strongroom::custody::{create_passphrase_key, passphrase_keys};
use strongroom::store::{Probe, Repository, create_directory};
use strongroom::{Error, ErrorKind, Result};

use super::Context;
use crate::args::InitArgs;
use crate::secrets::{Passphrase, new_passphrase};

pub(super) async fn run(args: InitArgs, context: &Context) -> Result<ExitCode> {
    let url = context.settings.repository_url()?.clone();
    // Asked before anything is created, so that a mistyped one leaves nothing behind.
    let mut passphrases = context.settings.passphrases();
    let bare = context.settings.passphrases().any(|named| named.is_none());
    if passphrases.any(|named| named.is_some()) {
        return Err(Error::usage("init makes a passphrase key of its own")
            .hint("give `--master-key passphrase` without an id; init prints the id"));
    }
    let word = bare
        .then(|| new_passphrase(Passphrase::New, &context.settings.passphrase, context.output))
        .transpose()?;
    create_directory(&url)?;
    let connected = context.settings.connect(&url, &context.settings.repository.options)?;
    connected.warnings.iter().for_each(|warning| context.output.warn(warning));
    let store = connected.store;
    let made = Repository::init(store.clone(), args.trust_store, &mut system_rng()).await;
    let repository = match made {
        Ok((repository, probe)) => {
            if let Probe::ProvenAndLeft(name) = probe {
                context.output.note(&format!(
                    "the store does not allow deletion: {name} stays and is harmless"
                ));
            }
            repository
        }
        // An init that was interrupted, or a repository that is to have a passphrase from now on.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && word.is_some() => {
            let repository = Repository::open(store, context.settings.repository.id).await?;
            refuse_second_passphrase(&repository, error.kind(), context).await?;
            repository
        }
        Err(error) => return Err(error),
    };
    let id = repository.id();
    let mut key = None;
    if let Some(word) = word {
        let made = create_passphrase_key(&repository, word, Argon2Cost::default()).await?;
        key = Some(made.id().to_string());
    }
    let status = context.output.done(
        ExitCode::SUCCESS,
        json!({"id": id.to_string(), "repository": url.to_string(), "passphrase_key": key}),
        || match &key {
            Some(key) => format!("repository {id} at {url}\npassphrase:{key}"),
            None => format!("repository {id} at {url}"),
        },
    )?;
    if let Some(key) = &key {
        context.output.note(&format!(
            "configure the passphrase key as --master-key passphrase:{key}: \
             a bare `passphrase` opens and does not seal"
        ));
    }
    advise(context);
    Ok(status)
}

/// What to do next.
fn advise(context: &Context) {
    if context.settings.has_recipients() {
        context.output.note(
            "before you rely on a recipient: after the first backup run `strongroom key prove -k identity:FILE` where its identity is",
        );
    }
    context
        .output
        .note("next: `strongroom backup`; to detect a replaced repository, pin the id with --repository-id");
}

/// A repository that was there already is to have its first passphrase key.
async fn refuse_second_passphrase(
    repository: &Repository,
    kind: ErrorKind,
    context: &Context,
) -> Result<()> {
    if !passphrase_keys(repository).await?.is_empty() {
        return Err(Error::new(kind, "this repository has a passphrase key already")
            .hint("`strongroom key passphrase` changes its passphrase"));
    }
    context.output.note(
        "the repository existed already; `strongroom key reseal --all` seals its snapshots to the passphrase too",
    );
    Ok(())
}
