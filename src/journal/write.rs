//! Writing one journal: seal, head, segments one after the other, and its end (SPEC.md §13.1).

use std::time::{SystemTime, UNIX_EPOCH};

use super::cut::Cut;
use crate::compress::compress_at;
use crate::crypto::{self, Label, Suite};
use crate::envelope::{DataKey, NewSeal, ObjectSealer, seal_to_most};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BodyHead, ClusterName, Continues, EndBody, EndObjects, EndReason, Entry, HeadBody, JournalEnd,
    JournalFacts, JournalHead, JournalPart, Role, SegmentEntry, Sha256, Signature, SnapshotId,
    Subject, padme,
};
use crate::keys::KeySet;
use crate::store::Repository;

/// zstd's level: a higher one stores no less of a few seconds' changes.
const LEVEL: i32 = 1;
/// No message is shorter, padding included.
const SHORTEST: u64 = 4096;
/// Numbers that are tried for an end: others may have been taken.
const ENDS: u32 = 16;

/// What a journal is about.
pub(super) struct NewJournal {
    pub(super) cluster: ClusterName,
    /// The main revision that it begins with.
    pub(super) first: i64,
    pub(super) facts: JournalFacts,
}

/// A journal that exists, and to which segments are added.
pub(super) struct JournalWriter<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    data_key: DataKey,
    suite: Suite,
    head: HeadBody,
    /// Seal and head, as they are stored.
    beginning: [bytes::Bytes; 2],
    segments: Vec<SegmentEntry>,
    last: i64,
    complete_ms: u64,
    stored_bytes: u64,
}

impl<'a> JournalWriter<'a> {
    /// Seals a new journal, of which nothing is stored yet.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] without a key that seals, those of the keys.
    pub(super) async fn new(
        repository: &'a Repository,
        keys: &'a KeySet,
        new: NewJournal,
        suite: Suite,
    ) -> Result<Self> {
        let rng = &mut crypto::system_rng();
        // The order of ids is that of recording, also where the clock was set back.
        let before = new.facts.continues.map_or(0, |continues| continues.journal.unix_ms());
        let now = unix_ms().max(before.saturating_add(1));
        let id = SnapshotId::new(now, crypto::random(rng));
        let data_key = DataKey::generate(Subject::Journal(id), rng);
        let context = crypto::labelled(Label::Facts, &[&id.to_bytes()]);
        let facts = new.facts.print()?;
        let facts = crypto::seal(Suite::Aes256Gcm, &data_key.facts_key(), &context, &facts, rng)?;
        let head = HeadBody {
            origin: repository.id(),
            journal: id,
            cluster: new.cluster,
            tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
            first: new.first.unsigned_abs(),
            continues: new.facts.continues.map(|continues| continues.journal),
            commitment: data_key.commitment(),
            facts,
        };
        let mac = data_key.manifest_mac(&head.signed_bytes()?);
        let bytes = JournalHead::finish(head.clone(), mac)?.print();
        let mut writer = Self {
            repository,
            keys,
            data_key,
            suite,
            last: new.first.saturating_sub(1),
            head,
            beginning: Default::default(),
            segments: Vec::new(),
            complete_ms: 0,
            stored_bytes: 0,
        };
        let seal = writer.seal(1, &bytes).await?;
        writer.beginning = [seal.into(), bytes.into()];
        Ok(writer)
    }

