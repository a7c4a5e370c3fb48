//! What an agent does.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::found::{KeyCounts, Newest, count, last_opened, of_backup};
use super::late::Late;
use super::{AgentSettings, Places, audit::audit, open, warn};
use crate::backup::{
    DrillOptions, JournalComparison, Listing, Scope, Source, VerifyLevel, VerifyReport,
    apply_prune, authenticate, backup_and_keep, copy, drill, judged, latest, plan_prune,
    proves_bytes, prune_report, snapshots, store_report, verify,
};

use crate::crypto;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::seen::Seen;
use crate::format::{
    CheckOutcome, ClusterName, KeyId, Report, ReportCheck, ReportOutcome, ReportScope, SnapshotId,
};
use crate::keys::KeySet;
use crate::posture;
use crate::snapshot::late::LateSeal;
use crate::task::Control;

/// One kind of work, by its name in the configuration, in metrics and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A snapshot of the live etcd.
    Backup,
    /// Replication to the second repository, after each backup.
    Copy,
    /// Retention.
    Prune,
    /// The newest snapshot and one older one in turn, every byte.
    Verify,
    /// Every snapshot, every byte.
    VerifyAll,
    /// An etcd started from the newest snapshot.
    Drill,
    /// How the cluster is set up.
    Audit,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Backup,
        Self::Copy,
        Self::Prune,
        Self::Verify,
        Self::VerifyAll,
        Self::Drill,
        Self::Audit,
    ];

    /// Its name: `backup`, `copy`, `prune`, `verify`, `verify_all`, `drill` or `audit`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Copy => "copy",
            Self::Prune => "prune",
            Self::Verify => "verify",
            Self::VerifyAll => "verify_all",
            Self::Drill => "drill",
            Self::Audit => "audit",
        }
    }

    /// Which operation a report in the repository tells of. A blind host verifies digests.
    pub(super) fn of(report: &Report, blind: bool) -> Option<Self> {
        match report.kind.as_str() {
            "prune" => Some(Self::Prune),
            "drill" => Some(Self::Drill),
            "verify" if proves_bytes(report) || (blind && is_of_digests(report)) => {
                Some(match report.scope {
                    ReportScope::One => Self::Verify,
                    ReportScope::Cluster | ReportScope::Repository => Self::VerifyAll,
                })
            }
            _ => None,
        }
    }
}

fn is_of_digests(report: &Report) -> bool {
    report.level.as_deref() == Some(VerifyLevel::Digests.name())
}

