//! restic of the files that `etcdctl snapshot save` writes, once an hour, with the same retention.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::etcd::{Etcd, programs};
use crate::measure::size;

/// A restic repository.
pub struct Saved {
    dir: PathBuf,
}

impl Saved {
    pub fn new(dir: &Path) -> Self {
        let saved = Self { dir: dir.to_owned() };
        saved.restic(&["init"]);
        saved
    }

    fn restic(&self, args: &[&str]) {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", "bench").env("TZ", "UTC");
        command.env("RESTIC_CACHE_DIR", self.dir.join("restic-cache"));
        command.args(["-q", "-r"]).arg(self.dir.join("restic")).args(args);
        assert!(command.status().expect("restic runs").success(), "restic {args:?}");
    }

    /// Saves the database of `etcd` and backs the file up, as if it were `seconds` after 1970.
    pub fn backup(&self, etcd: &Etcd, seconds: u64) {
        let file = self.dir.join("saved.db");
        let mut save = Command::new(programs().join("etcdctl"));
        save.env("ETCDCTL_API", "3").args(["--endpoints", &etcd.endpoint, "snapshot", "save"]);
        assert!(save.arg(&file).output().unwrap().status.success(), "etcdctl snapshot save");
        let time = jiff::Timestamp::from_second(seconds as i64).unwrap();
        let time = time.strftime("%Y-%m-%d %H:%M:%S").to_string();
        self.restic(&["backup", "--host", "bench", "--time", &time, file.to_str().unwrap()]);
    }

    /// Removes what the rules of the snapshots do not keep.
    pub fn prune(&self) {
        let rules = ["--keep-hourly", "48", "--keep-daily", "30", "--keep-weekly", "12"];
        self.restic(&[&["forget", "--prune", "--keep-monthly", "12"], &rules[..]].concat());
    }

    /// Bytes that are stored.
    pub fn stored(&self) -> u64 {
        size(&self.dir.join("restic"))
    }
}