    /// Stores seal and head. To be called again when the store could not be reached.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn begin(&self) -> Result<()> {
        let [seal, head] = self.beginning.clone();
        self.repository.put_once(&JournalPart::Seal(1).of(self.id()), seal).await?;
        self.repository.put_once(&JournalPart::Head.of(self.id()), head).await
    }

    /// A seal that vouches for `object`.
    async fn seal(&self, generation: u32, object: &[u8]) -> Result<Vec<u8>> {
        self.keys.check_current()?;
        let object = Sha256(crypto::sha256(&[object]));
        let new = NewSeal { generation, ..NewSeal::first(object) };
        let rng = &mut crypto::system_rng();
        let (seal, missing) = seal_to_most(&self.data_key, new, self.keys, rng).await?;
        for one in missing {
            let journal = self.id();
            tracing::warn!(event = "journal_seal_missing", %journal, key = %one.key, error = %one.error);
        }
        Ok(seal.print())
    }

    pub(super) fn id(&self) -> SnapshotId {
        self.head.journal
    }

    /// Bytes of all segments.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Every revision committed before this moment is stored: Unix milliseconds, 0 for unknown.
    pub(super) fn complete_ms(&self) -> u64 {
        self.complete_ms
    }

    /// The last complete revision that is stored.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// The last segment, for the journal that follows; `None` before there is one.
    pub(super) fn continues(&self) -> Option<Continues> {
        let sha256 = self.segments.last()?.sha256;
        let number = self.segments.len() as u64;
        let (journal, last) = (self.head.journal, self.last.unsigned_abs());
        Some(Continues { journal, number, last, sha256 })
    }

    /// Stores the next segment. To be called again with the same one when the store could not be reached.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn segment(&mut self, sealed: &SealedSegment) -> Result<()> {
        let part = JournalPart::Segment { number: sealed.number, last: sealed.last.unsigned_abs() };
        self.repository.put_once(&part.of(self.id()), sealed.bytes.clone()).await?;
        self.segments.push(sealed.entry);
        self.last = sealed.last;
        self.complete_ms = sealed.complete_ms;
        self.stored_bytes = self.stored_bytes.saturating_add(sealed.entry.length);
        Ok(())
    }

    /// Seals what was cut as the next segment.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when zstd has no memory.
    pub(super) fn seal_segment(&self, cut: Cut) -> Result<SealedSegment> {
        let number = self.segments.len() as u64 + 1;
        let Cut { mut body, main, sub, last, complete_ms } = cut;
        let previous = self.segments.last().map_or(Sha256::NONE, |entry| entry.sha256);
        let head = BodyHead { number, previous, main, sub, last, complete_ms };
        let role = Role::Segment(number);
        if let Some(key) = self.keys.signing() {
            body.set_head(&head);
            let covered = Sha256(crypto::sha256(&[body.as_bytes()]));
            let Signature { key_id, bytes } = key.sign_segment(self.id(), role, covered);
            body.push(&Entry::Signature { key_id, bytes, covers: &[] })?;
        }
        let body = body.finish(&head);
        let mut message = compress_at(&body, LEVEL)?;
        // At most 64 MiB and a little.
        let padded = padme((message.len() as u64).max(SHORTEST)).unwrap_or(SHORTEST) as usize;
        let padded = padded.max(message.len());
        message.resize(padded, 0);
        let key = self.data_key.journal_key();
        let mut sealer =
            ObjectSealer::new(self.suite, role, self.id(), &key, &mut crypto::system_rng());
        sealer.write(&message)?;
        let (bytes, object) = sealer.finish()?;
        let entry = SegmentEntry { length: object.length, sha256: object.sha256 };
        Ok(SealedSegment { number, last, complete_ms, entry, bytes: bytes.into() })
    }

    /// Stores the end and its seal. It may be called again when the store could not be reached.
    ///
    /// # Errors
    /// Those of the keys and of the store.
    pub(super) async fn end(&self, reason: EndReason) -> Result<()> {
        let end = EndBody {
            origin: self.head.origin,
            journal: self.head.journal,
            cluster: self.head.cluster.clone(),
            segments: self.segments.len() as u64,
            last: self.last.unsigned_abs(),
            complete_ms: self.complete_ms,
            reason,
            objects: EndObjects::Segments(self.segments.clone()),
            commitment: self.data_key.commitment(),
        };
        let mac = self.data_key.manifest_mac(&end.signed_bytes()?);
        let bytes = JournalEnd::finish(end, mac)?.print();
        for generation in 2..=ENDS {
            let seal = self.seal(generation, &bytes).await?;
            let end = JournalPart::End(generation).of(self.id());
            if self.is_free(&end, bytes.clone()).await?
                && self.is_free(&JournalPart::Seal(generation).of(self.id()), seal).await?
            {
                return Ok(());
            }
        }
        let message = format!("journal {}: every number for its end is taken", self.id());
        Err(Error::new(ErrorKind::AlreadyExists, message))
    }

    /// Stores an object unless there is another of its name.
    async fn is_free(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        match self.repository.put_once(name, bytes.into()).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A segment on its way.
pub(super) struct SealedSegment {
    number: u64,
    last: i64,
    complete_ms: u64,
    entry: SegmentEntry,
    bytes: bytes::Bytes,
}

/// Now, in Unix milliseconds.
pub(super) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
