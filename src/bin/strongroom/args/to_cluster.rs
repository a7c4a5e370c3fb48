//! `restore --to-cluster`

use std::ffi::OsString;
use std::num::NonZeroU32;

use clap::{Args, ValueEnum};
use strongroom::backup::Leases;

/// Keys of a snapshot back into a running etcd.
#[derive(Args)]
#[command(next_help_heading = "To a running etcd, key by key")]
pub(crate) struct ToClusterArgs {
    /// Write keys to the etcd of --endpoints, each only if no other client changed it in between
    #[arg(
        long,
        requires = "wanted_keys",
        conflicts_with_all = [
            "output", "companions_to", "data_dir", "from_manifest", "wal_dir", "name", "initial_cluster",
            "initial_cluster_token", "initial_advertise_peer_urls", "bump_revision", "without_auth", "owner",
        ]
    )]
    pub(crate) to_cluster: bool,
    /// This one key; the complete key
    #[arg(long, value_name = "KEY", requires = "to_cluster", group = "wanted_keys")]
    pub(crate) only: Option<OsString>,
    /// All keys with this prefix
    #[arg(long, value_name = "P", requires = "to_cluster", group = "wanted_keys")]
    pub(crate) prefix: Option<OsString>,
    /// Write them with this prefix instead of --prefix
    #[arg(long, value_name = "Q", requires = "prefix", conflicts_with = "only")]
    pub(crate) to_prefix: Option<OsString>,
    /// Also delete the keys with the prefix that the snapshot does not have
    #[arg(long, requires = "prefix", conflicts_with = "only")]
    pub(crate) delete: bool,
    /// What becomes of keys that had a lease [default: new]
    #[arg(long, value_name = "HOW", requires = "to_cluster")]
    pub(crate) leases: Option<LeasesArg>,
    /// At most so many changes a second [default: 200]
    #[arg(long, value_name = "N", requires = "to_cluster")]
    pub(crate) rate: Option<NonZeroU32>,
}

/// `--leases`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeasesArg {
    /// Attach them to new leases with the original TTL, so that they still expire
    New,
    /// Attach them to the leases they had; etcd refuses those whose lease is gone
    Keep,
    /// Write them without: they never expire
    Drop,
}

impl From<LeasesArg> for Leases {
    fn from(arg: LeasesArg) -> Self {
        match arg {
            LeasesArg::New => Self::New,
            LeasesArg::Keep => Self::Keep,
            LeasesArg::Drop => Self::Drop,
        }
    }
}
