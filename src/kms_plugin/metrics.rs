//! Metrics for Prometheus, named as those of the API server, and the server of /metrics, /healthz and /readyz.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

use super::Plugin;
use crate::kms_api::Method;
use crate::status_server::{self, Answer, code_name};

/// Upper bounds of the durations' buckets, in seconds.
const BUCKETS: [f64; 7] = [0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5];

/// Whoever scrapes or probes has a service asked this often: it counts the calls.
const RECENT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Call, Counter>,
    seconds: Histogram,
    pub(super) refused: Counter,
    pub(super) unknown_keys: Counter,
    healthy: Gauge,
    key_age: Gauge,
    last_status: Gauge,
}

impl Metrics {
    /// With the age of the key, if that is known.
    pub(super) fn new(with_age: bool) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            seconds: Histogram::new(BUCKETS),
            refused: Counter::default(),
            unknown_keys: Counter::default(),
            healthy: Gauge::default(),
            key_age: Gauge::default(),
            last_status: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("strongroom_kms");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", version);
        registry.register("requests", "Calls, by method and gRPC code", metrics.requests.clone());
        registry.register("request_duration_seconds", "Duration of calls", metrics.seconds.clone());
        registry.register(
            "connections_refused",
            "Connections of users that may not connect",
            metrics.refused.clone(),
        );
        registry.register(
            "unknown_key_requests",
            "Calls of Decrypt for a key that is not in the keyring",
            metrics.unknown_keys.clone(),
        );
        registry.register("healthy", "1 while Status answers ok", metrics.healthy.clone());
        if with_age {
            registry.register(
                "key_age_seconds",
                "How long the primary key has been primary",
                metrics.key_age.clone(),
            );
        }
        registry.register(
            "last_status_timestamp_seconds",
            "When the API server asked for the status: it does so every minute",
            metrics.last_status.clone(),
        );
        Self { registry, ..metrics }
    }

    pub(super) fn called(&self, method: Method, code: tonic::Code, took: Duration) {
        let call = Call { method: method.name(), code: code_name(code) };
        self.requests.get_or_create(&call).inc();
        self.seconds.observe(took.as_secs_f64());
        if method == Method::Status {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_status.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    fn print(&self, plugin: &Plugin) -> String {
        self.key_age.set(plugin.keys.age().unwrap_or_default());
        self.healthy.set(plugin.keys.health().is_ok().into());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Answers `/metrics`, `/healthz` and `/readyz` until `stop` turns true.
pub(super) async fn serve(listener: TcpListener, plugin: Arc<Plugin>, stop: watch::Receiver<bool>) {
    let answer = move |path: String| {
        let plugin = Arc::clone(&plugin);
        async move {
            // Whether the process lives does not depend on a service or a file system: restarted, it would forget what it opened.
            if path == "/healthz" {
                return Answer::health(Ok(()));
            }
            let is_metrics = path == "/metrics";
            if !is_metrics && path != "/readyz" {
                return Answer::not_found("/metrics, /healthz or /readyz");
            }
            plugin.keys.look(RECENT).await;
            match is_metrics {
                true => Answer::metrics(plugin.metrics.print(&plugin)),
                false => Answer::health(plugin.ready()),
            }
        }
    };
    status_server::serve(listener, answer, stop).await;
}
