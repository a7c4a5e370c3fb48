//! What every command prints with `-w json`, against `tests/shapes.json`.
//!
//! A shape is `string`, `time`, `id`, `integer`, `number` or `boolean`, with `?` behind it if it may be null; a list of one
//! shape; or an object with exactly these fields, `{"?": shape}` if it may be null.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use strongroom::format::SnapshotId;

use crate::etcd_server::{Etcd, Version};
use crate::place::{Place, text, write_secret};
use crate::service_log::until;
use crate::support::vector;

/// Commands without a document: services, bytes on standard output, help.
const OTHERS: [&str; 12] = [
    "config example",
    "agent",
    "proxy",
    "kms-plugin",
    "key split",
    "key kit",
    "completions",
    "man",
    "help",
    "value seal",
    "value open",
    "value keyring export",
];

/// Commands that change something: what they did is told even if nothing can be written to standard output.
const CHANGES: [&str; 33] = [
    "backup",
    "copy",
    "drill",
    "init",
    "journal verify",
    "key combine",
    "key generate",
    "key generate --recipient",
    "key generate --signing",
    "key promote",
    "key prove",
    "key reencrypt",
    "key remove",
    "key reseal",
    "key rotate",
    "key rotate --finish",
    "key rotate --staged",
    "key vouch",
    "prune",
    "prune --pin",
    "prune --quarantine --seals",
    "restore --companions-to",
    "restore --data-dir",
    "restore --output",
    "restore --to-cluster",
    "value destroy",
    "value disable",
    "value enable",
    "value init",
    "value keyring import",
    "value migrate",
    "value rotate",
    "verify",
];

/// What is wrong with `value` at `at`.
fn faults(shape: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    match (shape, value) {
        (Value::String(name), _) => {
            let plain = name.strip_suffix('?');
            let fits = match (plain.unwrap_or(name), value) {
                (_, Value::Null) => plain.is_some(),
                ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => true,
                ("time", Value::String(text)) => {
                    text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
                }
                ("id", Value::String(text)) => text.parse::<SnapshotId>().is_ok(),
                ("integer", Value::Number(number)) => !number.is_f64(),
                ("number", Value::Number(_)) => true,
                _ => false,
            };
            if !fits {
                out.push(format!("{at} is {value}, not {name}"));
            }
        }
        (Value::Array(shapes), Value::Array(items)) => {
            for item in items {
                faults(&shapes[0], item, &format!("{at}[]"), out);
            }
        }
        (Value::Object(fields), _) if fields.contains_key("?") => {
            if !value.is_null() {
                faults(&fields["?"], value, at, out);
            }
        }
        (Value::Object(fields), Value::Object(found)) => {
            let names: BTreeSet<_> = fields.keys().chain(found.keys()).collect();
            for name in names {
                match (fields.get(name), found.get(name)) {
                    (Some(shape), Some(value)) => {
                        faults(shape, value, &format!("{at}.{name}"), out)
                    }
                    (Some(_), None) => out.push(format!("{at}.{name} is absent")),
                    _ => out.push(format!("{at}.{name} is in no shape")),
                }
            }
        }
        _ => out.push(format!("{at} is {value}, not {shape}")),
    }
}

#[test]
fn a_document_of_another_shape_is_named() {
    let shape = serde_json::json!({
        "id": "id", "at": "time", "none": "integer?", "list": [{"a": "string"}], "maybe": {"?": {"b": "number"}},
    });
    let good = serde_json::json!({
        "id": "01J9ZB0G7W8D5VQ3M2K4T6XYRA", "at": "2026-01-31T12:00:00Z", "none": null, "list": [{"a": ""}], "maybe": null,
    });
    let told = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut value = good.clone();
        change(value.as_object_mut().unwrap());
        let mut out = Vec::new();
        faults(&shape, &value, "x", &mut out);
        out.join(", ")
    };
    assert_eq!(told(&|_| {}), "");
    assert_eq!(told(&|map| drop(map.remove("none"))), "x.none is absent");
    assert_eq!(told(&|map| drop(map.insert("new".into(), 1.into()))), "x.new is in no shape");
    for (name, bad) in [
        ("id", Value::from("x")),
        ("at", "2026-01-31".into()),
        ("none", 0.5.into()),
        ("list", serde_json::json!([{}])),
        ("maybe", serde_json::json!({"b": null})),
        ("maybe", Value::from(1)),
    ] {
        assert!(told(&|map| drop(map.insert(name.into(), bad.clone()))).contains(name), "{name}");
    }
}

