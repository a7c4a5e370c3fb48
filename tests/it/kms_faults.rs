//! Snapshots sealed to the key of a service: with the plugin of this project, and with one that misbehaves by script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use strongroom::format::{KmsBody, KmsV2Blob, Seal};

use crate::agent::Agent;
use crate::blind::{Blind, exits_with, trust};
use crate::etcd_server::{Etcd, Version};
use crate::kms::Node;
use crate::kms_fault::{Fault, Plugin};
use crate::place::{Place, exits};
use crate::support::small_database;

const UNAVAILABLE: i32 = 14;
const PERMISSION_DENIED: i32 = 7;
const UNKNOWN: i32 = 2;

/// A repository, and the commands with the plugin's key or with that and the keyring's.
struct Sealed {
    place: Place,
    plugin: Plugin,
}

impl Sealed {
    fn new() -> Self {
        Self { place: Place::new(), plugin: Plugin::start() }
    }

    fn with(&self, keys: &[&str], args: &[&str]) -> Command {
        let mut command = self.place.bare(&["-r", "repo"]);
        keys.iter().for_each(|key| {
            command.args(["-k", key]);
        });
        command.args(args);
        command
    }

    fn alone(&self, args: &[&str]) -> Command {
        self.with(&[&self.plugin.uri()], args)
    }

    fn both(&self, args: &[&str]) -> Command {
        self.with(&["file:keyring", &self.plugin.uri()], args)
    }

    fn backup(&self) -> String {
        backed_up(&mut self.both(&backup()))["id"].as_str().unwrap().to_owned()
    }

    fn seal(&self, id: &str, generation: u32) -> Seal {
        let path = self.place.path(&format!("repo/snapshots/{id}/seal.{generation}"));
        Seal::parse(&fs::read(path).unwrap()).unwrap()
    }

    fn verify(&self, id: &str) -> Command {
        self.alone(&["verify", id])
    }
}

fn backup() -> [&'static str; 5] {
    static FILE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| small_database().to_str().unwrap().to_owned());
    ["-w", "json", "backup", "--file", file]
}

fn backed_up(command: &mut Command) -> Value {
    serde_json::from_str(&exits_with(command)).unwrap()
}

