//! Keys of a snapshot brought back into a running etcd.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, GetOptions, PutOptions};
use strongroom::backup::{
    Action, Applied, BackupOptions, Leases, Plan, Source, Wanted, WantedKeys, apply_plan, backup,
    plan_to_cluster,
};
use strongroom::etcd::choose_member;
use strongroom::format::SnapshotId;
use strongroom::keys::KeySet;
use strongroom::task::{Control, Step};
use strongroom::{ErrorKind, Result};
use tokio::sync::watch;

use crate::etcd_server::{Etcd, Version};
use crate::support::{TestRepo, keys};

/// Quick enough not to be what a test waits for.
const FAST: NonZeroU32 = NonZeroU32::new(5000).unwrap();

/// A cluster, and a snapshot of it.
struct Scene {
    etcd: Etcd,
    client: Client,
    repo: TestRepo,
    keys: KeySet,
}

impl Scene {
    async fn new(version: Version) -> Self {
        Self::of(Etcd::start(version).await).await
    }

    async fn of(etcd: Etcd) -> Self {
        let client = etcd.client().await;
        Self { etcd, client, repo: TestRepo::new().await, keys: keys(&[1]) }
    }

    async fn put(&mut self, key: &str, value: &str) {
        self.client.put(key, value, None).await.unwrap();
    }

    async fn leased(&mut self, key: &str, value: &str, lease: i64) {
        let options = PutOptions::new().with_lease(lease);
        self.client.put(key, value, Some(options)).await.unwrap();
    }

    async fn delete(&mut self, key: &str) {
        self.client.delete(key, None).await.unwrap();
    }

    async fn get(&mut self, key: &str) -> Option<(String, i64)> {
        let answer = self.client.get(key, None).await.unwrap();
        let kv = answer.kvs().first()?;
        Some((kv.value_str().unwrap().to_owned(), kv.lease()))
    }

    async fn value(&mut self, key: &str) -> Option<String> {
        self.get(key).await.map(|(value, _)| value)
    }

    async fn revision(&mut self) -> i64 {
        self.client.get("x", None).await.unwrap().header().unwrap().revision()
    }

    async fn backup(&self) -> SnapshotId {
        let source = Source::Etcd(self.etcd.settings());
        let (options, control) = (BackupOptions::default(), Control::default());
        backup(&self.repo.repository, &self.keys, source, &options, &control).await.unwrap().id
    }

    async fn plan(&self, id: SnapshotId, wanted: &Wanted) -> Result<Plan> {
        let choice = choose_member(&self.etcd.settings()).await.unwrap();
        let control = Control::default();
        plan_to_cluster(&self.repo.repository, &self.keys, id, wanted, &choice, &control).await
    }

    async fn apply_with(&self, plan: &Plan, rate: NonZeroU32, control: &Control) -> Applied {
        let choice = choose_member(&self.etcd.settings()).await.unwrap();
        let (repository, keys) = (&self.repo.repository, &self.keys);
        apply_plan(repository, keys, plan, &choice, rate, control).await.unwrap()
    }

    async fn apply(&self, plan: &Plan) -> Applied {
        self.apply_with(plan, FAST, &Control::default()).await
    }
}

fn one(key: &str) -> Wanted {
    Wanted { keys: WantedKeys::One(key.into()), ..prefix("") }
}

fn prefix(prefix: &str) -> Wanted {
    moved(prefix, prefix)
}

fn moved(from: &str, to: &str) -> Wanted {
    let keys = WantedKeys::Prefix { from: from.into(), to: to.into() };
    Wanted { keys, revision: None, delete: false, leases: Leases::default() }
}

fn actions(plan: &Plan) -> Vec<(Action, String)> {
    let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
    plan.keys.iter().map(|planned| (planned.action, text(&planned.key))).collect()
}

fn names(keys: &[Box<[u8]>]) -> Vec<String> {
    keys.iter().map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
}

fn counts(applied: &Applied) -> [u64; 4] {
    assert!(applied.stopped.is_none(), "{:?}", applied.stopped);
    [applied.created, applied.changed, applied.deleted, applied.left]
}

