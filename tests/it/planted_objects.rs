//! Somebody who can create objects in the repository, and has no key: no command stops, none believes what he planted, and
//! what he planted can be removed.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use strongroom::ErrorKind;
use strongroom::backup::{
    Accept, BackupOptions, Retention, Scope, Source, VerifyLevel, apply_prune, backup, copy,
    open_replica, plan_prune, plan_quarantine, plan_removal, prune_report, remove_failing_seals,
    reports, reseal, store_report, suspects, verify,
};
use strongroom::format::{KeyState, Manifest, SnapshotId};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::faulty::Faulty;
use crate::place::Place;
use crate::prune::age;
use crate::support::{TestRepo, backup_file, key, keys, local, small_database};

fn id_at(ahead: Duration) -> SnapshotId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + ahead;
    SnapshotId::new(now.as_millis() as u64, strongroom::crypto::random(&mut rng()))
}

fn rng() -> impl strongroom::crypto::CryptoRng + Send {
    strongroom::crypto::system_rng()
}

/// Plants one of each kind in the repository at `repo`, beside the snapshot `genuine`; the ids of the folders.
pub fn plant(repo: &std::path::Path, genuine: &str) -> Vec<String> {
    let folder = |id: &str| repo.join("snapshots").join(id);
    let put = |id: &str, part: &str, bytes: &[u8]| {
        fs::create_dir_all(folder(id)).unwrap();
        fs::write(folder(id).join(part), bytes).unwrap();
    };
    let read = |part: &str| fs::read(folder(genuine).join(part)).unwrap();
    let seals = (1..20).filter_map(|n| fs::read(folder(genuine).join(format!("seal.{n}"))).ok());
    let seal = seals.into_iter().find(|seal| seal.starts_with(b"strongroom-seal/1\n")).unwrap();
    // Newer than everything, but not so far ahead that it is passed over for that.
    let new = || id_at(Duration::from_secs(60)).to_string();
    let (unfinished, junk, foreign, copied, later, removed) =
        (new(), new(), new(), new(), new(), new());
    put(&unfinished, "payload", b"junk");
    put(&junk, "manifest", b"junk\n");
    put(&junk, "seal.1", b"junk\n");
    // A manifest that parses, of another cluster, with another snapshot's seal.
    let manifest = String::from_utf8(read("manifest")).unwrap();
    let other = |id: &str| {
        manifest.replace(genuine, id).replacen("\"cluster\":\"", "\"cluster\":\"other-", 1)
    };
    put(&foreign, "manifest", other(&foreign).as_bytes());
    put(&foreign, "seal.1", &seal);
    put(&copied, "seal.1", &seal);
    for part in ["payload", "index", "manifest"] {
        put(&copied, part, &read(part));
    }
    put(&later, "manifest", b"strongroom-manifest/2\n");
    put(&removed, "tombstone", other(&removed).as_bytes());
    put(&id_at(Duration::from_secs(86_400)).to_string(), "manifest", &read("manifest"));
    // Beside what is genuine.
    put(genuine, "seal.7", b"junk\n");
    put(genuine, "seal.4294967295", &seal);
    put(genuine, "tombstone", b"junk\n");
    put(genuine, "sweep", b"strongroom-sweep/1\n");
    fs::create_dir_all(repo.join("keys")).unwrap();
    fs::create_dir_all(repo.join("reports")).unwrap();
    fs::write(repo.join(format!("keys/{}.1", "0".repeat(32))), b"junk\n").unwrap();
    fs::write(repo.join(format!("reports/{}", new())), b"junk\n").unwrap();
    fs::write(repo.join("snapshots/neither"), b"junk").unwrap();
    vec![unfinished, junk, foreign, copied, later, removed]
}

