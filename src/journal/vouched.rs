//! What signatures alone show of a journal, on a host that opens none.

use super::folder::Folder;
use super::open::{Ends, digest, read_seal};
use crate::envelope::{Asked, judge_seal};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{EndBody, HeadBody, JournalHead, JournalPart, MAX_HEAD, SnapshotId};
use crate::keys::KeySet;
use crate::store::Repository;
use crate::store::seals::generations;

/// A journal that a trusted signer, or a key, vouches for.
pub(crate) struct Vouched {
    pub(crate) head: HeadBody,
    /// What it held when it ended.
    pub(crate) end: Option<EndBody>,
    /// A listed seal or end could not be read that may be newer.
    pub(crate) is_unread: bool,
}

/// What is vouched for of the journal `id`; `None` if nothing is.
///
/// # Errors
/// Those of the store, of a head that does not parse, and of a listed seal or end that cannot be read if nothing else is vouched
/// for.
pub(crate) async fn vouched(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &KeySet,
) -> Result<Option<Vouched>> {
    let bytes = repository.get(&JournalPart::Head.of(id), MAX_HEAD as u64).await?;
    let head = JournalHead::parse(&bytes).context(format!("journal {id}"))?;
    let body = head.body();
    if body.journal != id || body.origin != repository.id() {
        return Ok(None);
    }
    let mut ends = Ends::new(repository, folder, body);
    let (mut found, mut asked) = (None, Asked::default());
    for generation in generations(&folder.seals).0 {
        let name = JournalPart::Seal(generation).of(id);
        let seal = match read_seal(repository, id, generation, &name).await {
            Ok(seal) => seal,
            Err(error) if error.kind().is_of_store() => return Err(error),
            Err(error) => {
                ends.note_unread(error);
                continue;
            }
        };
        let object = seal.body().object();
        let is_head = object == digest(&bytes);
        let end = match is_head {
            true => None,
            false => ends.find(object, generation, &mut Vec::new()).await?,
        };
        if end.is_none() && !is_head {
            continue;
        }
        let judged = judge_seal(&seal, object, Some(&body.cluster), keys, &mut asked).await;
        if !judged.is_ok_and(|judged| judged.standing.counts()) {
            continue;
        }
        let end = end.map(|(_, end)| end.body().clone());
        let is_end = end.is_some();
        found = Some(Vouched { head: body.clone(), end, is_unread: false });
        if is_end {
            break;
        }
    }
    match found {
        None if ends.is_unread => {
            let text = format!("journal {id}: a listed seal or end of it cannot be read");
            Err(Error::new(ErrorKind::NotFound, text))
        }
        found => Ok(found.map(|one| Vouched { is_unread: ends.is_unread, ..one })),
    }
}
