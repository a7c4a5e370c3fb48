//! A store that fails, or kills, at the n-th call; and backup, verify and re-seal looped over every n.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};
use strongroom::backup::{Accept, Scope, VerifyLevel, reseal, snapshots, verify};
use strongroom::task::Control;

use crate::place::long_database;
use crate::support::{TestRepo, backup_of, keys, local, restore_bytes, small_database};

/// Uploads that are being begun, told about, and how many were begun and not ended.
#[derive(Debug, Clone, Default)]
struct Slow {
    asked: Arc<tokio::sync::Notify>,
    open: Arc<AtomicUsize>,
}

const BEGINNING: std::time::Duration = std::time::Duration::from_millis(200);

/// Passes calls on until `countdown` runs out; then every call fails, for ever or once.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    left: Arc<AtomicUsize>,
    /// Fail once, then work again; otherwise stay dead.
    once: bool,
    /// Overwrite what is to be created, as some S3 servers do.
    lies: bool,
    /// Nothing is listed.
    blind: bool,
    /// Before an object whose name ends so is created, this file goes: somebody else is at work.
    goes: Option<(&'static str, PathBuf)>,
    /// The first object whose name ends so is created by somebody else, just before.
    taken: Option<(&'static str, Arc<AtomicUsize>)>,
    /// What was created with a name that ends so is overwritten at once: somebody else is at work.
    replaces: Option<&'static str>,
    /// Multipart uploads take a while to begin.
    slow: Option<Slow>,
    /// By so much the store's clock is ahead, or behind if it is negative: in seconds.
    clock: i64,
    /// It fails as a store that cannot be reached.
    is_away: bool,
    /// An object whose name contains this is never answered.
    hangs: Option<String>,
    /// What deletes an object whose name ends so is told that it may not, although it is done: the answer to a first attempt
    /// was lost, and the second one refused.
    refuses: Option<&'static str>,
    /// The first read of an object whose name contains this fails: the store says that it is not there.
    stumbles: Option<(String, Arc<AtomicUsize>)>,
}

impl Faulty {
    /// Calls before the one that fails.
    pub fn calls_left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    pub fn new(inner: Arc<dyn ObjectStore>, calls: usize, once: bool) -> Self {
        let left = Arc::new(AtomicUsize::new(calls));
        let (goes, taken, replaces) = (None, None, None);
        let slow = None;
        let (lies, blind, is_away) = (false, false, false);
        let (hangs, refuses, stumbles) = (None, None, None);
        let clock = 0;
        Self {
            inner,
            left,
            once,
            lies,
            blind,
            goes,
            taken,
            replaces,
            slow,
            clock,
            is_away,
            hangs,
            refuses,
            stumbles,
        }
    }

    /// A store that can be away for a while.
    pub fn passing(inner: Arc<dyn ObjectStore>) -> Self {
        Self { is_away: true, ..Self::new(inner, usize::MAX - 2, false) }
    }

    /// From now on it is away, or not.
    pub fn set_away(&self, is_away: bool) {
        self.left.store(if is_away { usize::MAX } else { usize::MAX - 2 }, Ordering::SeqCst);
    }

    /// A store that never answers for an object whose name contains `part`.
    pub fn hanging(inner: Arc<dyn ObjectStore>, part: String) -> Self {
        Self { hangs: Some(part), ..Self::new(inner, usize::MAX - 2, true) }
    }

    /// A store that deletes an object whose name ends in `end`, and says that it does not allow that.
    pub fn refusing(inner: Arc<dyn ObjectStore>, end: &'static str) -> Self {
        Self { refuses: Some(end), ..Self::new(inner, usize::MAX - 2, true) }
    }

    /// As [`passing`](Self::passing); the first read of an object whose name contains `part` fails as if it were not there.
    pub fn stumbling(inner: Arc<dyn ObjectStore>, part: impl Into<String>) -> Self {
        Self { stumbles: Some((part.into(), Arc::default())), ..Self::passing(inner) }
    }

    /// Whether that read has failed.
    pub fn has_stumbled(&self) -> bool {
        self.stumbles.as_ref().is_some_and(|(_, times)| times.load(Ordering::SeqCst) > 0)
    }

    fn lying(inner: Arc<dyn ObjectStore>) -> Self {
        Self { lies: true, ..Self::new(inner, usize::MAX - 2, true) }
    }

    /// A store whose credentials may not list.
    pub fn blind(inner: Arc<dyn ObjectStore>) -> Self {
        Self { blind: true, ..Self::new(inner, usize::MAX - 2, true) }
    }

    /// A store in which `file` is deleted before an object whose name ends in `end` is created.
    pub fn racing(inner: Arc<dyn ObjectStore>, end: &'static str, file: PathBuf) -> Self {
        Self { goes: Some((end, file)), ..Self::new(inner, usize::MAX - 2, true) }
    }

    /// As [`passing`](Self::passing); somebody else creates the first object whose name ends in `end`.
    pub fn taken(inner: Arc<dyn ObjectStore>, end: &'static str) -> Self {
        Self { taken: Some((end, Arc::default())), ..Self::passing(inner) }
    }

    fn replacing(inner: Arc<dyn ObjectStore>, end: &'static str) -> Self {
        Self { replaces: Some(end), ..Self::new(inner, usize::MAX - 2, true) }
    }

    /// A store whose clock is so many seconds ahead of this host's.
    pub fn ahead(inner: Arc<dyn ObjectStore>, clock: i64) -> Self {
        Self { clock, ..Self::new(inner, usize::MAX - 2, true) }
    }

    /// Whether the failure has happened.
    pub fn failed(&self) -> bool {
        self.left.load(Ordering::SeqCst) >= usize::MAX - 1
    }

    fn call(&self) -> Result<()> {
        const FAILED: usize = usize::MAX;
        let before = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                FAILED => Some(FAILED),
                0 => Some(FAILED),
                n => Some(n - 1),
            })
            .unwrap();
        if before == 0 || (before == FAILED && !self.once) {
            let source = match self.is_away {
                true => {
                    HttpError::new(HttpErrorKind::Connect, std::io::Error::other("away")).into()
                }
                false => "injected failure".into(),
            };
            return Err(Error::Generic { store: "faulty", source });
        }
        Ok(())
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: Faulty,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if let Err(error) = self.store.call() {
            return Box::pin(async { Err(error) });
        }
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.call()?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.call()?;
        if let Some(Slow { open, .. }) = &self.store.slow {
            open.fetch_sub(1, Ordering::SeqCst);
        }
        self.inner.abort().await
    }
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.call()?;
        if let Some((_, file)) = self.goes.as_ref().filter(|(end, _)| to.as_ref().ends_with(end)) {
            let _ = std::fs::remove_file(file);
        }
        let is_taken = |(end, times): &(&str, Arc<AtomicUsize>)| {
            to.as_ref().ends_with(end) && times.fetch_add(1, Ordering::SeqCst) == 0
        };
        if self.taken.as_ref().is_some_and(is_taken) {
            self.inner.put_opts(to, "junk".into(), PutOptions::default()).await?;
        }
        let mode = if self.lies { PutMode::Overwrite } else { opts.mode.clone() };
        let done = self.inner.put_opts(to, payload, PutOptions { mode, ..opts }).await?;
        if self.replaces.is_some_and(|end| to.as_ref().ends_with(end)) {
            self.inner.put_opts(to, "junk".into(), PutOptions::default()).await?;
        }
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call()?;
        let Some(Slow { asked, open }) = self.slow.clone() else {
            let inner = self.inner.put_multipart_opts(to, opts).await?;
            return Ok(Box::new(FaultyUpload { store: self.clone(), inner }));
        };
        // As a request or a thread does, it goes on when nobody waits for it.
        let (store, to) = (self.clone(), to.clone());
        let begun = tokio::spawn(async move {
            asked.notify_one();
            tokio::time::sleep(BEGINNING).await;
            let inner = store.inner.put_multipart_opts(&to, opts).await?;
            open.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(FaultyUpload { store, inner }) as Box<dyn MultipartUpload>)
        });
        begun.await.unwrap()
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.call()?;
        if self.hangs.as_ref().is_some_and(|part| from.as_ref().contains(part)) {
            return futures::future::pending().await;
        }
        if let Some((part, times)) = &self.stumbles
            && from.as_ref().contains(part)
            && times.fetch_add(1, Ordering::SeqCst) == 0
        {
            return Err(Error::NotFound { path: from.to_string(), source: "it stumbles".into() });
        }
        let mut found = self.inner.get_opts(from, options).await?;
        let written = SystemTime::from(found.meta.last_modified);
        let by = Duration::from_secs(self.clock.unsigned_abs());
        found.meta.last_modified = if self.clock < 0 { written - by } else { written + by }.into();
        Ok(found)
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.call()?;
        self.inner.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let checked = locations.map(move |path| store.call().and(path)).boxed();
        let refuses = self.refuses;
        let refused = move |path: &Path| refuses.is_some_and(|end| path.as_ref().ends_with(end));
        let told = move |deleted: Result<Path>| match deleted {
            Ok(path) if refused(&path) => {
                let path = path.to_string();
                Err(Error::PermissionDenied { path, source: "not any more".into() })
            }
            deleted => deleted,
        };
        self.inner.delete_stream(checked).map(told).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.blind {
            let path = prefix.map(ToString::to_string).unwrap_or_default();
            let error =
                object_store::Error::PermissionDenied { path, source: "not allowed".into() };
            return futures::stream::iter([Err(error)]).boxed();
        }
        match self.call() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.call() {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call()?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.call()?;
        self.inner.rename_opts(from, to, options).await
    }
}

