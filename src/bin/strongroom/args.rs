//! What was typed.

mod audit;
mod inside;
mod journal;
mod keys;
mod moment;
mod restore;
mod to_cluster;
mod unattended;
mod upgrade;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use strongroom::backup::{BackupOptions, DrillOptions};
use strongroom::settings::{AgentSettings, CommonSettings, KmsPluginSettings, ProxySettings};

use crate::help;
use crate::version::version;

pub(crate) use audit::{AuditArgs, OutcomeFiles};
pub(crate) use inside::{At, DiffArgs, GetArgs, HistoryArgs, LsArgs, StatsArgs};
pub(crate) use journal::{JournalCommand, JournalVerifyArgs, RecordArgs};
pub(crate) use keys::{
    GenerateArgs, KeyCommand, ReencryptArgs, ResealArgs, RotateKeyArgs, SplitArgs, VouchArgs,
};
pub(crate) use moment::moment;
pub(crate) use restore::RestoreArgs;
pub(crate) use unattended::{CopyArgs, PruneArgs, SetupAuthArgs};
pub(crate) use upgrade::UpgradeArgs;
pub(crate) use values::{
    AuditCommand, KeyArgs, MigrateArgs, QueryArgs, RotateArgs, ValueCommand, ValueKeyringCommand,
};

/// Encryption at rest and disaster recovery for etcd.
#[derive(Parser)]
#[command(name = "strongroom", version = version(), long_about = help::PROGRAM, after_long_help = help::PROGRAM_MORE)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriteOut {
    /// For people.
    #[default]
    Table,
    /// One JSON document on standard output.
    Json,
}

/// How progress is shown, on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar, on a terminal only.
    #[default]
    Auto,
    /// One JSON object a line: {"what", "done", "total", "unit"}, or {"note"}
    Json,
    /// None.
    None,
}

