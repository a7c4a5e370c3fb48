//! Reading journals: segments are fetched as they are stored, kept on disk like that, and opened each time they are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, stream};
use zeroize::Zeroizing;

use super::folder::Folder;
use super::open::OpenJournal;
use crate::compress::decompress_padded_by;
use crate::crypto;
use crate::envelope::{DataKey, ObjectOpener};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Body, Continues, EndObjects, EndReason, Entry, MAX_BODY, MAX_SEGMENTS, Role, SegmentEntry,
    Sha256, Signature, SnapshotId, padme,
};
use crate::keys::{KeySet, PublicSigner};
use crate::mvcc::{Reading, Recorded, Recording, Revision};
use crate::store::{ObjectInfo, Repository};

/// Segments that are fetched at once.
const READS: usize = 16;
/// The longest segment's object.
pub(crate) const LONGEST: u64 = (MAX_BODY as u64) + (MAX_BODY as u64) / 4;
/// No message is shorter, padding included.
const SHORTEST: u64 = 4096;
/// A journal lives an hour: what was received this much after it began does not count ([S13.8]).
const LONGEST_MS: u64 = 65 * 60 * 1000;

/// Bytes that are fetched at once, unless one object has more.
const BATCH: u64 = 96 << 20;
/// Bytes of objects that turn out to be none of a journal's segments.
const MAX_WASTED: u64 = 1 << 30;

/// Objects that may be the segment `number`, the shortest first: what somebody planted costs no more than what is genuine.
struct Candidates {
    number: u64,
    /// The digest that the end names.
    pinned: Option<Sha256>,
    infos: Vec<ObjectInfo>,
}

/// Segments that are fetched together.
#[derive(Default)]
struct Batch(Vec<Candidates>);

impl Batch {
    fn has_room(&self) -> bool {
        let first = |candidates: &Candidates| candidates.infos.first().map_or(0, |info| info.len);
        let bytes = self.0.iter().map(first).fold(0, u64::saturating_add);
        // The next one may be as long as a segment can be.
        self.0.is_empty() || self.0.len() < READS && bytes <= BATCH.saturating_sub(LONGEST)
    }

    fn add(&mut self, number: u64, named: Option<SegmentEntry>, folder: &Folder) {
        let lengths = match named {
            Some(named) => named.length..=named.length.min(LONGEST),
            None => SHORTEST..=LONGEST,
        };
        let infos = folder.segments.get(&number).into_iter().flatten();
        let mut infos: Vec<_> = infos.filter(|info| lengths.contains(&info.len)).cloned().collect();
        infos.sort_by_key(|info| info.len);
        self.0.push(Candidates { number, pinned: named.map(|named| named.sha256), infos });
    }
}

/// One journal's segments, which chain and open, as far as they count.
pub(crate) struct ReadJournal {
    id: SnapshotId,
    data_key: DataKey,
    first: i64,
    /// Where each lies in the file, from number 1 on.
    places: Vec<(u64, u64)>,
    file: File,
    /// Each segment must be signed, by one of these.
    must_be_signed: bool,
    signers: Vec<PublicSigner>,
    pub(crate) survey: Survey,
}

/// What the segments of one journal say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// Digest of each segment's object.
    pub(crate) segments: Vec<Sha256>,
    /// The last complete revision after each segment.
    pub(crate) lasts: Vec<i64>,
    /// Every revision committed before this moment is recorded; 0 for unknown.
    pub(crate) complete_ms: u64,
    /// When a revision was received, from that one on: revision and moment.
    pub(crate) moments: Vec<(i64, u64)>,
    /// Moments by which everything up to a revision was recorded.
    pub(crate) completes: Vec<(i64, u64)>,
    /// How far etcd had compacted, behind the record's main revision.
    pub(crate) compacted: Vec<(i64, i64)>,
    /// Granted times to live by lease, 0 if unknown, of each segment.
    pub(crate) ttls: Vec<BTreeMap<i64, i64>>,
    /// Each state of users and roles, with the revision that was the last then.
    pub(crate) auth: Vec<(i64, bool, u64)>,
    /// Why the recording ended, if it says so.
    pub(crate) reason: Option<EndReason>,
    /// Number of records.
    pub(crate) records: u64,
    /// Length of the segments' objects.
    pub(crate) stored_bytes: u64,
    /// What is odd.
    pub(crate) findings: Vec<String>,
}

impl Survey {
    /// The last complete revision; one less than the first without one.
    fn last(&self) -> Option<i64> {
        self.lasts.last().copied()
    }

