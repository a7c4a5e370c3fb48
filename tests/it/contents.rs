//! Looking inside snapshots, against the answers of the etcd that they were taken of.

use std::collections::BTreeMap;
use std::process::Output;

use etcd_client::{
    Client, CompactionOptions, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp,
};
use serde_json::Value;
use strongroom::backup::{BackupOptions, Inside, Source, backup, look_inside, read_live};
use strongroom::contents::{
    Groups, KeyState, Selection, What, diff, digest, get, key_history, read, stats,
};
use strongroom::format::SnapshotId;
use strongroom::keys::KeySet;
use strongroom::mvcc::value_at;
use strongroom::secret::SecretBytes;
use strongroom::task::Control;
use strongroom::{ErrorKind, Result};

use crate::end_to_end::program;
use crate::etcd_server::{Etcd, Version};
use crate::support::{TestRepo, keys};

/// A repository that snapshots of a cluster go to.
struct Place {
    repo: TestRepo,
    keys: KeySet,
}

impl Place {
    async fn new() -> Self {
        Self { repo: TestRepo::new().await, keys: keys(&[1]) }
    }

    async fn backup(&self, etcd: &Etcd) -> SnapshotId {
        let source = Source::Etcd(etcd.settings());
        let (options, control) = (BackupOptions::default(), Control::default());
        backup(&self.repo.repository, &self.keys, source, &options, &control).await.unwrap().id
    }

    async fn look<T: Send + 'static>(
        &self,
        id: SnapshotId,
        look: impl FnOnce(&Inside) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        look_inside(&self.repo.repository, &self.keys, id, look).await
    }
}

/// A small generator of numbers: the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn key(&mut self) -> String {
        format!("{}/{:02}", ["a", "b", "b/c"][self.below(3) as usize], self.below(12))
    }

    fn value(&mut self) -> Vec<u8> {
        vec![self.below(256) as u8; self.below(3) as usize * 700]
    }
}

/// Applies `count` random changes.
async fn exercise(client: &mut Client, random: &mut Random, count: usize) {
    let lease = client.lease_grant(3000, None).await.unwrap().id();
    for _ in 0..count {
        let key = random.key();
        match random.below(8) {
            0 | 1 => drop(client.delete(key, None).await.unwrap()),
            2 => {
                let prefix = TxnOp::delete("a/0", Some(DeleteOptions::new().with_prefix()));
                let ops = [
                    TxnOp::put("txn/1", random.value(), None),
                    TxnOp::put("txn/2", "", None),
                    prefix,
                ];
                client.txn(Txn::new().and_then(ops)).await.unwrap();
            }
            3 => {
                let options = PutOptions::new().with_lease(lease);
                client.put(key, random.value(), Some(options)).await.unwrap();
            }
            _ => drop(client.put(key, random.value(), None).await.unwrap()),
        }
    }
}

/// etcd's own answer for all keys at `revision`, 0 for now.
async fn range(client: &mut Client, revision: i64) -> (i64, BTreeMap<Vec<u8>, KeyValue>) {
    let options = GetOptions::new().with_all_keys().with_revision(revision);
    let answer = client.get("", Some(options)).await.unwrap();
    let keys = answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.clone()));
    (answer.header().unwrap().revision(), keys.collect())
}

