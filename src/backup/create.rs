//! Taking a snapshot: from where, and what came of it. How it is written stands in `writer`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::choose;
use super::earlier::Earlier;
use super::proofs::unproven;
use serde::Serialize;

use crate::crypto;
use crate::envelope::check_sealers;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::seen::{Compared, Seen};
use crate::etcd::{Comparison, Member};
use crate::format::serial;
use crate::format::{ClusterName, KeyId, Previous, SnapshotId, included, tags};
use crate::keys::{KeySet, Missing};
use crate::snapshot::companions;
use crate::snapshot::folder;
use crate::snapshot::input::{Input, Source};
use crate::snapshot::late::LateSeal;
use crate::snapshot::options::BackupOptions;
use crate::snapshot::seals;
use crate::snapshot::write::{Content, Written, write_snapshot};
use crate::store::Repository;
use crate::task::Control;
use crate::task::run_blocking;
use zeroize::Zeroizing;

/// The warning of every backup that only one master key seals. It recurs, so `--quiet` leaves it out; there is none if
/// a recovery key is named, or a key that is not here opens a snapshot too.
pub const ONE_KEY: &str = "only one master key seals this snapshot: if it is lost, so is the snapshot \
     (give a second one with another --master-key; if `key reseal` seals snapshots to a recovery key, set keys.recovery)";

/// What a backup did.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BackupReport {
    /// The new snapshot.
    pub id: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// The cluster's newest snapshot that counted when this was taken.
    pub previous: Option<SnapshotId>,
    /// Words by which its owner finds it again.
    pub tags: Vec<String>,
    /// What its companions were made of.
    pub included: Vec<String>,
    /// The last revision in it, read from the stored database itself.
    pub revision: u64,
    /// The revision below which history is compacted.
    pub compact_revision: u64,
    /// Length of the database.
    pub database_bytes: u64,
    /// Length of all objects written.
    pub stored_bytes: u64,
    /// The master keys that open it.
    pub sealed_by: Vec<KeyId>,
    /// Independent ways to open it: no loss of one place, passphrase or service takes two of them. A recovery key that seals
    /// it is one.
    pub independent: usize,
    /// The recovery key, if it is declared and does not open it yet.
    pub declared_recovery: Option<KeyId>,
    /// The master keys that should open it and could not seal it. `key reseal` adds them.
    pub seals_missing: Vec<SealMissing>,
    /// The key that signed it.
    pub signed_by: Option<KeyId>,
    /// No key that this host has opens it.
    pub blind: bool,
    /// The member that was read.
    pub member: Option<Member>,
    /// Which one and why, in a line for people.
    pub reason: Option<String>,
    /// What the members' HashKV said, where they were asked.
    pub members: Option<Comparison>,
    /// What comparing it with the change journal showed that was being recorded.
    #[serde(skip)]
    pub journal: Option<JournalComparison>,
    /// This host's clock and the store's are more than 5 minutes apart, as one of the warnings says.
    #[serde(skip)]
    pub clocks_differ: bool,
    /// What the operator should look at.
    pub warnings: Vec<String>,
    /// Wall time.
    #[serde(rename = "duration_seconds", serialize_with = "serial::seconds")]
    pub duration: Duration,
}

/// What comparing a snapshot with a recording showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalComparison {
    /// The first revision that was compared and is equal.
    pub equal_from: Option<i64>,
    /// The last one.
    pub equal_to: Option<i64>,
    /// The first revision that differs.
    pub differs_at: Option<i64>,
}

impl From<Compared> for JournalComparison {
    fn from(compared: Compared) -> Self {
        let (from, to) = compared.equal.unzip();
        Self { equal_from: from, equal_to: to, differs_at: compared.differs }
    }
}

/// A master key that could not seal a snapshot.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SealMissing {
    /// The key.
    pub key: KeyId,
    /// Why.
    pub reason: String,
}

/// Takes one encrypted snapshot. It exists once its manifest does, which is the last thing written.
///
/// # Errors
/// [`ErrorKind::Refused`] without a master key; [`ErrorKind::Unreachable`] when etcd or the store cannot be
/// reached or breaks off; [`ErrorKind::Protocol`] or [`ErrorKind::Tampered`] for a stream that breaks etcd's
/// own rules or digest. Nothing visible is left behind then; what could not be deleted is swept later.
pub async fn backup(
    repository: &Repository,
    keys: &KeySet,
    source: Source,
    options: &BackupOptions,
    control: &Control,
) -> Result<BackupReport> {
    let taken = backup_and_keep(repository, keys, source, options, None, control).await?;
    Ok(taken.0)
}

