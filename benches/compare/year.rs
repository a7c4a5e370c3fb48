//! Hourly snapshots with daily retention of an etcd in a steady state: what is stored. Ten thousand snapshots: how long
//! it takes to list them and to plan a removal.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use etcd_client::{CompactionOptions, Txn, TxnOp};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as Name;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use strongroom::backup::{
    BackupOptions, Retention, Source, apply_prune, backup, plan_prune, prune_report, snapshots,
    store_report,
};
use strongroom::crypto::system_rng;
use strongroom::etcd::EtcdSettings;
use strongroom::format::KeyState;
use strongroom::keys::{KeySet, LocalKey};
use strongroom::secret::SecretKey;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::etcd::Etcd;
use crate::generator::{Churn, HOUR as WRITES, Random, Step};
use crate::saved::Saved;

const FRAME: usize = 1 << 20;
/// Hours that the database ages before the first snapshot.
const AGE: usize = 4;
/// etcd commits to the file within 100 ms.
const COMMIT: Duration = Duration::from_millis(300);
const HOUR: u64 = 3600;
const BEGIN: u64 = 1_735_689_600;
/// Objects in one answer to a listing.
const PAGE: usize = 1000;

/// A store in memory whose clock is ours, and that takes its time to answer.
#[derive(Clone, Debug)]
struct Slow {
    inner: Arc<InMemory>,
    written: Arc<Mutex<BTreeMap<Name, u64>>>,
    /// Seconds since 1970.
    now: Arc<AtomicU64>,
    latency_ms: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

impl Slow {
    async fn wait(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let latency = self.latency_ms.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
    }

    fn wrote(&self, name: &Name) {
        self.written.lock().unwrap().insert(name.clone(), self.now.load(Ordering::Relaxed));
    }

