//! The drill: a snapshot is restored, an etcd started from it, and what that serves compared with the snapshot.

mod child;
mod guard;
mod place;
mod scratch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_client::GetOptions;

use self::scratch::ScratchEtcd;
use super::continuous::{Moment, Recorded, Stretches, plan_restore, stretches};
use super::member::{MemberOptions, MemberReport, restore_member, restore_recorded_member};
use super::reports::{THROUGH_JOURNALS, is_through_journals, newest_reports};
use crate::crypto;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::etcd::{Choice, Comparison, EtcdSettings, choose_member};
use crate::format::{
    CheckOutcome, ClusterName, Facts, Report, ReportCheck, ReportDetails, ReportOutcome,
    ReportScope, ReportStep, SnapshotId,
};
use crate::keys::KeySet;
use crate::mvcc::{self, EtcdVersion, HashKv, KeySpace, Revision};
use crate::snapshot::inside::{Inside, look_inside};
use crate::snapshot::open::{OpenSnapshot, read_manifest};
use crate::store::Repository;
use crate::task::Control;
use crate::text::counted;

/// Keys whose values are compared, drawn at random.
const SAMPLE: usize = 256;

pub use guard::exec_guarded;

/// How to drill.
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct DrillOptions {
    /// The etcd to start: a path, or a name that is looked up in PATH
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "drill.etcd",
            long = "etcd",
            value_name = "PROGRAM",
            env = "STRONGROOM_DRILL_ETCD",
            default_value_os_t = DrillOptions::default().etcd
        )
    )]
    pub etcd: PathBuf,
    /// Where the scratch directory is made, which holds the data unencrypted during the drill [default: /dev/shm if that
    /// is a tmpfs and twice the database fits into half of what is free, else TMPDIR]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "drill.scratch_dir",
            long = "scratch-dir",
            value_name = "DIR",
            env = "STRONGROOM_DRILL_SCRATCH_DIR"
        )
    )]
    pub dir: Option<PathBuf>,
    /// The cluster that the snapshot is of, to be compared as well where it can be reached.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub live: Option<EtcdSettings>,
    /// Take an etcd, and the database of an etcd, later than the last one tested.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub allow_untested: bool,
    /// Restore through journals every second time, where they lead to the snapshot; otherwise always the snapshot itself.
    #[cfg_attr(feature = "cli", arg(skip = true))]
    pub through_journals: bool,
}

impl Default for DrillOptions {
    fn default() -> Self {
        Self {
            etcd: "etcd".into(),
            dir: None,
            live: None,
            allow_untested: false,
            through_journals: true,
        }
    }
}

/// The version of the etcd that a drill would start.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such program; [`ErrorKind::Unsupported`] when it is not etcd, or later than
/// the last one tested.
pub async fn drill_version(options: &DrillOptions) -> Result<String> {
    let version = scratch::version(&options.etcd).await?;
    let program = options.etcd.display().to_string();
    EtcdVersion::check_tested(&program, &version, options.allow_untested)?;
    Ok(version)
}

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrillReport {
    /// The snapshot.
    pub id: SnapshotId,
    /// What was done and compared, as it is stored in the repository.
    pub report: Report,
    /// From the first byte fetched to an etcd that answers.
    pub recovery: Duration,
}

/// Restores snapshot `id` into a scratch directory, every second time from the snapshot before it and the journals between
/// them, starts etcd from it on loopback, where only this process can log in,
/// and compares revision, HashKV, key count and a sample of values with the snapshot, and HashKV with the live cluster.
///
/// Whatever happens, etcd is stopped and the directory removed. If this process is killed, the next drill removes the
/// directory, and etcd ends at once if `main` began with [`exec_guarded`]. A difference is in the report, and no error.
///
/// # Errors
/// Those of [`restore_member`]; [`ErrorKind::NotFound`] when there is no such etcd, [`ErrorKind::Unsupported`] when it is
/// of another version than the snapshot's or the next, or later than the last one tested; [`ErrorKind::Io`] when it does not start.
pub async fn drill(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    options: &DrillOptions,
    control: &Control,
) -> Result<DrillReport> {
    let version = drill_version(options).await?;
    let mut steps = Steps::default();
    // Decides only where the scratch directory is; the restore authenticates it.
    let manifest = read_manifest(repository, id).await?;
    let mut etcd = ScratchEtcd::plan(options, manifest.body().database_bytes)?;
    let member = MemberOptions {
        data_dir: etcd.data_dir(),
        name: scratch::NAME.into(),
        initial_cluster: Some(etcd.initial_cluster()),
        bump: Some(0),
        // Users are the snapshot's, and nobody here knows their passwords; who may log in is told by certificate.
        without_auth: true,
        allow_untested: options.allow_untested,
        ..MemberOptions::default()
    };
    let journals = through_journals(repository, keys, id, (options, etcd.dir()));
    let journals = control.guard(journals).await?;
    let restored = match &journals {
        Some(recorded) => {
            restore_recorded_member(repository, keys, recorded, &member, control).await?
        }
        None => restore_member(repository, keys, id, &member, control).await?,
    };
    steps.end("restore");
    check_version(&version, &restored, options)?;
    let compared = control.guard(async {
        control.begin("starting etcd", None);
        let choice = etcd.start(restored.database.database_bytes).await?;
        steps.end("boot");
        let recovery = steps.total();
        control.begin("comparing", None);
        if journals.is_some() {
            compact(&choice, repository, keys, id).await?;
        }
        let compared = compare(repository, keys, id, &etcd, &choice, options).await?;
        steps.end("compare");
        Ok((recovery, compared))
    });
    let (recovery, mut checks) = compared.await.context(format!("snapshot {id}"))?;
    drop(etcd);
    if let Some(recorded) = &journals {
        let (base, count) = (recorded.base, recorded.journals.len());
        checks.push(check(
            "journals",
            true,
            format!("from snapshot {base} and {}", counted(count, "journal")),
        ));
    }
    let level = journals.map(|_| THROUGH_JOURNALS.into());
    let report = steps.report(id, restored.cluster, level, checks);
    Ok(DrillReport { id, report, recovery })
}

