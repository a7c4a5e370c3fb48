//! What was typed of `value` and `proxy`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom::format::{MigrationPhase, ValueKeyId};
use strongroom::values::Unreadable;

use crate::duration::Span;
use crate::help;

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
    /// Make the value keyring in etcd, if there is none
    #[command(long_about = help::VALUE_INIT, after_help = help::VALUE_INIT_MORE)]
    Init {
        /// Make it even when etcd holds encrypted values, as those of another namespace
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// Encrypt one value: standard input to standard output
    #[command(long_about = help::VALUE_SEAL, after_help = help::VALUE_SEAL_MORE)]
    Seal {
        /// The etcd key that it is for: under another it does not open
        // `key` is the flag of etcd's client key.
        #[arg(value_name = "KEY")]
        etcd_key: String,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// Decrypt one value: standard input to standard output
    #[command(long_about = help::VALUE_OPEN, after_help = help::VALUE_OPEN_MORE)]
    Open {
        /// The etcd key that it was found under
        #[arg(value_name = "KEY")]
        etcd_key: String,
        /// Take the value keyring of this snapshot, its id or latest, instead of the running etcd's
        #[arg(long, value_name = "ID")]
        snapshot: Option<String>,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// Tell which value keys there are, how many values are under each, and what is under migration
    #[command(long_about = help::VALUE_STATUS, after_help = help::VALUE_STATUS_MORE)]
    Status {
        /// Count only values of keys that begin so
        #[arg(long, default_value = "")]
        prefix: String,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// Make a new value key, which seals from now on
    #[command(long_about = help::VALUE_ROTATE, after_help = help::VALUE_ROTATE_MORE)]
    Rotate(RotateArgs),
    /// Bring stored values to encryption, to a new key, or back, phase by phase
    #[command(long_about = help::VALUE_MIGRATE, after_help = help::VALUE_MIGRATE_MORE)]
    Migrate(MigrateArgs),
    /// Take a value key out of use, or put it back
    #[command(long_about = help::VALUE_DISABLE, after_help = help::VALUE_DISABLE_MORE)]
    Disable(KeyArgs),
    /// Put a disabled value key back into use
    #[command(long_about = help::VALUE_ENABLE, after_help = help::VALUE_ENABLE_MORE)]
    Enable(KeyArgs),
    /// Forget a disabled value key for ever
    #[command(long_about = help::VALUE_DESTROY, after_help = help::VALUE_DESTROY_MORE)]
    Destroy(KeyArgs),
    /// Take the value keyring's record out of etcd, or put it back
    #[command(subcommand, long_about = help::VALUE_KEYRING, after_help = help::VALUE_KEYRING_MORE)]
    Keyring(ValueKeyringCommand),
}

/// `value keyring …`
#[derive(Subcommand)]
pub(crate) enum ValueKeyringCommand {
    /// Write the value keyring's record, sealed as etcd holds it
    #[command(long_about = help::VALUE_EXPORT, after_help = help::VALUE_EXPORT_MORE)]
    Export {
        /// File to write; without it standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        namespace: NamespaceArgs,
    },
    /// Put an exported record into etcd
    #[command(long_about = help::VALUE_IMPORT, after_help = help::VALUE_IMPORT_MORE)]
    Import {
        /// The exported record
        file: PathBuf,
        /// Replace any record, even a newer one or another namespace's, and do not try it on the values
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
    /// Only if the primary key is older than this, such as 90d
    #[arg(long, value_name = "AGE")]
    pub(crate) older_than: Option<Span>,
    /// Or only if it sealed more values than this
    #[arg(long, value_name = "COUNT")]
    pub(crate) used: Option<u64>,
    /// How long every program has to learn of the key before the first seals by it
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) settle: Span,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
}

/// `value migrate`
#[derive(Args)]
pub(crate) struct MigrateArgs {
    /// The keys that begin so; "" for all
    #[arg(long)]
    pub(crate) prefix: String,
    /// Say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write at most so many values a second
    #[arg(long, value_name = "COUNT")]
    pub(crate) rate: Option<NonZeroU32>,
    /// Go to this phase first: to encryption admit, encrypt, done; back admit-back, decrypt, off
    #[arg(long, value_name = "PHASE", value_parser = phase)]
    pub(crate) phase: Option<MigrationPhase>,
    /// How long every program has to follow a phase before the next
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
    /// Address to serve at
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:2479",
        env = "STRONGROOM_LISTEN",
        hide_env_values = true
    )]
    pub(crate) listen: String,
    /// PEM file of the proxy's certificate; without it clients talk in clear
    #[arg(long, value_name = "FILE", requires = "listen_key")]
    pub(crate) listen_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[arg(long, value_name = "FILE", requires = "listen_cert")]
    pub(crate) listen_key: Option<PathBuf>,
    /// PEM file of the authorities of clients' certificates; a client without one is refused
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
    /// URL that clients are told is the cluster's, when they ask for its members [default: the address that each
    /// client has connected to]
    #[arg(
        long,
        value_name = "URL",
        value_parser = client_url,
        env = "STRONGROOM_ADVERTISE_CLIENT_URL",
        hide_env_values = true
    )]
    pub(crate) advertise_client_url: Option<String>,
    /// What a list with a value that does not open answers: an error that names the key, or the other values
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
    /// Note every request down in this file: who, what keys, when; never a value
    #[arg(long, value_name = "FILE", env = "STRONGROOM_AUDIT_LOG", hide_env_values = true)]
    pub(crate) audit_log: Option<PathBuf>,
    /// MiB at which the audit log begins a new file
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576), requires = "audit_log")]
    pub(crate) audit_log_max_size: u64,
    /// Go on answering when the audit log cannot be written
    #[arg(long, requires = "audit_log")]
    pub(crate) audit_fail_open: bool,
    /// Let the client certificate with this common name touch keys that begin so, and no others; repeated for several
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
    /// etcd's own --max-request-bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1_572_864, value_parser = clap::value_parser!(u32).range(1024..=1_073_741_824))]
    pub(crate) max_request_bytes: u32,
    /// MiB that the requests, answers and connections of all clients may take; one client gets a part of it
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
    /// Prove that a proxy's audit log was not changed
    #[command(long_about = help::AUDIT_VERIFY, after_help = help::AUDIT_VERIFY_MORE)]
    Verify {
        /// The log; the files it was rotated to are found beside it
        file: PathBuf,
    },
    /// Tell who touched which key, and when
    #[command(long_about = help::AUDIT_QUERY, after_help = help::AUDIT_QUERY_MORE)]
    Query(Box<QueryArgs>),
}

/// `audit-log query`
#[derive(Args)]
pub(crate) struct QueryArgs {
    /// The log; the files it was rotated to are found beside it
    pub(crate) file: PathBuf,
    /// Requests that may have touched this key
    #[arg(long, value_name = "KEY")]
    pub(crate) touched: Option<String>,
    /// Requests that may have touched a key that begins so
    #[arg(long, conflicts_with = "touched")]
    pub(crate) prefix: Option<String>,
    /// Requests of this client certificate's common name
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
