//! How a cluster is set up, checked by measurement: what answers without TLS, without a certificate, without a login; what
//! versions, cipher suites and certificates are in use; which known vulnerabilities are in the version that runs.
//!
//! [`audit`] asks the endpoints and judges what it finds. It changes no key and no setting, and asks one connection after the other. What
//! could not be read is reported as unknown and never as good: a verdict is made of evidence, and evidence only of what
//! was read.

mod advisories;
mod catalog;
mod checks;
mod fact;
mod facts;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
mod junit;
mod kept;
mod kinds;
mod markdown;
mod outcome;
mod report;
mod sarif;
mod settings;
#[cfg(test)]
mod tests;
mod upgrade;
mod waivers;

pub use advisories::Advisories;
pub use fact::{Evidence, Severity, Status};
pub use facts::endpoint::Probe;
pub use facts::host::HostOptions;
pub use facts::kube::KubernetesOptions;
pub use facts::proxy_log::ProxyLogOptions;
pub use facts::repository::RepositoryOptions;
pub use kinds::{Scope, Section};
pub use outcome::{Difference, Outcome, Waived};
pub use report::{CertificateSeen, Counts, Group, MemberSeen, Report, Rule, UnknownPolicy, rules};
pub use settings::{AuditFiles, AuditSettings};
pub use upgrade::{
    ClusterState, MemberState, Plan, PlannedMember, UpgradeOptions, UpgradeReport, upgrade_check,
};
pub use waivers::Waiver;

use crate::error::{Error, ErrorKind, Result};
use crate::etcd::EtcdSettings;
use fact::Fact;
use facts::Facts;

/// What to check, and which outcomes count as failures.
#[derive(Debug)]
pub struct AuditOptions {
    /// Ask the endpoints.
    pub live: bool,
    /// Read this host.
    pub host: Option<HostOptions>,
    /// Read these files of Kubernetes.
    pub kubernetes: Option<KubernetesOptions>,
    /// The URL of a Prometheus that scrapes the cluster.
    pub prometheus: Option<String>,
    /// The audit log of a proxy before the cluster.
    pub proxy_log: Option<ProxyLogOptions>,
    /// Ask every member for a hash of its data.
    pub deep: bool,
    /// How much is asked about TLS.
    pub probe: Probe,
    /// Only these checks; all if empty.
    pub only: Vec<String>,
    /// None of these checks.
    pub skip: Vec<String>,
    /// The lowest severity that counts for [`Report::exit`].
    pub fail_on: Severity,
    /// What becomes of checks without a verdict.
    pub unknown: UnknownPolicy,
    /// How many users may have the role root.
    pub expect_root: usize,
    /// The table of known vulnerabilities.
    pub advisories: Advisories,
    /// Failures that somebody accepts.
    pub waivers: Vec<Waiver>,
}

/// Those of these checks: one file has the waivers of audits and of upgrades.
fn own_waivers(catalogue: &[catalog::Check], mut waivers: Vec<Waiver>) -> Result<Vec<Waiver>> {
    check_waivers(&waivers)?;
    waivers.retain(|waiver| catalogue.iter().any(|check| check.id == waiver.id()));
    Ok(waivers)
}

/// Refuses waivers of what does not exist.
fn check_waivers(waivers: &[Waiver]) -> Result<()> {
    let known = || catalog::CHECKS.iter().chain(upgrade::checks());
    match waivers.iter().find(|waiver| !known().any(|check| check.id == waiver.id())) {
        Some(waiver) => Err(Error::usage(format!("a waiver: no check is called {:?}", waiver.id()))
            .hint("`strongroom audit --list` prints the checks of audits; the guide has those of upgrades")),
        None => Ok(()),
    }
}

/// Runs the checks, with the rights of the user and the client certificate in the settings.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for unknown checks and settings that contradict each other;
/// [`Unreachable`](ErrorKind::Unreachable) when no endpoint answers.
pub async fn audit(
    etcd: &EtcdSettings,
    repository: Option<&RepositoryOptions<'_>>,
    options: AuditOptions,
) -> Result<Report> {
    report::check_ids(options.only.iter().chain(&options.skip))?;
    let scopes = scopes(&options, repository.is_some())?;
    let waivers = own_waivers(catalog::CHECKS, options.waivers)?;
    let (endpoints, cluster) = match options.live {
        true => facts::cluster::read(etcd, options.probe).await?,
        false => (Vec::new(), facts::Cluster::unknown("the endpoints were not asked")),
    };
    let hashes = match options.deep {
        true => Some(facts::hashes::read(etcd).await),
        false => None,
    };
    let host = match &options.host {
        Some(host) => Some(facts::Host::read(host).await?),
        None => None,
    };
    let kubernetes = options.kubernetes.as_ref().map(facts::Kubernetes::read);
    let (backups, earlier) = match repository {
        Some(of) => (Some(facts::Backups::read(of).await), kept::earlier(of).await),
        None => (None, Fact::unknown("needs an earlier audit: --scope live,repository --report")),
    };
    if scopes == [Scope::Live] {
        someone_answers(&endpoints)?;
    }
    let mut facts = Facts {
        now: settings::now(),
        endpoints,
        cluster,
        hashes,
        host,
        kubernetes,
        backups,
        own: facts::cluster::own(etcd),
        monitoring: facts::monitoring::read(options.prometheus.as_deref()).await?,
        proxy_log: facts::proxy_log::read(options.proxy_log.as_ref()).await,
        earlier,
        waivers,
        expected_root: options.expect_root,
        advisories: options.advisories,
        upgrade: None,
    };
    checks::backups::complete_cluster(&mut facts);
    let judge = report::Policy {
        only: &options.only,
        skip: &options.skip,
        fail_on: options.fail_on,
        unknown: options.unknown,
    };
    Ok(Report::new(&facts, &scopes, &judge))
}

/// What is looked at.
fn scopes(options: &AuditOptions, repository: bool) -> Result<Vec<Scope>> {
    if options.deep && !options.live {
        return Err(Error::usage("a deep audit asks the endpoints").hint("add live to --scope"));
    }
    let all = [
        (Scope::Live, options.live),
        (Scope::Host, options.host.is_some()),
        (Scope::Kubernetes, options.kubernetes.is_some()),
        (Scope::Repository, repository),
    ];
    let scopes: Vec<_> =
        all.into_iter().filter(|(_, is_in)| *is_in).map(|(scope, _)| scope).collect();
    report::check_scopes(&options.only, &scopes)?;
    Ok(scopes)
}

/// # Errors
/// [`Unreachable`](ErrorKind::Unreachable) when none of the endpoints answers.
fn someone_answers(endpoints: &[facts::Endpoint]) -> Result<()> {
    let silent = |endpoint: &facts::Endpoint| match (&endpoint.plain, &endpoint.tls) {
        (Fact::Unknown(why), Fact::Unknown(_)) => Some(why.clone()),
        _ => None,
    };
    match endpoints.iter().map(silent).collect::<Option<Vec<_>>>() {
        Some(reasons) => {
            let why = format!("no endpoint answers: {}", reasons.join("; "));
            Err(Error::new(ErrorKind::Unreachable, why)
                .hint("check --endpoints, and that etcd runs"))
        }
        None => Ok(()),
    }
}
