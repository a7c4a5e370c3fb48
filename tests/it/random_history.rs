//! A random history on a real etcd, and what it answers at every revision; each restored revision answers the same.

use std::collections::BTreeMap;
use std::fs;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp,
};
use rand_core::Rng;
use strongroom::crypto::system_rng;

use crate::end_to_end::Booted;
use crate::etcd_server::{Etcd, Version};
use crate::member::{Plan, hash};
use crate::place::Place;

const STEPS: usize = 250;
const RESTORED: usize = 5;

/// SplitMix64, so that a failure can be had again.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub(crate) fn key(&mut self) -> String {
        format!("{}/{}", ["a", "b", "bb"][self.below(3) as usize], self.below(8))
    }

    pub(crate) fn value(&mut self) -> Vec<u8> {
        // Now and then longer than a page.
        let length = if self.below(10) == 0 { 9000 } else { self.below(40) };
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// A key with all that Range tells of it.
pub(crate) type Entry = (Vec<u8>, Vec<u8>, i64, i64, i64, i64);

fn entry(kv: &KeyValue) -> Entry {
    (
        kv.key().to_vec(),
        kv.value().to_vec(),
        kv.create_revision(),
        kv.mod_revision(),
        kv.version(),
        kv.lease(),
    )
}

pub(crate) async fn range(client: &mut Client, revision: i64) -> (i64, Vec<Entry>) {
    let options = GetOptions::new().with_all_keys().with_revision(revision);
    let answer = client.get("", Some(options)).await.unwrap();
    (answer.header().unwrap().revision(), answer.kvs().iter().map(entry).collect())
}

pub(crate) async fn step(client: &mut Client, random: &mut Random, leases: &mut Vec<i64>) {
    match random.below(12) {
        0..=4 => {
            let mut options = PutOptions::new();
            if let Some(lease) = leases.last().filter(|_| random.below(4) == 0) {
                options = options.with_lease(*lease);
            }
            client.put(random.key(), random.value(), Some(options)).await.unwrap();
        }
        5 | 6 => drop(client.delete(random.key(), None).await.unwrap()),
        7 => {
            let all = Some(DeleteOptions::new().with_prefix());
            client.delete(format!("{}/", ["a", "b"][random.below(2) as usize]), all).await.unwrap();
        }
        8 | 9 => {
            let compare = Compare::version(random.key(), CompareOp::Greater, 0);
            // etcd takes no key twice in one transaction.
            let mut puts = BTreeMap::new();
            for _ in 0..random.below(6) + 1 {
                puts.insert(random.key(), random.value());
            }
            let puts: Vec<_> = puts.into_iter().map(|(k, v)| TxnOp::put(k, v, None)).collect();
            let delete = vec![TxnOp::delete(random.key(), None)];
            client.txn(Txn::new().when([compare]).and_then(puts).or_else(delete)).await.unwrap();
        }
        10 => leases.push(client.lease_grant(3000, None).await.unwrap().id()),
        _ if leases.len() > 1 => {
            let lease = leases.remove(random.below(leases.len() as u64 - 1) as usize);
            client.lease_revoke(lease).await.unwrap();
        }
        _ => {}
    }
}

async fn history(version: Version) {
    let seed = system_rng().next_u64();
    println!("seed {seed}");
    let mut random = Random(seed);
    let etcd = Etcd::start(version).await;
    let mut client = etcd.client().await;
    let mut answers: BTreeMap<i64, Vec<Entry>> = BTreeMap::new();
    let (mut leases, mut compacted) = (Vec::new(), 1);
    for at in 0..STEPS {
        step(&mut client, &mut random, &mut leases).await;
        let (revision, entries) = range(&mut client, 0).await;
        answers.insert(revision, entries);
        if at == STEPS / 3 || at == STEPS / 2 {
            compacted = revision - random.below(10) as i64;
            client.compact(compacted, None).await.unwrap();
        }
    }
    // What was remembered at once is what etcd says later; and its hashes, to compare with.
    let mut hashes = BTreeMap::new();
    for (revision, entries) in answers.range(compacted + 1..) {
        assert_eq!(range(&mut client, *revision).await.1, *entries);
        hashes.insert(*revision, hash(&mut client, *revision).await);
    }
    let place = Place::new();
    place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
    place.succeed(&["verify", "latest", "--deep"]);
    drop(etcd);

    let revisions: Vec<i64> = hashes.keys().copied().collect();
    for at in 0..RESTORED {
        let revision = match at {
            0 => revisions[0],
            1 => *revisions.last().unwrap(),
            _ => revisions[random.below(revisions.len() as u64) as usize],
        };
        let plan = Plan::new(version, 1);
        let (name, then) = (format!("data{at}"), revision.to_string());
        place.succeed(&[
            "restore",
            "latest",
            "--data-dir",
            &name,
            "--revision",
            &then,
            "--name",
            "m0",
            "--initial-cluster",
            &plan.initial_cluster(1),
        ]);
        let _member = plan.start(0, &place.path(&name), &[]);
        let mut client = plan.client(0).await;
        assert_eq!(range(&mut client, 0).await, (revision, answers[&revision].clone()));
        assert_eq!(hash(&mut client, revision).await, hashes[&revision], "revision {revision}");
        // All before it is there as well, back to the compaction.
        let earlier = *revisions.iter().rfind(|earlier| **earlier <= revision).unwrap();
        assert_eq!(range(&mut client, earlier).await.1, answers[&earlier]);
    }

    // The same as a file, by the stock tools.
    let revision = revisions[random.below(revisions.len() as u64) as usize];
    let then = revision.to_string();
    place.succeed(&["restore", "latest", "--output", "then.db", "--revision", &then]);
    let dir = place.path("stock");
    fs::create_dir(&dir).unwrap();
    let booted = Booted::from(version, &place.path("then.db"), &dir);
    let mut client = Client::connect([&booted.endpoint], None).await.unwrap();
    assert_eq!(range(&mut client, 0).await, (revision, answers[&revision].clone()));
    assert_eq!(hash(&mut client, revision).await, hashes[&revision]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_history_on_3_4() {
    history(Version::V3_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_history_on_3_5() {
    history(Version::V3_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_history_on_3_6() {
    history(Version::V3_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_history_on_3_7() {
    history(Version::V3_7).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: fifty histories on each version"]
async fn soak_of_histories() {
    for _ in 0..50 {
        for version in Version::ALL {
            history(version).await;
        }
    }
}
