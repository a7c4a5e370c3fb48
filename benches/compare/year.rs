//! A year of hourly snapshots with daily retention, then ten thousand of them: what is stored, and how long it takes
//! to list them and to plan a removal.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
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
use strongroom::format::KeyState;
use strongroom::keys::{LocalKey, MasterKeys};
use strongroom::secret::SecretKey;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::generator::Random;

const FRAME: usize = 1 << 20;
/// The database: one frame in a hundred changes each hour, and the first, with etcd's own pages, always.
const FRAMES: usize = 100;
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

struct Year {
    store: Slow,
    repository: Repository,
    keys: MasterKeys,
    random: Random,
    path: std::path::PathBuf,
    database: Vec<u8>,
    hour: u64,
}

impl Year {
    async fn new(dir: &Path) -> Self {
        let store = Slow {
            inner: Arc::default(),
            written: Arc::default(),
            now: Arc::new(AtomicU64::new(BEGIN)),
            latency_ms: Arc::default(),
            requests: Arc::default(),
        };
        let repository =
            Repository::init(Arc::new(store.clone()), false, &mut system_rng()).await.unwrap().0;
        let mut keys = MasterKeys::new();
        keys.add(Arc::new(LocalKey::new(SecretKey::new(|key| key.fill(1)))), KeyState::Primary);
        // A real etcd's pages, then pages that nothing refers to.
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/etcd/etcd-3.5.db");
        let mut database = std::fs::read(real).unwrap();
        database.truncate(database.len() / 4096 * 4096);
        database.resize(FRAMES * FRAME, 0);
        let mut year = Self {
            store,
            repository,
            keys,
            random: Random::new(3),
            path: dir.join("now.db"),
            database,
            hour: 0,
        };
        for frame in 0..FRAMES {
            year.change(frame);
        }
        year
    }

    /// An eighth of the frame becomes other bytes that do not compress, the rest stays.
    fn change(&mut self, frame: usize) {
        let begin = frame * FRAME + FRAME / 2;
        for place in self.database[begin..begin + FRAME / 8].chunks_mut(8) {
            place.copy_from_slice(&self.random.next().to_be_bytes());
        }
    }

    async fn hour(&mut self) {
        self.hour += 1;
        let now = BEGIN + self.hour * HOUR;
        self.store.now.store(now, Ordering::Relaxed);
        let frame = self.random.next() as usize % FRAMES;
        self.change(frame);
        std::fs::write(&self.path, &self.database).unwrap();
        let mut options = BackupOptions::default();
        options.taken = Some(UNIX_EPOCH + Duration::from_secs(now));
        let (source, control) = (Source::File(self.path.clone()), Control::default());
        backup(&self.repository, &self.keys, source, &options, &control).await.unwrap();
    }

    async fn prune(&self, retention: &Retention) -> (usize, usize) {
        let control = Control::default();
        let plan =
            plan_prune(&self.repository, &self.keys, retention, None, &control).await.unwrap();
        let report = apply_prune(&self.repository, &plan, &control).await.unwrap();
        let evidence = prune_report(&plan, &report, None, Duration::ZERO);
        store_report(&self.repository, &self.keys, &evidence).await.unwrap();
        (plan.keep.len(), report.removed.len())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub async fn run(dir: &Path, days: u64) {
    let mut year = Year::new(dir).await;
    let mut retention = Retention::default();
    (retention.hourly, retention.daily) = (48, 30);
    (retention.weekly, retention.monthly) = (12, 12);
    println!("| after | snapshots | objects | stored | each in full would be |");
    println!("|---|---|---|---|---|");
    let begun = Instant::now();
    let mut full = 0;
    while year.hour < days * 24 {
        year.hour().await;
        if year.hour == 1 {
            full = year.store.totals().1;
        }
        if year.hour.is_multiple_of(24) {
            let (kept, _) = year.prune(&retention).await;
            let day = year.hour / 24;
            if [7, 30, 90, 180, 365].contains(&day) {
                let (objects, bytes) = year.store.totals();
                println!(
                    "| {day} days | {kept} | {objects} | {:.0} MiB | {:.0} MiB |",
                    mib(bytes),
                    mib(full) * kept as f64
                );
            }
        }
    }
    eprintln!("{days} days in {:.0} s", begun.elapsed().as_secs_f64());
}

/// A database of one frame, so that it is the snapshots' number that counts.
pub async fn ten_thousand(dir: &Path) {
    let mut year = Year::new(dir).await;
    year.database.truncate(FRAME);
    for _ in 0..10_000 {
        year.hour += 1;
        let now = BEGIN + year.hour * HOUR;
        year.store.now.store(now, Ordering::Relaxed);
        year.database[FRAME / 2 + 7] ^= year.hour as u8;
        std::fs::write(&year.path, &year.database).unwrap();
        let mut options = BackupOptions::default();
        options.taken = Some(UNIX_EPOCH + Duration::from_secs(now));
        let (source, control) = (Source::File(year.path.clone()), Control::default());
        backup(&year.repository, &year.keys, source, &options, &control).await.unwrap();
        if year.hour.is_multiple_of(1000) {
            eprintln!("{} snapshots", year.hour);
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
