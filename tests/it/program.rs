//! A master key's life through the program: generated, rotated, re-sealed to, given up.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::place::{Place, exits, text};
use crate::support::small_database;

fn mode(place: &Place, name: &str) -> u32 {
    fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777
}

fn set_mode(place: &Place, name: &str, mode: u32) {
    fs::set_permissions(place.path(name), Permissions::from_mode(mode)).unwrap();
}

/// Every object but the seals, by path.
fn without_seals(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let paths = place.objects().into_iter().map(|path| path.to_string_lossy().into_owned());
    paths
        .filter(|path| !path.contains("/seal."))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn a_keyring_is_its_owners_alone_and_never_overwritten() {
    let place = Place::new();
    assert_eq!(mode(&place, "keyring"), 0o600);
    let before = fs::read(place.path("keyring")).unwrap();
    let error = place.fail(1, &["key", "generate", "-o", "keyring"]);
    assert!(error.contains("exists"), "{error}");
    assert_eq!(fs::read(place.path("keyring")).unwrap(), before);
    place.backup();
    for (allowed, mode) in [(true, 0o400), (true, 0o640), (true, 0o440), (false, 0o604)] {
        set_mode(&place, "keyring", mode);
        let out = place.run(&["verify", "latest"]);
        assert_eq!(out.status.success(), allowed, "{mode:o}: {}", text(&out.stderr));
    }
    let error = place.fail(1, &["verify", "latest"]);
    assert!(error.contains("chmod"), "{error}");
    set_mode(&place, "keyring", 0o600);
    place.succeed(&["key", "rotate", "--offline"]);
    assert_eq!(mode(&place, "keyring"), 0o600);
}

/// No host seals with a key that another one does not have yet.
#[test]
fn a_key_is_staged_before_it_seals() {
    let place = Place::new();
    let states = || -> BTreeMap<String, String> {
        let rows = place.json(&["key", "list"]);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        rows.as_array().unwrap().iter().map(|row| (text(&row["id"]), text(&row["state"]))).collect()
    };
    let old = states().into_keys().next().unwrap();
    let new = place.json(&["key", "rotate", "--staged"])["id"].as_str().unwrap().to_owned();
    assert_eq!((&*states()[&old], &*states()[&new]), ("primary", "staged"));
    let error = place.fail(1, &["key", "rotate", "--staged"]);
    assert!(error.contains("staged already") && error.contains("key promote"), "{error}");
    place.fail(2, &["key", "promote", &new, "--at", "2020-01-01T00:00:00Z"]);
    let later = place.succeed(&["key", "promote", &new, "--at", "2100-01-01T00:00:00Z"]);
    assert!(text(&later.stdout).contains("becomes primary at 2100-01-01T00:00:00Z"));
    assert_eq!((&*states()[&old], &*states()[&new]), ("primary", "staged"));
    place.succeed(&["key", "promote", &new]);
    assert_eq!((&*states()[&old], &*states()[&new]), ("retiring", "primary"));
    for id in [&old, &new] {
        let error = place.fail(1, &["key", "promote", id]);
        assert!(error.contains("only once"), "{error}");
    }
}

#[test]
fn rotated_resealed_and_given_up() {
    let place = Place::new();
    let old = place.json(&["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    place.backup();
    place.backup();
    let objects = without_seals(&place);
    let new = place.json(&["key", "rotate", "--offline"])["id"].as_str().unwrap().to_owned();
    assert_ne!(old, new);
    let states: BTreeMap<_, _> = place
        .json(&["key", "list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["id"].as_str().unwrap().to_owned(), row.clone()))
        .collect();
    assert_eq!(
        (&states[&new]["state"], &states[&old]["state"]),
        (&"primary".into(), &"retiring".into())
    );
    assert_eq!((&states[&new]["opens"], &states[&old]["only_key_of"]), (&0.into(), &2.into()));

    let error = place.fail(1, &["key", "remove", &old, "--now"]);
    assert!(error.contains(&old) && error.contains("reseal"), "{error}");
    let error = place.fail(2, &["key", "reseal", "--all", "--drop", &new]);
    assert!(error.contains("cannot be dropped"), "{error}");
    let report = place.json(&["key", "reseal", "--all"]);
    assert_eq!((&report["resealed"], &report["unchanged"]), (&2.into(), &0.into()));
    assert_eq!(without_seals(&place), objects, "headers only");
    let report = place.json(&["key", "reseal", "--all"]);
    assert_eq!((&report["resealed"], &report["unchanged"]), (&0.into(), &2.into()));
    let error = place.fail(1, &["key", "remove", &old]);
    assert!(error.contains("younger than a day") && error.contains("--now"), "{error}");
    place.succeed(&["key", "rotate", "--finish"]);
    place.succeed(&["key", "remove", &old, "--now"]);
    place.succeed(&["verify", "--all"]);
    assert!(text(&fs::read(place.path("keyring")).unwrap()).contains("destroyed"));
    let error = place.fail(1, &["key", "remove", &new, "--now"]);
    assert!(error.contains(&new), "{error}");
}

#[test]
fn a_wrong_key_is_told_which_would_open() {
    let place = Place::new();
    let snapshot = place.backup();
    let id = place.json(&["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    place.succeed(&["key", "generate", "-o", "other"]);
    for args in [&["verify", "latest"][..], &["restore", "latest", "-o", "out.db"]] {
        let error = exits(12, &mut place.command_with("file:other", args));
        assert!(error.contains(&id), "{args:?}: {error}");
    }
    assert!(!place.path("out.db").exists());
    // What needs no key still works. Which one is the latest depends on the keys, if there are any.
    exits(0, &mut place.command_with("file:other", &["snapshots"]));
    exits(12, &mut place.command_with("file:other", &["verify", "latest", "--digests"]));
    exits(0, &mut place.command_with("file:other", &["verify", &snapshot, "--digests"]));
    exits(0, &mut place.bare(&["-r", "repo", "verify", "latest", "--digests"]));
}

#[test]
fn a_second_key_seals_too_and_opens_alone() {
    let place = Place::new();
    place.succeed(&["key", "generate", "-o", "recovery"]);
    fs::copy(small_database(), place.path("etcd.db")).unwrap();
    let backup = ["backup", "--file", "etcd.db"];
    let one = text(&place.succeed(&backup).stderr);
    assert!(one.contains("only one master key seals"), "{one}");
    // Cron mails whatever a command writes.
    let quiet = place.succeed(&[&["-q"], &backup[..]].concat());
    assert_eq!(text(&quiet.stderr), "");
    let two = text(&place.succeed(&[&["-k", "file:recovery"], &backup[..]].concat()).stderr);
    assert!(!two.contains("warning"), "{two}");
    exits(0, &mut place.command_with("file:recovery", &["verify", "latest"]));
    exits(12, &mut place.command_with("file:recovery", &["verify", "--all"]));
}

#[test]
fn a_passphrase_changes_and_the_old_one_opens_nothing() {
    let place = Place::new();
    let word = |word: &'static str, args: &[&str]| {
        let mut command = place.command_with("passphrase", args);
        command.env("STRONGROOM_PASSPHRASE_COMMAND", format!("printf '{word}'"));
        command
    };
    let made = exits(0, &mut word("first", &["init"]));
    let uri = made.lines().find(|line| line.starts_with("passphrase:")).unwrap();
    let named = |word: &'static str, args: &[&str]| {
        let mut command = place.command_with(uri, args);
        command.env("STRONGROOM_PASSPHRASE_COMMAND", format!("printf '{word}'"));
        command
    };
    place.backup();
    exits(12, &mut named("first", &["verify", "latest"]));
    let both = ["-k", uri, "key", "reseal", "--all"];
    exits(0, place.command(&both).env("STRONGROOM_PASSPHRASE_COMMAND", "printf first"));
    exits(0, &mut named("first", &["verify", "latest"]));
    let mut change = named("first", &["key", "passphrase"]);
    exits(0, change.env("STRONGROOM_NEW_PASSPHRASE_COMMAND", "printf second"));
    exits(12, &mut named("first", &["verify", "latest"]));
    exits(0, &mut named("second", &["verify", "latest"]));
}

#[test]
fn another_clusters_snapshot_is_not_restored_by_mistake() {
    let place = Place::new();
    let id = place.backup();
    let error = place.fail(2, &["--cluster", "prod", "restore", &id, "-o", "out.db"]);
    assert!(error.contains("not of prod") && !place.path("out.db").exists(), "{error}");
}

#[test]
fn secrets_in_files_are_nobody_elses() {
    let place = Place::new();
    fs::write(place.path("word"), "correct horse").unwrap();
    set_mode(&place, "word", 0o644);
    let mut init = place.command_with("passphrase", &["init"]);
    let error = exits(1, init.env("STRONGROOM_PASSPHRASE_FILE", "word"));
    assert!(error.contains("open to others"), "{error}");
    // A store's secret in the configuration is never repeated.
    for line in ["aws_secret_access_key = \"hunter2", "aws_secret_access_key = 42424242"] {
        fs::write(place.path("conf"), format!("[repository.options]\n{line}\n")).unwrap();
        let error = place.fail(2, &["--config", "conf", "snapshots"]);
        assert!(error.contains("line 2"), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("42424242"), "{error}");
    }
}

/// Two processes at once: each new key is in the file that stays.
#[test]
fn rotations_at_once_lose_no_key() {
    let place = Place::new();
    let rotations: Vec<_> = (0..6)
        .map(|_| {
            place
                .command(&["-w", "json", "key", "rotate", "--compromised", "2000-01-01T00:00:00Z"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut made: Vec<String> = rotations
        .into_iter()
        .map(|child| {
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success());
            let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            report["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let listed = place.json(&["key", "list"]);
    let listed: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(listed.len(), 7);
    made.retain(|id| !listed.contains(&id.as_str()));
    assert_eq!(made, Vec::<String>::new());
}

/// What a name says to a terminal is not passed on.
#[test]
fn names_do_not_speak_to_the_terminal() {
    let place = Place::new();
    place.backup();
    fs::write(place.path("repo/snapshots/x\u{9b}31m\u{202e}"), "").unwrap();
    let out = place.run(&["snapshots"]);
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(!said.contains(['\u{9b}', '\u{202e}']), "{said:?}");
}

/// Two copies of a keyring, of which the run that was interrupted had finished the first.
#[test]
fn a_finish_between_two_keyrings_goes_on() {
    let place = Place::new();
    place.backup();
    place.succeed(&["key", "rotate"]);
    fs::copy(place.path("keyring"), place.path("second")).unwrap();
    place.succeed(&["key", "rotate", "--finish"]);
    let states = |keyring: &str| {
        let out = place.command_with(keyring, &["-w", "json", "key", "list"]).output().unwrap();
        let listed: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let rows = listed.as_array().unwrap().iter();
        let mut states: Vec<_> =
            rows.map(|row| row["state"].as_str().unwrap().to_owned()).collect();
        states.sort();
        states
    };
    assert_eq!(states("file:second"), ["primary", "retiring"]);
    let again = ["-k", "file:second", "key", "rotate", "--finish"];
    exits(0, &mut place.command_with("file:keyring", &again));
    assert_eq!(states("file:second"), ["primary", "retired"]);
    let error = exits(1, &mut place.command_with("file:keyring", &again));
    assert!(error.contains("no key that is given is being retired"), "{error}");
}

/// Whoever is interrupted while the snapshots are sealed again knows which key is new.
#[test]
fn a_new_passphrase_key_is_named_before_the_work() {
    let place = Place::new();
    let with = |keys: &[&str], args: &[&str]| {
        let mut command = crate::end_to_end::program();
        command.current_dir(place.dir.path()).args(["-r", "words"]).args(args);
        for key in keys {
            command.args(["-k", key]);
        }
        command.env("STRONGROOM_PASSPHRASE_COMMAND", "printf horse");
        command
    };
    let made = exits(0, &mut with(&["passphrase"], &["init"]));
    let uri = made.lines().find(|line| line.starts_with("passphrase:")).unwrap().to_owned();
    let rotate = ["key", "rotate", "--compromised", "2000-01-01T00:00:00Z"];
    let out = with(&[&uri], &rotate).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let (said, result) = (text(&out.stderr), text(&out.stdout));
    let new = result.lines().find_map(|line| line.split(": new primary key").next()).unwrap();
    let first = said.lines().position(|line| line.contains(&format!("{new}: the new key")));
    let next = said.lines().position(|line| line.contains("next: configure"));
    assert!(first.is_some() && first < next, "{said}");
}
