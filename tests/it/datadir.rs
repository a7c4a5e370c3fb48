//! Members' data directories that the library wrote: the stock tool's, byte for byte; and etcd started from them.

use std::fs::{self, File};
use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use strongroom::bolt::{Db, FileSource};
use strongroom::datadir::{
    Cluster, Member, Record, RecordKind, SnapFile, WAL_NAME, read_snap, read_wal,
};
use strongroom::etcd::choose_member;
use strongroom::mvcc::{Changes, rewrite};
use tempfile::TempDir;

use crate::end_to_end::run;
use crate::etcd::download;
use crate::etcd_server::{Etcd, Version};
use crate::member::{Plan, Running, hash, revision};

/// The only file in `dir` that is named like that.
fn only(dir: &Path, extension: &str) -> PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    let path = found.next().unwrap();
    assert_eq!(found.next(), None);
    path
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn bucket(db: &Db<FileSource>, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let bucket = db.bucket(name.as_bytes()).unwrap().unwrap();
    let mut cursor = bucket.cursor(b"").unwrap();
    let mut records = Vec::new();
    while let Some((key, value)) = cursor.next_record().unwrap() {
        records.push((key.to_vec(), value.to_vec()));
    }
    records
}

/// The numbers in a message of the log that are not zero, and the texts, each behind its field; messages in it are
/// taken apart as well.
fn nonzero(mut message: &[u8]) -> Vec<(u64, Result<u64, Vec<u8>>)> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = number(&mut message);
        let value = number(&mut message);
        match tag & 7 {
            0 if value == 0 => {}
            0 => fields.push((tag >> 3, Ok(value))),
            _ => {
                let (inner, rest) = message.split_at(value as usize);
                message = rest;
                match inner {
                    [b'{', ..] => fields.push((tag >> 3, Err(inner.to_vec()))),
                    inner => fields.extend(nonzero(inner)),
                }
            }
        }
    }
    fields
}

/// Each member's attributes in the old store, and its index.
fn attributes(store: &[u8]) -> (Vec<(String, Value)>, Value) {
    let store: Value = serde_json::from_slice(store).unwrap();
    let members = &store["Root"]["Children"]["0"]["Children"]["members"]["Children"];
    let attributes = |member: &Value| member["Children"]["raftAttributes"]["Value"].clone();
    let members = members.as_object().unwrap().iter();
    let members = members.map(|(id, member)| (id.clone(), attributes(member))).collect();
    (members, store["CurrentIndex"].clone())
}

/// What the stock tool makes of `snapshot` for `member`, against what the library makes.
fn same_as_the_stock_tool(version: Version, snapshot: &Path, cluster: &Cluster, member: &Member) {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    run(version
        .program(version.restorer())
        .args(["snapshot", "restore"])
        .arg(snapshot)
        .arg("--data-dir")
        .arg(&data)
        .args(["--name", &member.name, "--initial-cluster", &cluster.initial_cluster()])
        .args(["--initial-cluster-token", &cluster.token])
        .args(["--initial-advertise-peer-urls", &member.peer_urls.join(",")]));

    let theirs = only(&data.join("member/snap"), "snap");
    assert_eq!(name(&theirs), cluster.snap_name());
    let theirs = fs::read(&theirs).unwrap();
    let ours = cluster.snap();
    let (left, right) = (read_snap(&theirs).unwrap(), read_snap(&ours).unwrap());
    assert_eq!(SnapFile { store: right.store, ..left }, right);
    if version <= Version::V3_5 {
        assert_eq!(String::from_utf8_lossy(left.store), String::from_utf8_lossy(right.store));
        assert_eq!(theirs, ours);
    } else {
        // Later ones write the members in no certain order.
        assert_eq!(attributes(left.store), attributes(right.store));
    }

    let log = only(&data.join("member/wal"), "wal");
    assert_eq!(name(&log), WAL_NAME);
    let (theirs, ours) = (fs::read(&log).unwrap(), cluster.wal(member));
    let (mut left, mut right) = (read_wal(&theirs).unwrap(), read_wal(&ours).unwrap());
    if version == Version::V3_4 {
        // It does not say yet who votes, in the snapshot's record.
        let (short, long) = (left.pop().unwrap(), right.pop().unwrap());
        assert_eq!(short.kind, long.kind);
        assert!(long.data.starts_with(short.data));
        assert_eq!(left, right);
    } else if version >= Version::V3_7 {
        // It leaves out what is zero.
        let fields = |records: &[Record]| -> Vec<_> {
            records.iter().map(|record| (record.kind, nonzero(record.data))).collect()
        };
        assert_eq!(fields(&left), fields(&right));
    } else {
        assert_eq!(left, right);
        // What etcd reserves is not written.
        let (log, reserved) = theirs.split_at(ours.len());
        assert_eq!(log, ours);
        assert!(reserved.iter().all(|byte| *byte == 0));
    }

    let db = data.join("member/snap/db");
    let db = Db::open(FileSource::open(&db, None).unwrap()).unwrap();
    if version != Version::V3_4 {
        // 3.4's tool leaves the bucket with the old members.
        let members = cluster.buckets()[b"members".as_slice()].clone();
        assert_eq!(bucket(&db, "members"), members.into_iter().collect::<Vec<_>>());
        assert_eq!(bucket(&db, "members_removed"), []);
    }
    let meta = cluster.meta();
    let theirs = bucket(&db, "meta");
    let written: &[&str] = if version == Version::V3_4 {
        &["consistent_index"]
    } else {
        &["consistent_index", "term"]
    };
    for key in written {
        assert!(theirs.contains(&(key.as_bytes().to_vec(), meta[key.as_bytes()].clone())), "{key}");
    }
}

