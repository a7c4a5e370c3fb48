//! What `audit` takes.

use std::path::PathBuf;

use clap::Args;
use strongroom::backup::CopySettings;
use strongroom::posture::{AuditSettings, HostOptions, Probe, Scope, Severity, UnknownPolicy};
use strongroom::settings::ValueKeys;

/// A member's host, for `audit` and `upgrade-check`.
#[derive(Args)]
pub(crate) struct HostArgs {
    /// The root of a member's host: its process, settings and files are read below it
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "/")]
    pub(crate) host: Option<PathBuf>,
    /// With the host: the process of etcd, if several run
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// With the host: etcd's configuration file, if no process runs
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_config: Option<PathBuf>,
}

impl HostArgs {
    pub(crate) const fn is_named(&self) -> bool {
        self.host.is_some() || self.pid.is_some() || self.etcd_config.is_some()
    }

    pub(crate) fn options(&self) -> HostOptions {
        HostOptions {
            root: self.host.clone().unwrap_or_else(|| "/".into()),
            pid: self.pid,
            config_file: self.etcd_config.clone(),
        }
    }
}

/// Files that the outcome of `audit` or `upgrade-check` is written to.
#[derive(Args)]
pub(crate) struct OutcomeFiles {
    /// Also write the outcome to this file, in SARIF
    #[arg(long, value_name = "FILE")]
    pub(crate) sarif: Option<PathBuf>,
    /// Also write the outcome to this file, in JUnit's XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Also write the outcome to this file, in Markdown: everything that was measured
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

/// `audit`
#[derive(Args)]
pub(crate) struct AuditArgs {
    /// What to look at [default: live, and what the options below name]
    #[arg(long, value_name = "SCOPE,…", value_delimiter = ',')]
    pub(crate) scope: Vec<Scope>,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// The static pod of Kubernetes' API server
    #[arg(long, value_name = "FILE")]
    pub(crate) apiserver_manifest: Option<PathBuf>,
    /// The API server's EncryptionConfiguration
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_config: Option<PathBuf>,
    /// A Prometheus that scrapes the cluster, as http://HOST:PORT: is anything watched?
    #[arg(long, value_name = "URL")]
    pub(crate) prometheus: Option<String>,
    /// The audit log of the proxy before this cluster; the master keys of [values] verify it
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) values: ValueKeys,
    #[command(flatten)]
    pub(crate) copy: CopySettings,
    #[command(flatten)]
    pub(crate) settings: AuditSettings,
    /// Keep the outcome in the repository, sealed: `reports` lists it
    #[arg(long)]
    pub(crate) report: bool,
    #[command(flatten)]
    pub(crate) files: OutcomeFiles,
    /// Also ask every member for a hash of its data: each takes no writes to disk while it hashes
    #[arg(long)]
    pub(crate) deep: bool,
    /// How much to ask about TLS
    #[arg(long, value_name = "HOW", default_value = "full")]
    pub(crate) probe: Probe,
    /// Only these checks
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Not these checks
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub(crate) skip: Vec<String>,
    /// List the checks, and do nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// Exit with status 3 for failures of this severity and above
    #[arg(long, value_name = "SEVERITY", default_value = "high")]
    pub(crate) fail_on: Severity,
    /// What to do with checks that cannot be made
    #[arg(long, value_name = "HOW", default_value = "fail")]
    pub(crate) unknown: UnknownPolicy,
}
