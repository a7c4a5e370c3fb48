//! An opened snapshot: authenticated in the order of SPEC.md §6, then read frame by frame.

use std::ops::Range;
use std::sync::Arc;

use super::facts;
use super::folder::{self, Folder};
use super::frames;
use crate::crypto;
use crate::envelope::{DataKey, ObjectOpener, Opened, open_seal};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    Facts, INDEX_BLOCK, Index, KeyId, MAX_INDEX, MAX_MANIFEST, MAX_SEAL, Manifest, ObjectEntry,
    Role, Seal, Sha256, SnapshotId, Subject, names,
};
use crate::keys::MasterKeys;
use crate::secret::SecretKey;
use crate::store::Repository;
use crate::task::{Buffer, Buffers};
use zeroize::Zeroizing;

/// Seals of one snapshot that are tried.
const MOST_SEALS: usize = 64;

/// A snapshot whose seal, manifest and index have proved themselves.
pub(crate) struct OpenSnapshot {
    pub(crate) manifest: Manifest,
    pub(crate) opened_by: KeyId,
    /// Seal generations that did not open, and why. The snapshot opens all the same.
    pub(crate) findings: Vec<String>,
    pub(crate) facts: Facts,
    pub(crate) data_key: DataKey,
    pub(crate) database: DatabaseReader,
}

/// A manifest and the newest seal that opens it: headers, no payload.
pub(crate) struct Unsealed {
    pub(crate) manifest: Manifest,
    pub(crate) seal: Seal,
    pub(crate) data_key: DataKey,
    pub(crate) opened_by: KeyId,
    pub(crate) findings: Vec<String>,
}

/// Reads the manifest of `id` and checks what needs no key: its path and its origin.
pub(crate) async fn read_manifest(repository: &Repository, id: SnapshotId) -> Result<Manifest> {
    let name = names::snapshot_object(id, "manifest");
    let bytes = repository.get(&name, MAX_MANIFEST as u64).await?;
    let manifest = Manifest::parse(&bytes).context(name.clone())?;
    let body = manifest.body();
    if body.snapshot != id {
        return Err(Error::tampered("it is the manifest of another snapshot").context(name));
    }
    if body.origin != repository.id() {
        let message = format!("it was made in repository {}", body.origin);
        return Err(Error::tampered(message)
            .hint("a snapshot copied here by hand; use the repository it was made in")
            .context(name));
    }
    Ok(manifest)
}

/// What the tombstone of `id` keeps of its manifest. Nothing of it is authenticated.
pub(crate) async fn read_tombstone(repository: &Repository, id: SnapshotId) -> Result<Manifest> {
    let name = names::snapshot_object(id, "tombstone");
    let bytes = repository.get(&name, MAX_MANIFEST as u64).await?;
    let tombstone = Manifest::parse(&bytes).context(name.clone())?;
    if tombstone.body().snapshot != id {
        return Err(Error::tampered("it is the tombstone of another snapshot").context(name));
    }
    Ok(tombstone)
}

/// Opens manifest and seal of `id`.
pub(crate) async fn unseal(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &MasterKeys,
) -> Result<Unsealed> {
    if folder.manifest.is_none() {
        return Err(missing_manifest(id, folder));
    }
    let manifest = read_manifest(repository, id).await?;
    let mut findings = Vec::new();
    let (seal, Opened { data_key, opened_by, .. }) =
        authenticate(repository, folder, keys, &manifest, &mut findings).await?;
    Ok(Unsealed { manifest, seal, data_key, opened_by, findings })
}

/// Opens the newest seal that opens, and proves `manifest` by it.
pub(crate) async fn authenticate(
    repository: &Repository,
    folder: &Folder,
    keys: &MasterKeys,
    manifest: &Manifest,
    findings: &mut Vec<String>,
) -> Result<(Seal, Opened)> {
    let id = manifest.body().snapshot;
    let (seal, opened) = newest_seal(repository, id, folder, keys, manifest, findings).await?;
    let commitment = &manifest.body().commitment;
    opened
        .data_key
        .authenticate_manifest(commitment, manifest.signed_bytes(), manifest.mac())
        .context(names::snapshot_object(id, "manifest"))?;
    Ok((seal, opened))
}

