//! What somebody who knows the public recipient and can write to the repository makes there.

use std::fs;

use strongroom::crypto::sha256;
use strongroom::format::Seal;

use crate::blind::{Blind, exits_with, trust};
use crate::place::exits;
use crate::support::small_database;

const LIST: [&str; 3] = ["-w", "json", "snapshots"];
const UNSIGNED: &str = "not trusted: not signed by a trusted signer";

impl Blind {
    fn seal(&self, id: &str, generation: u32) -> std::path::PathBuf {
        self.place.path(&format!("repo/snapshots/{id}/seal.{generation}"))
    }

    fn read(&self, id: &str, generation: u32) -> String {
        fs::read_to_string(self.seal(id, generation)).unwrap()
    }

    fn plant(&self, id: &str, generation: u32, text: &str) {
        let at = "generation ";
        let end = text.find(at).unwrap() + at.len();
        let rest = text[end..].split_once('\n').unwrap().1;
        fs::write(self.seal(id, generation), format!("{}{generation}\n{rest}", &text[..end]))
            .unwrap();
    }

    fn latest_is(&self, id: &str) {
        for command in [
            &mut self.host(&["-w", "json", "show", "latest"]),
            &mut self.owner(&["-w", "json", "show", "latest"]),
        ] {
            assert!(exits_with(command).contains(id), "{command:?}");
        }
    }
}

/// 1: a snapshot that anyone makes of the public key. It is not opened, so no service and no person is asked to.
#[test]
fn a_snapshot_sealed_by_somebody_else() {
    let blind = Blind::new();
    let genuine = blind.backup_file();
    let key = format!("recipient:{}", blind.recipient);
    let database = small_database();
    let mut thief = blind.place.command_with(
        &key,
        &["-w", "json", "backup", "--unsigned", "--file", database.to_str().unwrap()],
    );
    let planted: serde_json::Value = serde_json::from_str(&exits_with(&mut thief)).unwrap();
    let planted = planted["id"].as_str().unwrap();
    for list in [&mut blind.host(&LIST), &mut blind.owner(&LIST)] {
        assert_eq!(trust(list), ["trusted", UNSIGNED]);
    }
    blind.latest_is(&genuine);
    let restore = ["restore", planted, "--output", "x.db"];
    assert!(exits(1, &mut blind.owner(&restore)).contains(UNSIGNED));
    // By his own signature it counts no more.
    exits_with(&mut blind.place.bare(&["key", "generate", "--signing", "-o", "thief"]));
    let again = ["backup", "--file", database.to_str().unwrap()];
    exits_with(blind.place.command_with(&key, &["--signing-key", "thief"]).args(again));
    assert_eq!(trust(&mut blind.owner(&LIST)), ["trusted", UNSIGNED, UNSIGNED]);
    blind.latest_is(&genuine);
    // Nothing planted pushes anything out.
    let plan =
        exits_with(&mut blind.host(&["-w", "json", "prune", "--keep-last", "1", "--dry-run"]));
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["remove"].as_array().unwrap().len(), 0, "{plan}");
}

/// 2: what is signed is one snapshot of one cluster, and a signer may be for one cluster only.
#[test]
fn a_signature_taken_elsewhere() {
    let blind = Blind::new();
    let (one, two) = (blind.backup_file(), blind.backup_file());
    let line =
        blind.read(&one, 1).lines().find(|line| line.starts_with("ed25519")).unwrap().to_owned();
    let text = blind.read(&two, 1);
    let own = text.lines().find(|line| line.starts_with("ed25519")).unwrap().to_owned();
    fs::write(blind.seal(&two, 1), text.replace(&own, &line)).unwrap();
    let error = exits(13, &mut blind.owner(&["verify", &two]));
    assert!(error.contains("signature of signer"), "{error}");
    blind.latest_is(&one);
    fs::write(blind.seal(&two, 1), &text).unwrap();
    // The manifest of another cluster is another object.
    let manifest = blind.place.path(&format!("repo/snapshots/{two}/manifest"));
    let changed = fs::read_to_string(&manifest).unwrap().replace("\"default\"", "\"defaulu\"");
    fs::write(&manifest, changed).unwrap();
    exits(13, &mut blind.host(&["show", &two]));
    exits(13, &mut blind.owner(&["show", &two]));
    fs::remove_dir_all(manifest.parent().unwrap()).unwrap();
    // A signer of one cluster does not sign for another.
    fs::write(blind.place.path("signers"), format!("{} clusters=prod\n", blind.signer)).unwrap();
    assert_eq!(trust(&mut blind.owner(&LIST)), [UNSIGNED]);
    blind.backup(&["--cluster", "prod", "--file", small_database().to_str().unwrap()]);
    assert_eq!(trust(&mut blind.owner(&LIST)), [UNSIGNED, "trusted"]);
}

