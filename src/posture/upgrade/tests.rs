//! Each gate with facts that let it pass, fail and be unknown; and that no gate passes without what it rests on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::fact::{Fact, Status};
use super::super::facts::Facts;
use super::super::facts::cluster::Listed;
use super::super::facts::health::Health;
use super::super::facts::settings::Settings;
use super::super::kinds::Scope;
use super::super::report::Report;
use super::super::tests::{change, first, good, known, on_host, settings};
use super::super::waivers::Waiver;
use super::facts::{Before, Rehearsed, Stored, StoredMember, Upgrade, V2};
use super::state::{ClusterState, MemberState};
use super::table::Table;
use super::{AFTER, Check, GATES, judge};
use crate::etcd::{Comparison, MemberHash};
use crate::format::SnapshotId;
use crate::posture::Advisories;

const CLUSTER: u64 = 77;

fn hash(id: u64, hash: u32) -> MemberHash {
    MemberHash { id, name: format!("m{}", id - 1), hash, compact_revision: 5 }
}

fn hashes() -> Comparison {
    let answers = vec![hash(1, 9), hash(2, 9), hash(3, 9)];
    Comparison { revision: 100, answers, left_out: Vec::new() }
}

fn rehearsed(version: &str) -> Rehearsed {
    let hash = Some("9 at revision 100, by 1".into());
    Rehearsed { version: version.into(), took: Duration::from_secs(2), hash, differs: Vec::new() }
}

fn snapshot(facts: &Facts) -> Stored {
    let id = SnapshotId::new((facts.now.unix().unsigned_abs() - 600) * 1000, [0; 10]);
    let member = |id: u64| (id, StoredMember { name: format!("m{}", id - 1), learner: false });
    Stored {
        id,
        revision: 98,
        cluster_id: Some(CLUSTER),
        members: (1..=3).map(member).collect(),
        removed: [9].into(),
    }
}

/// Three members of `version` that can be upgraded to `to`.
fn ready(version: &str, to: &str) -> Facts {
    let mut facts = good();
    facts.waivers.clear();
    facts.endpoints.clear();
    let cluster_version = format!("{}.0", version.rsplit_once('.').unwrap().0);
    for id in 1..=3_u64 {
        let mut endpoint = good().endpoints.remove(0);
        endpoint.name = format!("https://10.0.0.{id}:2379");
        endpoint.member = known(id);
        endpoint.version = known(version.into());
        endpoint.cluster_version = known(cluster_version.clone());
        endpoint.health = known(Health {
            leader: 2,
            raft_index: 1000,
            raft_applied: 1000,
            revision: 100,
            size: 1 << 20,
            in_use: 1 << 19,
            quota: Some(2 << 30),
            storage: Some(cluster_version.clone()),
            ..Health::default()
        });
        facts.endpoints.push(endpoint);
    }
    let member = |id: u64| Listed {
        id,
        name: format!("m{}", id - 1),
        learner: false,
        client_urls: vec![format!("https://10.0.0.{id}:2379")],
        peer_urls: vec![format!("https://10.0.0.{id}:2380")],
    };
    facts.cluster.members = known((1..=3).map(member).collect());
    on_host(&mut facts).settings = settings("--name=m0");
    let advisories = Advisories::built_in().unwrap();
    let target = Table::built_in().unwrap().target(to, None, &advisories).unwrap();
    facts.upgrade = Some(Upgrade {
        there: known(rehearsed(&target.release.to_string())),
        target: known(target),
        max_age: Duration::from_secs(3600),
        cluster_id: known(CLUSTER),
        hashes: known(hashes()),
        stored: known(snapshot(&facts)),
        verified: known(Ok(())),
        v2: known(V2 { entries: 10, snap: Some(990), ..V2::default() }),
        back: known(rehearsed(version)),
        before: None,
    });
    let waiver = |id: &str, member: &str| {
        format!(
            "[[waiver]]\nid = \"{id}\"\nmember = \"{member}\"\nreason = \"run there\"\nby = \"ops\"\nuntil = \"2026-12-01\"\nunknown = true\naccept-critical = true\n"
        )
    };
    // Other members' hosts are not read in one run.
    let of = [("UG-6", "m1"), ("UG-6", "m2"), ("UG-7", "m1"), ("UG-7", "m2")];
    let text: String = of.iter().map(|(id, member)| waiver(id, member)).collect();
    facts.waivers = Waiver::parse(&text, facts.now).unwrap();
    facts
}

