//! Writes whose answer is in the way: too large, late, or near etcd's limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, Error, Txn, TxnOp};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::behind::Behind;
use crate::etcd_server::{Etcd, Version};
use crate::proxy_gate::{Program, init, keyring};
use crate::raw::{
    Answer, Node, Raw, bytes, bytes_of, choice, decode, encode, many, message, number, number_of,
};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";

fn unreadable(answer: &Answer) -> String {
    let header = answer.headers.get("strongroom-unreadable-keys");
    header.map_or(String::new(), |keys| keys.to_str().unwrap().into())
}

/// `prev_kvs` and `responses`, and the like.
fn all(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    decode(message).into_iter().filter(|(at, ..)| *at == field).map(|(.., bytes)| bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_does_not_fit_is_answered_all_the_same() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    init(etcd.endpoint(), &key, "/strongroom/");
    let args = ["-k", &key, "--endpoints", etcd.endpoint(), "--max-memory", "16"];
    let proxy = Program::start(&args);
    let raw = Raw::connect(&proxy.address).await;
    let fill = || async {
        for at in 0..7 {
            let put = encode(&[bytes(1, format!("l/{at}")), bytes(2, vec![7; 1 << 20])]);
            raw.call(PUT, &put).await.assert_ok("put");
        }
    };
    let range = [bytes(1, "l/"), bytes(2, "l0"), number(3, 1)];
    let names = "l/0,l/1,l/2,l/3,l/4,l/5,l/6";

    fill().await;
    let answer = raw.call(DELETE, &encode(&range)).await;
    let deleted = answer.assert_ok("delete").to_vec();
    assert_eq!((number_of(&deleted, 2), unreadable(&answer)), (7, names.into()));
    let kvs = all(&deleted, 3);
    let keys: Vec<_> = kvs.iter().map(|kv| bytes_of(kv, 1)).collect();
    assert_eq!(keys.join(&b","[..]), names.as_bytes());
    assert!(kvs.iter().all(|kv| bytes_of(kv, 5).is_empty() && number_of(kv, 4) > 0));

    fill().await;
    let put = message(2, [bytes(1, "m"), bytes(2, "v")]);
    let txn = encode(&[many(2, [message(3, range)]), many(2, [put])]);
    let answer = raw.call(TXN, &txn).await;
    let done = answer.assert_ok("transaction").to_vec();
    assert_eq!((number_of(&done, 2), unreadable(&answer)), (1, names.into()));
    let ops = all(&done, 3);
    assert_eq!((ops.len(), number_of(&bytes_of(&ops[0], 3), 2)), (2, 7));

    // A read has no effect, and says that it does not fit.
    fill().await;
    let read = [bytes(1, "l/"), bytes(2, "l0")];
    raw.call(RANGE, &encode(&read)).await.assert_refused(8, "list");
}

/// A connection to etcd on which nothing arrives while `stalled`.
async fn relay(to: String, stalled: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let copy = |mut from: tokio::net::tcp::OwnedReadHalf,
                mut to: tokio::net::tcp::OwnedWriteHalf,
                stalled: Arc<AtomicBool>| async move {
        let mut piece = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            while stalled.load(Ordering::Acquire) {
                sleep(Duration::from_millis(20)).await;
            }
            if to.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let Ok(etcd) = TcpStream::connect(&to).await else { continue };
            let ((a, b), (c, d)) = (client.into_split(), etcd.into_split());
            tokio::spawn(copy(a, d, Arc::clone(&stalled)));
            tokio::spawn(copy(c, b, Arc::clone(&stalled)));
        }
    });
    address
}

