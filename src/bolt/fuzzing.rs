//! Functions that take any bytes and must not panic. For fuzz targets and tests.

use std::collections::BTreeMap;
use std::io::Cursor as Output;
use std::ops::ControlFlow;

use super::{Db, Writer, check};
use crate::error::Result;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Target)] =
    &[("reader", reader), ("checker", checker), ("writer", writer), ("rewriter", rewriter)];

/// Reads all records of a database, and looks each bucket's first and last up.
pub fn reader(data: &[u8]) {
    let _ = Db::open(data).and_then(|db| {
        for (name, bucket) in db.buckets()? {
            let mut first = None;
            bucket.for_each(&[], |key, value| {
                first.get_or_insert_with(|| (key.to_vec(), value.to_vec()));
                Ok(ControlFlow::Continue(()))
            })?;
            let (last, named) = (bucket.last()?, db.bucket(&name)?);
            assert_eq!(first.is_some(), last.is_some());
            for (key, value) in first.into_iter().chain(last) {
                let found = named.as_ref().map(|bucket| bucket.get(&key)).transpose()?.flatten();
                assert_eq!(found, Some(value));
            }
        }
        Ok(())
    });
}

/// Checks a database; what passes must be readable to the end.
pub fn checker(data: &[u8]) {
    let Ok(db) = Db::open(data) else { return };
    let Ok(checked) = check(&db) else { return };
    assert!(checked.reachable.saturating_add(checked.free) < checked.pages);
    let records: u64 = checked.buckets.iter().map(|bucket| bucket.records).sum();
    assert!(
        contents(&db).is_ok_and(|all| all.values().map(Vec::len).sum::<usize>() as u64 == records)
    );
}

/// Takes records out of the bytes, writes them, and reads them back.
pub fn writer(data: &[u8]) {
    let (&[size, ref rest @ ..], page_sizes) = (data, [1024, 4096, 16384, 65536]) else { return };
    let mut expected = Contents::new();
    let mut rest = rest;
    // Each record: bucket, length of key and of value (in steps of 32), repeated bytes.
    while let Some((&[bucket, key, value, byte], after)) = rest.split_first_chunk() {
        let key = vec![byte; usize::from(key).saturating_mul(4).saturating_add(1)];
        let value = vec![bucket; usize::from(value).saturating_mul(32)];
        let records = expected.entry(vec![b'a'.saturating_add(bucket % 5)]).or_default();
        if bucket < 250 && records.last().is_none_or(|(last, _)| *last < key) {
            records.push((key, value));
        }
        rest = after;
    }
    let page_size = page_sizes.get(usize::from(size % 4)).copied().unwrap_or(4096);
    round_trip(&expected, page_size);
}

/// Writes a database that passes the check anew; the same records come out.
pub fn rewriter(data: &[u8]) {
    let Ok(db) = Db::open(data) else { return };
    let Ok(contents) = check(&db).and_then(|_| contents(&db)) else { return };
    round_trip(&contents, db.meta().page_size);
}

type Contents = BTreeMap<Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>>;

