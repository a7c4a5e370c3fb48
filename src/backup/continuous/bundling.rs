//! Journals that have ended are bundled beside the recording, and an hour later the segments go that a bundle replaces.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::opened::{Extent, Journals};
use crate::crypto::Suite;
use crate::envelope::kept_stanzas;
use crate::error::{ErrorKind, Result};
use crate::format::{ClusterName, EndBody, EndObjects, EndReason, SnapshotId};
use crate::journal::bundle::{Ended, bundle, delete_replaced};
use crate::journal::folder::{self, Folder};
use crate::journal::open::{Bundled, OpenJournal};
use crate::journal::read::ReadJournal;
use crate::keys::KeySet;
use crate::store::Repository;
use crate::task::{Control, JournalStep, Step};
use crate::text::counted;

/// How long segments stay beside their bundle: somebody may be reading them.
const READING: Duration = Duration::from_secs(3600);
/// A journal without an end in which nothing was stored for so long has no recorder any more.
const SILENT: Duration = Duration::from_secs(2 * 3600);
/// How far back journals are looked for that nobody has bundled.
const BACK: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often it is looked whether something is to be done.
const OFTEN: Duration = Duration::from_secs(60);
/// How often it is looked for what other recorders left.
const AGAIN: Duration = Duration::from_secs(3600);
/// Fewer segments are not worth a bundle.
const FEWEST: u64 = 2;

/// Bundles what the recording ends, and what earlier recorders left.
pub(super) async fn run(
    (repository, keys): (&Repository, &KeySet),
    (cluster, suite): (&ClusterName, Suite),
    mut ended: mpsc::UnboundedReceiver<Arc<Ended>>,
    control: &Control,
) -> Infallible {
    let mut bundling = Bundling::new(repository, keys, suite, control);
    let (mut looked, mut is_told): (Option<Instant>, bool) = (None, false);
    loop {
        // Other recorders are killed meanwhile, too.
        if looked.is_none_or(|at| at.elapsed() >= AGAIN) {
            let since = SystemTime::now().checked_sub(BACK).unwrap_or(SystemTime::UNIX_EPOCH);
            match bundling.look_back(cluster, since).await {
                Ok(()) => (looked, is_told) = (Some(Instant::now()), false),
                Err(error) if !std::mem::replace(&mut is_told, true) => {
                    bundling.note(format!("earlier journals are not bundled now: {error}"));
                }
                Err(_) => {}
            }
        }
        bundling.delete_due().await;
        bundling.bundle_next().await;
        bundling.tell();
        tokio::select! {
            Some(one) = ended.recv() => {
                bundling.own.push_back(one);
                bundling.tell();
            }
            () = sleep(OFTEN) => {}
        }
    }
}

/// Bundles what recorders of `cluster` left since then, and deletes segments that bundles have replaced for an hour. How many
/// journals have a new bundle.
///
/// # Errors
/// Those of the store and of the keys.
pub async fn bundle_journals(
    repository: &Repository,
    keys: &KeySet,
    cluster: &ClusterName,
    (suite, since): (Suite, SystemTime),
    control: &Control,
) -> Result<usize> {
    let mut bundling = Bundling::new(repository, keys, suite, control);
    bundling.look_back(cluster, since).await?;
    bundling.delete_due().await;
    let mut bundled = 0_usize;
    for one in std::mem::take(&mut bundling.left) {
        bundle(repository, keys, &one, suite, &std::env::temp_dir()).await?;
        bundled = bundled.saturating_add(1);
    }
    Ok(bundled)
}

struct Bundling<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    suite: Suite,
    control: &'a Control,
    /// Journals of this recording, which have ended.
    own: VecDeque<Arc<Ended>>,
    /// Those that earlier recorders left, the newest last.
    left: Vec<Arc<Ended>>,
    /// Those that could not be bundled since it was last looked for what is left.
    failed: u64,
    /// Bundles, and since when they are there.
    due: Vec<(Bundled, SystemTime)>,
    /// Whether segments can be deleted here; `None` before that was tried.
    deletes: Option<bool>,
}

impl<'a> Bundling<'a> {
    fn new(
        repository: &'a Repository,
        keys: &'a KeySet,
        suite: Suite,
        control: &'a Control,
    ) -> Self {
        let (own, left, due) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { repository, keys, suite, control, own, left, failed: 0, due, deletes: None }
    }

