//! Journals and snapshots together: recording without a gap, coverage, and restores to any recorded revision or moment.

mod base;
mod before;
mod begin;
mod building;
mod bundling;
mod coverage;
mod deep;
mod histories;
mod join;
mod known;
mod moments;
mod opened;
mod plan;
mod record;
mod reseal;
mod shelf;

pub use bundling::bundle_journals;
pub use coverage::{Covered, Gap, JournalSummary, journals, verify_journals};
pub use deep::{Stretch, StretchOutcome, Stretches, VerifiedStretch, stretches, verify_stretches};
pub(super) use known::newest_checks;
pub use known::{KnownStretch, known_stretches, stretches_report};
pub use plan::{Moment, Recorded, plan_restore};
#[cfg(feature = "agent")]
pub(crate) use record::{RecordJob, SnapshotWanted, Snapshots, Taken, Why};
pub use record::{RecordReport, record};
pub(super) use reseal::{
    JournalJob, lost_without, reseal as reseal_journals, sealed_to_others, seals as journal_seals,
};
