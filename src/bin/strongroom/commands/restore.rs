//! `restore`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;
use strongroom::backup::{
    MemberOptions, MemberReport, Moment, Recorded, RestoreReport, Target, restore,
    restore_companions, restore_member, restore_recorded, restore_recorded_member,
};
use strongroom::datadir::{MAX_STATIC_POD, StaticPod};
use strongroom::keys::KeySet;
use strongroom::mvcc::{EtcdVersion, RENEWED_LEASE_TTL};
use strongroom::store::Repository;
use strongroom::text::counted;
use strongroom::{Error, Result};

use super::recorded::{journals_of, missing, until};
use super::{Context, FINDINGS, to_cluster};
use crate::args::RestoreArgs;
use crate::output::{bytes, shell_word};

pub(super) async fn run(args: &RestoreArgs, context: &Context) -> Result<ExitCode> {
    if args.cluster.to_cluster {
        return to_cluster::run(args, context).await;
    }
    let restores_member = args.member.data_dir.is_some() || args.member.from_manifest.is_some();
    let companions = match &args.companions_to {
        Some(dir) => Some(companions(args, dir, context).await?),
        None => None,
    };
    match (&args.output, companions) {
        (Some(output), companions) => to_file(args, output, companions, context).await,
        (None, companions) if restores_member => to_data_dir(args, companions, context).await,
        (None, companions) => {
            let names = companions.unwrap_or_default();
            let document = json!({ "companions": names });
            let printed = context.output.done(ExitCode::SUCCESS, document, || names.join("\n"))?;
            context.output.note("next: compare the files with those in place, then move them");
            Ok(printed)
        }
    }
}

/// Restores the companions; where each is now.
async fn companions(args: &RestoreArgs, dir: &Path, context: &Context) -> Result<Vec<String>> {
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let id = context.find(&repository, &mut keys, &args.which).await?;
    let names = restore_companions(&repository, &keys, id, dir, &context.control).await?;
    Ok(names.iter().map(|name| dir.join(name).display().to_string()).collect())
}

/// What was restored to a file.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    report: &'a RestoreReport,
    output: &'a str,
    companions: Option<Vec<String>>,
    journals: Vec<String>,
    recorded_until: Option<String>,
}

/// What was recorded after the snapshot, if that is to be restored: the moment that was asked for is not in the snapshot.
pub(super) async fn recorded(
    args: &RestoreArgs,
    repository_and_keys: (&Repository, &mut KeySet),
    dir: &Path,
    context: &Context,
) -> Result<Option<Recorded>> {
    let moment = match (args.newest, args.to_time, args.revision) {
        (true, ..) => Moment::Newest,
        (_, Some(time), _) => Moment::Time(time.as_millisecond().max(0).unsigned_abs()),
        (_, _, Some(revision)) => Moment::Revision(revision),
        _ => return Ok(None),
    };
    context.recorded(repository_and_keys, &args.which, moment, dir).await.map(Some)
}

/// Where the database goes.
pub(super) fn target_of(args: &RestoreArgs, path: &Path, context: &Context) -> Result<Target> {
    let stdout = path == Path::new("-");
    if stdout && !args.force && std::io::stdout().is_terminal() {
        return Err(Error::usage("the database is not written to a terminal")
            .hint("redirect it to a file or a pipe, or give --force"));
    }
    let rewrites = args.revision.is_some() || args.newest || args.to_time.is_some();
    match (stdout, rewrites) {
        (true, false) => Ok(Target::Stream(Box::new(std::io::stdout()))),
        (true, true) => Err(Error::usage("another revision is written to a file, not to a stream")
            .hint("give --output the name of a file")),
        (false, _) => Ok(Target::File {
            path: path.to_owned(),
            force: args.force,
            revision: None,
            allow_untested: context.settings.etcd.allow_untested,
        }),
    }
}

async fn to_file(
    args: &RestoreArgs,
    path: &Path,
    companions: Option<Vec<String>>,
    context: &Context,
) -> Result<ExitCode> {
    let target = target_of(args, path, context)?;
    let stdout = matches!(target, Target::Stream(_));
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let plan = recorded(args, (&repository, &mut keys), dir, context).await?;
    let mut report = match &plan {
        Some(plan) => restore_recorded(&repository, &keys, plan, target, &context.control).await?,
        None => {
            let id = context.find(&repository, &mut keys, &args.which).await?;
            restore(&repository, &keys, id, target, &context.control).await?
        }
    };
    let id = report.id;
    let missing = missing(plan.as_ref());
    report.findings.extend_from_slice(missing);
    report.findings.iter().for_each(|finding| context.output.warn(finding));
    let path = path.display().to_string();
    if companions.is_none() {
        advise_included(&report.included, context);
    }
    if stdout {
        context
            .output
            .note(&format!("snapshot {id} restored and verified: revision {}", report.revision));
        return Ok(ExitCode::SUCCESS);
    }
    let journals = journals_of(plan.as_ref());
    let recorded_until = plan.as_ref().and_then(until);
    let document = File { report: &report, output: &path, companions, journals, recorded_until };
    let status = if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) };
    let status = context.output.done(status, document, || {
        format!(
            "{path}: snapshot {id} of {}, revision {}, {}, verified by SHA-256 {}",
            report.cluster,
            report.revision,
            bytes(report.database_bytes),
            report.sha256,
        )
    })?;
    advise_leases(report.unknown_leases, context);
    advise_downgrade(report.downgrade.as_deref(), context);
    context.output.note(&format!(
        "next, on every member: etcdutl snapshot restore {path} --data-dir … --initial-cluster-token NEW … (for Kubernetes also --bump-revision 1000000000 --mark-compacted)"
    ));
    Ok(status)
}