/// Every command, each after the next round of planting.
#[test]
fn no_command_is_stopped() {
    let place = Place::new();
    let repo = place.path("repo");
    let first = place.backup();
    plant(&repo, &first);
    let second = place.backup();
    assert_eq!(place.json(&["show", &second])["previous"], first.as_str());
    plant(&repo, &second);
    let trusted = |id: &str| {
        let list = place.json(&["snapshots"]);
        let row = list.as_array().unwrap().iter().find(|row| row["id"] == id).cloned();
        row.unwrap()["trust"] == "trusted"
    };
    assert!(trusted(&first) && trusted(&second));
    assert_eq!(place.json(&["show", "latest"])["id"], second.as_str());
    place.succeed(&["verify", "latest"]);
    let out = place.run(&["-w", "json", "verify", "--all"]);
    assert_eq!(out.status.code(), Some(13));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let good = report["snapshots"].as_array().unwrap().iter().filter(|row| row["status"] == "ok");
    assert_eq!(good.map(|row| &row["id"]).collect::<Vec<_>>(), [&first, &second]);
    place.succeed(&["restore", "latest", "-o", "out.db"]);
    place.succeed(&["ls", "latest"]);
    place.succeed(&["stats", "latest"]);
    place.succeed(&["reports"]);
    place.succeed(&["key", "list"]);
    let out = place.run(&["-w", "json", "copy", "--to", "second"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["copied"], serde_json::json!([first, second]), "{report}");
    let out = place.run(&["-w", "json", "key", "rotate"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["snapshots"]["resealed"], 2, "{report}");
    let old = report["old"][0].as_str().unwrap().to_owned();
    plant(&repo, &second);
    let out = place.run(&["-w", "json", "key", "rotate", "--finish"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["retired"], serde_json::json!([old]), "{report}");
    plant(&repo, &second);
    let said = place.fail(0, &["key", "remove", &old, "--now"]);
    assert!(said.contains("passed over: snapshot"), "{said}");
    let out = place.run(&["-w", "json", "prune", "--keep-last", "1"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["removed"], serde_json::json!([first]), "{report}");
    place.succeed(&["prune", "--undo", &first]);
    let third = place.backup();
    assert_eq!(place.json(&["show", "latest"])["id"], third.as_str());
    place.succeed(&["restore", "latest", "-o", "again.db"]);
}

/// What is planted is listed, and removed by name; what is genuine, or may be, is not.
#[tokio::test]
async fn quarantine() {
    let repo = TestRepo::new().await;
    let (repository, keys, control) = (&repo.repository, &keys(&[1]), &Control::default());
    let genuine = repo.backup(keys).await.id;
    let damaged = repo.backup(keys).await.id;
    let foreign_key = backup_file(repository, &crate::support::keys(&[2])).await.unwrap().id;
    let [_, junk, foreign, copied, later, removed] =
        plant(repo.dir.path(), &genuine.to_string()).try_into().unwrap();
    let mut bytes = fs::read(repo.object(damaged, "manifest")).unwrap();
    bytes[40] ^= 1;
    fs::write(repo.object(damaged, "manifest"), bytes).unwrap();
    let found = async || {
        let found = suspects(repository, keys, control).await.unwrap();
        let mut found: Vec<_> = found.into_iter().map(|one| one.id.to_string()).collect();
        found.retain(|id| [&junk, &foreign, &copied, &later, &removed].contains(&id));
        found
    };
    let mut wanted = vec![junk.clone(), foreign.clone(), copied.clone(), removed.clone()];
    wanted.sort();
    assert_eq!(found().await, wanted);
    let parse = |id: &String| id.parse::<SnapshotId>().unwrap();
    let plan = async |id: SnapshotId| plan_quarantine(repository, keys, &[id], control).await;
    for (id, why) in [
        (genuine, "it is authentic"),
        (damaged, "is genuine, so its manifest was changed or damaged"),
        (foreign_key, "is authentic is unknown"),
        (parse(&later), "is authentic is unknown"),
    ] {
        let error = plan(id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    // With keys that open nothing everything looks planted.
    let error = suspects(repository, &crate::support::keys(&[9]), control).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let error = plan_quarantine(repository, &crate::support::keys(&[9]), &[parse(&junk)], control)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    // In two steps, 30 days apart.
    let ids = [parse(&junk), parse(&foreign), parse(&removed)];
    let first = plan_quarantine(repository, keys, &ids, control).await.unwrap();
    let done = apply_prune(repository, &first, control).await.unwrap();
    assert_eq!(done.removed, ids[..2]);
    assert!(repo.object(ids[0], "tombstone").exists() && !repo.object(ids[0], "manifest").exists());
    let second = plan_quarantine(repository, keys, &ids, control).await.unwrap();
    assert!(second.is_empty() && second.findings.len() == 3, "{second:?}");
    let retention = Retention { last: 1, ..Retention::default() };
    let day = Duration::from_secs(24 * 3600);
    age(repo.dir.path(), 3 * day);
    fs::write(repo.path("snapshots/now"), "").unwrap();
    fs::write(repo.object(genuine, "x.now"), "tells the time").unwrap();
    let ordinary = plan_prune(repository, keys, &retention, None, control).await.unwrap();
    assert!(ordinary.swept().all(|id| !ids.contains(&id)));
    fs::remove_file(repo.object(genuine, "x.now")).unwrap();
    age(repo.dir.path(), 28 * day);
    let newest = repo.backup(keys).await.id;
    let third = plan_quarantine(repository, keys, &ids, control).await.unwrap();
    assert_eq!(third.swept().collect::<Vec<_>>(), ids);
    let done = apply_prune(repository, &third, control).await.unwrap();
    assert_eq!(done.swept, ids);
    assert!(!repo.path(&format!("snapshots/{junk}")).join("tombstone").exists());
    assert_eq!(found().await, [copied]);
    repo.restore(keys, newest).await.unwrap();
    repo.restore(keys, genuine).await.unwrap();
}

/// More junk than is read hides whether a snapshot counts; it goes, and nothing else does.
#[tokio::test]
async fn seals_that_fail_are_removed() {
    let repo = TestRepo::new().await;
    let (repository, control) = (&repo.repository, &Control::default());
    let id = repo.backup(&keys(&[1])).await.id;
    let good = fs::read(repo.object(id, "seal.1")).unwrap();
    let elsewhere = {
        let other = backup_file(repository, &keys(&[2])).await.unwrap().id;
        fs::read_to_string(repo.object(other, "seal.1"))
            .unwrap()
            .replace(&other.to_string(), &id.to_string())
    };
    fs::rename(repo.object(id, "seal.1"), repo.object(id, "seal.700")).unwrap();
    let renumbered = String::from_utf8(good).unwrap();
    assert!(renumbered.contains("generation 1\n"));
    // Another number than its line says: it fails like junk.
    fs::rename(repo.object(id, "seal.700"), repo.object(id, "seal.1")).unwrap();
    for generation in 2..=1300 {
        fs::write(repo.object(id, &format!("seal.{generation}")), b"junk\n").unwrap();
    }
    fs::write(repo.object(id, "seal.1301"), b"strongroom-seal/2\n").unwrap();
    let of_another = elsewhere.replace("generation 1\n", "generation 1302\n");
    fs::write(repo.object(id, "seal.1302"), of_another).unwrap();
    let error = remove_failing_seals(repository, &keys(&[3]), id, control).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WrongKey | ErrorKind::Tampered), "{error}");
    let deleted = remove_failing_seals(repository, &keys(&[1]), id, control).await.unwrap();
    assert_eq!(deleted.len(), 1300);
    for (part, stays) in
        [("seal.1", true), ("seal.2", false), ("seal.1301", true), ("seal.1302", false)]
    {
        assert_eq!(repo.object(id, part).exists(), stays, "{part}");
    }
    repo.restore(&keys(&[1]), id).await.unwrap();
    // A snapshot that only a retired key opens: which of its seals matter is for its owner to say.
    let mut retired = KeySet::new();
    retired.add(std::sync::Arc::new(key(1)), KeyState::Retired);
    let error = remove_failing_seals(repository, &retired, id, control).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

/// A seal that the store does not give out is none that fails.
#[tokio::test]
async fn seals_that_cannot_be_read_stay() {
    let repo = TestRepo::new().await;
    let control = &Control::default();
    let id = repo.backup(&keys(&[1])).await.id;
    let (both, accept) = (&keys(&[1, 2]), Accept::Counting);
    let first = fs::read(repo.object(id, "seal.1")).unwrap();
    reseal(&repo.repository, both, Scope::All, &[], accept, control).await.unwrap();
    fs::write(repo.object(id, "seal.1"), first).unwrap();
    for calls in 0.. {
        let store = Faulty::new(local(repo.dir.path()), calls, true);
        if let Ok(repository) = Repository::open(Arc::new(store.clone()), None).await {
            let removed = remove_failing_seals(&repository, both, id, control).await;
            assert!(removed.is_ok_and(|removed| removed.is_empty()) || store.failed());
        }
        assert!(["seal.1", "seal.2"].iter().all(|seal| repo.object(id, seal).exists()), "{calls}");
        if !store.failed() {
            assert!(calls > 3);
            return;
        }
    }
}

fn manifest_of(repo: &TestRepo, id: SnapshotId) -> Manifest {
    Manifest::parse(&fs::read(repo.object(id, "manifest")).unwrap()).unwrap()
}

/// [S6.4.4] Each manifest names the one before it, so that one which disappears is missed.
#[tokio::test]
async fn a_snapshot_that_disappears_is_missed() {
    let repo = TestRepo::new().await;
    let (repository, keys, control) = (&repo.repository, &keys(&[1]), &Control::default());
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(repo.backup(keys).await.id);
    }
    assert_eq!(manifest_of(&repo, ids[0]).body().previous, None);
    for pair in ids.windows(2) {
        let previous = manifest_of(&repo, pair[1]).body().previous.unwrap();
        assert_eq!(previous.snapshot, pair[0]);
        let bytes = fs::read(repo.object(pair[0], "manifest")).unwrap();
        assert_eq!(previous.sha256.0, strongroom::crypto::sha256(&[&bytes]));
    }
    let findings = async || {
        let level = VerifyLevel::Quick;
        verify(repository, keys, Scope::All, level, control).await.unwrap().findings
    };
    assert_eq!(findings().await, [""; 0]);
    // Removed by an operator: the tombstone tells, and later the report.
    let plan = plan_removal(repository, keys, &[ids[3]]).await.unwrap();
    let done = apply_prune(repository, &plan, control).await.unwrap();
    assert_eq!(findings().await, [""; 0]);
    let report = prune_report(&plan, &done, None, Duration::ZERO);
    fs::remove_dir_all(repo.path(&format!("snapshots/{}", ids[3]))).unwrap();
    let missed = findings().await;
    assert!(missed.len() == 1 && missed[0].contains(&ids[3].to_string()), "{missed:?}");
    // A report under a key that does not count says nothing.
    store_report(repository, &crate::support::keys(&[2]), &report).await.unwrap();
    assert_eq!(findings().await.len(), 1);
    store_report(repository, keys, &report).await.unwrap();
    assert_eq!(findings().await, [""; 0]);
    // By somebody else.
    fs::remove_dir_all(repo.path(&format!("snapshots/{}", ids[1]))).unwrap();
    let missed = findings().await;
    assert!(missed.len() == 1 && missed[0].contains("is missing"), "{missed:?}");
    // The oldest ones: as retention would have it.
    fs::remove_dir_all(repo.path(&format!("snapshots/{}", ids[0]))).unwrap();
    assert_eq!(findings().await, [""; 0]);
    // Of a file of the past, the one before it then; of other clusters none.
    let at = |id: SnapshotId| UNIX_EPOCH + Duration::from_millis(id.unix_ms());
    let options = BackupOptions {
        taken: Some(at(ids[4])),
        tags: vec!["b".into(), "a b".into(), "b".into()],
        include: vec![small_database()],
        ..BackupOptions::default()
    };
    let of = async |options: &BackupOptions| {
        let source = Source::File(small_database());
        backup(repository, keys, source, options, control).await
    };
    let report = of(&options).await.unwrap();
    assert_eq!(report.previous, Some(ids[2]));
    let manifest = manifest_of(&repo, report.id);
    assert_eq!(manifest.body().tags, ["a b", "b"]);
    assert!(manifest.body().included[0].ends_with("etcd-3.5.db"));
    let other = BackupOptions { cluster: "other".parse().unwrap(), ..BackupOptions::default() };
    assert_eq!(of(&other).await.unwrap().previous, None);
    let bad = BackupOptions { tags: vec!["\u{e4}".into()], ..BackupOptions::default() };
    assert_eq!(of(&bad).await.unwrap_err().kind(), ErrorKind::Usage);
}

/// Objects of the right length with other bytes are found at the next copy, and what was compared is not read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_believed_by_its_lengths() {
    let repo = TestRepo::new().await;
    let (repository, keys, control) = (&repo.repository, &keys(&[1]), &Control::default());
    let (first, second) = (repo.backup(keys).await.id, repo.backup(keys).await.id);
    let dir = tempfile::tempdir().unwrap();
    let (target, _) = open_replica(repository, local(dir.path()), false).await.unwrap();
    let run =
        async |keys: &KeySet| copy(repository, &target, keys, Scope::All, control).await.unwrap();
    // Somebody else was faster: all of it is there, with other bytes in one object.
    crate::vectors::copy_tree(&repo.path("snapshots"), &dir.path().join("snapshots"));
    let payload = dir.path().join(format!("snapshots/{second}/payload"));
    let good = fs::read(&payload).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&payload, &bad).unwrap();
    // Without a key nothing can be remembered, and nothing is read.
    let report = run(&KeySet::new()).await;
    assert_eq!((report.compared.len(), report.not_compared, report.failed.len()), (0, None, 0));
    for _ in 0..2 {
        let report = run(keys).await;
        assert!(report.failed[&second].contains("SHA-256 differs"), "{:?}", report.failed);
    }
    fs::write(&payload, &good).unwrap();
    assert_eq!(run(keys).await.compared, [second]);
    assert!(run(keys).await.compared.is_empty());
    // What a copy itself wrote was compared on the way.
    let third = repo.backup(keys).await.id;
    assert_eq!(run(keys).await.copied, [third]);
    assert!(run(keys).await.compared.is_empty());
    // What others say was compared is compared.
    fs::remove_dir_all(dir.path().join("reports")).unwrap();
    assert_eq!(run(keys).await.compared, [first, second, third]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_millions_of_reports_the_newest_are_listed() {
    let repo = TestRepo::new().await;
    let keys = &keys(&[1]);
    let genuine = strongroom::format::Report {
        kind: "drill".into(),
        cluster: None,
        snapshot: None,
        level: None,
        key: None,
        scope: strongroom::format::ReportScope::One,
        outcome: strongroom::format::ReportOutcome::Passed,
        tool: "test".into(),
        details: Some(Default::default()),
    };
    let id = store_report(&repo.repository, keys, &genuine).await.unwrap();
    for at in 0..1500 {
        let name = format!("reports/{}", id_at(Duration::from_secs(at)));
        fs::write(repo.path(&name), b"junk\n").unwrap();
    }
    let listed = reports(&repo.repository, keys).await.unwrap();
    assert_eq!((listed.listed.len(), listed.left_out), (1001, 500));
    assert!(listed.listed.iter().any(|one| one.id == id && one.report.is_ok()));
}

/// `verify --all` of a repository from which a snapshot disappeared is done, with findings.
#[test]
fn a_missing_snapshot_shows_in_the_exit_status() {
    let place = crate::place::Place::new();
    let ids: Vec<_> = (0..3).map(|_| place.backup()).collect();
    place.succeed(&["verify", "--all", "--quick"]);
    fs::remove_dir_all(place.path(&format!("repo/snapshots/{}", ids[1]))).unwrap();
    let said = place.fail(3, &["verify", "--all", "--quick"]);
    assert!(said.contains(&ids[1]) && said.contains("is missing"), "{said}");
}

/// What was removed and is put back whole is authentic, and counts: nothing in it tells. The tombstone does while it is there,
/// and the report of the removal later.
#[test]
fn what_was_removed_and_is_put_back_is_named() {
    let place = Place::new();
    let ids: Vec<_> = (0..3).map(|_| place.backup()).collect();
    let folder = |id: &str| place.path(&format!("repo/snapshots/{id}"));
    let kept = place.path("kept");
    let keep = |from: &std::path::Path, to: &std::path::Path| {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    keep(&folder(&ids[1]), &kept);
    let said = || {
        let out = place.run(&["verify", "--all"]);
        assert!(out.status.success(), "it counts");
        assert_eq!(place.snapshots().contains(&ids[1]), kept.exists());
        crate::place::text(&out.stderr)
    };
    assert!(!said().contains("there again"));
    place.succeed(&["prune", "--remove", &ids[1]]);
    assert!(!place.snapshots().contains(&ids[1]));
    // His manifest, while the objects are there still.
    fs::copy(kept.join("manifest"), folder(&ids[1]).join("manifest")).unwrap();
    let told = said();
    assert!(told.contains("is about to be removed, or somebody wants it to look so"), "{told}");
    assert!(told.contains(&format!("snapshot {} was removed, as report", ids[1])), "{told}");
    // All of it, after it was swept.
    fs::remove_dir_all(folder(&ids[1])).unwrap();
    keep(&kept, &folder(&ids[1]));
    let told = said();
    assert!(told.contains("was removed, as report") && told.contains("there again"), "{told}");
    assert!(!told.contains("about to be removed"), "{told}");
    // Nobody is told that the snapshot which names it is the first after a gap.
    assert!(!told.contains("is missing"), "{told}");
}
