//! Writing a snapshot: read, cut, compress, encrypt, upload; index, seal, and last of all the manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::facts;
use super::frames::{Compressed, FRAME_LEN, FramePool, kib};
use super::grace::{Since, still_there};
use super::input::{Input, Live};
use super::late::LateSeal;
use super::options::BackupOptions;
use super::read_back::read_back;
use super::reader::DatabaseReader;
use crate::compress::compress_padded;
use crate::crypto;
use crate::envelope::{DataKey, NewSeal, ObjectSealer, SealedObject, seal_to_most};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::etcd::Comparison;
use crate::etcd::seen::{Compared, Seen};
use crate::format::{
    Database, Facts, FrameRef, HashKvFacts, INDEX_BLOCK, Index, MAX_SEAL, Manifest, ManifestBody,
    ObjectEntry, Part, Previous, RecordedFacts, Role, Seal, Sha256, SnapshotId, Subject,
};
use crate::keys::{KeySet, Missing};
use crate::secret::SecretKey;
use crate::store::{Repository, Skew, Upload};
use crate::task::{AbortOnDrop, Buffer, Buffers, Control, Step, task_panicked};
use zeroize::Zeroizing;

/// Padding is written in pieces of this.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a snapshot is made of beside its database.
pub(crate) struct Content {
    pub(crate) id: SnapshotId,
    pub(crate) companions: Option<Zeroizing<Vec<u8>>>,
    /// The cluster's snapshot before this one.
    pub(crate) previous: Option<Previous>,
    pub(crate) tags: Vec<String>,
    /// What the companions were made of.
    pub(crate) included: Vec<String>,
    /// The recording that the snapshot is compared with.
    pub(crate) seen: Option<Arc<Seen>>,
    /// The snapshot of which this is a re-encryption, and what that was compared with.
    pub(crate) replaces: Option<SnapshotId>,
    pub(crate) journal: Option<RecordedFacts>,
}

/// Writes one snapshot, which exists when this returns; otherwise nothing of it is visible.
///
/// # Errors
/// Those of [`backup`](super::backup).
pub(crate) async fn write_snapshot(
    repository: &Repository,
    keys: &KeySet,
    options: &BackupOptions,
    control: &Control,
    content: Content,
    input: Input,
) -> Result<(Written, Option<LateSeal>)> {
    let id = content.id;
    let writer = Writer {
        repository,
        keys,
        options,
        control,
        content,
        committing: AtomicBool::new(false),
        data_key: DataKey::generate(Subject::Snapshot(id), &mut crypto::system_rng()),
    };
    match writer.write(input).await {
        Ok((written, sealed)) => {
            let late = LateSeal::new(writer.data_key, id, sealed, &written.missing);
            Ok((written, late))
        }
        Err(error) => {
            // A manifest whose request broke off may still arrive, and must find what it names.
            let may_arrive =
                writer.committing.load(Ordering::Relaxed) && error.kind() == ErrorKind::Unreachable;
            if !may_arrive {
                writer.clean_up().await;
            }
            Err(error.context(format!("backup {id}")))
        }
    }
}

/// What was written.
pub(crate) struct Written {
    pub(crate) members: Option<Comparison>,
    /// What comparing it with the recording showed.
    pub(crate) compared: Option<Compared>,
    pub(crate) revision: u64,
    pub(crate) compact_revision: u64,
    pub(crate) database_bytes: u64,
    pub(crate) stored_bytes: u64,
    /// How far the store's clock is from this host's.
    pub(crate) skew: Option<Skew>,
    /// The keys that could not seal it.
    pub(crate) missing: Vec<Missing>,
}

/// One snapshot being written.
struct Writer<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    options: &'a BackupOptions,
    control: &'a Control,
    content: Content,
    /// The manifest is on its way.
    committing: AtomicBool,
    data_key: DataKey,
}

