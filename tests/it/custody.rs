//! Who can open the snapshots, and how that is shown: `key list`, `key prove`, `key custody`, `key reencrypt`.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use strongroom::backup::{
    ReencryptReport, Reencryption, Scope, VerifyLevel, reencrypt, show, snapshots, verify,
};
use strongroom::task::Control;

use crate::blind::{Blind, exits_with};
use crate::faulty::Faulty;
use crate::kms_fault::{Fault, Plugin};
use crate::place::{Place, exits, text, write_secret};
use crate::prune::age;
use crate::support::{TestRepo, keys, local, small_database};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&exits_with(command)).unwrap()
}

/// The rows of `key list` by id.
fn row<'a>(list: &'a Value, id: &str) -> &'a Value {
    let mut rows = list.as_array().unwrap().iter();
    rows.find(|row| row["id"] == id).unwrap_or(&Value::Null)
}

/// Anybody can plant a seal that names other keys, with a higher number than the genuine one.
#[test]
fn planted_seals_count_for_no_key() {
    let place = Place::new();
    let id = place.backup();
    let own = place.json(&["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    let seal = |n: u32| place.path(&format!("repo/snapshots/{id}/seal.{n}"));
    let genuine = fs::read_to_string(seal(1)).unwrap();
    let planted = "0123456789abcdef0123456789abcdef";
    let text = genuine.replace("generation 1", "generation 7").replace(&own, planted);
    fs::write(seal(7), text).unwrap();
    let list = place.json(&["key", "list"]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    let key = row(&list, &own);
    assert_eq!(
        (&key["opens"], &key["only_key_of"], &key["named"]),
        (&1.into(), &1.into(), &1.into())
    );
    let kit = exits_with(&mut place.command(&["key", "kit"]));
    assert!(kit.contains("1 snapshot,") && !kit.contains(planted), "{kit}");
    // Where no key can tell, it is unknown, and not none.
    place.succeed(&["key", "generate", "-o", "other"]);
    let list = json(&mut place.command_with("file:other", &["-w", "json", "key", "list"]));
    for id in [own.as_str(), planted] {
        let key = row(&list, id);
        assert_eq!((&key["state"], &key["opens"]), (&"elsewhere".into(), &Value::Null), "{list}");
        assert_eq!(key["named"], 1);
    }
    let said = exits(0, &mut place.command_with("file:other", &["key", "list"]));
    assert!(said.contains(" ? ") && said.contains("no key here opens 1 snapshot"), "{said}");
    let kit = exits_with(&mut place.command_with("file:other", &["key", "kit"]));
    assert!(kit.contains("not verified here"), "{kit}");
}

/// A seal that was kept beside a newer one still opens the snapshot: its keys are counted.
#[test]
fn keys_of_seals_that_stay_are_counted() {
    let place = Place::new();
    let id = place.backup();
    let seal = place.path(&format!("repo/snapshots/{id}/seal.1"));
    let first = fs::read(&seal).unwrap();
    let old = place.json(&["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    place.succeed(&["key", "generate", "-o", "other"]);
    let both = "file:keyring,file:other";
    exits_with(&mut place.command_with(both, &["key", "reseal", "--all"]));
    exits_with(&mut place.command_with("file:other", &["key", "reseal", "--all", "--drop", &old]));
    fs::write(&seal, first).unwrap();
    let list = json(&mut place.command_with(both, &["-w", "json", "key", "list"]));
    let key = row(&list, &old);
    assert_eq!((&key["opens"], &key["only_key_of"]), (&1.into(), &0.into()), "{list}");
}

/// Nobody knows whether a recipient's identity exists until it has opened a snapshot.
#[test]
fn a_recipient_is_proven() {
    let blind = Blind::new();
    let place = &blind.place;
    let database = small_database();
    let backup =
        ["-w", "json", "backup", "--signers", "signers", "--file", database.to_str().unwrap()];
    let warned = |report: &Value| report["warnings"].to_string().contains("nothing shows yet");
    let report = json(&mut blind.host(&backup));
    assert!(warned(&report) && report["warnings"].to_string().contains(&blind.key), "{report}");
    let quiet =
        blind.host(&["-q", "backup", "--file", database.to_str().unwrap()]).output().unwrap();
    assert_eq!(text(&quiet.stderr), "");
    // What nobody signs would count nowhere.
    let error = exits(2, &mut blind.owner(&["key", "prove"]));
    assert!(error.contains("--signing-key"), "{error}");
    let made = place.bare(&["-w", "json", "key", "generate", "--signing", "-o", "owner"]).output();
    let made: Value = serde_json::from_slice(&made.unwrap().stdout).unwrap();
    let prove = ["-w", "json", "--signing-key", "owner", "key", "prove"];
    let proven = json(&mut blind.owner(&prove));
    assert_eq!(
        (&proven[0]["passed"], &proven[0]["key"]),
        (&true.into(), &blind.key.as_str().into())
    );
    // The host believes its signers only.
    assert!(warned(&json(&mut blind.host(&backup))));
    let signers = fs::read_to_string(place.path("signers")).unwrap();
    let owner = made["signer"].as_str().unwrap();
    fs::write(place.path("signers"), format!("{signers}{owner} name=owner\n")).unwrap();
    assert!(!warned(&json(&mut blind.host(&backup))));
    let list = json(&mut blind.host(&["-w", "json", "--signers", "signers", "key", "list"]));
    let key = row(&list, &blind.key);
    assert!(key["tested"].is_string() && key["verified"].is_string(), "{list}");
    // A signature says nothing of stanzas: who opens is unknown on a blind host, and known to the owner.
    assert_eq!((&key["opens"], &key["depends_on"]), (&Value::Null, &"elsewhere".into()));
    let list = json(&mut blind.owner(&["-w", "json", "key", "list"]));
    assert_eq!(row(&list, &blind.key)["opens"], 4, "{list}");
    assert!(exits_with(&mut blind.owner(&["key", "kit"])).contains("tested 20"));
    let shown =
        json(&mut blind.owner(&["-w", "json", "reports", proven[0]["report"].as_str().unwrap()]));
    assert_eq!((&shown["kind"], &shown["key"]), (&"prove".into(), &blind.key.as_str().into()));
    // Another's identity opens nothing, and is not proven by trying.
    exits_with(&mut place.bare(&["key", "generate", "--recipient", "-o", "another"]));
    let another = ["--signers", "signers", "--signing-key", "owner", "key", "prove"];
    let error = exits(12, &mut place.command_with("identity:another", &another));
    assert!(error.contains("failed"), "{error}");
    let list = place
        .command_with("identity:another", &["-w", "json", "--signers", "signers", "key", "list"])
        .output();
    let list: Value = serde_json::from_slice(&list.unwrap().stdout).unwrap();
    let mut rows = list.as_array().unwrap().iter();
    let identity = rows.find(|row| row["type"] == "identity").unwrap();
    assert_eq!((&identity["tested"], &identity["verified"]), (&Value::Null, &Value::Null));
}

/// A symmetric key needs no signer; each key is used alone.
#[test]
fn each_key_of_several_is_proven_alone() {
    let place = Place::new();
    place.succeed(&["key", "generate", "-o", "other"]);
    let both = "file:keyring,file:other";
    let database = small_database();
    let backup = ["backup", "--file", database.to_str().unwrap()];
    place.backup();
    // The newest is not sealed to the other one.
    let out = place.command_with(both, &["-w", "json", "key", "prove"]).output().unwrap();
    assert_eq!(out.status.code(), Some(12));
    let proven: Value = serde_json::from_slice(&out.stdout).unwrap();
    let count = |proven: &Value, is: bool| {
        proven.as_array().unwrap().iter().filter(|one| one["passed"] == is).count()
    };
    assert_eq!((count(&proven, true), count(&proven, false)), (1, 1), "{proven}");
    exits_with(&mut place.command_with(both, &backup));
    let proven = json(&mut place.command_with(both, &["-w", "json", "key", "prove"]));
    assert_eq!(count(&proven, true), 2);
}

/// Files of one host are lost together.
#[test]
fn independent_ways_to_open() {
    let blind = Blind::new();
    let place = &blind.place;
    place.succeed(&["key", "generate", "-o", "other"]);
    let other = json(&mut place.command_with("file:other", &["-w", "json", "key", "list"]));
    let other = other.as_array().unwrap().iter().find(|row| row["type"] == "local").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let database = small_database();
    let backup = ["-w", "json", "backup", "--file", database.to_str().unwrap()];
    let recipient = format!("file:keyring,recipient:{}", blind.recipient);
    let recovery = ["--recovery-key", &other];
    for (keys, more, ways) in [
        ("file:keyring", &[][..], 1),
        ("file:keyring,file:other", &[], 1),
        ("file:keyring,file:other", &recovery, 2),
        // Nothing is sealed to it yet.
        ("file:keyring", &recovery, 1),
        (&recipient, &["--unsigned"], 2),
    ] {
        let (unsigned, recovery): (Vec<&str>, Vec<&str>) =
            more.iter().partition(|arg| **arg == "--unsigned");
        let report = json(place.command_with(keys, &backup).args(&unsigned).args(&recovery));
        assert_eq!(report["independent"], ways, "{keys} {more:?}");
        let out = place
            .command_with(keys, &["-w", "json", "key", "custody"])
            .args(&recovery)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        let custody: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(custody["clusters"][0]["independent"], ways, "{keys}: {custody}");
        assert_eq!(custody["independent"], ways);
        let findings = custody["findings"].to_string();
        assert_eq!(findings.contains("one loss takes every key"), ways < 2, "{findings}");
        assert!(findings.contains("no key was tested"), "{findings}");
    }
    // Proven, with two ways, and no snapshot that has only one: nothing is left to say.
    let safe = Place::new();
    safe.succeed(&["key", "generate", "-o", "other"]);
    let both = "file:keyring,file:other";
    let with = |args: &[&str]| {
        let list = json(&mut safe.command_with("file:other", &["-w", "json", "key", "list"]));
        let id = list[0]["id"].as_str().unwrap().to_owned();
        let mut command = safe.command_with(both, &["--recovery-key", &id]);
        command.args(args);
        command
    };
    exits_with(&mut with(&backup));
    exits_with(&mut with(&["key", "prove"]));
    let custody = json(&mut with(&["-w", "json", "key", "custody"]));
    assert_eq!(custody["clusters"][0]["tested"].as_array().unwrap().len(), 2, "{custody}");
}

/// A passphrase is forgotten by itself.
#[test]
fn a_passphrase_is_a_way_of_its_own() {
    let place = Place::new();
    write_secret(&place.path("word"), "a long passphrase of mine, for tests");
    let run = |keys: &str, args: &[&str]| {
        let mut command = place.bare(&["-r", "second", "-k", keys, "-w", "json"]);
        json(command.env("STRONGROOM_PASSPHRASE_FILE", "word").args(args))
    };
    let made = run("passphrase", &["init"]);
    let uri = format!("passphrase:{}", made["passphrase_key"].as_str().unwrap());
    let database = small_database();
    let backup = ["backup", "--file", database.to_str().unwrap()];
    assert_eq!(run(&uri, &backup)["independent"], 1);
    let both = format!("file:keyring,{uri}");
    assert_eq!(run(&both, &backup)["independent"], 2);
    let list = run(&both, &["key", "list"]);
    let mut rows = list.as_array().unwrap().iter();
    let row = rows.find(|row| row["type"] == "passphrase").unwrap();
    assert_eq!(row["depends_on"], "a passphrase", "{list}");
}

/// A service is lost by itself; while it is down the rest is listed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_a_way_of_its_own() {
    let (place, mut plugin) = (Place::new(), Plugin::start());
    let both = format!("file:keyring,{}", plugin.uri());
    let with = |args: &[&str]| place.command_with(&both, args);
    let database = small_database();
    let report = json(&mut with(&["-w", "json", "backup", "--file", database.to_str().unwrap()]));
    assert_eq!(report["independent"], 2, "{report}");
    let tested = with(&["-w", "json", "key", "prove"]).output().unwrap();
    let tested: Value = serde_json::from_slice(&tested.stdout).unwrap();
    assert!(tested.as_array().unwrap().iter().all(|one| one["passed"] == true), "{tested}");
    let service = |list: &Value| {
        let mut rows = list.as_array().unwrap().iter();
        rows.find(|row| row["type"] == "service").unwrap().clone()
    };
    let list = json(&mut with(&["-w", "json", "key", "list"]));
    let row = service(&list);
    assert_eq!(
        (&row["depends_on"], &row["opens"]),
        (&"a kmsv2 service".into(), &1.into()),
        "{row}"
    );
    assert!(row["tested"].is_string() && row["place"].as_str().unwrap().starts_with("kmsv2:"));
    plugin.stop();
    let out = with(&["-w", "json", "key", "list"]).output().unwrap();
    assert!(
        out.status.success() && text(&out.stderr).contains("not available"),
        "{}",
        text(&out.stderr)
    );
    let list: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(service(&list)["opens"], 1, "the keyring opens the seal that names it");
    let mut alone = place.command_with(&plugin.uri(), &["-w", "json", "key", "list"]);
    assert_eq!(service(&json(&mut alone))["opens"], Value::Null);
}

/// After a rotation the stolen old keyring opens no stored byte, whatever seals its thief kept.
#[test]
fn a_stolen_key_does_not_open_what_was_encrypted_again() {
    let place = Place::new();
    write_secret(&place.path("note"), "a companion");
    let database = small_database();
    let backup =
        ["backup", "--include", "note", "--tag", "kept", "--file", database.to_str().unwrap()];
    place.succeed(&backup);
    place.succeed(&backup);
    let old = place.snapshots();
    fs::copy(place.path("keyring"), place.path("stolen")).unwrap();
    let kept =
        fs::read_to_string(place.path(&format!("repo/snapshots/{}/seal.1", old[0]))).unwrap();
    let shown = place.json(&["show", &old[1]]);
    place.succeed(&["key", "rotate"]);
    place.succeed(&["key", "rotate", "--finish"]);
    // Sealing again has revoked nothing.
    fs::write(place.path(&format!("repo/snapshots/{}/seal.1", old[0])), &kept).unwrap();
    let thief = |id: &str, code: i32| {
        let args = ["restore", id, "--output", "thief.db", "--accept-untrusted"];
        exits(code, &mut place.command_with("file:stolen", &args));
    };
    thief(&old[0], 0);
    let report = place.json(&["key", "reencrypt", "--all"]);
    assert_eq!(report["reencrypted"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(report["removed"].as_array().unwrap().len(), 2);
    let new = place.snapshots();
    assert!(new.iter().all(|id| !old.contains(id)) && new.len() == 2, "{new:?}");
    assert_eq!(report["reencrypted"][1]["new"], new[1].as_str());
    // What is told of it is the same, and so is what it holds.
    let again = place.json(&["show", "latest"]);
    for name in ["created", "cluster", "revision", "tags", "included", "database_bytes", "previous"]
    {
        assert_eq!(shown[name], again[name], "{name}: {shown} {again}");
    }
    assert!(place.snapshots().last() == Some(&new[1]));
    place.succeed(&["verify", "--all", "--deep"]);
    place.succeed(&["restore", "latest", "--output", "x.db", "--companions-to", "companions"]);
    assert_eq!(fs::read(place.path("x.db")).unwrap(), fs::read(small_database()).unwrap());
    assert!(fs::read_dir(place.path("companions")).unwrap().next().is_some());
    fs::remove_file(place.path("thief.db")).unwrap();
    new.iter().for_each(|id| thief(id, 12));
    let moved = kept.replace(&old[0], &new[0]).replace("generation 1", "generation 8");
    let moved_to = place.path(&format!("repo/snapshots/{}/seal.8", new[0]));
    fs::write(&moved_to, moved).unwrap();
    thief(&new[0], 12);
    fs::remove_file(moved_to).unwrap();
    // Run again, there is nothing to do.
    let report = place.json(&["key", "reencrypt", "--all"]);
    assert_eq!(
        (&report["before"], report["reencrypted"].as_array().unwrap().len()),
        (&2.into(), 0)
    );
    // Nor is it said that there is nothing to do when another key is stolen: what it may open is named.
    place.succeed(&["key", "rotate"]);
    place.succeed(&["key", "rotate", "--finish"]);
    let out = exits(3, &mut place.command(&["key", "reencrypt", "--all"]));
    assert!(new.iter().all(|id| out.contains(id)), "{out}");
    assert!(out.contains("was sealed again since: name it to encrypt it again"), "{out}");
    // Until the grace period is over the old ones can be brought back; after it they are gone, and nothing is missing.
    place.succeed(&["prune", "--undo", &old[0]]);
    place.succeed(&["prune", "--unpin", &old[0]]);
    place.succeed(&["prune", "--remove", &old[0]]);
    age(&place.path("repo"), 2 * DAY);
    // It tells the store's time.
    place.backup();
    place.succeed(&["prune", "--keep-last", "9"]);
    let left = place.objects();
    assert!(
        left.iter().all(|path| !old.iter().any(|id| path.to_string_lossy().contains(id))),
        "{left:?}"
    );
    place.succeed(&["verify", "--all"]);
}

/// The recovery identity was stolen: only the new one opens, and the signature shows that it is genuine.
#[test]
fn a_stolen_identity() {
    let blind = Blind::new();
    let place = &blind.place;
    let old = blind.backup_file();
    let made = place.bare(&["-w", "json", "key", "generate", "--recipient", "-o", "new"]).output();
    let made: Value = serde_json::from_slice(&made.unwrap().stdout).unwrap();
    let (key, recipient) = (made["id"].as_str().unwrap(), made["recipient"].as_str().unwrap());
    let uris = format!("identity:identity?retired,recipient:{recipient}");
    let again = ["--signing-key", "signing", "key", "reencrypt", "--all"];
    let error = exits(1, &mut place.command_with(&uris, &again));
    assert!(error.contains(&format!("--expect {key}")), "{error}");
    // Nobody loses a key by mistake.
    let uris_only = format!("identity:identity,recipient:{recipient}");
    let dropped = [&again[..], &["--expect", key, "--drop", &blind.key]].concat();
    assert!(exits(2, &mut place.command_with(&uris_only, &dropped)).contains("cannot be dropped"));
    exits_with(place.command_with(&uris, &again).args(["--expect", key, "--keep-old"]));
    // An earlier run's that does not open here replaces nothing that has to open here.
    let mut with_old = place.command_with("identity:identity", &again);
    let error = exits(1, with_old.args(["--expect", &blind.key]));
    assert!(error.contains("does not open with key"), "{error}");
    assert_eq!(place.snapshots().len(), 2);
    exits_with(place.command_with(&uris, &again).args(["--expect", key]));
    assert!(!place.snapshots().contains(&old) && place.snapshots().len() == 1);
    exits(12, &mut blind.owner(&["verify", "latest"]));
    let new = ["--signers", "signers", "verify", "latest"];
    exits_with(&mut place.command_with("identity:new", &new));
}

/// What a key elsewhere opens stays open to it, unless it is named.
#[test]
fn a_key_that_is_not_here_is_not_lost_by_mistake() {
    let blind = Blind::new();
    let place = &blind.place;
    let database = small_database();
    let both = format!("file:keyring,recipient:{}", blind.recipient);
    let backup = ["backup", "--unsigned", "--file", database.to_str().unwrap()];
    exits_with(&mut place.command_with(&both, &backup));
    let id = place.snapshots().remove(0);
    let error = exits(1, &mut place.command(&["key", "reencrypt", "--all"]));
    assert!(error.contains(&blind.key) && error.contains("--drop"), "{error}");
    assert_eq!(place.snapshots(), std::slice::from_ref(&id));
    // A pinned one, too; and with --keep-old it stays.
    place.succeed(&["prune", "--pin", &id]);
    let drop = ["key", "reencrypt", &id, "--drop", &blind.key];
    assert!(place.fail(1, &drop).contains("pinned"));
    place.succeed(&[&drop[..], &["--keep-old"]].concat());
    assert_eq!(place.snapshots().len(), 2);
    place.succeed(&["prune", "--unpin", &id]);
    // A seal of a newer version may name another key that opens it.
    let seal = |n: u32| place.path(&format!("repo/snapshots/{id}/seal.{n}"));
    let newer = fs::read_to_string(seal(1)).unwrap().replace("seal/1", "seal/2");
    fs::write(seal(9), newer).unwrap();
    let error = place.fail(1, &drop);
    assert!(error.contains("not all keys that open it are known"), "{error}");
    place.succeed(&[&drop[..], &["--keep-old"]].concat());
    fs::remove_file(seal(9)).unwrap();
    // The new one lacks that key: it replaces the old one only if the key is given up now, too, and if it is undamaged.
    let error = place.fail(1, &["key", "reencrypt", &id]);
    assert!(error.contains(&blind.key) && error.contains("does not open with key"), "{error}");
    let payload = place.path(&format!("repo/snapshots/{}/payload", place.snapshots()[1]));
    let whole = fs::read(&payload).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&payload, damaged).unwrap();
    place.fail(13, &drop);
    fs::write(&payload, whole).unwrap();
    assert_eq!(place.snapshots().len(), 2);
    let report = place.json(&drop);
    assert_eq!(report["removed"][0], id.as_str());
    assert_eq!(place.snapshots().len(), 1, "an earlier run's is not written twice");
}

/// What opens with a key whose service is down, or seals wrong, is not written again without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_loses_no_snapshot() {
    let (place, mut plugin) = (Place::new(), Plugin::start());
    let both = format!("file:keyring,{}", plugin.uri());
    let with = |args: &[&str]| place.command_with(&both, args);
    exits_with(&mut with(&["backup", "--file", small_database().to_str().unwrap()]));
    let before = place.files();
    plugin.fault(Fault::Ciphertext(0));
    let error = text(&with(&["key", "reencrypt", "--all"]).output().unwrap().stderr);
    assert!(error.contains("0 bytes"), "{error}");
    assert_eq!(place.files(), before);
    plugin.stop();
    let error = exits(4, &mut with(&["key", "reencrypt", "--all"]));
    assert!(error.contains("no plugin listens"), "{error}");
    assert_eq!(place.files(), before);
}

/// Whatever call fails: each database is there, at least once, and the next run does the rest.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_the_old_or_the_new_is_whole() {
    let original = fs::read(small_database()).unwrap();
    let how = Reencryption::default();
    for once in [true, false] {
        let mut failures = 0;
        for calls in 0..400 {
            let repo = TestRepo::new().await;
            let id = repo.backup(&keys(&[1])).await.id;
            let store = Faulty::new(local(repo.dir.path()), calls, once);
            let control = Control::default();
            let run = async |repository: &strongroom::store::Repository| {
                reencrypt(repository, &keys(&[1]), Scope::All, &how, &control).await
            };
            let broken: strongroom::Result<ReencryptReport> =
                match repo.through(Arc::new(store.clone())).await {
                    Ok(repository) => run(&repository).await,
                    Err(error) => Err(error),
                };
            let listed = snapshots(&repo.repository, None).await.unwrap().snapshots;
            assert!(!listed.is_empty(), "call {calls}");
            for one in &listed {
                assert_eq!(
                    repo.restore(&keys(&[1]), one.id).await.unwrap(),
                    original,
                    "call {calls}"
                );
            }
            if !store.failed() {
                assert_eq!(broken.unwrap().removed, [id]);
                break;
            }
            failures += 1;
            run(&repo.repository).await.unwrap();
            let listed = snapshots(&repo.repository, None).await.unwrap().snapshots;
            assert_eq!(listed.len(), 1, "call {calls}");
            assert_ne!(listed[0].id, id, "call {calls}");
            assert_eq!(
                show(&repo.repository, &keys(&[1]), listed[0].id)
                    .await
                    .unwrap()
                    .manifest
                    .body()
                    .replaces,
                Some(id)
            );
        }
        assert!(failures > 10 && failures < 400, "{failures}");
    }
    let repo = TestRepo::new().await;
    repo.backup(&keys(&[1])).await;
    let (control, level) = (Control::default(), VerifyLevel::Full);
    assert!(verify(&repo.repository, &keys(&[1]), Scope::All, level, &control).await.is_ok());
}
