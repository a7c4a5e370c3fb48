//! Snapshots written again under new data keys: who kept an old seal and its master key does not open them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::catalog::{self, Scope};
use super::continuous::journals;
use super::key_usage::all_seals;
use super::prune::{PrunePlan, apply_prune, plan_removal, prune_report};
use super::reports::store_report;
use crate::crypto;
use crate::envelope::{DataKey, is_genuine, key_ids};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, KeyState, ManifestBody, Part, Sha256, SnapshotId};
use crate::keys::{KeySet, Recipient};
use crate::snapshot::folder::Folder;
use crate::snapshot::input::Input;
use crate::snapshot::open::{self, OpenSnapshot};
use crate::snapshot::options::BackupOptions;
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
    /// What stays although it should go, and why: old snapshots that the store does not let go of, and journals.
    pub left: Vec<String>,
}

/// Writes each snapshot in `scope` again, under a new data key that is sealed to `keys`' sealing keys; when all are written,
/// the old ones are removed as [`plan_removal`] demands it, and can be brought back within the grace period. What was encrypted
/// again before is passed over, unless `scope` names it.
///
/// A new snapshot exists once its manifest does, and counts; until the old one is removed both do. Interrupted, it does the rest
/// when it is run again. Journals stay as they are, and are named.
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
    let mut report = work.report;
    if !plan.remove.is_empty() {
        let planned = begun.elapsed();
        let done = apply_prune(repository, &plan, control).await?;
        let cluster = match scope {
            Scope::Cluster(cluster) => Some(cluster),
            _ => None,
        };
        store_report(repository, keys, &prune_report(&plan, &done, cluster, planned)).await?;
        let pinned = done
            .pinned
            .iter()
            .map(|id| format!("snapshot {id} was pinned after it was written again"));
        report.left.extend(done.refused.iter().cloned().chain(pinned));
        report.removed = done.removed;
    }
    report.left.extend(recorded(repository, keys, scope).await?);
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

/// The journals in `scope`: their data keys stay what they were.
async fn recorded(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
) -> Result<Option<String>> {
    let cluster = match scope {
        Scope::All => None,
        Scope::Cluster(cluster) => Some(cluster),
        Scope::Ids(_) => return Ok(None),
    };
    let count = match journals(repository, keys, cluster).await {
        Err(error) if error.kind() == ErrorKind::WrongKey => return Ok(Some(error.to_string())),
        found => found?.journals.len(),
    };
    let tell = || {
        format!(
            "{count} journal(s) are not encrypted again: who has an old key opens them; `strongroom prune --keep-continuous` removes them with time"
        )
    };
    Ok((count > 0).then(tell))
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
            return Ok(None);
        }
        // Whatever keeps the old one from being removed is said before a new one is written.
        let plan = match self.how.keep_old {
            true => None,
            false => Some(plan_removal(repository, keys, &[id]).await?),
        };
        let old = OpenSnapshot::open(repository, id, keys).await?;
        let new = match new {
            Some(new) => {
                let again = OpenSnapshot::open(repository, new, &self.keys.opening_all()).await;
                self.check_same(&old, again, new)?;
                new
            }
            None => self.write(id, folder, old).await?,
        };
        self.report.done.push((id, new));
        Ok(plan)
    }

    /// That `new`, which an earlier run wrote, has the database of `old`. What only keys elsewhere open counts, and was read
    /// back when it was written.
    fn check_same(
        &self,
        old: &OpenSnapshot,
        new: Result<OpenSnapshot>,
        id: SnapshotId,
    ) -> Result<()> {
        let digest = |one: &OpenSnapshot| one.database.index().database().sha256;
        match new {
            Err(error) if error.kind() == ErrorKind::WrongKey => Ok(()),
            Ok(new) if digest(&new) == digest(old) => Ok(()),
            Ok(_) => Err(Error::tampered(format!("{id} replaces it and has another database"))),
            Err(error) => Err(error.context("the snapshot that replaces it")),
        }
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
            seen: None,
        };
        let input = Input::Stored(Box::new(StoredInput::new(old.database, old.facts.etcd)));
        let written =
            write_snapshot(self.repository, self.keys, &options, self.control, content, input);
        written.await.map(|_| new)
    }

    /// That the new snapshot opens with every key that opens the old one, but those that are given up.
    async fn check_keys(&self, id: SnapshotId, folder: &Folder, old: &OpenSnapshot) -> Result<()> {
        let (seals, _) = all_seals(self.repository, id, folder).await?;
        let object = seals::manifest_digest(&old.manifest);
        for key in genuine(&seals, object, &old.data_key) {
            let state = self.keys.state(key);
            let goes = self.how.drop.contains(&key)
                || state.is_some_and(|state| state >= KeyState::Retiring);
            if !goes && !self.sealing.contains(&key) {
                let message = format!("key {key} opens it, and would not open the new snapshot");
                return Err(Error::new(ErrorKind::Refused, message).hint(format!(
                    "give that key or its recipient too, or leave it out with --drop {key}"
                )));
            }
        }
        Ok(())
    }
}

/// The keys in those of `seals` that somebody with the data key made.
fn genuine(seals: &[crate::format::Seal], object: Sha256, data_key: &DataKey) -> BTreeSet<KeyId> {
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
