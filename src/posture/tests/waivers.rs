//! What waivers cover.

use super::*;

/// What is waived does not count, until it ends; what is critical only where that is said.
#[test]
fn waivers_in_force() {
    let mut facts = good();
    change(&mut facts.cluster.members, |all| all[0].peer_urls = vec!["https://8.8.8.8:1".into()]);
    assert_eq!(judged(&facts).exit, 3);
    facts.waivers = waivers("NET-1", "2026-12-01");
    assert_eq!(judged(&facts).exit, 0);
    assert_eq!(judged(&facts).counts.waived, 1);
    facts.waivers = waivers("NET-1", "2026-10-01");
    assert_eq!(judged(&facts).exit, 3);
    let mut facts = good();
    facts.cluster.alarms = known(vec!["NOSPACE".into()]);
    let critical =
        "[[waiver]]\nid = \"MON-3\"\nreason = \"x\"\nby = \"ops\"\nuntil = \"2026-12-01\"\n";
    let with =
        |more: &str| Waiver::parse(&format!("{critical}{more}"), NOW.parse().unwrap()).unwrap();
    facts.waivers = with("");
    let report = judged(&facts);
    assert_eq!((report.exit, report.notes.len()), (3, 1));
    facts.waivers = with("member = \"m1\"\naccept-critical = true\n");
    assert_eq!(judged(&facts).exit, 3);
    facts.waivers = with("accept-critical = true\n");
    assert_eq!(judged(&facts).exit, 0);
}

/// A waiver of one vulnerability covers no other, nor a version that is not known.
#[test]
fn a_waiver_is_of_one_vulnerability() {
    let mut facts = good();
    facts.waivers = Waiver::parse(
        "[[waiver]]\nid = \"UPD-1\"\nadvisory = \"CVE-2026-73499\"\nreason = \"x\"\nby = \"ops\"\nuntil = \"2026-12-01\"\n",
        NOW.parse().unwrap(),
    )
    .unwrap();
    first(&mut facts).version = known("3.7.0".into());
    let waived = |facts: &Facts| -> Vec<String> {
        let report = judged(facts);
        let waived = report.checks.iter().filter(|one| one.waiver.is_some());
        waived.map(|one| one.title.split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(waived(&facts), ["CVE-2026-73499"]);
    assert_eq!(judged(&facts).exit, 3);
    first(&mut facts).version = Fact::unknown("x");
    assert!(waived(&facts).is_empty());
}

/// One file has the waivers of all commands: each takes its own, and none takes one of no check.
#[test]
fn waivers_of_another_command() {
    let all = || [waivers("NET-6", "2026-12-01"), waivers("UG-6", "2026-10-01")].concat();
    let own = super::super::own_waivers(CHECKS, all()).unwrap();
    assert_eq!(own.iter().map(Waiver::id).collect::<Vec<_>>(), ["NET-6"]);
    let facts = Facts { waivers: own, ..good() };
    assert!(!with(&judged(&facts), Status::Fail).contains("WAV-1"));
    let wrong = super::super::own_waivers(CHECKS, waivers("NET-66", "2026-12-01"));
    assert_eq!(wrong.unwrap_err().kind(), crate::ErrorKind::Usage);
}

/// What was accepted for a failure is not accepted for what nobody measured, nor the other way round.
#[test]
fn a_waiver_of_a_failure_covers_no_unknown() {
    let disk = |disk| {
        let mut facts = good();
        on_host(&mut facts).disks = known(vec![disk]);
        facts
    };
    let (mut failed, mut unknown) =
        (disk(Disk::Plain("sda".into())), disk(Disk::Untold("vda".into())));
    let of_unknown = "[[waiver]]\nid = \"REST-1\"\nreason = \"x\"\nby = \"ops\"\nuntil = \"2026-12-01\"\nunknown = true\n";
    let of_unknown = Waiver::parse(of_unknown, NOW.parse().unwrap()).unwrap();
    for (waivers, exits) in [(waivers("REST-1", "2026-12-01"), (0, 3)), (of_unknown, (3, 0))] {
        (failed.waivers, unknown.waivers) = (waivers.clone(), waivers);
        assert_eq!((judged(&failed).exit, judged(&unknown).exit), exits);
    }
}
