//! What keeps a repository in order: `copy`, `prune`.

use clap::Args;
use strongroom::backup::{CopySettings, Retention};
use strongroom::format::SnapshotId;
use strongroom::values::DEFAULT_PREFIX;

/// `prune`
#[derive(Args)]
#[group(id = "instead", multiple = false, args = ["remove", "undo", "pin", "unpin", "quarantine"])]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) keep: Retention,
    /// Print the plan, and do nothing
    #[arg(long, conflicts_with_all = ["undo", "pin", "unpin"])]
    pub(crate) dry_run: bool,
    /// Also remove the newest snapshot of a cluster if no rule keeps any
    #[arg(long, conflicts_with_all = ["undo", "pin", "unpin"])]
    pub(crate) allow_empty: bool,
    /// Remove this snapshot or journal, whatever the rules say; its full id. Repeat for several
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) remove: Vec<SnapshotId>,
    /// Bring back a removed snapshot or journal whose objects are not deleted yet, and pin it
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) undo: Option<SnapshotId>,
    /// Keep this snapshot or journal, whatever the rules say
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) pin: Option<SnapshotId>,
    /// List the folders that no key authenticates; with full ids, remove these, for good after 30 days
    #[arg(long, value_name = "ID", num_args = 0.., help_heading = "Instead of the rules")]
    pub(crate) quarantine: Option<Vec<SnapshotId>>,
    /// With --quarantine ID: delete the seals of a good snapshot that fail, and nothing else
    #[arg(
        long,
        requires = "quarantine",
        conflicts_with = "dry_run",
        help_heading = "Instead of the rules"
    )]
    pub(crate) seals: bool,
    /// Let the rules decide about this snapshot or journal again
    #[arg(long, value_name = "ID", help_heading = "Instead of the rules")]
    pub(crate) unpin: Option<SnapshotId>,
}

/// `copy`
#[derive(Args)]
pub(crate) struct CopyArgs {
    /// Snapshots to copy [default: all, or those of --cluster]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) copy: CopySettings,
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
    #[arg(
        id = "values.reserved_prefix",
        long = "reserved-prefix",
        value_name = "PREFIX",
        env = "STRONGROOM_RESERVED_PREFIX",
        default_value = DEFAULT_PREFIX
    )]
    pub(crate) reserved_prefix: String,
}
