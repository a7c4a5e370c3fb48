//! The label that all metrics have.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::gauge::Gauge;

use super::AgentSettings;

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Cluster {
    cluster: String,
}

/// Of which cluster an agent's metrics are.
pub(super) fn of(options: &AgentSettings) -> Cluster {
    Cluster { cluster: options.cluster().to_string() }
}

/// A number that is not whole.
pub(super) type Float = Gauge<f64, AtomicU64>;
