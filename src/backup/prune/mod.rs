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
pub use period::Period;
pub(super) use plan::plan_removal_advising;
pub use plan::{plan_prune, plan_removal};
pub use planned::{Keeping, PrunePlan, Removal};
pub use policy::{Retention, Within};
pub use quarantine::{QUARANTINE, Suspect, plan_quarantine, remove_failing_seals, suspects};
