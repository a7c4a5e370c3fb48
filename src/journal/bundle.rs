//! Bundles: what the segments of a journal that has ended hold, in one object (SPEC.md §13.3).
//!
//! The bodies stay as they are, so that whatever is read of a bundle is what is read of the segments.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest, Sha256 as Hasher};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::end::sealed_end;
use super::fetch::{PART, Source};
use super::folder::{Folder, list_one};
use super::open::{Bundled, digest as digest_of, read_seal};
use super::read::ReadJournal;
use super::sealed::{MAX_FRAME, padded};
use crate::compress::compress_at;
use crate::crypto::{self, Suite};
use crate::envelope::{DataKey, ObjectSealer, SealedObject, key_ids};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    EndBody, EndObjects, HeadBody, JournalPart, KeyId, KeyState, MAX_END, MAX_SEAL, Role, Seal,
    SegmentEntry, Sha256, SnapshotId,
};
use crate::keys::KeySet;
use crate::store::seals::next_generation;
use crate::store::{ObjectInfo, Repository, Upload};
use crate::task::run_blocking;

/// zstd's level: a bundle is written once, and kept.
const LEVEL: i32 = 3;
/// Bytes of bodies that are compressed together.
const FRAME: usize = 1 << 20;
/// Sealed pieces that wait to be sent.
const PIECES: usize = 4;
/// Seals of a journal that are read before it is bundled.
const MOST_SEALS: usize = 32;
/// Zeros that are sealed at once.
const PADDING: [u8; 1 << 14] = [0; 1 << 14];

/// A journal that has ended, and whose data key is known.
pub(crate) struct Ended {
    pub(crate) head: HeadBody,
    pub(crate) data_key: Arc<DataKey>,
    /// What it held when it ended: its segments.
    pub(crate) end: EndBody,
}

impl Ended {
    fn source<'a>(&self, end: &'a EndBody, bundle: Option<&'a ObjectInfo>) -> Source<'a> {
        let (head, data_key) = (self.head.clone(), Arc::clone(&self.data_key));
        Source { head, data_key, end: Some(end), bundle, findings: Vec::new() }
    }

    /// The number of the next end.
    ///
    /// # Errors
    /// Tampered when all are taken.
    fn number(&self, is_taken: impl Fn(u32) -> bool) -> Result<u32> {
        next_generation(1, is_taken)
            .ok_or_else(|| Error::tampered("it has used up its generations of seals"))
    }

    /// Stores the end, for a journal whose recorder did not.
    ///
    /// # Errors
    /// Those of the keys and of the store.
    pub(crate) async fn store_end(&self, repository: &Repository, keys: &KeySet) -> Result<()> {
        let id = self.head.journal;
        let folder = list_one(repository, id).await?;
        let number = self.number(|number| folder.has_number(number))?;
        self.store_as(repository, keys, number, self.end.clone()).await
    }

    async fn store_as(
        &self,
        repository: &Repository,
        keys: &KeySet,
        number: u32,
        end: EndBody,
    ) -> Result<()> {
        let id = self.head.journal;
        let [end, seal] = sealed_end(keys, &self.data_key, number, end).await?;
        repository.put_once(&JournalPart::End(number).of(id), end.into()).await?;
        repository.put_once(&JournalPart::Seal(number).of(id), seal.into()).await
    }
}

/// Stores the bundle of `ended`, reads it back, and stores an end that names it. Its segments stay: who lists them now may
/// still read them. Segments are kept below `dir` meanwhile, as they are stored.
///
/// # Errors
/// Those of the store and of the keys; tampered or truncated when not all segments open.
pub(crate) async fn bundle(
    repository: &Repository,
    keys: &KeySet,
    ended: &Ended,
    suite: Suite,
    dir: &Path,
) -> Result<Bundled> {
    let id = ended.head.journal;
    let folder = list_one(repository, id).await?;
    check_keys(repository, keys, id, &folder).await?;
    let source = ended.source(&ended.end, None);
    let read = ReadJournal::fetch_from(repository, keys, source, &folder, dir).await?;
    let segments = ended.end.segments;
    let Some(replaces) = read.survey.segments.last().copied() else {
        return Err(Error::truncated("it has no segments"));
    };
    if read.survey.segments.len() as u64 != segments || read.last() != ended.end.last.cast_signed()
    {
        let why = read.survey.findings.first().cloned().unwrap_or_default();
        return Err(Error::truncated(format!("not all of its segments open: {why}")));
    }
    let number = ended.number(|number| folder.has_number(number))?;
    let name = JournalPart::Bundle(number).of(id);
    let read = Arc::new(read);
    let (object, bodies) = upload(repository, &name, Arc::clone(&read), suite).await?;
    let object = SegmentEntry { length: object.length, sha256: object.sha256 };
    let end = EndBody { objects: EndObjects::Bundle { object, replaces }, ..ended.end.clone() };
    let info = ObjectInfo { name: name.clone(), len: object.length, modified: SystemTime::now() };
    let source = ended.source(&end, Some(&info));
    let again = ReadJournal::fetch_from(repository, keys, source, &folder, dir).await?;
    let (same, again) = run_blocking(move || Ok((digest(&again)? == bodies, again))).await?;
    if again.entries().is_some() || !same || !again.survey.says_the_same(&read.survey) {
        let why = again.survey.findings.first().cloned().unwrap_or_default();
        return Err(Error::tampered(format!("{name}: it does not read back: {why}")));
    }
    ended.store_as(repository, keys, number, end).await?;
    Ok(Bundled { id, number, object, segments })
}

