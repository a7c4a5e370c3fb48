//! How changes are recorded.

use std::time::Duration;

use crate::format::ClusterName;
#[cfg(feature = "cli")]
use crate::format::parse_duration;

/// How long a segment may be.
#[cfg(feature = "cli")]
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60);

/// What is recorded, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct RecordOptions {
    /// The owner's name for the etcd cluster.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub cluster: ClusterName,
    /// Store the changes this often, 1s to 1m; a disaster loses at most this much
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "journal.interval",
            long = "interval",
            value_name = "TIME",
            env = "STRONGROOM_JOURNAL_INTERVAL",
            value_parser = interval,
            default_value = "5s"
        )
    )]
    pub interval: Duration,
}

#[cfg(feature = "cli")]
fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if INTERVALS.contains(&interval) { Ok(interval) } else { Err("give 1s to 1m".into()) }
}
