//! Reports in the repository: written once, sealed, listed for whoever must show what was verified.

use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::{StreamExt, stream};

use crate::crypto::{self, Label, Suite};
use crate::envelope::{Asked, DataKey, Judged, NewSeal, judge_seal, seal_to_most};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    MAX_REPORT, ObjectName, Report, ReportDetails, ReportHead, SealedReport, Sha256, SnapshotId,
    Subject,
};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::folder::is_ahead;
use crate::store::{ObjectInfo, Repository};

/// Reports that count looked through for the newest of each kind; reports listed of those that count, and of the others.
const MOST_READ: usize = 1000;
/// Reports that do not count passed over on the way.
const MOST_PASSED_OVER: usize = 10_000;
/// Reports read at once.
const READS: usize = 64;

/// One report of a listing.
#[derive(Debug)]
pub struct ListedReport {
    /// Its id, whose time is when it was written.
    pub id: SnapshotId,
    /// What it says, with its details where a key opens them; or why it cannot be read.
    pub report: Result<Report>,
    /// Whether what it says is to be believed.
    pub standing: Standing,
}

/// Seals `report`, which has its details, and stores it.
///
/// # Errors
/// [`ErrorKind::Refused`] without a master key; those of the store.
pub async fn store_report(
    repository: &Repository,
    keys: &KeySet,
    report: &Report,
) -> Result<SnapshotId> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rng = &mut crypto::system_rng();
    let id = SnapshotId::new(now.as_millis() as u64, crypto::random(rng));
    let details = report.details.clone().unwrap_or_default().print()?;
    let data_key = DataKey::generate(Subject::Report(id), rng);
    let key = data_key.report_key();
    let details = crypto::seal(Suite::Aes256Gcm, &key, &context(id), &details, rng)?;
    let head = ReportHead {
        origin: repository.id(),
        id,
        report: report.clone(),
        commitment: data_key.commitment(),
        details,
    };
    let signed = head.print()?;
    let object = Sha256(crypto::sha256(&[&signed]));
    // A report without the stanza of a service that is down is better than none.
    let (seal, _) = seal_to_most(&data_key, NewSeal::first(object), keys, rng).await?;
    let bytes = SealedReport::print(&signed, &seal);
    repository.put_once(&ObjectName::Report { id }.to_string(), bytes.into()).await?;
    Ok(id)
}

/// Whether `report` is of a verification that looked at every byte.
pub fn proves_bytes(report: &Report) -> bool {
    report.kind == "verify" && matches!(report.level.as_deref(), Some("full" | "deep"))
}

/// Level of a drill that restored the snapshot before the one it is about, and the journals between them.
pub(super) const THROUGH_JOURNALS: &str = "journals";

/// Whether `report` is of a drill that did not restore the snapshot itself.
pub(super) fn is_through_journals(report: &Report) -> bool {
    report.level.as_deref() == Some(THROUGH_JOURNALS)
}

/// What is listed of the reports.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Reports {
    /// The newest that count, and the newest of the others, oldest first: a thousand of each at most.
    pub listed: Vec<ListedReport>,
    /// Reports in the repository that are not listed.
    pub left_out: usize,
}

/// Reads the newest reports; of those that do not count too, since others can plant them.
///
/// # Errors
/// Those of the store. A report that cannot be read is in the list, with the reason.
pub async fn reports(repository: &Repository, keys: &KeySet) -> Result<Reports> {
    let listed = repository.list("reports").await?;
    let mut ids: Vec<_> = listed.iter().filter_map(|info| report_id(&info.name)).collect();
    ids.sort_unstable();
    let total = ids.len();
    let mut read = stream::iter(ids.into_iter().rev().take(MOST_PASSED_OVER))
        .map(|id| report(repository, keys, id))
        .buffered(READS);
    let (mut found, mut counting, mut others) = (Reports::default(), 0, 0);
    while let Some(one) = read.next().await {
        let one = one?;
        let of_its_kind = if one.standing.counts() { &mut counting } else { &mut others };
        *of_its_kind += 1;
        if *of_its_kind <= MOST_READ {
            found.listed.push(one);
        }
        if counting >= MOST_READ && others >= MOST_READ {
            break;
        }
    }
    found.listed.reverse();
    found.left_out = total - found.listed.len();
    Ok(found)
}