/// Flags that every command takes.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file [default: /etc/strongroom/strongroom.toml, where it exists]
    #[arg(long, value_name = "FILE", env = "STRONGROOM_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", env = "STRONGROOM_WRITE_OUT")]
    pub(crate) write_out: Option<WriteOut>,
    /// No progress, no advice: errors and results only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Progress on standard error
    #[arg(long, value_name = "MODE", env = "STRONGROOM_PROGRESS")]
    pub(crate) progress: Option<ProgressMode>,
    #[command(flatten)]
    pub(crate) common: CommonSettings,
}

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a repository, and test its store
    #[command(long_about = help::INIT, after_long_help = help::INIT_MORE)]
    Init(InitArgs),
    /// Take one encrypted snapshot of a live etcd
    #[command(long_about = help::BACKUP, after_long_help = help::BACKUP_MORE)]
    Backup(BackupArgs),
    /// List the snapshots; needs no key
    #[command(long_about = help::SNAPSHOTS, after_long_help = help::SNAPSHOTS_MORE)]
    Snapshots {
        /// Only snapshots with this tag. Repeat for those with any of several
        #[arg(long, value_name = "TAG")]
        tag: Vec<String>,
    },
    /// Show what is known about one snapshot
    #[command(long_about = help::SHOW, after_long_help = help::SHOW_MORE)]
    Show(ShowArgs),
    /// Verify snapshots
    #[command(long_about = help::VERIFY, after_long_help = help::VERIFY_MORE)]
    Verify(VerifyArgs),
    /// Restore a snapshot: to a member's data directory, to a file, or single keys to a running etcd
    #[command(long_about = help::RESTORE, after_long_help = help::RESTORE_MORE)]
    Restore(Box<RestoreArgs>),
    /// List the keys in a snapshot
    #[command(long_about = help::LS, after_long_help = help::LS_MORE)]
    Ls(LsArgs),
    /// Show one key of a snapshot; its value only when asked for
    #[command(long_about = help::GET, after_long_help = help::GET_MORE)]
    Get(GetArgs),
    /// List every change of one key that a snapshot has
    #[command(long_about = help::HISTORY, after_long_help = help::HISTORY_MORE)]
    History(HistoryArgs),
    /// Compare a snapshot with another, or with the running etcd
    #[command(long_about = help::DIFF, after_long_help = help::DIFF_MORE)]
    Diff(DiffArgs),
    /// Show what takes the space in a snapshot, and what Kubernetes stored unencrypted
    #[command(long_about = help::STATS, after_long_help = help::STATS_MORE)]
    Stats(StatsArgs),
    /// Restore a snapshot, start etcd from it, and verify that it serves the same data
    #[command(long_about = help::DRILL, after_long_help = help::DRILL_MORE)]
    Drill(DrillArgs),
    /// List what was verified, and when
    #[command(long_about = help::REPORTS, after_long_help = help::REPORTS_MORE)]
    Reports {
        /// Show this report: its id, or any unique beginning or end of it
        id: Option<String>,
    },
    /// Record the changes between snapshots, and list what is recorded
    #[command(subcommand, long_about = help::JOURNAL, after_long_help = help::JOURNAL_MORE)]
    Journal(JournalCommand),
    /// Back up, prune, verify, drill and audit on a schedule, unattended
    #[command(long_about = help::AGENT, after_long_help = help::AGENT_MORE)]
    Agent(Box<AgentSettings>),
    /// Replicate snapshots to a second repository
    #[command(long_about = help::COPY, after_long_help = help::COPY_MORE)]
    Copy(CopyArgs),
    /// Remove the snapshots that no rule keeps
    #[command(long_about = help::PRUNE, after_long_help = help::PRUNE_MORE)]
    Prune(Box<PruneArgs>),
    /// Prepare etcd's users and roles
    #[command(long_about = help::SETUP_AUTH, after_long_help = help::SETUP_AUTH_MORE)]
    SetupAuth(SetupAuthArgs),
    /// Check how the cluster is set up: TLS, certificates, users, versions, exposure
    #[command(long_about = help::AUDIT_CLUSTER, after_long_help = help::AUDIT_CLUSTER_MORE)]
    Audit(Box<AuditArgs>),
    /// Check whether the cluster can be upgraded, rehearse it, and print the plan
    #[command(long_about = help::UPGRADE_CHECK, after_long_help = help::UPGRADE_CHECK_MORE)]
    UpgradeCheck(Box<UpgradeArgs>),
    /// Create, list, rotate and remove master keys
    #[command(subcommand, long_about = help::KEY, after_long_help = help::KEY_MORE)]
    Key(KeyCommand),
    /// Encrypt single values: keys, status, migration
    #[command(subcommand, long_about = help::VALUE, after_long_help = help::VALUE_MORE)]
    Value(ValueCommand),
    /// Serve etcd's API, and encrypt the values on their way
    #[command(long_about = help::PROXY, after_long_help = help::PROXY_MORE)]
    Proxy(Box<ProxySettings>),
    /// Serve Kubernetes' API servers as their KMS: they encrypt with a keyring's keys
    #[command(long_about = help::KMS_PLUGIN, after_long_help = help::KMS_PLUGIN_MORE)]
    KmsPlugin(KmsPluginSettings),
    /// Verify and search a proxy's audit log
    #[command(name = "audit-log", subcommand, long_about = help::AUDIT, after_long_help = help::AUDIT_MORE)]
    AuditLog(AuditCommand),
    /// Show what a configuration means, or print an example of one
    #[command(subcommand, long_about = help::CONFIG, after_long_help = help::CONFIG_MORE)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    #[command(long_about = help::COMPLETIONS, after_long_help = help::COMPLETIONS_MORE)]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory, or the main one to standard output
    #[command(long_about = help::MAN, after_long_help = help::MAN_MORE)]
    Man {
        /// Where to write them
        dir: Option<PathBuf>,
    },
}

/// `config …`
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show each setting and where it comes from; list everything that is wrong
    #[command(long_about = help::CONFIG_CHECK, after_long_help = help::CONFIG_CHECK_MORE)]
    Check {
        /// Read the settings as this command does [default: agent; proxy and kms-plugin if the file has their tables]
        #[arg(
            long = "for",
            value_name = "COMMAND",
            value_parser = ["agent", "proxy", "kms-plugin", "journal", "backup", "copy", "drill", "prune", "snapshots"]
        )]
        command: Option<String>,
        /// Arguments of that command, after --
        #[arg(last = true, value_name = "ARGUMENT")]
        args: Vec<OsString>,
    },
    /// Print a configuration file with every setting and its default
    #[command(long_about = help::CONFIG_EXAMPLE)]
    Example,
}

