//! What the backups say: how old they are, who opens them, what was verified; and what the newest snapshot has of users,
//! roles and Secrets, without a login to etcd.

use std::ops::ControlFlow;

use super::super::fact::Fact;
use super::cluster::{Grant, MAX_USERS, Role, User};
use crate::backup::{self, Inside, Summary, judged, look_inside, newest_reports, proves_bytes};
use crate::bolt::{Db, ReadAt};
use crate::contents::{Groups, KUBERNETES_ROOTS, stats};
use crate::error::{Error, Result};
use crate::format::{ClusterName, KeyId, Report, SnapshotId, Time};
use crate::keys::{DependsOn, KeySet};
use crate::protobuf::{Fields, Malformed};
use crate::store;
use crate::text::clean;

/// A repository and the keys for it.
pub struct RepositoryOptions<'a> {
    /// The repository.
    pub repository: &'a store::Repository,
    /// Keys with which its snapshots count.
    pub keys: &'a KeySet,
    /// Only this cluster's snapshots.
    pub cluster: Option<&'a ClusterName>,
    /// The recovery key, whose copy is elsewhere.
    pub recovery: Option<KeyId>,
    /// The second repository, or why there is none to look at.
    pub copy: std::result::Result<&'a store::Repository, String>,
}

impl std::fmt::Debug for RepositoryOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RepositoryOptions")
    }
}

/// What was read of the repository.
pub(crate) struct Backups {
    /// The newest snapshot that counts.
    pub(crate) newest: Fact<Option<SnapshotId>>,
    /// The keys that open it, and what takes each away: nothing for keys that were not given here.
    pub(crate) openers: Fact<Vec<(KeyId, Option<DependsOn>)>>,
    /// The keys that signed it.
    pub(crate) signers: Fact<Vec<KeyId>>,
    /// The newest snapshot that counts in the second repository.
    pub(crate) copied: Fact<Option<SnapshotId>>,
    /// When every byte of a snapshot, and a restore, were last verified.
    pub(crate) verified: Fact<Option<Time>>,
    pub(crate) drilled: Fact<Option<Time>>,
    pub(crate) inside: Fact<Contents>,
    /// Files that were stored with it.
    pub(crate) included: Fact<Vec<String>>,
}

/// What is in the newest snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) auth: bool,
    pub(crate) users: Vec<User>,
    /// Users that log in by password, if the database tells.
    pub(crate) with_password: Vec<String>,
    pub(crate) roles: Vec<Role>,
    /// Secrets of Kubernetes at the last revision, unencrypted and in all.
    pub(crate) unencrypted: u64,
    pub(crate) unencrypted_before: u64,
    pub(crate) secrets: u64,
    /// Values need keys of a KMS or of a file.
    pub(crate) keys_in_use: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bytes,
    Drill,
}

impl Backups {
    pub(crate) async fn read(options: &RepositoryOptions<'_>) -> Self {
        let source = "the repository";
        let newest = newest_of(options.repository, options).await;
        let copied = match &options.copy {
            Ok(copy) => Fact::read(newest_of(copy, options).await, "the second repository"),
            Err(why) => Fact::unknown(why.clone()),
        };
        let (mut verified, mut drilled) = (None, None);
        let of = |report: &Report| match report.kind.as_str() {
            _ if !report.passed() || !of_cluster(report, options.cluster) => None,
            "drill" => Some(Kind::Drill),
            _ if proves_bytes(report) => Some(Kind::Bytes),
            _ => None,
        };
        let found =
            newest_reports(options.repository, options.keys, &[Kind::Bytes, Kind::Drill], of).await;
        let failed = newest.as_ref().err().or(found.as_ref().err()).map(ToString::to_string);
        for (kind, id, _) in found.unwrap_or_default() {
            match kind {
                Kind::Bytes => verified = Some(id.created()),
                Kind::Drill => drilled = Some(id.created()),
            }
        }
        let report = |time| match &failed {
            Some(why) => Fact::unknown(why.clone()),
            None => Fact::known(time, "the reports of the repository"),
        };
        let (openers, signers, included, inside) = match &newest {
            Ok(Some(id)) => Self::of_snapshot(options, *id).await,
            Ok(None) => {
                let none = "there is no snapshot that counts";
                (Fact::unknown(none), Fact::unknown(none), Fact::unknown(none), Fact::unknown(none))
            }
            Err(error) => {
                let why = error.to_string();
                (
                    Fact::unknown(&*why),
                    Fact::unknown(&*why),
                    Fact::unknown(&*why),
                    Fact::unknown(&*why),
                )
            }
        };
        Self {
            newest: Fact::read(newest, source),
            openers,
            signers,
            copied,
            verified: report(verified),
            drilled: report(drilled),
            inside,
            included,
        }
    }

