//! Somebody who can create objects in the repository plants some beside a journal: every recorded change still restores.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use strongroom::ErrorKind;
use strongroom::backup::{
    Accept, Moment, Recorded, Scope, journals, plan_restore, reseal, verify_journals, vouch,
};
use strongroom::crypto::system_rng;
use strongroom::format::SnapshotId;
use strongroom::keys::{KeySet, Signer, SigningKey};
use strongroom::store::Repository;
use strongroom::task::Control;

use crate::blind::Blind;
use crate::etcd_server::{Etcd, Version};
use crate::faulty::Faulty;
use crate::journal_store::{Recording, put};
use crate::journal_vectors::copy;
use crate::support::{TestRepo, keys, local, vector};

const JOURNAL: &str = "01M8D98CF9R1XFRHXMRX2V8YEN";
const SNAPSHOT: &str = "01M8D98CCF4510T8JAX8146E3A";
/// The last revision that the journal holds.
const LAST: i64 = 5;

/// A copy of the golden journal's repository.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&vector("repositories/journal"), dir.path());
        Self { dir }
    }

    async fn repository(&self) -> Repository {
        Repository::open(local(self.dir.path()), None).await.unwrap()
    }

    fn part(&self, name: &str) -> PathBuf {
        self.dir.path().join("journals").join(JOURNAL).join(name)
    }

    fn plant(&self, name: &str, bytes: &[u8]) {
        fs::write(self.part(name), bytes).unwrap();
    }

    /// As if its recorder had been killed.
    fn without_end(self) -> Self {
        ["end.2", "seal.2"].iter().for_each(|name| fs::remove_file(self.part(name)).unwrap());
        self
    }

    /// What somebody without a key can put beside each segment.
    fn plant_segments(&self) {
        for (number, last) in [(1, 1), (2, 2), (3, 3), (4, 5), (5, 5)] {
            let genuine = self.part(&format!("segment.{number}.{last}"));
            let length = fs::metadata(&genuine).unwrap().len() as usize;
            for last in 100..140 {
                self.plant(&format!("segment.{number}.{last}"), &vec![7; length]);
            }
            let long = self.part(&format!("segment.{number}.0"));
            File::create(long).unwrap().set_len(100 << 20).unwrap();
        }
    }

    async fn newest(&self, keys: &KeySet) -> strongroom::Result<Recorded> {
        let repository = self.repository().await;
        let dir = tempfile::tempdir().unwrap();
        plan_restore(&repository, keys, None, None, Moment::Newest, dir.path()).await
    }

    /// All that was recorded restores, and nothing is missing.
    async fn is_all_there(&self) {
        let plan = self.newest(&keys(&[1])).await.unwrap();
        assert_eq!((plan.revision, plan.journals.len()), (LAST, 1), "{:?}", plan.findings);
        assert_eq!(plan.findings, Vec::<String>::new());
    }
}

#[tokio::test]
async fn objects_beside_segments() {
    let copy = Copy::new();
    copy.plant_segments();
    copy.is_all_there().await;
    let copy = copy.without_end();
    copy.is_all_there().await;
}

#[tokio::test]
async fn seals_and_ends_above_the_genuine_ones() {
    let copy = Copy::new();
    for number in 100..200 {
        copy.plant(&format!("seal.{number}"), b"junk\n");
        copy.plant(&format!("end.{number}"), b"junk\n");
    }
    let plan = copy.newest(&keys(&[1])).await.unwrap();
    assert_eq!(plan.revision, LAST, "{:?}", plan.findings);
    let listed = journals(&copy.repository().await, &keys(&[1]), None).await.unwrap();
    assert_eq!(listed.journals[0].ended, Some("the recorder was stopped"));
}

/// [S13.8]: a manifest that nothing authenticates tells nothing about the age of a journal.
#[tokio::test]
async fn a_manifest_that_is_newer() {
    let copy = Copy::new().without_end();
    let genuine: SnapshotId = SNAPSHOT.parse().unwrap();
    let snapshots = copy.dir.path().join("snapshots");
    let later = SnapshotId::new(genuine.unix_ms() + 2 * 3_600_000, [7; 10]).to_string();
    fs::create_dir(snapshots.join(&later)).unwrap();
    let manifest = fs::read_to_string(snapshots.join(SNAPSHOT).join("manifest")).unwrap();
    let planted = snapshots.join(&later).join("manifest");
    fs::write(planted, manifest.replace(SNAPSHOT, &later)).unwrap();
    copy.is_all_there().await;
}