/// The program's documents, each checked as it is made.
struct Documents {
    place: Place,
    endpoint: String,
    shapes: Map<String, Value>,
    seen: BTreeSet<String>,
    changes: BTreeSet<String>,
    faults: Vec<String>,
}

impl Documents {
    fn new(etcd: &Etcd) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shapes.json");
        let shapes = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let endpoint = etcd.endpoint().to_owned();
        let (seen, changes, faults) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        Self { place: Place::new(), endpoint, shapes, seen, changes, faults }
    }

    fn check(&mut self, name: &str, document: &Value) {
        self.seen.insert(name.to_owned());
        match self.shapes.get(name) {
            Some(shape) => faults(shape, document, name, &mut self.faults),
            None => self.faults.push(format!("{name} has no shape: {document}")),
        }
    }

    /// Runs `args` with `-w json`; `name` is the shape.
    fn run(&mut self, name: &str, args: &[&str]) -> Value {
        self.run_with("file:keyring", name, args, 0)
    }

    /// First with a full disk behind standard output. A command that changes something then tells on standard error what it
    /// did; one that only shows fails, and is run again.
    fn run_with(&mut self, key: &str, name: &str, args: &[&str], status: i32) -> Value {
        let endpoint = self.endpoint.clone();
        let command = |place: &Place| {
            let mut command = place.command_with(key, &["-w", "json", "--endpoints", &endpoint]);
            command.env("STRONGROOM_PASSPHRASE_FILE", "word").args(args);
            command
        };
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = command(&self.place).stdout(full).output().unwrap();
        let (said, code) = (text(&out.stderr), out.status.code());
        let document: Value = match said.split_once("warning: it is done, but the result") {
            Some((_, rest)) => {
                assert_eq!(code, Some(if status == 0 { 3 } else { status }), "{args:?}: {said}");
                self.changes.insert(name.to_owned());
                let (_, document) = rest.split_once('\n').unwrap();
                serde_json::Deserializer::from_str(document).into_iter().next().unwrap().unwrap()
            }
            None => {
                assert_eq!(code, Some(1), "{args:?}: {said}");
                assert!(said.contains("standard output: No space left"), "{args:?}: {said}");
                let out = command(&self.place).output().unwrap();
                assert_eq!(out.status.code(), Some(status), "{args:?}: {}", text(&out.stderr));
                serde_json::from_slice(&out.stdout).unwrap()
            }
        };
        self.check(name, &document);
        document
    }

    fn backups(&mut self) -> (String, String) {
        let id = |document: Value| document["id"].as_str().unwrap().to_owned();
        let old = id(self.run("backup", &["backup", "--include", "word"]));
        let file = vector("etcd/etcd-3.5.db");
        let file = self.run("backup", &["backup", "--file", file.to_str().unwrap()]);
        (old, id(file))
    }

    fn lists(&mut self, old: &str) {
        self.run("config check", &["config", "check"]);
        self.run("snapshots", &["snapshots"]);
        self.run("show", &["show", old]);
        let other = self.place.run(&["key", "generate", "-o", "other"]);
        assert!(other.status.success());
        self.run_with("file:other", "show", &["show", old], 0);
        self.run("verify", &["verify", "--all", "--deep", "--record"]);
        self.run("verify", &["verify", "--all", "--quick"]);
        self.run_with("file:other", "verify", &["verify", "--all"], 12);
    }

    fn inside(&mut self, old: &str) {
        self.run("ls", &["ls", old, "--deleted"]);
        self.run("ls --keys-only", &["ls", old, "--keys-only"]);
        self.run("get", &["get", old, "/app/a"]);
        self.run("get", &["get", old, "/app/a", "--show-value"]);
        self.run("history", &["history", old, "/app/a"]);
        self.run("stats", &["stats", old]);
        self.run_with("file:keyring", "diff", &["diff", old, "live"], 3);
    }

    fn restores(&mut self, old: &str) {
        self.run("restore --output", &["restore", old, "--output", "etcd.db"]);
        let both = ["restore", old, "--companions-to", "c1", "--output", "etcd2.db"];
        self.run("restore --dry-run", &[&both[..], &["--dry-run"]].concat());
        self.run("restore --output", &both);
        self.run("restore --companions-to", &["restore", old, "--companions-to", "c2"]);
        let member = ["restore", old, "--data-dir", "data", "--name", "a", "--initial-cluster"];
        let members = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
        self.run("restore --dry-run", &[&member[..], &[members, "--dry-run"]].concat());
        self.run("restore --data-dir", &[&member[..], &[members]].concat());
        let keys = ["restore", old, "--to-cluster", "--prefix", "/app/"];
        self.run("restore --to-cluster --dry-run", &[&keys[..], &["--dry-run"]].concat());
        self.run("restore --to-cluster", &[&keys[..], &["--delete"]].concat());
    }

    fn jobs(&mut self, old: &str, etcd: &str) {
        let drilled = self.run("drill", &["drill", old, "--etcd", etcd]);
        self.run("reports", &["reports"]);
        self.run("reports ID", &["reports", drilled["report"].as_str().unwrap()]);
        self.run("copy", &["copy", "--to", "second"]);
        self.run("prune", &["prune", "--keep-last", "1", "--dry-run"]);
        self.run("prune", &["prune", "--keep-last", "1", "--keep-within", "1m", "--dry-run"]);
        self.run("prune", &["prune", "--remove", old]);
        let check = ["config", "check", "--for", "backup"];
        self.run("config check", &check);
        for bad in ["--level=99", "--suite=rot13"] {
            let args = [&check[..], &["--", bad]].concat();
            self.run_with("file:keyring", "config check", &args, 2);
        }
        self.run("prune --pin", &["prune", "--undo", old]);
        self.run("prune --pin", &["prune", "--unpin", old]);
        let junk = self.place.path("repo/snapshots/01J9ZB0G7W8D5VQ3M2K4T6XYRA");
        fs::create_dir(&junk).unwrap();
        fs::write(junk.join("manifest"), "junk\n").unwrap();
        self.run_with("file:keyring", "prune --quarantine", &["prune", "--quarantine"], 3);
        let name = "01J9ZB0G7W8D5VQ3M2K4T6XYRA";
        self.run("prune", &["prune", "--quarantine", name]);
        let seal = self.place.path(&format!("repo/snapshots/{old}/seal.9"));
        fs::write(seal, "junk\n").unwrap();
        let seals = ["prune", "--quarantine", old, "--seals"];
        self.run("prune --quarantine --seals", &seals);
        self.run("setup-auth", &["setup-auth", "--print"]);
    }

    fn journals(&mut self) {
        let record = ["-w", "json", "--endpoints", &self.endpoint, "journal", "record"];
        let out = fs::File::create(self.place.path("recorded")).unwrap();
        let mut child = self.place.command(&record).stdout(out).spawn().unwrap();
        let begun = Instant::now();
        while self.place.json(&["journal", "list"])["journals"][0]["segments"].as_u64() < Some(1) {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
        let recorded = fs::read(self.place.path("recorded")).unwrap();
        self.check("journal record", &serde_json::from_slice(&recorded).unwrap());
        self.run("journal list", &["journal", "list"]);
        self.run("journal verify", &["journal", "verify"]);
        self.run("journal verify", &["journal", "verify", "--deep", "--record"]);
        self.run("restore --output", &["restore", "--newest", "--output", "newest.db"]);
    }

    fn keys(&mut self) {
        self.run("key generate", &["key", "generate", "-o", "another"]);
        let generate = ["key", "generate", "-o"];
        self.run(
            "key generate --recipient",
            &[&generate[..], &["identity", "--recipient"]].concat(),
        );
        self.run("key generate --signing", &[&generate[..], &["signing", "--signing"]].concat());
        self.run("key vouch", &["--signing-key", "signing", "key", "vouch", "--all"]);
        let made = self.run_with("passphrase", "init", &["init", "-r", "third"], 0);
        assert!(made["passphrase_key"].is_string());
        write_secret(&self.place.path("word2"), "another long passphrase of mine");
        self.run("init", &["init", "-r", "fourth"]);
        self.run("key list", &["key", "list"]);
        self.run_with("passphrase", "key list", &["key", "list", "-r", "third"], 0);
        self.run("key reseal", &["key", "reseal", "--all"]);
        self.run("key prove", &["key", "prove"]);
        self.run_with("file:keyring", "key custody", &["key", "custody"], 3);
        let first = self.run("key rotate", &["key", "rotate"]);
        self.run("key rotate --finish", &["key", "rotate", "--finish"]);
        // The retired key opens the journal, which is not encrypted again itself.
        let again = ["key", "reencrypt", "--all"];
        self.run_with("file:keyring", "key reencrypt", &again, 3);
        let id = first["old"][0].as_str().unwrap().to_owned();
        self.run("key remove", &["key", "remove", &id, "--now"]);
        let split = ["key", "split", "--shares", "3", "--threshold", "2"];
        fs::write(self.place.path("pages"), self.place.succeed(&split).stdout).unwrap();
        fs::set_permissions(self.place.path("pages"), fs::Permissions::from_mode(0o600)).unwrap();
        self.run("key combine", &["key", "combine", "-o", "combined", "pages"]);
        let staged = self.run("key rotate --staged", &["key", "rotate", "--staged"]);
        let id = staged["id"].as_str().unwrap().to_owned();
        self.run("key promote", &["key", "promote", &id, "--at", "2100-01-01T00:00:00Z"]);
    }

    fn values(&mut self) {
        self.run("value init", &["value", "init"]);
        let settle = ["--settle", "1ms"];
        let admit = ["value", "migrate", "--prefix", "/app/", "--phase", "admit"];
        self.run("value migrate", &[&admit[..], &settle].concat());
        self.run("value status", &["value", "status"]);
        self.run("value rotate", &["value", "rotate", "--older-than", "1d"]);
        let status = self.run("value status", &["value", "status"]);
        self.run("value rotate", &["value", "rotate", "--settle", "1ms"]);
        let id = status["keys"][0]["id"].as_str().unwrap().to_owned();
        self.run("value disable", &["value", "disable", &id]);
        self.run("value enable", &["value", "enable", &id]);
        self.run("value disable", &["value", "disable", &id]);
        self.run("value destroy", &["value", "destroy", &id]);
        let endpoint = self.endpoint.clone();
        let export = ["--endpoints", &endpoint, "value", "keyring", "export", "-o", "exported"];
        self.place.succeed(&export);
        self.run("value keyring import", &["value", "keyring", "import", "exported"]);
    }

    fn audit_log(&mut self) {
        let mut proxy = self.place.command(&["proxy", "--endpoints", &self.endpoint]);
        proxy.args(["--listen", "127.0.0.1:0", "--audit-log", "audit.log"]);
        let lines = until(&mut proxy, self.place.dir.path(), |log| {
            let Some((_, rest)) = log.split_once("listen=\"") else { return false };
            let address = rest.split_once('"').unwrap().0.to_owned();
            let put = Version::NEWEST
                .program("etcdctl")
                .args(["--endpoints", &address, "put", "/q", "v"])
                .output();
            put.unwrap().status.success()
        });
        assert!(!lines.is_empty());
        self.run("audit-log verify", &["audit-log", "verify", "audit.log"]);
        self.run("audit-log query", &["audit-log", "query", "audit.log"]);
        let log = fs::read_to_string(self.place.path("audit.log")).unwrap();
        fs::write(
            self.place.path("audit.log"),
            log.replacen("put", "pat", 1).replacen("/q", "/r", 1).replacen("Put", "Pat", 1),
        )
        .unwrap();
        self.run_with(
            "file:keyring",
            "audit-log verify",
            &["audit-log", "verify", "audit.log"],
            13,
        );
    }

    fn audit(&mut self) {
        let waiver =
            "[[waiver]]\nid = \"NET-6\"\nreason = \"used\"\nby = \"ops\"\nuntil = \"2000-01-01\"\n";
        fs::write(self.place.path("waivers"), waiver).unwrap();
        let all = ["audit", "--scope", "live,repository", "--report", "--waivers", "waivers"];
        self.run_with("file:keyring", "audit", &all, 3);
        let again = self.run_with("file:keyring", "audit", &all, 3);
        assert!(again["since"]["report"].is_string());
        self.run("audit --list", &["audit", "--list"]);
        let before = ["upgrade-check", "--to", "3.7", "--save", "before.json"];
        let document = self.run_with("file:keyring", "upgrade-check", &before, 3);
        assert!(document["plan"]["order"].is_array());
        let after = ["upgrade-check", "--after", "before.json"];
        assert!(self.run("upgrade-check", &after)["plan"].is_null());
    }

    fn errors(&mut self) {
        for args in [&["show", "ZZZZ"][..], &["restore", "latest", "--output", "etcd.db"]] {
            let out = self.place.command(&["-w", "json"]).args(args).output().unwrap();
            assert!(!out.status.success(), "{args:?}");
            let error = serde_json::from_slice(&out.stderr).unwrap();
            self.check("error", &error);
        }
    }
}

