//! Metrics of the agent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::AgentSettings;
use super::audit_metrics::AuditMetrics;
use super::found::{KeyCounts, Newest};
use super::journal_metrics::JournalMetrics;
use super::labels::{Cluster, Float, of};
use super::late::Missing;
use super::operation::Operation;
use crate::backup::Listing;
use crate::error::Error;

/// Upper bounds of the durations' buckets, in seconds.
const BUCKETS: [f64; 10] = [0.5, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Work {
    cluster: String,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Trust {
    cluster: String,
    trust: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    cluster: String,
    operation: &'static str,
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OlderKey {
    cluster: String,
    key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Keys {
    cluster: String,
    state: &'static str,
}

/// The agent's metrics.
pub(super) struct Metrics {
    registry: Registry,
    outcomes: Family<Outcome, Counter>,
    durations: Family<Work, Histogram, fn() -> Histogram>,
    last_success: Family<Work, Float>,
    interval: Family<Work, Float>,
    snapshot_success: Family<Cluster, Float>,
    verify_success: Family<Cluster, Float>,
    verify_failures: Family<Cluster, Counter>,
    opened: Family<Cluster, Float>,
    findings: Family<Work, Counter>,
    size: Family<Cluster, Gauge>,
    revision: Family<Cluster, Gauge>,
    snapshots: Family<Cluster, Gauge>,
    by_trust: Family<Trust, Gauge>,
    newest_missing: Family<Cluster, Gauge>,
    stored: Family<Cluster, Gauge>,
    recovery: Family<Cluster, Float>,
    copied: Family<Cluster, Float>,
    leads: Family<Cluster, Gauge>,
    objects: Family<Cluster, Gauge>,
    keys: Family<Keys, Gauge>,
    pub(super) journal: JournalMetrics,
    pub(super) audited: AuditMetrics,
    independent: Family<Cluster, Gauge>,
    by_older_key: Family<OlderKey, Gauge>,
    pub(super) seals_missing: Missing,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("strongroom");
        let metrics = Self {
            registry: Registry::default(),
            outcomes: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            last_success: Family::default(),
            interval: Family::default(),
            snapshot_success: Family::default(),
            verify_success: Family::default(),
            verify_failures: Family::default(),
            opened: Family::default(),
            findings: Family::default(),
            size: Family::default(),
            revision: Family::default(),
            snapshots: Family::default(),
            by_trust: Family::default(),
            newest_missing: Family::default(),
            stored: Family::default(),
            recovery: Family::default(),
            copied: Family::default(),
            leads: Family::default(),
            objects: Family::default(),
            keys: Family::default(),
            journal: JournalMetrics::register(&mut registry),
            audited: AuditMetrics::register(&mut registry),
            independent: Family::default(),
            by_older_key: Family::default(),
            seals_missing: Missing::default(),
        };
        metrics.register(&mut registry);
        Self { registry, ..metrics }
    }

    fn register(&self, to: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        to.register("build", "The running version", version);
        let help = "Work that ended, by its result (success, failure) and the kind of error";
        to.register("operations", help, self.outcomes.clone());
        let help = "How long work took that succeeded";
        to.register_with_unit("operation_duration", help, Unit::Seconds, self.durations.clone());
        let help = "When work last succeeded";
        to.register("operation_last_success_timestamp_seconds", help, self.last_success.clone());
        let help = "The longest time that the schedule leaves between two runs";
        to.register("schedule_expected_interval_seconds", help, self.interval.clone());
        let help = "When the newest snapshot was begun: the recovery point";
        to.register("snapshot_last_success_timestamp_seconds", help, self.snapshot_success.clone());
        let help = "When every byte of a snapshot was last verified";
        to.register("verify_last_success_timestamp_seconds", help, self.verify_success.clone());
        let help = "When a snapshot was last opened and every byte of it read, by whichever host, as reports tell that count: 0 for never";
        to.register("opened_last_success_timestamp_seconds", help, self.opened.clone());
        let help = "Verifications that found a damaged snapshot";
        to.register("verify_failures", help, self.verify_failures.clone());
        let help = "Work that was done and found something wrong";
        to.register("findings", help, self.findings.clone());
        let help = "Length of the newest snapshot's database";
        to.register("snapshot_size_bytes", help, self.size.clone());
        let help = "Revision of the newest snapshot";
        to.register("snapshot_revision", help, self.revision.clone());
        let help = "Snapshots in the repository";
        to.register("repository_snapshots", help, self.snapshots.clone());
        let help = "Snapshots in the repository by what they are worth: trusted, retiring, not trusted, unverified";
        to.register("repository_snapshots_by_trust", help, self.by_trust.clone());
        let help =
            "1 while the newest snapshot that counts is older than one that this agent has seen";
        to.register("newest_snapshot_missing", help, self.newest_missing.clone());
        let help = "Length of all their objects";
        to.register("repository_bytes", help, self.stored.clone());
        let help = "From the first byte fetched to an etcd that answers, in the last drill";
        to.register("drill_recovery_seconds", help, self.recovery.clone());
        let help = "When the newest snapshot was begun that the replica has: the lag of the copy is what is missing to \
                    snapshot_last_success";
        to.register("copy_newest_snapshot_timestamp_seconds", help, self.copied.clone());
        let help = "1 on the agent that leads, 0 on those that stand by";
        to.register("agent_leads", help, self.leads.clone());
        let help = "Objects under snapshots/ in the repository, of all clusters";
        to.register("repository_objects", help, self.objects.clone());
        let help = "Master keys that the agent has, by their state";
        to.register("master_keys", help, self.keys.clone());
        let help = "Independent ways to open the newest snapshot: no loss of one place, passphrase or service takes two";
        to.register("independent_openers", help, self.independent.clone());
        let help = "Snapshots that a service sealed with an older key of its own than the one with which it seals now";
        to.register("snapshots_by_older_service_key", help, self.by_older_key.clone());
        let help = "1 for a master key that could not seal the newest snapshot of this agent, until it has; 0 for those that have";
        to.register("seals_missing", help, self.seals_missing.family.clone());
    }

    pub(super) fn leads(&self, options: &AgentSettings, leads: bool) {
        self.leads.get_or_create(&of(options)).set(i64::from(leads));
    }

    /// Sets what the schedules promise.
    pub(super) fn promises(&self, options: &AgentSettings) {
        let now = SystemTime::now();
        // Its first increase would go unseen otherwise.
        let _ = self.verify_failures.get_or_create(&of(options));
        self.interval.clear();
        self.journal.promises(options);
        for operation in Operation::ALL {
            let _ = self.findings.get_or_create(&work(options, operation));
            let schedule = match operation {
                // After each backup.
                Operation::Copy if options.copy.url.is_some() => {
                    options.schedule(Operation::Backup)
                }
                _ => options.schedule(operation),
            };
            if let Some(schedule) = schedule {
                let longest = schedule.longest_interval(now).as_secs_f64();
                self.interval.get_or_create(&work(options, operation)).set(longest);
            }
        }
    }

    pub(super) fn succeeded(&self, options: &AgentSettings, operation: Operation, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.last_success.get_or_create(&work(options, operation)).set(seconds);
        if matches!(operation, Operation::Verify | Operation::VerifyAll) {
            self.verify_success.get_or_create(&of(options)).set(seconds);
        }
    }

    pub(super) fn ended(
        &self,
        options: &AgentSettings,
        operation: Operation,
        took: Duration,
        error: Option<&Error>,
    ) {
        let outcome = Outcome {
            cluster: options.cluster().to_string(),
            operation: operation.name(),
            result: if error.is_some() { "failure" } else { "success" },
            reason: error.map_or("none", |error| error.kind().name()),
        };
        self.outcomes.get_or_create(&outcome).inc();
        if error.is_none() {
            let duration = self.durations.get_or_create(&work(options, operation));
            duration.observe(took.as_secs_f64());
        }
    }

    /// A recording did not begin, or broke off.
    pub(super) fn journal_failed(&self, options: &AgentSettings, error: &Error) {
        let outcome = Outcome {
            cluster: options.cluster().to_string(),
            operation: "journal",
            result: "failure",
            reason: error.kind().name(),
        };
        self.outcomes.get_or_create(&outcome).inc();
    }

    pub(super) fn verify_failed(&self, options: &AgentSettings) {
        self.verify_failures.get_or_create(&of(options)).inc();
    }

    /// The newest snapshot: also one of members that differ.
    pub(super) fn newest(&self, options: &AgentSettings, newest: &Newest) {
        let begun = newest.begun.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.snapshot_success.get_or_create(&of(options)).set(begun.as_secs_f64());
        self.size.get_or_create(&of(options)).set(newest.database_bytes.cast_signed());
        self.revision.get_or_create(&of(options)).set(newest.revision.cast_signed());
    }

    /// Another agent tells from now on how large things are. When things were done stays true.
    pub(super) fn stands_by(&self, options: &AgentSettings) {
        self.by_trust.clear();
        self.journal.stands_by();
        self.audited.stands_by(options);
        self.newest_missing.clear();
        for family in [
            &self.size,
            &self.revision,
            &self.objects,
            &self.snapshots,
            &self.stored,
            &self.independent,
        ] {
            family.clear();
        }
    }

    pub(super) fn found(&self, options: &AgentSettings, operation: Operation) {
        self.findings.get_or_create(&work(options, operation)).inc();
    }

    pub(super) fn repository(
        &self,
        options: &AgentSettings,
        listing: &Listing,
        standings: &BTreeMap<&'static str, usize>,
    ) {
        for (trust, count) in standings {
            let labels = Trust { cluster: options.cluster().to_string(), trust };
            self.by_trust.get_or_create(&labels).set(*count as i64);
        }
        self.by_older_key.clear();
        for (key, count) in &listing.by_older_key {
            let labels = OlderKey { cluster: options.cluster().to_string(), key: key.to_string() };
            self.by_older_key.get_or_create(&labels).set(*count as i64);
        }
        let bytes = listing.snapshots.iter().map(|one| one.stored_bytes).sum::<u64>();
        self.objects.get_or_create(&of(options)).set(listing.objects as i64);
        self.snapshots.get_or_create(&of(options)).set(listing.snapshots.len() as i64);
        self.stored.get_or_create(&of(options)).set(bytes.cast_signed());
    }

    pub(super) fn newest_is_missing(&self, options: &AgentSettings, missing: bool) {
        self.newest_missing.get_or_create(&of(options)).set(i64::from(missing));
    }

    pub(super) fn recovered(&self, options: &AgentSettings, took: Duration) {
        self.recovery.get_or_create(&of(options)).set(took.as_secs_f64());
    }

    pub(super) fn opened(&self, options: &AgentSettings, at: Option<SystemTime>) {
        let Some(at) = at else { return };
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.opened.get_or_create(&of(options)).set(at.as_secs_f64());
    }

    pub(super) fn copied(&self, options: &AgentSettings, begun: SystemTime) {
        let begun = begun.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.copied.get_or_create(&of(options)).set(begun.as_secs_f64());
    }

    pub(super) fn keys(&self, options: &AgentSettings, counts: &KeyCounts) {
        for (state, count) in counts {
            let labels = Keys { cluster: options.cluster().to_string(), state: state.name() };
            self.keys.get_or_create(&labels).set(*count as i64);
        }
    }

    pub(super) fn independent(&self, options: &AgentSettings, ways: usize) {
        self.independent.get_or_create(&of(options)).set(ways as i64);
    }

    pub(super) fn print(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn work(options: &AgentSettings, operation: Operation) -> Work {
    Work { cluster: options.cluster().to_string(), operation: operation.name() }
}
