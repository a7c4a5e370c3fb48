//! Journals and snapshots together: recording without a gap, coverage, and restores to any recorded revision or moment.

mod coverage;
mod join;
mod plan;
mod record;

pub use coverage::{Covered, JournalSummary, journals, verify_journals};
pub use plan::{Moment, Recorded, plan_restore};
pub use record::{RecordReport, record};
