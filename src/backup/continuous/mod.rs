//! Journals and snapshots together: recording without a gap, coverage, and restores to any recorded revision or moment.

mod begin;
mod coverage;
mod join;
mod moments;
mod plan;
mod record;
mod reseal;

pub(super) use coverage::last;
pub use coverage::{Covered, Gap, JournalSummary, journals, verify_journals};
pub use plan::{Moment, Recorded, plan_restore};
#[cfg(feature = "agent")]
pub(crate) use record::{RecordJob, SnapshotWanted, Snapshots, Taken, Why};
pub use record::{RecordReport, record};
pub(super) use reseal::{
    JournalJob, lost_without, reseal as reseal_journals, seals as journal_seals,
};
