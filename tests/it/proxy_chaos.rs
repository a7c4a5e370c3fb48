//! Servers and proxies that go away in the middle of work: nothing is lost, doubled or changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, EventType, Txn, TxnOp, WatchOptions};

use crate::etcd_server::{Etcd, Version};
use crate::proxied::{NOW, Running, masters};

/// Adds one to `n` until told to stop, by comparison of values; how often it is known to have worked, and how often it
/// may have.
async fn increments(client: Client, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut done, mut unsure) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let mut client = client.clone();
        let Ok(answer) = client.get("n", None).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let now = answer.kvs()[0].value_str().unwrap().to_owned();
        let next = (now.parse::<u64>().unwrap() + 1).to_string();
        let txn = Txn::new()
            .when([Compare::value("n", CompareOp::Equal, now)])
            .and_then([TxnOp::put("n", next, None)]);
        match client.txn(txn).await {
            Ok(answer) => done += u64::from(answer.succeeded()),
            Err(_) => unsure += 1,
        }
    }
    (done, unsure)
}

/// All values that `n` had, in order, by a watch that is opened again where it broke off.
async fn history(endpoint: String, last: u64) -> Vec<u64> {
    let (mut seen, mut revision) = (Vec::new(), 1);
    loop {
        let Ok(mut client) = Client::connect([&endpoint], None).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let options = WatchOptions::new().with_start_revision(revision);
        let Ok(mut stream) = client.watch("n", Some(options)).await else { continue };
        while let Ok(Some(response)) = stream.message().await {
            for event in response.events() {
                assert_eq!(event.event_type(), EventType::Put);
                let kv = event.kv().unwrap();
                seen.push(kv.value_str().unwrap().parse().unwrap());
                revision = kv.mod_revision() + 1;
                if seen.last() == Some(&last) {
                    return seen;
                }
            }
        }
    }
}

async fn survives<F: Future<Output = Etcd>>(etcd: Etcd, trouble: impl FnOnce(Etcd, Running) -> F) {
    let proxy = Running::start(etcd.settings(), None, masters()).await;
    let endpoint = proxy.endpoint.clone();
    proxy.client().await.put("n", "0", None).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(tokio::spawn(increments(proxy.client().await, Arc::clone(&stop))));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let etcd = trouble(etcd, proxy).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    let (mut done, mut unsure) = (0, 0);
    for writer in writers {
        let (sure, maybe) = writer.await.unwrap();
        (done, unsure) = (done + sure, unsure + maybe);
    }
    let mut client = Client::connect([&endpoint], None).await.unwrap();
    let answer = client.get("n", None).await.unwrap();
    let value: u64 = answer.kvs()[0].value_str().unwrap().parse().unwrap();
    assert!(done > 20, "{done} increments");
    assert!((done..=done + unsure).contains(&value), "{value} of {done} and perhaps {unsure}");
    assert_eq!(answer.kvs()[0].version() as u64, value + 1);
    let wanted: Vec<_> = (0..=value).collect();
    let seen = tokio::time::timeout(Duration::from_secs(30), history(endpoint, value)).await;
    assert_eq!(seen.unwrap(), wanted);
    drop(etcd);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_killed_and_started_again_3_4() {
    let etcd = Etcd::start(Version::OLDEST).await;
    survives(etcd, |mut etcd, proxy| async move {
        for _ in 0..2 {
            etcd.kill(0);
            tokio::time::sleep(Duration::from_millis(300)).await;
            etcd = tokio::task::spawn_blocking(move || {
                etcd.restart(0);
                etcd
            })
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        std::mem::forget(proxy);
        etcd
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_lost_and_the_leader_moves() {
    let etcd = Etcd::builder(Version::NEWEST).members(3).start().await;
    survives(etcd, |mut etcd, proxy| async move {
        etcd.kill(0);
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Those that are left take everything: who asks does not notice that one is away.
        let mut client = proxy.client().await;
        for _ in 0..100 {
            client.get("n", None).await.unwrap();
            client.watch("n", None).await.unwrap();
        }
        std::mem::forget(proxy);
        etcd
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_under_load() {
    let etcd = Etcd::start(Version::NEWEST).await;
    survives(etcd, |etcd, proxy| async move {
        let before = proxy.namespace.cipher().primary();
        for _ in 0..3 {
            proxy.namespace.rotate(NOW, Duration::from_millis(200)).await.unwrap();
        }
        assert_ne!(proxy.namespace.cipher().primary(), before);
        std::mem::forget(proxy);
        etcd
    })
    .await;
}
