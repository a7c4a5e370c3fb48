//! The checks: what each is called, what it stands for in other catalogues, and what to do when it fails.

use super::checks::{access, advisory, backups, host, kube, monitoring, network, rbac, rest, tls};
use super::fact::{Judgement, Severity};
use super::facts::{Backups, Endpoint, Facts, Host, Kubernetes};
use super::kinds::{Judged, Scope, Section};
use super::upgrade::Upgrade;
use super::waivers;

/// How a check is made.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    Endpoint(fn(&Endpoint, &Facts) -> Judgement),
    Cluster(fn(&Facts) -> Judgement),
    Many(fn(&Facts) -> Vec<Judged>),
    Host(fn(&Host, &Facts) -> Judgement),
    Kubernetes(fn(&Kubernetes, &Facts) -> Judgement),
    Backups(fn(&Backups, &Facts) -> Judgement),
    /// Of users and roles, which etcd or a snapshot tells.
    Users(fn(&Facts) -> Judgement),
    /// Of a planned upgrade.
    Gate(fn(&Upgrade, &Facts) -> Vec<Judged>),
    /// Of what was given to the audit itself.
    Own(fn(&Facts) -> Vec<Judged>),
}

impl Run {
    /// It is made if one of these is looked at.
    pub(crate) const fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Endpoint(_) | Self::Cluster(_) | Self::Many(_) => &[Scope::Live],
            Self::Host(_) => &[Scope::Host],
            Self::Kubernetes(_) => &[Scope::Kubernetes],
            Self::Backups(_) => &[Scope::Repository],
            Self::Users(_) => &[Scope::Live, Scope::Repository],
            Self::Gate(_) => &[Scope::Live, Scope::Host, Scope::Repository],
            Self::Own(_) => &[Scope::Live, Scope::Host, Scope::Kubernetes, Scope::Repository],
        }
    }

    pub(crate) fn judge(self, facts: &Facts) -> Vec<Judged> {
        match self {
            Self::Endpoint(check) => {
                let judge = |endpoint: &Endpoint| {
                    Judged::of(Some(endpoint.name.clone()), check(endpoint, facts))
                };
                facts.endpoints.iter().map(judge).collect()
            }
            Self::Cluster(check) | Self::Users(check) => vec![Judged::of(None, check(facts))],
            Self::Many(check) | Self::Own(check) => check(facts),
            Self::Gate(check) => {
                facts.upgrade.iter().flat_map(|upgrade| check(upgrade, facts)).collect()
            }
            Self::Host(check) => {
                let judge = |host: &Host| Judged::of(Some(host.name.clone()), check(host, facts));
                facts.host.iter().map(judge).collect()
            }
            Self::Backups(check) => {
                let judge = |backups: &Backups| Judged::of(None, check(backups, facts));
                facts.backups.iter().map(judge).collect()
            }
            Self::Kubernetes(check) => {
                let judge =
                    |kube: &Kubernetes| Judged::of(Some("API server".into()), check(kube, facts));
                facts.kubernetes.iter().map(judge).collect()
            }
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
use Severity::{Critical, High, Info, Low, Medium};

/// The check with these properties.
pub(super) const fn check(
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
        &[Run::Endpoint(access::plain), Run::Many(access::listed), Run::Host(host::client_tls)]).known_as(&["2.1"], &["V-242427", "V-242428"]),
    check("AUTH-2", Critical, Authentication, "A client certificate is not demanded",
        "set client-cert-auth=true, and trusted-ca-file to the CA of the clients",
        &[Run::Endpoint(access::client_certificate), Run::Host(host::client_cert_auth)]).known_as(&["2.2"], &["V-242423"]),
    check("AUTH-3", Medium, Authentication, "etcd's authentication is off: every client may do everything",
        "make users and roles with `strongroom setup-auth --apply`, then `etcdctl auth enable`",
        &[Run::Cluster(access::authentication)]),
    check("AUTH-4", Critical, Authentication, "Calls succeed without a login",
        "demand client certificates, turn authentication on, and install a version with the fix of CVE-2026-33413",
        &[Run::Endpoint(access::anonymous)]),
    check("AUTH-5", Medium, Authentication, "Tokens are not signed, or last long; passwords are hashed weakly",
        "set auth-token=jwt,… with a key and a ttl of at most 5m, and bcrypt-cost=10",
        &[Run::Host(host::tokens)]),
    check("AUTH-6", Medium, Authentication, "Users log in by password",
        "give them certificates with their names: `etcdctl user add NAME --no-password`",
        &[Run::Backups(backups::passwords)]),
    check("AUTH-7", Medium, Authentication, "etcd trusts the CA of Kubernetes",
        "make a CA for etcd alone, and set trusted-ca-file to it",
        &[Run::Host(host::own_ca)]).known_as(&["2.7"], &[]),
    check("AUTH-8", Low, Authentication, "Every certificate of the CA is accepted",
        "set client-cert-allowed-hostname (or client-cert-allowed-cn), or client-crl-file",
        &[Run::Host(host::restricted)]),
    check("RBAC-1", High, Authorization, "More users than expected have the role root",
        "revoke it with `etcdctl user revoke-role USER root`, or give the number with --expect-root",
        &[Run::Users(rbac::root_users)]),
    check("RBAC-2", High, Authorization, "A role may read or write all keys, or all from one key on",
        "grant prefixes: `etcdctl role grant-permission ROLE --prefix readwrite /app/`",
        &[Run::Users(rbac::wide_grants)]),
    check("RBAC-3", Low, Authorization, "Users without roles, roles without users or without grants",
        "remove what nobody uses with `etcdctl user delete` and `etcdctl role delete`",
        &[Run::Users(rbac::unused)]),
    check("RBAC-4", Info, Authorization, "The user of this audit may do more than strongroom needs",
        "make users with `strongroom setup-auth --apply`: one for backups, one for values",
        &[Run::Users(rbac::own_rights)]),
    check("TLS-1", High, Encryption, "The client port has a certificate that etcd made itself (auto-tls)",
        OWN_CA, &[Run::Endpoint(tls::auto), Run::Host(host::auto_tls)]).known_as(&["2.3"], &["V-242379"]),
    check("TLS-2", Critical, Encryption, "Members talk to each other without TLS",
        "set peer-cert-file and peer-key-file, and change the peer URLs to https:// with `etcdctl member update`",
        &[Run::Many(tls::peers_plain), Run::Host(host::peer_tls)]).known_as(&["2.4"], &["V-242432", "V-242433"]),
    check("TLS-3", Critical, Encryption, "The peer port does not demand a certificate",
        "set peer-client-cert-auth=true, and peer-trusted-ca-file to the CA of the members",
        &[Run::Many(tls::peers_certificate), Run::Host(host::peer_cert_auth)]).known_as(&["2.5"], &["V-242426"]),
    check("TLS-4", High, Encryption, "The peer port has a certificate that etcd made itself (peer-auto-tls)",
        OWN_CA, &[Run::Many(tls::peers_auto), Run::Host(host::peer_auto_tls)]).known_as(&["2.6"], &["V-242380"]),
    check("TLS-5", High, Encryption, "TLS 1.0 or 1.1 is accepted",
        "set tls-min-version=TLS1.2 (etcd 3.4.25, 3.5.8 and later)", &[Run::Endpoint(tls::old_versions)]),
    check("TLS-6", Medium, Encryption, "Weak cipher suites are accepted",
        "set cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,\
         TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        &[Run::Endpoint(tls::weak_suites)]),
    check("TLS-7", High, Encryption, "A certificate expires soon, has expired or is not valid yet",
        RENEW, &[Run::Many(tls::expiry), Run::Host(host::files_expire)]),
    check("TLS-8", Medium, Encryption, "A certificate is weak, or not made for this server",
        "issue one with RSA 2048 or EC P-256 and more, SHA-256, the use serverAuth, and the names of the endpoint",
        &[Run::Endpoint(tls::quality)]),
    check("TLS-9", High, Encryption, "The process that runs differs from its settings",
        "restart etcd, and audit it again", &[Run::Host(host::as_configured)]),
    check("TLS-10", High, Encryption, "Others can read a private key",
        "chmod 600, and give the file to the user that etcd runs as",
        &[Run::Host(host::key_files)]).known_as(&[], &["V-242459"]),
    check("TLS-11", Medium, Encryption, "The API server talks to etcd without TLS or a CA",
        "set etcd-servers to https://, and etcd-cafile, etcd-certfile and etcd-keyfile",
        &[Run::Kubernetes(kube::to_etcd)])
        .known_as(&[], &["V-242429", "V-242430", "V-242431"]),
    check("REST-1", High, Encryption, "The data is not on an encrypted device",
        "put the data directory on LUKS; or encrypt the values (API server, strongroom's proxy) and waive this",
        &[Run::Host(rest::devices)]),
    check("REST-2", Medium, Encryption, "Others may read the data directory, or another user owns it",
        "chmod 700 the directories and 600 the database, and give them to the user that etcd runs as",
        &[Run::Host(rest::data_modes)]).known_as(&["1.1.11", "1.1.12"], &["V-242445"]),
    check("REST-3", High, Encryption, "Secrets of Kubernetes are stored unencrypted",
        "configure encryption at rest for the API server and write them again; or use strongroom's proxy",
        &[Run::Backups(backups::values)]).known_as(&["1.2.27"], &[]),
    check("REST-4", Critical, Encryption, "Secrets of Kubernetes are not encrypted, or weakly",
        "give secrets a kms provider of v2 as the first one (`strongroom kms-plugin`), and rewrite them",
        &[Run::Kubernetes(kube::encryption)]).known_as(&["1.2.28"], &[]),
    check("REST-5", High, Encryption, "Unencrypted databases of etcd were left on the host",
        "wrap them with `strongroom backup --file`, then destroy them",
        &[Run::Host(rest::strays)]),
    check("REST-6", Medium, Encryption, "The data is in memory or on a network, or swap is unencrypted",
        "put the data directory on a local disk, and turn swap off or encrypt it",
        &[Run::Host(rest::places)]),
    check("REST-7", High, Encryption, "Others may read or write the static pod of etcd",
        "chown root: and chmod 600 /etc/kubernetes/manifests/etcd.yaml",
        &[Run::Host(rest::manifest)]).known_as(&["1.1.7", "1.1.8"], &["V-242459"]),
    check("NET-1", High, Network, "A member listens on all addresses, or advertises a public one",
        "listen on and advertise addresses of a private network, and filter ports 2379 and 2380",
        &[Run::Many(network::addresses), Run::Host(host::listens)]),
    check("NET-2", Medium, Network, "Web pages may send requests: cors or host-whitelist is *",
        "use TLS with client certificates, or set cors and host-whitelist",
        &[Run::Host(host::cors)]),
    check("NET-3", Medium, Network, "/metrics answers without credentials",
        "demand client certificates; serve metrics on listen-metrics-urls at loopback, or behind a network policy",
        &[Run::Endpoint(network::metrics), Run::Host(host::metrics)]),
    check("NET-4", High, Network, "pprof is on, or the command line is shown to every client",
        "set enable-pprof=false; /debug/vars cannot be turned off: keep secrets out of etcd's arguments",
        &[Run::Endpoint(network::debug)]),
    check("NET-5", Low, Network, "This host filters no packets for etcd's ports",
        "accept ports 2379 and 2380 from clients and members alone, with nftables or a network policy",
        &[Run::Host(network::filtered)]),
    check("NET-6", Medium, Network, "The gRPC gateway is on",
        "set enable-grpc-gateway=false if no client uses HTTP and JSON",
        &[Run::Endpoint(network::gateway)]),
    check("MON-1", Medium, Monitoring, "Nobody watches: members are not scraped, or nothing alerts",
        "scrape /metrics of each member, and load alert rules: etcd's, and scripts/deploy/prometheus of strongroom",
        &[Run::Cluster(monitoring::watched)]),
    check("MON-2", High, Monitoring, "Many calls and logins are refused",
        "find out who: the log of strongroom's proxy names clients (`strongroom audit-log query`)",
        &[Run::Endpoint(monitoring::refused)]),
    check("MON-3", Critical, Monitoring, "etcd has raised an alarm, or members have different data",
        "NOSPACE: compact, defragment, then `etcdctl alarm disarm`; CORRUPT: restore that member; \
         different data: remove the member that differs, and add it again",
        &[Run::Cluster(network::alarms), Run::Many(monitoring::same_data)]),
    check("MON-4", Medium, Monitoring, "Members do not compare their data",
        "etcd 3.6 and later: feature-gates=InitialCorruptCheck=true,CompactHashCheck=true; before: \
         experimental-initial-corrupt-check=true, experimental-compact-hash-check-enabled=true (3.5)",
        &[Run::Host(host::corruption_checks)]),
    check("MON-5", Medium, Monitoring, "There is no record of who used which keys, or it was changed",
        "put strongroom's proxy before etcd with an audit log, and keep a copy of the log elsewhere",
        &[Run::Cluster(monitoring::access_log)]),
    check("BAK-1", Critical, Updates, "There is no backup of the last 26 hours",
        "run `strongroom agent`, and look at its warnings", &[Run::Backups(backups::fresh)]),
    check("BAK-2", High, Updates, "No backup was verified, or restored and served, for a long time",
        "let the agent verify and drill: `agent.verify`, `agent.drill`", &[Run::Backups(backups::tried)]),
    check("BAK-3", High, Updates, "One loss takes every key that opens the backups",
        "seal to a second key that depends on another place, passphrase or service (keys/README.md)", &[Run::Backups(backups::openers)]),
    check("BAK-4", Medium, Updates, "Backups are not signed, or there is no second copy of them",
        "give the agent a signing key (keys/README.md) and a second repository ([copy]), in which objects are locked",
        &[Run::Backups(backups::signed), Run::Backups(backups::copied)]),
    check("BAK-5", High, Updates, "A restore lacks the keys of Kubernetes' API server",
        "store its EncryptionConfiguration with --include, or keep the KMS key where a restore finds it",
        &[Run::Backups(backups::complete)]),
    check("UPD-1", High, Updates, "A known vulnerability is in this version",
        "install the version with the fix; a distribution may have it in an earlier one: then waive it with the reference",
        &[Run::Many(advisory::known)]),
    check("UPD-2", High, Updates, "The version is not supported, or a newer patch exists",
        "install the newest patch of a supported minor version, one minor version at a time",
        &[Run::Endpoint(advisory::supported)]),
    check("UPD-3", Medium, Updates, "Members run different versions",
        "finish the upgrade: mixed versions are for its duration only", &[Run::Cluster(advisory::mixed)]),
    check("UPD-4", Critical, Updates, "Settings that lose data, or that were meant for one use",
        "remove unsafe-no-fsync, force-new-cluster, enable-v2 and the log level debug, and restart etcd",
        &[Run::Host(host::dangerous)]),
    check("UPD-5", Low, Updates, "The table of known vulnerabilities is old",
        "install a newer strongroom, or give a newer table with --advisories",
        &[Run::Own(advisory::table_age)]),
    check("WAV-1", Medium, Updates, "A waiver has ended",
        "change what was accepted, or accept it again: a new day in `until`", &[Run::Own(waivers::expired)]),
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
