//! A throwaway etcd on loopback. It serves every secret there is, so it takes no client without a certificate, and the
//! only one is in the scratch directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};

use super::DrillOptions;
use super::child::Child;
use super::guard::{GUARD, guard};
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{Choice, EtcdSettings, choose_member};
use crate::text::clean;

pub(super) const NAME: &str = "drill";

/// How long etcd may take to answer: it reads all keys before it does.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long it may take to tell its version.
const VERSION: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// etcd's own default, below which a larger database raises an alarm.
const QUOTA: u64 = 8 << 30;
/// Bytes of etcd's log that an error looks at.
const LOG_TAIL: u64 = 4096;

pub(super) struct ScratchEtcd {
    program: PathBuf,
    client_port: u16,
    peer_port: u16,
    settings: EtcdSettings,
    child: Option<Child>,
    /// Last, so that etcd has been killed when it goes.
    place: Place,
}

/// The version that `etcd --version` tells, such as `3.5.16`.
pub(super) async fn version(program: &Path) -> Result<String> {
    let mut ask = tokio::process::Command::from(command(program));
    let asked = tokio::time::timeout(VERSION, ask.arg("--version").kill_on_drop(true).output());
    let asked = asked.await.map_err(|_| {
        let message = format!("{} --version does not answer within 10 s", program.display());
        Error::new(ErrorKind::Io, message).hint("a drill starts etcd: name it with --etcd")
    })?;
    let output = asked.map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{}: {error}", program.display()))
            .hint("a drill starts etcd: install it, or name it with --etcd")
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    let version = version.map(|version| clean(version.trim()));
    version.ok_or_else(|| {
        Error::unsupported(format!("{} does not print etcd's version", program.display()))
    })
}

/// `program` without settings meant for another etcd.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let foreign = |name: &OsString| name.to_string_lossy().starts_with("ETCD_");
    std::env::vars_os().map(|(name, _)| name).filter(foreign).for_each(|name| {
        command.env_remove(name);
    });
    command.stdin(Stdio::null());
    command
}

impl ScratchEtcd {
    /// A directory for a database of `bytes`, ports and certificates; nothing runs yet.
    pub(super) fn plan(options: &DrillOptions, bytes: u64) -> Result<Self> {
        if guard().is_some_and(|guard| !Path::new(guard).exists()) {
            return Err(Error::new(ErrorKind::Io, "a drill needs /proc, and it is not mounted"));
        }
        let place = Place::new(options.dir.as_deref(), bytes)?;
        let tls = make_tls(place.path())?;
        let [client_port, peer_port] =
            free_ports().map_err(|error| Error::io("loopback", error))?;
        let settings = EtcdSettings {
            endpoints: vec![format!("https://127.0.0.1:{client_port}")],
            cacert: Some(tls.ca),
            cert: Some(tls.cert),
            key: Some(tls.key),
            allow_untested: options.allow_untested,
            ..EtcdSettings::default()
        };
        let program = options.etcd.clone();
        Ok(Self { program, client_port, peer_port, settings, child: None, place })
    }

    pub(super) fn dir(&self) -> &Path {
        self.place.path()
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.place.path().join("data")
    }

    pub(super) fn initial_cluster(&self) -> String {
        format!("{NAME}={}", self.peer_url())
    }

    pub(super) fn settings(&self) -> &EtcdSettings {
        &self.settings
    }

    fn peer_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.peer_port)
    }

    fn log(&self) -> PathBuf {
        self.place.path().join("etcd.log")
    }

    /// Starts etcd from the data directory, whose database is `bytes` long, and waits until it serves.
    pub(super) async fn start(&mut self, bytes: u64) -> Result<Choice> {
        self.child = Some(Child::spawn(self.command(bytes)?)?);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.as_ref().and_then(Child::ended) {
                return Err(self.died(&format!("it ended with {status}")));
            }
            match choose_member(&self.settings).await {
                Ok(choice) if choice.member.leader => return Ok(choice),
                Err(error) if Instant::now() > deadline => {
                    return Err(self.died(&error.to_string()));
                }
                Ok(_) if Instant::now() > deadline => return Err(self.died("it finds no leader")),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn command(&self, bytes: u64) -> Result<Command> {
        let client_url = format!("https://127.0.0.1:{}", self.client_port);
        let peer_url = self.peer_url();
        let mut command = match guard() {
            Some(guard) => {
                let mut guarded = command(Path::new(guard));
                guarded.arg(GUARD).arg(std::process::id().to_string()).arg(&self.program);
                guarded
            }
            None => command(&self.program),
        };
        command.args(["--name", NAME, "--data-dir"]).arg(self.data_dir());
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &self.initial_cluster()]);
        command.args(["--quota-backend-bytes", &QUOTA.max(2 * bytes).to_string()]);
        command.args(["--client-cert-auth", "--peer-client-cert-auth"]);
        let EtcdSettings { cacert, cert, key, .. } = &self.settings;
        for (name, path) in [("trusted-ca-file", cacert), ("cert-file", cert), ("key-file", key)] {
            for prefix in ["--", "--peer-"] {
                command.arg(format!("{prefix}{name}")).args(path);
            }
        }
        let log = File::create(self.log()).map_err(|error| Error::io(self.log(), error))?;
        let again = log.try_clone().map_err(|error| Error::io(self.log(), error))?;
        command.stdout(log).stderr(again);
        Ok(command)
    }

    /// That etcd did not start, with the last words of its log.
    fn died(&self, what: &str) -> Error {
        let tail = || {
            let mut log = File::open(self.log())?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            let mut tail = Vec::new();
            log.take(LOG_TAIL).read_to_end(&mut tail)?;
            Ok::<_, std::io::Error>(tail)
        };
        let tail = tail().unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        let fatal =
            text.lines().rev().find(|line| line.contains("fatal") || line.contains("panic"));
        let last = clean(fatal.or(text.lines().next_back()).unwrap_or_default());
        Error::new(ErrorKind::Io, format!("the scratch etcd does not serve: {what}; {last}"))
    }
}

/// Two ports that were free a moment ago.
fn free_ports() -> std::io::Result<[u16; 2]> {
    let (first, second) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok([first.local_addr()?.port(), second.local_addr()?.port()])
}

struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// A certificate for both ends, and the authority that signed it and whose key is forgotten.
fn make_tls(dir: &Path) -> Result<Tls> {
    let made = || {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".into()])?;
        leaf.distinguished_name = DistinguishedName::new();
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = leaf.signed_by(&key, &issuer)?;
        Ok::<_, rcgen::Error>([ca_cert.pem(), cert.pem(), key.serialize_pem()])
    };
    let texts = made().map_err(|error| {
        Error::new(ErrorKind::Io, "no certificate for the drill").because(error)
    })?;
    let paths = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
    for (path, text) in paths.iter().zip(&texts) {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| Error::io(path, error))?;
    }
    let [ca, cert, key] = paths;
    Ok(Tls { ca, cert, key })
}
