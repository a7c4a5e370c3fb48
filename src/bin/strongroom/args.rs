//! What was typed.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use strongroom::crypto::Suite;
use strongroom::format::{ClusterName, KeyId, Uuid};

use crate::duration::Span;

/// MiB that may wait for the store.
pub(crate) const READ_AHEAD_MIB: RangeInclusive<i64> = 4..=65536;
/// zstd levels.
pub(crate) const LEVELS: RangeInclusive<i64> = -7..=19;

const LONG_ABOUT: &str = "\
Encrypted backups of etcd, and restores that prove what they restored.

Settings come from flags, else STRONGROOM_* variables, else the configuration file, else (for etcd's \
connection) ETCDCTL_* variables. Secrets never go on the command line.";

const EXAMPLES: &str = "\
Examples:
  strongroom key generate -o /etc/strongroom/keyring
  strongroom init -r s3://bucket/prefix
  strongroom backup --endpoints https://10.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key
  strongroom snapshots
  strongroom restore latest --output etcd.db

Exit status: 0 done, 1 failure, 2 usage, 3 done with findings, 4 etcd or store unreachable, 10 no repository,
12 no key opens it, 13 integrity, 130 interrupted.";

/// Encryption at rest and disaster recovery for etcd.
#[derive(Parser)]
#[command(name = "strongroom", version, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
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
    /// One JSON object a line: {"what", "done", "total"}.
    Json,
    /// None.
    None,
}

/// Flags that every command takes.
#[derive(Args, Default)]
pub(crate) struct Global {
    /// Configuration file [default: /etc/strongroom/strongroom.toml, where it exists]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRONGROOM_CONFIG",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// Repository: a path, file:///…, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    #[arg(
        short,
        long,
        global = true,
        value_name = "URL",
        env = "STRONGROOM_REPOSITORY",
        hide_env_values = true
    )]
    pub(crate) repository: Option<String>,
    /// Refuse a repository with another id than this
    #[arg(
        long,
        global = true,
        value_name = "UUID",
        env = "STRONGROOM_REPOSITORY_ID",
        hide_env_values = true
    )]
    pub(crate) repository_id: Option<Uuid>,
    /// Your name for the etcd cluster [default for backups: default]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "STRONGROOM_CLUSTER",
        hide_env_values = true
    )]
    pub(crate) cluster: Option<ClusterName>,
    /// Master key, file:PATH or passphrase; several (repeated, or parted by commas or line breaks) all seal, any one opens
    #[arg(
        short = 'k',
        long = "master-key",
        global = true,
        value_name = "URI",
        env = "STRONGROOM_MASTER_KEY",
        hide_env_values = true
    )]
    pub(crate) master_keys: Vec<String>,
    /// Output format
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        env = "STRONGROOM_WRITE_OUT",
        hide_env_values = true
    )]
    pub(crate) write_out: Option<WriteOut>,
    /// No progress, no advice: errors and results only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Progress on standard error
    #[arg(
        long,
        global = true,
        value_name = "MODE",
        env = "STRONGROOM_PROGRESS",
        hide_env_values = true
    )]
    pub(crate) progress: Option<ProgressMode>,
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
}

