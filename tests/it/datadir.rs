//! Members' data directories that the library wrote: the stock tool's, byte for byte; and etcd started from them.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, PutOptions};
use serde_json::Value;
use sha2::{Digest, Sha256};
use strongroom::bolt::{Db, FileSource};
use strongroom::datadir::{Cluster, Member, RecordKind, WAL_NAME, read_snap, read_wal};
use strongroom::etcd::choose_member;
use strongroom::mvcc::{Changes, rewrite};
use tempfile::TempDir;

use crate::end_to_end::run;
use crate::etcd::download;
use crate::etcd_server::{Etcd, Version, free_ports};

const TOKEN: &str = "restored-1";

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

/// What the stock tool makes of `snapshot` for `member`, against what the library makes.
fn same_as_the_stock_tool(version: Version, snapshot: &Path, cluster: &Cluster, member: &Member) {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let tool = if version == Version::V3_4 { "etcdctl" } else { "etcdutl" };
    run(version
        .program(tool)
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
    let (left, right) = (read_snap(&theirs).unwrap(), cluster.snap());
    assert_eq!(left, read_snap(&right).unwrap());
    assert_eq!(
        String::from_utf8_lossy(left.store),
        String::from_utf8_lossy(read_snap(&right).unwrap().store)
    );
    assert_eq!(theirs, right);

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
fn refuses_as_the_stock_tool() {
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

/// A cluster started from directories that the library wrote.
struct Started {
    version: Version,
    dir: TempDir,
    members: Vec<Running>,
}

struct Running {
    name: String,
    endpoint: String,
    peer: String,
    child: Option<Child>,
}

impl Started {
    /// Writes the directories of `count` members and starts them.
    fn new(version: Version, database: &[u8], count: usize) -> Self {
        let ports = free_ports(2 * count);
        let members = ports.chunks(2).enumerate().map(|(at, ports)| Running {
            name: format!("r{at}"),
            endpoint: format!("http://127.0.0.1:{}", ports[0]),
            peer: format!("http://127.0.0.1:{}", ports[1]),
            child: None,
        });
        let mut started =
            Self { version, dir: TempDir::new().unwrap(), members: members.collect() };
        let cluster = Cluster::parse(&started.initial_cluster(), TOKEN).unwrap();
        for running in &started.members {
            let member =
                cluster.member(&running.name, std::slice::from_ref(&running.peer)).unwrap();
            write(&started.dir.path().join(&running.name), database, &cluster, member);
        }
        (0..count).for_each(|at| started.start(at, "new"));
        (0..count).for_each(|at| started.wait(at));
        started
    }

    fn initial_cluster(&self) -> String {
        let pairs = self.members.iter().map(|member| format!("{}={}", member.name, member.peer));
        pairs.collect::<Vec<_>>().join(",")
    }

    fn start(&mut self, at: usize, state: &str) {
        let cluster = self.initial_cluster();
        let Running { name, endpoint, peer, child } = &mut self.members[at];
        let log = self.dir.path().join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut etcd = self.version.program("etcd");
        etcd.args(["--name", name, "--data-dir"])
            .arg(self.dir.path().join(&*name))
            .args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &cluster, "--initial-cluster-state", state])
            .args(["--initial-cluster-token", TOKEN])
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log));
        *child = Some(etcd.spawn().unwrap());
    }

    fn wait(&self, at: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.ctl(at, &["endpoint", "health"]).0 {
            let log = self.dir.path().join(format!("{}.log", self.members[at].name));
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(log).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ctl(&self, at: usize, args: &[&str]) -> (bool, String) {
        let mut ctl = self.version.program("etcdctl");
        let out =
            ctl.args(["--endpoints", &self.members[at].endpoint]).args(args).output().unwrap();
        (out.status.success(), String::from_utf8(out.stdout).unwrap())
    }

    /// SIGKILL.
    fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Adds a member that has nothing yet.
    fn join(&mut self) {
        let [client, peer] = free_ports(2)[..] else { unreachable!() };
        let name = format!("r{}", self.members.len());
        let peer = format!("http://127.0.0.1:{peer}");
        // A cluster takes no further member before it has all of its own.
        let deadline = Instant::now() + Duration::from_secs(30);
        let url = format!("--peer-urls={peer}");
        while !self.ctl(0, &["member", "add", &name, &url]).0 {
            assert!(Instant::now() < deadline, "no member may join");
            std::thread::sleep(Duration::from_millis(200));
        }
        let endpoint = format!("http://127.0.0.1:{client}");
        self.members.push(Running { name, endpoint, peer, child: None });
        let at = self.members.len() - 1;
        self.start(at, "existing");
        self.wait(at);
    }

    async fn client(&self, at: usize) -> Client {
        Client::connect([&self.members[at].endpoint], None).await.unwrap()
    }

    /// Every member's HashKV at its revision, once all have reached `revision`.
    async fn hashes(&self, revision: i64) -> Vec<u32> {
        let mut hashes = Vec::new();
        for at in 0..self.members.len() {
            let mut client = self.client(at).await;
            // Linearizable: the member has caught up.
            let got = client.get("x", None).await.unwrap();
            assert_eq!(got.header().unwrap().revision(), revision, "member {at}");
            hashes.push(client.maintenance_client().hash_kv(revision).await.unwrap().hash());
        }
        hashes
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|at| self.kill(at));
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

/// A cluster's members, as (id, name, peer URL), and its id.
fn listed(started: &Started) -> (Vec<(u64, String, String)>, u64) {
    let told: Value =
        serde_json::from_str(&started.ctl(0, &["member", "list", "-w", "json"]).1).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let members = told["members"].as_array().unwrap().iter();
    let mut members: Vec<_> = members
        .map(|one| (one["ID"].as_u64().unwrap(), text(&one["name"]), text(&one["peerURLs"][0])))
        .collect();
    members.sort();
    (members, told["header"]["cluster_id"].as_u64().unwrap())
}

async fn starts(from: Version, version: Version, count: usize) {
    let etcd = Etcd::start(from).await;
    etcd.fill(300, 700).await;
    let mut client = etcd.client().await;
    let lease = client.lease_grant(3000, None).await.unwrap().id();
    client.put("leased", "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    client.delete("key/00007", None).await.unwrap();
    client.compact(50, None).await.unwrap();
    let (hash, compacted, last) = etcd.hash_kv().await;
    assert_eq!((compacted, last), (50, 303));
    let database = download(&choose_member(&etcd.settings()).await.unwrap()).await.unwrap();
    drop(etcd);

    let mut started = Started::new(version, &database, count);
    assert_eq!(started.hashes(last).await, vec![hash; count]);
    let cluster = Cluster::parse(&started.initial_cluster(), TOKEN).unwrap();
    let members = cluster.members.iter();
    let members: Vec<_> =
        members.map(|one| (one.id, one.name.clone(), one.peer_urls[0].clone())).collect();
    assert_eq!(listed(&started), (members, cluster.id));
    let mut client = started.client(0).await;
    let ttl = client.lease_time_to_live(lease, None).await.unwrap();
    assert!((1..=3000).contains(&ttl.ttl()) && ttl.granted_ttl() == 3000);

    // Writes, and a kill in which all lose what they had not synced.
    client.put("after", "kept", None).await.unwrap();
    for round in 0..2 {
        (0..count).for_each(|at| started.kill(at));
        (0..count).for_each(|at| started.start(at, "new"));
        (0..count).for_each(|at| started.wait(at));
        let hashes = started.hashes(last + 1).await;
        assert!(hashes.iter().all(|hash| *hash == hashes[0] && *hash != 0), "{round}: {hashes:?}");
    }
    // A member that joins later gets everything, not only what the log has.
    started.join();
    let hashes = started.hashes(last + 1).await;
    assert!(
        hashes.len() == count + 1 && hashes.iter().all(|hash| *hash == hashes[0]),
        "{hashes:?}"
    );
    let mut joined = started.client(count).await;
    let all = GetOptions::new().with_all_keys().with_count_only().with_serializable();
    assert_eq!(joined.get("", Some(all)).await.unwrap().count(), 301);
    joined.put("from the joined", "x", None).await.unwrap();
    (0..=count).for_each(|at| started.kill(at));
    (0..=count).for_each(|at| started.start(at, "existing"));
    (0..=count).for_each(|at| started.wait(at));
    let hashes = started.hashes(last + 2).await;
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    // etcd writes on in our log.
    let log = fs::read(started.dir.path().join("r0/member/wal").join(WAL_NAME)).unwrap();
    let entries = read_wal(&log).unwrap().into_iter().filter(|one| one.kind == RecordKind::Entry);
    assert!(entries.count() > count + 2);
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
    one_member_3_4: starts(Version::V3_4, Version::V3_4, 1),
    one_member_3_5: starts(Version::V3_5, Version::V3_5, 1),
    three_members_3_4: starts(Version::V3_4, Version::V3_4, 3),
    three_members_3_5: starts(Version::V3_5, Version::V3_5, 3),
    one_member_of_3_4_on_3_5: starts(Version::V3_4, Version::V3_5, 1),
}
