//! Which snapshot and which journals a restore takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::coverage::{Journals, not_covered, parted};
use super::join::{self, Join};
use super::moments::{self, At};
use crate::backup::{catalog, choose};
use crate::bolt::Db;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, SnapshotId, Time};
use crate::journal::read::{Chain, ReadJournal};
use crate::keys::KeySet;
use crate::mvcc;
use crate::snapshot::inside::{Frames, View};
use crate::snapshot::open::OpenSnapshot;
use crate::store::Repository;
use crate::task::run_blocking;

/// Snapshots that are tried as a base.
const BASES: usize = 8;

/// What is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The last revision that is recorded.
    Newest,
    /// What was known at this time, in Unix milliseconds.
    Time(u64),
    /// This main revision.
    Revision(i64),
}

/// A snapshot, and the recorded changes that follow it.
#[derive(Clone)]
pub struct Recorded {
    /// The snapshot.
    pub base: SnapshotId,
    /// The main revision that is restored.
    pub revision: i64,
    /// The journals, in order; none if the snapshot holds the revision.
    pub journals: Vec<SnapshotId>,
    /// Every revision committed before this moment was recorded: Unix milliseconds, 0 for unknown.
    pub recorded_until: u64,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Of a restore to the last revision: the journals that were cut, passed over or not used, and why. It may hold less
    /// than was recorded.
    pub findings: Vec<String>,
    pub(crate) tail: Option<Arc<mvcc::RecordedTail>>,
}

/// Finds what to restore: from the snapshot `base_given` if there is one, else from the newest that reaches it. Journals are
/// fetched below `dir`, encrypted as they are stored.
///
/// # Errors
/// [`ErrorKind::NotFound`] when nothing reaches it, those of opening and of the store.
pub async fn plan_restore(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
    base_given: Option<SnapshotId>,
    moment: Moment,
    dir: &Path,
) -> Result<Recorded> {
    let bases = match base_given {
        Some(base) => vec![base],
        None => bases(repository, keys, cluster, moment).await?,
    };
    let mut failure = None;
    for base in bases {
        let only = base_given.is_some();
        match from_base(repository, keys, (base, only), moment, dir).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                failure.get_or_insert(error);
            }
            other => return other,
        }
    }
    Err(failure.unwrap_or_else(|| not_covered("no snapshot is early enough".into())))
}

/// Snapshots that may be the base, the best first.
async fn bases(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
    moment: Moment,
) -> Result<Vec<SnapshotId>> {
    let listing = catalog::snapshots(repository, cluster).await?;
    choose::one_cluster(repository, keys, &listing).await?;
    let is_early = |summary: &&catalog::Summary| match moment {
        Moment::Newest => true,
        Moment::Time(ms) => summary.id.unix_ms() <= ms,
        Moment::Revision(revision) => summary.revision.cast_signed() <= revision,
    };
    // One that holds the revision needs no journal.
    let holds = |summary: &&catalog::Summary| match moment {
        Moment::Revision(revision) => summary.revision.cast_signed() >= revision,
        _ => false,
    };
    let newest = listing.snapshots.iter().rev().filter(holds).take(1);
    let holding = newest.chain(listing.snapshots.iter().filter(holds).take(BASES / 2));
    let early = listing.snapshots.iter().rev().filter(is_early);
    let (mut bases, mut failure) = (Vec::new(), None);
    for id in holding.chain(early).map(|summary| summary.id) {
        if bases.len() >= BASES {
            break;
        }
        match catalog::authenticate(repository, keys, id).await {
            Ok(_) if !bases.contains(&id) => bases.push(id),
            Ok(_) => {}
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) => {
                failure.get_or_insert(error.context(format!("snapshot {id}")));
            }
        }
    }
    match failure {
        Some(error) if bases.is_empty() => Err(choose::none_counts(error)),
        _ if listing.snapshots.is_empty() => Err(choose::none_yet()),
        _ => Ok(bases),
    }
}

/// A chain of journals that is being built.
struct Building {
    /// The last revision that is reached.
    end: i64,
    chain: Vec<ReadJournal>,
    /// Journals that count and are of another history: where it parted, and what to say.
    parted: Vec<(SnapshotId, i64, String)>,
    warnings: Vec<String>,
    /// What may be missing, and why.
    findings: Vec<String>,
}

