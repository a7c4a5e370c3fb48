//! How a cluster is set up, checked by measurement: what answers without TLS, without a certificate, without a login; what
//! versions, cipher suites and certificates are in use; which known vulnerabilities are in the version that runs.
//!
//! [`audit`] asks the endpoints and judges what it finds. It writes nothing, and asks one connection after the other. What
//! could not be read is reported as unknown and never as good: a verdict is made of evidence, and evidence only of what
//! was read.

mod advisories;
mod catalog;
mod checks;
mod fact;
mod facts;
mod report;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

pub use advisories::Advisories;
pub use catalog::{Scope, Section};
pub use fact::{Evidence, Severity, Status};
pub use facts::endpoint::Probe;
pub use report::{Counts, Group, MemberSeen, Outcome, Report, Rule, UnknownPolicy, rules};

use crate::error::{Error, ErrorKind, Result};
use crate::etcd::EtcdSettings;
use crate::format::Time;
use fact::Fact;
use facts::Facts;

/// What to check, and what to think of it.
#[derive(Debug)]
pub struct AuditOptions {
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
}

/// Reads what the settings' user and certificate let it read, and judges it.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for unknown checks and settings that contradict each other;
/// [`Unreachable`](ErrorKind::Unreachable) when no endpoint answers.
pub async fn audit(etcd: &EtcdSettings, options: AuditOptions) -> Result<Report> {
    report::check_ids(options.only.iter().chain(&options.skip))?;
    let (endpoints, cluster) = facts::cluster::read(etcd, options.probe).await?;
    let silent = |endpoint: &facts::Endpoint| match (&endpoint.plain, &endpoint.tls) {
        (Fact::Unknown(why), Fact::Unknown(_)) => Some(why.clone()),
        _ => None,
    };
    let reasons: Vec<_> = endpoints.iter().map(silent).collect();
    if let Some(reasons) = reasons.into_iter().collect::<Option<Vec<_>>>() {
        let why = format!("no endpoint answers: {}", reasons.join("; "));
        return Err(
            Error::new(ErrorKind::Unreachable, why).hint("check --endpoints, and that etcd runs")
        );
    }
    let seconds =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let facts = Facts {
        now: Time::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX)),
        endpoints,
        cluster,
        expected_root: options.expect_root,
        advisories: options.advisories,
    };
    let judge = report::Policy {
        only: &options.only,
        skip: &options.skip,
        fail_on: options.fail_on,
        unknown: options.unknown,
    };
    Ok(Report::new(&facts, &[Scope::Live], &judge))
}
