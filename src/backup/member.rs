//! Restore to a member's data directory, which etcd starts from.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tempfile::TempDir;

use super::continuous::Recorded;
use super::rewrite::rewrite;
use crate::bolt::{Db, ReadAt};
use crate::crypto;
use crate::datadir::{Cluster, Member, WAL_NAME};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{ClusterName, KeyId, SnapshotId, serial};
use crate::keys::KeySet;
use crate::mvcc::{self, Changes, EtcdVersion, Revision, Rewritten};
use crate::snapshot::open::OpenSnapshot;
use crate::store::Repository;
use crate::task::Control;
use crate::task::run_blocking;
use crate::task::{parent, private_dir_in};

/// How far Kubernetes' revisions leap: further than any cluster gets between a backup and its restore, and the same
/// for everyone who types the same command.
pub const KUBERNETES_BUMP: i64 = 1_000_000_000;
/// Records looked at to tell whether the data is Kubernetes'.
const SAMPLE: usize = 10_000;
const SCRATCH: &str = ".strongroom-restore-";

/// The member to restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberOptions {
    /// Where it is to be: a directory that is empty, or not there yet.
    pub data_dir: PathBuf,
    /// Where its log is to be (`--wal-dir`); in the data directory if `None`.
    pub wal_dir: Option<PathBuf>,
    /// The member's name; `default` if empty, as for etcd.
    pub name: String,
    /// All members of the cluster to be, as `--initial-cluster` has them; this one alone if `None`.
    pub initial_cluster: Option<String>,
    /// The cluster's token; if `None` one that snapshot, revision and members determine, so that everyone who restores
    /// the same comes to the same cluster.
    pub token: Option<String>,
    /// Where its peers are to reach it; what `initial_cluster` says if there are none.
    pub peer_urls: Vec<String>,
    /// The main revision to go back to.
    pub revision: Option<i64>,
    /// Main revisions to leap over; if `None`, [`KUBERNETES_BUMP`] with `mark_compacted` where the data is Kubernetes'.
    pub bump: Option<i64>,
    /// Mark what lies before the leap compacted, so that each watch starts over.
    pub mark_compacted: bool,
    /// Leave out users, roles and passwords.
    pub without_auth: bool,
    /// Take the database of an etcd later than the last one tested.
    pub allow_untested: bool,
    /// User and group id that are to own everything.
    pub owner: Option<(u32, u32)>,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemberReport {
    /// The snapshot.
    pub id: SnapshotId,
    /// The owner's name for the cluster it is of.
    pub cluster: ClusterName,
    /// The etcd cluster that it is to become.
    #[serde(flatten, serialize_with = "cluster")]
    pub members: Cluster,
    /// Which of its members this is.
    #[serde(flatten, serialize_with = "member")]
    pub member: Member,
    /// What the database became.
    #[serde(flatten)]
    pub database: Rewritten,
    /// Main revisions leapt over.
    pub bump: i64,
    /// Whether what lies before the leap is marked compacted.
    pub mark_compacted: bool,
    /// Whether the data is Kubernetes'.
    pub kubernetes: bool,
    /// Whether etcd will ask who its clients are, by the users and passwords of the snapshot.
    pub auth_enabled: bool,
    /// Minor versions of etcd that may start from it: the snapshot's and the next.
    #[serde(rename = "etcd_versions")]
    pub versions: [EtcdVersion; 2],
    /// The version that the cluster was being downgraded to, and that the restored one will be.
    pub downgrade: Option<String>,
    /// The master key that opened it.
    pub opened_by: KeyId,
    /// What the files beside the snapshot were made of, for people.
    pub included: Vec<String>,
    /// Oddities that did not stop the restore.
    pub findings: Vec<String>,
    /// Wall time.
    #[serde(rename = "duration_seconds", serialize_with = "serial::seconds")]
    pub duration: Duration,
}

fn cluster<S: Serializer>(cluster: &Cluster, out: S) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(3))?;
    map.serialize_entry("etcd_cluster_id", &format!("{:016x}", cluster.id))?;
    map.serialize_entry("initial_cluster", &cluster.initial_cluster())?;
    map.serialize_entry("initial_cluster_token", &cluster.token)?;
    map.end()
}

fn member<S: Serializer>(member: &Member, out: S) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(2))?;
    map.serialize_entry("name", &member.name)?;
    map.serialize_entry("member_id", &format!("{:016x}", member.id))?;
    map.end()
}