async fn from_base(
    repository: &Repository,
    keys: &KeySet,
    (base, is_only): (SnapshotId, bool),
    moment: Moment,
    dir: &Path,
) -> Result<Recorded> {
    let snapshot = OpenSnapshot::open(repository, base, keys).await?;
    let revision = snapshot.facts.etcd.revision.cast_signed();
    if let Moment::Revision(wanted) = moment
        && wanted <= revision
    {
        if !is_only && wanted < snapshot.facts.etcd.compact_revision.cast_signed().max(1) {
            return Err(not_covered(format!("revision {wanted} is compacted in snapshot {base}")));
        }
        return Ok(alone(base, wanted));
    }
    if let Moment::Time(ms) = moment
        && ms < base.unix_ms()
    {
        let (begun, at) = (time(base.unix_ms()), time(ms));
        return Err(not_covered(format!("snapshot {base} was begun at {begun}, after {at}")));
    }
    let cluster = snapshot.manifest.body().cluster.clone();
    let mut journals = Journals::open(repository, keys, Some(&cluster)).await?;
    let mut building = Building::new(revision, &mut journals);
    let newest_journal = journals.newest();
    let extents = journals.extents(repository, keys).await?;
    let snapshot = Arc::new(snapshot);
    loop {
        let reached = is_reached(&building, moment);
        let next = if reached { None } else { next_journal(&journals, &building, moment) };
        // The newest one shows whether what was recorded last is of the same history.
        let is_of_interest = |id: &SnapshotId| {
            journals.open.get(id).is_some_and(|(journal, _)| journal.first() <= building.end)
                && !matches!(moment, Moment::Time(ms) if ms < id.unix_ms())
        };
        let Some(next) = next.or(newest_journal.filter(is_of_interest)) else { break };
        let Some((journal, folder)) = journals.open.remove(&next) else { break };
        if !journal.standing.counts() {
            building.findings.push(format!("journal {next} does not count: {}", journal.standing));
            continue;
        }
        let mut read = match ReadJournal::fetch(repository, keys, journal, &folder, dir).await {
            Err(error) if !error.kind().is_general() => {
                building.findings.push(error.to_string());
                continue;
            }
            read => read?,
        };
        building.findings.extend(extents.get(&next).and_then(|extent| extent.cut(&mut read)));
        building.findings.append(&mut read.survey.findings);
        building = step(building, read, snapshot.clone(), dir).await?;
    }
    building.check_history(base, is_only, moment)?;
    finish(base, revision, building, moment)
}

fn alone(base: SnapshotId, revision: i64) -> Recorded {
    let (journals, warnings, findings) = (Vec::new(), Vec::new(), Vec::new());
    Recorded { base, revision, journals, recorded_until: 0, warnings, findings, tail: None }
}

fn is_reached(building: &Building, moment: Moment) -> bool {
    match moment {
        Moment::Newest => false,
        Moment::Revision(revision) => building.end >= revision,
        Moment::Time(ms) => {
            let last = building.chain.last();
            last.is_some_and(|journal| journal.survey.moments.iter().any(|(_, at)| *at > ms))
        }
    }
}

/// The journal that may lead on: of those that hold what is reached the one that began first. Later ones repeat what it
/// holds, with other moments; and what is recorded later chooses no other journals.
fn next_journal(journals: &Journals, building: &Building, moment: Moment) -> Option<SnapshotId> {
    let leads_on = |id: &&SnapshotId| {
        let last = journals.last_of(**id);
        // It may also tell that nothing has changed.
        let may_be_quiet = building.chain.is_empty() || matches!(moment, Moment::Time(_));
        last > building.end || may_be_quiet && last == building.end
    };
    let starts = journals.open.iter().filter(|(_, (journal, _))| journal.first() <= building.end);
    starts.map(|(id, _)| id).find(leads_on).copied()
}

impl Building {
    fn new(base: i64, journals: &mut Journals) -> Self {
        Self {
            end: base,
            chain: Vec::new(),
            parted: Vec::new(),
            warnings: journals.findings.drain(..journals.unknown).collect(),
            findings: std::mem::take(&mut journals.findings),
        }
    }