/// 4 and 5: a higher generation with junk in it, or of another snapshot, is passed over; the snapshot opens by the next.
#[test]
fn seals_with_junk() {
    let blind = Blind::new();
    let (one, two) = (blind.backup_file(), blind.backup_file());
    let good = blind.read(&one, 1);
    let seal = Seal::parse(good.as_bytes()).unwrap();
    let body = data_encoding::BASE64_NOPAD.encode(seal.body().stanzas()[0].body());
    // Signatures do not cover stanzas: this one has a genuine signature, and no data key.
    let junk: String = body
        .chars()
        .enumerate()
        .map(|(at, c)| {
            if at == 900 && c != 'A' {
                'A'
            } else if at == 900 {
                'B'
            } else {
                c
            }
        })
        .collect();
    blind.plant(&one, 2, &good.replace(&body, &junk));
    blind.plant(&one, 3, &blind.read(&two, 1));
    blind.plant(&one, 4, "strongroom-seal/1\nrubbish generation 1\n");
    let out = blind.owner(&["verify", &one]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("seal.2") && said.contains("seal.3") && said.contains("seal.4"),
        "{said}"
    );
    assert_eq!(out.status.code(), Some(0), "{said}");
    exits_with(&mut blind.owner(&["restore", &one, "--output", "x.db"]));
    // A share of low order, and another length: refused, not used.
    for (generation, change) in [(5, 6 + 1120 - 32..6 + 1120), (6, 1170..1174)] {
        let mut bytes = seal.body().stanzas()[0].body().to_vec();
        match generation {
            5 => bytes[change].fill(0),
            _ => bytes.truncate(change.start),
        }
        let changed = data_encoding::BASE64_NOPAD.encode(&bytes);
        blind.plant(&one, generation, &good.replace(&body, &changed));
    }
    let out = blind.owner(&["verify", &one]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("low order") && said.contains("another length"), "{said}");
    // Without the genuine seal there is nothing left that opens, and what is signed still tells that it was genuine.
    fs::remove_file(blind.seal(&one, 1)).unwrap();
    let error = exits(13, &mut blind.owner(&["restore", &one, "--output", "y.db"]));
    assert!(!blind.place.path("y.db").exists(), "{error}");
}

/// Whoever takes the signature away takes away that it counts, and no more.
#[test]
fn a_seal_without_its_signature() {
    let blind = Blind::new();
    let id = blind.backup_file();
    let text = blind.read(&id, 1);
    let without: String =
        text.split_inclusive('\n').filter(|line| !line.starts_with("ed25519")).collect();
    fs::write(blind.seal(&id, 1), &without).unwrap();
    for command in
        [&mut blind.owner(&["verify", &id]), &mut blind.host(&["verify", "--digests", &id])]
    {
        exits(13, command);
    }
    // It stands in the manifest that there was one.
    let manifest = fs::read(blind.place.path(&format!("repo/snapshots/{id}/manifest"))).unwrap();
    assert!(String::from_utf8_lossy(&manifest).contains("\"requires\":[\"signed\"]"));
    assert!(text.contains(&data_encoding::HEXLOWER.encode(&sha256(&[&manifest]))));
}

/// Lines that look like signatures, in a seal that does not open, are not taken into the next generation.
#[test]
fn signatures_that_nothing_authenticates() {
    let blind = Blind::new();
    let id = blind.backup_file();
    let place = &blind.place;
    let mut generate = place.bare(&["-w", "json", "key", "generate", "--signing", "-o", "second"]);
    let made: serde_json::Value = serde_json::from_str(&exits_with(&mut generate)).unwrap();
    let [signer, key] = ["signer", "id"].map(|name| made[name].as_str().unwrap().to_owned());
    let text = blind.read(&id, 1);
    let line = text.lines().find(|line| line.starts_with("ed25519")).unwrap();
    blind.plant(&id, 2, &text.replace(line, &line.replace(&blind.signer_key, &key)));
    let both = ["--signers", "signers", "key", "reseal", "--all"];
    let said = exits(3, &mut place.command_with("identity:identity,file:keyring", &both));
    assert!(said.contains("seal.2"), "{said}");
    assert!(blind.read(&id, 3).contains(line) && !blind.read(&id, 3).contains(&key));
    // Also for one who trusts that signer, too.
    fs::write(place.path("both"), format!("{}\n{signer}\n", blind.signer)).unwrap();
    let verify = ["--signers", "both", "verify", "latest"];
    exits_with(&mut place.command_with("identity:identity", &verify));
}

