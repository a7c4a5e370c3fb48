//! The whole program against an S3 server that somebody else wrote (moto).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::end_to_end::program;
use crate::etcd_server::free_ports;
use crate::support::{python, small_database};

struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    fn start() -> Self {
        let port = free_ports(1)[0];
        let server = python().get_program().to_owned();
        let server = std::path::Path::new(&server).with_file_name("moto_server");
        let child = Command::new(server)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
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

    fn request(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host = "Host: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n";
        write!(stream, "{method} {path} HTTP/1.1\r\n{host}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn program(&self) -> Command {
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

fn run(command: &mut Command) -> (i32, String, String) {
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
