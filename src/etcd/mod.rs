//! Talks to etcd: finds the member to back up, streams its database and checks the stream.
//!
//! [`choose_member`] asks every endpoint how it is, [`Choice::snapshot`] opens the stream of the
//! best one, and [`SnapshotStream`] hands out its bytes while [`protocol`] checks them.

mod auth;
mod balance;
#[cfg(feature = "backup")]
pub(crate) mod changes;
mod choose;
mod compare;
mod connect;
mod dial;
#[cfg(feature = "proxy")]
mod direct;
mod failure;
#[cfg(feature = "proxy")]
mod gather;
mod keys;
#[cfg(feature = "proxy")]
mod page;
mod probe;
pub mod protocol;
#[cfg(feature = "backup")]
pub(crate) mod seen;
mod settings;
mod stream;
mod trust;
#[cfg(feature = "backup")]
pub(crate) mod watch;
#[cfg(feature = "backup")]
mod write;

pub use auth::{AuthFor, AuthPlan};
#[cfg(feature = "backup")]
pub(crate) use choose::member_of;
pub use choose::{Choice, Rejected, choose_member};
pub use compare::{Comparison, MemberHash};
#[cfg(any(feature = "client", feature = "posture"))]
pub(crate) use failure::chain;
#[cfg(any(feature = "agent", feature = "client", feature = "posture"))]
pub(crate) use failure::from_client;
#[cfg(feature = "proxy")]
pub(crate) use failure::key_mismatch;
#[cfg(feature = "proxy")]
pub(crate) use gather::{Gathered, gathered};
#[cfg(feature = "client")]
pub(crate) use keys::Pages;
pub use probe::Member;
#[cfg(feature = "proxy")]
pub(crate) use probe::check_version;
pub use settings::EtcdSettings;
pub use stream::SnapshotStream;
#[cfg(feature = "posture")]
pub(crate) use trust::anyone;
#[cfg(feature = "backup")]
pub(crate) use write::{Outcome, Write};
