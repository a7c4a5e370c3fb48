//! Each check with facts that let it pass, fail and be unknown; and that no check passes without what it rests on.

mod advisories;
mod failures;
mod kube;
mod outputs;
mod unknowns;
mod waivers;

use std::collections::BTreeSet;

use super::advisories::Advisories;
use super::catalog::CHECKS;
use super::fact::{Fact, Severity, Status, Unknown};
use super::facts::certificate::Certificate;
use super::facts::cluster::{Cluster, Grant, Listed, Peer, Role, User};
use super::facts::disk::{Disk, Swap, mount_of};
use super::facts::endpoint::{Access, Calls, Endpoint, Offers, Pages, Plain, Tls};
use super::facts::filter::Filter;
use super::facts::host::{Host, Mode};
use super::facts::kube::{Encryption, Kubernetes};
use super::facts::refused::Refused;
use super::facts::repository::{Backups, Contents};
use super::facts::settings::Settings;
use super::facts::stray::Stray;
use super::facts::{Earlier, Facts, Monitoring, ProxyLog, hello::Version};
use super::kinds::Scope;
use super::report::{Policy, Report, UnknownPolicy, check_scopes};
use super::waivers::Waiver;
use crate::etcd::{Comparison, MemberHash};
use crate::format::{KeyId, SnapshotId};
use crate::keys::DependsOn;

const NOW: &str = "2026-11-01T00:00:00Z";
const DAY: i64 = 86_400;

pub(super) fn known<T>(value: T) -> Fact<T> {
    Fact::known(value, "a test")
}

fn certificate() -> Certificate {
    let now: crate::format::Time = NOW.parse().unwrap();
    Certificate {
        subject: "CN=server".into(),
        common_name: Some("server".into()),
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

fn refused(count: u64) -> Refused {
    Refused { count, since: "2026-10-01T00:00:00Z".parse().unwrap() }
}

fn access_log() -> ProxyLog {
    let written = "2026-10-31T23:00:00Z".parse().unwrap();
    ProxyLog { records: 9, written, broken: Vec::new(), unopened: None }
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
            refused: Ok(refused(100)),
            gateway: (404, String::new()),
        }),
        anonymous: Fact::unknown("no connection without a client certificate"),
        without_login: known(Calls { answered: Vec::new(), login_wanted: true }),
    };
    let user = |name: &str, role: &str| User { name: name.into(), roles: vec![role.into()] };
    let grant =
        Grant { kind: 2, key: b"/strongroom/".to_vec(), range_end: b"/strongroom0".to_vec() };
    let other = Grant { kind: 2, key: b"/app/".to_vec(), range_end: b"/app0".to_vec() };
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
            users: known(vec![user("root", "root"), user("app", "app"), user("wide", "wide")]),
            roles: known(vec![
                Role { name: "app".into(), grants: vec![grant] },
                Role { name: "wide".into(), grants: vec![other] },
            ]),
        },
        hashes: Some(known(hashes(&[9]))),
        host: Some(host()),
        kubernetes: Some(kubernetes()),
        backups: Some(backups()),
        own: known(Some("app".into())),
        monitoring: known(Monitoring { scraped: [1].into(), of_etcd: 1, of_backups: 1 }),
        proxy_log: known(access_log()),
        earlier: known(Earlier {
            at: "2026-10-31T00:00:00Z".parse().unwrap(),
            refused: [("https://10.0.0.1:2379".to_owned(), refused(90))].into(),
        }),
        waivers: waivers("NET-6", "2026-12-01"),
        expected_root: 1,
        advisories: Advisories::built_in().unwrap(),
        upgrade: None,
    }
}

/// Members, from id 1 on, whose data hashes to these.
fn hashes(of: &[u32]) -> Comparison {
    let answer = |(id, hash): (u64, &u32)| MemberHash {
        id,
        name: format!("m{}", id - 1),
        hash: *hash,
        compact_revision: 5,
    };
    let answers = (1..).zip(of).map(answer).collect();
    Comparison { revision: 100, answers, left_out: Vec::new() }
}

