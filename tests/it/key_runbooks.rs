//! The runbooks of the guide to keys, run as they stand there: only places, times and ids are replaced.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::blind::{exits_with, trust};
use crate::place::{Place, exits, text};
use crate::support::small_database;

/// The shell commands below the mark `<!-- runbook: name -->`.
fn runbook(name: &str) -> String {
    let guide = include_str!("../../src/guide/keys.md");
    let (_, rest) = guide.split_once(&format!("<!-- runbook: {name} -->\n```sh\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

struct Owner(Place);

impl Owner {
    /// A keyring's repository with a snapshot, where the host's files are in `etc`.
    fn new() -> Self {
        let place = Place::new();
        fs::create_dir(place.path("etc")).unwrap();
        fs::rename(place.path("keyring"), place.path("etc/keyring")).unwrap();
        let owner = Self(place);
        owner.back_up(&["-k", "file:etc/keyring"]);
        owner
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.bare(&["-r", "repo"]);
        command.args(args);
        command
    }

    fn back_up(&self, with: &[&str]) {
        let database = small_database();
        let mut command = self.command(with);
        exits_with(command.args(["backup", "--file", database.to_str().unwrap()]));
    }

    fn run(&self, name: &str, replaced: &[(&str, &str)]) {
        let mut script = runbook(name).replace("/etc/strongroom/", "etc/");
        for (from, to) in replaced {
            assert!(script.contains(from), "{from}");
            script = script.replace(from, to);
        }
        let program = Path::new(env!("CARGO_BIN_EXE_strongroom")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.current_dir(self.0.dir.path()).env("PATH", path).env("STRONGROOM_REPOSITORY", "repo");
        shell.env("STRONGROOM_CONFIG", "/dev/null");
        let out = shell.args(["-euc", &script]).output().unwrap();
        assert!(out.status.success(), "{script}\n{}{}", text(&out.stdout), text(&out.stderr));
    }

    fn with_identity(&self, name: &str, args: &[&str]) -> Command {
        let uri = format!("identity:{name}");
        let mut command = self.command(&["-k", &uri, "--signers", "signers"]);
        command.args(args);
        command
    }
}

const LIST: [&str; 3] = ["-w", "json", "snapshots"];
const HOST: [&str; 6] =
    ["-k", "recipient:@recipients", "--signing-key", "etc/signing-key", "--signers", "signers"];

/// A keyring's repository becomes one that its host does not open; then the host is stolen; then the identity is.
#[test]
fn migrated_then_robbed_twice() {
    let owner = Owner::new();
    let list =
        exits_with(&mut owner.command(&["-k", "file:etc/keyring", "-w", "json", "key", "list"]));
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let keyring = list[0]["id"].as_str().unwrap();
    owner.run("migrate", &[]);
    exits_with(
        &mut owner.with_identity("identity", &["key", "reseal", "--all", "--drop", keyring]),
    );
    fs::remove_file(owner.0.path("etc/keyring")).unwrap();
    let said = exits(
        0,
        owner.command(&HOST).args(["backup", "--file", small_database().to_str().unwrap()]),
    );
    assert!(!said.contains("nothing shows yet"), "{said}");
    exits(12, owner.command(&HOST).args(["verify", "latest"]));
    assert_eq!(trust(&mut owner.with_identity("identity", &LIST)), ["trusted"; 2]);

    // The thief signs a snapshot after the theft.
    fs::rename(owner.0.path("etc/signing-key"), owner.0.path("old-signing-key")).unwrap();
    let file = fs::read_to_string(owner.0.path("old-signing-key")).unwrap();
    let public = file.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let list = exits_with(
        owner.command(&["-w", "json", "key", "list"]).args(["--signing-key", "old-signing-key"]),
    );
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let mut rows = list.as_array().unwrap().iter();
    let old = rows.find(|row| row["state"] == "signing").unwrap()["id"].as_str().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let now = jiff::Timestamp::now().to_string();
    owner.run("stolen host", &[("TIME", &now), ("OLDKEYID", old)]);
    let signers = fs::read_to_string(owner.0.path("signers")).unwrap();
    assert!(signers.contains(&format!("{public} revoked=")), "{signers}");
    let thief = ["-k", "recipient:@recipients", "--signing-key", "old-signing-key"];
    owner.back_up(&thief);
    let worth = trust(&mut owner.with_identity("identity", &LIST));
    assert_eq!(worth, ["trusted", "trusted", "not trusted: signed by a revoked signer"]);
    let planted = owner.0.path("repo/snapshots");
    let newest = fs::read_dir(&planted).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    fs::remove_dir_all(newest).unwrap();

    owner.run("stolen identity", &[]);
    assert_eq!(trust(&mut owner.with_identity("new-identity", &LIST)), ["trusted"; 2]);
    exits(12, &mut owner.with_identity("identity", &["verify", "latest"]));
    exits_with(&mut owner.with_identity("new-identity", &["verify", "--all"]));
}