/// The commands that help names.
fn commands(place: &Place, path: &[&str]) -> Vec<String> {
    let out = place.succeed(&[path, &["-h"]].concat());
    let text = text(&out.stdout);
    let Some((_, list)) = text.split_once("Commands:\n") else { return vec![path.join(" ")] };
    let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty()).then_some(name)
    });
    names
        .filter(|name| *name != "help")
        .flat_map(|name| commands(place, &[path, &[name]].concat()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_has_its_shape() {
    let etcd = Etcd::start(Version::NEWEST).await;
    etcd.fill(5, 100).await;
    for (key, value) in [("/app/a", "1"), ("/app/a", "2"), ("/app/b\n", "3"), ("/app/c", "4")] {
        etcd.put(key, value).await;
    }
    etcd.etcdctl(&["del", "/app/c"]);
    let secret = "/registry/secrets/default/s";
    etcd.put(secret, "k8s:enc:aescbc:v1:key1:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx").await;
    let mut documents = Documents::new(&etcd);
    write_secret(&documents.place.path("word"), "a long passphrase of mine, for tests");
    let (old, _) = documents.backups();
    etcd.put("/app/a", "5").await;
    etcd.put("/app/new", "6").await;
    documents.lists(&old);
    documents.inside(&old);
    documents.restores(&old);
    documents.journals();
    documents.jobs(&old, Version::NEWEST.programs().join("etcd").to_str().unwrap());
    documents.errors();
    documents.audit();
    documents.values();
    documents.audit_log();
    documents.keys();
    assert!(documents.faults.is_empty(), "{}", documents.faults.join("\n"));
    assert_eq!(documents.changes, CHANGES.map(str::to_owned).into());
    // Every shape is seen, and every command is among them.
    let shapes: BTreeSet<_> = documents.shapes.keys().cloned().collect();
    assert_eq!(shapes, documents.seen);
    for command in commands(&documents.place, &[]) {
        let is_command =
            |name: &String| *name == command || name.starts_with(&format!("{command} "));
        let known = shapes.iter().any(is_command) || OTHERS.contains(&&*command);
        // Changes what no document says.
        assert!(known || command == "key passphrase", "no document of {command} is checked");
    }
}
