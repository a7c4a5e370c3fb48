//! Who counts (SPEC.md §5.3): what a thief makes with a keyring that was rotated out moves nothing.
//!
//! The thief knows the old master key and, from seals that he kept, the data keys of the snapshots of that time. He can
//! create and overwrite objects in the repository.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use strongroom::ErrorKind;
use strongroom::backup::{
    Accept, BackupOptions, PrunePlan, Retention, Scope, Source, apply_prune, backup,
    check_removable, copy, judged, latest, open_replica, plan_prune, plan_removal, reports, reseal,
    show, snapshots, store_report, undo_removal,
};
use strongroom::crypto::{sha256, system_rng};
use strongroom::envelope::{DataKey, NewSeal};
use strongroom::format::{
    KeyState, Report, ReportOutcome, ReportScope, Seal, SealBody, Sha256, SnapshotId, Stanza,
};
use strongroom::keys::KeySet;
use strongroom::keys::trust::{Distrust, Standing};
use strongroom::task::Control;

use crate::faulty::Faulty;
use crate::place::{Place, exits, text};
use crate::support::{
    TestRepo, backup_file, key, keys, local, open_seal, python, restore_bytes, seal_data_key,
    small_database, vector,
};

const OLD: u8 = 1;
const NEW: u8 = 2;
const RETIRED: Standing = Standing::NotTrusted(Distrust::Retired);

fn states(states: &[(u8, KeyState)]) -> KeySet {
    let mut keys = KeySet::new();
    states.iter().for_each(|(fill, state)| keys.add(Arc::new(key(*fill)), *state));
    keys
}

/// The owner's keys after the rotation.
fn owner() -> KeySet {
    states(&[(OLD, KeyState::Retired), (NEW, KeyState::Primary)])
}

fn thief() -> KeySet {
    keys(&[OLD])
}

/// A repository whose key was rotated, and what the thief knows of the time before.
struct Victim {
    repo: TestRepo,
    /// Oldest first.
    genuine: Vec<SnapshotId>,
    old_seals: Vec<Seal>,
}

impl Victim {
    async fn new() -> Self {
        let repo = TestRepo::new().await;
        let mut genuine = Vec::new();
        for hours in [30, 20, 10] {
            genuine.push(taken(&repo, &keys(&[OLD]), hours).await);
        }
        let read = |id: &SnapshotId| fs::read(repo.object(*id, "seal.1")).unwrap();
        let old_seals = genuine.iter().map(|id| Seal::parse(&read(id)).unwrap()).collect();
        let (rotating, control) =
            (states(&[(OLD, KeyState::Retiring), (NEW, KeyState::Primary)]), Control::default());
        let drop = [key(OLD).id()];
        let report =
            reseal(&repo.repository, &rotating, Scope::All, &drop, Accept::Counting, &control);
        assert_eq!(report.await.unwrap().resealed, genuine);
        Self { repo, genuine, old_seals }
    }

    /// The data key of the snapshot `at`, as the thief knows it.
    fn old_data_key(&self, at: usize) -> DataKey {
        let seal = &self.old_seals[at];
        open_seal(seal, seal.body().object(), &thief()).unwrap().data_key
    }

    async fn latest(&self) -> SnapshotId {
        let listing = snapshots(&self.repo.repository, None).await.unwrap();
        latest(&self.repo.repository, &owner(), &listing, None).await.unwrap().0
    }

    async fn plan(&self, count: u32) -> PrunePlan {
        let retention = Retention { last: count, ..Retention::default() };
        let control = Control::default();
        plan_prune(&self.repo.repository, &owner(), &retention, None, &control).await.unwrap()
    }

    async fn standing(&self, id: SnapshotId) -> Standing {
        let listing = judged(&self.repo.repository, &owner(), None).await.unwrap();
        listing.snapshots.iter().find(|one| one.id == id).unwrap().standing
    }