/// A copy brings the genuine seal, however many others somebody planted above it.
#[test]
fn a_blind_copy_among_planted_seals() {
    let blind = Blind::new();
    let id = blind.backup_file();
    let text = blind.read(&id, 1);
    let unsigned: String =
        text.split_inclusive('\n').filter(|line| !line.starts_with("ed25519")).collect();
    (1000..1070).for_each(|generation| blind.plant(&id, generation, &unsigned));
    exits_with(&mut blind.host(&["copy", "--to", "second"]));
    let copied = |generation: u32| {
        fs::read(blind.place.path(&format!("second/snapshots/{id}/seal.{generation}")))
    };
    assert_eq!(copied(1).unwrap(), text.as_bytes());
    assert!(copied(1069).is_ok() && copied(1035).is_err());
    // A copy that has another seal under the number of the only one that counts is no copy.
    let planted = unsigned.replace("ed25519", "");
    fs::remove_dir_all(blind.place.path("second")).unwrap();
    exits_with(&mut blind.host(&["copy", "--to", "second"]));
    fs::write(blind.place.path(&format!("second/snapshots/{id}/seal.1")), planted).unwrap();
    let said = exits(13, &mut blind.host(&["copy", "--to", "second"]));
    assert!(said.contains("by which the snapshot counts"), "{said}");
}

/// 7: a signer is revoked before its old snapshots have another signature.
#[test]
fn a_revoked_signer() {
    let blind = Blind::new();
    let id = blind.backup_file();
    let place = &blind.place;
    let made = exits_with(&mut place.bare(&[
        "-w",
        "json",
        "key",
        "generate",
        "--signing",
        "-o",
        "second",
    ]));
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let second = made["signer"].as_str().unwrap();
    let revoked = format!("{} revoked=2026-01-31T12:00:00Z\n{second}\n", blind.signer);
    fs::write(place.path("signers"), revoked).unwrap();
    let list = trust(&mut blind.owner(&LIST));
    assert_eq!(list, ["not trusted: signed by a revoked signer"]);
    let error = exits(1, &mut blind.owner(&["restore", &id, "--output", "x.db"]));
    assert!(error.contains("key vouch --before"), "{error}");
    // What is older than the theft by its id and by the store is signed again; the rest is named.
    let vouch = |time: &str| {
        let mut command = blind.owner(&["--signing-key", "second", "key", "vouch", "--all"]);
        command.args(["--signer", &blind.signer_key, "--before", time]);
        command
    };
    let said = exits(3, &mut vouch("2020-01-01"));
    assert!(said.contains(&id) && said.contains("0 signed"), "{said}");
    // Somebody may have planted a manifest before the theft, and signed it after.
    let seal = fs::File::options().write(true).open(blind.seal(&id, 1)).unwrap();
    let modified = seal.metadata().unwrap().modified().unwrap();
    seal.set_modified(modified + std::time::Duration::from_secs(100 * 365 * 86_400)).unwrap();
    let said = exits(3, &mut vouch("2100-01-01T00:00:00Z"));
    assert!(said.contains("0 signed") && said.contains("seal written 21"), "{said}");
    seal.set_modified(modified).unwrap();
    let said = exits_with(&mut vouch("2100-01-01T00:00:00Z"));
    assert!(said.contains("1 signed"), "{said}");
    assert_eq!(trust(&mut blind.owner(&LIST)), ["trusted"]);
    exits_with(&mut blind.owner(&["verify", "--all"]));
    // What the thief signs from now on, of whatever date, does not count.
    let late = blind.backup_file();
    assert_eq!(
        trust(&mut blind.owner(&LIST)),
        ["trusted", "not trusted: signed by a revoked signer"]
    );
    assert!(
        exits(1, &mut blind.owner(&["restore", &late, "--output", "y.db"])).contains("revoked")
    );
    let mut unknown = blind.owner(&["--signing-key", "second", "key", "vouch", "--all"]);
    exits(2, unknown.args(["--signer", &"0".repeat(32), "--before", "2100-01-01T00:00:00Z"]));
}

/// Files of signers decide what is believed.
#[test]
fn a_file_of_signers_that_others_can_change() {
    use std::os::unix::fs::PermissionsExt;
    let blind = Blind::new();
    blind.backup_file();
    let path = blind.place.path("signers");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let error = exits(1, &mut blind.owner(&["verify", "latest"]));
    assert!(error.contains("others can change"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    exits_with(&mut blind.owner(&["verify", "latest"]));
}
