//! What the library reads out of a database, against the etcd that wrote it; and etcd on databases that the
//! library wrote.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use serde_json::Value;
use sha2::{Digest, Sha256};
use strongroom::bolt::{Db, FileSource, ReadAt, Writer, check};
use strongroom::etcd::choose_member;
use strongroom::mvcc::{
    HashKv, Inconclusive, KeySpace, Revision, check_history, compaction, database_facts,
    for_each_record_at, hash_kv, history, leases, value_at,
};
use tempfile::TempDir;

use crate::end_to_end::{Booted, run};
use crate::etcd::download;
use crate::etcd_server::{Etcd, Version};

async fn snapshot(etcd: &Etcd) -> Vec<u8> {
    download(&choose_member(&etcd.settings()).await.unwrap()).await.unwrap()
}

/// The same by a plain client.
async fn stream(client: &mut Client) -> Vec<u8> {
    let mut stream = client.maintenance_client().snapshot().await.unwrap();
    let mut database = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        database.extend_from_slice(part.blob());
    }
    database.truncate(database.len() - 32);
    database
}

/// The member's HashKV at `revision`: hash and the compact revision it was computed with.
async fn live_hash(client: &mut Client, revision: i64) -> Result<(u32, i64), etcd_client::Error> {
    let answer = client.maintenance_client().hash_kv(revision).await?;
    Ok((answer.hash(), answer.compact_version()))
}

/// `count` revisions spread over `first..=last`, both included.
fn spread(first: i64, last: i64, count: i64) -> Vec<i64> {
    let mut revisions: Vec<_> =
        (0..count).map(|at| first + (last - first) * at / (count - 1)).collect();
    revisions.dedup();
    revisions
}

/// The database gives the member's hash at a dozen revisions.
async fn agrees(client: &mut Client, database: &[u8]) -> usize {
    let db = Db::open(database).unwrap();
    check(&db).unwrap();
    check_history(&db).unwrap();
    let facts = database_facts(&db).unwrap();
    let first = (facts.compact_revision + 1).clamp(1, facts.revision);
    let mut conclusive = 0;
    for revision in spread(first, facts.revision, 12) {
        // At the compact revision itself, old versions refuse and new ones answer from a cache.
        let Ok((hash, compacted)) = live_hash(client, revision).await else {
            assert_eq!(revision, facts.compact_revision);
            continue;
        };
        match hash_kv(&db, revision, compacted).unwrap() {
            HashKv::Hash(ours) => {
                assert_eq!(ours, hash, "at {revision}, compacted at {compacted}, of {facts:?}");
                conclusive += 1;
            }
            HashKv::Inconclusive(why) => {
                assert_eq!(why, Inconclusive::Compacted(facts.compact_revision), "{revision}");
                assert_eq!(revision, facts.compact_revision);
            }
        }
    }
    conclusive
}

/// Puts `count` keys below `prefix`, 100 to a transaction.
async fn put_many(client: &mut Client, prefix: &str, count: usize) {
    let keys: Vec<_> = (0..count).map(|at| format!("{prefix}{at:05}")).collect();
    for keys in keys.chunks(100) {
        let ops: Vec<_> = keys.iter().map(|key| TxnOp::put(key.as_str(), "v", None)).collect();
        client.txn(Txn::new().and_then(ops)).await.unwrap();
    }
}

