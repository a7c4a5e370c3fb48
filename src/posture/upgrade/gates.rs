//! The gates of an upgrade that the endpoints answer, and the catalogue of all.

use super::super::advisories::Release;
use super::super::catalog::{Check, Run, check};
use super::super::checks::advisory::{of_release, release, table_age};
use super::super::checks::monitoring::agree;
use super::super::fact::{Evidence, Judgement, Severity, Unknown, Verdict};
use super::super::facts::{Endpoint, Facts};
use super::super::kinds::{Judged, Section::Updates};
use super::facts::Upgrade;
use super::{host, stored};
use Severity::{Critical, High, Medium};

/// How many log entries a member may be behind.
const MAX_LAG: u64 = 5000;

/// Every gate.
pub(crate) const GATES: &[Check] = &[
    check(
        "UG-1",
        Critical,
        Updates,
        "The version that runs may not be upgraded to this one",
        "upgrade one minor version at a time, each from the patch that is named or a later one",
        &[Run::Gate(source)],
    ),
    check(
        "UG-2",
        Critical,
        Updates,
        "Members are not healthy, run different versions, or may not be stopped one by one",
        "start every member, install one version on all, and wait until they follow the leader; a cluster that serves \
         without one member has at least three",
        &[Run::Gate(health)],
    ),
    check(
        "UG-3",
        Critical,
        Updates,
        "There is a learner, or an alarm",
        "promote the learner or remove it; compact, defragment and `etcdctl alarm disarm` for NOSPACE; restore a member for CORRUPT",
        &[Run::Gate(settled)],
    ),
    check(
        "UG-4",
        Critical,
        Updates,
        "The database has members that are not in the cluster",
        "install 3.5.32 or later on all members, which removes them at the start, and take another snapshot",
        &[Run::Gate(stored::zombies)],
    ),
    check(
        "UG-5",
        Critical,
        Updates,
        "The database has a member as a learner that votes, or the other way round",
        "install 3.5.32 or later on all members, which corrects them at the start, and take another snapshot",
        &[Run::Gate(stored::learners)],
    ),
    check(
        "UG-6",
        Critical,
        Updates,
        "A member has data of the v2 API",
        "move what is needed, delete the rest, restart the member with --snapshot-count=1 until it has written a snapshot file, \
         then without it; or accept the loss with --v2-deprecation=write-only-skip-check (3.5.32, 3.6.13 and later)",
        &[Run::Gate(host::v2)],
    ),
    check(
        "UG-7",
        Critical,
        Updates,
        "A setting is in use that the target does not have",
        "replace it: with a removed flag etcd does not start, and what a variable or a configuration file sets is ignored",
        &[Run::Gate(host::flags)],
    ),
    check(
        "UG-8",
        Critical,
        Updates,
        "What is stored is of another version, or a downgrade is under way",
        "finish the downgrade, or `etcdctl downgrade cancel`; wait until the storage version is the cluster's",
        &[Run::Gate(storage)],
    ),
    check(
        "UG-9",
        Medium,
        Updates,
        "The database is near the limit of its size",
        "compact, defragment one member after the other, or raise quota-backend-bytes",
        &[Run::Gate(size)],
    ),
    check(
        "UG-10",
        Critical,
        Updates,
        "Members have different data",
        "remove the member that differs, and add it again: it then copies the data of the others",
        &[Run::Gate(same_data)],
    ),
    check(
        "UG-11",
        Critical,
        Updates,
        "There is no recent, verified snapshot",
        "take one with --backup, or `strongroom backup`",
        &[Run::Gate(stored::snapshot)],
    ),
    check(
        "UG-12",
        Critical,
        Updates,
        "The snapshot was not restored and served by the target, and by the current version",
        "give the programs: --etcd of the target, --current-etcd of the version that runs",
        &[Run::Gate(stored::rehearsed)],
    ),
    check(
        "UG-13",
        High,
        Updates,
        "The way back is not rehearsed",
        "give the program of the version that runs with --current-etcd: how long a restore takes is measured",
        &[Run::Gate(stored::way_back)],
    ),
    check(
        "UG-14",
        High,
        Updates,
        "A known vulnerability is in the target",
        "upgrade to the newest patch of that minor version",
        &[Run::Gate(vulnerabilities)],
    ),
];

/// One judgement of each endpoint; what is not known if there is none.
fn each(facts: &Facts, judge: impl Fn(&Endpoint) -> Judgement) -> Vec<Judged> {
    let of = |one: &Endpoint| Judged::of(Some(one.name.clone()), judge(one));
    match facts.endpoints.as_slice() {
        [] => vec![Judged::of(None, Err(Unknown("no endpoint was asked".into())))],
        endpoints => endpoints.iter().map(of).collect(),
    }
}

/// UG-1
fn source(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    each(facts, |endpoint| {
        let (version, release) = release(endpoint)?;
        let target = upgrade.target.need()?;
        let step = &target.step;
        let needs = Release::parse(&step.needs)
            .ok_or_else(|| Unknown(format!("{:?} is not a version of etcd", step.needs)))?;
        let to = &target.release;
        Ok(match release.minor() == step.from {
            false => Verdict::fail(version.saw(format!(
                "{release}: the way to {to} is from {}, of {needs} or later",
                step.from
            ))),
            true if release < needs => Verdict::fail(
                version.saw(format!("{release}: the way to {to} begins at {needs}: {}", step.why)),
            ),
            true => Verdict::Pass(version.saw(format!("{release} may be upgraded to {to}"))),
        })
    })
}

/// UG-2
fn health(_: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let mut judged = each(facts, |endpoint| healthy(endpoint, facts));
    judged.push(Judged::of(None, quorum(facts)));
    judged
}

