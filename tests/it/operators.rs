//! What an operator meets: warnings that come once, credentials in a file, a part of the snapshots verified, names of keys.

use std::fs;

use crate::place::{Place, exits, text, write_secret};
use crate::s3_server::{self, ACCESS_KEY, Flavour, SECRET_KEY};
use crate::support::small_database;

/// What a backup of the small database says to `place`'s operator.
fn backup(place: &Place, args: &[&str]) -> String {
    let database = small_database();
    let args = [&["backup", "--file", database.to_str().unwrap()], args].concat();
    text(&place.succeed(&args).stderr)
}

#[test]
fn a_new_name_is_said_once() {
    let place = Place::new();
    let said = backup(&place, &[]);
    assert!(said.contains("the cluster has no name"), "{said}");
    assert!(!backup(&place, &[]).contains("no name"));
    let said = backup(&place, &["--cluster", "prod"]);
    assert!(said.contains("first snapshot of the cluster prod"), "{said}");
    assert!(said.contains("snapshots of default"), "{said}");
    assert!(!backup(&place, &["--cluster", "prod"]).contains("first snapshot"));
    // The first of an empty repository is no mistake.
    let place = Place::new();
    let said = backup(&place, &["--cluster", "prod"]);
    assert!(!said.contains("first snapshot") && !said.contains("no name"), "{said}");
    // Nor is it a reason for cron to send mail twice.
    assert_eq!(backup(&place, &["--cluster", "prod", "-q"]), "");
}

#[test]
fn a_key_that_opens_none_of_the_older_snapshots_is_said_once() {
    let place = Place::new();
    backup(&place, &[]);
    place.succeed(&["key", "generate", "-o", "other"]);
    let database = small_database();
    let other = || {
        let args = ["backup", "--file", database.to_str().unwrap()];
        exits(0, &mut place.command_with("file:other", &args))
    };
    let said = other();
    assert!(said.contains("open none of the 1 newest snapshots of default"), "{said}");
    assert!(!other().contains("open none"));
}

#[test]
fn a_recovery_key_ends_the_warning_about_one_key() {
    let place = Place::new();
    assert!(backup(&place, &[]).contains("only one master key seals"));
    let id = "0123456789abcdef0123456789abcdef";
    assert!(!backup(&place, &["--recovery-key", id]).contains("one master key"));
    // The key that seals is no recovery key.
    let listed = place.json(&["key", "list"]);
    let own = listed[0]["id"].as_str().unwrap();
    assert!(backup(&place, &["--recovery-key", own]).contains("only one master key seals"));
    // A seal to a key that is elsewhere says the same as the setting.
    place.succeed(&["key", "generate", "-o", "recovery"]);
    place.succeed(&["-k", "file:recovery", "key", "reseal", "--all"]);
    fs::remove_file(place.path("recovery")).unwrap();
    assert!(!backup(&place, &[]).contains("one master key"));
}

#[test]
fn a_part_of_the_snapshots_is_verified() {
    let place = Place::new();
    for _ in 0..5 {
        backup(&place, &[]);
    }
    let newest = place.snapshots().pop().unwrap();
    for (percent, expected) in [("1%", 2), ("50%", 3), ("100%", 5)] {
        let found = place.json(&["verify", "--subset", percent, "--quick"]);
        assert_eq!(found["checked"], expected, "{percent}");
        let ids = found["snapshots"].as_array().unwrap();
        assert!(ids.iter().any(|one| one["id"] == newest.as_str()), "{found}");
    }
    for bad in ["0%", "5", "101%", "x%", "-1%", "NaN%"] {
        assert!(place.fail(2, &["verify", &format!("--subset={bad}")]).contains("such as 5%"));
    }
    place.fail(2, &["verify", "--all", "--subset", "5%"]);
    place.fail(2, &["verify", "latest", "--subset", "5%"]);
}

