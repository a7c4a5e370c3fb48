//! How snapshots are taken.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::crypto::Suite;
#[cfg(feature = "cli")]
use crate::format::parse_tag;
use crate::format::{ClusterName, KeyId};

/// zstd levels.
#[cfg(feature = "cli")]
const LEVELS: std::ops::RangeInclusive<i64> = -7..=19;
/// MiB that may wait for the store.
#[cfg(feature = "cli")]
const READ_AHEAD: std::ops::RangeInclusive<i64> = 4..=65536;

/// How to take a snapshot. [`Default`] is what measured best.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct BackupOptions {
    /// The owner's name for the etcd cluster.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub cluster: ClusterName,
    /// zstd level, -7 to 19
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "backup.level",
            long = "level",
            value_name = "LEVEL",
            env = "STRONGROOM_LEVEL",
            allow_negative_numbers = true,
            value_parser = clap::value_parser!(i32).range(LEVELS),
            default_value_t = BackupOptions::default().level
        )
    )]
    pub level: i32,
    /// aes-256-gcm or chacha20-poly1305 [default: what this CPU does best]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "backup.suite",
            long = "suite",
            value_name = "NAME",
            env = "STRONGROOM_SUITE",
            default_value_t = BackupOptions::default().suite,
            hide_default_value = true
        )
    )]
    pub suite: Suite,
    /// MiB of compressed frames that may wait for the store; while they last, etcd never waits for it
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "backup.read_ahead",
            long = "read-ahead",
            value_name = "MIB",
            env = "STRONGROOM_READ_AHEAD",
            value_parser = clap::value_parser!(u32).range(READ_AHEAD),
            default_value_t = BackupOptions::default().read_ahead
        )
    )]
    pub read_ahead: u32,
    /// Ask every member for its HashKV afterwards, so that members which differ show, and `verify` has something
    /// to compare with. Each reads all its data for that, one after the other.
    #[cfg_attr(feature = "cli", arg(skip = true))]
    pub compare_members: bool,
    /// Store this file or directory too, encrypted: keys, certificates, tokens. Repeat for several
    #[cfg_attr(feature = "cli", arg(id = "backup.include", long = "include", value_name = "PATH"))]
    pub include: Vec<PathBuf>,
    /// Tag the snapshot with this word, for `snapshots --tag` and `prune --keep-tag`; it is stored unencrypted. Repeat for
    /// several
    #[cfg_attr(
        feature = "cli",
        arg(id = "backup.tags", long = "tag", value_name = "TAG", value_parser = parse_tag)
    )]
    pub tags: Vec<String>,
    /// The recovery key to which the snapshots are sealed later, elsewhere: no warning then that only one key seals.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub recovery: Option<KeyId>,
    /// Seal to public keys alone although no signing key is configured: nothing then shows that the snapshot is genuine
    #[cfg_attr(
        feature = "cli",
        arg(id = "backup.unsigned", long = "unsigned", env = "STRONGROOM_UNSIGNED")
    )]
    pub unsigned: bool,
    /// When the database was taken, of a file that lay somewhere before. Otherwise it is now.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub taken: Option<SystemTime>,
}

impl BackupOptions {
    /// The moment that the snapshot is of.
    pub(crate) fn moment(&self) -> SystemTime {
        self.taken.unwrap_or_else(SystemTime::now)
    }
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            cluster: ClusterName::default(),
            level: 1,
            suite: Suite::preferred(),
            read_ahead: 32,
            compare_members: true,
            include: Vec::new(),
            tags: Vec::new(),
            recovery: None,
            unsigned: false,
            taken: None,
        }
    }
}
