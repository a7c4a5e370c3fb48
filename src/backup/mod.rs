//! The jobs: back up, list, verify, drill, restore (whole or by key), re-seal, prune, copy.

mod catalog;
mod chain;
mod choose;
mod companions;
mod continuous;
mod copy;
mod create;
mod deep;
mod drill;
mod earlier;
mod findings;
mod key_usage;
mod live;
mod member;
mod proofs;
mod prove;
mod prune;
mod recipients;
mod reencrypt;
mod rehearse;
mod removable;
mod reports;
mod reseal;
mod restore;
mod rewrite;
mod show;
mod to_cluster;
mod verify;

#[cfg(feature = "internals")]
#[doc(hidden)]
pub use crate::journal::generated::{Generated, Written as GeneratedReport, generate};
pub use crate::journal::options::RecordOptions;
pub use crate::snapshot::companions::MAX_COMPANIONS;
#[cfg(feature = "agent")]
pub(crate) use crate::snapshot::folder::is_ahead;
pub use crate::snapshot::grace::{GRACE, LONGEST_BACKUP};
pub use crate::snapshot::input::Source;
pub use crate::snapshot::inside::{Frames, Inside, View, look_inside};
pub use crate::snapshot::options::BackupOptions;
pub use catalog::{Listing, Scope, Summary, authenticate, cluster_of, judged, snapshots};
pub use choose::{latest, newest_by_retiring, select};
pub use companions::restore_companions;
pub use continuous::{
    Covered, Gap, JournalSummary, KnownStretch, Moment, RecordReport, Recorded, Stretch,
    StretchOutcome, Stretches, VerifiedStretch, bundle_journals, journals, known_stretches,
    plan_restore, record, stretches, stretches_report, verify_journals, verify_stretches,
};
#[cfg(feature = "agent")]
pub(crate) use continuous::{RecordJob, SnapshotWanted, Snapshots, Taken, Why};
pub use copy::{CopyReport, CopySettings, JournalsCopied, copy, open_replica};
#[cfg(feature = "agent")]
pub(crate) use create::backup_and_keep;
pub use create::{BackupReport, JournalComparison, ONE_KEY, SealMissing, backup};
pub use deep::{Deep, HashCheck};
pub use drill::{DrillOptions, DrillReport, drill, drill_version, exec_guarded};
pub use key_usage::{KeyUsage, Newest, key_usage};
pub use live::{LiveContents, read_live};
pub use member::{
    KUBERNETES_BUMP, MemberOptions, MemberReport, restore_member, restore_recorded_member,
};
pub use proofs::{Proof, Proofs, UNPROVEN, proofs};
pub use prove::{Proved, prove};
pub use prune::{
    JournalPlan, JournalRemoval, Keeping, Period, PrunePlan, PruneReport, QUARANTINE, Removal,
    Retention, Suspect, Within, apply_prune, pin, plan_prune, plan_quarantine, plan_removal,
    prune_report, remove_failing_seals, suspects, undo_removal, unpin,
};
pub use recipients::new_recipients;
pub use reencrypt::{ReencryptReport, Reencryption, reencrypt};
pub use rehearse::{Destination, Rehearsal, rehearse};
pub use removable::check_removable;
pub use reports::{
    ListedReport, Reports, newest_reports, proves_bytes, report, reports, store_report,
};
pub use reseal::{Accept, ResealReport, Untrusted, reseal, vouch};
pub use restore::{RestoreReport, Target, restore, restore_recorded};
pub use show::{Details, show};
pub use to_cluster::{
    Action, Applied, DEFAULT_RATE, Leases, Plan, Planned, Refused, Wanted, WantedKeys, apply_plan,
    plan_to_cluster,
};
pub use verify::{Verified, VerifyLevel, VerifyReport, verify};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Control;

    fn is_send<T: Send>(_: &T) {}

    /// Callers spawn these.
    #[expect(dead_code, reason = "it only has to compile")]
    fn jobs_are_send(repository: &crate::store::Repository, keys: &crate::keys::KeySet) {
        let (control, id) = (Control::default(), crate::format::SnapshotId(0));
        let source = Source::File("db".into());
        is_send(&backup(repository, keys, source, &BackupOptions::default(), &control));
        is_send(&restore(
            repository,
            keys,
            id,
            Target::Stream(Box::new(std::io::sink())),
            &control,
        ));
        is_send(&verify(repository, keys, Scope::All, VerifyLevel::Full, &control));
        let choose = async |choice: &crate::etcd::Choice, plan: &Plan, wanted: &Wanted| {
            is_send(&plan_to_cluster(repository, keys, id, wanted, choice, &control));
            is_send(&apply_plan(repository, keys, plan, choice, DEFAULT_RATE, &control));
        };
        let _ = choose;
        let retention = Retention::default();
        is_send(&plan_prune(repository, keys, &retention, None, &control));
        is_send(&latest(repository, keys, &Listing::default(), None));
        is_send(&judged(repository, keys, None));
        is_send(&suspects(repository, keys, &control));
        is_send(&plan_quarantine(repository, keys, &[id], &control));
        is_send(&remove_failing_seals(repository, keys, id, &control));
        is_send(&check_removable(repository, keys, crate::format::KeyId([0; 16]), false));
        is_send(&copy(repository, repository, keys, Scope::All, &control));
        is_send(&apply_prune(repository, &PrunePlan::default(), &control));
        is_send(&reseal(repository, keys, Scope::All, &[], Accept::Counting, &control));
    }
}
