//! The whole program against an S3 server that somebody else wrote (moto).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::end_to_end::program;
use crate::etcd_server::{Tls, free_ports, make_tls};
use crate::support::{python, small_database};

pub struct Moto {
    child: Child,
    pub port: u16,
}

impl Moto {
    pub fn start() -> Self {
        Self::spawn(|port| {
            let server = python().get_program().to_owned();
            let server = std::path::Path::new(&server).with_file_name("moto_server");
            let mut command = Command::new(server);
            command.args(["-H", "127.0.0.1", "-p", port]);
            command
        })
    }

    /// Over TLS, and with the query string of STS's requests understood, as AWS does.
    fn with_tls(tls: &Tls) -> Self {
        Self::spawn(|port| {
            let mut command = python();
            command.args(["-c", MOTO_OVER_TLS, port]).arg(&tls.cert).arg(&tls.key);
            command
        })
    }

    fn spawn(command: impl FnOnce(&str) -> Command) -> Self {
        let port = free_ports(1)[0];
        let child = command(&port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto: run scripts/get-tools");
        let moto = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "moto does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        moto
    }

    pub fn request(&self, method: &str, path: &str) -> String {
        self.request_with(method, path, "")
    }

    pub fn request_with(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host =
            format!("Host: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        write!(stream, "{method} {path} HTTP/1.1\r\n{host}\r\n{body}").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn program(&self) -> Command {
        let mut command = program();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "the-secret-access-key");
        command
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_program_on_s3() {
    let moto = Moto::start();
    let dir = tempfile::tempdir().unwrap();
    let key = |name: &str| dir.path().join(name).display().to_string();
    for name in ["keyring", "recovery"] {
        assert_eq!(run(moto.program().args(["key", "generate", "-o", &key(name)])).0, 0);
    }
    let keyring = format!("file:{}", key("keyring"));
    let recovery = format!("file:{}", key("recovery"));
    let both = ["-k", &keyring, "-k", &recovery];
    let on = |args: &[&str]| {
        run(moto.program().args(["-r", "s3://backups/some/prefix", "-k", &keyring]).args(args))
    };

    let (code, _, error) = on(&["init"]);
    assert_ne!(code, 0);
    assert!(error.contains("bucket"), "a missing bucket is called one: {error}");
    assert!(!error.contains("the-secret-access-key"));
    assert!(moto.request("PUT", "/backups").starts_with("HTTP/1.1 200"));
    assert_eq!(on(&["snapshots"]).0, 10);
    let (code, _, error) = on(&["init"]);
    assert_eq!(code, 0, "{error}");

    let database = small_database();
    let (code, _, error) = on(&["backup", "--file", database.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(on(&["verify", "--all"]).0, 0);
    assert_eq!(on(&["verify", "--all", "--digests"]).0, 0);
    let (code, _, error) = run(moto
        .program()
        .args(["-r", "s3://backups/some/prefix"])
        .args(both)
        .args(["key", "reseal", "--all"]));
    assert_eq!(code, 0, "{error}");
    let out = key("etcd.db");
    let (code, _, error) = run(moto
        .program()
        .args(["-r", "s3://backups/some/prefix", "-k", &format!("file:{}", key("recovery"))])
        .args(["restore", "latest", "--output", &out]));
    assert_eq!(code, 0, "{error}");
    assert_eq!(fs::read(out).unwrap(), fs::read(database).unwrap());

    let listing = moto.request("GET", "/backups?list-type=2");
    assert_eq!(listing.matches("/seal.").count(), 1, "the older seal is gone: {listing}");

    // Keys that are no paths, and some that differ from an object's in a slash or blank, hide nothing ([S3.1.1]).
    let (_, listed, _) = on(&["snapshots", "-w", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    for name in [
        "snapshots//x",
        "snapshots/%01",
        &format!("snapshots/{id}/a//b"),
        &format!("snapshots/{id}/payload/"),
        &format!("snapshots/{id}/index%20"),
    ] {
        let path = format!("/backups/some/prefix/{name}");
        let answer = moto.request_with("PUT", &path, "junk");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Folders, as the web consoles of stores make them.
    for name in ["", "snapshots/", &format!("snapshots/{id}/")] {
        moto.request("PUT", &format!("/backups/some/prefix/{name}"));
    }
    let (_, _, findings) = on(&["snapshots"]);
    for (finding, count) in [
        ("snapshots//x: unknown object".to_owned(), 1),
        (format!("{id}/a//b: unknown object"), 1),
        (format!("{id}/payload/: unknown object"), 1),
        (format!("{id}/index : unknown object"), 1),
        ("unknown object".to_owned(), 5),
    ] {
        assert_eq!(findings.matches(&finding).count(), count, "{finding}: {findings}");
    }
    let again = key("again.db");
    let (code, _, error) = on(&["restore", "latest", "--output", &again]);
    assert_eq!(code, 0, "{error}");
    let (code, plan, error) = on(&["prune", "--keep-last", "1", "-w", "json"]);
    assert_eq!(code, 0, "{error}");
    assert!(plan.contains(id), "{plan}");
    drop(moto);
}

#[test]
fn an_s3_that_is_not_there_is_worth_retrying() {
    let mut command = program();
    command
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", free_ports(1)[0]))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "the-secret-access-key");
    let (code, _, error) = run(command.args(["-r", "s3://backups", "snapshots"]));
    assert_eq!(code, 4, "{error}");
    assert!(!error.contains("the-secret-access-key"));
}

/// A private CA for the store, and IRSA: a token file that STS turns into credentials, over TLS of that CA too.
#[test]
fn a_private_ca_and_web_identity() {
    let dir = tempfile::tempdir().unwrap();
    let tls = make_tls(dir.path());
    let moto = Moto::with_tls(&tls);
    let url = format!("https://127.0.0.1:{}", moto.port);
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("token"), "a.web.token").unwrap();
    let created = python()
        .args(["-c", CREATE_BUCKET, &url, "backups"])
        .env("AWS_CA_BUNDLE", &tls.ca)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .status()
        .unwrap();
    assert!(created.success());
    let config = |ca: bool| {
        let mut text = String::from("[repository]\nurl = \"s3://backups/irsa\"\n");
        if ca {
            text += &format!("[repository.options]\nca_certificate = \"{}\"\n", tls.ca.display());
        }
        let path = path(if ca { "with.toml" } else { "without.toml" });
        fs::write(&path, text).unwrap();
        path
    };
    let on = |config: &str, args: &[&str]| {
        let mut command = moto.program();
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env_remove("AWS_ALLOW_HTTP")
            .env("AWS_ENDPOINT_URL", &url)
            .env("AWS_ENDPOINT_URL_STS", &url)
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", path("token"))
            .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/backup")
            .env("STRONGROOM_CONFIG", config);
        run(command.args(args))
    };
    let (with, without) = (config(true), config(false));
    let (code, _, error) = on(&without, &["init"]);
    assert_ne!(code, 0, "a CA that nobody trusts");
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let keyring = format!("file:{}", path("keyring"));
    for args in [
        &["key", "generate", "-o", &path("keyring")][..],
        &["init"],
        &["-k", &keyring, "backup", "--file", small_database().to_str().unwrap()],
        &["-k", &keyring, "verify", "latest"],
    ] {
        let (code, _, error) = on(&with, args);
        assert_eq!(code, 0, "{args:?}: {error}");
    }
}

const MOTO_OVER_TLS: &str = "
import io, sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
moto = DomainDispatcherApplication(create_backend_app)
def app(environ, start):
    query = environ.get('QUERY_STRING', '')
    if query.startswith('Action='):
        environ.update({'wsgi.input': io.BytesIO(query.encode()), 'CONTENT_LENGTH': str(len(query)),
                        'CONTENT_TYPE': 'application/x-www-form-urlencoded', 'QUERY_STRING': ''})
    return moto(environ, start)
run_simple('127.0.0.1', int(sys.argv[1]), app, threaded=True, ssl_context=(sys.argv[2], sys.argv[3]))
";

const CREATE_BUCKET: &str = "
import sys, boto3
boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1').create_bucket(Bucket=sys.argv[2])
";
