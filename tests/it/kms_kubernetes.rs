//! The KMS plugin and the code of Kubernetes' API server (`k8s.io/apiserver`, `k8s.io/kms`), as `tests/clients/kmsv2` runs it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::behind::go;
use crate::kms::Node;
use crate::place::{Place, exits};
use crate::support::small_database;
use crate::transit_double::{TOKEN, Transit};

/// The program of `tests/clients/kmsv2`, built once.
pub fn kubernetes() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kmsv2");
        let built = go("kmsv2").args(["build", "-o"]).arg(&program).arg(".").status();
        assert!(built.expect("go runs").success(), "tests/clients/kmsv2 does not build");
        program
    }))
}

/// What of an API server encrypts.
struct ApiServer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl ApiServer {
    fn start(node: &Node) -> Self {
        let config = node.path("encryption.yaml");
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [secrets]\n  providers:\n  - kms: {{apiVersion: v2, name: strongroom, endpoint: \"unix://{}\"}}\n",
            node.path("kms.sock").display()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(node.path("apiserver.log")).unwrap();
        let mut command = kubernetes();
        command.arg("client").arg(&config).stderr(log);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, requests, answers };
        let begun = Instant::now();
        while server.ask("health") != "ok" {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", server.ask("health"));
            std::thread::sleep(Duration::from_millis(500));
        }
        server
    }

    fn ask(&mut self, request: &str) -> String {
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn write(&mut self, path: &str, value: &str) -> String {
        self.ask(&format!("write {path} {value}"))
    }

    fn read(&mut self, path: &str, stored: &str) -> String {
        self.ask(&format!("read {path} {stored}"))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: it builds what of Kubernetes' API server encrypts, and waits for its minutes"]
async fn long_kubernetes_encrypts_through_three_plugins() {
    let first = Node::new(&[]).await;
    let (second, third) = (Node::beside(&first).await, Node::beside(&first).await);
    let mut nodes = [first, second, third];
    let mut servers = [0, 1, 2].map(|node| ApiServer::start(&nodes[node]));
    let copy = |nodes: &[Node; 3]| nodes[1..].iter().for_each(|node| nodes[0].copy_to(node));

    // Each server reads what the others wrote.
    let mut stored = Vec::new();
    for (at, server) in servers.iter_mut().enumerate() {
        for n in 0..20 {
            let path = format!("/registry/secrets/default/s{at}-{n}");
            let value = format!("secret-{at}-{n}");
            let bytes = server.write(&path, &value);
            assert!(!bytes.starts_with("error"), "{bytes}");
            stored.push((path, value, bytes));
        }
    }
    for server in &mut servers {
        for (path, value, bytes) in &stored {
            assert_eq!(server.read(path, bytes), format!("fresh {value}"));
        }
        let (path, _, bytes) = &stored[0];
        let moved = server.read(&format!("{path}-moved"), bytes);
        assert!(moved.starts_with("error"), "{moved}");
    }

    // A staged rotation: what was fresh becomes stale once on each server, a minute after the time at the latest.
    let staged = nodes[0].key(&["key", "rotate", "--staged"]);
    let staged = serde_json::from_str::<serde_json::Value>(&staged).unwrap()["id"].clone();
    copy(&nodes);
    let at = jiff::Timestamp::now().as_second() + 20;
    let time = jiff::Timestamp::from_second(at).unwrap().to_string();
    nodes[0].key(&["key", "promote", staged.as_str().unwrap(), "--at", &time]);
    copy(&nodes);
    let mut seen = [const { Vec::new() }; 3];
    let until = at + 130;
    while jiff::Timestamp::now().as_second() < until {
        let mut written = Vec::new();
        for server in &mut servers {
            written.push(server.write("/registry/secrets/default/during", "rotation"));
        }
        for (server, seen) in servers.iter_mut().zip(&mut seen) {
            let (path, value, bytes) = &stored[0];
            let now = jiff::Timestamp::now().as_second();
            let read = server.read(path, bytes);
            let (freshness, read) = read.split_once(' ').unwrap();
            assert_eq!(read, value);
            seen.push((now, freshness == "stale"));
            for bytes in &written {
                let read = server.read("/registry/secrets/default/during", bytes);
                assert!(read.ends_with(" rotation"), "{read}");
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for seen in &seen {
        let changed = seen.iter().position(|(_, stale)| *stale).expect("it became stale");
        assert!(
            seen[changed..].iter().all(|(_, stale)| *stale),
            "stale, and fresh again: {seen:?}"
        );
        let late = seen[changed].0 - at;
        println!("stale {late} s after the time");
        assert!((0..=65).contains(&late), "{late}");
    }

    // A plugin that is away: reads go on, writes end three minutes after the last good status, and begin again.
    nodes[0].end("-KILL");
    let killed = Instant::now();
    let (mut refused, mut waited) = (None, 0);
    while killed.elapsed() < Duration::from_secs(240) {
        let (path, value, bytes) = &stored[waited % 20];
        assert_eq!(servers[0].read(path, bytes), format!("stale {value}"));
        let wrote = servers[0].write("/registry/secrets/default/away", "x");
        match (wrote.starts_with("error"), refused) {
            (true, None) => refused = Some(killed.elapsed().as_secs()),
            (false, Some(_)) => panic!("it wrote again without a plugin"),
            _ => {}
        }
        waited += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("writes refused after {refused:?} s");
    assert!((110..=240).contains(&refused.expect("writes were refused")));
    nodes[0].start().await;
    let begun = Instant::now();
    // gRPC tries to connect again every two minutes by then.
    while servers[0].write("/registry/secrets/default/back", "x").starts_with("error") {
        assert!(begun.elapsed() < Duration::from_secs(240), "{}", servers[0].ask("health"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("writes accepted again after {} s", begun.elapsed().as_secs());
}

/// Kubernetes' own code as a plugin, and this project's as its client.
struct GoPlugin {
    child: Child,
    socket: PathBuf,
}

impl GoPlugin {
    async fn start(socket: &Path) -> Self {
        let child = kubernetes().arg("serve").arg(socket).stdin(Stdio::null()).spawn().unwrap();
        let plugin = Self { child, socket: socket.to_owned() };
        let begun = Instant::now();
        while tokio::net::UnixStream::connect(socket).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It leaves the mode to the umask.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).unwrap();
        plugin
    }

    fn uri(&self) -> String {
        format!("kmsv2:go@unix://{}", self.socket.display())
    }
}

impl Drop for GoPlugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Backups, and the KMS plugin of this project, with a key that a plugin written on `k8s.io/kms` keeps.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: it builds what of Kubernetes' API server encrypts"]
async fn long_a_plugin_of_kubernetes_own_code_keeps_the_key() {
    let place = Place::new();
    let plugin = GoPlugin::start(&place.path("kms.sock")).await;
    let database = small_database();
    let backup = ["backup", "--file", database.to_str().unwrap()];
    exits(0, &mut place.command_with(&plugin.uri(), &backup));
    let alone = |args: &[&str]| place.command_with(&plugin.uri(), args);
    exits(0, &mut alone(&["verify", "latest"]));
    let listed = exits(0, &mut alone(&["key", "list"]));
    assert!(listed.contains("kmsv2:go"), "{listed}");
    let node = Node::of_service(&plugin.uri(), &[], &[]).await;
    let client = node.client().await;
    let encrypted = client.encrypt_annotated(&[7; 32]).await;
    assert_eq!(client.decrypt_annotated(&encrypted).await, [7; 32]);
    let key_id = client.status().await.key_id;
    assert_eq!(key_id, encrypted.key_id);
    // Its key lives as long as it does: the next one has another, and opens nothing of the first.
    let socket = plugin.socket.clone();
    drop(plugin);
    let plugin = GoPlugin::start(&socket).await;
    let out = place.command_with(&plugin.uri(), &["verify", "latest"]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(12), "{said}");
    assert!(said.contains("key or annotations are not those of Encrypt"), "{said}");
    exits(0, &mut place.command_with(&plugin.uri(), &backup));
    let status = client.status().await;
    assert_eq!(status.healthz, "ok");
    assert_ne!(status.key_id, key_id);
}

/// Kubernetes' API server and the plugin with a key of a service: rotated there, and down for four minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: it waits for the minutes of Kubernetes' API server"]
async fn long_kubernetes_encrypts_with_a_key_of_a_service() {
    let transit = Transit::start().await;
    let variables = vec![("VAULT_TOKEN", TOKEN.to_owned())];
    let key = transit.uri("kubernetes");
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(Node::of_service(&key, &variables, &[]).await);
    }
    let mut servers: Vec<_> = nodes.iter().map(ApiServer::start).collect();
    let mut stored = Vec::new();
    for (at, server) in servers.iter_mut().enumerate() {
        let (path, value) = (format!("/registry/secrets/default/s{at}"), format!("secret-{at}"));
        let bytes = server.write(&path, &value);
        assert!(!bytes.starts_with("error"), "{bytes}");
        stored.push((path, value, bytes));
    }
    let read_all = |servers: &mut Vec<ApiServer>, stored: &[(String, String, String)]| {
        let reads = servers.iter_mut().flat_map(|server| {
            let read = |(path, value, bytes): &(String, String, String)| {
                let read = server.read(path, bytes);
                assert!(read.ends_with(&format!(" {value}")), "{read}");
                read.starts_with("stale")
            };
            stored.iter().map(read).collect::<Vec<_>>()
        });
        reads.collect::<Vec<_>>()
    };
    assert_eq!(read_all(&mut servers, &stored), [false; 4]);
    transit.rotate();
    let begun = Instant::now();
    while read_all(&mut servers, &stored) != [true; 4] {
        assert!(begun.elapsed() < Duration::from_secs(75), "the rotation is not seen");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("stale {} s after the rotation", begun.elapsed().as_secs());
    let fresh = servers[0].write("/registry/secrets/default/fresh", "new");
    assert_eq!(servers[1].read("/registry/secrets/default/fresh", &fresh), "fresh new");
    // Down: reads go on, writes end three minutes after the last good status, and begin again.
    transit.fault(Some((503, "Vault is sealed")));
    let (down, mut refused) = (Instant::now(), None);
    while down.elapsed() < Duration::from_secs(240) {
        read_all(&mut servers, &stored);
        if servers[0].write("/registry/secrets/default/away", "x").starts_with("error") {
            refused.get_or_insert(down.elapsed().as_secs());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("writes refused after {refused:?} s: {}", servers[0].ask("health"));
    assert!((110..=240).contains(&refused.expect("writes were refused")));
    assert!(servers[0].ask("health").contains("Vault is sealed"));
    transit.fault(None);
    let back = Instant::now();
    while servers[0].write("/registry/secrets/default/back", "x").starts_with("error") {
        assert!(back.elapsed() < Duration::from_secs(120), "{}", servers[0].ask("health"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("writes accepted again after {} s", back.elapsed().as_secs());
}