/// etcd's connection, as etcdctl spells it.
#[derive(Args, Default)]
#[command(next_help_heading = "etcd")]
pub(crate) struct EtcdArgs {
    /// etcd endpoints; one healthy member among them is read [default: http://127.0.0.1:2379]
    #[arg(
        long,
        global = true,
        value_name = "URL,…",
        env = "STRONGROOM_ENDPOINTS",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) endpoints: Vec<String>,
    /// CA that signed etcd's server certificates
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRONGROOM_CACERT",
        hide_env_values = true
    )]
    pub(crate) cacert: Option<PathBuf>,
    /// Client certificate
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRONGROOM_CERT",
        hide_env_values = true
    )]
    pub(crate) cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRONGROOM_KEY",
        hide_env_values = true
    )]
    pub(crate) key: Option<PathBuf>,
    /// etcd user; snapshots demand the root role
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "STRONGROOM_USER",
        hide_env_values = true
    )]
    pub(crate) user: Option<String>,
    /// File with the user's password
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRONGROOM_PASSWORD_FILE",
        hide_env_values = true
    )]
    pub(crate) password_file: Option<PathBuf>,
    /// How long to wait for a connection [default: 2s]
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        env = "STRONGROOM_DIAL_TIMEOUT",
        hide_env_values = true
    )]
    pub(crate) dial_timeout: Option<Span>,
    /// How long to wait for an answer; for the stream, how long it may stand still [default: 30s]
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        env = "STRONGROOM_COMMAND_TIMEOUT",
        hide_env_values = true
    )]
    pub(crate) command_timeout: Option<Span>,
}

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a repository, and prove that its store keeps its promises
    Init(InitArgs),
    /// Take one encrypted snapshot of a live etcd
    Backup(BackupArgs),
    /// List the snapshots; needs no key
    Snapshots,
    /// Show all that is known of one snapshot
    Show(ShowArgs),
    /// Prove that snapshots are whole
    Verify(VerifyArgs),
    /// Restore a snapshot to a file that etcdutl and etcdctl accept
    Restore(RestoreArgs),
    /// Make, list, rotate and remove master keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  strongroom completions bash > /etc/bash_completion.d/strongroom"
    )]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory, or the main one to standard output
    Man {
        /// Where to write them
        dir: Option<PathBuf>,
    },
}

/// `init`
#[derive(Args)]
#[command(after_help = "\
Examples:
  strongroom init -r /var/backups/etcd
  strongroom init -r s3://bucket/prefix -k passphrase     # makes a master key that a passphrase opens

A store that ignores the request never to overwrite an object is refused: two writers could then destroy each \
other's snapshots.")]
pub(crate) struct InitArgs {
    /// Take the store's word that it never overwrites what it was asked to create
    #[arg(long)]
    pub(crate) trust_store: bool,
}

/// `backup`
#[derive(Args)]
#[command(after_help = "\
Examples:
  strongroom backup --endpoints https://10.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key
  strongroom backup --file snapshot.db          # wraps what `etcdctl snapshot save` wrote

Of several endpoints a healthy follower is read. While the stream lasts, etcd holds one read transaction open and its \
database grows: --read-ahead lets etcd run ahead of a slow store.")]
pub(crate) struct BackupArgs {
    /// Wrap this snapshot file instead of reading a live etcd
    #[arg(long, value_name = "DB")]
    pub(crate) file: Option<PathBuf>,
    /// MiB of compressed frames that may wait for the store [default: 32]
    #[arg(long, value_name = "MIB", env = "STRONGROOM_READ_AHEAD", hide_env_values = true, value_parser = clap::value_parser!(u32).range(READ_AHEAD_MIB))]
    pub(crate) read_ahead: Option<u32>,
    /// zstd level, -7 to 19 [default: 1]
    #[arg(long, env = "STRONGROOM_LEVEL", hide_env_values = true, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(LEVELS))]
    pub(crate) level: Option<i32>,
    /// aes-256-gcm or chacha20-poly1305 [default: what this CPU does best]
    #[arg(long, value_name = "NAME", env = "STRONGROOM_SUITE", hide_env_values = true)]
    pub(crate) suite: Option<Suite>,
}

/// `show`
#[derive(Args)]
#[command(after_help = "Example:\n  strongroom show latest -k file:/etc/strongroom/keyring")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// One snapshot, by name.
#[derive(Args)]
pub(crate) struct Which {
    /// Snapshot: its id, any unique beginning or end of it, or latest
    pub(crate) id: String,
    /// With latest: the last one begun before this time, such as 2026-11-23T09:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<jiff::Timestamp>,
}

