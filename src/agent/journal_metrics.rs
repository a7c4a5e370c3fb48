//! Metrics of the recording of changes.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::AgentSettings;
use super::labels::{Cluster, Float, of};
use super::recorded::Recorded;
use crate::backup::JournalComparison;
use crate::task::JournalStep;

/// Upper bounds of the uploads' buckets, in seconds.
const BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
/// Why a watch ends, and what makes a gap.
const RECONNECTS: [&str; 5] = ["etcd_ended_it", "connection", "canceled", "stuck", "store"];
const GAPS: [&str; 4] = ["compacted", "parted", "behind", "store"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    cluster: String,
    reason: &'static str,
}

/// The metrics of a recording.
pub(super) struct JournalMetrics {
    complete: Family<Cluster, Float>,
    revision: Family<Cluster, Gauge>,
    etcd_revision: Family<Cluster, Gauge>,
    verified: Family<Cluster, Gauge>,
    interval: Family<Cluster, Float>,
    events: Family<Cluster, Counter>,
    segments: Family<Cluster, Counter>,
    stored: Family<Cluster, Counter>,
    queued: Family<Cluster, Gauge>,
    spooled: Family<Cluster, Gauge>,
    uploads: Family<Cluster, Histogram, fn() -> Histogram>,
    reconnects: Family<Reason, Counter>,
    gaps: Family<Reason, Counter>,
    disagreements: Family<Cluster, Counter>,
    unknown_leases: Family<Cluster, Counter>,
    old_etcd: Family<Cluster, Gauge>,
    unbundled: Family<Cluster, Gauge>,
}

impl JournalMetrics {
    pub(super) fn register(to: &mut Registry) -> Self {
        let metrics = Self {
            complete: Family::default(),
            revision: Family::default(),
            etcd_revision: Family::default(),
            verified: Family::default(),
            interval: Family::default(),
            events: Family::default(),
            segments: Family::default(),
            stored: Family::default(),
            queued: Family::default(),
            spooled: Family::default(),
            uploads: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            reconnects: Family::default(),
            gaps: Family::default(),
            disagreements: Family::default(),
            unknown_leases: Family::default(),
            old_etcd: Family::default(),
            unbundled: Family::default(),
        };
        let help =
            "Every change that etcd committed before this time is stored: the recovery point";
        to.register("journal_complete_timestamp_seconds", help, metrics.complete.clone());
        let help = "The last revision that is recorded and stored";
        to.register("journal_revision", help, metrics.revision.clone());
        let help = "etcd's revision when it was last asked";
        to.register("journal_etcd_revision", help, metrics.etcd_revision.clone());
        let help = "The last recorded revision that was compared with a snapshot and is equal";
        to.register("journal_verified_revision", help, metrics.verified.clone());
        let help = "How often changes are stored; 0 where they are not recorded";
        to.register("journal_interval_seconds", help, metrics.interval.clone());
        let help = "Changes that were recorded";
        to.register("journal_events", help, metrics.events.clone());
        let help = "Segments that were stored";
        to.register("journal_segments", help, metrics.segments.clone());
        let help = "Length of the segments that were stored";
        to.register("journal_stored_bytes", help, metrics.stored.clone());
        let help = "Changes that wait in memory for the store";
        to.register("journal_queued_bytes", help, metrics.queued.clone());
        let help = "Changes that wait on the disk for the store";
        to.register("journal_spooled_bytes", help, metrics.spooled.clone());
        let help = "How long the store took for a segment";
        let uploads = metrics.uploads.clone();
        to.register_with_unit("journal_upload_duration", help, Unit::Seconds, uploads);
        let help = "Watches that ended before the recording did, by the reason";
        to.register("journal_reconnects", help, metrics.reconnects.clone());
        let help = "Recordings that could not follow what was recorded before, by the reason";
        to.register("journal_gaps", help, metrics.gaps.clone());
        let help = "Snapshots that differ from what was recorded";
        to.register("journal_disagreements", help, metrics.disagreements.clone());
        let help = "Leases that were gone before their time to live could be recorded";
        to.register("journal_unknown_leases", help, metrics.unknown_leases.clone());
        let help = "1 while the member that is watched has a version that can leave deletions out of a watch";
        to.register("journal_old_etcd", help, metrics.old_etcd.clone());
        let help = "Journals that have ended and are still to be merged into one object each";
        to.register("journal_unbundled", help, metrics.unbundled.clone());
        metrics
    }