#[test]
fn times_are_absolute_or_ago() {
    let place = Place::new();
    backup(&place, &["--taken", "3h"]);
    let (old, _) = (place.snapshots().pop().unwrap(), backup(&place, &[]));
    let shown = |args: &[&str]| place.json(&[&["show", "latest"], args].concat())["id"].clone();
    assert_eq!(shown(&["--before", "2h"]), old.as_str());
    assert_ne!(shown(&[]), old.as_str());
    place.fail(1, &["show", "latest", "--before", "4h"]);
    assert!(place.fail(2, &["show", "latest", "--before", "noon"]).contains("2h or 7d"));
}

#[test]
fn ids_are_short_in_lists_and_accepted_so() {
    let place = Place::new();
    let full = place.backup();
    let listed = text(&place.succeed(&["snapshots"]).stdout);
    let short = listed.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert!(short.len() == 8 && full.ends_with(&short), "{listed}");
    assert_eq!(place.json(&["show", &short])["id"], full.as_str());
}

#[test]
fn show_names_the_keys_and_their_places() {
    let place = Place::new();
    place.succeed(&["key", "generate", "-o", "recovery"]);
    place.succeed(
        &["-k", "file:recovery", "backup", "--include", "keyring", "--file"]
            .iter()
            .copied()
            .chain([small_database().to_str().unwrap()])
            .collect::<Vec<_>>(),
    );
    let document = place.json(&["show", "latest"]);
    assert_eq!(document["keys_given"].as_array().unwrap().len(), 1, "{document}");
    assert_eq!(document["sealed_by"].as_array().unwrap().len(), 2, "{document}");
    assert!(document["companions_bytes"].as_u64() > Some(0), "{document}");
    let shown = text(&place.succeed(&["show", "latest"]).stdout);
    for words in ["(file:keyring)", "(not given)", "28.00 KiB (28672 bytes)", "companions", " ago)"]
    {
        assert!(shown.contains(words), "no {words} in {shown}");
    }
}

