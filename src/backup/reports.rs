//! Reports in the repository: written once, sealed, listed for whoever must show what was proved.

use std::time::{SystemTime, UNIX_EPOCH};

use futures::{StreamExt, stream};

use crate::crypto::{self, Label, Suite};
use crate::envelope::{DataKey, NewSeal, open_seal, seal_data_key};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    MAX_SEALED_RECORD, ObjectName, RecordKind, Report, ReportStep, SealedRecord, Sha256,
    SnapshotId, Subject,
};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Reports looked through for the newest of each kind.
const MOST_READ: usize = 1000;
/// Reports read at once.
const READS: usize = 16;

/// One report of a listing.
#[derive(Debug)]
pub struct ListedReport {
    /// Its id, whose time is when it was written.
    pub id: SnapshotId,
    /// What it says; or why it does not open.
    pub report: Result<Report>,
}

/// Seals `report` and stores it.
///
/// # Errors
/// [`ErrorKind::Refused`] without a master key; those of the store.
pub async fn store_report(
    repository: &Repository,
    keys: &MasterKeys,
    report: &Report,
) -> Result<SnapshotId> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rng = &mut crypto::system_rng();
    let id = SnapshotId::new(now.as_millis() as u64, crypto::random(rng));
    let data_key = DataKey::generate(Subject::Report(id), rng);
    let key = data_key.report_key();
    let message = crypto::seal(Suite::Aes256Gcm, &key, &context(id), &report.print()?, rng)?;
    let seal = seal_data_key(&data_key, NewSeal::first(object(&message)), keys, rng)?;
    let bytes = SealedRecord { kind: RecordKind::Report, seal, message }.print();
    repository.put_once(&ObjectName::Report { id }.to_string(), bytes.into()).await?;
    Ok(id)
}

/// Among a report's steps: it is about every snapshot of its cluster.
pub const EVERY_SNAPSHOT: &str = "all";

/// Whether `report` is of a verification that looked at every byte.
pub fn proves_bytes(report: &Report) -> bool {
    let whole = |step: &ReportStep| matches!(step.name.as_str(), "full" | "deep");
    report.kind == "verify" && report.steps.iter().any(whole)
}

/// Reads every report, oldest first.
///
/// # Errors
/// Those of the store. A report that does not open is in the list, with the reason.
pub async fn reports(repository: &Repository, keys: &MasterKeys) -> Result<Vec<ListedReport>> {
    let mut listed = Vec::new();
    for info in repository.list("reports").await? {
        let Some(ObjectName::Report { id }) = ObjectName::parse(&info.name) else { continue };
        let report = match read_report(repository, keys, id).await {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            read => read,
        };
        listed.push(ListedReport { id, report });
    }
    listed.sort_by_key(|listed| listed.id);
    Ok(listed)
}

/// The newest report of each of the kinds that `of` tells apart, among the last thousand.
///
/// # Errors
/// Those of the store. Reports that do not open are passed over.
pub async fn newest_reports<K: Copy + PartialEq>(
    repository: &Repository,
    keys: &MasterKeys,
    wanted: &[K],
    of: impl Fn(&Report) -> Option<K>,
) -> Result<Vec<(K, SnapshotId, Report)>> {
    let listed = repository.list("reports").await?;
    let ids = listed.into_iter().rev().take(MOST_READ).filter_map(|info| {
        match ObjectName::parse(&info.name) {
            Some(ObjectName::Report { id }) => Some(id),
            _ => None,
        }
    });
    let mut read = stream::iter(ids)
        .map(|id| async move { (id, read_report(repository, keys, id).await) })
        .buffered(READS);
    let mut found: Vec<(K, SnapshotId, Report)> = Vec::new();
    while found.len() < wanted.len() {
        let Some((id, report)) = read.next().await else { break };
        let report = match report {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(_) => continue,
            Ok(report) => report,
        };
        let Some(kind) = of(&report).filter(|kind| wanted.contains(kind)) else { continue };
        if found.iter().all(|(known, ..)| *known != kind) {
            found.push((kind, id, report));
        }
    }
    Ok(found)
}

/// Reads one report.
pub(super) async fn read_report(
    repository: &Repository,
    keys: &MasterKeys,
    id: SnapshotId,
) -> Result<Report> {
    let name = ObjectName::Report { id }.to_string();
    let bytes = repository.get(&name, MAX_SEALED_RECORD as u64).await;
    bytes.and_then(|bytes| open(id, &bytes, keys)).context(name)
}

fn open(id: SnapshotId, bytes: &[u8], keys: &MasterKeys) -> Result<Report> {
    let SealedRecord { seal, message, .. } = SealedRecord::parse(RecordKind::Report, bytes)?;
    if seal.body().subject() != Subject::Report(id) {
        return Err(Error::tampered("it is another report than its name says"));
    }
    let data_key = open_seal(&seal, object(&message), keys)?.data_key;
    let key = data_key.report_key();
    Report::parse(&crypto::open(Suite::Aes256Gcm, &key, &context(id), &message)?)
}

fn object(message: &[u8]) -> Sha256 {
    Sha256(crypto::sha256(&[&SealedRecord::line(RecordKind::Report, message)]))
}

fn context(id: SnapshotId) -> Vec<u8> {
    crypto::labelled(Label::Report, &[&id.to_bytes()])
}
