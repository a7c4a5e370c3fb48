//! A KMS plugin that runs, and a client of Kubernetes' KMS v2 API that knows nothing of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::end_to_end::{program, run};
use crate::raw::{Answer, Raw};

/// A field of bytes. Those of KMS v2 are shorter than 16 KiB.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    [&[number << 3 | 2, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8][..], bytes].concat()
}

/// Fields 1 to `N` of an answer.
pub fn fields<const N: usize>(mut message: &[u8]) -> [Vec<u8>; N] {
    let mut found = std::array::from_fn(|_| Vec::new());
    while let [tag, rest @ ..] = message {
        let long = usize::from(rest[0] >= 0x80);
        let length = usize::from(rest[0] & 0x7f)
            + long * (usize::from(rest.get(1).copied().unwrap_or(0)) << 7);
        let (bytes, rest) = rest[1 + long..].split_at(length);
        found[usize::from(tag >> 3) - 1] = bytes.to_vec();
        message = rest;
    }
    found
}

/// What `Status` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub version: String,
    pub healthz: String,
    pub key_id: String,
}

/// What `Encrypt` answers.
#[derive(Clone, Debug)]
pub struct Encrypted {
    pub ciphertext: Vec<u8>,
    pub key_id: String,
    /// The map's one entry, or nothing.
    pub annotation: Vec<u8>,
}

/// A connection to a plugin.
pub struct Client(pub Raw);

impl Client {
    pub async fn connect(socket: &Path) -> Self {
        Self(Raw::over(UnixStream::connect(socket).await.unwrap(), "localhost").await)
    }

    pub async fn call(&self, method: &str, message: &[u8]) -> Answer {
        self.0.call(&format!("/v2.KeyManagementService/{method}"), message).await
    }

    pub async fn status(&self) -> Status {
        let answer = self.call("Status", b"").await;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let [version, healthz, key_id] = fields(answer.assert_ok("Status")).map(text);
        Status { version, healthz, key_id }
    }

    /// The ciphertext, and the id of the key.
    pub async fn encrypt(&self, plaintext: &[u8]) -> (Vec<u8>, String) {
        let encrypted = self.encrypt_annotated(plaintext).await;
        assert!(encrypted.annotation.is_empty());
        (encrypted.ciphertext, encrypted.key_id)
    }

    pub async fn encrypt_annotated(&self, plaintext: &[u8]) -> Encrypted {
        let request = [field(1, plaintext), field(2, b"uid-1")].concat();
        let answer = self.call("Encrypt", &request).await;
        let [ciphertext, key_id, annotation] = fields(answer.assert_ok("Encrypt"));
        Encrypted { ciphertext, key_id: String::from_utf8(key_id).unwrap(), annotation }
    }

    pub async fn try_decrypt_annotated(&self, encrypted: &Encrypted) -> Answer {
        let Encrypted { ciphertext, key_id, annotation } = encrypted;
        let request = [field(1, ciphertext), field(2, b"uid-2"), field(3, key_id.as_bytes())];
        self.call("Decrypt", &[&request.concat()[..], &field(4, annotation)].concat()).await
    }

    pub async fn decrypt_annotated(&self, encrypted: &Encrypted) -> Vec<u8> {
        let answer = self.try_decrypt_annotated(encrypted).await;
        let [plaintext] = fields(answer.assert_ok("Decrypt"));
        plaintext
    }

    pub async fn try_decrypt(&self, ciphertext: &[u8], key_id: &str) -> Answer {
        let request = [field(1, ciphertext), field(2, b"uid-2"), field(3, key_id.as_bytes())];
        self.call("Decrypt", &request.concat()).await
    }

    pub async fn decrypt(&self, ciphertext: &[u8], key_id: &str) -> Vec<u8> {
        let answer = self.try_decrypt(ciphertext, key_id).await;
        let [plaintext] = fields(answer.assert_ok("Decrypt"));
        plaintext
    }
}

/// The variables of a plugin.
pub type Variables = Vec<(&'static str, String)>;

/// One control-plane node: its plugin, and its keyring file if the key is not that of a service.
pub struct Node {
    pub dir: TempDir,
    key: String,
    variables: Variables,
    child: Child,
}

impl Node {
    /// With a keyring of its own.
    pub async fn new(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run(program().current_dir(dir.path()).args(["key", "generate", "-o", "keyring"]));
        Self::with(dir, "file:keyring", &[], args).await
    }

    /// With a key that a service keeps.
    pub async fn of_service(
        key: &str,
        variables: &[(&'static str, String)],
        args: &[&str],
    ) -> Self {
        Self::with(tempfile::tempdir().unwrap(), key, variables, args).await
    }

    /// With a copy of the keyring of `other`.
    pub async fn beside(other: &Self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(other.path("keyring"), dir.path().join("keyring")).unwrap();
        Self::with(dir, "file:keyring", &[], &[]).await
    }

    async fn with(
        dir: TempDir,
        key: &str,
        variables: &[(&'static str, String)],
        args: &[&str],
    ) -> Self {
        let child = spawn(dir.path(), key, variables, args);
        let node = Self { dir, key: key.into(), variables: variables.to_vec(), child };
        node.ready().await;
        node
    }

    async fn ready(&self) {
        let begun = Instant::now();
        while UnixStream::connect(self.path("kms.sock")).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.path("kms.sock")).await
    }

    /// Runs `strongroom -k file:keyring` here; what it prints.
    pub fn key(&self, args: &[&str]) -> String {
        let mut command = program();
        run(command
            .current_dir(self.dir.path())
            .args(["-k", "file:keyring", "-w", "json"])
            .args(args))
    }

    /// Copies the keyring to `other`, in one step as it should be done.
    pub fn copy_to(&self, other: &Self) {
        fs::copy(self.path("keyring"), other.path("keyring.new")).unwrap();
        fs::rename(other.path("keyring.new"), other.path("keyring")).unwrap();
    }

    /// Ends the plugin with `signal`; whether it ended well.
    pub fn end(&mut self, signal: &str) -> bool {
        let pid = self.child.id().to_string();
        run(std::process::Command::new("kill").args([signal, &pid]));
        self.child.wait().unwrap().success()
    }

    pub fn signal(&self, signal: &str) {
        run(std::process::Command::new("kill").args([signal, &self.child.id().to_string()]));
    }

    /// Starts it again after it has ended.
    pub async fn start(&mut self) {
        self.child = spawn(self.dir.path(), &self.key, &self.variables, &[]);
        self.ready().await;
    }
}

fn spawn(dir: &Path, key: &str, variables: &[(&str, String)], args: &[&str]) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    let listen = format!("unix://{}/kms.sock", dir.display());
    let mut command = program();
    command.current_dir(dir).args(["kms-plugin", "-k", key, "--listen", &listen]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.args(args).stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