    /// Adds what the next segment says.
    fn add(&mut self, news: Self, sha256: Sha256) {
        self.segments.push(sha256);
        self.lasts.extend(news.lasts);
        self.complete_ms = news.complete_ms;
        self.moments.extend(news.moments);
        self.completes.extend(news.completes);
        self.compacted.extend(news.compacted);
        self.ttls.extend(news.ttls);
        self.auth.extend(news.auth);
        self.reason = news.reason;
        self.records = self.records.saturating_add(news.records);
        self.stored_bytes = self.stored_bytes.saturating_add(news.stored_bytes);
    }
}

impl ReadJournal {
    /// The journal.
    pub(crate) fn id(&self) -> SnapshotId {
        self.id
    }

    /// The first main revision that it may hold.
    pub(crate) fn first(&self) -> i64 {
        self.first
    }

    /// The last complete main revision; one less than the first if there is none.
    pub(crate) fn last(&self) -> i64 {
        self.survey.last().unwrap_or(self.first.saturating_sub(1))
    }

    fn new(keys: &KeySet, journal: OpenJournal, file: File) -> Self {
        // What an end names is vouched for by its seal; without one, each segment by itself ([S13.8]).
        let must_be_signed = journal.end.is_none() && !keys.signers().is_empty();
        let cluster = Some(&journal.head.cluster);
        Self {
            id: journal.id(),
            first: journal.first(),
            places: Vec::new(),
            file,
            must_be_signed,
            signers: keys.trusted_for(cluster),
            survey: Survey { findings: journal.findings, ..Survey::default() },
            data_key: journal.data_key,
        }
    }

    /// Fetches the segments of `journal` into a file without a name below `dir`, and reads them once.
    ///
    /// # Errors
    /// Those of the store and [`Io`](crate::ErrorKind::Io). What does not open ends the coverage there, and is a finding; so is
    /// what is missing.
    pub(crate) async fn fetch(
        repository: &Repository,
        keys: &KeySet,
        journal: OpenJournal,
        folder: &Folder,
        dir: &Path,
    ) -> Result<Self> {
        let file = tempfile::tempfile_in(dir).map_err(|error| Error::io(dir, error))?;
        let end = journal.end.clone();
        let mut read = Self::new(keys, journal, file);
        let named = match end.map(|end| end.objects) {
            Some(EndObjects::Segments(segments)) => Some(segments),
            Some(EndObjects::Bundle(_)) => {
                return Err(Error::unsupported(format!("journal {}: it is bundled", read.id))
                    .hint("use a newer strongroom"));
            }
            None => None,
        };
        let wanted = named.as_ref().map_or(MAX_SEGMENTS, |segments| segments.len() as u64);
        let id = read.id;
        let mut reading = Reading::new(read.first);
        let mut wasted = 0;
        let mut number = 1;
        while number <= wanted {
            // What is listed under these numbers, as far as it can be what is wanted.
            let mut batch = Batch::default();
            while batch.has_room() && number <= wanted && folder.segments.contains_key(&number) {
                let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
                let named = named.as_ref().and_then(|segments| segments.get(index)).copied();
                batch.add(number, named, folder);
                number = number.saturating_add(1);
            }
            if batch.0.is_empty() {
                break;
            }
            if let Err((at, error)) =
                read.take_all(repository, batch, &mut wasted, &mut reading).await
            {
                if matches!(error.kind(), ErrorKind::Denied) || !error.kind().is_general() {
                    let part = format!("journal {id}, segment {at}");
                    read.survey.findings.push(error.context(part).to_string());
                    break;
                }
                return Err(error);
            }
        }
        read.note_missing(named.map(|segments| segments.len()), folder);
        Ok(read)
    }