/// What a snapshot's seal vouches for.
pub(crate) fn manifest_digest(manifest: &Manifest) -> Sha256 {
    Sha256(crypto::sha256(&[&manifest.print()]))
}

pub(crate) fn missing_manifest(id: SnapshotId, folder: &Folder) -> Error {
    if folder.seals.is_empty() && folder.objects.is_empty() {
        return Error::new(ErrorKind::NotFound, format!("no snapshot {id}"))
            .hint("`strongroom snapshots` lists what is there");
    }
    Error::truncated(format!("snapshot {id} has no manifest"))
        .hint("an interrupted backup leaves such a folder; one older than that lost its manifest")
}

/// Tries every generation from the highest down. One that does not open is a finding, never the end.
async fn newest_seal(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &MasterKeys,
    manifest: &Manifest,
    findings: &mut Vec<String>,
) -> Result<(Seal, Opened)> {
    if folder.seals.is_empty() {
        return Err(Error::truncated(format!("snapshot {id} has no seal")));
    }
    let object = manifest_digest(manifest);
    let mut worst: Option<(u8, Error)> = None;
    // Many may have been planted: the newest and the oldest are tried.
    let newest = folder.seals.keys().rev().take(MOST_SEALS);
    let oldest = folder.seals.keys().take(folder.seals.len().saturating_sub(MOST_SEALS).min(4));
    for generation in newest.chain(oldest) {
        let read = read_seal(repository, id, *generation).await;
        let parsed = match read {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            read => read.and_then(|seal| match *seal.body().commitment() {
                commitment if commitment == manifest.body().commitment => Ok(seal),
                _ => Err(Error::tampered("it seals another data key than the manifest's")),
            }),
        };
        // A key that matches and fails outweighs no key at hand, and that a seal that is none (SPEC.md §5).
        let (rank, error) = match parsed {
            Err(error) => (1, error),
            Ok(seal) => match open_seal(&seal, object, keys) {
                Ok(opened) => return Ok((seal, opened)),
                Err(error) if error.kind() == ErrorKind::WrongKey => (2, error),
                Err(error) => (3, error),
            },
        };
        let name = names::seal_name(id, *generation);
        let error = if rank == 1 { error } else { error.context(name) };
        if rank != 2 {
            findings.push(error.to_string());
        }
        if worst.as_ref().is_none_or(|(worst, _)| rank > *worst) {
            worst = Some((rank, error));
        }
    }
    let none = || Error::truncated(format!("snapshot {id} has no seal"));
    Err(worst.map_or_else(none, |(_, error)| error))
}

/// Reads one seal of `id`, which must be of that snapshot and generation.
pub(crate) async fn read_seal(
    repository: &Repository,
    id: SnapshotId,
    generation: u32,
) -> Result<Seal> {
    let name = names::seal_name(id, generation);
    let seal = async {
        let seal = Seal::parse(&repository.get(&name, MAX_SEAL as u64).await?)?;
        let body = seal.body();
        if body.subject() != Subject::Snapshot(id) || body.generation() != generation {
            return Err(Error::tampered("its lines name another snapshot or generation"));
        }
        Ok(seal)
    };
    seal.await.context(name)
}

impl OpenSnapshot {
    /// Opens `id` as far as its index; frames are fetched as they are asked for.
    pub(crate) async fn open(
        repository: &Repository,
        id: SnapshotId,
        keys: &MasterKeys,
    ) -> Result<Self> {
        let opened = async {
            let folder = folder::list_one(repository, id).await?;
            let unsealed = unseal(repository, id, &folder, keys).await?;
            check_lengths(&unsealed.manifest, &folder)?;
            let facts = open_facts(&unsealed)?;
            let index = read_index(repository, &unsealed).await?;
            let Unsealed { manifest, data_key, opened_by, findings, .. } = unsealed;
            let payload_len = object(&manifest, "payload")?.length;
            let database =
                DatabaseReader::open(repository, id, &data_key, payload_len, index).await?;
            Ok(Self { manifest, opened_by, findings, facts, data_key, database })
        };
        opened.await.context(format!("snapshot {id}"))
    }
}