    /// Latest, retention, reseal and replica are what they were without `forged`.
    async fn is_unmoved(&self, forged: &[SnapshotId]) {
        let counting: Vec<_> =
            self.genuine.iter().copied().filter(|id| !forged.contains(id)).collect();
        assert_eq!(self.latest().await, *counting.last().unwrap());
        let plan = self.plan(1).await;
        let kept: Vec<_> = plan.keep.iter().map(|one| one.id).collect();
        assert_eq!(kept, counting[counting.len() - 1..]);
        let removed: Vec<_> = plan.remove.iter().map(|one| one.id).collect();
        assert_eq!(removed, counting[..counting.len() - 1]);
        for id in forged {
            assert_eq!(self.standing(*id).await, RETIRED);
            let error = self.repo.restore(&owner(), *id).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert!(error.to_string().contains("not trusted: sealed by a retired key"), "{error}");
            let details = show(&self.repo.repository, &owner(), *id).await.unwrap();
            assert_eq!(details.standing, RETIRED);
        }
        let control = Control::default();
        let (owner, accept) = (owner(), Accept::Counting);
        let report = reseal(&self.repo.repository, &owner, Scope::All, &[], accept, &control);
        let report = report.await.unwrap();
        let refused: Vec<_> = report.untrusted.iter().map(|one| one.id).collect();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(refused.len(), forged.len());
        assert!(forged.iter().all(|id| refused.contains(id)));
        let dir = tempfile::tempdir().unwrap();
        let source = &self.repo.repository;
        let (replica, _) = open_replica(source, local(dir.path()), false).await.unwrap();
        let copied = copy(source, &replica, &owner, Scope::All, &control).await.unwrap();
        assert_eq!(copied.copied, counting);
        assert!(forged.iter().all(|id| copied.left_out.contains_key(id)));
        let listing = snapshots(&replica, None).await.unwrap();
        let found = latest(&replica, &owner, &listing, None).await.unwrap().0;
        assert_eq!(found, *counting.last().unwrap());
        // What is genuine still restores, and what was forged does not count after all of that either.
        for id in &counting {
            self.repo.restore(&states(&[(NEW, KeyState::Primary)]), *id).await.unwrap();
        }
        for id in forged {
            assert_eq!(self.standing(*id).await, RETIRED);
        }
    }
}

async fn taken(repo: &TestRepo, keys: &KeySet, hours_ago: u64) -> SnapshotId {
    let options = BackupOptions {
        taken: Some(SystemTime::now() - Duration::from_secs(3600 * hours_ago)),
        ..BackupOptions::default()
    };
    let (source, control) = (Source::File(small_database()), Control::default());
    backup(&repo.repository, keys, source, &options, &control).await.unwrap().id
}

fn object(bytes: &[u8]) -> Sha256 {
    Sha256(sha256(&[bytes]))
}

#[tokio::test]
async fn a_new_snapshot_under_a_retired_key() {
    let victim = Victim::new().await;
    let forged = taken(&victim.repo, &thief(), 0).await;
    victim.is_unmoved(&[forged]).await;
    // Whoever has looked at it can still have it.
    let mut keys = owner();
    keys.accept_untrusted();
    victim.repo.restore(&keys, forged).await.unwrap();
    assert_eq!(victim.latest().await, victim.genuine[2]);
}

#[tokio::test]
async fn a_backdated_snapshot_under_a_retired_key() {
    let victim = Victim::new().await;
    let forged =
        [taken(&victim.repo, &thief(), 25).await, taken(&victim.repo, &thief(), 900).await];
    victim.is_unmoved(&forged).await;
}

/// The thief knows an old snapshot's data key, and so can write other content with valid MACs. The present key's
/// stanza, which he can copy, stands for the old bytes only.
#[tokio::test]
async fn an_old_snapshot_rewritten_under_its_own_data_key() {
    let victim = Victim::new().await;
    let (id, data_key) = (victim.genuine[0], victim.old_data_key(0));
    let path = victim.repo.object(id, "manifest");
    let manifest = fs::read_to_string(&path).unwrap();
    let (signed, _) = manifest.split_once("hmac-sha256").unwrap();
    let signed = signed.replace("\"tool\":\"", "\"tool\":\"forged by ");
    let mac = data_encoding::BASE64_NOPAD.encode(&data_key.manifest_mac(signed.as_bytes()));
    let forged = format!("{signed}hmac-sha256 {mac}\n");
    fs::write(&path, &forged).unwrap();
    let genuine = Seal::parse(&fs::read(victim.repo.object(id, "seal.2")).unwrap()).unwrap();
    // Under the old key alone: it opens, and does not count.
    let new = NewSeal { generation: 3, ..NewSeal::first(object(forged.as_bytes())) };
    let seal = seal_data_key(&data_key, new, &thief(), &mut system_rng()).unwrap();
    fs::write(victim.repo.object(id, "seal.3"), seal.print()).unwrap();
    victim.is_unmoved(&[id]).await;
    // With the present key's stanza beside it.
    let stanzas = [seal.body().stanzas(), genuine.body().stanzas()].concat();
    let body = |generation, stanzas: Vec<Stanza>| {
        let (subject, dc) = (genuine.body().subject(), *genuine.body().commitment());
        let object = object(forged.as_bytes());
        SealBody::new(subject, generation, object, dc, stanzas, Vec::new()).unwrap()
    };
    let both = body(4, stanzas);
    let mac = data_key.seal_mac(&both.signed_bytes());
    fs::write(victim.repo.object(id, "seal.4"), both.finish(mac).print()).unwrap();
    victim.is_unmoved(&[id]).await;
    // With the present key's stanza alone it does not even open.
    let alone = body(5, genuine.body().stanzas().to_vec());
    let mac = data_key.seal_mac(&alone.signed_bytes());
    let bytes = alone.finish(mac).print();
    ["seal.3", "seal.4"]
        .iter()
        .for_each(|part| fs::remove_file(victim.repo.object(id, part)).unwrap());
    fs::write(victim.repo.object(id, "seal.5"), bytes).unwrap();
    let error = victim.repo.restore(&owner(), id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tampered, "{error}");
    assert_eq!(victim.latest().await, victim.genuine[2]);
}

