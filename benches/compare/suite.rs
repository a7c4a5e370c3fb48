//! What is run, and what it must come to.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::Args;
use crate::etcd::{Etcd, programs};
use crate::measure::{Cost, cpu_seconds, pipeline, size};

/// What a contender is measured at, each beside its first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Job {
    Backup,
    RestoreToFile,
    RestoreMember,
    Prove,
}

/// One contender's runs.
pub struct Row {
    pub name: &'static str,
    pub job: Job,
    pub costs: Vec<Cost>,
    /// Processor seconds that etcd itself spent meanwhile.
    pub etcd: Vec<f64>,
    pub stored: u64,
    /// Wall seconds of each step, a list for each run.
    pub steps: Vec<Vec<f64>>,
}

pub struct Results {
    pub database: u64,
    pub entries: u64,
    pub runs: usize,
    pub rows: Vec<Row>,
    /// What `get` fetched of the stored bytes: of a key changed last, and of the first one written.
    pub fetched: [f64; 2],
}

impl Results {
    pub fn row(&self, name: &str) -> &Row {
        self.rows.iter().find(|row| row.name == name).unwrap()
    }
}

pub struct Suite {
    dir: PathBuf,
    pub etcd: Etcd,
    entries: u64,
    pub database: u64,
    recipient: String,
}

const PAGE: usize = 4096;
/// Every snapshot makes etcd commit: its meta page, free list and counters differ from the last one's, a handful of
/// pages. More than this is other data.
const DRIFT: usize = 64;

pub const STREAM: &str = "bare snapshot stream, to nowhere";
pub const BACKUP: &str = "`strongroom backup --no-compare`, to a local directory";
pub const COMPARE: &str = "`strongroom backup`: and asks the member for its HashKV";
pub const FLOOR: &str = "zstd (level 1, 1 MiB frames) and SHA-256 of the same bytes, nothing else";
pub const SAVE: &str = "`etcdctl snapshot save`, `zstd -3 -T2`, `age -r`";
pub const RESTIC: &str = "`restic backup --stdin` of the saved file";
pub const RESTORE: &str = "`strongroom restore --output`";
pub const AGE: &str = "`age -d \\| zstd -d`";
pub const DUMP: &str = "`restic dump`";
pub const MEMBER: &str = "`strongroom restore --data-dir`";
pub const ETCDUTL: &str = "`age -d \\| zstd -d`, `etcdutl snapshot restore`";
pub const DEEP: &str = "`strongroom verify --deep`";

type Run = fn(&Suite, &mut Row) -> Cost;

/// In the order in which they run: what is restored is what the backups before it left.
const CONTENDERS: [(&str, Job, Run); 12] = [
    (STREAM, Job::Backup, |suite, _| suite.bare_stream()),
    (FLOOR, Job::Backup, |suite, _| suite.floor()),
    (BACKUP, Job::Backup, |suite, row| suite.keep(row, |suite| suite.backup(&["--no-compare"]))),
    (COMPARE, Job::Backup, |suite, row| suite.keep(row, |suite| suite.backup(&[]))),
    (SAVE, Job::Backup, |suite, row| suite.keep(row, Suite::save_zstd_age)),
    (RESTIC, Job::Backup, |suite, row| suite.keep(row, Suite::restic_backup)),
    (RESTORE, Job::RestoreToFile, |suite, _| suite.restore()),
    (AGE, Job::RestoreToFile, |suite, _| suite.age_zstd()),
    (DUMP, Job::RestoreToFile, |suite, _| suite.restic_dump()),
    (MEMBER, Job::RestoreMember, |suite, _| suite.restore_member()),
    (ETCDUTL, Job::RestoreMember, |suite, row| suite.keep(row, Suite::etcdutl)),
    (DEEP, Job::Prove, |suite, _| suite.deep()),
];

fn strongroom() -> Command {
    Command::new(env!("CARGO_BIN_EXE_strongroom"))
}