/// That the etcd of `version` starts from what was restored.
fn check_version(version: &str, restored: &MemberReport, options: &DrillOptions) -> Result<()> {
    if EtcdVersion::parse(version).is_some_and(|version| restored.versions.contains(&version)) {
        return Ok(());
    }
    let (program, [own, next]) = (options.etcd.display(), &restored.versions);
    Err(Error::unsupported(format!(
        "{program} is etcd {version}, and the snapshot starts with {own} or {next}"
    ))
    .hint("name another with --etcd"))
}

/// The snapshot before `id` and the journals that lead from it to `id`, where there are any and the last drill of the
/// cluster went without: every second drill shows that journals restore.
async fn through_journals(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    (options, dir): (&DrillOptions, &Path),
) -> Result<Option<Recorded>> {
    if !options.through_journals {
        return Ok(None);
    }
    let wanted = Stretches { to: Some([id].into()), ..Stretches::default() };
    let Some(stretch) = stretches(repository, keys, &wanted).await?.pop() else { return Ok(None) };
    let cluster = Some(&stretch.cluster);
    let is_drill = |report: &Report| {
        (report.kind == "drill" && report.cluster.as_ref() == cluster).then_some(())
    };
    let last = newest_reports(repository, keys, &[()], is_drill).await?.pop();
    if last.is_some_and(|(_, _, report)| is_through_journals(&report)) {
        return Ok(None);
    }
    let moment = Moment::Revision(stretch.last_revision);
    let base = Some(stretch.from);
    match plan_restore(repository, keys, cluster, base, moment, dir).await {
        Ok(recorded) => Ok(Some(recorded)),
        Err(error) if error.kind().is_general() => Err(error),
        // There is a gap between the two; `journal verify` tells what is wrong, if anything is.
        Err(_) => Ok(None),
    }
}

