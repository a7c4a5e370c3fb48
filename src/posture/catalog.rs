//! The checks: what each is called, what it stands for in other catalogues, and what to do when it fails.

use serde::Serialize;

use super::checks::{access, advisory, network, rbac, tls};
use super::fact::{Judgement, Severity};
use super::facts::{Endpoint, Facts};

/// Where facts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The endpoints: handshakes, HTTP, gRPC
    Live,
}

/// The part of a security guide that a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// Who may connect.
    Authentication,
    /// What they may do.
    Authorization,
    /// What others can read.
    Encryption,
    /// Who can reach it.
    Network,
    /// Whether anyone would notice.
    Monitoring,
    /// Whether it is maintained, and can be brought back.
    Updates,
}

impl Section {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "Authentication",
            Self::Authorization => "Authorization",
            Self::Encryption => "Encryption",
            Self::Network => "Network",
            Self::Monitoring => "Monitoring",
            Self::Updates => "Updates and recovery",
        }
    }
}

/// What a check says of one member, or of the cluster.
pub(crate) struct Judged {
    /// The endpoint or member; nothing for the cluster.
    pub(crate) subject: Option<String>,
    /// Its own title and address, where one check stands for many.
    pub(crate) detail: Option<(String, String)>,
    pub(crate) judgement: Judgement,
}

/// How a check is made.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    Endpoint(fn(&Endpoint, &Facts) -> Judgement),
    Cluster(fn(&Facts) -> Judgement),
    Many(fn(&Facts) -> Vec<Judged>),
}

impl Run {
    pub(crate) fn scope(self) -> Scope {
        match self {
            Self::Endpoint(_) | Self::Cluster(_) | Self::Many(_) => Scope::Live,
        }
    }

    pub(crate) fn judge(self, facts: &Facts) -> Vec<Judged> {
        match self {
            Self::Endpoint(check) => {
                let judge = |endpoint: &Endpoint| Judged {
                    subject: Some(endpoint.name.clone()),
                    detail: None,
                    judgement: check(endpoint, facts),
                };
                facts.endpoints.iter().map(judge).collect()
            }
            Self::Cluster(check) => {
                vec![Judged { subject: None, detail: None, judgement: check(facts) }]
            }
            Self::Many(check) => check(facts),
        }
    }
}

/// A check.
pub(crate) struct Check {
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    /// What is wrong if it fails.
    pub(crate) title: &'static str,
    pub(crate) section: Section,
    /// Items of the CIS Kubernetes Benchmark.
    pub(crate) cis: &'static [&'static str],
    /// Items of DISA's Kubernetes STIG.
    pub(crate) stig: &'static [&'static str],
    pub(crate) remedy: &'static str,
    pub(crate) runs: &'static [Run],
}

use Section::{Authentication, Authorization, Encryption, Monitoring, Network, Updates};
use Severity::{Critical, High, Low, Medium};

/// The check with these properties.
const fn check(
    id: &'static str,
    severity: Severity,
    section: Section,
    title: &'static str,
    remedy: &'static str,
    runs: &'static [Run],
) -> Check {
    Check { id, severity, title, section, cis: &[], stig: &[], remedy, runs }
}

impl Check {
    const fn known_as(self, cis: &'static [&'static str], stig: &'static [&'static str]) -> Self {
        Self { cis, stig, ..self }
    }
}

const RENEW: &str =
    "renew the certificate, and restart etcd or wait until it has read the new file";
const OWN_CA: &str =
    "give certificates of your own CA: auto-tls certificates cannot be verified by clients";

