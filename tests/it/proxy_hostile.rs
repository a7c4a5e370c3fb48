//! What must not pass, and what must not tire the proxy.

use std::time::Duration;

use etcd_client::{Client, GetOptions, WatchOptions};
use strongroom::format::MigrationPhase;
use strongroom::values::DEFAULT_PREFIX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::etcd_server::{Etcd, Version};
use crate::proxied::{Running, masters};

async fn started() -> (Etcd, Running, Client, Client) {
    let etcd = Etcd::start(Version::NEWEST).await;
    let proxy = Running::start(etcd.settings(), None, masters()).await;
    let (behind, client) = (etcd.client().await, proxy.client().await);
    (etcd, proxy, behind, client)
}

fn code(error: &etcd_client::Error) -> (i32, String) {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            (status.code() as i32, status.message().to_owned())
        }
        other => panic!("{other:?}"),
    }
}

const DATA_LOSS: i32 = 15;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;

async fn fails_to_open(client: &mut Client, key: &str) -> String {
    let (code, message) = code(&client.get(key, None).await.unwrap_err());
    assert_eq!(code, DATA_LOSS, "{message}");
    assert!(message.contains(key), "{message}");
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tampered_with_is_an_error() {
    let (_etcd, _proxy, mut behind, mut client) = started().await;
    client.put("a", "for a alone", None).await.unwrap();
    let stored = behind.get("a", None).await.unwrap().kvs()[0].value().to_vec();
    // Moved to another key, changed, cut, our magic and nothing else, in clear.
    behind.put("b", stored.clone(), None).await.unwrap();
    let mut flipped = stored.clone();
    *flipped.last_mut().unwrap() ^= 1;
    behind.put("c", flipped, None).await.unwrap();
    behind.put("d", &stored[..stored.len() - 20], None).await.unwrap();
    behind.put("e", &stored[..4], None).await.unwrap();
    behind.put("f", "in clear", None).await.unwrap();
    for key in ["b", "c", "d", "e", "f"] {
        fails_to_open(&mut client, key).await;
    }
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap_err();
    assert_eq!(code(&all).0, DATA_LOSS);
    assert_eq!(client.get("a", None).await.unwrap().kvs()[0].value(), b"for a alone");
    let keys = GetOptions::new().with_all_keys().with_keys_only();
    assert_eq!(client.get("", Some(keys)).await.unwrap().kvs().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_namespace_does_not_open() {
    let masters = masters();
    let (one, other) = (Etcd::start(Version::NEWEST).await, Etcd::start(Version::NEWEST).await);
    let first = Running::start(one.settings(), None, masters.clone()).await;
    let second = Running::start(other.settings(), None, masters).await;
    first.client().await.put("a", "secret", None).await.unwrap();
    let stored = one.client().await.get("a", None).await.unwrap().kvs()[0].value().to_vec();
    other.client().await.put("a", stored, None).await.unwrap();
    fails_to_open(&mut second.client().await, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_on_it_ends_with_the_reason_and_others_go_on() {
    let (_etcd, _proxy, mut behind, mut client) = started().await;
    let mut watches = client.watch_client();
    let mut stream = watches.watch("bad", None).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    stream.watch("good", Some(WatchOptions::new().with_watch_id(7))).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    behind.put("bad", "in clear", None).await.unwrap();
    let ended = stream.message().await.unwrap().unwrap();
    assert!(ended.canceled() && ended.events().is_empty(), "{ended:?}");
    assert!(ended.cancel_reason().contains("bad"), "{ended:?}");
    behind.put("bad", "again", None).await.unwrap();
    client.put("good", "value", None).await.unwrap();
    let event = stream.message().await.unwrap().unwrap();
    assert_eq!(event.watch_id(), 7);
    assert_eq!(event.events()[0].kv().unwrap().value(), b"value");
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_keys_are_nobodys() {
    let (_etcd, proxy, mut behind, mut client) = started().await;
    let keyring = format!("{DEFAULT_PREFIX}keyring");
    assert!(client.get(&*keyring, None).await.unwrap().kvs().is_empty());
    for denied in [
        client.put(&*keyring, "", None).await.unwrap_err(),
        client.delete(&*keyring, None).await.unwrap_err(),
        client.lock(keyring.trim_end_matches("keyring"), None).await.err().unwrap(),
        // The lock's key would be below its name.
        client.lock(DEFAULT_PREFIX.trim_end_matches('/'), None).await.err().unwrap(),
        client.campaign(&*keyring, "me", 1).await.err().unwrap(),
    ] {
        assert_eq!(code(&denied).0, PERMISSION_DENIED, "{denied:?}");
    }
    let mut stream =
        client.watch(DEFAULT_PREFIX, Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    proxy.namespace.set_phase(b"x", MigrationPhase::AdmitBack, Duration::ZERO).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
    assert!(silent.is_err(), "{silent:?}");
    assert_eq!(behind.get(keyring, None).await.unwrap().kvs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_the_largest_size() {
    let (_etcd, _proxy, _behind, mut client) = started().await;
    let value = vec![7_u8; 1_572_000];
    client.put("large", value.clone(), None).await.unwrap();
    assert_eq!(client.get("large", None).await.unwrap().kvs()[0].value(), value);
    // etcd's own refusal, and the proxy's in the words of etcd's.
    let (_, message) = code(&client.put("large", vec![7_u8; 1_600_000], None).await.unwrap_err());
    assert_eq!(message, "etcdserver: request is too large");
    let (refused, message) =
        code(&client.put("large", vec![7_u8; 3 << 20], None).await.unwrap_err());
    assert_eq!(refused, RESOURCE_EXHAUSTED, "{message}");
    assert!(message.starts_with("grpc: received message larger than max"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watches_on_one_connection() {
    let (_etcd, _proxy, _behind, mut client) = started().await;
    let mut stream = client.watch("w/00000", None).await.unwrap();
    for at in 1..10_000 {
        stream.watch(format!("w/{at:05}"), None).await.unwrap();
        if at % 100 == 0 {
            for _ in 0..100 {
                assert!(stream.message().await.unwrap().unwrap().created());
            }
        }
    }
    for _ in 0..100 {
        assert!(stream.message().await.unwrap().unwrap().created());
    }
    client.put("w/00000", "first", None).await.unwrap();
    client.put("w/09999", "last", None).await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    let last = stream.message().await.unwrap().unwrap();
    assert_eq!(first.events()[0].kv().unwrap().value(), b"first");
    assert_eq!(last.events()[0].kv().unwrap().value(), b"last");
}

/// A client that asks for much and never reads holds up itself alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads() {
    let (_etcd, _proxy, _behind, mut client) = started().await;
    let idle = client.watch("busy", Some(WatchOptions::new().with_prefix())).await.unwrap();
    let mut other = _proxy.client().await;
    let value = vec![1_u8; 1 << 20];
    for at in 0..64 {
        let put = other.put(format!("busy/{at}"), value.clone(), None);
        tokio::time::timeout(Duration::from_secs(20), put).await.unwrap().unwrap();
    }
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_grpc() {
    let (_etcd, proxy, _behind, mut client) = started().await;
    let address = proxy.endpoint.trim_start_matches("http://");
    for bytes in [
        &b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff",
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut [0; 64])).await;
    }
    client.put("still", "here", None).await.unwrap();
}