/// Far more calls than any of the jobs below makes.
const MAX_CALLS: usize = 400;

/// Whatever happened, what the listing shows is whole.
async fn all_is_whole(repo: &TestRepo, original: &[u8]) {
    let listing = snapshots(&repo.repository, None).await.unwrap();
    assert_eq!(listing.orphans, []);
    for summary in &listing.snapshots {
        let (bytes, _) = restore_bytes(&repo.repository, &keys(&[1]), summary.id).await.unwrap();
        assert_eq!(bytes, original);
    }
}

/// Fails at each call in turn: once, or from then on.
async fn backups_of(database: &std::path::Path, once: bool) {
    let original = std::fs::read(database).unwrap();
    let mut failures = 0;
    for n in 0..MAX_CALLS {
        let repo = TestRepo::new().await;
        let store = Faulty::new(local(repo.dir.path()), n, once);
        let report = match repo.through(Arc::new(store.clone())).await {
            Ok(repository) => backup_of(&repository, &keys(&[1]), database).await,
            Err(error) => Err(error),
        };
        let listing = snapshots(&repo.repository, None).await.unwrap();
        if !store.failed() {
            report.unwrap();
            break;
        }
        failures += 1;
        match report {
            Ok(report) => assert_eq!(listing.snapshots[0].id, report.id),
            Err(error) => {
                assert!(error.to_string().contains("injected"), "call {n}: {error:?}");
                // Only when the failing store also refused to delete may a manifest have stayed.
                assert!(listing.snapshots.is_empty() || !once, "call {n}: {error}");
            }
        }
        all_is_whole(&repo, &original).await;
    }
    assert!(failures > 5 && failures < MAX_CALLS, "{failures}");
}