/// Restores snapshot `id` as the data directory of one member.
///
/// It is built in a directory of its own, synced, and given its name last.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] when there is something in the directory; [`ErrorKind::Usage`] for members that etcd
/// would not take; [`ErrorKind::NotFound`] for a revision that the snapshot has not; [`ErrorKind::Unsupported`] for
/// the database of a later etcd; those of SPEC.md §8 and [`ErrorKind::Io`]. Nothing is then left in the directory.
pub async fn restore_member(
    repository: &Repository,
    keys: &KeySet,
    id: SnapshotId,
    options: &MemberOptions,
    control: &Control,
) -> Result<MemberReport> {
    restore_with(repository, keys, (id, None), options, control).await
}

/// As [`restore_member`], with the changes that were recorded after the snapshot.
///
/// # Errors
/// As [`restore_member`], and those of the journals.
pub async fn restore_recorded_member(
    repository: &Repository,
    keys: &KeySet,
    recorded: &Recorded,
    options: &MemberOptions,
    control: &Control,
) -> Result<MemberReport> {
    let options = MemberOptions { revision: Some(recorded.revision), ..options.clone() };
    restore_with(repository, keys, (recorded.base, Some(recorded)), &options, control).await
}

/// That a member can be made with these options; the directory that its database is written in.
pub(super) fn check_member(options: &MemberOptions) -> Result<PathBuf> {
    let place = place_for(options)?;
    Ok(if place.data.inside { &options.data_dir } else { parent(&options.data_dir) }.to_owned())
}

fn place_for(options: &MemberOptions) -> Result<Place> {
    let place = Place::new(&options.data_dir, options.wal_dir.as_deref())?;
    Cluster::parse(&options.initial_cluster(), "token")?
        .member(options.name(), &options.peer_urls)?;
    Ok(place)
}

async fn restore_with(
    repository: &Repository,
    keys: &KeySet,
    (id, recorded): (SnapshotId, Option<&Recorded>),
    options: &MemberOptions,
    control: &Control,
) -> Result<MemberReport> {
    let started = Instant::now();
    // Before anything is fetched.
    let place = place_for(options)?;
    let snapshot = control.guard(OpenSnapshot::open(repository, id, keys)).await?;
    let revision = options.revision.unwrap_or(snapshot.facts.etcd.revision.cast_signed());
    let members = Cluster::parse(&options.initial_cluster(), &options.token(id, revision))?;
    let member = members.member(options.name(), &options.peer_urls)?.clone();
    control.begin("restoring", Some(snapshot.database.index().database().size));
    let building = place.build(&snapshot, recorded, &members, options, control).await;
    let (place, plan, database) = building.context(format!("snapshot {id}"))?;
    let (wal, snap) = (members.wal(&member), (members.snap_name(), members.snap()));
    let owner = options.owner;
    control.check()?;
    // Not to be dropped midway: nobody would take the scratch directory away.
    run_blocking(move || place.finish(&wal, &snap, owner)).await?;
    Ok(MemberReport {
        id,
        cluster: snapshot.manifest.body().cluster.clone(),
        members,
        member,
        database,
        bump: plan.bump,
        mark_compacted: plan.mark_compacted,
        kubernetes: plan.kubernetes,
        auth_enabled: plan.auth_enabled && !options.without_auth,
        versions: plan.versions,
        downgrade: plan.downgrade,
        opened_by: snapshot.opened_by,
        included: snapshot.manifest.body().included.clone(),
        findings: snapshot.findings,
        duration: started.elapsed(),
    })
}

impl MemberOptions {
    fn name(&self) -> &str {
        if self.name.is_empty() { "default" } else { &self.name }
    }

    fn initial_cluster(&self) -> String {
        let alone = || {
            let urls = match self.peer_urls.as_slice() {
                [] => vec!["http://localhost:2380"],
                urls => urls.iter().map(String::as_str).collect(),
            };
            let pairs: Vec<_> = urls.iter().map(|url| format!("{}={url}", self.name())).collect();
            pairs.join(",")
        };
        self.initial_cluster.clone().unwrap_or_else(alone)
    }

    fn token(&self, id: SnapshotId, revision: i64) -> String {
        let derived = || {
            let members = Cluster::parse(&self.initial_cluster(), "token");
            let members = members.map(|members| members.initial_cluster()).unwrap_or_default();
            let hash = crypto::sha256(&[format!("{id} {revision} {members}").as_bytes()]);
            format!(
                "strongroom-{}",
                data_encoding::HEXLOWER.encode(hash.get(..8).unwrap_or_default())
            )
        };
        self.token.clone().unwrap_or_else(derived)
    }
}

