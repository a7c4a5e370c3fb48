//! What a removal comes to, before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};

use super::policy::Retention;
use super::proved::last_proved;
use crate::backup::control::{Control, Unit};
use crate::backup::folder::{self, Folder};
use crate::backup::grace::GRACE;
use crate::backup::snapshot;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{ClusterName, Manifest, SnapshotId};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Manifests and seals read at once.
const READS: usize = 256;

/// A snapshot that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keeping {
    /// The snapshot.
    pub id: SnapshotId,
    /// Whose it is.
    pub cluster: ClusterName,
    /// Why.
    pub reasons: Vec<&'static str>,
}

/// A snapshot that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removal {
    /// The snapshot.
    pub id: SnapshotId,
    /// Whose it is.
    pub cluster: ClusterName,
    /// Length of its payload, which stays for the grace period, and as long as others use it.
    pub payload_bytes: u64,
    /// Whether kept snapshots use its payload.
    pub in_use: bool,
    /// What is deleted now, in this order, once the tombstone stands.
    pub(super) objects: Vec<String>,
}

/// What is left of an earlier removal or of a writer that died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    pub(super) id: SnapshotId,
    pub(super) objects: Vec<String>,
    pub(super) bytes: u64,
}

/// What [`apply_prune`](super::apply_prune) is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunePlan {
    /// Snapshots that stay, oldest first.
    pub keep: Vec<Keeping>,
    /// Snapshots that go, oldest first.
    pub remove: Vec<Removal>,
    /// What the operator should look at.
    pub findings: Vec<String>,
    /// Payloads of snapshots that went before and that nothing uses any more, and what is left of writers that died.
    pub(super) leftovers: Vec<Leftover>,
    /// Tombstones of snapshots that are to be kept.
    pub(super) revive: Vec<SnapshotId>,
}

impl PrunePlan {
    /// Bytes that applying it frees now.
    pub fn frees(&self) -> u64 {
        self.leftovers.iter().map(|leftover| leftover.bytes).sum()
    }

    /// Folders of snapshots that went before, or were never finished, of which something is deleted: what nothing uses.
    pub fn swept(&self) -> impl Iterator<Item = SnapshotId> {
        self.leftovers.iter().map(|leftover| leftover.id)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.leftovers.is_empty() && self.revive.is_empty()
    }
}

/// Decides what `retention` keeps of `cluster`'s snapshots, or of each cluster's.
///
/// Only snapshots that `keys` authenticate count, and only they are removed: whoever can write to the store but holds
/// no key cannot push others out. What a kept snapshot depends on stays, and so does the last one that a report proves.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) when `retention` keeps nothing; those of the store.
pub async fn plan_prune(
    repository: &Repository,
    keys: &MasterKeys,
    retention: &Retention,
    cluster: Option<&ClusterName>,
    control: &Control,
) -> Result<PrunePlan> {
    if retention.is_empty() {
        return Err(Error::usage("nothing says what to keep")
            .hint("give at least one of --keep-last, --keep-hourly, … --keep-within"));
    }
    let mut plan = PrunePlan::default();
    let mut all = Known::read(repository, keys, cluster, &mut plan.findings, control).await?;
    let (proved, reported) = last_proved(repository, keys, &all.clusters).await?;
    // An object from the future would make everything old.
    all.clock = all.clock.max(reported).map(|clock| clock.min(SystemTime::now()));
    for (cluster, ids) in &all.clusters {
        for (id, mut reasons) in retention.keep(ids) {
            if proved.contains(&id) {
                reasons.push("last proved");
            }
            if !reasons.is_empty() {
                plan.keep.push(Keeping { id, cluster: cluster.clone(), reasons });
            } else if let Some(folder) = all.folders.get(&id) {
                plan.remove.push(removal(id, cluster, folder));
            }
        }
    }
    plan.keep.sort_by_key(|keeping| keeping.id);
    plan.remove.sort_by_key(|removal| removal.id);
    all.settle(&mut plan);
    Ok(plan)
}

