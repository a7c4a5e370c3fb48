//! What each check fails for.

use super::*;

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
        ("MON-3", Severity::Critical, |f| compared(f, hashes(&[9, 8]))),
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
        ("BAK-3", Severity::High, |f| depend(f, [Some(DependsOn::Host), Some(DependsOn::Host)])),
        ("BAK-3", Severity::High, |f| depend(f, [service("a"), service("a")])),
        ("BAK-5", Severity::High, |f| in_backups(f).included = known(Vec::new())),
        ("RBAC-4", Severity::Info, |f| f.own = known(Some("wide".into()))),
        ("RBAC-4", Severity::Info, |f| {
            change(&mut f.cluster.users, |users| users[1].roles.push("root".into()));
        }),
        ("NET-5", Severity::Low, |f| on_host(f).filter = known(filter("accept"))),
        ("MON-1", Severity::Medium, |f| {
            change(&mut f.monitoring, |seen| seen.scraped = [7].into())
        }),
        ("MON-1", Severity::Medium, |f| change(&mut f.monitoring, |seen| seen.of_etcd = 0)),
        ("MON-1", Severity::Medium, |f| change(&mut f.monitoring, |seen| seen.of_backups = 0)),
        // 24 hours after the audit before.
        ("MON-2", Severity::High, |f| {
            change(&mut first(f).pages, |pages| pages.refused = Ok(refused(90 + 24 * 60 + 1)));
        }),
        ("MON-2", Severity::High, |f| {
            let since = "2026-10-31T22:00:00Z".parse().unwrap();
            change(&mut first(f).pages, |pages| pages.refused = Ok(Refused { count: 121, since }));
        }),
        ("MON-5", Severity::Medium, |f| change(&mut f.proxy_log, |log| log.records = 0)),
        ("MON-5", Severity::Medium, |f| {
            change(&mut f.proxy_log, |log| log.broken.push("line 7 was changed".into()));
        }),
        ("MON-5", Severity::Medium, |f| {
            let day_before = "2026-10-30T23:00:00Z".parse().unwrap();
            change(&mut f.proxy_log, |log| log.written = day_before);
        }),
        ("BAK-4", Severity::Medium, |f| in_backups(f).signers = known(Vec::new())),
        ("BAK-4", Severity::Medium, |f| in_backups(f).copied = known(None)),
        ("BAK-4", Severity::Medium, |f| {
            change(&mut in_backups(f).copied, |id| *id = Some(SnapshotId::new(1, [0; 10])));
        }),
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
