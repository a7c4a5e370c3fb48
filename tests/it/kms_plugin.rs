//! `strongroom kms-plugin`, as Kubernetes' API servers use it.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::end_to_end::run;
use crate::etcd_server::free_ports;
use crate::kms::{Client, Node, field};
use crate::raw::{INVALID_ARGUMENT, UNIMPLEMENTED};
use crate::support::python;

const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
/// What an API server encrypts.
const SEED: [u8; 32] = [7; 32];

fn id(json: &str) -> String {
    serde_json::from_str::<Value>(json).unwrap()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn encrypts_and_decrypts_and_refuses_all_else() {
    let node = Node::new(&[]).await;
    let client = node.client().await;
    let status = client.status().await;
    assert_eq!((&*status.version, &*status.healthz), ("v2", "ok"));
    let (ciphertext, key) = client.encrypt(&SEED).await;
    assert_eq!((ciphertext.len(), &key), (104, &status.key_id));
    assert_eq!(client.decrypt(&ciphertext, &key).await, SEED);
    // Each time another ciphertext: Kubernetes must not see that two seeds are equal.
    assert_ne!(client.encrypt(&SEED).await.0, ciphertext);
    let (longest, _) = client.encrypt(&[1; 920]).await;
    assert!(longest.len() <= 1024);

    let mut changed = ciphertext.clone();
    changed[60] ^= 1;
    client.try_decrypt(&changed, &key).await.assert_refused(INVALID_ARGUMENT, "changed");
    client.try_decrypt(&ciphertext[..50], &key).await.assert_refused(INVALID_ARGUMENT, "short");
    for bad in ["", "1", "Z", &key.to_uppercase(), &format!("{key}1"), &format!("{key}:1")] {
        client.try_decrypt(&ciphertext, bad).await.assert_refused(INVALID_ARGUMENT, bad);
    }
    let request = [field(1, &ciphertext), field(3, key.as_bytes())].concat();
    for (what, method, message) in [
        ("too long", "Encrypt", field(1, &[1; 921])),
        ("empty", "Encrypt", Vec::new()),
        ("unknown field", "Encrypt", [field(1, &SEED), field(3, b"x")].concat()),
        ("twice", "Encrypt", [field(1, &SEED), field(1, &SEED)].concat()),
        ("a number", "Encrypt", vec![0x08, 1]),
        ("torn", "Encrypt", field(1, &SEED)[..9].to_vec()),
        ("an annotation", "Decrypt", [request.clone(), field(4, b"\x0a\x01a")].concat()),
        ("a field", "Status", field(1, b"x")),
    ] {
        client.call(method, &message).await.assert_refused(INVALID_ARGUMENT, what);
    }
    client.call("Rotate", b"").await.assert_refused(UNIMPLEMENTED, "method");
    let old = client.0.call("/v1beta1.KeyManagementService/Encrypt", &field(1, &SEED)).await;
    old.assert_refused(UNIMPLEMENTED, "KMS v1");
    let large = client.call("Encrypt", &vec![0; 30_000]).await;
    assert_eq!(large.status, Some(OUT_OF_RANGE), "{large:?}");
    assert_eq!(client.status().await, status, "none of it made the plugin unhealthy");
}

/// The key of another node: refused, and no reason for the API server to stop writing.
#[tokio::test]
async fn a_key_that_is_not_here_shows_in_readyz_but_not_in_the_status() {
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let node = Node::new(&["--metrics-listen", &address]).await;
    let other = Node::new(&[]).await;
    let (client, elsewhere) = (node.client().await, other.client().await);
    let (ciphertext, key) = elsewhere.encrypt(&SEED).await;
    assert_eq!(client.status().await.healthz, "ok");
    let refused = client.try_decrypt(&ciphertext, &key).await;
    refused.assert_refused(FAILED_PRECONDITION, "unknown key");
    assert_eq!(client.status().await.healthz, "ok");
    let ready = get(&address, "/readyz").await;
    assert!(ready.contains(&format!("key {key} is not on this node")), "{ready}");
    assert!(ready.ends_with("503"), "{ready}");
    let scrape = get(&address, "/metrics").await;
    assert!(scrape.contains("strongroom_kms_unknown_key_requests_total 1"), "{scrape}");
    assert!(scrape.contains("strongroom_kms_healthy 1"), "{scrape}");
    assert!(node.log().contains("kms_decrypt_refused"), "{}", node.log());
    // What it has it still encrypts and decrypts with.
    let (ciphertext, key) = client.encrypt(&SEED).await;
    assert_eq!(client.decrypt(&ciphertext, &key).await, SEED);
}

#[tokio::test]
async fn a_broken_keyring_keeps_the_old_one_in_use() {
    let node = Node::new(&[]).await;
    let client = node.client().await;
    let (ciphertext, key) = client.encrypt(&SEED).await;
    let good = fs::read(node.path("keyring")).unwrap();
    for (broken, mode, reason) in [
        (&b"strongroom-keyring/1\n"[..], 0o600, "no key is primary"),
        (&good[..30], 0o600, "keyring"),
        (&good, 0o644, "open to others"),
    ] {
        fs::write(node.path("keyring"), broken).unwrap();
        fs::set_permissions(node.path("keyring"), Permissions::from_mode(mode)).unwrap();
        let status = client.status().await;
        assert!(status.healthz.contains(reason), "{status:?}");
        assert_eq!(status.key_id, key);
        assert_eq!(client.decrypt(&ciphertext, &key).await, SEED);
        assert_eq!(client.encrypt(&SEED).await.1, key);
    }
    fs::remove_file(node.path("keyring")).unwrap();
    assert!(client.status().await.healthz.contains("No such file"));
    assert_eq!(client.decrypt(&ciphertext, &key).await, SEED);
    crate::place::write_secret(&node.path("keyring"), std::str::from_utf8(&good).unwrap());
    assert_eq!(client.status().await.healthz, "ok");
    let log = node.log();
    assert_eq!(log.matches("kms_keyring_rejected").count(), 4, "{log}");
    assert!(log.contains("chmod 600") && !log.contains("strongroom-keyring/1"), "{log}");
}

/// A rotation over three nodes: every node has the key before any of them uses it, all change at one time, and no `Status`
/// ever goes back. An API server that saw it go back would encrypt everything again and again.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_change_to_a_staged_key_without_a_flip() {
    let first = Node::new(&[]).await;
    let nodes = [Node::beside(&first).await, Node::beside(&first).await];
    let nodes = [&first, &nodes[0], &nodes[1]];
    let clients = [nodes[0].client().await, nodes[1].client().await, nodes[2].client().await];
    let copy = || nodes[1..].iter().for_each(|node| first.copy_to(node));
    let (old, before) = clients[0].encrypt(&SEED).await;

    let staged = id(&first.key(&["key", "rotate", "--staged"]));
    copy();
    let at = jiff::Timestamp::now().as_second() + 3;
    let time = jiff::Timestamp::from_second(at).unwrap().to_string();
    first.key(&["key", "promote", &staged, "--at", &time]);
    copy();
    // Which nodes had which key, asked for in turns.
    let mut seen: Vec<Vec<String>> = vec![Vec::new(); 3];
    let begun = Instant::now();
    while !seen.iter().all(|ids| ids.iter().filter(|id| **id == staged).count() > 20) {
        for (client, ids) in clients.iter().zip(&mut seen) {
            let status = client.status().await;
            assert_eq!(status.healthz, "ok");
            let (ciphertext, key) = client.encrypt(&SEED).await;
            let ahead = key != status.key_id;
            assert!(!ahead || key == staged, "Encrypt went back");
            // The others open it at once.
            for other in &clients {
                assert_eq!(other.decrypt(&ciphertext, &key).await, SEED);
            }
            ids.push(status.key_id);
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for ids in &seen {
        let mut changes = ids.clone();
        changes.dedup();
        assert_eq!(changes, [before.clone(), staged.clone()]);
    }
    for client in &clients {
        assert_eq!(client.decrypt(&old, &before).await, SEED);
    }
    assert!(nodes.iter().all(|node| node.log().matches("kms_key_changed").count() == 1));
}

#[tokio::test]
async fn a_plugin_that_was_killed_starts_again_and_one_that_stops_leaves_no_socket() {
    let mut node = Node::new(&["--metrics-listen", "127.0.0.1:0"]).await;
    let (ciphertext, key) = node.client().await.encrypt(&SEED).await;
    node.end("-KILL");
    assert!(node.path("kms.sock").exists());
    node.start().await;
    let client = node.client().await;
    assert_eq!(client.decrypt(&ciphertext, &key).await, SEED);
    // A second one does not take the socket away.
    let mut second = crate::end_to_end::program();
    second.current_dir(node.dir.path()).args(["kms-plugin", "-k", "file:keyring", "--listen"]);
    let said =
        crate::place::exits(1, second.arg(format!("unix://{}", node.path("kms.sock").display())));
    assert!(said.contains("another process listens"), "{said}");
    assert_eq!(client.status().await.healthz, "ok");
    node.signal("-HUP");
    let begun = Instant::now();
    while !node.log().contains("config_reloaded") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(node.end("-TERM"), "{}", node.log());
    assert!(!node.path("kms.sock").exists() && node.log().contains("stopped"));
    assert!(node.log().find("stopping") < node.log().find("stopped"), "{}", node.log());
}

pub async fn get(address: &str, path: &str) -> String {
    let url = format!("http://{address}{path}");
    let mut curl = tokio::process::Command::new("curl");
    let out = curl.args(["-sS", "-w", "%{http_code}", &url]).output().await.unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_calls_and_tell_health() {
    let port = free_ports(1)[0];
    let address = format!("127.0.0.1:{port}");
    let node = Node::new(&["--metrics-listen", &address, "--log", "json"]).await;
    let client = node.client().await;
    let (ciphertext, key) = client.encrypt(&SEED).await;
    client.decrypt(&ciphertext, &key).await;
    client.status().await;
    client.try_decrypt(&ciphertext[..20], &key).await.assert_refused(INVALID_ARGUMENT, "short");
    let get = async |path: &str| get(&address, path).await;
    let scrape = get("/metrics").await;
    for line in [
        "strongroom_kms_requests_total{method=\"Encrypt\",code=\"OK\"} 1",
        "strongroom_kms_requests_total{method=\"Decrypt\",code=\"OK\"} 1",
        "strongroom_kms_requests_total{method=\"Decrypt\",code=\"INVALID_ARGUMENT\"} 1",
        "strongroom_kms_requests_total{method=\"Status\",code=\"OK\"} 1",
        "strongroom_kms_healthy 1",
    ] {
        assert!(scrape.contains(line), "{line}: {scrape}");
    }
    assert!(scrape.contains("strongroom_kms_last_status_timestamp_seconds 1"), "{scrape}");
    crate::deploy::asked_for_is_there(&scrape, "strongroom_kms_");
    assert_eq!(get("/readyz").await, "ok\n200");
    fs::set_permissions(node.path("keyring"), Permissions::from_mode(0o604)).unwrap();
    let ready = get("/readyz").await;
    assert!(ready.contains("open to others") && ready.ends_with("503"), "{ready}");
    assert!(get("/metrics").await.contains("strongroom_kms_healthy 0"));
    assert!(get("/healthz").await.ends_with("200"));
}

/// gRPC's own client and protobuf's own codec, with the messages as Kubernetes' `api.proto` declares them.
#[tokio::test]
async fn grpcs_own_client_is_served() {
    let node = Node::new(&[]).await;
    let mut script = python();
    script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/kmsv2.py"));
    let said = run(script.arg(node.path("kms.sock")));
    assert_eq!(said, "ok\n");
}

/// As many at once as API servers never ask for.
#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_are_answered() {
    let node = Node::new(&[]).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = std::sync::Arc::new(Client::connect(&node.path("kms.sock")).await);
        for _ in 0..50 {
            let client = std::sync::Arc::clone(&client);
            calls.spawn(async move {
                let (ciphertext, key) = client.encrypt(&SEED).await;
                assert_eq!(client.decrypt(&ciphertext, &key).await, SEED);
                ciphertext
            });
        }
    }
    let ciphertexts: BTreeSet<_> = calls.join_all().await.into_iter().collect();
    assert_eq!(ciphertexts.len(), 400);
}
