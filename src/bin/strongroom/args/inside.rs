//! What the commands that look inside a snapshot take.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use clap::Args;
use strongroom::settings::ValueSettings;

use super::{Which, moment};

/// Parts of a key that can make a group.
const DEPTHS: RangeInclusive<i64> = 1..=16;

/// Which of the recorded revisions.
#[derive(Args)]
pub(crate) struct At {
    /// As of this revision, of the snapshot or recorded after it [default: the snapshot's last]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) revision: Option<i64>,
    /// As it was at this time, such as 2026-11-26T09:12:00Z or 2h (ago), where journals were recorded
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with_all = ["revision", "before"])]
    pub(crate) time: Option<jiff::Timestamp>,
}

/// `ls`
#[derive(Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only keys with this prefix
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    pub(crate) prefix: OsString,
    #[command(flatten)]
    pub(crate) at: At,
    /// Also keys that were deleted, as far as that was not compacted away
    #[arg(long)]
    pub(crate) deleted: bool,
    /// The keys alone, one a line
    #[arg(long)]
    pub(crate) keys_only: bool,
}

/// `get`
#[derive(Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The complete key
    #[arg(id = "etcd_key", value_name = "KEY")]
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) at: At,
    /// Write the value, and nothing else, to standard output
    #[arg(long)]
    pub(crate) show_value: bool,
    /// With --show-value: write the value to a terminal too
    #[arg(long, requires = "show_value")]
    pub(crate) force: bool,
    /// With --show-value: write the value as etcd held it, without decrypting it
    #[arg(long, requires = "show_value")]
    pub(crate) as_stored: bool,
    #[command(flatten)]
    pub(crate) values: ValueSettings,
}

/// `history`
#[derive(Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The complete key
    #[arg(id = "etcd_key", value_name = "KEY")]
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) at: At,
}

/// `diff`
#[derive(Args)]
pub(crate) struct DiffArgs {
    // `rev:N` and `time:T` are recorded moments.
    #[command(flatten)]
    pub(crate) which: Which,
    /// Another snapshot or recorded moment, or live: the running etcd
    pub(crate) other: String,
    /// Only keys with this prefix
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    pub(crate) prefix: OsString,
}

/// `stats`
#[derive(Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Parts of the key that make a group; below Kubernetes' prefix the resource is the first
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(DEPTHS))]
    pub(crate) depth: u8,
    /// Where Kubernetes keeps its objects (its --etcd-prefix) [default: /registry, /kubernetes.io, /openshift.io]
    #[arg(long, value_name = "P")]
    pub(crate) kubernetes_prefix: Vec<OsString>,
}
