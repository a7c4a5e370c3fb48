//! Whether a cluster can be upgraded to the next minor version of etcd, and how; and whether it was.

mod after;
mod facts;
mod gates;
mod host;
mod plan;
mod rehearsal;
mod snapshot;
mod state;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod v2;

use std::mem;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::advisories::Advisories;
use super::catalog::Check;
use super::fact::{Fact, Severity};
use super::facts::endpoint::Probe;
use super::facts::host::HostOptions;
use super::facts::repository::RepositoryOptions;
use super::facts::{self as read, Facts};
use super::kinds::Scope;
use super::report::{Policy, Report, UnknownPolicy};
use super::settings::now;
use super::waivers::Waiver;
use crate::backup::{DrillOptions, drill_version};
use crate::error::Result;
use crate::etcd::EtcdSettings;
use crate::task::Control;

use after::AFTER;
use facts::Before;
use gates::GATES;
use state::Data;
use table::{Table, Target};

pub(crate) use facts::Upgrade;
pub use plan::{Plan, PlannedMember};
pub use state::{ClusterState, MemberState};

/// Why facts of an audit are not read.
const NOT_ASKED: &str = "an upgrade does not ask it";

/// All checks of upgrades, before and after.
pub(super) fn checks() -> impl Iterator<Item = &'static Check> {
    GATES.iter().chain(AFTER)
}

/// What is planned.
#[derive(Debug)]
pub struct UpgradeOptions {
    /// A minor version, or a release.
    pub to: String,
    /// The etcd that is going to be installed.
    pub etcd: Option<PathBuf>,
    /// The etcd that runs.
    pub current_etcd: PathBuf,
    /// Where drills have their scratch directory.
    pub scratch_dir: Option<PathBuf>,
    /// How old the newest snapshot may be.
    pub max_age: Duration,
    /// Read this host.
    pub host: Option<HostOptions>,
    /// The table of known vulnerabilities.
    pub advisories: Advisories,
    /// Failures that somebody accepts.
    pub waivers: Vec<Waiver>,
    /// The cluster before the upgrade, which is over.
    pub before: Option<ClusterState>,
}

/// What became of the gates, and the plan.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct UpgradeReport {
    /// The gates; or after an upgrade, what it must have left as it was.
    #[serde(flatten)]
    pub report: Report,
    /// What the upgrade must not change.
    pub state: ClusterState,
    /// What to do; nothing after an upgrade.
    pub plan: Option<Plan>,
}

/// Whether the cluster can be upgraded; with [`UpgradeOptions::before`], whether the upgrade left it as it was. Nothing is
/// written to etcd or to the repository.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for a target that is not known, or another program than it names;
/// [`Unreachable`](crate::ErrorKind::Unreachable) when no endpoint answers.
pub async fn upgrade_check(
    etcd: &EtcdSettings,
    repository: Option<&RepositoryOptions<'_>>,
    mut options: UpgradeOptions,
    control: &Control,
) -> Result<UpgradeReport> {
    let catalogue = if options.before.is_some() { AFTER } else { GATES };
    let waivers = super::own_waivers(catalogue, mem::take(&mut options.waivers))?;
    let program = match &options.etcd {
        Some(program) => Some(drill_version(&drills(program.clone(), etcd, &options)).await?),
        None => None,
    };
    let target = Table::built_in()?.target(&options.to, program.as_deref(), &options.advisories)?;
    let (endpoints, cluster) = read::cluster::read(etcd, Probe::None).await?;
    super::someone_answers(&endpoints)?;
    let data = state::data(etcd, None).await;
    let state = state::state(target.release.to_string(), &endpoints, &cluster, &data);
    let host = match &options.host {
        Some(host) => Some(read::Host::read(host).await?),
        None => None,
    };
    let mut upgrade = live(data, &target, &options, host.as_ref());
    upgrade.before = before(etcd, options.before.clone()).await;
    let backups = match repository {
        Some(of) if options.before.is_none() => {
            let backups = read::Backups::read(of).await;
            read_snapshot(&mut upgrade, of, &backups, etcd, &options, control).await;
            Some(backups)
        }
        _ => None,
    };
    let mut scopes = vec![Scope::Live];
    scopes.extend(host.is_some().then_some(Scope::Host));
    scopes.extend(backups.is_some().then_some(Scope::Repository));
    let mut facts = Facts {
        now: now(),
        endpoints,
        cluster,
        hashes: None,
        host,
        kubernetes: None,
        backups,
        own: Fact::unknown(NOT_ASKED),
        monitoring: Fact::unknown(NOT_ASKED),
        proxy_log: Fact::unknown(NOT_ASKED),
        earlier: Fact::unknown(NOT_ASKED),
        waivers,
        expected_root: 1,
        advisories: options.advisories,
        upgrade: Some(upgrade),
    };
    super::checks::backups::complete_cluster(&mut facts);
    let plan = match (&facts.upgrade, options.before) {
        (Some(upgrade), None) => Some(Plan::of(upgrade, &target, &facts)),
        _ => None,
    };
    Ok(UpgradeReport { report: judge(catalogue, &facts, &scopes), state, plan })
}

