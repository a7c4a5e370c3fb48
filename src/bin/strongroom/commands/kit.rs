//! `key kit`: the page that one wants to have on the worst day.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use strongroom::Result;
use strongroom::backup::key_usage;
use strongroom::custody::{MasterKeyUri, keyfile, read_identities, read_signers, read_signing_key};
use strongroom::format::{KeyId, KeyState};

use super::Context;
use crate::output::write_stdout;

const BLANK: &str = "______________________________";

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    let url = settings.repository_url()?.to_string();
    let repository = context.repository().await?;
    let usage = key_usage(&repository).await?;
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
        settings.cluster.as_ref().map_or(BLANK, |cluster| cluster.as_str()),
        env!("CARGO_PKG_VERSION"),
    );
    page += "\nKeys: any one of them opens the snapshots beside it\n";
    let here = here(context)?;
    for (id, opens) in &usage.opens {
        let now = here.get(id).map(String::as_str).unwrap_or("not given here");
        let _ = writeln!(page, "  {id}   {opens} snapshot(s), {now}\n{:36} copy: {BLANK}", "");
    }
    for (id, now) in here.iter().filter(|(id, _)| !usage.opens.contains_key(id)) {
        let _ = writeln!(page, "  {id}   no snapshot yet, {now}\n{:36} copy: {BLANK}", "");
    }
    let signers = signers(context)?;
    if !signers.is_empty() {
        page += "\nTrusted signers: what none of them has signed does not count\n";
        signers.iter().for_each(|signer| page += &format!("  {signer}\n"));
    }
    page += &commands(&url, repository.id(), !signers.is_empty());
    write_stdout(page.trim_end())?;
    context
        .output
        .note("next: fill in where the copies are, and try the commands on another machine");
    Ok(ExitCode::SUCCESS)
}

/// The four commands of a restore, and what to do without the program.
fn commands(url: &str, id: impl std::fmt::Display, signed: bool) -> String {
    let signers = if signed { " --signers SIGNERS" } else { "" };
    let with = format!("-r {url} --repository-id {id} -k KEY{signers}");
    format!(
        "\nRestore, on a machine with etcd. KEY is file:KEYRING, identity:FILE or passphrase.\n  \
         strongroom snapshots -r {url}\n  \
         strongroom verify latest {with}\n  \
         strongroom restore latest {with} --data-dir DIR\n  \
         etcd --data-dir DIR\n\
         For a member of a cluster of several: `strongroom help restore`.\n\
         A key on paper: strongroom key combine -o KEYRING --expect KEYID\n\
         Without strongroom: its source has the format (src/format/SPEC.md) and a reader in Python (tests/vectors/open.py).\n"
    )
}

/// The keys that are given, with their kind and where they are.
fn here(context: &Context) -> Result<BTreeMap<KeyId, String>> {
    let mut here = BTreeMap::new();
    for uri in context.settings.master_keys() {
        match uri {
            MasterKeyUri::File(path) => {
                let keyring = keyfile::load(path)?;
                let opens = |(_, state, _): &(KeyId, KeyState, _)| *state != KeyState::Destroyed;
                for (id, state, _) in keyring.list(keyfile::now()).filter(opens) {
                    here.insert(id, format!("{} key in {uri}", state.name()));
                }
            }
            MasterKeyUri::Identity(path, _) => {
                for identity in read_identities(path)?.identities {
                    here.insert(identity.recipient().id(), format!("in {uri}"));
                }
            }
            MasterKeyUri::Recipient(key) => {
                here.insert(key.id(), "a recipient: its identity file opens".into());
            }
            MasterKeyUri::Passphrase(Some(key)) => {
                here.insert(key.id, "a key in the repository, behind a passphrase".into());
            }
            MasterKeyUri::Passphrase(None) | MasterKeyUri::Recipients(_) => {}
        }
    }
    Ok(here)
}

/// The signers that are trusted, as in their file.
fn signers(context: &Context) -> Result<Vec<String>> {
    let trust = &context.settings.trust;
    let mut lines = Vec::new();
    for path in &trust.signers {
        for signer in read_signers(path)?.into_iter().filter(|signer| signer.revoked.is_none()) {
            let name = signer.name.map(|name| format!(" name={name}")).unwrap_or_default();
            lines.push(format!("{}{name}", signer.key));
        }
    }
    if let Some(path) = &trust.signing_key {
        lines.push(read_signing_key(path)?.public().to_string());
    }
    lines.dedup();
    Ok(lines)
}
