//! A host that seals to a public key and signs: it takes, verifies, copies and prunes snapshots that it cannot open.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use strongroom::keys::IdentityFile;

use crate::agent::Agent;
use crate::etcd_server::{Etcd, Version};
use crate::place::{Place, exits, text, write_secret};
use crate::support::small_database;

/// The owner's identity is not on the host; the host's signer is trusted by the owner.
pub struct Blind {
    pub place: Place,
    pub recipient: String,
    pub key: String,
    pub signer: String,
    pub signer_key: String,
}

impl Blind {
    pub fn new() -> Self {
        let place = Place::new();
        let made = |args: &[&str]| -> Value {
            let mut command = place.bare(&["-w", "json", "key", "generate"]);
            serde_json::from_str(&exits_with(command.args(args))).unwrap()
        };
        let word = |made: &Value, name: &str| made[name].as_str().unwrap().to_owned();
        let identity = made(&["--recipient", "-o", "identity"]);
        let signing = made(&["--signing", "-o", "signing"]);
        fs::write(place.path("signers"), format!("{} name=host\n", word(&signing, "signer")))
            .unwrap();
        let (recipient, key) = (word(&identity, "recipient"), word(&identity, "id"));
        let (signer, signer_key) = (word(&signing, "signer"), word(&signing, "id"));
        Self { place, recipient, key, signer, signer_key }
    }

    /// On the host.
    pub fn host(&self, args: &[&str]) -> Command {
        let key = format!("recipient:{}", self.recipient);
        let mut command = self.place.bare(&["-r", "repo", "-k", &key, "--signing-key", "signing"]);
        command.args(args);
        command
    }

    /// Where the identity is.
    pub fn owner(&self, args: &[&str]) -> Command {
        let mut command = self.place.command_with("identity:identity", &["--signers", "signers"]);
        command.args(args);
        command
    }

    pub fn backup(&self, args: &[&str]) -> Value {
        let mut command = self.host(&["-w", "json", "backup"]);
        serde_json::from_str(&exits_with(command.args(args))).unwrap()
    }

    /// Of the small database; its id.
    pub fn backup_file(&self) -> String {
        let report = self.backup(&["--file", small_database().to_str().unwrap()]);
        report["id"].as_str().unwrap().to_owned()
    }
}

