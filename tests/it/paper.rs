//! Keys on paper: `key split` and `key combine`, with SLIP-39's reference implementation on the other side.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use data_encoding::{BASE64_NOPAD as BASE64, HEXLOWER as HEX};

use crate::place::{Place, exits, text, write_secret};
use crate::support::python;

/// The key of a keyring file with only one, in hex, and its id.
fn key(place: &Place, keyring: &str) -> (String, String) {
    let text = fs::read_to_string(place.path(keyring)).unwrap();
    let line: Vec<_> = text.lines().nth(1).unwrap().split(' ').collect();
    (HEX.encode(&BASE64.decode(line[4].as_bytes()).unwrap()), line[0].to_owned())
}

/// The pages that `key split` prints.
fn pages(place: &Place, args: &[&str]) -> Vec<String> {
    let out = place.succeed(&[&["key", "split"], args].concat());
    text(&out.stdout).split('\x0c').map(str::to_owned).collect()
}

/// The words on a page.
fn words(page: &str) -> String {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let words = lines.flat_map(str::split_whitespace).filter(|word| word.parse::<u8>().is_err());
    words.collect::<Vec<_>>().join(" ")
}

fn reference(args: &[&str], input: &str) -> String {
    let mut command = python();
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/slip39.py")).args(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{args:?}");
    text(&out.stdout)
}

fn combine(place: &Place, out: &str, pages: &[&str]) -> Command {
    for (number, page) in pages.iter().enumerate() {
        write_secret(&place.path(&format!("{out}-{number}")), page);
    }
    let mut command = place.bare(&["key", "combine", "-o", out]);
    command.args((0..pages.len()).map(|number| format!("{out}-{number}")));
    command
}

#[test]
fn the_reference_reads_our_shares_and_we_read_its() {
    let place = Place::new();
    let (secret, id) = key(&place, "keyring");
    let pages = pages(&place, &["--shares", "5", "--threshold", "3"]);
    assert_eq!(pages.len(), 5);
    for page in &pages {
        assert_eq!(words(page).split(' ').count(), 33);
        assert!(page.contains(&id) && page.contains("Any 3 of them") && page.contains("repo"));
        assert!(page.lines().count() < 60, "one page");
    }
    for chosen in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
        let shares = chosen.map(|at| words(&pages[at])).join("\n");
        assert_eq!(reference(&["combine"], &shares).trim(), secret);
    }
    let theirs = reference(&["split", &secret, "2", "3"], "");
    let theirs: Vec<_> = theirs.lines().collect();
    let out = combine(&place, "back", &theirs[1..]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(key(&place, "back"), (secret, id));
}

