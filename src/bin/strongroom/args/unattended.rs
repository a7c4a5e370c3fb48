//! What keeps a repository in order: `copy`, `prune`.

use clap::Args;
use serde::Deserialize;
use strongroom::backup::Retention;
use strongroom::format::SnapshotId;

use crate::duration::Span;

/// `prune`
#[derive(Args)]
#[group(id = "instead", multiple = false, args = ["remove", "undo", "pin", "unpin"])]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    /// Print the plan, and do nothing
    #[arg(long, conflicts_with_all = ["undo", "pin", "unpin"])]
    pub(crate) dry_run: bool,
    /// Remove this snapshot, whatever the rules say; its full id. Several are repeated
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) remove: Vec<SnapshotId>,
    /// Bring back a removed snapshot whose objects are not deleted yet, and pin it
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) undo: Option<SnapshotId>,
    /// Keep this snapshot, whatever the rules say
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) pin: Option<SnapshotId>,
    /// Let the rules decide about this snapshot again
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) unpin: Option<SnapshotId>,
}

/// What to keep; in the configuration file the table `prune`.
#[derive(Args, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "What to keep")]
pub(crate) struct KeepArgs {
    /// The newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// The newest of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The newest of each of the last N days that have any
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The newest of each of the last N weeks that have any
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The newest of each of the last N months that have any
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// The newest of each of the last N years that have any
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// All that are at most so much older than the newest, such as 14d
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<Span>,
    /// How long a removed snapshot can be brought back before its objects are deleted [default: 24h]
    #[arg(long, value_name = "SPAN")]
    pub(crate) grace: Option<Span>,
}

impl KeepArgs {
    pub(crate) fn retention(&self) -> Retention {
        let mut retention = Retention::default();
        retention.last = self.keep_last.unwrap_or_default();
        retention.hourly = self.keep_hourly.unwrap_or_default();
        retention.daily = self.keep_daily.unwrap_or_default();
        retention.weekly = self.keep_weekly.unwrap_or_default();
        retention.monthly = self.keep_monthly.unwrap_or_default();
        retention.yearly = self.keep_yearly.unwrap_or_default();
        retention.within = self.keep_within.map(|span| span.0);
        retention.grace = self.grace.map(|span| span.0);
        retention
    }
}

/// `copy`
#[derive(Args)]
pub(crate) struct CopyArgs {
    /// Snapshots to copy [default: all, or those of --cluster]
    pub(crate) ids: Vec<String>,
    /// The second repository; created if there is none
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// Do not test that the second store never overwrites an object
    #[arg(long)]
    pub(crate) trust_store: bool,
}

/// `setup-auth`
#[derive(Args)]
#[group(id = "what", required = true, multiple = false, args = ["print", "apply"])]
pub(crate) struct SetupAuthArgs {
    /// Print what etcdctl would have to do, and what each user may do then
    #[arg(long)]
    pub(crate) print: bool,
    /// Do it; the user given must have the role root
    #[arg(long)]
    pub(crate) apply: bool,
    /// User for backups, drills and the agent: the common name of their client certificate
    #[arg(long, value_name = "NAME", default_value = "strongroom-backup")]
    pub(crate) backup_user: String,
    /// User for the proxy and for programs that encrypt their values themselves
    #[arg(long, value_name = "NAME", default_value = "strongroom-proxy")]
    pub(crate) proxy_user: String,
    /// The proxy's --reserved-prefix
    #[arg(long, value_name = "PREFIX", default_value = "/strongroom/")]
    pub(crate) reserved_prefix: String,
}
