//! What commands and services are set to do.
//!
//! A subject's settings are next to it ([`EtcdSettings`](crate::etcd::EtcdSettings),
//! [`BackupOptions`](crate::backup::BackupOptions) and so on). Here are those of the services, which are made of them; what
//! opens a repository, keys and etcd as they say; and the configuration file.

#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "backup")]
mod common;
#[cfg(feature = "backup")]
mod credentials;
#[cfg(feature = "cli")]
mod file;
#[cfg(feature = "kms-plugin")]
mod kms_plugin;
#[cfg(feature = "proxy")]
mod proxy;
#[cfg(feature = "agent")]
mod schedule;
#[cfg(feature = "backup")]
mod trust;
#[cfg(feature = "client")]
mod values;

#[cfg(feature = "agent")]
pub use agent::{AgentSettings, Schedules};
#[cfg(feature = "backup")]
pub use common::{CommonSettings, Opened, check_user, open_etcd, retiring};
#[cfg(feature = "cli")]
pub use file::{Entry, File, Shape};
#[cfg(feature = "kms-plugin")]
pub use kms_plugin::KmsPluginSettings;
#[cfg(feature = "proxy")]
pub use proxy::{AccessRule, ProxySettings};
#[cfg(feature = "agent")]
pub use schedule::Schedule;
#[cfg(feature = "backup")]
pub use trust::TrustSettings;
#[cfg(feature = "client")]
pub use values::{ValueKeys, ValueSettings};

/// How a service writes its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum LogFormat {
    /// 2026-11-25T10:00:00Z INFO backup_finished cluster="prod"
    #[default]
    Text,
    /// {"time":…,"level":"info","event":"backup_finished","cluster":"prod"}
    Json,
}
