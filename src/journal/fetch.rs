//! Fetching a journal: its bundle if its end names one, else its segments in order, as far as they open and follow.

use std::io::{Seek, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, stream};
use sha2::{Digest, Sha256 as Hasher};

use super::folder::Folder;
use super::open::OpenJournal;
use super::read::{ReadJournal, Stored, Survey};
use super::sealed::{LONGEST, SHORTEST_OBJECT, bundle_bodies, open_segment};
use crate::crypto;
use crate::envelope::DataKey;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Body, EndBody, EndObjects, HeadBody, MAX_SEGMENTS, SegmentEntry, Sha256};
use crate::keys::KeySet;
use crate::mvcc::Reading;
use crate::store::{ObjectInfo, Repository};
use crate::task::run_blocking;
use crate::text::counted;

/// Segments that are fetched at once.
const READS: usize = 16;
/// Bytes of a bundle that are fetched at once.
pub(crate) const PART: u64 = 8 << 20;
/// Bytes that are fetched at once, unless one object has more.
const BATCH: u64 = 96 << 20;
/// Bytes of objects that turn out to be none of a journal's segments.
pub(crate) const MAX_WASTED: u64 = 1 << 30;

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
            None => SHORTEST_OBJECT..=LONGEST,
        };
        let infos = folder.segments.get(&number).into_iter().flatten();
        let mut infos: Vec<_> = infos.filter(|info| lengths.contains(&info.len)).cloned().collect();
        infos.sort_by_key(|info| info.len);
        self.0.push(Candidates { number, pinned: named.map(|named| named.sha256), infos });
    }
}

/// A journal that is read, and what is known of it.
pub(super) struct Source<'a> {
    pub(super) head: HeadBody,
    pub(super) data_key: Arc<DataKey>,
    pub(super) end: Option<&'a EndBody>,
    /// The object of the bundle that the end names.
    pub(super) bundle: Option<&'a ObjectInfo>,
    pub(super) findings: Vec<String>,
}

/// Which segments are wanted.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// How many there may be.
    count: u64,
    /// What the end says of each, if it names them.
    named: Option<&'a [SegmentEntry]>,
}

impl ReadJournal {
    /// Fetches what `journal` recorded into a file without a name below `dir`, and reads it once.
    ///
    /// # Errors
    /// Those of the store and [`Io`](crate::ErrorKind::Io). What does not open ends the coverage there, and is a finding; so is
    /// what is missing.
    pub(crate) async fn fetch(
        repository: &Repository,
        keys: &KeySet,
        mut journal: OpenJournal,
        folder: &Folder,
        dir: &Path,
    ) -> Result<Self> {
        let source = Source {
            findings: std::mem::take(&mut journal.findings),
            head: journal.head.clone(),
            data_key: Arc::clone(&journal.data_key),
            end: journal.end.as_ref(),
            bundle: journal.bundle(folder),
        };
        Self::fetch_from(repository, keys, source, folder, dir).await
    }

