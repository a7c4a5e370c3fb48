//! The guide: how to operate, restore, and trust strongroom.
//!
//! - [`operations`]: settings, agent, retention, storage, monitoring, and what to do when an alert fires
//! - [`restore`]: every way to restore, and the runbooks
//! - [`values`]: encrypt the values in etcd, migrate, serve
//! - [`keys`]: custody, rotation, a stolen or lost key, the threat model
//! - [`kubernetes`]: Secrets that the API server encrypts with a keyring
//! - [`mod@format`]: how a snapshot is stored, and how to open one without strongroom
//! - [`audit`]: how a cluster is set up, checked by measurement
//! - [`upgrade`]: whether etcd can be upgraded, the rehearsal, the plan, and the way back
//! - [`benchmarks`]: figures, how they were measured, comparison with other tools
//! - [`contributing`]: checks, tests, Rust version policy
//!
//! The same pages are in `src/guide/`, to be read beside the code.

/// Where links between pages go in this documentation. The first definition of a link counts, so these replace the file
/// names at the end of a page.
macro_rules! links {
    () => {
        "[operations]: crate::guide::operations\n\
         [kubernetes]: crate::guide::kubernetes\n\
         [keys]: crate::guide::keys\n\
         [values]: crate::guide::values\n\
         [audit]: crate::guide::audit\n\
         [upgrade]: crate::guide::upgrade\n\
         [SPEC.md]: mod@crate::format\n\n"
    };
}

#[doc = links!()]
#[doc = include_str!("audit.md")]
pub mod audit {}

#[doc = links!()]
#[doc = include_str!("benchmarks.md")]
pub mod benchmarks {}

#[doc = links!()]
#[doc = include_str!("contributing.md")]
pub mod contributing {}

#[doc = links!()]
#[doc = include_str!("format.md")]
pub mod format {}

#[doc = links!()]
#[doc = include_str!("keys.md")]
pub mod keys {}

#[doc = links!()]
#[doc = include_str!("kubernetes.md")]
pub mod kubernetes {}

#[doc = links!()]
#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = links!()]
#[doc = include_str!("restore.md")]
pub mod restore {}

#[doc = links!()]
#[doc = include_str!("upgrade.md")]
pub mod upgrade {}

#[doc = links!()]
#[doc = include_str!("values.md")]
pub mod values {}