/// How deep a host looks that has these keys.
fn level(keys: &KeySet) -> VerifyLevel {
    if keys.is_blind() { VerifyLevel::Digests } else { VerifyLevel::Full }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an operation came to.
pub(super) struct Done {
    /// Logs it; takes the seconds it took.
    pub(super) log: Box<dyn FnOnce(f64) + Send>,
    /// What it found wrong, although it was carried out.
    pub(super) finding: Option<Error>,
    /// What a backup found to look at.
    pub(super) warnings: Vec<String>,
    /// What comparing the snapshot with the recording showed.
    pub(super) compared: Option<JournalComparison>,
    /// What a backup took.
    pub(super) newest: Option<Newest>,
    /// The snapshots there are now, of what changes them.
    pub(super) listing: Option<Listing>,
    /// When the newest snapshot was begun that the replica has.
    pub(super) copied: Option<SystemTime>,
    /// From the first byte fetched to an etcd that answers, of a drill.
    pub(super) recovery: Option<Duration>,
    /// When a snapshot was last opened, of what may change that.
    pub(super) opened: Option<SystemTime>,
    /// What an audit found.
    pub(super) audit: Option<Box<posture::Report>>,
    /// The master keys it was done with.
    pub(super) keys: KeyCounts,
    /// Independent ways to open what a backup took.
    pub(super) independent: Option<usize>,
    /// The keys that sealed a backup, and those that could not.
    pub(super) seals: [Vec<KeyId>; 2],
    /// What adds them.
    pub(super) late: Option<Late>,
}

/// The warning that one loss takes all keys of a snapshot.
const ONE_WAY: &str = "one loss takes every key that opens the snapshots: seal them to a second key that depends on another place, \
     passphrase or service, or set keys.recovery; `strongroom key custody` shows what each key depends on";
/// Snapshots drawn in search of one that counts, so that a verification does not look at all of them.
const MOST_DRAWN: usize = 100;
/// A verification of all snapshots ends when the next one is due, but not before this time. Without an end, a slow or hostile
/// store could keep the agent from its other work.
const LEAST_FOR_ALL: Duration = Duration::from_secs(3600);
/// Log lines about one operation's warnings; the others are only counted.
const MAX_WARNINGS: usize = 10;

impl Done {
    fn new(log: impl FnOnce(f64) + Send + 'static) -> Self {
        Self {
            log: Box::new(log),
            finding: None,
            newest: None,
            compared: None,
            warnings: Vec::new(),
            listing: None,
            copied: None,
            recovery: None,
            opened: None,
            audit: None,
            keys: KeyCounts::new(),
            independent: None,
            seals: Default::default(),
            late: None,
        }
    }
}

/// Carries out `operation`.
pub(super) async fn run(
    operation: Operation,
    options: &AgentSettings,
    seen: Option<Arc<Seen>>,
    control: &Control,
) -> Result<Done> {
    let places = open(options).await?;
    let mut late = None;
    let mut done = match operation {
        Operation::Backup => take(options, &places, seen, control).await.map(|(done, seal)| {
            late = seal;
            done
        }),
        Operation::Copy => replicate(options, &places, control).await,
        Operation::Prune => remove(options, &places, control).await,
        Operation::Verify | Operation::VerifyAll => {
            prove(operation, options, &places, control).await
        }
        Operation::Drill => rehearse(options, &places, control).await,
        Operation::Audit => audit(options, &places).await.map(|(report, finding, log)| Done {
            finding,
            audit: Some(report),
            ..Done::new(log)
        }),
    }?;
    done.keys = count(&places.keys);
    if matches!(operation, Operation::Backup | Operation::Prune) {
        let Places { repository, keys } = &places;
        done.listing = judged(repository, keys, Some(options.cluster())).await.ok();
    }
    if operation != Operation::Backup {
        // Also what others did meanwhile.
        let Places { repository, keys } = &places;
        done.opened = last_opened(repository, keys, options.cluster()).await.ok();
    }
    done.late = late.map(|seal| Late { seal, places });
    Ok(done)
}

async fn take(
    options: &AgentSettings,
    places: &Places,
    seen: Option<Arc<Seen>>,
    control: &Control,
) -> Result<(Done, Option<LateSeal>)> {
    let source = Source::Etcd(options.common.etcd()?);
    let Places { repository, keys } = places;
    let taking = backup_and_keep(repository, keys, source, &options.backup, seen, control);
    let (report, late) = taking.await?;
    let cluster = options.cluster().clone();
    let finding = of_backup(&report);
    if report.independent < 2 && report.declared_recovery.is_none() {
        warn(&[ONE_WAY.to_owned()]);
    }
    let done = Done {
        finding,
        compared: report.journal,
        independent: Some(report.independent),
        seals: [report.sealed_by.clone(), report.seals_missing.iter().map(|one| one.key).collect()],
        newest: Some(Newest {
            id: report.id,
            begun: report.id.begun(),
            database_bytes: report.database_bytes,
            revision: report.revision,
        }),
        warnings: report.warnings.iter().take(MAX_WARNINGS).cloned().collect(),
        ..Done::new(move |seconds| {
            for warning in report.warnings.iter().take(MAX_WARNINGS) {
                warn!(event = "backup_warning", cluster = %cluster, snapshot = %report.id, warning);
            }
            info!(
                event = "backup_finished",
                cluster = %cluster,
                operation = "backup",
                seconds,
                snapshot = %report.id,
                revision = report.revision,
                database_bytes = report.database_bytes,
                stored_bytes = report.stored_bytes,
                warnings = report.warnings.len(),
            );
        })
    };
    Ok((done, late))
}

async fn replicate(options: &AgentSettings, places: &Places, control: &Control) -> Result<Done> {
    if options.copy.url.is_none() {
        return Ok(Done::new(|_| {}));
    }
    let opened = options.common.open_replica(&options.copy, &places.repository, false).await?;
    warn(&opened.warnings);
    let target = &opened.repository;
    let scope = Scope::Cluster(options.cluster());
    let report = copy(&places.repository, target, &places.keys, scope, control).await?;
    let finding = report.failed.first_key_value().map(|(id, why)| {
        Error::new(ErrorKind::Tampered, format!("snapshot {id} was not copied: {why}"))
    });
    let damaged = report.journals.failed.first_key_value().map(|(id, why)| {
        Error::new(ErrorKind::Tampered, format!("journal {id} was not copied completely: {why}"))
    });
    let finding = finding.or(damaged);
    warn(report.not_remembered.as_slice());
    let cluster = options.cluster().clone();
    let copied = report.newest.map(|id| id.begun());
    let log = move |seconds| {
        info!(
            event = "copy_finished",
            cluster = %cluster,
            operation = "copy",
            seconds,
            copied = report.copied.len(),
            copied_journals = report.journals.copied.len(),
            written_bytes = report.written_bytes,
            compared = report.compared.len(),
            not_copied = report.left_out.len() + report.journals.left_out.len(),
            differing_seals = report.differing.len(),
        );
    };
    Ok(Done { finding, copied, ..Done::new(log) })
}

async fn remove(options: &AgentSettings, places: &Places, control: &Control) -> Result<Done> {
    let begun = Instant::now();
    let (repository, keys) = (&places.repository, &places.keys);
    let cluster = Some(options.cluster());
    let plan = plan_prune(repository, keys, &options.retention, cluster, control).await?;
    let planned = begun.elapsed();
    let report = apply_prune(repository, &plan, control).await?;
    // Also of nothing: it is what tells when the last one was.
    store_report(repository, keys, &prune_report(&plan, &report, cluster, planned)).await?;
    let refused = report.refused.iter().chain(&plan.blocked).next();
    let finding = refused.map(|why| Error::new(ErrorKind::Denied, why.clone()));
    let cluster = options.cluster().clone();
    let log = move |seconds| {
        for warning in plan.findings.iter().take(MAX_WARNINGS) {
            warn!(event = "prune_warning", cluster = %cluster, warning);
        }
        info!(
            event = "prune_finished",
            cluster = %cluster,
            operation = "prune",
            seconds,
            kept = plan.keep.len(),
            removed = report.removed.len(),
            removed_journals = report.removed_journals.len(),
            freed_bytes = report.freed_bytes,
            refused = report.refused.len(),
            warnings = plan.findings.len(),
        );
    };
    Ok(Done { finding, ..Done::new(log) })
}

async fn prove(
    operation: Operation,
    options: &AgentSettings,
    places: &Places,
    control: &Control,
) -> Result<Done> {
    let begun = Instant::now();
    let Places { repository, keys } = places;
    let chosen;
    let scope = match operation {
        Operation::VerifyAll => Scope::Cluster(options.cluster()),
        _ => {
            chosen = sample(places, options.cluster()).await?;
            Scope::Ids(&chosen)
        }
    };
    let level = level(keys);
    let control = &match operation {
        Operation::VerifyAll => control.clone().end_at(begun + time_for_all(options)),
        _ => control.clone(),
    };
    let found = verify(repository, keys, scope, level, control).await?;
    let mut report = found.evidence(Some(options.cluster()), begun.elapsed());
    let mut checked = found.snapshots.len();
    let mut left = found.not_verified.len();
    let warnings = found.findings.clone();
    let mut failures = failures(found);
    if operation == Operation::VerifyAll && options.copy.url.is_some() {
        let (there, not_verified, failed) = prove_replica(options, places, control).await?;
        (checked, left) = (checked + there, left + not_verified);
        note_failures(&mut report, &failed);
        failures.extend(failed);
    }
    // Failures are reported even if the report cannot be stored.
    let stored = store_report(repository, keys, &report).await;
    let (failed, cluster) = (failures.len(), options.cluster().clone());
    let finding = first_of(failures, stored)?;
    let log = move |seconds| {
        for warning in warnings.iter().take(MAX_WARNINGS) {
            warn!(event = "verify_warning", cluster = %cluster, warning);
        }
        info!(
            event = %format_args!("{operation}_finished"),
            cluster = %cluster,
            operation = operation.name(),
            seconds,
            level = level.name(),
            checked,
            failed,
            not_verified = left,
        );
    };
    Ok(Done { finding, ..Done::new(log) })
}

/// What failed, and that something was not looked at.
fn failures(found: VerifyReport) -> Vec<Error> {
    let unfinished = found.unfinished();
    let failed = found.snapshots.into_iter().filter_map(|one| one.outcome.err());
    failed.chain(unfinished).collect()
}

/// What is reported of a verification: the first failure; without one, that its report could not be stored is an error.
fn first_of(failures: Vec<Error>, stored: Result<SnapshotId>) -> Result<Option<Error>> {
    match (failures.into_iter().next(), stored) {
        (None, stored) => stored.map(|_| None),
        (Some(finding), Ok(_)) => Ok(Some(finding)),
        (Some(finding), Err(error)) => {
            Ok(Some(finding.hint(format!("the report of it could not be stored: {error}"))))
        }
    }
}

/// How long a verification of all snapshots may take.
fn time_for_all(options: &AgentSettings) -> Duration {
    let now = SystemTime::now();
    let next = options.schedule(Operation::VerifyAll).map(|schedule| schedule.next(now));
    let until = next.and_then(|next| next.duration_since(now).ok());
    until.unwrap_or_default().max(LEAST_FOR_ALL)
}

/// Verifies the cluster's snapshots in the replica: how many it looked at, how many it did not get to, and what failed.
async fn prove_replica(
    options: &AgentSettings,
    places: &Places,
    control: &Control,
) -> Result<(usize, usize, Vec<Error>)> {
    let verified = async {
        let source = &places.repository;
        let replica = options.common.open_replica(&options.copy, source, false).await?.repository;
        let scope = Scope::Cluster(options.cluster());
        verify(&replica, &places.keys, scope, level(&places.keys), control).await
    };
    let (checked, left, failed) = match verified.await {
        Ok(found) => (found.snapshots.len(), found.not_verified.len(), failures(found)),
        // Before the first copy there is nothing: this is done again then.
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::NotFound) => {
            return Err(error.context("the replica"));
        }
        Err(error) => (0, 0, vec![error]),
    };
    let failed = failed.into_iter().map(|error| error.context("the replica"));
    Ok((checked, left, failed.collect()))
}

