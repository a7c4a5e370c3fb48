//! Metrics for Prometheus, and the server of /metrics, /healthz and /readyz.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Shared;
use crate::format::ClusterName;
use crate::status_server::{Answer, code_name};

/// Upper bounds of the durations' buckets, in seconds.
const BUCKETS: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

/// The proxy's metrics.
pub(super) struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    seconds: Histogram,
    pub(super) connections: Gauge,
    pub(super) connections_refused: Counter,
    pub(super) accept_failures: Counter,
    memory_used: Gauge,
    audit_failures: Counter,
    unreadable: Counter,
    disk_used: Gauge<f64, std::sync::atomic::AtomicU64>,
    keyring_stale: Gauge,
    keyring_serial: Gauge,
}

impl Metrics {
    /// With the label `cluster` if it has a name.
    pub(super) fn new(cluster: Option<&ClusterName>) -> Self {
        let metrics = Self {
            calls: Family::default(),
            seconds: Histogram::new(BUCKETS),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            accept_failures: Counter::default(),
            memory_used: Gauge::default(),
            audit_failures: Counter::default(),
            unreadable: Counter::default(),
            disk_used: Gauge::default(),
            keyring_stale: Gauge::default(),
            keyring_serial: Gauge::default(),
            registry: Registry::default(),
        };
        let labels = cluster.map(|name| ("cluster".into(), name.as_str().to_owned().into()));
        let mut registry = Registry::with_prefix_and_labels("strongroom_proxy", labels.into_iter());
        metrics.register(&mut registry);
        Self { registry, ..metrics }
    }

    fn register(&self, registry: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", version);
        registry.register("requests", "Calls, by method and gRPC code", self.calls.clone());
        registry.register(
            "request_duration_seconds",
            "Duration of calls that are not streams",
            self.seconds.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_refused",
            "Connections refused for lack of memory",
            self.connections_refused.clone(),
        );
        registry.register(
            "accept_failures",
            "Connections that could not be accepted, for example for lack of file descriptors",
            self.accept_failures.clone(),
        );
        registry.register(
            "memory_used_bytes",
            "Part of --max-memory that messages, calls and connections use",
            self.memory_used.clone(),
        );
        registry.register(
            "audit_failures",
            "Requests that could not be written to the audit log",
            self.audit_failures.clone(),
        );
        registry.register(
            "unreadable_values",
            "Values that do not open and were left out of answers",
            self.unreadable.clone(),
        );
        registry.register(
            "audit_disk_used_ratio",
            "Share of the audit log's file system that is used: alert at 0.8",
            self.disk_used.clone(),
        );
        registry.register(
            "keyring_stale",
            "1 while the newest value keyring is not the one in use",
            self.keyring_stale.clone(),
        );
        registry.register(
            "keyring_serial",
            "Serial of the value keyring in use",
            self.keyring_serial.clone(),
        );
    }

    pub(super) fn called(&self, method: &'static str, code: tonic::Code, took: Option<Duration>) {
        self.calls.get_or_create(&Call { method, code: code_name(code) }).inc();
        if let Some(took) = took {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    /// Counts values that answers left out because they do not open.
    pub(super) fn unreadable(&self, values: u64) {
        self.unreadable.inc_by(values);
    }

    pub(super) fn audit_failed(&self) {
        self.audit_failures.inc();
    }

    fn print(&self, shared: &Shared) -> String {
        if let Some((used, total)) =
            shared.audit.as_ref().and_then(|audit| audit.log.disk_use().ok())
        {
            self.disk_used.set(used as f64 / total.max(1) as f64);
        }
        self.memory_used.set(i64::try_from(shared.clients.used()).unwrap_or(i64::MAX));
        self.keyring_stale.set(i64::from(shared.namespace.refused().is_some()));
        self.keyring_serial.set(shared.namespace.cipher().serial().into());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Answers `/metrics`, `/healthz` and `/readyz` until `stop` turns true.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let answer = move |path: String| {
        let shared = Arc::clone(&shared);
        async move {
            match path.as_str() {
                "/metrics" => Answer::metrics(shared.metrics.print(&shared)),
                "/healthz" => Answer::health(Ok(())),
                "/readyz" => Answer::health(shared.ready().await),
                _ => Answer::not_found("/metrics, /healthz or /readyz"),
            }
        }
    };
    crate::status_server::serve(listener, answer, stop).await;
}
