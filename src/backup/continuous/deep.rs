//! Deep verification of what was recorded: from each snapshot the next one is rebuilt with the journals between them, and
//! compared with it record by record and with the HashKV that etcd's members answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::Moment;
use super::building::{Building, Parted};
use super::join::{self, Join};
use super::shelf::{Period, Shelf};
use crate::backup::catalog::{self, Scope, Summary};
use crate::backup::deep::{HashCheck, check_hash};
use crate::bolt::Db;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{CheckOutcome, ClusterName, ReportCheck, SnapshotId};
use crate::journal::read::Chain;
use crate::keys::KeySet;
use crate::mvcc::{self, Followed, RecordSource, RecordedTail};
use crate::snapshot::inside::Frames;
use crate::snapshot::open::OpenSnapshot;
use crate::store::Repository;
use crate::task::{Control, run_blocking};

/// What was recorded between two snapshots that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stretch {
    /// The cluster.
    pub cluster: ClusterName,
    /// The snapshot that it begins with.
    pub from: SnapshotId,
    /// The snapshot that it ends with.
    pub to: SnapshotId,
    /// The last main revision of the first.
    pub first_revision: i64,
    /// The last main revision of the second.
    pub last_revision: i64,
}

impl Stretch {
    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> String {
        format!("journals {} to {}", self.from, self.to)
    }
}

/// What became of a stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StretchOutcome {
    /// Snapshot and journals give the next snapshot, to the last byte.
    Verified(HashCheck),
    /// They do not, and why.
    Differs(String),
    /// Journals that would lead on do not open, do not count or contradict the first snapshot.
    Incomplete(String),
    /// No journals lead from one to the other, and why.
    NotRecorded(String),
    /// There was no time left.
    NotVerified,
}

/// A stretch, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedStretch {
    /// Which.
    pub stretch: Stretch,
    /// What.
    pub outcome: StretchOutcome,
}

impl fmt::Display for VerifiedStretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stretch { first_revision, last_revision, .. } = &self.stretch;
        write!(f, "revisions {first_revision} to {last_revision}: ")?;
        match &self.outcome {
            StretchOutcome::Verified(HashCheck::Equal) => {
                f.write_str("they give the next snapshot, and HashKV as etcd answered it")
            }
            StretchOutcome::Verified(_) => f.write_str("they give the next snapshot"),
            StretchOutcome::Differs(why)
            | StretchOutcome::Incomplete(why)
            | StretchOutcome::NotRecorded(why) => f.write_str(why),
            StretchOutcome::NotVerified => f.write_str("there was no time left to verify them"),
        }
    }
}

impl VerifiedStretch {
    /// The stretch in a report.
    #[must_use]
    pub fn check(&self) -> ReportCheck {
        let outcome = match self.outcome {
            StretchOutcome::Verified(_) => CheckOutcome::Passed,
            StretchOutcome::Differs(_) => CheckOutcome::Failed,
            StretchOutcome::Incomplete(_)
            | StretchOutcome::NotRecorded(_)
            | StretchOutcome::NotVerified => CheckOutcome::Skipped,
        };
        let detail = self.to_string().chars().take(200).collect();
        ReportCheck { name: self.stretch.name(), outcome, detail }
    }

    /// What to tell of one that is not as it must be.
    #[must_use]
    pub fn finding(&self) -> Option<String> {
        let is_found =
            matches!(self.outcome, StretchOutcome::Differs(_) | StretchOutcome::Incomplete(_));
        is_found.then(|| format!("{}: {self}", self.stretch.name()))
    }

    /// Whether what was recorded differs.
    pub(in crate::backup) fn is_different(&self) -> bool {
        matches!(self.outcome, StretchOutcome::Differs(_))
    }
}

/// Which stretches.
#[derive(Clone, Debug, Default)]
pub struct Stretches {
    /// Only those of this cluster.
    pub cluster: Option<ClusterName>,
    /// Only those that end with one of these snapshots.
    pub to: Option<BTreeSet<SnapshotId>>,
    /// Only those that end with a snapshot begun then or later, in Unix milliseconds.
    pub since: u64,
}

impl Stretches {
    /// Those that end with a snapshot in `scope`.
    #[must_use]
    pub fn of(scope: Scope<'_>) -> Self {
        let mut wanted = Self::default();
        match scope {
            Scope::All => {}
            Scope::Cluster(cluster) => wanted.cluster = Some(cluster.clone()),
            Scope::Ids(ids) => wanted.to = Some(ids.iter().copied().collect()),
        }
        wanted
    }

    fn has(&self, stretch: &Stretch) -> bool {
        stretch.to.unix_ms() >= self.since
            && self.to.as_ref().is_none_or(|ids| ids.contains(&stretch.to))
    }
}

/// The stretches between the snapshots that count, as far as etcd changed between them; of clusters with journals only.
///
/// # Errors
/// Those of the store.
pub async fn stretches(
    repository: &Repository,
    keys: &KeySet,
    wanted: &Stretches,
) -> Result<Vec<Stretch>> {
    if repository.list(crate::format::names::JOURNALS.trim_end_matches('/')).await?.is_empty() {
        return Ok(Vec::new());
    }
    let listing = catalog::judged(repository, keys, wanted.cluster.as_ref()).await?;
    let mut before: BTreeMap<&ClusterName, &Summary> = BTreeMap::new();
    let mut stretches = Vec::new();
    for one in listing.snapshots.iter().filter(|one| one.standing.counts()) {
        let Some(before) = before.insert(&one.cluster, one) else { continue };
        let stretch = Stretch {
            cluster: one.cluster.clone(),
            from: before.id,
            to: one.id,
            first_revision: before.revision.cast_signed(),
            last_revision: one.revision.cast_signed(),
        };
        if stretch.last_revision > stretch.first_revision && wanted.has(&stretch) {
            stretches.push(stretch);
        }
    }
    Ok(stretches)
}

