//! Whether a master key can be given up: what it opens must open with another.

use std::time::SystemTime;

use futures::{StreamExt, stream};

use super::catalog::{self, Scope};
use super::continuous::lost_without;
use super::findings::Findings;
use super::key_usage::all_seals;
use crate::envelope::{key_ids, wrong_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, SnapshotId};
use crate::keys::KeySet;
use crate::snapshot::folder::Folder;
use crate::snapshot::grace::LONGEST_BACKUP;
use crate::snapshot::{open, seals};
use crate::store::Repository;
use crate::text::counted;

/// Snapshots looked at at once.
const READS: usize = 16;

/// Verifies that every snapshot which `key` opens also opens with another of `keys`, so that `key` can be given up; what was
/// passed over.
///
/// Verified by opening: a key that a seal merely names may be destroyed, or sealed in by mistake. What `keys` do not open
/// with `key` either is not lost without it: others can plant it, and cannot keep a key from being removed.
///
/// A folder without manifest may be a backup that is running and needs the key, unless `no_backup_runs`.
///
/// # Errors
/// [`ErrorKind::Refused`], naming a snapshot that would be lost, or of which that is unknown; those of the store.
pub async fn check_removable(
    repository: &Repository,
    keys: &KeySet,
    key: KeyId,
    no_backup_runs: bool,
) -> Result<Vec<String>> {
    let mut passed_over = Findings::default();
    let running = unfinished(repository, key).await?;
    if let Some(first) = running.first().filter(|_| !no_backup_runs) {
        let more = match running.len() {
            1 => String::new(),
            count => format!("; there are {} more such folders", count - 1),
        };
        let message = format!("{first}: it may need the key{more}");
        return Err(Error::new(ErrorKind::Refused, message)
            .hint("wait until no backup runs; if none does, give --now"));
    }
    passed_over.extend(running);
    // Whether it opens is the question, not who made it.
    let (all, others) = (&keys.opening_all(), &keys.without(key).opening_all());
    if let Some(id) = lost_without(repository, all, others).await?.first() {
        let message = format!("journal {id} opens with no other available key");
        return Err(Error::new(ErrorKind::Refused, message).hint(format!(
            "give the other keys too, or seal it to them first: `strongroom key reseal --all --drop {key}`"
        )));
    }
    let folders = catalog::folders_with_removed(repository, Scope::All).await?;
    let mut looked_at = stream::iter(folders)
        .map(|(id, folder)| async move {
            (id, look_at(repository, [all, others], key, id, &folder).await)
        })
        .buffered(READS);
    let (mut lost, mut first) = (0, None);
    while let Some((id, looked)) = looked_at.next().await {
        match looked {
            Ok(Without::Opens) => {}
            Ok(Without::Planted(why)) => passed_over.push(format!("snapshot {id}: {why}")),
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => {
                lost += 1;
                first = first.or(Some((id, error)));
            }
        }
    }
    match first {
        None => Ok(passed_over.finish()),
        Some((id, error)) => Err(would_be_lost(lost, id, &error, key)),
    }
}

fn would_be_lost(count: usize, id: SnapshotId, error: &Error, key: KeyId) -> Error {
    let count = counted(count, "snapshot");
    let message = format!("no other available key opens {count}, such as {id}: {error}");
    Error::new(ErrorKind::Refused, message).hint(format!(
        "give the other keys too, or seal the snapshots to them first: \
         `strongroom key reseal --all --drop {key}`"
    ))
}

/// Folders without a manifest that may need `key`: of a backup that is running, or of a snapshot that lost its manifest.
async fn unfinished(repository: &Repository, key: KeyId) -> Result<Vec<String>> {
    let now = SystemTime::now();
    let mut read = stream::iter(catalog::folders_without_manifest(repository).await?)
        .map(|(id, folder)| async move {
            let old = folder.age(now).is_some_and(|age| age > LONGEST_BACKUP);
            (id, old, all_seals(repository, id, &folder).await)
        })
        .buffered(READS);
    let mut found = Vec::new();
    while let Some((id, old, seals)) = read.next().await {
        let (seals, _) = seals?;
        if seals.iter().any(|seal| key_ids(seal) == [key]) {
            found.push(format!("snapshot {id} has no manifest yet"));
        } else if seals.is_empty() && !old {
            found.push(format!("snapshot {id} is being written, or its backup was aborted"));
        }
    }
    Ok(found)
}

/// What becomes of a snapshot without the key.
enum Without {
    Opens,
    /// It does not open with the key either: why.
    Planted(String),
}

/// # Errors
/// Why it opens with the key alone, or why that is unknown.
async fn look_at(
    repository: &Repository,
    [keys, others]: [&KeySet; 2],
    key: KeyId,
    id: SnapshotId,
    folder: &Folder,
) -> Result<Without> {
    let (seals, unread) = all_seals(repository, id, folder).await?;
    if unread.is_none() && seals.is_empty() {
        return Ok(Without::Planted("none of its seals can be read".into()));
    }
    if unread.is_none() && seals.iter().all(|seal| !key_ids(seal).contains(&key)) {
        return Ok(Without::Opens);
    }
    let manifest = match open::read_head(repository, id, folder).await {
        Err(error) if is_planted(&error) => return Ok(Without::Planted(error.to_string())),
        read => read?,
    };
    let error = match seals::authenticate(repository, folder, others, &manifest).await {
        Ok(authentic) if authentic.judged.opened.is_some() => return Ok(Without::Opens),
        Ok(authentic) => wrong_key(&authentic.seal),
        Err(error) => error,
    };
    if let Some(unread) = unread {
        return Err(unread);
    }
    match seals::authenticate(repository, folder, keys, &manifest).await {
        Err(with) if with.kind().is_general() => Err(with),
        Err(with) if is_planted(&with) => Ok(Without::Planted(with.to_string())),
        _ => Err(error),
    }
}

/// Whether it is an error of bytes that nobody with the keys wrote, or that are lost with or without them.
fn is_planted(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Tampered | ErrorKind::Truncated)
}