#[tokio::test]
async fn a_backup_whose_store_fails_at_any_call_shows_a_whole_snapshot_or_none() {
    for once in [true, false] {
        backups_of(&small_database(), once).await;
    }
}

/// In two parts, so that each call of a multipart upload fails as well.
async fn long_backups(once: bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.db");
    let database = long_database(9 << 20);
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&database);
    std::fs::write(&path, [&database[..], &digest].concat()).unwrap();
    backups_of(&path, once).await;
}

#[tokio::test]
async fn a_long_backup_whose_store_fails_once_at_any_call() {
    long_backups(true).await;
}

#[tokio::test]
async fn a_long_backup_whose_store_is_lost_at_any_call() {
    long_backups(false).await;
}

/// A restore fetches many ranges at once; whichever fails, nothing is left (see [`restore_bytes`]).
#[tokio::test]
async fn a_restore_whose_store_fails_at_any_call_leaves_nothing() {
    let repo = TestRepo::new().await;
    let path = repo.path("etcd.db");
    std::fs::write(&path, long_database(9 << 20)).unwrap();
    let id = backup_of(&repo.repository, &keys(&[1]), &path).await.unwrap().id;
    for n in 0..MAX_CALLS {
        let store = Faulty::new(local(repo.dir.path()), n, true);
        let restored = match repo.through(Arc::new(store.clone())).await {
            Ok(repository) => restore_bytes(&repository, &keys(&[1]), id).await.map(drop),
            Err(error) => Err(error),
        };
        if !store.failed() {
            restored.unwrap();
            assert!(n > 5, "{n}");
            return;
        }
        let error = restored.unwrap_err();
        assert!(error.to_string().contains("injected"), "call {n}: {error:?}");
    }
    panic!("it never succeeds");
}

