//! TLS, access by certificate, and the audit log, on a proxy of the program's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions, Txn, TxnOp, WatchOptions,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::etcd_server::{Etcd, Version};

fn strongroom(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.args(args).stdin(Stdio::null());
    command
}

pub(crate) fn output(args: &[&str]) -> (Option<i32>, String) {
    let output = strongroom(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// An authority and the certificates it gave, in a directory.
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(dir: &Path) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir: dir.into(), issuer: Issuer::new(params, key) }
    }

    /// Writes `name.crt` and `name.key`.
    pub(crate) fn certify(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.dir.join(format!("{name}.crt")), certificate.pem()).unwrap();
        fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub(crate) async fn client(
        &self,
        endpoint: &str,
        name: Option<&str>,
    ) -> Result<Client, etcd_client::Error> {
        let read = |file: String| fs::read(self.dir.join(file)).unwrap();
        let mut tls =
            TlsOptions::new().ca_certificate(Certificate::from_pem(read("ca.crt".into())));
        if let Some(name) = name {
            let identity =
                Identity::from_pem(read(format!("{name}.crt")), read(format!("{name}.key")));
            tls = tls.identity(identity);
        }
        let options = ConnectOptions::new().with_tls(tls);
        let mut client = Client::connect([endpoint], Some(options)).await?;
        client.status().await?;
        Ok(client)
    }
}

