//! How changes are recorded.

use std::path::PathBuf;
use std::time::Duration;

use super::spool;
use crate::error::Result;
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
    /// Store the changes this often, 1s to 1m; a disaster loses this much and what the store has not taken yet
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
    /// Keep what the store does not take in this directory, encrypted; without one it waits in memory
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "journal.spool",
            long = "spool",
            value_name = "DIR",
            env = "STRONGROOM_JOURNAL_SPOOL"
        )
    )]
    pub spool: Option<PathBuf>,
    /// MiB that the spool may hold
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "journal.spool_max",
            long = "spool-max",
            value_name = "MIB",
            env = "STRONGROOM_JOURNAL_SPOOL_MAX",
            default_value_t = SPOOL_MAX
        )
    )]
    pub spool_max: u64,
    /// Store the same in the second repository at once, as far as it takes it; `copy` brings what it misses
    #[cfg_attr(
        feature = "cli",
        arg(id = "copy.continuous", long = "copy-continuous", env = "STRONGROOM_COPY_CONTINUOUS")
    )]
    pub copies: bool,
}

/// How much a spool may hold unless told otherwise, in MiB.
const SPOOL_MAX: u64 = 1024;

impl RecordOptions {
    /// Of `cluster`, a segment each `interval`.
    #[must_use]
    pub fn new(cluster: ClusterName, interval: Duration) -> Self {
        Self { cluster, interval, spool: None, spool_max: SPOOL_MAX, copies: false }
    }

    /// Checks that the spool is there or can be created. Nothing is created: the user that checks settings may be another one
    /// than the one that records.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when others may write to it; [`Usage`](crate::ErrorKind::Usage) when it cannot
    /// be created.
    pub fn check(&self) -> Result<()> {
        self.spool.as_deref().map_or(Ok(()), spool::check)
    }

    /// Bytes that the spool may hold.
    pub(crate) fn spool_bytes(&self) -> u64 {
        self.spool_max.saturating_mul(1 << 20)
    }
}

#[cfg(feature = "cli")]
fn interval(text: &str) -> std::result::Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if INTERVALS.contains(&interval) { Ok(interval) } else { Err("give 1s to 1m".into()) }
}