async fn one_key_comes_back(version: Version) {
    let mut scene = Scene::new(version).await;
    for (key, value) in [("app/a", "1"), ("app/ab", "2"), ("app/b", "3")] {
        scene.put(key, value).await;
    }
    let id = scene.backup().await;
    scene.delete("app/a").await;
    scene.put("app/ab", "later").await;
    let before = scene.revision().await;
    let plan = scene.plan(id, &one("app/a")).await.unwrap();
    assert_eq!(actions(&plan), [(Action::Create, "app/a".into())]);
    assert_eq!(scene.revision().await, before, "a plan changes nothing");
    assert_eq!(counts(&scene.apply(&plan).await), [1, 0, 0, 0]);
    assert_eq!(scene.value("app/a").await.as_deref(), Some("1"));
    assert_eq!(scene.value("app/ab").await.as_deref(), Some("later"));
    assert_eq!(scene.revision().await, before + 1);
    let again = scene.plan(id, &one("app/a")).await.unwrap();
    assert_eq!((actions(&again), again.unchanged), (vec![], 1));
    assert_eq!(counts(&scene.apply(&again).await), [0; 4]);
    assert_eq!(scene.revision().await, before + 1);

    for (wanted, kind) in [
        (one("app/none"), ErrorKind::NotFound),
        (prefix("none/"), ErrorKind::NotFound),
        (Wanted { delete: true, ..prefix("none/") }, ErrorKind::NotFound),
        (one(""), ErrorKind::Usage),
        (moved("app/a", ""), ErrorKind::Usage),
        (Wanted { revision: Some(before), ..prefix("app/") }, ErrorKind::NotFound),
    ] {
        assert_eq!(scene.plan(id, &wanted).await.unwrap_err().kind(), kind, "{wanted:?}");
    }
}

async fn a_prefix_at_a_revision(version: Version) {
    let mut scene = Scene::new(version).await;
    for (key, value) in [("a/gone", "1"), ("a/same", "2"), ("a/worse", "good"), ("b/x", "other")] {
        scene.put(key, value).await;
    }
    let good = scene.revision().await;
    scene.delete("a/gone").await;
    scene.put("a/worse", "bad").await;
    scene.put("a/new", "n").await;
    scene.put("b/x", "later").await;
    let id = scene.backup().await;
    // The live cluster may have compacted what the snapshot still has.
    let now = scene.revision().await;
    scene.client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();

    let wanted = Wanted { revision: Some(good), ..prefix("a/") };
    let plan = scene.plan(id, &wanted).await.unwrap();
    let expected = [
        (Action::Create, "a/gone".to_owned()),
        (Action::Leave, "a/new".into()),
        (Action::Change, "a/worse".into()),
    ];
    assert_eq!((actions(&plan), plan.unchanged), (expected.to_vec(), 1));
    assert_eq!((plan.revision, plan.live_revision), (good, now));
    assert_eq!(counts(&scene.apply(&plan).await), [1, 1, 0, 0]);
    let deleting = Wanted { delete: true, ..wanted.clone() };
    let plan = scene.plan(id, &deleting).await.unwrap();
    assert_eq!(actions(&plan), [(Action::Delete, "a/new".into())]);
    assert_eq!(counts(&scene.apply(&plan).await), [0, 0, 1, 0]);
    for (key, value) in [
        ("a/gone", Some("1")),
        ("a/same", Some("2")),
        ("a/worse", Some("good")),
        ("a/new", None),
        ("b/x", Some("later")),
    ] {
        assert_eq!(scene.value(key).await.as_deref(), value, "{key}");
    }

    let plan = scene.plan(id, &Wanted { revision: Some(good), ..moved("a/", "copy/") }).await;
    assert_eq!(counts(&scene.apply(&plan.unwrap()).await), [3, 0, 0, 0]);
    assert_eq!(scene.value("copy/worse").await.as_deref(), Some("good"));
    // Everything, as of the end: what the copy brought is only in etcd.
    let plan = scene.plan(id, &Wanted { delete: true, ..prefix("") }).await.unwrap();
    assert_eq!(counts(&scene.apply(&plan).await), [1, 1, 4, 0]);
    let all = scene.client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    let all: Vec<_> = all.kvs().iter().map(|kv| kv.key_str().unwrap().to_owned()).collect();
    assert_eq!(all, ["a/new", "a/same", "a/worse", "b/x"]);
}

