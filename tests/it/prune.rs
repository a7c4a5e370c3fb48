//! Retention and removal: nothing that is needed goes, nothing that is not needed stays.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use strongroom::ErrorKind;
use strongroom::backup::{
    BackupOptions, Control, PrunePlan, Retention, Scope, Source, VerifyLevel, apply_prune, backup,
    plan_prune, repack, verify,
};
use strongroom::format::SnapshotId;
use strongroom::keys::MasterKeys;

use crate::faulty::Faulty;
use crate::place::{Place, long_database, text};
use crate::support::{TestRepo, keys, local};

const FRAME: usize = 1 << 20;
const LENGTH: usize = 4 * FRAME;

pub fn last(count: u32) -> Retention {
    let mut retention = Retention::default();
    retention.last = count;
    retention
}

/// Snapshots of one chain, and the databases in them.
pub struct Chain {
    pub repo: TestRepo,
    pub keys: MasterKeys,
    pub databases: BTreeMap<SnapshotId, Vec<u8>>,
}

impl Chain {
    /// `count` snapshots, each of which differs from the one before in frame `at % 4`.
    pub async fn new(count: usize) -> Self {
        let mut chain =
            Self { repo: TestRepo::new().await, keys: keys(&[1]), databases: BTreeMap::new() };
        let mut database = long_database(LENGTH);
        for at in 0..count {
            if at > 0 {
                database[(at % 4) * FRAME + FRAME / 2] ^= at as u8;
            }
            chain.backup(&database).await;
        }
        chain
    }

    pub async fn backup(&mut self, database: &[u8]) -> SnapshotId {
        self.backup_with(database, BackupOptions::default().full_every).await
    }