pub(super) fn removal(id: SnapshotId, cluster: &ClusterName, folder: &Folder) -> Removal {
    Removal {
        id,
        cluster: cluster.clone(),
        payload_bytes: folder.length("payload").unwrap_or_default(),
        in_use: false,
        objects: headers(folder),
    }
}

/// A removed snapshot's objects but payload and tombstone, in the order of removal.
fn headers(folder: &Folder) -> Vec<String> {
    let others = folder.objects.iter().filter(|(part, _)| *part != "payload").map(|(_, info)| info);
    let all = folder.manifest.iter().chain(folder.seals.values()).chain(others);
    all.map(|info| info.name.clone()).collect()
}

/// What a repository holds.
struct Known {
    folders: BTreeMap<SnapshotId, Folder>,
    /// Every manifest and tombstone.
    manifests: BTreeMap<SnapshotId, Manifest>,
    /// What may be kept or removed: authenticated, and not from the future.
    clusters: BTreeMap<ClusterName, BTreeSet<SnapshotId>>,
    /// Every manifest and tombstone could be read: only then can a payload be known to be used by none.
    complete: bool,
    /// No later than it is, by the store's clock.
    clock: Option<SystemTime>,
}

impl Known {
    async fn read(
        repository: &Repository,
        keys: &MasterKeys,
        cluster: Option<&ClusterName>,
        findings: &mut Vec<String>,
        control: &Control,
    ) -> Result<Self> {
        let listed = folder::list_all(repository).await?;
        let folders = listed.snapshots;
        control.begin_counting("reading snapshots", Some(folders.len() as u64), Unit::Snapshots);
        let mut known = Self {
            clock: folders.values().filter_map(Folder::youngest).max(),
            manifests: BTreeMap::new(),
            clusters: BTreeMap::new(),
            complete: listed.foreign.is_empty(),
            folders: BTreeMap::new(),
        };
        findings.extend(listed.foreign.iter().map(|name| {
            format!(
                "{name} is none of ours: a newer version's, perhaps, so that no payload is deleted"
            )
        }));
        let now = SystemTime::now();
        let mut read = stream::iter(folders)
            .map(|(id, folder)| async move {
                let head = head(repository, keys, cluster, id, &folder).await;
                (id, folder, head)
            })
            .buffer_unordered(READS);
        while let Some((id, folder, head)) = read.next().await {
            control.check()?;
            control.step(crate::backup::Step::Advance(1));
            known.folders.insert(id, folder);
            let (manifest, authentic) = match head {
                Ok(Some(head)) => head,
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => {
                    known.complete = false;
                    findings.push(format!(
                        "snapshot {id}: {error}; no payload is deleted while that is so"
                    ));
                    continue;
                }
            };
            match authentic {
                Ok(true) if folder::is_ahead(id.begun(), now) => findings.push(format!(
                    "snapshot {id} comes from the future: it stays, and does not count"
                )),
                Ok(true) => {
                    let cluster = manifest.body().cluster.clone();
                    known.clusters.entry(cluster).or_default().insert(id);
                }
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => findings.push(format!("stays, and does not count: {error}")),
            }
            known.manifests.insert(id, manifest);
        }
        known.leave_out_what_lacks_payloads(findings);
        findings.sort();
        Ok(known)
    }

    /// What cannot be restored pushes nothing out that can.
    fn leave_out_what_lacks_payloads(&mut self, findings: &mut Vec<String>) {
        let Self { folders, manifests, clusters, .. } = self;
        let lacks = |source: &&SnapshotId| {
            folders.get(*source).is_none_or(|folder| folder.length("payload").is_none())
        };
        for ids in clusters.values_mut() {
            ids.retain(|id| {
                let sources = manifests.get(id).map(|one| &one.body().depends_on);
                let lacking = sources.and_then(|sources| sources.iter().find(lacks));
                if let Some(source) = lacking {
                    findings.push(format!(
                        "stays, and does not count: snapshot {id}: the payload of {source}, which it uses, is missing"
                    ));
                }
                lacking.is_none()
            });
        }
    }

