//! Opening a journal: its head, its seals, and the end that one of them vouches for (SPEC.md §13.4).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::folder::Folder;
use crate::crypto::{self, Label, Suite};
use crate::envelope::{
    Asked, DataKey, Judged, Opened, asked_enough, judge_seal, judge_to_vouch, wrong_key,
};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    ClusterName, EndBody, EndObjects, HeadBody, JournalEnd, JournalFacts, JournalHead, JournalPart,
    MAX_END, MAX_HEAD, MAX_SEAL, Seal, SegmentEntry, Sha256, SnapshotId, Subject,
};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::store::seals::{generations, too_many};
use crate::store::{ObjectInfo, Repository};

/// A journal whose head is authenticated.
pub(crate) struct OpenJournal {
    pub(crate) head: HeadBody,
    pub(crate) facts: JournalFacts,
    pub(crate) data_key: Arc<DataKey>,
    /// The seal that is worth most.
    pub(crate) seal: Seal,
    /// What its seals are worth.
    pub(crate) standing: Standing,
    /// What it held when it ended, if a seal vouches for that.
    pub(crate) end: Option<EndBody>,
    /// The number of that end.
    pub(crate) end_number: u32,
    /// What did not stop it from being opened.
    pub(crate) findings: Vec<String>,
    /// A listed end or seal could not be read.
    is_unread: bool,
}

impl OpenJournal {
    /// The journal.
    pub(crate) fn id(&self) -> SnapshotId {
        self.head.journal
    }

    /// Fails if a seal or an end could not be read that may be newer than those by which it counts.
    ///
    /// # Errors
    /// [`Truncated`](crate::ErrorKind::Truncated).
    pub(crate) fn check_read(&self) -> Result<()> {
        match self.is_unread {
            true => {
                Err(Error::truncated("its end or one of its seals is listed and cannot be read")
                    .hint("try again later; `strongroom journal list` names the object"))
            }
            false => Ok(()),
        }
    }

    /// The first main revision that it may hold.
    pub(crate) fn first(&self) -> i64 {
        self.head.first.cast_signed()
    }

    /// What the bundle that its end names replaces, and can be deleted. Nothing where the newest seal is not the one by which it
    /// counts: that one could not be read, and may be of a later bundle.
    pub(crate) fn replaced<'a>(
        &self,
        folder: &'a Folder,
    ) -> Option<(Bundled, Vec<&'a ObjectInfo>)> {
        self.bundle(folder)?;
        if folder.seals.keys().next_back() != Some(&self.seal.body().generation()) {
            return None;
        }
        let end = self.end.as_ref()?;
        let EndObjects::Bundle { object, .. } = end.objects else { return None };
        let (id, number, segments) = (self.id(), self.end_number, end.segments);
        let replaced = folder.replaced(number, segments).collect();
        Some((Bundled { id, number, object, segments }, replaced))
    }

    /// Whether a segment that its end names is not there, by number and length.
    pub(crate) fn lacks_segments(&self, folder: &Folder) -> bool {
        let Some(EndObjects::Segments(named)) = self.end.as_ref().map(|end| &end.objects) else {
            return false;
        };
        let is_there = |(number, named): (u64, &SegmentEntry)| {
            let infos = folder.segments.get(&number);
            infos.is_some_and(|infos| infos.iter().any(|info| info.len == named.length))
        };
        !(1..).zip(named).all(is_there)
    }

    /// Whether everything that its end names is there, by number and length.
    pub(crate) fn is_complete(&self, folder: &Folder) -> bool {
        match self.end.as_ref().map(|end| &end.objects) {
            Some(EndObjects::Bundle { .. }) => self.bundle(folder).is_some(),
            Some(EndObjects::Segments(_)) | None => !self.lacks_segments(folder),
        }
    }

    /// The bundle that its end names, if an object of its name and length is there.
    pub(crate) fn bundle<'a>(&self, folder: &'a Folder) -> Option<&'a ObjectInfo> {
        let EndObjects::Bundle { object, .. } = &self.end.as_ref()?.objects else { return None };
        folder.bundles.get(&self.end_number).filter(|info| info.len == object.length)
    }
}

/// A bundle that is stored, with an end that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bundled {
    pub(crate) id: SnapshotId,
    /// The number of the bundle, its end and its seal.
    pub(crate) number: u32,
    /// Its object, as the end names it.
    pub(crate) object: SegmentEntry,
    /// How many segments it replaces.
    pub(crate) segments: u64,
}

