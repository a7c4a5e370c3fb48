//! Value keyrings under the key of a service: in a program with the library, through the proxy, and while the service is down.

use std::sync::Arc;

use etcd_client::Client;
use strongroom::custody::{self, MasterKeyUri};
use strongroom::values::{DEFAULT_PREFIX, Namespace, Scope, Shim};
use strongroom::{ErrorKind, crypto};

use crate::etcd_server::{Etcd, Version};
use crate::kms_fault::{Fault, Plugin};
use crate::proxied::NOW;
use crate::proxy_gate::{get, init, output};
use crate::proxy_start::Started;

const PREFIX: &[u8] = DEFAULT_PREFIX.as_bytes();

async fn masters(plugin: &Plugin) -> Arc<strongroom::keys::KeySet> {
    let uri: MasterKeyUri = plugin.uri().parse().unwrap();
    Arc::new(custody::open(&[uri], None).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_reads_and_writes_on_while_the_service_is_down() {
    let (etcd, mut plugin) = (Etcd::start(Version::NEWEST).await, Plugin::start());
    let masters = masters(&plugin).await;
    let namespace =
        Namespace::init(etcd.client().await, PREFIX, Arc::clone(&masters), NOW).await.unwrap();
    let shim = Shim::new(etcd.settings().balanced().unwrap(), namespace.clone(), Scope::default());
    let mut client = shim.client(None).await.unwrap();
    client.put("/app/one", "secret", None).await.unwrap();
    let stored = etcd.client().await.get("/app/one", None).await.unwrap();
    assert_ne!(stored.kvs()[0].value(), b"secret");
    let calls = (plugin.calls("Encrypt"), plugin.calls("Decrypt"));
    assert_eq!(calls, (1, 1), "values are encrypted here: the service opens the keyring once");
    plugin.stop();
    client.put("/app/two", "also", None).await.unwrap();
    for (key, value) in [("/app/one", "secret"), ("/app/two", "also")] {
        assert_eq!(client.get(key, None).await.unwrap().kvs()[0].value(), value.as_bytes());
    }
    // A change of the keyring needs the service, is refused with its name, and changes nothing.
    let error = namespace.rotate(NOW, std::time::Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains(&plugin.name), "{error}");
    assert!(namespace.writable().is_ok());
    // One that starts now has no keys.
    let another = strongroom::keys::KeySet::default();
    let error =
        Namespace::open(etcd.client().await, PREFIX, Arc::new(another)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    plugin.listen();
    assert_eq!(calls.1, plugin.calls("Decrypt"));
}

/// What the service answers wrong, or refuses, opens nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_opens_with_what_the_service_sealed_only() {
    let (etcd, plugin) = (Etcd::start(Version::NEWEST).await, Plugin::start());
    init(etcd.endpoint(), &plugin.uri(), "/strongroom/");
    let status =
        || output(&["value", "status", "-k", &plugin.uri(), "--endpoints", etcd.endpoint()]);
    for (fault, code, said) in [
        (Fault::Plaintext(32), 13, "another key's plaintext"),
        (Fault::Code(7, "access denied"), 12, "access denied"),
        (Fault::Unhealthy("the HSM is locked"), 4, "the HSM is locked"),
        (Fault::None, 0, ""),
    ] {
        plugin.fault(fault);
        let (found, text) = status();
        assert!(found == Some(code) && text.contains(said), "{found:?}: {text}");
    }
    let [byte] = crypto::random::<1>(&mut crypto::system_rng());
    let elsewhere = format!("kmsv2:other{byte}@unix://{}", plugin.socket().display());
    let (found, text) =
        output(&["value", "status", "-k", &elsewhere, "--endpoints", etcd.endpoint()]);
    assert_eq!(found, Some(12), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_waits_for_the_service_and_then_needs_it_no_more() {
    let (etcd, mut plugin) = (Etcd::start(Version::NEWEST).await, Plugin::start());
    init(etcd.endpoint(), &plugin.uri(), "/strongroom/");
    plugin.stop();
    let dir = tempfile::tempdir().unwrap();
    let proxy = Started::without_log(dir.path(), etcd.endpoint(), &plugin.uri());
    proxy.until("it says what it waits for", || proxy.log().contains("no plugin listens"));
    assert!(!proxy.is_listening(), "it has no keys to serve with");
    let ready = get(&proxy.metrics, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains(&plugin.name), "{ready}");
    plugin.listen();
    proxy.until("it serves", || proxy.is_listening());
    let asked = plugin.calls("Decrypt");
    plugin.stop();
    let mut client = Client::connect([&proxy.address], None).await.unwrap();
    client.put("/k", "v", None).await.unwrap();
    assert_eq!(client.get("/k", None).await.unwrap().kvs()[0].value(), b"v");
    assert_ne!(etcd.client().await.get("/k", None).await.unwrap().kvs()[0].value(), b"v");
    assert_eq!(plugin.calls("Decrypt"), asked);
    proxy.end();
    // An audit log is sealed where nothing can wait: a key of a service is refused for it.
    let log = dir.path().join("audit.log");
    let args =
        ["proxy", "-k", &plugin.uri(), "--listen", "127.0.0.1:0", "--endpoints", etcd.endpoint()];
    let (status, text) = output(&[&args[..], &["--audit-log", log.to_str().unwrap()]].concat());
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("a remote master key cannot be used here"), "{text}");
}

/// The keyring is changed elsewhere while this proxy does not reach the service: reading goes on, writing waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_keyring_is_opened_when_the_service_is_back() {
    let (etcd, plugin) = (Etcd::start(Version::NEWEST).await, Plugin::start());
    init(etcd.endpoint(), &plugin.uri(), "/strongroom/");
    let dir = tempfile::tempdir().unwrap();
    let way = dir.path().join("way.sock");
    let link = || std::os::unix::fs::symlink(plugin.socket(), &way).unwrap();
    link();
    let key = format!("kmsv2:{}@unix://{}", plugin.name, way.display());
    let proxy = Started::without_log(dir.path(), etcd.endpoint(), &key);
    proxy.until("it serves", || proxy.is_listening());
    let mut client = Client::connect([&proxy.address], None).await.unwrap();
    client.put("/k", "v", None).await.unwrap();
    std::fs::remove_file(&way).unwrap();
    let (status, text) =
        output(&["value", "rotate", "-k", &plugin.uri(), "--endpoints", etcd.endpoint()]);
    assert_eq!(status, Some(0), "{text}");
    proxy.until("it notices", || proxy.log().contains(" writes_refused "));
    let error = client.put("/k", "w", None).await.unwrap_err().to_string();
    assert!(error.contains("no plugin listens"), "{error}");
    assert_eq!(client.get("/k", None).await.unwrap().kvs()[0].value(), b"v");
    link();
    proxy.until("it writes again", || proxy.log().contains(" writes_accepted"));
    client.put("/k", "w", None).await.unwrap();
    assert_eq!(client.get("/k", None).await.unwrap().kvs()[0].value(), b"w");
    proxy.end();
}
