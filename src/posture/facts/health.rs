//! How a member is, as its Status tells.

use etcd_client::StatusResponse;

use crate::text::clean;

/// Errors of one member that are kept.
const MAX_ERRORS: usize = 16;

/// What a member says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// The id of the leader; 0 if there is none.
    pub(crate) leader: u64,
    pub(crate) raft_index: u64,
    pub(crate) raft_applied: u64,
    pub(crate) revision: i64,
    pub(crate) errors: Vec<String>,
    /// Size of the database, and of the part that is in use.
    pub(crate) size: u64,
    pub(crate) in_use: u64,
    /// The limit of its size: from etcd 3.6 on.
    pub(crate) quota: Option<u64>,
    /// The version of what is stored: from etcd 3.6 on.
    pub(crate) storage: Option<String>,
    /// The version that a downgrade under way leads to.
    pub(crate) downgrade: Option<String>,
}

impl Health {
    pub(super) fn of(status: &StatusResponse) -> Self {
        let size = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
        let storage = clean(status.storage_version());
        let downgrade = status.downgrade_info().filter(|info| info.enabled());
        Self {
            leader: status.leader(),
            raft_index: status.raft_index(),
            raft_applied: status.raft_applied_index(),
            revision: status.header().map_or(0, |header| header.revision()),
            errors: status.errors().iter().take(MAX_ERRORS).map(|error| clean(error)).collect(),
            size: size(status.db_size()),
            in_use: size(status.raft_used_db_size()),
            quota: Some(size(status.db_size_quota())).filter(|quota| *quota > 0),
            storage: Some(storage).filter(|storage| !storage.is_empty()),
            downgrade: downgrade.map(|info| clean(info.target_version())),
        }
    }
}

/// The value of a metric without labels, such as `etcd_server_quota_backend_bytes 2.147483648e+09`.
pub(super) fn gauge(metrics: &str, name: &str) -> Option<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let value = value.trim().parse::<f64>().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric() {
        let text = "# TYPE etcd_a gauge\netcd_a_b 1\netcd_a 2.147483648e+09\netcd_c NaN\n";
        assert_eq!(gauge(text, "etcd_a"), Some(2 << 30));
        assert_eq!((gauge(text, "etcd_c"), gauge(text, "etcd_d")), (None, None));
    }
}