fn contents(db: &Db<&[u8]>) -> Result<Contents> {
    let mut contents = Contents::new();
    for (name, bucket) in db.buckets()? {
        let records = contents.entry(name).or_default();
        bucket.for_each(&[], |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(contents)
}

fn write(contents: &Contents, page_size: u32) -> Result<Vec<u8>> {
    let mut writer = Writer::new(Output::new(Vec::new()), page_size)?;
    for (name, records) in contents {
        writer.bucket(name)?;
        for (key, value) in records {
            writer.put(key, value)?;
        }
    }
    let (out, length) = writer.finish()?;
    assert_eq!(out.position(), length);
    Ok(out.into_inner())
}

fn round_trip(expected: &Contents, page_size: u32) {
    let written = write(expected, page_size);
    let again = written.and_then(|database| {
        let db = Db::open(database.as_slice())?;
        let checked = check(&db)?;
        assert_eq!((checked.free, checked.pages), (0, checked.reachable.saturating_add(2)));
        contents(&db)
    });
    assert!(again.is_ok_and(|again| again == *expected));
}

#[cfg(test)]
mod tests {
    use super::super::bucket::Root;
    use super::super::page::Kind;
    use super::*;
    use proptest::prelude::*;

    /// Records with keys of `key` bytes and values of `value`, `count` of them.
    fn uniform(count: u32, key: usize, value: usize) -> Contents {
        let record = |at: u32| {
            let mut name = at.to_be_bytes().to_vec();
            name.resize(key.max(4), 7);
            (name, vec![at as u8; value])
        };
        Contents::from([
            (b"key".to_vec(), (0..count).map(record).collect()),
            (b"empty".to_vec(), Vec::new()),
        ])
    }

    #[test]
    fn sizes_at_every_edge() {
        round_trip(&Contents::new(), 4096);
        for page_size in [1024, 4096, 65536] {
            for (count, key, value) in [
                (1, 4, 0),
                (5000, 17, 0),
                (20_000, 17, 90),
                (9, 32_768, 1),
                (40, 32_768, 32_768),
                (3, 4, 3 << 20),
                (300, 600, 10),
                (200, 1000, 4096 - 16 - 16 - 1000),
                (200, 1000, 4096 - 16 - 16 - 999),
            ] {
                round_trip(&uniform(count, key, value), page_size);
            }
        }
    }

    /// bbolt asserts that a branch has two children when it merges them (`node.rebalance`).
    #[test]
    fn no_branch_has_a_single_child() {
        for count in (1..400).chain([5000, 5001, 5002, 5003]) {
            for key in [4, 100, 340, 600] {
                let database = write(&uniform(count, key, 300), 1024).unwrap();
                let db = Db::open(database.as_slice()).unwrap();
                let bucket = db.bucket(b"key").unwrap().unwrap();
                let Root::Page(root) = bucket.root else { panic!("an inline bucket") };
                let mut ids = vec![root];
                while let Some(page) = ids.pop().map(|id| db.page(id).unwrap()) {
                    ids.extend(
                        (0..page.len()).filter_map(|at| page.child(at)).filter(|id| *id > 0),
                    );
                    let alone = page.kind == Kind::Branch && page.len() < 2;
                    assert!(!alone, "{count} keys of {key} bytes: page {}", page.id());
                }
            }
        }
    }

    #[test]
    fn limits_are_kept() {
        let refuse = |name: &[u8], records: &[(&[u8], &[u8])]| {
            let mut writer = Writer::new(Output::new(Vec::new()), 4096).unwrap();
            writer.bucket(name).unwrap();
            let put = records.iter().try_for_each(|(key, value)| writer.put(key, value));
            put.and_then(|()| writer.finish().map(drop)).unwrap_err().to_string()
        };
        assert!(refuse(b"a", &[(b"", b"")]).contains("0 bytes"));
        assert!(refuse(b"a", &[(&[1; 32_769], b"")]).contains("32769 bytes"));
        assert!(refuse(b"a", &[(b"b", b""), (b"b", b"")]).contains("not greater"));
        assert!(refuse(b"a", &[(b"b", b""), (b"a", b"")]).contains("not greater"));
        assert!(refuse(b"a", &[(b"b", &vec![0; 64 << 20])]).contains("67108864"));
        assert!(refuse(b"", &[]).contains("0 bytes"));
        let mut writer = Writer::new(Output::new(Vec::new()), 4096).unwrap();
        assert!(writer.put(b"a", b"").is_err());
        writer.bucket(b"a").unwrap();
        assert!(writer.bucket(b"a").is_err());
        for size in [0, 512, 4097, 1 << 17] {
            assert!(Writer::new(Output::new(Vec::new()), size).is_err());
        }
    }

    #[test]
    fn a_database_may_begin_behind_other_bytes() {
        let mut out = Output::new(Vec::new());
        std::io::Write::write_all(&mut out, b"before").unwrap();
        let (out, length) = Writer::new(out, 4096).unwrap().finish().unwrap();
        assert_eq!(out.get_ref().len() as u64, 6 + length);
        assert!(check(&Db::open(&out.get_ref()[6..]).unwrap()).is_ok());
    }

    proptest! {
        #[test]
        fn written_is_read(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            writer(&data);
        }

        /// Damage to a small database of three levels, mostly in page headers and element tables.
        #[test]
        fn damage_never_panics(
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..80_usize, any::<u8>()), 1..8),
        ) {
            let mut database = write(&uniform(60, 100, 40), 1024).unwrap();
            let pages = database.len() / 1024;
            for (page, at, byte) in edits {
                database[page.index(pages - 2) * 1024 + 2048 + at] = byte;
            }
            for (_, target) in ALL {
                target(&database);
            }
        }
    }
}
