//! The bolt reader on databases that etcd wrote (`tests/vectors/etcd`).

use proptest::prelude::*;
use strongroom::bolt::Db;
use strongroom::mvcc::{DatabaseFacts, database_facts};
use strongroom::{ErrorKind, Result};

/// 183 revisions of `/registry/item/…`, compacted at 100, the last key `last`.
fn database(version: &str) -> Vec<u8> {
    let path = format!("{}/tests/vectors/etcd/etcd-{version}.db.zst", env!("CARGO_MANIFEST_DIR"));
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

fn facts(database: &[u8]) -> Result<DatabaseFacts> {
    database_facts(&Db::open(database)?)
}

#[test]
fn reads_what_etcd_wrote() {
    let old = database("3.4");
    let expected = DatabaseFacts {
        revision: 183,
        compact_revision: 100,
        raft_term: None,
        raft_index: 187,
        storage_version: None,
        cluster_version: Some("3.4.0".into()),
        page_size: 4096,
        database_bytes: old.len() as u64,
    };
    assert_eq!(facts(&old).unwrap(), expected);
    let new = database("3.5");
    let expected = DatabaseFacts {
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
    for page in [0, 4096] {
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
        ("calls itself", root_page(0, &[9]), ErrorKind::Tampered),
        ("flags", root_page(8, &[3]), ErrorKind::Tampered),
        ("flags", root_page(8, &[0x10]), ErrorKind::Tampered),
        ("elements do not fit", root_page(10, &[0xff, 0xff]), ErrorKind::Tampered),
        ("overflow", root_page(12, &[0xff, 0xff, 0xff, 0xff]), ErrorKind::Tampered),
        ("unknown flags", root_page(16, &[3]), ErrorKind::Tampered),
        ("element table", root_page(20, &[0, 0]), ErrorKind::Tampered),
        ("outside its page", root_page(20, &[0xff; 12]), ErrorKind::Tampered),
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
fn refuses_keys_out_of_order() {
    let good = database("3.5");
    let root = 4096 * u64::from_le_bytes(good[32..40].try_into().unwrap()) as usize;
    // The second element takes the first one's key.
    let mut bad = good.clone();
    let pos = u32::from_le_bytes(good[root + 20..root + 24].try_into().unwrap());
    bad[root + 36..root + 40].copy_from_slice(&(pos - 16).to_le_bytes());
    bad.copy_within(root + 24..root + 28, root + 40);
    let error = facts(&bad).unwrap_err();
    assert!(error.to_string().contains("do not ascend"), "{error}");

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
    page[24] = 2;
    let mut bad = database("3.5");
    bad[2 * 4096..3 * 4096].copy_from_slice(&page);
    forge(&mut bad, |meta| meta[16..24].copy_from_slice(&2_u64.to_le_bytes()));
    let error = facts(&bad).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
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
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(facts(&bytes).is_err());
    }
}
