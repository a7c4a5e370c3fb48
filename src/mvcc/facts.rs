//! What a database says about itself, read from a few pages.

use super::revision::{Revision, parse_key};
use super::tested::EtcdVersion;
use crate::bolt::{Bucket, Db, ReadAt};
use crate::error::{Error, ErrorKind, Result};

/// What a database says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// The key-value store's revision: the latest change, or a later compaction or bump.
    pub revision: i64,
    /// Revisions below it, and deletions at it, are gone; 0 if nothing was ever compacted. A compaction
    /// that is scheduled and not finished counts: etcd finishes it when it starts.
    pub compact_revision: i64,
    /// Raft term of the last applied entry; etcd 3.5 and later.
    pub raft_term: Option<u64>,
    /// Raft index of the last applied entry (`consistent_index`), 0 if it is not recorded.
    pub raft_index: u64,
    /// Schema version such as `3.6.0`; etcd 3.6 and later.
    pub storage_version: Option<String>,
    /// Version of the cluster such as `3.5.0`: the oldest member's.
    pub cluster_version: Option<String>,
    /// The version that the cluster is being downgraded to; etcd 3.5 and later.
    pub downgrade: Option<String>,
    /// Whether etcd asks its clients who they are.
    pub auth_enabled: bool,
    /// bolt's page size in bytes.
    pub page_size: u32,
    /// Bytes of the file in use or free for use, a multiple of the page size.
    pub database_bytes: u64,
}

/// The main revisions that a source holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Changes before it are gone, but for the state that they left; 0 if nothing was compacted.
    pub compacted: i64,
    /// The last one of the database. Later ones were recorded, and are read one after the other.
    pub base: i64,
    /// The last one.
    pub last: i64,
}

impl Span {
    /// Checks that the key space at main revision `at` is known.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound).
    pub fn check(&self, at: i64) -> Result<()> {
        let first = self.compacted.max(1);
        if (first..=self.last).contains(&at) {
            return Ok(());
        }
        let why = match at < first {
            true => "compacted away",
            false if self.last == self.base => "later than the snapshot",
            false => "later than what is read of the recording",
        };
        Err(Error::new(ErrorKind::NotFound, format!("revision {at} is {why}"))
            .hint(format!("it holds revisions {first} to {}", self.last)))
    }
}

impl DatabaseFacts {
    /// The main revisions that it holds.
    #[must_use]
    pub fn span(&self) -> Span {
        Span { compacted: self.compact_revision, base: self.revision, last: self.revision }
    }

    /// The version that the database is of: its schema's, else the cluster's. A cluster that has just been set up
    /// does not say its version yet; no text of a version is earlier than 3.4.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when it is later than the last one tested or is not a version,
    /// unless `allow_untested`.
    pub fn etcd_version(&self, allow_untested: bool) -> Result<EtcdVersion> {
        let text = self.storage_version.as_ref().or(self.cluster_version.as_ref());
        let Some(text) = text else { return Ok(EtcdVersion::FIRST_TESTED) };
        EtcdVersion::check_tested("the database", text, allow_untested)?;
        let version = EtcdVersion::parse(text).ok_or_else(|| {
            Error::unsupported(format!("the database is of etcd {text:?}, which is not a version"))
        })?;
        Ok(version.max(EtcdVersion::FIRST_TESTED))
    }
}