fn before() -> Before {
    let member = |id: u64| MemberState {
        id: format!("{id:x}"),
        name: format!("m{}", id - 1),
        learner: false,
        version: Some("3.5.35".into()),
    };
    let text = serde_json::json!({
        "format": 1, "target": "3.6.16", "members": (1..=3).map(member).collect::<Vec<_>>(),
        "revision": 100, "compact_revision": 5, "hash": 9, "keys": 42,
    });
    let state = ClusterState::parse(&text.to_string()).unwrap();
    Before { state, hashes: known(hashes()), keys: known(42) }
}

fn upgraded() -> Facts {
    let mut facts = ready("3.6.16", "3.7");
    let target = Table::built_in().unwrap().target("3.6", None, &facts.advisories).unwrap();
    let upgrade = up(&mut facts);
    (upgrade.target, upgrade.before) = (known(target), Some(before()));
    facts.waivers.clear();
    facts
}

fn up(facts: &mut Facts) -> &mut Upgrade {
    facts.upgrade.as_mut().unwrap()
}

fn report(catalogue: &[Check], facts: &Facts) -> Report {
    judge(catalogue, facts, &[Scope::Live, Scope::Host, Scope::Repository])
}

/// The gates with this status that nobody waived, each once.
fn with(report: &Report, status: Status) -> BTreeSet<&'static str> {
    let found = report.checks.iter().filter(|one| one.status == status && one.waiver.is_none());
    found.map(|one| one.id).collect()
}

