//! The body of a journal's segment, in its object or in the journal's bundle: what was recorded, entry by entry
//! (SPEC.md §13.3).
//!
//! Bytes only: compression and encryption happen above, and what the records mean is checked in `mvcc`.

use zeroize::Zeroizing;

use super::ids::{KeyId, Sha256};
use super::journal_end::EndReason;
use super::names::MAX_SEGMENT_NUMBER;
use crate::error::{Error, ErrorKind, Result};

/// The longest body that is read or written, in bytes.
pub const MAX_BODY: usize = 64 << 20;
/// Length of [`BodyHead`] in bytes.
pub const BODY_HEAD: usize = 72;

/// Type and length, before each entry's value.
const ENTRY_HEAD: usize = 5;
const WHAT: &str = "segment";
/// Types from here on may be skipped by who does not know them.
const FIRST_SKIPPED: u8 = 128;

/// What a body says before its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHead {
    /// Its number, from 1.
    pub number: u64,
    /// Digest of the whole segment before it; zero for the first.
    pub previous: Sha256,
    /// Main revision of the first record, or of the next to come if there is none.
    pub main: i64,
    /// Its place in that revision.
    pub sub: i64,
    /// The last complete main revision. Records of a later one may follow.
    pub last: i64,
    /// Every revision committed before this moment is at most `last`: UTC in milliseconds, 0 for unknown.
    pub complete_ms: u64,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// When what follows was received: UTC in milliseconds.
    Moment(u64),
    /// A record that is not a deletion: its value in etcd's bucket.
    Put(&'a [u8]),
    /// A deletion.
    Deletion {
        /// Its main revision.
        main: i64,
        /// The key.
        key: &'a [u8],
    },
    /// A lease was seen.
    Lease {
        /// Its id.
        id: i64,
        /// The granted time to live in seconds, 0 if the lease was gone before etcd was asked.
        ttl: i64,
    },
    /// etcd had compacted to at least this main revision.
    Compacted(i64),
    /// Users and roles, at first and when they changed.
    Auth {
        /// Whether authentication is on.
        enabled: bool,
        /// etcd's counter of changes.
        revision: u64,
    },
    /// The member that is listened to from here on.
    Member {
        /// Its id.
        id: u64,
        /// The raft term.
        term: u64,
    },
    /// The recording ended.
    End(EndReason),
    /// A signature over what stands before it.
    Signature {
        /// The signer.
        key_id: KeyId,
        /// The Ed25519 signature.
        bytes: [u8; 64],
        /// The body before this entry. Not written.
        covers: &'a [u8],
    },
}

/// A body, parsed as far as its head.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    head: BodyHead,
    bytes: &'a [u8],
}

impl<'a> Body<'a> {
    /// Parses the head.
    ///
    /// # Errors
    /// Tampered.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > MAX_BODY {
            return Err(refuse(&format!("more than {MAX_BODY} bytes")));
        }
        let mut rest = Rest(bytes);
        let head = rest.head().ok_or_else(|| refuse("its first 72 bytes are out of range"))?;
        Ok(Self { head, bytes })
    }

    /// What it says before its entries.
    pub fn head(&self) -> &BodyHead {
        &self.head
    }

    /// The entries in order. After an error there are no more.
    pub fn entries(&self) -> Entries<'a> {
        let rest = Rest(self.bytes.get(BODY_HEAD..).unwrap_or_default());
        Entries { body: self.bytes, rest, closing: 0, moment: 0 }
    }
}

