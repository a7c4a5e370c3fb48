//! What `audit` measures of TLS, with OpenSSL and rustls as the servers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::audit::audit;
use crate::etcd_server::{free_ports, make_tls};
use crate::place::text;

/// A server of OpenSSL that demands a certificate; ends when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(dir: &std::path::Path, args: &[&str]) -> Server {
    let port = free_ports(1)[0];
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(["s_server", "-quiet", "-Verify", "1"]);
    command.args(["-cert", "rsa.pem", "-key", "rsa-key.pem", "-accept"]);
    command.arg(format!("127.0.0.1:{port}")).args(args);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server { child: quiet.spawn().unwrap(), port };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "openssl does not listen: {args:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// What TLS-5 and TLS-6 come to, with what was seen.
fn measured(port: u16) -> (String, String) {
    let args = ["-w", "json", "--only", "TLS-5,TLS-6"];
    let out = audit(&format!("https://127.0.0.1:{port}"), None, &args);
    let document: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", text(&out.stderr)));
    let one = |id: &str| {
        let checks = document["checks"].as_array().unwrap();
        let one = checks.iter().find(|one| one["id"] == id).unwrap();
        let seen = one["evidence"][0]["what"].as_str().or(one["why"].as_str()).unwrap();
        format!("{} {seen}", one["status"].as_str().unwrap())
    };
    (one("TLS-5"), one("TLS-6"))
}

const NONE_OLD: &str = "pass TLS 1.0 and TLS 1.1 are refused";
const NONE_WEAK: &str = "pass each weak suite of TLS 1.2 is refused";

#[test]
fn openssl_as_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("openssl");
    command.current_dir(dir.path()).args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"]);
    command.args(["-keyout", "rsa-key.pem", "-out", "rsa.pem", "-subj", "/CN=server"]);
    assert!(command.stderr(Stdio::null()).status().unwrap().success());
    // With one suite that rustls offers too, so that there is a handshake to look at.
    let with = |suite: &str| format!("{suite}:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0");
    let weak = |suite: &str| {
        let server = openssl(dir.path(), &["-tls1_2", "-cipher", &with(suite)]);
        measured(server.port)
    };
    for (suite, why) in [
        ("AES128-SHA", "no forward secrecy"),
        ("AES256-GCM-SHA384", "no forward secrecy"),
        ("ECDHE-RSA-AES128-SHA", "CBC"),
        ("NULL-SHA256", "no encryption"),
    ] {
        let found = weak(suite);
        assert_eq!(found.0, NONE_OLD, "{suite}");
        assert_eq!(found.1, format!("fail accepted: {suite} ({why})"));
    }
    assert_eq!(weak("ECDHE-RSA-AES256-GCM-SHA384"), (NONE_OLD.into(), NONE_WEAK.into()));
    for (oldest, wanted) in [("TLSv1", "TLS 1.0, TLS 1.1"), ("TLSv1.1", "TLS 1.1")] {
        let suites = with("ECDHE-RSA-AES128-SHA");
        let args = ["-min_protocol", oldest, "-max_protocol", "TLSv1.2", "-cipher", &suites];
        let server = openssl(dir.path(), &args);
        assert_eq!(measured(server.port).0, format!("fail accepted: {wanted}"));
    }
    let server = openssl(dir.path(), &["-tls1_3"]);
    assert_eq!(measured(server.port), (NONE_OLD.into(), NONE_WEAK.into()));
}

#[test]
fn rustls_as_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let tls = make_tls(dir.path());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.ca).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_file(&tls.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&tls.key).unwrap();
    let config = ServerConfig::builder().with_client_cert_verifier(clients);
    let config = Arc::new(config.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut server = ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || {
                while server.is_handshaking() {
                    if server.complete_io(&mut client).is_err() {
                        let _ = server.write_tls(&mut client);
                        break;
                    }
                }
                let _ = client.flush();
                let _ = client.shutdown(std::net::Shutdown::Write);
                let _ = client.read(&mut [0; 64]);
            });
        }
    });
    assert_eq!(measured(port), (NONE_OLD.into(), NONE_WEAK.into()));
}
