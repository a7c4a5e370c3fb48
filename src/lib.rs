//! Encryption at rest and disaster recovery for etcd.
//!
//! A snapshot of etcd is streamed, cut into frames, compressed, encrypted under a data key of its own and
//! uploaded, with no plaintext on disk; the data key is sealed by one or more master keys. A restore verifies
//! every byte before it gives the file its name. `src/format/SPEC.md` specifies the bytes.
//!
//! The [`guide`] explains how to operate, restore and migrate, and what is protected.
//!
//! The modules are in layers and import only from below: [`crypto`], [`mod@format`] and [`bolt`] are pure; [`mvcc`]
//! and [`keys`] use them; [`envelope`], [`store`] and [`etcd`] add files, network and storage; [`backup`] has the jobs.
//! [`kms_plugin`] encrypts for Kubernetes, [`values`] encrypts single values, [`proxy`] serves etcd's API with them, [`audit_log`] records who asked, and
//! [`agent`] runs the jobs on a schedule.
//!
//! # Start here
//!
//! | to | use |
//! |---|---|
//! | take, verify and restore snapshots | [`backup`], with keys from [`custody`] and a [`store`]'s repository |
//! | look inside a snapshot | [`backup::look_inside`], then [`contents`] |
//! | encrypt single values yourself | [`values::ValueCipher`]: no etcd, no runtime |
//! | use etcd with encrypted values | [`values::Shim`] |
//! | run a service | [`agent`], [`proxy`], [`kms_plugin`] |
//!
//! | feature | adds |
//! |---|---|
//! | `cli` (default) | the program, with `agent`, `backup`, `kms-plugin`, `kms-v2`, `posture` and `proxy` |
//! | `backup` | [`backup`], [`contents`], [`store`], [`task`]; needs protoc at build time, as do all that talk to etcd |
//! | `s3`, `gcs`, `azure` (default) | repositories in S3, Google Cloud Storage, Azure Blob: URLs `s3://`, `gs://`, `az://` |
//! | `agent` | [`agent`] |
//! | `values` | [`values::ValueCipher`] |
//! | `client` | [`values::Shim`] and the value keyring in etcd |
//! | `proxy` | [`proxy`] |
//! | `kms-plugin` | [`kms_plugin`] |
//! | `kms-v2`, `vault`, `pkcs11`, `aws-kms` | master keys that a service keeps |
//! | `age-plugins` | keys of age's plugins |
//! | `audit-log` | [`audit_log`] |
//! | `posture` | [`posture`]: checks how a cluster is set up |
//! | `etcd` | [`etcd`] alone |
//! | `internals` | parsers for fuzz targets; not part of the API |
//!
//! Types of the crate `etcd_client` are in this API; it is re-exported as [`etcd_client`], in the version used here.
//!
//! # Take a snapshot
//!
//! ```no_run
//! use strongroom::backup::{self, BackupOptions, Source};
//! use strongroom::task::Control;
//! use strongroom::{custody, etcd::EtcdSettings, store};
//!
//! # async fn example() -> strongroom::Result<()> {
//! let url = "s3://bucket/prefix".parse()?;
//! let connected = store::connect(&url, &Default::default())?;
//! let repository = store::Repository::open(connected.store, None).await?;
//!
//! let keyring = "file:/etc/strongroom/keyring".parse()?;
//! let keys = custody::open(&[keyring], None).await?;
//!
//! let endpoints = vec!["https://10.0.0.1:2379".into()];
//! let source = Source::Etcd(EtcdSettings { endpoints, ..EtcdSettings::default() });
//! let (options, control) = (BackupOptions::default(), Control::default());
//! let taken = backup::backup(&repository, &keys, source, &options, &control).await?;
//! println!("{} holds revision {}", taken.id, taken.revision);
//! # Ok(())
//! # }
//! ```
//!
//! A program that has a client of etcd gives that: [`backup::Source::Client`].
//!
//! # Restore one
//!
//! ```no_run
//! use strongroom::backup::{self, Target};
//! use strongroom::{keys::KeySet, store::Repository, task::Control};
//!
//! # async fn example(repository: &Repository, keys: &KeySet) -> strongroom::Result<()> {
//! let listing = backup::snapshots(repository, None).await?;
//! let (newest, _) = backup::latest(repository, keys, &listing, None).await?;
//!
//! let target = Target::File { path: "etcd.db".into(), force: false, revision: None, allow_untested: false };
//! let restored = backup::restore(repository, keys, newest, target, &Control::default()).await?;
//! println!("revision {}", restored.revision);
//! # Ok(())
//! # }
//! ```
//!
//! # Encrypt the values of a program
//!
//! A client with the calls and types of `etcd_client`, whose values are encrypted before they reach etcd.
//! [`values::ValueCipher`] alone needs neither etcd nor a runtime:
//!
//! ```no_run
//! use std::sync::Arc;
//! use strongroom::{custody, etcd::EtcdSettings};
//! use strongroom::values::{DEFAULT_PREFIX, Namespace, Scope, Shim};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let keyring = "file:/etc/strongroom/values-keyring".parse()?;
//! let masters = custody::open(&[keyring], None).await?;
//!
//! let etcd = EtcdSettings { endpoints: vec!["http://10.0.0.1:2379".into()], ..EtcdSettings::default() };
//! let prefix = DEFAULT_PREFIX.as_bytes();
//! let namespace = Namespace::open(etcd.connect().await?, prefix, Arc::new(masters)).await?;
//!
//! let shim = Shim::new(etcd.balanced()?, namespace, Scope::default());
//! let mut client = shim.client(None).await?;
//! client.put("/app/password", "hunter2", None).await?;
//! assert_eq!(client.get("/app/password", None).await?.kvs()[0].value(), b"hunter2");
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "audit-log")]
pub mod audit_log;
#[cfg(feature = "backup")]
pub mod backup;
pub mod bolt;
#[cfg(feature = "backup")]
mod compress;
#[cfg(feature = "backup")]
pub mod contents;
pub mod crypto;
pub mod custody;
#[cfg(feature = "backup")]
pub mod datadir;
pub mod envelope;
pub mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod format;
pub mod guide;
#[cfg(feature = "backup")]
mod journal;
pub mod keys;
#[cfg(any(feature = "kms-plugin", feature = "kms-v2"))]
mod kms_api;
#[cfg(feature = "kms-plugin")]
pub mod kms_plugin;
#[cfg(any(feature = "agent", feature = "client", feature = "kms-plugin"))]
mod limit;
pub mod mvcc;
#[cfg(feature = "posture")]
pub mod posture;
mod protobuf;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod secret;
#[cfg(any(feature = "backup", feature = "client", feature = "kms-plugin"))]
pub mod settings;
#[cfg(feature = "backup")]
mod snapshot;
#[cfg(any(feature = "agent", feature = "kms-plugin", feature = "proxy"))]
mod status_server;
#[cfg(feature = "backup")]
pub mod store;
#[cfg(feature = "backup")]
pub mod task;
pub mod text;
#[cfg(feature = "values")]
pub mod values;

pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "etcd")]
pub use etcd_client;