/// A seal that opened, and the end that it vouches for; `None` for one that vouches for the head.
struct Found {
    seal: Seal,
    opened: Opened,
    standing: Standing,
    end: Option<(u32, JournalEnd)>,
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

/// As [`open`], with the bytes of its head.
///
/// # Errors
/// Those of [`open`].
pub(crate) async fn open_read(
    repository: &Repository,
    (id, head): (SnapshotId, &[u8]),
    folder: &Folder,
    keys: &KeySet,
) -> Result<OpenJournal> {
    let opened = opened_read(Judging::Reading, repository, (id, head), folder, keys);
    opened.await.context(format!("journal {id}"))
}

/// As [`open`]; `None` if its head names another cluster than `cluster`. Then none of its seals is read. Nobody who can only
/// create objects makes a journal of `cluster` name another one.
///
/// # Errors
/// Those of [`open`].
pub(crate) async fn open_of(
    repository: &Repository,
    (id, cluster): (SnapshotId, &ClusterName),
    folder: &Folder,
    keys: &KeySet,
) -> Result<Option<OpenJournal>> {
    let opened = async {
        let bytes = read_head(repository, id, folder).await?;
        if JournalHead::parse(&bytes)?.body().cluster != *cluster {
            return Ok(None);
        }
        opened_read(Judging::Reading, repository, (id, &bytes), folder, keys).await.map(Some)
    };
    opened.await.context(format!("journal {id}"))
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
    let head = read_head(repository, id, folder).await?;
    opened_read(judging, repository, (id, &head), folder, keys).await
}

/// The head of the journal `id`, or the tombstone that it became.
async fn read_head(repository: &Repository, id: SnapshotId, folder: &Folder) -> Result<Bytes> {
    let part = match (&folder.head, &folder.tombstone) {
        (None, Some(_)) => JournalPart::Tombstone,
        _ => JournalPart::Head,
    };
    repository.get(&part.of(id), MAX_HEAD as u64).await
}

async fn opened_read(
    judging: Judging,
    repository: &Repository,
    (id, bytes): (SnapshotId, &[u8]),
    folder: &Folder,
    keys: &KeySet,
) -> Result<OpenJournal> {
    let head = JournalHead::parse(bytes)?;
    if head.body().journal != id || head.body().origin != repository.id() {
        return Err(Error::tampered("its head names another journal or repository"));
    }
    let mut findings = Vec::new();
    let mut ends = Ends::new(repository, folder, head.body());
    let found = seals(judging, digest(bytes), keys, &mut ends, &mut findings).await?;
    let Found { seal, opened, standing, end } = found;
    let data_key = opened.data_key;
    data_key
        .authenticate_manifest(&head.body().commitment, head.signed_bytes(), head.mac())
        .context("head")?;
    if let Some((_, end)) = &end {
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
        data_key: Arc::new(data_key),
        seal,
        standing,
        end_number: end.as_ref().map_or(0, |(number, _)| *number),
        end: end.map(|(_, end)| end.body().clone()),
        findings,
        is_unread: ends.is_unread,
    })
}

/// A journal's ends, which are read when a seal asks for them: most of what is there is that of its own number.
pub(super) struct Ends<'a> {
    repository: &'a Repository,
    folder: &'a Folder,
    head: &'a HeadBody,
    /// Those that were read, with their objects' digests if they parse and are of this journal.
    read: BTreeMap<u32, Option<(Sha256, JournalEnd)>>,
    /// A listed end or seal could not be read.
    pub(super) is_unread: bool,
}

impl<'a> Ends<'a> {
    pub(super) fn new(repository: &'a Repository, folder: &'a Folder, head: &'a HeadBody) -> Self {
        Self { repository, folder, head, read: BTreeMap::new(), is_unread: false }
    }

    /// Remembers that a listed object could not be read. Returns `error`.
    pub(super) fn note_unread(&mut self, error: Error) -> Error {
        self.is_unread |= error.kind().is_away();
        error
    }

