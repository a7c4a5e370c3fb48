//! What a proxy is set to do.

use std::path::PathBuf;
use std::str::FromStr;

use super::{LogFormat, ValueSettings};
use crate::error::{Error, Result};
use crate::etcd::EtcdSettings;
use crate::format::ClusterName;
use crate::values::Unreadable;

/// What a proxy is set to do.
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ProxySettings {
    /// The etcd behind the proxy. Its user, if there is one, is only for the proxy's own keyring: clients log in
    /// themselves.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub etcd: EtcdSettings,
    /// Your name for the etcd cluster: a label of all metrics.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub cluster: Option<ClusterName>,
    /// Address to listen on
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.listen",
            long = "listen",
            value_name = "HOST:PORT",
            default_value_t = ProxySettings::default().listen,
            env = "STRONGROOM_PROXY_LISTEN",
            value_parser = crate::status_server::parse_address
        )
    )]
    pub listen: String,
    /// PEM file of the proxy's certificate; without it connections of clients are unencrypted
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.listen_cert",
            long = "listen-cert",
            value_name = "FILE",
            env = "STRONGROOM_PROXY_LISTEN_CERT"
        )
    )]
    pub listen_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.listen_key",
            long = "listen-key",
            value_name = "FILE",
            env = "STRONGROOM_PROXY_LISTEN_KEY"
        )
    )]
    pub listen_key: Option<PathBuf>,
    /// PEM file of the CAs that sign clients' certificates; a client without a certificate is refused
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.listen_trusted_ca",
            long = "listen-trusted-ca",
            value_name = "FILE",
            env = "STRONGROOM_PROXY_LISTEN_TRUSTED_CA"
        )
    )]
    pub listen_trusted_ca: Option<PathBuf>,
    /// Serve clients without certificates over TLS although etcd has no authentication
    #[cfg_attr(feature = "cli", arg(id = "proxy.insecure_no_client_auth", long = "insecure-no-client-auth", env = "STRONGROOM_PROXY_INSECURE_NO_CLIENT_AUTH", value_parser = clap::builder::BoolishValueParser::new()))]
    pub insecure_no_client_auth: bool,
    /// PEM file of a certificate without a common name, which etcd is shown for clients' calls
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.client_cert",
            long = "client-cert",
            value_name = "FILE",
            env = "STRONGROOM_PROXY_CLIENT_CERT"
        )
    )]
    pub client_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.client_key",
            long = "client-key",
            value_name = "FILE",
            env = "STRONGROOM_PROXY_CLIENT_KEY"
        )
    )]
    pub client_key: Option<PathBuf>,
    /// Client URL of every member in member lists, so that clients stay with the proxy [default: the address that the
    /// client has connected to]
    #[cfg_attr(feature = "cli", arg(id = "proxy.advertise_client_url", long = "advertise-client-url", value_name = "URL", value_parser = client_url, env = "STRONGROOM_PROXY_ADVERTISE_CLIENT_URL"))]
    pub advertise_client_url: Option<String>,
    /// Answer to a list in which a value does not open
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.unreadable_values",
            long = "unreadable-values",
            value_name = "WHAT",
            value_enum,
            default_value = "error",
            env = "STRONGROOM_PROXY_UNREADABLE_VALUES"
        )
    )]
    pub unreadable_values: Unreadable,
    /// Encrypt values of keys with this prefix; repeat for several [default: all]
    #[cfg_attr(
        feature = "cli",
        arg(id = "proxy.include", long = "include", value_name = "PREFIX")
    )]
    pub include: Vec<String>,
    /// Leave values of keys with this prefix unencrypted; repeat for several
    #[cfg_attr(
        feature = "cli",
        arg(id = "proxy.exclude", long = "exclude", value_name = "PREFIX")
    )]
    pub exclude: Vec<String>,
    /// Record every request in this file: who, which keys, when; never a value
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.audit_log",
            long = "audit-log",
            value_name = "FILE",
            env = "STRONGROOM_PROXY_AUDIT_LOG"
        )
    )]
    pub audit_log: Option<PathBuf>,
    /// Size in MiB at which the audit log starts a new file
    #[cfg_attr(feature = "cli", arg(id = "proxy.audit_log_max_size", long = "audit-log-max-size", value_name = "MIB", default_value_t = ProxySettings::default().audit_log_max_size, value_parser = clap::value_parser!(u64).range(1..=1_048_576), env = "STRONGROOM_PROXY_AUDIT_LOG_MAX_SIZE"))]
    pub audit_log_max_size: u64,
    /// Continue to serve when the audit log cannot be written
    #[cfg_attr(feature = "cli", arg(id = "proxy.audit_fail_open", long = "audit-fail-open", env = "STRONGROOM_PROXY_AUDIT_FAIL_OPEN", value_parser = clap::builder::BoolishValueParser::new()))]
    pub audit_fail_open: bool,
    /// Allow the client certificate with this common name to use keys with this prefix; repeat for several. A client
    /// without a rule is refused
    #[cfg_attr(
        feature = "cli",
        arg(id = "proxy.allow", long = "allow", value_name = "NAME=PREFIX")
    )]
    pub allow: Vec<AccessRule>,
    /// Address of /metrics, /healthz and /readyz
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.metrics_listen",
            long = "metrics-listen",
            value_name = "HOST:PORT",
            env = "STRONGROOM_PROXY_METRICS_LISTEN",
            value_parser = crate::status_server::parse_address
        )
    )]
    pub metrics_listen: Option<String>,
    /// Format of the log on standard error
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "proxy.log",
            long = "log",
            value_name = "FORMAT",
            value_enum,
            default_value_t,
            env = "STRONGROOM_PROXY_LOG"
        )
    )]
    pub log: LogFormat,
    /// The value of etcd's own --max-request-bytes
    #[cfg_attr(feature = "cli", arg(id = "proxy.max_request_bytes", long = "max-request-bytes", value_name = "BYTES", default_value_t = ProxySettings::default().max_request_bytes, value_parser = clap::value_parser!(u32).range(1024..=1_073_741_824), env = "STRONGROOM_PROXY_MAX_REQUEST_BYTES"))]
    pub max_request_bytes: u32,
    /// Memory in MiB for requests, answers and connections of all clients; one client gets a part of it
    #[cfg_attr(feature = "cli", arg(id = "proxy.max_memory", long = "max-memory", value_name = "MIB", default_value_t = ProxySettings::default().max_memory, value_parser = clap::value_parser!(u32).range(16..=1_048_576), env = "STRONGROOM_PROXY_MAX_MEMORY"))]
    pub max_memory: u32,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// The value keyring, and the master keys that open it.
    pub values: ValueSettings,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            etcd: EtcdSettings::default(),
            cluster: None,
            listen: "127.0.0.1:2479".into(),
            listen_cert: None,
            listen_key: None,
            listen_trusted_ca: None,
            insecure_no_client_auth: false,
            client_cert: None,
            client_key: None,
            advertise_client_url: None,
            unreadable_values: Unreadable::default(),
            include: Vec::new(),
            exclude: Vec::new(),
            audit_log: None,
            audit_log_max_size: 256,
            audit_fail_open: false,
            allow: Vec::new(),
            metrics_listen: None,
            log: LogFormat::default(),
            max_request_bytes: 1_572_864,
            max_memory: 512,
            values: ValueSettings::default(),
        }
    }
}

