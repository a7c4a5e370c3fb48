//! Where results and scratch data go: pipes, full disks, read-only directories, mount points. Nothing of it makes a good
//! snapshot a bad one, and what can be decided before the work begins is decided then.

use std::fs;
use std::process::Command;

use crate::etcd_server::Version;
use crate::place::{Place, exits, text};
use crate::support::small_database;

/// Runs a shell script in a mount namespace of its own, where `$SR` is the program with repository and key, and `check`
/// runs a command and prints its exit status. None, loudly, where that is not allowed.
fn with_mounts(place: &Place, script: &str) -> Option<String> {
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: mounts are not allowed here");
        return None;
    }
    let helper =
        "run() { echo \"== $*\"; strongroom \"$@\" 2>&1 && echo 'exit 0' || echo \"exit $?\"; }\n";
    let program = place.bare(&[]).get_program().to_owned();
    let path = std::path::Path::new(&program).parent().unwrap().display().to_string();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{helper}{script}")]);
    command.current_dir(place.dir.path()).env_clear();
    command.env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"));
    command.env("STRONGROOM_CONFIG", "/dev/null");
    command.env("STRONGROOM_REPOSITORY", place.path("repo"));
    command.env("STRONGROOM_MASTER_KEY", format!("file:{}", place.path("keyring").display()));
    command.env("ETCD", Version::NEWEST.programs().join("etcd"));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    Some(text(&out.stdout))
}

/// What the command said that begins with `command`, and its exit status.
fn said<'a>(transcript: &'a str, command: &str) -> (&'a str, i32) {
    let from = transcript.split("== ").find(|part| part.starts_with(command));
    let from = from.unwrap_or_else(|| panic!("no {command} in {transcript}"));
    let (said, status) = from.split_once("\nexit ").unwrap();
    (said, status.lines().next().unwrap().parse().unwrap())
}