/// The entries of a [`Body`].
pub struct Entries<'a> {
    body: &'a [u8],
    rest: Rest<'a>,
    /// The type of the entry that closes the body, 0 before one: only higher ones follow.
    closing: u8,
    moment: u64,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.read().transpose();
        if matches!(entry, Some(Err(_))) {
            self.rest = Rest(&[]);
        }
        entry
    }
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Result<Option<Entry<'a>>> {
        loop {
            if self.rest.0.is_empty() {
                return Ok(None);
            }
            let before = self.body.len() - self.rest.0.len();
            let (kind, value) = self.rest.entry().ok_or_else(|| refuse("an entry is cut off"))?;
            if kind >= FIRST_SKIPPED {
                continue;
            }
            let covers = self.body.get(..before).unwrap_or_default();
            let entry = parse(kind, value, covers)?;
            self.check_order(&entry, kind)?;
            return Ok(Some(entry));
        }
    }

    /// What closes a body stands at its end, in the order end, signature; moments do not decrease.
    fn check_order(&mut self, entry: &Entry<'_>, kind: u8) -> Result<()> {
        let closes = matches!(entry, Entry::End(_) | Entry::Signature { .. });
        if self.closing != 0 && (!closes || kind <= self.closing) {
            return Err(refuse("an entry follows the one that closes the body"));
        }
        if closes {
            self.closing = kind;
        }
        if let Entry::Moment(moment) = entry {
            if *moment < self.moment {
                return Err(refuse("a moment is earlier than the one before it"));
            }
            self.moment = *moment;
        }
        Ok(())
    }
}

fn parse<'a>(kind: u8, value: &'a [u8], covers: &'a [u8]) -> Result<Entry<'a>> {
    let mut rest = Rest(value);
    let mut read = || -> Option<Entry<'a>> {
        let entry = match kind {
            1 => Entry::Moment(rest.u64()?),
            2 => Entry::Put(rest.all()?),
            3 => Entry::Deletion { main: rest.revision()?, key: rest.all()? },
            4 => Entry::Lease { id: rest.i64()?, ttl: rest.i64()? },
            5 => Entry::Compacted(rest.revision()?),
            6 => {
                let [enabled] = rest.take::<1>()?;
                let enabled = [false, true].get(usize::from(enabled)).copied()?;
                Entry::Auth { enabled, revision: rest.u64()? }
            }
            7 => Entry::Member { id: rest.u64()?, term: rest.u64()? },
            8 => Entry::End(EndReason(rest.take::<1>().map(|[reason]| reason)?)),
            10 => Entry::Signature { key_id: KeyId(rest.take()?), bytes: rest.take()?, covers },
            _ => return None,
        };
        rest.0.is_empty().then_some(entry)
    };
    match read() {
        Some(entry) => Ok(entry),
        None if (1..=8).contains(&kind) || kind == 10 => {
            Err(refuse(&format!("an entry of type {kind} is malformed")))
        }
        None => {
            Err(Error::unsupported(format!("{WHAT}: entries of type {kind} are not known here"))
                .hint("use a newer strongroom"))
        }
    }
}

fn refuse(why: &str) -> Error {
    Error::tampered(format!("{WHAT}: {why}"))
}

/// Bytes that are still to be read.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    /// A main or sub revision: not negative.
    fn revision(&mut self) -> Option<i64> {
        self.i64().filter(|revision| *revision >= 0)
    }

    fn number(&mut self) -> Option<u64> {
        self.u64().filter(|number| (1..=MAX_SEGMENT_NUMBER).contains(number))
    }

    /// All that is left, at least one byte.
    fn all(&mut self) -> Option<&'a [u8]> {
        let all = std::mem::take(&mut self.0);
        (!all.is_empty()).then_some(all)
    }

    fn entry(&mut self) -> Option<(u8, &'a [u8])> {
        let [kind] = self.take()?;
        let length = u32::from_be_bytes(self.take()?);
        let (value, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some((kind, value))
    }

    fn head(&mut self) -> Option<BodyHead> {
        Some(BodyHead {
            number: self.number()?,
            previous: Sha256(self.take()?),
            main: self.revision()?,
            sub: self.revision()?,
            last: self.revision()?,
            complete_ms: self.u64()?,
        })
    }
}

/// A body being written. What it holds is wiped when it is dropped.
pub struct BodyWriter(Zeroizing<Vec<u8>>);

impl Default for BodyWriter {
    fn default() -> Self {
        Self(Zeroizing::new(vec![0; BODY_HEAD]))
    }
}

