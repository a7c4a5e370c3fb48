//! Real etcd servers on loopback: `Etcd::start(Version::V3_5).await`, killed when dropped.
//!
//! The programs come from `scripts/get-etcd`; `STRONGROOM_TEST_ETCD_3_4`, `_3_5`, `_3_6` and `_3_7` name other folders.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use strongroom::etcd::EtcdSettings;
use strongroom::secret::SecretBytes;
use tempfile::TempDir;

pub(crate) const ROOT_PASSWORD: &str = "correct horse battery staple";

/// The ports of servers, in blocks.
const FIRST_PORT: u16 = 20_000;
const BLOCK_PORTS: u16 = 500;
const BLOCKS: u16 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V3_4,
    V3_5,
    V3_6,
    V3_7,
}

/// Versions to test in a loop: those of them that are here. Only where a version cannot be had
/// (see `scripts/get-etcd`: never on Debian, never in CI) one is left out, and said so.
pub(crate) struct Versions(&'static [Version]);

impl IntoIterator for Versions {
    type Item = Version;
    type IntoIter = std::vec::IntoIter<Version>;

    fn into_iter(self) -> Self::IntoIter {
        let without = std::env::var("STRONGROOM_TEST_WITHOUT_ETCD").unwrap_or_default();
        let is_here = |version: &Version| {
            let missing = without.split(' ').any(|name| name == version.name());
            assert!(!missing || std::env::var("CI").as_deref() != Ok("true"), "{version:?} in CI");
            if missing {
                eprintln!("SKIPPED: no etcd {} here", version.name());
            }
            !missing
        };
        self.0.iter().copied().filter(is_here).collect::<Vec<_>>().into_iter()
    }
}

impl Version {
    /// A test of this version alone has `3_4` in its name, by which `scripts/test` leaves it out where there is none.
    pub(crate) const OLDEST: Self = Self::V3_4;
    pub(crate) const NEWEST: Self = Self::V3_7;
    /// Every supported version.
    pub(crate) const ALL: Versions = Versions(&[Self::V3_4, Self::V3_5, Self::V3_6, Self::V3_7]);
    /// The versions that every test runs on.
    pub(crate) const ENDS: Versions = Versions(&[Self::OLDEST, Self::NEWEST]);

    /// Such as `3.5`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V3_4 => "3.4",
            Self::V3_5 => "3.5",
            Self::V3_6 => "3.6",
            Self::V3_7 => "3.7",
        }
    }

    /// The stock program that restores a snapshot.
    pub(crate) fn restorer(self) -> &'static str {
        if self == Self::V3_4 { "etcdctl" } else { "etcdutl" }
    }

    /// The folder of etcd, etcdctl and (3.5 and later) etcdutl.
    pub(crate) fn programs(self) -> PathBuf {
        let variable = format!("STRONGROOM_TEST_ETCD_{}", self.name().replace('.', "_"));
        let here = || {
            let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools");
            tools.join(format!("etcd-{}", self.name())).join("bin")
        };
        std::env::var_os(variable).map_or_else(here, PathBuf::from)
    }

    pub(crate) fn program(self, name: &str) -> Command {
        let path = self.programs().join(name);
        assert!(path.exists(), "{} is missing: run scripts/get-etcd", path.display());
        let mut command = Command::new(path);
        command.env("ETCDCTL_API", "3").stdin(Stdio::null());
        command
    }
}

/// What to start.
pub(crate) struct Builder {
    version: Version,
    members: usize,
    tls: bool,
    client_auth: bool,
    peer_tls: bool,
    auto_tls: bool,
    auth: bool,
    args: Vec<String>,
}

impl Builder {
    /// So many members.
    pub(crate) fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Clients speak TLS and need a certificate.
    pub(crate) fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Clients speak TLS and need no certificate.
    pub(crate) fn with_server_tls(mut self) -> Self {
        self.client_auth = false;
        self.with_tls()
    }

    /// Members speak TLS and need a certificate.
    pub(crate) fn with_peer_tls(mut self) -> Self {
        self.peer_tls = true;
        self
    }

    /// With TLS, clients and members: etcd makes the certificates itself.
    pub(crate) fn with_auto_tls(mut self) -> Self {
        self.auto_tls = true;
        self
    }

