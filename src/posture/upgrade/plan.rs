//! The order and the commands of an upgrade, and the way back.

use serde::Serialize;

use super::super::facts::Facts;
use super::facts::Upgrade;
use super::table::Target;

/// What to do, in order.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// Such as `3.6.16`.
    pub target: String,
    /// The members: those that follow first, the leader last. Nothing if one of them is not known.
    pub order: Vec<PlannedMember>,
    /// What to do first.
    pub before: Vec<String>,
    /// What to do for each member.
    pub each: Vec<String>,
    /// When to stop.
    pub stop: Vec<String>,
    /// What to do when all members are upgraded.
    pub after: Vec<String>,
    /// How to go back.
    pub back: Vec<String>,
}

/// A member of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlannedMember {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its name, or its endpoint.
    pub name: String,
    /// Where it answers.
    pub endpoint: String,
    /// It is the leader.
    pub leader: bool,
}

impl Plan {
    pub(super) fn of(upgrade: &Upgrade, target: &Target, facts: &Facts) -> Self {
        let (from, to) = (&target.step.from, &target.release);
        let order = order(facts).unwrap_or_default();
        let endpoints: Vec<_> = order.iter().map(|one| one.endpoint.as_str()).collect();
        let all = match endpoints.is_empty() {
            true => String::new(),
            false => format!(" --endpoints={}", endpoints.join(",")),
        };
        let mut each = vec![
            format!(
                "stop etcd, install {to} (the program, or the image of a static pod), and start it with the same settings and data directory"
            ),
            format!(
                "look: `etcdctl{all} endpoint health` and `etcdctl{all} endpoint status -w table`"
            ),
            format!(
                "go on when it runs {to}, has no error, and its raft applied index follows the others"
            ),
        ];
        if let [first, .., last] = order.as_slice()
            && last.leader
        {
            let (at, to) = (&last.endpoint, &first.id);
            each.insert(
                0,
                format!("before the last one: `etcdctl --endpoints={at} move-leader {to}`"),
            );
        }
        Self {
            target: to.to_string(),
            order,
            before: vec![
                "every gate passes, and the snapshot is not older than --max-age".into(),
                "the same command with --save before.json: it keeps what the upgrade must not change".into(),
            ],
            each,
            stop: vec![
                format!("a member does not start, has an error or an alarm, or does not follow within 10 minutes: install {from} again on it, and start it from the same data"),
                format!("more than one member is not healthy: upgrade no other one, and go back to {from}"),
            ],
            after: vec![
                format!("`etcdctl{all} endpoint status -w json`: the cluster's version is {}", to.minor()),
                "strongroom upgrade-check --after before.json".into(),
            ],
            back: back(upgrade, target),
        }
    }
}

/// Those that follow first; nothing unless all members are known.
fn order(facts: &Facts) -> Option<Vec<PlannedMember>> {
    let members = facts.cluster.members.need().ok()?;
    let mut order: Vec<PlannedMember> = Vec::new();
    for member in members.iter() {
        let is_it = |one: &&super::super::facts::Endpoint| {
            one.member.need().is_ok_and(|id| *id == member.id)
        };
        let endpoint = facts.endpoints.iter().find(is_it)?;
        let leader = endpoint.health.need().ok()?.leader == member.id;
        let name = if member.name.is_empty() { &endpoint.name } else { &member.name };
        order.push(PlannedMember {
            id: format!("{:x}", member.id),
            name: name.clone(),
            endpoint: endpoint.name.clone(),
            leader,
        });
    }
    order.sort_by_key(|one| one.leader);
    Some(order)
}

fn back(upgrade: &Upgrade, target: &Target) -> Vec<String> {
    let (from, to) = (&target.step.from, target.release.minor());
    let mut back = vec![format!(
        "while at least one member runs {from}, the cluster is one of {from}: install {from} again on the others, one by one, from the same data"
    )];
    if target.step.downgrade {
        back.push(format!(
            "when all run {to}: `etcdctl downgrade validate {from}` and `etcdctl downgrade enable {from}` before any program is replaced, then one member after the other"
        ));
    }
    let snapshot = upgrade.stored.need().ok();
    let restore = match (snapshot, upgrade.back.need().ok()) {
        (Some(stored), Some(rehearsed)) => format!(
            "or restore snapshot {} with etcd {}: measured, {:.1} s from the first byte to an etcd that answers",
            stored.id,
            rehearsed.version,
            rehearsed.took.as_secs_f64()
        ),
        (Some(stored), None) => {
            format!("or restore snapshot {} with etcd {from}: not rehearsed", stored.id)
        }
        _ => format!("or restore a snapshot with etcd {from}: none is known"),
    };
    back.push(format!("{restore}; `strongroom restore` loses what was written after it"));
    back
}
