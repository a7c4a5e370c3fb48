//! The two steps of a removal, of a snapshot or of a journal (SPEC.md §3.3, §13.1).

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    JournalHead, JournalPart, MAX_HEAD, MAX_MANIFEST, Manifest, Part, SnapshotId, names,
};
use crate::store::Repository;

/// What a sweep mark says.
const SWEEP: &str = "strongroom-sweep/1\n";
/// What a keep mark begins with; a line of reason follows.
const KEEP: &str = "strongroom-keep/1\n";
/// Why what was brought back is pinned.
pub(super) const UNDONE: &str = "its removal was undone";
/// The longest manifest or head.
const LONGEST: u64 = if MAX_MANIFEST > MAX_HEAD { MAX_MANIFEST } else { MAX_HEAD } as u64;

/// What a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Snapshot(SnapshotId),
    Journal(SnapshotId),
}

impl Of {
    /// It exists while this does: its manifest, or its head.
    fn head(self) -> String {
        self.name(&Part::Manifest, JournalPart::Head)
    }

    pub(super) fn tombstone(self) -> String {
        self.name(&Part::Tombstone, JournalPart::Tombstone)
    }

    fn sweep(self) -> String {
        self.name(&Part::Sweep, JournalPart::Sweep)
    }

    fn keep(self) -> String {
        self.name(&Part::Keep, JournalPart::Keep)
    }

    fn folder(self) -> String {
        match self {
            Self::Snapshot(id) => format!("snapshots/{id}"),
            Self::Journal(id) => format!("{}{id}", names::JOURNALS),
        }
    }

    fn name(self, part: &Part, of_journal: JournalPart) -> String {
        match self {
            Self::Snapshot(id) => part.of(id),
            Self::Journal(id) => of_journal.of(id),
        }
    }

    /// Whether it exists, and was not removed.
    pub(super) async fn is_there(self, repository: &Repository) -> Result<bool> {
        exists(repository, &self.head()).await
    }

    /// That `head` is its manifest or head. A proxy may have answered in the store's place, and a tombstone with such bytes
    /// would bring nothing back.
    fn check_head(self, head: &[u8]) -> Result<()> {
        let names_it = match self {
            Self::Snapshot(id) => Manifest::parse(head)?.body().snapshot == id,
            Self::Journal(id) => JournalHead::parse(head)?.body().journal == id,
        };
        match names_it {
            true => Ok(()),
            false => Err(Error::tampered("it names another one")),
        }
    }

    /// Whether its keep mark is there.
    pub(super) async fn is_pinned(self, repository: &Repository) -> Result<bool> {
        exists(repository, &self.keep()).await
    }

    /// Lets retention decide about it again.
    pub(super) async fn unpin(self, repository: &Repository) -> Result<()> {
        repository.delete(&self.keep()).await
    }

    /// Puts its sweep mark, unless there is one.
    pub(super) async fn mark_to_sweep(self, repository: &Repository) -> Result<()> {
        put_mark(repository, &self.sweep(), SWEEP.into()).await
    }

    /// Pins it.
    pub(super) async fn mark_to_keep(self, repository: &Repository, reason: &str) -> Result<()> {
        put_mark(repository, &self.keep(), format!("{KEEP}{reason}\n")).await
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
            Self::Journal(id) => write!(f, "journal {id}"),
        }
    }
}

/// What lies beside a manifest or head already, from an interrupted removal or planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OldMarks {
    /// A tombstone: when it was put.
    pub(super) tombstone: Option<SystemTime>,
    /// A mark of a sweep.
    pub(super) mark: bool,
}

/// What is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub(super) of: Of,
    /// Whether its manifest or head was authentic; quarantine removes those that are not.
    pub(super) authentic: bool,
    pub(super) old: OldMarks,
}

/// The objects of a removed snapshot or journal, or of a writer that died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sweep {
    pub(super) of: Of,
    /// In the order of deletion.
    pub(super) objects: Vec<String>,
    pub(super) bytes: u64,
}

/// Whether what was written at `modified` is as old as `grace` by the store's `clock`.
pub(super) fn is_old(clock: Option<SystemTime>, modified: SystemTime, grace: Duration) -> bool {
    let age = clock.and_then(|clock| clock.duration_since(modified).ok());
    age.is_some_and(|age| age >= grace)
}

/// Step one of a removal: from then on it is in no list. False for what was pinned since it was planned.
pub(super) async fn remove(repository: &Repository, planned: Planned) -> Result<bool> {
    let Planned { of, authentic, old } = planned;
    let (head, tombstone, keep) = (of.head(), of.tombstone(), of.keep());
    let listed = repository.list(&of.folder()).await?;
    if listed.iter().any(|info| info.name == keep) {
        return Ok(false);
    }
    let bytes = match repository.get(&head, LONGEST).await {
        // Another prune was faster, and its tombstone stays.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        read => read?,
    };
    if authentic {
        of.check_head(&bytes).context(&head)?;
    }
    // An old one would be swept at once. One that came after the plan is of another prune at work.
    let there = listed.iter().find(|info| info.name == tombstone).map(|info| info.modified);
    if there.is_some() && there == old.tombstone {
        repository.delete(&tombstone).await?;
    }
    // Beside a head nothing is swept: an interrupted sweep left it, or it was planted to prevent an undo.
    if old.mark {
        repository.delete(&of.sweep()).await?;
    }
    repository.put_once(&tombstone, bytes.clone()).await?;
    if let Err(error) = repository.delete(&head).await {
        // It stays, and is to be seen; unless it is gone: the answer to a first attempt may have been lost, and a second one
        // refused. Then the tombstone is all that names it.
        if error.kind() == ErrorKind::Denied && of.is_there(repository).await.is_ok_and(|is| is) {
            let _ = repository.delete(&tombstone).await;
        }
        return Err(error);
    }
    if exists(repository, &keep).await? {
        repository.put_once(&head, bytes).await?;
        repository.delete(&tombstone).await?;
        return Ok(false);
    }
    // Another prune may have taken the tombstone for an old one, and deleted it.
    if !exists(repository, &tombstone).await? {
        repository.put_once(&tombstone, bytes).await?;
    }
    Ok(true)
}

/// Step two: deletes all that is left, each object only while there is no manifest or head.
pub(super) async fn sweep_folder(repository: &Repository, sweep: &Sweep) -> Result<()> {
    let of = sweep.of;
    of.mark_to_sweep(repository).await?;
    let mark = of.sweep();
    for name in sweep.objects.iter().filter(|name| **name != mark) {
        if of.is_there(repository).await? {
            repository.delete(&mark).await?;
            let (what, command) = match of {
                Of::Snapshot(_) => ("manifest", "strongroom verify"),
                Of::Journal(_) => ("head", "strongroom journal verify"),
            };
            return Err(Error::new(ErrorKind::Refused, format!("{of} has a {what} again")).hint(
                format!("somebody brought it back while it was being swept: run `{command}`"),
            ));
        }
        repository.delete(name).await?;
    }
    repository.delete(&mark).await
}

async fn exists(repository: &Repository, name: &str) -> Result<bool> {
    match repository.len(name).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts a mark, unless there is one.
async fn put_mark(repository: &Repository, name: &str, text: String) -> Result<()> {
    if exists(repository, name).await? {
        return Ok(());
    }
    match repository.put_once(name, text.into_bytes().into()).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        put => put,
    }
}