/// Whoever writes between plan and execution is not overwritten.
async fn conflicts_are_listed(version: Version) {
    let mut scene = Scene::new(version).await;
    for key in ["c/absent", "c/changed", "c/quiet", "c/retouched", "c/vanishes"] {
        scene.put(key, "old").await;
    }
    let id = scene.backup().await;
    for key in ["c/changed", "c/quiet", "c/retouched", "c/vanishes", "c/extra", "c/extra-used"] {
        scene.put(key, "live").await;
    }
    scene.delete("c/absent").await;
    let plan = scene.plan(id, &Wanted { delete: true, ..prefix("c/") }).await.unwrap();
    assert_eq!(plan.keys.len(), 7);
    scene.put("c/absent", "concurrent").await;
    scene.put("c/changed", "concurrent").await;
    // The same value counts as a change too.
    scene.put("c/retouched", "live").await;
    scene.delete("c/vanishes").await;
    scene.put("c/extra-used", "concurrent").await;
    let applied = scene.apply(&plan).await;
    assert_eq!(counts(&applied), [0, 1, 1, 0]);
    let expected = ["c/absent", "c/changed", "c/extra-used", "c/retouched", "c/vanishes"];
    assert_eq!(names(&applied.conflicts), expected);
    for (key, value) in [
        ("c/absent", Some("concurrent")),
        ("c/changed", Some("concurrent")),
        ("c/quiet", Some("old")),
        ("c/retouched", Some("live")),
        ("c/vanishes", None),
        ("c/extra", None),
        ("c/extra-used", Some("concurrent")),
    ] {
        assert_eq!(scene.value(key).await.as_deref(), value, "{key}");
    }
}

async fn leases_all_ways(version: Version) {
    let mut scene = Scene::new(version).await;
    let short = scene.client.lease_grant(600, None).await.unwrap().id();
    let long = scene.client.lease_grant(9000, None).await.unwrap().id();
    let early = scene.client.lease_grant(700, None).await.unwrap().id();
    for (key, lease) in [("l/1", short), ("l/2", short), ("l/3", long)] {
        scene.leased(key, "v", lease).await;
    }
    scene.leased("e/1", "v", early).await;
    scene.put("l/free", "v").await;
    let before = scene.revision().await;
    scene.client.lease_revoke(early).await.unwrap();
    let id = scene.backup().await;
    scene.client.lease_revoke(short).await.unwrap();
    scene.delete("l/3").await;

    let with = |leases| Wanted { leases, ..prefix("l/") };
    // Keep: only the long lease is still there.
    let plan = scene.plan(id, &with(Leases::Keep)).await.unwrap();
    let applied = scene.apply(&plan).await;
    assert_eq!(applied.created, 1);
    let refused: Vec<_> = applied.refused.iter().map(|refused| &*refused.key).collect();
    assert_eq!(refused, [b"l/1", b"l/2"]);
    assert!(applied.refused[0].error.to_string().contains("lease not found"));
    assert_eq!(scene.get("l/3").await, Some(("v".into(), long)));

    // New: one for each old one, granted for as long; the key that has its lease is left alone.
    let plan = scene.plan(id, &with(Leases::New)).await.unwrap();
    assert_eq!((plan.keys.len(), plan.unchanged), (2, 2));
    assert!(plan.warnings.iter().any(|text| text.contains("vanishes")), "{:?}", plan.warnings);
    let applied = scene.apply(&plan).await;
    assert_eq!((counts(&applied), applied.leases_granted), ([2, 0, 0, 0], 1));
    let new = scene.get("l/1").await.unwrap().1;
    assert!(new != 0 && new != short);
    assert_eq!(scene.get("l/2").await.unwrap().1, new);
    let told = scene.client.lease_time_to_live(new, None).await.unwrap();
    assert_eq!(told.granted_ttl(), 600);
    let again = scene.plan(id, &with(Leases::New)).await.unwrap();
    assert_eq!((again.keys.len(), again.unchanged), (0, 4));
    scene.client.lease_revoke(new).await.unwrap();
    assert_eq!(scene.get("l/1").await, None, "it vanishes with its lease");

    // Drop, loudly; what a live lease still holds is left to it.
    let plan = scene.plan(id, &with(Leases::Drop)).await.unwrap();
    assert!(plan.warnings.iter().any(|text| text.contains("WITHOUT")), "{:?}", plan.warnings);
    assert_eq!(counts(&scene.apply(&plan).await), [2, 0, 0, 0]);
    assert_eq!(scene.get("l/1").await, Some(("v".into(), 0)));
    assert_eq!(scene.get("l/3").await, Some(("v".into(), long)));
    // And back on a lease: the value is the same, its end is not.
    let plan = scene.plan(id, &with(Leases::New)).await.unwrap();
    assert_eq!(counts(&scene.apply(&plan).await), [0, 2, 0, 0]);
    assert_ne!(scene.get("l/1").await.unwrap().1, 0);

    // A lease that the snapshot knows no more.
    let plan = scene.plan(id, &Wanted { revision: Some(before), ..one("e/1") }).await.unwrap();
    assert!(plan.warnings.iter().any(|text| text.contains("300 s")), "{:?}", plan.warnings);
    assert_eq!(counts(&scene.apply(&plan).await), [1, 0, 0, 0]);
    let lease = scene.get("e/1").await.unwrap().1;
    let told = scene.client.lease_time_to_live(lease, None).await.unwrap();
    assert_eq!(told.granted_ttl(), 300);
}

