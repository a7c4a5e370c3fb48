//! Whether two sources hold the same records, once both are compacted at the same revision.

use sha2::{Digest, Sha256};

use super::latest::latest;
use super::source::RecordSource;
use crate::error::Result;

/// Parts of a range of revisions that are compared at once: a difference is found in a few passes.
const PARTS: i64 = 1024;

/// The first main revision up to `until` whose records differ, or are in one source only, when both are compacted at
/// `compacted`: of a key's changes up to there only the last is left, and that only if it is no deletion. `None` if there is
/// no such revision.
///
/// Reads both twice, and a few times more where they differ. Memory: about 70 bytes for each key.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when a source breaks a rule, and those of the sources.
pub fn first_difference(
    one: &dyn RecordSource,
    other: &dyn RecordSource,
    until: i64,
    compacted: i64,
) -> Result<Option<i64>> {
    let (mut first, mut last) = (0, until);
    loop {
        let range = Parts::new(first, last);
        let (a, b) = (range.digests(one, compacted)?, range.digests(other, compacted)?);
        let Some(part) = a.iter().zip(&b).position(|(a, b)| a != b) else { return Ok(None) };
        (first, last) = range.of(part);
        if first == last {
            return Ok(Some(first));
        }
    }
}

/// A range of main revisions, in parts of the same length.
struct Parts {
    first: i64,
    last: i64,
    width: i64,
}

impl Parts {
    fn new(first: i64, last: i64) -> Self {
        let width = last.saturating_sub(first).checked_div(PARTS).unwrap_or(0).saturating_add(1);
        Self { first, last, width }
    }

    /// First and last revision of a part.
    fn of(&self, part: usize) -> (i64, i64) {
        let part = i64::try_from(part).unwrap_or(PARTS);
        let first = self.first.saturating_add(part.saturating_mul(self.width));
        (first, first.saturating_add(self.width.saturating_sub(1)).min(self.last))
    }

    /// What stands for the records of each part.
    fn digests(&self, source: &dyn RecordSource, compacted: i64) -> Result<Vec<[u8; 32]>> {
        let kept = if compacted > 0 { latest(source, compacted, false)? } else { Vec::new() };
        let mut kept = kept.iter().peekable();
        let mut hashers = Vec::new();
        source.in_order(self.last, &mut |record| {
            let revision = record.revision;
            while kept.next_if(|kept| **kept < revision).is_some() {}
            let is_there =
                revision.main > compacted || kept.peek().is_some_and(|kept| **kept == revision);
            if !is_there || revision.main < self.first {
                return Ok(());
            }
            let part = revision.main.saturating_sub(self.first).checked_div(self.width);
            let part = part.and_then(|part| usize::try_from(part).ok()).unwrap_or(0);
            if hashers.len() <= part {
                hashers.resize_with(part.saturating_add(1), Sha256::new);
            }
            let Some(hasher) = hashers.get_mut(part) else { return Ok(()) };
            for bytes in [record.raw.0, record.raw.1] {
                hasher.update((bytes.len() as u64).to_be_bytes());
                hasher.update(bytes);
            }
            Ok(())
        })?;
        // Both have as many parts, those at the end without a record, too.
        hashers.resize_with(PARTS as usize + 1, Sha256::new);
        Ok(hashers.into_iter().map(|hasher| hasher.finalize().into()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::bolt::{Db, Writer};
    use crate::mvcc::Revision;

    /// Revisions 2 to `last`, each a put of one of ten keys, but for those that `is_there` leaves out.
    fn database(last: i64, value: impl Fn(i64) -> u8, is_there: impl Fn(i64) -> bool) -> Vec<u8> {
        let mut writer = Writer::new(Cursor::new(Vec::new()), 4096).unwrap();
        writer.bucket(b"key").unwrap();
        for main in (2..=last).filter(|main| is_there(*main)) {
            let key = b'a' + (main % 10) as u8;
            let record = [0x0a, 1, key, 0x10, 2, 0x18, 2, 0x20, 1, 0x2a, 1, value(main)];
            writer.put(&Revision { main, sub: 0 }.to_key(false), &record).unwrap();
        }
        writer.bucket(b"meta").unwrap();
        writer.finish().unwrap().0.into_inner()
    }

    #[test]
    fn the_first_revision_that_differs() {
        let last = 5000;
        let whole = database(last, |_| 1, |_| true);
        let whole = Db::open(&whole[..]).unwrap();
        for at in [2, 7, 3000, last] {
            let other = database(last, |main| 1 + u8::from(main >= at), |_| true);
            let found = first_difference(&whole, &Db::open(&other[..]).unwrap(), last, 0);
            assert_eq!(found.unwrap(), Some(at));
            let shorter = database(last, |_| 1, |main| main != at);
            let found = first_difference(&whole, &Db::open(&shorter[..]).unwrap(), last, 0);
            assert_eq!(found.unwrap(), Some(at));
        }
        assert_eq!(first_difference(&whole, &whole, last, 0).unwrap(), None);
    }

    /// What a compaction removes is no difference, and what it leaves is.
    #[test]
    fn what_is_compacted_is_not_compared() {
        let (last, compacted) = (5000, 4000);
        let whole = database(last, |_| 1, |_| true);
        let whole = Db::open(&whole[..]).unwrap();
        // The last ten revisions up to there have the last changes of the keys.
        let is_left = |main: i64| main > compacted - 10;
        let left = database(last, |_| 1, is_left);
        let left = Db::open(&left[..]).unwrap();
        assert_eq!(first_difference(&whole, &left, last, compacted).unwrap(), None);
        for at in [compacted - 5, compacted, compacted + 1] {
            let other = database(last, |_| 1, |main| is_left(main) && main != at);
            let other = Db::open(&other[..]).unwrap();
            assert_eq!(first_difference(&whole, &other, last, compacted).unwrap(), Some(at));
        }
    }
}