    /// Takes the segments of `batch`, which follow one another: of each the first candidate is fetched together with the
    /// others', a further one only when those before it are not the segment.
    async fn take_all(
        &mut self,
        repository: &Repository,
        batch: Batch,
        wasted: &mut u64,
        reading: &mut Reading,
    ) -> std::result::Result<(), (u64, Error)> {
        let mut fetched = stream::iter(batch.0)
            .map(|candidates| async move {
                let first = match candidates.infos.first() {
                    Some(info) => repository.get(&info.name, info.len).await,
                    None => Err(Error::tampered("no object of this number has a possible length")),
                };
                (candidates, first)
            })
            .buffered(READS);
        while let Some((candidates, first)) = fetched.next().await {
            let number = candidates.number;
            let mut failure = match self.take(&candidates, first, reading) {
                Ok(()) => continue,
                Err(error) => error,
            };
            let mut taken = false;
            for (tried, info) in candidates.infos.iter().zip(candidates.infos.iter().skip(1)) {
                *wasted = wasted.saturating_add(tried.len);
                // Where the store or the disk fails, another object does not help.
                if failure.kind().is_general() && failure.kind() != ErrorKind::Denied {
                    break;
                }
                if *wasted > MAX_WASTED {
                    failure = Error::tampered(format!(
                        "more than {} MiB of objects that are not its segments: others are not tried",
                        MAX_WASTED >> 20
                    ))
                    .hint("remove those that do not belong to it: somebody else put them there");
                    break;
                }
                let bytes = repository.get(&info.name, info.len).await;
                match self.take(&candidates, bytes, reading) {
                    Ok(()) => {
                        taken = true;
                        break;
                    }
                    Err(error) => failure = error,
                }
            }
            if !taken {
                return Err((number, failure));
            }
        }
        Ok(())
    }

    /// Takes `bytes`, if they are the segment that `candidates` stand for.
    fn take(
        &mut self,
        candidates: &Candidates,
        bytes: Result<bytes::Bytes>,
        reading: &mut Reading,
    ) -> Result<()> {
        let bytes = bytes?;
        let digest = Sha256(crypto::sha256(&[&bytes]));
        if candidates.pinned.is_some_and(|pinned| pinned != digest) {
            return Err(Error::tampered("it is not the object that the end names"));
        }
        let (news, next) = self.survey(candidates.number, &bytes, reading)?;
        *reading = next;
        self.survey.add(news, digest);
        self.keep(&bytes)
    }

    /// What the segment says, if it opens, chains and is read as what follows.
    fn survey(&self, number: u64, bytes: &[u8], reading: &Reading) -> Result<(Survey, Reading)> {
        let body = open_segment(&self.data_key, self.id, number, bytes.to_vec())?;
        let body = Body::parse(&body)?;
        let previous = self.survey.segments.last().copied().unwrap_or(Sha256::NONE);
        if body.head().number != number || body.head().previous != previous {
            return Err(Error::tampered("it does not follow the segment before it"));
        }
        let (mut facts, mut next) = (Survey::default(), reading.clone());
        let (limit, mut moment) = (self.id.unix_ms().saturating_add(LONGEST_MS), None);
        let mut at = Revision { main: next.last(), sub: 0 };
        let (mut is_signed, mut ttls) = (false, BTreeMap::new());
        next.body(&body, &mut |recorded| {
            match recorded {
                Recorded::Record(record) => {
                    facts.records = facts.records.saturating_add(1);
                    if let Some(moment) = moment.take() {
                        facts.moments.push((record.revision.main, moment));
                    }
                    at = record.revision;
                }
                Recorded::Entry(Entry::Moment(ms)) if ms > limit => {
                    return Err(Error::tampered(
                        "it was received more than 65 minutes after its head",
                    ));
                }
                Recorded::Entry(Entry::Moment(ms)) => moment = Some(ms),
                Recorded::Entry(Entry::Compacted(main)) => facts.compacted.push((at.main, main)),
                Recorded::Entry(Entry::Lease { id, ttl }) => {
                    ttls.insert(id, ttl);
                }
                Recorded::Entry(Entry::Auth { enabled, revision }) => {
                    facts.auth.push((at.main, enabled, revision));
                }
                Recorded::Entry(Entry::End(reason)) => facts.reason = Some(reason),
                Recorded::Entry(Entry::Signature { key_id, bytes, covers }) => {
                    let covered = Sha256(crypto::sha256(&[covers]));
                    let (role, signature) = (Role::Segment(number), Signature { key_id, bytes });
                    let verifies = |signer: &PublicSigner| {
                        signer.verifies_segment(self.id, role, covered, &signature)
                    };
                    is_signed = self.signers.iter().any(verifies);
                }
                Recorded::Entry(_) => {}
            }
            Ok(())
        })?;
        if self.must_be_signed && !is_signed {
            return Err(Error::tampered("no trusted signer signed it"));
        }
        if let Some(moment) = moment {
            // The segment was cut between the moment and its record.
            facts.moments.push((at.main.saturating_add(1), moment));
        }
        facts.ttls.push(ttls);
        facts.lasts.push(next.last());
        facts.complete_ms = self.survey.complete_ms.max(body.head().complete_ms);
        facts.completes.push((next.last(), facts.complete_ms));
        facts.stored_bytes = bytes.len() as u64;
        Ok((facts, next))
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        let at = self.places.last().map_or(0, |(at, length)| at.saturating_add(*length));
        self.file.write_all(bytes).map_err(|error| Error::io("scratch file", error))?;
        self.places.push((at, bytes.len() as u64));
        Ok(())
    }

