//! `value …`

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use strongroom::custody::keyfile;
use strongroom::format::{MAX_SEALED_RECORD, MigrationPhase, ValueKeyId};
use strongroom::keys::KeySet;
use strongroom::settings::{ValueKeys, ValueSettings};
use strongroom::text::printable;
use strongroom::values::{Migrated, Namespace, keyring};
use strongroom::{Error, ErrorKind, Result};

use super::inside::cipher_of;
use super::{Context, FINDINGS};
use crate::args::{KeyArgs, MigrateArgs, RotateArgs, ValueCommand, ValueKeyringCommand, Which};
use crate::output::{self, table};

/// The longest record that an import reads.
const MAX_RECORD: u64 = MAX_SEALED_RECORD as u64;
/// The largest value that is read from standard input.
const MAX_VALUE: u64 = 1 << 30;

pub(super) async fn run(command: ValueCommand, context: &Context) -> Result<ExitCode> {
    match command {
        ValueCommand::Init { force, values } => init(force, &values, context).await,
        ValueCommand::Seal { etcd_key, values } => {
            let opened = open(&values, context).await?;
            let sealed = opened.writable()?.seal(etcd_key.as_bytes(), &stdin()?)?;
            print(&sealed)?;
            opened.flush_usage().await?;
            Ok(ExitCode::SUCCESS)
        }
        ValueCommand::Open { etcd_key, snapshot, values } => {
            let cipher = match snapshot {
                None => open(&values, context).await?.cipher(),
                Some(id) => {
                    let which = Which { id, before: None, accept_untrusted: false };
                    Arc::new(cipher_of(&which, &values, context).await?)
                }
            };
            print(&cipher.open(etcd_key.as_bytes(), &stdin()?)?)?;
            Ok(ExitCode::SUCCESS)
        }
        ValueCommand::Status { prefix, values } => status(&prefix, &values, context).await,
        ValueCommand::Rotate(args) => rotate(args, context).await,
        ValueCommand::Migrate(args) => migrate(args, context).await,
        ValueCommand::Disable(args) => change(args, "disabled", keyring::disable, context).await,
        ValueCommand::Enable(args) => change(args, "enabled", keyring::enable, context).await,
        ValueCommand::Destroy(args) => {
            let opened = open(&args.values, context).await?;
            if let Some(left) = opened.survey(b"").await?.keys.get(&args.id) {
                return Err(Error::new(
                    ErrorKind::Refused,
                    format!("{left} values are encrypted under value key {}", args.id),
                )
                .hint(
                    "enable the key, run `strongroom value migrate`, then disable the key again",
                ));
            }
            change(args, "destroyed", keyring::destroy, context).await
        }
        ValueCommand::Keyring(command) => transfer(command, context).await,
    }
}

async fn init(force: bool, values: &ValueSettings, context: &Context) -> Result<ExitCode> {
    let prefix = values.reserved_prefix.as_bytes();
    let client = context.settings.etcd()?.connect().await?;
    let (masters, now) = (masters(&values.keys, context).await?, keyfile::now());
    let opened = if force {
        Namespace::init_beside_values(client, prefix, masters, now).await?
    } else {
        Namespace::init(client, prefix, masters, now).await?
    };
    let primary = opened.cipher().primary().to_string();
    let json = json!({"namespace": opened.cipher().namespace().to_string(), "primary": primary});
    let status = context.output.done(ExitCode::SUCCESS, json, || {
        format!("value keyring under {}: primary key {primary}", values.reserved_prefix)
    })?;
    context.output.note("next: `strongroom value keyring export -o FILE` makes a copy of it: without it no value opens");
    Ok(status)
}

async fn open(values: &ValueSettings, context: &Context) -> Result<Namespace> {
    let prefix = values.reserved_prefix.as_bytes();
    let client = context.settings.etcd()?.connect().await?;
    Namespace::open(client, prefix, masters(&values.keys, context).await?).await
}

/// The master keys of values: those given to this command, else those of `values`. They are in files: a passphrase's key
/// is in a repository.
pub(super) async fn masters(values: &ValueKeys, context: &Context) -> Result<Arc<KeySet>> {
    let uris = match context.explicit_keys {
        true => context.settings.master_keys().cloned().collect(),
        false => values.master_keys()?,
    };
    strongroom::custody::open(&uris, None).await.map(Arc::new)
}

fn stdin() -> Result<Vec<u8>> {
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_VALUE)
        .read_to_end(&mut value)
        .map_err(|error| Error::io("standard input", error))?;
    Ok(value)
}