#[tokio::test]
async fn a_reseal_whose_store_fails_at_any_call_leaves_every_snapshot_open() {
    for once in [true, false] {
        let mut failures = 0;
        for n in 0..MAX_CALLS {
            let repo = TestRepo::new().await;
            let ids = [repo.backup(&keys(&[1])).await.id, repo.backup(&keys(&[1])).await.id];
            let payload = std::fs::read(repo.object(ids[0], "payload")).unwrap();
            let store = Faulty::new(local(repo.dir.path()), n, once);
            let report = match repo.through(Arc::new(store.clone())).await {
                Ok(repository) => {
                    reseal(
                        &repository,
                        &keys(&[1, 2]),
                        Scope::All,
                        &[],
                        Accept::Counting,
                        &Control::default(),
                    )
                    .await
                }
                Err(error) => Err(error),
            };
            // Both the old key and, wherever it was re-sealed, the new one open it.
            all_is_whole(&repo, &std::fs::read(small_database()).unwrap()).await;
            assert_eq!(std::fs::read(repo.object(ids[0], "payload")).unwrap(), payload);
            if !store.failed() {
                assert_eq!(report.unwrap().resealed.len(), 2);
                break;
            }
            failures += 1;
            // Running it again does the rest.
            let again = reseal(
                &repo.repository,
                &keys(&[1, 2]),
                Scope::All,
                &[],
                Accept::Counting,
                &Control::default(),
            )
            .await
            .unwrap();
            assert!(again.failed.is_empty());
            for id in ids {
                repo.restore(&keys(&[2]), id).await.unwrap();
            }
        }
        assert!(failures > 5 && failures < MAX_CALLS, "{failures}");
    }
}

#[tokio::test]
async fn a_verify_whose_store_fails_at_any_call_never_says_that_all_is_well() {
    for level in [VerifyLevel::Quick, VerifyLevel::Digests, VerifyLevel::Full] {
        let repo = TestRepo::new().await;
        repo.backup(&keys(&[1])).await;
        let mut failures = 0;
        for n in 0..MAX_CALLS {
            let store = Faulty::new(local(repo.dir.path()), n, false);
            let report = match repo.through(Arc::new(store.clone())).await {
                Ok(repository) => {
                    verify(&repository, &keys(&[1]), Scope::All, level, &Control::default()).await
                }
                Err(error) => Err(error),
            };
            if !store.failed() {
                assert!(report.unwrap().worst().is_none());
                break;
            }
            failures += 1;
            assert!(report.map_or(true, |report| report.worst().is_some()), "{level:?} {n}");
        }
        assert!(failures > 3 && failures < MAX_CALLS, "{failures}");
    }
}

