//! The proxy's audit log misses nothing: not what a client did that went away, nor what was refused.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::behind::Behind;
use crate::etcd_server::Version;
use crate::proxy_gate::output;
use crate::raw::{OK, Raw, bytes, choice, decode, encode, message, number, number_of};

const PUT: &str = "/etcdserverpb.KV/Put";

struct Logged {
    behind: Behind,
    proxy: crate::behind::Proxy,
    log: String,
}

impl Logged {
    async fn start() -> Self {
        tokio::task::spawn_blocking(|| {
            let behind = Behind::start(Version::NEWEST);
            let log = behind.dir.path().join("audit.log").display().to_string();
            let proxy = behind.proxy(&["--audit-log", &log]);
            Self { behind, proxy, log }
        })
        .await
        .unwrap()
    }

    async fn raw(&self) -> Raw {
        Raw::connect(&self.proxy.address).await
    }

    /// The lines that match.
    fn lines(&self, args: &[&str]) -> Vec<Value> {
        let query = ["audit-log", "query", &self.log, "-w", "json"];
        let (status, text) = output(&[&query, args].concat());
        assert_eq!(status, Some(0), "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// Clients that reset their stream as soon as the request is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_client_went_away_has_its_line() {
    const RESETS: usize = 300;
    let logged = Logged::start().await;
    let raw = logged.raw().await;
    let (mut sent, mut landed) = (0, 0);
    // On a fast disk all of one round may land.
    while landed == sent && sent < 10 * RESETS {
        for at in sent..sent + RESETS {
            let key = format!("/reset/{at:04}");
            let request = encode(&[bytes(1, key), bytes(2, "plaintext-gone")]);
            let call = raw.call(PUT, &request);
            // Dropping the call resets the stream: sometimes before etcd answers, sometimes before it is asked.
            let patience = match at % 10 {
                // Before it is sent.
                0 => Duration::ZERO,
                more => Duration::from_micros(100 << more),
            };
            let _ = tokio::time::timeout(patience, call).await;
        }
        sent += RESETS;
        raw.call(PUT, &encode(&[bytes(1, "/last"), bytes(2, "x")])).await.assert_ok("put");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let range = encode(&[bytes(1, "/reset/"), bytes(2, "/reset0"), choice(9, 1)]);
        let answer = raw.call("/etcdserverpb.KV/Range", &range).await;
        landed = usize::try_from(number_of(answer.assert_ok("count"), 4)).unwrap();
    }
    let (logged, stored) = tokio::task::spawn_blocking(move || {
        let lines = logged.lines(&["--prefix", "/reset/", "--method", "Put"]);
        let names = logged.behind.etcd.etcdctl(&["get", "--prefix", "--keys-only", "/reset/"]);
        let key = |line: &Value| line["keys"][0]["key"].as_str().unwrap().to_owned();
        let lines: BTreeSet<_> = lines.iter().map(key).collect();
        let stored: BTreeSet<_> =
            names.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        (lines, stored)
    })
    .await
    .unwrap();
    assert_eq!(stored.len(), landed);
    assert!(landed > 5 && landed < sent, "{landed} of {sent} landed: no race");
    let missing: Vec<_> = stored.difference(&logged).collect();
    assert!(missing.is_empty(), "writes without a line: {missing:?}");
}

/// What a killed proxy had under way may be missing; what it had answered is not, and the log says how it ended.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_what_was_answered_has_its_line() {
    let mut logged = Logged::start().await;
    let mut writers = Vec::new();
    for writer in 0..16 {
        let raw = logged.raw().await;
        writers.push(tokio::spawn(async move {
            let mut answered = BTreeSet::new();
            for at in 0.. {
                let key = format!("/killed/{writer}/{at}");
                let put = encode(&[bytes(1, &key), bytes(2, "x")]);
                if raw.call(PUT, &put).await.status != Some(OK) {
                    break;
                }
                answered.insert(key);
            }
            answered
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    logged.proxy.kill();
    let mut answered = BTreeSet::new();
    for writer in writers {
        answered.extend(writer.await.unwrap());
    }
    tokio::task::spawn_blocking(move || {
        let key = format!("file:{}", logged.behind.key.trim_start_matches("file:"));
        let verified = output(&["audit-log", "verify", &logged.log, "-k", &key]);
        assert_ne!(verified.0, Some(0), "{}", verified.1);
        let lines = logged.lines(&["--prefix", "/killed/"]);
        let key = |line: &Value| line["keys"][0]["key"].as_str().unwrap().to_owned();
        let lines: BTreeSet<_> = lines.iter().map(key).collect();
        let missing: Vec<_> = answered.difference(&lines).collect();
        assert!(answered.len() > 16 && missing.is_empty(), "{answered:?} without {missing:?}");
        logged.proxy.restart();
        let text = std::fs::read_to_string(&logged.log).unwrap();
        assert!(text.contains("\"type\":\"resumed\""), "{text}");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_have_lines_with_what_they_are_about() {
    let logged = Logged::start().await;
    let raw = logged.raw().await;
    let call = async |path: &str, nodes: &[crate::raw::Node]| {
        raw.call(path, &encode(nodes)).await.status.unwrap()
    };
    assert_eq!(call("/etcdserverpb.Lease/LeaseGrant", &[number(1, 60), number(2, 0x1a)]).await, OK);
    assert_eq!(call("/etcdserverpb.Lease/LeaseRevoke", &[number(1, 0x1a)]).await, OK);
    call(PUT, &[bytes(1, "k"), bytes(2, "plaintext-1")]).await;
    call(PUT, &[bytes(1, "k"), bytes(2, "plaintext-2")]).await;
    assert_eq!(call("/etcdserverpb.KV/Compact", &[number(1, 3)]).await, OK);
    assert_eq!(call("/etcdserverpb.Auth/RoleAdd", &[bytes(1, "reader")]).await, OK);
    let user = [bytes(1, "jane"), bytes(2, "plaintext-password")];
    assert_eq!(call("/etcdserverpb.Auth/UserAdd", &user).await, OK);
    let role = [bytes(1, "jane"), bytes(2, "reader")];
    assert_eq!(call("/etcdserverpb.Auth/UserGrantRole", &role).await, OK);
    assert_eq!(call("/etcdserverpb.Maintenance/Defragment", &[]).await, OK);
    let permission = [number(1, 2), bytes(2, "/granted/"), bytes(3, "/granted0")];
    let permission = [bytes(1, "reader"), message(2, permission)];
    assert_eq!(call("/etcdserverpb.Auth/RoleGrantPermission", &permission).await, OK);
    let granted = raw.call("/etcdserverpb.Lease/LeaseGrant", &encode(&[number(1, 60)])).await;
    let granted = number_of(granted.assert_ok("grant"), 2);
    let attached = [bytes(1, "leased"), bytes(2, "plaintext-4"), number(3, granted)];
    assert_eq!(call(PUT, &attached).await, OK);
    let lock = [bytes(1, "lock"), number(2, granted)];
    assert_eq!(call("/v3lockpb.Lock/Lock", &lock).await, OK);
    let campaign = [bytes(1, "election"), number(2, granted), bytes(3, "plaintext-5")];
    assert_eq!(call("/v3electionpb.Election/Campaign", &campaign).await, OK);
    // Malformed, and unknown.
    assert_ne!(call(PUT, &[bytes(1, "k"), bytes(9, "plaintext-3")]).await, OK);
    assert_ne!(call("/etcdserverpb.KV/Burn", &[]).await, OK);
    let mut stream = raw.open("/etcdserverpb.Watch/Watch").await;
    let create = [bytes(1, "/w/"), bytes(2, "/w0"), number(3, 2)];
    stream.send(&encode(&[message(1, create)])).await;
    assert!(stream.next().await.is_ok());
    tokio::task::spawn_blocking(move || {
        let one = |method: &str, field: &str, expected: Value| {
            let lines = logged.lines(&["--method", method]);
            let found = lines.iter().any(|line| line[field] == expected);
            assert!(found, "{method}: no {field} {expected} in {lines:?}");
        };
        one("LeaseGrant", "subject", "lease 1a".into());
        one("LeaseRevoke", "subject", "lease 1a".into());
        one("LeaseGrant", "subject", format!("lease {granted:x}").into());
        for method in ["Put", "Lock", "Campaign"] {
            one(method, "subject", format!("lease {granted:x}").into());
        }
        let range = |key: &str, end: &str| {
            serde_json::json!([{
                "key": key, "key_base64": null, "range_end": end, "range_end_base64": null, "cut": false
            }])
        };
        one("RoleGrantPermission", "keys", range("/granted/", "/granted0"));
        one("Compact", "revision", 4.into());
        one("RoleAdd", "subject", "role reader".into());
        one("UserAdd", "subject", "user jane".into());
        one("UserGrantRole", "subject", "user jane role reader".into());
        one("Defragment", "outcome", "OK".into());
        one("Put", "outcome", "INVALID_ARGUMENT".into());
        one("Burn", "outcome", "UNIMPLEMENTED".into());
        one("Watch", "keys", range("/w/", "/w0"));
        let all = std::fs::read_to_string(&logged.log).unwrap();
        assert!(!all.contains("plaintext"), "a value or a password in the log");
        let (status, text) = output(&["audit-log", "query", &logged.log]);
        assert_eq!(status, Some(0));
        assert!(text.contains("user jane role reader") && text.contains("lease 1a"), "{text}");
    })
    .await
    .unwrap();
}

/// A flood of refused requests is counted, and does not fill the log.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_without_end_are_counted() {
    const REFUSED: u64 = 2000;
    let logged = Logged::start().await;
    let raw = logged.raw().await;
    let bad = encode(&[bytes(1, "k"), bytes(9, "x")]);
    for _ in 0..REFUSED {
        assert_ne!(raw.call(PUT, &bad).await.status, Some(OK));
    }
    raw.call(PUT, &encode(&[bytes(1, "k"), bytes(2, "x")])).await.assert_ok("put");
    tokio::task::spawn_blocking(move || {
        let lines = logged.lines(&["--method", "Put"]);
        let repeats: u64 = lines.iter().filter_map(|line| line["repeats"].as_u64()).sum();
        let refused = lines.iter().filter(|line| line["outcome"] == "INVALID_ARGUMENT").count();
        assert_eq!(refused as u64 + repeats, REFUSED);
        assert!((lines.len() as u64) < REFUSED / 2, "{} lines", lines.len());
    })
    .await
    .unwrap();
}

/// However many refusals there were before: what etcd was asked for has its line.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_hides_nothing() {
    const RESETS: usize = 100;
    let logged = Logged::start().await;
    let raw = logged.raw().await;
    let bad = encode(&[bytes(1, "k"), bytes(9, "x")]);
    for _ in 0..100 {
        assert_ne!(raw.call(PUT, &bad).await.status, Some(OK));
    }
    for at in 0..RESETS {
        let request = encode(&[number(1, 600)]);
        let call = raw.call("/etcdserverpb.Lease/LeaseGrant", &request);
        // Timers count whole milliseconds, and an etcd on a fast disk has answered by then.
        let moment = async {
            match at % 2 {
                0 => tokio::time::sleep(Duration::from_micros(50 << (at % 8))).await,
                _ => {
                    for _ in 0..1 << (at / 2 % 13) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        tokio::select! {
            _ = call => {}
            () = moment => {}
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let leases = raw.call("/etcdserverpb.Lease/LeaseLeases", &[]).await;
    let fields = decode(leases.assert_ok("leases"));
    let granted = fields.iter().filter(|(field, ..)| *field == 2).count();
    let lines = tokio::task::spawn_blocking(move || logged.lines(&["--method", "LeaseGrant"]));
    let lines = lines.await.unwrap();
    let gone = lines.iter().filter(|line| line["outcome"] == "CANCELLED").count();
    assert!(gone > 0, "none of {RESETS} went away: no race");
    assert!(lines.len() >= granted, "{} lines for {granted} leases", lines.len());
}