fn print(value: &[u8]) -> Result<()> {
    output::stream(|out| out.write_all(value))
}

async fn status(prefix: &str, values: &ValueSettings, context: &Context) -> Result<ExitCode> {
    let opened = open(values, context).await?;
    let (keys, migrate) = opened.describe().await?;
    let survey = opened.survey(prefix.as_bytes()).await?;
    let standing = opened.standing().await?;
    if !standing.counts() {
        context.output.warn(&format!(
            "the value keyring is {standing}: anyone who has that key may have written it; \
             `strongroom value rotate` makes a new value key and seals the keyring to the present master key"
        ));
    }
    let count = |id: &ValueKeyId| survey.keys.get(id).copied().unwrap_or(0);
    let known: u64 = keys.iter().map(|key| count(&key.id)).sum();
    let unknown = survey.keys.values().sum::<u64>().saturating_sub(known);
    let phases: Vec<_> =
        migrate.iter().map(|entry| (printable(&entry.prefix), entry.phase.name())).collect();
    let json = json!({
        "keys": keys.iter().map(|key| json!({
            "id": key.id.to_string(), "state": key.state, "created": key.created.to_string(), "used": key.used,
            "values": count(&key.id),
        })).collect::<Vec<_>>(),
        "standing": standing.name(),
        "unencrypted": survey.unencrypted,
        "unknown_key": unknown,
        "malformed": survey.malformed,
        "migration": phases.iter().map(|(prefix, phase)| json!({"prefix": prefix, "phase": phase})).collect::<Vec<_>>(),
    });
    context.output.result(json, || {
        let rows = keys.iter().map(|key| {
            let (id, used) = (key.id.to_string(), key.used.to_string());
            vec![id, key.state.into(), key.created.to_string(), used, count(&key.id).to_string()]
        });
        let mut text =
            table(&["KEY", "STATE", "CREATED", "USED", "VALUES"], &[3, 4], rows.collect());
        text.push_str(&format!("values not encrypted: {}", survey.unencrypted));
        for (prefix, phase) in &phases {
            text.push_str(&format!("\nkeys with the prefix \"{prefix}\" are in phase {phase}"));
        }
        if unknown > 0 {
            text.push_str(&format!("\nvalues under keys that are not in the keyring: {unknown}"));
        }
        if survey.malformed > 0 {
            text.push_str(&format!("\ndamaged values: {}", survey.malformed));
        }
        text
    })?;
    let fine = unknown == 0 && survey.malformed == 0 && standing.counts();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

async fn rotate(args: RotateArgs, context: &Context) -> Result<ExitCode> {
    let opened = open(&args.values, context).await?;
    if args.older_than.is_some() || args.used.is_some() {
        let (keys, _) = opened.describe().await?;
        let primary = keys.iter().find(|key| key.state == "primary");
        let due = primary.is_none_or(|key| {
            let age = keyfile::now().unix().saturating_sub(key.created.unix());
            // One from the future has an age that nobody knows.
            let age = u64::try_from(age).ok().map(Duration::from_secs);
            let old = args.older_than.is_some_and(|limit| age.is_none_or(|age| age > limit));
            old || args.used.is_some_and(|limit| key.used > limit)
        });
        if !due {
            let id = opened.cipher().primary().to_string();
            context.output.result(json!({"id": id, "rotated": false}), || {
                format!("value key {id} stays primary")
            })?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let settle = args.settle;
    context.output.note(&format!("waiting {settle:?} until every program has the new key"));
    let id = opened.rotate(keyfile::now(), settle).await?.to_string();
    let (json, text) =
        (json!({"id": id, "rotated": true}), || format!("value key {id} is primary"));
    let status = context.output.done(ExitCode::SUCCESS, json, text)?;
    context.output.note("next: `strongroom value migrate --prefix …` encrypts older values with it; `strongroom value keyring export` makes a new copy of the keyring");
    Ok(status)
}

async fn migrate(args: MigrateArgs, context: &Context) -> Result<ExitCode> {
    let opened = open(&args.values, context).await?;
    let prefix = args.prefix.as_bytes();
    // Every other phase only changes what programs read and write.
    let converts = args
        .phase
        .is_none_or(|phase| matches!(phase, MigrationPhase::Encrypt | MigrationPhase::Decrypt));
    if let (Some(phase), false) = (args.phase, args.dry_run) {
        let settled = async {
            let (phase, settle) = (phase.name(), args.settle);
            context.output.note(&format!(
                "phase {phase}: waiting {settle:?} until every program has followed"
            ));
            tokio::time::sleep(settle).await;
        };
        opened.set_phase_after(prefix, phase, settled).await?;
        if converts {
            // A program that has not followed yet still writes as in the phase before.
            tokio::time::sleep(args.settle).await;
        }
    }
    let done = match args.phase {
        Some(MigrationPhase::Admit | MigrationPhase::AdmitBack) => Migrated::default(),
        phase if args.dry_run => opened.plan(prefix, phase).await?,
        _ if converts => opened.migrate(prefix, args.rate).await?,
        // A program may have written at the last moment.
        _ => opened.plan(prefix, None).await?,
    };
    opened.flush_usage().await?;
    let failed: Vec<_> =
        done.failed.iter().map(|(key, why)| json!({"key": printable(key), "why": why})).collect();
    let phase = args.phase.map(MigrationPhase::name);
    let json = json!({
        "prefix": args.prefix, "phase": phase, "sealed": done.sealed, "resealed": done.resealed,
        "opened": done.opened, "unchanged": done.unchanged, "failed": failed, "dry_run": args.dry_run,
    });
    let found = !done.failed.is_empty();
    let status = if found { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS };
    let status = context.output.done(status, json, || {
        let would = if args.dry_run { "would be " } else { "" };
        let counts = format!(
            "values {would}encrypted: {}, {would}encrypted with a new key: {}, {would}decrypted: {}, unchanged: {}, unreadable: {}",
            done.sealed, done.resealed, done.opened, done.unchanged, done.failed.len()
        );
        match phase {
            None => counts,
            Some(phase @ ("admit" | "admit-back")) => format!("phase {phase}: no value is converted"),
            Some(phase) => format!("phase {phase}: {counts}"),
        }
    })?;
    done.failed.iter().for_each(|(_, why)| context.output.warn(why));
    if let Some(next) = args.phase.filter(|_| !args.dry_run).and_then(next_step) {
        context.output.note(next);
    }
    Ok(status)
}

/// What to do after a phase.
fn next_step(phase: MigrationPhase) -> Option<&'static str> {
    Some(match phase {
        MigrationPhase::Admit => "next: move all programs to the proxy, then --phase encrypt",
        MigrationPhase::Encrypt => "next: compact and defragment etcd, then --phase done",
        MigrationPhase::AdmitBack => "next: --phase decrypt",
        MigrationPhase::Decrypt => {
            "next: compact etcd, then --phase off; programs may use etcd directly from now on"
        }
        MigrationPhase::Done | MigrationPhase::Off => return None,
    })
}

async fn change(
    args: KeyArgs,
    done: &str,
    step: fn(&mut strongroom::format::ValueKeyring, ValueKeyId) -> Result<()>,
    context: &Context,
) -> Result<ExitCode> {
    let opened = open(&args.values, context).await?;
    opened.change(|keyring| step(keyring, args.id)).await?;
    let id = args.id.to_string();
    let text = || format!("value key {id} is {done}");
    context.output.done(ExitCode::SUCCESS, json!({"id": id, "state": done}), text)
}

fn write_new(path: &Path, record: &[u8]) -> Result<()> {
    keyfile::create_file(path, record).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => error.hint(
            "an exported keyring is never overwritten: choose another name, and keep the old file until this one is backed up",
        ),
        _ => error,
    })
}

