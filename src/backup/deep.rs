//! etcd's own structure inside a snapshot, proved: bolt's pages, the history of revisions, HashKV.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use crate::bolt::Db;
use crate::error::{Error, Result};
use crate::format::HashKvFacts;
use crate::mvcc::{self, HashKv, Inconclusive, RecordSource};
use crate::snapshot::inside::Frames;
use crate::snapshot::open::OpenSnapshot;
use crate::snapshot::read::{Follower, Place, read_all};
use crate::task::Control;
use crate::task::Scratch;
use crate::task::run_blocking;

/// What etcd's structure in a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Deep {
    /// Pages of the database.
    pub pages: u64,
    /// Those that no tree reaches: free, with what was deleted still in them.
    pub free_pages: u64,
    /// Changes in the history, deletions included.
    pub records: u64,
    /// What became of the HashKV that etcd's members gave when the backup was taken.
    #[serde(rename = "hash_kv")]
    pub hash: HashCheck,
}

impl Serialize for HashCheck {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        out.serialize_str(match self {
            Self::Equal => "equal",
            Self::Inconclusive(_) => "inconclusive",
            Self::NotRecorded => "not recorded",
        })
    }
}

/// A HashKV computed anew, beside the one recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashCheck {
    /// They are equal.
    Equal,
    /// It cannot be computed from this database, which says nothing against it.
    Inconclusive(String),
    /// None was recorded: the snapshot was made from a file, or the members were not asked.
    NotRecorded,
}

impl fmt::Display for Deep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, pages, free_pages, .. } = self;
        write!(f, "{records} records in {pages} pages, {free_pages} free; ")?;
        match &self.hash {
            HashCheck::Equal => f.write_str("HashKV as etcd answered it"),
            HashCheck::Inconclusive(why) => write!(f, "HashKV inconclusive: {why}"),
            HashCheck::NotRecorded => f.write_str("no HashKV recorded"),
        }
    }
}

/// Reads the whole database, as [`verify`](super::verify) does, and walks over it.
///
/// It is spooled in `spool` meanwhile, encrypted under a key that is never written.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when a page, a record or the hash is not what it must be.
pub(super) async fn walk(
    snapshot: &OpenSnapshot,
    spool: Arc<Scratch>,
    control: &Control,
) -> Result<Deep> {
    let reader = &snapshot.database;
    let frames = || {
        let (sender, coming) = mpsc::channel(1);
        (sender, Frames::following(reader.clone(), spool.clone(), coming))
    };
    let ((pages, for_pages), (records, for_hash)) = (frames(), frames());
    let recorded = snapshot.facts.etcd.hash_kv.clone();
    let structure = run_blocking(move || mvcc::check_all(&Db::open(for_pages)?));
    let hash = run_blocking(move || match recorded {
        None => Ok(HashCheck::NotRecorded),
        Some(recorded) => Db::open(for_hash).and_then(|db| check_hash(&db, &recorded)),
    });
    let read = async {
        let follower = Follower::Walks(vec![pages, records]);
        read_all(reader, Place::Scratch(spool.clone()), follower, control).await?;
        control.begin("checking pages and records", None);
        Ok(())
    };
    let (read, structure, hash) = tokio::join!(read, structure, hash);
    // What is wrong with the bytes says more than the walk that they end, and a damaged page more than the hash.
    read?;
    let ((checked, history), hash) = (structure?, hash?);
    let (pages, free_pages) = (checked.pages, checked.free);
    Ok(Deep { pages, free_pages, records: history.records, hash })
}

/// Compares the HashKV of `records` with the one that was recorded.
///
/// # Errors
/// Tampered when they differ, and those of the source.
pub(super) fn check_hash(records: &impl RecordSource, recorded: &HashKvFacts) -> Result<HashCheck> {
    let (revision, compacted) =
        (recorded.revision.cast_signed(), recorded.compact_revision.cast_signed());
    match mvcc::hash_kv(records, revision, compacted)? {
        HashKv::Hash(hash) if hash == recorded.hash => Ok(HashCheck::Equal),
        HashKv::Hash(hash) => Err(Error::tampered(format!(
            "its HashKV at revision {revision} is {hash}, and etcd's members answered {}",
            recorded.hash
        ))
        .hint("the member that was read had other data on disk than in its answer: check its disk, and restore an older snapshot")),
        HashKv::Inconclusive(Inconclusive::Later(last)) => Ok(HashCheck::Inconclusive(format!(
            "its last revision is {last}, and the hash is of revision {revision}"
        ))),
        HashKv::Inconclusive(Inconclusive::Compacted(at)) => Ok(HashCheck::Inconclusive(format!(
            "a compaction at revision {at} came between"
        ))),
    }
}