    async fn of_snapshot(
        options: &RepositoryOptions<'_>,
        id: SnapshotId,
    ) -> (Fact<Vec<(KeyId, Option<DependsOn>)>>, Fact<Vec<KeyId>>, Fact<Vec<String>>, Fact<Contents>)
    {
        let source = format!("snapshot {id}");
        let details = backup::show(options.repository, options.keys, id).await;
        let details = details.map_err(|error| error.to_string());
        let (keys, recovery) = (options.keys, options.recovery);
        let opener = |id: &KeyId| {
            let is_known = recovery == Some(*id) || keys.state(*id).is_some();
            (*id, is_known.then(|| keys.depends_on_beside(recovery, *id)))
        };
        let openers =
            details.as_ref().map(|details| details.sealed_by.iter().map(opener).collect());
        let openers = openers.map_err(Clone::clone);
        let signers =
            details.as_ref().map(|details| details.signed_by.clone()).map_err(Clone::clone);
        let included = details.map(|details| details.manifest.body().included.clone());
        let inside = look_inside(options.repository, options.keys, id, contents).await;
        (
            Fact::read(openers, &source),
            Fact::read(signers, &source),
            Fact::read(included, &source),
            Fact::read(inside, &source),
        )
    }
}

fn of_cluster(report: &Report, cluster: Option<&ClusterName>) -> bool {
    cluster.is_none() || report.cluster.as_ref() == cluster
}

/// The newest snapshot that counts in one of the repositories.
async fn newest_of(
    repository: &store::Repository,
    options: &RepositoryOptions<'_>,
) -> Result<Option<SnapshotId>> {
    if !options.keys.can_vouch() && options.keys.is_blind() {
        return Err(Error::usage(
            "no key says which snapshots count: give --master-key or --signers",
        ));
    }
    let listing = judged(repository, options.keys, options.cluster).await?;
    let counting = listing.snapshots.iter().filter(|summary| summary.standing.counts());
    newest_of_one(counting.map(|summary: &Summary| (&summary.cluster, summary.id)))
}

/// The last, if all are of one cluster: of several, one that is well says nothing of the others.
fn newest_of_one<'a>(
    all: impl Iterator<Item = (&'a ClusterName, SnapshotId)>,
) -> Result<Option<SnapshotId>> {
    let mut last: Option<(&ClusterName, SnapshotId)> = None;
    for one in all {
        if let Some((cluster, _)) = last.filter(|(cluster, _)| *cluster != one.0) {
            let why = format!("the repository has snapshots of {cluster} and of {}", one.0);
            return Err(Error::usage(why).hint("name one with --cluster"));
        }
        last = Some(one);
    }
    Ok(last.map(|(_, id)| id))
}

fn contents(inside: &Inside) -> Result<Contents> {
    let mut found = Contents { auth: auth_is_on(&inside.db)?, ..Contents::default() };
    for_each(&inside.db, b"authUsers", |value| {
        let (user, has_password) = user(value)?;
        if has_password {
            found.with_password.push(user.name.clone());
        }
        found.users.push(user);
        Ok(())
    })?;
    for_each(&inside.db, b"authRoles", |value| {
        found.roles.push(role(value)?);
        Ok(())
    })?;
    let stats = stats(&inside.db, &Groups::new(KUBERNETES_ROOTS, 1))?;
    found.keys_in_use = stats.keys_in_use.len();
    for group in stats.groups.iter().filter(|group| group.resource.as_deref() == Some(b"secrets")) {
        found.unencrypted = found.unencrypted.saturating_add(group.unencrypted);
        found.unencrypted_before =
            found.unencrypted_before.saturating_add(group.unencrypted_before);
        found.secrets = found.secrets.saturating_add(group.keys);
    }
    Ok(found)
}