/// As [`backup`], and compares the snapshot with what a recording has `seen`; what is given back beside the report adds the
/// stanzas of keys that could not seal.
///
/// # Errors
/// Those of [`backup`].
pub(crate) async fn backup_and_keep(
    repository: &Repository,
    keys: &KeySet,
    source: Source,
    options: &BackupOptions,
    seen: Option<Arc<Seen>>,
    control: &Control,
) -> Result<(BackupReport, Option<LateSeal>)> {
    let started = Instant::now();
    let mut sealed_by = sealing_keys(keys, options)?;
    let up = control.guard(keys_that_are_up(keys)).await?;
    let mut warnings = Vec::new();
    // Before etcd holds a transaction open for us.
    let tags = tags(&options.tags)?;
    let companions = pack(options).await?;
    let looked = control.guard(look_back(repository, &up, options, &mut warnings));
    let (previous, earlier) = looked.await?;
    let input = control.guard(Input::open(source, control)).await?;
    warnings.extend(input.warnings().iter().cloned());
    let moment = moment(options, previous.as_ref(), &mut warnings)?;
    warnings.extend(of_keys_and_name(keys, &sealed_by, options, &earlier));
    let id = SnapshotId::new(moment, crypto::random(&mut crypto::system_rng()));
    let (member, reason) = (input.member(), input.reason());
    let content = Content { seen, ..content(id, companions, previous, &tags, options) };
    let (written, late) =
        write_snapshot(repository, keys, options, control, content, input).await?;
    let seals_missing: Vec<_> = written.missing.iter().map(seal_missing).collect();
    sealed_by.retain(|id| seals_missing.iter().all(|one| one.key != *id));
    warnings.extend(of_what_was_written(id, &written, &seals_missing));
    let report = BackupReport {
        id,
        cluster: options.cluster.clone(),
        previous: previous.map(|previous| previous.snapshot),
        tags,
        included: included(&options.include),
        revision: written.revision,
        compact_revision: written.compact_revision,
        database_bytes: written.database_bytes,
        stored_bytes: written.stored_bytes,
        independent: independent(keys, &sealed_by, options.recovery),
        declared_recovery: options.recovery.filter(|id| !sealed_by.contains(id)),
        sealed_by,
        seals_missing,
        signed_by: keys.signing().map(|key| key.public().id()),
        blind: keys.is_blind(),
        member,
        reason,
        members: written.members,
        journal: written.compared.map(Into::into),
        clocks_differ: written.skew.is_some(),
        warnings,
        duration: started.elapsed(),
    };
    Ok((report, late))
}

/// The keys, looked at before etcd is read: what only a service that is down opens is not worth another wait.
async fn keys_that_are_up(keys: &KeySet) -> Result<KeySet> {
    let down = check_sealers(keys).await?;
    Ok(down.iter().fold(keys.sparing(), |keys, one| keys.without(one.key)))
}

/// What the operator should know about a snapshot that is stored.
fn of_what_was_written(id: SnapshotId, written: &Written, missing: &[SealMissing]) -> Vec<String> {
    let skew = written.skew.as_ref();
    let skew = skew.map(|skew| format!("{skew}: set the clocks, or prune will refuse"));
    let missing = missing.iter().map(|one| lacks(id, one));
    let doubts = written.members.iter().flat_map(doubts);
    let differs = written.compared.and_then(|compared| compared.differs).map(differs);
    missing.chain(doubts).chain(differs).chain(skew).collect()
}

fn seal_missing(missing: &Missing) -> SealMissing {
    SealMissing { key: missing.key, reason: missing.error.to_string() }
}

/// The warning about a key that could not seal.
fn lacks(id: SnapshotId, missing: &SealMissing) -> String {
    let SealMissing { key, reason } = missing;
    format!(
        "snapshot {id} does not open with key {key}: {reason} (`strongroom key reseal {id}` adds it, where another key opens)"
    )
}

/// The keys that the snapshot is sealed to.
fn sealing_keys(keys: &KeySet, options: &BackupOptions) -> Result<Vec<KeyId>> {
    let sealed_by: Vec<KeyId> = keys.sealing().map(|key| key.id()).collect();
    if sealed_by.is_empty() {
        return Err(Error::new(ErrorKind::Refused, "no master key to seal the snapshot to")
            .hint("give one with --master-key; `strongroom key generate` makes one"));
    }
    keys.check_sealing(Some(&options.cluster), options.unsigned)?;
    Ok(sealed_by)
}

/// What the operator should know about the keys and the cluster's name.
fn of_keys_and_name(
    keys: &KeySet,
    sealed_by: &[KeyId],
    options: &BackupOptions,
    earlier: &Earlier,
) -> Vec<String> {
    let recovery = options.recovery.is_some_and(|id| !sealed_by.contains(&id));
    let is_alone = sealed_by.len() < 2 && !recovery && !earlier.has_recovery;
    let one_key = is_alone.then(|| ONE_KEY.to_owned());
    let public = keys.sealing().filter(|key| key.is_public());
    let unsigned = public.filter(|_| keys.signing().is_none()).map(|key| {
        let id = key.id();
        format!("without a signing key, {id} opens this snapshot only with --accept-untrusted")
    });
    one_key.into_iter().chain(unsigned).chain(earlier.warnings(&options.cluster)).collect()
}