/// Verifies the `wanted` stretches. Journals, and what is read again of snapshots, are in `dir` while it runs, encrypted.
///
/// # Errors
/// Those of the store, and [`ErrorKind::Io`]; what is wrong with a stretch is in its outcome.
pub async fn verify_stretches(
    repository: &Repository,
    keys: &KeySet,
    wanted: &Stretches,
    dir: &Path,
    control: &Control,
) -> Result<Vec<VerifiedStretch>> {
    let mut verified = Vec::new();
    let mut shelf: Option<Shelf<'_>> = None;
    for stretch in stretches(repository, keys, wanted).await? {
        let shelf = match shelf.take().filter(|shelf| shelf.is_of(&stretch.cluster, Period::ALL)) {
            Some(open) => shelf.insert(open),
            None => shelf
                .insert(Shelf::open(repository, keys, (&stretch.cluster, Period::ALL), dir).await?),
        };
        // Snapshots come in the order of time; a history that goes back begins again with its own journals.
        shelf.forget(stretch.from);
        control.begin(&format!("verifying the journals up to {}", stretch.to), None);
        let looked_at = control.guard(one((repository, keys), shelf, &stretch));
        let outcome = match control.in_time(looked_at).await {
            None => StretchOutcome::NotVerified,
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) if error.kind().is_general() => return Err(error),
            Some(Err(error)) => match error.kind() {
                ErrorKind::Tampered | ErrorKind::Truncated => {
                    StretchOutcome::Differs(error.to_string())
                }
                _ => StretchOutcome::NotRecorded(error.to_string()),
            },
        };
        verified.push(VerifiedStretch { stretch, outcome });
    }
    Ok(verified)
}

async fn one(
    (repository, keys): (&Repository, &KeySet),
    shelf: &mut Shelf<'_>,
    stretch: &Stretch,
) -> Result<StretchOutcome> {
    let base = Arc::new(OpenSnapshot::open(repository, stretch.from, keys).await?);
    let next = Arc::new(OpenSnapshot::open(repository, stretch.to, keys).await?);
    let from = base.facts.etcd.revision.cast_signed();
    let until = next.facts.etcd.revision.cast_signed();
    let mut building = Building::lead(shelf, &base, from, Moment::Revision(until)).await?;
    if building.end < until {
        return not_reached(shelf, &building, next).await;
    }
    building.keep_needed(from, until);
    let (recording, ttls) = (Box::new(Chain(building.chain)), BTreeMap::new());
    let tail = RecordedTail { recording, until, compacted: 0, ttls };
    let dir = shelf.dir().to_owned();
    run_blocking(move || {
        let base = Db::open(Frames::new(base.database.clone(), &dir))?;
        let db = Db::open(Frames::new(next.database.clone(), &dir))?;
        let rebuilt = Followed::new(&base, Some((tail.as_tail(), until)));
        let compacted = db.span()?.compacted;
        if let Some(at) = mvcc::first_difference(&rebuilt, &db, until, compacted)? {
            let why = format!("what was recorded differs from the next snapshot at revision {at}");
            return Ok(StretchOutcome::Differs(why));
        }
        let recorded = next.facts.etcd.hash_kv.as_ref();
        Ok(match recorded.map(|recorded| check_hash(&rebuilt, recorded)) {
            None => StretchOutcome::Verified(HashCheck::NotRecorded),
            Some(Ok(hash)) => StretchOutcome::Verified(hash),
            Some(Err(error)) if error.kind() == ErrorKind::Tampered => {
                StretchOutcome::Differs(error.to_string())
            }
            Some(Err(error)) => return Err(error),
        })
    })
    .await
    .map_err(|error: Error| error.context(stretch.name()))
}

/// Why journals do not lead to the snapshot `next`.
async fn not_reached(
    shelf: &mut Shelf<'_>,
    building: &Building,
    next: Arc<OpenSnapshot>,
) -> Result<StretchOutcome> {
    for Parted { id, text, .. } in &building.parted {
        // What leads to the next snapshot begins another history: etcd was restored between them.
        if !leads_to(shelf, *id, &next).await? {
            return Ok(StretchOutcome::Incomplete(text.clone()));
        }
    }
    if let Some(parted) = building.parted.first() {
        return Ok(StretchOutcome::NotRecorded(parted.text.clone()));
    }
    let reached = format!("recorded only up to revision {}", building.end);
    // What the shelf found is of any stretch.
    Ok(match building.findings.get(shelf.findings.len()..).unwrap_or_default() {
        [] => StretchOutcome::NotRecorded(reached),
        found => StretchOutcome::Incomplete(format!("{reached}: {}", found.join("; "))),
    })
}

/// Whether the journal `id` is of the same history as the snapshot `next`.
async fn leads_to(shelf: &mut Shelf<'_>, id: SnapshotId, next: &Arc<OpenSnapshot>) -> Result<bool> {
    let (Some(read), _) = shelf.take(id).await? else { return Ok(false) };
    let (next, dir) = (Arc::clone(next), shelf.dir().to_owned());
    run_blocking(move || {
        let db = Db::open(Frames::new(next.database.clone(), &dir))?;
        let until = next.facts.etcd.revision.cast_signed();
        let range = read.first()..=read.last().min(until);
        Ok(matches!(join::with_database(&db, &*read, range)?, Join::Joined(_)))
    })
    .await
}