fn assert_same<T>(state: &KeyState<T>, kv: &KeyValue) {
    assert_eq!(state.modified.main, kv.mod_revision());
    assert_eq!(state.create_revision, kv.create_revision());
    assert_eq!((state.version, state.lease), (kv.version(), kv.lease()));
    assert_eq!(state.value_bytes, kv.value().len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_those_of_etcd_at_every_revision() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    exercise(&mut client, &mut Random(1), 150).await;
    let compacted = 60;
    let physical = CompactionOptions::new().with_physical();
    client.compact(compacted, Some(physical)).await.unwrap();
    let (last, _) = range(&mut client, 0).await;
    let place = Place::new().await;
    let id = place.backup(&etcd).await;
    let mut states = BTreeMap::new();
    for revision in compacted..=last {
        states.insert(revision, range(&mut client, revision).await.1);
    }
    place
        .look(id, move |inside| {
            let db = &inside.db;
            for (revision, expected) in &states {
                for prefix in ["", "b/", "b/c/1", "nonesuch"] {
                    let expected: Vec<_> = expected
                        .iter()
                        .filter(|(key, _)| key.starts_with(prefix.as_bytes()))
                        .collect();
                    let selection = Selection {
                        prefix: prefix.as_bytes(),
                        revision: Some(*revision),
                        deleted: false,
                    };
                    let found = read(db, &selection, <[u8]>::to_vec)?;
                    assert_eq!(found.keys.len(), expected.len(), "{prefix:?} at {revision}");
                    for ((key, state), (expected_key, kv)) in found.keys.iter().zip(expected) {
                        assert_eq!(**key, **expected_key);
                        assert_eq!(state.value, kv.value());
                        assert_same(state, kv);
                    }
                }
                for (key, kv) in expected {
                    let state = get(db, key, Some(*revision))?;
                    assert_same(&state, kv);
                    assert_eq!(value_at(db, state.modified)?.as_deref(), Some(kv.value()));
                }
            }
            for at in [compacted - 1, last + 1, 0] {
                assert_eq!(get(db, b"txn/1", Some(at)).unwrap_err().kind(), ErrorKind::NotFound);
            }
            deletions(inside, &states);
            histories(inside, &states);
            Ok(())
        })
        .await
        .unwrap();
}

type States = BTreeMap<i64, BTreeMap<Vec<u8>, KeyValue>>;

/// A deleted key's error names a revision that has its last value.
fn deletions(inside: &Inside, states: &States) {
    let (last, now) = states.iter().next_back().unwrap();
    let selection = Selection { deleted: true, ..Selection::default() };
    let all = read(&inside.db, &selection, |_| ()).unwrap();
    let deleted: Vec<_> = all.keys.iter().filter(|(_, state)| state.deleted()).collect();
    assert!(deleted.len() > 3 && all.keys.len() == now.len() + deleted.len());
    for (key, state) in deleted {
        assert!(!now.contains_key(&**key));
        let error = get(&inside.db, key, Some(*last)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.to_string().contains(&format!("deleted at revision {}", state.modified.main))
        );
        let before = state.modified.main - 1;
        if before < *states.keys().next().unwrap() {
            assert!(error.hint_text().unwrap().contains("compacted"));
            continue;
        }
        assert!(error.hint_text().unwrap().contains(&format!("--revision {before} ")));
        let found = get(&inside.db, key, Some(before)).unwrap();
        assert_same(&found, &states[&before][&**key]);
    }
    let error = get(&inside.db, b"no\x1bkey", None).unwrap_err();
    assert!(error.to_string().contains("no\\u{1b}key: not there at revision"), "{error}");
    assert_eq!(get(&inside.db, b"", None).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Every change of every key is one that etcd's answers at successive revisions show.
fn histories(inside: &Inside, states: &States) {
    let mut expected: BTreeMap<&[u8], Vec<(i64, What, i64)>> = BTreeMap::new();
    let (first, oldest) = states.iter().next().unwrap();
    for (key, kv) in oldest {
        let what = if kv.version() == 1 { What::Created } else { What::Changed };
        expected.entry(key).or_default().push((kv.mod_revision(), what, kv.version()));
    }
    for (revision, state) in states.range(first + 1..) {
        let before = &states[&(revision - 1)];
        for (key, kv) in state.iter().filter(|(_, kv)| kv.mod_revision() == *revision) {
            let what = if kv.version() == 1 { What::Created } else { What::Changed };
            expected.entry(key).or_default().push((*revision, what, kv.version()));
        }
        for key in before.keys().filter(|key| !state.contains_key(*key)) {
            expected.entry(key).or_default().push((*revision, What::Deleted, 0));
        }
    }
    for (key, expected) in expected {
        let history = key_history(&inside.db, key, None).unwrap();
        let told = history.changes.iter().map(|it| (it.revision.main, it.what, it.version));
        // etcd 3.5 keeps the deletions at the compact revision itself.
        let told = told.filter(|(revision, what, _)| *what != What::Deleted || revision > first);
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(history.compact_revision, *first);
    }
    assert_eq!(key_history(&inside.db, b"nonesuch", None).unwrap_err().kind(), ErrorKind::NotFound);
}

/// What etcd's answers differ in: key, and whether it is there before and after.
fn differences(
    before: &BTreeMap<Vec<u8>, KeyValue>,
    after: &BTreeMap<Vec<u8>, KeyValue>,
) -> Vec<(Vec<u8>, What)> {
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let what = |key: &Vec<u8>| match (before.get(key), after.get(key)) {
        (None, _) => Some(What::Created),
        (_, None) => Some(What::Deleted),
        (Some(old), Some(new)) => (old.value() != new.value()).then_some(What::Changed),
    };
    keys.into_iter().filter_map(|key| Some((key.clone(), what(key)?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_the_running_etcd_are_compared() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    let mut random = Random(2);
    exercise(&mut client, &mut random, 60).await;
    client.put([0xff_u8, 0xff, 1].as_slice(), "binary", None).await.unwrap();
    client.put("same", "same", None).await.unwrap();
    // Many small keys, then large values: pages of keys must shrink.
    etcd.fill(3000, 10).await;
    for at in 0..40 {
        client.put(format!("large/{at}"), vec![at; 1 << 20], None).await.unwrap();
    }
    let (_, before) = range_by_prefixes(&mut client).await;
    let place = Place::new().await;
    let first = place.backup(&etcd).await;
    let live = read_live(&etcd.settings(), b"").await.unwrap();
    let contents = |id, prefix: &'static [u8]| {
        let selection = Selection { prefix, ..Selection::default() };
        place.look(id, move |inside| read(&inside.db, &selection, digest))
    };
    let old = contents(first, b"").await.unwrap();
    assert_eq!(diff(&old, &live.contents).count(), 0);
    assert_eq!(old.revision, live.contents.revision);
    assert_eq!(live.contents.keys.len(), before.len());

    exercise(&mut client, &mut random, 30).await;
    client.put("same", "same", None).await.unwrap();
    client.put("large/3", "small", None).await.unwrap();
    client.delete("key/00007", None).await.unwrap();
    client.put([0xff_u8, 0xff, 2].as_slice(), "new", None).await.unwrap();
    let (_, after) = range_by_prefixes(&mut client).await;
    let expected = differences(&before, &after);
    assert!(expected.len() > 10 && !expected.iter().any(|(key, _)| key == b"same"));
    let live = read_live(&etcd.settings(), b"").await.unwrap();
    let second = place.backup(&etcd).await;
    let new = contents(second, b"").await.unwrap();
    for after in [&live.contents, &new] {
        let told: Vec<_> = diff(&old, after).map(|it| (it.key.to_vec(), it.what())).collect();
        assert_eq!(told, expected);
    }
    for prefix in [&b"b/"[..], b"\xff\xff", b"large/", b"nonesuch"] {
        let live = read_live(&etcd.settings(), prefix).await.unwrap();
        let old = contents(first, prefix).await.unwrap();
        let told: Vec<_> =
            diff(&old, &live.contents).map(|it| (it.key.to_vec(), it.what())).collect();
        let expected = expected.iter().filter(|(key, _)| key.starts_with(prefix));
        assert_eq!(told, expected.cloned().collect::<Vec<_>>());
    }
}

/// As [`range`] of now, in answers that a plain client takes.
async fn range_by_prefixes(client: &mut Client) -> (i64, BTreeMap<Vec<u8>, KeyValue>) {
    let (mut all, mut next, mut revision) = (BTreeMap::new(), vec![0], 0);
    loop {
        let options = GetOptions::new().with_from_key().with_limit(3).with_revision(revision);
        let answer = client.get(next.clone(), Some(options)).await.unwrap();
        revision = answer.header().unwrap().revision();
        for kv in answer.kvs() {
            next = [kv.key(), &[0]].concat();
            all.insert(kv.key().to_vec(), kv.clone());
        }
        if !answer.more() {
            return (revision, all);
        }
    }
}

/// A user who may read the keys is enough, and one who may not is told so.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_read_is_enough_for_live() {
    let etcd = Etcd::builder(Version::NEWEST).with_tls().with_auth().start().await;
    etcd.put("a", "1").await;
    etcd.etcdctl(&["user", "add", "nobody:nobody"]);
    let read_as = async |user: &str| {
        let mut settings = etcd.settings();
        settings.user = Some(user.into());
        settings.password = Some(SecretBytes::new(user.into()));
        read_live(&settings, b"").await
    };
    assert_eq!(read_as("reader").await.unwrap().contents.keys.len(), 1);
    let error = read_as("nobody").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().unwrap().contains("read these keys"));
}

/// A protobuf field of `number` and `bytes`, shorter than 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// What the API server writes with each provider.
async fn write_kubernetes(client: &mut Client) {
    let kms2 = |id: &str| {
        let object = [field(1, b"sealed"), field(2, id.as_bytes()), field(3, b"dek")].concat();
        [&b"k8s:enc:kms:v2:vault:"[..], &object].concat()
    };
    let values: [(&str, Vec<u8>); 11] = [
        ("/registry/secrets/prod/a", b"k8s:enc:aescbc:v1:old-key:xxxx".into()),
        ("/registry/secrets/prod/b", b"k8s:enc:aescbc:v1:new-key:xxxx".into()),
        ("/registry/secrets/prod/c", b"k8s:enc:secretbox:v1:box:xxxx".into()),
        ("/registry/secrets/test/d", b"k8s:enc:kms:v1:plugin:\0\x04dek!xxxx".into()),
        ("/registry/secrets/test/e", kms2("id-1")),
        ("/registry/secrets/test/f", kms2("id-2")),
        ("/registry/secrets/test/g", kms2("id-2")),
        ("/registry/configmaps/prod/a", b"k8s\0\n\x02v1".into()),
        ("/registry/example.com/widgets/prod/a", b"{\"kind\":\"Widget\"}".into()),
        ("/registry/services/specs/prod/a", b"k8s\0\n\x02v1".into()),
        ("/registry/configmaps/prod/b", b"k8s:enc:rot13:v1:x:y".into()),
    ];
    client.put("/registry/secrets/prod/b", b"k8s\0in clear once".as_slice(), None).await.unwrap();
    client
        .put("/registry/secrets/prod/b", b"k8s:enc:aescbc:v1:old-key:x".as_slice(), None)
        .await
        .unwrap();
    for (key, value) in values {
        client.put(key, value, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_tell_what_is_encrypted_and_by_which_key() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    write_kubernetes(&mut client).await;
    let lease = client.lease_grant(3000, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put("plain/leased", vec![0; 5000], Some(options)).await.unwrap();
    client.put("plain/gone", "x", None).await.unwrap();
    client.delete("plain/gone", None).await.unwrap();
    let place = Place::new().await;
    let id = place.backup(&etcd).await;
    let stats = place.look(id, |inside| stats(&inside.db, &Groups::default())).await.unwrap();
    assert_eq!((stats.keys, stats.records, stats.deletions), (12, 16, 1));
    assert_eq!((stats.leases, stats.leased_keys), (1, 1));
    assert_eq!(stats.largest[0].key, b"plain/leased");
    let group = |prefix: &str| {
        let group = stats.groups.iter().find(|group| group.prefix == prefix.as_bytes()).unwrap();
        let resource = group.resource.as_ref().map(|it| String::from_utf8(it.clone()).unwrap());
        (
            resource,
            [
                group.keys,
                group.unencrypted,
                group.encrypted,
                group.unknown,
                group.unencrypted_before,
            ],
        )
    };
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(group("/registry/secrets/"), (named("secrets"), [7, 0, 7, 0, 1]));
    assert_eq!(group("/registry/configmaps/"), (named("configmaps"), [2, 1, 0, 1, 0]));
    assert_eq!(group("/registry/services/specs/"), (named("services/specs"), [1, 1, 0, 0, 0]));
    assert_eq!(
        group("/registry/example.com/widgets/"),
        (named("example.com/widgets"), [1, 1, 0, 0, 0])
    );
    assert_eq!(group("plain/"), (None, [1, 1, 0, 0, 1]));
    let keys: Vec<_> = stats
        .keys_in_use
        .iter()
        .map(|(key, now, all)| {
            let id = key.key_id.as_deref().unwrap_or("-");
            (format!("{} {} {} {id}", key.provider, key.version, key.name), *now, *all)
        })
        .collect();
    let expected = [
        ("aescbc v1 new-key -", 1, 1),
        ("aescbc v1 old-key -", 1, 2),
        ("kms v1 plugin -", 1, 1),
        ("kms v2 vault id-1", 1, 1),
        ("kms v2 vault id-2", 2, 2),
        ("secretbox v1 box -", 1, 1),
    ];
    assert_eq!(keys, expected.map(|(key, now, all)| (key.to_owned(), now, all)));
    let by_namespace = Groups::new(["/registry"], 2);
    let deep = place.look(id, move |inside| strongroom::contents::stats(&inside.db, &by_namespace));
    let deep = deep.await.unwrap();
    let prod = deep.groups.iter().find(|group| group.prefix == b"/registry/secrets/prod/").unwrap();
    assert_eq!((prod.keys, prod.resource.as_deref()), (3, Some(&b"secrets"[..])));
    assert_eq!(deep.kubernetes_elsewhere, 0);
    let elsewhere = Groups::new(["/k8s"], 1);
    let deep = place.look(id, move |inside| strongroom::contents::stats(&inside.db, &elsewhere));
    assert_eq!(deep.await.unwrap().kubernetes_elsewhere, 12);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The program on a repository of its own, and what it says.
struct Program {
    dir: tempfile::TempDir,
    endpoint: String,
}

impl Program {
    fn new(etcd: &Etcd) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), endpoint: etcd.endpoint().into() };
        place.succeed(&["key", "generate", "-o", "keyring"]);
        place.succeed(&["init"]);
        place
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = program();
        command.current_dir(self.dir.path()).args(["-r", "repo", "-k", "file:keyring"]);
        command.args(["--endpoints", &self.endpoint]).args(args).output().unwrap()
    }

    fn succeed(&self, args: &[&str]) -> Output {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        out
    }

    fn json(&self, args: &[&str], status: i32) -> Value {
        let out = self.run(&[&["-w", "json"], args].concat());
        assert_eq!(out.status.code(), Some(status), "{args:?}: {}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_looks_inside() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    let value = [b"line\n".as_slice(), &[0, 0xff, 0x1b]].concat();
    client.put("app/config", "first", None).await.unwrap();
    client.put("app/config", value.clone(), None).await.unwrap();
    client.put("app/gone", "once", None).await.unwrap();
    client.delete("app/gone", None).await.unwrap();
    client.put(b"app/\x1b[2J\xfe".as_slice(), "odd", None).await.unwrap();
    client.put("/registry/secrets/ns/s", b"k8s\0clear".as_slice(), None).await.unwrap();
    let place = Program::new(&etcd);
    place.succeed(&["backup"]);

    let listed = place.json(&["ls", "latest", "--prefix", "app/"], 0);
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0]["key_base64"], "YXBwLxtbMkr+");
    assert_eq!((&keys[1]["key"], &keys[1]["version"]), (&"app/config".into(), &2.into()));
    let out = place.succeed(&["ls", "latest", "--keys-only", "-q"]);
    assert_eq!(text(&out.stdout), "/registry/secrets/ns/s\napp/\\u{1b}[2J\\xfe\napp/config\n");
    let out = place.succeed(&["ls", "latest", "--deleted", "--revision", "5", "--prefix", "app/g"]);
    assert!(
        text(&out.stdout).contains("5  deleted  -         0  app/gone"),
        "{}",
        text(&out.stdout)
    );

    let out = place.succeed(&["get", "latest", "app/config"]);
    assert!(!text(&out.stdout).contains("line") && text(&out.stdout).contains("8 bytes"));
    let out = place.succeed(&["get", "latest", "app/config", "--show-value"]);
    assert_eq!(out.stdout, value);
    let out = place.succeed(&["get", "latest", "app/config", "--show-value", "--revision", "2"]);
    assert_eq!(out.stdout, b"first");
    let shown = place.json(&["get", "latest", "app/config", "--show-value"], 0);
    assert_eq!(shown["value_base64"], "bGluZQoA/xs=");
    assert!(place.json(&["get", "latest", "app/config"], 0)["value_base64"].is_null());
    let out = place.run(&["get", "latest", "app/gone"]);
    assert_eq!(out.status.code(), Some(1));
    let told = text(&out.stderr);
    assert!(told.contains("deleted at revision 5") && told.contains("--revision 4"), "{told}");
    let out = place.run(&["get", "latest", "app/nonesuch", "-w", "json"]);
    let error: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!((out.status.code(), &error["error"]["kind"]), (Some(1), &"not-found".into()));
    let history = place.json(&["history", "latest", "app/gone"], 0);
    let changes = history["changes"].as_array().unwrap();
    let changes: Vec<_> = changes
        .iter()
        .map(|it| (it["revision"].as_i64().unwrap(), it["change"].as_str().unwrap()))
        .collect();
    assert_eq!(changes, [(4, "created"), (5, "deleted")]);

    assert_eq!(place.json(&["diff", "latest", "live"], 0)["differences"], Value::Array(vec![]));
    client.put("app/config", "second", None).await.unwrap();
    client.put("app/new", "", None).await.unwrap();
    client.delete("/registry/secrets/ns/s", None).await.unwrap();
    let told = place.json(&["diff", "latest", "live"], 3);
    let told: Vec<_> = told["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (it["key"].as_str().unwrap().to_owned(), it["change"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected =
        [("/registry/secrets/ns/s", "removed"), ("app/config", "changed"), ("app/new", "added")];
    assert_eq!(told, expected.map(|(key, change)| (key.to_owned(), change.to_owned())));
    let first = listed["id"].as_str().unwrap();
    place.succeed(&["backup"]);
    let out = place.run(&["diff", first, "latest", "--prefix", "app/"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out.stderr).contains("1 added, 1 changed, 0 removed"), "{}", text(&out.stderr));
    assert_eq!(place.run(&["diff", "live", first]).status.code(), Some(2));

    let out = place.succeed(&["stats", first]);
    assert!(text(&out.stderr).contains("stores 1 Secrets unencrypted"), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("/registry/secrets/"));
    assert_eq!(place.json(&["stats", first], 0)["keys"], 3);
}

/// A key that was changed late costs little; one that was not there costs the whole database, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_key_is_found_without_fetching_all() {
    let etcd = Etcd::start(Version::NEWEST).await;
    etcd.fill(2000, 16_000).await;
    let place = Place::new().await;
    let id = place.backup(&etcd).await;
    let cost = async |key: &'static [u8]| {
        place
            .look(id, move |inside| {
                let found = get(&inside.db, key, None).is_ok();
                Ok((found, inside.db.source().fetched()))
            })
            .await
            .unwrap()
    };
    for (key, found, percent) in
        [(&b"key/01999"[..], true, 0..30), (b"key/00000", true, 50..200), (b"none", false, 50..200)]
    {
        let (there, (fetched, stored)) = cost(key).await;
        assert_eq!(there, found);
        assert!(stored > 16_000 * 1500);
        let share = fetched * 100 / stored;
        assert!(percent.contains(&share), "{share} % for {}", String::from_utf8_lossy(key));
    }
}
