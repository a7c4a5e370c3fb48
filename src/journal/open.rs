//! Opening a journal: its head, its seals, and the end that one of them vouches for (SPEC.md §13.4).

use super::folder::Folder;
use crate::crypto::{self, Label, Suite};
use crate::envelope::{DataKey, Opened, judge_seal, wrong_key};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    ClusterName, EndBody, HeadBody, JournalEnd, JournalFacts, JournalHead, JournalPart, MAX_END,
    MAX_HEAD, MAX_SEAL, Seal, Sha256, SnapshotId, Subject,
};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::store::Repository;

/// The most seals, and the most ends, of one journal that are read.
const MOST: usize = 64;

/// A journal whose head is authenticated.
pub(crate) struct OpenJournal {
    pub(crate) head: HeadBody,
    pub(crate) facts: JournalFacts,
    pub(crate) data_key: DataKey,
    /// The seal that is worth most.
    pub(crate) seal: Seal,
    /// What its seals are worth.
    pub(crate) standing: Standing,
    /// What it held when it ended, if a seal vouches for that.
    pub(crate) end: Option<EndBody>,
    /// What did not stop it from being opened.
    pub(crate) findings: Vec<String>,
}

impl OpenJournal {
    /// The journal.
    pub(crate) fn id(&self) -> SnapshotId {
        self.head.journal
    }

    /// The first main revision that it may hold.
    pub(crate) fn first(&self) -> i64 {
        self.head.first.cast_signed()
    }
}

/// A seal that opened, and the end that it vouches for; `None` for one that vouches for the head.
struct Found {
    seal: Seal,
    opened: Opened,
    standing: Standing,
    end: Option<JournalEnd>,
}

/// Opens the journal `id`; one that was removed by its tombstone.
///
/// # Errors
/// Those of SPEC.md §8 when it does not open; those of the store.
pub(crate) async fn open(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &KeySet,
) -> Result<OpenJournal> {
    opened(repository, id, folder, keys).await.context(format!("journal {id}"))
}

async fn opened(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &KeySet,
) -> Result<OpenJournal> {
    let part = match (&folder.head, &folder.tombstone) {
        (None, Some(_)) => JournalPart::Tombstone,
        _ => JournalPart::Head,
    };
    let bytes = repository.get(&part.of(id), MAX_HEAD as u64).await?;
    let head = JournalHead::parse(&bytes)?;
    if head.body().journal != id || head.body().origin != repository.id() {
        return Err(Error::tampered("its head names another journal or repository"));
    }
    let mut findings = Vec::new();
    let ends = ends(repository, id, folder, &head, &mut findings).await?;
    let found =
        seals(repository, id, folder, keys, (&bytes, &head.body().cluster, &ends), &mut findings)
            .await?;
    let Found { seal, opened, standing, end } = found;
    let data_key = opened.data_key;
    data_key
        .authenticate_manifest(&head.body().commitment, head.signed_bytes(), head.mac())
        .context("head")?;
    if let Some(end) = &end {
        data_key
            .authenticate_manifest(&end.body().commitment, end.signed_bytes(), end.mac())
            .context("end")?;
    }
    let context = crypto::labelled(Label::Facts, &[&id.to_bytes()]);
    let key = data_key.facts_key();
    let facts = crypto::open(Suite::Aes256Gcm, &key, &context, &head.body().facts)?;
    Ok(OpenJournal {
        facts: JournalFacts::parse(&facts)?,
        head: head.body().clone(),
        data_key,
        seal,
        standing,
        end: end.map(|end| end.body().clone()),
        findings,
    })
}

/// The ends that parse, each with the digest of its object.
async fn ends(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    head: &JournalHead,
    findings: &mut Vec<String>,
) -> Result<Vec<(Sha256, JournalEnd)>> {
    let mut ends = Vec::new();
    for generation in folder.ends.keys().rev().take(MOST) {
        let name = JournalPart::End(*generation).of(id);
        let end = match repository.get(&name, MAX_END as u64).await {
            Ok(bytes) => JournalEnd::parse(&bytes).map(|end| (digest(&bytes), end)),
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => Err(error),
        };
        let (head, is_its) = (head.body(), |end: &EndBody| {
            let head = head.body();
            end.journal == id && end.origin == head.origin && end.cluster == head.cluster
        });
        match end {
            Ok((digest, end)) if is_its(end.body()) && end.body().commitment == head.commitment => {
                ends.push((digest, end));
            }
            Ok(_) => findings.push(format!("{name}: it is of another journal")),
            Err(error) => findings.push(format!("{name}: {error}")),
        }
    }
    Ok(ends)
}

/// The seal that is worth most: of equal ones the one that vouches for an end, then the newest.
async fn seals(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &KeySet,
    (head, cluster, ends): (&[u8], &ClusterName, &[(Sha256, JournalEnd)]),
    findings: &mut Vec<String>,
) -> Result<Found> {
    let head = digest(head);
    let (mut best, mut worst): (Option<Found>, Option<Error>) = (None, None);
    for generation in folder.seals.keys().rev().take(MOST) {
        let name = JournalPart::Seal(*generation).of(id);
        let seal = read_seal(repository, id, *generation, &name).await;
        let opened = match seal {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(error) => Err(error),
            Ok(seal) => {
                let object = seal.body().object();
                let end = ends.iter().find(|(digest, _)| *digest == object);
                if end.is_none() && object != head {
                    findings.push(format!("{name}: it vouches for an object that is not there"));
                    continue;
                }
                judge_seal(&seal, object, Some(cluster), keys).await.and_then(|judged| {
                    let opened = judged.opened.ok_or_else(|| wrong_key(&seal))?;
                    Ok((seal, opened, judged.standing, end.map(|(_, end)| end.clone())))
                })
            }
        };
        match opened {
            Ok((seal, opened, standing, end)) => {
                let worth = |found: &Found| (found.standing, found.end.is_some());
                let found = Found { seal, opened, standing, end };
                if best.as_ref().is_none_or(|best| worth(&found) > worth(best)) {
                    best = Some(found);
                }
            }
            Err(error) if error.kind() == ErrorKind::WrongKey => {
                worst.get_or_insert(error);
            }
            Err(error) => {
                findings.push(format!("{name}: {error}"));
                worst = Some(error);
            }
        }
    }
    best.ok_or_else(|| worst.unwrap_or_else(|| Error::truncated("it has no seal")))
}

async fn read_seal(
    repository: &Repository,
    id: SnapshotId,
    generation: u32,
    name: &str,
) -> Result<Seal> {
    let seal = Seal::parse(&repository.get(name, MAX_SEAL as u64).await?)?;
    let body = seal.body();
    if body.subject() != Subject::Journal(id) || body.generation() != generation {
        return Err(Error::tampered("its lines name another journal or generation"));
    }
    Ok(seal)
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(crypto::sha256(&[bytes]))
}