/// Ten thousand keys, interrupted, resumed, at a bounded rate.
async fn ten_thousand_keys(version: Version) {
    let scene = Scene::new(version).await;
    let puts = (0..100).map(|hundred| {
        let put = |at: i32| etcd_client::TxnOp::put(format!("k/{at:05}"), format!("v{at}"), None);
        let ops: Vec<_> = (hundred * 100..hundred * 100 + 100).map(put).collect();
        etcd_client::Txn::new().and_then(ops)
    });
    let mut client = scene.client.clone();
    for txn in puts {
        client.txn(txn).await.unwrap();
    }
    let id = scene.backup().await;
    client.delete("k/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    let plan = scene.plan(id, &prefix("k/")).await.unwrap();
    assert_eq!(plan.count(Action::Create), 10_000);

    // At 500 a second, 0.6 s see 300 changes.
    let (stop, stopped) = watch::channel(false);
    let control = Control::default().stop_when(stopped);
    let started = Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(600)).await;
        stop.send(true)
    });
    let applied = scene.apply_with(&plan, NonZeroU32::new(500).unwrap(), &control).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(applied.stopped.as_ref().unwrap().kind(), ErrorKind::Interrupted);
    assert!((1..=400).contains(&applied.created), "{}", applied.created);
    assert_eq!(applied.created + applied.left, 10_000);
    let count = GetOptions::new().with_prefix().with_count_only();
    let there = client.get("k/", Some(count.clone())).await.unwrap().count();
    assert_eq!(there as u64, applied.created, "nothing is under way any more");

    let resumed = scene.plan(id, &prefix("k/")).await.unwrap();
    assert_eq!((resumed.unchanged, resumed.keys.len() as u64), (applied.created, applied.left));
    let steps = std::sync::Arc::new(std::sync::Mutex::new(0));
    let seen = steps.clone();
    let control = Control::default().on_step(move |step| {
        if let Step::Advance(by) = step {
            *seen.lock().unwrap() += by;
        }
    });
    let applied = scene.apply_with(&resumed, NonZeroU32::new(10_000).unwrap(), &control).await;
    assert_eq!(counts(&applied), [resumed.keys.len() as u64, 0, 0, 0]);
    assert_eq!(*steps.lock().unwrap(), applied.created);
    assert_eq!(client.get("k/", Some(count)).await.unwrap().count(), 10_000);
    assert_eq!(scene.plan(id, &prefix("k/")).await.unwrap().unchanged, 10_000);
}