async fn to_data_dir(
    args: &RestoreArgs,
    companions: Option<Vec<String>>,
    context: &Context,
) -> Result<ExitCode> {
    let mut options = options(args)?;
    options.allow_untested = context.settings.etcd.allow_untested;
    let repository = context.repository().await?;
    let mut keys = context.needed_keys(&repository).await?;
    let dir = options.data_dir.parent().filter(|dir| dir.is_dir()).unwrap_or(Path::new("."));
    let plan = recorded(args, (&repository, &mut keys), dir, context).await?;
    let mut report = match &plan {
        Some(plan) => {
            let is_pinned = args.revision.is_some() && args.which.id != "latest";
            if options.initial_cluster.as_ref().is_some_and(|members| members.contains(',')) {
                plan.check_for_members(is_pinned)?;
            }
            options.revision = Some(plan.revision);
            let control = &context.control;
            restore_recorded_member(&repository, &keys, plan, &options, control).await?
        }
        None => {
            let id = context.find(&repository, &mut keys, &args.which).await?;
            restore_member(&repository, &keys, id, &options, &context.control).await?
        }
    };
    let id = report.id;
    let missing = missing(plan.as_ref());
    report.findings.extend_from_slice(missing);
    report.findings.iter().for_each(|finding| context.output.warn(finding));
    if companions.is_none() {
        advise_included(&report.included, context);
    }
    let others = other_members(args, &options, &report, context);
    let place = options.data_dir.display().to_string();
    let document = MemberDocument {
        report: &report,
        data_dir: &place,
        wal_dir: options.wal_dir.as_ref().map(|dir| dir.display().to_string()),
        other_members: others.iter().map(|(name, command)| OtherMember { name, command }).collect(),
        companions,
        journals: journals_of(plan.as_ref()),
        recorded_until: plan.as_ref().and_then(until),
    };
    let status = if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) };
    let status = context.output.done(status, document, || {
        format!(
            "{place}: member {} ({:x}) of a new cluster {:x}, revision {}, {}, from snapshot {id} of {}",
            report.member.name,
            report.member.id,
            report.members.id,
            report.database.revision,
            bytes(report.database.database_bytes),
            report.cluster,
        )
    })?;
    advise(args, &report, &others, context);
    Ok(status)
}

/// What the flags say, else the manifest.
pub(super) fn options(args: &RestoreArgs) -> Result<MemberOptions> {
    let flags = &args.member;
    let manifest = match &flags.from_manifest {
        Some(path) => read_manifest(path)?,
        None => StaticPod::default(),
    };
    let data_dir = flags.data_dir.clone().or(manifest.data_dir).ok_or_else(|| {
        Error::usage("the manifest names no data directory").hint("give --data-dir")
    })?;
    let mut options = MemberOptions::default();
    options.data_dir = data_dir;
    options.wal_dir = flags.wal_dir.clone().or(manifest.wal_dir);
    options.name = flags.name.clone().or(manifest.name).unwrap_or_default();
    options.initial_cluster = flags.initial_cluster.clone().or(manifest.initial_cluster);
    options.token = flags.initial_cluster_token.clone();
    options.peer_urls = match flags.initial_advertise_peer_urls.as_slice() {
        [] => manifest.peer_urls,
        given => given.to_vec(),
    };
    options.revision = args.revision;
    options.bump = flags.bump_revision;
    options.mark_compacted = flags.mark_compacted;
    options.without_auth = flags.without_auth;
    options.owner = flags.owner.map(|owner| (owner.0, owner.1));
    Ok(options)
}

