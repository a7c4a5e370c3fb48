//! The newest snapshot: who is a member in its database, and whether it is verified.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::Deserialize;

use super::super::fact::Fact;
use super::super::facts::Backups;
use super::super::facts::repository::RepositoryOptions;
use super::facts::{Stored, StoredMember};
use crate::backup::{Inside, Scope, VerifyLevel, look_inside, verify};
use crate::bolt::{Db, ReadAt};
use crate::error::{Error, Result};
use crate::format::SnapshotId;
use crate::task::Control;
use crate::text::clean;

/// Members, and removed members, that are looked at.
const MAX_MEMBERS: usize = 10_000;

/// The newest snapshot that counts, if it is known.
pub(super) fn newest(backups: &Backups) -> std::result::Result<SnapshotId, String> {
    match backups.newest.need() {
        Ok(newest) => {
            newest.ok_or_else(|| "there is no snapshot that counts: take one with --backup".into())
        }
        Err(unknown) => Err(unknown.0),
    }
}

/// Reads the members in the snapshot's database.
pub(super) async fn stored(of: &RepositoryOptions<'_>, id: SnapshotId) -> Fact<Stored> {
    let read = look_inside(of.repository, of.keys, id, membership).await;
    Fact::read(read, format!("snapshot {id}"))
}

/// Opens the snapshot, and verifies every byte, page and revision.
pub(super) async fn verified(
    of: &RepositoryOptions<'_>,
    id: SnapshotId,
    control: &Control,
) -> Fact<std::result::Result<(), String>> {
    let source = format!("verification of snapshot {id}");
    let ids = [id];
    match verify(of.repository, of.keys, Scope::Ids(&ids), VerifyLevel::Deep, control).await {
        Ok(report) => match report.snapshots.first() {
            Some(one) if one.deep.is_some() || one.outcome.is_err() => {
                let outcome = one.outcome.as_ref().map(|_| ()).map_err(ToString::to_string);
                Fact::known(outcome, source)
            }
            _ => Fact::unknown(format!("{source}: it was not made")),
        },
        Err(error) => Fact::unknown(format!("{source}: {error}")),
    }
}

fn membership(inside: &Inside) -> Result<Stored> {
    let etcd = &inside.facts.etcd;
    let (members, removed) = members(&inside.db)?;
    Ok(Stored {
        id: inside.id,
        revision: etcd.revision,
        cluster_id: etcd.cluster_id,
        members,
        removed,
    })
}

/// A value of the bucket `members`.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "isLearner")]
    learner: bool,
}

type Members = (BTreeMap<u64, StoredMember>, BTreeSet<u64>);

/// The buckets `members` and `members_removed`, whose keys are ids in hexadecimal.
fn members<R: ReadAt>(db: &Db<R>) -> Result<Members> {
    let malformed = || Error::tampered("database: a member is malformed");
    let id = |key: &[u8]| {
        let text = std::str::from_utf8(key).ok();
        text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(malformed)
    };
    let (mut members, mut removed) = (BTreeMap::new(), BTreeSet::new());
    let too_many = || Error::unsupported(format!("more than {MAX_MEMBERS} members"));
    let Some(bucket) = db.bucket(b"members")? else {
        return Err(Error::unsupported("the database has no bucket of members"));
    };
    bucket.for_each(&[], |key, value| {
        let wire: Wire = serde_json::from_slice(value).map_err(|_| malformed())?;
        let member = StoredMember { name: clean(&wire.name), learner: wire.learner };
        members.insert(id(key)?, member);
        match members.len() > MAX_MEMBERS {
            true => Err(too_many()),
            false => Ok(ControlFlow::Continue(())),
        }
    })?;
    if let Some(bucket) = db.bucket(b"members_removed")? {
        bucket.for_each(&[], |key, _| {
            removed.insert(id(key)?);
            match removed.len() > MAX_MEMBERS {
                true => Err(too_many()),
                false => Ok(ControlFlow::Continue(())),
            }
        })?;
    }
    Ok((members, removed))
}
