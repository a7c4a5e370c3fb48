//! The gates of an upgrade that a snapshot answers.

use super::super::advisories::Release;
use super::super::checks::advisory::release;
use super::super::checks::age_of;
use super::super::fact::{Evidence, Fact, Judgement, Seen, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::kinds::Judged;
use super::facts::{Rehearsed, Upgrade};

fn one(judgement: Judgement) -> Vec<Judged> {
    vec![Judged::of(None, judgement)]
}

/// UG-4
pub(super) fn zombies(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let stored = upgrade.stored.need()?;
        let members = facts.cluster.members.need()?;
        let listed = |id: &u64| members.iter().any(|member| member.id == *id);
        let unlisted = stored.members.iter().filter(|(id, _)| !listed(id));
        let mut found: Vec<_> = unlisted
            .map(|(id, member)| {
                stored.saw(format!("{} ({id:x}) is in the database, and no member", member.name))
            })
            .collect();
        let removed = stored.removed.iter().filter(|id| listed(id));
        found.extend(removed.map(|id| {
            stored.saw(format!("{id:x} is a member, and in the database as one that was removed"))
        }));
        let missing = members.iter().filter(|one| !stored.members.contains_key(&one.id));
        found.extend(missing.map(|member| {
            stored.saw(format!(
                "{} ({:x}) is a member, and not in the database",
                member.name, member.id
            ))
        }));
        let count = stored.members.len();
        Ok(Verdict::none_of(found, stored.saw(format!("the database has the {count} members"))))
    };
    one(judge())
}

/// UG-5
pub(super) fn learners(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let stored = upgrade.stored.need()?;
        let members = facts.cluster.members.need()?;
        let is = |learner| if learner { "a learner" } else { "a member that votes" };
        let found: Vec<_> = members
            .iter()
            .filter_map(|member| {
                let inside = stored.members.get(&member.id)?;
                (inside.learner != member.learner).then(|| {
                    let (now, then) = (is(member.learner), is(inside.learner));
                    stored.saw(format!("{} is {now}, and in the database {then}", member.name))
                })
            })
            .collect();
        let same = stored.saw("the database and the member list agree on who is a learner");
        Ok(Verdict::none_of(found, same))
    };
    one(judge())
}

/// UG-11
pub(super) fn snapshot(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let stored = upgrade.stored.need()?;
        let verified = upgrade.verified.need()?;
        let cluster_id = upgrade.cluster_id.need()?;
        let mut revisions = Vec::new();
        for endpoint in &facts.endpoints {
            revisions.push(endpoint.health.need()?.revision.max(0).unsigned_abs());
        }
        let now = revisions
            .into_iter()
            .max()
            .ok_or_else(|| Unknown("the revision of the cluster is not known".into()))?;
        let mut found: Vec<Evidence> = Vec::new();
        let id = stored.id;
        let age = age_of(format_args!("snapshot {id}"), id.created(), facts.now)?;
        let limit = upgrade.max_age.as_secs();
        if age.unsigned_abs() > limit {
            found.push(stored.saw(format!(
                "snapshot {id} is {} min old, the limit is {} min",
                age / 60,
                limit / 60
            )));
        }
        if let Err(why) = verified.get() {
            found.push(verified.saw(format!("it cannot be relied on: {why}")));
        }
        match stored.cluster_id {
            Some(of) if of != *cluster_id.get() => {
                found.push(stored.saw(format!("snapshot {id} is of another cluster")));
            }
            Some(_) => {}
            None => return Err(Unknown(format!("which cluster snapshot {id} is of is not known"))),
        }
        let revision = stored.revision;
        if revision > now {
            found
                .push(stored.saw(format!("its revision {revision} is after the cluster's, {now}")));
        }
        let behind = now.saturating_sub(revision);
        let good =
            format!("snapshot {id} is {} min old, {behind} revisions behind, verified", age / 60);
        Ok(Verdict::none_of(found, verified.saw(good)))
    };
    one(judge())
}

/// UG-12
pub(super) fn rehearsed(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let target = upgrade.target.need()?;
        let there = upgrade.there.need()?;
        let mut found = differences(there);
        if Release::parse(&there.version) != Some(target.release) {
            found.push(there.saw(format!("the program is etcd {}", there.version)));
        }
        // What is known to fail is no less so if the other is not known.
        if !found.is_empty() {
            return Ok(Verdict::Fail(found, None));
        }
        let back = current(upgrade, facts)?;
        found.extend(differences(back));
        let both = there.hash.as_ref().zip(back.hash.as_ref());
        if found.is_empty() {
            let (there, back) = both.ok_or_else(|| {
                Unknown("HashKV could not be compared with the snapshot's".into())
            })?;
            if there != back {
                found.push(
                    upgrade
                        .there
                        .need()?
                        .saw(format!("HashKV {there}, and {back} on the way back")),
                );
            }
        }
        Ok(Verdict::none_of(
            found,
            there.saw(format!(
                "etcd {} serves the snapshot after {:.1} s, {} after {:.1} s, with the same HashKV; members are not part of it",
                there.version,
                there.took.as_secs_f64(),
                back.version,
                back.took.as_secs_f64()
            )),
        ))
    };
    one(judge())
}

fn differences(seen: Seen<'_, Rehearsed>) -> Vec<Evidence> {
    seen.get().differs.iter().map(|what| seen.saw(what)).collect()
}

/// The drill with the current program, which is of the minor version that runs.
fn current<'a>(
    upgrade: &'a Upgrade,
    facts: &Facts,
) -> std::result::Result<Seen<'a, Rehearsed>, Unknown> {
    let back = upgrade.back.need()?;
    let of = Release::parse(&back.version).map(|release| release.minor());
    for endpoint in &facts.endpoints {
        let (version, release) = release(endpoint)?;
        if of.as_ref() != Some(&release.minor()) {
            let why = format!(
                "the current program is etcd {}, and {} runs on {}: name it with --current-etcd",
                back.version,
                version.get(),
                endpoint.name
            );
            return Err(Unknown(why));
        }
    }
    Ok(back)
}

/// UG-13
pub(super) fn way_back(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let judge = || -> Judgement {
        let back = current(upgrade, facts)?;
        let stored = upgrade.stored.need()?;
        let found = differences(back);
        if found.is_empty() && back.hash.is_none() {
            return Err(Unknown("HashKV could not be compared with the snapshot's".into()));
        }
        Ok(Verdict::none_of(
            found,
            back.saw(format!(
                "snapshot {} restored and served by etcd {} after {:.1} s",
                stored.id,
                back.version,
                back.took.as_secs_f64()
            )),
        ))
    };
    one(judge())
}

/// Nothing is known of the drills.
pub(super) fn no_drill(why: &str) -> (Fact<Rehearsed>, Fact<Rehearsed>) {
    (Fact::unknown(why), Fact::unknown(why))
}
