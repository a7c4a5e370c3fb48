//! Retention and removal: nothing that is needed goes, nothing that is not needed stays.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use strongroom::ErrorKind;
use strongroom::backup::{
    BackupOptions, PrunePlan, Retention, Scope, Source, VerifyLevel, apply_prune, backup,
    newest_reports, pin, plan_prune, plan_removal, store_report, undo_removal, unpin, verify,
};
use strongroom::format::{Report, ReportOutcome, ReportScope, SnapshotId};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::faulty::Faulty;
use crate::place::{Place, long_database, text};
use crate::support::{TestRepo, keys, local};

const LENGTH: usize = 160 << 10;

pub fn last(count: u32) -> Retention {
    Retention { last: count, ..Retention::default() }
}

/// Snapshots of a database that changes, and the databases in them.
pub struct Series {
    pub repo: TestRepo,
    pub keys: KeySet,
    pub databases: BTreeMap<SnapshotId, Vec<u8>>,
}

impl Series {
    /// `count` snapshots, each of which differs from the one before in frame `at % 4`.
    pub async fn new(count: usize) -> Self {
        let mut series =
            Self { repo: TestRepo::new().await, keys: keys(&[1]), databases: BTreeMap::new() };
        let mut database = long_database(LENGTH);
        for at in 0..count {
            if at > 0 {
                database[LENGTH / 2 + at] ^= 1;
            }
            series.backup(&database).await;
        }
        series
    }

    pub async fn backup(&mut self, database: &[u8]) -> SnapshotId {
        let path = self.repo.path("now.db");
        fs::write(&path, database).unwrap();
        let (options, control) = (BackupOptions::default(), Control::default());
        let source = Source::File(path);
        let report = backup(&self.repo.repository, &self.keys, source, &options, &control).await;
        let id = report.unwrap().id;
        self.databases.insert(id, database.to_vec());
        id
    }

    /// The same in a directory of its own.
    async fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        crate::vectors::copy_tree(self.repo.dir.path(), dir.path());
        let repository = Repository::open(local(dir.path()), None).await.unwrap();
        let repo = TestRepo { dir, repository };
        Self { repo, keys: keys(&[1]), databases: self.databases.clone() }
    }

    pub fn ids(&self) -> Vec<SnapshotId> {
        self.databases.keys().copied().collect()
    }

    async fn plan(&self, retention: &Retention) -> PrunePlan {
        let control = Control::default();
        plan_prune(&self.repo.repository, &self.keys, retention, None, &control).await.unwrap()
    }

    /// Plans and does it; the plan.
    pub async fn prune(&mut self, retention: &Retention) -> PrunePlan {
        let plan = self.plan(retention).await;
        let report = apply_prune(&self.repo.repository, &plan, &Control::default()).await.unwrap();
        assert_eq!(report.removed, plan.remove.iter().map(|one| one.id).collect::<Vec<_>>());
        assert_eq!(report.swept, plan.swept().collect::<Vec<_>>());
        assert_eq!((report.freed_bytes, report.refused), (plan.frees(), Vec::new()));
        for removal in &plan.remove {
            self.databases.remove(&removal.id);
        }
        plan
    }

    /// What is listed verifies and restores to what was backed up.
    async fn all_whole(&self) {
        let (repository, control) = (&self.repo.repository, Control::default());
        let report = verify(repository, &self.keys, Scope::All, VerifyLevel::Full, &control).await;
        let checked = report.unwrap().snapshots;
        assert_eq!(checked.iter().map(|one| one.id).collect::<Vec<_>>(), self.ids());
        for one in checked {
            one.outcome.unwrap();
        }
        for (id, database) in &self.databases {
            let restored = self.repo.restore(&self.keys, *id).await.unwrap();
            assert!(restored[..LENGTH] == **database, "{id}");
        }
    }

    /// What lies in the folders, as `id/part`.
    fn objects(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in fs::read_dir(self.repo.path("snapshots")).unwrap() {
            let folder = folder.unwrap().path();
            for file in fs::read_dir(&folder).unwrap() {
                let id = folder.file_name().unwrap().to_string_lossy().into_owned();
                names.push(format!("{id}/{}", file.unwrap().file_name().to_string_lossy()));
            }
        }
        names.sort();
        names
    }
}

