//! What is named: snapshots and journals that are removed, journals that are brought back; and the snapshot without which a
//! recording restores nothing stays.

use std::collections::{BTreeMap, BTreeSet};

use super::journals::{Counting, JournalRemoval, Known, removal_of, stretches};
use super::plan::{removal, unknown};
use super::planned::PrunePlan;
use super::steps::{Of, UNDONE};
use crate::backup::catalog;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{ClusterName, JournalPart, MAX_HEAD, SnapshotId};
use crate::journal::fetch::last_of;
use crate::journal::{folder, open};
use crate::keys::KeySet;
use crate::snapshot::{folder as snapshots, open as snapshot};
use crate::store::Repository;
use crate::task::Control;

/// A plan that removes `ids`, snapshots or journals, and nothing else.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) for what is pinned, and for the only snapshot that journals follow which stay;
/// [`NotFound`](ErrorKind::NotFound); those of SPEC.md §8 for one that `keys` do not authenticate; those of the store.
pub async fn plan_removal(
    repository: &Repository,
    keys: &KeySet,
    ids: &[SnapshotId],
) -> Result<PrunePlan> {
    let (plan, revisions) = plan_replaced(repository, keys, ids).await?;
    let clusters = plan.remove.iter().filter_map(|one| one.cluster.clone()).collect();
    check_bases(repository, keys, clusters, &revisions, &plan.journals.remove).await?;
    Ok(plan)
}