fn kinds(seal: &Seal) -> Vec<&str> {
    seal.body().stanzas().iter().map(|stanza| stanza.kind()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_opens_with_this_projects_own_plugin() {
    let node = Node::new(&[]).await;
    let place = Place::new();
    let uri = format!("kmsv2:own@unix://{}", node.path("kms.sock").display());
    let id = backed_up(&mut place.command_with(&uri, &backup()));
    let id = id["id"].as_str().unwrap();
    // Another way to the same key.
    let linked = place.path("other.sock");
    std::os::unix::fs::symlink(node.path("kms.sock"), &linked).unwrap();
    let other = format!("kmsv2:own@unix://{}", linked.display());
    exits(0, &mut place.command_with(&other, &["verify", id]));
    let renamed = format!("kmsv2:another@unix://{}", node.path("kms.sock").display());
    exits(12, &mut place.command_with(&renamed, &["verify", id]));
    // A rotation there: what was sealed before opens.
    node.key(&["key", "rotate", "--offline"]);
    exits(0, &mut place.command_with(&uri, &["verify", id]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_seals_and_none_opens_what_the_keyring_opens() {
    let all = Sealed::new();
    let id = all.backup();
    let seal = all.seal(&id, 1);
    assert_eq!(kinds(&seal), ["kms", "local"]);
    let body = KmsBody::parse(seal.body().stanzas()[0].body()).unwrap();
    let blob = KmsV2Blob::parse(body.blob).unwrap();
    assert_eq!((body.provider, &*blob.key_id, blob.annotations.len()), (1, &b"key-1"[..], 1));
    assert_eq!(all.plugin.calls("Encrypt"), 1);
    exits(0, &mut all.both(&["verify", &id]));
    assert_eq!(all.plugin.calls("Decrypt"), 0);
    exits(0, &mut all.verify(&id));
    assert_eq!(all.plugin.calls("Decrypt"), 1, "once a snapshot and process");
    // It counts: whoever sealed it could use the key.
    assert_eq!(trust(&mut all.alone(&["-w", "json", "snapshots"])), ["trusted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_down_the_others_seal() {
    let mut all = Sealed::new();
    let (key, uri) = (all.backup(), all.plugin.uri());
    let kms = all.seal(&key, 1).body().stanzas()[0].key_id().to_string();
    all.plugin.stop();
    let out = all.both(&backup()).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["seals_missing"][0]["key"], kms);
    assert!(report["seals_missing"][0]["reason"].as_str().unwrap().contains("no plugin listens"));
    let id = report["id"].as_str().unwrap();
    assert_eq!(kinds(&all.seal(id, 1)), ["local"]);
    exits(0, &mut all.both(&["verify", id]));
    // Alone, or required, it is a failure, and nothing is written.
    let before = all.place.files();
    let out = exits(4, &mut all.alone(&backup()));
    assert!(out.contains("0 of 1 master keys can seal"), "{out}");
    for required in [["--require-key", &kms], ["--min-sealers", "2"]] {
        exits(4, all.both(&required).args(backup()));
    }
    assert_eq!(all.place.files(), before);
    // What it alone opens is not there: no other outcome than that it cannot be told.
    let out = exits(4, &mut all.verify(&key));
    assert!(out.contains(&kms) && out.contains("not given: "), "{out}");
    // It is back: sealed again, the snapshot opens with it.
    all.plugin.listen();
    exits(0, &mut all.both(&["key", "reseal", id]));
    assert_eq!(kinds(&all.seal(id, 2)), ["kms", "local"]);
    exits(0, &mut all.with(&[&uri], &["verify", id]));
    exits(0, all.both(&["--require-key", &kms, "--min-sealers", "2"]).args(backup()));
}

/// Before etcd is read: nothing listens at this etcd's address, and that is not what is said.
#[tokio::test(flavor = "multi_thread")]
async fn enough_keys_are_looked_for_before_etcd_is_read() {
    let all = Sealed::new();
    let etcd = ["--endpoints", "http://127.0.0.1:1", "backup"];
    for (fault, code, said) in [
        (Fault::Unhealthy("the HSM is locked"), 4, "the HSM is locked"),
        (Fault::Version("v1"), 1, "version is \"v1\""),
    ] {
        all.plugin.fault(fault);
        let out = exits(code, &mut all.alone(&etcd));
        assert!(out.contains(said), "{out}");
    }
    all.plugin.fault(Fault::None);
    let unknown = "0".repeat(32);
    let out = exits(1, all.both(&["--require-key", &unknown]).args(etcd));
    assert!(out.contains("no master key given seals as it"), "{out}");
    let out = exits(1, all.both(&["--min-sealers", "3"]).args(etcd));
    assert!(out.contains("2 master keys seal, and 3 are wanted"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_answers_wrong_is_not_sealed_with() {
    let all = Sealed::new();
    for (fault, said) in [
        (Fault::Ciphertext(1025), "1025 bytes"),
        (Fault::Ciphertext(0), "0 bytes"),
        (Fault::Annotation("no-domain"), "not named as a domain"),
        (Fault::Code(PERMISSION_DENIED, "key is disabled"), "key is disabled"),
    ] {
        all.plugin.fault(fault.clone());
        let calls = all.plugin.calls("Encrypt");
        let out = all.both(&backup()).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{fault:?}");
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let reason = report["seals_missing"][0]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(said), "{reason}");
        assert_eq!(all.plugin.calls("Encrypt") - calls, 1, "{fault:?}: not tried again");
    }
    // Alone: of its class.
    assert!(exits(12, &mut all.alone(&backup())).contains("refused by the service"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_opens_wrong_is_tampered_and_what_it_refuses_is_another_key() {
    let all = Sealed::new();
    let id = all.backup();
    let key = all.seal(&id, 1).body().stanzas()[0].key_id().to_string();
    for (fault, code, tries, said) in [
        (Fault::Plaintext(32), 13, 1, "another key's plaintext"),
        (Fault::Plaintext(31), 13, 1, "31 bytes"),
        (Fault::Plaintext(33), 13, 1, "33 bytes"),
        (Fault::Code(PERMISSION_DENIED, "access denied"), 12, 1, "access denied"),
        // Plugins in Go say so of everything; its Status tells.
        (Fault::Code(UNKNOWN, "key disabled"), 12, 1, "key disabled"),
        (Fault::Unhealthy("no route to the HSM"), 4, 2, "no route to the HSM"),
        (Fault::Code(UNAVAILABLE, "restarting"), 4, 2, "restarting"),
    ] {
        all.plugin.fault(fault.clone());
        let calls = all.plugin.calls("Decrypt");
        let out = exits(code, &mut all.verify(&id));
        for said in [said, &key, &format!("kmsv2:{}", all.plugin.name)] {
            assert!(out.contains(said), "{fault:?}: {out}");
        }
        assert_eq!(all.plugin.calls("Decrypt") - calls, tries, "{fault:?}");
        // The keyring opens it all the same.
        exits(0, &mut all.both(&["verify", &id]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_answers_is_given_up_in_half_a_minute() {
    let all = Sealed::new();
    let id = all.backup();
    all.plugin.fault(Fault::Silent);
    let begun = std::time::Instant::now();
    let out = exits(4, &mut all.verify(&id));
    assert!(out.contains("no answer within 10 s"), "{out}");
    assert!(begun.elapsed().as_secs() < 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_snapshots_share_a_call() {
    let all = Sealed::new();
    for _ in 0..3 {
        all.place.backup();
    }
    exits(0, &mut all.both(&["key", "reseal", "--all"]));
    assert_eq!((all.plugin.calls("Encrypt"), all.plugin.calls("Decrypt")), (1, 0));
    // Each opens, and one answer of the service opens all.
    exits(0, &mut all.alone(&["verify", "--all"]));
    assert_eq!(all.plugin.calls("Decrypt"), 1);
    // Nothing is left to do, and nobody is asked.
    exits(0, &mut all.both(&["key", "reseal", "--all"]));
    assert_eq!(all.plugin.calls("Encrypt"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_others_can_use_is_refused() {
    let all = Sealed::new();
    let socket = all.plugin.socket();
    let mode = |mode| fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o666);
    let out = exits(1, &mut all.alone(&backup()));
    assert!(out.contains("everybody can use"), "{out}");
    mode(0o660);
    let folder = all.plugin.dir.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(exits(1, &mut all.alone(&backup())).contains("others can replace"));
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    // Only root can make another user's.
    if std::os::unix::fs::chown(&socket, Some(12345), None).is_ok() {
        let out = exits(1, &mut all.alone(&backup()));
        assert!(out.contains("belongs to user 12345") && out.contains("?owner=12345"), "{out}");
    }
    assert_eq!(all.plugin.calls("Encrypt"), 0);
}

/// Whoever writes to the repository makes no service open what he planted there.
#[tokio::test(flavor = "multi_thread")]
async fn no_service_is_asked_about_what_is_not_signed() {
    let plugin = Plugin::start();
    let blind = Blind::new();
    let uri = plugin.uri();
    let signed = |args: &[&str]| {
        let signers = ["--signing-key", "signing", "-k", "file:keyring"];
        let mut command = blind.place.command_with(&uri, &signers);
        command.args(args);
        command
    };
    let alone = |args: &[&str]| {
        let mut command = blind.place.command_with(&uri, &["--signers", "signers"]);
        command.args(args);
        command
    };
    let good = backed_up(&mut signed(&backup()))["id"].as_str().unwrap().to_owned();
    // Of the same key, by somebody without the signing key.
    let planted = backed_up(&mut blind.place.command_with(&uri, &backup()));
    let planted = planted["id"].as_str().unwrap();
    let (list, before) = (["-w", "json", "snapshots"], plugin.calls("Decrypt"));
    let unsigned = "not trusted: not signed by a trusted signer";
    assert_eq!(trust(&mut alone(&list)), ["trusted", unsigned]);
    assert_eq!(plugin.calls("Decrypt"), before, "a signature is enough for a list");
    exits(0, &mut alone(&["verify", &good]));
    let asked = plugin.calls("Decrypt");
    assert_eq!(asked, before + 1);
    exits(1, &mut alone(&["verify", planted]));
    let signing = |args: &[&str]| {
        let mut command = blind.place.command_with(&uri, &["--signing-key", "signing"]);
        command.args(args);
        command
    };
    let out = exits(12, &mut signing(&["key", "vouch", "--all"]));
    assert!(out.contains("no service is asked"), "{out}");
    // It opens what a trusted signer signed, to compare all of its seals, and nothing else.
    let asked = asked + 1;
    assert_eq!(plugin.calls("Decrypt"), asked, "{out}");
    let out = signing(&["prune", "--quarantine", planted]).output().unwrap();
    assert_eq!(plugin.calls("Decrypt"), asked, "{out:?}");
    // A person who names it has it opened.
    exits(0, &mut signing(&["key", "vouch", planted]));
    assert_eq!(plugin.calls("Decrypt"), asked + 1);
    assert_eq!(trust(&mut alone(&list)), ["trusted", "trusted"]);
}

/// A service that is down takes nothing away from what signatures decide.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_decide_while_it_is_down() {
    let mut plugin = Plugin::start();
    let blind = Blind::new();
    let uri = plugin.uri();
    let host = |args: &[&str]| {
        let signing = ["-k", &format!("recipient:{}", blind.recipient), "--signing-key", "signing"];
        let mut command = blind.place.command_with(&uri, &signing);
        command.args(args);
        command
    };
    let id = backed_up(&mut host(&backup()))["id"].as_str().unwrap().to_owned();
    plugin.stop();
    assert_eq!(trust(&mut host(&["-w", "json", "snapshots"])), ["trusted"]);
    let out = exits(4, &mut host(&["verify", &id]));
    assert!(out.contains("no plugin listens"), "{out}");
    exits(3, &mut host(&backup()));
    exits(0, &mut host(&["prune", "--keep-last", "1"]));
    assert_eq!(trust(&mut host(&["-w", "json", "snapshots"])), ["trusted"]);
}

/// The agent keeps the data key in memory for a while, and seals to the service when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_seals_to_a_service_that_comes_back() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut all = Sealed::new();
    all.plugin.stop();
    let config = format!(
        "cluster = \"prod\"\nmaster_keys = [\"file:keyring\", {:?}]\n[repository]\nurl = \"repo\"\n\
         [etcd]\nendpoints = {:?}\n[agent]\nlog = \"json\"\nlisten = \"LISTEN\"\nbackup = \"@every 1h\"\n",
        all.plugin.uri(),
        etcd.endpoints(),
    );
    let agent = Agent::start_with(&all.place, &config, &[]);
    agent.wait("backup_finished", 1);
    assert_eq!(agent.sum("strongroom_seals_missing{"), 1.0);
    let id = all.place.snapshots().remove(0);
    exits(12, &mut all.verify(&id));
    all.plugin.listen();
    agent.wait("seals_added", 1);
    assert_eq!(agent.sum("strongroom_seals_missing{"), 0.0);
    assert_eq!(kinds(&all.seal(&id, 2)), ["kms", "local"]);
    exits(0, &mut all.verify(&id));
    agent.end();
}

/// What has to seal does not wait for a service that would have to open: an agent that starts while it is down backs up.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_backs_up_while_the_only_service_that_opens_is_down() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut all = Sealed::new();
    let alone = backed_up(&mut all.alone(&backup()))["id"].as_str().unwrap().to_owned();
    let config = format!(
        "master_keys = [\"file:keyring\", {:?}]\n[repository]\nurl = \"repo\"\n[etcd]\nendpoints = {:?}\n\
         [agent]\nlog = \"json\"\nlisten = \"LISTEN\"\nbackup = \"@every 1h\"\nverify = \"@every 1s\"\n",
        all.plugin.uri(),
        etcd.endpoints(),
    );
    all.plugin.stop();
    let agent = Agent::start_with(&all.place, &config, &[]);
    agent.wait("backup_finished", 1);
    let (status, ready) = agent.get("/readyz");
    assert!(status == 503 && ready.contains("no plugin listens"), "{status} {ready}");
    let begun = |event: &str| {
        let lines = agent.lines.lock().unwrap();
        lines.iter().filter(|line| line["event"] == event).count()
    };
    assert_eq!(begun("verify_started"), 0, "what has to open waits");
    assert_eq!((begun("backup_started"), begun("newest_snapshot_missing")), (1, 0));
    agent.end();
    assert_eq!(all.place.snapshots().len(), 2);
    // It is back, and has rotated its key: what the older one sealed is counted.
    all.plugin.listen();
    all.plugin.set(|state| state.key_id = "key-2".into());
    fs::remove_dir_all(all.place.path("repo/reports")).ok();
    let agent = Agent::start_with(&all.place, &config.replace("1h", "3s"), &[]);
    agent.wait("backup_finished", 1);
    assert_eq!(agent.metric("strongroom_snapshots_by_older_service_key{"), 1.0);
    assert_eq!(agent.get("/readyz").0, 200);
    agent.end();
    exits(0, &mut all.verify(&alone));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_list_tells_of_an_older_key_at_the_service() {
    let mut all = Sealed::new();
    let id = all.backup();
    let list = |all: &Sealed| {
        let out = all.both(&["-w", "json", "key", "list"]).output().unwrap();
        assert!(out.status.success());
        let rows: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
        let row = rows.into_iter().find(|row| row["type"] == "service").unwrap();
        (row, String::from_utf8(out.stderr).unwrap())
    };
    let (row, said) = list(&all);
    assert_eq!((&row["by_older_key"], &row["opens"]), (&0.into(), &1.into()), "{said}");
    assert!(row["place"].as_str().unwrap().starts_with("kmsv2:"), "{row}");
    all.plugin.set(|state| state.key_id = "key-2".into());
    let (row, said) = list(&all);
    assert_eq!(row["by_older_key"], 1);
    assert!(said.contains("older key at the service"), "{said}");
    // As long as the service opens it.
    exits(0, &mut all.verify(&id));
    exits(0, &mut all.both(&["key", "reseal", "--all"]));
    assert_eq!(list(&all).0["by_older_key"], 0);
    assert_eq!(kinds(&all.seal(&id, 2)), ["kms", "local"]);
    all.plugin.stop();
    let (row, said) = list(&all);
    assert_eq!(row["opens"], 1);
    assert!(said.contains("no plugin listens"), "{said}");
}