/// Refuses a journal that a key opens to which nothing is sealed here: once the segments are gone it would open nothing.
async fn check_keys(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    folder: &Folder,
) -> Result<()> {
    let sealing: Vec<_> = keys.sealing().map(|key| key.id()).collect();
    let is_other =
        |key: &KeyId| !sealing.contains(key) && keys.state(*key) != Some(KeyState::Retired);
    for number in folder.seals.keys().take(MOST_SEALS) {
        let name = JournalPart::Seal(*number).of(id);
        let seal = Seal::parse(&repository.get(&name, MAX_SEAL as u64).await?);
        if let Some(key) = key_ids(&seal.context(name)?).into_iter().find(is_other) {
            let text = format!("key {key} opens it, and does not seal here");
            return Err(Error::new(ErrorKind::Refused, text));
        }
    }
    match folder.seals.len() > MOST_SEALS {
        true => Err(Error::new(ErrorKind::Refused, "it has too many seals")),
        false => Ok(()),
    }
}

/// Digest of all bodies.
fn digest(read: &ReadJournal) -> Result<Sha256> {
    let mut hasher = Hasher::new();
    read.for_each_body(&mut |_, body| {
        add(&mut hasher, body);
        Ok(())
    })?;
    Ok(Sha256(hasher.finalize().into()))
}

fn add(hasher: &mut Hasher, body: &[u8]) {
    hasher.update((body.len() as u64).to_be_bytes());
    hasher.update(body);
}

/// Stores what `read` holds as the bundle `name`: the object, and the digest of its bodies.
async fn upload(
    repository: &Repository,
    name: &str,
    read: Arc<ReadJournal>,
    suite: Suite,
) -> Result<(SealedObject, Sha256)> {
    let (sender, pieces) = mpsc::channel(PIECES);
    let making = run_blocking(move || make(&read, suite, &sender));
    let (made, sent) = tokio::join!(making, send(repository, name, pieces));
    let upload = sent?;
    match made {
        Ok(made) => {
            upload.finish().await.context(name.to_owned())?;
            Ok(made)
        }
        Err(error) => {
            // The first error says more.
            let _ = upload.abort().await;
            Err(error)
        }
    }
}

async fn send(
    repository: &Repository,
    name: &str,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<Upload> {
    let mut upload = repository.upload(name).await?;
    while let Some(piece) = pieces.recv().await {
        upload.write(piece).await?;
    }
    Ok(upload)
}

/// A bundle that is being made.
struct Making<'a> {
    sealer: ObjectSealer,
    /// Bodies that are compressed together, each behind its length.
    frame: Zeroizing<Vec<u8>>,
    /// Length of the message so far.
    length: u64,
    pieces: &'a mpsc::Sender<Bytes>,
}