/// Puts what failed in the replica into the report. What is good there says nothing of the repository's own snapshots.
fn note_failures(report: &mut Report, failed: &[Error]) {
    let Some(details) = report.details.as_mut().filter(|_| !failed.is_empty()) else { return };
    report.outcome = ReportOutcome::Failed;
    details.checks.extend(failed.iter().take(MAX_WARNINGS).map(|error| ReportCheck {
        name: "replica".into(),
        outcome: CheckOutcome::Failed,
        detail: error.to_string().chars().take(500).collect(),
    }));
}

/// The newest snapshot that counts, and one of the others by chance: in time each comes. Planted ones, and those with a time
/// in the future, must not be what is looked at.
async fn sample(places: &Places, cluster: &ClusterName) -> Result<Vec<SnapshotId>> {
    let Places { repository, keys } = places;
    let listing = snapshots(repository, Some(cluster)).await?;
    let (newest, _) = latest(repository, keys, &listing, None).await?;
    let mut others: Vec<_> =
        listing.snapshots.iter().map(|one| one.id).filter(|id| *id < newest).collect();
    for _ in 0..MOST_DRAWN {
        let random = u64::from_be_bytes(crypto::random(&mut crypto::system_rng()));
        let Some(turn) = random.checked_rem(others.len() as u64) else { break };
        let other = others.swap_remove(usize::try_from(turn).unwrap_or_default());
        match authenticate(repository, keys, other).await {
            Ok(_) => return Ok(vec![other, newest]),
            Err(error) if error.kind().is_general() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(vec![newest])
}

async fn rehearse(options: &AgentSettings, places: &Places, control: &Control) -> Result<Done> {
    let (repository, keys) = (&places.repository, &places.keys);
    let listing = snapshots(repository, Some(options.cluster())).await?;
    let (id, _) = latest(repository, keys, &listing, None).await?;
    let live = options.common.etcd()?;
    let how = DrillOptions {
        etcd: options.drill.etcd.clone(),
        dir: options.drill.dir.clone(),
        allow_untested: live.allow_untested,
        live: Some(live),
        through_journals: options.drill.through_journals,
    };
    let drilled = drill(repository, keys, id, &how, control).await?;
    store_report(repository, keys, &drilled.report).await?;
    let finding = (!drilled.report.passed()).then(|| {
        Error::new(ErrorKind::Tampered, format!("an etcd started from {id} serves other data"))
    });
    let (recovery, cluster) = (drilled.recovery, options.cluster().clone());
    let log = move |seconds| {
        info!(
            event = "drill_finished",
            cluster = %cluster,
            operation = "drill",
            seconds,
            snapshot = %id,
            recovery_seconds = recovery.as_secs_f64(),
        );
    };
    Ok(Done { finding, recovery: Some(recovery), ..Done::new(log) })
}
