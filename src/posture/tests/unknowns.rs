//! What is not known passes nothing.

use super::*;

fn old_table() -> Advisories {
    let text = include_str!("../advisories.json");
    Advisories::parse(
        &text.replace("\"complete_to\": \"2026-08-21\"", "\"complete_to\": \"2026-07-01\""),
    )
    .unwrap()
}

/// Which checks have no verdict when a fact is not known. All others keep theirs.
#[test]
fn without_a_fact_nothing_passes_that_rests_on_it() {
    let cases: &[(Change, &[&'static str])] = &[
        (|f| first(f).plain = Fact::unknown("x"), &["AUTH-1"]),
        (
            |f| first(f).tls = Fact::unknown("x"),
            &["AUTH-1", "AUTH-2", "AUTH-4", "TLS-1", "TLS-5", "TLS-6", "TLS-7", "TLS-8", "TLS-9"],
        ),
        (|f| first(f).offers = Fact::unknown("x"), &["TLS-5", "TLS-6"]),
        (|f| first(f).pages = Fact::unknown("x"), &["NET-3", "NET-4", "NET-6", "MON-2"]),
        (|f| change(&mut first(f).pages, |pages| pages.refused = Err(unread())), &["MON-2"]),
        (|f| f.earlier = Fact::unknown("x"), &["MON-2"]),
        (|f| change(&mut f.earlier, |earlier| earlier.refused.clear()), &["MON-2"]),
        (|f| f.monitoring = Fact::unknown("x"), &["MON-1"]),
        (|f| f.proxy_log = Fact::unknown("x"), &["MON-5"]),
        (|f| change(&mut f.proxy_log, |log| log.unopened = Some("x".into())), &["MON-5"]),
        (|f| f.own = Fact::unknown("x"), &["RBAC-4"]),
        (|f| on_host(f).filter = Fact::unknown("x"), &["NET-5"]),
        (|f| opaque(f, "accept"), &["NET-5"]),
        (|f| opaque(f, "drop"), &["NET-5"]),
        (|f| in_backups(f).signers = Fact::unknown("x"), &["BAK-4"]),
        (|f| in_backups(f).copied = Fact::unknown("x"), &["BAK-4"]),
        (|f| in_backups(f).copied = known(Some(dated_ahead())), &["BAK-4"]),
        (|f| in_backups(f).newest = known(Some(dated_ahead())), &["BAK-1"]),
        (|f| in_backups(f).drilled = known(Some(dated_ahead().created())), &["BAK-2"]),
        (|f| first(f).version = Fact::unknown("x"), &["UPD-1", "UPD-2", "UPD-3"]),
        (|f| first(f).version = known("latest".into()), &["UPD-1", "UPD-2", "UPD-3"]),
        (|f| first(f).cluster_version = Fact::unknown("x"), &["UPD-3"]),
        (|f| change(&mut first(f).pages, |pages| pages.metrics = failed()), &["NET-3"]),
        (|f| change(&mut first(f).pages, |pages| pages.pprof = failed()), &["NET-4"]),
        (|f| change(&mut first(f).pages, |pages| pages.command_line = failed()), &["NET-4"]),
        (|f| first(f).without_login = Fact::unknown("x"), &["AUTH-4"]),
        (|f| f.cluster.members = Fact::unknown("x"), &["AUTH-1", "NET-1", "MON-1", "MON-3"]),
        (|f| list(f, "https://10.0.0.2:2379"), &["AUTH-1"]),
        (|f| list(f, "https://10.0.0.1:2378"), &["AUTH-1"]),
        (|f| f.cluster.peers = Fact::unknown("x"), &["TLS-2", "TLS-3", "TLS-4", "TLS-7"]),
        (|f| peer(f).plain = Fact::unknown("x"), &["TLS-2"]),
        (|f| peer(f).tls = Fact::unknown("x"), &["TLS-2", "TLS-3", "TLS-4", "TLS-7"]),
        (|f| f.cluster.alarms = Fact::unknown("x"), &["MON-3"]),
        (|f| f.hashes = Some(Fact::unknown("x")), &["MON-3"]),
        (|f| compared(f, hashes(&[9])), &["MON-3"]),
        (|f| compared(f, apart()), &["MON-3"]),
        (|f| compared(f, hashes(&[9, 9])), &[]),
        (|f| f.hashes = None, &[]),
        (
            |f| f.cluster.auth = Fact::unknown("x"),
            &["AUTH-3", "RBAC-1", "RBAC-2", "RBAC-3", "RBAC-4"],
        ),
        (|f| f.cluster.users = Fact::unknown("x"), &["RBAC-1", "RBAC-3", "RBAC-4"]),
        (|f| f.cluster.roles = Fact::unknown("x"), &["RBAC-2", "RBAC-3", "RBAC-4"]),
        (
            |f| on_host(f).settings = Fact::unknown("x"),
            &[
                "AUTH-1", "AUTH-2", "AUTH-5", "AUTH-7", "AUTH-8", "TLS-1", "TLS-2", "TLS-3",
                "TLS-4", "TLS-9", "NET-1", "NET-2", "NET-3", "NET-5", "MON-4", "UPD-4",
            ],
        ),
        (|f| on_host(f).user = Fact::unknown("x"), &["REST-2"]),
        (|f| on_host(f).data = Fact::unknown("x"), &["REST-2"]),
        (|f| on_host(f).keys = Fact::unknown("x"), &["TLS-10"]),
        (|f| on_host(f).certificates = Fact::unknown("x"), &["AUTH-7", "TLS-7"]),
        (|f| on_host(f).cluster_ca = Fact::unknown("x"), &["AUTH-7"]),
        (|f| on_host(f).mounts = Fact::unknown("x"), &["REST-6"]),
        (|f| on_host(f).disks = Fact::unknown("x"), &["REST-1"]),
        (|f| on_host(f).disks = known(vec![Disk::Untold("vda".into())]), &["REST-1"]),
        (|f| on_host(f).swaps = Fact::unknown("x"), &["REST-6"]),
        (|f| on_host(f).strays = Fact::unknown("x"), &["REST-5"]),
        (|f| on_host(f).manifest = Fact::unknown("x"), &["REST-7"]),
        (|f| in_kubernetes(f).apiserver = Fact::unknown("x"), &["TLS-11"]),
        (|f| in_kubernetes(f).encryption = Fact::unknown("x"), &["REST-4"]),
        (|f| in_backups(f).newest = Fact::unknown("x"), &["BAK-1"]),
        (|f| in_backups(f).openers = Fact::unknown("x"), &["BAK-3"]),
        (|f| depend(f, [None, None]), &["BAK-3"]),
        (|f| depend(f, [service("a"), None]), &["BAK-3"]),
        (|f| depend(f, [service("a"), service("b")]), &[]),
        (|f| in_backups(f).verified = Fact::unknown("x"), &["BAK-2"]),
        (|f| in_backups(f).drilled = Fact::unknown("x"), &["BAK-2"]),
        (|f| in_backups(f).inside = Fact::unknown("x"), &["AUTH-6", "REST-3", "BAK-5"]),
        (|f| in_backups(f).included = Fact::unknown("x"), &["BAK-5"]),
        (|f| f.advisories = old_table(), &["UPD-5"]),
        (
            |f| change(&mut first(f).tls, |tls| tls.chain.clear()),
            &["TLS-1", "TLS-5", "TLS-6", "TLS-7", "TLS-8"],
        ),
    ];
    let mut seen = BTreeSet::new();
    for (at, (change, wanted)) in cases.iter().enumerate() {
        let mut facts = good();
        change(&mut facts);
        let report = judged(&facts);
        let unknown = with(&report, Status::Unknown);
        assert_eq!(unknown, ids(wanted), "case {at}");
        assert_eq!(with(&report, Status::Fail), ids(&[]), "case {at}");
        let severe = report
            .checks
            .iter()
            .any(|one| one.status == Status::Unknown && one.severity >= Severity::High);
        assert_eq!(report.exit, if severe { 3 } else { 0 }, "case {at}");
        seen.extend(unknown);
    }
    // A waiver is always known.
    let all: BTreeSet<_> =
        CHECKS.iter().map(|check| check.id).filter(|id| *id != "WAV-1").collect();
    assert_eq!(seen, all, "each check has a case without a verdict");
}

#[test]
fn a_cluster_of_which_nothing_is_known_passes_nothing() {
    let mut facts = good();
    facts.endpoints = vec![Endpoint::unknown("m0".into(), "x")];
    facts.cluster = Cluster::unknown("x");
    facts.hashes = Some(Fact::unknown("x"));
    facts.monitoring = Fact::unknown("x");
    facts.proxy_log = Fact::unknown("x");
    (facts.host, facts.kubernetes, facts.backups) = (None, None, None);
    facts.waivers.clear();
    assert_eq!(with(&judged(&facts), Status::Pass), ids(&["UPD-5"]));
    facts.endpoints.clear();
    let report = judged(&facts);
    assert_eq!(with(&report, Status::Pass), ids(&["UPD-5"]));
    assert_eq!(report.exit, 3);
}
