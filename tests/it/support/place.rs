//! A directory with a keyring and a repository, and the program run in it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rand_core::Rng;
use serde_json::Value;
use strongroom::crypto::system_rng;

use crate::end_to_end::program;
use crate::support::small_database;

pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    /// With `keyring` and the repository `repo`.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.succeed(&["key", "generate", "-o", "keyring"]);
        place.succeed(&["init"]);
        place
    }

    /// `strongroom` with this repository and keyring.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_with("file:keyring", args)
    }

    /// Without repository and key.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.current_dir(self.dir.path()).args(args);
        command
    }

    pub fn command_with(&self, key: &str, args: &[&str]) -> Command {
        let mut command = program();
        command.current_dir(self.dir.path()).args(["-r", "repo", "-k", key]).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn succeed(&self, args: &[&str]) -> Output {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        out
    }

    /// What `args` print, which must be JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["-w", "json"];
        all.extend(args);
        serde_json::from_slice(&self.succeed(&all).stdout).unwrap()
    }

    /// Exits with `code`; what it said.
    pub fn fail(&self, code: i32, args: &[&str]) -> String {
        exits(code, &mut self.command(args))
    }

    /// Backs up the small database; the snapshot's id.
    pub fn backup(&self) -> String {
        let database = small_database();
        let report = self.json(&["backup", "--file", database.to_str().unwrap()]);
        report["id"].as_str().unwrap().to_owned()
    }

    /// The snapshots' ids.
    pub fn snapshots(&self) -> Vec<String> {
        let list = self.json(&["snapshots"]);
        list.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().into()).collect()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The objects below `repo/snapshots`. A staged file is none: nothing lists it, and it is swept a day later.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut paths = self.files();
        paths.retain(|path| !path.to_string_lossy().contains('#'));
        paths
    }

    /// The files below `repo/snapshots`, staged ones too.
    pub fn files(&self) -> Vec<PathBuf> {
        let Ok(folders) = fs::read_dir(self.path("repo/snapshots")) else { return Vec::new() };
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths
    }
}

/// Runs a command that must exit with `code`; what it said.
pub fn exits(code: i32, command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{command:?}: {}", text(&out.stderr));
    text(&out.stdout) + &text(&out.stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A real database made `length` bytes long by random ones, which are pages that nothing refers to.
pub fn long_database(length: usize) -> Vec<u8> {
    let mut database = fs::read(small_database()).unwrap();
    database.truncate(database.len() / 4096 * 4096);
    let used = database.len();
    database.resize(length, 0);
    system_rng().fill_bytes(&mut database[used..]);
    database
}

/// Writes a file that only its owner may read, as secrets must be.
pub fn write_secret(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
