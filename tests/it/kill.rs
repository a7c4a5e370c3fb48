//! Killed at random moments: what was committed stays whole, and nothing else shows.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand_core::Rng;
use serde_json::Value;
use strongroom::crypto::system_rng;

use crate::end_to_end::program;
use crate::support::small_database;

/// A database that takes several parts of a multipart upload: bolt's own pages, then pages that nothing refers to.
const LENGTH: usize = 10 << 20;

struct Place {
    dir: tempfile::TempDir,
    database: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut database = fs::read(small_database()).unwrap();
        database.truncate(database.len() / 4096 * 4096);
        let used = database.len();
        database.resize(LENGTH, 0);
        system_rng().fill_bytes(&mut database[used..]);
        fs::write(dir.path().join("etcd.db"), &database).unwrap();
        let place = Self { dir, database };
        place.succeed(&["key", "generate", "-o", "keyring"]);
        place.succeed(&["key", "generate", "-o", "second"]);
        place.succeed(&["init"]);
        place
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.current_dir(self.dir.path()).args(["-r", "repo", "-k", "file:keyring", "-q"]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn succeed(&self, args: &[&str]) -> Vec<u8> {
        let out = self.command(args).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {error}");
        out.stdout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn snapshots(&self) -> Vec<String> {
        let list: Value =
            serde_json::from_slice(&self.succeed(&["-w", "json", "snapshots"])).unwrap();
        let ids = list.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().into());
        ids.collect()
    }

    /// How long `args` take when nobody disturbs them.
    fn undisturbed(&self, args: &[&str]) -> Duration {
        let begun = Instant::now();
        self.succeed(args);
        begun.elapsed()
    }

    /// Runs `args` and sends `signal` at a random moment of their time; the status, and when it was sent.
    fn kill(&self, args: &[&str], signal: &str, time: Duration) -> (ExitStatus, Duration) {
        let mut child = self.command(args).spawn().unwrap();
        let moment = time.mul_f64(1.1 * f64::from(system_rng().next_u32()) / f64::from(u32::MAX));
        std::thread::sleep(moment);
        let pid = child.id().to_string();
        // It may have ended already.
        let _ = Command::new("kill").args([signal, &pid]).stderr(Stdio::null()).status().unwrap();
        (child.wait().unwrap(), moment)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The objects below `repo/snapshots`. A staged file is none: nothing lists it, and it is swept a day later.
    fn objects(&self) -> BTreeSet<PathBuf> {
        let folders = fs::read_dir(self.path("repo/snapshots")).unwrap();
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        let paths = files.map(|file| file.unwrap().path());
        paths.filter(|path| !path.to_string_lossy().contains('#')).collect()
    }

    /// Every committed snapshot verifies and gives back the very bytes.
    fn all_whole(&self) {
        let checked = self.succeed(&["-w", "json", "verify", "--all"]);
        let checked: Value = serde_json::from_slice(&checked).unwrap();
        let ids = self.snapshots();
        assert_eq!(checked["checked"].as_u64().unwrap(), ids.len() as u64);
        for id in ids {
            let out = self.path("out.db");
            self.succeed(&["restore", &id, "-o", "out.db", "--force"]);
            self.is_whole(&out);
            fs::remove_file(out).unwrap();
        }
    }

    fn is_whole(&self, restored: &Path) {
        let restored = fs::read(restored).unwrap();
        assert_eq!(restored.len(), LENGTH + 32);
        assert!(restored[..LENGTH] == self.database[..], "restored bytes differ");
    }
}

/// A program that a signal stops says 130, or was done before it came, or had no handler yet.
fn ended(signal: &str, status: ExitStatus) {
    match signal {
        "-INT" => assert!(
            matches!(status.code(), Some(0 | 130)) || status.signal() == Some(2),
            "{status}"
        ),
        _ => assert!(status.code() == Some(0) || status.signal() == Some(9), "{status}"),
    }
}

const SIGNALS: [&str; 2] = ["-INT", "-KILL"];

fn backups(times: usize) {
    let place = Place::new();
    let args = ["backup", "--file", "etcd.db"];
    let time = place.undisturbed(&args);
    let mut committed = 1;
    for at in 0..times {
        let signal = SIGNALS[at % 2];
        let objects = place.objects();
        let (status, moment) = place.kill(&args, signal, time);
        ended(signal, status);
        let now = place.snapshots().len();
        assert!(now == committed || now == committed + 1, "{signal} after {moment:?}");
        if status.success() {
            assert_eq!(now, committed + 1, "{signal} after {moment:?}");
        }
        if status.code() == Some(130) && now == committed {
            let left: Vec<_> = place.objects().difference(&objects).cloned().collect();
            assert!(left.is_empty(), "SIGINT after {moment:?} left {left:?}");
        }
        committed = now;
    }
    println!("{committed} snapshots after {times} kills within {time:?}");
    place.all_whole();
}

fn reseals(times: usize) {
    let place = Place::new();
    for _ in 0..6 {
        place.succeed(&["backup", "--file", "etcd.db"]);
    }
    let (one, both) = (["key", "reseal", "--all"], ["-k", "file:second", "key", "reseal", "--all"]);
    let time = place.undisturbed(&both);
    for at in 0..times {
        let signal = SIGNALS[at % 2];
        // `second` is not at hand for the former, so its stanzas stay unless dropped: rotate, so that there is work.
        place.succeed(&["key", "rotate"]);
        let args = if at % 3 == 0 { &one[..] } else { &both[..] };
        let (status, moment) = place.kill(args, signal, time);
        ended(signal, status);
        let checked = place.command(&["verify", "--all", "--quick"]).status().unwrap();
        assert!(checked.success(), "{signal} after {moment:?}");
    }
    place.succeed(&both);
    let again = place.succeed(&["-w", "json", "-k", "file:second", "key", "reseal", "--all"]);
    let again: Value = serde_json::from_slice(&again).unwrap();
    assert_eq!((&again["resealed"], &again["unchanged"]), (&0.into(), &6.into()));
    place.all_whole();
}

fn restores(times: usize) {
    let place = Place::new();
    place.succeed(&["backup", "--file", "etcd.db"]);
    let args = ["restore", "latest", "-o", "out.db"];
    let time = place.undisturbed(&args);
    fs::remove_file(place.path("out.db")).unwrap();
    let before = place.names();
    for at in 0..times {
        let signal = SIGNALS[at % 2];
        let (status, moment) = place.kill(&args, signal, time);
        ended(signal, status);
        let out = place.path("out.db");
        if out.exists() {
            place.is_whole(&out);
            fs::remove_file(out).unwrap();
        } else {
            assert!(!status.success(), "{signal} after {moment:?}");
        }
        let left = place.names().into_iter().filter(|name| !before.contains(name));
        for name in left {
            assert!(name.starts_with(".strongroom-restore-"), "{name}");
            assert_ne!(status.code(), Some(130), "SIGINT after {moment:?} left {name}");
            fs::remove_file(place.path(&name)).unwrap();
        }
    }
    place.all_whole();
}

#[test]
fn killed_backups() {
    backups(40);
}

#[test]
fn killed_reseals() {
    reseals(30);
}

#[test]
fn killed_restores() {
    restores(30);
}

#[test]
#[ignore = "soak: a thousand kills"]
fn soak_of_kills() {
    backups(400);
    reseals(300);
    restores(300);
}