/// Every check, in the order of its sections.
pub(crate) const CHECKS: &[Check] = &[
    check("AUTH-1", Critical, Authentication, "The client port answers without TLS",
        "set cert-file and key-file, and write https:// in listen-client-urls and advertise-client-urls",
        &[Run::Endpoint(access::plain)]).known_as(&["2.1"], &["V-242427", "V-242428"]),
    check("AUTH-2", Critical, Authentication, "A client certificate is not demanded",
        "set client-cert-auth=true, and trusted-ca-file to the CA of the clients",
        &[Run::Endpoint(access::client_certificate)]).known_as(&["2.2"], &["V-242423"]),
    check("AUTH-3", Medium, Authentication, "etcd's authentication is off: every client may do everything",
        "make users and roles with `strongroom setup-auth --apply`, then `etcdctl auth enable`",
        &[Run::Cluster(access::authentication)]),
    check("AUTH-4", Critical, Authentication, "Calls succeed without a login",
        "demand client certificates, turn authentication on, and install a version with the fix of CVE-2026-33413",
        &[Run::Endpoint(access::anonymous)]),
    check("RBAC-1", High, Authorization, "More users than expected have the role root",
        "revoke it with `etcdctl user revoke-role USER root`, or give the number with --expect-root",
        &[Run::Cluster(rbac::root_users)]),
    check("RBAC-2", High, Authorization, "A role may read or write all keys, or all from one key on",
        "grant prefixes: `etcdctl role grant-permission ROLE --prefix readwrite /app/`",
        &[Run::Cluster(rbac::wide_grants)]),
    check("RBAC-3", Low, Authorization, "Users without roles, roles without users or without grants",
        "remove what nobody uses with `etcdctl user delete` and `etcdctl role delete`",
        &[Run::Cluster(rbac::unused)]),
    check("TLS-1", High, Encryption, "The client port has a certificate that etcd made itself (auto-tls)",
        OWN_CA, &[Run::Endpoint(tls::auto)]).known_as(&["2.3"], &["V-242379"]),
    check("TLS-2", Critical, Encryption, "Members talk to each other without TLS",
        "set peer-cert-file and peer-key-file, and change the peer URLs to https:// with `etcdctl member update`",
        &[Run::Many(tls::peers_plain)]).known_as(&["2.4"], &["V-242432", "V-242433"]),
    check("TLS-3", Critical, Encryption, "The peer port does not demand a certificate",
        "set peer-client-cert-auth=true, and peer-trusted-ca-file to the CA of the members",
        &[Run::Many(tls::peers_certificate)]).known_as(&["2.5"], &["V-242426"]),
    check("TLS-4", High, Encryption, "The peer port has a certificate that etcd made itself (peer-auto-tls)",
        OWN_CA, &[Run::Many(tls::peers_auto)]).known_as(&["2.6"], &["V-242380"]),
    check("TLS-5", High, Encryption, "TLS 1.0 or 1.1 is accepted",
        "set tls-min-version=TLS1.2 (etcd 3.4.25, 3.5.8 and later)", &[Run::Endpoint(tls::old_versions)]),
    check("TLS-6", Medium, Encryption, "Weak cipher suites are accepted",
        "set cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,\
         TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        &[Run::Endpoint(tls::weak_suites)]),
    check("TLS-7", High, Encryption, "A certificate expires soon, has expired or is not valid yet",
        RENEW, &[Run::Many(tls::expiry)]),
    check("TLS-8", Medium, Encryption, "A certificate is weak, or not made for this server",
        "issue one with RSA 2048 or EC P-256 and more, SHA-256, the use serverAuth, and the names of the endpoint",
        &[Run::Endpoint(tls::quality)]),
    check("NET-1", High, Network, "A member advertises a public address",
        "advertise addresses of a private network, and filter ports 2379 and 2380",
        &[Run::Many(network::addresses)]),
    check("NET-3", Medium, Network, "/metrics answers without credentials",
        "demand client certificates; serve metrics on listen-metrics-urls at loopback, or behind a network policy",
        &[Run::Endpoint(network::metrics)]),
    check("NET-4", High, Network, "pprof is on, or the command line is shown to every client",
        "set enable-pprof=false; /debug/vars cannot be turned off: keep secrets out of etcd's arguments",
        &[Run::Endpoint(network::debug)]),
    check("NET-6", Medium, Network, "The gRPC gateway is on",
        "set enable-grpc-gateway=false if no client uses HTTP and JSON",
        &[Run::Endpoint(network::gateway)]),
    check("MON-3", Critical, Monitoring, "etcd has raised an alarm",
        "NOSPACE: compact, defragment, then `etcdctl alarm disarm`; CORRUPT: restore that member",
        &[Run::Cluster(network::alarms)]),
    check("UPD-1", High, Updates, "A known vulnerability is in this version",
        "install the version with the fix; a distribution may have it in an earlier one: then waive it with the reference",
        &[Run::Many(advisory::known)]),
    check("UPD-2", High, Updates, "The version is not supported, or a newer patch exists",
        "install the newest patch of a supported minor version, one minor version at a time",
        &[Run::Endpoint(advisory::supported)]),
    check("UPD-3", Medium, Updates, "Members run different versions",
        "finish the upgrade: mixed versions are for its duration only", &[Run::Cluster(advisory::mixed)]),
    check("UPD-5", Low, Updates, "The table of known vulnerabilities is old",
        "install a newer strongroom, or give a newer table with --advisories",
        &[Run::Cluster(advisory::table_age)]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_check_is_there_once_and_in_the_guide() {
        let ids: BTreeSet<_> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), CHECKS.len());
        let guide = include_str!("../guide/audit.md");
        let rows: BTreeSet<_> =
            guide.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).collect();
        let named =
            |row: &&str| row.split_once('-').is_some_and(|(_, rest)| rest.parse::<u8>().is_ok());
        assert_eq!(rows.into_iter().filter(named).collect::<BTreeSet<_>>(), ids);
    }
}
