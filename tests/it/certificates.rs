//! Which certificates of an etcd server are accepted, and what is said of the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use strongroom::etcd::{EtcdSettings, choose_member};
use strongroom::{ErrorKind, Result};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::etcd_server::{Version, free_ports};

/// As `openssl req -x509` makes it: signed by its own key, and a CA's.
fn self_signed(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.into()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "etcd");
    params
}

struct Pem {
    cert: PathBuf,
    key: PathBuf,
}

fn write(dir: &Path, name: &str, params: &CertificateParams) -> Pem {
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap().pem();
    let (at, key_at) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    fs::write(&at, cert).unwrap();
    fs::write(&key_at, key.serialize_pem()).unwrap();
    Pem { cert: at, key: key_at }
}

struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Server {
    fn start(version: Version, tls: &[&std::ffi::OsStr]) -> Self {
        let dir = TempDir::new().unwrap();
        let [port, peer] = free_ports(2)[..] else { unreachable!() };
        let url = format!("https://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer}");
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = version
            .program("etcd")
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(tls)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { child, port, dir };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(server.dir.path().join("log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20), "etcd does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn with(pem: &Pem) -> Self {
        let (cert, key) = (pem.cert.as_os_str(), pem.key.as_os_str());
        Self::start(Version::NEWEST, &["--cert-file".as_ref(), cert, "--key-file".as_ref(), key])
    }

    /// Connects by every way that the program's commands use.
    async fn connect(&self, host: &str, cacert: &Path) -> Result<()> {
        reach(&format!("https://{host}:{}", self.port), cacert).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn reach(endpoint: &str, cacert: &Path) -> Result<()> {
    let settings = EtcdSettings {
        endpoints: vec![endpoint.into()],
        cacert: Some(cacert.into()),
        command_timeout: Duration::from_secs(5),
        ..EtcdSettings::default()
    };
    let chosen = choose_member(&settings).await.map(drop);
    let mut client = settings.connect().await?;
    let asked = client.get("x", None).await;
    assert_eq!(chosen.is_ok(), asked.is_ok(), "{chosen:?} {asked:?}");
    chosen
}

async fn refused(server: &Server, host: &str, cacert: &Path, hint: &str) {
    let error = server.connect(host, cacert).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_ca_certificate_is_accepted_when_it_is_the_one_that_was_given() {
    let dir = TempDir::new().unwrap();
    let own = write(dir.path(), "own", &self_signed("127.0.0.1"));
    // The same name, another key.
    let other = write(dir.path(), "other", &self_signed("127.0.0.1"));
    let server = Server::with(&own);
    server.connect("127.0.0.1", &own.cert).await.unwrap();
    refused(&server, "127.0.0.1", &other.cert, "exactly that certificate").await;
    refused(&server, "localhost", &own.cert, "the endpoint's name is not in").await;

    let bundle = dir.path().join("bundle.crt");
    let both = [&other.cert, &own.cert].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&bundle, both.concat()).unwrap();
    server.connect("127.0.0.1", &bundle).await.unwrap();

    // Commands that connect when they first ask say it too.
    let keys = crate::proxy_gate::keyring(dir.path());
    let output = Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .args(["value", "status", "-k", &keys, "--endpoints"])
        .arg(format!("https://127.0.0.1:{}", server.port))
        .arg("--cacert")
        .arg(&other.cert)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(error.contains("exactly that certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_certificate_must_be_good_for_the_server() {
    let dir = TempDir::new().unwrap();
    let mut expired = self_signed("127.0.0.1");
    (expired.not_before, expired.not_after) =
        (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let mut early = self_signed("127.0.0.1");
    (early.not_before, early.not_after) = (date_time_ymd(2300, 1, 1), date_time_ymd(2301, 1, 1));
    let mut client = self_signed("127.0.0.1");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (name, params, hint) in [
        ("expired", expired, "has expired"),
        ("early", early, "not valid yet"),
        ("client", client, "serverAuth"),
    ] {
        let pem = write(dir.path(), name, &params);
        refused(&Server::with(&pem), "127.0.0.1", &pem.cert, hint).await;
    }
}

/// A certificate that a CA signed is no other matter than before.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_certificate_needs_its_ca() {
    let dir = TempDir::new().unwrap();
    let ca = write(dir.path(), "ca", &self_signed("ca"));
    let other = write(dir.path(), "other", &self_signed("ca"));
    let ca_key = KeyPair::from_pem(&fs::read_to_string(&ca.key).unwrap()).unwrap();
    let issuer = Issuer::new(self_signed("ca"), ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    let pem = Pem { cert: dir.path().join("leaf.crt"), key: dir.path().join("leaf.key") };
    fs::write(&pem.cert, leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(&pem.key, key.serialize_pem()).unwrap();
    let server = Server::with(&pem);
    server.connect("127.0.0.1", &ca.cert).await.unwrap();
    refused(&server, "127.0.0.1", &other.cert, "the CA that signed").await;
    refused(&server, "localhost", &ca.cert, "the endpoint's name is not in").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcds_auto_tls() {
    let dir = TempDir::new().unwrap();
    let other = write(dir.path(), "other", &self_signed("127.0.0.1"));
    for version in Version::ALL {
        let server = Server::start(version, &["--auto-tls".as_ref()]);
        let own = server.dir.path().join("data/fixtures/client/cert.pem");
        server.connect("127.0.0.1", &own).await.unwrap();
        refused(&server, "127.0.0.1", &other.cert, "--cacert").await;
    }
}

/// The bytes of the certificate are public: who has them alone is not the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_needs_the_key_of_its_certificate() {
    let dir = TempDir::new().unwrap();
    let own = write(dir.path(), "own", &self_signed("127.0.0.1"));
    let key = PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
    let pem = fs::read(&own.cert).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certified = CertifiedKey::new(vec![pem.contents.into()], any_supported_type(&key).unwrap());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(acceptor.accept(stream).await.is_err(), "the client believed it");
        }
    });
    let error = reach(&endpoint, &own.cert).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("BadSignature"), "{error}");
    assert!(!serving.is_finished());
    serving.abort();
}

/// What a server says of a client's certificate chooses the hint; and `http://` is no advice where TLS was spoken.
#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_that_etcd_refuses() {
    let dir = TempDir::new().unwrap();
    let (ca_key, other_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let ca_pem = self_signed("ca").self_signed(&ca_key).unwrap().pem();
    fs::write(dir.path().join("ca.crt"), ca_pem).unwrap();
    let ca = Issuer::new(self_signed("ca"), ca_key);
    let other = Issuer::new(self_signed("other"), other_key);
    let leaf = |name: &str, issuer: &Issuer<'_, KeyPair>, years: (i32, i32)| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let key = KeyPair::generate().unwrap();
        let at = dir.path().join(format!("{name}.crt"));
        fs::write(&at, params.signed_by(&key, issuer).unwrap().pem()).unwrap();
        fs::write(at.with_extension("key"), key.serialize_pem()).unwrap();
        Pem { key: at.with_extension("key"), cert: at }
    };
    let server = leaf("server", &ca, (2000, 2090));
    let cacert = dir.path().join("ca.crt");
    let args: [&std::ffi::OsStr; 7] = [
        "--cert-file".as_ref(),
        server.cert.as_os_str(),
        "--key-file".as_ref(),
        server.key.as_os_str(),
        "--trusted-ca-file".as_ref(),
        cacert.as_os_str(),
        "--client-cert-auth".as_ref(),
    ];
    let etcd = Server::start(Version::NEWEST, &args);
    let cases = [
        (leaf("good", &ca, (2000, 2090)), None),
        (leaf("expired", &ca, (2000, 2001)), Some("client certificate")),
        (leaf("early", &ca, (2080, 2090)), Some("client certificate")),
        (leaf("foreign", &other, (2000, 2090)), Some("client certificate")),
    ];
    for (pem, hint) in cases {
        let settings = EtcdSettings {
            endpoints: vec![format!("https://127.0.0.1:{}", etcd.port)],
            cacert: Some(cacert.clone()),
            cert: Some(pem.cert.clone()),
            key: Some(pem.key),
            command_timeout: Duration::from_secs(5),
            ..EtcdSettings::default()
        };
        let error = choose_member(&settings).await.err();
        assert_eq!(error.is_some(), hint.is_some(), "{}: {error:?}", pem.cert.display());
        let Some((error, hint)) = error.zip(hint) else { continue };
        let given = error.hint_text().unwrap_or_default();
        assert!(given.contains(hint) && !given.contains("http://"), "{error:?}");
    }
    // A key behind a passphrase, and a file that an editor of Windows has saved.
    let good = dir.path().join("good.crt");
    let bom = [&b"\xef\xbb\xbf"[..], &fs::read(&good).unwrap()].concat();
    fs::write(&good, bom).unwrap();
    let settings = |key: PathBuf| EtcdSettings {
        endpoints: vec![format!("https://127.0.0.1:{}", etcd.port)],
        cacert: Some(cacert.clone()),
        cert: Some(good.clone()),
        key: Some(key),
        ..EtcdSettings::default()
    };
    choose_member(&settings(good.with_extension("key"))).await.map(drop).unwrap();
    let locked = dir.path().join("locked.key");
    fs::write(&locked, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n").unwrap();
    let error = choose_member(&settings(locked)).await.err().unwrap();
    assert!(error.to_string().contains("locked.key: the key is encrypted"), "{error}");
}

/// As etcdctl has it, and not without a word.
#[tokio::test(flavor = "multi_thread")]
async fn any_certificate_if_that_is_asked_for() {
    let dir = TempDir::new().unwrap();
    let server = Server::with(&write(dir.path(), "self", &self_signed("elsewhere")));
    let settings = |insecure| EtcdSettings {
        endpoints: vec![format!("https://127.0.0.1:{}", server.port)],
        insecure_skip_tls_verify: insecure,
        command_timeout: Duration::from_secs(5),
        ..EtcdSettings::default()
    };
    assert!(choose_member(&settings(false)).await.is_err());
    let choice = choose_member(&settings(true)).await.unwrap();
    let warned = choice.warnings.iter().any(|warning| warning.contains("not verified"));
    assert!(warned, "{:?}", choice.warnings);
}