/// Makes all objects older; what is written from now on is younger by that.
pub fn age(dir: &Path, by: Duration) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, by);
        } else {
            let file = fs::File::options().write(true).open(path).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(modified - by).unwrap();
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600 + 60);

/// The age of the tombstones: everything that is there becomes a day older, and something new tells the store's time.
async fn a_day_passes(series: &mut Series) -> SnapshotId {
    age(&series.repo.path("snapshots"), DAY);
    let database = series.databases.values().next_back().unwrap().clone();
    series.backup(&database).await
}

/// [S3.3.1] [S3.3.2]
#[tokio::test(flavor = "multi_thread")]
async fn removed_in_two_steps() {
    let mut series = Series::new(3).await;
    let ids = series.ids();
    let plan = series.prune(&last(1)).await;
    assert_eq!(plan.frees(), 0);
    series.all_whole().await;
    for id in &ids[..2] {
        for part in ["tombstone", "payload", "index", "seal.1"] {
            assert!(series.repo.object(*id, part).exists(), "{part}");
        }
        assert!(!series.repo.object(*id, "manifest").exists());
    }
    // Nothing happens within the grace period.
    assert!(series.prune(&last(1)).await.is_empty());
    a_day_passes(&mut series).await;
    let plan = series.prune(&last(2)).await;
    assert_eq!(plan.swept().collect::<Vec<_>>(), ids[..2]);
    assert!(plan.frees() > 0 && plan.remove.is_empty());
    let left = series.objects();
    assert!(left.iter().all(|name| !name.starts_with(&ids[0].to_string())), "{left:?}");
    series.all_whole().await;
    // The grace period is a setting.
    let mut at_once = last(1);
    at_once.grace = Some(Duration::ZERO);
    assert_eq!(series.prune(&at_once).await.remove.len(), 1);
    assert_eq!(series.prune(&at_once).await.swept().collect::<Vec<_>>(), ids[2..3]);
    series.all_whole().await;
}

