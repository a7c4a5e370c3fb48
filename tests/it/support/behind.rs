//! The program as a proxy before a real etcd, and programs in other languages that are its clients.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::etcd_server::{Etcd, Version, free_ports};
use crate::proxy_gate::{keyring, output};

/// etcd with a value keyring in it, and what a proxy before it needs.
pub(crate) struct Behind {
    pub(crate) etcd: Etcd,
    pub(crate) dir: TempDir,
    pub(crate) key: String,
}

impl Behind {
    pub(crate) fn new(etcd: Etcd) -> Self {
        let dir = TempDir::new().unwrap();
        let behind = Self { etcd, key: keyring(dir.path()), dir };
        let (status, text) = behind.run(&["value", "init"]);
        assert_eq!(status, Some(0), "{text}");
        behind
    }

    /// One member.
    pub(crate) fn start(version: Version) -> Self {
        Self::new(blocking(Etcd::start(version)))
    }

    /// One member with TLS, whose only client is the proxy.
    pub(crate) fn start_with_tls(version: Version) -> Self {
        Self::new(blocking(Etcd::builder(version).with_tls().start()))
    }

    fn settings(&self) -> Vec<String> {
        let settings = self.etcd.settings();
        let mut args = vec!["-k".into(), self.key.clone()];
        args.extend(["--endpoints".into(), settings.endpoints.join(",")]);
        for (flag, file) in
            [("--cacert", settings.cacert), ("--cert", settings.cert), ("--key", settings.key)]
        {
            args.extend(file.map(|file| format!("{flag}={}", file.display())));
        }
        args
    }

    /// Runs the program with the settings of this etcd.
    pub(crate) fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let settings = self.settings();
        output(&[args, &settings.iter().map(String::as_str).collect::<Vec<_>>()].concat())
    }

    /// A proxy at a port of its own.
    pub(crate) fn proxy(&self, args: &[&str]) -> Proxy {
        Proxy::start(self.settings(), args, self.dir.path())
    }

    /// All bytes that etcd stored, those of deleted keys too.
    pub(crate) fn database(&self) -> Vec<u8> {
        self.etcd.etcdctl(&["defrag"]);
        std::fs::read(self.etcd.database(0)).unwrap()
    }

    /// That nothing of what clients wrote is stored without encryption: they mark all their values.
    pub(crate) fn assert_encrypted(&self) {
        assert!(!contains(&self.database(), b"plaintext"), "an unencrypted value");
    }
}

pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

pub(crate) fn blocking<F: Future>(future: F) -> F::Output {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// `strongroom proxy`, which can be killed and started again at the same address.
pub(crate) struct Proxy {
    pub(crate) address: String,
    command: Command,
    child: Child,
}

impl Proxy {
    fn start(settings: Vec<String>, args: &[&str], dir: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_ports(1)[0]);
        let log = File::create(dir.join(format!("proxy-{address}.log"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(["proxy", "--listen", &address]).args(settings).args(args);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut proxy = Self { address, command, child };
        proxy.wait();
        proxy
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while std::net::TcpStream::connect(&self.address).is_err() {
            assert_eq!(self.child.try_wait().unwrap(), None, "the proxy ended");
            assert!(begun.elapsed() < Duration::from_secs(20), "the proxy does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = self.command.spawn().unwrap();
        self.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client's program that stops where it needs the test: it prints a line then, and goes on when it reads one.
pub(crate) struct Talk {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Talk {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(crate) fn wait_for(&mut self, expected: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected);
    }

    pub(crate) fn go_on(&mut self) {
        self.say("");
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Says a line and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str, expected: &str) {
        self.say(line);
        self.wait_for(expected);
    }

    /// What it prints until its end.
    pub(crate) fn end(mut self) -> String {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        text
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program prints that needs no test to go on.
pub(crate) fn printed(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A file under `tests/clients`.
pub(crate) fn client(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Go, in the directory of one of the programs under `tests/clients`.
pub(crate) fn go(directory: &str) -> Command {
    let go = std::env::var_os("STRONGROOM_TEST_GO").unwrap_or_else(|| "go".into());
    let mut command = Command::new(go);
    // A work tree has no history that Go could write into the program.
    command.env("GOFLAGS", "-buildvcs=false").current_dir(client(directory)).stdin(Stdio::null());
    command
}

/// The program of `tests/clients/go`, built once.
pub(crate) fn go_client(command: &str) -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-clients");
        let built = go("go").args(["build", "-o"]).arg(&program).arg(".").status();
        assert!(built.expect("go runs").success(), "tests/clients/go does not build");
        program
    });
    let mut line = Command::new(program);
    line.arg(command);
    line
}