impl Writer<'_> {
    /// Stops between the store's requests, never within one: what is given up in mid-air may still arrive.
    async fn write(&self, input: Input) -> Result<(Written, Seal)> {
        let etcd = input.facts();
        let live = input.live().filter(|_| self.options.compare_members);
        let (payload, index) = self.payload(input).await?;
        let since = Since::now();
        let (index_object, skew) = self.index(&index).await?;
        let mut objects = vec![entry(Part::Payload, &payload), entry(Part::Index, &index_object)];
        if let Some(tar) = &self.content.companions {
            let key = self.data_key.companions_key();
            let place = (Part::Companions, Role::Companions);
            objects.push(entry(Part::Companions, &self.object(place, &key, tar).await?));
        }
        let lengths: u64 = objects.iter().map(|object| object.length).sum();
        // The stored bytes themselves say which revision they hold: a Status asked beside the stream races.
        let database = *index.database();
        let reader = DatabaseReader::open(
            self.repository,
            self.content.id,
            &self.data_key,
            payload.length,
            index,
        )
        .await
        .context("reading back")?;
        self.control.begin("reading back", None);
        let seen = self.content.seen.clone();
        let read_back = self.control.guard(read_back(reader, etcd, seen));
        let (mut facts, compared) = read_back.await.context("reading back")?;
        facts.journal = facts.journal.or(self.content.journal);
        let members = self.compare(live, &mut facts).await?;
        let (revision, compact_revision) = (facts.etcd.revision, facts.etcd.compact_revision);
        let own =
            objects.iter().map(|object| (object.part.of(self.content.id), object.length)).collect();
        let manifest = self.manifest(&facts, objects, database.size)?;
        let (name, sealed, missing) = self.seal(&manifest).await?;
        let seal = sealed.print();
        let stored_bytes = lengths + (seal.len() + manifest.len()) as u64;
        // What has no manifest is swept when it is old, as it may look beside a store's wrong clock.
        since.check(|| "what it wrote".into())?;
        still_there(self.repository, own).await?;
        self.check_seal(&name, &seal).await?;
        self.control.check()?;
        self.committing.store(true, Ordering::Relaxed);
        self.repository.put_once(&Part::Manifest.of(self.content.id), manifest.into()).await?;
        let written = Written {
            members,
            compared,
            revision,
            compact_revision,
            database_bytes: database.size,
            stored_bytes,
            skew,
            missing,
        };
        Ok((written, sealed))
    }

    /// Asks the members, if etcd is there to be asked.
    async fn compare(
        &self,
        live: Option<Arc<Live>>,
        facts: &mut Facts,
    ) -> Result<Option<Comparison>> {
        let Some(live) = live else { return Ok(None) };
        self.control.begin("comparing members", None);
        self.control.guard(compare(&live, facts)).await.map(Some)
    }

    /// Whoever may overwrite can replace a seal without its manifest unnoticed, and then nothing opens the snapshot.
    async fn check_seal(&self, name: &str, seal: &[u8]) -> Result<()> {
        match self.repository.get(name, MAX_SEAL as u64).await? == seal {
            true => Ok(()),
            false => Err(Error::tampered(format!("{name}: somebody replaced it"))),
        }
    }

    /// Seals the data key for exactly these bytes of the manifest, and stores the seal.
    async fn seal(&self, manifest: &[u8]) -> Result<(String, Seal, Vec<Missing>)> {
        self.control.begin("writing the seal", None);
        self.keys.check_current()?;
        let new = NewSeal::first(Sha256(crypto::sha256(&[manifest])));
        let rng = &mut crypto::system_rng();
        let sealing = self.control.guard(seal_to_most(&self.data_key, new, self.keys, rng));
        let (seal, missing) = sealing.await?;
        self.control.check()?;
        let name = Part::Seal(1).of(self.content.id);
        self.repository.put_once(&name, seal.print().into()).await?;
        Ok((name, seal, missing))
    }

    /// The manifest, which the data key proves.
    fn manifest(
        &self,
        facts: &Facts,
        objects: Vec<ObjectEntry>,
        database_bytes: u64,
    ) -> Result<Vec<u8>> {
        let sealed_facts =
            facts::seal(facts, &self.data_key, self.content.id, &mut crypto::system_rng())?;
        let body = ManifestBody {
            origin: self.repository.id(),
            snapshot: self.content.id,
            cluster: self.options.cluster.clone(),
            tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
            revision: facts.etcd.revision,
            database_bytes,
            objects,
            replaces: self.content.replaces,
            previous: self.content.previous,
            tags: self.content.tags.clone(),
            included: self.content.included.clone(),
            signed: self.keys.signing().is_some(),
            commitment: self.data_key.commitment(),
            facts: sealed_facts,
        };
        let mac = self.data_key.manifest_mac(&body.signed_bytes()?);
        Ok(Manifest::finish(body, mac)?.print())
    }

    /// Streams the database into the payload object.
    async fn payload(&self, input: Input) -> Result<(SealedObject, Index)> {
        let mut upload = self.repository.upload(&Part::Payload.of(self.content.id)).await?;
        match self.control.guard(self.stream(input, &mut upload)).await {
            Ok(done) => {
                upload.finish().await?;
                self.control.check()?;
                Ok(done)
            }
            Err(error) => {
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    async fn stream(&self, input: Input, upload: &mut Upload) -> Result<(SealedObject, Index)> {
        let pool = FramePool::new(self.options.level)?;
        let mut sealer = ObjectSealer::new(
            self.options.suite,
            Role::Payload,
            self.content.id,
            &self.data_key.payload_key(),
            &mut crypto::system_rng(),
        );
        self.control.begin("backing up", input.total());
        let (sender, mut frames) = mpsc::unbounded_channel();
        let reading =
            tokio::spawn(read(input, pool, (self.options.read_ahead as usize) << 20, sender));
        let reading = AbortOnDrop(reading);
        let mut table = Vec::new();
        while let Some(frame) = frames.recv().await {
            let frame: Compressed = frame.await.map_err(|_| task_panicked())??;
            sealer.write(&frame.bytes)?;
            table.push(FrameRef { length: frame.bytes.len() as u64, sha256: frame.sha256 });
            upload.write(sealer.take().into()).await?;
            self.control.step(Step::Advance(frame.plain as u64));
            drop(frame.memory);
        }
        self.control.begin("finishing the upload", None);
        let index = Index::new(reading.join().await?, table)?;
        let mut padding = index.payload_message() - index.stored_bytes();
        while padding > 0 {
            let zeros = padding.min(ZEROS.len() as u64);
            sealer.write(ZEROS.get(..zeros as usize).unwrap_or_default())?;
            upload.write(sealer.take().into()).await?;
            padding -= zeros;
        }
        let (tail, object) = sealer.finish()?;
        upload.write(tail.into()).await?;
        Ok((object, index))
    }

    /// Writes the index, by which the clocks are compared: the time of a long upload may be when it began.
    async fn index(&self, index: &Index) -> Result<(SealedObject, Option<Skew>)> {
        let message = compress_padded(&index.print()?, self.options.level, INDEX_BLOCK)?;
        let before = SystemTime::now();
        let place = (Part::Index, Role::Index);
        let object = self.object(place, &self.data_key.index_key(), &message).await?;
        let skew = self.repository.skew_by(&Part::Index.of(self.content.id), before).await?;
        Ok((object, skew))
    }

    /// Seals and stores a small object.
    async fn object(
        &self,
        (part, role): (Part, Role),
        key: &SecretKey,
        message: &[u8],
    ) -> Result<SealedObject> {
        let suite = self.options.suite;
        let mut sealer =
            ObjectSealer::new(suite, role, self.content.id, key, &mut crypto::system_rng());
        sealer.write(message)?;
        let (bytes, object) = sealer.finish()?;
        let name = part.of(self.content.id);
        self.repository.put_once(&name, bytes.into()).await?;
        Ok(object)
    }

    /// Deletes what a failed backup wrote, in the order of removal. Whatever stays is swept later.
    async fn clean_up(&self) {
        let objects = [Part::Manifest, Part::Seal(1), Part::Companions, Part::Index, Part::Payload];
        for object in objects {
            // What a manifest that stays names stays too.
            if self.repository.delete(&object.of(self.content.id)).await.is_err() {
                return;
            }
        }
    }
}

/// Asks the members what they hash to at the snapshot's revision, and records what they agree on.
async fn compare(live: &Live, facts: &mut Facts) -> Result<Comparison> {
    let revision = facts.etcd.revision.cast_signed();
    let members = live.choice.compare(&live.settings, revision).await;
    if let Some(first) = members.answers.first() {
        let differing: Vec<u64> = members.differing().map(|member| member.id).collect();
        let agreed = members.answers.iter().map(|member| member.id);
        facts.etcd.hash_kv = Some(HashKvFacts {
            revision: facts.etcd.revision,
            // etcd says -1 for never.
            compact_revision: first.compact_revision.max(0).cast_unsigned(),
            hash: first.hash,
            agreed_by: agreed.filter(|id| !differing.contains(id)).collect(),
            differing,
        });
    }
    Ok(members)
}

fn entry(part: Part, object: &SealedObject) -> ObjectEntry {
    ObjectEntry { part, length: object.length, sha256: object.sha256 }
}

/// A frame on its way: its place in the queue is its place in the payload.
type Queued = oneshot::Receiver<Result<Compressed>>;

/// Reads the source to its end, cuts it into frames and queues them, as far ahead as memory allows.
async fn read(
    mut input: Input,
    pool: FramePool,
    read_ahead: usize,
    sender: mpsc::UnboundedSender<Queued>,
) -> Result<Database> {
    let memory = Arc::new(Semaphore::new(kib(read_ahead.max(4 * FRAME_LEN))));
    let buffers = Buffers::default();
    let queue = async |frame: Buffer| {
        let permit = memory
            .clone()
            .acquire_many_owned(kib(FRAME_LEN) as u32)
            .await
            .map_err(|_| Error::new(ErrorKind::Io, "the backup was aborted"))?;
        sender
            .send(pool.compress(frame, permit))
            .map_err(|_| Error::new(ErrorKind::Io, "the backup was aborted"))
    };
    let mut size = 0;
    let mut frame = buffers.empty(FRAME_LEN);
    while let Some(bytes) = input.next().await? {
        size += bytes.len() as u64;
        let mut rest: &[u8] = &bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(FRAME_LEN - frame.len()));
            frame.extend_from_slice(now);
            rest = later;
            if frame.len() == FRAME_LEN {
                queue(std::mem::replace(&mut frame, buffers.empty(FRAME_LEN))).await?;
            }
        }
    }
    if !frame.is_empty() {
        queue(frame).await?;
    }
    Ok(Database { size, sha256: Sha256(input.finish().await?), frame_size: FRAME_LEN as u64 })
}
