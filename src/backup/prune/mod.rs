//! Removing snapshots and journals that nobody needs any more: a plan that can be printed, then exactly that (SPEC.md §3.3).

mod apply;
mod journals;
mod named;
mod period;
mod plan;
mod planned;
mod policy;
mod proved;
mod quarantine;
mod steps;

pub use apply::{PruneReport, apply_prune, pin, prune_report, undo_removal, unpin};
pub use journals::{JournalPlan, JournalRemoval};
pub use named::plan_removal;
pub(super) use named::plan_replaced;
pub use period::Period;
pub use plan::plan_prune;
pub use planned::{Keeping, PrunePlan, Removal};
pub use policy::{Retention, Within};
pub use quarantine::{QUARANTINE, Suspect, plan_quarantine, remove_failing_seals, suspects};