macro_rules! on_both {
    ($($name:ident: $of:ident $version:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            $of(Version::$version).await;
        }
    )*};
}

on_both! {
    one_key_3_4: one_key_comes_back V3_4,
    one_key_3_7: one_key_comes_back V3_7,
    prefix_3_4: a_prefix_at_a_revision V3_4,
    prefix_3_7: a_prefix_at_a_revision V3_7,
    conflicts_3_4: conflicts_are_listed V3_4,
    conflicts_3_7: conflicts_are_listed V3_7,
    leases_3_4: leases_all_ways V3_4,
    leases_3_7: leases_all_ways V3_7,
    ten_thousand_3_4: ten_thousand_keys V3_4,
    ten_thousand_3_7: ten_thousand_keys V3_7,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_etcd_refuses_is_listed_and_the_rest_goes_on() {
    let big = Etcd::builder(Version::NEWEST).arg("--max-request-bytes=8000000").start().await;
    let mut scene = Scene::of(big).await;
    for (key, size) in [("v/1", 10), ("v/2", 1_700_000), ("v/3", 4_000_000), ("v/4", 10)] {
        scene.put(key, &"x".repeat(size)).await;
    }
    scene.put("/strongroom/x", "1").await;
    scene.put("k/secret", "k8s:enc:aescbc:v1:key1:xxxx").await;
    let id = scene.backup().await;
    let mut small = Scene::new(Version::NEWEST).await;
    std::mem::swap(&mut small.repo, &mut scene.repo);
    let plan = small.plan(id, &prefix("v/")).await.unwrap();
    // Another cluster is told of.
    assert!(plan.warnings.iter().any(|text| text.contains("the one you mean")));
    let applied = small.apply(&plan).await;
    assert_eq!(counts(&applied), [2, 0, 0, 0]);
    let refused: Vec<_> = applied.refused.iter().map(|refused| &*refused.key).collect();
    assert_eq!(refused, [b"v/2", b"v/3"]);
    for refused in &applied.refused {
        assert!(refused.error.hint_text().unwrap().contains("--max-request-bytes"), "{refused:?}");
    }
    // A plan is for one cluster.
    let choice = choose_member(&scene.etcd.settings()).await.unwrap();
    let (repository, control) = (&small.repo.repository, Control::default());
    let error = apply_plan(repository, &small.keys, &plan, &choice, FAST, &control).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);

    let warned = |plan: &Plan, what: &str| plan.warnings.iter().any(|text| text.contains(what));
    assert!(warned(&small.plan(id, &moved("k/", "other/")).await.unwrap(), "cannot decrypt"));
    assert!(!warned(&small.plan(id, &prefix("k/")).await.unwrap(), "cannot decrypt"));
    assert!(warned(&small.plan(id, &one("/strongroom/x")).await.unwrap(), "reserved"));
    assert!(warned(&small.plan(id, &moved("v/", "/strongroom/")).await.unwrap(), "reserved"));
    assert!(!warned(&small.plan(id, &prefix("v/")).await.unwrap(), "reserved"));
}

/// An etcd that has gone is told, with what was done before.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_dies_stops_it() {
    let mut scene = Scene::new(Version::NEWEST).await;
    scene.etcd.fill(500, 10).await;
    let id = scene.backup().await;
    let every = etcd_client::DeleteOptions::new().with_prefix();
    scene.client.delete("key/", Some(every)).await.unwrap();
    let plan = scene.plan(id, &prefix("key/")).await.unwrap();
    let choice = choose_member(&scene.etcd.settings()).await.unwrap();
    let (repository, keys, control) = (&scene.repo.repository, &scene.keys, Control::default());
    let rate = NonZeroU32::new(200).unwrap();
    let (applied, ()) =
        tokio::join!(apply_plan(repository, keys, &plan, &choice, rate, &control), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            scene.etcd.kill(0);
        });
    let applied = applied.unwrap();
    assert_eq!(applied.stopped.unwrap().kind(), ErrorKind::Unreachable);
    assert!(applied.created > 0 && applied.left > 0);
    assert_eq!(applied.created + applied.left, 500);
    assert!(applied.conflicts.is_empty() && applied.refused.is_empty());
}
