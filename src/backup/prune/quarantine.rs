//! Folders and seals that nothing authenticates: named, and removed one by one by a person who has looked at them
//! (SPEC.md §3.3).

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt, stream};
use serde::Serialize;

use super::plan::{removal, sweep, unknown};
use super::planned::PrunePlan;
use super::steps::is_old;
use crate::envelope::{is_genuine, key_ids, open_seal};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{KeyId, MAX_MANIFEST, Part, Seal, SnapshotId, Time, serial};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::folder::{self, Folder};
use crate::snapshot::open;
use crate::snapshot::seals::{self, Tried};
use crate::store::Repository;
use crate::task::{Control, Step, Unit};

/// How long what was removed here can be looked at again before its objects are deleted ([S3.3.10]).
pub const QUARANTINE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Folders looked at at once, and seals read and deleted at once.
const AT_ONCE: usize = 32;

/// A folder that authenticates with nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Suspect {
    /// The folder.
    pub id: SnapshotId,
    /// Objects in it.
    pub objects: usize,
    /// Their length.
    pub stored_bytes: u64,
    /// When the store says that the last of them was written.
    #[serde(serialize_with = "serial::time")]
    pub written: Option<SystemTime>,
    /// When it was removed; its objects can be deleted 30 days later.
    #[serde(serialize_with = "serial::time")]
    pub removed: Option<SystemTime>,
    /// What is wrong with it.
    pub why: String,
}

impl Suspect {
    fn new(id: SnapshotId, folder: &Folder, why: String) -> Self {
        let removed = folder.tombstone.as_ref().filter(|_| folder.manifest.is_none());
        Self {
            id,
            objects: folder.every().count(),
            stored_bytes: folder.every().map(|info| info.len).sum(),
            written: folder.every().map(|info| info.modified).max(),
            removed: removed.map(|info| info.modified),
            why,
        }
    }
}

/// What a folder with a manifest or a tombstone is.
enum Verdict {
    /// A seal authenticates it, whatever it is worth.
    Authentic,
    /// Whether one does is unknown: why.
    Unknown(String),
    /// None does: why.
    Suspect(String),
}

/// The folders that authenticate with nothing, oldest first.
///
/// # Errors
/// [`ErrorKind::Refused`] when nothing in the repository authenticates with `keys`; those of the store.
pub async fn suspects(
    repository: &Repository,
    keys: &KeySet,
    control: &Control,
) -> Result<Vec<Suspect>> {
    let (folders, keys) = (with_head(repository).await?, &keys.opening_all().sparing());
    control.begin_counting("reading snapshots", Some(folders.len() as u64), Unit::Snapshots);
    let mut examined = stream::iter(folders)
        .map(|(id, folder)| async move {
            let verdict = examine(repository, keys, id, &folder).await;
            (id, folder, verdict)
        })
        .buffered(AT_ONCE);
    let (mut found, mut authentic) = (Vec::new(), 0);
    while let Some((id, folder, verdict)) = examined.next().await {
        control.check()?;
        control.step(Step::Advance(1));
        match verdict? {
            Verdict::Authentic => authentic += 1,
            Verdict::Unknown(_) => {}
            Verdict::Suspect(why) => found.push(Suspect::new(id, &folder, why)),
        }
    }
    match authentic {
        0 => Err(nothing_authenticates()),
        _ => Ok(found),
    }
}

/// A plan that removes the folders `ids`, each of which authenticates with nothing. Their objects are deleted by a plan of
/// the same kind, 30 days later.
///
/// # Errors
/// [`ErrorKind::Refused`] for a folder that authenticates, or of which that is unknown, and when nothing in the repository
/// authenticates with `keys`; [`ErrorKind::NotFound`]; those of the store.
pub async fn plan_quarantine(
    repository: &Repository,
    keys: &KeySet,
    ids: &[SnapshotId],
    control: &Control,
) -> Result<PrunePlan> {
    let (folders, keys) = (with_head(repository).await?, &keys.opening_all().sparing());
    let clock = folders.values().flat_map(Folder::every).map(|info| info.modified).max();
    let clock = clock.map(|clock| clock.min(SystemTime::now()));
    something_authenticates(repository, keys, &folders, control).await?;
    let mut plan = PrunePlan::default();
    for id in ids {
        let named = format!("snapshot {id}");
        let Some(folder) = folders.get(id) else {
            let message = format!("{named}: no folder with a manifest");
            return Err(Error::new(ErrorKind::NotFound, message).hint(
                "`strongroom prune --quarantine` lists such folders; what has no manifest, `prune` deletes by itself",
            ));
        };
        add(repository, keys, (*id, folder), clock, &mut plan).await.context(named)?;
    }
    Ok(plan)
}