/// Seals of a genuine snapshot, of any number and kind: none takes anything away.
#[tokio::test]
async fn planted_seals() {
    let victim = Victim::new().await;
    let id = victim.genuine[2];
    let seal_of = |generation: u32| {
        let seal = &victim.old_seals[2];
        let new = NewSeal { generation, ..NewSeal::first(seal.body().object()) };
        seal_data_key(&victim.old_data_key(2), new, &thief(), &mut system_rng()).unwrap().print()
    };
    // An old one put back, a newer one under the old key, one of another snapshot, one that is none.
    fs::write(victim.repo.object(id, "seal.1"), victim.old_seals[2].print()).unwrap();
    fs::write(victim.repo.object(id, "seal.7"), seal_of(7)).unwrap();
    fs::copy(victim.repo.object(victim.genuine[1], "seal.2"), victim.repo.object(id, "seal.8"))
        .unwrap();
    fs::write(victim.repo.object(id, "seal.9"), b"junk\n").unwrap();
    fs::write(victim.repo.object(id, "seal.4294967295"), b"junk\n").unwrap();
    assert_eq!(victim.standing(id).await, Standing::Counts);
    victim.is_unmoved(&[]).await;
    // It was sealed again above the highest that authenticates; numbers that junk has taken are skipped ([S5.8]).
    let parts = |id| {
        let names = fs::read_dir(victim.repo.path(&format!("snapshots/{id}"))).unwrap();
        let mut names: Vec<String> =
            names.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("seal"));
        names.sort();
        names
    };
    assert_eq!(parts(id), ["seal.10", "seal.4294967295", "seal.8", "seal.9"]);
    assert_eq!(victim.standing(id).await, Standing::Counts);
    // Run again, nothing is left to do but the junk, which is named.
    let (control, owner) = (Control::default(), owner());
    let report =
        reseal(&victim.repo.repository, &owner, Scope::All, &[], Accept::Counting, &control);
    let report = report.await.unwrap();
    assert_eq!((report.resealed.len(), report.unchanged.len()), (0, 3));
    assert_eq!(report.lingering.len(), 3, "{:?}", report.lingering);
    assert_eq!(parts(id), ["seal.10", "seal.4294967295", "seal.8", "seal.9"]);
}

/// [S5.8] The thief knows the data keys, and so can give a seal of the last generation a valid MAC, with the present
/// key's stanza in it: the snapshot counts by it, and is sealed again all the same.
#[tokio::test]
async fn a_forged_seal_of_the_last_generation_does_not_stop_a_rotation() {
    let victim = Victim::new().await;
    for (at, id) in victim.genuine.iter().enumerate() {
        let genuine = Seal::parse(&fs::read(victim.repo.object(*id, "seal.2")).unwrap()).unwrap();
        let (subject, dc) = (genuine.body().subject(), *genuine.body().commitment());
        let mut stanzas = genuine.body().stanzas().to_vec();
        // The second is filled up with stanzas of keys that nobody has.
        let more = if at == 1 { 63 } else { 0 };
        stanzas.extend((100..100 + more).map(|fill| Stanza::local(key(fill).id(), &[7; 104])));
        let object = genuine.body().object();
        let body = SealBody::new(subject, u32::MAX, object, dc, stanzas, Vec::new()).unwrap();
        let mac = victim.old_data_key(at).seal_mac(&body.signed_bytes());
        let forged = body.finish(mac).print();
        fs::write(victim.repo.object(*id, &format!("seal.{}", u32::MAX)), forged).unwrap();
    }
    let (third, control) = (9, Control::default());
    let rotating = states(&[(NEW, KeyState::Retiring), (third, KeyState::Primary)]);
    let again = async || {
        reseal(&victim.repo.repository, &rotating, Scope::All, &[], Accept::Counting, &control)
            .await
            .unwrap()
    };
    let report = again().await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(report.resealed, victim.genuine);
    for id in &victim.genuine {
        victim.repo.restore(&states(&[(third, KeyState::Primary)]), *id).await.unwrap();
    }
    // Only what has stanzas that the new seal has no room for is left, and nothing is written again.
    assert!(report.lingering.len() <= 1, "{:?}", report.lingering);
    let report = again().await;
    assert_eq!(report.unchanged, victim.genuine, "{report:?}");
}