/// What names tell is not believed, and a journal that is cut is a finding.
#[tokio::test]
async fn names_of_segments() {
    let copy = Copy::new().without_end();
    copy.plant("segment.9.9999999", b"");
    let repository = copy.repository().await;
    let listed = journals(&repository, &keys(&[1]), None).await.unwrap();
    let journal = &listed.journals[0];
    assert!(!journal.last_is_known && journal.last < journal.first, "{journal:?}");
    let verified = verify_journals(&repository, &keys(&[1]), None).await.unwrap();
    assert_eq!(verified.journals[0].last, LAST);
    assert!(verified.findings[0].contains("behind number 5: 1 segment"), "{verified:?}");
    fs::remove_file(copy.part("segment.3.3")).unwrap();
    let plan = copy.newest(&keys(&[1])).await.unwrap();
    assert_eq!(plan.revision, 2);
    assert!(!plan.findings.is_empty());
}

/// The last generation there is does not stop re-sealing.
#[tokio::test]
async fn a_seal_of_the_last_generation() {
    let copy = Copy::new();
    copy.plant("seal.4294967295", b"junk\n");
    let (repository, control) = (copy.repository().await, Control::default());
    let (sealing, accept) = (keys(&[1, 2, 3]), Accept::Counting);
    let report = reseal(&repository, &sealing, Scope::All, &[], accept, &control).await.unwrap();
    assert_eq!((report.journals.len(), report.failed.len()), (1, 0), "{report:?}");
    assert_eq!(copy.newest(&keys(&[3])).await.unwrap().revision, LAST);
}

/// Who vouches for all signs journals, too; before that, readers who trust signers are told why they do not count.
#[tokio::test]
async fn journals_are_signed() {
    let copy = Copy::new();
    let repository = copy.repository().await;
    let signing = SigningKey::generate(&mut system_rng());
    let mut reader = keys(&[1]);
    reader.trust(Signer::new(signing.public()));
    let before = journals(&repository, &reader, None).await.unwrap();
    assert_eq!((before.journals.len(), before.unopened), (0, 1));
    assert!(before.findings[0].contains("not signed by a trusted signer"), "{before:?}");
    let mut owner = keys(&[1, 2]);
    owner.sign_with(signing);
    let (accept, control) = (Accept::Counting, Control::default());
    let report = vouch(&repository, &owner, Scope::All, accept, &control).await.unwrap();
    assert_eq!((report.journals.len(), report.journals_left.len()), (1, 0), "{report:?}");
    assert_eq!(copy.newest(&reader).await.unwrap().revision, LAST);
    let again = vouch(&repository, &owner, Scope::All, accept, &control).await.unwrap();
    assert_eq!((again.journals.len(), again.journals_left.len()), (0, 0), "{again:?}");
    // Those that a person has to look at are named.
    let before = Accept::Before(std::time::SystemTime::now());
    let left = reseal(&repository, &keys(&[1]), Scope::All, &[], before, &control).await.unwrap();
    assert!(left.journals_left[0].contains(JOURNAL), "{left:?}");
}

/// Restores to each of the revisions, the last of which is the newest, with journals that have no gap.
async fn restores_without_a_gap(repo: &TestRepo, base: SnapshotId, revisions: &[i64]) {
    let (keys, dir) = (keys(&[1]), tempfile::tempdir().unwrap());
    let listed = journals(&repo.repository, &keys, None).await.unwrap();
    assert_eq!(listed.gaps, []);
    let last = *revisions.last().unwrap();
    let moments = revisions.iter().map(|at| (Moment::Revision(*at), *at));
    for (moment, revision) in moments.chain([(Moment::Newest, last)]) {
        let base = Some(base);
        let plan = plan_restore(&repo.repository, &keys, None, base, moment, dir.path()).await;
        assert_eq!(plan.unwrap().revision, revision);
    }
}

