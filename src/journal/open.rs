//! Opening a journal: its head, its seals, and the end that one of them vouches for (SPEC.md §13.4).

use super::folder::Folder;
use crate::crypto::{self, Label, Suite};
use crate::envelope::{DataKey, Judged, Opened, judge_seal, judge_to_vouch, wrong_key};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    ClusterName, EndBody, HeadBody, JournalEnd, JournalFacts, JournalHead, JournalPart, MAX_END,
    MAX_HEAD, MAX_SEAL, Seal, Sha256, SnapshotId, Subject,
};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::store::Repository;
use crate::store::seals::{generations, too_many};

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

/// How a journal's seals are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judging {
    /// For a reader.
    Reading,
    /// For somebody who vouches for journals: that they are not signed yet is why.
    Vouching,
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
    opened(Judging::Reading, repository, id, folder, keys).await.context(format!("journal {id}"))
}

/// As [`open`], for somebody who vouches for journals.
///
/// # Errors
/// Those of [`open`].
pub(crate) async fn open_to_vouch(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &KeySet,
) -> Result<OpenJournal> {
    opened(Judging::Vouching, repository, id, folder, keys).await.context(format!("journal {id}"))
}

async fn opened(
    judging: Judging,
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
    let body = head.body();
    let cluster = &body.cluster;
    let objects = Objects { head: digest(&bytes), cluster, ends: &ends };
    let found = seals(judging, (repository, id), folder, keys, &objects, &mut findings).await?;
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
pub(super) async fn ends(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    head: &JournalHead,
    findings: &mut Vec<String>,
) -> Result<Vec<(Sha256, JournalEnd)>> {
    let mut ends = Vec::new();
    for generation in generations(&folder.ends).0 {
        let name = JournalPart::End(generation).of(id);
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

/// What a journal's seals may vouch for.
struct Objects<'a> {
    head: Sha256,
    cluster: &'a ClusterName,
    ends: &'a [(Sha256, JournalEnd)],
}

/// The seal that is worth most: of equal ones the one that vouches for an end, then the newest.
async fn seals(
    judging: Judging,
    (repository, id): (&Repository, SnapshotId),
    folder: &Folder,
    keys: &KeySet,
    objects: &Objects<'_>,
    findings: &mut Vec<String>,
) -> Result<Found> {
    let (mut best, mut worst): (Option<Found>, Option<Error>) = (None, None);
    let (numbers, all) = generations(&folder.seals);
    let worth = |found: &Found| (found.standing, found.end.is_some());
    for generation in numbers {
        let name = JournalPart::Seal(generation).of(id);
        let found = match read_seal(repository, id, generation, &name).await {
            Ok(seal) => judge(judging, seal, keys, objects).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => {
                if best.as_ref().is_none_or(|best| worth(&found) > worth(best)) {
                    best = Some(found);
                }
                // None further down can be worth more.
                if best.as_ref().is_some_and(|best| worth(best) == (Standing::Counts, true)) {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            // What keys and signers say outweighs what is no seal of it ([S5.7]).
            Err(error) if matches!(error.kind(), ErrorKind::WrongKey | ErrorKind::Refused) => {
                worst = Some(error);
            }
            Err(error) => {
                findings.push(format!("{name}: {error}"));
                worst.get_or_insert(error);
            }
        }
    }
    if !all && best.as_ref().is_none_or(|best| !best.standing.counts()) {
        return Err(too_many("it"));
    }
    best.ok_or_else(|| worst.unwrap_or_else(|| Error::truncated("it has no seal")))
}

/// What `seal` is worth, which opens.
async fn judge(
    judging: Judging,
    seal: Seal,
    keys: &KeySet,
    objects: &Objects<'_>,
) -> Result<Found> {
    let object = seal.body().object();
    let end = objects.ends.iter().find(|(digest, _)| *digest == object);
    if end.is_none() && object != objects.head {
        return Err(Error::tampered("it vouches for an object that is not there"));
    }
    let cluster = Some(objects.cluster);
    let Judged { opened, standing, unopened } = match judging {
        Judging::Reading => judge_seal(&seal, object, cluster, keys).await?,
        Judging::Vouching => judge_to_vouch(&seal, object, cluster, keys).await?,
    };
    let Some(opened) = opened else {
        // Where signers are trusted, no key is tried on what none of them signed.
        return Err(match standing.counts() {
            true => unopened.unwrap_or_else(|| wrong_key(&seal)),
            false => Error::new(ErrorKind::Refused, standing.to_string())
                .hint("`strongroom key vouch --all` signs what a key shows to be genuine"),
        });
    };
    Ok(Found { seal, opened, standing, end: end.map(|(_, end)| end.clone()) })
}

pub(super) async fn read_seal(
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

pub(super) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(crypto::sha256(&[bytes]))
}
