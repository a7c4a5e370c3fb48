//! Snapshots that some keys could not seal, and that are sealed to them once their services are back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

use super::Places;
use crate::format::KeyId;
use crate::snapshot::late::LateSeal;

/// A snapshot to add seals to, and with what.
pub(super) struct Late {
    pub(super) seal: LateSeal,
    pub(super) places: Places,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    cluster: String,
    key: String,
}

/// Which keys the newest snapshot of this agent does not open with.
#[derive(Clone, Default)]
pub(super) struct Missing {
    pub(super) family: Family<Labels, Gauge>,
    backups: Arc<AtomicU64>,
}

impl Missing {
    /// Takes note of a backup, of the keys that `sealed` it, and of those that could not.
    pub(super) fn taken(
        &self,
        cluster: &str,
        sealed: &[KeyId],
        missing: &[KeyId],
        late: Option<Late>,
    ) {
        let backup = self.backups.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.family.clear();
        self.set(cluster, sealed, 0);
        self.set(cluster, missing, 1);
        if let Some(late) = late {
            tokio::spawn(self.clone().follow(late, backup, cluster.to_owned(), missing.to_vec()));
        }
    }

    fn set(&self, cluster: &str, keys: &[KeyId], missing: i64) {
        for key in keys {
            let labels = Labels { cluster: cluster.to_owned(), key: key.to_string() };
            self.family.get_or_create(&labels).set(missing);
        }
    }

    async fn follow(self, late: Late, backup: u64, cluster: String, missing: Vec<KeyId>) {
        let Late { seal, places } = late;
        let snapshot = seal.id();
        match seal.keep_trying(&places.repository, &places.keys).await {
            Ok(()) => {
                // A later backup tells of itself.
                if self.backups.load(Ordering::Relaxed) == backup {
                    self.set(&cluster, &missing, 0);
                }
                info!(event = "seals_added", %snapshot);
            }
            Err(error) => warn!(
                event = "seals_still_missing",
                %snapshot,
                error = %error,
                kind = error.kind().name(),
                hint = "`strongroom key reseal` adds them, where another key opens"
            ),
        }
    }
}