    fn note_missing(&mut self, named: Option<usize>, folder: &Folder) {
        let (id, read) = (self.id, self.places.len());
        if let Some(named) = named.filter(|named| read < *named) {
            self.survey
                .findings
                .push(format!("journal {id}: {read} of its {named} segments count"));
        }
        let behind = folder.segments.keys().filter(|number| **number > read as u64).count();
        if behind > 0 {
            let text = format!("journal {id}: {behind} segments behind number {read} do not count");
            self.survey.findings.push(text);
        }
    }

    /// Its last segment, if a revision is complete in it.
    pub(crate) fn continues(&self) -> Option<Continues> {
        let (sha256, last) = (*self.survey.segments.last()?, self.last());
        let number = self.survey.segments.len() as u64;
        let is_there = last >= self.first;
        let last = last.unsigned_abs();
        is_there.then_some(Continues { journal: self.id, number, last, sha256 })
    }

    /// Leaves out what is behind the segment of this digest.
    pub(crate) fn cut_after(&mut self, sha256: Option<Sha256>) {
        let at = self.survey.segments.iter().position(|found| Some(*found) == sha256);
        let keep = at.map_or(0, |at| at.saturating_add(1));
        self.places.truncate(keep);
        self.survey.segments.truncate(keep);
        self.survey.lasts.truncate(keep);
        self.survey.completes.truncate(keep);
        let (last, complete) = self.survey.completes.last().copied().unwrap_or((0, 0));
        self.survey.complete_ms = complete;
        self.survey.moments.retain(|(main, _)| *main <= last);
        self.survey.reason = None;
    }

    /// Gives `visit` everything that is recorded, in order.
    fn read(&self, visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>) -> Result<()> {
        let mut reading = Reading::new(self.first);
        for (number, (at, length)) in (1..).zip(&self.places) {
            let read = || {
                let length = usize::try_from(*length).unwrap_or(usize::MAX);
                let mut bytes = vec![0; length];
                self.file
                    .read_exact_at(&mut bytes, *at)
                    .map_err(|error| Error::io("scratch file", error))?;
                open_segment(&self.data_key, self.id, number, bytes)
            };
            let part = || format!("journal {}, segment {number}", self.id);
            let body = read().map_err(|error| error.context(part()))?;
            let body = Body::parse(&body)?;
            reading.body(&body, visit).map_err(|error| error.context(part()))?;
        }
        Ok(())
    }
}

impl Recording for ReadJournal {
    fn for_each(&self, visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>) -> Result<()> {
        self.read(visit)
    }
}

/// Journals that join, one after the other: what several have is read once.
pub(crate) struct Chain(pub(crate) Vec<Arc<ReadJournal>>);

impl Recording for Chain {
    fn for_each(&self, visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>) -> Result<()> {
        let mut done = 0;
        for journal in &self.0 {
            let last = journal.last();
            journal.read(&mut |recorded| match recorded {
                // What is behind the last complete revision is in the next journal, complete.
                Recorded::Record(record)
                    if record.revision.main <= done || record.revision.main > last =>
                {
                    Ok(())
                }
                other => visit(other),
            })?;
            done = last.max(done);
        }
        Ok(())
    }
}

/// The body of a segment.
fn open_segment(
    data_key: &DataKey,
    id: SnapshotId,
    number: u64,
    mut bytes: Vec<u8>,
) -> Result<Zeroizing<Vec<u8>>> {
    let length = bytes.len() as u64;
    let (head, sealed) = bytes
        .split_at_mut_checked(ObjectOpener::HEAD_LEN as usize)
        .ok_or_else(|| Error::truncated("shorter than its header"))?;
    let key = data_key.journal_key();
    let opener = ObjectOpener::new(head, Role::Segment(number), id, &key, length)?;
    let message = opener.open(&(0..opener.message_len()), sealed)?;
    let padded = |length: u64| padme(length.max(SHORTEST)).unwrap_or(u64::MAX);
    let body = decompress_padded_by(message, padded, MAX_BODY as u64).map(Zeroizing::new);
    // What was opened in place is secret too.
    zeroize::Zeroize::zeroize(&mut bytes);
    body
}