async fn agrees_with_the_stock_tool(version: Version) {
    let etcd = Etcd::start(version).await;
    etcd.fill(10, 10).await;
    let database = download(&choose_member(&etcd.settings()).await.unwrap()).await.unwrap();
    let dir = TempDir::new().unwrap();
    let snapshot = dir.path().join("snapshot.db");
    fs::write(&snapshot, [&database[..], &Sha256::digest(&database)].concat()).unwrap();
    for (initial_cluster, token) in [
        ("default=http://localhost:2380", "etcd-cluster"),
        ("b=https://10.0.0.2:2380,a=https://10.0.0.1:2380,c=https://10.0.0.3:2380", "t&<é>"),
        ("<a & b>=https://[::1]:2380,ü=http://b:9,<a & b>=http://A.b_c-d~:080,ü=http://b:10", "x"),
        (
            "1=http://h:1,2=http://h:2,3=http://h:3,4=http://h:4,5=http://h:5,6=http://h:6,7=http://h:7",
            "x",
        ),
    ] {
        let cluster = Cluster::parse(initial_cluster, token).unwrap();
        for member in cluster.members.iter().take(3) {
            same_as_the_stock_tool(version, &snapshot, &cluster, member);
        }
    }
}

/// What the stock tool refuses, the library refuses.
#[test]
fn refuses_as_the_stock_tool_3_5() {
    let dir = TempDir::new().unwrap();
    let snapshot = dir.path().join("none");
    for (initial_cluster, name, urls) in [
        ("a=http://a:1", "b", "http://a:1"),
        ("a=http://a:1", "a", "http://a:2"),
        ("a=http://a:1,a=http://a:2", "a", "http://a:2"),
        ("a=http://a:1,b=http://a:1", "a", "http://a:1"),
        ("a=http://a:1,a=http://a:1", "a", "http://a:1"),
        ("a=http://a:1,b=http://b:1,b=http://a:1", "a", "http://a:1"),
        ("a=http://a:1/", "a", "http://a:1/"),
        ("a=http://a", "a", "http://a"),
        ("a=a:1", "a", "a:1"),
        ("a=ftp://a:1", "a", "ftp://a:1"),
        ("a=http://a^b:1", "a", "http://a^b:1"),
        ("a=http://a:+1", "a", "http://a:+1"),
        ("", "a", "http://a:1"),
    ] {
        let data = dir.path().join("data");
        let mut tool = Version::V3_5.program("etcdutl");
        tool.args(["snapshot", "restore"]).arg(&snapshot).arg("--data-dir").arg(&data);
        tool.args(["--name", name, "--initial-cluster", initial_cluster]);
        let out = tool.args(["--initial-advertise-peer-urls", urls]).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        // A file that is not there is what it finds wrong with arguments that it likes.
        assert!(
            !out.status.success() && !error.contains("no such file"),
            "{initial_cluster}: {error}"
        );
        let ours = Cluster::parse(initial_cluster, "t").and_then(|cluster| {
            cluster.member(name, &urls.split(',').map(Into::into).collect::<Vec<_>>()).cloned()
        });
        assert!(ours.is_err(), "{initial_cluster}");
    }
}

/// A member's data directory.
fn write(data: &Path, database: &[u8], cluster: &Cluster, member: &Member) {
    let (snap, wal) = (data.join("member/snap"), data.join("member/wal"));
    fs::create_dir_all(&snap).unwrap();
    fs::create_dir_all(&wal).unwrap();
    let out = BufWriter::new(File::create(snap.join("db")).unwrap());
    let changes =
        Changes { buckets: cluster.buckets(), meta: cluster.meta(), ..Changes::default() };
    rewrite(&Db::open(database).unwrap(), &changes, out).unwrap();
    fs::write(snap.join(cluster.snap_name()), cluster.snap()).unwrap();
    fs::write(wal.join(WAL_NAME), cluster.wal(member)).unwrap();
}

