//! `restore`

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use nix::unistd::{Group, User};

use super::to_cluster::ToClusterArgs;
use super::{Which, moment};

/// `restore`
#[derive(Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Restore this revision: one that the snapshot holds, or that was recorded after it
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<i64>,
    /// Restore the last revision that was recorded after the snapshot
    #[arg(long, conflicts_with_all = ["revision", "to_time", "before"])]
    pub(crate) newest: bool,
    /// Restore what was recorded up to this time, such as 2026-11-26T09:12:00Z or 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with_all = ["revision", "before"])]
    pub(crate) to_time: Option<jiff::Timestamp>,
    /// Show what would be written and where, and write nothing. Room is checked for the snapshot: what was recorded after it comes on top
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also restore the files that `backup --include` stored, below this directory, which must be empty or not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) companions_to: Option<PathBuf>,

    /// File to write, or - for standard output
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present_any = ["data_dir", "from_manifest", "companions_to", "to_cluster"],
        conflicts_with_all = ["data_dir", "from_manifest"],
        help_heading = "To a file"
    )]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if it exists; with --output -, write to a terminal too
    #[arg(long, requires = "output", help_heading = "To a file")]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) member: MemberArgs,
    #[command(flatten)]
    pub(crate) cluster: ToClusterArgs,
}

/// The flags of `etcdutl snapshot restore`, and more.
#[derive(Args)]
#[command(next_help_heading = "To a member's data directory")]
pub(crate) struct MemberArgs {
    /// Directory to create: it must be empty or not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Directory for the log [default: inside the data directory]
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub(crate) wal_dir: Option<PathBuf>,
    /// Name of this member [default: default]
    #[arg(long, conflicts_with = "output")]
    pub(crate) name: Option<String>,
    /// All members of the new cluster, such as m1=https://10.0.0.1:2380,m2=… [default: this one alone]
    #[arg(long, value_name = "NAME=URL,…", conflicts_with = "output")]
    pub(crate) initial_cluster: Option<String>,
    /// Token of the new cluster, never used before [default: what snapshot, revision and members determine]
    #[arg(long, value_name = "TOKEN", conflicts_with = "output")]
    pub(crate) initial_cluster_token: Option<String>,
    /// Where the peers of this member reach it [default: what --initial-cluster says, else http://localhost:2380]
    #[arg(long, value_name = "URL,…", value_delimiter = ',', conflicts_with = "output")]
    pub(crate) initial_advertise_peer_urls: Vec<String>,
    /// Raise the revision by N; 0 turns this off [default: for Kubernetes 1000000000 and --mark-compacted, else 0]
    #[arg(long, value_name = "N", conflicts_with = "output", value_parser = clap::value_parser!(i64).range(0..1 << 60))]
    pub(crate) bump_revision: Option<i64>,
    /// Mark what is before the leap as compacted, so that every watch starts again
    #[arg(long, requires = "bump_revision")]
    pub(crate) mark_compacted: bool,
    /// Leave out etcd's users, roles and passwords: anyone may then do anything
    #[arg(long, conflicts_with = "output")]
    pub(crate) without_auth: bool,
    /// User and group of the directory
    #[arg(long, value_name = "USER[:GROUP]", conflicts_with = "output")]
    pub(crate) owner: Option<Owner>,
    /// Take name, URLs, cluster and directory from this static pod, such as kubeadm's etcd.yaml; flags go first
    #[arg(long, value_name = "FILE")]
    pub(crate) from_manifest: Option<PathBuf>,
}

/// Who is to own files: user and group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u32, pub(crate) u32);

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let found = User::from_name(user).map_err(|error| format!("user {user:?}: {error}"))?;
        let (uid, own_group) = match (user.parse(), found) {
            (_, Some(found)) => (found.uid.as_raw(), Some(found.gid.as_raw())),
            (Ok(id), None) => (id, None),
            (Err(_), None) => return Err(format!("there is no user {user:?}")),
        };
        let gid = match group {
            None => own_group.ok_or("a user id goes with a group, as in 1000:1000")?,
            Some(group) => {
                let found =
                    Group::from_name(group).map_err(|error| format!("group {group:?}: {error}"))?;
                let id = found.map(|found| found.gid.as_raw()).or(group.parse().ok());
                id.ok_or_else(|| format!("there is no group {group:?}"))?
            }
        };
        Ok(Self(uid, gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        assert_eq!("0:0".parse(), Ok(Owner(0, 0)));
        assert_eq!("root".parse(), Ok(Owner(0, 0)));
        assert_eq!("12345:0".parse(), Ok(Owner(12345, 0)));
        for bad in ["", "12345", "nobody-of-this-name", "root:", "root:no-such-group", ":0"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }
}