fn auth_is_on<R: ReadAt>(db: &Db<R>) -> Result<bool> {
    Ok(match db.bucket(b"auth")? {
        Some(auth) => auth.get(b"authEnabled")?.is_some_and(|value| value == [1]),
        None => false,
    })
}

fn for_each<R: ReadAt>(
    db: &Db<R>,
    bucket: &[u8],
    mut each: impl FnMut(&[u8]) -> std::result::Result<(), Malformed>,
) -> Result<()> {
    let Some(bucket) = db.bucket(bucket)? else { return Ok(()) };
    let mut count = 0_usize;
    bucket.for_each(&[], |_, value| {
        count = count.saturating_add(1);
        if count > MAX_USERS {
            return Err(Error::unsupported(format!("more than {MAX_USERS} users or roles")));
        }
        each(value).map_err(|_| Error::tampered("database: a user or role is malformed"))?;
        Ok(ControlFlow::Continue(()))
    })
}

/// `authpb.User`, and whether it has a password. The hash is not kept.
fn user(bytes: &[u8]) -> std::result::Result<(User, bool), Malformed> {
    let (mut fields, mut user) = (Fields(bytes), User { name: String::new(), roles: Vec::new() });
    let (mut hashed, mut no_password) = (false, false);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => user.name = clean(&String::from_utf8_lossy(field.bytes()?)),
            2 => hashed = !field.bytes()?.is_empty(),
            3 => user.roles.push(clean(&String::from_utf8_lossy(field.bytes()?))),
            4 => {
                let mut options = Fields(field.bytes()?);
                while let Some((number, field)) = options.next()? {
                    no_password |= number == 1 && field.int64()? != 0;
                }
            }
            _ => {}
        }
    }
    Ok((user, hashed && !no_password))
}

/// `authpb.Role`
fn role(bytes: &[u8]) -> std::result::Result<Role, Malformed> {
    let (mut fields, mut role) = (Fields(bytes), Role { name: String::new(), grants: Vec::new() });
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => role.name = clean(&String::from_utf8_lossy(field.bytes()?)),
            2 => role.grants.push(grant(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(role)
}

/// `authpb.Permission`
fn grant(bytes: &[u8]) -> std::result::Result<Grant, Malformed> {
    let (mut fields, mut grant) =
        (Fields(bytes), Grant { kind: 0, key: Vec::new(), range_end: Vec::new() });
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => grant.kind = i32::try_from(field.int64()?).map_err(|_| Malformed)?,
            2 => grant.key = field.bytes()?.to_vec(),
            3 => grant.range_end = field.bytes()?.to_vec(),
            _ => {}
        }
    }
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_several_clusters_is_of_none() {
        let name = |name: &str| name.parse::<ClusterName>().unwrap();
        let (a, b) = (name("a"), name("b"));
        let id = |ms| SnapshotId::new(ms, [0; 10]);
        let one = newest_of_one([(&a, id(1)), (&a, id(2))].into_iter());
        assert_eq!(one.unwrap(), Some(id(2)));
        assert_eq!(newest_of_one(std::iter::empty()).unwrap(), None);
        let several = newest_of_one([(&a, id(1)), (&b, id(2))].into_iter());
        assert!(several.unwrap_err().to_string().contains("of a and of b"));
    }

    #[test]
    fn users_and_roles() {
        // etcdctl user add app --no-password; user add reader:…; their roles.
        let (app, has_password) = user(b"\x0a\x03app\x1a\x03app\x22\x02\x08\x01").unwrap();
        assert_eq!((app.name.as_str(), app.roles.len(), has_password), ("app", 1, false));
        assert!(user(b"\x0a\x06reader\x12\x03$2a").unwrap().1);
        let role = role(b"\x0a\x03app\x12\x0c\x08\x02\x12\x03/a/\x1a\x03/a0").unwrap();
        assert_eq!(role.grants[0].to_string(), "readwrite [\"/a/\", \"/a0\")");
        assert!(user(b"\x0a\xff").is_err() && super::role(b"\x12\x01\x08").is_err());
    }
}
