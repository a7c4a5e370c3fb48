//! Revisions, and how they stand in the keys of the bucket `key` (etcd `server/storage/mvcc/revision.go`).

use std::fmt;

use crate::error::{Error, Result};

const LENGTH: usize = 17;
const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';

/// When a change happened: the transaction, and its place within. Orders as etcd does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Number of the transaction, etcd's `mod_revision`. Never negative.
    pub main: i64,
    /// Number of the change within it, from 0. Never negative.
    pub sub: i64,
}

impl Revision {
    /// Reads a key: `main | '_' | sub`, big-endian, and `t` behind it for a deletion. `None` if it is none.
    pub fn parse(key: &[u8]) -> Option<(Self, bool)> {
        let (main, rest) = key.split_first_chunk()?;
        let (separator, rest) = rest.split_first()?;
        let (sub, mark) = rest.split_first_chunk()?;
        let revision = Self { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub) };
        let valid = *separator == SEPARATOR && revision.main >= 0 && revision.sub >= 0;
        match mark {
            [] if valid => Some((revision, false)),
            [TOMBSTONE] if valid => Some((revision, true)),
            _ => None,
        }
    }

    /// The key of the change: what [`parse`](Self::parse) reads.
    pub fn to_key(self, tombstone: bool) -> Vec<u8> {
        let mut key = Vec::with_capacity(LENGTH.saturating_add(1));
        key.extend(self.main.to_be_bytes());
        key.push(SEPARATOR);
        key.extend(self.sub.to_be_bytes());
        if tombstone {
            key.push(TOMBSTONE);
        }
        key
    }
}

/// `main.sub`.
impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

pub(super) fn parse_key(key: &[u8]) -> Result<(Revision, bool)> {
    Revision::parse(key).ok_or_else(|| {
        Error::tampered(format!(
            "database: a key of {} bytes in the bucket \"key\" is not a revision",
            key.len()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_is_parsed(main in 0..i64::MAX, sub in 0..i64::MAX, tombstone: bool) {
            let revision = Revision { main, sub };
            prop_assert_eq!(Revision::parse(&revision.to_key(tombstone)), Some((revision, tombstone)));
        }

        #[test]
        fn parsed_is_printed(key in prop::collection::vec(any::<u8>(), 16..20)) {
            if let Some((revision, tombstone)) = Revision::parse(&key) {
                prop_assert_eq!(revision.to_key(tombstone), key);
            }
        }

        /// Bytes of keys order as revisions do.
        #[test]
        fn keys_order_as_revisions(a: (u32, u32), b: (u32, u32)) {
            let revision = |(main, sub): (u32, u32)| Revision { main: main.into(), sub: sub.into() };
            let (a, b) = (revision(a), revision(b));
            prop_assert_eq!(a.cmp(&b), a.to_key(false).cmp(&b.to_key(false)));
        }
    }

    #[test]
    fn refuses_what_etcd_does_not_write() {
        let good = Revision { main: 2, sub: 1 }.to_key(true);
        assert!(Revision::parse(&good).is_some());
        for (at, byte) in [(0, 0x80), (8, b'-'), (9, 0x80), (17, b'x')] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Revision::parse(&bad), None);
        }
        assert_eq!(Revision::parse(&good[..16]), None);
        assert_eq!(Revision::parse(&[&good[..], b"t"].concat()), None);
    }
}