/// Compacts etcd as the snapshot is: hashes are comparable only then.
async fn compact(
    choice: &Choice,
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<()> {
    let opened = OpenSnapshot::open(repository, id, keys).await?;
    let compacted = opened.facts.etcd.compact_revision.cast_signed();
    if compacted > 0 {
        // It is refused where etcd is compacted as far already: the comparison shows whether it is.
        let _ = choice.client().compact(compacted, None).await;
    }
    Ok(())
}

/// Wall time of each step.
struct Steps {
    begun: Instant,
    last: Instant,
    done: Vec<ReportStep>,
}

impl Default for Steps {
    fn default() -> Self {
        let now = Instant::now();
        Self { begun: now, last: now, done: Vec::new() }
    }
}

impl Steps {
    fn end(&mut self, name: &str) {
        let milliseconds = self.last.elapsed().as_millis() as u64;
        self.done.push(ReportStep { name: name.into(), milliseconds });
        self.last = Instant::now();
    }

    fn total(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What was done and compared.
    fn report(
        self,
        id: SnapshotId,
        cluster: ClusterName,
        level: Option<String>,
        checks: Vec<ReportCheck>,
    ) -> Report {
        Report {
            kind: "drill".into(),
            tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
            snapshot: Some(id),
            cluster: Some(cluster),
            level,
            key: None,
            scope: ReportScope::One,
            outcome: match checks.iter().any(|check| check.outcome == CheckOutcome::Failed) {
                true => ReportOutcome::Failed,
                false => ReportOutcome::Passed,
            },
            details: Some(ReportDetails { steps: self.done, checks }),
        }
    }
}

/// What the snapshot itself says.
struct Expected {
    facts: Facts,
    keys: usize,
    sample: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// HashKV with each of the compact revisions asked for.
    hashes: Vec<HashKv>,
}

async fn compare(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    etcd: &ScratchEtcd,
    choice: &Choice,
    options: &DrillOptions,
) -> Result<Vec<ReportCheck>> {
    let revision = choice.member.revision;
    let scratch = choice.compare(etcd.settings(), revision).await;
    let live = match &options.live {
        Some(settings) => Some(ask_live(settings, revision).await),
        None => None,
    };
    let of_live = live.iter().flatten().flat_map(|(_, answer)| &answer.answers);
    let compacted: Vec<i64> =
        of_live.chain(&scratch.answers).map(|answer| answer.compact_revision).collect();
    let asked = compacted.clone();
    let expected =
        look_inside(repository, keys, id, move |inside| expect(inside, revision, &asked)).await?;
    let hash_at = |compact: i64| {
        let at = compacted.iter().position(|compacted| *compacted == compact)?;
        expected.hashes.get(at).copied()
    };
    let mut checks = vec![
        equal("revision", &(expected.facts.etcd.revision.cast_signed()), &revision),
        check_hash("HashKV", &scratch, hash_at),
        count(choice, expected.keys).await?,
        values(choice, &expected.sample).await?,
    ];
    if let Some(live) = live {
        checks.push(match live {
            Ok((cluster, _)) if expected.facts.etcd.cluster_id.is_some_and(|id| id != cluster) => {
                skipped(LIVE, "the etcd that answers belongs to another cluster")
            }
            Ok((_, answer)) => check_hash(LIVE, &answer, hash_at),
            Err(error) => skipped(LIVE, &error.to_string()),
        });
    }
    Ok(checks)
}

const LIVE: &str = "HashKV of the live cluster";

/// The live cluster's id, and what its members hash to.
async fn ask_live(settings: &EtcdSettings, revision: i64) -> Result<(u64, Comparison)> {
    let choice = choose_member(settings).await?;
    Ok((choice.member.cluster_id, choice.compare(settings, revision).await))
}

fn expect(inside: &Inside, revision: i64, compacted: &[i64]) -> Result<Expected> {
    let keys = KeySpace::at(&inside.db, revision)?;
    let live: Vec<(&[u8], Revision)> =
        keys.live(b"").map(|entry| (entry.key, entry.modified)).collect();
    let mut sample = Vec::new();
    for _ in 0..SAMPLE.min(live.len()) {
        let random = u64::from_be_bytes(crypto::random(&mut crypto::system_rng()));
        let at = random.checked_rem(live.len() as u64).unwrap_or(0) as usize;
        if let Some((key, modified)) = live.get(at) {
            sample.push((key.to_vec(), mvcc::value_at(&inside.db, *modified)?));
        }
    }
    let hash = |compacted: &i64| mvcc::hash_kv(&inside.db, revision, *compacted);
    Ok(Expected {
        facts: inside.facts.clone(),
        keys: live.len(),
        sample,
        hashes: compacted.iter().map(hash).collect::<Result<_>>()?,
    })
}

fn check(name: &str, passed: bool, detail: String) -> ReportCheck {
    let outcome = if passed { CheckOutcome::Passed } else { CheckOutcome::Failed };
    ReportCheck { name: name.into(), outcome, detail }
}

fn skipped(name: &str, why: &str) -> ReportCheck {
    ReportCheck { name: name.into(), outcome: CheckOutcome::Skipped, detail: why.into() }
}

fn equal<T: PartialEq + std::fmt::Display>(name: &str, snapshot: &T, served: &T) -> ReportCheck {
    let detail = if snapshot == served {
        served.to_string()
    } else {
        format!("{served}, and in the snapshot {snapshot}")
    };
    check(name, snapshot == served, detail)
}

/// Every member that answered against the hash of the snapshot with the same compaction.
fn check_hash(
    name: &str,
    answer: &Comparison,
    expected: impl Fn(i64) -> Option<HashKv>,
) -> ReportCheck {
    let Some(first) = answer.answers.first() else {
        return skipped(name, &answer.left_out.join("; "));
    };
    for member in &answer.answers {
        match expected(member.compact_revision) {
            Some(HashKv::Hash(hash)) if hash == member.hash => {}
            Some(HashKv::Hash(hash)) => {
                let detail = format!(
                    "member {:x} answers {} at revision {}, and the snapshot hashes to {hash}",
                    member.id, member.hash, answer.revision
                );
                return check(name, false, detail);
            }
            _ => return skipped(name, "etcd was compacted in between: it cannot be computed"),
        }
    }
    let members = answer.answers.len();
    check(name, true, format!("{} at revision {}, by {members}", first.hash, answer.revision))
}

async fn count(choice: &Choice, expected: usize) -> Result<ReportCheck> {
    let options = GetOptions::new().with_all_keys().with_count_only();
    let answer = choice.client().get("", Some(options)).await.map_err(|error| asked(&error))?;
    Ok(equal("keys", &(expected as i64), &answer.count()))
}

async fn values(choice: &Choice, sample: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<ReportCheck> {
    let mut client = choice.client();
    let mut differing = 0_usize;
    for (key, value) in sample {
        let answer = client.get(key.as_slice(), None).await.map_err(|error| asked(&error))?;
        let served = answer.kvs().first().map(etcd_client::KeyValue::value);
        if served != value.as_deref() {
            differing += 1;
        }
    }
    let all = sample.len();
    Ok(check("values", differing == 0, format!("{} of {all} sampled are equal", all - differing)))
}

fn asked(error: &etcd_client::Error) -> Error {
    Error::new(ErrorKind::Unreachable, format!("the scratch etcd: {error}"))
}
