//! Writing one journal: seal, head, segments one after the other, and its end (SPEC.md §13.1).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::bundle::Ended;
use super::cut::Cut;
use super::end::{printed, seal_for};
use super::outbox::{Kind, Object};
use super::sealed::padded;
use crate::compress::compress_at;
use crate::crypto::{self, Label, Suite};
use crate::envelope::{DataKey, ObjectSealer, SealedObject};
use crate::error::Result;
use crate::format::{
    BodyHead, ClusterName, Continues, EndBody, EndObjects, EndReason, Entry, HeadBody,
    JournalFacts, JournalHead, JournalPart, Role, SegmentEntry, Sha256, Signature, SnapshotId,
    Subject, Uuid,
};
use crate::keys::KeySet;

/// zstd's level: a higher one stores no less of a few seconds' changes.
const LEVEL: i32 = 1;
/// The number of a journal's first end.
const FIRST_END: u32 = 2;

/// What a journal is about.
pub(super) struct NewJournal {
    pub(super) cluster: ClusterName,
    /// The main revision that it begins with.
    pub(super) first: i64,
    pub(super) facts: JournalFacts,
}

/// A journal whose objects are made here, one after the other; storing them is the [`Outbox`](super::outbox::Outbox)'s.
pub(super) struct JournalWriter<'a> {
    keys: &'a KeySet,
    data_key: Arc<DataKey>,
    suite: Suite,
    head: HeadBody,
    segments: Vec<SegmentEntry>,
    last: i64,
    complete_ms: u64,
    bytes: u64,
}

impl<'a> JournalWriter<'a> {
    /// A new journal of the repository `origin`, and its first objects: the seal and the head.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) without a key that seals, those of the keys.
    pub(super) async fn new(
        origin: Uuid,
        keys: &'a KeySet,
        new: NewJournal,
        suite: Suite,
    ) -> Result<(Self, [Object; 2])> {
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
            origin,
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
        let seal = seal_for(keys, (&data_key, id), 1, &bytes).await?;
        let objects = [
            object(JournalPart::Seal(1).of(id), seal, Kind::First),
            object(JournalPart::Head.of(id), bytes, Kind::Other),
        ];
        let writer = Self {
            keys,
            data_key: Arc::new(data_key),
            suite,
            head,
            segments: Vec::new(),
            last: new.first.saturating_sub(1),
            complete_ms: 0,
            bytes: 0,
        };
        Ok((writer, objects))
    }

    pub(super) fn id(&self) -> SnapshotId {
        self.head.journal
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of segments.
    pub(super) fn segments(&self) -> u64 {
        self.segments.len() as u64
    }

    /// The last segment, for the journal that follows; `None` before there is one.
    pub(super) fn continues(&self) -> Option<Continues> {
        let sha256 = self.segments.last()?.sha256;
        let (journal, last) = (self.head.journal, self.last.unsigned_abs());
        Some(Continues { journal, number: self.segments(), last, sha256 })
    }

    /// Seals what was cut as the next segment.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when zstd has no memory.
    pub(super) fn segment(&mut self, cut: Cut) -> Result<Object> {
        let number = self.segments().saturating_add(1);
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
        let length = usize::try_from(padded(message.len() as u64)).unwrap_or(message.len());
        message.resize(length, 0);
        let key = self.data_key.journal_key();
        let mut sealer =
            ObjectSealer::new(self.suite, role, self.id(), &key, &mut crypto::system_rng());
        sealer.write(&message)?;
        let (bytes, SealedObject { length, sha256 }) = sealer.finish()?;
        self.segments.push(SegmentEntry { length, sha256 });
        self.bytes = self.bytes.saturating_add(length);
        (self.last, self.complete_ms) = (last, complete_ms);
        let name = JournalPart::Segment { number, last: last.unsigned_abs() }.of(self.id());
        let segment = Continues { journal: self.id(), number, last: last.unsigned_abs(), sha256 };
        Ok(object(name, bytes, Kind::Segment(segment, complete_ms)))
    }

    /// The end and its seal.
    ///
    /// # Errors
    /// Those of the keys.
    pub(super) async fn end(self, reason: EndReason) -> Result<[Object; 2]> {
        let id = self.id();
        let end = EndBody {
            origin: self.head.origin,
            journal: id,
            cluster: self.head.cluster.clone(),
            segments: self.segments(),
            last: self.last.unsigned_abs(),
            complete_ms: self.complete_ms,
            reason,
            objects: EndObjects::Segments(self.segments),
            commitment: self.data_key.commitment(),
        };
        let bytes = printed(&self.data_key, end.clone())?;
        let seal = seal_for(self.keys, (&self.data_key, id), FIRST_END, &bytes).await?;
        let ended = Ended { head: self.head, data_key: self.data_key, end };
        Ok([
            object(JournalPart::End(FIRST_END).of(id), bytes, Kind::End),
            object(JournalPart::Seal(FIRST_END).of(id), seal, Kind::Last(Arc::new(ended))),
        ])
    }
}

fn object(name: String, bytes: Vec<u8>, kind: Kind) -> Object {
    Object { name, bytes: bytes.into(), kind }
}

/// Now, in Unix milliseconds.
pub(super) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
