//! Metrics of audits, and of the certificates that are in use.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::AgentSettings;
use super::labels::{Cluster, Float, of};
use crate::posture::{Report, Status};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct Finding {
    cluster: String,
    check: &'static str,
    severity: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Certificate {
    cluster: String,
    r#use: &'static str,
}

/// The certificate that the agent shows etcd.
const OWN: &str = "agent";
/// Those that etcd shows, by the port.
const SEEN: [(&str, &str); 2] = [("client", "server"), ("peer", "peer")];

/// What the agent knows of the last audit.
pub(super) struct AuditMetrics {
    findings: Family<Finding, Gauge>,
    last: Family<Cluster, Float>,
    certificates: Family<Certificate, Float>,
}

impl AuditMetrics {
    pub(super) fn register(to: &mut Registry) -> Self {
        let new = Self {
            findings: Family::default(),
            last: Family::default(),
            certificates: Family::default(),
        };
        let help = "Checks of the last audit that failed, are unknown, or are accepted by a waiver";
        to.register("audit_findings", help, new.findings.clone());
        let help = "When the cluster was last audited, whatever was found";
        to.register("audit_last_success_timestamp_seconds", help, new.last.clone());
        let help = "When a certificate expires: the one that the agent shows etcd, and the first of those that etcd shows \
                    clients and peers, as the last audit saw them";
        to.register("certificate_expiry_timestamp_seconds", help, new.certificates.clone());
        new
    }

    /// What the audit that began at `at` came to.
    pub(super) fn update(&self, options: &AgentSettings, report: &Report, at: SystemTime) {
        let cluster = options.cluster().to_string();
        self.last.get_or_create(&of(options)).set(seconds(at));
        let mut counts = BTreeMap::new();
        for one in &report.checks {
            let status = match (one.status, &one.waiver) {
                (Status::Fail | Status::Unknown, Some(_)) => "waived",
                (Status::Fail | Status::Unknown, None) => one.status.name(),
                _ => continue,
            };
            let severity = one.severity.name();
            let labels = Finding { cluster: cluster.clone(), check: one.id, severity, status };
            *counts.entry(labels).or_insert(0) += 1;
        }
        self.findings.clear();
        for (labels, count) in counts {
            self.findings.get_or_create(&labels).set(count);
        }
        for (port, name) in SEEN {
            let of_port = report.certificates.iter().filter(|one| one.port == port);
            self.set(options, name, of_port.map(|one| one.expires.unix() as f64).reduce(f64::min));
        }
    }

    /// When the certificate expires that the agent shows etcd.
    pub(super) fn shown(&self, options: &AgentSettings, expires: Option<SystemTime>) {
        self.set(options, OWN, expires.map(seconds));
    }

    fn set(&self, options: &AgentSettings, r#use: &'static str, expires: Option<f64>) {
        let labels = Certificate { cluster: options.cluster().to_string(), r#use };
        match expires {
            Some(expires) => drop(self.certificates.get_or_create(&labels).set(expires)),
            None => drop(self.certificates.remove(&labels)),
        }
    }

    /// Another agent tells from now on what is found. When this one looked stays true.
    pub(super) fn stands_by(&self, options: &AgentSettings) {
        self.findings.clear();
        SEEN.iter().for_each(|(_, name)| self.set(options, name, None));
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
