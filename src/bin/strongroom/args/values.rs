//! What was typed of `value` and `proxy`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use strongroom::format::{MigrationPhase, ValueKeyId, parse_duration};
use strongroom::settings::{ValueKeys, ValueSettings};

use super::moment;
use crate::help;

/// `value …`
#[derive(Subcommand)]
pub(crate) enum ValueCommand {
    /// Create the value keyring in etcd, if there is none
    #[command(long_about = help::VALUE_INIT, after_long_help = help::VALUE_INIT_MORE)]
    Init {
        /// Create it even if etcd holds encrypted values, such as those of another namespace
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        values: ValueSettings,
    },
    /// Encrypt one value: standard input to standard output
    #[command(long_about = help::VALUE_SEAL, after_long_help = help::VALUE_SEAL_MORE)]
    Seal {
        /// The etcd key that the value is for: it does not open under another key
        // `key` is the flag of etcd's client key.
        #[arg(value_name = "KEY")]
        etcd_key: String,
        #[command(flatten)]
        values: ValueSettings,
    },
    /// Decrypt one value: standard input to standard output
    #[command(long_about = help::VALUE_OPEN, after_long_help = help::VALUE_OPEN_MORE)]
    Open {
        /// The etcd key of the value
        #[arg(value_name = "KEY")]
        etcd_key: String,
        /// Use the value keyring in this snapshot (its id, or latest) instead of the running etcd's
        #[arg(long, value_name = "ID")]
        snapshot: Option<String>,
        #[command(flatten)]
        values: ValueSettings,
    },
    /// Show the value keys, how many values are under each, and the phases of a migration
    #[command(long_about = help::VALUE_STATUS, after_long_help = help::VALUE_STATUS_MORE)]
    Status {
        /// Count only values of keys with this prefix
        #[arg(long, default_value = "")]
        prefix: String,
        #[command(flatten)]
        values: ValueSettings,
    },
    /// Create a new value key, which encrypts from now on
    #[command(long_about = help::VALUE_ROTATE, after_long_help = help::VALUE_ROTATE_MORE)]
    Rotate(RotateArgs),
    /// Encrypt stored values, encrypt them with a new key, or decrypt them, phase by phase
    #[command(long_about = help::VALUE_MIGRATE, after_long_help = help::VALUE_MIGRATE_MORE)]
    Migrate(MigrateArgs),
    /// Disable a value key
    #[command(long_about = help::VALUE_DISABLE, after_long_help = help::VALUE_DISABLE_MORE)]
    Disable(KeyArgs),
    /// Enable a disabled value key
    #[command(long_about = help::VALUE_ENABLE, after_long_help = help::VALUE_ENABLE_MORE)]
    Enable(KeyArgs),
    /// Delete a disabled value key permanently
    #[command(long_about = help::VALUE_DESTROY, after_long_help = help::VALUE_DESTROY_MORE)]
    Destroy(KeyArgs),
    /// Export the value keyring from etcd, or import it
    #[command(subcommand, long_about = help::VALUE_KEYRING, after_long_help = help::VALUE_KEYRING_MORE)]
    Keyring(ValueKeyringCommand),
}

/// `value keyring …`
#[derive(Subcommand)]
pub(crate) enum ValueKeyringCommand {
    /// Write the value keyring to a file, sealed as in etcd
    #[command(long_about = help::VALUE_EXPORT, after_long_help = help::VALUE_EXPORT_MORE)]
    Export {
        /// File to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        values: ValueSettings,
    },
    /// Put an exported value keyring into etcd
    #[command(long_about = help::VALUE_IMPORT, after_long_help = help::VALUE_IMPORT_MORE)]
    Import {
        /// The exported value keyring
        file: PathBuf,
        /// Replace any keyring, even a newer one or another namespace's, and do not try it on the values
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        values: ValueSettings,
    },
}

/// One value key.
#[derive(Args)]
pub(crate) struct KeyArgs {
    /// The key's id, as `value status` prints it
    pub(crate) id: ValueKeyId,
    #[command(flatten)]
    pub(crate) values: ValueSettings,
}

/// `value rotate`
#[derive(Args)]
pub(crate) struct RotateArgs {
    /// Rotate only if the primary key is older than this, such as 90d
    #[arg(long, value_name = "AGE", value_parser = parse_duration)]
    pub(crate) older_than: Option<Duration>,
    /// Rotate only if the primary key encrypted more values than this; with --older-than, if either is true
    #[arg(long, value_name = "COUNT")]
    pub(crate) used: Option<u64>,
    /// How long to wait until every program has the new key
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub(crate) settle: Duration,
    #[command(flatten)]
    pub(crate) values: ValueSettings,
}

/// `value migrate`
#[derive(Args)]
pub(crate) struct MigrateArgs {
    /// Convert values of keys with this prefix; "" for all keys
    #[arg(long)]
    pub(crate) prefix: String,
    /// Show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Convert at most this many values a second
    #[arg(long, value_name = "COUNT")]
    pub(crate) rate: Option<NonZeroU32>,
    /// Change to this phase first: admit, encrypt, done to encrypt; admit-back, decrypt, off to decrypt
    #[arg(long, value_name = "PHASE", value_parser = phase)]
    pub(crate) phase: Option<MigrationPhase>,
    /// How long to wait until every program has followed
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub(crate) settle: Duration,
    #[command(flatten)]
    pub(crate) values: ValueSettings,
}

fn phase(name: &str) -> Result<MigrationPhase, String> {
    MigrationPhase::of(name).ok_or_else(|| {
        let names: Vec<_> = MigrationPhase::ALL.into_iter().map(MigrationPhase::name).collect();
        format!("not one of {}", names.join(", "))
    })
}

/// `audit-log …`
#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify that a proxy's audit log was not changed
    #[command(long_about = help::AUDIT_VERIFY, after_long_help = help::AUDIT_VERIFY_MORE)]
    Verify {
        /// The current file of the log; rotated files beside it are found
        file: PathBuf,
        #[command(flatten)]
        keys: ValueKeys,
    },
    /// Show who used which keys, and when
    #[command(long_about = help::AUDIT_QUERY, after_long_help = help::AUDIT_QUERY_MORE)]
    Query(Box<QueryArgs>),
}

/// `audit-log query`
#[derive(Args)]
pub(crate) struct QueryArgs {
    /// The current file of the log; rotated files beside it are found
    pub(crate) file: PathBuf,
    /// Requests that may have touched this key
    #[arg(long, value_name = "KEY")]
    pub(crate) touched: Option<String>,
    /// Requests that may have touched a key with this prefix
    #[arg(long, conflicts_with = "touched")]
    pub(crate) prefix: Option<String>,
    /// Requests with a client certificate of this common name
    #[arg(long, value_name = "NAME")]
    pub(crate) client: Option<String>,
    /// Requests of this etcd user
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Requests to this method, such as Put
    #[arg(long, value_name = "NAME")]
    pub(crate) method: Option<String>,
    /// Requests from this time on, such as 2026-11-23T09:00:00Z, yesterday or 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<jiff::Timestamp>,
    /// Requests before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<jiff::Timestamp>,
    /// Requests with this outcome, such as PERMISSION_DENIED
    #[arg(long, value_name = "CODE")]
    pub(crate) outcome: Option<String>,
}
