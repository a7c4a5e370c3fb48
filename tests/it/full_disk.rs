//! Disks that are full: nothing lost, nothing half-visible, and it works again once there is room.

use std::fs;
use std::process::Command;

use crate::place::{Place, exits, long_database};

const LENGTH: usize = 8 << 20;

/// `strongroom args`, which may write files of at most `blocks` times 512 bytes. The kernel then answers
/// EFBIG: a stand-in for ENOSPC, which takes a file system of one's own.
fn limited(place: &Place, blocks: u32, args: &[&str]) -> Command {
    let inner = place.command(args);
    let mut command = Command::new("sh");
    command.current_dir(place.dir.path()).args(["-c"]);
    command.arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"")).arg("sh");
    command.arg(inner.get_program()).args(inner.get_args()).env("STRONGROOM_CONFIG", "/dev/null");
    command
}

fn entries(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.dir.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_into_a_full_disk_leaves_no_snapshot() {
    let place = Place::new();
    fs::write(place.path("etcd.db"), long_database(LENGTH)).unwrap();
    // Where it is full: within the payload, and at its end.
    for blocks in [64, 4096, 15000] {
        let error = exits(1, &mut limited(&place, blocks, &["backup", "--file", "etcd.db"]));
        assert!(error.contains("File too large"), "{blocks}: {error}");
        assert!(place.snapshots().is_empty() && place.objects().is_empty(), "{blocks}");
    }
    place.succeed(&["backup", "--file", "etcd.db"]);
    place.succeed(&["verify", "--all"]);
}

#[test]
fn a_restore_into_a_full_disk_leaves_nothing() {
    let place = Place::new();
    let database = long_database(LENGTH);
    fs::write(place.path("etcd.db"), &database).unwrap();
    place.succeed(&["backup", "--file", "etcd.db"]);
    fs::write(place.path("old.db"), "what was there").unwrap();
    let before = entries(&place);
    for blocks in [64, 4096, LENGTH as u32 / 512] {
        for output in [&["-o", "out.db"][..], &["-o", "old.db", "--force"]] {
            let args = [&["restore", "latest"], output].concat();
            let error = exits(1, &mut limited(&place, blocks, &args));
            assert!(error.contains("File too large"), "{blocks}: {error}");
            assert_eq!(entries(&place), before);
        }
    }
    assert_eq!(fs::read(place.path("old.db")).unwrap(), b"what was there");
    // A device that is always full.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = place.command(&["restore", "latest", "-o", "-"]);
    let error = exits(1, command.stdout(full));
    assert!(error.contains("No space left on device"), "{error}");
    place.succeed(&["restore", "latest", "-o", "out.db"]);
    assert_eq!(fs::read(place.path("out.db")).unwrap()[..LENGTH], database[..]);
}

/// The database is written by a thread of its own, whose failure is the restore's.
#[test]
fn a_member_on_a_full_disk_leaves_nothing() {
    let place = Place::new();
    fs::write(place.path("etcd.db"), crate::walks::database(2..500)).unwrap();
    place.succeed(&["backup", "--file", "etcd.db"]);
    let before = entries(&place);
    for blocks in [64, 8192, 14000] {
        for target in [&["--data-dir", "member"][..], &["-o", "out.db", "--revision", "490"]] {
            let args = [&["restore", "latest"], target].concat();
            let error = exits(1, &mut limited(&place, blocks, &args));
            assert!(error.contains("File too large"), "{blocks}: {error}");
            assert_eq!(entries(&place), before);
        }
    }
}

#[test]
fn a_keyring_on_a_full_disk_stays_what_it_was() {
    let place = Place::new();
    let before = fs::read(place.path("keyring")).unwrap();
    let names = entries(&place);
    exits(1, &mut limited(&place, 0, &["key", "rotate"]));
    exits(1, &mut limited(&place, 0, &["key", "generate", "-o", "another"]));
    assert_eq!(fs::read(place.path("keyring")).unwrap(), before);
    assert_eq!(entries(&place), names);
}
