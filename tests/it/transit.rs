//! Snapshots sealed to a key of a transit engine: against a double of it (`support/transit_double.rs`), not Vault itself.

use std::process::Command;

use serde_json::Value;

use crate::blind::exits_with;
use crate::place::{Place, exits, write_secret};
use crate::support::small_database;
use crate::transit_double::{TOKEN, Transit};

fn with(place: &Place, keys: &[&str], args: &[&str]) -> Command {
    let mut command = place.bare(&["-r", "repo"]);
    for key in keys {
        command.args(["-k", key]);
    }
    command.env("VAULT_TOKEN", TOKEN).args(args);
    command
}

fn backup(place: &Place, keys: &[&str]) -> Command {
    let mut command = with(place, keys, &["-w", "json", "backup", "--file"]);
    command.arg(small_database());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_opens_with_every_version_of_the_key() {
    let (transit, place) = (Transit::start().await, Place::new());
    let uri = transit.uri("vault");
    let report: Value = serde_json::from_str(&exits_with(&mut backup(&place, &[&uri]))).unwrap();
    let id = report["id"].as_str().unwrap();
    // What it sealed to show that it can is what the backup is sealed with.
    assert_eq!((transit.calls("encrypt"), transit.calls("decrypt")), (1, 0));
    let verify = ["verify", id];
    exits(0, &mut with(&place, &[&uri], &verify));
    transit.rotate();
    exits(0, &mut with(&place, &[&uri], &verify));
    let list = |keys: &[&str]| with(&place, keys, &["key", "list"]).output().unwrap();
    let said = String::from_utf8(list(&[&uri]).stderr).unwrap();
    assert!(said.contains("older key at the service"), "{said}");
    exits(0, &mut with(&place, &[&uri], &["key", "reseal", "--all"]));
    transit.trim();
    exits(0, &mut with(&place, &[&uri], &verify));
    // What an old copy of the seal holds is given up at the service.
    transit.rotate();
    transit.trim();
    let out = exits(12, &mut with(&place, &[&uri], &verify));
    assert!(out.contains("disallowed by policy"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_with_it() {
    let (transit, place) = (Transit::start().await, Place::new());
    let uri = transit.uri("wrong");
    let keys = ["file:keyring", uri.as_str()];
    let report: Value = serde_json::from_str(&exits_with(&mut backup(&place, &keys))).unwrap();
    let verify = ["verify", report["id"].as_str().unwrap()];
    for (fault, code, said) in [
        ((503, "Vault is sealed"), 4, "Vault is sealed"),
        ((403, "permission denied"), 12, "permission denied"),
        ((400, "encryption key not found"), 12, "encryption key not found"),
        ((400, "invalid ciphertext: could not decode"), 13, "invalid ciphertext"),
    ] {
        transit.fault(Some(fault));
        let out = exits(code, &mut with(&place, &[&uri], &verify));
        assert!(out.contains(said) && out.contains("transit:wrong"), "{out}");
        exits(0, &mut with(&place, &keys, &verify));
    }
    exits(3, &mut backup(&place, &keys));
    transit.fault(None);
    transit.plaintext(Some(vec![7; 32]));
    exits(13, &mut with(&place, &[&uri], &verify));
    transit.plaintext(None);
    // The token: of a file, of the variable, none.
    let file = place.path("token");
    write_secret(&file, &format!("{TOKEN}\n"));
    let by_file = format!("{uri}?token-file={}", file.display());
    exits(0, with(&place, &[&by_file], &verify).env("VAULT_TOKEN", "another"));
    exits(12, with(&place, &[&uri], &verify).env("VAULT_TOKEN", "another"));
    let out = exits(2, with(&place, &[&uri], &verify).env_remove("VAULT_TOKEN"));
    assert!(out.contains("no token"), "{out}");
    assert!(!out.contains(TOKEN));
    let plain = "transit:x@http://vault.example:8200/transit/key";
    assert!(exits(2, &mut with(&place, &[plain], &verify)).contains("over http://"));
}
