//! Snapshots written again under new data keys: who kept an old seal and its master key does not open them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::catalog::{self, Scope};
use super::continuous::sealed_to_others;
use super::key_usage::all_seals;
use super::prune::{PrunePlan, apply_prune, plan_replaced, prune_report};
use super::reports::store_report;
use super::verify::digests;
use crate::crypto;
use crate::envelope::{DataKey, check_sealers, is_genuine, key_ids};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, KeyState, ManifestBody, Part, Seal, Sha256, SnapshotId};
use crate::keys::{KeySet, Recipient};
use crate::snapshot::folder::{self, Folder};
use crate::snapshot::input::Input;
use crate::snapshot::open::{self, OpenSnapshot};
use crate::snapshot::options::BackupOptions;
use crate::snapshot::read::{Follower, Place, read_all};
use crate::snapshot::stored::StoredInput;
use crate::snapshot::write::{Content, write_snapshot};
use crate::snapshot::{companions, seals};
use crate::store::Repository;
use crate::task::Control;

/// How snapshots are encrypted again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reencryption<'a> {
    /// Keys that are not available and are to open the new snapshots no more.
    pub drop: &'a [KeyId],
    /// Whether the old snapshots stay.
    pub keep_old: bool,
}

/// What encrypting again did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ReencryptReport {
    /// The old snapshots and the new ones, from this run or an earlier one.
    pub done: Vec<(SnapshotId, SnapshotId)>,
    /// Snapshots that were encrypted again before, and that nobody named.
    pub before: usize,
    /// Old snapshots that were removed.
    pub removed: Vec<SnapshotId>,
    /// Snapshots that stay as they are, and why.
    pub failed: Vec<(SnapshotId, Error)>,
    /// Journals that a key which no longer seals may still open. They are not encrypted again.
    pub journals: Vec<SnapshotId>,
    /// Old snapshots that are still there, and why: those that the store refuses to delete, and those of `before` that another
    /// key may open.
    pub left: Vec<String>,
}

/// Writes each snapshot in `scope` again, under a new data key that is sealed to `keys`' sealing keys; when all are written,
/// the old ones are removed as [`plan_removal`](super::plan_removal) demands it, and can be brought back within the grace period. What was encrypted
/// again before is passed over, unless `scope` names it.
///
/// A new snapshot exists once its manifest does, and counts; until the old one is removed both do. Interrupted, it does the rest
/// when it is run again. Journals stay as they are, and follow the new snapshots as they followed the
/// old ones; those that an old key may open are named.
///
/// # Errors
/// [`ErrorKind::Usage`] and [`ErrorKind::Refused`] for keys that do not go together; [`ErrorKind::Unreachable`] once the store
/// is gone, and [`ErrorKind::Interrupted`]. What else one snapshot meets stands in the report.
pub async fn reencrypt(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    how: &Reencryption<'_>,
    control: &Control,
) -> Result<ReencryptReport> {
    let begun = Instant::now();
    let sealing: BTreeSet<KeyId> = keys.sealing().map(Recipient::id).collect();
    if sealing.is_empty() {
        return Err(Error::new(ErrorKind::Refused, "no master key to seal the new snapshots to")
            .hint("give one with --master-key"));
    }
    if let Some(key) = how.drop.iter().find(|key| sealing.contains(key)) {
        return Err(Error::usage(format!("key {key} cannot be dropped: it also seals"))
            .hint("leave it out, or give it as identity:FILE?retired"));
    }
    keys.check_sealing(None, false)?;
    // All of them seal, or nothing is written: whatever opens with a key that is down must not lose it.
    if let Some(missing) = check_sealers(keys).await?.into_iter().next() {
        return Err(missing.error);
    }
    let keys = &keys.sealing_with_all();
    let replaced = replacements(repository, keys).await?;
    let mut work =
        Work { repository, keys, how, sealing, control, report: ReencryptReport::default() };
    let mut plan = PrunePlan::default();
    for (id, folder) in catalog::folders_of(repository, scope).await? {
        control.check()?;
        match work.one(id, &folder, replaced.get(&id).copied(), scope).await {
            Ok(Some(removal)) => plan.remove.extend(removal.remove),
            Ok(None) => {}
            Err(error) if error.kind().is_general() && error.kind() != ErrorKind::Denied => {
                return Err(error);
            }
            Err(error) => work.report.failed.push((id, error)),
        }
    }
    let cluster = match scope {
        Scope::Cluster(cluster) => Some(cluster),
        Scope::All | Scope::Ids(_) => None,
    };
    work.remove(&plan, cluster, begun.elapsed()).await?;
    let mut report = work.report;
    if matches!(scope, Scope::Ids(_)) {
        return Ok(report);
    }
    match sealed_to_others(repository, keys, cluster).await {
        // Those that do not open here.
        Err(error) if error.kind() == ErrorKind::WrongKey => report.left.push(error.to_string()),
        found => report.journals = found?,
    }
    Ok(report)
}