pub(super) fn healthy(endpoint: &Endpoint, facts: &Facts) -> Judgement {
    let health = endpoint.health.need()?;
    let mut found: Vec<Evidence> = health.errors.iter().map(|error| health.saw(error)).collect();
    if health.leader == 0 {
        found.push(health.saw("it knows no leader"));
    }
    // Those that were asked before it: the log goes on while one after the other is asked.
    let others = facts.endpoints.iter().take_while(|one| one.name != endpoint.name);
    let others = others.filter_map(|one| one.health.need().ok());
    let ahead = others.map(|other| other.raft_index).max().unwrap_or_default();
    let lag = ahead.max(health.raft_index).saturating_sub(health.raft_applied);
    if lag > MAX_LAG {
        found.push(health.saw(format!("it is {lag} entries of the log behind")));
    }
    let applied = health.raft_applied;
    Ok(Verdict::none_of(found, health.saw(format!("healthy, entry {applied} is applied"))))
}

/// One version, one leader, and a majority without any one member.
fn quorum(facts: &Facts) -> Judgement {
    let members = facts.cluster.members.need()?;
    let (mut found, mut leaders, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    for endpoint in &facts.endpoints {
        let (version, _) = release(endpoint)?;
        let health = endpoint.health.need()?;
        leaders.push(health.leader);
        if !versions.is_empty() && !versions.contains(version.get()) {
            let others = versions.join(", ");
            let what = format!("{} runs {}, others {others}", endpoint.name, version.get());
            found.push(version.saw(what));
        }
        versions.push(version.get().clone());
    }
    leaders.sort_unstable();
    leaders.dedup();
    if leaders.len() != 1 {
        found.push(members.saw("the members do not agree on a leader"));
    }
    let voters = members.iter().filter(|member| !member.learner).count();
    // A majority of all, of those that are left when one stops.
    if voters < 3 {
        found.push(members.saw(format!(
            "of {voters} members that vote none may stop: the cluster does not serve while one is upgraded"
        )));
    }
    Ok(Verdict::none_of(
        found,
        members.saw(format!("{voters} members vote, one at a time may stop")),
    ))
}

/// UG-3
fn settled(_: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let members = facts.cluster.members.need()?;
        let alarms = facts.cluster.alarms.need()?;
        let learners = members.iter().filter(|member| member.learner);
        let mut found: Vec<_> =
            learners.map(|one| members.saw(format!("{} is a learner", one.name))).collect();
        found.extend(alarms.iter().map(|alarm| alarms.saw(alarm)));
        Ok(Verdict::none_of(found, alarms.saw("no learner and no alarm")))
    };
    vec![Judged::of(None, judge())]
}

/// UG-8
pub(super) fn storage(_: &Upgrade, facts: &Facts) -> Vec<Judged> {
    each(facts, |endpoint| {
        let (version, release) = release(endpoint)?;
        let health = endpoint.health.need()?;
        if let Some(to) = &health.downgrade {
            return Ok(Verdict::fail(health.saw(format!("a downgrade to {to} is under way"))));
        }
        let cluster = endpoint.cluster_version.need()?;
        let of_cluster = Release::parse(cluster.get())
            .ok_or_else(|| Unknown(format!("{:?} is not a version of etcd", cluster.get())))?;
        if of_cluster.minor() != release.minor() {
            return Ok(Verdict::fail(cluster.saw(format!(
                "the cluster's version is {}, and the member's {release}",
                cluster.get()
            ))));
        }
        match &health.storage {
            Some(storage) if storage == cluster.get() => {
                Ok(Verdict::Pass(health.saw(format!("storage version {storage}"))))
            }
            Some(storage) => Ok(Verdict::fail(health.saw(format!(
                "storage version {storage}, and the cluster's is {}",
                cluster.get()
            )))),
            // Before 3.6 a database has none.
            None if matches!(release.minor().as_str(), "3.4" | "3.5") => {
                Ok(Verdict::NotApplicable(version.saw(format!("{release} has no storage version"))))
            }
            None => Err(Unknown("the member does not tell its storage version".into())),
        }
    })
}

/// UG-9
fn size(_: &Upgrade, facts: &Facts) -> Vec<Judged> {
    each(facts, |endpoint| {
        let health = endpoint.health.need()?;
        let of_metrics = || endpoint.pages.need().ok().and_then(|pages| pages.quota);
        let quota =
            health.quota.or_else(of_metrics).filter(|quota| *quota > 0).ok_or_else(|| {
                Unknown(
                    "the limit of the database's size is not known: /metrics was not read".into(),
                )
            })?;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let said = health.saw(format!(
            "{} MiB of {}, {} in use",
            mib(health.size),
            mib(quota),
            mib(health.in_use)
        ));
        Ok(match health.size > quota / 5 * 4 {
            true => Verdict::fail(said),
            false => Verdict::Pass(said),
        })
    })
}

/// UG-10
pub(super) fn same_data(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    vec![Judged::of(None, agree(&upgrade.hashes, facts))]
}

/// UG-14
fn vulnerabilities(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let target = match upgrade.target.need() {
        Ok(target) => target,
        Err(unknown) => return vec![Judged::of(None, Err(unknown))],
    };
    let version = super::super::fact::Fact::known(target.release.to_string(), "--to");
    let judge = |endpoint: &Endpoint| match version.need() {
        Ok(version) => of_release(&target.release, version, endpoint, facts),
        Err(unknown) => vec![Judged::of(None, Err(unknown))],
    };
    let mut judged: Vec<_> = match facts.endpoints.as_slice() {
        [] => vec![Judged::of(None, Err(Unknown("no endpoint was asked".into())))],
        endpoints => endpoints.iter().flat_map(judge).collect(),
    };
    if facts.advisories.is_old(facts.now) {
        judged.extend(table_age(facts));
    }
    judged
}