/// A backup that is stopped while the store begins its upload ends that upload.
#[tokio::test]
async fn a_stopped_backup_leaves_no_upload() {
    use strongroom::backup::{BackupOptions, Source, backup};
    use strongroom::task::Control;
    let repo = TestRepo::new().await;
    let slow = Slow::default();
    let store = Faulty {
        slow: Some(slow.clone()),
        ..Faulty::new(local(repo.dir.path()), usize::MAX - 2, true)
    };
    let repository = repo.through(Arc::new(store)).await.unwrap();
    let database = repo.path("long.db");
    std::fs::write(&database, long_database(10 << 20)).unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let control = Control::default().stop_when(stopped);
    let (keys, options) = (keys(&[1]), BackupOptions::default());
    let done = backup(&repository, &keys, Source::File(database), &options, &control);
    let stopping = async {
        slow.asked.notified().await;
        stop.send_replace(true);
    };
    let (done, ()) = tokio::join!(done, stopping);
    assert_eq!(done.unwrap_err().kind(), strongroom::ErrorKind::Interrupted);
    tokio::time::sleep(2 * BEGINNING).await;
    assert_eq!(slow.open.load(Ordering::SeqCst), 0, "an upload was left");
}

/// Its seal is replaced before the manifest is written: then nothing would open the snapshot.
#[tokio::test]
async fn a_backup_whose_seal_is_replaced_is_none() {
    let repo = TestRepo::new().await;
    let store = Faulty::replacing(local(repo.dir.path()), "/seal.1");
    let repository = repo.through(Arc::new(store)).await.unwrap();
    let error = backup_of(&repository, &keys(&[1]), &small_database()).await.err().unwrap();
    assert_eq!(error.kind(), strongroom::ErrorKind::Tampered);
    assert!(error.to_string().contains("replaced"), "{error}");
    assert!(snapshots(&repo.repository, None).await.unwrap().snapshots.is_empty());
}

#[tokio::test]
async fn a_store_that_ignores_create_if_absent_is_refused() {
    use strongroom::store::Repository;
    let dir = tempfile::tempdir().unwrap();
    let lying = || Arc::new(Faulty::lying(local(dir.path())));
    let rng = &mut strongroom::crypto::system_rng();
    let error = Repository::init(lying(), false, rng).await.err().unwrap();
    assert_eq!(error.kind(), strongroom::ErrorKind::Unsupported);
    assert!(error.hint_text().is_some());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    // Who trusts it expressly may.
    Repository::init(lying(), true, rng).await.unwrap();
}

/// [S3.3.8]: more than 5 minutes apart, either way.
#[tokio::test]
async fn clocks_that_differ_are_named_and_stop_prune() {
    use strongroom::backup::{apply_prune, plan_prune};
    for (clock, says) in [(-400, "ahead of the store's"), (400, "behind the store's"), (200, "")] {
        let repo = TestRepo::new().await;
        let store = Faulty::ahead(local(repo.dir.path()), clock);
        let repository = repo.through(Arc::new(store)).await.unwrap();
        for _ in 0..2 {
            let report = backup_of(&repository, &keys(&[1]), &small_database()).await.unwrap();
            assert_eq!(report.clocks_differ, !says.is_empty());
            let warned = report.warnings.iter().any(|warning| warning.contains("the store's"));
            assert_eq!(warned, !says.is_empty(), "{:?}", report.warnings);
        }
        let retention = strongroom::backup::Retention { last: 1, ..Default::default() };
        let control = Control::default();
        let plan = plan_prune(&repository, &keys(&[1]), &retention, None, &control).await.unwrap();
        assert_eq!(plan.remove.len(), 1);
        match apply_prune(&repository, &plan, &control).await {
            Ok(report) => assert_eq!((report.removed.len(), says), (1, "")),
            Err(error) => {
                assert_eq!(error.kind(), strongroom::ErrorKind::Refused);
                assert!(!says.is_empty() && error.to_string().contains(says), "{error}");
            }
        }
        let listed = snapshots(&repo.repository, None).await.unwrap().snapshots;
        assert_eq!(listed.len(), if says.is_empty() { 1 } else { 2 });
        assert!(
            !repo
                .dir
                .path()
                .read_dir()
                .unwrap()
                .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("probe") })
        );
    }
}
