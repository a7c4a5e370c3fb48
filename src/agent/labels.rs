//! The label that all metrics have.

use prometheus_client::encoding::EncodeLabelSet;

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
