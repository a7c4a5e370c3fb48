//! Members restored natively: real etcd starts from them, alone and as three, and serves what was backed up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, DeleteOptions, GetOptions, PutOptions, WatchOptions};
use serde_json::Value;

use crate::end_to_end::run;
use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version, free_ports};
use crate::place::{Place, exits, write_secret};

/// Ports of a cluster to be.
pub(crate) struct Plan {
    version: Version,
    clients: Vec<u16>,
    peers: Vec<u16>,
}

impl Plan {
    pub(crate) fn new(version: Version, members: usize) -> Self {
        let ports = free_ports(2 * members);
        let (clients, peers) = ports.split_at(members);
        Self { version, clients: clients.into(), peers: peers.into() }
    }

    fn name(at: usize) -> String {
        format!("m{at}")
    }

    pub(crate) fn peer(&self, at: usize) -> String {
        format!("http://127.0.0.1:{}", self.peers[at])
    }

    fn endpoint(&self, at: usize) -> String {
        format!("http://127.0.0.1:{}", self.clients[at])
    }

    pub(crate) fn initial_cluster(&self, members: usize) -> String {
        let pairs: Vec<_> =
            (0..members).map(|at| format!("{}={}", Self::name(at), self.peer(at))).collect();
        pairs.join(",")
    }

    /// Starts member `at` from `dir`.
    pub(crate) fn start(&self, at: usize, dir: &Path, more: &[&str]) -> Running {
        let mut command = self.version.program("etcd");
        let (endpoint, peer) = (self.endpoint(at), self.peer(at));
        command.args(["--name", &Self::name(at), "--data-dir"]).arg(dir);
        command.args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(more).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        Running { child, command }
    }

    pub(crate) fn ctl(&self, at: usize) -> Command {
        let mut ctl = self.version.program("etcdctl");
        ctl.args(["--endpoints", &self.endpoint(at)]);
        ctl
    }

