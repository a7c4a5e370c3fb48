//! Walks over the frames of a snapshot, whose pages lie in another order than their keys.

use std::fs;
use std::io::Cursor;
use std::sync::Arc;

use rand_core::Rng;
use strongroom::backup::look_inside;
use strongroom::bolt::{Db, ReadAt, Writer};
use strongroom::crypto::system_rng;
use strongroom::mvcc::{Changes, Revision, rewrite};

use crate::faulty::Faulty;
use crate::place::{Place, long_database};
use crate::support::{TestRepo, backup_of, keys, local};

/// Large pages, so that few of them fill many frames.
const PAGE: usize = 16 << 10;
const FRAME: usize = 1 << 20;

/// etcd's record of a change that set `key` for the first time at `revision`.
fn record(revision: u64, key: &str, value: &[u8]) -> Vec<u8> {
    let mut record = vec![0x0a, key.len() as u8];
    record.extend(key.as_bytes());
    let mut number = |tag: u8, mut number: u64| {
        record.push(tag);
        while number >= 0x80 {
            record.push(number as u8 | 0x80);
            number >>= 7;
        }
        record.push(number as u8);
    };
    number(0x10, revision);
    number(0x18, revision);
    number(0x20, 1);
    number(0x2a, value.len() as u64);
    record.extend(value);
    record
}

/// A database with a change for each of `revisions`, about one to a page.
pub(crate) fn database(revisions: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), PAGE as u32).unwrap();
    writer.bucket(b"key").unwrap();
    for revision in revisions {
        let mut value = vec![0; 14_000];
        system_rng().fill_bytes(&mut value);
        let main = Revision { main: revision as i64, sub: 0 };
        let record = record(revision, &format!("key/{revision}"), &value);
        writer.put(&main.to_key(false), &record).unwrap();
    }
    writer.bucket(b"meta").unwrap();
    writer.bucket(b"lease").unwrap();
    writer.finish().unwrap().0.into_inner()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The same database with its pages in a random order, as years of use leave them.
fn shuffled(database: &[u8]) -> Vec<u8> {
    let pages = database.len() / PAGE;
    let mut order: Vec<u64> = (2..pages as u64).collect();
    for at in (1..order.len()).rev() {
        let mut random = [0; 8];
        system_rng().fill_bytes(&mut random);
        order.swap(at, (u64::from_le_bytes(random) % (at as u64 + 1)) as usize);
    }
    let moved = |page: u64| order[page as usize - 2];
    let put = |page: &mut [u8], at: usize, number: u64| {
        page[at..at + 8].copy_from_slice(&number.to_le_bytes());
    };
    let mut result = database.to_vec();
    for id in [0, 1] {
        let meta = &mut result[id * PAGE..][..PAGE];
        let root = moved(number(meta, 32));
        put(meta, 32, root);
        let sum = meta[16..72].iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        put(meta, 72, sum);
    }
    for id in 2..pages {
        let mut page = database[id * PAGE..][..PAGE].to_vec();
        let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap()) as usize;
        let (branch, count) = (page[8] == 1, word(8) >> 16);
        assert_eq!(word(12), 0, "no page has overflow pages");
        let elements = (0..count).map(|at| 16 + 16 * at);
        // Where a branch names a page, and the root's leaf that of a bucket.
        let names: Vec<usize> = match branch {
            true => elements.map(|at| at + 8).collect(),
            false => elements
                .filter(|at| word(*at) == 1)
                .map(|at| at + word(at + 4) + word(at + 8))
                .collect(),
        };
        for at in names {
            if number(&page, at) != 0 {
                let to = moved(number(&page, at));
                put(&mut page, at, to);
            }
        }
        put(&mut page, 0, moved(id as u64));
        result[moved(id as u64) as usize * PAGE..][..PAGE].copy_from_slice(&page);
    }
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn small_jumps_do_not_open_frames_in_vain() {
    let repo = TestRepo::new().await;
    let (path, frames) = (repo.path("etcd.db"), 24);
    let database = long_database(frames * FRAME);
    fs::write(&path, &database).unwrap();
    let id = backup_of(&repo.repository, &keys(&[1]), &path).await.unwrap().id;
    let store = Faulty::new(local(repo.dir.path()), usize::MAX / 2, true);
    let repository = repo.through(Arc::new(store.clone())).await.unwrap();
    let before = store.calls_left();
    let keys = keys(&[1]);
    let read = look_inside(&repository, &keys, id, move |inside| {
        let mut page = vec![0; PAGE];
        for group in 0..frames / 8 {
            // The last frame of each group first, as where a branch of the tree lies.
            for at in [7, 0, 1, 2, 3, 4, 5, 6].map(|at| (group * 8 + at) * FRAME) {
                inside.db.source().read_at(at as u64, &mut page)?;
                assert!(page == database[at..at + PAGE]);
            }
        }
        Ok(())
    });
    read.await.unwrap();
    let calls = before - store.calls_left();
    assert!((frames..frames * 3 / 2).contains(&calls), "{calls} requests for {frames} frames");
}

fn revision_of(database: &[u8], to: i64) -> Vec<u8> {
    let changes = Changes { revision: Some(to), ..Changes::default() };
    let db = Db::open(database).unwrap();
    rewrite(&db, &changes, Cursor::new(Vec::new())).unwrap().0.into_inner()
}

fn backed_up(place: &Place, database: &[u8]) -> String {
    let path = place.path("etcd.db");
    fs::write(&path, database).unwrap();
    let report = place.json(&["backup", "--file", path.to_str().unwrap()]);
    report["id"].as_str().unwrap().to_owned()
}

fn deep(place: &Place, id: &str) -> String {
    let out = place.run(&["-w", "json", "verify", id, "--deep"]);
    String::from_utf8(out.stdout).unwrap()
}

/// More frames than memory keeps, and each walk comes to all of them again and again.
#[tokio::test(flavor = "multi_thread")]
async fn pages_may_lie_in_any_order() {
    let ordered = database(2..2300);
    assert!(ordered.len() > 34 * FRAME);
    let (mixed, place) = (shuffled(&ordered), Place::new());
    let id = backed_up(&place, &mixed);
    let said: serde_json::Value = serde_json::from_str(&deep(&place, &id)).unwrap();
    assert_eq!(said["snapshots"][0]["deep"]["records"], 2298, "{said}");
    place.succeed(&["restore", &id, "--output", "restored.db", "--revision", "2000"]);
    let restored = fs::read(place.path("restored.db")).unwrap();
    assert!(restored[..restored.len() - 32] == revision_of(&ordered, 2000));
}

#[test]
fn what_is_wrong_is_found_while_frames_still_come() {
    let (place, gap) = (Place::new(), (2..300).filter(|revision| *revision != 40));
    let id = backed_up(&place, &shuffled(&database(gap)));
    assert!(deep(&place, &id).contains("so changes are missing"), "{}", deep(&place, &id));
}