/// The snapshots that count and replace others, by those.
async fn replacements(
    repository: &Repository,
    keys: &KeySet,
) -> Result<BTreeMap<SnapshotId, SnapshotId>> {
    let mut found = BTreeMap::new();
    for (id, folder) in catalog::folders_of(repository, Scope::All).await? {
        let manifest = match open::read_manifest(repository, id).await {
            Err(error) if error.kind().is_general() => return Err(error),
            Err(_) => continue,
            Ok(manifest) => manifest,
        };
        let Some(old) = manifest.body().replaces else { continue };
        match seals::authenticate(repository, &folder, keys, &manifest).await {
            Err(error) if error.kind().is_general() => return Err(error),
            Ok(authentic) if authentic.judged.standing.counts() => drop(found.insert(old, id)),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(found)
}

struct Work<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    how: &'a Reencryption<'a>,
    /// What new snapshots are sealed to.
    sealing: BTreeSet<KeyId>,
    control: &'a Control,
    report: ReencryptReport,
}

impl Work<'_> {
    /// Removes the old snapshots, as planned.
    async fn remove(
        &mut self,
        plan: &PrunePlan,
        cluster: Option<&ClusterName>,
        planned: Duration,
    ) -> Result<()> {
        if plan.remove.is_empty() {
            return Ok(());
        }
        let done = apply_prune(self.repository, plan, self.control).await?;
        let report = prune_report(plan, &done, cluster, planned);
        store_report(self.repository, self.keys, &report).await?;
        let pinned = done
            .pinned
            .iter()
            .map(|id| format!("snapshot {id} stays: it was pinned after it was written again"));
        let refused = done.refused.iter().map(|refused| format!("stays: {refused}"));
        self.report.left.extend(refused.chain(pinned));
        self.report.removed = done.removed;
        Ok(())
    }

    /// The plan that removes `id`, once there is a new snapshot in its place.
    async fn one(
        &mut self,
        id: SnapshotId,
        folder: &Folder,
        new: Option<SnapshotId>,
        scope: Scope<'_>,
    ) -> Result<Option<PrunePlan>> {
        let (repository, keys) = (self.repository, self.keys);
        let manifest = open::read_manifest(repository, id).await?;
        if manifest.body().replaces.is_some() && !matches!(scope, Scope::Ids(_)) {
            self.report.before += 1;
            if let Some(why) = self.opens_elsewhere(id, folder).await? {
                self.report.left.push(format!(
                    "snapshot {id} was encrypted again before, and {why}: name it to encrypt it again"
                ));
            }
            return Ok(None);
        }
        // Whatever keeps the old one from being removed is said before a new one is written.
        let plan = match self.how.keep_old {
            true => None,
            false => Some(plan_replaced(repository, keys, &[id]).await?.0),
        };
        let old = OpenSnapshot::open(repository, id, keys).await?;
        let new = match new {
            Some(new) => {
                let checked = self.check_replacement((id, folder), &old, new).await;
                checked.context(format!("snapshot {new}, which replaces it"))?;
                new
            }
            None => self.write(id, folder, old).await?,
        };
        self.report.done.push((id, new));
        Ok(plan)
    }

    /// Why another key may open `id` than those that seal now, if one may.
    async fn opens_elsewhere(&self, id: SnapshotId, folder: &Folder) -> Result<Option<String>> {
        let (seals, unread) = all_seals(self.repository, id, folder).await?;
        if let Some(unread) = unread {
            return Ok(Some(format!("which keys open it is not known ({unread})")));
        }
        let other = seals.iter().flat_map(key_ids).find(|key| !self.sealing.contains(key));
        // A copy of a seal that is gone opens it, too.
        let gone = (!folder.seals.contains_key(&1)).then(|| "was sealed again since".to_owned());
        Ok(other.map(|key| format!("key {key} may open it")).or(gone))
    }

    /// That `new`, which an earlier run wrote, can take the place of `old`: it holds the same, and opens with each key that
    /// is needed. Where the old one goes, all of the new one is read before.
    async fn check_replacement(
        &self,
        (id, folder): (SnapshotId, &Folder),
        old: &OpenSnapshot,
        new: SnapshotId,
    ) -> Result<()> {
        let of_new = folder::list_one(self.repository, new).await?;
        let (seals, _) = all_seals(self.repository, new, &of_new).await?;
        let opening = match OpenSnapshot::open_any(self.repository, new, self.keys).await {
            Ok(opened) => {
                self.check_same(old, &opened).await?;
                let object = seals::manifest_digest(&opened.manifest);
                genuine(&seals, object, &opened.data_key)
            }
            Err(error) if error.kind() == ErrorKind::WrongKey => {
                self.check_elsewhere(&of_new, &seals, new, error).await?
            }
            Err(error) => return Err(error),
        };
        let needed = self.needed(id, folder, old).await?;
        match needed.into_iter().find(|key| !opening.contains(key)) {
            None => Ok(()),
            Some(key) => {
                let message = format!("it does not open with key {key}, which opens {id}");
                Err(Error::new(ErrorKind::Refused, message).hint(format!(
                    "`strongroom key reseal {new}` with that key or its recipient adds it; --drop {key} goes on without it"
                )))
            }
        }
    }

    /// That what `new` holds is what `old` holds: its database and its companions.
    async fn check_same(&self, old: &OpenSnapshot, new: &OpenSnapshot) -> Result<()> {
        let digest = |one: &OpenSnapshot| one.database.index().database().sha256;
        if digest(new) != digest(old) {
            return Err(Error::tampered("it has another database"));
        }
        if self.how.keep_old {
            return Ok(());
        }
        let companions = async |one: &OpenSnapshot| {
            companions::open(self.repository, &one.manifest, &one.data_key).await
        };
        if companions(new).await? != companions(old).await? {
            return Err(Error::tampered("it has other companions"));
        }
        let (what, total) = (new.manifest.body().snapshot, new.database.index().database().size);
        self.control.begin(&format!("verifying {what}"), Some(total));
        let all = read_all(&new.database, Place::Nowhere, Follower::Nobody, self.control);
        self.control.guard(all).await.map(drop)
    }

    /// The keys that open `new`, of which none is here: those that its seals name. A signature shows that its manifest is
    /// genuine, and the manifest what its objects are.
    async fn check_elsewhere(
        &self,
        folder: &Folder,
        seals: &[Seal],
        new: SnapshotId,
        error: Error,
    ) -> Result<BTreeSet<KeyId>> {
        let manifest = open::read_manifest(self.repository, new).await?;
        let authentic = seals::authenticate(self.repository, folder, self.keys, &manifest).await?;
        let object = seals::manifest_digest(&manifest);
        let named: Vec<BTreeSet<KeyId>> = seals
            .iter()
            .filter(|seal| seal.body().object() == object)
            .map(|seal| key_ids(seal).into_iter().collect())
            .collect();
        // What names a key that is here, and does not open with it, opens with no other for certain.
        if !authentic.judged.standing.counts()
            || named.iter().flatten().any(|key| self.keys.holds(*key))
        {
            return Err(error);
        }
        if !self.how.keep_old {
            open::check_lengths(&manifest, folder)?;
            self.control.guard(digests(self.repository, &manifest, self.control)).await?;
        }
        // Nobody can tell here which of them is genuine, so only what all of them name is known.
        let common = |all: BTreeSet<KeyId>, one: BTreeSet<KeyId>| &all & &one;
        Ok(named.into_iter().reduce(common).unwrap_or_default())
    }

    async fn write(
        &self,
        id: SnapshotId,
        folder: &Folder,
        old: OpenSnapshot,
    ) -> Result<SnapshotId> {
        let body = old.manifest.body().clone();
        check_objects(&body)?;
        self.check_keys(id, folder, &old).await?;
        let companions = companions::open(self.repository, &old.manifest, &old.data_key).await?;
        let new = successor(id);
        let options = BackupOptions {
            cluster: body.cluster,
            compare_members: false,
            ..BackupOptions::default()
        };
        let content = Content {
            id: new,
            companions,
            previous: body.previous,
            tags: body.tags,
            included: body.included,
            replaces: Some(id),
            journal: old.facts.journal,
            seen: None,
        };
        let input = Input::Stored(Box::new(StoredInput::new(old.database, old.facts.etcd)));
        let written =
            write_snapshot(self.repository, self.keys, &options, self.control, content, input);
        match written.await?.0.missing.into_iter().next() {
            None => Ok(new),
            Some(missing) => Err(missing.error),
        }
    }

    /// That the new snapshot will open with every key that is needed.
    async fn check_keys(&self, id: SnapshotId, folder: &Folder, old: &OpenSnapshot) -> Result<()> {
        let needed = self.needed(id, folder, old).await?;
        match needed.into_iter().find(|key| !self.sealing.contains(key)) {
            None => Ok(()),
            Some(key) => {
                let message = format!("key {key} opens it, and would not open the new snapshot");
                Err(Error::new(ErrorKind::Refused, message).hint(format!(
                    "give that key or its recipient too, or leave it out with --drop {key}"
                )))
            }
        }
    }

    /// The keys that open `old`, but those that are given up.
    async fn needed(
        &self,
        id: SnapshotId,
        folder: &Folder,
        old: &OpenSnapshot,
    ) -> Result<BTreeSet<KeyId>> {
        let (seals, unread) = all_seals(self.repository, id, folder).await?;
        // A seal that is not read may name another key, which would lose the snapshot when the old one is removed.
        if let Some(unread) = unread.filter(|_| !self.how.keep_old) {
            return Err(unread.context("not all keys that open it are known"));
        }
        let mut keys = genuine(&seals, seals::manifest_digest(&old.manifest), &old.data_key);
        keys.retain(|key| {
            let state = self.keys.state(*key);
            !self.how.drop.contains(key) && state.is_none_or(|state| state < KeyState::Retiring)
        });
        Ok(keys)
    }
}