/// Starts the members `which`, of whom the first `founders` came from directories that were written.
fn start(plan: &Plan, dir: &Path, which: Range<usize>, founders: usize) -> Vec<Running> {
    let cluster = plan.initial_cluster(which.end);
    let options = ["--initial-cluster-state", "existing", "--initial-cluster", &cluster];
    let joins = |at| if at < founders { &[][..] } else { &options[..] };
    which.map(|at| plan.start(at, &dir.join(format!("m{at}")), joins(at))).collect()
}

/// Announces the next member. A cluster takes none before its members have seen each other for some seconds.
fn announce(plan: &Plan, at: usize) {
    let url = format!("--peer-urls={}", plan.peer(at));
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let told = plan.ctl(0).args(["member", "add", &format!("m{at}"), &url]).output().unwrap();
        if told.status.success() {
            return;
        }
        assert!(Instant::now() < deadline, "{told:?}");
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// The HashKV that all members have at `last`, which each of them has reached.
async fn agreed(plan: &Plan, count: usize, last: i64) -> u32 {
    let mut hashes = Vec::new();
    for at in 0..count {
        let mut client = plan.client(at).await;
        // A linearizable read: the member has caught up.
        assert_eq!(revision(&mut client).await, last, "member {at}");
        hashes.push(hash(&mut client, last).await);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0] && *hash != 0), "{hashes:?}");
    hashes[0]
}

/// Killed all at once, and joined by one more.
async fn starts(from: Version, version: Version, count: usize) {
    let etcd = Etcd::start(from).await;
    etcd.fill(300, 700).await;
    etcd.etcdctl(&["del", "key/00007"]);
    etcd.etcdctl(&["compact", "50"]);
    let (expected, compacted, last) = etcd.hash_kv().await;
    assert_eq!((compacted, last), (50, 302));
    let database = download(&choose_member(&etcd.settings()).await.unwrap()).await.unwrap();
    drop(etcd);

    let (dir, plan) = (TempDir::new().unwrap(), Plan::new(version, count + 1));
    let cluster = Cluster::parse(&plan.initial_cluster(count), "restored").unwrap();
    for member in &cluster.members {
        write(&dir.path().join(&member.name), &database, &cluster, member);
    }
    let running = start(&plan, dir.path(), 0..count, count);
    assert_eq!(agreed(&plan, count, last).await, expected);
    let told = run(plan.ctl(0).args(["member", "list", "-w", "json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    let mut ids: Vec<_> =
        told["members"].as_array().unwrap().iter().map(|one| one["ID"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, cluster.members.iter().map(|one| one.id).collect::<Vec<_>>());
    assert_eq!(told["header"]["cluster_id"], cluster.id);

    plan.client(0).await.put("after", "kept", None).await.unwrap();
    drop(running);
    let mut running = start(&plan, dir.path(), 0..count, count);
    let after = agreed(&plan, count, last + 1).await;

    announce(&plan, count);
    running.extend(start(&plan, dir.path(), count..count + 1, count));
    assert_eq!(agreed(&plan, count + 1, last + 1).await, after);
    plan.client(count).await.put("through", "the joined", None).await.unwrap();
    drop(running);
    let _running = start(&plan, dir.path(), 0..count + 1, count);
    agreed(&plan, count + 1, last + 2).await;
    // etcd writes on in our log.
    let log = fs::read(dir.path().join("m0/member/wal").join(WAL_NAME)).unwrap();
    let entries = read_wal(&log).unwrap().into_iter().filter(|one| one.kind == RecordKind::Entry);
    assert!(entries.count() > count + 3);
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
    as_the_stock_tool_3_4: agrees_with_the_stock_tool(Version::V3_4),
    as_the_stock_tool_3_5: agrees_with_the_stock_tool(Version::V3_5),
    as_the_stock_tool_3_6: agrees_with_the_stock_tool(Version::V3_6),
    as_the_stock_tool_3_7: agrees_with_the_stock_tool(Version::V3_7),
    three_members_3_4: starts(Version::V3_4, Version::V3_4, 3),
    three_members_3_7: starts(Version::V3_7, Version::V3_7, 3),
    one_member_of_3_4_on_3_5: starts(Version::V3_4, Version::V3_5, 1),
    one_member_of_3_5_on_3_6: starts(Version::V3_5, Version::V3_6, 1),
    one_member_of_3_6_on_3_7: starts(Version::V3_6, Version::V3_7, 1),
}
