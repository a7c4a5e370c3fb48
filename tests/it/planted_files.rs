//! What somebody plants in a repository's directory: links, files with two names, devices, pipes. Nothing is read through
//! them, nothing is written through them, and what is outside stays as it is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use strongroom::store::sweep_staged;

use crate::place::Place;

/// All files below `dir` with their bytes, links not followed.
pub fn everything(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(everything(&path));
        } else if kind.is_file() {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// The objects of snapshots and the sealed keys are replaced by links to the keyring and to another directory.
#[test]
fn a_copy_publishes_nothing_that_lies_elsewhere() {
    let place = Place::new();
    let secret = fs::read(place.path("keyring")).unwrap();
    let (good, bad) = (place.backup(), place.backup());
    let object = |part: &str| place.path(&format!("repo/snapshots/{bad}/{part}"));
    for part in ["payload", "seal.2"] {
        let _ = fs::remove_file(object(part));
        symlink(place.path("keyring"), object(part)).unwrap();
    }
    symlink(place.path("keyring"), place.path(&format!("repo/keys/{}.1", "0".repeat(32)))).unwrap();
    // A whole snapshot that lies elsewhere.
    let moved = place.backup();
    fs::rename(place.path(&format!("repo/snapshots/{moved}")), place.path("elsewhere")).unwrap();
    symlink(place.path("elsewhere"), place.path(&format!("repo/snapshots/{moved}"))).unwrap();
    let out = place.run(&["-w", "json", "copy", "--to", "second"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["copied"], serde_json::json!([good]), "{report}");
    for (path, bytes) in everything(&place.path("second")) {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{}", path.display());
    }
    let warned = place.fail(0, &["snapshots"]);
    assert!(
        warned.contains(&format!("{bad}/payload (a symbolic link): unknown object")),
        "{warned}"
    );
    assert!(
        warned.contains(&format!("snapshots/{moved} (a symbolic link): unknown object")),
        "{warned}"
    );
    place.succeed(&["restore", &good, "-o", "out.db"]);
    assert!(place.fail(13, &["restore", &bad, "-o", "bad.db"]).contains("payload"));
}

/// The same the other way round: the replica's folders lead elsewhere.
#[test]
fn a_copy_writes_nothing_elsewhere() {
    let place = Place::new();
    let (first, second) = (place.backup(), place.backup());
    place.succeed(&["copy", &first, "--to", "second"]);
    fs::create_dir(place.path("victim")).unwrap();
    symlink(place.path("victim"), place.path(&format!("second/snapshots/{second}"))).unwrap();
    let said = place.fail(13, &["copy", "--to", "second"]);
    assert!(said.contains(&second) && said.contains("symbolic link"), "{said}");
    assert!(everything(&place.path("victim")).is_empty());
}

#[test]
fn a_prune_empties_no_other_directory() {
    let place = Place::new();
    place.backup();
    fs::create_dir_all(place.path("victim/folder")).unwrap();
    for name in ["victim/payload#1", "victim/folder/seal.1#22", "victim/precious"] {
        fs::write(place.path(name), "mine").unwrap();
    }
    let old = std::time::SystemTime::now() - Duration::from_secs(1_000_000);
    for (path, _) in everything(&place.path("victim")) {
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let before = everything(&place.path("victim"));
    // `init` has made it.
    fs::remove_dir(place.path("repo/reports")).unwrap();
    symlink(place.path("victim"), place.path("repo/reports")).unwrap();
    symlink(place.path("victim"), place.path("repo/snapshots/01J00000000000000000000000")).unwrap();
    // By the file system's word it may do so at once; what is left of killed backups goes.
    let own = place.path("repo/snapshots/payload#1");
    fs::write(&own, "left").unwrap();
    let _ = sweep_staged(&place.path("repo"), Duration::ZERO);
    place.run(&["prune", "--keep-last", "1"]);
    place.run(&["backup", "--file", "tests/nothing"]);
    assert_eq!(everything(&place.path("victim")), before);
    fs::remove_file(place.path("repo/reports")).unwrap();
    assert_eq!(sweep_staged(&place.path("repo"), Duration::ZERO).unwrap(), 1);
    assert!(!own.exists());
    assert_eq!(everything(&place.path("victim")), before);
}

/// Files with two names, pipes and devices where objects belong: nothing waits, all else works.
#[test]
fn what_is_no_plain_file_is_no_object() {
    let place = Place::new();
    let (good, bad) = (place.backup(), place.backup());
    let object = |part: &str| place.path(&format!("repo/snapshots/{bad}/{part}"));
    fs::hard_link(object("index"), place.path("second-name")).unwrap();
    fs::remove_file(object("manifest")).unwrap();
    mkfifo(&object("manifest"));
    mkfifo(&place.path("repo/snapshots/pipe"));
    symlink("/dev/zero", object("tombstone")).unwrap();
    fs::create_dir_all(object("a/b/c/d/e/f/g/h/i/j/k")).unwrap();
    let warned = place.fail(0, &["snapshots"]);
    for what in ["a device, pipe or socket", "2 hard links", "a folder that is not read"] {
        assert!(warned.contains(what), "{what}: {warned}");
    }
    place.succeed(&["restore", "latest", "-o", "out.db"]);
    place.succeed(&["restore", &good, "-o", "again.db"]);
    place.fail(13, &["restore", &bad, "-o", "bad.db"]);
    place.succeed(&["backup", "--file", "again.db"]);
    // The very file that says that it is a repository.
    fs::hard_link(place.path("repo/repository.json"), place.path("third-name")).unwrap();
    let said = place.fail(13, &["snapshots"]);
    assert!(said.contains("repository.json") && said.contains("2 hard links"), "{said}");
}

/// The path of the repository is the operator's own: a link in it is followed.
#[test]
fn the_repository_itself_may_be_reached_by_a_link() {
    let place = Place::new();
    fs::rename(place.path("repo"), place.path("disk")).unwrap();
    symlink("disk", place.path("repo")).unwrap();
    let id = place.backup();
    assert!(place.path(&format!("disk/snapshots/{id}/manifest")).exists());
    // The folder `snapshots` is no longer the operator's path.
    fs::rename(place.path("disk/snapshots"), place.path("other")).unwrap();
    symlink(place.path("other"), place.path("disk/snapshots")).unwrap();
    let said = place.fail(13, &["snapshots"]);
    assert!(said.contains("list snapshots: ") && said.contains("symbolic link"), "{said}");
}

#[test]
fn a_directory_that_others_may_write_is_named() {
    let place = Place::new();
    let mode =
        |mode| fs::set_permissions(place.path("repo"), fs::Permissions::from_mode(mode)).unwrap();
    let warned = || place.fail(0, &["snapshots"]);
    assert!(!warned().contains("others"));
    mode(0o777);
    assert!(warned().contains("chmod go-w"), "{}", warned());
    mode(0o770);
    assert!(warned().contains("chmod go-w"));
    // Who writes there may then not remove or replace what is another's.
    mode(0o1777);
    assert!(!warned().contains("chmod go-w"));
}

/// `--force` replaces regular files, and all else is refused before anything is fetched.
#[test]
fn a_restore_replaces_regular_files_only() {
    let place = Place::new();
    let id = place.backup();
    mkfifo(&place.path("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    fs::write(place.path("old.db"), "old").unwrap();
    symlink("old.db", place.path("link")).unwrap();
    symlink("nowhere", place.path("dangling")).unwrap();
    symlink("/dev/null", place.path("null")).unwrap();
    fs::create_dir(place.path("dir")).unwrap();
    // Nothing is fetched: there is nothing to fetch.
    fs::rename(place.path(&format!("repo/snapshots/{id}/payload")), place.path("payload")).unwrap();
    for (output, says) in [
        ("fifo", "--output -"),
        ("socket", "--output -"),
        ("null", "--output -"),
        ("/dev/full", "--output -"),
        ("dangling", "does not exist"),
        ("dir", "is a directory"),
        ("missing/x.db", "create the directory first"),
    ] {
        let said = place.fail(2, &["restore", &id, "-o", output, "--force"]);
        assert!(said.contains(says), "{output}: {said}");
        if output != "missing/x.db" {
            let said = place.fail(2, &["restore", &id, "-o", output]);
            assert!(said.contains(says), "{output}: {said}");
        }
    }
    let said = place.fail(1, &["restore", &id, "-o", "link"]);
    assert!(said.contains("--force"), "{said}");
    fs::rename(place.path("payload"), place.path(&format!("repo/snapshots/{id}/payload"))).unwrap();
    assert_eq!(fs::read(place.path("old.db")).unwrap(), b"old");
    place.succeed(&["restore", &id, "-o", "link", "--force"]);
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert!(fs::read(place.path("old.db")).unwrap().len() > 4096);
    for name in ["fifo", "socket"] {
        assert!(!fs::symlink_metadata(place.path(name)).unwrap().is_file());
    }
}

#[test]
fn a_wal_beside_its_data_only() {
    let place = Place::new();
    let id = place.backup();
    fs::create_dir(place.path("there")).unwrap();
    symlink("there", place.path("link")).unwrap();
    for (data, wal) in [
        ("new", "new"),
        ("new", "new/wal"),
        ("new/data", "new"),
        ("there", "link/wal"),
        ("link", "there"),
    ] {
        let args = ["restore", &id, "--name", "m", "--data-dir", data, "--wal-dir", wal];
        let said = place.fail(2, &args);
        assert!(said.contains("lie in each other"), "{data} {wal}: {said}");
    }
    assert!(!place.path("new").exists());
    place.succeed(&["restore", &id, "--name", "m", "--data-dir", "data", "--wal-dir", "wal"]);
}