/// `init`
#[derive(Args)]
pub(crate) struct InitArgs {
    /// Do not test that the store never overwrites an object
    #[arg(long)]
    pub(crate) trust_store: bool,
}

/// `backup`
#[derive(Args)]
pub(crate) struct BackupArgs {
    /// Wrap this snapshot file instead of reading a live etcd
    #[arg(long, value_name = "DB")]
    pub(crate) file: Option<PathBuf>,
    /// With --file: when it was taken, such as 2026-11-23T09:00:00Z, or 2h for two hours ago [default: now]
    #[arg(long, value_name = "TIME", requires = "file", value_parser = moment)]
    pub(crate) taken: Option<jiff::Timestamp>,
    #[command(flatten)]
    pub(crate) options: BackupOptions,
    /// Do not ask every member for a hash of its data
    #[arg(long)]
    pub(crate) no_compare: bool,
}

/// `drill`
#[derive(Args)]
pub(crate) struct DrillArgs {
    /// Snapshot: its id, any unique beginning or end of it, or latest [default: latest]
    pub(crate) id: Option<String>,
    /// With latest: the last one begun before this time, such as 2026-11-23T09:00:00Z, yesterday or 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) before: Option<jiff::Timestamp>,
    #[command(flatten)]
    pub(crate) options: DrillOptions,
}

/// `show`
#[derive(Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// One snapshot, by name.
#[derive(Args)]
pub(crate) struct Which {
    /// Snapshot: its id, any unique beginning or end of it, or latest
    pub(crate) id: String,
    /// With latest: the last one begun before this time, such as 2026-11-23T09:00:00Z, yesterday or 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) before: Option<jiff::Timestamp>,
    /// Also open a snapshot that is not trusted, such as one that only a retired key sealed; with its full id
    #[arg(long)]
    pub(crate) accept_untrusted: bool,
}

/// `verify`
#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// Snapshots: ids, or latest
    #[arg(required_unless_present_any = ["all", "subset"], conflicts_with_all = ["all", "subset"])]
    pub(crate) ids: Vec<String>,
    /// Every snapshot of the repository
    #[arg(long)]
    pub(crate) all: bool,
    /// The newest snapshot, and this part of the others, drawn at random: 5%
    #[arg(long, value_name = "N%", conflicts_with = "all", value_parser = percent)]
    pub(crate) subset: Option<f64>,
    /// Manifest, seal and lengths only
    #[arg(long, conflicts_with_all = ["digests", "deep"])]
    pub(crate) quick: bool,
    /// The stored objects' SHA-256 only; needs no key, and does not detect a planted snapshot
    #[arg(long, conflicts_with = "deep")]
    pub(crate) digests: bool,
    /// Every byte, and etcd's structure in it: pages, the history of revisions, HashKV
    #[arg(long)]
    pub(crate) deep: bool,
    /// Store the outcome in the repository, sealed: `reports` lists it
    #[arg(long)]
    pub(crate) record: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("write a part of the snapshots, such as 5%".into()),
    }
}

impl Command {
    /// Whether SIGHUP means to read the configuration again, rather than to end.
    pub(crate) fn reloads(&self) -> bool {
        matches!(self, Self::Agent(_) | Self::KmsPlugin(_) | Self::Proxy(_))
    }

    /// How long a command may go on after a signal: those that write are to end well, the rest just end.
    pub(crate) fn grace(&self) -> Duration {
        match self {
            Self::Snapshots { .. }
            | Self::Show(_)
            | Self::Key(KeyCommand::List | KeyCommand::Custody) => Duration::ZERO,
            Self::Audit(_)
            | Self::Ls(_)
            | Self::Get(_)
            | Self::History(_)
            | Self::Diff(_)
            | Self::Stats(_) => Duration::ZERO,
            Self::Agent(_) => Duration::from_secs(60),
            _ => Duration::from_secs(10),
        }
    }
}
