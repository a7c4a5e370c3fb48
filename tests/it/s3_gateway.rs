//! A faulty gateway before an S3 server, and what the program makes of its faults.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::end_to_end::program;
use crate::etcd_server::free_ports;
use crate::place::long_database;
use crate::program_on_s3::{Moto, run};
use crate::support::small_database;

pub struct Request {
    pub method: String,
    pub target: String,
    /// The header's lines, but for `Connection`.
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    fn lists(&self) -> bool {
        self.target.contains("list-type=2")
    }

    fn creates(&self) -> bool {
        self.method == "PUT" && self.head.to_lowercase().contains("if-none-match")
    }
}

/// An answer: status line and header, then the body.
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn new(status: &str, body: &str) -> Self {
        Self { head: format!("HTTP/1.1 {status}\r\n"), body: body.into() }
    }

    fn error(status: &str, code: &str) -> Self {
        Self::new(status, &format!("<Error><Code>{code}</Code><Message>no</Message></Error>"))
    }

    fn replace(mut self, from: &str, to: &str) -> Self {
        self.body = String::from_utf8(self.body).unwrap().replace(from, to).into();
        self
    }
}

/// Listens for as long as the tests run; `rule` makes of each request an answer, or none.
pub fn gateway(rule: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let rule = Arc::new(rule);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let rule = Arc::clone(&rule);
            std::thread::spawn(move || {
                let Some(request) = read(&socket) else { return };
                let Some(answer) = rule(&request) else { return };
                let length = if request.method == "HEAD" {
                    String::new()
                } else {
                    format!("Content-Length: {}\r\n", answer.body.len())
                };
                let head = format!("{}{length}Connection: close\r\n\r\n", answer.head);
                let mut socket = &socket;
                let _ = socket.write_all(&[head.as_bytes(), &answer.body].concat());
            });
        }
    });
    url
}

fn read(socket: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let lower = line.to_lowercase();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if !lower.starts_with("connection:") {
            head += &line;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, head, body })
}