/// What the database says of how to restore it.
struct Plan {
    bump: i64,
    mark_compacted: bool,
    kubernetes: bool,
    auth_enabled: bool,
    versions: [EtcdVersion; 2],
    downgrade: Option<String>,
}

impl Plan {
    fn new<R: ReadAt>(db: &Db<R>, options: &MemberOptions) -> Result<Self> {
        let facts = mvcc::database_facts(db)?;
        let version = facts.etcd_version(options.allow_untested).map_err(|error| {
            error.hint(
                "restore with --output, which changes nothing, and with that etcd's own etcdutl; \
                 or give --allow-untested-etcd",
            )
        })?;
        let kubernetes = is_kubernetes(db)?;
        let default = if kubernetes { KUBERNETES_BUMP } else { 0 };
        Ok(Self {
            bump: options.bump.unwrap_or(default),
            mark_compacted: options.mark_compacted || options.bump.is_none() && kubernetes,
            kubernetes,
            auth_enabled: facts.auth_enabled,
            versions: [version, version.next()],
            downgrade: facts.downgrade,
        })
    }
}

/// Whether the data is of a Kubernetes API server: so are at least a tenth of the oldest records. One value that any
/// client of etcd can write does not decide how a restore goes.
fn is_kubernetes<R: ReadAt>(db: &Db<R>) -> Result<bool> {
    let (mut found, mut looked) = (0_usize, 0_usize);
    mvcc::for_each_record(db, Revision::default(), |record| {
        looked += 1;
        let key = record.kv.key.starts_with(b"/registry/");
        found += usize::from(key || record.kv.value.starts_with(b"k8s\0"));
        Ok(if looked == SAMPLE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(is_a_tenth(found, looked))
}

fn is_a_tenth(found: usize, looked: usize) -> bool {
    found > 0 && found.saturating_mul(10) >= looked
}

/// A data directory being built.
struct Place {
    data: Scratch,
    wal: Option<Scratch>,
}

/// A directory being built beside its final place, or in it if that is there already (and may be where a file system
/// is mounted).
struct Scratch {
    temporary: TempDir,
    target: PathBuf,
    inside: bool,
}

impl Scratch {
    fn new(target: &Path) -> Result<Self> {
        let inside = match fs::read_dir(target) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(|error| Error::io(target, error))?.file_name();
                    if name != "lost+found" {
                        return Err(not_empty(target, &name.to_string_lossy()));
                    }
                }
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(target, error)),
        };
        let dir = if inside { target } else { parent(target) };
        let temporary = private_dir_in(dir, SCRATCH)?;
        Ok(Self { temporary, target: target.to_owned(), inside })
    }

    fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives everything that was built its place.
    fn commit(self, owner: Option<(u32, u32)>) -> Result<()> {
        let failed = |error| Error::io(&self.target, error);
        if self.inside {
            // What etcd asks of it, and of whoever may read it.
            fs::set_permissions(&self.target, Permissions::from_mode(0o700)).map_err(failed)?;
            give(&self.target, owner)?;
            for entry in fs::read_dir(self.path()).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                fs::rename(entry.path(), self.target.join(entry.file_name())).map_err(failed)?;
            }
            sync_dir(&self.target)?;
            return self.temporary.close().map_err(failed);
        }
        let built = self.temporary.keep();
        fs::rename(&built, &self.target).map_err(|error| {
            // It was somebody's who was quicker.
            let _ = fs::remove_dir_all(&built);
            failed(error)
        })?;
        sync_dir(parent(&self.target))
    }
}

fn not_empty(target: &Path, name: &str) -> Error {
    let error = Error::new(
        ErrorKind::AlreadyExists,
        format!("{} is not empty: {name:?} is in it", target.display()),
    );
    if name.starts_with(SCRATCH) {
        return error.hint("a killed restore left it: delete it if no restore is running");
    }
    error.hint("a restore never replaces data: stop etcd and move the old directory away, do not delete it yet")
}

/// Each directory is built beside its place and then moved there: neither can be in the other.
fn refuse_nested(data_dir: &Path, wal_dir: &Path) -> Result<()> {
    let real = |path: &Path| {
        let above = parent(path);
        let name = path.file_name().unwrap_or_default();
        path.canonicalize()
            .or_else(|_| above.canonicalize().map(|above| above.join(name)))
            .or_else(|_| std::path::absolute(path))
            .map_err(|error| Error::io(path, error))
    };
    let (data, wal) = (real(data_dir)?, real(wal_dir)?);
    if !wal.starts_with(&data) && !data.starts_with(&wal) {
        return Ok(());
    }
    let (data, wal) = (data_dir.display(), wal_dir.display());
    Err(Error::usage(format!(
        "{data} and {wal}: the data directory and the WAL's lie in each other"
    ))
    .hint("leave --wal-dir out, or give a directory beside the data directory"))
}

