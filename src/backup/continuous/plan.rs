//! Which snapshot and which journals a restore takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::building::{Building, Parted};
use super::coverage::not_covered;
use super::histories::{self, ambiguous, are_one};
use super::moments::{self, At};
use super::shelf::{Period, Shelf};
use crate::backup::{catalog, choose};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ClusterName, SnapshotId, Time};
use crate::journal::read::{Chain, ReadJournal};
use crate::keys::KeySet;
use crate::mvcc;
use crate::snapshot::inside::View;
use crate::snapshot::open::OpenSnapshot;
use crate::store::Repository;

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
    let mut shelf = None;
    if let Some(base) = base_given {
        let choice = Choice { is_only: true, ..Choice::default() };
        return from_base((repository, keys), &mut shelf, (base, choice), moment, dir).await;
    }
    let listing = catalog::snapshots(repository, cluster).await?;
    choose::one_cluster(repository, keys, &listing).await?;
    let histories = match moment {
        // etcd counts again in each history.
        Moment::Revision(_) => histories::of(repository, keys, &listing).await?,
        _ => vec![listing.snapshots.iter().collect()],
    };
    let mut found: Option<Recorded> = None;
    let mut failure = None;
    for history in &histories {
        let choice = Choice {
            is_only: false,
            is_older: found.is_some(),
            newest: history.last().map(|summary| summary.id),
        };
        let from = (repository, keys);
        let planned = from_any(from, &mut shelf, (history, choice), moment, dir).await;
        match (planned, &found) {
            (Ok(first), None) => found = Some(first),
            (Ok(other), Some(first)) => {
                let (revision, views) = (other.revision, (first.view(), other.view()));
                // They are one where an older file was backed up later, or etcd was restored from what both have.
                if !are_one(repository, keys, revision, views).await? {
                    return Err(ambiguous(revision, first.base, other.base));
                }
            }
            (Err(error), _) if error.kind() == ErrorKind::NotFound => {
                failure.get_or_insert(error);
            }
            // An older history that does not open takes nothing away.
            (Err(error), Some(_)) if !error.kind().is_general() => {}
            (Err(error), _) => return Err(error),
        }
    }
    found
        .ok_or_else(|| failure.unwrap_or_else(|| not_covered("no snapshot is early enough".into())))
}

/// Which of several histories a base is of.
#[derive(Clone, Copy, Default)]
struct Choice {
    /// The base was given.
    is_only: bool,
    /// A newer history has what is wanted, too.
    is_older: bool,
    /// The newest snapshot of the base's history, as far as snapshots tell.
    newest: Option<SnapshotId>,
}