/// A recording goes on where somebody puts objects under the names that its next segments may have.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_recorder_will_use() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    let begun = put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    let recording = Recording::spooling(&repo, &etcd, None, None).await;
    recording.until("begins with revision", 1).await;
    let folder = || fs::read_dir(repo.dir.path().join("journals")).ok()?.next()?.ok();
    while folder().is_none_or(|folder| !folder.path().join("head").exists()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = folder().unwrap().path();
    for (number, last) in (1..30).flat_map(|number| (0..40).map(move |last| (number, last))) {
        // Not where the recorder was first.
        let path = folder.join(format!("segment.{number}.{}", begun + last));
        let _ = File::create_new(path);
    }
    let middle = put(&mut client, 10, 1).await;
    recording.until("the segment gets another name", 1).await;
    let last = put(&mut client, 10, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let report = recording.stop().await;
    assert_eq!((report.last, report.journals.len(), report.snapshots.len()), (last, 1, 1));
    restores_without_a_gap(&repo, report.snapshots[0], &[middle - 1, middle, last]).await;
}

/// Another journal follows where somebody is faster than the recorder with the name that a head has to have.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_somebody_else_wrote() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, 5, 1).await;
    let repo = TestRepo::new().await;
    let store = Faulty::taken(local(repo.dir.path()), "/head");
    let recording = Recording::on(store, &repo, &etcd, None, None).await.unwrap();
    recording.until("another journal follows what is stored", 1).await;
    recording.until("begins with revision", 2).await;
    let last = put(&mut client, 10, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let report = recording.stop().await;
    assert_eq!(report.last, last, "{report:?}");
    restores_without_a_gap(&repo, report.snapshots[0], &[last - 1, last]).await;
}

/// Wrong keys are not an empty repository.
#[tokio::test]
async fn nothing_opens() {
    let copy = Copy::new();
    let wrong = keys(&[9]);
    let error = copy.newest(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    for verifies in [false, true] {
        let repository = copy.repository().await;
        let error = match verifies {
            true => verify_journals(&repository, &wrong, None).await.unwrap_err(),
            false => journals(&repository, &wrong, None).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
        assert!(error.to_string().contains("no key here opens 1 journal"), "{error}");
    }
    let empty = TestRepo::new().await;
    let dir: &Path = empty.dir.path();
    let plan = plan_restore(&empty.repository, &wrong, None, None, Moment::Newest, dir).await;
    let error = plan.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("there is no snapshot"), "{error}");
}

/// A tombstone beside a head removes nothing; a folder under a time to come, with another journal's objects, counts for
/// nothing, and neither does one whose name a genuine head does not have.
#[tokio::test]
async fn a_tombstone_and_journals_of_other_times() {
    let copy = Copy::new();
    let head = fs::read(copy.part("head")).unwrap();
    copy.plant("tombstone", &head);
    copy.is_all_there().await;
    let genuine: SnapshotId = JOURNAL.parse().unwrap();
    let journals_dir = copy.dir.path().join("journals");
    for ms in [genuine.unix_ms() + 60_000, genuine.unix_ms() + 1000 * 365 * 86_400_000] {
        let other = journals_dir.join(SnapshotId::new(ms, [7; 10]).to_string());
        crate::journal_vectors::copy(&journals_dir.join(JOURNAL), &other);
    }
    let plan = copy.newest(&keys(&[1])).await.unwrap();
    assert_eq!((plan.revision, plan.journals.len()), (LAST, 1));
    let named = |finding: &String| finding.contains("its head names another journal");
    assert_eq!(plan.findings.iter().filter(|finding| named(finding)).count(), 2);
    let listed = journals(&copy.repository().await, &keys(&[1]), None).await.unwrap();
    assert_eq!((listed.journals.len(), listed.unopened), (1, 2));
}

/// Who knows only the public key can seal a journal to it, but not sign it: it does not count, and nothing is restored from
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_sealed_to_a_recipient_alone() {
    let blind = Blind::new();
    let etcd = Etcd::start(Version::NEWEST).await;
    etcd.put("a", "1").await;
    let base = blind.backup(&["--endpoints", etcd.endpoint()]);
    let key = format!("recipient:{}", blind.recipient);
    let log = blind.place.path("record.log");
    // With a key of its own, so that the program records at all.
    blind.place.succeed(&["key", "generate", "-o", "forger"]);
    let mut forger = blind.place.bare(&["-r", "repo", "-k", "file:forger", "-k", &key]);
    forger.args(["--endpoints", etcd.endpoint(), "journal", "record", "--interval", "1s"]);
    let mut child = forger.stderr(File::create(&log).unwrap()).spawn().unwrap();
    let begun = std::time::Instant::now();
    while !fs::read_to_string(&log).unwrap().contains("begins with revision") {
        assert!(begun.elapsed().as_secs() < 30, "{}", fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    etcd.put("a", "forged").await;
    std::thread::sleep(Duration::from_millis(2500));
    let stopped = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(stopped.unwrap().success() && child.wait().is_ok());
    let list = blind.owner(&["-w", "json", "journal", "list"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list["journals"], serde_json::json!([]), "{list}");
    assert!(list["findings"].to_string().contains("not signed by a trusted signer"), "{list}");
    let restore = ["-w", "json", "restore", base["id"].as_str().unwrap(), "--newest", "--output"];
    let out = blind.owner(&[&restore[..], &["newest.db"]].concat()).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(3), "{report}");
    assert_eq!(
        (&report["revision"], &report["journals"]),
        (&base["revision"], &serde_json::json!([]))
    );
}