    fn totals(&self) -> (usize, u64) {
        let mut all = self.inner.list(None);
        futures::executor::block_on(async {
            let (mut count, mut bytes) = (0, 0);
            while let Some(meta) = all.try_next().await.unwrap() {
                count += 1;
                bytes += meta.size;
            }
            (count, bytes)
        })
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Slow {
    async fn put_opts(
        &self,
        to: &Name,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.wait().await;
        let done = self.inner.put_opts(to, payload, opts).await?;
        self.wrote(to);
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        to: &Name,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.wait().await;
        self.wrote(to);
        self.inner.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, from: &Name, options: GetOptions) -> Result<GetResult> {
        self.wait().await;
        self.inner.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Name, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.wait().await;
        self.inner.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Name>>,
    ) -> BoxStream<'static, Result<Name>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Name>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let pages = self.inner.list(prefix).chunks(PAGE).then(move |mut page| {
            let store = store.clone();
            async move {
                store.wait().await;
                let written = store.written.lock().unwrap();
                for meta in page.iter_mut().flatten() {
                    let seconds = written.get(&meta.location).copied().unwrap_or(BEGIN);
                    meta.last_modified = (UNIX_EPOCH + Duration::from_secs(seconds)).into();
                }
                page
            }
        });
        pages.map(futures::stream::iter).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Name>) -> Result<ListResult> {
        self.wait().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Name, to: &Name, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A repository in that store, with a clock that goes on by hours.
struct Year {
    store: Slow,
    repository: Repository,
    keys: KeySet,
    hour: u64,
}

impl Year {
    async fn new() -> Self {
        let store = Slow {
            inner: Arc::default(),
            written: Arc::default(),
            now: Arc::new(AtomicU64::new(BEGIN)),
            latency_ms: Arc::default(),
            requests: Arc::default(),
        };
        let repository =
            Repository::init(Arc::new(store.clone()), false, &mut system_rng()).await.unwrap().0;
        let mut keys = KeySet::new();
        keys.add(Arc::new(LocalKey::new(SecretKey::new(|key| key.fill(1)))), KeyState::Primary);
        Self { store, repository, keys, hour: 0 }
    }

    /// The next hour's backup.
    async fn backup(&mut self, source: Source) {
        self.hour += 1;
        let now = BEGIN + self.hour * HOUR;
        self.store.now.store(now, Ordering::Relaxed);
        let options = BackupOptions {
            taken: Some(UNIX_EPOCH + Duration::from_secs(now)),
            compare_members: false,
            ..BackupOptions::default()
        };
        let control = Control::default();
        backup(&self.repository, &self.keys, source, &options, &control).await.unwrap();
    }

    async fn prune(&self, retention: &Retention) -> usize {
        let control = Control::default();
        let plan =
            plan_prune(&self.repository, &self.keys, retention, None, &control).await.unwrap();
        let report = apply_prune(&self.repository, &plan, &control).await.unwrap();
        let evidence = prune_report(&plan, &report, None, Duration::ZERO);
        store_report(&self.repository, &self.keys, &evidence).await.unwrap();
        plan.keep.len()
    }
}

/// Does the steps, one after the other, and waits until the database file has them.
async fn perform(etcd: &Etcd, steps: Vec<Step>) {
    let mut client = etcd.client().await;
    let mut revision = 0;
    for step in steps {
        match step {
            Step::Write(writes) => {
                let operation = |(key, value): (String, Option<String>)| match value {
                    Some(value) => TxnOp::put(key, value, None),
                    None => TxnOp::delete(key, None),
                };
                let operations: Vec<_> = writes.into_iter().map(operation).collect();
                let done = client.txn(Txn::new().and_then(operations)).await.unwrap();
                revision = done.header().unwrap().revision();
            }
            Step::Compact(left) => {
                // In an hour etcd has the time to finish each.
                let options = CompactionOptions::new().with_physical();
                client.compact(revision - left as i64, Some(options)).await.unwrap();
            }
        }
    }
    tokio::time::sleep(COMMIT).await;
}

/// Writes to an etcd in a steady state at the pace of a cluster, each change by itself, until `time` is over.
pub async fn churn(dir: &Path, time: Duration) {
    let etcd = Etcd::start(&dir.join("etcd")).await;
    let mut churn = Churn::new(3);
    perform(&etcd, churn.fill()).await;
    println!("{}", etcd.endpoint);
    let mut client = etcd.client().await;
    let (begun, mut written) = (Instant::now(), 0_u32);
    let pace = Duration::from_secs(HOUR) / WRITES as u32;
    while begun.elapsed() < time {
        for step in churn.hour() {
            let Step::Write(writes) = step else { continue };
            for (key, value) in writes {
                tokio::time::sleep_until((begun + pace * written).into()).await;
                written += 1;
                let done = match value {
                    Some(value) => client.put(key, value, None).await.unwrap().header().cloned(),
                    None => client.delete(key, None).await.unwrap().header().cloned(),
                };
                // As the API server does, each five minutes.
                if written.is_multiple_of(WRITES as u32 / 12) {
                    client.compact(done.unwrap().revision() - 1600, None).await.unwrap();
                }
                if begun.elapsed() >= time {
                    println!("{written} changes in {:.0} s", begun.elapsed().as_secs_f64());
                    return;
                }
            }
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Hourly backups of an etcd in a steady state.
pub async fn run(dir: &Path, days: u64) {
    let etcd = Etcd::start(&dir.join("etcd")).await;
    let mut churn = Churn::new(3);
    perform(&etcd, churn.fill()).await;
    for _ in 0..AGE {
        perform(&etcd, churn.hour()).await;
    }
    let mut year = Year::new().await;
    let mut retention = Retention::default();
    (retention.hourly, retention.daily) = (48, 30);
    (retention.weekly, retention.monthly) = (12, 12);
    let saved = Saved::new(dir);
    println!(
        "| after | database | one snapshot | snapshots | objects | stored | restic of saved files |"
    );
    println!("|---|---|---|---|---|---|---|");
    let begun = Instant::now();
    while year.hour < days * 24 {
        perform(&etcd, churn.hour()).await;
        let before = year.store.totals().1;
        let endpoints = vec![etcd.endpoint.clone()];
        let settings = EtcdSettings { endpoints, ..EtcdSettings::default() };
        year.backup(Source::Etcd(settings)).await;
        saved.backup(&etcd, BEGIN + year.hour * HOUR);
        let one = year.store.totals().1 - before;
        if year.hour.is_multiple_of(24) {
            let kept = year.prune(&retention).await;
            saved.prune();
            let day = year.hour / 24;
            eprintln!("{day} days in {:.0} s", begun.elapsed().as_secs_f64());
            if [1, 2, 7, 30, 90, 180, 365].contains(&day) {
                let (objects, bytes) = year.store.totals();
                let database = etcd.size().await.unwrap();
                println!(
                    "| {day} days | {:.0} MiB | {:.1} MiB | {kept} | {objects} | {:.0} MiB | {:.0} MiB |",
                    mib(database),
                    mib(one),
                    mib(bytes),
                    mib(saved.stored()),
                );
            }
        }
    }
}

/// A database of one frame, so that it is the snapshots' number that counts.
pub async fn ten_thousand(dir: &Path) {
    let mut year = Year::new().await;
    // A real etcd's pages, then pages that nothing refers to.
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/etcd/etcd-3.5.db");
    let mut database = std::fs::read(real).unwrap();
    database.truncate(database.len() / 4096 * 4096);
    database.resize(FRAME, 0);
    // An eighth of it does not compress.
    let mut random = Random::new(3);
    for place in database[FRAME / 2..FRAME / 2 + FRAME / 8].chunks_mut(8) {
        place.copy_from_slice(&random.next().to_be_bytes());
    }
    let path = dir.join("now.db");
    for hour in 1..=10_000_u64 {
        database[FRAME / 2 + 7] ^= hour as u8;
        std::fs::write(&path, &database).unwrap();
        year.backup(Source::File(path.clone())).await;
        if hour.is_multiple_of(1000) {
            eprintln!("{hour} snapshots");
        }
    }
    let (objects, _) = year.store.totals();
    year.store.latency_ms.store(20, Ordering::Relaxed);
    let asked = || year.store.requests.swap(0, Ordering::Relaxed);
    asked();
    let begun = Instant::now();
    let listed = snapshots(&year.repository, None).await.unwrap().snapshots.len();
    let (listing, requests) = (begun.elapsed().as_secs_f64(), asked());
    println!(
        "listing {listed} snapshots ({objects} objects): {listing:.2} s, {requests} requests of 20 ms"
    );
    let mut retention = Retention::default();
    (retention.daily, retention.monthly) = (30, 12);
    let begun = Instant::now();
    let control = Control::default();
    let plan = plan_prune(&year.repository, &year.keys, &retention, None, &control).await.unwrap();
    let (planning, requests) = (begun.elapsed().as_secs_f64(), asked());
    println!(
        "planning to keep {} and remove {}: {planning:.2} s, {requests} requests of 20 ms",
        plan.keep.len(),
        plan.remove.len()
    );
}