fn read_manifest(path: &PathBuf) -> Result<StaticPod> {
    let length = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if length > MAX_STATIC_POD as u64 {
        return Err(Error::usage(format!("{}: too long for a pod manifest", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    StaticPod::parse(&text).map_err(|error| error.context(path.display().to_string()))
}

/// Name of each other member, and what to type on its node.
fn other_members(
    args: &RestoreArgs,
    options: &MemberOptions,
    report: &MemberReport,
    context: &Context,
) -> Vec<(String, String)> {
    let others = report.members.members.iter().filter(|member| **member != report.member);
    let command = |name: &str| {
        let mut words: Vec<String> = vec!["strongroom".into()];
        let mut add = |flag: &str, value: String| words.extend([flag.into(), shell_word(&value)]);
        if let Some(config) = &context.config {
            add("--config", config.display().to_string());
        }
        if let Ok(url) = context.settings.repository_url() {
            add("-r", url.to_string());
        }
        context.settings.master_keys().for_each(|key| add("-k", key.to_string()));
        add("restore", report.id.to_string());
        add("--data-dir", options.data_dir.display().to_string());
        if let Some(dir) = &options.wal_dir {
            add("--wal-dir", dir.display().to_string());
        }
        add("--name", name.to_owned());
        add("--initial-cluster", report.members.initial_cluster());
        add("--initial-cluster-token", report.members.token.clone());
        if let Some(revision) = options.revision {
            add("--revision", revision.to_string());
        }
        add("--bump-revision", report.bump.to_string());
        if let Some((user, group)) = options.owner {
            add("--owner", format!("{user}:{group}"));
        }
        let switches = [
            (report.mark_compacted, "--mark-compacted"),
            (args.member.without_auth, "--without-auth"),
        ];
        words.extend(switches.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag.to_owned()));
        words.join(" ")
    };
    others.map(|member| (member.name.clone(), command(&member.name))).collect()
}

/// The JSON document of a restored member.
#[derive(Serialize)]
struct MemberDocument<'a> {
    #[serde(flatten)]
    report: &'a MemberReport,
    data_dir: &'a str,
    wal_dir: Option<String>,
    other_members: Vec<OtherMember<'a>>,
    companions: Option<Vec<String>>,
    journals: Vec<String>,
    recorded_until: Option<String>,
}

/// Another member of the cluster, and what to type on its node.
#[derive(Serialize)]
struct OtherMember<'a> {
    name: &'a str,
    command: &'a str,
}

/// What to know before etcd is started from it.
fn advise(
    args: &RestoreArgs,
    report: &MemberReport,
    others: &[(String, String)],
    context: &Context,
) {
    let output = &context.output;
    if args.member.without_auth {
        output.warn("authentication is off and all users are gone: anyone who reaches this etcd may read and change everything, until you set it up again");
    } else if report.auth_enabled {
        output.note("etcd asks for users and passwords as they were when the snapshot was taken; if root's is lost, restore with --without-auth");
    }
    advise_leases(report.database.renewed_leases, context);
    if report.kubernetes && report.bump > 0 {
        output.note(&format!(
            "this is Kubernetes' data: its revisions are raised by {} and earlier ones are marked compacted, so that controllers and kubelets list again instead of watching from revisions that no longer exist. Restart API servers, controller managers, schedulers and kubelets once etcd runs",
            report.bump
        ));
    }
    advise_downgrade(report.downgrade.as_deref(), context);
    for (name, command) in others {
        output.note(&format!("on the node of member {name}, before any is started:\n  {command}"));
    }
    if args.member.initial_cluster_token.is_none() {
        output.note("if you restore this again, give a new --initial-cluster-token: with the same one, members of this restore could join");
    }
    let [own, next] = report.versions;
    let versions =
        if next > EtcdVersion::LAST_TESTED { own.to_string() } else { format!("{own} or {next}") };
    output.note(&format!("next: start etcd {versions} with this --data-dir and the same --name"));
}

/// That the snapshot has more than the database.
fn advise_included(included: &[String], context: &Context) {
    if !included.is_empty() {
        context.output.note(&format!(
            "the snapshot also has {}: `--companions-to DIR` restores them",
            included.join(", ")
        ));
    }
}

/// That leases have another time to live than they were granted for.
fn advise_leases(unknown: u64, context: &Context) {
    if unknown > 0 {
        context.output.warn(&format!(
            "the time to live of {} is not known, because of a revocation after this revision or because etcd did not tell it \
             in time: {RENEWED_LEASE_TTL} s is used",
            counted(unknown, "lease")
        ));
    }
}

/// That the cluster goes on with a downgrade that the snapshot's was in.
fn advise_downgrade(target: Option<&str>, context: &Context) {
    if let Some(target) = target {
        context.output.note(&format!(
            "the cluster was being downgraded to etcd {target} when the snapshot was taken, and the restored one will be, too: \
             finish the downgrade, or end it with `etcdctl downgrade cancel` once etcd runs"
        ));
    }
}

#[cfg(test)]
mod tests {
    use strongroom::ErrorKind;

    use super::*;

    #[test]
    fn a_manifest_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.yaml");
        assert_eq!(read_manifest(&path).unwrap_err().kind(), ErrorKind::Io);
        std::fs::write(&path, "kind: Pod").unwrap();
        let error = read_manifest(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("etcd.yaml"), "{error}");
    }
}