#[test]
fn shells_complete_ids_clusters_and_keys() {
    let place = Place::new();
    let id = place.backup();
    backup(&place, &["--cluster", "prod"]);
    let key = place.json(&["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    let script = place.succeed(&["completions", "bash"]);
    write_secret(&place.path("script"), &text(&script.stdout));
    // As bash does it: the words typed so far, the last one to be completed.
    let completed = |words: &[&str]| {
        let typed = ["strongroom"].iter().chain(words).map(|word| format!("'{word}'"));
        let line = format!(
            "source ./script; COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9; COMP_LINE='strongroom {}'; COMP_POINT=${{#COMP_LINE}}; \
             _clap_complete_strongroom strongroom '{}' ''; printf '%s\n' \"${{COMPREPLY[@]}}\"",
            typed.collect::<Vec<_>>().join(" "),
            words.len(),
            words.join(" "),
            words.last().unwrap(),
        );
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", &line]).current_dir(place.dir.path());
        let program = std::path::PathBuf::from(place.bare(&[]).get_program());
        let path = std::env::var("PATH").unwrap();
        bash.env("PATH", format!("{}:{path}", program.parent().unwrap().display()));
        bash.env("STRONGROOM_CONFIG", "/dev/null").env("STRONGROOM_REPOSITORY", "repo");
        bash.env("STRONGROOM_MASTER_KEY", "file:keyring");
        let out = bash.output().unwrap();
        text(&out.stdout) + &text(&out.stderr)
    };
    assert!(completed(&["sna"]).contains("snapshots"));
    let ids = completed(&["show", ""]);
    assert!(ids.contains(&id) && ids.contains("latest"), "{ids}");
    let clusters = completed(&["--cluster", ""]);
    assert!(clusters.contains("default") && clusters.contains("prod"), "{clusters}");
    let keys = completed(&["key", "remove", ""]);
    assert!(keys.contains(&key), "{keys}");
}

#[test]
fn what_holds_without_a_value_is_shown() {
    let place = Place::new();
    let mut check = place.bare(&["config", "check", "--for", "agent"]);
    let shown = text(&check.output().unwrap().stdout);
    for (setting, default) in [("prune.grace", "(24h)"), ("agent.name", "(the host's name)")] {
        let row = shown.lines().find(|line| line.starts_with(setting)).unwrap();
        assert!(row.contains(default), "{row}");
    }
}

/// What is printed for the other nodes reads the same settings.
#[test]
fn commands_for_other_members_name_the_configuration_file() {
    let place = Place::new();
    place.backup();
    let settings = "master_keys = [\"file:keyring\"]\n[repository]\nurl = \"repo\"\n";
    fs::write(place.path("own.toml"), settings).unwrap();
    let members = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
    let restore =
        ["--config", "own.toml", "restore", "latest", "--data-dir", "data", "--name", "a"];
    let mut restore = place.bare(&restore);
    let said = exits(0, restore.args(["--initial-cluster", members]));
    assert!(said.contains("strongroom --config own.toml -r"), "{said}");
}

#[test]
fn a_weak_passphrase_is_named() {
    let place = Place::new();
    let init = |repository: &str, word: &str| {
        let mut command = place.bare(&["-r", repository, "-k", "passphrase", "init"]);
        exits(0, command.env("STRONGROOM_PASSPHRASE_COMMAND", format!("printf '{word}'")))
    };
    let said = init("weak", "hunter2");
    assert!(said.contains("weak: it has fewer than 12 characters"), "{said}");
    assert!(!said.contains("hunter2"));
    assert!(!init("strong", "correct horse battery staple").contains("weak"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_secrets_come_from_a_file() {
    let place = Place::new();
    fs::create_dir_all(place.path("s3/bucket")).unwrap();
    let store = s3_server::start(&place.path("s3"), Flavour::S3).await;
    let secrets =
        format!("export AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY='{SECRET_KEY}'\n");
    let options = format!(
        "credentials_file = \"store.env\"\n[repository]\nurl = \"s3://bucket/p\"\n\
         [repository.options]\naws_endpoint = {store:?}\naws_region = \"x\"\nallow_http = \"true\"\n"
    );
    fs::write(place.path("s3.toml"), options).unwrap();
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = place.bare(&[&["--config", "s3.toml"], args].concat());
        for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
            if name.starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.envs(env.iter().copied()).output().unwrap()
    };
    let said = |out: &std::process::Output| text(&out.stdout) + &text(&out.stderr);
    tokio::task::block_in_place(|| {
        // A file that is missing, or that others can read, is named; so is a line that is none.
        let missing = run(&["snapshots"], &[]);
        assert!(
            said(&missing).contains("credentials_file: store.env: No such file"),
            "{missing:?}"
        );
        fs::write(place.path("store.env"), &secrets).unwrap();
        assert!(said(&run(&["snapshots"], &[])).contains("open to others"));
        fs::remove_file(place.path("store.env")).unwrap();
        write_secret(&place.path("store.env"), &format!("{SECRET_KEY}=="));
        let wrong = said(&run(&["snapshots"], &[]));
        assert!(wrong.contains("line 1: ") && !wrong.contains(SECRET_KEY), "{wrong}");
        write_secret(&place.path("store.env"), &secrets);
        let made = run(&["init", "--trust-store"], &[]);
        assert!(made.status.success(), "{}", said(&made));
        assert!(run(&["snapshots"], &[]).status.success());
        // A variable that is set goes first; an empty one is unset.
        let other = run(&["snapshots"], &[("AWS_SECRET_ACCESS_KEY", "another-secret")]);
        assert_eq!(other.status.code(), Some(1), "{}", said(&other));
        assert!(run(&["snapshots"], &[("AWS_SECRET_ACCESS_KEY", "")]).status.success());
        // A directory needs none of it.
        fs::remove_file(place.path("store.env")).unwrap();
        assert!(run(&["-r", "repo", "snapshots"], &[]).status.success());
    });
}