/// Others count on it that nothing is written as before a change of the keyring, 10 s after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_given_up_before_others_count_on_it() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let stalled = Arc::new(AtomicBool::new(false));
    let to = etcd.endpoint().trim_start_matches("http://").to_owned();
    let address = relay(to, Arc::clone(&stalled)).await;
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    init(etcd.endpoint(), &key, "/strongroom/");
    let endpoint = format!("http://{address}");
    let proxy = Program::start(&["-k", &key, "--endpoints", &endpoint, "--exclude", "plain/"]);
    let mut client = Client::connect([&proxy.address], None).await.unwrap();
    client.put("a", "v", None).await.unwrap();
    stalled.store(true, Ordering::Release);
    let limit = Duration::from_secs(14);
    let (mut second, mut third) = (client.clone(), client.clone());
    let (put, txn, excluded) = tokio::join!(
        timeout(limit, client.put("a", "w", None)),
        timeout(limit, second.txn(Txn::new().and_then([TxnOp::put("b", "v", None)]))),
        // Its value is never encrypted, whatever the keyring says.
        timeout(limit, third.put("plain/a", "v", None)),
    );
    let errors = [put.map(Result::err), txn.map(Result::err)];
    for (error, what) in errors.into_iter().zip(["put", "transaction"]) {
        match error.unwrap_or_else(|_| panic!("{what}: it may still happen")) {
            Some(Error::GRpcStatus(status)) => {
                assert_eq!(status.code() as i32, 14, "{what}: {status}");
                assert_eq!(status.message(), "etcdserver: request timed out", "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    assert!(excluded.is_err(), "{excluded:?}");
}

/// A comparison of the value of `key`, which is not there, with `v`.
fn compare(key: &str) -> Node {
    many(1, [choice(1, 3), choice(2, 3), bytes(3, key), bytes(7, "v")])
}

fn puts(field: u64, count: usize, name: &str) -> Vec<Node> {
    let put = |at| many(field, [message(2, [bytes(1, format!("{name}/{at}")), bytes(2, "v")])]);
    (0..count).map(put).collect()
}

/// etcd counts comparisons and operations, and in transactions within transactions those around them.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_near_etcds_limits_are_answered_as_etcd_answers_them() {
    let (behind, proxy) = tokio::task::spawn_blocking(|| {
        let behind = Behind::start(Version::NEWEST);
        let proxy = behind.proxy(&[]);
        (behind, proxy)
    })
    .await
    .unwrap();
    let other = Etcd::start(Version::NEWEST).await;
    let direct = Raw::connect(other.endpoint().trim_start_matches("http://")).await;
    let through = Raw::connect(&proxy.address).await;
    let compares = |count: usize, name: &str| -> Vec<Node> {
        (0..count).map(|at| compare(&format!("{name}/{at}"))).collect()
    };
    let ranges = |count: usize| -> Vec<Node> {
        let range = |at| {
            let (key, end) = (format!("r/{at}/"), format!("r/{at}0"));
            many(1, [choice(1, 3), choice(2, 3), bytes(3, key), bytes(7, "w"), bytes(64, end)])
        };
        (0..count).map(range).collect()
    };
    let nested =
        |field: u64, inner: &[Node]| -> Node { bytes(field, encode(&[bytes(4, encode(inner))])) };
    for raw in [&direct, &through] {
        for at in 0..130 {
            let put = encode(&[bytes(1, format!("r/{at}/x")), bytes(2, "v")]);
            raw.call(PUT, &put).await.assert_ok("put");
            let put = encode(&[bytes(1, format!("here/{at}")), bytes(2, "w")]);
            raw.call(PUT, &put).await.assert_ok("put");
        }
    }
    let mut cases: Vec<(String, Vec<Node>)> = Vec::new();
    for count in [127, 128, 129] {
        cases.push((format!("{count} comparisons"), compares(count, "none")));
        cases.push((format!("{count} comparisons of keys"), compares(count, "here")));
        cases.push((
            format!("{count} operations"),
            [compares(1, "here"), puts(2, count, "s")].concat(),
        ));
        cases.push((
            format!("{count} operations not chosen"),
            [compares(1, "none"), puts(2, count, "s")].concat(),
        ));
    }
    for (success, failure) in [(64, 64), (64, 65), (100, 100), (128, 1), (1, 128), (128, 128)] {
        let branches = [compares(1, "here"), puts(2, success, "s"), puts(3, failure, "f")].concat();
        cases.push((format!("{success} and {failure} operations"), branches));
    }
    for count in [42, 43, 63, 64] {
        cases.push((format!("{count} comparisons of ranges"), ranges(count)));
    }
    for (outer, inner) in [(1, 126), (1, 127), (1, 128), (64, 63), (64, 64), (64, 65), (100, 29)] {
        let within = [compares(inner, "here"), puts(2, 1, "in"), puts(3, 1, "out")].concat();
        for field in [2, 3] {
            let mut txn = compares(outer, "here");
            txn.push(nested(field, &within));
            cases.push((format!("{inner} comparisons within {outer}, field {field}"), txn));
        }
    }
    let mut different = Vec::new();
    for (what, txn) in cases {
        let txn = encode(&txn);
        let (expected, got) = (direct.call(TXN, &txn).await, through.call(TXN, &txn).await);
        let said = |answer: &Answer| {
            let succeeded = number_of(answer.first(), 2);
            (answer.status, answer.message.clone(), succeeded, all(answer.first(), 3).len())
        };
        if said(&expected) != said(&got) {
            different.push(format!("{what}: {:?}, etcd: {:?}", said(&got), said(&expected)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    drop(behind);
}
