//! Each check with facts that let it pass, fail and be unknown; and that no check passes without what it rests on.

use std::collections::BTreeSet;

use super::advisories::Advisories;
use super::catalog::CHECKS;
use super::fact::{Fact, Severity, Status, Unknown};
use super::facts::certificate::Certificate;
use super::facts::cluster::{Cluster, Grant, Listed, Peer, Role, User};
use super::facts::disk::{Disk, Swap, mount_of};
use super::facts::endpoint::{Access, Calls, Endpoint, Offers, Pages, Plain, Tls};
use super::facts::host::{Host, Mode};
use super::facts::kube::{Encryption, Kubernetes};
use super::facts::repository::{Backups, Contents};
use super::facts::settings::Settings;
use super::facts::stray::Stray;
use super::facts::{Facts, hello::Version};
use super::kinds::Scope;
use super::report::{Policy, Report, UnknownPolicy, check_scopes};
use super::waivers::Waiver;
use crate::format::{KeyId, SnapshotId};

const NOW: &str = "2026-11-01T00:00:00Z";
const DAY: i64 = 86_400;

pub(super) fn known<T>(value: T) -> Fact<T> {
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
pub(super) fn good() -> Facts {
    let endpoint = Endpoint {
        name: "https://10.0.0.1:2379".into(),
        host: "10.0.0.1".into(),
        port: 2379,
        member: known(1),
        health: Fact::unknown("only an upgrade asks"),
        version: known("3.7.3".into()),
        cluster_version: known("3.7.0".into()),
        plain: closed(),
        tls: tls(),
        offers: known(Offers::default()),
        pages: known(Pages {
            anonymous: false,
            metrics: Ok(true),
            quota: None,
            pprof: Ok(false),
            command_line: Ok(false),
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
        learner: false,
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
        host: Some(host()),
        kubernetes: Some(kubernetes()),
        backups: Some(backups()),
        waivers: waivers("NET-6", "2026-12-01"),
        expected_root: 1,
        advisories: Advisories::built_in().unwrap(),
        upgrade: None,
    }
}

pub(super) fn waivers(id: &str, until: &str) -> Vec<Waiver> {
    let rest = "reason = \"x\"\nby = \"ops\"";
    let text = format!("[[waiver]]\nid = \"{id}\"\nuntil = \"{until}\"\n{rest}\n");
    Waiver::parse(&text, NOW.parse().unwrap()).unwrap()
}

const SETTINGS: &str = "etcd --listen-client-urls=https://10.0.0.1:2379 --listen-peer-urls=https://10.0.0.1:2380 \
    --initial-advertise-peer-urls=HTTPS://10.0.0.1:2380 --cert-file=/a.crt --key-file=/a.key \
    --client-cert-auth --trusted-ca-file=/ca.crt --peer-cert-file=/a.crt --peer-key-file=/a.key \
    --peer-client-cert-auth --peer-trusted-ca-file=/ca.crt --auth-token=jwt,pub-key=/x \
    --client-cert-allowed-hostname=client --feature-gates=InitialCorruptCheck=true,CompactHashCheck=true \
    --cors=https://a --host-whitelist=a --data-dir=/data";

pub(super) fn settings(more: &str) -> Fact<Settings> {
    let line: Vec<_> =
        SETTINGS.split_whitespace().chain(more.split_whitespace()).map(str::to_owned).collect();
    known(Settings::of_process(&line, Ok(Vec::new())))
}

fn host() -> Host {
    let mode = |path: &str, mode| Mode { path: path.into(), mode, uid: 0 };
    let other = Certificate { key_digest: "cd".into(), ..certificate() };
    let mount = "1 0 8:1 / / rw - ext4 /dev/mapper/data rw";
    Host {
        name: "host".into(),
        settings: settings(""),
        user: known(0),
        data: known(vec![mode("/data", 0o40700), mode("/data/member/snap/db", 0o100_600)]),
        keys: known(vec![mode("/a.key", 0o100_600)]),
        certificates: known(vec![("/ca.crt".into(), vec![certificate()])]),
        cluster_ca: known(Some(other)),
        mounts: known(vec![mount_of(mount, "/data").unwrap()]),
        disks: known(vec![Disk::Encrypted("dm-0 is dm-crypt".into())]),
        swaps: known(Vec::new()),
        strays: known(Vec::new()),
        manifest: known(Some(mode("/etc/kubernetes/manifests/etcd.yaml", 0o100_600))),
    }
}

fn encryption(provider: &str) -> Fact<Encryption> {
    let yaml = format!(
        "kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - {provider}\n  - identity: {{}}\n"
    );
    known(Encryption::parse(yaml.as_bytes(), 0o100_600).unwrap())
}

fn kubernetes() -> Kubernetes {
    let line = "kube-apiserver --etcd-servers=https://a:1 --etcd-cafile=/a --etcd-certfile=/b --etcd-keyfile=/c";
    let line: Vec<_> = line.split(' ').map(str::to_owned).collect();
    Kubernetes {
        apiserver: known(Settings::of_process(&line, Ok(Vec::new()))),
        encryption: encryption("kms: {apiVersion: v2, name: a, endpoint: unix:///a}"),
    }
}

fn backups() -> Backups {
    let at = |time: &str| time.parse::<crate::format::Time>().unwrap();
    let id = SnapshotId::new(at("2026-10-31T20:00:00Z").unix().unsigned_abs() * 1000, [0; 10]);
    let inside = Contents { auth: true, secrets: 3, keys_in_use: 1, ..Contents::default() };
    Backups {
        newest: known(Some(id)),
        openers: known(vec![KeyId([1; 16]), KeyId([2; 16])]),
        verified: known(Some(at("2026-10-20T00:00:00Z"))),
        drilled: known(Some(at("2026-09-20T00:00:00Z"))),
        inside: known(inside),
        included: known(vec!["/etc/kubernetes/enc.yaml".into()]),
    }
}

pub(super) fn on_host(facts: &mut Facts) -> &mut Host {
    facts.host.as_mut().unwrap()
}

fn in_backups(facts: &mut Facts) -> &mut Backups {
    facts.backups.as_mut().unwrap()
}

fn in_kubernetes(facts: &mut Facts) -> &mut Kubernetes {
    facts.kubernetes.as_mut().unwrap()
}

fn judged(facts: &Facts) -> Report {
    let policy =
        Policy { only: &[], skip: &[], fail_on: Severity::High, unknown: UnknownPolicy::Fail };
    let scopes = [Scope::Live, Scope::Host, Scope::Kubernetes, Scope::Repository];
    Report::new(facts, &scopes, &policy)
}

/// The checks with this status, each once.
fn with(report: &Report, status: Status) -> BTreeSet<&'static str> {
    report.checks.iter().filter(|one| one.status == status).map(|one| one.id).collect()
}

fn ids(names: &[&'static str]) -> BTreeSet<&'static str> {
    names.iter().copied().collect()
}

pub(super) fn first(facts: &mut Facts) -> &mut Endpoint {
    &mut facts.endpoints[0]
}

pub(super) fn change<T>(fact: &mut Fact<T>, change: impl FnOnce(&mut T)) {
    if let Fact::Known { value, .. } = fact {
        change(value);
    }
}

/// The member has these client URLs, and one more.
fn list(facts: &mut Facts, url: &str) {
    change(&mut facts.cluster.members, |all| all[0].client_urls.push(url.into()));
}

/// What is known of a page after an answer of 503.
fn failed() -> Result<bool, Unknown> {
    Err(Unknown("GET: HTTP 503".into()))
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
    assert_eq!(with(&report, Status::NotApplicable), ids(&["NET-2"]));
    assert_eq!(with(&report, Status::Fail), ids(&[]));
    let all: BTreeSet<_> = all.into_iter().filter(|id| *id != "NET-2").collect();
    assert_eq!(with(&report, Status::Pass), all);
    assert_eq!((report.exit, report.counts.fail, report.counts.unknown), (0, 0, 0));
}

fn old_table() -> Advisories {
    let text = include_str!("advisories.json");
    Advisories::parse(
        &text.replace("\"complete_to\": \"2026-08-21\"", "\"complete_to\": \"2026-07-01\""),
    )
    .unwrap()
}

type Change = fn(&mut Facts);

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
        (|f| first(f).pages = Fact::unknown("x"), &["NET-3", "NET-4", "NET-6"]),
        (|f| first(f).version = Fact::unknown("x"), &["UPD-1", "UPD-2", "UPD-3"]),
        (|f| first(f).version = known("latest".into()), &["UPD-1", "UPD-2", "UPD-3"]),
        (|f| first(f).cluster_version = Fact::unknown("x"), &["UPD-3"]),
        (|f| change(&mut first(f).pages, |pages| pages.metrics = failed()), &["NET-3"]),
        (|f| change(&mut first(f).pages, |pages| pages.pprof = failed()), &["NET-4"]),
        (|f| change(&mut first(f).pages, |pages| pages.command_line = failed()), &["NET-4"]),
        (|f| first(f).without_login = Fact::unknown("x"), &["AUTH-4"]),
        (|f| f.cluster.members = Fact::unknown("x"), &["AUTH-1", "NET-1"]),
        (|f| list(f, "https://10.0.0.2:2379"), &["AUTH-1"]),
        (|f| list(f, "https://10.0.0.1:2378"), &["AUTH-1"]),
        (|f| f.cluster.peers = Fact::unknown("x"), &["TLS-2", "TLS-3", "TLS-4", "TLS-7"]),
        (|f| peer(f).plain = Fact::unknown("x"), &["TLS-2"]),
        (|f| peer(f).tls = Fact::unknown("x"), &["TLS-2", "TLS-3", "TLS-4", "TLS-7"]),
        (|f| f.cluster.alarms = Fact::unknown("x"), &["MON-3"]),
        (|f| f.cluster.auth = Fact::unknown("x"), &["AUTH-3", "RBAC-1", "RBAC-2", "RBAC-3"]),
        (|f| f.cluster.users = Fact::unknown("x"), &["RBAC-1", "RBAC-3"]),
        (|f| f.cluster.roles = Fact::unknown("x"), &["RBAC-2", "RBAC-3"]),
        (
            |f| on_host(f).settings = Fact::unknown("x"),
            &[
                "AUTH-1", "AUTH-2", "AUTH-5", "AUTH-7", "AUTH-8", "TLS-1", "TLS-2", "TLS-3",
                "TLS-4", "TLS-9", "NET-1", "NET-2", "NET-3", "MON-4", "UPD-4",
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
    (facts.host, facts.kubernetes, facts.backups) = (None, None, None);
    facts.waivers.clear();
    assert_eq!(with(&judged(&facts), Status::Pass), ids(&["UPD-5"]));
    facts.endpoints.clear();
    let report = judged(&facts);
    assert_eq!(with(&report, Status::Pass), ids(&["UPD-5"]));
    assert_eq!(report.exit, 3);
}

#[test]
fn a_version_after_the_table_is_unknown() {
    let mut facts = good();
    first(&mut facts).version = known("9.1.0".into());
    let unknown = with(&judged(&facts), Status::Unknown);
    assert!(unknown.contains("UPD-1") && unknown.contains("UPD-2"), "{unknown:?}");
}

/// Each check fails for what it is there for, with this severity.
#[test]
fn what_fails() {
    let cases: &[(&str, Severity, Change)] = &[
        ("AUTH-1", Severity::Critical, |f| first(f).plain = known(Plain::Etcd("3.7.3".into()))),
        ("AUTH-1", Severity::Critical, |f| list(f, "http://10.0.0.1:2378")),
        ("AUTH-1", Severity::Critical, |f| {
            on_host(f).settings = settings("--listen-client-http-urls=HTTP://10.0.0.1:2378")
        }),
        ("NET-3", Severity::Medium, |f| {
            on_host(f).settings =
                settings("--listen-metrics-urls=http://127.0.0.1:1,http://10.0.0.1:1")
        }),
        ("NET-3", Severity::Medium, |f| {
            on_host(f).settings =
                settings("--listen-metrics-urls=https://10.0.0.1:1 --client-cert-auth=false")
        }),
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
        ("AUTH-4", Severity::Medium, |f| {
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
        ("NET-4", Severity::High, |f| change(&mut first(f).pages, |pages| pages.pprof = Ok(true))),
        ("NET-4", Severity::Low, |f| {
            change(&mut first(f).pages, |pages| pages.command_line = Ok(true))
        }),
        ("NET-6", Severity::Medium, |f| change(&mut first(f).pages, |pages| pages.gateway.0 = 200)),
        ("MON-3", Severity::Critical, |f| f.cluster.alarms = known(vec!["NOSPACE".into()])),
        ("UPD-1", Severity::High, |f| first(f).version = known("3.7.0".into())),
        ("UPD-2", Severity::High, |f| first(f).version = known("3.4.45".into())),
        ("UPD-2", Severity::Medium, |f| first(f).version = known("3.7.2".into())),
        ("AUTH-1", Severity::Critical, |f| {
            on_host(f).settings = settings("--listen-client-urls=http://a:1")
        }),
        ("AUTH-2", Severity::Critical, |f| {
            on_host(f).settings = settings("--client-cert-auth=false")
        }),
        ("AUTH-5", Severity::Medium, |f| on_host(f).settings = settings("--auth-token=simple")),
        ("AUTH-5", Severity::Medium, |f| {
            on_host(f).settings = settings("--auth-token=jwt,pub-key=/x,ttl=1h0m0s");
        }),
        ("AUTH-6", Severity::Medium, |f| {
            change(&mut in_backups(f).inside, |inside| inside.with_password.push("a".into()));
        }),
        ("AUTH-7", Severity::Medium, |f| on_host(f).cluster_ca = known(Some(certificate()))),
        ("AUTH-8", Severity::Low, |f| {
            let line: Vec<_> = SETTINGS
                .split_whitespace()
                .filter(|word| !word.contains("allowed"))
                .map(str::to_owned)
                .collect();
            on_host(f).settings = known(Settings::of_process(&line, Ok(Vec::new())));
        }),
        ("TLS-1", Severity::High, |f| on_host(f).settings = settings("--auto-tls")),
        ("TLS-2", Severity::Critical, |f| {
            let line: Vec<_> = SETTINGS
                .split_whitespace()
                .filter(|word| !word.contains("peer-key"))
                .map(str::to_owned)
                .collect();
            on_host(f).settings = known(Settings::of_process(&line, Ok(Vec::new())));
        }),
        ("TLS-3", Severity::Critical, |f| {
            on_host(f).settings = settings("--peer-client-cert-auth=false")
        }),
        ("TLS-2", Severity::Critical, |f| {
            on_host(f).settings = settings("--listen-peer-urls=http://10.0.0.1:2380")
        }),
        ("TLS-3", Severity::Critical, |f| {
            on_host(f).settings = settings("--initial-advertise-peer-urls=")
        }),
        ("TLS-4", Severity::High, |f| on_host(f).settings = settings("--peer-auto-tls")),
        ("TLS-7", Severity::High, |f| {
            let expired = Certificate { not_after: 0, ..certificate() };
            on_host(f).certificates = known(vec![("/a.crt".into(), vec![expired])]);
        }),
        ("TLS-9", Severity::High, |f| {
            change(&mut first(f).tls, |tls| tls.access = Access::Open("3.7.3".into()));
        }),
        ("TLS-10", Severity::High, |f| {
            change(&mut on_host(f).keys, |keys| keys[0].mode = 0o100_644)
        }),
        ("TLS-11", Severity::Medium, |f| {
            let line = ["kube-apiserver".to_owned(), "--etcd-servers=http://a:1".to_owned()];
            in_kubernetes(f).apiserver = known(Settings::of_process(&line, Ok(Vec::new())));
        }),
        ("REST-1", Severity::High, |f| on_host(f).disks = known(vec![Disk::Plain("sda".into())])),
        ("REST-2", Severity::Medium, |f| {
            change(&mut on_host(f).data, |data| data[0].mode = 0o40755)
        }),
        ("REST-2", Severity::Medium, |f| on_host(f).user = known(1000)),
        ("REST-3", Severity::High, |f| {
            change(&mut in_backups(f).inside, |inside| inside.unencrypted = 1)
        }),
        ("REST-3", Severity::Medium, |f| {
            change(&mut in_backups(f).inside, |inside| inside.unencrypted_before = 1);
        }),
        ("REST-4", Severity::Critical, |f| {
            in_kubernetes(f).encryption = encryption("identity: {}")
        }),
        ("REST-4", Severity::High, |f| {
            in_kubernetes(f).encryption =
                encryption("aescbc: {keys: [{name: a, secret: hunter2}]}");
        }),
        ("REST-4", Severity::Medium, |f| {
            in_kubernetes(f).encryption = encryption("kms: {name: a, endpoint: b}")
        }),
        ("REST-5", Severity::High, |f| {
            let stray = Stray { path: "/root/etcd.db".into(), mode: 0o644, length: 1 << 20 };
            on_host(f).strays = known(vec![stray]);
        }),
        ("REST-6", Severity::Medium, |f| {
            let line = "1 0 0:1 / / rw - tmpfs tmpfs rw";
            on_host(f).mounts = known(vec![mount_of(line, "/data").unwrap()]);
        }),
        ("REST-6", Severity::Medium, |f| {
            let disk = Disk::Plain("sda2".into());
            on_host(f).swaps = known(vec![Swap { name: "/dev/sda2".into(), disk }]);
        }),
        ("REST-7", Severity::High, |f| {
            change(&mut on_host(f).manifest, |file| file.as_mut().unwrap().mode = 0o100_644);
        }),
        ("NET-1", Severity::Medium, |f| {
            on_host(f).settings = settings("--listen-peer-urls=https://0.0.0.0:2380")
        }),
        ("NET-2", Severity::Medium, |f| {
            on_host(f).settings = settings("--listen-client-urls=http://10.0.0.1:2379 --cors=*");
        }),
        ("MON-4", Severity::Medium, |f| {
            on_host(f).settings = settings("--feature-gates=InitialCorruptCheck=true")
        }),
        ("UPD-4", Severity::Critical, |f| on_host(f).settings = settings("--unsafe-no-fsync")),
        ("UPD-4", Severity::High, |f| on_host(f).settings = settings("--log-level=debug")),
        ("BAK-1", Severity::Critical, |f| in_backups(f).newest = known(None)),
        ("BAK-1", Severity::Critical, |f| f.now = "2026-11-02T00:00:00Z".parse().unwrap()),
        ("BAK-2", Severity::High, |f| in_backups(f).drilled = known(None)),
        ("BAK-2", Severity::High, |f| {
            in_backups(f).verified = known(Some("2026-09-20T00:00:00Z".parse().unwrap()))
        }),
        ("BAK-3", Severity::High, |f| change(&mut in_backups(f).openers, |keys| keys.truncate(1))),
        ("BAK-5", Severity::High, |f| in_backups(f).included = known(Vec::new())),
        ("WAV-1", Severity::Medium, |f| f.waivers = waivers("NET-6", "2026-10-01")),
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

#[test]
fn a_check_that_is_asked_for_must_be_in_the_scopes() {
    let check = |only: &str, scopes: &[Scope]| check_scopes(&[only.to_owned()], scopes);
    assert!(check("BAK-1", &[Scope::Live, Scope::Repository]).is_ok());
    assert!(check("RBAC-1", &[Scope::Repository]).is_ok());
    let error = check("BAK-1", &[Scope::Live, Scope::Host]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Usage);
    assert!(check_scopes(&[], &[Scope::Live]).is_ok());
}

/// Servers for single resources are servers too, and a list can be given in parts.
#[test]
fn the_api_servers_other_servers() {
    let status = |more: &[&str]| {
        let mut facts = good();
        let line = [
            "a",
            "--etcd-servers=https://a:1",
            "--etcd-cafile=/a",
            "--etcd-certfile=/b",
            "--etcd-keyfile=/c",
        ];
        let line: Vec<_> = line.iter().chain(more).map(|word| (*word).to_owned()).collect();
        in_kubernetes(&mut facts).apiserver = known(Settings::of_process(&line, Ok(Vec::new())));
        judged(&facts).checks.iter().find(|one| one.id == "TLS-11").unwrap().status
    };
    let of = "--etcd-servers-overrides";
    for (more, wanted) in [
        (vec![], Status::Pass),
        (vec![format!("{of}=/events#https://b:1;https://c:1,apps/x#https://d:1")], Status::Pass),
        (vec![format!("{of}=/events#https://b:1;http://c:1")], Status::Fail),
        (vec![format!("{of}=/events#http://b:1"), format!("{of}=/x#https://c:1")], Status::Fail),
        (vec![format!("{of}=nonsense")], Status::Fail),
        (
            vec!["--etcd-servers=http://b:1".into(), "--etcd-servers=https://c:1".into()],
            Status::Fail,
        ),
    ] {
        let more: Vec<_> = more.iter().map(String::as_str).collect();
        assert_eq!(status(&more), wanted, "{more:?}");
    }
}

/// The members that the schema of SARIF 2.1.0 requires, and its words.
#[test]
fn sarif() {
    let mut facts = good();
    first(&mut facts).plain = Fact::unknown("x");
    first(&mut facts).version = known("3.4.45".into());
    let document = judged(&facts).sarif();
    let run = &document["runs"][0];
    assert_eq!(
        (document["version"].as_str(), run["tool"]["driver"]["name"].as_str()),
        (Some("2.1.0"), Some("strongroom"))
    );
    let rules: BTreeSet<_> = run["tool"]["driver"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["id"].as_str().unwrap())
        .collect();
    let mut kinds = BTreeSet::new();
    for result in run["results"].as_array().unwrap() {
        assert!(
            rules.contains(result["ruleId"].as_str().unwrap())
                && result["message"]["text"].is_string()
        );
        let (kind, level) = (result["kind"].as_str().unwrap(), result["level"].as_str().unwrap());
        // A level other than none goes with the kind fail only.
        assert_eq!(kind == "fail", level != "none");
        kinds.insert(kind.to_owned());
    }
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    assert_eq!(kinds, ["fail", "notApplicable", "open", "pass"]);
}

#[test]
fn keys_in_an_encryption_configuration_are_not_repeated() {
    for yaml in
        ["kind: EncryptionConfiguration\nresources: hunter2", "secret: hunter2", "- [hunter2"]
    {
        let why = Encryption::parse(yaml.as_bytes(), 0).unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
    }
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
