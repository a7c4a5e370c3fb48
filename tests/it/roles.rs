//! The roles writer, keeper and recoverer with the policies in scripts/deploy/policies, against a real S3 server behind an
//! evaluator of those policies: Allow, Deny, wildcards and the three conditions that they use.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use serde_json::Value;

use crate::blind::exits_with;
use crate::deploy::deploy;
use crate::end_to_end::program;
use crate::place::{Place, exits};
use crate::s3_server::{ACCESS_KEY, Allows, Flavour, SECRET_KEY, Seen, start, start_allowing};
use crate::support::small_database;

const ROLES: [&str; 3] = ["writer", "keeper", "recoverer"];

fn policy(name: &str) -> Value {
    let text = fs::read_to_string(deploy(&format!("policies/{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// One value, or a list of them.
fn all(value: &Value) -> Vec<String> {
    let one = |value: &Value| value.as_str().unwrap().to_owned();
    value.as_array().map_or_else(|| vec![one(value)], |list| list.iter().map(one).collect())
}

/// `*` stands for any characters.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap()) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What is asked of S3.
#[derive(Default)]
struct Asked {
    action: &'static str,
    resource: String,
    prefix: String,
    if_none_match: bool,
    /// It makes an object visible: not a part of one.
    creates: bool,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Self {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let value = |name: &str| {
            let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.replace("%2F", "/"))
        };
        let object = path.trim_matches('/').contains('/');
        let (action, creates) = match (request.method().as_str(), object) {
            ("GET" | "HEAD", false) => ("s3:ListBucket", false),
            ("GET" | "HEAD", true) => ("s3:GetObject", false),
            ("PUT", true) => ("s3:PutObject", value("partNumber").is_none()),
            ("POST", true) => ("s3:PutObject", value("uploadId").is_some()),
            ("DELETE", true) if value("uploadId").is_some() => ("s3:AbortMultipartUpload", false),
            ("DELETE", true) => ("s3:DeleteObject", false),
            _ => ("unknown", false),
        };
        Self {
            action,
            resource: format!("arn:aws:s3:::{}", path.trim_matches('/')),
            prefix: value("prefix").unwrap_or_default(),
            if_none_match: request.headers().contains_key("if-none-match"),
            creates,
        }
    }

    fn meets(&self, conditions: &Value) -> bool {
        let Some(conditions) = conditions.as_object() else { return true };
        conditions.iter().all(|(operator, keys)| {
            keys.as_object().unwrap().iter().all(|(key, wanted)| {
                let wanted = all(wanted);
                match (operator.as_str(), key.as_str()) {
                    ("StringLike", "s3:prefix") => wanted.iter().any(|one| fits(one, &self.prefix)),
                    ("Null", "s3:if-none-match") => wanted == [(!self.if_none_match).to_string()],
                    ("Bool", "s3:ObjectCreationOperation") => wanted == [self.creates.to_string()],
                    other => panic!("{other:?} is not evaluated here"),
                }
            })
        })
    }

    fn is_allowed_by(&self, policy: &Value) -> bool {
        let statements = policy["Statement"].as_array().unwrap();
        let applies = |effect: &str| {
            statements.iter().any(|one| {
                one["Effect"] == effect
                    && all(&one["Action"]).contains(&self.action.to_owned())
                    && all(&one["Resource"]).iter().any(|pattern| fits(pattern, &self.resource))
                    && self.meets(&one["Condition"])
            })
        };
        applies("Allow") && !applies("Deny")
    }
}

/// As an owner fills it in.
fn filled(name: &str) -> Value {
    let text = policy(name).to_string().replace("BUCKET", "backups").replace("PREFIX", "etcd/prod");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn policies_parse_and_say_what_the_guide_says() {
    let guide = include_str!("../../src/guide/keys.md");
    let files = fs::read_dir(deploy("policies")).unwrap();
    assert_eq!(files.count(), 9);
    for role in ROLES {
        for store in ["s3", "gcs", "azure"] {
            let name = format!("{store}-{role}");
            assert!(guide.contains(&format!("{name}.json")), "{name}");
            let policy = policy(&name);
            let deletes = match store {
                "s3" => {
                    let statements = policy["Statement"].as_array().unwrap().iter();
                    let of = |one: &&Value| all(&one["Action"]).contains(&"s3:DeleteObject".into());
                    statements.filter(of).flat_map(|one| all(&one["Resource"])).collect()
                }
                "gcs" => all(&policy["includedPermissions"]),
                _ => all(&policy["DataActions"]),
            };
            let deletes = match store {
                "s3" => !deletes.iter().all(|one| one.contains("/seal.")),
                _ => deletes.iter().any(|one| one.ends_with("delete")),
            };
            assert_eq!(deletes, role == "keeper", "{name}");
        }
    }
}

/// Who has a role's credentials and writes requests of his own.
#[test]
fn a_role_creates_and_overwrites_what_it_must() {
    let allowed = |role: &str, action: &'static str, name: &str, if_none_match: bool| {
        let resource = format!("arn:aws:s3:::backups/etcd/prod/{name}");
        let asked = Asked { action, resource, if_none_match, creates: true, ..Asked::default() };
        asked.is_allowed_by(&filled(&format!("s3-{role}")))
    };
    let (put, delete) = ("s3:PutObject", "s3:DeleteObject");
    for name in ["snapshots/A/manifest", "snapshots/A/seal.2", "reports/A", "journals/A/head"] {
        assert!(
            allowed("writer", put, name, true) && !allowed("writer", put, name, false),
            "{name}"
        );
        assert!(!allowed("writer", delete, name, false), "{name}");
    }
    // A multipart upload ends without a condition.
    assert!(allowed("writer", put, "snapshots/A/payload", false));
    assert!(
        !allowed("writer", put, "repository.json", true)
            && !allowed("writer", put, "keys/A.1", true)
    );
    for name in
        ["snapshots/A/seal.1", "snapshots/A/payload", "snapshots/A/index", "journals/A/seal.1"]
    {
        assert!(!allowed("keeper", put, name, true), "{name}: it could make a snapshot");
        assert!(allowed("keeper", delete, name, false));
    }
    for name in ["snapshots/A/manifest", "snapshots/A/payload"] {
        assert!(
            !allowed("recoverer", put, name, true) && !allowed("recoverer", delete, name, false)
        );
    }
    assert!(allowed("recoverer", put, "snapshots/A/seal.2", true));
    for role in ROLES {
        let of_others = Asked {
            action: "s3:GetObject",
            resource: "arn:aws:s3:::backups/other/x".into(),
            ..Asked::default()
        };
        assert!(!of_others.is_allowed_by(&filled(&format!("s3-{role}"))));
    }
}

struct Roles {
    place: Place,
    /// The store without a policy.
    owner: String,
    /// The same store, by each role's policy.
    urls: [String; 3],
}

impl Roles {
    fn run(&self, url: &str, with: &[&str], args: &[&str]) -> Command {
        let mut command = program();
        command
            .current_dir(self.place.dir.path())
            .env("AWS_ENDPOINT_URL", url)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .args(["-r", "s3://backups/etcd/prod", "--signers", "signers"])
            .args(with)
            .args(args);
        command
    }

    fn writer(&self, args: &[&str]) -> Command {
        self.run(&self.urls[0], &["-k", "recipient:@recipients", "--signing-key", "host"], args)
    }

    fn keeper(&self, args: &[&str]) -> Command {
        self.run(&self.urls[1], &["-k", "recipient:@recipients", "--signing-key", "keeper"], args)
    }

    fn recoverer(&self, args: &[&str]) -> Command {
        self.run(&self.urls[2], &["-k", "identity:identity", "--signing-key", "owner"], args)
    }
}

async fn roles() -> Roles {
    let place = Place::new();
    fs::create_dir_all(place.path("s3/backups")).unwrap();
    let store = place.path("s3");
    let owner = start(&store, Flavour::S3).await;
    let mut urls = Vec::new();
    for role in ROLES {
        let policy = filled(&format!("s3-{role}"));
        let allows: Allows = Arc::new(move |request| Asked::of(request).is_allowed_by(&policy));
        urls.push(start_allowing(&store, Flavour::S3, Seen::default(), allows).await);
    }
    let made = |args: &[&str], what: &str| -> String {
        let mut command = place.bare(&["-w", "json", "key", "generate"]);
        let made: Value = serde_json::from_str(&exits_with(command.args(args))).unwrap();
        made[what].as_str().unwrap().to_owned()
    };
    let recipient = made(&["--recipient", "-o", "identity"], "recipient");
    fs::write(place.path("recipients"), format!("{recipient}\n")).unwrap();
    let signers = ["host", "keeper", "owner"];
    let signers = signers.map(|name| made(&["--signing", "-o", name], "signer") + "\n");
    fs::write(place.path("signers"), signers.concat()).unwrap();
    Roles { place, owner, urls: urls.try_into().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_its_work_and_no_more() {
    let roles = roles().await;
    tokio::task::spawn_blocking(move || matrix(&roles)).await.unwrap();
}

fn matrix(roles: &Roles) {
    exits_with(&mut roles.run(&roles.owner, &["-k", "recipient:@recipients"], &["init"]));
    let database = small_database();
    let backup = ["-w", "json", "backup", "--file", database.to_str().unwrap()];
    let taken = |command: &mut Command| -> String {
        let report: Value = serde_json::from_str(&exits_with(command)).unwrap();
        report["id"].as_str().unwrap().to_owned()
    };
    let ids = [taken(&mut roles.writer(&backup)), taken(&mut roles.writer(&backup))];
    // The writer reads and looks, opens nothing and removes nothing.
    exits_with(&mut roles.writer(&["verify", "--all", "--digests", "--record"]));
    exits(12, &mut roles.writer(&["verify", "latest"]));
    assert!(!roles.writer(&["prune", "--remove", &ids[0]]).output().unwrap().status.success());
    // The keeper removes, and makes no snapshot.
    assert!(!roles.keeper(&backup).output().unwrap().status.success());
    exits_with(&mut roles.keeper(&["verify", "--all", "--digests"]));
    exits_with(&mut roles.keeper(&["prune", "--remove", &ids[0]]));
    exits_with(&mut roles.keeper(&["prune", "--undo", &ids[0]]));
    exits_with(&mut roles.keeper(&["prune", "--unpin", &ids[0]]));
    exits_with(&mut roles.keeper(&["prune", "--remove", &ids[0]]));
    // The recoverer opens, proves, seals again and signs.
    exits_with(&mut roles.recoverer(&["verify", "--all"]));
    exits_with(&mut roles.recoverer(&["restore", "latest", "--output", "etcd.db"]));
    exits_with(&mut roles.recoverer(&["key", "prove"]));
    exits_with(&mut roles.recoverer(&["key", "vouch", "--all"]));
    assert!(!roles.recoverer(&backup).output().unwrap().status.success());
    assert!(!roles.recoverer(&["prune", "--remove", &ids[1]]).output().unwrap().status.success());
    // What each did shows to the writer.
    let said: Value =
        serde_json::from_str(&exits_with(&mut roles.writer(&["-w", "json", "key", "list"])))
            .unwrap();
    assert!(said.as_array().unwrap().iter().any(|row| row["tested"].is_string()), "{said}");
    let listed: Value =
        serde_json::from_str(&exits_with(&mut roles.writer(&["-w", "json", "snapshots"]))).unwrap();
    let left: Vec<_> =
        listed.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(left, [&ids[1]]);
    let report = exits_with(&mut roles.writer(&backup));
    assert!(!report.contains("nothing shows yet"), "{report}");
}