fn ids(names: &[&'static str]) -> BTreeSet<&'static str> {
    names.iter().copied().collect()
}

type Change = fn(&mut Facts);

#[test]
fn what_is_ready_passes() {
    for (version, to, not_applicable) in [
        ("3.4.45", "3.5", vec!["UG-6"]),
        ("3.5.35", "3.6", vec![]),
        ("3.6.16", "3.7", vec!["UG-6"]),
    ] {
        let mut facts = ready(version, to);
        if !not_applicable.is_empty() {
            // Of UG-6 nothing is unknown then that could be waived.
            facts.waivers = facts.waivers.split_off(2);
        }
        let report = report(GATES, &facts);
        assert_eq!(with(&report, Status::Fail), ids(&[]), "{to}");
        assert_eq!(with(&report, Status::Unknown), ids(&[]), "{to}");
        assert_eq!(
            with(&report, Status::NotApplicable),
            not_applicable.into_iter().collect(),
            "{to}"
        );
        assert_eq!((report.exit, report.notes.len()), (0, 0), "{to}: {:?}", report.notes);
    }
    let report = report(AFTER, &upgraded());
    assert_eq!((report.exit, with(&report, Status::Pass).len()), (0, AFTER.len()));
}

/// A table that ended a year ago.
fn old_table() -> Advisories {
    let table = include_str!("../advisories.json");
    Advisories::parse(&table.replace("\"complete_to\": \"2026", "\"complete_to\": \"2025")).unwrap()
}

/// Which gates have no verdict when a fact is not known. All others keep theirs.
#[test]
fn without_a_fact_no_gate_passes_that_rests_on_it() {
    let cases: &[(Change, &[&'static str])] = &[
        (|f| up(f).target = Fact::unknown("x"), &["UG-1", "UG-6", "UG-7", "UG-12", "UG-14"]),
        (|f| first(f).version = Fact::unknown("x"), &["UG-1", "UG-2", "UG-8", "UG-12", "UG-13"]),
        (|f| first(f).health = Fact::unknown("x"), &["UG-2", "UG-8", "UG-9", "UG-11"]),
        (|f| first(f).cluster_version = Fact::unknown("x"), &["UG-8"]),
        (|f| change(&mut first(f).health, |health| health.storage = None), &["UG-8"]),
        (|f| change(&mut first(f).health, |health| health.quota = None), &["UG-9"]),
        (
            |f| f.cluster.members = Fact::unknown("x"),
            &["UG-2", "UG-3", "UG-4", "UG-5", "UG-6", "UG-7", "UG-10"],
        ),
        (|f| f.cluster.alarms = Fact::unknown("x"), &["UG-3"]),
        (|f| up(f).stored = Fact::unknown("x"), &["UG-4", "UG-5", "UG-11", "UG-13"]),
        (|f| change(&mut up(f).stored, |stored| stored.cluster_id = None), &["UG-11"]),
        (|f| up(f).cluster_id = Fact::unknown("x"), &["UG-11"]),
        (|f| up(f).verified = Fact::unknown("x"), &["UG-11"]),
        (|f| up(f).v2 = Fact::unknown("x"), &["UG-6"]),
        (|f| f.host = None, &["UG-6", "UG-7"]),
        (|f| on_host(f).settings = Fact::unknown("x"), &["UG-6", "UG-7"]),
        (
            |f| {
                let line = ["etcd".to_owned(), "--name=m0".to_owned()];
                on_host(f).settings = known(Settings::of_process(&line, Err("x".into())));
            },
            &["UG-6", "UG-7"],
        ),
        (|f| on_host(f).settings = known(Settings::of_file("name: m0").unwrap()), &["UG-7"]),
        (|f| up(f).hashes = Fact::unknown("x"), &["UG-10"]),
        (|f| change(&mut up(f).hashes, |all| all.answers.clear()), &["UG-10"]),
        (|f| change(&mut up(f).hashes, |all| all.answers.truncate(2)), &["UG-10"]),
        (|f| change(&mut up(f).hashes, |all| all.answers[2].compact_revision = 6), &["UG-10"]),
        (|f| change(&mut up(f).hashes, |all| all.left_out.push("m2: x".into())), &["UG-10"]),
        (
            |f| {
                change(&mut up(f).stored, |stored| {
                    stored.id = SnapshotId::new(u64::MAX >> 16, [0; 10])
                })
            },
            &["UG-11"],
        ),
        (|f| f.advisories = old_table(), &["UG-14"]),
        (|f| up(f).there = Fact::unknown("x"), &["UG-12"]),
        (|f| change(&mut up(f).there, |one| one.hash = None), &["UG-12"]),
        (|f| up(f).back = Fact::unknown("x"), &["UG-12", "UG-13"]),
        (|f| change(&mut up(f).back, |one| one.hash = None), &["UG-12", "UG-13"]),
        (|f| up(f).back = known(rehearsed("3.4.45")), &["UG-12", "UG-13"]),
    ];
    let mut seen = BTreeSet::new();
    for (at, (change, wanted)) in cases.iter().enumerate() {
        // In 3.6 members tell all of it.
        let mut facts = ready("3.6.16", "3.7");
        let step = Table::built_in().unwrap().target("3.7", None, &facts.advisories).unwrap();
        let mut v2 = step;
        v2.step.v2 = true;
        up(&mut facts).target = known(v2);
        change(&mut facts);
        let report = report(GATES, &facts);
        let unknown = with(&report, Status::Unknown);
        assert_eq!(unknown, ids(wanted), "case {at}");
        assert_eq!(with(&report, Status::Fail), ids(&[]), "case {at}");
        assert_eq!(report.exit, 3, "case {at}");
        seen.extend(unknown);
    }
    assert_eq!(seen, GATES.iter().map(|gate| gate.id).collect());
}

#[test]
fn nothing_known_passes_nothing() {
    let mut facts = ready("3.6.16", "3.7");
    facts.endpoints.clear();
    facts.cluster = super::read::Cluster::unknown("x");
    (facts.host, facts.backups) = (None, None);
    let upgrade = up(&mut facts);
    upgrade.target = Fact::unknown("x");
    upgrade.hashes = Fact::unknown("x");
    upgrade.stored = Fact::unknown("x");
    upgrade.verified = Fact::unknown("x");
    upgrade.v2 = Fact::unknown("x");
    (upgrade.there, upgrade.back) = (Fact::unknown("x"), Fact::unknown("x"));
    for catalogue in [GATES, AFTER] {
        let report = report(catalogue, &facts);
        assert_eq!(with(&report, Status::Pass), ids(&[]));
        assert_eq!((report.exit, with(&report, Status::Unknown).len()), (3, catalogue.len()));
    }
    facts.upgrade = None;
    assert_eq!(report(GATES, &facts).exit, 3);
}

#[test]
fn what_fails() {
    let cases: &[(&str, &str, Change)] = &[
        ("UG-1", "begins at 3.6.11", |f| first(f).version = known("3.6.10".into())),
        ("UG-1", "the way to 3.7.3 is from 3.6", |f| first(f).version = known("3.5.35".into())),
        ("UG-1", "the way to 3.7.3 is from 3.6", |f| first(f).version = known("3.7.3".into())),
        ("UG-2", "others", |f| first(f).version = known("3.6.15".into())),
        ("UG-2", "no leader", |f| change(&mut first(f).health, |health| health.leader = 0)),
        ("UG-2", "agree on a leader", |f| change(&mut first(f).health, |health| health.leader = 3)),
        ("UG-2", "corrupt", |f| {
            change(&mut first(f).health, |health| health.errors.push("corrupt".into()))
        }),
        ("UG-2", "behind", |f| change(&mut first(f).health, |health| health.raft_index = 9000)),
        ("UG-2", "none may stop", |f| {
            change(&mut f.cluster.members, |members| members.truncate(2))
        }),
        ("UG-3", "m1 is a learner", |f| {
            change(&mut f.cluster.members, |members| members[1].learner = true)
        }),
        ("UG-3", "NOSPACE", |f| f.cluster.alarms = known(vec!["NOSPACE by member 1".into()])),
        ("UG-4", "(4) is in the database", |f| {
            change(&mut up(f).stored, |stored| {
                let zombie = StoredMember { name: "gone".into(), learner: false };
                stored.members.insert(4, zombie);
            })
        }),
        ("UG-4", "one that was removed", |f| {
            change(&mut up(f).stored, |stored| stored.removed.extend([1]))
        }),
        ("UG-4", "not in the database", |f| {
            change(&mut up(f).stored, |stored| drop(stored.members.remove(&2)))
        }),
        ("UG-5", "in the database a learner", |f| {
            change(&mut up(f).stored, |stored| stored.members.get_mut(&2).unwrap().learner = true)
        }),
        ("UG-6", "below /1", |f| {
            change(&mut up(f).v2, |v2| v2.content.push("the v2 store has data below /1".into()))
        }),
        ("UG-7", "instead: --corrupt-check-time", |f| {
            on_host(f).settings = settings("--name=m0 --experimental-corrupt-check-time=1m")
        }),
        ("UG-7", "discovery (flag)", |f| on_host(f).settings = settings("--name=m0 --discovery=")),
        ("UG-7", "(variable)", |f| {
            let environ = vec![("ETCD_EXPERIMENTAL_MEMORY_MLOCK".to_owned(), "true".to_owned())];
            let line = ["etcd".to_owned(), "--name=m0".to_owned()];
            on_host(f).settings = known(Settings::of_process(&line, Ok(environ)));
        }),
        ("UG-8", "a downgrade to 3.5", |f| {
            change(&mut first(f).health, |health| health.downgrade = Some("3.5.0".into()))
        }),
        ("UG-8", "storage version 3.5.0", |f| {
            change(&mut first(f).health, |health| health.storage = Some("3.5.0".into()))
        }),
        ("UG-8", "the cluster's version is 3.5.0", |f| {
            first(f).cluster_version = known("3.5.0".into())
        }),
        ("UG-9", "MiB of 2048", |f| {
            change(&mut first(f).health, |health| health.size = 1_800_000_000)
        }),
        ("UG-10", "m1 hashes to 8", |f| change(&mut up(f).hashes, |all| all.answers[1].hash = 8)),
        ("UG-11", "the limit is 5 min", |f| up(f).max_age = Duration::from_secs(300)),
        ("UG-11", "cannot be relied on", |f| up(f).verified = known(Err("x".into()))),
        ("UG-11", "another cluster", |f| up(f).cluster_id = known(78)),
        ("UG-11", "after the cluster's", |f| {
            change(&mut up(f).stored, |stored| stored.revision = 101)
        }),
        ("UG-12", "keys", |f| change(&mut up(f).there, |one| one.differs.push("keys: 3".into()))),
        ("UG-12", "the program is etcd 3.7.2", |f| {
            change(&mut up(f).there, |one| one.version = "3.7.2".into())
        }),
        ("UG-12", "on the way back", |f| {
            change(&mut up(f).back, |one| one.hash = Some("8 at revision 100, by 1".into()))
        }),
        ("UG-13", "values", |f| {
            change(&mut up(f).back, |one| one.differs.push("values: 1 of 2".into()))
        }),
        ("UG-14", "3.7.0 (GHSA-", |f| {
            let target = Table::built_in().unwrap().target("3.7.0", None, &f.advisories).unwrap();
            up(f).target = known(target);
        }),
    ];
    for (id, says, change) in cases {
        let mut facts = ready("3.6.16", "3.7");
        let mut target = Table::built_in().unwrap().target("3.7", None, &facts.advisories).unwrap();
        target.step.v2 = *id == "UG-6";
        up(&mut facts).target = known(target);
        change(&mut facts);
        let report = report(GATES, &facts);
        let failed = report.checks.iter().filter(|one| one.id == *id && one.status == Status::Fail);
        let said: Vec<_> =
            failed.flat_map(|one| one.evidence.iter().map(|seen| seen.what().to_owned())).collect();
        assert!(said.iter().any(|said| said.contains(says)), "{id} {says}: {said:?}");
        assert_eq!(report.exit, 3, "{id}");
    }
    let failing: BTreeSet<_> = cases.iter().map(|(id, ..)| *id).collect();
    assert_eq!(failing, GATES.iter().map(|gate| gate.id).collect());
}

#[test]
fn a_value_of_a_flag_that_the_target_refuses() {
    let mut facts = ready("3.5.35", "3.6");
    on_host(&mut facts).settings = settings("--name=m0 --v2-deprecation=write-only");
    assert_eq!(with(&report(GATES, &facts), Status::Fail), ids(&[]));
    on_host(&mut facts).settings = settings("--name=m0 --v2-deprecation=not-yet");
    assert_eq!(with(&report(GATES, &facts), Status::Fail), ids(&["UG-7"]));
    // A discovery URL is a secret.
    let mut facts = ready("3.6.16", "3.7");
    on_host(&mut facts).settings = settings("--name=m0 --discovery=https://d/hunter2");
    let report = report(GATES, &facts);
    assert_eq!(with(&report, Status::Fail), ids(&["UG-7"]));
    assert!(!serde_json::to_string(&report).unwrap().contains("hunter2"));
}

/// A host whose member is not in the list is of none of them.
#[test]
fn a_host_is_of_one_member() {
    let elsewhere = "--name=m0 --initial-advertise-peer-urls=https://10.0.0.9:2380";
    for own in ["--name=other", elsewhere] {
        of_one_member(own);
    }
}

fn of_one_member(own: &str) {
    let mut facts = ready("3.5.35", "3.6");
    on_host(&mut facts).settings = settings(own);
    let report = report(GATES, &facts);
    let of: Vec<_> = report
        .checks
        .iter()
        .filter(|one| one.id == "UG-6")
        .map(|one| (one.member.as_deref().unwrap(), one.status))
        .collect();
    assert_eq!(of.len(), 4, "{of:?}");
    assert!(of.contains(&("m0", Status::Unknown)) && of.contains(&("host", Status::Pass)));
}

#[test]
fn what_changed_in_an_upgrade() {
    let cases: &[(&str, Status, Change)] = &[
        ("UA-1", Status::Fail, |f| first(f).version = known("3.5.35".into())),
        ("UA-1", Status::Fail, |f| first(f).version = known("3.6.15".into())),
        ("UA-1", Status::Fail, |f| first(f).cluster_version = known("3.5.0".into())),
        ("UA-1", Status::Unknown, |f| first(f).version = Fact::unknown("x")),
        ("UA-1", Status::Fail, |f| {
            change(&mut first(f).health, |health| health.storage = Some("3.5.0".into()))
        }),
        ("UA-1", Status::Unknown, |f| change(&mut first(f).health, |health| health.storage = None)),
        ("UA-2", Status::Fail, |f| change(&mut f.cluster.members, |all| drop(all.pop()))),
        ("UA-2", Status::Fail, |f| change(&mut f.cluster.members, |all| all[0].id = 9)),
        ("UA-2", Status::Fail, |f| change(&mut f.cluster.members, |all| all[0].learner = true)),
        ("UA-2", Status::Fail, |f| change(&mut first(f).health, |health| health.leader = 0)),
        ("UA-2", Status::Unknown, |f| f.cluster.members = Fact::unknown("x")),
        ("UA-2", Status::Unknown, |f| up(f).before.as_mut().unwrap().state.members = None),
        ("UA-3", Status::Fail, |f| f.cluster.alarms = known(vec!["CORRUPT".into()])),
        ("UA-3", Status::Unknown, |f| f.cluster.alarms = Fact::unknown("x")),
        ("UA-4", Status::Fail, |f| up(f).before.as_mut().unwrap().state.hash = Some(8)),
        ("UA-4", Status::Unknown, |f| up(f).before.as_mut().unwrap().state.hash = None),
        ("UA-4", Status::Unknown, |f| up(f).before.as_mut().unwrap().state.compact_revision = 4),
        ("UA-4", Status::Unknown, |f| up(f).before.as_mut().unwrap().hashes = Fact::unknown("x")),
        ("UA-4", Status::Fail, |f| change(&mut up(f).hashes, |all| all.answers[2].hash = 1)),
        ("UA-5", Status::Fail, |f| up(f).before.as_mut().unwrap().keys = known(41)),
        ("UA-5", Status::Unknown, |f| up(f).before.as_mut().unwrap().keys = Fact::unknown("x")),
        ("UA-5", Status::Unknown, |f| up(f).before.as_mut().unwrap().state.keys = None),
    ];
    for (at, (id, status, change)) in cases.iter().enumerate() {
        let mut facts = upgraded();
        change(&mut facts);
        let report = report(AFTER, &facts);
        assert!(with(&report, *status).contains(id), "case {at}: {id}");
        assert_eq!(report.exit, 3, "case {at}");
    }
}

#[test]
fn the_leader_is_last_and_the_way_back_is_told() {
    let mut facts = ready("3.5.35", "3.6");
    let plan = |facts: &Facts| {
        let upgrade = facts.upgrade.as_ref().unwrap();
        super::Plan::of(upgrade, upgrade.target.need().unwrap().get(), facts)
    };
    let of: Vec<_> = plan(&facts).order.iter().map(|one| (one.name.clone(), one.leader)).collect();
    assert_eq!(of, [("m0".into(), false), ("m2".into(), false), ("m1".into(), true)]);
    assert!(plan(&facts).each[0].contains("--endpoints=https://10.0.0.2:2379 move-leader 1"));
    let back = plan(&facts).back.join("\n");
    assert!(
        back.contains("downgrade enable 3.5") && back.contains("3.5.35: measured, 2.0 s"),
        "{back}"
    );
    up(&mut facts).back = Fact::unknown("x");
    assert!(plan(&facts).back.join("\n").contains("not rehearsed"));
    assert!(!plan(&ready("3.4.45", "3.5")).back.join("\n").contains("downgrade"));
    // A member that is not known has no place in the order.
    first(&mut facts).member = Fact::unknown("x");
    assert!(plan(&facts).order.is_empty());
    assert!(plan(&facts).each.iter().all(|line| !line.contains("move-leader")));
}

#[test]
fn the_guide_names_each_gate() {
    let guide = include_str!("../../guide/upgrade.md");
    for gate in GATES.iter().chain(AFTER) {
        let row = format!("| {} | {} | {} |", gate.id, gate.severity.name(), gate.title);
        assert!(guide.contains(&row), "{row}");
    }
}