/// Standard output of a command that must succeed.
pub fn exits_with(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

pub fn trust(command: &mut Command) -> Vec<String> {
    let list: Value = serde_json::from_str(&exits_with(command)).unwrap();
    list.as_array().unwrap().iter().map(|row| row["trust"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blind_host_from_backup_to_restore() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let blind = Blind::new();
    let mut last = Value::Null;
    for n in 0..6 {
        etcd.etcdctl(&["put", "/secret", &format!("value {n}")]);
        last = blind.backup(&["--endpoints", etcd.endpoint()]);
        assert_eq!(
            (&last["blind"], &last["signed_by"]),
            (&true.into(), &blind.signer_key.as_str().into())
        );
        assert_eq!(last["sealed_by"][0], blind.key.as_str());
    }
    let id = last["id"].as_str().unwrap();
    // What needs a key says which.
    for args in
        [&["verify", "latest"][..], &["restore", id, "--output", "x.db"], &["get", id, "/secret"]]
    {
        let error = exits(12, &mut blind.host(args));
        assert!(error.contains(&blind.key), "{error}");
    }
    assert!(!blind.place.path("x.db").exists());
    assert_eq!(trust(&mut blind.host(&["-w", "json", "snapshots"])), ["trusted"; 6]);
    let shown = exits_with(&mut blind.host(&["-w", "json", "show", id]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["trust"], &shown["opened_by"]), (&"trusted".into(), &Value::Null));
    // What does not need one works, and decides by signatures.
    exits_with(&mut blind.host(&["verify", "--all", "--digests", "--record"]));
    exits_with(&mut blind.host(&["copy", "--to", "second"]));
    exits_with(&mut blind.host(&["prune", "--keep-last", "1"]));
    let reports = exits_with(&mut blind.host(&["-w", "json", "reports"]));
    let reports: Vec<Value> = serde_json::from_str(&reports).unwrap();
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(|report| report["trust"] == "trusted"), "{reports:?}");
    assert_eq!(trust(&mut blind.host(&["-w", "json", "snapshots"])), ["trusted"]);
    // And the owner opens what is left, and all of the copy.
    exits_with(&mut blind.owner(&["verify", "--all", "--deep"]));
    exits_with(&mut blind.owner(&["restore", "latest", "--output", "etcd.db"]));
    let value = exits_with(&mut blind.owner(&["get", "latest", "/secret", "--show-value"]));
    assert_eq!(value.trim(), "value 5");
    let second = ["-r", "second", "-k", "identity:identity", "--signers", "signers"];
    exits_with(blind.place.bare(&second).args(["verify", "--all"]));
}

/// An agent on such a host does all of its work, and verifies digests.
#[tokio::test(flavor = "multi_thread")]
async fn a_blind_agent() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let blind = Blind::new();
    fs::write(blind.place.path("recipients"), format!("{}\n", blind.recipient)).unwrap();
    let endpoint = etcd.endpoint();
    let config = format!(
        "master_keys = [\"recipient:@recipients\"]\n[keys]\nsigning_key = \"signing\"\n[repository]\nurl = \"repo\"\n\
         [copy]\nurl = \"second\"\n[etcd]\nendpoints = [\"{endpoint}\"]\n[prune]\nkeep_last = 2\n[agent]\nlog = \"json\"\n\
         listen = \"LISTEN\"\nbackup = \"@every 1s\"\nprune = \"@every 2s\"\nverify = \"@every 2s\"\nverify_all = \"@every 3s\"\n"
    );
    let agent = Agent::start_with(&blind.place, &config, &[]);
    for (operation, count) in
        [("backup", 3), ("copy", 1), ("prune", 1), ("verify", 1), ("verify_all", 1)]
    {
        agent.wait(&format!("{operation}_finished"), count);
    }
    // Digests are no proof that anybody can open it.
    let opened = "strongroom_opened_last_success_timestamp_seconds{";
    assert_eq!(agent.metric(opened), 0.0);
    agent.end();
    exits_with(&mut blind.owner(&["--signing-key", "signing", "key", "prove"]));
    let agent = Agent::start_with(&blind.place, &config, &[]);
    agent.wait("prune_finished", 1);
    assert!(agent.metric(opened) > 1e9);
    agent.end();
    let reports = exits_with(&mut blind.owner(&["-w", "json", "reports"]));
    let reports: Vec<Value> = serde_json::from_str(&reports).unwrap();
    assert!(
        reports.iter().all(|report| report["trust"] == "trusted" && report["outcome"] != "failed"),
        "{reports:?}"
    );
    exits_with(&mut blind.owner(&["verify", "--all"]));
    let keys = exits_with(&mut blind.host(&["-w", "json", "key", "list"]));
    let keys: Vec<Value> = serde_json::from_str(&keys).unwrap();
    let rows: Vec<_> =
        keys.iter().map(|key| (key["type"].as_str().unwrap(), &key["can_open"])).collect();
    assert_eq!(rows.len(), 2, "{keys:?}");
    assert!(
        rows.contains(&("recipient", &false.into())) && rows.contains(&("signer", &false.into()))
    );
}

/// Anyone can seal to a public key: without a signature nothing would show that a snapshot is genuine.
#[test]
fn a_configuration_without_a_signing_key_is_refused() {
    let blind = Blind::new();
    let key = format!("recipient:{}", blind.recipient);
    let database = small_database();
    let backup = ["backup", "--file", database.to_str().unwrap()];
    let error = exits(2, &mut blind.place.command_with(&key, &backup));
    assert!(error.contains("--signing-key") && error.contains("--unsigned"), "{error}");
    let mut check = blind.place.command_with(&key, &["config", "check", "--for", "backup"]);
    assert!(exits(2, &mut check).contains("--signing-key"));
    // A drill opens a snapshot.
    let check = ["--endpoints", "127.0.0.1:1", "config", "check", "--for", "agent", "--"];
    let mut check = blind.host(&[&check[..], &["--drill", "@every 1d"]].concat());
    let said = exits(2, &mut check);
    assert!(said.contains("a drill needs a key that opens"), "{said}");
    assert!(said.contains("recipient:age1pq1…") && !said.contains(&key), "{said}");
    assert!(blind.place.objects().is_empty());
    exits_with(blind.place.command_with(&key, &backup).arg("--unsigned"));
    // A keyring beside it is one that only its owner has.
    exits_with(&mut blind.place.command_with(&format!("file:keyring,{key}"), &backup));
    // Where signers decide, what is not signed would not count.
    fs::write(blind.place.path("signers"), format!("{}\n", blind.signer)).unwrap();
    let mut unsigned = blind.place.command_with("file:keyring", &backup);
    assert!(exits(2, unsigned.args(["--signers", "signers"])).contains("would not count"));
    // A signing key that the owner revoked signs nothing.
    let revoked = format!("{} revoked=2026-01-31T12:00:00Z\n", blind.signer);
    fs::write(blind.place.path("signers"), revoked).unwrap();
    let error = exits(1, blind.host(&backup).args(["--signers", "signers"]));
    assert!(error.contains("revoked"), "{error}");
}

#[test]
fn files_of_keys() {
    let blind = Blind::new();
    let id = blind.backup_file();
    let place = &blind.place;
    // The identity file carries the signer that it trusts.
    let file = fs::read_to_string(place.path("identity")).unwrap();
    let carrying = format!("# signers: {}\n{file}", blind.signer);
    write_secret(&place.path("carrying"), &carrying);
    exits_with(&mut place.command_with("identity:carrying", &["verify", "latest"]));
    let shown = exits_with(&mut place.command_with("identity:carrying", &["show", "latest"]));
    assert!(shown.contains("(identity:carrying)") && !shown.contains("(not given)"), "{shown}");
    let list = exits(0, &mut place.command_with("identity:carrying", &["snapshots", "--tag", "x"]));
    assert!(list.contains("no snapshot has that tag"), "{list}");
    // Without a signer it opens by its full id and a person's word only.
    let error = exits(1, &mut place.command_with("identity:identity", &["show", "latest"]));
    assert!(error.contains("--signers"), "{error}");
    let args = ["restore", &id, "--output", "x.db", "--accept-untrusted"];
    exits_with(&mut place.command_with("identity:identity", &args));
    // Files of recipients; standard input; modes.
    fs::write(place.path("recipients"), format!("# owners\n{}\n", blind.recipient)).unwrap();
    let database = small_database();
    let backup = ["--signing-key", "signing", "backup", "--file", database.to_str().unwrap()];
    exits_with(&mut place.command_with("recipient:@recipients", &backup));
    let mut piped = place.command_with("identity:-", &["verify", "latest"]);
    exits_with(piped.stdin(fs::File::open(place.path("carrying")).unwrap()));
    fs::write(place.path("open"), &carrying).unwrap();
    let error = exits(1, &mut place.command_with("identity:open", &["verify", "latest"]));
    assert!(error.contains("chmod 600"), "{error}");
    let secret = file.lines().last().unwrap();
    let out = exits(2, &mut place.command_with(&format!("recipient:{secret}"), &["snapshots"]));
    assert!(!out.contains(secret), "a secret key is repeated");
    // A newer X25519 key beside it would make the seal as weak as X25519.
    let made = place
        .bare(&["-w", "json", "key", "generate", "--recipient", "--x25519", "-o", "weak"])
        .output()
        .unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let weak = made["recipient"].as_str().unwrap();
    let both = format!("recipient:{},recipient:{weak}", blind.recipient);
    let error = exits(2, &mut place.command_with(&both, &backup));
    assert!(error.contains("--mix-quantum-weak"), "{error}");
    exits_with(place.command_with(&both, &backup).arg("--mix-quantum-weak"));
}

/// Keys that the only seal names.
fn key_count(blind: &Blind) -> usize {
    let mut objects = blind.place.objects().into_iter();
    let seal = objects.find(|path| path.to_string_lossy().contains("seal.")).unwrap();
    let text = fs::read_to_string(seal).unwrap();
    text.lines().filter(|line| line.starts_with("-> ")).count()
}

/// The steps by which a repository under a keyring becomes one that its host cannot open.
#[test]
fn a_repository_is_migrated() {
    let blind = Blind::new();
    let place = &blind.place;
    place.backup();
    let both = format!("file:keyring,recipient:{}", blind.recipient);
    let with_both = |args: &[&str]| place.command_with(&both, args);
    let reseal = ["key", "reseal", "--all"];
    // A recipient is sealed to only if somebody confirms it.
    let error = exits(1, &mut with_both(&reseal));
    assert!(error.contains(&format!("--expect {}", blind.key)), "{error}");
    exits(2, with_both(&reseal).args(["--expect", &"0".repeat(32)]));
    let out = exits_with(with_both(&reseal).args(["--expect", &blind.key]));
    assert!(out.contains("1 re-sealed, 0 unchanged"), "{out}");
    let again = exits_with(with_both(&reseal).args(["--expect", &blind.key]));
    assert!(again.contains("0 re-sealed, 1 unchanged"), "{again}");
    // It opens off host, and counts there once it is signed.
    let args = ["-w", "json", "snapshots"];
    assert_eq!(trust(&mut blind.owner(&args)), ["not trusted: not signed by a trusted signer"]);
    // An identity that somebody put into the configuration is confirmed, too; who signs adds no key.
    exits_with(&mut place.bare(&["key", "generate", "--recipient", "-o", "thief"]));
    let with_thief = |args: &[&str]| place.command_with("file:keyring,identity:thief", args);
    for command in [&reseal[..], &["key", "rotate"]] {
        let error = exits(1, &mut with_thief(command));
        assert!(error.contains("not confirmed"), "{error}");
    }
    let vouch = ["--signing-key", "signing", "key", "vouch", "--all"];
    assert!(exits_with(&mut with_thief(&vouch)).contains("1 signed"));
    assert_eq!(key_count(&blind), 2);
    assert!(exits_with(&mut place.command(&vouch)).contains("1 unchanged"));
    assert_eq!(trust(&mut blind.owner(&args)), ["trusted"]);
    exits_with(&mut blind.owner(&["verify", "--all"]));
    // Sealing again keeps the signature; the keyring's stanza goes when it is dropped.
    let keyring: Value =
        serde_json::from_slice(&place.succeed(&["-w", "json", "key", "list"]).stdout).unwrap();
    let mut keys = keyring.as_array().unwrap().iter();
    let old = keys.find(|key| key["type"] == "local").unwrap()["id"].as_str().unwrap();
    let drop = ["key", "reseal", "--all", "--drop", old];
    exits_with(&mut blind.owner(&drop));
    exits(12, &mut place.command(&["verify", "latest", "--signers", "signers"]));
    exits_with(&mut blind.owner(&["verify", "--all"]));
}

/// Files that age-keygen 1.3.2 made, with and without `-pq`: we take them, and name the same recipient.
#[test]
fn identity_files_of_age() {
    let blind = Blind::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("keys/test-only");
    for name in ["age-keygen-pq", "age-keygen"] {
        let file = fs::read_to_string(folder.join(name)).unwrap();
        let recipient = file.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
        let identity = IdentityFile::parse(&file).unwrap().identities.remove(0);
        assert_eq!(identity.recipient().to_string(), recipient);
        write_secret(&blind.place.path(name), &file);
        let database = small_database();
        let backup = ["--signing-key", "signing", "backup", "--file", database.to_str().unwrap()];
        exits_with(&mut blind.place.command_with(&format!("recipient:{recipient}"), &backup));
        let verify = ["--signers", "signers", "verify", "latest"];
        exits_with(&mut blind.place.command_with(&format!("identity:{name}"), &verify));
    }
}
