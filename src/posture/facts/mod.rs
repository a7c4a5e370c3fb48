//! What is read of a cluster, each collector with its limits. Nothing here writes to etcd.

pub(crate) mod certificate;
pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod endpoint;
mod failed;
mod file;
pub(crate) mod filter;
pub(crate) mod hashes;
pub(crate) mod health;
pub(crate) mod hello;
pub(crate) mod host;
mod http;
pub(crate) mod kube;
pub(crate) mod monitoring;
pub(crate) mod proxy_log;
pub(crate) mod refused;
pub(crate) mod repository;
pub(crate) mod settings;
pub(crate) mod stray;
mod tls;

use std::time::Duration;

use super::advisories::Advisories;
use super::fact::Fact;
use super::upgrade::Upgrade;
use super::waivers::Waiver;
use crate::etcd::Comparison;
use crate::format::Time;

pub(crate) use cluster::Cluster;
pub(crate) use endpoint::Endpoint;
pub(crate) use host::Host;
pub(crate) use kube::Kubernetes;
pub(crate) use monitoring::Monitoring;
pub(crate) use proxy_log::ProxyLog;
pub(crate) use refused::Earlier;
pub(crate) use repository::Backups;

/// How long one connection, or one request over it, may take.
pub(super) const PROBE: Duration = Duration::from_secs(3);

/// All that is known.
pub(crate) struct Facts {
    /// When it was read.
    pub(crate) now: Time,
    /// What each endpoint showed; also members that are not among the endpoints, of which nothing is known.
    pub(crate) endpoints: Vec<Endpoint>,
    /// What holds for all members.
    pub(crate) cluster: Cluster,
    /// What the members' data hashes to, if that was asked for.
    pub(crate) hashes: Option<Fact<Comparison>>,
    /// The host of one member, if it was asked for.
    pub(crate) host: Option<Host>,
    /// Files of Kubernetes, if they were asked for.
    pub(crate) kubernetes: Option<Kubernetes>,
    /// The repository, if it was asked for.
    pub(crate) backups: Option<Backups>,
    /// The user that the settings log in as, by name or by certificate, if there is one.
    pub(crate) own: Fact<Option<String>>,
    /// What Prometheus said.
    pub(crate) monitoring: Fact<Monitoring>,
    /// The audit log of a proxy.
    pub(crate) proxy_log: Fact<ProxyLog>,
    /// The last audit of this cluster that was kept.
    pub(crate) earlier: Fact<Earlier>,
    /// Failures that somebody accepts.
    pub(crate) waivers: Vec<Waiver>,
    /// Users with the role root that are expected.
    pub(crate) expected_root: usize,
    /// Known vulnerabilities and releases.
    pub(crate) advisories: Advisories,
    /// What an upgrade depends on, if one is planned.
    pub(crate) upgrade: Option<Upgrade>,
}

impl Facts {
    /// The versions of etcd that answered, each with its endpoint.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (&Endpoint, &Fact<String>)> {
        self.endpoints.iter().map(|endpoint| (endpoint, &endpoint.version))
    }
}
