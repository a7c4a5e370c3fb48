//! Each check with facts that let it pass, fail and be unknown; and that no check passes without what it rests on.

use std::collections::BTreeSet;

use super::advisories::Advisories;
use super::catalog::{CHECKS, Scope};
use super::fact::{Fact, Severity, Status};
use super::facts::certificate::Certificate;
use super::facts::cluster::{Cluster, Grant, Listed, Peer, Role, User};
use super::facts::endpoint::{Access, Calls, Endpoint, Offers, Pages, Plain, Tls};
use super::facts::{Facts, hello::Version};
use super::report::{Policy, Report, UnknownPolicy};

const NOW: &str = "2026-11-01T00:00:00Z";
const DAY: i64 = 86_400;

fn known<T>(value: T) -> Fact<T> {
    Fact::known(value, "a test")
}

fn certificate() -> Certificate {
    let now: crate::format::Time = NOW.parse().unwrap();
    Certificate {
        subject: "CN=server".into(),
        common_name: true,
        issuer: "CN=ca".into(),
        self_issued: false,
        issuer_organization: None,
        not_before: now.unix() - DAY,
        not_after: now.unix() + 365 * DAY,
        key: "EC 256".into(),
        weak_key: false,
        old_hash: false,
        is_ca: false,
        dns_names: vec!["*.etcd.example".into()],
        addresses: vec!["10.0.0.1".parse().unwrap()],
        for_servers: Some(true),
        key_digest: "ab".into(),
    }
}

fn tls() -> Fact<Tls> {
    let access = Access::Refused("certificate required".into());
    known(Tls { chain: vec![certificate()], asked: true, access })
}

fn closed() -> Fact<Plain> {
    known(Plain::Closed("HTTP 400".into()))
}

/// Facts with which every check passes.
fn good() -> Facts {
    let endpoint = Endpoint {
        name: "https://10.0.0.1:2379".into(),
        host: "10.0.0.1".into(),
        member: known(1),
        version: known("3.7.3".into()),
        cluster_version: known("3.7.0".into()),
        plain: closed(),
        tls: tls(),
        offers: known(Offers::default()),
        pages: known(Pages {
            anonymous: false,
            metrics: true,
            pprof: false,
            command_line: false,
            gateway: (404, String::new()),
        }),
        anonymous: Fact::unknown("no connection without a client certificate"),
        without_login: known(Calls { answered: Vec::new(), login_wanted: true }),
    };
    let user = |name: &str, role: &str| User { name: name.into(), roles: vec![role.into()] };
    let grant = Grant { kind: 2, key: b"/app/".to_vec(), range_end: b"/app0".to_vec() };
    let member = Listed {
        id: 1,
        name: "m0".into(),
        client_urls: vec!["https://10.0.0.1:2379".into()],
        peer_urls: vec!["https://10.0.0.1:2380".into()],
    };
    let peer = Peer {
        member: "m0".into(),
        url: "https://10.0.0.1:2380".into(),
        plain: closed(),
        tls: tls(),
    };
    Facts {
        now: NOW.parse().unwrap(),
        endpoints: vec![endpoint],
        cluster: Cluster {
            members: known(vec![member]),
            peers: known(vec![peer]),
            alarms: known(Vec::new()),
            auth: known(true),
            users: known(vec![user("root", "root"), user("app", "app")]),
            roles: known(vec![Role { name: "app".into(), grants: vec![grant] }]),
        },
        expected_root: 1,
        advisories: Advisories::built_in().unwrap(),
    }
}

fn judged(facts: &Facts) -> Report {
    let policy =
        Policy { only: &[], skip: &[], fail_on: Severity::High, unknown: UnknownPolicy::Fail };
    Report::new(facts, &[Scope::Live], &policy)
}

/// The checks with this status, each once.
fn with(report: &Report, status: Status) -> BTreeSet<&'static str> {
    report.checks.iter().filter(|one| one.status == status).map(|one| one.id).collect()
}