/// [S5.8] A seal of a number in the middle can be buried among planted ones: sealing again moves it, although it names the
/// right keys.
#[tokio::test]
async fn a_seal_of_a_number_in_the_middle_is_moved() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&owner()).await.id;
    let first = Seal::parse(&fs::read(repo.object(id, "seal.1")).unwrap()).unwrap();
    let body = first.body();
    let opened = open_seal(&first, body.object(), &owner()).unwrap();
    let stanzas = body.stanzas().to_vec();
    let moved =
        SealBody::new(body.subject(), 500, body.object(), *body.commitment(), stanzas, Vec::new());
    let moved = moved.unwrap();
    let mac = opened.data_key.seal_mac(&moved.signed_bytes());
    fs::write(repo.object(id, "seal.500"), moved.finish(mac).print()).unwrap();
    fs::remove_file(repo.object(id, "seal.1")).unwrap();
    let control = Control::default();
    for resealed in [vec![id], vec![]] {
        let report =
            reseal(&repo.repository, &owner(), Scope::All, &[], Accept::Counting, &control).await;
        assert_eq!(report.unwrap().resealed, resealed);
        assert!(repo.object(id, &format!("seal.{}", u32::MAX)).exists());
        assert!(!repo.object(id, "seal.500").exists());
    }
    repo.restore(&owner(), id).await.unwrap();
}

/// [S5.12]: more than are read. Those that were there first are among the lowest numbers, and are found.
#[tokio::test]
async fn more_seals_than_are_read() {
    let victim = Victim::new().await;
    let id = victim.genuine[0];
    let plant = |generations: std::ops::RangeInclusive<u32>| {
        for generation in generations {
            fs::write(victim.repo.object(id, &format!("seal.{generation}")), b"junk\n").unwrap();
        }
    };
    plant(3..=1100);
    victim.repo.restore(&owner(), id).await.unwrap();
    // Sealed again among junk, it is read whatever is planted afterwards.
    (601..=1100).for_each(|n| {
        fs::remove_file(victim.repo.object(id, &format!("seal.{n}"))).unwrap();
    });
    let control = Control::default();
    let rotating = states(&[(NEW, KeyState::Primary), (3, KeyState::Primary)]);
    let scope = Scope::Ids(std::slice::from_ref(&id));
    let report = reseal(&victim.repo.repository, &rotating, scope, &[], Accept::Counting, &control);
    assert_eq!(report.await.unwrap().resealed, [id]);
    let seal = victim.repo.object(id, &format!("seal.{}", u32::MAX));
    assert!(seal.exists());
    plant(1..=1202);
    plant(u32::MAX - 601..=u32::MAX - 1);
    victim.repo.restore(&owner(), id).await.unwrap();
    // Without it the snapshot is unknown, not good, and not removed.
    fs::remove_file(&seal).unwrap();
    let error = victim.repo.restore(&owner(), id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tampered);
    assert!(error.to_string().contains("unknown"), "{error}");
    assert_eq!(victim.latest().await, victim.genuine[2]);
    let plan = victim.plan(1).await;
    assert_eq!(plan.remove.iter().map(|one| one.id).collect::<Vec<_>>(), [victim.genuine[1]]);
    assert!(plan.findings.iter().any(|finding| finding.contains("unknown")), "{:?}", plan.findings);
}

/// [S3.3.5] A host whose clock is behind takes a snapshot after one of a host whose clock is right: it is the newest. What
/// does not count, or is far ahead, raises no id.
#[tokio::test]
async fn the_order_of_ids_is_the_order_of_taking() {
    let repo = TestRepo::new().await;
    let ahead = async |keys: &KeySet, seconds: u64| {
        let options = BackupOptions {
            taken: Some(SystemTime::now() + Duration::from_secs(seconds)),
            ..BackupOptions::default()
        };
        let (source, control) = (Source::File(small_database()), Control::default());
        backup(&repo.repository, keys, source, &options, &control).await.unwrap().id
    };
    let far = ahead(&keys(&[NEW]), 3600).await;
    let forged = ahead(&thief(), 200).await;
    let first = backup_file(&repo.repository, &owner()).await.unwrap();
    assert!(first.id < forged && first.id < far);
    let other = ahead(&keys(&[NEW]), 100).await;
    let next = backup_file(&repo.repository, &owner()).await.unwrap();
    assert!(next.id > other && next.id < forged);
    assert_eq!(next.id.unix_ms(), other.unix_ms() + 1);
    assert!(next.warnings.iter().any(|warning| warning.contains("clock")), "{:?}", next.warnings);
    let listing = snapshots(&repo.repository, None).await.unwrap();
    let found = latest(&repo.repository, &owner(), &listing, None).await.unwrap().0;
    assert_eq!(found, next.id);
}