/// What `backend` answers to `request`, with another target.
fn ask(backend: u16, request: &Request, target: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", backend)).unwrap();
    let head = format!(
        "{} {target} HTTP/1.1\r\n{}Connection: close\r\n\r\n",
        request.method, request.head
    );
    stream.write_all(&[head.as_bytes(), &request.body].concat()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let lower = line.to_lowercase();
        if line.trim().is_empty() {
            break;
        }
        let is_dropped = lower.starts_with("connection:")
            || (lower.starts_with("content-length:") && request.method != "HEAD");
        if !is_dropped {
            head += &line;
        }
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    Answer { head, body }
}

fn pass(backend: u16, request: &Request) -> Answer {
    ask(backend, request, &request.target)
}

/// A bucket of moto's with a repository, and the program on it through a gateway.
struct Lab {
    moto: Moto,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { moto: Moto::start(), dir: tempfile::tempdir().unwrap() };
        lab.moto.request("PUT", "/backups");
        lab.succeed(None, &["key", "generate", "-o", &lab.path("keyring")]);
        lab.succeed(None, &["init"]);
        lab
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn command(&self, gateway: Option<&str>, args: &[&str]) -> Command {
        let mut command = self.moto.program();
        if let Some(url) = gateway {
            command.env("AWS_ENDPOINT_URL", url);
        }
        command.args(["-r", "s3://backups/p", "-k", &format!("file:{}", self.path("keyring"))]);
        command.args(args);
        command
    }

    fn on(&self, gateway: &str, args: &[&str]) -> (i32, String, String) {
        run(&mut self.command(Some(gateway), args))
    }

    fn succeed(&self, gateway: Option<&str>, args: &[&str]) -> String {
        let (code, out, error) = run(&mut self.command(gateway, args));
        assert_eq!(code, 0, "{args:?}: {error}");
        out
    }

    fn backup(&self, gateway: Option<&str>) {
        self.succeed(gateway, &["backup", "--file", small_database().to_str().unwrap()]);
    }

    fn count(&self, gateway: Option<&str>) -> usize {
        let out = self.succeed(gateway, &["-w", "json", "snapshots"]);
        serde_json::from_str::<serde_json::Value>(&out).unwrap().as_array().unwrap().len()
    }
}

#[test]
fn a_listing_is_complete_or_an_error() {
    let lab = Lab::new();
    let port = lab.moto.port;
    for _ in 0..3 {
        lab.backup(None);
    }
    // As a server does that knows the first version of the request alone.
    let first_version = gateway(move |request| {
        let mut target = request.target.clone();
        if request.lists() {
            target = target.replace("list-type=2", "max-keys=5").replace("continuation-token", "x");
        }
        Some(ask(port, request, &target))
    });
    // One that says it is at the end when it is not.
    let short = gateway(move |request| {
        let target = request.target.replace("list-type=2", "list-type=2&max-keys=3");
        let answer = ask(port, request, &target);
        Some(if request.lists() {
            answer
                .replace("<IsTruncated>true", "<IsTruncated>false")
                .replace("NextContinuationToken", "X")
        } else {
            answer
        })
    });
    let keeps_last = &["prune", "--keep-last", "1"];
    for args in [&["snapshots"][..], keeps_last, &["verify", "--all"]] {
        let (code, _, error) = lab.on(&first_version, args);
        assert!(code == 1 && error.contains("not complete"), "{args:?}: {code} {error}");
    }
    assert_eq!(lab.count(Some(&short)), 3);
    // Pages that lead to nowhere.
    for empty in [false, true] {
        let loops = gateway(move |request| {
            let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
            let kept = query.split('&').filter(|part| !part.starts_with("continuation-token"));
            let target = format!("{path}?{}", kept.collect::<Vec<_>>().join("&"));
            let answer = ask(port, request, &target);
            if !request.lists() {
                return Some(answer);
            }
            let token = "<NextContinuationToken>x</NextContinuationToken></ListBucketResult>";
            let answer = answer
                .replace("<IsTruncated>false", "<IsTruncated>true")
                .replace("</ListBucketResult>", token);
            Some(if empty { answer.replace("Contents>", "Other>") } else { answer })
        });
        let begun = Instant::now();
        let (code, _, error) = lab.on(&loops, &["snapshots"]);
        assert!(code == 1 && error.contains("never ends"), "{code} {error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    // A place is made a repository only if its listings can be followed.
    let (code, _, error) =
        run(lab.command(Some(&first_version), &["init"]).args(["-r", "s3://backups/q"]));
    assert!(code == 1 && error.contains("listing cannot be used"), "{code} {error}");
    lab.succeed(None, &["verify", "--all"]);
    assert_eq!(lab.count(None), 3);
}

/// What was done although its answer was lost, and what was refused for the moment.
#[test]
fn answers_that_are_lost_cost_nothing() {
    let lab = Lab::new();
    let port = lab.moto.port;
    fs::write(lab.path("etcd.db"), long_database(9 << 20)).unwrap();
    let conflicts = AtomicUsize::new(0);
    let conflict = gateway(move |request| {
        Some(if request.creates() && conflicts.fetch_add(1, Ordering::SeqCst) < 4 {
            Answer::error("409 Conflict", "ConditionalRequestConflict")
        } else {
            pass(port, request)
        })
    });
    lab.backup(Some(&conflict));
    // Every create is done, and every first answer lost.
    let puts = AtomicUsize::new(0);
    let lost_put = gateway(move |request| {
        let answer = pass(port, request);
        let is_lost = request.creates() && puts.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if is_lost { None } else { Some(answer) }
    });
    lab.backup(Some(&lost_put));
    // The upload is complete, its answer lost; asked again, the store knows no such upload.
    let completed = AtomicUsize::new(0);
    let lost_complete = gateway(move |request| {
        if request.method != "POST" || !request.target.contains("uploadId") {
            return Some(pass(port, request));
        }
        if completed.fetch_add(1, Ordering::SeqCst) > 0 {
            return Some(Answer::error("404 Not Found", "NoSuchUpload"));
        }
        pass(port, request);
        Some(Answer::new("504 Gateway Timeout", "<html>"))
    });
    lab.succeed(Some(&lost_complete), &["backup", "--file", &lab.path("etcd.db")]);
    // One that is not complete is not taken for one.
    let never = gateway(move |request| {
        let completes = request.method == "POST" && request.target.contains("uploadId");
        Some(if completes {
            Answer::error("404 Not Found", "NoSuchUpload")
        } else {
            pass(port, request)
        })
    });
    let (code, ..) = lab.on(&never, &["backup", "--file", &lab.path("etcd.db")]);
    assert_ne!(code, 0);
    assert_eq!(lab.count(None), 3);
    lab.succeed(None, &["verify", "--all"]);
}

#[test]
fn hints_say_what_to_do() {
    let lab = Lab::new();
    let port = lab.moto.port;
    let refused = |status: &'static str, code: &'static str| {
        gateway(move |_| Some(Answer::error(status, code)))
    };
    let snapshots = &["snapshots"][..];
    for (url, args, says) in [
        (refused("403 Forbidden", "RequestTimeTooSkewed"), snapshots, "set the clock"),
        (refused("400 Bad Request", "ExpiredToken"), snapshots, "get new ones"),
        (refused("403 Forbidden", "InvalidAccessKeyId"), snapshots, "access key"),
        (refused("403 Forbidden", "SignatureDoesNotMatch"), snapshots, "secret key"),
        (refused("400 Bad Request", "KMS.DisabledException"), snapshots, "KMS key"),
        (
            gateway(|_| Some(Answer::new("200 OK", "<html>Sign in</html>"))),
            snapshots,
            "not a repository: repository.json begins with \"<html>Sign in",
        ),
    ] {
        let (code, _, error) = lab.on(&url, args);
        assert!(code != 0 && error.contains(says), "{says}: {error}");
    }
    let denied = gateway(move |request| {
        let writes = matches!(&*request.method, "PUT" | "POST");
        Some(if writes {
            Answer::error("403 Forbidden", "AccessDenied")
        } else {
            pass(port, request)
        })
    });
    let (_, _, error) = lab.on(&denied, &["backup", "--file", small_database().to_str().unwrap()]);
    assert!(error.contains("aws_server_side_encryption"), "{error}");
    let unknown = gateway(move |request| {
        Some(if request.creates() {
            Answer::error("501 Not Implemented", "NotImplemented")
        } else {
            pass(port, request)
        })
    });
    let ignoring = gateway(move |request| {
        let kept = |line: &&str| !line.to_lowercase().starts_with("if-none-match");
        let head = request.head.split_inclusive('\n').filter(kept).collect();
        let (method, target, body) =
            (request.method.clone(), request.target.clone(), request.body.clone());
        Some(pass(port, &Request { method, target, head, body }))
    });
    for (url, says) in [(unknown, "If-None-Match"), (ignoring, "--trust-store")] {
        let (code, _, error) =
            run(lab.command(Some(&url), &["init"]).args(["-r", "s3://backups/q"]));
        assert!(code == 1 && error.contains(says), "{says}: {error}");
    }
}

#[test]
fn a_proxy_that_is_down_is_named_and_no_proxy_heeded() {
    let lab = Lab::new();
    let dead = format!("http://user:hunter2@127.0.0.1:{}", free_ports(1)[0]);
    let with = |pairs: &[(&str, &str)]| {
        let mut command = lab.command(None, &["snapshots"]);
        run(command.env_remove("NO_PROXY").env_remove("no_proxy").envs(pairs.iter().copied()))
    };
    let host = format!("10.0.0.0/8, 127.0.0.1:{}", lab.moto.port);
    for list in ["*", &host, "127.0.0.0/8"] {
        let (code, _, error) = with(&[("HTTP_PROXY", &dead), ("NO_PROXY", list)]);
        assert_eq!(code, 0, "{list}: {error}");
    }
    let (code, _, error) = with(&[("ALL_PROXY", "socks5://127.0.0.1:1")]);
    assert!(code == 2 && error.contains("ALL_PROXY"), "{error}");
    // Longest, since it is tried again and again.
    let (code, _, error) = with(&[("HTTP_PROXY", &dead)]);
    assert!(code == 4 && error.contains("through the proxy http://127.0.0.1:"), "{error}");
    assert!(error.contains("HTTP_PROXY") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_metadata_service_that_hangs_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bare = |pairs: &[(&str, &str)]| {
        let mut command = program();
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_"))
        {
            command.env_remove(name);
        }
        run(command.envs(pairs.iter().copied()).args(["-r", "s3://backups/p", "snapshots"]))
    };
    let begun = Instant::now();
    let (code, _, error) = bare(&[("AWS_METADATA_ENDPOINT", &url)]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("no credentials") && error.contains(&url[7..]), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    let (code, _, error) =
        bare(&[("AWS_METADATA_ENDPOINT", &url), ("AWS_EC2_METADATA_DISABLED", "true")]);
    assert!(code == 1 && error.contains("AWS_EC2_METADATA_DISABLED"), "{error}");
}

/// What no check foresaw is one line and exit 70. Here: credentials that make no header, from a metadata service.
#[test]
fn a_panic_is_one_line() {
    let metadata = gateway(|request| {
        let credentials = "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"b\",\"Token\":\"hunter2\\u0001\",\
                           \"Expiration\":\"2099-01-01T00:00:00Z\"}";
        Some(match &*request.target {
            "/latest/meta-data/iam/security-credentials/role" => Answer::new("200 OK", credentials),
            _ => Answer::new("200 OK", "role"),
        })
    });
    let mut command = program();
    command.env("AWS_METADATA_ENDPOINT", metadata).env("AWS_REGION", "us-east-1");
    command.env_remove("AWS_ACCESS_KEY_ID").env("RUST_BACKTRACE", "1");
    let (code, _, error) = run(command.args(["-r", "s3://backups/p", "snapshots"]));
    assert_eq!(code, 70, "{error}");
    assert!(error.contains("internal error") && error.lines().count() == 1, "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

/// Whatever stands in the environment: exit 2 with the variable's name, never a panic.
#[test]
fn no_value_of_the_environment_panics() {
    let on = |url: &str, name: &str, value: &str| {
        let mut command = program();
        command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        command.env("AWS_REGION", "us-east-1").env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", free_ports(1)[0]));
        command.env("AZURE_STORAGE_ACCOUNT_NAME", "a").env("AZURE_STORAGE_ACCOUNT_KEY", "YQ==");
        command.env("GOOGLE_SKIP_SIGNATURE", "true").env("RUST_BACKTRACE", "1");
        run(command.env(name, value).args(["-r", url, "snapshots"]))
    };
    for (url, name, value) in [
        ("s3://b/p", "AWS_ENDPOINT_URL", "minio.example:9000"),
        ("s3://b/p", "AWS_ENDPOINT_URL", "http://"),
        ("s3://b/p", "AWS_REGION", "us east"),
        ("s3://b/p", "AWS_SECRET_ACCESS_KEY", "a\nb"),
        ("s3://b/p", "AWS_SESSION_TOKEN", "a\u{e9}b"),
        ("s3://b/p", "HTTPS_PROXY", "http://"),
        ("gs://b/p", "GOOGLE_BASE_URL", "gcs.example:1"),
        ("gs://b/p", "GOOGLE_BEARER_TOKEN", "a\rb"),
        ("az://b/p", "AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:99999"),
        ("az://b/p", "AZURE_STORAGE_ACCOUNT_NAME", "a b"),
        ("az://b/p", "AZURE_STORAGE_SAS_KEY", "a\nb\n"),
    ] {
        let (code, _, error) = on(url, name, value);
        assert_eq!(code, 2, "{name}={value:?}: {error}");
        assert!(error.contains(name) && !error.contains("panicked"), "{name}: {error}");
    }
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "a token\n").unwrap();
    let name = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    let (code, _, error) = on("s3://b/p", name, token.path().to_str().unwrap());
    assert!(code == 2 && error.contains(name), "{error}");
    // What another program's bucket is called does not matter, and an empty variable is not set.
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    for (url, name, value, code) in [
        ("s3://b/../c", "X", "x", 2),
        ("s3://b/%2e%2e/c", "X", "x", 2),
        (dir, "AWS_ENDPOINT_URL", "x", 10),
    ] {
        assert_eq!(on(url, name, value).0, code, "{url} {name}");
    }
}
