//! What `upgrade-check` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use strongroom::format::parse_duration;
use strongroom::posture::AuditFiles;

use super::audit::{HostArgs, OutcomeFiles};

/// `upgrade-check`
#[derive(Args)]
pub(crate) struct UpgradeArgs {
    /// The version to upgrade to: 3.5, 3.6 or 3.7, or a release of one, such as 3.6.16
    #[arg(long, value_name = "VERSION", required_unless_present = "after")]
    pub(crate) to: Option<String>,
    /// The etcd of that version: the newest snapshot is restored and served with it
    #[arg(long = "etcd", id = "target_etcd", value_name = "PROGRAM")]
    pub(crate) target_etcd: Option<PathBuf>,
    /// The etcd of the version that runs: with --etcd, the way back is rehearsed with it
    #[arg(long, value_name = "PROGRAM", default_value = "etcd")]
    pub(crate) current_etcd: PathBuf,
    /// Where the scratch directory of rehearsals is made [default: as for `drill`]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch_dir: Option<PathBuf>,
    /// Take a snapshot first, with the tag before-upgrade
    #[arg(long, conflicts_with = "after")]
    pub(crate) backup: bool,
    /// How old the newest snapshot may be
    #[arg(long, value_name = "AGE", value_parser = parse_duration, default_value = "1h")]
    pub(crate) max_age: Duration,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    pub(crate) outcome: OutcomeFiles,
    /// Keep what the upgrade must not change in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// After the upgrade: compare with the file that --save wrote before
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "save", "target_etcd"])]
    pub(crate) after: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) files: AuditFiles,
}
