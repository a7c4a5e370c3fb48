//! `strongroom kms-plugin` with a key that a service keeps: each kind of service, and what happens when the service is down,
//! refuses, rotates its key or answers wrong.

use std::fs;
use std::time::{Duration, Instant};

use data_encoding::{BASE64_NOPAD as BASE64, HEXLOWER};
use serde_json::{Value, json};
use strongroom::format::KmsV2Blob;
use strongroom::keys::kms_key_id;

use crate::aws_kms::Kms;
use crate::etcd_server::free_ports;
use crate::kms::{Client, Encrypted, Node, Status, Variables, field, fields};
use crate::kms_fault::{Fault, Plugin};
use crate::kms_plugin::get;
use crate::pkcs11::Token;
use crate::place::exits;
use crate::raw::INVALID_ARGUMENT;
use crate::support::vector;
use crate::transit_double::{TOKEN, Transit};

const FAILED_PRECONDITION: i32 = 9;
const UNAVAILABLE: i32 = 14;
/// What an API server encrypts.
const SEED: [u8; 32] = [7; 32];

fn vault() -> Variables {
    vec![("VAULT_TOKEN", TOKEN.into())]
}

/// Asks for the status until it is as wanted: a service that failed is not asked again for ten seconds.
async fn until(client: &Client, wanted: impl Fn(&Status) -> bool) -> Status {
    let begun = Instant::now();
    loop {
        let status = client.status().await;
        if wanted(&status) {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(25), "{status:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn is_ok(status: &Status) -> bool {
    status.healthz == "ok"
}

/// Two nodes with one key of a service: each decrypts what the other encrypted, also after a start.
async fn encrypts(key: &str, variables: &Variables, key_id: &str) {
    let mut node = Node::of_service(key, variables, &[]).await;
    let other = Node::of_service(key, variables, &[]).await;
    let (client, elsewhere) = (node.client().await, other.client().await);
    let status = client.status().await;
    assert_eq!((&*status.version, &*status.healthz, &*status.key_id), ("v2", "ok", key_id));
    let encrypted = client.encrypt_annotated(&SEED).await;
    assert_eq!((encrypted.ciphertext.len(), &*encrypted.key_id), (104, key_id));
    let name = b"kek.strongroom.dev";
    assert_eq!(&encrypted.annotation[2..][..name.len()], name);
    assert!(!encrypted.annotation.windows(32).any(|part| part == SEED));
    assert_eq!(client.decrypt_annotated(&encrypted).await, SEED);
    assert_eq!(elsewhere.decrypt_annotated(&encrypted).await, SEED);
    // Each has a KEK of its own, which it uses again.
    let again = client.encrypt_annotated(&SEED).await;
    assert_eq!(again.annotation, encrypted.annotation);
    assert_ne!(again.ciphertext, encrypted.ciphertext);
    let theirs = elsewhere.encrypt_annotated(&SEED).await;
    assert_ne!(theirs.annotation, encrypted.annotation);
    assert!(node.end("-TERM"), "{}", node.log());
    node.start().await;
    let client = node.client().await;
    for encrypted in [encrypted, again, theirs] {
        assert_eq!(client.decrypt_annotated(&encrypted).await, SEED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypts_with_a_key_of_each_kind_of_service() {
    let id = |provider: &str, name: &str| kms_key_id(provider, name).to_string();
    let transit = Transit::start().await;
    let key_id = id("transit", "each") + ":v1";
    encrypts(&transit.uri("each"), &vault(), &key_id).await;
    let plugin = Plugin::start();
    let key_id = id("kmsv2", &plugin.name) + ":key-1";
    encrypts(&plugin.uri(), &Vec::new(), &key_id).await;
    // A plugin of this project behind a plugin of this project.
    let keyring = Node::new(&[]).await;
    let key = format!("kmsv2:own@unix://{}", keyring.path("kms.sock").display());
    let key_id = id("kmsv2", "own") + ":" + &keyring.client().await.status().await.key_id;
    encrypts(&key, &Vec::new(), &key_id).await;
    let token = Token::with_key(9);
    let variables = vec![("SOFTHSM2_CONF", token.path("softhsm2.conf"))];
    let key_id = id("pkcs11", "object=backups;token=vault");
    encrypts(&token.uri("backups"), &variables, &key_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypts_with_a_key_of_aws() {
    let kms = Kms::new();
    let uri = kms.uri();
    let arn = uri.trim_start_matches("aws-kms:").split('?').next().unwrap();
    encrypts(&uri, &kms.variables(), &kms_key_id("aws-kms", arn).to_string()).await;
}

/// The status says so at once, what is in memory is decrypted, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_service_is_down_the_status_says_so() {
    let transit = Transit::start().await;
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let (key, variables) = (transit.uri("down"), vault());
    let node = Node::of_service(&key, &variables, &["--metrics-listen", &address]).await;
    let client = node.client().await;
    let good = client.status().await;
    let encrypted = client.encrypt_annotated(&SEED).await;
    let theirs = {
        let other = Node::of_service(&key, &variables, &[]).await;
        other.client().await.encrypt_annotated(&SEED).await
    };
    assert!(get(&address, "/metrics").await.contains("strongroom_kms_healthy 1"));
    transit.fault(Some((503, "Vault is sealed")));
    let status = client.status().await;
    assert!(status.healthz.contains("Vault is sealed"), "{status:?}");
    assert_eq!(status.key_id, "", "with one, the API server would write on");
    let ready = get(&address, "/readyz").await;
    assert!(ready.contains("Vault is sealed") && ready.ends_with("503"), "{ready}");
    let scrape = get(&address, "/metrics").await;
    assert!(scrape.contains("strongroom_kms_healthy 0"), "{scrape}");
    assert!(!scrape.contains("strongroom_kms_key_age_seconds"), "it is unknown: {scrape}");
    assert_eq!(client.decrypt_annotated(&encrypted).await, SEED);
    client.try_decrypt_annotated(&theirs).await.assert_refused(UNAVAILABLE, "not in memory");
    // One that starts meanwhile waits for the service.
    let late = Node::of_service(&key, &variables, &[]).await;
    let starting = late.client().await;
    let status = starting.status().await;
    assert!(!is_ok(&status) && status.key_id.is_empty(), "{status:?}");
    let refused = starting.call("Encrypt", &field(1, &SEED)).await;
    refused.assert_refused(UNAVAILABLE, "without a key");
    transit.fault(None);
    for client in [&client, &starting] {
        assert_eq!(until(client, is_ok).await, good);
        assert_eq!(client.decrypt_annotated(&theirs).await, SEED);
    }
    starting.encrypt_annotated(&SEED).await;
    let log = node.log();
    assert_eq!(log.matches("kms_service_unavailable").count(), 1, "{log}");
    assert_eq!(log.matches("kms_service_available").count(), 1, "{log}");
    assert!(!log.contains(TOKEN), "{log}");
}

/// A service that takes the key away takes away what was decrypted with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_refused_decrypts_nothing() {
    let transit = Transit::start().await;
    let node = Node::of_service(&transit.uri("refused"), &vault(), &[]).await;
    let client = node.client().await;
    let encrypted = client.encrypt_annotated(&SEED).await;
    transit.fault(Some((403, "permission denied")));
    assert!(client.status().await.healthz.contains("permission denied"));
    let refused = client.try_decrypt_annotated(&encrypted).await;
    refused.assert_refused(FAILED_PRECONDITION, "disabled");
    let refused = client.call("Encrypt", &field(1, &SEED)).await;
    refused.assert_refused(UNAVAILABLE, "disabled");
    // Nor does it start.
    let mut command = crate::end_to_end::program();
    let listen = format!("unix://{}", node.path("other.sock").display());
    command.envs(vault()).args(["kms-plugin", "-k", &transit.uri("refused"), "--listen", &listen]);
    assert!(exits(12, &mut command).contains("permission denied"));
    transit.fault(None);
    assert!(is_ok(&client.status().await));
    assert_eq!(client.decrypt_annotated(&encrypted).await, SEED);
    client.encrypt_annotated(&SEED).await;
}

/// One that does not answer is given up before the API server gives up the plugin.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_answers_is_reported_in_time() {
    let plugin = Plugin::start();
    let node = Node::of_service(&plugin.uri(), &[], &[]).await;
    let client = node.client().await;
    plugin.fault(Fault::Silent);
    let asked = Instant::now();
    let status = client.status().await;
    assert!(status.healthz.contains("no answer within 2 s"), "{status:?}");
    assert!(asked.elapsed() < Duration::from_secs(3), "the API server waits for no longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_at_the_service_is_a_new_key_id() {
    let transit = Transit::start().await;
    let (key, variables) = (transit.uri("rotated"), vault());
    let mut node = Node::of_service(&key, &variables, &[]).await;
    let other = Node::of_service(&key, &variables, &[]).await;
    let (client, elsewhere) = (node.client().await, other.client().await);
    let first = client.encrypt_annotated(&SEED).await;
    transit.rotate();
    // Each node changes when it is asked, and what either encrypted decrypts on both.
    let status = client.status().await;
    assert_eq!(status.key_id, first.key_id.replace(":v1", ":v2"));
    let second = client.encrypt_annotated(&SEED).await;
    assert_eq!(second.key_id, status.key_id);
    assert_ne!(second.annotation, first.annotation);
    for encrypted in [&first, &second] {
        assert_eq!(elsewhere.decrypt_annotated(encrypted).await, SEED);
    }
    assert_eq!(elsewhere.status().await.key_id, status.key_id);
    assert_eq!(node.log().matches("kms_key_changed").count(), 1, "{}", node.log());
    // A service that goes back: the id does not, as Kubernetes demands.
    transit.go_back();
    let back = client.status().await;
    assert!(back.healthz.contains("went back to its key"), "{back:?}");
    assert_eq!(back.key_id, "");
    assert_eq!(client.encrypt_annotated(&SEED).await.key_id, status.key_id);
    transit.rotate();
    assert_eq!(client.status().await, status);
    // Versions that the service gives up are gone with the memory of this process.
    transit.trim();
    assert!(node.end("-TERM"));
    node.start().await;
    let client = node.client().await;
    let gone = client.try_decrypt_annotated(&first).await;
    gone.assert_refused(FAILED_PRECONDITION, "given up");
    assert_eq!(client.decrypt_annotated(&second).await, SEED);
}

/// A service that was restored, or whose key was made again under the same name: it does not open what it sealed for this process,
/// so nothing more is encrypted with that, and what there is decrypts until it is written again.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_same_name_with_other_material() {
    let transit = Transit::start().await;
    let node = Node::of_service(&transit.uri("lost"), &vault(), &[]).await;
    let client = node.client().await;
    let encrypted = client.encrypt_annotated(&SEED).await;
    assert!(is_ok(&client.status().await));
    transit.forget();
    let status = client.status().await;
    assert!(status.healthz.contains("does not open what it has sealed"), "{status:?}");
    assert_eq!(status.key_id, "");
    assert_eq!(client.decrypt_annotated(&encrypted).await, SEED);
    transit.rotate();
    let status = client.status().await;
    assert!(is_ok(&status), "{status:?}");
    assert_eq!(status.key_id, encrypted.key_id.replace(":v1", ":v2"));
    assert_eq!(client.decrypt_annotated(&encrypted).await, SEED);
    assert_eq!(client.encrypt_annotated(&SEED).await.key_id, status.key_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_or_the_store_answers_wrong_is_refused() {
    let transit = Transit::start().await;
    let key = transit.uri("wrong");
    let node = Node::of_service(&key, &vault(), &[]).await;
    let client = node.client().await;
    let good = client.encrypt_annotated(&SEED).await;
    let other = Node::of_service(&transit.uri("another"), &vault(), &[]).await;
    let theirs = other.client().await.encrypt_annotated(&SEED).await;
    let changed = |change: &dyn Fn(&mut Encrypted)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let refused = [
        ("text", INVALID_ARGUMENT, changed(&|it| it.ciphertext[60] ^= 1)),
        ("no annotation", INVALID_ARGUMENT, changed(&|it| it.annotation.clear())),
        ("name", INVALID_ARGUMENT, changed(&|it| it.annotation[3] ^= 1)),
        ("cut", INVALID_ARGUMENT, changed(&|it| it.annotation.truncate(40))),
        ("version", INVALID_ARGUMENT, changed(&|it| it.key_id = it.key_id.replace(":v1", ":v2"))),
        ("no version", INVALID_ARGUMENT, changed(&|it| it.key_id.truncate(32))),
        ("KEK", INVALID_ARGUMENT, changed(&|it| it.annotation.clone_from(&theirs.annotation))),
        ("another key", FAILED_PRECONDITION, theirs.clone()),
    ];
    for (what, code, encrypted) in refused {
        client.try_decrypt_annotated(&encrypted).await.assert_refused(code, what);
    }
    assert!(is_ok(&client.status().await), "none of it made the plugin unhealthy");
    // A service that opens to something else encrypts nothing.
    transit.plaintext(Some(vec![9; 32]));
    let status = client.status().await;
    assert!(status.healthz.contains("does not open what it has sealed"), "{status:?}");
    let mut command = crate::end_to_end::program();
    let listen = format!("unix://{}", node.path("other.sock").display());
    command.envs(vault()).args(["kms-plugin", "-k", &key, "--listen", &listen]);
    assert!(exits(13, &mut command).contains("does not open"));
    transit.plaintext(None);
    assert!(is_ok(&client.status().await));
    // Keys that cannot be the plugin's.
    for bad in ["recipient:@recipients", "passphrase", &format!("{key}?seal-only")] {
        let mut command = crate::end_to_end::program();
        command.args(["kms-plugin", "-k", bad, "--listen", &listen]);
        assert!(exits(2, command.envs(vault())).contains("exactly one key"), "{bad}");
    }
}

/// [S12.6]: what a released version encrypted must decrypt permanently, here and by a reader written from SPEC.md alone.
#[tokio::test(flavor = "multi_thread")]
async fn golden_ciphertexts_of_a_service_decrypt() {
    let vectors: Value =
        serde_json::from_slice(&fs::read(vector("kms-service.json")).unwrap()).unwrap();
    let plugin = Plugin::answering(&vectors["plugin"]);
    let node = Node::of_service(&plugin.uri(), &[], &[]).await;
    let client = node.client().await;
    let bytes = |value: &Value| BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
    for case in vectors["cases"].as_array().unwrap() {
        let annotation = [field(1, b"kek.strongroom.dev"), field(2, &bytes(&case["annotation"]))];
        let encrypted = Encrypted {
            ciphertext: bytes(&case["ciphertext"]),
            key_id: case["key_id"].as_str().unwrap().into(),
            annotation: annotation.concat(),
        };
        match case["class"].as_str().unwrap() {
            "ok" => {
                assert_eq!(client.decrypt_annotated(&encrypted).await, bytes(&case["text"]));
            }
            class => {
                let refused = client.try_decrypt_annotated(&encrypted).await;
                refused.assert_refused(INVALID_ARGUMENT, class);
            }
        }
    }
    let mut reader = crate::support::python();
    let out = reader.arg(vector("open_kms.py")).arg("--vectors").arg(vector("kms-service.json"));
    let out = crate::end_to_end::run(out);
    assert!(out.contains(" 0 failed"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes vectors"]
async fn write_missing_kms_service_vectors() {
    if vector("kms-service.json").exists() {
        return;
    }
    let plugin = Plugin::named("golden".into());
    let mut cases = Vec::new();
    let mut add = |name: &str, encrypted: &Encrypted, class: &str, text: Option<&[u8]>| {
        let [_, sealed] = fields(&encrypted.annotation);
        let blob = KmsV2Blob::parse(&sealed[1..]).unwrap();
        let answers = plugin.answers();
        let of_blob = |answer: &&Value| answer["ciphertext"] == HEXLOWER.encode(&blob.ciphertext);
        let answer = answers["answers"].as_array().unwrap().iter().find(of_blob).unwrap().clone();
        let kek = HEXLOWER.decode(answer["plaintext"].as_str().unwrap().as_bytes()).unwrap();
        let mut case = json!({
            "name": name, "key_id": encrypted.key_id, "annotation": BASE64.encode(&sealed),
            "kek": BASE64.encode(&kek), "ciphertext": BASE64.encode(&encrypted.ciphertext), "class": class,
        });
        if let Some(text) = text {
            case["text"] = BASE64.encode(text).into();
        }
        cases.push(case);
    };
    let node = Node::of_service(&plugin.uri(), &[], &[]).await;
    let client = node.client().await;
    let good = client.encrypt_annotated(&SEED).await;
    add("a seed", &good, "ok", Some(&SEED));
    let mut other = good.clone();
    other.key_id = other.key_id.replace("key-1", "key-2");
    add("another key id", &other, "usage", None);
    let mut changed = good.clone();
    changed.ciphertext[60] ^= 1;
    add("text changed", &changed, "tampered", None);
    plugin.set(|state| state.key_id = "arn:aws:kms:eu-west-1:1:key/2".into());
    client.status().await;
    add("a key id with colons", &client.encrypt_annotated(b"x").await, "ok", Some(b"x"));
    plugin.set(|state| state.key_id = "a key with spaces".into());
    client.status().await;
    add("a hashed key id", &client.encrypt_annotated(&[9; 920]).await, "ok", Some(&[9; 920]));
    let vectors = json!({"plugin": plugin.answers(), "cases": cases});
    let text = serde_json::to_string_pretty(&vectors).unwrap() + "\n";
    fs::write(vector("kms-service.json"), text).unwrap();
}