#[test]
fn a_backup_whose_result_cannot_be_printed_is_stored() {
    let place = Place::new();
    let database = small_database();
    let database = database.to_str().unwrap();
    for format in ["table", "json"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = place.command(&["-w", format, "backup", "--file", database]);
        let said = exits(3, command.stdout(full));
        let id = place.snapshots().pop().unwrap();
        assert!(said.contains("it is done, but the result could not be printed"), "{said}");
        assert!(said.contains(&id), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut restore = place.command(&["restore", "latest", "-o", "out.db"]);
    let said = exits(3, restore.stdout(full));
    assert!(said.contains("out.db: snapshot") && place.path("out.db").exists(), "{said}");
    // A reader that is gone.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let said = exits(3, place.command(&["prune", "--pin", &place.snapshots()[0]]).stdout(writer));
    assert!(said.contains("it is done") && said.contains(": pinned"), "{said}");
    // A list is nothing but its output.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    exits(1, place.command(&["snapshots"]).stdout(full.try_clone().unwrap()));
    for args in [&["--version"][..], &["help"], &["prune", "--help"], &["help", "globals"]] {
        let said = exits(1, place.bare(args).stdout(full.try_clone().unwrap()));
        assert!(said.contains("standard output: No space left"), "{said}");
    }
}

#[test]
fn a_snapshot_file_is_a_regular_file() {
    let place = Place::new();
    let fifo = place.path("fifo");
    exits(0, Command::new("mkfifo").arg(&fifo));
    for (name, what) in
        [("fifo", "a pipe"), ("/dev/null", "a device"), ("-", "standard input"), (".", "directory")]
    {
        let said = place.fail(2, &["backup", "--file", name]);
        assert!(said.contains(what) && said.contains("to a file first"), "{said}");
    }
    let said = place.fail(1, &["backup", "--file", "nothing"]);
    assert!(said.contains("nothing: No such file"), "{said}");
    assert!(place.snapshots().is_empty());
}

#[test]
fn a_missing_scratch_directory_fails_no_snapshot() {
    let place = Place::new();
    place.backup();
    let mut deep = place.command(&["verify", "--deep", "--all", "--record"]);
    let said = exits(1, deep.env("TMPDIR", "/nonexistent"));
    assert!(said.contains("/nonexistent") && said.contains("TMPDIR"), "{said}");
    assert!(!said.contains("failed") && !said.contains("0 of 1"), "{said}");
    assert_eq!(place.json(&["reports"]).as_array().unwrap().len(), 0);
    let mut drill = place.command(&["drill", "latest", "--scratch-dir", "/nonexistent"]);
    let said = exits(1, drill.arg("--etcd").arg(Version::NEWEST.programs().join("etcd")));
    assert!(said.contains("/nonexistent: ") && said.contains("--scratch-dir"), "{said}");
    // What needs no scratch file does not ask for the directory.
    for args in [&["verify", "latest"][..], &["restore", "latest", "-o", "out.db"]] {
        exits(0, place.command(args).env("TMPDIR", "/nonexistent"));
    }
}

#[test]
fn a_full_scratch_directory_fails_no_snapshot() {
    let place = Place::new();
    place.backup();
    let script = "mkdir small && mount -t tmpfs -o size=16k none small && export TMPDIR=$PWD/small
        run verify --deep latest
        run verify latest
        run drill latest --etcd $ETCD --scratch-dir small
        ls -A small | wc -l";
    let Some(out) = with_mounts(&place, script) else { return };
    let (deep, status) = said(&out, "verify --deep");
    assert!(status == 1 && deep.contains("small: No space left"), "{deep}");
    assert!(deep.contains("TMPDIR") && !deep.contains("failed"), "{deep}");
    assert_eq!(said(&out, "verify latest").1, 0);
    let (drill, status) = said(&out, "drill");
    assert!(status == 1 && drill.contains("--scratch-dir"), "{drill}");
    assert!(drill.contains("needs 28672 bytes") && !drill.contains("snapshot"), "{drill}");
    assert!(out.ends_with("\n0\n"), "{out}");
}

#[test]
fn targets_that_cannot_be_are_refused_before_anything_is_fetched() {
    let place = Place::new();
    let id = place.backup();
    // A snapshot that does not open: whatever is said of the target was said before.
    let keyring = place.path("keyring");
    fs::rename(&keyring, place.path("right")).unwrap();
    exits(0, &mut place.bare(&["key", "generate", "-o", "keyring"]));
    let script = "mkdir ro mount wal && touch file mounted
        mount --bind file mounted
        mount -t tmpfs -o ro none ro
        run restore latest -o ro/out
        run restore latest --data-dir ro/data
        run restore latest --companions-to missing/dir
        run restore latest --data-dir missing/data
        run restore latest -o missing/out
        run restore latest -o new/
        run restore latest -o mounted --force
        run restore latest --data-dir data --wal-dir data/wal
        run restore latest --data-dir data --wal-dir data
        run restore latest --data-dir wal/../data --wal-dir data";
    let Some(out) = with_mounts(&place, &script.replace("latest", &id)) else { return };
    let out = out.replace(&id, "latest");
    for (command, words, code) in [
        ("restore latest -o ro/out", "ro: Read-only file system", 1),
        ("restore latest --data-dir ro/data", "ro: read-only", 1),
        ("restore latest --companions-to missing", "create the directory first", 1),
        ("restore latest --data-dir missing", "create the directory first", 1),
        ("restore latest -o missing", "create the directory first", 2),
        ("restore latest -o new/", "there is no such directory", 2),
        ("restore latest -o mounted", "mount point", 2),
        ("restore latest --data-dir data --wal-dir data/wal", "in each other", 2),
        ("restore latest --data-dir data --wal-dir data\n", "in each other", 2),
        ("restore latest --data-dir wal/../data", "in each other", 2),
    ] {
        let (said, status) = said(&out, command);
        assert!(said.contains(words) && !said.contains(".strongroom-"), "{said}");
        assert_eq!(status, code, "{said}");
    }
    fs::rename(place.path("right"), keyring).unwrap();
}

/// Whatever the target: what cannot be is refused as the restore refuses it, and nothing is written.
#[test]
fn a_dry_run_says_what_would_be_written_and_where() {
    let place = Place::new();
    fs::write(place.path("file"), "x").unwrap();
    let file = place.path("file").display().to_string();
    let database = crate::support::small_database().display().to_string();
    let report = place.json(&["backup", "--file", &database, "--include", &file]);
    let id = report["id"].as_str().unwrap().to_owned();
    let manifest = "kind: Pod
spec:
  containers:
  - command:
    - etcd
    - --data-dir=DIR
    volumeMounts:
    - mountPath: DIR
      name: data
  volumes:
  - hostPath:
      path: DIR
    name: data
";
    let manifest = manifest.replace("DIR", &place.path("pod").display().to_string());
    fs::write(place.path("etcd.yaml"), manifest).unwrap();
    let before = crate::planted_files::everything(place.dir.path());
    for (args, said) in [
        (&["-o", "out.db"][..], "would write out.db: snapshot "),
        (&["-o", "-"], "would write standard output"),
        (&["-o", "file", "--force"], "would write file: "),
        (&["--data-dir", "data", "--name", "a"], "would write data: "),
        (&["--from-manifest", "etcd.yaml"], "/pod: snapshot "),
        (&["--companions-to", "files"], "would write files/"),
        (&["-o", "out.db", "--companions-to", "files"], "would write out.db: "),
    ] {
        let args = [&["restore", &id, "--dry-run"][..], args].concat();
        let out = String::from_utf8(place.succeed(&args).stdout).unwrap();
        assert!(out.contains(said), "{args:?}: {out}");
    }
    for (args, code, said) in [
        (&["-o", "file"][..], 1, "exists"),
        (&["-o", "missing/out"], 2, "no such directory"),
        (&["--data-dir", "missing/data"], 1, "create the directory first"),
        (&["--data-dir", "."], 1, "is not empty"),
        (&["--data-dir", "data", "--name", "a b=c"], 2, ""),
        (&["--companions-to", "."], 1, "is not empty"),
        (&["-o", "out.db", "--revision", "999999"], 1, "is not recorded"),
    ] {
        let out = place.fail(code, &[&["restore", &id, "--dry-run"][..], args].concat());
        assert!(out.contains(said), "{args:?}: {out}");
    }
    assert_eq!(crate::planted_files::everything(place.dir.path()), before);
    // A restore says what it leaves out.
    for args in [&["-o", "out.db"][..], &["--data-dir", "data"], &["-o", "-"]] {
        let said = place.succeed(&[&["restore", &id][..], args].concat()).stderr;
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(&format!("also has {file}: `--companions-to")), "{said}");
    }
}

/// Whatever reads a snapshot says what to do when its bytes are not those that were written.
#[test]
fn a_damaged_snapshot_names_the_next_step() {
    let place = Place::new();
    let id = place.backup();
    let payload = place.path(&format!("repo/snapshots/{id}/payload"));
    let mut bytes = fs::read(&payload).unwrap();
    bytes[700] ^= 1;
    fs::write(payload, bytes).unwrap();
    for args in [
        &["restore", &id, "-o", "out.db"][..],
        &["restore", &id, "--data-dir", "data"],
        &["ls", &id],
        &["get", &id, "key"],
        &["stats", &id],
        &["verify", &id],
    ] {
        let said = place.fail(13, args);
        assert!(said.contains("delete nothing; try another key"), "{args:?}: {said}");
    }
    let said = place.fail(13, &["-w", "json", "restore", &id, "-o", "out.db"]);
    assert!(said.contains("\"hint\":\"delete nothing"), "{said}");
}

#[test]
fn other_file_systems_mount_points_and_a_system_without_proc() {
    let place = Place::new();
    place.backup();
    let script = "mkdir data other && mount -t tmpfs none data && mount -t tmpfs none other
        mkdir data/lost+found
        run restore latest --data-dir data --wal-dir other/wal
        run restore latest -o other/out
        ls data/member other/wal
        mount -t tmpfs none /proc
        run restore latest -o without
        run restore latest -o without --force
        run restore latest --data-dir second
        run verify --deep latest
        run backup --file other/out
        run drill latest --etcd $ETCD";
    let Some(out) = with_mounts(&place, script) else { return };
    for command in [
        "restore latest --data-dir data",
        "restore latest -o other/out",
        "restore latest -o without\n",
        "restore latest -o without --force",
        "restore latest --data-dir second",
        "verify --deep",
        "backup",
    ] {
        let (said, status) = said(&out, command);
        assert_eq!(status, 0, "{said}");
    }
    assert!(out.contains("snap") && out.contains(".wal"), "{out}");
    let (drill, status) = said(&out, "drill");
    assert!(status == 1 && drill.contains("/proc"), "{drill}");
    assert!(
        !fs::read_dir(place.dir.path()).unwrap().any(|entry| {
            entry.unwrap().file_name().to_string_lossy().starts_with(".strongroom-")
        })
    );
}
