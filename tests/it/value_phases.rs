//! A migration to encryption and back while everybody works: programs at two proxies, and others at etcd itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, GetOptions, Txn, TxnOp};
use strongroom::ErrorKind;
use strongroom::format::MigrationPhase;
use strongroom::values::{DEFAULT_PREFIX, Namespace};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::etcd_server::{Etcd, Version};
use crate::proxied::{NOW, Running, masters};

const PREFIX: &[u8] = DEFAULT_PREFIX.as_bytes();
/// As long as no process is stopped they follow by their watches.
const SETTLE: Duration = Duration::from_millis(400);
const KEYS: u64 = 20;

/// Puts growing numbers into keys of its own, and keeps what etcd has acknowledged.
struct Writer {
    name: &'static str,
    last: Arc<Vec<AtomicU64>>,
    /// Held during each write.
    turn: Arc<Mutex<()>>,
    task: JoinHandle<u64>,
}

impl Writer {
    fn start(name: &'static str, mut client: Client, stop: Arc<AtomicBool>) -> Self {
        let last: Arc<Vec<_>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
        let turn = Arc::new(Mutex::new(()));
        let (kept, turns) = (Arc::clone(&last), Arc::clone(&turn));
        let task = tokio::spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let turn = turns.lock().await;
                number += 1;
                let (at, value) = (number % KEYS, number.to_string());
                let key = format!("app/{name}/{at}");
                // Now and then in a transaction, as Kubernetes writes.
                if number % 3 == 0 {
                    let txn = Txn::new().and_then([TxnOp::put(key, value, None)]);
                    client.txn(txn).await.unwrap();
                } else {
                    client.put(key, value, None).await.unwrap();
                }
                kept[at as usize].store(number, Ordering::SeqCst);
                drop(turn);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            number
        });
        Self { name, last, turn, task }
    }

    fn acknowledged(&self) -> BTreeMap<String, u64> {
        let all = self.last.iter().enumerate();
        all.map(|(at, last)| (format!("app/{}/{at}", self.name), last.load(Ordering::SeqCst)))
            .collect()
    }
}

async fn read(client: &mut Client) -> BTreeMap<String, String> {
    let all = client.get("app/", Some(GetOptions::new().with_prefix())).await.unwrap();
    all.kvs()
        .iter()
        .map(|kv| (kv.key_str().unwrap().to_owned(), kv.value_str().unwrap().to_owned()))
        .collect()
}