/// From the first snapshot of `history` that reaches it.
async fn from_any<'a>(
    from: (&'a Repository, &'a KeySet),
    shelf: &mut Option<Shelf<'a>>,
    (history, choice): (&[&catalog::Summary], Choice),
    moment: Moment,
    dir: &Path,
) -> Result<Recorded> {
    let bases = bases(from.0, from.1, history, moment).await?;
    let mut failure = None;
    for base in bases {
        match from_base(from, shelf, (base, choice), moment, dir).await {
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
    snapshots: &[&catalog::Summary],
    moment: Moment,
) -> Result<Vec<SnapshotId>> {
    let is_early = |summary: &&&catalog::Summary| match moment {
        Moment::Newest => true,
        Moment::Time(ms) => summary.id.unix_ms() <= ms,
        Moment::Revision(revision) => summary.revision.cast_signed() <= revision,
    };
    // One that holds the revision needs no journal.
    let holds = |summary: &&&catalog::Summary| match moment {
        Moment::Revision(revision) => summary.revision.cast_signed() >= revision,
        _ => false,
    };
    let newest = snapshots.iter().rev().filter(holds).take(1);
    let holding = newest.chain(snapshots.iter().filter(holds).take(BASES / 2));
    let early = snapshots.iter().rev().filter(is_early);
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
        _ if snapshots.is_empty() => Err(choose::none_yet()),
        _ => Ok(bases),
    }
}

async fn from_base<'a>(
    (repository, keys): (&'a Repository, &'a KeySet),
    shelf: &mut Option<Shelf<'a>>,
    (base, choice): (SnapshotId, Choice),
    moment: Moment,
    dir: &Path,
) -> Result<Recorded> {
    let snapshot = OpenSnapshot::open(repository, base, keys).await?;
    let revision = snapshot.facts.etcd.revision.cast_signed();
    if let Moment::Revision(wanted) = moment
        && wanted <= revision
    {
        if !choice.is_only && wanted < snapshot.facts.etcd.compact_revision.cast_signed().max(1) {
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
    let period = Period::from(base, moment);
    let shelf = match shelf.take().filter(|shelf| shelf.is_of(&cluster, period)) {
        Some(open) => shelf.insert(open),
        None => shelf.insert(Shelf::open(repository, keys, (&cluster, period), dir).await?),
    };
    let building = Building::lead(shelf, &Arc::new(snapshot), revision, moment).await?;
    let contradicted = check_history(&building, (base, revision), choice, moment);
    let recorded = finish(base, revision, building, moment)?;
    contradicted.map(|()| recorded)
}

fn alone(base: SnapshotId, revision: i64) -> Recorded {
    let (journals, warnings, findings) = (Vec::new(), Vec::new(), Vec::new());
    Recorded { base, revision, journals, recorded_until: 0, warnings, findings, tail: None }
}

/// Refuses what a newer recording contradicts: which of two histories is wanted cannot be known.
fn check_history(
    building: &Building,
    (base, base_revision): (SnapshotId, i64),
    choice: Choice,
    moment: Moment,
) -> Result<()> {
    let chosen = building.chain.last().map_or(base, |journal| journal.id());
    let is_contradicted = |parted: &&Parted| {
        // Who names a snapshot of one history has chosen it, unless both follow the snapshot.
        parted.id > chosen
            && !(choice.is_only && parted.at <= base_revision)
            && match moment {
                Moment::Newest => true,
                Moment::Time(ms) => ms >= parted.id.unix_ms(),
                Moment::Revision(revision) => revision >= parted.at,
            }
    };
    if choice.is_older || building.chain.is_empty() && choice.is_only {
        return Ok(());
    }
    let Some(Parted { id, text, .. }) = building.parted.iter().find(is_contradicted) else {
        return Ok(());
    };
    let begun = time(id.unix_ms());
    let message = format!("{text}; {id} is newer, and {chosen} would be restored");
    // What is asked for lies in both.
    let kind = if moment == Moment::Newest { ErrorKind::Refused } else { ErrorKind::Usage };
    let newer = choice.newest.filter(|newest| newest > id);
    let newer =
        newer.map_or_else(|| format!("a snapshot taken after {begun}"), |id| id.to_string());
    Err(Error::new(kind, message).hint(format!(
        "give a snapshot in the place of latest: {newer} is of the newer history, {base} of the older with a time before {begun}"
    )))
}

fn finish(
    base: SnapshotId,
    base_revision: i64,
    mut building: Building,
    moment: Moment,
) -> Result<Recorded> {
    let (mut warnings, mut findings) =
        (std::mem::take(&mut building.warnings), std::mem::take(&mut building.findings));
    let (end, chain) = (building.end, &building.chain);
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
        Moment::Time(ms) => at_time(base, base_revision, chain, ms, &mut warnings)?,
    };
    if chain.is_empty() && moment == Moment::Newest {
        warnings.push(format!("no journal follows snapshot {base}: it is restored as it is"));
    }
    if revision == base_revision {
        return Ok(Recorded { recorded_until, warnings, findings, ..alone(base, revision) });
    }
    building.keep_needed(base_revision, revision);
    let chain = building.chain;
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
    let journals = chain.iter().map(|journal| journal.id()).collect();
    let (recording, until) = (Box::new(Chain(chain)), revision);
    let tail = Some(Arc::new(mvcc::RecordedTail { recording, until, compacted, ttls }));
    Ok(Recorded { base, revision, journals, recorded_until, warnings, findings, tail })
}

/// How far etcd had compacted before `revision`, as far as it was recorded before it.
fn compacted_before(chain: &[Arc<ReadJournal>], revision: i64) -> i64 {
    let recorded = chain.iter().flat_map(|journal| &journal.survey.compacted);
    let before = recorded.filter(|(at, main)| *at < revision && *main <= revision);
    before.map(|(_, main)| *main).max().unwrap_or(0)
}

/// The times to live that the segments from behind `base` to the one that completes `revision` tell.
fn ttls_behind(chain: &[Arc<ReadJournal>], base: i64, revision: i64) -> BTreeMap<i64, i64> {
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
    chain: &[Arc<ReadJournal>],
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
        At::Contradicted { revision, at: received } => {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "a clock was set: revision {revision} is recorded at {}, and earlier ones after {at}",
                    time(received)
                ),
            )
            .hint("give --revision: `strongroom journal list` shows what is recorded"));
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