async fn transfer(command: ValueKeyringCommand, context: &Context) -> Result<ExitCode> {
    let client = context.settings.etcd()?.connect().await?;
    match command {
        ValueKeyringCommand::Export { output, values } => {
            let record = Namespace::export(&client, values.reserved_prefix.as_bytes()).await?;
            match output {
                None => print(&record)?,
                Some(path) => {
                    write_new(&path, &record)?;
                    let path = path.display();
                    context
                        .output
                        .note(&format!("{path}: the value keyring, sealed by the master keys"));
                }
            }
        }
        ValueKeyringCommand::Import { file, force, values } => {
            let prefix = values.reserved_prefix.as_bytes();
            let file_size =
                std::fs::metadata(&file).map_err(|error| Error::io(&file, error))?.len();
            if file_size > MAX_RECORD {
                return Err(Error::usage(format!(
                    "{}: too long for a value keyring",
                    file.display()
                )));
            }
            let record = std::fs::read(&file).map_err(|error| Error::io(&file, error))?;
            let masters = masters(&values.keys, context).await?;
            let imported = Namespace::import(&client, prefix, &masters, &record, force).await?;
            return context.output.done(ExitCode::SUCCESS, json!({"imported": imported}), || {
                let done = if imported { "imported" } else { "already in etcd" };
                format!("value keyring under {}: {done}", values.reserved_prefix)
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}