/// What is known without a repository.
fn live(
    data: Data,
    target: &Target,
    options: &UpgradeOptions,
    host: Option<&read::Host>,
) -> Upgrade {
    Upgrade {
        target: Fact::known(target.clone(), "--to"),
        max_age: options.max_age,
        cluster_id: data.cluster_id,
        hashes: data.hashes,
        stored: Fact::unknown(NO_REPOSITORY),
        verified: Fact::unknown(NO_REPOSITORY),
        v2: match (&options.host, host) {
            (Some(of), Some(host)) if target.step.v2 => v2::read(of, host),
            _ => Fact::unknown("no host was read"),
        },
        there: Fact::unknown(NO_REPOSITORY),
        back: Fact::unknown(NO_REPOSITORY),
        before: None,
    }
}

const NO_REPOSITORY: &str =
    "no repository was given: name it with -r, and the keys of its snapshots";

/// Every gate counts.
fn judge(catalogue: &[Check], facts: &Facts, scopes: &[Scope]) -> Report {
    let policy =
        Policy { only: &[], skip: &[], fail_on: Severity::Info, unknown: UnknownPolicy::Fail };
    Report::of(catalogue, facts, scopes, &policy)
}

fn drills(program: PathBuf, etcd: &EtcdSettings, options: &UpgradeOptions) -> DrillOptions {
    DrillOptions {
        etcd: program,
        dir: options.scratch_dir.clone(),
        live: None,
        allow_untested: etcd.allow_untested,
        // What is rehearsed is the restore of this snapshot.
        through_journals: false,
    }
}

async fn before(etcd: &EtcdSettings, state: Option<ClusterState>) -> Option<Before> {
    let state = state?;
    let data = state::data(etcd, Some(state.revision)).await;
    Some(Before { state, hashes: data.hashes, keys: data.keys })
}

async fn read_snapshot(
    upgrade: &mut Upgrade,
    of: &RepositoryOptions<'_>,
    backups: &read::Backups,
    etcd: &EtcdSettings,
    options: &UpgradeOptions,
    control: &Control,
) {
    let id = match snapshot::newest(backups) {
        Ok(id) => id,
        Err(why) => {
            (upgrade.stored, upgrade.verified) = (Fact::unknown(&*why), Fact::unknown(&*why));
            (upgrade.there, upgrade.back) = stored::no_drill(&why);
            return;
        }
    };
    upgrade.stored = snapshot::stored(of, id).await;
    upgrade.verified = snapshot::verified(of, id, control).await;
    let Some(program) = &options.etcd else {
        let none = "no program of the target was given: name it with --etcd";
        (upgrade.there, upgrade.back) = stored::no_drill(none);
        return;
    };
    let with = drills(program.clone(), etcd, options);
    upgrade.there = rehearsal::rehearse(of, id, program, &with, control).await;
    upgrade.back = rehearsal::rehearse(of, id, &options.current_etcd, &with, control).await;
}