fn ids(names: &[&'static str]) -> BTreeSet<&'static str> {
    names.iter().copied().collect()
}

fn first(facts: &mut Facts) -> &mut Endpoint {
    &mut facts.endpoints[0]
}

fn change<T>(fact: &mut Fact<T>, change: impl FnOnce(&mut T)) {
    if let Fact::Known { value, .. } = fact {
        change(value);
    }
}

fn peer(facts: &mut Facts) -> &mut Peer {
    match &mut facts.cluster.peers {
        Fact::Known { value, .. } => &mut value[0],
        Fact::Unknown(_) => unreachable!(),
    }
}

#[test]
fn good_facts_pass() {
    let report = judged(&good());
    let all: BTreeSet<_> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(with(&report, Status::Pass), all);
    assert_eq!((report.exit, report.counts.fail, report.counts.unknown), (0, 0, 0));
}

type Change = fn(&mut Facts);

/// Which checks have no verdict when a fact is not known. All others keep theirs.
#[test]
fn without_a_fact_nothing_passes_that_rests_on_it() {
    let cases: &[(Change, &[&'static str])] = &[
        (|f| first(f).plain = Fact::unknown("x"), &["AUTH-1"]),
        (
            |f| first(f).tls = Fact::unknown("x"),
            &["AUTH-1", "AUTH-2", "AUTH-4", "TLS-1", "TLS-5", "TLS-6", "TLS-7", "TLS-8"],
        ),
        (|f| first(f).offers = Fact::unknown("x"), &["TLS-5", "TLS-6"]),
        (|f| first(f).pages = Fact::unknown("x"), &["NET-3", "NET-4", "NET-6"]),
        (|f| first(f).version = Fact::unknown("x"), &["UPD-1", "UPD-2", "UPD-3"]),
        (|f| first(f).version = known("latest".into()), &["UPD-1", "UPD-2", "UPD-3"]),
        (|f| first(f).cluster_version = Fact::unknown("x"), &["UPD-3"]),
        (|f| f.cluster.members = Fact::unknown("x"), &["NET-1"]),
        (|f| f.cluster.peers = Fact::unknown("x"), &["TLS-2", "TLS-3", "TLS-4", "TLS-7"]),
        (|f| peer(f).plain = Fact::unknown("x"), &["TLS-2"]),
        (|f| peer(f).tls = Fact::unknown("x"), &["TLS-2", "TLS-3", "TLS-4", "TLS-7"]),
        (|f| f.cluster.alarms = Fact::unknown("x"), &["MON-3"]),
        (|f| f.cluster.auth = Fact::unknown("x"), &["AUTH-3", "RBAC-1", "RBAC-2", "RBAC-3"]),
        (|f| f.cluster.users = Fact::unknown("x"), &["RBAC-1", "RBAC-3"]),
        (|f| f.cluster.roles = Fact::unknown("x"), &["RBAC-2", "RBAC-3"]),
        (|f| f.now = "2027-02-01T00:00:00Z".parse().unwrap(), &["UPD-5"]),
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
    let all: BTreeSet<_> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(seen, all, "each check has a case without a verdict");
}

#[test]
fn a_cluster_of_which_nothing_is_known_passes_nothing() {
    let mut facts = good();
    facts.endpoints = vec![Endpoint::unknown("m0".into(), "x")];
    facts.cluster = Cluster::unknown("x");
    assert_eq!(with(&judged(&facts), Status::Pass), ids(&["UPD-5"]));
    facts.endpoints.clear();
    let report = judged(&facts);
    assert_eq!(with(&report, Status::Pass), ids(&["UPD-5"]));
    assert_eq!(report.exit, 3);
}

/// Each check fails for what it is there for, with this severity.
#[test]
fn what_fails() {
    let cases: &[(&str, Severity, Change)] = &[
        ("AUTH-1", Severity::Critical, |f| first(f).plain = known(Plain::Etcd("3.7.3".into()))),
        ("AUTH-2", Severity::Critical, |f| {
            change(&mut first(f).tls, |tls| tls.access = Access::Open("3.7.3".into()));
        }),
        ("AUTH-3", Severity::Medium, |f| f.cluster.auth = known(false)),
        ("AUTH-3", Severity::Critical, |f| {
            f.cluster.auth = known(false);
            first(f).plain = known(Plain::Etcd("3.7.3".into()));
        }),
        ("AUTH-4", Severity::Critical, |f| {
            change(&mut first(f).tls, |tls| tls.access = Access::Open("3.7.3".into()));
            first(f).anonymous = known(Calls { answered: vec!["MemberList"], login_wanted: true });
        }),
        ("AUTH-4", Severity::High, |f| {
            first(f).without_login =
                known(Calls { answered: vec!["MemberList"], login_wanted: true });
        }),
        ("RBAC-1", Severity::High, |f| f.expected_root = 0),
        ("RBAC-2", Severity::High, |f| {
            change(&mut f.cluster.roles, |roles| roles[0].grants[0].range_end = vec![0]);
        }),
        ("RBAC-3", Severity::Low, |f| change(&mut f.cluster.users, |users| users[1].roles.clear())),
        ("TLS-1", Severity::High, |f| change(&mut first(f).tls, made_by_etcd)),
        ("TLS-2", Severity::Critical, |f| peer(f).plain = known(Plain::Etcd("3.7.3".into()))),
        ("TLS-3", Severity::Critical, |f| {
            change(&mut peer(f).tls, |tls| tls.access = Access::Open("3.7.3".into()));
        }),
        ("TLS-4", Severity::High, |f| change(&mut peer(f).tls, made_by_etcd)),
        ("TLS-5", Severity::High, |f| {
            first(f).offers = known(Offers { old: vec![Version::TLS_1_1], ..Offers::default() });
        }),
        ("TLS-6", Severity::Medium, |f| {
            let weak = vec![("DES-CBC3-SHA", "3DES")];
            first(f).offers = known(Offers { weak, ..Offers::default() });
        }),
        ("TLS-6", Severity::High, |f| {
            first(f).offers = known(Offers { weak: vec![("RC4-SHA", "RC4")], ..Offers::default() });
        }),
        ("TLS-7", Severity::Medium, |f| expire_in(f, 29 * DAY)),
        ("TLS-7", Severity::High, |f| expire_in(f, 6 * DAY)),
        ("TLS-7", Severity::High, |f| expire_in(f, -1)),
        ("TLS-7", Severity::High, |f| {
            change(&mut peer(f).tls, |tls| tls.chain[0].not_before = i64::MAX)
        }),
        ("TLS-8", Severity::Medium, |f| {
            change(&mut first(f).tls, |tls| tls.chain[0].weak_key = true)
        }),
        ("TLS-8", Severity::Medium, |f| {
            change(&mut first(f).tls, |tls| tls.chain[0].old_hash = true)
        }),
        ("TLS-8", Severity::Medium, |f| change(&mut first(f).tls, |tls| tls.chain[0].is_ca = true)),
        ("TLS-8", Severity::Medium, |f| first(f).host = "10.0.0.2".into()),
        ("NET-1", Severity::High, |f| {
            change(&mut f.cluster.members, |all| {
                all[0].client_urls = vec!["https://8.8.8.8:1".into()]
            });
        }),
        ("NET-3", Severity::Medium, |f| {
            change(&mut first(f).pages, |pages| pages.anonymous = true)
        }),
        ("NET-4", Severity::High, |f| change(&mut first(f).pages, |pages| pages.pprof = true)),
        ("NET-4", Severity::Low, |f| {
            change(&mut first(f).pages, |pages| pages.command_line = true)
        }),
        ("NET-6", Severity::Medium, |f| change(&mut first(f).pages, |pages| pages.gateway.0 = 200)),
        ("MON-3", Severity::Critical, |f| f.cluster.alarms = known(vec!["NOSPACE".into()])),
        ("UPD-1", Severity::High, |f| first(f).version = known("3.7.0".into())),
        ("UPD-2", Severity::High, |f| first(f).version = known("3.4.45".into())),
        ("UPD-2", Severity::Medium, |f| first(f).version = known("3.7.2".into())),
        ("UPD-3", Severity::Medium, |f| first(f).cluster_version = known("3.6.0".into())),
    ];
    for (id, severity, change) in cases {
        let mut facts = good();
        change(&mut facts);
        let report = judged(&facts);
        let failed = report
            .checks
            .iter()
            .find(|one| one.id == *id && one.status == Status::Fail && one.severity == *severity);
        assert!(failed.is_some(), "{id} {severity:?}: {:?}", with(&report, Status::Fail));
        assert!(!failed.unwrap().evidence.is_empty());
    }
    let failing: BTreeSet<_> = cases.iter().map(|(id, ..)| *id).chain(["UPD-5"]).collect();
    let all: BTreeSet<_> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(failing, all, "each check fails for something");
}

fn made_by_etcd(tls: &mut Tls) {
    tls.chain[0].self_issued = true;
    tls.chain[0].issuer_organization = Some("etcd".into());
}

fn expire_in(facts: &mut Facts, seconds: i64) {
    let now = facts.now.unix();
    change(&mut first(facts).tls, |tls| tls.chain[0].not_after = now + seconds);
}

/// A vulnerability whose condition does not hold is listed and is not severe; one whose condition is unknown is.
#[test]
fn vulnerabilities_and_their_conditions() {
    let severity = |change: Change| {
        let mut facts = good();
        first(&mut facts).version = known("3.7.0".into());
        change(&mut facts);
        let report = judged(&facts);
        let found = report.checks.iter().find(|one| one.title.starts_with("CVE-2026-73499"));
        found.unwrap().severity
    };
    assert_eq!(severity(|_| {}), Severity::High);
    assert_eq!(severity(|facts| facts.cluster.auth = known(false)), Severity::Low);
    assert_eq!(severity(|facts| facts.cluster.roles = known(Vec::new())), Severity::Low);
    assert_eq!(severity(|facts| facts.cluster.users = Fact::unknown("x")), Severity::High);
}

#[test]
fn names_in_certificates() {
    let certificate = certificate();
    for (host, wanted) in [
        ("10.0.0.1", true),
        ("10.0.0.2", false),
        ("a.etcd.example", true),
        ("A.ETCD.example", true),
        ("etcd.example", false),
        ("a.b.etcd.example", false),
        ("::1", false),
    ] {
        assert_eq!(certificate.names_host(host), wanted, "{host}");
    }
}