/// The sealed facts, which say of the database what the manifest says in clear.
pub(super) fn open_facts(unsealed: &Unsealed) -> Result<Facts> {
    let facts = facts::open(&unsealed.manifest, &unsealed.data_key)?;
    let manifest = unsealed.manifest.body();
    if facts.etcd.revision != manifest.revision || facts.database_size != manifest.database_bytes {
        return Err(Error::tampered("the sealed facts and the manifest disagree"));
    }
    Ok(facts)
}

/// What the manifest says of the object `role`.
fn object<'a>(manifest: &'a Manifest, role: &str) -> Result<&'a ObjectEntry> {
    let entry = manifest.body().object(role);
    entry.ok_or_else(|| Error::tampered(format!("the manifest names no {role}")))
}

/// Every object that the manifest names is there, as long as it says.
pub(crate) fn check_lengths(manifest: &Manifest, folder: &Folder) -> Result<()> {
    for object in &manifest.body().objects {
        let role = &object.role;
        match folder.length(role) {
            None => return Err(Error::truncated(format!("{role} is missing"))),
            Some(found) if found < object.length => {
                let message = format!("{role} is {found} bytes instead of {}", object.length);
                return Err(Error::truncated(message));
            }
            Some(found) if found > object.length => {
                let message = format!("{role} is {found} bytes instead of {}", object.length);
                return Err(Error::tampered(message));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Reads the object `role` whole, proves it by the manifest's digest and opens its message, of at most `most` bytes.
pub(crate) async fn read_message(
    repository: &Repository,
    manifest: &Manifest,
    role: Role,
    key: &SecretKey,
    most: u64,
) -> Result<Zeroizing<Vec<u8>>> {
    let object = object(manifest, role.name())?;
    let id = manifest.body().snapshot;
    let name = names::snapshot_object(id, role.name());
    let message = async {
        let longest = crypto::sealed_len(most) + ObjectOpener::HEAD_LEN;
        let mut bytes = repository.get(&name, object.length.min(longest)).await?.to_vec();
        if bytes.len() as u64 != object.length {
            return Err(Error::truncated("its length is not the manifest's"));
        }
        if crypto::sha256(&[&bytes]) != object.sha256.0 {
            return Err(Error::tampered("its SHA-256 is not the manifest's"));
        }
        let (head, sealed) = bytes
            .split_at_mut_checked(ObjectOpener::HEAD_LEN as usize)
            .ok_or_else(|| Error::truncated("shorter than its header"))?;
        let opener = ObjectOpener::new(head, role, id, key, object.length)?;
        let message = opener.open(&(0..opener.message_len()), sealed)?.len();
        // In place: no second copy of what is secret.
        bytes.drain(..ObjectOpener::HEAD_LEN as usize);
        bytes.truncate(message);
        Ok(Zeroizing::new(bytes))
    };
    message.await.context(name)
}

async fn read_index(repository: &Repository, unsealed: &Unsealed) -> Result<Index> {
    let manifest = unsealed.manifest.body();
    let payload_len = object(&unsealed.manifest, "payload")?.length;
    let key = unsealed.data_key.index_key();
    let most = MAX_INDEX as u64;
    let message = read_message(repository, &unsealed.manifest, Role::Index, &key, most).await?;
    let parsed = frames::decompress_padded(&message, INDEX_BLOCK, most)
        .map(Zeroizing::new)
        .and_then(|json| Index::parse(&json, payload_len));
    let index = parsed.context(names::snapshot_object(manifest.snapshot, "index"))?;
    if index.database().size != manifest.database_bytes {
        return Err(Error::tampered("manifest and index name different database sizes"));
    }
    Ok(index)
}

/// Reads the database that an index describes, any part of it.
#[derive(Clone)]
pub(crate) struct DatabaseReader(Arc<Inner>);

struct Inner {
    repository: Repository,
    index: Index,
    /// The payload object.
    name: String,
    opener: ObjectOpener,
}

impl DatabaseReader {
    /// Opens the payload of snapshot `id`, whose last chunk proves its length.
    pub(crate) async fn open(
        repository: &Repository,
        id: SnapshotId,
        data_key: &DataKey,
        payload_len: u64,
        index: Index,
    ) -> Result<Self> {
        let name = names::snapshot_object(id, "payload");
        let key = data_key.payload_key();
        let opener = open_payload(repository, &name, id, &key, payload_len, index.stored_bytes())
            .await
            .context(name.clone())?;
        Ok(Self(Arc::new(Inner { repository: repository.clone(), index, name, opener })))
    }

    pub(crate) fn index(&self) -> &Index {
        &self.0.index
    }

    /// How many frames the database has.
    pub(crate) fn frames(&self) -> usize {
        self.0.index.frames().len()
    }

    /// Where the plain frame `at` begins in the database.
    pub(crate) fn frame_start(&self, at: usize) -> u64 {
        at as u64 * self.0.index.database().frame_size
    }

    /// Groups `which` frames: at most `bytes` stored in each group, unless it is one frame, and `count` frames.
    pub(crate) fn batches(
        &self,
        which: Range<usize>,
        bytes: u64,
        count: usize,
    ) -> Vec<Range<usize>> {
        let stored = |frames: Range<usize>| {
            self.0.index.stored(frames).map_or(u64::MAX, |range| range.end - range.start)
        };
        let mut batches: Vec<Range<usize>> = Vec::new();
        for at in which.start..which.end.min(self.frames()) {
            match batches.last_mut() {
                Some(batch) if batch.len() < count && stored(batch.start..at + 1) <= bytes => {
                    batch.end = at + 1;
                }
                _ => batches.push(at..at + 1),
            }
        }
        batches
    }

    /// Fetches one batch's stored bytes, still sealed.
    pub(crate) async fn fetch(&self, batch: Range<usize>) -> Result<SealedBatch> {
        let inner = &self.0;
        let message = inner.index.stored(batch.clone());
        let message =
            message.ok_or_else(|| Error::tampered("the index does not have these frames"))?;
        let range = inner.opener.sealed_range(&message)?;
        let sealed = inner.repository.get_range(&inner.name, range).await?;
        Ok(SealedBatch { reader: self.clone(), frames: batch, message, sealed: sealed.into() })
    }
}

/// Opens the payload's header and its last chunk, whose padding after the `stored` bytes of frames must be zeros.
async fn open_payload(
    repository: &Repository,
    name: &str,
    id: SnapshotId,
    key: &SecretKey,
    length: u64,
    stored: u64,
) -> Result<ObjectOpener> {
    let head_len = ObjectOpener::HEAD_LEN;
    if length < head_len {
        return Err(Error::truncated("shorter than its header"));
    }
    let head = repository.get_range(name, 0..head_len).await?;
    let opener = ObjectOpener::new(&head, Role::Payload, id, key, length)?;
    let last = opener.last_chunk();
    let mut sealed = repository.get_range(name, opener.sealed_range(&last)?).await?.to_vec();
    let chunk = opener.open(&last, &mut sealed)?;
    let frames = stored.saturating_sub(last.start) as usize;
    if chunk.iter().skip(frames).any(|byte| *byte != 0) {
        return Err(Error::tampered("its padding is not zeros"));
    }
    Ok(opener)
}

/// The stored bytes of some frames, as fetched.
pub(crate) struct SealedBatch {
    reader: DatabaseReader,
    frames: Range<usize>,
    message: Range<u64>,
    sealed: Vec<u8>,
}

impl SealedBatch {
    /// Decrypts each frame, compares its SHA-256 with the index's, decompresses it and hands it to `each`, with its
    /// number.
    pub(crate) fn open(
        mut self,
        buffers: &Buffers,
        mut each: impl FnMut(usize, Buffer) -> Result<()>,
    ) -> Result<()> {
        let Inner { index, name, opener, .. } = &*self.reader.0;
        let message = opener.open(&self.message, &mut self.sealed).context(name.clone())?;
        let mut decompressor = frames::decompressor()?;
        let mut rest: &[u8] = message;
        for at in self.frames {
            let frame = index.frames().get(at).zip(index.frame_length(at));
            let Some((frame, length)) = frame else { break };
            let named = |error: Error| error.context(format!("frame {at}"));
            let (stored, later) = rest
                .split_at_checked(frame.length as usize)
                .ok_or_else(|| named(Error::tampered("it ends after its payload")))?;
            rest = later;
            if crypto::sha256(&[stored]) != frame.sha256.0 {
                return Err(named(Error::tampered("its SHA-256 is not the index's")));
            }
            let mut plain = buffers.of_length(length as usize);
            frames::decompress(&mut decompressor, stored, &mut plain).map_err(named)?;
            each(at, plain)?;
        }
        Ok(())
    }
}
