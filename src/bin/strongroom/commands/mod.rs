//! One short function for each command.

mod agent;
mod audit;
mod audit_log;
mod backup;
mod config;
mod copy;
mod custody;
mod drill;
mod generate;
mod init;
mod inside;
mod journal;
mod key;
mod kit;
mod kms_plugin;
mod list;
mod look;
mod man;
mod paper;
mod promote;
mod prove;
mod proxy;
mod prune;
mod recorded;
mod reencrypt;
mod rehearsed;
mod restore;
mod rotate;
mod setup_auth;
mod shell;
mod to_cluster;
mod upgrade_check;
mod values;
mod verify;
mod vouch;

use std::path::PathBuf;
use std::process::ExitCode;

use strongroom::backup::{Listing, Scope, cluster_of, latest, select, snapshots};
use strongroom::format::SnapshotId;
use strongroom::keys::KeySet;
use strongroom::settings::{CommonSettings, Opened, retiring};
use strongroom::store::Repository;
use strongroom::task::Control;
use strongroom::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::args::{Command, KeyCommand, ProgressMode, Which};
use crate::output::{FINDINGS, Output};
use crate::secrets::{Passphrase, passphrase};

/// What every command gets.
pub(crate) struct Context {
    pub(crate) settings: CommonSettings,
    /// The configuration file, if it is not the default one.
    pub(crate) config: Option<PathBuf>,
    /// The master keys are for this command, and not from the configuration file.
    pub(crate) explicit_keys: bool,
    pub(crate) output: Output,
    pub(crate) progress: ProgressMode,
    pub(crate) control: Control,
    /// Turns true when the program is to stop.
    pub(crate) stop: watch::Receiver<bool>,
}

/// What to do where a snapshot's bytes are not those that were written.
const DAMAGED: &str = "delete nothing; try another key or another copy of the repository, or restore an older verified snapshot";

/// Runs one command.
///
/// # Errors
/// Whatever it meets; the kind decides the exit status.
pub(crate) async fn run(command: Command, context: &Context) -> Result<ExitCode> {
    let reads = matches!(
        command,
        Command::Restore(_)
            | Command::Show(_)
            | Command::Ls(_)
            | Command::Get(_)
            | Command::History(_)
            | Command::Diff(_)
            | Command::Stats(_)
            | Command::Drill(_)
    );
    dispatch(command, context).await.map_err(|error| match error.kind() {
        ErrorKind::Tampered | ErrorKind::Truncated if reads && error.hint_text().is_none() => {
            error.hint(DAMAGED)
        }
        _ => error,
    })
}

async fn dispatch(command: Command, context: &Context) -> Result<ExitCode> {
    match command {
        Command::Init(args) => init::run(args, context).await,
        Command::Backup(args) => backup::run(args, context).await,
        Command::Snapshots { tag } => look::snapshots(&tag, context).await,
        Command::Show(args) => look::show(args, context).await,
        Command::Verify(args) => verify::run(args, context).await,
        Command::Restore(args) if args.dry_run && !args.cluster.to_cluster => {
            rehearsed::run(&args, context).await
        }
        Command::Restore(args) => restore::run(&args, context).await,
        Command::Ls(args) => inside::ls(args, context).await,
        Command::Get(args) => inside::get(args, context).await,
        Command::History(args) => inside::history(args, context).await,
        Command::Diff(args) => inside::diff(args, context).await,
        Command::Stats(args) => inside::stats(args, context).await,
        Command::Drill(args) => drill::run(args, context).await,
        Command::Reports { id } => drill::list(id, context).await,
        Command::Journal(command) => journal::run(command, context).await,
        Command::Agent(_) => {
            crate::harden::all_files();
            agent::run(context).await
        }
        Command::Copy(args) => copy::run(args, context).await,
        Command::Prune(args) => prune::run(*args, context).await,
        Command::SetupAuth(args) => setup_auth::run(args, context).await,
        Command::Audit(args) => audit::run(*args, context).await,
        Command::UpgradeCheck(args) => upgrade_check::run(*args, context).await,
        Command::Key(command) => match command {
            KeyCommand::Generate(args) => generate::run(&args, context),
            KeyCommand::Vouch(args) => vouch::run(args, context).await,
            KeyCommand::List => list::run(context).await,
            KeyCommand::Custody => custody::run(context).await,
            KeyCommand::Prove => prove::run(context).await,
            KeyCommand::Rotate(args) if args.staged => promote::stage(context),
            KeyCommand::Rotate(args) => rotate::run(args, context).await,
            KeyCommand::Promote { key_id, at } => promote::promote(key_id, at, context),
            KeyCommand::Reencrypt(args) => reencrypt::run(args, context).await,
            KeyCommand::Reseal(args) => key::reseal(args, context).await,
            KeyCommand::Remove { key_id, now } => key::remove(key_id, now, context).await,
            KeyCommand::Kit => kit::run(context).await,
            KeyCommand::Split(args) => paper::split(&args, context),
            KeyCommand::Combine { files, output, expect } => {
                paper::combine(&files, &output, expect, context)
            }
            KeyCommand::Passphrase { key_id } => key::passphrase(key_id, context).await,
        },
        Command::Value(command) => values::run(command, context).await,
        Command::Proxy(args) => {
            crate::harden::all_files();
            proxy::proxy(*args, context).await
        }
        Command::KmsPlugin(settings) => kms_plugin::run(settings, context).await,
        Command::AuditLog(command) => audit_log::run(command, context).await,
        Command::Config(command) => config::run(command, context).await,
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { dir } => man::run(dir.as_deref(), context.output),
    }
}

