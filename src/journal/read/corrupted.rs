//! No change of a stored segment goes unnoticed.

use super::open_segment;
use crate::compress::compress_at;
use crate::crypto::{self, Suite};
use crate::envelope::{DataKey, ObjectSealer};
use crate::format::{BodyHead, BodyWriter, Entry, Role, Sha256, SnapshotId, Subject, padme};

const NUMBER: u64 = 3;

/// A journal's data key, and a segment as it is stored, with its body.
struct Stored {
    id: SnapshotId,
    data_key: DataKey,
    bytes: Vec<u8>,
    body: Vec<u8>,
}

impl Stored {
    fn new() -> Self {
        let rng = &mut crypto::system_rng();
        let id = SnapshotId::new(1_800_000_000_000, [7; 10]);
        let data_key = DataKey::generate(Subject::Journal(id), rng);
        let mut body = BodyWriter::default();
        let random: [u8; 3000] = crypto::random(rng);
        // key, created, modified, version and value of a record.
        let record = [&b"\x0a\x01k\x10\x05\x18\x05\x20\x01\x2a\xb8\x17"[..], &random].concat();
        for entry in [
            Entry::Moment(1_800_000_000_100),
            Entry::Put(&record),
            Entry::Deletion { main: 6, key: b"k" },
            Entry::Lease { id: 7, ttl: 60 },
            Entry::Compacted(2),
        ] {
            body.push(&entry).unwrap();
        }
        let previous = Sha256(crypto::random(rng));
        let (main, sub, last, complete_ms) = (5, 0, 6, 1_800_000_000_200);
        let head = BodyHead { number: NUMBER, previous, main, sub, last, complete_ms };
        let body = body.finish(&head).to_vec();
        let mut message = compress_at(&body, 1).unwrap();
        let length = padme((message.len() as u64).max(4096)).unwrap() as usize;
        message.resize(length, 0);
        let (key, role) = (data_key.journal_key(), Role::Segment(NUMBER));
        let mut sealer = ObjectSealer::new(Suite::Aes256Gcm, role, id, &key, rng);
        sealer.write(&message).unwrap();
        let bytes = sealer.finish().unwrap().0;
        Self { id, data_key, bytes, body }
    }

    /// Whether `bytes` are taken for the segment `number`.
    fn opens(&self, number: u64, bytes: Vec<u8>) -> bool {
        open_segment(&self.data_key, self.id, number, bytes).is_ok()
    }
}

#[test]
fn ten_thousand_corruptions_are_noticed() {
    let stored = Stored::new();
    let opened = open_segment(&stored.data_key, stored.id, NUMBER, stored.bytes.clone()).unwrap();
    assert!(*opened == stored.body);
    let length = stored.bytes.len();
    // Each byte at least once, each time with other bits.
    assert!(length < 10_000);
    for n in 0..10_000 {
        let mut bytes = stored.bytes.clone();
        let byte = &mut bytes[n % length];
        *byte ^= 1 << (n * 7 % 8) | (n / length) as u8;
        let is_changed = bytes != stored.bytes;
        assert!(is_changed && !stored.opens(NUMBER, bytes), "byte {} of {length}", n % length);
    }
}

#[test]
fn cut_and_lengthened_and_in_another_place() {
    let stored = Stored::new();
    for length in (0..stored.bytes.len()).step_by(13) {
        assert!(!stored.opens(NUMBER, stored.bytes[..length].to_vec()), "{length}");
    }
    for more in [1, 16, 4096] {
        let bytes = [&stored.bytes[..], &vec![0; more]].concat();
        assert!(!stored.opens(NUMBER, bytes), "{more}");
    }
    for number in [0, 1, NUMBER - 1, NUMBER + 1, u64::MAX] {
        assert!(!stored.opens(number, stored.bytes.clone()), "{number}");
    }
    let other = SnapshotId::new(1_800_000_000_000, [8; 10]);
    assert!(open_segment(&stored.data_key, other, NUMBER, stored.bytes.clone()).is_err());
    let another = Stored::new();
    assert!(!another.opens(NUMBER, stored.bytes));
}