/// Reads the report `id`. If it cannot be read, the reason is in the place of what it says.
///
/// # Errors
/// Those of the store.
pub async fn report(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<ListedReport> {
    match read_report(repository, keys, id).await {
        Err(error) if error.kind() == ErrorKind::Unreachable => Err(error),
        Ok((report, standing)) => Ok(ListedReport { id, report: Ok(report), standing }),
        Err(error) => Ok(ListedReport { id, report: Err(error), standing: Standing::Unverified }),
    }
}

/// The newest report of each of the kinds that `of` tells apart, among the last thousand that count.
///
/// # Errors
/// Those of the store. Reports that do not count (SPEC.md §5.3) are passed over.
pub async fn newest_reports<K: Copy + PartialEq>(
    repository: &Repository,
    keys: &KeySet,
    wanted: &[K],
    of: impl Fn(&Report) -> Option<K>,
) -> Result<Vec<(K, SnapshotId, Report)>> {
    let listed = repository.list("reports").await?;
    let mut found: Vec<(K, SnapshotId, Report)> = Vec::new();
    let visit = |id, report| {
        let kind = of(&report).filter(|kind| wanted.contains(kind));
        if let Some(kind) = kind.filter(|kind| found.iter().all(|(known, ..)| known != kind)) {
            found.push((kind, id, report));
        }
        match found.len() < wanted.len() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    newest_first(repository, keys, listed, MOST_READ, visit).await?;
    Ok(found)
}

/// Gives `visit` the reports of `listed` that count, the newest first, until it breaks or has had `most`. Those from the
/// future are not read: anybody can plant them. False when so many others did not count that it was given up.
///
/// # Errors
/// Those of the store.
pub(super) async fn newest_first(
    repository: &Repository,
    keys: &KeySet,
    listed: Vec<ObjectInfo>,
    most: usize,
    mut visit: impl FnMut(SnapshotId, Report) -> ControlFlow<()>,
) -> Result<bool> {
    let now = SystemTime::now();
    let mut ids: Vec<_> = listed.iter().filter_map(|info| report_id(&info.name)).collect();
    ids.retain(|id| !is_ahead(id.begun(), now));
    ids.sort_unstable();
    let mut read = stream::iter(ids.into_iter().rev())
        .map(|id| async move { (id, read_report(repository, keys, id).await) })
        .buffered(READS);
    let (mut counting, mut others) = (0, 0);
    while let Some((id, report)) = read.next().await {
        match report {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Ok((report, standing)) if standing.counts() => {
                counting += 1;
                if visit(id, report).is_break() || counting == most {
                    return Ok(true);
                }
            }
            _ => others += 1,
        }
        if others == MOST_PASSED_OVER {
            return Ok(false);
        }
    }
    Ok(true)
}

fn report_id(name: &str) -> Option<SnapshotId> {
    match ObjectName::parse(name) {
        Some(ObjectName::Report { id }) => Some(id),
        _ => None,
    }
}

/// Reads one report, and what it is worth; its details only if a key opens them.
async fn read_report(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
) -> Result<(Report, Standing)> {
    let name = ObjectName::Report { id }.to_string();
    let bytes = repository.get(&name, MAX_REPORT as u64).await;
    let read = async { open(repository, id, &SealedReport::parse(&bytes?)?, keys).await };
    read.await.context(name)
}

async fn open(
    repository: &Repository,
    id: SnapshotId,
    sealed: &SealedReport,
    keys: &KeySet,
) -> Result<(Report, Standing)> {
    let (head, seal) = (sealed.head(), sealed.seal());
    if head.id != id || seal.body().subject() != Subject::Report(id) {
        return Err(Error::tampered("it is another report than its name says"));
    }
    if head.origin != repository.id() {
        return Err(Error::tampered(format!("it was written in repository {}", head.origin)));
    }
    let mut report = head.report.clone();
    let object = Sha256(crypto::sha256(&[sealed.signed_bytes()]));
    let (cluster, mut asked) = (report.cluster.as_ref(), Asked::default());
    let Judged { opened, standing, .. } =
        match judge_seal(seal, object, cluster, keys, &mut asked).await {
            Err(error) if error.kind() == ErrorKind::WrongKey => {
                return Ok((report, Standing::Unverified));
            }
            judged => judged?,
        };
    let Some(opened) = opened else { return Ok((report, standing)) };
    if head.commitment != opened.data_key.commitment() {
        return Err(Error::tampered("it names another data key than its seal"));
    }
    let key = opened.data_key.report_key();
    let details = crypto::open(Suite::Aes256Gcm, &key, &context(id), &head.details)?;
    report.details = Some(ReportDetails::parse(&details)?);
    Ok((report, standing))
}

fn context(id: SnapshotId) -> Vec<u8> {
    crypto::labelled(Label::Report, &[&id.to_bytes()])
}