impl Place {
    fn new(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Self> {
        if let Some(wal_dir) = wal_dir {
            refuse_nested(data_dir, wal_dir)?;
        }
        let place =
            Self { data: Scratch::new(data_dir)?, wal: wal_dir.map(Scratch::new).transpose()? };
        let mut dirs = DirBuilder::new();
        dirs.mode(0o700).recursive(true);
        for dir in [place.snap_dir(), place.wal_dir()] {
            dirs.create(&dir).map_err(|error| Error::io(dir, error))?;
        }
        Ok(place)
    }

    fn snap_dir(&self) -> PathBuf {
        self.data.path().join("member/snap")
    }

    fn wal_dir(&self) -> PathBuf {
        let inside = || self.data.path().join("member/wal");
        self.wal.as_ref().map_or_else(inside, |wal| wal.path().to_owned())
    }

    /// Writes the database.
    async fn build(
        self,
        snapshot: &OpenSnapshot,
        recorded: Option<&Recorded>,
        members: &Cluster,
        options: &MemberOptions,
        control: &Control,
    ) -> Result<(Self, Plan, Rewritten)> {
        let path = self.snap_dir().join("db");
        let file = create(&path)?;
        let writing = file.try_clone().map_err(|error| Error::io(&path, error))?;
        let (sender, planned) = std::sync::mpsc::channel();
        let (buckets, meta) = (members.buckets(), members.meta());
        let options = options.clone();
        let plan = move |db: &Db<_>| {
            let plan = Plan::new(db, &options)?;
            let changes = Changes {
                revision: options.revision,
                bump: plan.bump,
                mark_compacted: plan.mark_compacted,
                without_auth: options.without_auth,
                buckets,
                meta,
            };
            // It is there to be received as long as this future is.
            let _ = sender.send(plan);
            Ok(changes)
        };
        let written = rewrite(snapshot, plan, recorded, writing, &path, control).await?;
        let plan = planned
            .recv()
            .map_err(|_| Error::new(ErrorKind::Io, "the database was written without a plan"))?;
        run_blocking(move || file.sync_all().map_err(|error| Error::io(path, error))).await?;
        Ok((self, plan, written))
    }

    /// Writes what remains, syncs, and gives it all its place.
    fn finish(self, wal: &[u8], snap: &(String, Vec<u8>), owner: Option<(u32, u32)>) -> Result<()> {
        let (snap_dir, wal_dir) = (self.snap_dir(), self.wal_dir());
        write(&snap_dir.join(&snap.0), &snap.1)?;
        write(&wal_dir.join(WAL_NAME), wal)?;
        let roots = [Some(&self.data), self.wal.as_ref()];
        for root in roots.into_iter().flatten() {
            settle(root.path(), owner, root.inside)?;
        }
        // The log first: a data directory without its log would start as an empty member.
        if let Some(wal) = self.wal {
            wal.commit(owner)?;
        }
        self.data.commit(owner)
    }
}

fn create(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(|error| Error::io(path, error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|error| Error::io(path, error))
}

/// Gives `dir` and all below it to `owner`, and syncs the directories. `inside`: all but `dir` itself, which goes.
fn settle(dir: &Path, owner: Option<(u32, u32)>, inside: bool) -> Result<()> {
    let failed = |error| Error::io(dir, error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            settle(&entry.path(), owner, false)?;
        } else {
            give(&entry.path(), owner)?;
        }
    }
    if !inside {
        give(dir, owner)?;
    }
    sync_dir(dir)
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let Some((user, group)) = owner else { return Ok(()) };
    chown(path, Some(user), Some(group)).map_err(|error| Error::io(path, error))
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Error::io(dir, error))
}

#[cfg(test)]
mod tests {
    use super::is_a_tenth;

    #[test]
    fn one_planted_value_is_not_kubernetes() {
        assert!(!is_a_tenth(0, 0) && !is_a_tenth(0, 1));
        assert!(!is_a_tenth(1, 11) && !is_a_tenth(999, 10_000));
        assert!(is_a_tenth(2, 2) && is_a_tenth(1000, 10_000));
    }
}