    pub(crate) async fn client(&self, at: usize) -> Client {
        let endpoint = self.endpoint(at);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let healthy = self.ctl(at).args(["endpoint", "health"]).output().unwrap();
            if healthy.status.success() {
                return Client::connect([&endpoint], None).await.unwrap();
            }
            assert!(Instant::now() < deadline, "member {at}: {healthy:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) struct Running {
    child: Child,
    command: Command,
}

impl Running {
    /// kill -9, and again.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = self.command.spawn().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// HashKV at `revision` as the client's only endpoint answers it.
pub(crate) async fn hash(client: &mut Client, revision: i64) -> u32 {
    let mut maintenance = client.maintenance_client();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match maintenance.hash_kv(revision).await {
            Ok(answer) => return answer.hash(),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn revision(client: &mut Client) -> i64 {
    client.get("x", None).await.unwrap().header().unwrap().revision()
}

/// Every key and value, at `revision` (0: now).
async fn all(client: &mut Client, revision: i64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let options = GetOptions::new().with_all_keys().with_revision(revision);
    let answer = client.get("", Some(options)).await.unwrap();
    answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())).collect()
}

/// A place with a snapshot of an etcd that has seen some life; its HashKV at its revision.
async fn backed_up(version: Version) -> (Place, i64, u32) {
    let etcd = Etcd::start(version).await;
    etcd.fill(300, 500).await;
    let mut client = etcd.client().await;
    client.delete("key/001", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    etcd.etcdctl(&["compact", "120"]);
    client.put("after", "compaction", None).await.unwrap();
    let place = Place::new();
    place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
    let last = revision(&mut client).await;
    let hash = hash(&mut client, last).await;
    (place, last, hash)
}

async fn alone(version: Version) {
    let (place, last, expected) = backed_up(version).await;
    let plan = Plan::new(version, 2);
    let cluster = plan.initial_cluster(1);
    let report = place.json(&[
        "restore",
        "latest",
        "--data-dir",
        "data",
        "--name",
        "m0",
        "--initial-cluster",
        &cluster,
    ]);
    assert_eq!((&report["revision"], &report["bump"]), (&last.into(), &0.into()));
    assert_eq!(fs::metadata(place.path("data")).unwrap().permissions().mode() & 0o777, 0o700);
    let mut member = plan.start(0, &place.path("data"), &[]);
    let mut client = plan.client(0).await;
    assert_eq!(revision(&mut client).await, last);
    assert_eq!(hash(&mut client, last).await, expected);
    let before = all(&mut client, 0).await;
    member.restart();
    let mut client = plan.client(0).await;
    assert_eq!(all(&mut client, 0).await, before);
    client.put("written", "after the restart", None).await.unwrap();

    // A member that joins gets everything: from the snapshot record, since the log begins behind it.
    let peer = format!("--peer-urls={}", plan.peer(1));
    run(plan.ctl(0).args(["member", "add", "m1", &peer]));
    let joined =
        ["--initial-cluster-state", "existing", "--initial-cluster", &plan.initial_cluster(2)];
    let _second = plan.start(1, &place.path("joined"), &joined);
    let mut second = plan.client(1).await;
    let now = revision(&mut client).await;
    assert_eq!(hash(&mut second, now).await, hash(&mut client, now).await);
    assert_eq!(all(&mut second, 0).await.len(), before.len() + 1);
}

async fn three(version: Version) {
    let (place, last, expected) = backed_up(version).await;
    let plan = Plan::new(version, 3);
    let cluster = plan.initial_cluster(3);
    let mut reports = Vec::new();
    for at in 0..3 {
        let dir = format!("data{at}");
        let wal = format!("wal{at}");
        reports.push(place.json(&[
            "restore",
            "latest",
            "--data-dir",
            &dir,
            "--wal-dir",
            &wal,
            "--name",
            &Plan::name(at),
            "--initial-cluster",
            &cluster,
        ]));
    }
    let id = |report: &Value| report["etcd_cluster_id"].clone();
    assert!(reports.iter().all(|report| id(report) == id(&reports[0])));
    // The command that the first printed for the second gives the same cluster again.
    let others = reports[0]["other_members"].as_array().unwrap();
    let other = others.iter().find(|other| other["name"] == "m1").unwrap();
    let command =
        other["command"].as_str().unwrap().replace("--data-dir data0", "--data-dir again");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let words: Vec<&str> =
        words.into_iter().map(|word| if word == "wal0" { "walagain" } else { word }).collect();
    let mut again = crate::end_to_end::program();
    again.current_dir(place.dir.path()).args(["-w", "json"]).args(words);
    assert_eq!(id(&serde_json::from_str(&run(&mut again)).unwrap()), id(&reports[0]));

    let mut members: Vec<_> = (0..3)
        .map(|at| {
            let wal = place.path(&format!("wal{at}"));
            let wal = ["--wal-dir", wal.to_str().unwrap()];
            plan.start(at, &place.path(&format!("data{at}")), &wal)
        })
        .collect();
    for at in 0..3 {
        let mut client = plan.client(at).await;
        assert_eq!(hash(&mut client, last).await, expected, "member {at}");
    }
    members[1].restart();
    let mut client = plan.client(1).await;
    client.put("written", "by three", None).await.unwrap();
    let listed = run(plan.ctl(2).args(["member", "list"]));
    assert_eq!(listed.lines().count(), 3, "{listed}");
}

macro_rules! on_both {
    ($($name:ident: $test:ident($version:expr),)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            $test($version).await;
        }
    )*};
}

on_both! {
    alone_on_3_4: alone(Version::V3_4),
    alone_on_3_5: alone(Version::V3_5),
    alone_on_3_6: alone(Version::V3_6),
    alone_on_3_7: alone(Version::V3_7),
    three_on_3_4: three(Version::V3_4),
    three_on_3_7: three(Version::V3_7),
}

/// Kubernetes' data leaps, and who watches from before is told to list again.
#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_leaps() {
    for version in Version::ENDS {
        let etcd = Etcd::start(version).await;
        etcd.put("/registry/secrets/default/a", "k8s\0\n\x0c\n\x02v1\x12\x06Secret").await;
        etcd.put("/registry/pods/default/b", "{}").await;
        let last = revision(&mut etcd.client().await).await;
        let place = Place::new();
        place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
        drop(etcd);
        let plan = Plan::new(version, 1);
        let cluster = plan.initial_cluster(1);
        let member = ["--name", "m0", "--initial-cluster", &cluster];
        let said = exits(
            0,
            &mut place
                .command(&[&["restore", "latest", "--data-dir", "data"], &member[..]].concat()),
        );
        assert!(said.contains("list again") && said.contains("Restart API servers"), "{said}");
        let _member = plan.start(0, &place.path("data"), &[]);
        let mut client = plan.client(0).await;
        assert_eq!(revision(&mut client).await, last + 1_000_000_000);
        assert_eq!(all(&mut client, 0).await.len(), 2);
        let options = WatchOptions::new().with_prefix().with_start_revision(last);
        let mut watch = client.watch("/registry/", Some(options)).await.unwrap();
        let cancelled = loop {
            let answer = watch.message().await.unwrap().unwrap();
            if answer.canceled() {
                break answer.compact_revision();
            }
        };
        assert_eq!(cancelled, last + 1_000_000_000);
        client.put("/registry/pods/default/b", "{\"later\":1}", None).await.unwrap();

        let args = ["restore", "latest", "--data-dir", "plain", "--bump-revision", "0"];
        let report = place.json(&[&args[..], &member].concat());
        assert_eq!((&report["revision"], &report["kubernetes"]), (&last.into(), &true.into()));
    }
}

/// Leases run on, and one that was revoked after the revision restored is granted anew for a while.
#[tokio::test(flavor = "multi_thread")]
async fn leases_expire_as_they_should() {
    for version in Version::ENDS {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let mut leased = Vec::new();
        for (key, ttl) in [("short", 3), ("long", 3000), ("revoked", 3000)] {
            let lease = client.lease_grant(ttl, None).await.unwrap().id();
            client.put(key, "", Some(PutOptions::new().with_lease(lease))).await.unwrap();
            leased.push(lease);
        }
        let then = revision(&mut client).await;
        client.lease_revoke(leased[2]).await.unwrap();
        let place = Place::new();
        place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
        drop(etcd);
        let plan = Plan::new(version, 1);
        let args = [
            "restore",
            "latest",
            "--data-dir",
            "data",
            "--name",
            "m0",
            "--initial-cluster",
            &plan.initial_cluster(1),
            "--revision",
            &then.to_string(),
        ];
        let report = place.json(&args);
        assert_eq!(report["renewed_leases"], 1);
        let _member = plan.start(0, &place.path("data"), &[]);
        let mut client = plan.client(0).await;
        let granted = client.lease_time_to_live(leased[2], None).await.unwrap();
        assert_eq!(granted.granted_ttl(), 300);
        assert_eq!(client.lease_time_to_live(leased[1], None).await.unwrap().granted_ttl(), 3000);
        let deadline = Instant::now() + Duration::from_secs(20);
        while all(&mut client, 0).await.len() > 2 {
            assert!(Instant::now() < deadline, "the short lease does not expire");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        client.lease_revoke(leased[2]).await.unwrap();
        assert_eq!(all(&mut client, 0).await[0].0, b"long");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_stay_unless_told_otherwise() {
    for version in Version::ENDS {
        let etcd = Etcd::builder(version).with_auth().start().await;
        etcd.put("a", "b").await;
        let place = Place::new();
        write_secret(&place.path("password"), ROOT_PASSWORD);
        let login = ["--user", "root", "--password-file", "password"];
        let args = [&["--endpoints", etcd.endpoint()], &login[..], &["backup"]].concat();
        place.succeed(&args);
        drop(etcd);
        let plan = Plan::new(version, 1);
        let cluster = plan.initial_cluster(1);
        for (dir, more, open) in [("kept", &[][..], false), ("dropped", &["--without-auth"], true)]
        {
            let args = [
                "restore",
                "latest",
                "--data-dir",
                dir,
                "--name",
                "m0",
                "--initial-cluster",
                &cluster,
            ];
            let said = exits(0, &mut place.command(&[&args[..], more].concat()));
            assert_eq!(said.contains("warning: authentication is off"), open, "{said}");
            let _member = plan.start(0, &place.path(dir), &[]);
            let deadline = Instant::now() + Duration::from_secs(20);
            let healthy = || {
                let user = format!("root:{ROOT_PASSWORD}");
                let mut ctl = plan.ctl(0);
                if !open {
                    ctl.args(["--user", &user]);
                }
                ctl.args(["endpoint", "health"]).output().unwrap().status.success()
            };
            while !healthy() {
                assert!(Instant::now() < deadline, "{dir}");
                std::thread::sleep(Duration::from_millis(50));
            }
            let got = plan.ctl(0).args(["get", "a"]).output().unwrap();
            assert_eq!(got.status.success(), open, "{got:?}");
        }
    }
}

/// What is there is never touched, and what fails leaves nothing.
#[test]
fn places_that_are_taken() {
    let place = Place::new();
    place.backup();
    let entries = || {
        let mut names: Vec<_> = fs::read_dir(place.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/file"), "").unwrap();
    fs::write(place.path("afile"), "").unwrap();
    let before = entries();
    let restore =
        |dir: &str| ["restore".to_owned(), "latest".into(), "--data-dir".into(), dir.into()];
    for (dir, more, code, says) in [
        ("full", &[][..], 1, "not empty"),
        ("afile", &[], 1, "Not a directory"),
        ("missing/data", &[], 1, "No such file"),
        ("new", &["--wal-dir", "full"], 1, "not empty"),
        ("new", &["--revision", "999999999"], 1, "is not recorded"),
        ("new", &["--revision", "1"], 1, "compacted"),
        ("new", &["--name", "x", "--initial-cluster", "y=http://a:1"], 2, "no member \"x\""),
        ("new", &["--initial-cluster", "default=a:1"], 2, "http"),
        (
            "new",
            &[
                "--initial-advertise-peer-urls",
                "http://b:1",
                "--initial-cluster",
                "default=http://a:1",
            ],
            2,
            "peer URLs",
        ),
        ("new", &["--owner", "nobody-of-this-name"], 2, "no user"),
        ("new", &["--from-manifest", "afile"], 2, "not a pod"),
        ("new", &["--mark-compacted"], 2, "--bump-revision"),
        ("new", &["--output", "x"], 2, "cannot be used"),
    ] {
        let args = restore(dir);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let said = exits(code, &mut place.command(&args));
        assert!(said.contains(says), "{args:?}: {said}");
        assert_eq!(entries(), before, "{args:?}");
        assert_eq!(fs::read_dir(place.path("full")).unwrap().count(), 1);
    }
    // An empty one that is there, as when a file system is mounted on it.
    fs::create_dir_all(place.path("empty/lost+found")).unwrap();
    place.succeed(&["restore", "latest", "--data-dir", "empty", "--owner", "0:0"]);
    let mut inside: Vec<_> = fs::read_dir(place.path("empty"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    inside.sort();
    assert_eq!(inside, ["lost+found", "member"]);
    assert_eq!(fs::metadata(place.path("empty")).unwrap().permissions().mode() & 0o777, 0o700);
    place.fail(1, &["restore", "latest", "--data-dir", "empty"]);
}

/// What the old cluster was warned of, and what was deleted from it, is not in the new one.
#[tokio::test(flavor = "multi_thread")]
async fn alarms_and_deleted_secrets_stay_behind() {
    for version in Version::ENDS {
        let etcd = Etcd::builder(version).arg("--quota-backend-bytes=1048576").start().await;
        let mut client = etcd.client().await;
        client.put("secret", "correct horse battery staple", None).await.unwrap();
        client.delete("secret", None).await.unwrap();
        let now = revision(&mut client).await;
        client
            .compact(now, Some(etcd_client::CompactionOptions::new().with_physical()))
            .await
            .unwrap();
        let mut at = 0;
        while client.put(format!("{at}"), vec![0; 100_000], None).await.is_ok() {
            at += 1;
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert!(at < 64, "no alarm");
        }
        let place = Place::new();
        place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
        assert!(etcd.etcdctl(&["alarm", "list"]).contains("NOSPACE"));
        drop(etcd);
        let plan = Plan::new(version, 1);
        let cluster = plan.initial_cluster(1);
        let args = ["--name", "m0", "--initial-cluster", &cluster];
        place.succeed(&[&["restore", "latest", "--data-dir", "data"], &args[..]].concat());
        let database = fs::read(place.path("data/member/snap/db")).unwrap();
        let secret = b"correct horse battery staple";
        assert!(!database.windows(secret.len()).any(|part| part == secret));
        let _member = plan.start(0, &place.path("data"), &[]);
        plan.client(0).await;
        assert_eq!(run(plan.ctl(0).args(["alarm", "list"])), "");
    }
}