    /// As [`fetch`](Self::fetch).
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch).
    pub(super) async fn fetch_from(
        repository: &Repository,
        keys: &KeySet,
        source: Source<'_>,
        folder: &Folder,
        dir: &Path,
    ) -> Result<Self> {
        let file = tempfile::tempfile_in(dir).map_err(|error| Error::io(dir, error))?;
        let Source { head, data_key, end, bundle, findings } = source;
        let mut read = Self::new(keys, &head, (data_key, end.is_some()), file);
        read.survey.findings = findings;
        let Some(EndBody { segments, objects, .. }) = end else {
            let wanted = Wanted { count: MAX_SEGMENTS, named: None };
            read.segments(repository, folder, wanted).await?;
            return Ok(read);
        };
        match objects {
            EndObjects::Segments(named) => {
                let wanted = Wanted { count: *segments, named: Some(named) };
                read.segments(repository, folder, wanted).await?;
            }
            EndObjects::Bundle { object, replaces } => {
                let named = (*segments, *replaces);
                let why = match bundle {
                    None => Error::truncated("it is missing"),
                    Some(info) => {
                        let (again, failed) = read.bundle(repository, info, *object, named).await?;
                        read = again;
                        let Some(why) = failed else { return Ok(read) };
                        why
                    }
                };
                let (id, is_away) = (read.id(), why.kind().is_away());
                read.survey.findings.push(why.context(format!("journal {id}, bundle")).to_string());
                read.replaced(repository, keys, folder, named).await?;
                read.is_cut |= is_away && (read.survey.segments.len() as u64) < named.0;
            }
        }
        Ok(read)
    }

    /// Fetches the segments that a bundle was to replace, as far as they are still there.
    async fn replaced(
        &mut self,
        repository: &Repository,
        keys: &KeySet,
        folder: &Folder,
        (count, last): (u64, Sha256),
    ) -> Result<()> {
        self.segments(repository, folder, Wanted { count, named: None }).await?;
        if self.survey.segments.last() != Some(&last) && !keys.signers().is_empty() {
            // What the end names pins all before it; without that, nothing shows who recorded it.
            let text = format!("journal {}: its segments do not lead to the last one", self.id());
            self.survey.findings.push(text);
            self.cut_after(None);
        }
        Ok(())
    }

    /// Fetches the bundle that `info` describes. Why it is not the one that the end names, if so: then nothing is read.
    async fn bundle(
        mut self,
        repository: &Repository,
        info: &ObjectInfo,
        named: SegmentEntry,
        (segments, replaces): (u64, Sha256),
    ) -> Result<(Self, Option<Error>)> {
        let scratch = |error| Error::io("scratch file", error);
        let (mut hasher, mut at) = (Hasher::new(), 0);
        let mut failed = None;
        while at < named.length {
            let end = at.saturating_add(PART).min(named.length);
            match repository.get_range(&info.name, at..end).await {
                Ok(bytes) => {
                    hasher.update(&bytes);
                    self.file.write_all(&bytes).map_err(scratch)?;
                }
                Err(error) if error.kind().is_general() => return Err(error),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            at = end;
        }
        if failed.is_none() && Sha256(hasher.finalize().into()) != named.sha256 {
            failed = Some(Error::tampered("it is not the object that the end names"));
        }
        let findings = self.survey.findings.clone();
        if failed.is_none() {
            let (again, outcome) = run_blocking(move || {
                let outcome = self.survey_bundle(named.length, (segments, replaces));
                Ok((self, outcome))
            })
            .await?;
            self = again;
            failed = outcome.err();
        }
        if failed.is_some() {
            self.survey = Survey { findings, ..Survey::default() };
            self.stored = Stored::Segments(Vec::new());
            self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(scratch)?;
        }
        Ok((self, failed))
    }

    /// Reads the bundle in the file.
    fn survey_bundle(&mut self, length: u64, (segments, replaces): (u64, Sha256)) -> Result<()> {
        let (mut reading, mut count) = (Reading::new(self.first()), 0);
        let Self { file, data_key, rules, survey, .. } = self;
        bundle_bodies((file, length), data_key, rules.id, &mut |number, bytes| {
            let body = Body::parse(bytes)?;
            let previous = body.head().previous;
            let is_first = previous == Sha256::NONE;
            if body.head().number != number || is_first != (number == 1) || number > segments {
                return Err(Error::tampered("its bodies are not those of segments in order"));
            }
            // A body tells the digest of the segment before it.
            if !is_first {
                survey.segments.push(previous);
            }
            let (news, next) = rules.survey(&body, survey.complete_ms, &reading)?;
            survey.add(news)?;
            (reading, count) = (next, number);
            Ok(ControlFlow::Continue(()))
        })?;
        if count != segments {
            return Err(Error::tampered(format!("it holds {count} of {segments} segments")));
        }
        survey.segments.push(replaces);
        survey.stored_bytes = length;
        self.stored = Stored::Bundle(length);
        Ok(())
    }

    /// Fetches segments from number 1 on, to the first that is missing or does not follow.
    async fn segments(
        &mut self,
        repository: &Repository,
        folder: &Folder,
        wanted: Wanted<'_>,
    ) -> Result<()> {
        let id = self.id();
        let mut reading = Reading::new(self.first());
        let (mut wasted, mut number) = (0, 1);
        while number <= wanted.count {
            // What is listed under these numbers, as far as it can be what is wanted.
            let mut batch = Batch::default();
            while batch.has_room()
                && number <= wanted.count
                && folder.segments.contains_key(&number)
            {
                let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
                let named = wanted.named.and_then(|segments| segments.get(index)).copied();
                batch.add(number, named, folder);
                number = number.saturating_add(1);
            }
            if batch.0.is_empty() {
                break;
            }
            if let Err((at, error)) =
                self.take_all(repository, batch, &mut wasted, &mut reading).await
            {
                if matches!(error.kind(), ErrorKind::Denied) || !error.kind().is_general() {
                    let part = format!("journal {id}, segment {at}");
                    self.is_cut = error.kind().is_away();
                    self.survey.findings.push(error.context(part).to_string());
                    break;
                }
                return Err(error);
            }
        }
        self.note_missing(wanted.named.map(<[_]>::len), folder);
        Ok(())
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
        let (bytes, number) = (bytes?, candidates.number);
        let digest = Sha256(crypto::sha256(&[&bytes]));
        if candidates.pinned.is_some_and(|pinned| pinned != digest) {
            return Err(Error::tampered("it is not the object that the end names"));
        }
        let body = open_segment(&self.data_key, self.id(), number, bytes.to_vec())?;
        let body = Body::parse(&body)?;
        let previous = self.survey.segments.last().copied().unwrap_or(Sha256::NONE);
        if body.head().number != number || body.head().previous != previous {
            return Err(Error::tampered("it does not follow the segment before it"));
        }
        let (mut news, next) = self.rules.survey(&body, self.survey.complete_ms, reading)?;
        news.segments.push(digest);
        news.stored_bytes = bytes.len() as u64;
        *reading = next;
        self.survey.add(news)?;
        self.keep(&bytes)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        let Stored::Segments(places) = &mut self.stored else { return Ok(()) };
        let at = places.last().map_or(0, |(at, length)| at.saturating_add(*length));
        self.file.write_all(bytes).map_err(|error| Error::io("scratch file", error))?;
        places.push((at, bytes.len() as u64));
        Ok(())
    }

    fn note_missing(&mut self, named: Option<usize>, folder: &Folder) {
        let (id, read) = (self.id(), self.survey.segments.len());
        if let Some(named) = named.filter(|named| read < *named) {
            self.survey
                .findings
                .push(format!("journal {id}: of {} only {read} count", counted(named, "segment")));
        }
        let behind = folder.segments.keys().filter(|number| **number > read as u64).count();
        if behind > 0 {
            let behind = counted(behind, "segment");
            let text = format!("journal {id}: not counted, because behind number {read}: {behind}");
            self.survey.findings.push(text);
        }
    }
}

/// The last revision that `journal` holds: its end tells it, and without one its segments. Their names tell nothing, because
/// others can put objects there.
///
/// # Errors
/// Those of the store; [`Unreachable`](ErrorKind::Unreachable) where a segment cannot be read now.
pub(crate) async fn last_of(
    repository: &Repository,
    keys: &KeySet,
    journal: OpenJournal,
    folder: &Folder,
) -> Result<i64> {
    if let Some(end) = &journal.end {
        return Ok(end.last.cast_signed());
    }
    let (id, dir) = (journal.id(), std::env::temp_dir());
    let read = ReadJournal::fetch(repository, keys, journal, folder, &dir).await?;
    match read.is_cut {
        true => Err(Error::new(
            ErrorKind::Unreachable,
            format!("journal {id} has no end, and not all of its segments can be read now"),
        )),
        false => Ok(read.last()),
    }
}
