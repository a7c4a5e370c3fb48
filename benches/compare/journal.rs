//! What a journal of an hour costs to write, and a restore through it beside a plain one; then a recorder at work.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom::backup::{
    BackupOptions, Generated, GeneratedReport, Moment, Source, Target, backup, bundle_journals,
    generate, plan_restore, restore, restore_recorded,
};
use strongroom::bolt::Writer;
use strongroom::crypto::system_rng;
use strongroom::format::{ClusterName, KeyState, SnapshotId};
use strongroom::keys::{KeySet, LocalKey};
use strongroom::secret::SecretKey;
use strongroom::store::{Repository, connect};
use strongroom::task::Control;

use crate::generator::{Churn, Step};
use crate::recording::{self, Row, row};

/// Changes in an hour of a cluster of 1,000 nodes: 145 a second; and of the one that the storage table is about.
const EVENTS: u64 = 522_000;
const FEW: u64 = 20_000;
const HOUR: Duration = Duration::from_secs(3600);
/// The API server compacts every five minutes what is older than five minutes.
const COMPACTIONS: u64 = 12;

/// The keys as they are: created at which revision, and how many changes since.
#[derive(Default)]
struct Keys(BTreeMap<String, (i64, i64)>);

impl Keys {
    /// The record of a change; the key alone of a deletion.
    fn change(&mut self, main: i64, key: &str, value: Option<&str>) -> Result<Vec<u8>, Vec<u8>> {
        let Some(value) = value else {
            self.0.remove(key);
            return Err(key.as_bytes().to_vec());
        };
        let (created, version) = self.0.entry(key.to_owned()).or_insert((main, 0));
        *version += 1;
        let mut record = Vec::with_capacity(value.len() + key.len() + 32);
        bytes(&mut record, 1, key.as_bytes());
        for (field, number) in [(2, *created), (3, main), (4, *version)] {
            varint(&mut record, field << 3);
            varint(&mut record, number as u64);
        }
        bytes(&mut record, 5, value.as_bytes());
        Ok(record)
    }
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn deletion(key: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    bytes(&mut record, 1, key);
    record
}

/// Writes the database of `transactions`, which begin at revision 2.
fn database(path: &Path, transactions: &[Vec<Result<Vec<u8>, Vec<u8>>>]) {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let mut writer = Writer::new(file.unwrap(), 4096).unwrap();
    writer.bucket(b"key").unwrap();
    for (main, changes) in (2_i64..).zip(transactions) {
        for (sub, change) in (0_i64..).zip(changes) {
            let mut key = main.to_be_bytes().to_vec();
            key.push(b'_');
            key.extend(sub.to_be_bytes());
            match change {
                Ok(value) => writer.put(&key, value).unwrap(),
                Err(deleted) => {
                    key.push(b't');
                    writer.put(&key, &deletion(deleted)).unwrap();
                }
            }
        }
    }
    writer.bucket(b"lease").unwrap();
    writer.bucket(b"meta").unwrap();
    writer.put(b"consistent_index", &7_u64.to_be_bytes()).unwrap();
    writer.finish().unwrap();
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).unwrap().parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// What `work` gives, its wall time and its processor time.
async fn timed<T>(work: impl Future<Output = T>) -> (T, f64, f64) {
    let (begun, before) = (Instant::now(), cpu());
    let done = work.await;
    (done, begun.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64())
}

/// An hour of changes behind revision `last`, whose changes are repeated first.
fn hour(
    churn: &mut Churn,
    keys: &mut Keys,
    (last, most): (i64, u64),
    repeated: Vec<Result<Vec<u8>, Vec<u8>>>,
) -> Vec<Generated> {
    let mut revisions =
        vec![Generated { main: last, after: Duration::ZERO, changes: repeated, compacted: None }];
    let (mut main, mut events, mut compacted) = (last, 0_u64, last);
    let mut known = None;
    while events < most {
        main += 1;
        let changes: Vec<_> = churn
            .write()
            .iter()
            .map(|(key, value)| keys.change(main, key, value.as_deref()))
            .collect();
        let before = events * COMPACTIONS / most;
        events += changes.len() as u64;
        if events * COMPACTIONS / most > before {
            // What was the last revision five minutes ago.
            (known, compacted) = (Some(compacted), main);
        }
        let after = HOUR.mul_f64(events as f64 / most as f64);
        revisions.push(Generated { main, after, changes, compacted: known.take() });
    }
    revisions
}

/// What an hour of changes takes up.
struct Written {
    generated: GeneratedReport,
    /// Processor time.
    cpu: f64,
    /// Bytes of the bundle.
    bundle: u64,
}

/// A repository in `dir` with a snapshot of what `churn` fills an etcd with, and an hour of `most` changes behind it.
struct Hour {
    repository: Repository,
    keys: KeySet,
    base: SnapshotId,
    written: Written,
}

impl Hour {
    async fn new(dir: &Path, most: u64) -> Self {
        std::fs::create_dir_all(dir.join("repository")).unwrap();
        let (mut churn, mut keys) = (Churn::new(3), Keys::default());
        let mut transactions = Vec::new();
        for step in churn.fill() {
            let Step::Write(writes) = step else { continue };
            let main = transactions.len() as i64 + 2;
            let change =
                |(key, value): &(String, Option<String>)| keys.change(main, key, value.as_deref());
            transactions.push(writes.iter().map(change).collect());
        }
        let path = dir.join("base.db");
        database(&path, &transactions);
        let last = transactions.len() as i64 + 1;
        let revisions = hour(&mut churn, &mut keys, (last, most), transactions.pop().unwrap());

        let url = dir.join("repository").to_str().unwrap().parse().unwrap();
        let store = connect(&url, &Default::default()).unwrap().store;
        let repository = Repository::init(store, false, &mut system_rng()).await.unwrap().0;
        let mut keys = KeySet::new();
        keys.add(Arc::new(LocalKey::new(SecretKey::new(|key| key.fill(1)))), KeyState::Primary);
        let control = Control::default();
        let options = BackupOptions { compare_members: false, ..BackupOptions::default() };
        let source = Source::File(path.clone());
        let base = backup(&repository, &keys, source, &options, &control).await.unwrap().id;
        let cluster = ClusterName::default();
        let interval = Duration::from_secs(5);
        let generating = generate(&repository, &keys, cluster.clone(), interval, revisions);
        let (generated, _, cpu) = timed(generating).await;
        let how = (options.suite, std::time::SystemTime::UNIX_EPOCH);
        bundle_journals(&repository, &keys, &cluster, how, &control).await.unwrap();
        let objects = repository.list("journals").await.unwrap();
        let bundles = objects.iter().filter(|one| one.name.contains("/bundle."));
        let bundle = bundles.map(|one| one.len).sum();
        let written = Written { generated: generated.unwrap(), cpu, bundle };
        Self { repository, keys, base, written }
    }