/// Puts, overwrites, deletions, values of many pages, transactions, leases.
async fn exercise(client: &mut Client) {
    for at in 0..60 {
        client.put(format!("a/{}", at % 20), vec![b'x'; at * 50], None).await.unwrap();
    }
    client.put("large", vec![b'l'; 1 << 20], None).await.unwrap();
    client.put("large", vec![b'm'; 5000], None).await.unwrap();
    client.delete("a/3", None).await.unwrap();
    client.put("a/3", "again", None).await.unwrap();
    let prefix =
        |prefix: &str| TxnOp::delete(prefix.to_owned(), Some(DeleteOptions::new().with_prefix()));
    let mut ops: Vec<_> = (0..100).map(|at| TxnOp::put(format!("t/{at}"), "1", None)).collect();
    ops.push(prefix("a/1"));
    client.txn(Txn::new().and_then(ops)).await.unwrap();
    client.txn(Txn::new().and_then([prefix("t/5"), TxnOp::put("last", "", None)])).await.unwrap();
    let lease = client.lease_grant(1, None).await.unwrap().id();
    for at in 0..5 {
        let options = PutOptions::new().with_lease(lease);
        client.put(format!("lease/{at}"), "soon gone", Some(options)).await.unwrap();
    }
    let lease = client.lease_grant(3000, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put("lease/stays", "", Some(options)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let options = GetOptions::new().with_prefix().with_count_only();
        let left = client.get("lease/", Some(options)).await.unwrap().count();
        if left == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "the lease does not expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn compact(client: &mut Client, revision: i64) {
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
}

async fn revision(client: &mut Client) -> i64 {
    client.get("a", None).await.unwrap().header().unwrap().revision()
}

async fn hashes_agree(version: Version) {
    let etcd = Etcd::start(version).await;
    let mut client = etcd.client().await;
    let empty = snapshot(&etcd).await;
    assert_eq!(agrees(&mut client, &empty).await, 1);
    exercise(&mut client).await;
    let first = snapshot(&etcd).await;
    assert_eq!(agrees(&mut client, &first).await, 12);
    put_many(&mut client, "many/", 10_000).await;
    client.delete("many/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let wide = snapshot(&etcd).await;
    assert_eq!(agrees(&mut client, &wide).await, 12);

    // Compacted in the middle; the snapshots from before give the hashes of after.
    let last = revision(&mut client).await;
    let db = Db::open(first.as_slice()).unwrap();
    let first_last = database_facts(&db).unwrap().revision;
    compact(&mut client, first_last - 30).await;
    for revision in spread(first_last - 29, first_last, 6) {
        let (hash, compacted) = live_hash(&mut client, revision).await.unwrap();
        assert_eq!(compacted, first_last - 30);
        assert_eq!(hash_kv(&db, revision, compacted).unwrap(), HashKv::Hash(hash));
    }
    assert_eq!(agrees(&mut client, &snapshot(&etcd).await).await, 12);
    etcd.etcdctl(&["defrag"]);
    assert_eq!(agrees(&mut client, &snapshot(&etcd).await).await, 12);
    // At the deletion of 10,000 keys, then no key left at all, then nothing but a deletion.
    compact(&mut client, last).await;
    client.put("z", "", None).await.unwrap();
    assert_eq!(agrees(&mut client, &snapshot(&etcd).await).await, 1);
    let wide = Db::open(wide.as_slice()).unwrap();
    let hash = live_hash(&mut client, last + 1).await.unwrap();
    assert_eq!(hash.1, last);
    assert_eq!(
        hash_kv(&wide, last + 1, last).unwrap(),
        HashKv::Inconclusive(Inconclusive::Later(last))
    );
    client.delete("", Some(DeleteOptions::new().with_all_keys())).await.unwrap();
    let none = snapshot(&etcd).await;
    assert_eq!(agrees(&mut client, &none).await, 2);
    compact(&mut client, last + 2).await;
    assert_eq!(agrees(&mut client, &snapshot(&etcd).await).await, 0);
    client.put("z", "", None).await.unwrap();
    client.delete("z", None).await.unwrap();
    assert_eq!(agrees(&mut client, &snapshot(&etcd).await).await, 2);
    // The snapshot from before the compaction at a revision without keys.
    let (hash, compacted) = live_hash(&mut client, last + 4).await.unwrap();
    let later = snapshot(&etcd).await;
    let later = Db::open(later.as_slice()).unwrap();
    assert_eq!(hash_kv(&later, last + 4, compacted).unwrap(), HashKv::Hash(hash));
}

async fn key_space_agrees(version: Version) {
    let etcd = Etcd::start(version).await;
    let mut client = etcd.client().await;
    exercise(&mut client).await;
    compact(&mut client, 20).await;
    let database = snapshot(&etcd).await;
    let db = Db::open(database.as_slice()).unwrap();
    let last = revision(&mut client).await;
    for at in spread(20, last, 12) {
        for prefix in ["", "a/", "t/5"] {
            let key = if prefix.is_empty() { "\0" } else { prefix };
            let options = GetOptions::new().with_revision(at);
            let options =
                if prefix.is_empty() { options.with_from_key() } else { options.with_prefix() };
            let live = client.get(key, Some(options)).await.unwrap();
            let keys = KeySpace::at(&db, at).unwrap();
            let ours: Vec<_> = keys.live(prefix.as_bytes()).collect();
            assert_eq!(ours.len(), live.kvs().len(), "{prefix:?} at {at}");
            for (ours, live) in ours.iter().zip(live.kvs()) {
                let numbers = (ours.create_revision, ours.version, ours.lease);
                assert_eq!(numbers, (live.create_revision(), live.version(), live.lease()));
                assert_eq!((ours.key, ours.modified.main), (live.key(), live.mod_revision()));
                let value = value_at(&db, ours.modified).unwrap();
                assert_eq!(value.as_deref(), Some(live.value()));
            }
        }
    }
    let now = KeySpace::at(&db, last).unwrap();
    let expired: Vec<_> = now.deleted(b"lease/").collect();
    assert_eq!(expired.len(), 5);
    assert!(now.get(b"lease/0").unwrap().deleted() && now.get(b"nonesuch").is_none());
    let mut changes = Vec::new();
    history(&db, b"a/3", |record| {
        changes.push((record.tombstone, record.kv.value.len()));
        Ok(())
    })
    .unwrap();
    assert_eq!(changes, [(false, 150), (false, 1150), (false, 2150), (true, 0), (false, 5)]);
    let granted: Vec<_> = leases(&db).unwrap().iter().map(|lease| (lease.id, lease.ttl)).collect();
    let listed = client.leases().await.unwrap();
    let listed: Vec<_> = listed.leases().iter().map(|lease| (lease.id(), 3000)).collect();
    assert_eq!((granted.len(), granted), (1, listed));
    let done = compaction(&db).unwrap();
    assert_eq!((done.scheduled, done.finished), (20, 20));
}

/// Writes `database` anew, only the changes up to `until`, as a snapshot file.
fn rewrite(database: &[u8], until: i64, page_size: u32, path: &Path) -> u64 {
    let db = Db::open(database).unwrap();
    let out = BufWriter::new(File::create(path).unwrap());
    let mut writer = Writer::new(out, page_size).unwrap();
    for (name, bucket) in db.buckets().unwrap() {
        writer.bucket(&name).unwrap();
        if name == b"key" {
            for_each_record_at(&db, until, |record| writer.put(record.raw.0, record.raw.1))
                .unwrap();
            continue;
        }
        let mut records = bucket.cursor(b"").unwrap();
        while let Some((key, value)) = records.next_record().unwrap() {
            writer.put(key, value).unwrap();
        }
    }
    let (mut out, length) = writer.finish().unwrap();
    out.flush().unwrap();
    let digest = Sha256::digest(std::fs::read(path).unwrap());
    out.write_all(&digest).unwrap();
    out.flush().unwrap();
    length
}

/// What the stock tool's own check of the file says.
fn status(version: Version, path: &Path) -> Value {
    let mut command = version.program(version.restorer());
    let out = run(command.args(["snapshot", "status", "-w", "json"]).arg(path));
    serde_json::from_str(&out).unwrap()
}

fn open(path: &PathBuf) -> Db<FileSource> {
    let size = std::fs::metadata(path).unwrap().len() - 32;
    Db::open(FileSource::open(path, Some(size)).unwrap()).unwrap()
}

fn records<R: ReadAt>(db: &Db<R>) -> Vec<(Vec<u8>, u64)> {
    let checked = check(db).unwrap();
    checked.buckets.into_iter().map(|bucket| (bucket.name, bucket.records)).collect()
}

async fn etcd_runs_on_it(version: Version, page_size: u32) {
    let etcd = Etcd::start(version).await;
    let mut client = etcd.client().await;
    exercise(&mut client).await;
    put_many(&mut client, "many/", 3000).await;
    client.delete("many/01", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    compact(&mut client, 50).await;
    let last = revision(&mut client).await;
    let database = snapshot(&etcd).await;
    let mut hashes = Vec::new();
    for revision in spread(51, last, 12) {
        hashes.push((revision, live_hash(&mut client, revision).await.unwrap()));
    }
    drop(etcd);

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("whole.db");
    let length = rewrite(&database, last, page_size, &path);
    // Longer pages hold more air, in the last page of each bucket.
    assert!(length < database.len() as u64 || page_size > 4096);
    let db = open(&path);
    assert_eq!(records(&db), records(&Db::open(database.as_slice()).unwrap()));
    let told = status(version, &path);
    assert_eq!(told["revision"], last);
    let original = dir.path().join("original.db");
    std::fs::write(&original, [&database[..], &Sha256::digest(&database)].concat()).unwrap();
    // The tool runs bbolt's own check, and hashes all buckets, keys and values.
    let expected = status(version, &original)["hash"].clone();
    assert_eq!(told["hash"], expected);
    for page_size in [1024, 16_384] {
        let path = dir.path().join("other.db");
        rewrite(&database, last, page_size, &path);
        assert_eq!(status(version, &path)["hash"], expected, "pages of {page_size}");
    }
    let booted = Booted::from(version, &path, dir.path());
    let mut client = Client::connect([&booted.endpoint], None).await.unwrap();
    for (revision, hash) in &hashes {
        assert_eq!(live_hash(&mut client, *revision).await.unwrap(), *hash, "{revision}");
    }
    works_on(&mut client, last).await;
    let mut ctl = version.program("etcdctl");
    run(ctl.args(["--endpoints", &booted.endpoint, "defrag"]));
    let now = revision(&mut client).await;
    works_on(&mut client, now).await;
    drop(booted);

    // At a revision of before, in a directory of its own.
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("earlier.db");
    let (revision_then, hash_then) = hashes[5];
    rewrite(&database, revision_then, page_size, &path);
    assert_eq!(status(version, &path)["revision"], revision_then);
    let booted = Booted::from(version, &path, dir.path());
    let mut client = Client::connect([&booted.endpoint], None).await.unwrap();
    assert_eq!(revision(&mut client).await, revision_then);
    assert_eq!(live_hash(&mut client, revision_then).await.unwrap(), hash_then);
    works_on(&mut client, revision_then).await;
}

/// bbolt changes the pages: inserts between, overwrites, deletes most, and etcd's database is sound after it.
async fn works_on(client: &mut Client, last: i64) {
    assert_eq!(revision(client).await, last);
    put_many(client, "many/0", 2000).await;
    client.delete("many/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let lease = client.lease_grant(3000, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put("leased", vec![7; 9000], Some(options)).await.unwrap();
    let now = revision(client).await;
    // All pages of ours are rewritten or freed.
    compact(client, now - 1).await;
    client.put("after", "", None).await.unwrap();
    let database = stream(client).await;
    let db = Db::open(database.as_slice()).unwrap();
    check(&db).unwrap();
    check_history(&db).unwrap();
    let (hash, compacted) = live_hash(client, now + 1).await.unwrap();
    assert_eq!(hash_kv(&db, now + 1, compacted).unwrap(), HashKv::Hash(hash));
    let keys = KeySpace::at(&db, now + 1).unwrap();
    assert_eq!(keys.get(b"after").unwrap().modified, Revision { main: now + 1, sub: 0 });
}

/// `--bump-revision` leaves a gap and a record without a value.
#[tokio::test(flavor = "multi_thread")]
async fn a_bumped_database() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    exercise(&mut client).await;
    let before = revision(&mut client).await;
    let database = snapshot(&etcd).await;
    drop(etcd);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("whole.db");
    rewrite(&database, before, 4096, &path);
    let bump = ["--bump-revision", "1000", "--mark-compacted"];
    let booted = Booted::with(Version::NEWEST, &path, dir.path(), &bump);
    let mut client = Client::connect([&booted.endpoint], None).await.unwrap();
    assert_eq!(revision(&mut client).await, before + 1000);
    client.put("after", "", None).await.unwrap();
    client.delete("a/2", None).await.unwrap();
    let database = stream(&mut client).await;
    assert_eq!(agrees(&mut client, &database).await, 2);
    let keys = KeySpace::at(&Db::open(database.as_slice()).unwrap(), before + 1002).unwrap();
    let live = client.get("", Some(GetOptions::new().with_all_keys().with_count_only()));
    assert_eq!(keys.live(b"").count() as i64, live.await.unwrap().count());
    assert_eq!(keys.get(b""), None);
}

macro_rules! on_real_etcd {
    ($($name:ident: $test:ident($($argument:expr),*),)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            $test($($argument),*).await;
        }
    )*};
}

on_real_etcd! {
    hashes_agree_3_4: hashes_agree(Version::V3_4),
    hashes_agree_3_5: hashes_agree(Version::V3_5),
    hashes_agree_3_6: hashes_agree(Version::V3_6),
    hashes_agree_3_7: hashes_agree(Version::V3_7),
    key_space_agrees_3_4: key_space_agrees(Version::V3_4),
    key_space_agrees_3_7: key_space_agrees(Version::V3_7),
    etcd_3_4_runs_on_it: etcd_runs_on_it(Version::V3_4, 4096),
    etcd_3_5_runs_on_it: etcd_runs_on_it(Version::V3_5, 4096),
    etcd_3_6_runs_on_it: etcd_runs_on_it(Version::V3_6, 4096),
    etcd_3_7_runs_on_it: etcd_runs_on_it(Version::V3_7, 4096),
    etcd_3_7_runs_on_long_pages: etcd_runs_on_it(Version::V3_7, 65_536),
}
