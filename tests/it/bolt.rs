//! The bolt reader and checker on databases that etcd wrote (`tests/vectors/etcd`), one that bbolt 1.3.11
//! wrote (`tests/vectors/bolt`), and forgeries.

use std::cell::Cell;
use std::ops::ControlFlow;

use proptest::prelude::*;
use strongroom::bolt::{BucketSize, Checked, Db, ReadAt, Writer, check, fuzzing};
use strongroom::mvcc::{DatabaseFacts, database_facts};
use strongroom::{ErrorKind, Result};

/// 183 revisions of `/registry/item/…`, compacted at 100, the last key `last`.
fn database(version: &str) -> Vec<u8> {
    let path = format!("{}/tests/vectors/etcd/etcd-{version}.db.zst", env!("CARGO_MANIFEST_DIR"));
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

/// Pages of 1 KiB and a freelist. The bucket `key` had 400 keys in three rounds; of the last, every third is
/// left: the number in eight bytes, `value N of 2`. The bucket `small` is inline and has `a`, `b`.
fn with_freelist() -> Vec<u8> {
    let path = format!("{}/tests/vectors/bolt/freelist.db.zst", env!("CARGO_MANIFEST_DIR"));
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

fn facts(database: &[u8]) -> Result<DatabaseFacts> {
    database_facts(&Db::open(database)?)
}

#[test]
fn reads_what_etcd_wrote() {
    let old = database("3.4");
    let expected = DatabaseFacts {
        auth_enabled: false,
        revision: 183,
        compact_revision: 100,
        raft_term: None,
        raft_index: 187,
        storage_version: None,
        cluster_version: Some("3.4.0".into()),
        downgrade: None,
        page_size: 4096,
        database_bytes: old.len() as u64,
    };
    assert_eq!(facts(&old).unwrap(), expected);
    let new = database("3.5");
    let expected = DatabaseFacts {
        auth_enabled: false,
        raft_term: Some(2),
        cluster_version: Some("3.5.0".into()),
        database_bytes: new.len() as u64,
        ..expected
    };
    assert_eq!(facts(&new).unwrap(), expected);
}

#[test]
fn finds_each_key_and_no_other() {
    let database = database("3.5");
    let db = Db::open(database.as_slice()).unwrap();
    let keys = db.bucket(b"key").unwrap().unwrap();
    for main in 101..=183_i64 {
        let key = [&main.to_be_bytes()[..], b"_", &[0; 8]].concat();
        let deleted = [&key[..], b"t"].concat();
        let found = (keys.get(&key).unwrap().is_some(), keys.get(&deleted).unwrap().is_some());
        // The 181st change, of revision 182, deleted a key.
        assert_eq!(found, (main != 182, main == 182), "revision {main}");
    }
    assert_eq!(keys.get(b"").unwrap(), None);
    assert_eq!(keys.get(&[0xff; 17]).unwrap(), None);
    let (key, value) = keys.last().unwrap().unwrap();
    assert_eq!(key[..8], 183_i64.to_be_bytes());
    assert!(value.windows(4).any(|part| part == b"last"));
    // Small enough to lie in the root bucket's page.
    assert!(db.bucket(b"alarm").unwrap().unwrap().last().unwrap().is_none());
    assert!(db.bucket(b"nonesuch").unwrap().is_none());
}

#[test]
fn one_meta_page_is_enough() {
    let good = database("3.5");
    let expected = facts(&good).unwrap();
    for page in [0, 4096] {
        let mut bad = good.clone();
        bad[page + 20] ^= 1;
        assert_eq!(facts(&bad).unwrap(), expected, "with the meta page at {page} damaged");
    }
    let mut bad = good;
    bad[20] ^= 1;
    bad[4096 + 20] ^= 1;
    assert_eq!(facts(&bad).unwrap_err().kind(), ErrorKind::Tampered);
}

/// Writes a meta page over both, with a right checksum.
fn forge(database: &mut [u8], edit: impl Fn(&mut [u8])) {
    forge_at(database, 4096, edit);
}

fn forge_at(database: &mut [u8], page_size: usize, edit: impl Fn(&mut [u8])) {
    for page in [0, page_size] {
        let meta = &mut database[page + 16..page + 80];
        edit(meta);
        let sum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        meta[56..].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn refuses_each_forgery() {
    let good = database("3.5");
    let root = u64::from_le_bytes(good[32..40].try_into().unwrap());
    let page = 4096 * root as usize;
    type Edit = Box<dyn Fn(&mut Vec<u8>)>;
    let meta = |at: usize, value: u64| -> Edit {
        Box::new(move |db| forge(db, |meta| meta[at..at + 8].copy_from_slice(&value.to_le_bytes())))
    };
    let root_page = |at: usize, bytes: &'static [u8]| -> Edit {
        Box::new(move |db| db[page + at..page + at + bytes.len()].copy_from_slice(bytes))
    };
    let cases: Vec<(&str, Edit, ErrorKind)> = vec![
        ("the root is page 1", meta(16, 1), ErrorKind::Tampered),
        ("the root is page 999", meta(16, 999), ErrorKind::Tampered),
        ("hold less", meta(40, 1 << 30), ErrorKind::Truncated),
        ("hold less", meta(40, u64::MAX), ErrorKind::Truncated),
        ("header says", root_page(0, &[9]), ErrorKind::Tampered),
        ("flags", root_page(8, &[3]), ErrorKind::Tampered),
        ("flags", root_page(8, &[0x10]), ErrorKind::Tampered),
        ("elements do not fit", root_page(10, &[0xff, 0xff]), ErrorKind::Tampered),
        ("overflow", root_page(12, &[0xff, 0xff, 0xff, 0xff]), ErrorKind::Tampered),
        ("unknown flags", root_page(16, &[3]), ErrorKind::Tampered),
        ("element table", root_page(20, &[0, 0]), ErrorKind::Tampered),
        ("outside its page", root_page(20, &[0xff; 4]), ErrorKind::Tampered),
        ("outside its page", root_page(28, &[0xff; 4]), ErrorKind::Tampered),
        ("a key of 4294967295 bytes", root_page(24, &[0xff; 4]), ErrorKind::Tampered),
        ("a key of 0 bytes", root_page(24, &[0; 4]), ErrorKind::Tampered),
        ("hold less", Box::new(|db| db.truncate(db.len() - 4096)), ErrorKind::Truncated),
        ("neither meta", Box::new(|db| db.truncate(16)), ErrorKind::Tampered),
        ("neither meta", Box::new(Vec::clear), ErrorKind::Tampered),
    ];
    for (words, edit, kind) in cases {
        let mut bad = good.clone();
        edit(&mut bad);
        let error = facts(&bad).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error} is not about: {words}");
    }
}

#[test]
fn refuses_keys_out_of_order_and_shared_data() {
    let good = database("3.5");
    let root = 4096 * u64::from_le_bytes(good[32..40].try_into().unwrap()) as usize;
    // The second element takes the first one's key.
    let mut bad = good.clone();
    let pos = u32::from_le_bytes(good[root + 20..root + 24].try_into().unwrap());
    bad[root + 36..root + 40].copy_from_slice(&(pos - 16).to_le_bytes());
    bad.copy_within(root + 24..root + 28, root + 40);
    let error = facts(&bad).unwrap_err();
    assert!(error.to_string().contains("element 1 of 10 overlaps another"), "{error}");
    // The first element gets a greater key than the second.
    let mut bad = good.clone();
    bad[root + 16 + pos as usize] = 0xff;
    let error = facts(&bad).unwrap_err();
    assert!(error.to_string().contains("not in order"), "{error}");

    // Free pages are in the file too, so any branch may be the one that counts.
    let branches = (2..good.len() / 4096).map(|page| page * 4096).filter(|at| good[at + 8] == 1);
    let (mut outside, mut childless) = (0, 0);
    for at in branches {
        let count = usize::from(u16::from_le_bytes([good[at + 10], good[at + 11]]));
        let last = at + 16 * count;
        let pos = u32::from_le_bytes(good[last..last + 4].try_into().unwrap()) as usize;
        let mut bad = good.clone();
        // The last byte of the main revision: the child's first key is now below it.
        bad[last + pos + 7] += 1;
        let refused =
            |bad: &[u8], words| facts(bad).is_err_and(|error| error.to_string().contains(words));
        outside += usize::from(refused(&bad, "outside those of its parent"));
        let mut bad = good.clone();
        bad[at + 10..at + 12].fill(0);
        childless += usize::from(refused(&bad, "without children"));
    }
    assert!(outside > 0 && childless > 0, "{outside} {childless}");
}

/// A database whose root is a branch that names itself as its child.
#[test]
fn a_circle_ends() {
    let mut page = vec![0; 4096];
    page[0] = 2;
    page[8] = 1;
    page[10] = 1;
    page[16] = 16;
    page[20] = 1;
    page[24] = 2;
    let mut bad = database("3.5");
    bad[2 * 4096..3 * 4096].copy_from_slice(&page);
    forge(&mut bad, |meta| meta[16..24].copy_from_slice(&2_u64.to_le_bytes()));
    let error = facts(&bad).unwrap_err();
    assert!(error.to_string().contains("cycle"), "{error}");
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn records(database: &[u8], bucket: &str, start: &[u8]) -> Result<Records> {
    let db = Db::open(database)?;
    let mut records = Records::new();
    db.bucket(bucket.as_bytes())?.unwrap().for_each(start, |key, value| {
        records.push((key.to_vec(), value.to_vec()));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(records)
}

#[test]
fn walks_what_bbolt_wrote() {
    let database = with_freelist();
    let record = |at: u64| (at.to_be_bytes().to_vec(), format!("value {at} of 2").into_bytes());
    let expected: Records = (0..400).step_by(3).map(record).collect();
    assert_eq!(records(&database, "key", b"").unwrap(), expected);
    assert_eq!(records(&database, "small", b"").unwrap(), [(b"a".to_vec(), b"b".to_vec())]);
    for at in [0_u64, 1, 3, 200, 398, 399, 400] {
        let from = expected.iter().position(|(key, _)| key[..] >= at.to_be_bytes()[..]);
        let found = records(&database, "key", &at.to_be_bytes()).unwrap();
        assert_eq!(found, expected[from.unwrap_or(expected.len())..]);
    }
    let mut first = None;
    let db = Db::open(database.as_slice()).unwrap();
    let visit = |key: &[u8], _: &[u8]| {
        assert!(first.replace(key.to_vec()).is_none(), "it goes on after a break");
        Ok(ControlFlow::Break(()))
    };
    db.bucket(b"key").unwrap().unwrap().for_each(b"", visit).unwrap();
    assert_eq!(first, Some(vec![0; 8]));
}

#[test]
fn checks_what_bbolt_and_etcd_wrote() {
    let database = with_freelist();
    let db = Db::open(database.as_slice()).unwrap();
    // bbolt's freelist names 52 of the 68 pages.
    let expected = Checked {
        pages: 68,
        reachable: 68 - 2 - 1 - 52,
        free: 52,
        buckets: vec![
            BucketSize {
                name: b"key".to_vec(),
                records: 134,
                bytes: 134 * 8 + 4 * 12 + 30 * 13 + 100 * 14,
            },
            BucketSize { name: b"small".to_vec(), records: 1, bytes: 2 },
        ],
    };
    assert_eq!(check(&db).unwrap(), expected);
    for version in ["3.4", "3.5"] {
        let database = self::database(version);
        let db = Db::open(database.as_slice()).unwrap();
        assert_eq!(db.meta().freelist, None);
        let checked = check(&db).unwrap();
        assert_eq!(checked.pages, database.len() as u64 / 4096);
        assert_eq!(checked.pages, 2 + checked.reachable + checked.free);
        let names: Vec<_> = checked.buckets.iter().map(|size| size.name.clone()).collect();
        let listed: Vec<_> = db.buckets().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, listed);
        assert!(names.contains(&b"key".to_vec()) && names.contains(&b"lease".to_vec()));
    }
}

const PAGE: usize = 1024;

/// Pages of 1 KiB: page 2 to the last but one are of bucket `a`, the last is the root with `a` and `b`.
fn small() -> Vec<u8> {
    let mut writer = Writer::new(std::io::Cursor::new(Vec::new()), PAGE as u32).unwrap();
    for name in ["a", "b"] {
        writer.bucket(name.as_bytes()).unwrap();
        for at in 0..100_u32 {
            writer.put(&at.to_be_bytes(), &[7; 80]).unwrap();
        }
    }
    writer.finish().unwrap().0.into_inner()
}

/// Offsets of all pages with these flags.
fn pages(database: &[u8], flags: u8) -> Vec<usize> {
    (2 * PAGE..database.len()).step_by(PAGE).filter(|at| database[at + 8] == flags).collect()
}

fn refused(database: &[u8], words: &str) {
    let error = Db::open(database).and_then(|db| check(&db)).unwrap_err();
    assert!(error.to_string().contains(words), "{error} is not about: {words}");
    for (_, target) in fuzzing::ALL {
        target(database);
    }
}

#[test]
fn the_check_refuses_each_forgery() {
    let good = small();
    check(&Db::open(good.as_slice()).unwrap()).unwrap();
    let (branches, leaves) = (pages(&good, 1), pages(&good, 2));
    let (branch, root) = (branches[0], *leaves.last().unwrap());
    let forged = |edit: &dyn Fn(&mut Vec<u8>), words: &str| {
        let mut bad = good.clone();
        edit(&mut bad);
        refused(&bad, words);
    };
    // An element of a branch: pos, key length, child.
    let child = |db: &mut Vec<u8>, branch: usize, at: usize, id: usize| {
        db[branch + 24 + 16 * at..][..8].copy_from_slice(&(id as u64).to_le_bytes());
    };
    forged(&|db| child(db, branch, 0, leaves[1] / PAGE), "keys are outside those of its parent");
    forged(&|db| child(db, branch, 1, leaves[0] / PAGE), "its place elsewhere");
    forged(&|db| child(db, branch, 0, branch / PAGE), "its place elsewhere");
    forged(&|db| child(db, branch, 2, branch / PAGE), "its place elsewhere");
    forged(&|db| child(db, branch, 0, 0), "out of range");
    forged(&|db| child(db, branch, 0, 1 << 40), "out of range");
    // The leaf takes the next one for its overflow page.
    forged(&|db| db[leaves[0] + 12] = 1, "it covers page 3");
    forged(&|db| db[leaves[0] + 12..leaves[0] + 16].fill(0xff), "outside the database");
    forged(&|db| db[leaves[3] + 10..leaves[3] + 12].fill(0), "an empty leaf below a branch");
    forged(&|db| db[leaves[3] + 10] = 200, "do not fit");
    forged(&|db| db[branch + 20..branch + 22].fill(0), "a key of 0 bytes");
    forged(&|db| db[leaves[1] + 26..leaves[1] + 28].fill(0xff), "a key of");
    // Both buckets have the root of the second.
    let header = |db: &[u8], at: usize| {
        let element = root + 16 + 16 * at;
        element + db[element + 4] as usize + 1
    };
    forged(
        &|db| {
            let (one, other) = (header(db, 0), header(db, 1));
            db.copy_within(other..other + 8, one);
        },
        "bucket \"b\": database page",
    );
    // No bucket, but a value.
    forged(&|db| db[root + 16] = 0, "a value among the buckets");
    // A bucket among the values.
    forged(&|db| db[leaves[2] + 16] = 1, "a bucket where a value must be");
}

#[test]
fn the_check_refuses_each_forged_freelist() {
    let good = with_freelist();
    let list = 17 * PAGE;
    assert_eq!(good[list + 8..list + 12], [0x10, 0, 52, 0]);
    let forged = |edit: &dyn Fn(&mut Vec<u8>), words: &str| {
        let mut bad = good.clone();
        edit(&mut bad);
        let error = Db::open(bad.as_slice()).and_then(|db| check(&db)).unwrap_err();
        assert!(error.to_string().contains(words), "{error} is not about: {words}");
    };
    // The meta page in force is the first one; freelist at byte 32 of it.
    let freelist = |db: &mut Vec<u8>, page: u64| {
        db[16 + 32..16 + 40].copy_from_slice(&page.to_le_bytes());
        let sum = db[16..72].iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        db[72..80].copy_from_slice(&sum.to_le_bytes());
    };
    let first_of =
        |at: usize| u64::from_le_bytes(good[list + at..list + at + 8].try_into().unwrap());
    forged(&|db| freelist(db, 16), "it is not a freelist");
    forged(&|db| freelist(db, 1), "out of range");
    forged(&|db| freelist(db, u64::MAX - 1), "out of range");
    forged(&|db| db[list + 12..list + 16].fill(0xff), "outside the database");
    forged(&|db| db[list + 12] = 60, "outside the database");
    forged(&|db| db[list + 10] = 0xfe, "do not fit");
    forged(
        &|db| {
            db[list + 10..list + 12].fill(0xff);
            db[list + 16..list + 24].fill(0xff);
        },
        "do not fit",
    );
    forged(&|db| db[list + 16] = 16, "in use");
    forged(&|db| db[list + 16..list + 24].copy_from_slice(&first_of(24).to_le_bytes()), "twice");
    forged(&|db| db[list + 16..list + 24].fill(0), "out of range");
    forged(&|db| db[list + 16..list + 24].fill(0xff), "out of range");
}

/// Each of 60,000 pages calls itself a leaf of 64 MiB: read one by one they would be terabytes.
#[test]
fn pages_that_claim_each_other_end_soon() {
    let mut bad = vec![0; 60_000 * PAGE];
    let good = small();
    bad[..good.len()].copy_from_slice(&good);
    forge_at(&mut bad, PAGE, |meta| meta[40..48].copy_from_slice(&60_000_u64.to_le_bytes()));
    for at in pages(&good, 2) {
        bad[at + 12..at + 16].copy_from_slice(&50_000_u32.to_le_bytes());
    }
    refused(&bad, "covers page");
    let counting = Counting(&bad, Cell::new(0));
    let db = Db::open(&counting).unwrap();
    check(&db).unwrap_err();
    assert!(counting.1.get() < 4 * bad.len(), "{} bytes were read", counting.1.get());
}

/// Counts the bytes that are read.
struct Counting<'a>(&'a [u8], Cell<usize>);

impl ReadAt for &Counting<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> strongroom::Result<()> {
        self.1.set(self.1.get() + buf.len());
        self.0.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}

/// A branch of more than 1 MiB is none of bolt's, and 48 of them would be the memory of a walk.
#[test]
fn a_long_branch_is_refused() {
    let good = small();
    let branch = pages(&good, 1)[0];
    let mut bad = vec![0; 4000 * PAGE];
    bad[..good.len()].copy_from_slice(&good);
    forge_at(&mut bad, PAGE, |meta| meta[40..48].copy_from_slice(&4000_u64.to_le_bytes()));
    bad[branch + 12..branch + 16].copy_from_slice(&1024_u32.to_le_bytes());
    refused(&bad, "over the limit");
}

proptest! {
    /// Damage anywhere ends in facts or an error, never in a panic.
    #[test]
    fn damage_never_panics(
        new in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let mut bad = database(if new { "3.5" } else { "3.4" });
        for (at, byte) in changes {
            let at = at.index(bad.len());
            bad[at] = byte;
        }
        forge(&mut bad, |_| ());
        let _ = facts(&bad);
        fuzzing::ALL.iter().for_each(|(_, target)| target(&bad));
    }

    /// As above, with the damage in page headers and element tables, where it does most.
    #[test]
    fn damaged_headers_never_panic(
        changes in prop::collection::vec((0usize..12, 0usize..200, any::<u8>()), 1..20),
    ) {
        let mut bad = database("3.5");
        for (page, at, byte) in changes {
            bad[page * 4096 + at] = byte;
        }
        forge(&mut bad, |_| ());
        let _ = facts(&bad);
        fuzzing::ALL.iter().for_each(|(_, target)| target(&bad));
        strongroom::mvcc::fuzzing::ALL.iter().for_each(|(_, target)| target(&bad));
    }

    /// A walk from any key is the end of the walk from the first.
    #[test]
    fn a_walk_from_any_key(main in 95_u64..190, rest in prop::collection::vec(any::<u8>(), 0..12)) {
        let database = database("3.5");
        let start = [&main.to_be_bytes()[..], &rest].concat();
        let mut expected = records(&database, "key", b"").unwrap();
        expected.retain(|(key, _)| *key >= start);
        prop_assert_eq!(records(&database, "key", &start).unwrap(), expected);
    }

    /// A scan comes to the same records as the walk, between any two keys.
    #[test]
    fn a_scan_of_any_span(from in 0_u64..410, end in prop::option::of(0_u64..410), odd: bool) {
        let database = with_freelist();
        let db = Db::open(database.as_slice()).unwrap();
        let key = |at: u64| [&at.to_be_bytes()[..], if odd { b"x" } else { b"" }].concat();
        let (from, end) = (key(from), end.map(key));
        let mut found = Records::new();
        let visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            Ok(())
        };
        db.bucket(b"key").unwrap().unwrap().scan(&from, end.as_deref(), visit).unwrap();
        found.sort();
        let mut expected = records(&database, "key", &from).unwrap();
        expected.retain(|(key, _)| end.as_ref().is_none_or(|end| key < end));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(facts(&bytes).is_err());
    }
}

/// Root page 2 is a leaf with one key of 100 MB: refused before any of it is read.
#[test]
fn a_key_of_a_hundred_megabytes_takes_no_memory() {
    let pages = (100 << 20) / 4096 + 1;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut head = database("3.5")[..2 * 4096].to_vec();
    forge(&mut head, |meta| {
        meta[16..24].copy_from_slice(&2_u64.to_le_bytes());
        meta[40..48].copy_from_slice(&(2 + pages as u64).to_le_bytes());
    });
    let mut page = vec![0; 4096];
    page[..8].copy_from_slice(&2_u64.to_le_bytes());
    page[8] = 2;
    page[10] = 1;
    page[12..16].copy_from_slice(&(pages as u32 - 1).to_le_bytes());
    page[20..24].copy_from_slice(&16_u32.to_le_bytes());
    page[24..28].copy_from_slice(&(100_u32 << 20).to_le_bytes());
    std::fs::write(file.path(), [head, page].concat()).unwrap();
    file.as_file().set_len((2 + pages as u64) * 4096).unwrap();
    let source = strongroom::bolt::FileSource::open(file.path(), None).unwrap();
    let error = Db::open(source).and_then(|db| check(&db)).unwrap_err();
    assert!(error.to_string().contains("over the limit"), "{error}");
}