    /// Wall and processor time of a restore of the snapshot alone, and through the journal.
    async fn restores(&self, dir: &Path) -> [(f64, f64); 2] {
        let (repository, keys, control) = (&self.repository, &self.keys, Control::default());
        let target = |name: &str| {
            let path = dir.join(name);
            Target::File { path, force: true, revision: None, allow_untested: true }
        };
        let plain = restore(repository, keys, self.base, target("plain.db"), &control);
        let (plain, plain_wall, plain_cpu) = timed(plain).await;
        let whole = async {
            let newest = (Some(self.base), Moment::Newest);
            let plan = plan_restore(repository, keys, None, newest.0, newest.1, dir).await?;
            restore_recorded(repository, keys, &plan, target("newest.db"), &control).await
        };
        let (newest, newest_wall, newest_cpu) = timed(whole).await;
        assert!(newest.unwrap().revision > plain.unwrap().revision);
        [(plain_wall, plain_cpu), (newest_wall, newest_cpu)]
    }
}

/// The rows of one pace, whose name is `nodes`.
fn stored(nodes: &str, goal: &str, written: &Written) -> Vec<Row> {
    let Written { generated, bundle, .. } = written;
    let (events, mb) = (generated.events as f64, 24.0 / 1e6);
    vec![
        row(
            format!(
                "stored, {nodes}: {} changes an hour of {:.0} bytes",
                generated.events,
                generated.raw_bytes as f64 / events
            ),
            goal,
            format!(
                "{:.0} bytes each, {:.0} MB a day",
                generated.stored_bytes as f64 / events,
                generated.stored_bytes as f64 * mb
            ),
        ),
        row(
            format!("… when it is bundled, {nodes}"),
            "–",
            format!(
                "{:.0} bytes each, {:.0} MB a day",
                *bundle as f64 / events,
                *bundle as f64 * mb
            ),
        ),
    ]
}

/// The table of the guide: an hour of changes, then a recorder at work.
pub async fn run(dir: &Path, runs: usize) -> String {
    let mut rows = Vec::new();
    let few = Hour::new(&dir.join("few"), FEW).await;
    rows.extend(stored("the cluster of the storage table", "–", &few.written));
    let hour = Hour::new(&dir.join("many"), EVENTS).await;
    rows.extend(stored("1,000 nodes", "≤ 100 bytes each; ≤ 1.3 GB a day", &hour.written));
    rows.push(row(
        "objects, 1,000 nodes",
        "≤ 720 segments of the open hour",
        format!("{} segments an hour", hour.written.generated.segments),
    ));
    rows.push(row(
        "cutting, compressing and sealing, processor time",
        "≤ 10 µs a change, with the watch",
        format!("{:.1} µs a change", hour.written.cpu * 1e6 / hour.written.generated.events as f64),
    ));
    let mut restores = Vec::new();
    for _ in 0..runs {
        restores.push(hour.restores(dir).await);
    }
    restores.sort_by(|one, other| one[1].0.total_cmp(&other[1].0));
    let [(plain, plain_cpu), (newest, newest_cpu)] = restores[restores.len() / 2];
    rows.push(row(
        "restore of a snapshot and an hour of 1,000 nodes",
        "that of the snapshot + 5 s",
        format!("{newest:.1} s ({newest_cpu:.1} s of processor time); the snapshot alone {plain:.1} s ({plain_cpu:.1} s)"),
    ));
    rows.extend(recording::run(dir).await);
    let rows =
        rows.iter().map(|[what, goal, measured]| format!("| {what} | {goal} | {measured} |\n"));
    format!("| what | goal | measured |\n|---|---|---|\n{}", rows.collect::<String>())
}
