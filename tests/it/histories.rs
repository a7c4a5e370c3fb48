//! Random histories of a repository: backups, retention, re-sealing, copies, each killed now and then. Whatever is listed
//! at the end restores to the very bytes, and nothing that is not needed is left.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rand_core::Rng;
use serde_json::Value;
use strongroom::crypto::system_rng;

use crate::place::{Place, long_database, text};
use crate::prune::age;

const FRAME: usize = 1 << 20;
const LENGTH: usize = 3 * FRAME + 4096;
const STEPS: usize = 14;

struct History {
    place: Place,
    /// What is being backed up.
    database: Vec<u8>,
    /// What every snapshot that was ever listed must restore to.
    known: BTreeMap<String, Vec<u8>>,
    told: Vec<String>,
}

fn below(n: u32) -> u32 {
    system_rng().next_u32() % n
}

impl History {
    fn new() -> Self {
        let place = Place::new();
        place.succeed(&["key", "generate", "-o", "second-keyring"]);
        Self { place, database: long_database(LENGTH), known: BTreeMap::new(), told: Vec::new() }
    }

    /// Runs `args`, and kills it at a random moment with a chance of one in three.
    fn run(&mut self, args: &[&str]) -> Option<Value> {
        let mut all = vec!["-q", "-w", "json"];
        all.extend(args);
        let mut command = self.place.command(&all);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if below(3) == 0 {
            std::thread::sleep(Duration::from_millis(u64::from(below(150))));
            let _ = child.kill();
        }
        let out = child.wait_with_output().unwrap();
        self.told.push(format!("{args:?}: {}", out.status));
        let failed = out.status.code().is_some_and(|code| code != 0);
        assert!(!failed, "{}\n{:#?}", text(&out.stderr), self.told);
        out.status.success().then(|| serde_json::from_slice(&out.stdout).unwrap())
    }

    /// Takes note of snapshots that were not there before.
    fn note(&mut self) {
        for id in self.place.snapshots() {
            let database = &self.database;
            self.known.entry(id).or_insert_with(|| database.clone());
        }
    }

    fn step(&mut self) {
        match below(10) {
            0..=4 => {
                let frame = below(4) as usize * FRAME;
                let end = LENGTH.min(frame + FRAME);
                // The first pages are etcd's own, and are read when a backup ends.
                let begin = (frame + FRAME / 4).min(end - 64);
                system_rng().fill_bytes(&mut self.database[begin..end]);
                fs::write(self.place.path("now.db"), &self.database).unwrap();
                self.run(&["backup", "--file", "now.db"]);
                self.note();
            }
            5..=6 => {
                let count = (1 + below(3)).to_string();
                let rule = ["--keep-last", "--keep-hourly", "--keep-daily"][below(3) as usize];
                let args = ["prune", rule, &count];
                let mut dry = args.to_vec();
                dry.push("--dry-run");
                let plan = self.place.json(&dry);
                if let Some(done) = self.run(&args) {
                    let ids = |value: &Value| -> Vec<Value> {
                        let rows = value.as_array().unwrap().iter();
                        rows.map(|row| row.get("id").unwrap_or(row).clone()).collect()
                    };
                    assert_eq!(ids(&done["removed"]), ids(&plan["remove"]), "{plan:#}");
                    assert_eq!(done["swept"], plan["sweep"]);
                    assert_eq!(done["freed_bytes"], plan["frees_bytes"]);
                }
            }
            7 if !self.place.snapshots().is_empty() => {
                self.run(&[
                    "key",
                    "reseal",
                    "--all",
                    "-k",
                    "file:keyring",
                    "-k",
                    "file:second-keyring",
                ]);
            }
            8 if !self.place.snapshots().is_empty() => {
                self.run(&["copy", "--to", "second"]);
            }
            _ => age(&self.place.path("repo"), Duration::from_secs(3600 * u64::from(below(20)))),
        }
    }

    /// Every listed snapshot of `repository` restores to what was backed up.
    fn whole(&self, repository: &str) {
        let command = |args: &[&str]| {
            let mut command = self.place.command(args);
            command.args(["-q", "-r", repository]);
            command.output().unwrap()
        };
        let list = command(&["-w", "json", "snapshots"]);
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        let ids: Vec<_> =
            list.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
        if !ids.is_empty() {
            let mut args = vec!["verify"];
            args.extend(&ids);
            let out = command(&args);
            assert!(out.status.success(), "{}\n{:#?}", text(&out.stderr), self.told);
        }
        for id in ids {
            let out = command(&["restore", id, "-o", "out.db", "--force"]);
            assert!(out.status.success(), "{}\n{:#?}", text(&out.stderr), self.told);
            let restored = fs::read(self.place.path("out.db")).unwrap();
            assert!(restored[..LENGTH] == self.known[id], "{id}\n{:#?}", self.told);
        }
    }

    /// Beyond the grace period there is nothing but snapshots and payloads that they use.
    fn nothing_unneeded(&mut self) {
        for _ in 0..2 {
            age(&self.place.path("repo"), Duration::from_secs(25 * 3600));
            fs::write(self.place.path("now.db"), &self.database).unwrap();
            self.place.succeed(&["backup", "--file", "now.db"]);
            self.note();
            self.place.succeed(&["prune", "--keep-last", "2"]);
        }
        // What writers left is marked by the first run, and deleted by the second.
        for _ in 0..2 {
            age(&self.place.path("repo"), Duration::from_secs(25 * 3600));
            self.place.succeed(&["backup", "--file", "now.db"]);
            self.note();
            self.place.succeed(&["prune", "--keep-last", "99"]);
        }
        let ids = self.place.snapshots();
        for path in self.place.objects() {
            let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            assert!(ids.contains(&folder), "{} is left\n{:#?}", path.display(), self.told);
        }
    }
}

fn histories(count: usize) {
    let (mut snapshots, mut kills) = (0, 0);
    for _ in 0..count {
        let mut history = History::new();
        for _ in 0..STEPS {
            history.step();
        }
        history.whole("repo");
        if history.place.path("second/repository.json").exists() {
            history.whole("second");
        }
        history.nothing_unneeded();
        history.whole("repo");
        snapshots += history.known.len();
        kills += history.told.iter().filter(|told| told.contains("signal: 9")).count();
    }
    println!("{count} histories, {snapshots} snapshots, {kills} kills");
    assert!(snapshots > count && kills > count / 2);
}

#[test]
fn a_few_random_histories() {
    histories(4);
}

#[test]
#[ignore = "long"]
fn soak_two_hundred_random_histories() {
    histories(200);
}
