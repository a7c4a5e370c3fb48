//! Removing snapshots that nobody needs any more: a plan that can be printed, then exactly that (SPEC.md §3.3).

mod apply;
mod plan;
mod policy;
mod proved;
mod repack;

pub use apply::{PruneReport, apply_prune, prune_report};
pub use plan::{Keeping, PrunePlan, Removal, plan_prune};
pub use policy::Retention;
pub use repack::{RepackReport, repack};
