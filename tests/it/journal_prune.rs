//! Retention of change journals: what ends before the window goes, what a restore within it needs stays.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use strongroom::ErrorKind;
use strongroom::backup::{
    Accept, PrunePlan, PruneReport, Retention, Scope, apply_prune, check_removable, journals,
    newest_reports, pin, plan_prune, plan_removal, prune_report, reseal, store_report,
    undo_removal, unpin,
};
use strongroom::crypto::{self, Label, Suite, system_rng};
use strongroom::envelope::{DataKey, NewSeal};
use strongroom::format::{
    ClusterName, EndBody, EndObjects, EndReason, HeadBody, JournalEnd, JournalFacts, JournalHead,
    JournalPart, KeyState, SegmentEntry, Sha256, SnapshotId, Subject,
};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::faulty::Faulty;
use crate::prune::{age, last};
use crate::support::{TestRepo, key, keys, local, seal_data_key};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600 + 60);

/// Stores a finished journal that began so long ago and lasted half an hour. What it recorded is not readable: prune opens
/// heads, ends and seals.
pub fn old_journal(
    test: &TestRepo,
    keys: &KeySet,
    ago: Duration,
    revisions: [u64; 2],
) -> SnapshotId {
    let begun = SystemTime::now() - ago;
    let ms = begun.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let rng = &mut system_rng();
    let id = SnapshotId::new(ms, crypto::random(rng));
    let data_key = DataKey::generate(Subject::Journal(id), rng);
    let context = crypto::labelled(Label::Facts, &[&id.to_bytes()]);
    let facts = JournalFacts {
        cluster_id: 1,
        member_id: 1,
        version: None,
        raft_term: 1,
        interval_ms: 1000,
        continues: None,
    };
    let facts = facts.print().unwrap();
    let (origin, cluster) = (test.repository.id(), ClusterName::default());
    let head = HeadBody {
        origin,
        journal: id,
        cluster: cluster.clone(),
        tool: "strongroom".into(),
        first: revisions[0],
        continues: None,
        commitment: data_key.commitment(),
        facts: crypto::seal(Suite::Aes256Gcm, &data_key.facts_key(), &context, &facts, rng)
            .unwrap(),
    };
    let mac = data_key.manifest_mac(&head.signed_bytes().unwrap());
    let head = JournalHead::finish(head, mac).unwrap().print();
    let segment = vec![7; 4200];
    let digest = |bytes: &[u8]| Sha256(crypto::sha256(&[bytes]));
    let entry = SegmentEntry { length: 4200, sha256: digest(&segment) };
    let end = EndBody {
        origin,
        journal: id,
        cluster,
        segments: 1,
        last: revisions[1],
        complete_ms: ms + 1_800_000,
        reason: EndReason::ROLLED,
        objects: EndObjects::Segments(vec![entry]),
        commitment: data_key.commitment(),
    };
    let mac = data_key.manifest_mac(&end.signed_bytes().unwrap());
    let end = JournalEnd::finish(end, mac).unwrap().print();
    let seal = |generation, object: &[u8]| {
        let new = NewSeal { generation, ..NewSeal::first(digest(object)) };
        seal_data_key(&data_key, new, keys, &mut system_rng()).unwrap().print()
    };
    let segment_part = JournalPart::Segment { number: 1, last: revisions[1] };
    let put = |part: JournalPart, bytes: &[u8]| {
        let path = test.path(&part.of(id));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put(JournalPart::Seal(1), &seal(1, &head));
    put(JournalPart::Head, &head);
    put(segment_part, &segment);
    put(JournalPart::End(2), &end);
    put(JournalPart::Seal(2), &seal(2, &end));
    id
}

fn retention(continuous: Option<&str>) -> Retention {
    Retention { continuous: continuous.map(|span| span.parse().unwrap()), ..last(1) }
}

struct Recorded {
    test: TestRepo,
    keys: KeySet,
    /// Two that ended before the last day, and one that follows the first snapshot.
    journals: [SnapshotId; 3],
    snapshots: [SnapshotId; 2],
}

impl Recorded {
    async fn new() -> Self {
        let (test, keys) = (TestRepo::new().await, keys(&[1]));
        let first = test.backup(&keys).await;
        let snapshots = [first.id, test.backup(&keys).await.id];
        let journals = [
            old_journal(&test, &keys, 100 * HOUR, [2, 2]),
            old_journal(&test, &keys, 50 * HOUR, [2, 3]),
            old_journal(&test, &keys, HOUR / 2, [3, first.revision + 5]),
        ];
        Self { test, keys, journals, snapshots }
    }

    async fn plan(&self, continuous: Option<&str>) -> PrunePlan {
        let (repository, control) = (&self.test.repository, Control::default());
        plan_prune(repository, &self.keys, &retention(continuous), None, &control).await.unwrap()
    }

    async fn apply(&self, plan: &PrunePlan) -> PruneReport {
        apply_prune(&self.test.repository, plan, &Control::default()).await.unwrap()
    }

    fn object(&self, id: SnapshotId, part: JournalPart) -> PathBuf {
        self.test.path(&part.of(id))
    }

    fn folder(&self, id: SnapshotId) -> PathBuf {
        self.test.path(&format!("journals/{id}"))
    }

    /// Everything is a day older, and something new tells the store's time.
    async fn a_day_passes(&self) {
        age(self.test.dir.path(), DAY);
        self.test.backup(&self.keys).await;
    }
}

fn removed(plan: &PrunePlan) -> Vec<SnapshotId> {
    plan.journals.remove.iter().map(|removal| removal.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_stay_without_a_window() {
    let recorded = Recorded::new().await;
    let plan = recorded.plan(None).await;
    assert!(removed(&plan).is_empty() && plan.journals.kept == 3);
    assert_eq!(plan.remove[0].id, recorded.snapshots[0]);
    let said = plan.findings.iter().filter(|said| said.contains("--keep-continuous"));
    assert_eq!(said.count(), 1, "{:?}", plan.findings);
    // It keeps no snapshot by itself.
    let only = Retention { last: 0, ..retention(Some("1d")) };
    let (repository, control) = (&recorded.test.repository, Control::default());
    let error = plan_prune(repository, &recorded.keys, &only, None, &control).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// [S3.3.1] [S3.3.2] [S3.3.3] for journals.
#[tokio::test(flavor = "multi_thread")]
async fn journals_are_removed_with_their_window() {
    let recorded = Recorded::new().await;
    let [first, second, third] = recorded.journals;
    assert_eq!(removed(&recorded.plan(Some("3d")).await), [first]);
    let plan = recorded.plan(Some("1d")).await;
    assert_eq!(removed(&plan), [first, second]);
    assert_eq!((plan.journals.kept, plan.findings.len(), plan.remove.len()), (1, 0, 0));
    assert_eq!(plan.keep[0].id, recorded.snapshots[0]);
    assert_eq!(plan.keep[0].reasons, ["continuous base"]);
    let report = recorded.apply(&plan).await;
    assert_eq!(report.removed_journals, [first, second]);
    for id in [first, second] {
        assert!(!recorded.object(id, JournalPart::Head).exists());
        assert!(recorded.object(id, JournalPart::Tombstone).exists());
    }
    assert!(recorded.object(third, JournalPart::Head).exists());
    // The evidence names them.
    let evidence = prune_report(&plan, &report, None, Duration::ZERO);
    store_report(&recorded.test.repository, &recorded.keys, &evidence).await.unwrap();
    let reports = newest_reports(&recorded.test.repository, &recorded.keys, &[()], |report| {
        (report.kind == "prune").then_some(())
    })
    .await
    .unwrap();
    let name = format!("journal {first}");
    let checks = reports[0].2.checks();
    assert!(checks.iter().any(|check| check.name == name), "{checks:?}");
    // Nothing happens within the grace period.
    assert!(recorded.plan(Some("1d")).await.is_empty());

    let repository = &recorded.test.repository;
    let error = undo_removal(repository, &keys(&[9]), first).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let segment = recorded.object(first, JournalPart::Segment { number: 1, last: 2 });
    let bytes = fs::read(&segment).unwrap();
    fs::remove_file(&segment).unwrap();
    let error = undo_removal(repository, &recorded.keys, first).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    fs::write(&segment, bytes).unwrap();
    undo_removal(repository, &recorded.keys, first).await.unwrap();
    assert!(recorded.object(first, JournalPart::Head).exists());
    assert!(!recorded.object(first, JournalPart::Tombstone).exists());
    let error = undo_removal(repository, &recorded.keys, first).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // It is pinned until it is unpinned.
    assert!(recorded.plan(Some("1d")).await.is_empty());
    recorded.a_day_passes().await;
    let plan = recorded.plan(Some("1d")).await;
    assert_eq!(
        (removed(&plan).len(), plan.swept_journals().collect::<Vec<_>>()),
        (0, vec![second])
    );
    assert!(recorded.apply(&plan).await.freed_bytes > 4200);
    assert!(fs::read_dir(recorded.folder(second)).map_or(0, Iterator::count) == 0);
    unpin(repository, first).await.unwrap();
    assert_eq!(removed(&recorded.plan(Some("1d")).await), [first]);
}

/// A removed journal that can be brought back is sealed again like the others, and keeps the key that opens it.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_journal_is_sealed_again() {
    let recorded = Recorded::new().await;
    let (repository, control) = (&recorded.test.repository, Control::default());
    let [first, ..] = recorded.journals;
    let plan = recorded.plan(Some("1d")).await;
    recorded.apply(&plan).await;
    assert!(!recorded.object(first, JournalPart::Head).exists());
    let mut both = KeySet::new();
    both.add(Arc::new(key(1)), KeyState::Retiring);
    let old = key(1).id();
    both.add(Arc::new(key(77)), KeyState::Primary);
    let error = check_removable(repository, &both, old, true).await.unwrap_err();
    assert!(error.to_string().contains("journal"), "{error}");
    let done = reseal(repository, &both, Scope::All, &[], Accept::Counting, &control).await;
    assert!(done.unwrap().journals.contains(&first));
    check_removable(repository, &both, old, true).await.unwrap();
    undo_removal(repository, &keys(&[77]), first).await.unwrap();
}

/// While a listed journal or snapshot cannot be read, nothing is removed that it may need.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_needed_is_removed_while_an_object_is_unreadable() {
    let recorded = Recorded::new().await;
    let found = recorded.plan(Some("1d")).await;
    assert!(!found.journals.remove.is_empty() && found.blocked.is_empty(), "{found:?}");
    let journal = recorded.journals[1];
    for part in ["/head", "/manifest", &format!("{journal}/seal.2"), &format!("{journal}/end.2")] {
        let store = Faulty::stumbling(local(recorded.test.dir.path()), part);
        let repository = recorded.test.through(Arc::new(store.clone())).await.unwrap();
        let (retention, control) = (retention(Some("1d")), Control::default());
        let plan = plan_prune(&repository, &recorded.keys, &retention, None, &control).await;
        let plan = plan.unwrap();
        assert!(store.has_stumbled());
        assert_eq!(plan.journals.remove, vec![], "{part}");
        assert!(plan.blocked[0].contains("some listed objects cannot be read"), "{plan:?}");
        assert!(part == "/manifest" || plan.remove.is_empty(), "{part}: {plan:?}");
    }
    // The same for `--remove`.
    let store = Faulty::stumbling(local(recorded.test.dir.path()), "/head");
    let repository = recorded.test.through(Arc::new(store)).await.unwrap();
    let removal = plan_removal(&repository, &recorded.keys, &[recorded.snapshots[1]]).await;
    let error = removal.map(drop).unwrap_err();
    assert!(error.to_string().contains("some listed journals cannot be read"), "{error}");
}

/// A journal whose end cannot be read now is not sealed again: the new key would open it only up to its head.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_an_end_needs_is_not_given_up() {
    let test = TestRepo::new().await;
    let id = old_journal(&test, &keys(&[1]), HOUR, [2, 3]);
    let mut both = KeySet::new();
    both.add(Arc::new(key(1)), KeyState::Retiring);
    both.add(Arc::new(key(77)), KeyState::Primary);
    let old = key(1).id();
    let control = Control::default();
    let again = async |repository: &Repository| {
        reseal(repository, &both, Scope::All, &[old], Accept::Counting, &control).await.unwrap()
    };
    for part in ["/end.2", "/seal.2"] {
        let store = Faulty::stumbling(local(test.dir.path()), part);
        let repository = test.through(Arc::new(store.clone())).await.unwrap();
        let done = again(&repository).await;
        assert!(store.has_stumbled() && done.journals.is_empty(), "{part}: {done:?}");
        check_removable(&test.repository, &both, old, true).await.unwrap_err();
    }
    assert_eq!(again(&test.repository).await.journals, [id]);
    let listed = journals(&test.repository, &keys(&[77]), None).await.unwrap();
    assert_eq!(listed.journals[0].last, 3);
    // What cannot be read may need the key.
    for part in ["/head", "/end.2"] {
        let store = Faulty::stumbling(local(test.dir.path()), part);
        let repository = test.through(Arc::new(store)).await.unwrap();
        let error = check_removable(&repository, &both, old, true).await.unwrap_err();
        assert!(error.to_string().contains("a listed journal cannot be read"), "{part}: {error}");
    }
    check_removable(&test.repository, &both, old, true).await.unwrap();
}

/// What is planted is named, pushes nothing out and stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn planted_journals_push_nothing_out() {
    let recorded = Recorded::new().await;
    let [first, second, third] = recorded.journals;
    // Another journal's head and seals; bytes of any kind; one that keys which are not trusted here sealed, and that is
    // newer than all; a name that is unknown, in a genuine folder.
    let ms = first.unix_ms();
    let replayed = SnapshotId::new(ms, [1; 10]);
    crate::vectors::copy_tree(&recorded.folder(first), &recorded.folder(replayed));
    let junk = SnapshotId::new(ms, [2; 10]);
    fs::create_dir(recorded.folder(junk)).unwrap();
    fs::write(recorded.object(junk, JournalPart::Head), "x").unwrap();
    let foreign = old_journal(&recorded.test, &keys(&[9]), Duration::ZERO, [2, 1 << 40]);
    fs::write(recorded.folder(second).join("later"), "x").unwrap();
    // A tombstone that nothing authenticates, with an age.
    let buried = SnapshotId::new(ms, [3; 10]);
    fs::create_dir(recorded.folder(buried)).unwrap();
    fs::write(recorded.object(buried, JournalPart::Tombstone), "x").unwrap();
    recorded.a_day_passes().await;
    let plan = recorded.plan(Some("1d")).await;
    assert_eq!(removed(&plan), [first]);
    assert_eq!(plan.swept_journals().count(), 0);
    assert!(plan.blocked[0].contains(&second.to_string()), "{:?}", plan.blocked);
    for id in [replayed, junk, foreign, buried] {
        let is_named = |said: &&String| said.contains(&id.to_string());
        assert_eq!(plan.findings.iter().filter(is_named).count(), 1, "{id}: {:?}", plan.findings);
    }
    assert!(plan.keep.iter().any(|one| one.id == recorded.snapshots[0]));
    recorded.apply(&plan).await;
    assert!(recorded.object(third, JournalPart::Head).exists());
    // A tombstone beside the head of what is kept hides nothing, and goes.
    fs::copy(
        recorded.object(third, JournalPart::Head),
        recorded.object(third, JournalPart::Tombstone),
    )
    .unwrap();
    let plan = recorded.plan(Some("1d")).await;
    recorded.apply(&plan).await;
    assert!(recorded.object(third, JournalPart::Head).exists());
    assert!(!recorded.object(third, JournalPart::Tombstone).exists());
}