/// The worst day: the keyring is gone, three of five pages are there.
#[test]
fn a_backup_opens_with_a_key_that_came_back_from_paper() {
    let place = Place::new();
    place.backup();
    let (_, id) = key(&place, "keyring");
    let pages = pages(&place, &["--shares", "5", "--threshold", "3"]);
    let all = pages.join("\x0c");
    fs::remove_file(place.path("keyring")).unwrap();
    // One file with all pages, and standard input.
    assert!(combine(&place, "from-file", &[&all]).status().unwrap().success());
    let mut piped = place.bare(&["key", "combine", "-o", "from-pipe", "--expect", &id]);
    let mut child = piped.stdin(Stdio::piped()).spawn().unwrap();
    let three = [&*pages[4], &pages[1], &pages[2]].join("\x0c");
    child.stdin.take().unwrap().write_all(three.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    for keyring in ["file:from-file", "file:from-pipe"] {
        let out = place.command_with(keyring, &["verify", "latest"]).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
}

#[test]
fn what_cannot_be_combined_is_named_and_leaves_no_file() {
    let place = Place::new();
    let (_, id) = key(&place, "keyring");
    let of =
        |args: &[&str]| pages(&place, &[&["--shares", "4", "--threshold", "3"], args].concat());
    let (one, two) = (of(&[]), of(&[]));
    let wrong = |page: &str| {
        let mut typed: Vec<_> = words(page).split(' ').map(str::to_owned).collect();
        typed.swap(10, 11);
        typed.join(" ")
    };
    let unknown = one[0].replacen(words(&one[0]).split(' ').nth(6).unwrap(), "strongroom", 1);
    let other = one[2].replace(&id, "00000000000000000000000000000000");
    let short = words(&one[0]).rsplit_once(' ').unwrap().0.to_owned();
    for (pages, code, reason) in [
        (vec![&*one[0], &one[1]], 2, "2 of 3 shares that are needed: 1 missing"),
        (vec![&*one[0], &one[0], &one[0]], 2, "page 1: this share was given before"),
        (vec![&*one[0], &two[1], &one[2]], 2, "share 2 belongs to another set"),
        (vec![&*one[0], &wrong(&one[1])], 13, "checksum does not match"),
        (vec![&*unknown], 13, "is not in SLIP-39's list of words"),
        (vec![&*short], 13, "checksum does not match"),
        (vec!["academic acid"], 13, "20 or more words"),
        (vec![&*one[0], &one[1], &other], 13, "not of key 00000000000000000000000000000000"),
        (vec![&*one[0], "# only a comment"], 13, "and not 0"),
    ] {
        let said = exits(code, &mut combine(&place, "bad", &pages));
        assert!(said.contains(reason), "{reason}: {said}");
        // No word of a share is in a message.
        assert!(
            !words(&one[0])
                .split(' ')
                .filter(|word| word.len() > 6)
                .any(|word| said.contains(word))
        );
        assert!(!place.path("bad").exists());
    }
    let expect = "00000000000000000000000000000000";
    let mut typed = combine(&place, "bad", &[&words(&one[0]), &words(&one[1]), &words(&one[2])]);
    let said = exits(13, typed.args(["--expect", expect]));
    assert!(said.contains(&format!("the shares are of key {id}, not of key {expect}")), "{said}");
    // A keyring is never overwritten.
    let three = [&*one[0], &one[1], &one[3]];
    let before = fs::read(place.path("keyring")).unwrap();
    exits(1, &mut combine(&place, "keyring", &three));
    assert_eq!(fs::read(place.path("keyring")).unwrap(), before);
    for (args, reason) in [
        (&["--shares", "2", "--threshold", "3"][..], "3 of 2 shares"),
        (&["--shares", "17", "--threshold", "3"], "17 is not in 2..=16"),
        (&["--shares", "3", "--threshold", "1"], "1 is not in 2..=16"),
    ] {
        let said = place.fail(2, &[&["key", "split"], args].concat());
        assert!(said.contains(reason), "{said}");
    }
}

/// A set of shares holds one key: the primary one, or the one that is named.
#[test]
fn any_key_of_a_keyring_can_be_split() {
    let place = Place::new();
    let (secret, old) = key(&place, "keyring");
    let new = place.json(&["key", "rotate", "--offline"])["id"].as_str().unwrap().to_owned();
    let pair = ["--shares", "2", "--threshold", "2"];
    let primary = pages(&place, &pair);
    assert!(primary[0].contains(&new) && !primary[0].contains(&old));
    let of_old = pages(&place, &[&pair[..], &["--key-id", &old]].concat());
    let shares = of_old.iter().map(|page| words(page)).collect::<Vec<_>>().join("\n");
    assert_eq!(reference(&["combine"], &shares).trim(), secret);
    place.fail(
        1,
        &["key", "split", "--shares", "2", "--threshold", "2", "--key-id", &"0".repeat(32)],
    );
}

/// The recovery key of hosts that only seal, kept on paper alone.
#[test]
fn an_identity_comes_back_as_an_identity() {
    let place = Place::new();
    for (name, more) in [("wing", &[][..]), ("curve", &["--x25519"])] {
        let generate = ["key", "generate", "--recipient", "-o", name];
        let made = place.json(&[&generate[..], more].concat());
        let id = made["id"].as_str().unwrap();
        let split = ["key", "split", "--shares", "3", "--threshold", "2"];
        let out = place.command_with(&format!("identity:{name}"), &split).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let pages: Vec<_> = text(&out.stdout).split('\x0c').map(str::to_owned).collect();
        assert!(pages.iter().all(|page| page.contains(id)));
        let secret = |name: &str| {
            let text = fs::read_to_string(place.path(name)).unwrap();
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
            lines.join("\n")
        };
        // By the id on the pages, and by --expect where only words are given.
        let (back, typed) = (format!("{name}-back"), format!("{name}-typed"));
        assert!(combine(&place, &back, &[&pages[2], &pages[0]]).status().unwrap().success());
        assert_eq!(secret(&back), secret(name));
        let mut words_only = combine(&place, &typed, &[&words(&pages[1]), &words(&pages[2])]);
        assert!(words_only.args(["--expect", id]).status().unwrap().success());
        assert_eq!(secret(&typed), secret(name));
    }
}

/// The page is enough for a restore, with a key from elsewhere.
#[test]
fn the_kit_leads_to_a_restore() {
    let place = Place::new();
    place.backup();
    let (secret, id) = key(&place, "keyring");
    place.succeed(&["key", "generate", "--signing", "-o", "signing"]);
    let signed = ["backup", "--signing-key", "signing", "--file"];
    place.succeed(&[&signed[..], &[crate::support::small_database().to_str().unwrap()]].concat());
    let out = place.succeed(&["key", "kit", "--signing-key", "signing"]);
    let page = text(&out.stdout);
    let repository = fs::read_to_string(place.path("repo/repository.json")).unwrap();
    let repository: serde_json::Value = serde_json::from_str(&repository).unwrap();
    for part in [&id, repository["id"].as_str().unwrap(), "srsign1", "1 snapshot,"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let bytes = HEX.decode(secret.as_bytes()).unwrap();
    assert!(!page.contains(&secret) && !page.contains(&BASE64.encode(&bytes)));
    assert!(!page.contains("SRSIGN-SECRET"));
    let signer = page.lines().find(|line| line.trim().starts_with("srsign1")).unwrap().trim();
    fs::write(place.path("SIGNERS"), format!("{signer}\n")).unwrap();
    fs::rename(place.path("keyring"), place.path("elsewhere")).unwrap();
    let commands: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("  strongroom ")).collect();
    assert_eq!(commands.len(), 3);
    for command in commands {
        let command = command.replace("-k KEY", "-k file:elsewhere").replace(" DIR", " data");
        let out = place.bare(&command.split(' ').collect::<Vec<_>>()).output().unwrap();
        assert!(out.status.success(), "{command}: {}", text(&out.stderr));
    }
    assert!(place.path("data/member/snap/db").exists());
}

#[test]
fn the_kit_names_cluster_keys_and_signers() {
    let place = Place::new();
    place.succeed(&["key", "generate", "--recipient", "-o", "identity"]);
    place.succeed(&["key", "generate", "--signing", "-o", "signing"]);
    place.succeed(&["key", "generate", "--signing", "-o", "old"]);
    let public = |file: &str| {
        let text = fs::read_to_string(place.path(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("# public key: "));
        line.unwrap().to_owned()
    };
    let (recipient, own, old) = (public("identity"), public("signing"), public("old"));
    fs::write(place.path("recipients"), format!("{recipient}\n")).unwrap();
    let lines = [
        format!("{own} name=cp-1 clusters=prod,test"),
        format!("{old} revoked=2026-11-23T00:00:00Z"),
    ];
    fs::write(place.path("signers"), lines.join("\n")).unwrap();
    let host = ["-r", "repo", "-k", "recipient:@recipients", "--signers", "signers"];
    let run = |args: &[&str]| {
        let mut command = place.bare(&host);
        let out = command.args(args).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    let file = crate::support::small_database();
    for cluster in ["prod", "test"] {
        let signing = ["--signing-key", "signing", "--cluster", cluster, "--file"];
        run(&[&["backup"], &signing[..], &[file.to_str().unwrap()]].concat());
    }
    let page = run(&["key", "kit"]);
    assert!(page.contains("prod, test") && page.contains(" --cluster CLUSTER -k KEY"), "{page}");
    assert!(page.contains("a recipient: its identity file opens"), "{page}");
    assert!(!page.contains("not given here"), "{page}");
    let here = place.path("repo").canonicalize().unwrap();
    let page = run(&["key", "kit", "--cluster", "prod"]);
    let command = format!("snapshots -r {} --cluster prod\n", here.display());
    assert!(page.contains(&command) && page.contains("--signers SIGNERS"), "{page}");
    assert!(lines.iter().all(|line| page.contains(line)), "{page}");
    // Shares are of one key.
    let both = ["key", "split", "--shares", "3", "--threshold", "2", "-k", "file:keyring"];
    let said = exits(2, place.bare(&both).args(["-k", "identity:identity"]));
    assert!(said.contains("several master keys"), "{said}");
    // Each page is given once.
    let pages = pages(&place, &["--shares", "3", "--threshold", "2"]);
    let said = exits(2, &mut combine(&place, "twice", &[&pages[0], &pages[0]]));
    assert!(said.contains("given before"), "{said}");
    // A page is not JSON.
    for args in [&["key", "kit"][..], &["key", "split", "--shares", "3", "--threshold", "2"]] {
        exits(2, place.command(&["-w", "json"]).args(args));
    }
}