impl BodyWriter {
    /// Length so far, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.0.len() == BODY_HEAD
    }

    /// Whether an entry with a value of `length` bytes still fits.
    pub fn fits(&self, length: usize) -> bool {
        self.0.len().saturating_add(ENTRY_HEAD).saturating_add(length) <= MAX_BODY
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// Refused when the body would be longer than [`MAX_BODY`].
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<()> {
        match entry {
            Entry::Moment(moment) => self.add(1, &[&moment.to_be_bytes()]),
            Entry::Put(value) => self.add(2, &[value]),
            Entry::Deletion { main, key } => self.add(3, &[&main.to_be_bytes(), key]),
            Entry::Lease { id, ttl } => self.add(4, &[&id.to_be_bytes(), &ttl.to_be_bytes()]),
            Entry::Compacted(main) => self.add(5, &[&main.to_be_bytes()]),
            Entry::Auth { enabled, revision } => {
                self.add(6, &[&[u8::from(*enabled)], &revision.to_be_bytes()])
            }
            Entry::Member { id, term } => self.add(7, &[&id.to_be_bytes(), &term.to_be_bytes()]),
            Entry::End(reason) => self.add(8, &[&[reason.0]]),
            Entry::Signature { key_id, bytes, .. } => self.add(10, &[&key_id.0, bytes]),
        }
    }

    fn add(&mut self, kind: u8, value: &[&[u8]]) -> Result<()> {
        let length = value.iter().map(|part| part.len()).sum();
        let Some(length) = u32::try_from(length).ok().filter(|_| self.fits(length)) else {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{WHAT}: more than {MAX_BODY} bytes"),
            ));
        };
        self.0.push(kind);
        self.0.extend_from_slice(&length.to_be_bytes());
        value.iter().for_each(|part| self.0.extend_from_slice(part));
        Ok(())
    }

    /// Writes the head. Entries may follow that cover it.
    pub fn set_head(&mut self, head: &BodyHead) {
        let numbers = [head.number, head.main.cast_unsigned(), head.sub.cast_unsigned()];
        let [number, main, sub] = numbers.map(u64::to_be_bytes);
        let last = head.last.to_be_bytes();
        let bytes =
            [&number[..], &head.previous.0, &main, &sub, &last, &head.complete_ms.to_be_bytes()];
        for (to, from) in self.0.iter_mut().zip(bytes.concat()) {
            *to = from;
        }
    }

    /// All bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The body with its head.
    pub fn finish(mut self, head: &BodyHead) -> Zeroizing<Vec<u8>> {
        self.set_head(head);
        self.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> BodyHead {
        BodyHead {
            number: 3,
            previous: Sha256([7; 32]),
            main: 41,
            sub: 2,
            last: 42,
            complete_ms: 1_469_922_850_259,
        }
    }

    const ENTRIES: [Entry<'static>; 9] = [
        Entry::Member { id: u64::MAX, term: 9 },
        Entry::Moment(5),
        Entry::Put(b"value"),
        Entry::Deletion { main: 42, key: b"key" },
        Entry::Lease { id: -7, ttl: 60 },
        Entry::Compacted(40),
        Entry::Auth { enabled: true, revision: 8 },
        Entry::End(EndReason::ROLLED),
        Entry::Signature { key_id: KeyId([2; 16]), bytes: [3; 64], covers: &[] },
    ];

    fn written(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut writer = BodyWriter::default();
        assert!(writer.is_empty());
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        writer.finish(&head()).to_vec()
    }

    pub(in super::super) fn sample() -> Vec<u8> {
        written(&ENTRIES)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry<'_>>> {
        Body::parse(bytes)?.entries().collect()
    }

    fn raw(kind: u8, value: &[u8]) -> Vec<u8> {
        [&written(&[])[..], &[kind], &(value.len() as u32).to_be_bytes(), value].concat()
    }

    #[test]
    fn every_entry_round_trips() {
        // [S13.12]
        let bytes = sample();
        assert_eq!(*Body::parse(&bytes).unwrap().head(), head());
        let entries = read(&bytes).unwrap();
        assert_eq!(entries[..8], ENTRIES[..8]);
        let covered = bytes.len() - 5 - 80;
        let Entry::Signature { key_id, bytes: signature, covers } = entries[8] else { panic!() };
        assert_eq!((key_id, signature, covers), (KeyId([2; 16]), [3; 64], &bytes[..covered]));
    }

    #[test]
    fn lengths_and_ranges_are_exact() {
        let kind = |bytes: &[u8]| read(bytes).unwrap_err().kind();
        for (entry, value) in [
            (1, &[0; 7][..]),
            (1, &[0; 9]),
            (2, &[]),
            (3, &[0; 8]),
            (3, &[0xff; 9]),
            (4, &[0; 15]),
            (4, &[0; 17]),
            (5, &[0xff; 8]),
            (6, &[2; 9]),
            (6, &[1; 8]),
            (7, &[0; 15]),
            (8, &[]),
            (8, &[0; 2]),
            (10, &[0; 79]),
        ] {
            assert_eq!(kind(&raw(entry, value)), ErrorKind::Tampered, "{entry} {value:?}");
        }
        for entry in [0, 9, 11, 127] {
            assert_eq!(kind(&raw(entry, b"x")), ErrorKind::Unsupported);
        }
        for entry in [128, 255] {
            assert!(read(&raw(entry, b"x")).unwrap().is_empty());
        }
        let mut cut = sample();
        while cut.len() > BODY_HEAD {
            cut.pop();
            // Between two entries it is a shorter body: its object's length is under authentication.
            let _ = read(&cut);
        }
        assert!(read(&cut).unwrap().is_empty());
        cut.pop();
        assert_eq!(kind(&cut), ErrorKind::Tampered);
        let with = |at: usize, byte: u8| {
            let mut bytes = written(&[]);
            bytes[at] = byte;
            kind(&bytes)
        };
        // The number's upper 16 bits; negative revisions.
        assert!(
            [(0, 1), (40, 0x80), (48, 0x80), (56, 0x80)]
                .map(|(at, byte)| with(at, byte))
                .iter()
                .all(|kind| *kind == ErrorKind::Tampered)
        );
        let mut zero = written(&[]);
        zero[..8].fill(0);
        assert_eq!(kind(&zero), ErrorKind::Tampered);
    }

    #[test]
    fn order_within_a_body() {
        // [S13.13]
        let [_, moment, put, _, _, _, _, end, signature] = ENTRIES;
        for bad in [
            &[end, put][..],
            &[end, end],
            &[signature, end],
            &[signature, signature],
            &[signature, moment],
            &[Entry::Moment(6), moment],
        ] {
            assert_eq!(read(&written(bad)).unwrap_err().kind(), ErrorKind::Tampered);
        }
        for good in [&[put, end][..], &[end, signature], &[moment, moment]] {
            assert!(read(&written(good)).is_ok());
        }
    }

    #[test]
    fn a_body_has_an_end() {
        let mut writer = BodyWriter::default();
        let large = vec![1; MAX_BODY - BODY_HEAD - ENTRY_HEAD];
        assert!(!writer.fits(large.len() + 1) && writer.fits(large.len()));
        writer.push(&Entry::Put(&large)).unwrap();
        assert_eq!(writer.push(&Entry::Moment(1)).unwrap_err().kind(), ErrorKind::Refused);
        let bytes = writer.finish(&head());
        assert_eq!(read(&bytes).unwrap().len(), 1);
        let long = [&bytes[..], &[0]].concat();
        assert_eq!(read(&long).unwrap_err().kind(), ErrorKind::Tampered);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300), cut: bool) {
            let with_head = [&written(&[])[..], &bytes].concat();
            let bytes = if cut { bytes } else { with_head };
            if let Ok(entries) = read(&bytes) {
                let mut writer = BodyWriter::default();
                entries.iter().for_each(|entry| writer.push(entry).unwrap());
                let again = writer.finish(Body::parse(&bytes).unwrap().head());
                prop_assert_eq!(read(&again).unwrap().len(), entries.len());
            }
        }
    }
}