fn content(
    id: SnapshotId,
    companions: Option<Zeroizing<Vec<u8>>>,
    previous: Option<Previous>,
    tags: &[String],
    options: &BackupOptions,
) -> Content {
    let (tags, included) = (tags.to_vec(), included(&options.include));
    Content { id, companions, previous, tags, included, seen: None, replaces: None, journal: None }
}

fn independent(keys: &KeySet, sealed_by: &[KeyId], recovery: Option<KeyId>) -> usize {
    let of = |id: &KeyId| keys.depends_on_beside(recovery, *id);
    sealed_by.iter().map(of).collect::<BTreeSet<_>>().len()
}

/// The companions, if there are any.
async fn pack(options: &BackupOptions) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let include = options.include.clone();
    match include.as_slice() {
        [] => Ok(None),
        _ => run_blocking(move || companions::pack(&include)).await.map(Some),
    }
}

/// The cluster's newest snapshot that counts, and what the snapshots before this one show; without the right to list, or
/// behind too many planted ones, that is unknown.
async fn look_back(
    repository: &Repository,
    keys: &KeySet,
    options: &BackupOptions,
    warnings: &mut Vec<String>,
) -> Result<(Option<Previous>, Earlier)> {
    let before = options.taken.map(unix_ms).transpose()?;
    let cluster = &options.cluster;
    let looked = async {
        let folders = folder::list_all(repository).await?.snapshots;
        let newest = choose::newest(repository, keys, cluster, before, &folders).await?;
        let newest = newest.map(|manifest| Previous {
            snapshot: manifest.body().snapshot,
            sha256: seals::manifest_digest(&manifest),
        });
        let is_known = newest.is_some() || before.is_some();
        let earlier = Earlier::look(repository, keys, cluster, &folders, is_known).await?;
        Ok::<_, Error>((newest, earlier))
    };
    let looked = looked.await;
    warnings.extend(unproven(repository, keys).await?);
    match looked {
        Err(error) if !matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Interrupted) => {
            warnings.push(format!(
                "which snapshot is the newest is unknown: {error}; the new one names none before it, and if this host's \
                 clock is behind it is not the latest"
            ));
            Ok((None, Earlier::default()))
        }
        found => found,
    }
}

/// When the snapshot is taken, in Unix milliseconds: now, but after the cluster's newest snapshot, so that the order by id
/// is the order of taking also on a host whose clock is behind.
fn moment(
    options: &BackupOptions,
    previous: Option<&Previous>,
    warnings: &mut Vec<String>,
) -> Result<u64> {
    let moment = unix_ms(options.moment())?;
    let newest = previous.map(|previous| previous.snapshot.unix_ms());
    let Some(newest) = newest.filter(|newest| *newest >= moment && options.taken.is_none()) else {
        return Ok(moment);
    };
    let seconds = newest.saturating_sub(moment) / 1000;
    if seconds >= 1 {
        warnings.push(format!(
            "the newest snapshot is {seconds} s ahead of this host's clock: set the clocks; this snapshot's id is \
             1 ms later, so that it is the newest"
        ));
    }
    Ok(newest.saturating_add(1))
}

fn unix_ms(time: SystemTime) -> Result<u64> {
    let now = time.duration_since(UNIX_EPOCH);
    now.map(|now| now.as_millis() as u64).map_err(|_| {
        Error::new(ErrorKind::Refused, "the clock is before 1970").hint("set the clock")
    })
}

/// That the snapshot is not what was recorded.
fn differs(revision: i64) -> String {
    format!(
        "the snapshot and the change journal differ at revision {revision}: a member of etcd is corrupt, or this version of \
         etcd has left changes out of the watch; restores that use the journal from there on may be wrong"
    )
}

/// What a comparison leaves to worry about.
fn doubts(members: &Comparison) -> Vec<String> {
    let first = members.answers.first().map_or("", |first| first.name.as_str());
    let differing = members.differing().map(|member| {
        format!(
            "member {} ({:x}) has other data than member {first} at revision {}: etcd is corrupt, and this snapshot may hold the wrong data (`etcdctl endpoint hashkv --cluster` shows which member differs from the others)",
            member.name, member.id, members.revision
        )
    });
    let left_out = members.left_out.iter().map(|why| format!("HashKV not compared: {why}"));
    differing.chain(left_out).collect()
}