    async fn backup_with(&mut self, database: &[u8], full_every: Duration) -> SnapshotId {
        let path = self.repo.path("now.db");
        fs::write(&path, database).unwrap();
        let (mut options, control) = (BackupOptions::default(), Control::default());
        options.full_every = full_every;
        let source = Source::File(path);
        let report = backup(&self.repo.repository, &self.keys, source, &options, &control).await;
        let id = report.unwrap().id;
        self.databases.insert(id, database.to_vec());
        id
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

#[tokio::test(flavor = "multi_thread")]
async fn payloads_go_when_nothing_uses_them() {
    let mut chain = Chain::new(5).await;
    let ids = chain.ids();
    let plan = chain.prune(&last(1)).await;
    // The fifth uses what the second to fourth brought, and of the first only what was never replaced: its first frame
    // was, by the fifth's.
    let in_use: Vec<_> = plan.remove.iter().map(|removal| removal.in_use).collect();
    assert_eq!(in_use, [false, true, true, true]);
    assert_eq!(plan.frees(), 0);
    chain.all_whole().await;
    for id in &ids[..4] {
        assert!(chain.repo.object(*id, "tombstone").exists());
        assert!(
            chain.repo.object(*id, "payload").exists() && !chain.repo.object(*id, "index").exists()
        );
    }
    // Within the grace period a backup may lean on all of them.
    assert!(chain.prune(&last(1)).await.is_empty());
    age(&chain.repo.path("snapshots"), DAY);
    let mut database = chain.databases[&ids[4]].clone();
    database[3 * FRAME] ^= 1;
    let sixth = chain.backup(&database).await;
    let plan = chain.prune(&last(2)).await;
    assert_eq!(plan.swept().collect::<Vec<_>>(), [ids[0]]);
    assert!(plan.frees() > 0 && plan.remove.is_empty());
    assert!(!chain.repo.object(ids[0], "tombstone").exists());
    chain.all_whole().await;
    // And at last only what does not need them is there.
    let full = chain.backup_with(&database, Duration::ZERO).await;
    assert_eq!(chain.prune(&last(1)).await.remove.len(), 2);
    age(&chain.repo.path("snapshots"), DAY);
    chain.backup_with(&database, Duration::ZERO).await;
    let mut swept = ids[1..].to_vec();
    swept.push(sixth);
    assert_eq!(chain.prune(&last(2)).await.swept().collect::<Vec<_>>(), swept);
    let left: Vec<_> =
        chain.objects().into_iter().filter(|name| name.ends_with("/payload")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(left[0], format!("{full}/payload"));
    chain.all_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leans_on_mostly_dead_payloads_is_written_anew() {
    let mut chain = Chain::new(1).await;
    let mut database = chain.databases.values().next().unwrap().clone();
    // Of the first payload's four frames the last snapshots use one.
    for frame in [1, 2, 3] {
        database[frame * FRAME + 9] ^= 1;
    }
    chain.backup(&database).await;
    for step in 0..3_u8 {
        database[FRAME + 99] ^= step + 1;
        chain.backup(&database).await;
    }
    let ids = chain.ids();
    chain.prune(&last(2)).await;
    let (repository, control) = (&chain.repo.repository, Control::default());
    let options = BackupOptions::default();
    // The second payload is used for the most part, so only what leans on the first one goes: both.
    let report = repack(repository, &chain.keys, None, &options, &control).await.unwrap();
    assert_eq!(report.replaced.iter().map(|(old, _)| *old).collect::<Vec<_>>(), ids[3..]);
    for (old, new) in &report.replaced {
        assert_eq!(old.unix_ms(), new.unix_ms());
        let database = chain.databases.remove(old).unwrap();
        chain.databases.insert(*new, database);
    }
    chain.all_whole().await;
    // What both have in common was written once.
    let length = |id: SnapshotId| fs::metadata(chain.repo.object(id, "payload")).unwrap().len();
    let first = length(report.replaced[0].1);
    assert!(length(report.replaced[1].1) < first && first < 3 << 20, "{first}");
    let again = repack(repository, &chain.keys, None, &options, &control).await.unwrap();
    assert!(again.replaced.is_empty());
    age(&chain.repo.path("snapshots"), DAY);
    chain.backup(&database).await;
    let swept: Vec<_> = chain.prune(&last(9)).await.swept().collect();
    assert!(
        swept.contains(&ids[0]) && swept.contains(&ids[3]) && swept.contains(&ids[4]),
        "{swept:?}"
    );
    chain.all_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_for_an_absent_key_is_not_repacked() {
    let mut chain = Chain::new(1).await;
    chain.keys = keys(&[1, 2]);
    let mut database = chain.databases.values().next().unwrap().clone();
    for frame in [1, 2, 3] {
        database[frame * FRAME + 9] ^= 1;
    }
    let id = chain.backup(&database).await;
    chain.prune(&last(1)).await;
    let (options, control) = (BackupOptions::default(), Control::default());
    let report =
        repack(&chain.repo.repository, &keys(&[1]), None, &options, &control).await.unwrap();
    assert_eq!((report.replaced.len(), report.skipped[0].0), (0, id));
    chain.all_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_needed_and_a_key() {
    let chain = Chain::new(1).await;
    let control = Control::default();
    let none = Retention::default();
    let error = plan_prune(&chain.repo.repository, &chain.keys, &none, None, &control).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Usage);
    // Without the key nothing counts, and nothing goes.
    let other = keys(&[9]);
    let plan = plan_prune(&chain.repo.repository, &other, &last(1), None, &control).await.unwrap();
    assert!(plan.is_empty() && plan.keep.is_empty() && plan.findings.len() == 1, "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_snapshots_push_nothing_out() {
    let mut chain = Chain::new(3).await;
    let ids = chain.ids();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // From the future, and just younger than the newest: copies of a good one under other names.
    for ahead in [0, 3600, 86_400 * 400] {
        let ms = (now + Duration::from_secs(ahead)).as_millis() as u64;
        let planted = SnapshotId::new(ms, [0xff; 10]);
        let folder = chain.repo.path(&format!("snapshots/{planted}"));
        fs::create_dir(&folder).unwrap();
        for part in ["payload", "index", "seal.1", "manifest"] {
            let good = fs::read(chain.repo.object(ids[2], part)).unwrap();
            let renamed = String::from_utf8(good.clone())
                .map(|text| text.replace(&ids[2].to_string(), &planted.to_string()).into_bytes());
            fs::write(folder.join(part), renamed.unwrap_or(good)).unwrap();
        }
    }
    let plan = chain.plan(&last(2)).await;
    assert_eq!(plan.keep.iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(plan.findings.len(), 3, "{:?}", plan.findings);
    chain.prune(&last(2)).await;
    for (id, database) in &chain.databases {
        assert!(chain.repo.restore(&chain.keys, *id).await.unwrap()[..LENGTH] == **database);
    }
    // A tombstone beside a manifest hides a snapshot only until the next prune.
    fs::copy(chain.repo.object(ids[2], "manifest"), chain.repo.object(ids[2], "tombstone"))
        .unwrap();
    let plan = chain.prune(&last(2)).await;
    assert!(plan.findings.iter().any(|finding| finding.contains("about to be removed")));
    assert!(!chain.repo.object(ids[2], "tombstone").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_pushes_nothing_out() {
    let chain = Chain::new(5).await;
    let ids = chain.ids();
    // The two newest lean on the third's payload, which is gone, or have lost their own.
    for lost in [3, 4] {
        fs::remove_file(chain.repo.object(ids[lost], "payload")).unwrap();
    }
    let plan = chain.plan(&last(2)).await;
    assert_eq!(plan.keep.iter().map(|one| one.id).collect::<Vec<_>>(), ids[1..3]);
    assert_eq!(plan.remove.iter().map(|one| one.id).collect::<Vec<_>>(), ids[..1]);
    assert_eq!(plan.findings.len(), 2, "{:?}", plan.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_from_the_future_ages_nothing() {
    let mut chain = Chain::new(2).await;
    // Some other backup is under way, and a clock was wrong.
    let running = chain.repo.path(&format!("snapshots/{}", SnapshotId::new(7, [7; 10])));
    fs::create_dir(&running).unwrap();
    fs::write(running.join("payload"), b"not all yet").unwrap();
    let index = chain.repo.object(chain.ids()[0], "index");
    let file = fs::File::options().write(true).open(index).unwrap();
    file.set_modified(SystemTime::now() + DAY * 365).unwrap();
    assert!(chain.prune(&last(9)).await.is_empty());
    assert!(running.join("payload").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_tombstone_hides_nothing() {
    let chain = Chain::new(2).await;
    let ids = chain.ids();
    fs::write(chain.repo.object(ids[1], "tombstone"), b"anything").unwrap();
    let listing = strongroom::backup::snapshots(&chain.repo.repository, None).await.unwrap();
    assert_eq!(listing.snapshots.len(), 2);
    assert!(listing.findings[0].contains("about to be removed"), "{:?}", listing.findings);
    let usage = strongroom::backup::key_usage(&chain.repo.repository).await.unwrap();
    assert_eq!(usage.opens.values().copied().max(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_keeps_every_payload() {
    let mut chain = Chain::new(5).await;
    let ids = chain.ids();
    chain.prune(&last(1)).await;
    age(&chain.repo.path("snapshots"), DAY);
    let database = chain.databases[&ids[4]].clone();
    chain.backup(&database).await;
    let tombstone = chain.repo.object(ids[1], "tombstone");
    let whole = fs::read(&tombstone).unwrap();
    let written = fs::metadata(&tombstone).unwrap().modified().unwrap();
    fs::write(&tombstone, b"strongroom-manifest/2\nfrom the future").unwrap();
    let plan = chain.prune(&last(2)).await;
    assert!(plan.is_empty() && plan.findings[0].contains("no payload is deleted"), "{plan:?}");
    fs::write(&tombstone, whole).unwrap();
    fs::File::options().write(true).open(&tombstone).unwrap().set_modified(written).unwrap();
    assert_eq!(chain.prune(&last(2)).await.swept().collect::<Vec<_>>(), [ids[0]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_writers_are_swept_when_old() {
    let mut chain = Chain::new(2).await;
    let ids = chain.ids();
    // A manifest that somebody deleted: others may use its payload.
    for part in ["manifest", "seal.1", "index"] {
        fs::remove_file(chain.repo.object(ids[0], part)).unwrap();
    }
    chain.databases.remove(&ids[0]);
    let dead = chain.repo.path(&format!("snapshots/{}", SnapshotId::new(1, [3; 10])));
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("payload"), "half").unwrap();
    assert!(chain.prune(&last(9)).await.is_empty());
    age(&chain.repo.path("snapshots"), DAY);
    let database = chain.databases[&ids[1]].clone();
    chain.backup(&database).await;
    let plan = chain.prune(&last(9)).await;
    assert_eq!(plan.swept().collect::<Vec<_>>(), [SnapshotId::new(1, [3; 10])]);
    assert!(chain.repo.object(ids[0], "payload").exists());
    for (id, database) in &chain.databases {
        assert!(chain.repo.restore(&chain.keys, *id).await.unwrap()[..LENGTH] == **database);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_the_rest_is_done_next_time() {
    let mut calls = 0;
    loop {
        let mut chain = Chain::new(4).await;
        age(&chain.repo.path("snapshots"), DAY);
        chain.prune(&last(3)).await;
        let store = Faulty::new(local(chain.repo.dir.path()), calls, false);
        let control = Control::default();
        let broken = match chain.repo.through(std::sync::Arc::new(store)).await {
            Ok(broken) => match plan_prune(&broken, &chain.keys, &last(1), None, &control).await {
                Ok(plan) => apply_prune(&broken, &plan, &control).await.map(|_| ()),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let listed = strongroom::backup::snapshots(&chain.repo.repository, None).await.unwrap();
        let left: Vec<_> = listed.snapshots.iter().map(|one| one.id).collect();
        chain.databases.retain(|id, _| left.contains(id));
        assert!(!left.is_empty());
        chain.all_whole().await;
        // Done to the end by the next.
        let kept = *chain.databases.keys().next_back().unwrap();
        let plan = chain.plan(&last(1)).await;
        apply_prune(&chain.repo.repository, &plan, &control).await.unwrap();
        chain.databases.retain(|id, _| *id == kept);
        chain.all_whole().await;
        let rest = chain.objects();
        assert!(
            rest.iter().all(|name| {
                name.starts_with(&kept.to_string())
                    || name.ends_with("payload")
                    || name.ends_with("tombstone")
            }),
            "{rest:?}"
        );
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
    assert!(out.contains("last proved") && out.contains("3 snapshots kept, 1 removed"), "{out}");
    assert_eq!(place.snapshots(), [&ids[0][..], &ids[2], &ids[3]]);
    place.succeed(&["verify", "--all", "--quick"]);
    place.succeed(&["verify", &ids[3], "--record"]);
    let done = place.json(&["prune", "--keep-within", "1ms"]);
    assert_eq!(done["removed"], serde_json::json!([ids[0], ids[2]]));
    assert_eq!(place.snapshots(), [ids[3].as_str()]);
    assert!(place.json(&["reports"]).as_array().unwrap().iter().any(|row| row["kind"] == "prune"));
}