    /// Refuses what a newer recording contradicts: which of two histories is wanted cannot be known.
    fn check_history(&self, base: SnapshotId, is_only: bool, moment: Moment) -> Result<()> {
        let chosen = self.chain.last().map_or(base, ReadJournal::id);
        let is_contradicted = |(id, at, _): &&(SnapshotId, i64, String)| {
            *id > chosen
                && match moment {
                    Moment::Newest => true,
                    Moment::Time(ms) => ms >= id.unix_ms(),
                    Moment::Revision(revision) => revision >= *at,
                }
        };
        // Who names a snapshot of one history has chosen it.
        if self.chain.is_empty() && is_only {
            return Ok(());
        }
        let Some((id, _, text)) = self.parted.iter().find(is_contradicted) else { return Ok(()) };
        let begun = time(id.unix_ms());
        let message = format!("{text}; {id} is newer, and {chosen} would be restored");
        Err(Error::new(ErrorKind::Refused, message).hint(format!(
            "name a snapshot taken after {begun} for the newer history, or give --to-time before {begun} for the older one"
        )))
    }
}

/// Adds a journal, if it is of the same history.
async fn step(
    mut building: Building,
    read: ReadJournal,
    snapshot: Arc<OpenSnapshot>,
    dir: &Path,
) -> Result<Building> {
    let (id, dir) = (read.id(), dir.to_owned());
    let base = snapshot.manifest.body().snapshot;
    run_blocking(move || {
        let overlaps = |one: &&ReadJournal| one.first() <= read.last();
        let (join, before) = match building.chain.iter().rev().find(overlaps) {
            None => {
                let frames = Frames::new(snapshot.database.clone(), &dir);
                let range = read.first()..=read.last();
                (join::with_database(&Db::open(frames)?, &read, range)?, base)
            }
            Some(before) => {
                let range = read.first().max(before.first())..=read.last().min(before.last());
                (join::journals(before, &read, range)?, before.id())
            }
        };
        match join {
            // One that adds nothing may still tell that nothing has changed.
            Join::Joined(_) if read.last() < building.end => {}
            Join::Joined(_) => {
                building.end = building.end.max(read.last());
                building.chain.push(read);
            }
            Join::Parted(at) => {
                building.findings.push(parted(before, id, at));
                building.parted.push((id, at, parted(before, id, at)));
            }
            // It ended before what is reached.
            Join::Apart if read.last() < building.end => {}
            Join::Apart => {
                let text = format!(
                    "journal {id} has no revision to compare with {before}, and is not used"
                );
                match read.last() > building.end {
                    true => building.findings.push(text),
                    // It holds no later revision.
                    false => building.warnings.push(text),
                }
            }
        }
        Ok(building)
    })
    .await
}

fn finish(
    base: SnapshotId,
    base_revision: i64,
    building: Building,
    moment: Moment,
) -> Result<Recorded> {
    let Building { end, mut chain, mut warnings, mut findings, .. } = building;
    if moment != Moment::Newest {
        // What was asked for is reached all the same, or this fails.
        warnings.append(&mut findings);
    }
    let recorded_until = chain.iter().map(|journal| journal.survey.complete_ms).max().unwrap_or(0);
    let revision = match moment {
        Moment::Newest => end,
        Moment::Revision(revision) if revision <= end => revision,
        Moment::Revision(revision) => {
            return Err(not_covered(format!(
                "revision {revision} is not recorded: from snapshot {base} on the recording reaches revision {end}"
            )));
        }
        Moment::Time(ms) => at_time(base, base_revision, &chain, ms, &mut warnings)?,
    };
    if chain.is_empty() && moment == Moment::Newest {
        warnings.push(format!("no journal follows snapshot {base}: it is restored as it is"));
    }
    if revision == base_revision {
        return Ok(Recorded { recorded_until, warnings, findings, ..alone(base, revision) });
    }
    keep_needed(&mut chain, base_revision, revision);
    let compacted = compacted_before(&chain, revision);
    let ttls = ttls_behind(&chain, base_revision, revision);
    let surveys = || chain.iter().map(|journal| &journal.survey);
    let states = surveys().flat_map(|survey| &survey.auth);
    let mut states: Vec<_> = states
        .filter(|(at, ..)| *at <= revision)
        .map(|(_, enabled, count)| (*enabled, *count))
        .collect();
    states.dedup();
    if states.len() > 1 {
        warnings.push(format!(
            "users and roles are those of snapshot {base}: they were changed before revision {revision}"
        ));
    }
    let journals = chain.iter().map(ReadJournal::id).collect();
    let (recording, until) = (Box::new(Chain(chain)), revision);
    let tail = Some(Arc::new(mvcc::RecordedTail { recording, until, compacted, ttls }));
    Ok(Recorded { base, revision, journals, recorded_until, warnings, findings, tail })
}