/// The keys in those of `seals` that somebody with the data key made.
fn genuine(seals: &[Seal], object: Sha256, data_key: &DataKey) -> BTreeSet<KeyId> {
    let seals = seals.iter().filter(|seal| seal.body().object() == object);
    seals.filter(|seal| is_genuine(seal, data_key)).flat_map(key_ids).collect()
}

/// That there is nothing that this version would leave out.
fn check_objects(body: &ManifestBody) -> Result<()> {
    match body.objects.iter().find(|object| matches!(object.part, Part::Other(_))) {
        None => Ok(()),
        Some(object) => Err(Error::unsupported(format!(
            "its object {} is unknown here, and may be a newer strongroom's",
            object.part
        ))),
    }
}

/// An id of the same time, above `old`: the newest snapshot stays the newest.
fn successor(old: SnapshotId) -> SnapshotId {
    let rng = &mut crypto::system_rng();
    let step = u128::from(u64::from_be_bytes(crypto::random(rng))) + 1;
    let next = SnapshotId(old.0.saturating_add(step));
    match next.unix_ms() == old.unix_ms() {
        true => next,
        false => SnapshotId::new(old.unix_ms(), crypto::random(rng)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_has_the_same_time_and_follows() {
        let old = SnapshotId::new(1_800_000_000_000, [7; 10]);
        for _ in 0..100 {
            let next = successor(old);
            assert!(next > old && next.unix_ms() == old.unix_ms());
        }
        let last = SnapshotId::new(1_800_000_000_000, [255; 10]);
        let next = successor(last);
        assert!(next != last && next.unix_ms() == last.unix_ms());
    }
}