    /// Sets what the settings promise. A counter's first increase would go unseen if it were not there before.
    pub(super) fn promises(&self, options: &AgentSettings) {
        let interval = options.record.interval.as_secs_f64();
        let interval = if options.continuous { interval } else { 0.0 };
        self.interval.get_or_create(&of(options)).set(interval);
        if !options.continuous {
            return;
        }
        let counters = [&self.disagreements, &self.unknown_leases, &self.events, &self.segments];
        for counter in counters.into_iter().chain([&self.stored]) {
            let _ = counter.get_or_create(&of(options));
        }
        let _ = self.unbundled.get_or_create(&of(options));
        for reason in RECONNECTS {
            let _ = self.reconnects.get_or_create(&because(options, reason));
        }
        for reason in GAPS {
            let _ = self.gaps.get_or_create(&because(options, reason));
        }
    }

    /// Another agent tells from now on how far the recording is. What was complete stays true.
    pub(super) fn stands_by(&self) {
        let known = [&self.revision, &self.etcd_revision, &self.queued, &self.spooled];
        for family in known.into_iter().chain([&self.old_etcd, &self.unbundled]) {
            family.clear();
        }
    }

    /// Takes note of `step`, after which the recording is as far as `recorded` says.
    pub(super) fn step(&self, options: &AgentSettings, step: &JournalStep, recorded: &Recorded) {
        let of = of(options);
        match step {
            JournalStep::Received { changes, .. } => {
                self.events.get_or_create(&of).inc_by(*changes);
            }
            JournalStep::Complete { revision, .. } => {
                self.etcd_revision.get_or_create(&of).set(*revision);
                self.completed(&of, recorded);
            }
            JournalStep::Waiting { queued, spooled } => {
                self.queued.get_or_create(&of).set(queued.cast_signed());
                self.spooled.get_or_create(&of).set(spooled.cast_signed());
            }
            JournalStep::Stored { revision, bytes, took, .. } => {
                self.stored(&of, (*revision, *bytes, *took), recorded)
            }
            JournalStep::Reconnects { reason, .. } => {
                self.reconnects.get_or_create(&because(options, reason)).inc();
            }
            JournalStep::Gap { reason, .. } => {
                self.gaps.get_or_create(&because(options, reason)).inc();
            }
            JournalStep::Unbundled { journals } => {
                self.unbundled.get_or_create(&of).set(journals.cast_signed());
            }
            JournalStep::LeaseUnknown => {
                self.unknown_leases.get_or_create(&of).inc();
            }
            JournalStep::Watching { is_old, .. } => {
                self.old_etcd.get_or_create(&of).set(i64::from(*is_old));
            }
            JournalStep::Began { .. } | JournalStep::Ended { .. } => {}
        }
    }

    fn stored(
        &self,
        of: &Cluster,
        (revision, bytes, took): (i64, u64, Duration),
        recorded: &Recorded,
    ) {
        self.segments.get_or_create(of).inc();
        self.stored.get_or_create(of).inc_by(bytes);
        self.revision.get_or_create(of).set(revision);
        self.uploads.get_or_create(of).observe(took.as_secs_f64());
        self.completed(of, recorded);
    }

    fn completed(&self, of: &Cluster, recorded: &Recorded) {
        if recorded.complete_ms > 0 {
            self.complete.get_or_create(of).set(recorded.complete_ms as f64 / 1000.0);
        }
    }

    /// A snapshot was compared with the recording, if there was one.
    pub(super) fn compared(&self, options: &AgentSettings, compared: Option<JournalComparison>) {
        let Some(JournalComparison { equal_to, differs_at, .. }) = compared else { return };
        if let Some(revision) = equal_to {
            self.verified.get_or_create(&of(options)).set(revision);
        }
        if differs_at.is_some() {
            self.disagreements.get_or_create(&of(options)).inc();
        }
    }
}

fn because(options: &AgentSettings, reason: &'static str) -> Reason {
    Reason { cluster: options.cluster().to_string(), reason }
}