/// The independent reader agrees on what is latest: a planted tombstone hides nothing, and what is ahead is the latest only
/// if nothing else counts ([S3.3.5], [S3.3.6]).
#[tokio::test]
async fn the_independent_reader_agrees_on_the_latest() {
    let repo = TestRepo::new().await;
    let options = BackupOptions {
        taken: Some(SystemTime::now() + Duration::from_secs(3600)),
        ..BackupOptions::default()
    };
    let (source, control) = (Source::File(small_database()), Control::default());
    let id = backup(&repo.repository, &keys(&[NEW]), source, &options, &control).await.unwrap().id;
    let script = "import open, pathlib, sys; repo = pathlib.Path(sys.argv[1]); \
        print(open.latest(repo, open.Keys(repo, pathlib.Path(sys.argv[2])), None))";
    let keyring = repo.path("keyring");
    fs::write(
        &keyring,
        format!(
            "strongroom-keyring/1\n{} local primary 2026-01-31T12:00:00Z {}\n",
            key(NEW).id(),
            data_encoding::BASE64_NOPAD.encode(&[NEW; 32])
        ),
    )
    .unwrap();
    let agree = |expected: SnapshotId| {
        let output = python()
            .args(["-c", script])
            .arg(repo.dir.path())
            .arg(&keyring)
            .current_dir(vector("."))
            .output()
            .unwrap();
        assert!(text(&output.stdout).contains(&expected.to_string()), "{}", text(&output.stderr));
    };
    agree(id);
    let newer = repo.backup(&keys(&[NEW])).await.id;
    agree(newer);
    fs::copy(repo.object(newer, "manifest"), repo.object(newer, "tombstone")).unwrap();
    agree(newer);
}