/// The hashes of a cluster of two members.
fn compared(facts: &mut Facts, hashes: Comparison) {
    let other = |first: &Listed| Listed { id: 2, name: "m1".into(), ..first.clone() };
    change(&mut facts.cluster.members, |all| all.push(other(&all[0])));
    change(&mut facts.monitoring, |seen| seen.scraped.extend([2]));
    facts.hashes = Some(known(hashes));
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
        filter: known(filter("drop")),
        manifest: known(Some(mode("/etc/kubernetes/manifests/etcd.yaml", 0o100_600))),
    }
}

/// A packet filter with this policy, and a rule that accepts port 2379 from one network.
fn filter(policy: &str) -> Filter {
    Filter::parse(
        format!(
            r#"{{"nftables":[{{"chain":{{"family":"inet","table":"f","name":"in","hook":"input","policy":"{policy}"}}}}]}}"#
        )
        .as_bytes(),
    )
    .unwrap()
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

fn opener(id: u8, way: Option<DependsOn>) -> (KeyId, Option<DependsOn>) {
    (KeyId([id; 16]), way)
}

/// The keys that open the newest snapshot depend on these.
fn depend(facts: &mut Facts, ways: [Option<DependsOn>; 2]) {
    let ids = [1, 2].into_iter().zip(ways);
    in_backups(facts).openers = known(ids.map(|(id, way)| opener(id, way)).collect());
}

fn service(name: &str) -> Option<DependsOn> {
    Some(DependsOn::Service(name.into()))
}

fn backups() -> Backups {
    let at = |time: &str| time.parse::<crate::format::Time>().unwrap();
    let id = SnapshotId::new(at("2026-10-31T20:00:00Z").unix().unsigned_abs() * 1000, [0; 10]);
    let inside = Contents { auth: true, secrets: 3, keys_in_use: 1, ..Contents::default() };
    Backups {
        newest: known(Some(id)),
        openers: known(vec![opener(1, Some(DependsOn::Host)), opener(2, None)]),
        signers: known(vec![KeyId([3; 16])]),
        copied: known(Some(id)),
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

fn unread() -> Unknown {
    Unknown("GET /metrics: HTTP 503".into())
}

/// The packet filter has rules that cannot be read.
fn opaque(facts: &mut Facts, policy: &str) {
    let opaque = Some("rules of iptables".into());
    on_host(facts).filter = known(Filter { opaque, ..filter(policy) });
}

/// Two members that were compacted at different revisions.
fn apart() -> Comparison {
    let mut both = hashes(&[9, 8]);
    both.answers[1].compact_revision = 6;
    both
}

/// A snapshot of a host whose clock was ahead.
fn dated_ahead() -> SnapshotId {
    let time: crate::format::Time = "2026-12-24T00:00:00Z".parse().unwrap();
    SnapshotId::new(time.unix().unsigned_abs() * 1000, [0; 10])
}

/// What is known of a page after an answer of 503.
fn failed() -> Result<bool, Unknown> {
    Err(unread())
}

fn peer(facts: &mut Facts) -> &mut Peer {
    match &mut facts.cluster.peers {
        Fact::Known { value, .. } => &mut value[0],
        Fact::Unknown(_) => unreachable!(),
    }
}

type Change = fn(&mut Facts);

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

#[test]
fn a_version_after_the_table_is_unknown() {
    let mut facts = good();
    first(&mut facts).version = known("9.1.0".into());
    let unknown = with(&judged(&facts), Status::Unknown);
    assert!(unknown.contains("UPD-1") && unknown.contains("UPD-2"), "{unknown:?}");
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
fn a_check_that_is_asked_for_must_be_in_the_scopes() {
    let check = |only: &str, scopes: &[Scope]| check_scopes(&[only.to_owned()], scopes);
    assert!(check("BAK-1", &[Scope::Live, Scope::Repository]).is_ok());
    assert!(check("RBAC-1", &[Scope::Repository]).is_ok());
    let error = check("BAK-1", &[Scope::Live, Scope::Host]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Usage);
    assert!(check_scopes(&[], &[Scope::Live]).is_ok());
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
