//! Questions to a snapshot's database, one file for each: which keys, one key, its history, what differs, what takes
//! the space and what is encrypted.
//!
//! They take the database that [`look_inside`](crate::backup::look_inside) opens, or any other.

mod diff;
mod encryption;
mod get;
mod groups;
mod history;
mod keys;
mod stats;

pub use diff::{Difference, ValueDigest, diff, digest};
pub use encryption::{KeyInUse, Protection};
pub use get::get;
pub use groups::{Groups, KUBERNETES_ROOTS};
pub use history::{Change, KeyHistory, What, key_history};
pub use keys::{Contents, KeyState, Selection, read};
pub use stats::{Group, Large, Stats, stats};