    /// The end whose object has this digest: rather the one of number `like`.
    pub(super) async fn find(
        &mut self,
        wanted: Sha256,
        like: u32,
        findings: &mut Vec<String>,
    ) -> Result<Option<(u32, JournalEnd)>> {
        let (others, _) = generations(&self.folder.ends);
        let first = others.iter().copied().find(|number| *number == like);
        for number in first.into_iter().chain(others) {
            if !self.read.contains_key(&number) {
                let end = self.read(number, findings).await?;
                self.read.insert(number, end);
            }
            if let Some(Some((digest, end))) = self.read.get(&number)
                && *digest == wanted
            {
                return Ok(Some((number, end.clone())));
            }
        }
        Ok(None)
    }

    async fn read(
        &mut self,
        number: u32,
        findings: &mut Vec<String>,
    ) -> Result<Option<(Sha256, JournalEnd)>> {
        let head = self.head;
        let name = JournalPart::End(number).of(head.journal);
        let end = match self.repository.get(&name, MAX_END as u64).await {
            Ok(bytes) => JournalEnd::parse(&bytes).map(|end| (digest(&bytes), end)),
            Err(error) if error.kind().is_of_store() => return Err(error),
            Err(error) => Err(self.note_unread(error)),
        };
        let is_its = |end: &EndBody| {
            end.journal == head.journal
                && end.origin == head.origin
                && end.cluster == head.cluster
                && end.commitment == head.commitment
        };
        match end {
            Ok((digest, end)) if is_its(end.body()) => return Ok(Some((digest, end))),
            Ok(_) => findings.push(format!("{name}: it is of another journal")),
            Err(error) => findings.push(format!("{name}: {error}")),
        }
        Ok(None)
    }
}

/// The seal that is worth most: of equal ones the one that vouches for an end, then the newest.
async fn seals(
    judging: Judging,
    head: Sha256,
    keys: &KeySet,
    ends: &mut Ends<'_>,
    findings: &mut Vec<String>,
) -> Result<Found> {
    let (repository, folder, id) = (ends.repository, ends.folder, ends.head.journal);
    let (mut best, mut worst): (Option<Found>, Option<Error>) = (None, None);
    let (numbers, all) = generations(&folder.seals);
    let worth = |found: &Found| (found.standing, found.end.is_some());
    let (mut asked, last) = (Asked::default(), numbers.last().copied());
    for generation in numbers {
        if Some(generation) == last {
            asked.at_last();
        }
        let name = JournalPart::Seal(generation).of(id);
        let found = match read_seal(repository, id, generation, &name).await {
            Ok(seal) => {
                let object = seal.body().object();
                // Where the store fails, this may be the end that counts.
                let end = match object == head {
                    true => None,
                    false => ends.find(object, generation, findings).await?,
                };
                judge((judging, &mut asked), seal, keys, (head, &ends.head.cluster), end).await
            }
            Err(error) if error.kind().is_of_store() => return Err(error),
            Err(error) => Err(ends.note_unread(error)),
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
            Err(error) if error.kind().is_general() => return Err(error),
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
    // Among those that were not tried may be the one that vouches for its end.
    if asked.is_too_many() && best.as_ref().is_none_or(|best| best.end.is_none()) {
        return Err(asked_enough());
    }
    best.ok_or_else(|| worst.unwrap_or_else(|| Error::truncated("it has no seal")))
}

/// What `seal` is worth, which opens, and vouches for `end` or for the head.
async fn judge(
    (judging, asked): (Judging, &mut Asked),
    seal: Seal,
    keys: &KeySet,
    (head, cluster): (Sha256, &ClusterName),
    end: Option<(u32, JournalEnd)>,
) -> Result<Found> {
    let object = seal.body().object();
    if end.is_none() && object != head {
        return Err(Error::tampered("it vouches for an object that is not there"));
    }
    let cluster = Some(cluster);
    let Judged { opened, standing, unopened } = match judging {
        Judging::Reading => judge_seal(&seal, object, cluster, keys, asked).await?,
        Judging::Vouching => judge_to_vouch(&seal, object, cluster, keys, asked).await?,
    };
    let Some(opened) = opened else {
        // Where signers are trusted, no key is tried on what none of them signed.
        return Err(match standing.counts() {
            true => unopened.unwrap_or_else(|| wrong_key(&seal)),
            false => Error::new(ErrorKind::Refused, standing.to_string())
                .hint("`strongroom key vouch --all` signs what a key shows to be genuine"),
        });
    };
    Ok(Found { seal, opened, standing, end })
}

pub(crate) async fn read_seal(
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

pub(crate) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(crypto::sha256(&[bytes]))
}