/// [S3.3.3]
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_can_be_undone_until_it_is_swept() {
    let mut series = Series::new(3).await;
    let ids = series.ids();
    let databases = series.databases.clone();
    series.prune(&last(1)).await;
    let repository = &series.repo.repository;
    // Not with another key, and not what is incomplete.
    let error = undo_removal(repository, &keys(&[9]), ids[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let index = series.repo.object(ids[0], "index");
    let bytes = fs::read(&index).unwrap();
    fs::remove_file(&index).unwrap();
    let error = undo_removal(repository, &series.keys, ids[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert!(!series.repo.object(ids[0], "manifest").exists());
    fs::write(&index, bytes).unwrap();
    // Not while it is being swept.
    let mark = series.repo.object(ids[0], "sweep");
    fs::write(&mark, "strongroom-sweep/1\n").unwrap();
    let error = undo_removal(repository, &series.keys, ids[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    fs::remove_file(mark).unwrap();
    undo_removal(repository, &series.keys, ids[0]).await.unwrap();
    let error = undo_removal(repository, &series.keys, ids[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    series.databases = databases;
    series.databases.remove(&ids[1]);
    series.all_whole().await;
    assert!(!series.repo.object(ids[0], "tombstone").exists());
    // It is pinned now, and stays.
    let plan = series.prune(&last(1)).await;
    assert!(plan.remove.is_empty());
    assert_eq!(plan.keep[0].reasons, ["pinned"]);
    unpin(&series.repo.repository, ids[0]).await.unwrap();
    assert_eq!(series.prune(&last(1)).await.remove.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_and_what_is_named_goes() {
    let mut series = Series::new(3).await;
    let ids = series.ids();
    let repository = &series.repo.repository;
    pin(repository, ids[0], "an audit").await.unwrap();
    let nowhere = SnapshotId::new(9, [9; 10]);
    assert_eq!(pin(repository, nowhere, "x").await.unwrap_err().kind(), ErrorKind::NotFound);
    let refused = plan_removal(repository, &series.keys, &ids[..1]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let refused = plan_removal(repository, &keys(&[9]), &ids[1..2]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongKey);
    let plan = plan_removal(repository, &series.keys, &ids[1..2]).await.unwrap();
    apply_prune(repository, &plan, &Control::default()).await.unwrap();
    series.databases.remove(&ids[1]);
    series.all_whole().await;
    assert!(series.prune(&last(1)).await.remove.is_empty());
}

/// [S3.3.3] A sweep that begins just then has deleted something, sees the manifest and stops: the undo must see it too.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_beside_a_sweep_brings_back_all_or_nothing() {
    let mut series = Series::new(2).await;
    let ids = series.ids();
    series.prune(&last(1)).await;
    let index = series.repo.object(ids[0], "index");
    let racing = Faulty::racing(local(series.repo.dir.path()), "/manifest", index);
    let racing = series.repo.through(Arc::new(racing)).await.unwrap();
    let error = undo_removal(&racing, &series.keys, ids[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(!series.repo.object(ids[0], "manifest").exists());
    assert!(series.repo.object(ids[0], "tombstone").exists());
}

/// [S3.3.1] Whoever may only create objects cannot make a later removal final.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_mark_planted_beside_a_manifest_prevents_no_undo() {
    let mut series = Series::new(2).await;
    let ids = series.ids();
    fs::write(series.repo.object(ids[0], "sweep"), "strongroom-sweep/1\n").unwrap();
    series.prune(&last(1)).await;
    assert!(!series.repo.object(ids[0], "manifest").exists());
    undo_removal(&series.repo.repository, &series.keys, ids[0]).await.unwrap();
    series.repo.restore(&series.keys, ids[0]).await.unwrap();
}

/// A pin does not keep what was removed, and so is not accepted there.
/// [S3.3.1] What is pinned after the plan was made stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_between_plan_and_removal_is_honoured() {
    let series = Series::new(3).await;
    let ids = series.ids();
    let plan = series.plan(&last(1)).await;
    pin(&series.repo.repository, ids[0], "the audit of May").await.unwrap();
    let report = apply_prune(&series.repo.repository, &plan, &Control::default()).await.unwrap();
    assert_eq!((report.pinned, report.removed), (vec![ids[0]], vec![ids[1]]));
    assert!(series.repo.object(ids[0], "manifest").exists());
    assert!(!series.repo.object(ids[0], "tombstone").exists());
    series.repo.restore(&series.keys, ids[0]).await.unwrap();
}

/// [S3.3.1] A prune that planned while another one was removing leaves that one's tombstone alone.
#[tokio::test(flavor = "multi_thread")]
async fn two_prunes_at_once_leave_a_tombstone() {
    let series = Series::new(2).await;
    let (id, control) = (series.ids()[0], Control::default());
    let first = series.plan(&last(1)).await;
    // The first has put its tombstone when the second looks.
    fs::copy(series.repo.object(id, "manifest"), series.repo.object(id, "tombstone")).unwrap();
    let second = series.plan(&last(1)).await;
    for plan in [first, second] {
        apply_prune(&series.repo.repository, &plan, &control).await.unwrap();
        assert!(series.repo.object(id, "tombstone").exists());
        assert!(!series.repo.object(id, "manifest").exists());
    }
    undo_removal(&series.repo.repository, &series.keys, id).await.unwrap();
    series.all_whole().await;
}

/// Anybody can put a mark there: the error names it, and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_planted_after_a_removal_is_named() {
    let mut series = Series::new(2).await;
    let (id, databases) = (series.ids()[0], series.databases.clone());
    series.prune(&last(1)).await;
    let mark = series.repo.object(id, "sweep");
    fs::write(&mark, "strongroom-sweep/1\n").unwrap();
    let undo = || undo_removal(&series.repo.repository, &series.keys, id);
    let error = undo().await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(&format!("snapshots/{id}/sweep")), "{said}");
    assert!(said.contains("all its objects are still there"), "{said}");
    assert!(error.hint_text().unwrap().contains("delete snapshots/"), "{error:?}");
    fs::remove_file(&mark).unwrap();
    undo().await.unwrap();
    series.databases = databases;
    series.all_whole().await;
    // Once something is gone it cannot be brought back, and that is said.
    series.prune(&last(9)).await;
    let plan = plan_removal(&series.repo.repository, &series.keys, &series.ids()[1..]).await;
    apply_prune(&series.repo.repository, &plan.unwrap(), &Control::default()).await.unwrap();
    let id = series.ids()[1];
    fs::write(series.repo.object(id, "sweep"), "strongroom-sweep/1\n").unwrap();
    fs::remove_file(series.repo.object(id, "index")).unwrap();
    let error = undo_removal(&series.repo.repository, &series.keys, id).await.unwrap_err();
    assert!(error.to_string().contains("objects of it are gone"), "{error}");
}

/// Reports from the future, which anybody can plant, hide no genuine one.
#[tokio::test(flavor = "multi_thread")]
async fn planted_reports_hide_no_genuine_one() {
    let series = Series::new(3).await;
    let (repository, keys, ids) = (&series.repo.repository, &series.keys, series.ids());
    let report = Report {
        kind: "drill".into(),
        cluster: None,
        snapshot: Some(ids[0]),
        level: None,
        key: None,
        scope: ReportScope::One,
        outcome: ReportOutcome::Passed,
        tool: "test".into(),
        details: Some(Default::default()),
    };
    let genuine = store_report(repository, keys, &report).await.unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    for at in 0..1100_u64 {
        let planted = SnapshotId::new(now + 86_400_000 + at, [1; 10]);
        fs::write(series.repo.path(&format!("reports/{planted}")), b"planted").unwrap();
    }
    let kind = |report: &Report| (report.kind == "drill").then_some(());
    let found = newest_reports(repository, keys, &[()], kind).await.unwrap();
    assert_eq!(found.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(), [genuine]);
    let kept: Vec<_> = series.plan(&last(1)).await.keep.iter().map(|one| one.id).collect();
    assert_eq!(kept, [ids[0], ids[2]]);
}

/// So many that count for nothing that what lies behind them is not read: nothing is removed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes ten thousand objects"]
async fn long_too_many_planted_reports_stop_removal() {
    let series = Series::new(2).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    fs::create_dir_all(series.repo.path("reports")).unwrap();
    for at in 0..10_000_u64 {
        let planted = SnapshotId::new(now - at, [1; 10]);
        fs::write(series.repo.path(&format!("reports/{planted}")), b"planted").unwrap();
    }
    let plan = series.plan(&last(1)).await;
    assert!(plan.remove.is_empty() && plan.blocked.len() == 1, "{:?}", plan.blocked);
    assert!(plan.blocked[0].contains("reports/"), "{:?}", plan.blocked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_snapshot_is_not_pinned_but_brought_back() {
    let mut series = Series::new(2).await;
    let ids = series.ids();
    series.prune(&last(1)).await;
    let error = pin(&series.repo.repository, ids[0], "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.hint_text().unwrap().contains("--undo"));
}

/// [S3.3.4]
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_comes_back_stops_the_sweep() {
    let mut series = Series::new(2).await;
    let ids = series.ids();
    series.prune(&last(1)).await;
    a_day_passes(&mut series).await;
    let plan = series.plan(&last(9)).await;
    assert_eq!(plan.swept().count(), 1);
    fs::copy(series.repo.object(ids[0], "tombstone"), series.repo.object(ids[0], "manifest"))
        .unwrap();
    let error = apply_prune(&series.repo.repository, &plan, &Control::default()).await.unwrap_err();
    assert!(error.to_string().contains("has a manifest again"), "{error}");
    assert!(series.repo.object(ids[0], "payload").exists());
    assert!(!series.repo.object(ids[0], "sweep").exists());
}

/// [S3.3.2] A tombstone that no key authenticates sweeps nothing, however old.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_tombstone_sweeps_nothing() {
    let mut series = Series::new(2).await;
    let ids = series.ids();
    let manifest = fs::read_to_string(series.repo.object(ids[0], "manifest")).unwrap();
    fs::write(series.repo.object(ids[0], "tombstone"), manifest.replace("default", "defaulx"))
        .unwrap();
    fs::remove_file(series.repo.object(ids[0], "manifest")).unwrap();
    series.databases.remove(&ids[0]);
    a_day_passes(&mut series).await;
    let plan = series.prune(&last(9)).await;
    assert!(plan.is_empty() && plan.findings.len() == 1, "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_needed_and_a_key() {
    let series = Series::new(1).await;
    let control = Control::default();
    let none = Retention::default();
    let error = plan_prune(&series.repo.repository, &series.keys, &none, None, &control).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Usage);
    // Without the key nothing counts, and nothing goes.
    let other = keys(&[9]);
    let plan = plan_prune(&series.repo.repository, &other, &last(1), None, &control).await.unwrap();
    assert!(plan.is_empty() && plan.keep.is_empty() && plan.findings.len() == 1, "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_snapshots_push_nothing_out() {
    let mut series = Series::new(3).await;
    let ids = series.ids();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // From the future, and just younger than the newest: copies of a good one under other names.
    for ahead in [0, 3600, 86_400 * 400] {
        let ms = (now + Duration::from_secs(ahead)).as_millis() as u64;
        let planted = SnapshotId::new(ms, [0xff; 10]);
        let folder = series.repo.path(&format!("snapshots/{planted}"));
        fs::create_dir(&folder).unwrap();
        for part in ["payload", "index", "seal.1", "manifest"] {
            let good = fs::read(series.repo.object(ids[2], part)).unwrap();
            let renamed = String::from_utf8(good.clone())
                .map(|text| text.replace(&ids[2].to_string(), &planted.to_string()).into_bytes());
            fs::write(folder.join(part), renamed.unwrap_or(good)).unwrap();
        }
    }
    let plan = series.plan(&last(2)).await;
    assert_eq!(plan.keep.iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(plan.findings.len(), 3, "{:?}", plan.findings);
    series.prune(&last(2)).await;
    for (id, database) in &series.databases {
        assert!(series.repo.restore(&series.keys, *id).await.unwrap()[..LENGTH] == **database);
    }
    // A tombstone beside a manifest hides a snapshot only until the next prune.
    fs::copy(series.repo.object(ids[2], "manifest"), series.repo.object(ids[2], "tombstone"))
        .unwrap();
    let plan = series.prune(&last(2)).await;
    assert!(plan.findings.iter().any(|finding| finding.contains("tombstone beside its manifest")));
    assert!(!series.repo.object(ids[2], "tombstone").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_pushes_nothing_out() {
    let series = Series::new(5).await;
    let ids = series.ids();
    // The two newest have lost their payloads.
    for lost in [3, 4] {
        fs::remove_file(series.repo.object(ids[lost], "payload")).unwrap();
    }
    let plan = series.plan(&last(2)).await;
    assert_eq!(plan.keep.iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..3]);
    assert_eq!(plan.remove.iter().map(|one| one.id).collect::<Vec<_>>(), ids[..1]);
    assert_eq!(plan.findings.len(), 2, "{:?}", plan.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_from_the_future_ages_nothing() {
    let mut series = Series::new(2).await;
    // Some other backup is under way, and a clock was wrong.
    let running = series.repo.path(&format!("snapshots/{}", SnapshotId::new(7, [7; 10])));
    fs::create_dir(&running).unwrap();
    fs::write(running.join("payload"), b"not all yet").unwrap();
    let index = series.repo.object(series.ids()[0], "index");
    let file = fs::File::options().write(true).open(index).unwrap();
    file.set_modified(SystemTime::now() + DAY * 365).unwrap();
    assert!(series.prune(&last(9)).await.is_empty());
    assert!(running.join("payload").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_tombstone_hides_nothing() {
    let series = Series::new(2).await;
    let ids = series.ids();
    fs::write(series.repo.object(ids[1], "tombstone"), b"anything").unwrap();
    let listing = strongroom::backup::snapshots(&series.repo.repository, None).await.unwrap();
    assert_eq!(listing.snapshots.len(), 2);
    assert!(listing.findings[0].contains("about to be removed"), "{:?}", listing.findings);
    let usage = strongroom::backup::key_usage(&series.repo.repository, &series.keys).await.unwrap();
    assert_eq!(usage.opens.values().copied().max(), Some(2));
}

/// [S3.3.5] What a newer version may have written stops the removal of its own snapshot only.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_stops_removal_in_its_folder_only() {
    let mut series = Series::new(4).await;
    let ids = series.ids();
    fs::write(series.repo.object(ids[0], "seal.1.newer"), b"?").unwrap();
    let plan = series.prune(&last(2)).await;
    assert_eq!(plan.remove.iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..2]);
    assert!(plan.blocked.len() == 1 && plan.blocked[0].contains("seal.1.newer"), "{plan:?}");
    // In the second step too: also a role that the tombstone does not name.
    fs::write(series.repo.object(ids[1], "parity"), b"?").unwrap();
    a_day_passes(&mut series).await;
    let plan = series.prune(&last(3)).await;
    assert!(plan.is_empty() && plan.blocked.len() == 2, "{plan:?}");
    fs::remove_file(series.repo.object(ids[1], "parity")).unwrap();
    assert_eq!(series.prune(&last(3)).await.swept().collect::<Vec<_>>(), ids[1..2]);
}

/// [S3.3.2] Nothing says since when a folder has had no manifest: a mark does.
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_writers_are_marked_then_swept() {
    let mut series = Series::new(2).await;
    let dead = SnapshotId::new(1, [3; 10]);
    fs::create_dir(series.repo.path(&format!("snapshots/{dead}"))).unwrap();
    fs::write(series.repo.object(dead, "payload"), "half").unwrap();
    let mark = series.repo.object(dead, "sweep");
    assert!(series.prune(&last(9)).await.is_empty());
    a_day_passes(&mut series).await;
    assert_eq!(series.prune(&last(9)).await.swept().count(), 0);
    assert_eq!(fs::read(&mark).unwrap(), b"strongroom-sweep/1\n");
    assert!(series.prune(&last(9)).await.is_empty(), "the mark is young");
    a_day_passes(&mut series).await;
    assert_eq!(series.prune(&last(9)).await.swept().collect::<Vec<_>>(), [dead]);
    assert!(!mark.exists());
    series.all_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_the_rest_is_done_next_time() {
    let mut begin = Series::new(4).await;
    begin.prune(&last(3)).await;
    a_day_passes(&mut begin).await;
    let mut calls = 0;
    loop {
        let mut series = begin.copy().await;
        let store = Faulty::new(local(series.repo.dir.path()), calls, false);
        let control = Control::default();
        let broken = match series.repo.through(std::sync::Arc::new(store)).await {
            Ok(broken) => match plan_prune(&broken, &series.keys, &last(1), None, &control).await {
                Ok(plan) => apply_prune(&broken, &plan, &control).await.map(|_| ()),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let listed = strongroom::backup::snapshots(&series.repo.repository, None).await.unwrap();
        let left: Vec<_> = listed.snapshots.iter().map(|one| one.id).collect();
        series.databases.retain(|id, _| left.contains(id));
        assert!(!left.is_empty());
        series.all_whole().await;
        // Done to the end by the next.
        let kept = *series.databases.keys().next_back().unwrap();
        let plan = series.plan(&last(1)).await;
        apply_prune(&series.repo.repository, &plan, &control).await.unwrap();
        series.databases.retain(|id, _| *id == kept);
        series.all_whole().await;
        // Also what was interrupted between any two deletions.
        a_day_passes(&mut series).await;
        let newest = *series.databases.keys().next_back().unwrap();
        series.prune(&last(1)).await;
        let rest = series.objects();
        let swept =
            |name: &String| [kept, newest].iter().any(|id| name.starts_with(&id.to_string()));
        assert!(rest.iter().all(swept), "{rest:?}");
        if broken.is_ok() {
            break;
        }
        calls += 1;
    }
    assert!(calls > 15, "{calls} calls");
}

#[test]
fn the_program_prints_the_plan_first() {
    let place = Place::new();
    let ids: Vec<_> = (0..4).map(|_| place.backup()).collect();
    assert!(place.fail(2, &["prune"]).contains("--keep-last"));
    let plan = place.json(&["prune", "--keep-last", "2", "--dry-run"]);
    assert_eq!(plan["remove"][0]["id"], ids[0].as_str());
    assert_eq!(plan["keep"][1]["reasons"], serde_json::json!(["last"]));
    assert_eq!(place.snapshots(), ids);
    // What was proved last stays, however old.
    place.succeed(&["verify", &ids[0], "--record"]);
    let out = text(&place.succeed(&["prune", "--keep-last", "2"]).stdout);
    assert!(out.contains("last verified") && out.contains("3 snapshots kept, 1 removed"), "{out}");
    assert_eq!(place.snapshots(), [&ids[0][..], &ids[2], &ids[3]]);
    place.succeed(&["verify", "--all", "--quick"]);
    place.succeed(&["verify", &ids[3], "--record"]);
    // Six months, not six minutes.
    let plan = text(&place.succeed(&["prune", "--keep-within", "6m", "--dry-run"]).stdout);
    let first = "default: every snapshot of the last 6 months is kept, back to 20";
    assert!(plan.starts_with(first) && !plan.contains("remove"), "{plan}");
    assert!(place.fail(2, &["prune", "--keep-within", "6M"]).contains("m is months"));
    let done = place.json(&["prune", "--keep-last", "1"]);
    assert_eq!(done["removed"], serde_json::json!([ids[0], ids[2]]));
    assert_eq!(place.snapshots(), [ids[3].as_str()]);
    assert!(place.json(&["reports"]).as_array().unwrap().iter().any(|row| row["kind"] == "prune"));
}

/// Backups that stopped do not become backups that are gone.
#[test]
fn the_newest_stays_when_the_rules_keep_nothing() {
    let place = Place::new();
    fs::copy(crate::support::small_database(), place.path("etcd.db")).unwrap();
    for taken in ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"] {
        place.succeed(&["backup", "--file", "etcd.db", "--taken", taken]);
    }
    let rules = ["prune", "--keep-within", "14d"];
    let done = place.succeed(&rules);
    assert!(text(&done.stderr).contains("--allow-empty"), "{}", text(&done.stderr));
    assert_eq!(place.snapshots().len(), 1);
    place.succeed(&rules);
    assert_eq!(place.snapshots().len(), 1);
    place.succeed(&[&rules[..], &["--allow-empty"]].concat());
    assert_eq!(place.snapshots().len(), 0);
}