    fn note(&self, note: String) {
        self.control.step(Step::Note(note));
    }

    /// Tells how many journals are still to be bundled.
    fn tell(&self) {
        let waits = self.own.len().saturating_add(self.left.len()) as u64;
        let journals = match self.deletes {
            // Nothing is bundled where segments cannot be deleted.
            Some(false) => 0,
            _ => waits.saturating_add(self.failed),
        };
        self.control.step(Step::Journal(JournalStep::Unbundled { journals }));
    }

    /// Bundles what waits for it. What the store does not take now is tried again.
    async fn bundle_next(&mut self) {
        while let Some(one) = self.own.pop_front() {
            if !self.try_bundle(&one).await {
                self.own.push_front(one);
                return;
            }
        }
        // Where an object lock keeps the segments, a bundle would only be stored in addition: one shows whether it does.
        while let Some(one) = self.left.pop() {
            if !self.try_bundle(&one).await {
                self.left.push(one);
                return;
            }
            if self.deletes.is_none() {
                return;
            }
        }
    }

    /// Bundles a journal. False if that is to be tried again.
    async fn try_bundle(&mut self, one: &Ended) -> bool {
        if self.deletes == Some(false) || one.end.segments < FEWEST {
            return true;
        }
        let id = one.head.journal;
        match bundle(self.repository, self.keys, one, self.suite, &std::env::temp_dir()).await {
            Ok(bundled) => {
                let segments = bundled.segments;
                self.note(format!(
                    "journal {id}: one object holds its {}, too",
                    counted(segments, "segment")
                ));
                self.due.push((bundled, SystemTime::now()));
                true
            }
            Err(error) if error.kind() == ErrorKind::Unreachable => false,
            Err(error) => {
                self.note(format!("journal {id} is not bundled, and stays in segments: {error}"));
                self.failed = self.failed.saturating_add(1);
                true
            }
        }
    }