/// `verify`
#[derive(Args)]
#[command(after_help = "\
Examples:
  strongroom verify latest                         # every byte: fetched, decrypted, hashed
  strongroom verify latest -k file:/mnt/usb/copy   # proves that this copy of the keyring opens it
  strongroom verify --all --quick                  # manifests, seals and lengths
  strongroom verify --all --digests                # the objects' SHA-256, without any key

Exit status 13 if any fails, else 12 if any cannot be opened.")]
pub(crate) struct VerifyArgs {
    /// Snapshots: ids, or latest
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// Every snapshot of the repository
    #[arg(long)]
    pub(crate) all: bool,
    /// Manifest, seal and lengths only
    #[arg(long, conflicts_with = "digests")]
    pub(crate) quick: bool,
    /// The stored objects' SHA-256 only; needs no key, proves nothing against who can write manifests
    #[arg(long)]
    pub(crate) digests: bool,
}

/// `restore`
#[derive(Args)]
#[command(after_help = "\
Examples:
  strongroom restore latest --output etcd.db
  strongroom restore latest --before 2026-11-23T09:00:00Z --output etcd.db
  strongroom restore 01KB2 --output - | ssh node 'cat > etcd.db'      # trust it only if strongroom exits 0

Then, on every member, with a token that was never used before:
  etcdutl snapshot restore etcd.db --data-dir /var/lib/etcd-new --name … --initial-cluster … \\
      --initial-cluster-token NEW --initial-advertise-peer-urls …
On Kubernetes stop the API servers first, and add --bump-revision 1000000000 --mark-compacted.

The file appears under its name only when every byte of it is proved.")]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// File to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// `key …`
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a keyring file with one new master key
    #[command(
        after_help = "Example:\n  strongroom key generate -o /etc/strongroom/keyring\n\nCopy it off the host at once: without it there is no restore."
    )]
    Generate {
        /// File to write; never overwritten
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// List the master keys at hand and in the repository, and count the snapshots that only one key opens
    List,
    /// Make a new primary key in the keyring; the old one still opens
    #[command(
        after_help = "Example:\n  strongroom key rotate -k file:/etc/strongroom/keyring\n  strongroom key reseal --all"
    )]
    Rotate,
    /// Seal snapshots' data keys to the present master keys; payloads stay as they are
    #[command(after_help = "\
Examples:
  strongroom key reseal --all                                     # after key rotate
  strongroom key reseal --all -k file:keyring -k file:recovery    # adds a second key
  strongroom key reseal --all --drop KEYID                        # gives up a key that is not at hand

Stanzas of keys that are not at hand are kept unless dropped. Headers only: this is no revocation. Who kept an old seal \
and its master key can still open that snapshot.")]
    Reseal {
        /// Snapshots: ids, or latest
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// Every snapshot of the repository
        #[arg(long)]
        all: bool,
        /// Leave out this key, although it is not at hand
        #[arg(long, value_name = "KEYID")]
        drop: Vec<KeyId>,
    },
    /// Destroy a key of the keyring, or a passphrase key; refused while a snapshot opens only with it
    Remove {
        /// The key's id, as key list prints it
        key_id: KeyId,
    },
    /// Change the passphrase that opens the repository's master key
    #[command(after_help = "\
The old passphrase is asked on the terminal, or comes from STRONGROOM_PASSPHRASE_FILE or STRONGROOM_PASSPHRASE_COMMAND; \
the new one from STRONGROOM_NEW_PASSPHRASE_FILE or STRONGROOM_NEW_PASSPHRASE_COMMAND. Copies of the repository made before \
still open with the old one.")]
    Passphrase {
        /// Which key, if the old passphrase opens several
        key_id: Option<KeyId>,
    },
}

impl Command {
    /// How long a command may go on after a signal: those that write are to end well, the rest just end.
    pub(crate) fn grace(&self) -> Duration {
        match self {
            Self::Snapshots | Self::Show(_) | Self::Key(KeyCommand::List) => Duration::ZERO,
            _ => Duration::from_secs(10),
        }
    }
}
