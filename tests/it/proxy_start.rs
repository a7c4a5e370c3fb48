//! A proxy that is started before its etcd, without its keyring, or loses it: the program itself.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tempfile::TempDir;

use crate::etcd_server::{Etcd, Version, free_ports, make_tls};
use crate::proxied::{Running, masters};
use crate::proxy_gate::{get, init, keyring, output};

/// The program as a proxy, from its first moment.
pub struct Started {
    child: Child,
    pub address: String,
    pub metrics: String,
    log: PathBuf,
}

impl Started {
    fn new(dir: &Path, endpoint: &str, key: &str) -> Self {
        Self::with(dir, endpoint, key, &["--audit-log", dir.join("audit.log").to_str().unwrap()])
    }

    pub fn without_log(dir: &Path, endpoint: &str, key: &str) -> Self {
        Self::with(dir, endpoint, key, &[])
    }

    fn with(dir: &Path, endpoint: &str, key: &str, more: &[&str]) -> Self {
        let [port, metrics] = free_ports(2)[..] else { unreachable!() };
        let (address, metrics) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{metrics}"));
        let log = dir.join("proxy.log");
        let child = Command::new(env!("CARGO_BIN_EXE_strongroom"))
            .args(["proxy", "--endpoints", endpoint, "-k", key, "--listen", &address])
            .args(["--metrics-listen", &metrics])
            .args(more)
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, address, metrics, log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn is_listening(&self) -> bool {
        TcpStream::connect(&self.address).is_ok()
    }

    /// Waits until `is` holds.
    pub fn until(&self, what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it by SIGTERM.
    pub fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.log());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_waits_for_its_etcd() {
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    let mut etcd = Etcd::start(Version::NEWEST).await;
    init(etcd.endpoint(), &key, "/strongroom/");
    etcd.kill(0);
    let proxy = Started::new(dir.path(), etcd.endpoint(), &key);
    proxy.until("it says that it waits", || proxy.log().contains("etcd_unreachable"));
    assert!(!proxy.is_listening(), "there is nothing to serve");
    assert!(get(&proxy.metrics, "/healthz").starts_with("HTTP/1.1 200"));
    let ready = get(&proxy.metrics, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("waiting for etcd"), "{ready}");
    etcd.restart(0);
    proxy.until("it serves", || proxy.is_listening());
    let mut client = Client::connect([&proxy.address], None).await.unwrap();
    client.put("/k", "v", None).await.unwrap();
    assert_eq!(client.get("/k", None).await.unwrap().kvs()[0].value(), b"v");
    assert!(get(&proxy.metrics, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(&proxy.metrics, "/metrics").contains("strongroom_proxy_keyring_stale 0"));
    assert_eq!(proxy.log().matches("etcd_unreachable").count(), 1, "{}", proxy.log());
    proxy.end();
}

/// The settings are wrong, not the network.
#[test]
fn an_address_to_listen_at_is_host_and_port() {
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    for bad in ["nonsense", "127.0.0.1", ":2479", "127.0.0.1:", "127.0.0.1:65536", ""] {
        for flag in ["--listen", "--metrics-listen"] {
            let args = ["proxy", "-k", &key, "--listen=127.0.0.1:0"];
            let args = if flag == "--listen" { &args[..3] } else { &args[..] };
            let (status, text) = output(&[args, &[&format!("{flag}={bad}")]].concat());
            assert_eq!(status, Some(2), "{flag} {bad}: {text}");
            assert!(text.contains("HOST:PORT"), "{flag} {bad}: {text}");
        }
    }
}

#[test]
fn a_proxy_that_waits_ends_when_it_is_told_to() {
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    let [port] = free_ports(1)[..] else { unreachable!() };
    let proxy = Started::new(dir.path(), &format!("http://127.0.0.1:{port}"), &key);
    proxy.until("it says that it waits", || proxy.log().contains("etcd_unreachable"));
    proxy.end();
    verify(dir.path(), &key);
}

/// A log that was closed has no findings.
fn verify(dir: &Path, key: &str) {
    let log = dir.join("audit.log");
    let (status, text) = output(&["audit-log", "verify", log.to_str().unwrap(), "-k", key]);
    assert_eq!(status, Some(0), "{text}");
}

/// What does not mend by itself ends the program at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_does_not_wait_for_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    let etcd = Etcd::start(Version::NEWEST).await;
    let ends = |key: &str, listen: &str, etcd: &str| {
        let log = dir.path().join("audit.log");
        let log = log.to_str().unwrap();
        output(&["proxy", "-k", key, "--listen", listen, "--endpoints", etcd, "--audit-log", log])
    };
    let (status, text) = ends(&key, "127.0.0.1:0", etcd.endpoint());
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("no value keyring") && text.contains("value init"), "{text}");
    verify(dir.path(), &key);

    init(etcd.endpoint(), &key, "/strongroom/");
    let elsewhere = TempDir::new().unwrap();
    let (status, text) = ends(&keyring(elsewhere.path()), "127.0.0.1:0", etcd.endpoint());
    assert_eq!(status, Some(12), "{text}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [nobody] = free_ports(1)[..] else { unreachable!() };
    let address = taken.local_addr().unwrap().to_string();
    let (status, text) = ends(&key, &address, &format!("http://127.0.0.1:{nobody}"));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("cannot listen"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_its_keyring_reads_and_does_not_write() {
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    let etcd = Etcd::start(Version::NEWEST).await;
    init(etcd.endpoint(), &key, "/strongroom/");
    let record = dir.path().join("record").display().to_string();
    let value = |args: &[&str]| {
        let (status, text) =
            output(&[&["value"], args, &["--endpoints", etcd.endpoint()]].concat());
        assert_eq!(status, Some(0), "{text}");
    };
    value(&["keyring", "export", "-o", &record]);
    let proxy = Started::new(dir.path(), etcd.endpoint(), &key);
    proxy.until("it serves", || proxy.is_listening());
    let mut client = Client::connect([&proxy.address], None).await.unwrap();
    client.put("/k", "v", None).await.unwrap();
    assert_eq!(client.get("/k", None).await.unwrap().kvs()[0].value(), b"v");

    etcd.etcdctl(&["del", "/strongroom/keyring"]);
    proxy.until("it notices", || proxy.log().contains(" writes_refused "));
    for _ in 0..3 {
        let error = client.put("/k", "w", None).await.unwrap_err().to_string();
        assert!(error.contains("strongroom: ") && error.contains("deleted"), "{error}");
        assert!(error.to_lowercase().contains("unavailable"), "{error}");
    }
    assert_eq!(client.get("/k", None).await.unwrap().kvs()[0].value(), b"v");
    let ready = get(&proxy.metrics, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("deleted"), "{ready}");
    assert!(get(&proxy.metrics, "/metrics").contains("strongroom_proxy_keyring_stale 1"));

    value(&["keyring", "import", &record, "-k", &key]);
    proxy.until("it writes again", || proxy.log().contains(" writes_accepted"));
    client.put("/k", "w", None).await.unwrap();
    assert_eq!(proxy.log().matches(" writes_refused ").count(), 1, "{}", proxy.log());
    assert!(get(&proxy.metrics, "/readyz").starts_with("HTTP/1.1 200"));
    proxy.end();
}

/// The connection that confirms the keyring takes up new certificates, as those of clients do.
#[tokio::test(flavor = "multi_thread")]
async fn the_keyring_is_followed_with_new_certificates() {
    let mut etcd = Etcd::builder(Version::NEWEST).with_tls().start().await;
    let settings = etcd.settings();
    let dir = settings.cacert.as_ref().unwrap().parent().unwrap().to_owned();
    let proxy = Running::start(settings, None, masters()).await;
    let mut client = proxy.client().await;
    client.put("/k", "v", None).await.unwrap();
    etcd.kill(0);
    make_tls(&dir);
    etcd.restart(0);
    let begun = Instant::now();
    let put = async || {
        let mut client = Client::connect([&proxy.endpoint], None).await?;
        client.put("/k", "w", None).await
    };
    while let Err(error) = put().await {
        assert!(begun.elapsed() < Duration::from_secs(40), "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    proxy.namespace.writable().unwrap();
    proxy.stop().await;
}
