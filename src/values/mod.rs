//! Encryption of single etcd values, done by whoever reads and writes them (SPEC.md §10).
//!
//! [`ValueCipher`] seals and opens values, purely and synchronously; [`keyring`] makes, changes and seals the
//! [`ValueKeyring`](crate::format::ValueKeyring) that it works with.
//!
//! ```
//! use strongroom::crypto::system_rng;
//! use strongroom::keys::{Keyring, KeySet};
//! use strongroom::values::{ValueCipher, keyring};
//!
//! # fn main() -> strongroom::Result<()> {
//! // The master keys: from a keyring file in earnest.
//! let mut masters = KeySet::new();
//! let now = "2026-01-31T12:00:00Z".parse()?;
//! masters.add_keyring(&Keyring::generate(now, &mut system_rng())?, now);
//!
//! // The value keys, once for all programs that share values; `record` is kept wherever they can read it.
//! let keys = keyring::generate(now, &mut system_rng());
//! let record = keyring::seal_at_once(&keys, &masters, &mut system_rng())?;
//!
//! let cipher = ValueCipher::new(&keyring::open_at_once(&record, &masters)?)?;
//! let sealed = cipher.seal(b"/app/password", b"hunter2")?;
//! assert_eq!(cipher.open(b"/app/password", &sealed)?, b"hunter2");
//! assert!(cipher.open(b"/app/greeting", &sealed).is_err());
//! # Ok(())
//! # }
//! ```
//!
//! What it does not hide: the keys' names, the sizes of values, when they change, and that a value was put back to
//! an older one of the same key.

mod cipher;
#[cfg(feature = "client")]
mod follow;
pub mod keyring;
#[cfg(feature = "client")]
mod migrate;
#[cfg(feature = "client")]
mod namespace;
#[cfg(feature = "client")]
mod pages;
#[cfg(feature = "client")]
mod record;
#[cfg(feature = "client")]
mod shim;
#[cfg(feature = "client")]
mod transfer;

pub use cipher::ValueCipher;
#[cfg(feature = "client")]
pub use follow::SETTLE;
#[cfg(feature = "client")]
pub use migrate::{Migrated, Survey};
#[cfg(feature = "client")]
pub use namespace::{DEFAULT_PREFIX, Namespace, ValueKeyInfo};
#[cfg(all(feature = "client", any(test, feature = "internals")))]
#[doc(hidden)]
pub use shim::fuzzing;
#[cfg(feature = "proxy")]
pub(crate) use shim::{
    About, Answer, Budget, Failure, Frames, Judge, Method, Needs, PASSED_ON, Parsed, Room, Shape,
    Touched, compressed, granted, lease_keys, revision_of, text_of, time_to_live, with_client_urls,
};
#[cfg(feature = "client")]
pub use shim::{Scope, Shim, Unreadable, error_kind};