    /// Deletes the segments of bundles that are there for long enough.
    async fn delete_due(&mut self) {
        let is_due = |since: &SystemTime| since.elapsed().is_ok_and(|age| age >= READING);
        let all = std::mem::take(&mut self.due).into_iter();
        let (due, waits): (Vec<_>, Vec<_>) = all.partition(|(_, since)| is_due(since));
        self.due = waits;
        for (bundled, since) in due {
            if self.deletes == Some(false) {
                return;
            }
            match delete_replaced(self.repository, bundled).await {
                Ok(_) => self.deletes = Some(true),
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    self.due.push((bundled, since))
                }
                Err(error) if !error.kind().is_general() => {
                    let id = bundled.id;
                    self.note(format!("journal {id}: its segments are not deleted: {error}"));
                }
                Err(error) => {
                    self.deletes = Some(false);
                    self.note(format!(
                        "segments cannot be deleted here, so journals stay in segments: {error}"
                    ));
                }
            }
        }
    }

    /// Finds what other recorders left.
    async fn look_back(&mut self, cluster: &ClusterName, since: SystemTime) -> Result<()> {
        let (repository, keys) = (self.repository, self.keys);
        if keys.is_blind() {
            return Ok(());
        }
        let (folders, _) = folder::list_all(repository).await?;
        let is_left = |id: &SnapshotId, folder: &Folder| id.begun() >= since && is_left(folder);
        let without_end = folders.iter().find(|(id, one)| is_left(id, one) && one.ends.is_empty());
        let from = without_end.map(|(id, _)| *id);
        // What follows a journal without an end tells how much of it counts.
        let chosen = |id: &SnapshotId, folder: &Folder| {
            is_left(id, folder) || from.is_some_and(|from| *id >= from)
        };
        let folders = (folders, Vec::new());
        let (mut journals, _) =
            Journals::open_chosen(repository, keys, cluster, folders, chosen).await?;
        let extents = journals.extents(repository, keys).await?;
        // What waits, or failed, is found again.
        self.left.clear();
        self.failed = 0;
        let own: BTreeSet<_> = self.own.iter().map(|one| one.head.journal).collect();
        let ids: Vec<_> = journals.open.keys().copied().filter(|id| !own.contains(id)).collect();
        // One that cannot be read may name more segments than the others.
        let unread = journals.check_read().err();
        if let Some(error) = &unread {
            self.note(format!("earlier journals get no end now: {error}"));
        }
        for id in ids {
            let ends_at =
                journals.ends_at(id, !keys.signers().is_empty()).filter(|_| unread.is_none());
            let Some((journal, folder)) = journals.open.remove(&id) else { continue };
            if !journal.standing.counts() || !is_left(&id, &folder) {
                continue;
            }
            if journal.check_read().is_err() {
                self.failed = self.failed.saturating_add(1);
                continue;
            }
            if let Some((bundled, replaced)) = journal.replaced(&folder) {
                let since = folder.ends.get(&bundled.number).map(|info| info.modified);
                let since = since.filter(|_| !replaced.is_empty());
                self.due.retain(|(other, _)| other.id != id);
                self.due.extend(since.map(|since| (bundled, since)));
            } else if self.may_seal(&journal) {
                let ended = match journal.end {
                    Some(_) => self.ended(journal),
                    None => match ends_at {
                        Some(count) => {
                            self.end(journal, &folder, (extents.get(&id), count)).await?
                        }
                        None => None,
                    },
                };
                self.left.extend(ended.map(Arc::new));
            }
        }
        Ok(())
    }

    /// Whether a seal from here is worth what the present one is.
    fn may_seal(&self, journal: &OpenJournal) -> bool {
        let keys = self.keys;
        let is_unsigned = journal.seal.body().signatures().is_empty();
        // A bundle takes the place of what others signed: when this signer is revoked, that is to count as before.
        let is_own = |key| journal.seal.body().signatures().iter().all(|one| one.key_id == key);
        let signs = match keys.signing() {
            Some(key) => is_own(key.public().id()),
            None => is_unsigned && keys.signers().is_empty(),
        };
        signs && kept_stanzas(&journal.seal, keys, &[]).is_empty()
    }

    /// What is known of `journal`, which has an end.
    fn ended(&self, journal: OpenJournal) -> Option<Ended> {
        let (head, data_key, end) = (journal.head, journal.data_key, journal.end?);
        // A bundle that is gone leaves nothing to bundle.
        let is_in_segments = matches!(end.objects, EndObjects::Segments(_));
        is_in_segments.then_some(Ended { head, data_key, end })
    }

    /// Writes the end of a journal whose recorder did not, if all `count` segments of it that count can be read: what an end
    /// does not name never counts again.
    async fn end(
        &self,
        journal: OpenJournal,
        folder: &Folder,
        (extent, count): (Option<&Extent>, u64),
    ) -> Result<Option<Ended>> {
        let (repository, keys) = (self.repository, self.keys);
        let (id, head, data_key) =
            (journal.id(), journal.head.clone(), Arc::clone(&journal.data_key));
        let dir = std::env::temp_dir();
        let mut read = ReadJournal::fetch(repository, keys, journal, folder, &dir).await?;
        let _ = extent.and_then(|extent| extent.cut(&mut read));
        let is_all = |segments: &Vec<_>| count > 0 && segments.len() as u64 == count;
        let Some(segments) = read.entries().filter(is_all) else {
            return Ok(None);
        };
        let end = EndBody {
            origin: head.origin,
            journal: id,
            cluster: head.cluster.clone(),
            segments: segments.len() as u64,
            last: read.last().unsigned_abs(),
            complete_ms: read.survey.complete_ms,
            reason: EndReason::UNKNOWN,
            objects: EndObjects::Segments(segments),
            commitment: data_key.commitment(),
        };
        let ended = Ended { head, data_key, end };
        ended.store_end(repository, keys).await?;
        self.note(format!("journal {id} has an end now: its recorder was killed"));
        Ok(Some(ended))
    }
}

/// Whether a journal is not bundled, or not all of what is there is needed: it has an end, or its recorder is gone.
fn is_left(folder: &Folder) -> bool {
    let newest = || folder.own().map(|info| info.modified).max();
    let is_silent = || newest().is_some_and(|at| at.elapsed().is_ok_and(|age| age >= SILENT));
    let has_more = !folder.segments.is_empty() || folder.bundles.len() > 1;
    folder.head.is_some() && has_more && (!folder.ends.is_empty() || is_silent())
}