    /// What becomes of payloads, tombstones and leftovers.
    fn settle(&self, plan: &mut PrunePlan) {
        let removed: BTreeSet<_> = plan.remove.iter().map(|removal| removal.id).collect();
        let kept: BTreeSet<_> = plan.keep.iter().map(|keeping| keeping.id).collect();
        // What is removed now gets a tombstone, which is young: all that there is names what it uses.
        let mut in_use = BTreeSet::new();
        let mut named = BTreeSet::new();
        for (id, manifest) in &self.manifests {
            let Some(folder) = self.folders.get(id) else { continue };
            let stays = folder.manifest.is_some() && !removed.contains(id);
            let young = folder.tombstone.as_ref().is_some_and(|info| !self.is_old(info.modified));
            let uses = manifest.body().depends_on.iter().copied().chain([*id]);
            if stays {
                in_use.extend(uses.clone());
            }
            if folder.manifest.is_some() || young {
                named.extend(uses);
            }
        }
        for removal in &mut plan.remove {
            removal.in_use = in_use.contains(&removal.id);
        }
        for (id, folder) in &self.folders {
            let keeps_payload = named.contains(id) || !self.complete;
            match (&folder.manifest, &folder.tombstone) {
                (Some(_), Some(_)) if kept.contains(id) => {
                    plan.findings
                        .push(format!("snapshot {id} was about to be removed, and is to be kept"));
                    plan.revive.push(*id);
                }
                (Some(_), _) => {}
                (None, tombstone) => {
                    let swept = Self::leftover(*id, folder, keeps_payload);
                    let due = tombstone.is_some()
                        || folder.youngest().is_some_and(|when| self.is_old(when));
                    if due && !swept.objects.is_empty() {
                        plan.leftovers.push(swept);
                    }
                }
            }
        }
    }

    fn leftover(id: SnapshotId, folder: &Folder, keeps_payload: bool) -> Leftover {
        let mut objects = headers(folder);
        if !keeps_payload {
            let payload = folder.objects.get("payload").into_iter();
            objects.extend(payload.chain(&folder.tombstone).map(|info| info.name.clone()));
        }
        let length =
            |name: &String| folder.every().find(|info| info.name == *name).map(|info| info.len);
        let bytes = objects.iter().filter_map(length).sum();
        Leftover { id, objects, bytes }
    }

    fn is_old(&self, modified: SystemTime) -> bool {
        let age = self.clock.and_then(|clock| clock.duration_since(modified).ok());
        age.unwrap_or(Duration::ZERO) > GRACE
    }
}

/// The manifest of a folder, or what its tombstone keeps of it; and whether a key at hand authenticates it, which for
/// what is not to be removed does not matter.
async fn head(
    repository: &Repository,
    keys: &MasterKeys,
    cluster: Option<&ClusterName>,
    id: SnapshotId,
    folder: &Folder,
) -> Result<Option<(Manifest, Result<bool>)>> {
    if folder.manifest.is_none() {
        if folder.tombstone.is_none() {
            return Ok(None);
        }
        return Ok(Some((snapshot::read_tombstone(repository, id).await?, Ok(false))));
    }
    let manifest = snapshot::read_manifest(repository, id).await?;
    if cluster.is_some_and(|cluster| *cluster != manifest.body().cluster) {
        return Ok(Some((manifest, Ok(false))));
    }
    let opened = snapshot::authenticate(repository, folder, keys, &manifest, &mut Vec::new()).await;
    let whole = opened.and_then(|_| snapshot::check_lengths(&manifest, folder));
    let authentic = whole.map(|()| true).context(format!("snapshot {id}"));
    Ok(Some((manifest, authentic)))
}