/// Adds one folder to the plan, if it may be removed.
async fn add(
    repository: &Repository,
    keys: &KeySet,
    (id, folder): (SnapshotId, &Folder),
    clock: Option<SystemTime>,
    plan: &mut PrunePlan,
) -> Result<()> {
    let refused = |why: String| Err(Error::new(ErrorKind::Refused, why));
    match examine(repository, keys, id, folder).await? {
        Verdict::Authentic => {
            return refused("it is authentic".into())
                .map_err(|error: Error| error.hint(format!("`strongroom prune --remove {id}`")));
        }
        Verdict::Unknown(why) => {
            return refused(format!("whether it is authentic is unknown: {why}"));
        }
        Verdict::Suspect(_) => {}
    }
    if folder.keep.is_some() {
        return refused(format!("it is pinned (`strongroom prune --unpin {id}` allows it)"));
    }
    if let Some(why) = unknown(folder) {
        return refused(why);
    }
    match (&folder.manifest, &folder.tombstone) {
        (Some(manifest), _) if manifest.len > MAX_MANIFEST as u64 => refused(format!(
            "{} has {} bytes, too many to be kept as a tombstone: delete it in the store",
            manifest.name, manifest.len
        )),
        (Some(_), _) => {
            plan.remove.push(removal(id, None, folder));
            Ok(())
        }
        (None, Some(tombstone)) if is_old(clock, tombstone.modified, QUARANTINE) => {
            sweep(id, folder, None, plan);
            Ok(())
        }
        (None, Some(tombstone)) => {
            let (removed, due) = (tombstone.modified, tombstone.modified + QUARANTINE);
            plan.findings.push(format!(
                "snapshot {id} was removed at {}; from {} on the same command deletes its objects",
                Time::from(removed),
                Time::from(due)
            ));
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Deletes the seals of `id` that fail; the names of those that are gone. Once one has opened, all fail that nobody with the
/// data key made; before, those that fail for the keys that they name, if all of these are available.
///
/// # Errors
/// [`ErrorKind::Refused`] unless the snapshot counts by another seal; those of SPEC.md §8 when none opens; those of the
/// store.
pub async fn remove_failing_seals(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    control: &Control,
) -> Result<Vec<String>> {
    let folder = folder::list_one(repository, id).await?;
    let manifest =
        open::read_head(repository, id, &folder).await.context(format!("snapshot {id}"))?;
    let mut tried = Tried::new(&manifest, keys, false);
    control.begin("reading seals", None);
    let (mut failing, mut suspect) = (Vec::new(), Vec::new());
    let mut all = pin!(read_seals(repository, id, folder.seals.keys().copied().collect()));
    while let Some((generation, seal)) = all.next().await {
        control.check()?;
        match &seal {
            Err(error) if error.kind().is_general() => return seal.map(|_| Vec::new()),
            Err(error) if error.kind() == ErrorKind::NotFound || is_unread(error) => {}
            Err(_) => failing.push(Part::Seal(generation).of(id)),
            Ok(_) => suspect.push(generation),
        }
        if tried.add(generation, seal).await?.is_some_and(Standing::counts) {
            suspect.pop();
        }
    }
    let judged = tried.finish().context(format!("snapshot {id}"))?.judged;
    if !judged.standing.counts() {
        let standing = judged.standing;
        let message =
            format!("snapshot {id}: none of its seals counts ({standing}), so none is deleted");
        return Err(Error::new(ErrorKind::Refused, message));
    }
    // Only what is asked for once more: so many would not fit into memory.
    let mut suspect = pin!(read_seals(repository, id, suspect));
    while let Some((generation, seal)) = suspect.next().await {
        control.check()?;
        let seal = match seal {
            Err(error) if error.kind().is_general() => return Err(error),
            Err(_) => continue,
            Ok(seal) => seal,
        };
        let is_junk = match &judged.opened {
            Some(opened) => !is_genuine(&seal, &opened.data_key),
            None => {
                undecided(&seal, keys).is_none()
                    && open_seal(&seal, seal.body().object(), keys).await.is_err()
            }
        };
        if is_junk {
            failing.push(Part::Seal(generation).of(id));
        }
    }
    delete_all(repository, &failing, control).await?;
    Ok(failing)
}

async fn delete_all(repository: &Repository, names: &[String], control: &Control) -> Result<()> {
    let mut deleted = stream::iter(names.to_vec())
        .map(|name| async move {
            control.check()?;
            repository.delete(&name).await
        })
        .buffered(AT_ONCE);
    while let Some(done) = deleted.next().await {
        done?;
    }
    Ok(())
}

fn read_seals(
    repository: &Repository,
    id: SnapshotId,
    generations: Vec<u32>,
) -> impl Stream<Item = (u32, Result<Seal>)> {
    stream::iter(generations)
        .map(move |number| async move { (number, seals::read_seal(repository, id, number).await) })
        .buffered(AT_ONCE)
}

/// The folders with a manifest or a tombstone.
async fn with_head(repository: &Repository) -> Result<BTreeMap<SnapshotId, Folder>> {
    let mut folders = folder::list_all(repository).await?.snapshots;
    folders.retain(|_, folder| folder.manifest.is_some() || folder.tombstone.is_some());
    Ok(folders)
}

/// Keys that open nothing say nothing about a folder that they do not open.
async fn something_authenticates(
    repository: &Repository,
    keys: &KeySet,
    folders: &BTreeMap<SnapshotId, Folder>,
    control: &Control,
) -> Result<()> {
    for (id, folder) in folders.iter().rev() {
        control.check()?;
        if matches!(examine(repository, keys, *id, folder).await?, Verdict::Authentic) {
            return Ok(());
        }
    }
    Err(nothing_authenticates())
}

fn nothing_authenticates() -> Error {
    Error::new(ErrorKind::Refused, "nothing in this repository authenticates with these keys")
        .hint("give the master keys of its snapshots; with other keys everything looks planted")
}

async fn examine(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    folder: &Folder,
) -> Result<Verdict> {
    let head = open::read_head(repository, id, folder).await;
    let authentic = match head {
        Ok(manifest) => {
            seals::authenticate(repository, folder, keys, &manifest).await.map(|one| one.judged)
        }
        Err(error) => Err(error),
    };
    let why = match authentic {
        Ok(judged) if judged.is_authentic() => return Ok(Verdict::Authentic),
        Ok(judged) => return Ok(Verdict::Unknown(judged.standing.to_string())),
        Err(error) if error.kind().is_general() => return Err(error),
        Err(error) if error.kind() == ErrorKind::WrongKey || is_unread(&error) => {
            return Ok(Verdict::Unknown(error.to_string()));
        }
        Err(error) => error.to_string(),
    };
    let (generations, all) = seals::generations(folder);
    if !all {
        let hint = format!("`strongroom prune --quarantine {id} --seals` removes those that fail");
        return Ok(Verdict::Unknown(format!("{}; {hint}", seals::too_many(id))));
    }
    for generation in generations {
        match seals::read_seal(repository, id, generation).await {
            Err(error) if error.kind().is_general() => return Err(error),
            Err(error) if is_unread(&error) || error.kind().is_away() => {
                return Ok(Verdict::Unknown(error.to_string()));
            }
            Err(_) => {}
            Ok(seal) => {
                if let Some(why) = undecided(&seal, keys) {
                    return Ok(Verdict::Unknown(why));
                }
                if open_seal(&seal, seal.body().object(), keys).await.is_ok() {
                    let name = Part::Seal(generation).of(id);
                    return Ok(Verdict::Unknown(format!(
                        "{name} is genuine, so its manifest was changed or damaged"
                    )));
                }
            }
        }
    }
    Ok(Verdict::Suspect(why))
}

/// Whether it says nothing of the object: a newer version may read it, or the store did not give it out.
fn is_unread(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Protocol)
}

/// Why the keys that are available cannot tell that a seal is worth nothing.
fn undecided(seal: &Seal, keys: &KeySet) -> Option<String> {
    if let Some(key) = key_ids(seal).into_iter().find(|key| !keys.holds(*key)) {
        return Some(format!("its seal names key {key}, which is not available"));
    }
    let mut stanzas = seal.body().stanzas().iter();
    if let Some(stanza) = stanzas.find(|one| keys.would_ask(one) && !keys.may_ask(false)) {
        let key = stanza.key_id();
        return Some(format!("key {key} is not asked to open what no trusted signer signed"));
    }
    let is_known = |id: KeyId| keys.signers().iter().any(|signer| signer.key.id() == id);
    let signature = seal.body().signatures().iter().find(|one| !is_known(one.key_id))?;
    Some(format!("it is signed by {}, who is not known here", signature.key_id))
}