/// What a recorder left that died before its head was there goes after two days.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_head_is_swept() {
    let recorded = Recorded::new().await;
    let [first, ..] = recorded.journals;
    fs::remove_file(recorded.object(first, JournalPart::Head)).unwrap();
    for swept in [false, false, true] {
        let plan = recorded.plan(None).await;
        assert_eq!(plan.swept_journals().any(|id| id == first), swept);
        recorded.apply(&plan).await;
        recorded.a_day_passes().await;
    }
    assert!(fs::read_dir(recorded.folder(first)).map_or(0, Iterator::count) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_are_removed_by_name_and_their_only_base_is_not() {
    let recorded = Recorded::new().await;
    let ([first, _, third], [one, two]) = (recorded.journals, recorded.snapshots);
    let (repository, keys) = (&recorded.test.repository, &recorded.keys);
    let plan = plan_removal(repository, keys, &[first]).await.unwrap();
    assert_eq!((removed(&plan), plan.remove.len()), (vec![first], 0));
    assert_eq!(recorded.apply(&plan).await.removed_journals, [first]);
    assert_eq!(plan_removal(repository, keys, &[one]).await.unwrap().remove.len(), 1);
    let error = plan_removal(repository, keys, &[one, two]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&third.to_string()), "{error}");
    let plan = plan_removal(repository, keys, &[one, two, third]).await.unwrap();
    assert_eq!((removed(&plan), plan.remove.len()), (vec![third], 2));
    pin(repository, third, "needed").await.unwrap();
    let error = plan_removal(repository, keys, &[third]).await.unwrap_err();
    assert!(error.to_string().contains("pinned"), "{error}");
    // Segments alone are of no use, and somebody has to look at that.
    fs::remove_file(recorded.object(third, JournalPart::Head)).unwrap();
    let listed = journals(repository, keys, None).await.unwrap();
    let planned = recorded.plan(None).await;
    for findings in [listed.findings, planned.findings] {
        let said = findings.iter().filter(|said| said.contains("segments and no head"));
        assert_eq!(said.count(), 1, "{findings:?}");
    }
}