/// As [`plan_removal`], for snapshots in whose place others are, with the same time and records: journals follow those. With the
/// revisions of the snapshots.
///
/// # Errors
/// Those of [`plan_removal`].
pub(in crate::backup) async fn plan_replaced(
    repository: &Repository,
    keys: &KeySet,
    ids: &[SnapshotId],
) -> Result<(PrunePlan, BTreeMap<SnapshotId, i64>)> {
    let mut plan = PrunePlan::default();
    let mut revisions = BTreeMap::new();
    for id in ids {
        let folder = snapshots::list_one(repository, *id).await?;
        if folder.manifest.is_none()
            && let Some(removal) = journal(repository, keys, *id).await?
        {
            plan.journals.remove.push(removal);
            continue;
        }
        let unsealed = snapshot::unseal(repository, *id, &folder, keys).await;
        let unsealed = unsealed.and_then(|one| one.check_authentic().map(|()| one));
        let body = unsealed.context(format!("snapshot {id}"))?.manifest.body().clone();
        revisions.insert(*id, body.revision.cast_signed());
        let cluster = body.cluster;
        let refused = match (&folder.keep, unknown(&folder)) {
            (Some(_), _) => Some("it is pinned (`strongroom prune --unpin` allows it)".to_owned()),
            (None, why) => why,
        };
        if let Some(why) = refused {
            let message = format!("snapshot {id} is not removed: {why}");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        plan.remove.push(removal(*id, Some(cluster), &folder));
    }
    Ok((plan, revisions))
}

/// The removal of the journal `id`; `None` if there is no such journal.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) for one that is pinned, does not count or holds something unknown; those of opening it and of
/// the store.
pub(super) async fn journal(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<Option<JournalRemoval>> {
    let folder = folder::list_one(repository, id).await?;
    if folder.head.is_none() {
        return Ok(None);
    }
    let opened = open::open(repository, id, &folder, keys).await?;
    let refused = match (&folder.keep, folder.foreign.first()) {
        (Some(_), _) => Some("it is pinned (`strongroom prune --unpin` allows it)".to_owned()),
        (None, Some(name)) => {
            Some(format!("{name} is unknown here, and may be a newer strongroom's"))
        }
        (None, None) if !opened.standing.counts() => Some(opened.standing.to_string()),
        (None, None) => None,
    };
    if let Some(why) = refused {
        return Err(Error::new(ErrorKind::Refused, format!("journal {id} is not removed: {why}")));
    }
    let (mut counting, cluster) = (Counting::new(&opened, 0), opened.head.cluster.clone());
    counting.last = last_of(repository, keys, opened, &folder).await?;
    Ok(Some(removal_of(&counting, &cluster, &folder)))
}

/// Refuses that one of `snapshots` goes, each with its revision, which is the only one that journals of `clusters` follow. Those
/// of `journals` go, too.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused); those of the store.
pub(super) async fn check_bases(
    repository: &Repository,
    keys: &KeySet,
    clusters: BTreeSet<ClusterName>,
    snapshots: &BTreeMap<SnapshotId, i64>,
    journals: &[JournalRemoval],
) -> Result<()> {
    // Without a key nothing is known of journals: no base can be named either.
    if keys.is_blind() {
        return Ok(());
    }
    for cluster in clusters {
        let known =
            Known::read(repository, keys, Some(&cluster), None, &Control::default()).await?;
        if known.is_unread {
            let text = "the snapshots are not removed: some listed journals cannot be read and may need them";
            return Err(Error::new(ErrorKind::Refused, text)
                .hint("try again later; `strongroom journal list` shows what is wrong"));
        }
        let gone: BTreeSet<_> = journals.iter().map(|one| one.id).collect();
        let stay: Vec<_> = known
            .counting(&cluster)
            .iter()
            .filter(|one| !gone.contains(&one.id))
            .cloned()
            .collect();
        for stretch in stretches(&stay) {
            let follows = |id: SnapshotId, revision: i64| {
                stretch.iter().any(|journal| journal.may_follow(id, revision))
            };
            let base = snapshots.iter().find(|(id, revision)| follows(**id, **revision));
            let Some((base, _)) = base else { continue };
            if has_other_base(repository, keys, (&cluster, snapshots), follows).await? {
                continue;
            }
            let (first, last) =
                (stretch.first().map(|one| one.id), stretch.last().map(|one| one.id));
            let (Some(first), Some(last)) = (first, last) else { continue };
            let (need, lost) = match first == last {
                true => (format!("the journal {first} needs"), "it restores nothing"),
                false => (format!("the journals {first} to {last} need"), "they restore nothing"),
            };
            let message = format!("{need} snapshot {base}: without this snapshot {lost}");
            return Err(Error::new(ErrorKind::Refused, message).hint(
                "take a snapshot while they are recorded, or name the journals with --remove, too",
            ));
        }
    }
    Ok(())
}

/// Whether a snapshot that stays is followed, and counts.
async fn has_other_base(
    repository: &Repository,
    keys: &KeySet,
    (cluster, going): (&ClusterName, &BTreeMap<SnapshotId, i64>),
    follows: impl Fn(SnapshotId, i64) -> bool,
) -> Result<bool> {
    let listing = catalog::snapshots(repository, Some(cluster)).await?;
    let stays = listing.snapshots.iter().rev().filter(|one| !going.contains_key(&one.id));
    for one in stays.filter(|one| follows(one.id, one.revision.cast_signed())) {
        match catalog::authenticate(repository, keys, one.id).await {
            Ok(_) => return Ok(true),
            Err(error) if error.kind().is_general() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// Brings back the journal `id`, which was removed and not yet swept, and pins it. False if no journal of this id was
/// removed.
///
/// # Errors
/// As [`undo_removal`](super::undo_removal).
pub(super) async fn undo_removal(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<bool> {
    let (of, folder) = (Of::Journal(id), folder::list_one(repository, id).await?);
    if folder.head.is_some() || folder.tombstone.is_none() {
        return Ok(false);
    }
    let swept = || {
        let message = format!("{of} is marked for sweeping, or objects of it are gone");
        Error::new(ErrorKind::Refused, message).hint(format!(
            "if no prune is running and nothing is missing, delete {} from the store and run the command again",
            JournalPart::Sweep.of(id)
        ))
    };
    if folder.sweep.is_some() {
        return Err(swept());
    }
    let journal = open::open(repository, id, &folder, keys).await?;
    if !journal.standing.counts() {
        let error = Error::new(ErrorKind::Refused, journal.standing.to_string());
        return Err(error).context(of.to_string());
    }
    if !journal.is_complete(&folder) {
        return Err(Error::truncated(format!("{of}: objects of it are missing")));
    }
    let bytes = repository.get(&of.tombstone(), MAX_HEAD as u64).await?;
    of.mark_to_keep(repository, UNDONE).await?;
    let head = JournalPart::Head.of(id);
    repository.put_once(&head, bytes).await?;
    // A sweep that began meanwhile left its mark, or it has deleted something and stopped.
    let now = folder::list_one(repository, id).await?;
    let is_less = now.recorded().count() < folder.recorded().count();
    if now.sweep.is_some() || is_less || !journal.is_complete(&now) {
        repository.delete(&head).await?;
        return Err(swept());
    }
    repository.delete(&of.tombstone()).await?;
    Ok(true)
}
