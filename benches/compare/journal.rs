//! What a journal of an hour costs to write, and a restore through it beside a plain one.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom::backup::{
    BackupOptions, Generated, Moment, Source, Target, backup, generate, plan_restore, restore,
    restore_recorded,
};
use strongroom::bolt::Writer;
use strongroom::crypto::system_rng;
use strongroom::format::{ClusterName, KeyState};
use strongroom::keys::{KeySet, LocalKey};
use strongroom::secret::SecretKey;
use strongroom::store::{Repository, connect};
use strongroom::task::Control;

use crate::generator::{Churn, Step};

/// Changes in an hour of a cluster of 1,000 nodes: 145 a second.
const EVENTS: u64 = 522_000;
const HOUR: Duration = Duration::from_secs(3600);
/// The API server compacts every five minutes what is older than five minutes.
const COMPACT: u64 = EVENTS / 12;

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
    last: i64,
    repeated: Vec<Result<Vec<u8>, Vec<u8>>>,
) -> Vec<Generated> {
    let mut revisions =
        vec![Generated { main: last, after: Duration::ZERO, changes: repeated, compacted: None }];
    let (mut main, mut events, mut compacted) = (last, 0_u64, last);
    let mut known = None;
    while events < EVENTS {
        main += 1;
        let changes: Vec<_> = churn
            .write()
            .iter()
            .map(|(key, value)| keys.change(main, key, value.as_deref()))
            .collect();
        let before = events / COMPACT;
        events += changes.len() as u64;
        if events / COMPACT > before {
            // What was the last revision five minutes ago.
            (known, compacted) = (Some(compacted), main);
        }
        let after = HOUR.mul_f64(events as f64 / EVENTS as f64);
        revisions.push(Generated { main, after, changes, compacted: known.take() });
    }
    revisions
}

pub async fn run(dir: &Path, runs: usize) {
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
    let revisions = hour(&mut churn, &mut keys, last, transactions.pop().unwrap());

    let url = dir.join("repository").to_str().unwrap().parse().unwrap();
    let store = connect(&url, &Default::default()).unwrap().store;
    let repository = Repository::init(store, false, &mut system_rng()).await.unwrap().0;
    let mut masters = KeySet::new();
    masters.add(Arc::new(LocalKey::new(SecretKey::new(|key| key.fill(1)))), KeyState::Primary);
    let control = Control::default();
    let options = BackupOptions { compare_members: false, ..BackupOptions::default() };
    let source = Source::File(path.clone());
    let base = backup(&repository, &masters, source, &options, &control).await.unwrap().id;
    let cluster = ClusterName::default();
    let interval = Duration::from_secs(5);
    let (written, wall, used) =
        timed(generate(&repository, &masters, cluster, interval, revisions)).await;
    let written = written.unwrap();
    let events = written.events as f64;
    println!(
        "written: {} events, {:.0} bytes each, {} segments, {:.0} bytes stored for each event; {wall:.1} s, {:.1} µs of processor time for each event",
        written.events,
        written.raw_bytes as f64 / events,
        written.segments,
        written.stored_bytes as f64 / events,
        used * 1e6 / events,
    );
    let target = |name: &str| {
        let path = dir.join(name);
        Target::File { path, force: true, revision: None, allow_untested: true }
    };
    for _ in 0..runs {
        let plain = restore(&repository, &masters, base, target("plain.db"), &control);
        let (plain, plain_wall, plain_cpu) = timed(plain).await;
        let whole = async {
            let plan =
                plan_restore(&repository, &masters, None, Some(base), Moment::Newest, dir).await?;
            restore_recorded(&repository, &masters, &plan, target("newest.db"), &control).await
        };
        let (newest, newest_wall, newest_cpu) = timed(whole).await;
        let (plain, newest) = (plain.unwrap(), newest.unwrap());
        println!(
            "plain: revision {}, {} MiB, {plain_wall:.1} s ({plain_cpu:.1} s of processor time); with the journal: revision {}, {} MiB, {newest_wall:.1} s ({newest_cpu:.1} s)",
            plain.revision,
            plain.database_bytes >> 20,
            newest.revision,
            newest.database_bytes >> 20,
        );
    }
}