    /// Authentication is on; `root` has [`ROOT_PASSWORD`], `reader` (password `reader`) may read all keys.
    pub(crate) fn with_auth(mut self) -> Self {
        self.auth = true;
        self
    }

    /// A further argument for etcd, in which `{endpoint}` stands for the member's own, such as `--quota-backend-bytes=16777216`.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) async fn start(self) -> Etcd {
        tokio::task::spawn_blocking(move || Etcd::run(self)).await.unwrap()
    }
}

/// PEM files of a CA and of one certificate for server and client.
pub(crate) struct Tls {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

struct Server {
    name: String,
    endpoint: String,
    command: Command,
    child: Option<Child>,
}

/// A running cluster.
pub(crate) struct Etcd {
    version: Version,
    dir: TempDir,
    tls: Option<Tls>,
    client_auth: bool,
    auto_tls: bool,
    auth: bool,
    servers: Vec<Server>,
}

impl Etcd {
    /// One plain member.
    pub(crate) async fn start(version: Version) -> Self {
        Self::builder(version).start().await
    }

    pub(crate) fn builder(version: Version) -> Builder {
        Builder {
            version,
            members: 1,
            tls: false,
            client_auth: true,
            peer_tls: false,
            auto_tls: false,
            auth: false,
            args: Vec::new(),
        }
    }

    fn run(builder: Builder) -> Self {
        // Between finding a free port and etcd's binding it, another may take it.
        for _ in 0..5 {
            if let Some(mut etcd) = Self::attempt(&builder) {
                if builder.auth {
                    etcd.enable_auth();
                }
                return etcd;
            }
        }
        panic!("etcd finds no free port")
    }

    fn attempt(builder: &Builder) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let tls = builder.tls.then(|| make_tls(dir.path()));
        let scheme = if builder.tls { "https" } else { "http" };
        let ports = free_ports(2 * builder.members);
        let peer_scheme = if builder.peer_tls { "https" } else { "http" };
        let peer = |at: usize| format!("{peer_scheme}://127.0.0.1:{}", ports[2 * at + 1]);
        let cluster: Vec<_> =
            (0..builder.members).map(|at| format!("m{at}={}", peer(at))).collect();
        let version = builder.version;
        let client_auth = builder.client_auth;
        let auto_tls = builder.auto_tls;
        let servers = Vec::new();
        let mut etcd = Self { version, dir, tls, client_auth, auto_tls, auth: false, servers };
        for at in 0..builder.members {
            let endpoint = format!("{scheme}://127.0.0.1:{}", ports[2 * at]);
            let name = format!("m{at}");
            etcd.spawn(&name, &endpoint, &peer(at), &cluster.join(","), "new", &builder.args);
        }
        etcd.wait_healthy().then_some(etcd)
    }

