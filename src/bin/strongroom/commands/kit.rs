//! `key kit`: the page that one wants to have on the worst day.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use strongroom::backup::{KeyUsage, Proofs, key_usage, proofs, snapshots};
use strongroom::custody::{MasterKeyUri, keyfile, open_public};
use strongroom::format::{KeyId, KeyState};
use strongroom::keys::KeySet;
use strongroom::store::{Repository, RepositoryUrl};
use strongroom::text::counted;
use strongroom::{Error, Result};

use super::Context;
use crate::output::write_stdout;

const BLANK: &str = "______________________________";

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    context.output.refuse_json("key kit prints a page")?;
    let url = absolute(context.settings.repository_url()?)?;
    let repository = context.repository().await?;
    let clusters = clusters(&repository, context).await?;
    let keys = context.settings.open_keys_unasked(&repository).await?;
    let usage = key_usage(&repository, &keys).await?;
    let proofs = proofs(&repository, &keys, &[]).await?;
    usage.unreadable.iter().for_each(|what| context.output.warn(what));
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        page,
        "strongroom: what a restore needs. Printed {}.\n\
         This page holds no secret. Keep it outside of the cluster, at more than one place.\n\n\
         Repository      {url}\n\
         Repository id   {}\n\
         Cluster         {}\n\
         Program         strongroom {}\n\
         Store           credentials are at {BLANK}\n",
        keyfile::now(),
        repository.id(),
        if clusters.is_empty() { BLANK.to_owned() } else { clusters.join(", ") },
        env!("CARGO_PKG_VERSION"),
    );
    page += "\nKeys: any one of them opens the snapshots beside it\n";
    let (here, signers) = here(context)?;
    page += &keys_of(&here, &usage, &proofs);
    if !signers.is_empty() {
        page += "\nTrusted signers: what none of them has signed does not count. \
                 These lines are the file SIGNERS:\n";
        signers.iter().for_each(|signer| page += &format!("  {signer}\n"));
    }
    let cluster = match clusters.as_slice() {
        [] => "",
        [one] => one,
        _ => "CLUSTER",
    };
    page += &commands(&url, repository.id(), cluster, !signers.is_empty());
    write_stdout(page.trim_end())?;
    context
        .output
        .note("next: fill in where the copies are, and try the commands on another machine");
    Ok(ExitCode::SUCCESS)
}

/// A line for each key that is given, or opens a snapshot.
fn keys_of(here: &BTreeMap<KeyId, String>, usage: &KeyUsage, proofs: &Proofs) -> String {
    let mut lines = String::new();
    // What merely names a key may be planted: it is shown only where no key can tell.
    let named = usage.named.keys().filter(|_| usage.unknown > 0);
    let ids: BTreeSet<_> = usage.opens.keys().chain(named).chain(here.keys()).collect();
    for id in ids {
        let opens = match (usage.opens.get(id), usage.named.get(id)) {
            (Some(opens), _) => counted(opens, "snapshot"),
            (None, Some(named)) if usage.unknown > 0 => {
                let named = counted(named, "snapshot");
                format!("named by the seals of {named}, not verified here")
            }
            (None, _) => "no snapshot yet".into(),
        };
        let now = here.get(id).map(String::as_str).unwrap_or("not given here");
        let tested = match proofs.proven(*id) {
            Some(proof) => format!("tested {}", proof.report.created()),
            None => "never tested".into(),
        };
        let _ = writeln!(lines, "  {id}   {opens}, {now}\n{:36} {tested}; copy: {BLANK}", "");
    }
    lines
}

/// The URL as it is understood in any directory, for a shell.
fn absolute(url: &RepositoryUrl) -> Result<String> {
    let text = match url.directory() {
        Some(path) => {
            std::path::absolute(path).map_err(|error| Error::io(path, error))?.display().to_string()
        }
        None => url.to_string(),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+@%=".contains(c);
    Ok(match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    })
}

/// The cluster that the settings name; without one, those that the repository has snapshots of.
async fn clusters(repository: &Repository, context: &Context) -> Result<Vec<String>> {
    if let Some(cluster) = &context.settings.cluster {
        return Ok(vec![cluster.to_string()]);
    }
    let listing = snapshots(repository, None).await?;
    let names: BTreeSet<_> = listing.snapshots.iter().map(|one| one.cluster.to_string()).collect();
    Ok(names.into_iter().collect())
}

/// The four commands of a restore, and what to do without the program.
fn commands(url: &str, id: impl std::fmt::Display, cluster: &str, signed: bool) -> String {
    let signers = if signed { " --signers SIGNERS" } else { "" };
    let cluster = match cluster {
        "" => String::new(),
        name => format!(" --cluster {name}"),
    };
    let with = format!("-r {url} --repository-id {id}{cluster} -k KEY{signers}");
    format!(
        "\nRestore, on a machine with etcd. KEY is file:KEYRING, identity:FILE or passphrase:KEYID.\n  \
         strongroom snapshots -r {url}{cluster}\n  \
         strongroom verify latest {with}\n  \
         strongroom restore latest {with} --newest --data-dir DIR\n  \
         etcd --data-dir DIR\n\
         For a member of a cluster of several: `strongroom help restore`.\n\
         A key on paper: strongroom key combine -o KEYRING --expect KEYID\n\
         Without strongroom: its source has the format (src/format/SPEC.md) and a reader in Python (tests/vectors/open.py).\n"
    )
}

/// The keys that are given, with their kind and where they are, and the trusted signers as in their file.
fn here(context: &Context) -> Result<(BTreeMap<KeyId, String>, Vec<String>)> {
    let (mut here, mut trusted) = (BTreeMap::new(), KeySet::new());
    for uri in context.settings.master_keys() {
        match uri {
            MasterKeyUri::File(path) => {
                let keyring = keyfile::load(path)?;
                let opens = |(_, state, _): &(KeyId, KeyState, _)| *state != KeyState::Destroyed;
                for (id, state, _) in keyring.list(keyfile::now()).filter(opens) {
                    here.insert(id, format!("{} key in {uri}", state.name()));
                }
            }
            MasterKeyUri::Passphrase(Some(key)) => {
                here.insert(key.id, "a key in the repository, behind a passphrase".into());
            }
            MasterKeyUri::Passphrase(None) => {}
            public => {
                let mut keys = KeySet::new();
                open_public(public, &mut keys)?;
                for id in keys.ids() {
                    let place = match keys.holds(id) {
                        true => format!("in {public}"),
                        false => "a recipient: its identity file opens".into(),
                    };
                    // One that is given as both opens.
                    if keys.holds(id) || !here.contains_key(&id) {
                        here.insert(id, place);
                    }
                }
                keys.signers().iter().for_each(|signer| trusted.trust(signer.clone()));
            }
        }
    }
    context.settings.trust.add_to(&mut trusted)?;
    let mut lines: Vec<String> = Vec::new();
    for line in trusted.signers().iter().map(ToString::to_string) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    Ok((here, lines))
}