/// The program as a proxy.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Program {
    pub(crate) fn start(args: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        // As `full_disk` does it: a file that may not grow is an error then, and not the end.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_strongroom")]);
        command.args(["proxy", "--listen", &address]).stdin(Stdio::null());
        let child = command.args(args).spawn().unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address }
    }

    /// Ends it by SIGTERM.
    pub(crate) fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn get(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn keyring(dir: &Path) -> String {
    let path = dir.join("keyring").display().to_string();
    assert_eq!(output(&["key", "generate", "-o", &path]).0, Some(0));
    format!("file:{path}")
}

/// Makes the value keyring.
pub(crate) fn init(endpoint: &str, key: &str, prefix: &str) {
    let args = ["value", "init", "-k", key, "--endpoints", endpoint, "--reserved-prefix", prefix];
    // The second namespace of an etcd finds the values of the first.
    let (status, text) = output(&[&args[..], &["--force"]].concat());
    assert_eq!(status, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_what_they_may_touch() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new(dir.path());
    ["proxy", "app", "admin", "nobody"].iter().for_each(|name| authority.certify(name));
    let etcd = Etcd::start(Version::NEWEST).await;
    let (key, audit) = (keyring(dir.path()), authority.path("audit.log"));
    init(etcd.endpoint(), &key, "/strongroom/");
    let program = Program::start(&[
        "-k",
        &key,
        "--endpoints",
        etcd.endpoint(),
        "--audit-log",
        &audit,
        "--listen-cert",
        &authority.path("proxy.crt"),
        "--listen-key",
        &authority.path("proxy.key"),
        "--listen-trusted-ca",
        &authority.path("ca.crt"),
        "--allow",
        "app=/app/",
        "--allow",
        "admin=",
    ]);
    let endpoint = format!("https://{}", program.address);
    assert!(authority.client(&endpoint, None).await.is_err(), "a client without a certificate");
    assert!(authority.client(&endpoint, Some("nobody")).await.is_err(), "a client without a rule");
    let mut app = authority.client(&endpoint, Some("app")).await.unwrap();
    app.put("/app/x", "hunter2", None).await.unwrap();
    let all = GetOptions::new().with_prefix();
    for refused in [
        app.put("/other", "", None).await.err(),
        app.get("/", Some(all.clone())).await.err(),
        app.txn(Txn::new().and_then([TxnOp::put("/app/y", "", None), TxnOp::get("/z", None)]))
            .await
            .err(),
        app.snapshot().await.err(),
        app.compact(1, None).await.err(),
    ] {
        assert!(refused.unwrap().to_string().contains("permission denied"));
    }
    // As etcd says it: the watch is canceled, and the others of the stream go on.
    let mut stream = app.watch("/app/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    stream.watch("/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    let refused = stream.message().await.unwrap().unwrap();
    assert!(refused.created() && refused.canceled() && refused.watch_id() == -1, "{refused:?}");
    assert!(refused.cancel_reason().contains("permission denied"), "{refused:?}");
    assert!(refused.header().unwrap().revision() > 1, "{refused:?}");
    app.put("/app/x", "hunter2", None).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().events().len(), 1);
    assert_eq!(app.get("/app/", Some(all.clone())).await.unwrap().kvs().len(), 1);
    let mut admin = authority.client(&endpoint, Some("admin")).await.unwrap();
    assert_eq!(admin.get("/", Some(all)).await.unwrap().kvs().len(), 1);

    // New certificates, of a new authority, are taken up without a restart.
    let authority = Authority::new(dir.path());
    ["proxy", "app"].iter().for_each(|name| authority.certify(name));
    authority.client(&endpoint, Some("app")).await.unwrap();
    program.end();

    let (status, text) = output(&["audit-log", "verify", &audit, "-k", &key]);
    assert_eq!(status, Some(0), "{text}");
    let (_, text) = output(&["audit-log", "query", &audit, "--touched", "/app/x"]);
    assert!(
        text.contains("app ") && text.contains("Put") && text.contains("PERMISSION_DENIED"),
        "{text}"
    );
    let (_, text) =
        output(&["audit-log", "query", &audit, "--method", "Put", "--outcome", "OK", "-w", "json"]);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 2, "{text}");
    assert_eq!((&found[0]["client"], &found[0]["revision"]), (&"app".into(), &3.into()), "{text}");
    assert!(!fs::read_to_string(&audit).unwrap().contains("hunter2"));

    let changed = fs::read_to_string(&audit).unwrap().replacen("/app/x", "/app/y", 1);
    fs::write(&audit, changed).unwrap();
    let (status, text) = output(&["audit-log", "verify", &audit, "-k", &key]);
    assert_eq!(status, Some(13), "{text}");
    assert!(text.contains("changed"), "{text}");
}

/// A log that cannot be written stops the requests, or does not, as configured.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_full_disk() {
    let etcd = Etcd::start(Version::NEWEST).await;
    for open in [false, true] {
        let dir = TempDir::new().unwrap();
        let (key, log) = (keyring(dir.path()), dir.path().join("audit.log"));
        let log_name = log.display().to_string();
        let prefix = format!("/strongroom-{open}/");
        init(etcd.endpoint(), &key, &prefix);
        let metrics_port =
            std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let metrics = metrics_port.to_string();
        let mut args = vec![
            "-k",
            &key,
            "--endpoints",
            etcd.endpoint(),
            "--audit-log",
            &log_name,
            "--metrics-listen",
            &metrics,
            "--reserved-prefix",
            &prefix,
            "--cluster",
            "prod",
        ];
        if open {
            args.push("--audit-fail-open");
        }
        let program = Program::start(&args);
        let mut client = Client::connect([&program.address], None).await.unwrap();
        client.put("/k", "v", None).await.unwrap();
        assert!(get(&metrics, "/readyz").starts_with("HTTP/1.1 200"));
        // No file of the process may grow from here on.
        let pid = program.child.id().to_string();
        let limit = |size: &str| {
            let args = ["--pid", &pid, &format!("--fsize={size}")];
            assert!(Command::new("prlimit").args(args).status().unwrap().success());
        };
        limit("1:unlimited");
        let put = client.put("/k", "w", None).await;
        assert_eq!(put.is_ok(), open, "{put:?}");
        assert_eq!(client.get("/k", None).await.is_ok(), open);
        let ready = get(&metrics, "/readyz");
        assert_eq!(ready.starts_with("HTTP/1.1 200"), open, "{ready}");
        limit("unlimited:unlimited");
        client.put("/k", "x", None).await.unwrap();
        assert!(get(&metrics, "/readyz").starts_with("HTTP/1.1 200"));
        let text = get(&metrics, "/metrics");
        crate::deploy::asked_for_is_there(&text, "strongroom_proxy_");
        assert!(text.contains("strongroom_proxy_audit_failures_total"), "{text}");
        assert!(text.contains(r#"method="/etcdserverpb.KV/Put",code="OK""#), "{text}");
        let series = |line: &&str| line.starts_with("strongroom_proxy_");
        assert!(
            text.lines().filter(series).all(|line| line.contains(r#"cluster="prod""#)),
            "{text}"
        );
        program.end();
        let (status, text) = output(&["audit-log", "verify", &log_name, "-k", &key]);
        assert_eq!(status, Some(3), "{text}");
        assert!(text.contains("could not be written"), "{text}");
    }
}
