//! Killed at random moments: what was committed stays whole, and nothing else shows.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand_core::Rng;
use strongroom::crypto::system_rng;

use crate::place::{Place, long_database};

/// A database that takes several parts of a multipart upload: bolt's own pages, then pages that nothing refers to.
const LENGTH: usize = 10 << 20;

struct Victim {
    place: Place,
    database: Vec<u8>,
}

impl Victim {
    fn new() -> Self {
        let place = Place::new();
        let database = long_database(LENGTH);
        fs::write(place.path("etcd.db"), &database).unwrap();
        place.succeed(&["key", "generate", "-o", "second"]);
        Self { place, database }
    }

    /// How long `args` take when nobody disturbs them.
    fn undisturbed(&self, args: &[&str]) -> Duration {
        let begun = Instant::now();
        self.place.succeed(args);
        begun.elapsed()
    }

    /// Runs `args` and sends `signal` at a random moment of their time; the status, and when it was sent.
    fn kill(&self, args: &[&str], signal: &str, time: Duration) -> (ExitStatus, Duration) {
        let mut command = self.place.command(args);
        command.args(["-q"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let moment = time.mul_f64(1.1 * f64::from(system_rng().next_u32()) / f64::from(u32::MAX));
        std::thread::sleep(moment);
        let pid = child.id().to_string();
        // It may have ended already.
        let _ = Command::new("kill").args([signal, &pid]).stderr(Stdio::null()).status().unwrap();
        (child.wait().unwrap(), moment)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.place.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Every committed snapshot verifies and gives back the very bytes.
    fn all_whole(&self) {
        let checked = self.place.json(&["verify", "--all"]);
        let ids = self.place.snapshots();
        assert_eq!(checked["checked"].as_u64().unwrap(), ids.len() as u64);
        for id in ids {
            let out = self.place.path("out.db");
            self.place.succeed(&["restore", &id, "-o", "out.db", "--force"]);
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
    let victim = Victim::new();
    let place = &victim.place;
    let args = ["backup", "--file", "etcd.db"];
    let time = victim.undisturbed(&args);
    let mut committed = 1;
    for at in 0..times {
        let signal = SIGNALS[at % 2];
        let files = place.files();
        let (status, moment) = victim.kill(&args, signal, time);
        ended(signal, status);
        let now = place.snapshots().len();
        assert!(now == committed || now == committed + 1, "{signal} after {moment:?}");
        if status.success() {
            assert_eq!(now, committed + 1, "{signal} after {moment:?}");
        }
        if status.code() == Some(130) && now == committed {
            assert_eq!(place.files(), files, "SIGINT after {moment:?}");
        }
        committed = now;
    }
    println!("{committed} snapshots after {times} kills within {time:?}");
    victim.all_whole();
}

fn reseals(times: usize) {
    let victim = Victim::new();
    let place = &victim.place;
    for _ in 0..6 {
        place.succeed(&["backup", "--file", "etcd.db"]);
    }
    let (one, both) = (["key", "reseal", "--all"], ["-k", "file:second", "key", "reseal", "--all"]);
    let time = victim.undisturbed(&both);
    for at in 0..times {
        let signal = SIGNALS[at % 2];
        // `second` is not given to the former, so its stanzas stay unless dropped: rotate, so that there is work.
        // With both keys: a seal whose stanza for `second` is in no newer one stays, and is a finding, for who lacks it.
        if at > 0 {
            place.succeed(&both);
            place.succeed(&["key", "rotate", "--finish"]);
        }
        place.succeed(&["key", "rotate", "--offline"]);
        let args = if at % 3 == 0 { &one[..] } else { &both[..] };
        let (status, moment) = victim.kill(args, signal, time);
        ended(signal, status);
        let checked = place.command(&["verify", "--all", "--quick"]).status().unwrap();
        assert!(checked.success(), "{signal} after {moment:?}");
    }
    place.succeed(&both);
    let again = place.json(&both);
    assert_eq!((&again["resealed"], &again["unchanged"]), (&0.into(), &6.into()));
    victim.all_whole();
}

fn restores(times: usize) {
    let victim = Victim::new();
    let place = &victim.place;
    place.succeed(&["backup", "--file", "etcd.db"]);
    let args = ["restore", "latest", "-o", "out.db"];
    let time = victim.undisturbed(&args);
    fs::remove_file(place.path("out.db")).unwrap();
    let before = victim.names();
    for at in 0..times {
        let signal = SIGNALS[at % 2];
        let (status, moment) = victim.kill(&args, signal, time);
        ended(signal, status);
        let out = place.path("out.db");
        if out.exists() {
            victim.is_whole(&out);
            fs::remove_file(out).unwrap();
        } else {
            assert!(!status.success(), "{signal} after {moment:?}");
        }
        let left = victim.names().into_iter().filter(|name| !before.contains(name));
        for name in left {
            assert!(name.starts_with(".strongroom-restore-"), "{name}");
            assert_ne!(status.code(), Some(130), "SIGINT after {moment:?} left {name}");
            fs::remove_file(place.path(&name)).unwrap();
        }
    }
    victim.all_whole();
}

/// Restores of a member: a directory that etcd could start from, or none.
fn members(times: usize) {
    let victim = Victim::new();
    let place = &victim.place;
    place.succeed(&["backup", "--file", "etcd.db"]);
    let args = ["restore", "latest", "--data-dir", "data", "--wal-dir", "wal"];
    let time = victim.undisturbed(&args);
    let parts = ["data/member/snap/db", "data/member/snap/0000000000000001-0000000000000001.snap"];
    let log = "wal/0000000000000000-0000000000000000.wal";
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    let whole: Vec<_> = parts.into_iter().chain([log]).map(read).collect();
    for dir in ["data", "wal"] {
        fs::remove_dir_all(place.path(dir)).unwrap();
    }
    let before = victim.names();
    for at in 0..times {
        let signal = SIGNALS[at % 2];
        let (status, moment) = victim.kill(&args, signal, time);
        ended(signal, status);
        if place.path("data").exists() {
            let found: Vec<_> = parts.into_iter().chain([log]).map(read).collect();
            assert!(found == whole, "{signal} after {moment:?}");
            fs::remove_dir_all(place.path("data")).unwrap();
        } else {
            assert!(!status.success(), "{signal} after {moment:?}");
        }
        // The log takes its place first, and alone it is no member.
        let _ = fs::remove_dir_all(place.path("wal"));
        for name in victim.names().into_iter().filter(|name| !before.contains(name)) {
            assert!(name.starts_with(".strongroom-restore-"), "{name}");
            assert_ne!(status.code(), Some(130), "SIGINT after {moment:?} left {name}");
            fs::remove_dir_all(place.path(&name)).unwrap();
        }
    }
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
fn killed_members() {
    members(30);
}

#[test]
#[ignore = "soak: a thousand kills"]
fn soak_of_kills() {
    backups(400);
    reseals(300);
    restores(150);
    members(150);
}