/// Leaves the journals that lead to `revision`: what is stored later must change nothing.
fn keep_needed(chain: &mut Vec<ReadJournal>, base: i64, revision: i64) {
    let mut done = base;
    chain.retain(|journal| {
        let is_needed = done < revision && journal.last() > done;
        done = done.max(journal.last());
        is_needed
    });
}

/// How far etcd had compacted before `revision`, as far as it was recorded before it.
fn compacted_before(chain: &[ReadJournal], revision: i64) -> i64 {
    let recorded = chain.iter().flat_map(|journal| &journal.survey.compacted);
    let before = recorded.filter(|(at, main)| *at < revision && *main <= revision);
    before.map(|(_, main)| *main).max().unwrap_or(0)
}

/// The times to live that the segments from behind `base` to the one that completes `revision` tell.
fn ttls_behind(chain: &[ReadJournal], base: i64, revision: i64) -> BTreeMap<i64, i64> {
    let mut ttls = BTreeMap::new();
    for survey in chain.iter().map(|journal| &journal.survey) {
        let before = survey.lasts.partition_point(|last| *last <= base);
        let through = survey.lasts.partition_point(|last| *last < revision).saturating_add(1);
        let told = survey.ttls.iter().take(through.min(survey.lasts.len())).skip(before).flatten();
        ttls.extend(told.filter(|(_, ttl)| **ttl > 0));
    }
    ttls
}

/// The last revision that was received at `ms` or before.
fn at_time(
    base: SnapshotId,
    base_revision: i64,
    chain: &[ReadJournal],
    ms: u64,
    warnings: &mut Vec<String>,
) -> Result<i64> {
    let at = time(ms);
    Err(not_covered(match moments::revision_at(base_revision, &moments::told(chain), ms) {
        At::Revision { revision, is_base_unknown } => {
            if is_base_unknown {
                warnings.push(format!(
                    "when revision {base_revision} was received is unknown: snapshot {base} may hold changes made after {at}"
                ));
            }
            return Ok(revision);
        }
        At::BaseIsLater(received) => format!(
            "snapshot {base} may hold changes made after {at}: its revision {base_revision} is recorded at {}",
            time(received)
        ),
        At::Unknown { until, next } => {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "nobody recorded at {at}: recorded until {}; the next recording begins {}",
                    time(until),
                    time(next)
                ),
            )
            .hint("give --revision, or a time outside"));
        }
        At::Beyond { until: 0, .. } => {
            format!("{at} is not recorded: no journal follows snapshot {base}")
        }
        At::Beyond { until, revision } => format!(
            "{at} is not recorded: from snapshot {base} on the recording reaches {} (revision {revision})",
            time(until)
        ),
    }))
}

fn time(ms: u64) -> Time {
    Time::from_unix(i64::try_from(ms / 1000).unwrap_or(0))
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded")
            .field("base", &self.base)
            .field("revision", &self.revision)
            .field("journals", &self.journals)
            .finish_non_exhaustive()
    }
}

impl Recorded {
    /// To look at it without restoring it.
    #[must_use]
    pub fn view(&self) -> View {
        View { id: self.base, tail: self.tail.clone() }
    }

    /// Refuses a restore of several members that may not come to the same revision.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`].
    pub fn check_for_members(&self, is_pinned: bool) -> Result<()> {
        if is_pinned {
            return Ok(());
        }
        let message = "several members must be restored from one snapshot to one revision";
        Err(Error::usage(message).hint(format!(
            "on every member: strongroom restore {} --revision {} …",
            self.base, self.revision
        )))
    }
}
