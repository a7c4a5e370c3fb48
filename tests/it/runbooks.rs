//! The guide's runbooks, run as they stand there: only places and addresses are replaced.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use strongroom::datadir::StaticPod;

use crate::end_to_end::{Booted, program, run};
use crate::etcd_server::{Version, free_ports};
use crate::journal::Recording;
use crate::place::{Place, text};

/// The shell commands below the mark `<!-- runbook: name -->`.
fn runbook(name: &str) -> String {
    let guide = include_str!("../../src/guide/restore.md");
    let (_, rest) = guide.split_once(&format!("<!-- runbook: {name} -->\n```sh\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Three nodes as kubeadm sets them up, each a directory with its own root, and their kubelets.
struct Nodes {
    place: Place,
    version: Version,
    clients: Vec<u16>,
    peers: Vec<u16>,
    running: Vec<Option<Child>>,
}

impl Nodes {
    fn new(version: Version) -> Self {
        let ports = free_ports(6);
        let (clients, peers) = ports.split_at(3);
        let nodes = Self {
            place: Place::new(),
            version,
            clients: clients.into(),
            peers: peers.into(),
            running: vec![None, None, None],
        };
        for node in 0..3 {
            for dir in ["etc/kubernetes/manifests", "var/lib", "root"] {
                fs::create_dir_all(nodes.root(node).join(dir)).unwrap();
            }
            let all: Vec<_> = (0..3).map(|at| format!("cp{}={}", at + 1, nodes.peer(at))).collect();
            let manifests = nodes.manifests(node);
            fs::write(manifests.join("kube-apiserver.yaml"), "").unwrap();
            fs::write(manifests.join("etcd.yaml"), nodes.pod(node, &all.join(","))).unwrap();
        }
        nodes
    }

    fn root(&self, node: usize) -> PathBuf {
        self.place.path(&format!("node{node}"))
    }

    fn manifests(&self, node: usize) -> PathBuf {
        self.root(node).join("etc/kubernetes/manifests")
    }

    fn peer(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.peers[node])
    }

    fn client(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.clients[node])
    }

    fn pod(&self, node: usize, cluster: &str) -> String {
        let (client, peer) = (self.client(node), self.peer(node));
        let data = self.root(node).join("var/lib/etcd");
        let data = data.display();
        let name = format!("cp{}", node + 1);
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: etcd, namespace: kube-system}}\nspec:\n  containers:\n  - command:\n    - etcd\n    \
             - --name={name}\n    - --data-dir={data}\n    - --listen-client-urls={client}\n    - --advertise-client-urls={client}\n    \
             - --listen-peer-urls={peer}\n    - --initial-advertise-peer-urls={peer}\n    - --initial-cluster={cluster}\n    name: etcd\n    \
             volumeMounts:\n    - {{mountPath: {data}, name: etcd-data}}\n  volumes:\n  - hostPath: {{path: {data}, type: DirectoryOrCreate}}\n    name: etcd-data\n"
        )
    }

    /// What a kubelet does: runs what has a manifest, with the command in it.
    fn kubelet(&mut self, node: usize, more: &[&str]) {
        let manifest = self.manifests(node).join("etcd.yaml");
        let Ok(yaml) = fs::read_to_string(manifest) else {
            if let Some(mut child) = self.running[node].take() {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            return;
        };
        StaticPod::parse(&yaml).unwrap();
        let flags = yaml.lines().filter_map(|line| line.trim().strip_prefix("- --"));
        let mut etcd = self.version.program("etcd");
        etcd.args(flags.map(|flag| format!("--{flag}"))).args(more);
        let child = etcd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.running[node] = Some(child);
    }

    /// A runbook's lines on `node`, its paths below that node's root.
    fn lines(&self, node: usize, script: &str) -> Vec<String> {
        let root = self.root(node).display().to_string();
        let mut script = script.to_owned();
        for at in 0..3 {
            let ip = format!("https://10.0.0.{}", at + 1);
            script = script.replace(&format!("{ip}:2380"), &self.peer(at));
            script = script.replace(&format!("{ip}:2379"), &self.client(at));
        }
        for path in ["/etc/kubernetes", "/var/lib", "/root"] {
            script = script.replace(path, &format!("{root}{path}"));
        }
        script.replace("\\\n", " ").lines().map(str::to_owned).collect()
    }

    /// Runs one line.
    fn line(&self, line: &str) -> Output {
        let ours = program();
        let mut command = Command::new("sh");
        command.args(["-euc", line]).current_dir(self.place.dir.path());
        let dirs = [Path::new(ours.get_program()).parent().unwrap(), &self.version.programs()];
        command.env("PATH", format!("{}:{}:/usr/bin:/bin", dirs[0].display(), dirs[1].display()));
        command.env("STRONGROOM_REPOSITORY", "repo").env("STRONGROOM_MASTER_KEY", "file:keyring");
        command.env("STRONGROOM_CONFIG", "/dev/null").env("ETCDCTL_API", "3");
        command.output().unwrap()
    }

    /// Runs a runbook on `node`.
    fn sh(&mut self, node: usize, script: &str) -> String {
        let mut said = String::new();
        for line in self.lines(node, script) {
            let out = self.line(&line);
            said += &(text(&out.stdout) + &text(&out.stderr));
            assert!(out.status.success(), "{line}: {said}");
            // The kubelet acts while the lines are typed.
            let there = self.manifests(node).join("etcd.yaml").exists();
            if !there {
                self.kubelet(node, &[]);
            }
        }
        said
    }

    /// Runs a line that must exit with `code`.
    fn fails(&self, node: usize, code: i32, script: &str) -> String {
        let out = self.line(&self.lines(node, script).concat());
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{said}");
        said
    }

    fn ctl(&self, node: usize) -> Command {
        let mut ctl = self.version.program("etcdctl");
        ctl.args(["--endpoints", &self.client(node)]);
        ctl
    }

    fn healthy(&self, node: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.ctl(node).args(["endpoint", "health"]).output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "node {node} is not healthy");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn put(&self, node: usize, key: &str, value: &str) {
        run(self.ctl(node).args(["put", key, value]));
    }

    fn get(&self, node: usize, key: &str) -> String {
        run(self.ctl(node).args(["get", key, "--print-value-only"])).trim().to_owned()
    }

    /// All nodes up, with data, and backed up.
    fn up(version: Version) -> Self {
        let mut nodes = Self::new(version);
        (0..3).for_each(|node| nodes.kubelet(node, &[]));
        (0..3).for_each(|node| nodes.healthy(node));
        nodes.put(0, "/registry/secrets/default/a", "the secret");
        nodes.place.succeed(&["--endpoints", &nodes.client(0), "backup"]);
        nodes
    }

    fn kill(&mut self, node: usize) {
        let mut child = self.running[node].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Records until everything so far is stored.
fn record(nodes: &Nodes, during: impl FnOnce()) {
    let recording = Recording::start_at(&nodes.place, &nodes.client(0));
    during();
    std::thread::sleep(Duration::from_millis(2500));
    recording.stop();
}

#[test]
fn a_namespace_deleted() {
    let version = Version::NEWEST;
    let mut nodes = Nodes::up(version);
    let moment = RefCell::new(String::new());
    let objects: Vec<_> = (0..40)
        .flat_map(|n| ["configmaps", "secrets", "apps/deployments"].map(|kind| (kind, n)))
        .map(|(kind, n)| format!("/registry/{kind}/shop/{n}"))
        .chain(["/registry/namespaces/shop".into()])
        .collect();
    record(&nodes, || {
        for object in &objects {
            nodes.put(0, object, &format!("of {object}"));
        }
        nodes.put(0, "/registry/configmaps/shop-of-others/a", "before");
        std::thread::sleep(Duration::from_millis(300));
        *moment.borrow_mut() = jiff::Timestamp::now().to_string();
        std::thread::sleep(Duration::from_millis(300));
        for kind in ["configmaps", "secrets", "apps/deployments"] {
            run(nodes.ctl(0).args(["del", "--prefix", &format!("/registry/{kind}/shop/")]));
        }
        run(nodes.ctl(0).args(["del", "/registry/namespaces/shop"]));
        nodes.put(0, "/registry/configmaps/shop-of-others/a", "after");
    });
    assert_eq!(nodes.get(0, &objects[0]), "");
    let begun = Instant::now();
    let script = runbook("deleted namespace").replace("2026-11-26T09:11:55Z", &moment.borrow());
    nodes.sh(0, &script);
    println!("the namespace is back after {:.1} s", begun.elapsed().as_secs_f64());
    for object in &objects {
        assert_eq!(nodes.get(1, object), format!("of {object}"));
    }
    assert_eq!(nodes.get(1, "/registry/configmaps/shop-of-others/a"), "after");
}

#[test]
fn all_nodes_lost_and_the_newest_revision_restored() {
    for version in Version::ENDS {
        let mut nodes = Nodes::up(version);
        record(&nodes, || nodes.put(0, "/registry/pods/default/later", "than the snapshot"));
        (0..3).for_each(|node| nodes.kill(node));
        let begun = Instant::now();
        let script = runbook("newest, find it");
        let (moved, find) = script.split_once('\n').unwrap();
        nodes.sh(0, moved);
        // It tells what to restore, and does not.
        let said = nodes.fails(0, 2, find);
        let rest = said.split_once("strongroom restore ").unwrap().1;
        let mut words = rest.split_whitespace();
        let (id, revision) = (words.next().unwrap(), words.nth(1).unwrap());
        let restore = runbook("newest, on each node");
        let restore = restore.replace("$ID", id).replace("$REVISION", revision);
        for node in 0..3 {
            fs::remove_dir_all(nodes.root(node).join("var/lib/etcd")).unwrap();
            if node > 0 {
                nodes.sh(node, moved);
            }
            nodes.sh(node, &restore);
        }
        for node in 0..3 {
            nodes.sh(node, &runbook("kubeadm, then on each node"));
            nodes.kubelet(node, &[]);
        }
        (0..3).for_each(|node| nodes.healthy(node));
        println!(
            "three nodes of {} serve after {:.1} s",
            version.name(),
            begun.elapsed().as_secs_f64()
        );
        for node in 0..3 {
            assert_eq!(nodes.get(node, "/registry/pods/default/later"), "than the snapshot");
        }
        assert_eq!(run(nodes.ctl(0).args(["member", "list"])).lines().count(), 3);
    }
}

#[test]
fn kubeadm_all_data_lost() {
    for version in Version::ENDS {
        let mut nodes = Nodes::up(version);
        for node in 0..3 {
            fs::remove_dir_all(nodes.root(node).join("var/lib/etcd/member")).unwrap();
            let said = nodes.sh(node, &runbook("kubeadm, on each node"));
            assert!(said.contains("list again"), "{said}");
        }
        for node in 0..3 {
            nodes.sh(node, &runbook("kubeadm, then on each node"));
            nodes.kubelet(node, &[]);
        }
        (0..3).for_each(|node| nodes.healthy(node));
        for node in 0..3 {
            assert_eq!(nodes.get(node, "/registry/secrets/default/a"), "the secret");
        }
        let listed = run(nodes.ctl(0).args(["member", "list"]));
        assert_eq!(listed.lines().count(), 3, "{listed}");
    }
}

#[test]
fn quorum_lost_and_members_added() {
    for version in Version::ENDS {
        let mut nodes = Nodes::up(version);
        nodes.put(0, "/registry/pods/default/later", "than the backup");
        // A member that has not heard of a write yet cannot save it.
        let revision = |nodes: &Nodes, node| nodes.get(node, "/registry/pods/default/later");
        assert_eq!(revision(&nodes, 0), "than the backup");
        nodes.kill(1);
        nodes.kill(2);
        // Until the survivor knows that it is alone.
        std::thread::sleep(Duration::from_secs(5));
        let said = nodes.sh(0, &runbook("quorum loss, on the survivor"));
        assert!(said.contains("knows no leader"), "{said}");
        nodes.kubelet(0, &[]);
        nodes.healthy(0);
        assert_eq!(nodes.get(0, "/registry/pods/default/later"), "than the backup");
        assert_eq!(run(nodes.ctl(0).args(["member", "list"])).lines().count(), 1);

        // The next runbook, for a node that never was a member of this cluster.
        let add = runbook("one lost member");
        let add = add.lines().find(|line| line.contains("member add")).unwrap();
        nodes.sh(0, add);
        fs::remove_dir_all(nodes.root(1).join("var/lib/etcd")).unwrap();
        let cluster = format!("cp1={},cp2={}", nodes.peer(0), nodes.peer(1));
        fs::write(nodes.manifests(1).join("etcd.yaml"), nodes.pod(1, &cluster)).unwrap();
        nodes.kubelet(1, &["--initial-cluster-state", "existing"]);
        nodes.healthy(1);
        assert_eq!(nodes.get(1, "/registry/pods/default/later"), "than the backup");
    }
}

#[test]
fn one_member_lost() {
    for version in Version::ENDS {
        let mut nodes = Nodes::up(version);
        nodes.kill(1);
        fs::remove_dir_all(nodes.root(1).join("var/lib/etcd")).unwrap();
        let listed = run(nodes.ctl(0).args(["member", "list"]));
        let lost = listed.lines().find(|line| line.contains("cp2")).unwrap();
        let lost = lost.split(',').next().unwrap();
        // etcd takes no new member while it has not seen the others for a while, as after its own start.
        std::thread::sleep(Duration::from_secs(6));
        nodes.sh(0, &runbook("one lost member").replace("$LOST", lost));
        nodes.kubelet(1, &["--initial-cluster-state", "existing"]);
        nodes.healthy(1);
        assert_eq!(nodes.get(1, "/registry/secrets/default/a"), "the secret");
    }
}

#[test]
fn k3s_paths() {
    let version = Version::NEWEST;
    let mut nodes = Nodes::up(version);
    let server = nodes.root(0).join("var/lib/rancher/k3s/server");
    fs::create_dir_all(server.join("db")).unwrap();
    fs::create_dir_all(server.join("cred")).unwrap();
    fs::write(server.join("token"), "K10secret").unwrap();
    fs::write(server.join("cred/encryption-config.json"), "{}").unwrap();
    nodes.sh(0, &runbook("k3s, the backup"));
    fs::remove_file(server.join("token")).unwrap();
    // Companions come back under the absolute names they had, which here begin with the node's root.
    nodes.sh(0, &runbook("k3s, the restore"));
    assert_eq!(fs::read_to_string(server.join("token")).unwrap(), "K10secret");
    let dir = nodes.place.path("stock");
    fs::create_dir(&dir).unwrap();
    let booted = Booted::from(version, &server.join("db/restore.db"), &dir);
    let mut ctl = version.program("etcdctl");
    ctl.args(["--endpoints", &booted.endpoint, "get", "/registry/secrets/default/a"]);
    assert!(run(&mut ctl).contains("the secret"));
}