/// Every read is right: no error, nothing older than what was acknowledged before it began.
fn reader(mut client: Client, writers: &[&Writer], stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    let writers: Vec<_> = writers.iter().map(|w| (w.name, Arc::clone(&w.last))).collect();
    tokio::spawn(async move {
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) {
            let before: Vec<_> = writers
                .iter()
                .flat_map(|(name, last)| {
                    let all = last.iter().enumerate();
                    all.map(move |(at, last)| {
                        (format!("app/{name}/{at}"), last.load(Ordering::SeqCst))
                    })
                })
                .collect();
            let found = read(&mut client).await;
            for (key, least) in before.into_iter().filter(|(_, least)| *least > 0) {
                let value: u64 = found[&key].parse().unwrap();
                assert!(value >= least, "{key}: {value} after {least}");
            }
            assert_eq!(found["app/old/7"], "old 7");
            reads += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reads
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_while_everybody_works() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut direct = etcd.client().await;
    for at in 0..100 {
        direct.put(format!("app/old/{at}"), format!("old {at}"), None).await.unwrap();
    }
    let masters = masters();
    let namespace =
        Namespace::init(etcd.client().await, PREFIX, masters.clone(), NOW).await.unwrap();
    namespace.set_phase(b"app/", MigrationPhase::Admit, SETTLE).await.unwrap();
    let mut proxies = Vec::new();
    for _ in 0..2 {
        let settings = etcd.settings();
        proxies.push(Running::start(settings, None, masters.clone()).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let one = Writer::start("one", proxies[0].client().await, Arc::clone(&stop));
    let two = Writer::start("two", proxies[1].client().await, Arc::clone(&stop));
    let beside = Writer::start("direct", etcd.client().await, Arc::clone(&stop));
    let writers = [&one, &two, &beside];
    let mut readers = Vec::new();
    for proxy in &proxies {
        readers.push(reader(proxy.client().await, &writers, Arc::clone(&stop)));
    }
    let work = async || tokio::time::sleep(Duration::from_millis(500)).await;
    let encrypted = async || {
        let survey = namespace.survey(b"app/").await.unwrap();
        (survey.keys.values().sum::<u64>(), survey.unencrypted)
    };

    work().await;
    assert_eq!(encrypted().await.0, 0, "written encrypted, where others read etcd itself");
    // A program at etcd itself reads what came through a proxy.
    assert!(read(&mut etcd.client().await).await["app/one/1"].parse::<u64>().unwrap() > 0);
    etcd.etcdctl(&["put", "app/etcdctl", "1"]);
    let skipped = namespace.set_phase(b"app/", MigrationPhase::Done, SETTLE).await.unwrap_err();
    assert_eq!(skipped.kind(), ErrorKind::Refused);
    namespace.set_phase(b"app/", MigrationPhase::Encrypt, SETTLE).await.unwrap();
    work().await;
    let converted = namespace.migrate(b"app/", None).await.unwrap();
    assert!(converted.sealed >= 100 && converted.failed.is_empty(), "{converted:?}");
    work().await;
    // Somebody still writes to etcd itself.
    let early = namespace.set_phase(b"app/", MigrationPhase::Done, SETTLE).await.unwrap_err();
    assert!(early.to_string().contains("not encrypted"), "{early}");
    let paused = beside.turn.lock().await;
    namespace.migrate(b"app/", None).await.unwrap();
    namespace.set_phase(b"app/", MigrationPhase::Done, SETTLE).await.unwrap();
    work().await;
    assert_eq!(encrypted().await.1, 0);
    namespace.rotate(NOW, SETTLE).await.unwrap();
    work().await;

    for phase in [MigrationPhase::Decrypt, MigrationPhase::Off, MigrationPhase::Admit] {
        let skipped = namespace.set_phase(b"app/", phase, SETTLE).await.unwrap_err();
        assert_eq!(skipped.kind(), ErrorKind::Refused, "{phase:?}");
    }
    namespace.set_phase(b"app/", MigrationPhase::AdmitBack, SETTLE).await.unwrap();
    work().await;
    tokio::time::sleep(SETTLE).await;
    drop(paused);
    etcd.etcdctl(&["put", "app/etcdctl", "2"]);
    work().await;
    namespace.set_phase(b"app/", MigrationPhase::Decrypt, SETTLE).await.unwrap();
    let early = namespace.set_phase(b"app/", MigrationPhase::Off, SETTLE).await.unwrap_err();
    assert!(early.to_string().contains("encrypted"), "{early}");
    let converted = namespace.migrate(b"app/", None).await.unwrap();
    assert!(converted.opened >= 100 && converted.failed.is_empty(), "{converted:?}");
    namespace.set_phase(b"app/", MigrationPhase::Off, SETTLE).await.unwrap();
    work().await;
    assert_eq!(encrypted().await.0, 0);

    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 50);
    }
    let acknowledged: Vec<_> = writers.iter().flat_map(|writer| writer.acknowledged()).collect();
    for writer in [one, two, beside] {
        assert!(writer.task.await.unwrap() > 100, "{}", writer.name);
    }
    let mut clients = vec![etcd.client().await];
    for proxy in &proxies {
        clients.push(proxy.client().await);
    }
    for client in &mut clients {
        let found = read(client).await;
        assert_eq!(found["app/etcdctl"], "2");
        for (key, last) in &acknowledged {
            assert!(found[key].parse::<u64>().unwrap() >= *last, "{key} {}", found[key]);
        }
        assert_eq!(found.len(), 101 + 3 * KEYS as usize);
    }
    for proxy in proxies {
        proxy.stop().await;
    }
}

/// Prefixes do not overlap, and what is under none goes on encrypted.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_of_one_prefix() {
    let etcd = Etcd::start(Version::V3_4).await;
    let masters = masters();
    let proxy = Running::start(etcd.settings(), None, masters).await;
    let mut client = proxy.client().await;
    let now = Duration::ZERO;
    let set =
        |prefix: &'static str, phase| proxy.namespace.set_phase(prefix.as_bytes(), phase, now);
    set("/a/", MigrationPhase::Admit).await.unwrap();
    for overlapping in ["", "/", "/a/b", "/a/b/"] {
        let error = set(overlapping, MigrationPhase::AdmitBack).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    client.put("/a/x", "text", None).await.unwrap();
    client.put("/b/x", "text", None).await.unwrap();
    let raw = etcd.etcdctl(&["get", "/a/x", "--print-value-only"]);
    assert_eq!(raw, "text\n");
    assert_eq!(proxy.namespace.survey(b"/b/").await.unwrap().unencrypted, 0);
    // What looks encrypted and is not could not be told apart.
    let refused = client.put("/a/x", b"\0SR".to_vec(), None).await.unwrap_err();
    assert!(refused.to_string().contains("strongroom: "), "{refused}");
    client.put("/b/x", b"\0SR".to_vec(), None).await.unwrap();
    // Encrypted values are there: the way to unencrypted ones is the way back.
    let error = set("/b/", MigrationPhase::Admit).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("admit-back"), "{error:?}");
    proxy.stop().await;
}
