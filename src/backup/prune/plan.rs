//! Deciding what a removal comes to, before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};

use super::journals;
use super::planned::{Keeping, PrunePlan, Removal};
use super::policy::{Retention, Within};
use super::proved::{Proved, last_proved};
use super::steps::{Of, OldMarks, Sweep, is_old};
use crate::backup::findings::Findings;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{ClusterName, Manifest, Part, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::folder::{self, Folder};
use crate::snapshot::grace::GRACE;
use crate::snapshot::open;
use crate::snapshot::seals;
use crate::store::Repository;
use crate::task::{Control, Step, Unit};

/// Manifests and seals read at once.
const READS: usize = 256;
/// Objects of a folder in the order of their removal; seals, tombstone and mark follow.
const ORDER: [Part; 3] = [Part::Companions, Part::Index, Part::Payload];

/// Decides what `retention` keeps of `cluster`'s snapshots, or of each cluster's. What it does not keep is removed, and
/// can be brought back by [`undo_removal`](super::undo_removal) for the grace period; then a later plan deletes it.
///
/// Only snapshots that count for `keys` (SPEC.md §5.3) are looked at, and only they are removed: whoever can write to the
/// store but holds no key in use cannot push others out. The last one that a report says is good stays, and so do pinned ones.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) when `retention` keeps nothing; those of the store.
pub async fn plan_prune(
    repository: &Repository,
    keys: &KeySet,
    retention: &Retention,
    cluster: Option<&ClusterName>,
    control: &Control,
) -> Result<PrunePlan> {
    if retention.is_empty() {
        return Err(Error::usage("no rule says what to keep")
            .hint("give at least one of --keep-last, --keep-hourly, … --keep-within"));
    }
    let mut plan = PrunePlan::default();
    let mut known = Known::read(repository, keys, cluster, &mut plan, control).await?;
    let proved = last_proved(repository, keys, &known.clusters).await?;
    // An object from the future would make everything old.
    known.clock = known.clock.max(proved.reported).map(|clock| clock.min(SystemTime::now()));
    if !proved.all_looked_at {
        let why = "no snapshot is removed: so many reports do not count that the snapshot which was verified last is unknown";
        plan.blocked.push(format!("{why} (delete planted objects under reports/)"));
    }
    let recorded = journals::Known::read(repository, keys, cluster, known.clock, control).await?;
    // A journal that could not be read may need any snapshot.
    let bases_unknown = recorded.is_unread && retention.continuous.is_some();
    let snapshots = (&known.clusters, !known.is_unread);
    let settled = recorded.settle(snapshots, &known.revisions, retention);
    let bases = plan.add(settled);
    let clusters = std::mem::take(&mut known.clusters);
    for (cluster, ids) in &clusters {
        known.decide((cluster, ids), retention, (&proved, &bases), &mut plan);
    }
    if bases_unknown && !plan.remove.is_empty() {
        plan.remove.clear();
        plan.blocked.push(journals::not_given("snapshot"));
    }
    plan.keep.sort_by_key(|keeping| keeping.id);
    plan.remove.sort_by_key(|removal| removal.id);
    known.settle(&mut plan, retention.grace.unwrap_or(GRACE));
    Ok(plan)
}

/// Keeps the newest of a cluster's snapshots if nothing else keeps one, and says so.
fn keep_newest(
    decided: &mut [(SnapshotId, Vec<&'static str>)],
    cluster: &ClusterName,
    kept_anyway: impl Fn(&SnapshotId) -> bool,
) -> Option<String> {
    if decided.iter().any(|(id, reasons)| !reasons.is_empty() || kept_anyway(id)) {
        return None;
    }
    decided.last_mut()?.1.push("newest");
    Some(format!(
        "cluster {cluster}: no rule keeps a snapshot, so the newest stays: are backups still taken? (--allow-empty \
         removes it too)"
    ))
}

pub(super) fn removal(id: SnapshotId, cluster: Option<ClusterName>, folder: &Folder) -> Removal {
    Removal {
        id,
        cluster,
        stored_bytes: folder.every().map(|info| info.len).sum(),
        old: OldMarks {
            tombstone: folder.tombstone.as_ref().map(|info| info.modified),
            mark: folder.sweep.is_some(),
        },
    }
}

/// Why nothing in `folder` may be deleted: a name that a newer version may have given.
pub(super) fn unknown(folder: &Folder) -> Option<String> {
    let name = folder.foreign.first()?;
    Some(format!("{name} is unknown here, and may be a newer strongroom's"))
}

/// What a repository holds.
struct Known {
    folders: BTreeMap<SnapshotId, Folder>,
    /// What may be kept or removed: authenticated, and not from the future.
    clusters: BTreeMap<ClusterName, BTreeSet<SnapshotId>>,
    /// The main revisions of what may be kept or removed.
    revisions: BTreeMap<SnapshotId, i64>,
    /// The tags of what may be kept or removed, where it has any.
    tags: BTreeMap<SnapshotId, Vec<String>>,
    /// Tombstones that authenticate.
    tombstones: BTreeMap<SnapshotId, Manifest>,
    /// No later than it is, by the store's clock.
    clock: Option<SystemTime>,
    /// A listed one could not be read.
    is_unread: bool,
}

impl Known {
    async fn read(
        repository: &Repository,
        keys: &KeySet,
        cluster: Option<&ClusterName>,
        plan: &mut PrunePlan,
        control: &Control,
    ) -> Result<Self> {
        let listed = folder::list_all(repository).await?;
        let folders = listed.snapshots;
        control.begin_counting("reading snapshots", Some(folders.len() as u64), Unit::Snapshots);
        let mut known = Self {
            clock: folders.values().flat_map(Folder::every).map(|info| info.modified).max(),
            clusters: BTreeMap::new(),
            revisions: BTreeMap::new(),
            tags: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            folders: BTreeMap::new(),
            is_unread: false,
        };
        let mut findings = Findings::default();
        findings.extend(listed.foreign.iter().map(|name| format!("{name}: unknown object")));
        let now = SystemTime::now();
        let mut read = stream::iter(folders)
            .map(|(id, folder)| async move {
                let head = head(repository, keys, cluster, id, &folder).await;
                (id, folder, head)
            })
            .buffer_unordered(READS);
        while let Some((id, folder, head)) = read.next().await {
            control.check()?;
            control.step(Step::Advance(1));
            match head {
                Ok(Head::Snapshot(_)) if folder::is_ahead(id.begun(), now) => {
                    findings.push(format!(
                        "snapshot {id} has a time in the future: it is kept and does not count"
                    ));
                }
                Ok(Head::Snapshot(manifest)) => {
                    let cluster = manifest.body().cluster.clone();
                    if !manifest.body().tags.is_empty() {
                        known.tags.insert(id, manifest.body().tags.clone());
                    }
                    known.revisions.insert(id, manifest.body().revision.cast_signed());
                    known.clusters.entry(cluster).or_default().insert(id);
                }
                Ok(Head::Tombstone(manifest)) => drop(known.tombstones.insert(id, *manifest)),
                Ok(Head::Other) => {}
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => {
                    known.is_unread |= error.kind().is_away();
                    let (named, why) = (format!("snapshot {id}: "), error.to_string());
                    let why = why.strip_prefix(&named).unwrap_or(&why);
                    findings.push(format!("snapshot {id} is kept and does not count: {why}"));
                }
            }
            known.folders.insert(id, folder);
        }
        plan.findings = findings.finish();
        Ok(known)
    }

    /// What becomes of one cluster's snapshots.
    fn decide(
        &self,
        (cluster, ids): (&ClusterName, &BTreeSet<SnapshotId>),
        retention: &Retention,
        (proved, bases): (&Proved, &BTreeSet<SnapshotId>),
        plan: &mut PrunePlan,
    ) {
        if let Some(since_ms) = retention.since_ms(ids, self.clock)
            && let Some(span) = retention.within
        {
            plan.within.push(Within::new(cluster, span, since_ms));
        }
        let pinned = |id: &SnapshotId| self.folders.get(id).is_some_and(|one| one.keep.is_some());
        let kept_anyway = |id: &SnapshotId| {
            let is_needed = proved.snapshots.contains(id) || bases.contains(id);
            is_needed || pinned(id) || self.has_tag(id, retention)
        };
        let mut decided = retention.keep(ids, self.clock);
        if !retention.allow_empty {
            plan.findings.extend(keep_newest(&mut decided, cluster, kept_anyway));
        }
        for (id, mut reasons) in decided {
            let Some(folder) = self.folders.get(&id) else { continue };
            let others = [
                ("continuous base", bases.contains(&id)),
                ("last verified", proved.snapshots.contains(&id)),
                ("pinned", folder.keep.is_some()),
                ("tag", self.has_tag(&id, retention)),
            ];
            reasons.extend(others.iter().filter(|(_, is_so)| *is_so).map(|(reason, _)| *reason));
            if !reasons.is_empty() {
                plan.keep.push(Keeping { id, cluster: cluster.clone(), reasons });
            } else if let Some(why) = unknown(folder) {
                plan.blocked.push(format!("snapshot {id} is not removed: {why}"));
            } else if proved.all_looked_at {
                plan.remove.push(removal(id, Some(cluster.clone()), folder));
            }
        }
    }

    fn has_tag(&self, id: &SnapshotId, retention: &Retention) -> bool {
        let tags = self.tags.get(id);
        tags.is_some_and(|tags| tags.iter().any(|tag| retention.tags.contains(tag)))
    }

    /// What becomes of tombstones, removed snapshots and what writers that died left.
    fn settle(&self, plan: &mut PrunePlan, grace: Duration) {
        let kept: BTreeSet<_> = plan.keep.iter().map(|keeping| keeping.id).collect();
        for (id, folder) in &self.folders {
            match (&folder.manifest, &folder.tombstone) {
                (Some(_), Some(_)) if kept.contains(id) => {
                    let what = "had a tombstone beside its manifest, and is kept";
                    plan.findings.push(format!("snapshot {id} {what}"));
                    plan.revive.push(Of::Snapshot(*id));
                }
                (Some(_), _) => {}
                (None, Some(tombstone)) => {
                    let manifest = self.tombstones.get(id);
                    let removed = manifest.is_some() && self.is_old(tombstone.modified, grace);
                    if removed || is_swept_to_the_seals(folder) {
                        sweep(*id, folder, manifest, plan);
                    }
                }
                (None, None) => {
                    let old = |when| self.is_old(when, GRACE);
                    if folder.youngest().is_some_and(|when| !old(when)) {
                        continue;
                    }
                    match &folder.sweep {
                        Some(mark) if old(mark.modified) => sweep(*id, folder, None, plan),
                        Some(_) => {}
                        None => plan.marks.push(Of::Snapshot(*id)),
                    }
                }
            }
        }
    }

    fn is_old(&self, modified: SystemTime, grace: Duration) -> bool {
        is_old(self.clock, modified, grace)
    }
}

/// Plans to delete all that is in `folder`, unless there is something that this version does not know.
pub(super) fn sweep(
    id: SnapshotId,
    folder: &Folder,
    manifest: Option<&Manifest>,
    plan: &mut PrunePlan,
) {
    let others = || folder.objects.iter().filter(|(part, _)| !ORDER.contains(*part));
    let named = |part: &Part| manifest.is_some_and(|one| one.body().object(part).is_some());
    let why = unknown(folder).or_else(|| {
        let (_, info) = others().find(|(part, _)| !named(part))?;
        Some(format!("{} is unknown here, and may be a newer strongroom's", info.name))
    });
    if let Some(why) = why {
        plan.blocked.push(format!("what is left of snapshot {id} is not deleted: {why}"));
        return;
    }
    let known = ORDER.iter().filter_map(|part| folder.objects.get(part));
    let last = folder.keep.iter().chain(&folder.tombstone).chain(&folder.sweep);
    let order = others().map(|(_, info)| info).chain(known).chain(folder.seals.values());
    let objects: Vec<_> = order.chain(last).collect();
    plan.sweeps.push(Sweep {
        of: Of::Snapshot(id),
        bytes: objects.iter().map(|info| info.len).sum(),
        objects: objects.into_iter().map(|info| info.name.clone()).collect(),
    });
}

/// A sweep that was interrupted after it had deleted all that a snapshot is made of: the tombstone may have lost the
/// seals that authenticate it.
fn is_swept_to_the_seals(folder: &Folder) -> bool {
    folder.objects.is_empty() && folder.sweep.is_some()
}

/// What stands at the head of a folder.
enum Head {
    Snapshot(Box<Manifest>),
    Tombstone(Box<Manifest>),
    /// Neither, or of another cluster.
    Other,
}

/// The manifest of a folder, or its tombstone, if a key authenticates it.
async fn head(
    repository: &Repository,
    keys: &KeySet,
    cluster: Option<&ClusterName>,
    id: SnapshotId,
    folder: &Folder,
) -> Result<Head> {
    let is_removed = folder.manifest.is_none();
    let manifest = match (is_removed, &folder.tombstone) {
        (false, _) => open::read_manifest(repository, id).await,
        (true, Some(_)) if is_swept_to_the_seals(folder) => return Ok(Head::Other),
        (true, Some(_)) => open::read_tombstone(repository, id).await,
        (true, None) => return Ok(Head::Other),
    };
    let manifest = manifest.context(format!("snapshot {id}"))?;
    if cluster.is_some_and(|cluster| *cluster != manifest.body().cluster) {
        return Ok(Head::Other);
    }
    let authentic = seals::authenticate(repository, folder, keys, &manifest).await;
    let judged = authentic.context(format!("snapshot {id}"))?.judged;
    let standing = judged.standing;
    if is_removed && judged.is_authentic() {
        return Ok(Head::Tombstone(Box::new(manifest)));
    }
    if !standing.counts() {
        return Err(
            Error::new(ErrorKind::Refused, standing.to_string()).context(format!("snapshot {id}"))
        );
    }
    // What cannot be restored pushes nothing out that can.
    open::check_lengths(&manifest, folder).context(format!("snapshot {id}"))?;
    Ok(Head::Snapshot(Box::new(manifest)))
}