fn make(
    read: &ReadJournal,
    suite: Suite,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<(SealedObject, Sha256)> {
    let (id, key) = (read.id(), read.data_key.journal_key());
    let sealer = ObjectSealer::new(suite, Role::Bundle, id, &key, &mut crypto::system_rng());
    let frame = Zeroizing::new(Vec::with_capacity(2 * FRAME));
    let mut making = Making { sealer, frame, length: 0, pieces };
    let mut hasher = Hasher::new();
    read.for_each_body(&mut |_, body| {
        add(&mut hasher, body);
        making.body(body)
    })?;
    Ok((making.finish()?, Sha256(hasher.finalize().into())))
}

impl Making<'_> {
    fn body(&mut self, body: &[u8]) -> Result<()> {
        let length = (body.len() as u32).to_be_bytes();
        let more = self.frame.len().saturating_add(body.len()).saturating_add(length.len());
        if more > MAX_FRAME {
            self.flush()?;
        }
        self.frame.extend_from_slice(&length);
        self.frame.extend_from_slice(body);
        if self.frame.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    /// Ends the frame.
    fn flush(&mut self) -> Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let frame = compress_at(&self.frame, LEVEL)?;
        zeroize::Zeroize::zeroize(&mut *self.frame);
        self.write(&(frame.len() as u32).to_be_bytes())?;
        self.write(&frame)?;
        self.send()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.length = self.length.saturating_add(bytes.len() as u64);
        self.sealer.write(bytes)
    }

    fn send(&mut self) -> Result<()> {
        let ready = self.sealer.take();
        // Who takes them has an error of its own.
        self.pieces.blocking_send(ready.into()).map_err(|_| crate::task::interrupted())
    }

    fn finish(mut self) -> Result<SealedObject> {
        self.flush()?;
        let all = padded(self.length);
        while self.length < all {
            let left = usize::try_from(all.saturating_sub(self.length)).unwrap_or(usize::MAX);
            let zeros = PADDING.get(..left.min(PADDING.len())).unwrap_or_default();
            self.write(zeros)?;
            self.send()?;
        }
        let (rest, object) = self.sealer.finish()?;
        self.pieces.blocking_send(rest.into()).map_err(|_| crate::task::interrupted())?;
        Ok(object)
    }
}

/// That a bundle is the object that its end names: somebody else may have put another one of its length there.
///
/// # Errors
/// Tampered if it is another one; those of the store.
pub(crate) async fn check_bundle(repository: &Repository, bundled: &Bundled) -> Result<()> {
    let name = JournalPart::Bundle(bundled.number).of(bundled.id);
    match is_object(repository, &name, bundled.object).await? {
        true => Ok(()),
        false => Err(Error::tampered(format!("{name} is not the object that the end names"))
            .hint("`strongroom journal verify` shows what is wrong with the journal")),
    }
}

/// Whether the object `name` is the one that an end `named`.
///
/// # Errors
/// Those of the store.
pub(crate) async fn is_object(
    repository: &Repository,
    name: &str,
    named: SegmentEntry,
) -> Result<bool> {
    let mut hasher = Hasher::new();
    for at in (0..named.length).step_by(PART as usize) {
        let end = at.saturating_add(PART).min(named.length);
        hasher.update(repository.get_range(name, at..end).await?);
    }
    Ok(Sha256(hasher.finalize().into()) == named.sha256)
}

/// Checks that the newest seal in `folder` vouches for the end that names the bundle. A later one may vouch for an end that
/// names the segments.
async fn check_newest(repository: &Repository, folder: &Folder, bundled: &Bundled) -> Result<()> {
    let Bundled { id, number, .. } = *bundled;
    let generation = folder.seals.keys().next_back().copied().unwrap_or(number);
    let name = JournalPart::Seal(generation).of(id);
    let seal = read_seal(repository, id, generation, &name).await.context(name.clone())?;
    let end = repository.get(&JournalPart::End(number).of(id), MAX_END as u64).await?;
    match seal.body().object() == digest_of(&end) {
        true => Ok(()),
        false => {
            Err(Error::tampered(format!("{name} vouches for another object than the newest end"))
                .hint("`strongroom journal verify` shows what is wrong with the journal"))
        }
    }
}

/// Deletes the segments that a bundle replaces, and bundles that no end counts with. How many objects that were.
///
/// # Errors
/// Those of [`check_bundle`]; [`Tampered`](ErrorKind::Tampered) if the newest seal does not vouch for the bundle's end; those of the
/// store: [`Denied`](ErrorKind::Denied) where an object lock or a policy keeps them.
pub(crate) async fn delete_replaced(repository: &Repository, bundled: Bundled) -> Result<u64> {
    check_bundle(repository, &bundled).await?;
    let Bundled { id, number, segments, .. } = bundled;
    let folder = list_one(repository, id).await?;
    check_newest(repository, &folder, &bundled).await?;
    let mut deleted = 0_u64;
    for info in folder.replaced(number, segments) {
        repository.delete(&info.name).await?;
        deleted = deleted.saturating_add(1);
    }
    Ok(deleted)
}
