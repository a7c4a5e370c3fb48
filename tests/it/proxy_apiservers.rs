//! Two API servers of Kubernetes are brought behind proxies, and back, while their clients write and watch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::GetOptions;
use rcgen::KeyPair;

use crate::behind::{Behind, Talk, blocking, go};
use crate::etcd_server::{Etcd, Version, free_ports};

pub const TOKEN: &str = "only-for-this-test";
/// Long enough for every proxy to follow.
const SETTLE: &str = "2s";

/// One kube-apiserver. Its address stays, its etcd changes.
pub struct ApiServer {
    dir: PathBuf,
    port: u16,
    child: Child,
}

impl ApiServer {
    pub fn start(dir: &Path, name: &str, etcd: &str) -> Self {
        let dir = dir.join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("tokens"), format!("{TOKEN},test,test,system:masters\n")).unwrap();
        let port = free_ports(1)[0];
        let child = Self::spawn(&dir, port, etcd);
        Self { dir, port, child }
    }

    fn spawn(dir: &Path, port: u16, etcd: &str) -> Child {
        let program = std::env::var_os("STRONGROOM_TEST_KUBE_APISERVER").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/kube-apiserver/kube-apiserver"),
            PathBuf::from,
        );
        assert!(program.exists(), "{} is missing: run scripts/get-tools --long", program.display());
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        Command::new(program)
            .arg(format!("--etcd-servers={etcd}"))
            .arg(format!("--secure-port={port}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .args(["--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24"])
            .args([
                "--authorization-mode=AlwaysAllow",
                "--disable-admission-plugins=ServiceAccount",
            ])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            // It compacts etcd, too: every few seconds instead of every five minutes.
            .arg("--etcd-compaction-interval=5s")
            .arg(file("service-account-signing-key-file", &dir.with_file_name("accounts.key")))
            .arg(file("service-account-key-file", &dir.with_file_name("accounts.pub")))
            .arg(file("token-auth-file", &dir.join("tokens")))
            // Its certificate, which it makes itself.
            .arg(file("cert-dir", dir))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// It is killed, in the middle of what its clients ask, and started with another etcd.
    fn restart(&mut self, etcd: &str) {
        self.kill();
        self.child = Self::spawn(&self.dir, self.port, etcd);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The keys of service accounts that the API servers of this directory share.
pub fn make_accounts(dir: &Path) {
    let accounts = KeyPair::generate().unwrap();
    fs::write(dir.join("accounts.key"), accounts.serialize_pem()).unwrap();
    fs::write(dir.join("accounts.pub"), accounts.public_key_pem()).unwrap();
}

fn clients(servers: &[ApiServer; 2]) -> Talk {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-clients");
    let built = go("kubernetes-apiserver").args(["build", "-o"]).arg(&program).arg(".").status();
    assert!(built.expect("go runs").success(), "tests/clients/kubernetes-apiserver does not build");
    let mut command = Command::new(program);
    command.args([servers[0].url(), servers[1].url()]).env("STRONGROOM_TEST_TOKEN", TOKEN);
    Talk::start(command)
}

/// How many values of Kubernetes are encrypted in etcd, and how many are not.
fn stored(etcd: &Etcd) -> (usize, usize) {
    let answer = blocking(async {
        let options = GetOptions::new().with_prefix();
        etcd.client().await.get("/registry/", Some(options)).await.unwrap()
    });
    let encrypted = answer.kvs().iter().filter(|kv| kv.value().starts_with(b"\0SR")).count();
    (encrypted, answer.kvs().len() - encrypted)
}

/// Waits until an API server has compacted etcd.
fn wait_for_compaction(etcd: &Etcd) {
    let compacted = || etcd.etcdctl(&["get", "compact_rev_key", "--print-value-only"]);
    let (before, begun) = (compacted(), Instant::now());
    while compacted() == before {
        assert!(begun.elapsed() < Duration::from_secs(60), "no API server compacts etcd");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn compact(etcd: &Etcd) {
    let answer = blocking(async { etcd.client().await.get("x", None).await.unwrap() });
    etcd.etcdctl(&["compact", &answer.header().unwrap().revision().to_string()]);
}

#[test]
#[ignore = "long: two API servers, which scripts/get-tools --long builds"]
fn long_kubernetes_servers_there_and_back_on_3_6() {
    let behind = Behind::start(Version::V3_6);
    let etcd = behind.etcd.endpoint();
    make_accounts(behind.dir.path());
    let mut servers = ["a", "b"].map(|name| ApiServer::start(behind.dir.path(), name, etcd));
    let mut clients = clients(&servers);
    let phase = |name: &str| {
        let phase = ["--prefix", "/registry/", "--phase", name, "--settle", SETTLE];
        let (status, text) = behind.run(&[&["value", "migrate"], &phase[..]].concat());
        println!("{text}");
        assert_eq!(status, Some(0), "{name}: {text}");
    };
    let restart = |clients: &mut Talk, servers: &mut [ApiServer; 2], at: usize, etcd: &str| {
        println!("server {at} moves to {etcd}");
        clients.ask(&format!("restarting {at}"), "done");
        servers[at].restart(etcd);
        clients.ask(&format!("restarted {at}"), "done");
        clients.ask("write", "done");
    };
    // API servers keep the revision that they compact to under another key: it stays unencrypted.
    let proxies = [(); 2].map(|()| behind.proxy(&["--include", "/registry/"]));

    clients.ask("write", "done");
    phase("admit");
    clients.ask("write", "done");
    for (at, proxy) in proxies.iter().enumerate() {
        restart(&mut clients, &mut servers, at, &proxy.endpoint());
        assert_eq!(stored(&behind.etcd).0, 0, "the other server could not read it");
    }
    phase("encrypt");
    clients.ask("write", "done");
    compact(&behind.etcd);
    phase("done");
    clients.ask("write", "done");
    wait_for_compaction(&behind.etcd);
    let (encrypted, unencrypted) = stored(&behind.etcd);
    assert!(encrypted > 100 && unencrypted == 0, "done: {encrypted} and {unencrypted}");

    phase("admit-back");
    clients.ask("write", "done");
    phase("decrypt");
    clients.ask("write", "done");
    restart(&mut clients, &mut servers, 0, etcd);
    compact(&behind.etcd);
    phase("off");
    clients.ask("write", "done");
    restart(&mut clients, &mut servers, 1, etcd);
    let (encrypted, unencrypted) = stored(&behind.etcd);
    assert!(encrypted == 0 && unencrypted > 100, "off: {encrypted} and {unencrypted}");
    clients.say("end");
    println!("{}", clients.end());
}
