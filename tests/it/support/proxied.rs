//! An etcd with a proxy before it, both of this process's making.

use std::path::PathBuf;
use std::sync::Arc;

use etcd_client::Client;
use strongroom::crypto::system_rng;
use strongroom::etcd::EtcdSettings;
use strongroom::format::Time;
use strongroom::keys::{KeySet, Keyring};
use strongroom::proxy::{Proxy, ProxySettings, listen};
use strongroom::values::{DEFAULT_PREFIX, Namespace};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::etcd_server::{Etcd, Version};

pub(crate) const NOW: Time = Time::from_unix(1_769_860_800);
/// etcd's 1.5 MiB and 512 KiB.
pub(crate) const MAX_REQUEST: usize = 2 << 20;

pub(crate) fn masters() -> Arc<KeySet> {
    let mut masters = KeySet::new();
    masters.add_keyring(&Keyring::generate(NOW, &mut system_rng()).unwrap(), NOW);
    Arc::new(masters)
}

/// PEM files: certificate, key, and the authorities of clients' certificates.
pub(crate) type Tls = (PathBuf, PathBuf, Option<PathBuf>);

/// A running proxy.
pub(crate) struct Running {
    pub(crate) endpoint: String,
    pub(crate) namespace: Namespace,
    stop: watch::Sender<bool>,
    task: JoinHandle<strongroom::Result<()>>,
}

impl Running {
    pub(crate) async fn start(etcd: EtcdSettings, tls: Option<Tls>, masters: Arc<KeySet>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (cert, key, ca) =
            tls.map_or((None, None, None), |(cert, key, ca)| (Some(cert), Some(key), ca));
        let settings = ProxySettings {
            etcd,
            listen_cert: cert,
            listen_key: key,
            listen_trusted_ca: ca,
            ..ProxySettings::default()
        };
        let client = settings.etcd.connect().await.unwrap();
        Namespace::init(client, DEFAULT_PREFIX.as_bytes(), Arc::clone(&masters), NOW)
            .await
            .unwrap();
        let proxy = Proxy::prepare(settings, masters, None).await.unwrap();
        let namespace = proxy.namespace().clone();
        let listener = listen("127.0.0.1:0").await.unwrap();
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(proxy.serve(listener, None, stopped));
        Self { endpoint, namespace, stop, task }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([&self.endpoint], None).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// One etcd that is asked directly, and one through a proxy.
pub(crate) struct Pair {
    pub(crate) direct: Etcd,
    pub(crate) behind: Etcd,
    pub(crate) proxy: Running,
}

impl Pair {
    /// Both at the same revision.
    pub(crate) async fn start(version: Version) -> Self {
        let (direct, behind) = (Etcd::start(version).await, Etcd::start(version).await);
        let proxy = Running::start(behind.settings(), None, masters()).await;
        // The keyring's record is one revision, and its deletion here would be another.
        let mut client = direct.client().await;
        client.put("x", "", None).await.unwrap();
        client.delete("x", None).await.unwrap();
        behind.put(&format!("{DEFAULT_PREFIX}x"), "").await;
        Self { direct, behind, proxy }
    }
}

/// An answer's text, without what names the server.
pub(crate) fn plain(answer: &impl std::fmt::Debug) -> String {
    let mut text = format!("{answer:?}");
    for name in ["cluster_id: ", "member_id: ", "raft_term: "] {
        let parts: Vec<_> = text
            .split(name)
            .enumerate()
            .map(|(at, part)| match at {
                0 => part,
                _ => part.trim_start_matches(|c: char| c.is_ascii_digit()),
            })
            .collect();
        text = parts.join(name);
    }
    text
}
