//! What a restore would write: everything is decided, and nothing but manifest, seals and index is read.

use std::path::{Path, PathBuf};

use super::companions::companions_for;
use super::continuous::Recorded;
use super::member::{MemberOptions, check_member};
use super::restore::check_file;
use crate::error::Result;
use crate::format::{ClusterName, KeyId, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::open::OpenSnapshot;
use crate::store::Repository;
use crate::task::{Control, check_room};

/// Where a restore would write.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Destination<'a> {
    /// A file.
    File {
        /// Its path.
        path: &'a Path,
        /// Replace what is there.
        force: bool,
    },
    /// A stream.
    Stream,
    /// A member's data directory.
    Member(&'a MemberOptions),
    /// Nowhere: only companions are restored.
    Companions,
}

/// What a restore would write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rehearsal {
    /// The snapshot.
    pub id: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// The last revision.
    pub revision: u64,
    /// Length of the snapshot's database.
    pub database_bytes: u64,
    /// The master key that opened it.
    pub opened_by: KeyId,
    /// Names of the files beside it, if they are wanted.
    pub companions: Option<Vec<PathBuf>>,
    /// Oddities that would not stop the restore.
    pub findings: Vec<String>,
}

/// Decides whether snapshot `id`, with what was `recorded` after it, can be restored there, and its companions below
/// `companions_to`. Room is checked for the snapshot; what was recorded after it comes on top. The database is not fetched:
/// [`verify`](fn@super::verify) reads every byte.
///
/// # Errors
/// Those of the restore, as far as they can be known; [`Io`](crate::ErrorKind::Io) where there is no room.
pub async fn rehearse(
    repository: &Repository,
    keys: &KeySet,
    (id, recorded): (SnapshotId, Option<&Recorded>),
    (to, companions_to): (Destination<'_>, Option<&Path>),
    control: &Control,
) -> Result<Rehearsal> {
    let dir = match to {
        Destination::File { path, force } => Some(check_file(path, force)?),
        Destination::Member(options) => Some(check_member(options)?),
        Destination::Stream | Destination::Companions => None,
    };
    let companions = match companions_to {
        Some(dir) => Some(companions_for(repository, keys, id, dir, control).await?),
        None => None,
    };
    let snapshot = control.guard(OpenSnapshot::open(repository, id, keys)).await?;
    let database_bytes = snapshot.database.index().database().size;
    if let Some(dir) = dir {
        check_room(&dir, database_bytes, "the restore")?;
    }
    let body = snapshot.manifest.body();
    Ok(Rehearsal {
        id,
        cluster: body.cluster.clone(),
        revision: recorded.map_or(body.revision, |plan| plan.revision.unsigned_abs()),
        database_bytes,
        opened_by: snapshot.opened_by,
        companions,
        findings: snapshot.findings,
    })
}