impl Context {
    /// Opens the repository that the settings name.
    async fn repository(&self) -> Result<Repository> {
        Ok(self.open().await?.repository)
    }

    /// As [`repository`](Self::repository), rid of what killed backups were still writing.
    async fn swept_repository(&self) -> Result<Repository> {
        let opened = self.open().await?;
        if let Err(error) = opened.sweep().await {
            self.output.warn(&format!("files of killed backups could not be removed: {error}"));
        }
        Ok(opened.repository)
    }

    async fn open(&self) -> Result<Opened> {
        let opened = self.settings.open_repository().await?;
        opened.warnings.iter().for_each(|warning| self.output.warn(warning));
        Ok(opened)
    }

    /// The master keys that the settings name: keyring files read, passphrases asked for.
    async fn master_keys(&self, repository: &Repository) -> Result<KeySet> {
        let keys = self.open_keys(repository).await?;
        retiring(&keys).iter().for_each(|warning| self.output.warn(warning));
        Ok(keys)
    }

    async fn open_keys(&self, repository: &Repository) -> Result<KeySet> {
        let ask = || passphrase(Passphrase::Present, &self.settings.passphrase);
        self.settings.open_keys(repository, ask).await
    }

    /// As [`needed_keys`](Self::needed_keys), for the command that ends the rotation which the others warn of.
    async fn keys_to_finish(&self, repository: &Repository) -> Result<KeySet> {
        self.settings.check_keys()?;
        self.open_keys(repository).await
    }

    /// As [`master_keys`](Self::master_keys), for what cannot do without.
    async fn needed_keys(&self, repository: &Repository) -> Result<KeySet> {
        self.settings.check_keys()?;
        self.master_keys(repository).await
    }

    /// The snapshots of the chosen cluster, or of all.
    async fn listing(&self, repository: &Repository) -> Result<Listing> {
        let listing = snapshots(repository, self.settings.cluster.as_ref()).await?;
        listing.findings.iter().for_each(|finding| self.output.warn(finding));
        Ok(listing)
    }

    /// The snapshot that `which` means to `keys`, which then open it although it does not count, if that was asked for.
    async fn find(
        &self,
        repository: &Repository,
        keys: &mut KeySet,
        which: &Which,
    ) -> Result<SnapshotId> {
        let before = which.before.map(|time| time.as_millisecond().max(0).unsigned_abs());
        if before.is_some() && which.id != "latest" {
            return Err(Error::usage("--before goes with latest"));
        }
        // A full id needs no listing: on the worst day every other snapshot may be broken.
        let id = which.id.parse::<SnapshotId>();
        if which.accept_untrusted {
            if id.is_err() {
                return Err(Error::usage("--accept-untrusted goes with a snapshot's full id"));
            }
            keys.accept_untrusted();
        }
        match id {
            Ok(id) => self.of_cluster(repository, id).await,
            Err(_) if which.id == "latest" => self.latest(repository, keys, before).await,
            Err(_) => select(&self.listing(repository).await?, &which.id, None),
        }
    }

    /// The newest snapshot that counts; without keys the newest.
    async fn latest(
        &self,
        repository: &Repository,
        keys: &KeySet,
        before: Option<u64>,
    ) -> Result<SnapshotId> {
        let listing = self.listing(repository).await?;
        if keys.is_empty() {
            return select(&listing, "latest", before);
        }
        let found = latest(repository, keys, &listing, before).await;
        let (id, passed_over) = found.map_err(|error| match keys.can_vouch() {
            false if error.kind() == ErrorKind::Refused && self.settings.passphrases().next().is_none() => error.hint(
                "what is sealed to a public key counts only by a trusted signature: give --signers FILE",
            ),
            false if error.kind() == ErrorKind::Refused => error.hint(
                "the keys given only open: name the passphrase key with --master-key passphrase:KEYID",
            ),
            _ => error,
        })?;
        passed_over.iter().for_each(|finding| self.output.warn(finding));
        Ok(id)
    }

    /// `id`, unless its manifest names another cluster than was asked for.
    async fn of_cluster(&self, repository: &Repository, id: SnapshotId) -> Result<SnapshotId> {
        if let Some(wanted) = &self.settings.cluster {
            let found = cluster_of(repository, id).await?;
            if found != *wanted {
                let message = format!("snapshot {id} is of the cluster {found}, not of {wanted}");
                return Err(Error::usage(message).hint("give --cluster with its name"));
            }
        }
        Ok(id)
    }

    /// What a command is about that was given these ids, or none with `--all`.
    fn scope<'a>(&'a self, ids: &'a [SnapshotId]) -> Scope<'a> {
        match (ids, &self.settings.cluster) {
            ([], None) => Scope::All,
            ([], Some(cluster)) => Scope::Cluster(cluster),
            _ => Scope::Ids(ids),
        }
    }

    async fn find_all(
        &self,
        repository: &Repository,
        keys: &KeySet,
        names: &[String],
    ) -> Result<Vec<SnapshotId>> {
        // As in `find`; and a snapshot whose manifest is broken stands in no listing.
        if let Ok(ids) = names.iter().map(|name| name.parse()).collect() {
            return Ok(ids);
        }
        let listing = self.listing(repository).await?;
        let mut ids = Vec::new();
        for name in names {
            ids.push(match name.parse() {
                Ok(id) => id,
                Err(_) if name == "latest" => self.latest(repository, keys, None).await?,
                Err(_) => select(&listing, name, None)?,
            });
        }
        Ok(ids)
    }
}