    fn spawn(
        &mut self,
        name: &str,
        endpoint: &str,
        peer: &str,
        cluster: &str,
        state: &str,
        args: &[String],
    ) {
        let mut command = self.version.program("etcd");
        command
            .args(["--name", name, "--data-dir"])
            .arg(self.dir.path().join(name))
            .args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", cluster, "--initial-cluster-state", state])
            .args(["--initial-cluster-token", "strongroom-test"])
            // 3.4 does not know the flag.
            .args((self.version > Version::V3_4).then_some("--unsafe-no-fsync"))
            .args(args.iter().map(|arg| arg.replace("{endpoint}", endpoint)));
        if self.auto_tls {
            command.args(["--auto-tls", "--peer-auto-tls"]);
        } else if let Some(tls) = &self.tls {
            if self.client_auth {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
            }
            // A member without TLS still talks to those with it.
            if cluster.contains("https") {
                command.arg("--peer-client-cert-auth").arg("--peer-trusted-ca-file").arg(&tls.ca);
                command.arg("--peer-cert-file").arg(&tls.cert).arg("--peer-key-file").arg(&tls.key);
            }
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
        }
        let log = File::create(self.dir.path().join(format!("{name}.log"))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = Some(command.spawn().expect("etcd starts"));
        self.servers.push(Server { name: name.into(), endpoint: endpoint.into(), command, child });
    }

    /// Starts member `at` again with the program of another version.
    pub(crate) fn replace(&mut self, at: usize, version: Version) {
        self.kill(at);
        let mut command = version.program("etcd");
        command
            .args(self.servers[at].command.get_args())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.servers[at].command = command;
        self.restart(at);
    }

    /// Starts member `at` again, which was killed, and waits until it is healthy.
    pub(crate) fn restart(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.child = Some(server.command.spawn().expect("etcd starts"));
        assert!(self.wait_healthy(), "its port was taken");
    }

    /// Starts member `at` again, with the program of another version, from the same data.
    pub(crate) fn upgrade(&mut self, at: usize, version: Version) {
        self.kill(at);
        let server = &mut self.servers[at];
        let mut command = version.program("etcd");
        command.args(server.command.get_args());
        let log = File::create(self.dir.path().join(format!("{}.log", server.name))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        server.command = command;
        self.restart(at);
    }

    /// The words that member `at` was started with, its program first.
    pub(crate) fn command_line(&self, at: usize) -> Vec<String> {
        let arguments = self.servers[at].command.get_args();
        let arguments = arguments.map(|word| word.to_str().unwrap().to_owned());
        std::iter::once("etcd".to_owned()).chain(arguments).collect()
    }

    /// The database file of member `at`.
    pub(crate) fn database(&self, at: usize) -> PathBuf {
        self.dir.path().join(&self.servers[at].name).join("member/snap/db")
    }

    /// Waits until all members are healthy; false if one found its port taken.
    fn wait_healthy(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        for at in 0..self.servers.len() {
            while !self.ctl(&[at]).args(["endpoint", "health"]).output().unwrap().status.success() {
                if self.log(at).contains("address already in use") {
                    return false;
                }
                assert!(Instant::now() < deadline, "etcd is not healthy: {}", self.log(at));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        true
    }

    pub(crate) fn enable_auth(&mut self) {
        self.etcdctl(&["user", "add", &format!("root:{ROOT_PASSWORD}")]);
        self.etcdctl(&["user", "grant-role", "root", "root"]);
        self.etcdctl(&["role", "add", "reader"]);
        self.etcdctl(&["role", "grant-permission", "reader", "--prefix=true", "read", ""]);
        self.etcdctl(&["user", "add", "reader:reader"]);
        self.etcdctl(&["user", "grant-role", "reader", "reader"]);
        self.etcdctl(&["auth", "enable"]);
        self.auth = true;
    }

    /// The first member's endpoint.
    pub(crate) fn endpoint(&self) -> &str {
        &self.servers[0].endpoint
    }

    /// Every member's endpoint.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.endpoint.clone()).collect()
    }

    /// The CA, the certificate and its key, if clients speak TLS.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Settings that reach all members, as root if authentication is on.
    pub(crate) fn settings(&self) -> EtcdSettings {
        let tls = self.tls.as_ref();
        EtcdSettings {
            endpoints: self.endpoints(),
            cacert: tls.map(|tls| tls.ca.clone()),
            cert: tls.map(|tls| tls.cert.clone()),
            key: tls.map(|tls| tls.key.clone()),
            user: self.auth.then(|| "root".into()),
            password: self.auth.then(|| SecretBytes::new(ROOT_PASSWORD.into())),
            ..EtcdSettings::default()
        }
    }

    /// etcdctl for the members `at`, ready for its arguments.
    fn ctl(&self, at: &[usize]) -> Command {
        let endpoints: Vec<_> = at.iter().map(|at| self.servers[*at].endpoint.as_str()).collect();
        let mut command = self.version.program("etcdctl");
        command.arg("--endpoints").arg(endpoints.join(","));
        if self.auto_tls {
            command.arg("--insecure-skip-tls-verify").arg("--insecure-transport=false");
        } else if let Some(tls) = &self.tls {
            command
                .arg("--cacert")
                .arg(&tls.ca)
                .arg("--cert")
                .arg(&tls.cert)
                .arg("--key")
                .arg(&tls.key);
        }
        if self.auth {
            command.arg("--user").arg(format!("root:{ROOT_PASSWORD}"));
        }
        command
    }

    /// Runs etcdctl against the first member and returns its output.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> String {
        let output = self.ctl(&[0]).args(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A client of all members, as root if authentication is on.
    pub(crate) async fn client(&self) -> etcd_client::Client {
        let choice = strongroom::etcd::choose_member(&self.settings()).await.unwrap();
        choice.client()
    }

    pub(crate) async fn put(&self, key: &str, value: &str) {
        self.client().await.put(key, value, None).await.unwrap();
    }

    /// Puts `count` keys `key/00000`, … with values of `size` pseudo-random bytes.
    pub(crate) async fn fill(&self, count: usize, size: usize) {
        let mut client = self.client().await;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for at in 0..count {
            let value: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .take(size)
            .collect();
            client.put(format!("key/{at:05}"), value, None).await.unwrap();
        }
    }

    /// The first member's hash of all keys: (hash, compact revision, revision).
    pub(crate) async fn hash_kv(&self) -> (u32, i64, i64) {
        let answer = self.client().await.maintenance_client().hash_kv(0).await.unwrap();
        (answer.hash(), answer.compact_version(), answer.header().unwrap().revision())
    }

    /// Kills member `at`; its endpoint stays in the list.
    pub(crate) fn kill(&mut self, at: usize) {
        stop(&mut self.servers[at]);
    }

    /// Adds a learner and waits until it answers.
    pub(crate) fn add_learner(&mut self) {
        let [client, peer] = free_ports(2)[..] else { unreachable!() };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let name = format!("m{}", self.servers.len());
        let peer = format!("http://127.0.0.1:{peer}");
        let url = format!("--peer-urls={peer}");
        let add = ["member", "add", name.as_str(), "--learner", url.as_str()];
        // Members that have not talked to each other for a while yet are unhealthy.
        let mut tries = 0..100;
        let told = loop {
            let output = self.ctl(&[0]).args(add).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                break String::from_utf8(output.stdout).unwrap();
            }
            assert!(error.contains("unhealthy cluster") && tries.next().is_some(), "{error}");
            std::thread::sleep(Duration::from_millis(100));
        };
        let cluster = told
            .split("ETCD_INITIAL_CLUSTER=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned();
        let endpoint = format!("{scheme}://127.0.0.1:{client}");
        self.spawn(&name, &endpoint, &peer, &cluster, "existing", &[]);
        // A learner refuses reads, so its status stands for its health.
        let deadline = Instant::now() + Duration::from_secs(30);
        let at = self.servers.len() - 1;
        while !self.ctl(&[at]).args(["endpoint", "status"]).output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "the learner does not answer: {}", self.log(at));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self, at: usize) -> String {
        fs::read_to_string(self.dir.path().join(format!("{}.log", self.servers[at].name))).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(stop);
    }
}

fn stop(server: &mut Server) {
    if let Some(mut child) = server.child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Ports that were free a moment ago, all different.
/// Ports below those that the kernel gives to clients. Each process of tests has a block of its own, and takes the next
/// each time, so that no two servers of tests mean the same one.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static BLOCK: OnceLock<(UnixListener, u16)> = OnceLock::new();
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (_, first) = BLOCK.get_or_init(|| {
        let blocks = (0..BLOCKS).find_map(|at| {
            let name = format!("strongroom-test-ports-{at}");
            let held = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap());
            Some((held.ok()?, FIRST_PORT + at * BLOCK_PORTS))
        });
        blocks.expect("no more than 24 processes of tests at once")
    });
    let ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Relaxed) % BLOCK_PORTS);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.take(usize::from(BLOCK_PORTS)).filter(is_free).take(count).collect()
}

pub(crate) fn make_tls(dir: &std::path::Path) -> Tls {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "strongroom test CA");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    // No common name: with authentication on, etcd would take it for the user.
    leaf.distinguished_name = rcgen::DistinguishedName::new();
    leaf.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let cert = leaf.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    // To etcd this is the user root.
    let root_key = KeyPair::generate().unwrap();
    leaf.distinguished_name.push(DnType::CommonName, "root");
    write("root.pem", leaf.signed_by(&root_key, &issuer).unwrap().pem());
    write("root-key.pem", root_key.serialize_pem());
    Tls {
        ca: write("ca.pem", ca_cert.pem()),
        cert: write("cert.pem", cert.pem()),
        key: write("key.pem", key.serialize_pem()),
    }
}