impl ProxySettings {
    /// That the settings go together.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for one that needs another or contradicts it.
    pub fn check(&self) -> Result<()> {
        let (cert, key) = (self.listen_cert.is_some(), self.listen_key.is_some());
        let (ca, log) = (self.listen_trusted_ca.is_some(), self.audit_log.is_some());
        let needs = [
            (cert, "listen_cert", key, "listen_key"),
            (key, "listen_key", cert, "listen_cert"),
            (ca, "listen_trusted_ca", cert, "listen_cert"),
            (self.insecure_no_client_auth, "insecure_no_client_auth", cert, "listen_cert"),
            (self.client_cert.is_some(), "client_cert", self.client_key.is_some(), "client_key"),
            (self.client_key.is_some(), "client_key", self.client_cert.is_some(), "client_cert"),
            (self.audit_fail_open, "audit_fail_open", log, "audit_log"),
            (!self.allow.is_empty(), "allow", ca, "listen_trusted_ca"),
        ];
        if let Some((_, name, _, other)) = needs.iter().find(|(set, _, met, _)| *set && !*met) {
            let flag = |name: &str| format!("--{}", name.replace('_', "-"));
            return Err(Error::usage(format!("{} needs {}", flag(name), flag(other)))
                .hint(format!("in the configuration file: {name} and {other} in [proxy]")));
        }
        if self.insecure_no_client_auth && ca {
            return Err(Error::usage(
                "--insecure-no-client-auth contradicts --listen-trusted-ca: give one of them",
            ));
        }
        Ok(())
    }
}

/// A rule for clients: whoever shows a certificate with this common name may use keys with this prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The common name.
    pub name: String,
    /// The prefix; empty for all keys.
    pub prefix: String,
}

impl FromStr for AccessRule {
    type Err = Error;

    fn from_str(rule: &str) -> Result<Self> {
        match rule.rsplit_once('=').filter(|(name, _)| !name.is_empty()) {
            Some((name, prefix)) => Ok(Self { name: name.into(), prefix: prefix.into() }),
            None => Err(Error::usage(format!("invalid access rule {rule:?}"))
                .hint("write NAME=PREFIX, as in --allow app=/app/")),
        }
    }
}

/// A URL as etcd's members advertise theirs: a scheme, a host and a port.
#[cfg(feature = "cli")]
fn client_url(text: &str) -> std::result::Result<String, String> {
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