/// Runs a command that must succeed and returns its standard output.
fn check(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

impl Suite {
    pub async fn prepare(args: &Args, dir: &Path) -> Self {
        let etcd = Etcd::start(&dir.join("etcd")).await;
        let start = Instant::now();
        let entries = etcd.fill(args.size << 20, args.seed).await;
        eprintln!("{entries} entries in {:.0} s", start.elapsed().as_secs_f64());
        let path = |name: &str| dir.join(name);
        check(strongroom().args(["key", "generate", "-o"]).arg(path("keyring")));
        check(Command::new("age-keygen").arg("-o").arg(path("age-key")));
        let recipient = check(Command::new("age-keygen").arg("-y").arg(path("age-key")));
        let suite = Self {
            dir: dir.into(),
            etcd,
            entries,
            database: 0,
            recipient: recipient.trim().into(),
        };
        suite.save();
        let saved = suite.path("saved.db");
        Self { database: size(&saved) - 32, ..suite }
    }

    /// Waits for Ctrl-C, for profiling by hand.
    pub async fn hold(&self) {
        println!("{} {}", self.etcd.endpoint, self.dir.display());
        let _ = tokio::signal::ctrl_c().await;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An empty place of this name.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
        path
    }

    pub fn save(&self) -> Cost {
        let mut save = Command::new(programs().join("etcdctl"));
        save.args(["--endpoints", &self.etcd.endpoint, "snapshot", "save"])
            .arg(self.fresh("saved.db"));
        pipeline(vec![save], None, None)
    }

    pub fn strongroom(&self, args: &[&str]) -> Command {
        let mut command = strongroom();
        command
            .args(["--config", "/dev/null", "-q", "-w", "json", "-r"])
            .arg(self.path("repository"));
        command.arg("-k").arg(format!("file:{}", self.path("keyring").display()));
        command.args(["--endpoints", &self.etcd.endpoint]).args(args);
        command
    }

    pub fn restic(&self, args: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", "bench").env("RESTIC_CACHE_DIR", self.path("restic-cache"));
        command.arg("-q").arg("-r").arg(self.path("restic")).args(args);
        command
    }

    pub fn bare_stream(&self) -> Cost {
        let read = async { self.etcd.bare_stream().await.0 };
        let wall = tokio::task::block_in_place(|| Handle::current().block_on(read));
        Cost { wall, ..Cost::default() }
    }

    /// The processor time that no encrypted, compressed and checked backup at this level can do without.
    fn floor(&self) -> Cost {
        let mut file = fs::File::open(self.path("saved.db")).unwrap();
        let (mut frame, mut stored) = (vec![0; 1 << 20], vec![0; 2 << 20]);
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        let (mut hasher, mut seconds) = (Sha256::new(), 0.0);
        loop {
            let mut filled = 0;
            while filled < frame.len() {
                match file.read(&mut frame[filled..]).unwrap() {
                    0 => break,
                    read => filled += read,
                }
            }
            if filled == 0 {
                return Cost { wall: seconds, cpu: seconds, rss: 0 };
            }
            let start = Instant::now();
            hasher.update(&frame[..filled]);
            let length = compressor.compress_to_buffer(&frame[..filled], &mut stored[..]).unwrap();
            std::hint::black_box(length);
            seconds += start.elapsed().as_secs_f64();
        }
    }

    pub fn backup(&self, more: &[&str]) -> (Vec<Cost>, u64) {
        let repository = self.fresh("repository");
        check(&mut self.strongroom(&["init"]));
        let backup = self.strongroom(&[&["backup"], more].concat());
        let cost = pipeline(vec![backup], None, None);
        (vec![cost], size(&repository))
    }

    fn save_zstd_age(&self) -> (Vec<Cost>, u64) {
        let saved = self.save();
        let (zst, age) = (self.fresh("saved.zst"), self.fresh("saved.age"));
        let mut zstd = Command::new("zstd");
        zstd.args(["-3", "-T2", "-q"]).arg(self.path("saved.db")).arg("-o").arg(&zst);
        let compressed = pipeline(vec![zstd], None, None);
        let mut encrypt = Command::new("age");
        encrypt.args(["-r", &self.recipient, "-o"]).arg(&age).arg(&zst);
        let encrypted = pipeline(vec![encrypt], None, None);
        fs::remove_file(zst).unwrap();
        (vec![saved, compressed, encrypted], size(&age))
    }

    pub fn restic_backup(&self) -> (Vec<Cost>, u64) {
        let repository = self.fresh("restic");
        check(&mut self.restic(&["init"]));
        let backup = self.restic(&["backup", "--stdin", "--stdin-filename", "etcd.db"]);
        let cost = pipeline(vec![backup], Some(&self.path("saved.db")), None);
        (vec![cost], size(&repository))
    }

    /// A place for a file of the database's size, on pages of the tmpfs that were in use a moment ago: pages that no
    /// process touched for a while cost the hypervisor a fault, whoever writes first.
    fn warm(&self, name: &str) -> PathBuf {
        let path = self.fresh(name);
        fs::copy(self.path("saved.db"), &path).unwrap();
        self.fresh(name)
    }

    fn restore(&self) -> Cost {
        let out = self.warm("restored.db");
        let out_text = out.display().to_string();
        let cost = pipeline(
            vec![self.strongroom(&["restore", "latest", "--output", &out_text])],
            None,
            None,
        );
        self.same(&out, DRIFT);
        cost
    }

    fn age_zstd(&self) -> Cost {
        let out = self.warm("restored.db");
        let cost = self.open_age(&out);
        self.same(&out, 0);
        cost
    }

    fn open_age(&self, out: &Path) -> Cost {
        let mut age = Command::new("age");
        age.arg("-d").arg("-i").arg(self.path("age-key")).arg(self.path("saved.age"));
        let mut zstd = Command::new("zstd");
        zstd.args(["-d", "-q"]);
        pipeline(vec![age, zstd], None, Some(out))
    }

    fn restic_dump(&self) -> Cost {
        let out = self.warm("restored.db");
        let dump = self.restic(&["dump", "latest", "/etcd.db"]);
        let cost = pipeline(vec![dump], None, Some(&out));
        self.same(&out, 0);
        cost
    }

    fn restore_member(&self) -> Cost {
        self.warm("restored.db");
        let dir = self.fresh("member");
        let text = dir.display().to_string();
        let args = ["restore", "latest", "--data-dir", &text, "--bump-revision", "0"];
        let cost = pipeline(vec![self.strongroom(&args)], None, None);
        fs::remove_dir_all(dir).unwrap();
        cost
    }

    fn etcdutl(&self) -> (Vec<Cost>, u64) {
        let out = self.warm("restored.db");
        let opened = self.open_age(&out);
        let dir = self.fresh("member");
        let mut etcdutl = Command::new(programs().join("etcdutl"));
        etcdutl.args(["snapshot", "restore"]).arg(&out).arg("--data-dir").arg(&dir);
        let restored = pipeline(vec![etcdutl], None, None);
        fs::remove_file(out).unwrap();
        fs::remove_dir_all(dir).unwrap();
        (vec![opened, restored], 0)
    }

    fn deep(&self) -> Cost {
        let mut verify = self.strongroom(&["verify", "latest", "--deep"]);
        verify.env("TMPDIR", &self.dir);
        pipeline(vec![verify], None, None)
    }

    /// The share of the stored bytes that `get` fetches, of the key changed last and of the first.
    fn fetched(&self) -> [f64; 2] {
        let listed = check(&mut self.strongroom(&["ls", "latest"]));
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let keys = listed["keys"].as_array().unwrap();
        let changed = |key: &&serde_json::Value| key["mod_revision"].as_i64().unwrap();
        let ends = [keys.iter().max_by_key(changed), keys.iter().min_by_key(changed)];
        ends.map(|key| {
            let key = key.unwrap()["key"].as_str().unwrap();
            let got = check(&mut self.strongroom(&["get", "latest", key]));
            let got: serde_json::Value = serde_json::from_str(&got).unwrap();
            let bytes = |name: &str| got[name].as_u64().unwrap() as f64;
            bytes("fetched_bytes") / bytes("payload_bytes")
        })
    }

    /// The restored file ends in the SHA-256 of all before it, as etcd writes it, and differs from the last saved
    /// file in at most `drift` pages. Read in pieces: at 4 GiB, everything else is in memory already.
    fn same(&self, restored: &Path, drift: usize) {
        let (name, saved) = (restored.display(), self.path("saved.db"));
        let length = size(restored);
        assert_eq!((length, length % PAGE as u64), (size(&saved), 32), "{name}: length");
        let open = |path| BufReader::with_capacity(1 << 20, fs::File::open(path).unwrap());
        let (mut ours, mut theirs) = (open(restored), open(&saved));
        let (mut page, mut expected) = ([0; PAGE], [0; PAGE]);
        let (mut hasher, mut differing) = (Sha256::new(), 0);
        for _ in 0..length / PAGE as u64 {
            ours.read_exact(&mut page).unwrap();
            theirs.read_exact(&mut expected).unwrap();
            hasher.update(page);
            differing += usize::from(page != expected);
        }
        let mut trailer = [0; 32];
        ours.read_exact(&mut trailer).unwrap();
        assert_eq!(hasher.finalize().as_slice(), trailer, "{name}: trailer");
        assert!(differing <= drift, "{name}: {differing} pages are not as saved");
        fs::remove_file(restored).unwrap();
    }

    /// Runs every contender once a round, so that a noisy minute hits all alike.
    pub async fn run(&self, runs: usize) -> Results {
        let mut rows = CONTENDERS.map(|(name, job, _)| Row {
            name,
            job,
            costs: vec![],
            etcd: vec![],
            stored: 0,
            steps: vec![],
        });
        for round in 0..runs {
            eprintln!("round {} of {runs}", round + 1);
            for (row, (_, _, run)) in rows.iter_mut().zip(CONTENDERS) {
                let etcd = || cpu_seconds(self.etcd.pid()).unwrap();
                let before = etcd();
                let cost = run(self, row);
                row.etcd.push(etcd() - before);
                row.costs.push(cost);
            }
        }
        let (database, entries, fetched) = (self.database, self.entries, self.fetched());
        Results { database, entries, runs, rows: rows.into(), fetched }
    }

    fn keep(&self, row: &mut Row, run: impl Fn(&Self) -> (Vec<Cost>, u64)) -> Cost {
        let (costs, stored) = run(self);
        row.stored = stored;
        row.steps.push(costs.iter().map(|cost| cost.wall).collect());
        costs.into_iter().reduce(Cost::and).unwrap_or_default()
    }

    /// (level, MB/s of one core, ratio) over the saved database, in 1 MiB frames.
    pub fn levels(&self) -> Vec<(i32, f64, f64)> {
        let database = fs::read(self.path("saved.db")).unwrap();
        let measure = |level| {
            let mut compressor = zstd::bulk::Compressor::new(level).unwrap();
            let start = Instant::now();
            let stored: usize = database
                .chunks(1 << 20)
                .map(|frame| compressor.compress(frame).unwrap().len())
                .sum();
            let seconds = start.elapsed().as_secs_f64();
            (level, database.len() as f64 / 1e6 / seconds, database.len() as f64 / stored as f64)
        };
        [-5, -3, -1, 1, 2, 3, 5, 9].map(measure).into()
    }
}

/// MiB of database, entries, and the peaks of backup, restore to a file, restore of a member, and deep verification.
pub async fn memory(args: &Args, dir: &Path) -> Vec<[u64; 6]> {
    let mut rows = Vec::new();
    for mib in &args.memory {
        let dir = dir.join(mib.to_string());
        fs::create_dir(&dir).unwrap();
        let args = Args { size: *mib, dir: dir.clone(), memory: Vec::new(), ..*args };
        let suite = Suite::prepare(&args, &dir).await;
        let (costs, _) = suite.backup(&[]);
        let backup = costs.into_iter().reduce(Cost::and).unwrap_or_default();
        let (file, member, deep) = (suite.restore(), suite.restore_member(), suite.deep());
        rows.push([*mib, suite.entries, backup.rss, file.rss, member.rss, deep.rss]);
        drop(suite);
        fs::remove_dir_all(dir).unwrap();
    }
    rows
}