/// Reads the facts.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's.
pub fn database_facts<R: ReadAt>(db: &Db<R>) -> Result<DatabaseFacts> {
    let keys = required(db, "key")?;
    let meta = required(db, "meta")?;
    let last = keys.last()?.map(|(key, _)| Ok(parse_key(&key)?.0.main));
    let compaction = compaction(db)?;
    let compact_revision = compaction.scheduled.max(compaction.finished);
    let (cluster_version, downgrade) = match db.bucket(b"cluster")? {
        Some(cluster) => (version(&cluster, "clusterVersion")?, downgrade(&cluster)?),
        None => (None, None),
    };
    let auth_enabled = match db.bucket(b"auth")? {
        Some(auth) => auth.get(b"authEnabled")?.is_some_and(|value| value == [1]),
        None => false,
    };
    let header = db.meta();
    Ok(DatabaseFacts {
        // An empty store is at revision 1.
        revision: last.transpose()?.unwrap_or(1).max(compact_revision).max(1),
        compact_revision,
        raft_term: number(&meta, "term")?,
        raft_index: number(&meta, "consistent_index")?.unwrap_or(0),
        storage_version: version(&meta, "storageVersion")?,
        cluster_version,
        downgrade,
        auth_enabled,
        page_size: header.page_size,
        database_bytes: header.high_water.saturating_mul(u64::from(header.page_size)),
    })
}

/// How far the records are compacted; 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Main revision of the last compaction that was asked for. etcd finishes it when it starts.
    pub scheduled: i64,
    /// Main revision of the last one that was finished.
    pub finished: i64,
}

/// Reads how far the records are compacted.
///
/// # Errors
/// As [`database_facts`].
pub fn compaction<R: ReadAt>(db: &Db<R>) -> Result<Compaction> {
    let meta = required(db, "meta")?;
    Ok(Compaction {
        scheduled: revision(&meta, "scheduledCompactRev")?,
        finished: revision(&meta, "finishedCompactRev")?,
    })
}

pub(super) fn required<'db, R: ReadAt>(db: &'db Db<R>, name: &str) -> Result<Bucket<'db, R>> {
    db.bucket(name.as_bytes())?.ok_or_else(|| {
        Error::tampered(format!("database: no bucket {name:?}, so it is not etcd's"))
    })
}

fn wrong(key: &str) -> Error {
    Error::tampered(format!("database: the value of {key:?} has not the form that etcd gives it"))
}

/// The main revision that `key` of the bucket `meta` holds, 0 if it is absent.
fn revision<R: ReadAt>(meta: &Bucket<'_, R>, key: &str) -> Result<i64> {
    match meta.get(key.as_bytes())? {
        None => Ok(0),
        Some(value) => {
            let parsed = Revision::parse(&value).filter(|(_, tombstone)| !tombstone);
            parsed.map(|(revision, _)| revision.main).ok_or_else(|| wrong(key))
        }
    }
}

fn number<R: ReadAt>(meta: &Bucket<'_, R>, key: &str) -> Result<Option<u64>> {
    let Some(value) = meta.get(key.as_bytes())? else {
        return Ok(None);
    };
    let value = <[u8; 8]>::try_from(value).map_err(|_| wrong(key))?;
    Ok(Some(u64::from_be_bytes(value)))
}

fn version<R: ReadAt>(bucket: &Bucket<'_, R>, key: &str) -> Result<Option<String>> {
    let Some(value) = bucket.get(key.as_bytes())? else {
        return Ok(None);
    };
    String::from_utf8(value)
        .ok()
        .filter(|text| is_version(text))
        .map(Some)
        .ok_or_else(|| wrong(key))
}

/// Whether the text has the length and the characters of a version.
fn is_version(text: &str) -> bool {
    text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b))
}

/// What a cluster that is being downgraded keeps (`server/etcdserver/api/membership`).
#[derive(serde::Deserialize)]
struct Downgrade {
    #[serde(rename = "target-version", default)]
    target: String,
    #[serde(default)]
    enabled: bool,
}

/// The target of a downgrade that is enabled.
fn downgrade<R: ReadAt>(cluster: &Bucket<'_, R>) -> Result<Option<String>> {
    let Some(value) = cluster.get(b"downgrade")? else {
        return Ok(None);
    };
    let record: Downgrade = serde_json::from_slice(&value).map_err(|_| wrong("downgrade"))?;
    if !is_version(&record.target) {
        return Err(wrong("downgrade"));
    }
    Ok(record.enabled.then_some(record.target))
}