/// [S5.18]: who knows a snapshot's id needs no right to list.
#[tokio::test]
async fn a_snapshot_by_its_id_where_nothing_is_listed() {
    let victim = Victim::new().await;
    let id = victim.genuine[1];
    fs::rename(victim.repo.object(id, "seal.2"), victim.repo.object(id, "seal.1")).unwrap();
    let blind = Faulty::blind(local(victim.repo.dir.path()));
    let blind = victim.repo.through(Arc::new(blind)).await.unwrap();
    let error = snapshots(&blind, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    // The name and the line disagree: still by name, still checked.
    let error = restore_bytes(&blind, &owner(), id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tampered, "{error}");
    restore_bytes(&blind, &owner(), victim.genuine[0]).await.unwrap();
    assert_eq!(show(&blind, &owner(), victim.genuine[0]).await.unwrap().standing, Standing::Counts);
    let error = restore_bytes(&blind, &owner(), SnapshotId(7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

/// A stanza that no key here opens is somebody's: its seal is deleted only if the new one has it, or on demand.
#[tokio::test]
async fn a_seal_with_somebodys_stanza_stays() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[OLD, 3])).await.id;
    let control = Control::default();
    let sealing = states(&[(OLD, KeyState::Retiring), (NEW, KeyState::Primary)]);
    // Somebody's stanza is kept, so nothing is lost with the first seal.
    reseal(&repo.repository, &sealing, Scope::All, &[], Accept::Counting, &control).await.unwrap();
    assert!(!repo.object(id, "seal.1").exists() && repo.object(id, "seal.2").exists());
    repo.restore(&keys(&[3]), id).await.unwrap();
    // An older seal that holds more than the newest.
    let newest = Seal::parse(&fs::read(repo.object(id, "seal.2")).unwrap()).unwrap();
    let opened = open_seal(&newest, newest.body().object(), &sealing).unwrap();
    let new = NewSeal::first(newest.body().object());
    let more = seal_data_key(&opened.data_key, new, &keys(&[NEW, 4]), &mut system_rng()).unwrap();
    fs::write(repo.object(id, "seal.1"), more.print()).unwrap();
    let report =
        reseal(&repo.repository, &sealing, Scope::All, &[], Accept::Counting, &control).await;
    let lingering = report.unwrap().lingering;
    let four = key(4).id();
    assert!(lingering[0].contains(&format!("--drop {four}")), "{lingering:?}");
    assert!(repo.object(id, "seal.1").exists());
    reseal(&repo.repository, &sealing, Scope::All, &[four], Accept::Counting, &control)
        .await
        .unwrap();
    assert!(!repo.object(id, "seal.1").exists());
}

/// What was removed and can be brought back is sealed again too: else a rotation would make the removal final.
#[tokio::test]
async fn a_removed_snapshot_is_sealed_again() {
    let repo = TestRepo::new().await;
    let (control, accept) = (Control::default(), Accept::Counting);
    let id = repo.backup(&keys(&[OLD])).await.id;
    let plan = plan_removal(&repo.repository, &keys(&[OLD]), &[id]).await.unwrap();
    apply_prune(&repo.repository, &plan, &control).await.unwrap();
    let error =
        check_removable(&repo.repository, &owner(), key(OLD).id(), false).await.unwrap_err();
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    let rotating = states(&[(OLD, KeyState::Retiring), (NEW, KeyState::Primary)]);
    let drop = [key(OLD).id()];
    let report = reseal(&repo.repository, &rotating, Scope::All, &drop, accept, &control);
    assert_eq!(report.await.unwrap().resealed, [id]);
    check_removable(&repo.repository, &owner(), key(OLD).id(), false).await.unwrap();
    undo_removal(&repo.repository, &owner(), id).await.unwrap();
    repo.restore(&states(&[(NEW, KeyState::Primary)]), id).await.unwrap();
}

/// A tombstone that a retired key vouches for brings nothing back.
#[tokio::test]
async fn a_forged_tombstone_is_not_undone() {
    let victim = Victim::new().await;
    let forged = taken(&victim.repo, &thief(), 0).await;
    fs::rename(victim.repo.object(forged, "manifest"), victim.repo.object(forged, "tombstone"))
        .unwrap();
    let error = undo_removal(&victim.repo.repository, &owner(), forged).await.unwrap_err();
    assert!(error.to_string().contains("not trusted"), "{error}");
    assert!(!victim.repo.object(forged, "manifest").exists());
}

/// Source and copy were each sealed again: the copy says so instead of passing over it.
#[tokio::test]
async fn a_copy_with_seals_of_its_own() {
    let repo = TestRepo::new().await;
    let control = Control::default();
    let id = repo.backup(&keys(&[OLD])).await.id;
    let dir = tempfile::tempdir().unwrap();
    let (replica, _) = open_replica(&repo.repository, local(dir.path()), false).await.unwrap();
    copy(&repo.repository, &replica, &keys(&[OLD]), Scope::All, &control).await.unwrap();
    let rotating = states(&[(OLD, KeyState::Retiring), (NEW, KeyState::Primary)]);
    for repository in [&repo.repository, &replica] {
        reseal(repository, &rotating, Scope::All, &[], Accept::Counting, &control).await.unwrap();
    }
    let again = copy(&repo.repository, &replica, &rotating, Scope::All, &control).await.unwrap();
    assert_eq!((again.present, again.differing), (1, vec![format!("snapshots/{id}/seal.2")]));
}

/// A report counts as a snapshot does, and is readable without a key but for its details.
#[tokio::test]
async fn a_report_under_a_retired_key() {
    let victim = Victim::new().await;
    let report = Report {
        kind: "drill".into(),
        cluster: None,
        snapshot: Some(victim.genuine[0]),
        level: None,
        key: None,
        scope: ReportScope::One,
        outcome: ReportOutcome::Passed,
        tool: "forged".into(),
        details: Some(Default::default()),
    };
    store_report(&victim.repo.repository, &thief(), &report).await.unwrap();
    // It does not make retention keep the snapshot that it names.
    assert_eq!(victim.plan(1).await.keep.len(), 1);
    let listed = reports(&victim.repo.repository, &owner()).await.unwrap().listed;
    assert_eq!(listed[0].standing, RETIRED);
    assert_eq!(listed[0].report.as_ref().unwrap(), &report);
    let listed = reports(&victim.repo.repository, &KeySet::new()).await.unwrap().listed;
    assert_eq!(listed[0].standing, Standing::Unverified);
    let readable = Report { details: None, ..report.clone() };
    assert_eq!(listed[0].report.as_ref().unwrap(), &readable);
    store_report(&victim.repo.repository, &owner(), &report).await.unwrap();
    assert_eq!(victim.plan(1).await.keep.len(), 2);
    // The independent reader reads both lines and the details.
    let script = "import open, pathlib, sys; repo = pathlib.Path(sys.argv[1]); \
        keys = open.Keys(repo, pathlib.Path(sys.argv[2])); \
        print(*[(h['outcome'], d['checks'], w) for h, d, w in [open.open_report(repo, sys.argv[3], keys, open.repository_id(repo))]])";
    let keyring = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("keys/test-only/keyring");
    let mut command = python();
    command.current_dir(vector("")).args(["-c", script]).arg(victim.repo.dir.path()).arg(keyring);
    let out = command.arg(listed[0].id.to_string()).output().unwrap();
    assert_eq!(text(&out.stdout), "('passed', [], 0)\n", "{}", text(&out.stderr));
}

fn ids(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

fn trust(place: &Place) -> Vec<String> {
    let list = place.json(&["snapshots"]);
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| row["trust"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_rotation_in_its_steps() {
    let place = Place::new();
    place.backup();
    fs::copy(place.path("keyring"), place.path("stolen")).unwrap();
    let error = place.fail(1, &["key", "rotate", "--finish"]);
    assert!(error.contains("being retired"), "{error}");
    // Step one alone: nothing is sealed to the new key yet, so that the old one cannot go.
    place.succeed(&["key", "rotate", "--offline"]);
    assert_eq!(trust(&place), ["trusted, by a key that is being retired"]);
    let error = place.fail(1, &["key", "rotate", "--finish"]);
    assert!(error.contains("newest snapshot of cluster default"), "{error}");
    assert!(place.fail(1, &["key", "rotate", "--offline"]).contains("not finished"));
    // Step two, as if it had been interrupted: no further key is made.
    let went_on = place.json(&["key", "rotate"]);
    assert!(went_on["id"].is_null(), "{went_on}");
    assert_eq!(went_on["snapshots"]["resealed"], 1);
    assert_eq!(trust(&place), ["trusted"]);
    // Another host still seals with the old key: that counts, and everyone is told to finish.
    exits(
        0,
        &mut place
            .command_with("file:stolen", &["backup", "--file", small_database().to_str().unwrap()]),
    );
    assert_eq!(trust(&place), ["trusted", "trusted, by a key that is being retired"]);
    let said = text(&place.succeed(&["verify", "latest", "--quick"]).stderr);
    assert!(said.contains("key rotate --finish"), "{said}");
    assert!(place.fail(1, &["key", "rotate", "--finish"]).contains("give the host"));
    place.backup();
    let out = place.succeed(&["-w", "json", "key", "rotate", "--finish"]);
    assert!(!text(&out.stderr).contains("is being retired"), "{}", text(&out.stderr));
    let finished: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(finished["snapshots"]["failed"].as_array().unwrap().len(), 0);
    assert_eq!(trust(&place), ["trusted"; 3]);
    // From now on the old key makes nothing that counts.
    let database = small_database();
    let backup = ["-w", "json", "backup", "--file", database.to_str().unwrap()];
    let out = place.command_with("file:stolen", &backup).output().unwrap();
    let forged: Value = serde_json::from_slice(&out.stdout).unwrap();
    let forged = forged["id"].as_str().unwrap();
    assert_eq!(trust(&place)[3], "not trusted: sealed by a retired key");
    // The independent reader sees it so too.
    let read = |which: &str| {
        let mut command = python();
        command.arg(vector("open.py")).arg(place.path("repo")).arg(which);
        text(&command.arg("--keyring").arg(place.path("keyring")).output().unwrap().stderr)
    };
    assert!(read(forged).contains("is not trusted"), "{}", read(forged));
    assert_eq!(read("latest"), "");
    let error = place.fail(1, &["restore", forged, "-o", "out.db"]);
    assert!(error.contains("not trusted: sealed by a retired key"), "{error}");
    assert!(error.contains("--accept-untrusted"), "{error}");
    let error = place.fail(2, &["restore", "latest", "--accept-untrusted", "-o", "out.db"]);
    assert!(error.contains("full id"), "{error}");
    place.succeed(&["restore", forged, "--accept-untrusted", "-o", "out.db"]);
    let latest = place.json(&["show", "latest"]);
    assert_ne!(latest["id"], forged);
    assert_eq!(place.json(&["show", forged])["trust"], "not trusted: sealed by a retired key");
    assert!(place.fail(3, &["verify", forged]).contains("not trusted"));
    assert!(place.fail(3, &["key", "reseal", "--all"]).contains("is not sealed again"));
    // Somebody has looked at it.
    place.succeed(&["key", "reseal", forged, "--accept-untrusted"]);
    assert_eq!(trust(&place), ["trusted"; 4]);
    let list = text(&exits_with_nothing(&place));
    assert!(list.contains("unverified") && !list.contains(" trusted"), "{list}");
}

/// The list without any key.
fn exits_with_nothing(place: &Place) -> Vec<u8> {
    let mut command = crate::end_to_end::program();
    command.current_dir(place.dir.path()).args(["-r", "repo", "snapshots"]).output().unwrap().stdout
}

#[test]
fn a_stolen_key_is_retired_at_once() {
    let place = Place::new();
    let genuine = place.backup();
    fs::copy(place.path("keyring"), place.path("stolen")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let stolen = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(1100));
    let database = small_database();
    let backup = ["-w", "json", "backup", "--file", database.to_str().unwrap()];
    let out = place.command_with("file:stolen", &backup).output().unwrap();
    let forged: Value = serde_json::from_slice(&out.stdout).unwrap();
    let forged = forged["id"].as_str().unwrap();
    let rotate = ["-w", "json", "key", "rotate", "--compromised", &stolen];
    let out = place.run(&rotate);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["snapshots"]["resealed"], 1);
    assert_eq!(ids(&report["snapshots"]["untrusted"]), [forged]);
    assert_eq!(trust(&place), ["trusted", "not trusted: sealed by a retired key"]);
    assert_eq!(place.json(&["show", "latest"])["id"], genuine.as_str());
    // The key was rotated out before anybody knew, and the forgery went along: the present key goes, with the same time.
    let place = Place::new();
    let genuine = place.backup();
    fs::copy(place.path("keyring"), place.path("stolen")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let stolen = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(1100));
    let out = place.command_with("file:stolen", &backup).output().unwrap();
    let forged: Value = serde_json::from_slice(&out.stdout).unwrap();
    place.succeed(&["key", "rotate"]);
    place.succeed(&["key", "rotate", "--finish"]);
    assert_eq!(trust(&place), ["trusted"; 2]);
    let out = place.run(&["-w", "json", "key", "rotate", "--compromised", &stolen]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(ids(&report["snapshots"]["untrusted"]), [forged["id"].as_str().unwrap()]);
    assert_eq!(trust(&place), ["trusted", "not trusted: sealed by a retired key"]);
    assert_eq!(place.json(&["show", "latest"])["id"], genuine.as_str());
}

/// A passphrase key seals when its id is configured, and only then.
#[test]
fn a_passphrase_key_that_is_not_named_seals_nothing() {
    let place = Place::new();
    let with = |keys: &[&str], args: &[&str]| {
        let mut command = crate::end_to_end::program();
        command.current_dir(place.dir.path()).args(["-r", "words"]).args(args);
        for key in keys {
            command.args(["-k", key]);
        }
        command.env("STRONGROOM_PASSPHRASE_COMMAND", "printf horse");
        command
    };
    let made = exits(0, &mut with(&["passphrase"], &["init"]));
    let uri = made.lines().find(|line| line.starts_with("passphrase:")).unwrap().to_owned();
    let database = small_database();
    let backup = ["backup", "--file", database.to_str().unwrap()];
    let error = exits(1, &mut with(&["passphrase"], &backup));
    assert!(error.contains("no master key to seal"), "{error}");
    exits(0, &mut with(&[&uri], &backup));
    exits(0, &mut with(&[&uri], &["verify", "latest"]));
    // A bare passphrase opens, for who names the snapshot, and vouches for nothing.
    let error = exits(1, &mut with(&["passphrase"], &["verify", "latest"]));
    assert!(error.contains("passphrase:KEYID"), "{error}");
    // Rotation: a new key behind the same passphrase.
    let rotated = exits(0, &mut with(&[&uri], &["key", "rotate"]));
    let new = rotated.lines().find_map(|line| line.split(": new primary key").next()).unwrap();
    let (new, old) = (new.to_owned(), format!("{uri}?retiring"));
    assert!(rotated.contains(&format!("--master-key {new} --master-key {old}")), "{rotated}");
    exits(0, &mut with(&[&new, &old], &backup));
    exits(0, &mut with(&[&new, &old], &["key", "rotate", "--finish"]));
    exits(0, &mut with(&[&new], &["verify", "--all"]));
    // The old key's object is still there: what it seals now does not count.
    exits(0, &mut with(&[&uri], &backup));
    let error = exits(12, &mut with(&[&new], &["verify", "--all"]));
    assert!(error.contains("locked"), "{error}");
    let error = exits(3, &mut with(&[&new, "passphrase"], &["verify", "--all"]));
    assert!(error.contains("not trusted: sealed by a retired key"), "{error}");
}
