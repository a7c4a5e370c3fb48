//! What was typed of `value` and `proxy`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom::format::{MigrationPhase, ValueKeyId};
use strongroom::values::Unreadable;

use crate::duration::Span;
use crate::help;
use crate::log::LogFormat;

/// Where the value keys are.
#[derive(Args)]
pub(crate) struct NamespaceArgs {
    /// Prefix of the keys in etcd that strongroom keeps for itself; ends with a slash
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "/strongroom/",
        env = "STRONGROOM_RESERVED_PREFIX",
        hide_env_values = true
    )]
    pub(crate) reserved_prefix: String,
}

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
        namespace: NamespaceArgs,
    },
    /// Encrypt one value: standard input to standard output
    #[command(long_about = help::VALUE_SEAL, after_long_help = help::VALUE_SEAL_MORE)]
    Seal {
        /// The etcd key that the value is for: it does not open under another key
        // `key` is the flag of etcd's client key.
        #[arg(value_name = "KEY")]
        etcd_key: String,
        #[command(flatten)]
        namespace: NamespaceArgs,
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
        namespace: NamespaceArgs,
    },
    /// Show the value keys, how many values are under each, and the phases of a migration
    #[command(long_about = help::VALUE_STATUS, after_long_help = help::VALUE_STATUS_MORE)]
    Status {
        /// Count only values of keys with this prefix
        #[arg(long, default_value = "")]
        prefix: String,
        #[command(flatten)]
        namespace: NamespaceArgs,
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
        namespace: NamespaceArgs,
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
        namespace: NamespaceArgs,
    },
}

/// One value key.
#[derive(Args)]
pub(crate) struct KeyArgs {
    /// The key's id, as `value status` prints it
    pub(crate) id: ValueKeyId,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
}

/// `value rotate`
#[derive(Args)]
pub(crate) struct RotateArgs {
    /// Rotate only if the primary key is older than this, such as 90d
    #[arg(long, value_name = "AGE")]
    pub(crate) older_than: Option<Span>,
    /// Rotate only if the primary key encrypted more values than this; with --older-than, if either is true
    #[arg(long, value_name = "COUNT")]
    pub(crate) used: Option<u64>,
    /// How long to wait until every program has the new key
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) settle: Span,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
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
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) settle: Span,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
}

fn phase(name: &str) -> Result<MigrationPhase, String> {
    MigrationPhase::of(name).ok_or_else(|| {
        let names: Vec<_> = MigrationPhase::ALL.into_iter().map(MigrationPhase::name).collect();
        format!("not one of {}", names.join(", "))
    })
}

/// `proxy`
#[derive(Args)]
pub(crate) struct ProxyArgs {
    /// Address to listen on
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:2479",
        env = "STRONGROOM_LISTEN",
        hide_env_values = true
    )]
    pub(crate) listen: String,
    /// PEM file of the proxy's certificate; without it connections of clients are unencrypted
    #[arg(long, value_name = "FILE", requires = "listen_key")]
    pub(crate) listen_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[arg(long, value_name = "FILE", requires = "listen_cert")]
    pub(crate) listen_key: Option<PathBuf>,
    /// PEM file of the CAs that sign clients' certificates; a client without a certificate is refused
    #[arg(long, value_name = "FILE", requires = "listen_cert")]
    pub(crate) listen_trusted_ca: Option<PathBuf>,
    /// Serve clients without certificates over TLS although etcd has no authentication
    #[arg(long, requires = "listen_cert", conflicts_with = "listen_trusted_ca")]
    pub(crate) insecure_no_client_auth: bool,
    /// PEM file of a certificate without a common name, which etcd is shown for clients' calls
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
    /// Client URL of every member in member lists, so that clients stay with the proxy [default: the address that the
    /// client has connected to]
    #[arg(
        long,
        value_name = "URL",
        value_parser = client_url,
        env = "STRONGROOM_ADVERTISE_CLIENT_URL",
        hide_env_values = true
    )]
    pub(crate) advertise_client_url: Option<String>,
    /// Answer to a list in which a value does not open
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value = "error",
        env = "STRONGROOM_UNREADABLE_VALUES",
        hide_env_values = true
    )]
    pub(crate) unreadable_values: Unreadable,
    /// Encrypt values of keys with this prefix; repeat for several [default: all]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) include: Vec<String>,
    /// Leave values of keys with this prefix unencrypted; repeat for several
    #[arg(long, value_name = "PREFIX")]
    pub(crate) exclude: Vec<String>,
    /// Record every request in this file: who, which keys, when; never a value
    #[arg(long, value_name = "FILE", env = "STRONGROOM_AUDIT_LOG", hide_env_values = true)]
    pub(crate) audit_log: Option<PathBuf>,
    /// Size in MiB at which the audit log starts a new file
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576), requires = "audit_log")]
    pub(crate) audit_log_max_size: u64,
    /// Continue to serve when the audit log cannot be written
    #[arg(long, requires = "audit_log")]
    pub(crate) audit_fail_open: bool,
    /// Allow the client certificate with this common name to use keys with this prefix; repeat for several. A client
    /// without a rule is refused
    #[arg(long, value_name = "NAME=PREFIX", requires = "listen_trusted_ca")]
    pub(crate) allow: Vec<String>,
    /// Address of /metrics, /healthz and /readyz
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "STRONGROOM_METRICS_LISTEN",
        hide_env_values = true
    )]
    pub(crate) metrics_listen: Option<String>,
    /// Format of the log on standard error
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        env = "STRONGROOM_LOG",
        hide_env_values = true
    )]
    pub(crate) log: LogFormat,
    /// The value of etcd's own --max-request-bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1_572_864, value_parser = clap::value_parser!(u32).range(1024..=1_073_741_824))]
    pub(crate) max_request_bytes: u32,
    /// Memory in MiB for requests, answers and connections of all clients; one client gets a part of it
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=1_048_576), env = "STRONGROOM_MAX_MEMORY", hide_env_values = true)]
    pub(crate) max_memory: u32,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
}

/// A URL as etcd's members advertise theirs: a scheme, a host and a port.
fn client_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.port_or_known_default().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    if plain {
        Ok(text.trim_end_matches('/').into())
    } else {
        Err("write http(s)://HOST:PORT".into())
    }
}

/// `audit-log …`
#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify that a proxy's audit log was not changed
    #[command(long_about = help::AUDIT_VERIFY, after_long_help = help::AUDIT_VERIFY_MORE)]
    Verify {
        /// The current file of the log; rotated files beside it are found
        file: PathBuf,
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
    /// Requests from this time on, such as 2026-11-23T09:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<jiff::Timestamp>,
    /// Requests before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<jiff::Timestamp>,
    /// Requests with this outcome, such as PERMISSION_DENIED
    #[arg(long, value_name = "CODE")]
    pub(crate) outcome: Option<String>,
}
