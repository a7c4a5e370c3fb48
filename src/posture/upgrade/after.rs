//! What an upgrade must have left as it was.

use super::super::advisories::Release;
use super::super::catalog::{Check, Run, check};
use super::super::checks::advisory::release;
use super::super::fact::{Judgement, Severity::Critical, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::kinds::{Judged, Section::Updates};
use super::facts::{Before, Upgrade};
use super::gates::{healthy, same_data, storage};

/// The checks after an upgrade.
pub(crate) const AFTER: &[Check] = &[
    check(
        "UA-1",
        Critical,
        Updates,
        "A member or the cluster is not of the version that was wanted",
        "finish the upgrade: the cluster's version follows when all members run the new one",
        &[Run::Gate(version)],
    ),
    check(
        "UA-2",
        Critical,
        Updates,
        "A member is not healthy, is gone, is new, or votes differently",
        "look at its log; before all members are upgraded the old program starts from the same data",
        &[Run::Gate(members)],
    ),
    check(
        "UA-3",
        Critical,
        Updates,
        "etcd has raised an alarm",
        "NOSPACE: compact, defragment, then `etcdctl alarm disarm`; CORRUPT: restore that member",
        &[Run::Gate(alarms)],
    ),
    check(
        "UA-4",
        Critical,
        Updates,
        "The data differs from what it was",
        "stop clients that write, and restore the snapshot from before the upgrade",
        &[Run::Gate(data)],
    ),
    check(
        "UA-5",
        Critical,
        Updates,
        "The number of keys differs from what it was",
        "stop clients that write, and restore the snapshot from before the upgrade",
        &[Run::Gate(keys)],
    ),
];

fn before(upgrade: &Upgrade) -> std::result::Result<&Before, Unknown> {
    upgrade.before.as_ref().ok_or_else(|| Unknown("no state of before was given".into()))
}

fn one(judgement: Judgement) -> Judged {
    Judged::of(None, judgement)
}

/// UA-1
fn version(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = |endpoint| -> Judgement {
        let target = upgrade.target.need()?;
        let (version, release) = release(endpoint)?;
        let wanted = &target.release;
        Ok(match release.minor() == wanted.minor() && release >= *wanted {
            true => Verdict::Pass(version.saw(format!("{release}, {wanted} was wanted"))),
            false => Verdict::fail(version.saw(format!("{release}, and {wanted} was wanted"))),
        })
    };
    let mut judged: Vec<_> = facts
        .endpoints
        .iter()
        .map(|endpoint| Judged::of(Some(endpoint.name.clone()), judge(endpoint)))
        .collect();
    let cluster = || -> Judgement {
        let target = upgrade.target.need()?;
        let first = facts.endpoints.first().ok_or_else(|| Unknown("no endpoint".into()))?;
        let cluster = first.cluster_version.need()?;
        let said = cluster.saw(format!("the cluster's version is {}", cluster.get()));
        let is = Release::parse(cluster.get()).map(|release| release.minor());
        Ok(match is == Some(target.release.minor()) {
            true => Verdict::Pass(said),
            false => Verdict::fail(said),
        })
    };
    judged.push(one(cluster()));
    // What is stored follows the cluster's version.
    judged.extend(storage(upgrade, facts));
    judged
}

/// UA-2
fn members(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let of = |endpoint| healthy(endpoint, facts);
    let mut judged: Vec<_> = facts
        .endpoints
        .iter()
        .map(|endpoint| Judged::of(Some(endpoint.name.clone()), of(endpoint)))
        .collect();
    let same = || -> Judgement {
        let state = &before(upgrade)?.state;
        let then = state
            .members
            .as_ref()
            .ok_or_else(|| Unknown("the members of before are not known".into()))?;
        let now = facts.cluster.members.need()?;
        let id = |id: u64| format!("{id:x}");
        let mut found = Vec::new();
        for member in now.iter() {
            match then.iter().find(|one| one.id == id(member.id)) {
                None => found.push(now.saw(format!("{} is new", member.name))),
                Some(one) if one.learner != member.learner => {
                    let is = if member.learner { "is a learner now" } else { "votes now" };
                    found.push(now.saw(format!("{} {is}", member.name)));
                }
                Some(_) => {}
            }
        }
        let gone = then.iter().filter(|one| now.iter().all(|member| id(member.id) != one.id));
        found.extend(gone.map(|one| now.saw(format!("{} is gone", crate::text::clean(&one.name)))));
        Ok(Verdict::none_of(found, now.saw(format!("the same {} members", then.len()))))
    };
    judged.push(one(same()));
    judged
}

/// UA-3
fn alarms(_: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let alarms = facts.cluster.alarms.need()?;
        let found = alarms.iter().map(|alarm| alarms.saw(alarm)).collect();
        Ok(Verdict::none_of(found, alarms.saw("no alarm")))
    };
    vec![one(judge())]
}

/// UA-4
fn data(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let before = before(upgrade)?;
        let state = &before.state;
        let then = state.hash.ok_or_else(|| Unknown("HashKV of before is not known".into()))?;
        let now = before.hashes.need()?;
        if let Some(why) = now.left_out.first() {
            return Err(Unknown(why.clone()));
        }
        let mut found = Vec::new();
        for member in &now.answers {
            if member.compact_revision != state.compact_revision {
                let why = format!(
                    "it was compacted at {} since: what was at revision {} cannot be compared",
                    member.compact_revision, state.revision
                );
                return Err(Unknown(why));
            }
            if member.hash != then {
                let what = format!("{} hashes to {}, and it was {then}", member.name, member.hash);
                found.push(now.saw(what));
            }
        }
        if now.answers.is_empty() {
            return Err(Unknown("no member answered".into()));
        }
        Ok(Verdict::none_of(found, now.saw(format!("{then}, as before"))))
    };
    let mut judged = vec![one(judge())];
    judged.extend(same_data(upgrade, facts));
    judged
}

/// UA-5
fn keys(upgrade: &Upgrade, _: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let before = before(upgrade)?;
        let then = before
            .state
            .keys
            .ok_or_else(|| Unknown("the number of keys of before is not known".into()))?;
        let now = before.keys.need()?;
        let said = now.saw(format!("{} keys, and {then} before", now.get()));
        Ok(match *now.get() == then {
            true => Verdict::Pass(said),
            false => Verdict::fail(said),
        })
    };
    vec![one(judge())]
}
