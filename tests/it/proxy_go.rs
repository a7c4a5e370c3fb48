//! etcd's own Go client, directly and through the proxy.

use std::time::Duration;

use crate::behind::{Behind, Talk, blocking, go_client, printed};
use crate::etcd_server::{Etcd, Version};

/// How long etcd is away: long enough that clients notice.
pub(crate) const AWAY: Duration = Duration::from_millis(500);

fn with(command: &str, args: &[&str]) -> std::process::Command {
    let mut line = go_client(command);
    line.args(args);
    line
}

/// How many of the watches saw a put after `trouble`, directly and through the proxy.
fn survivors(behind: &mut Behind, trouble: impl FnOnce(&mut Etcd)) -> (String, String) {
    let proxy = behind.proxy(&[]);
    let (direct, through) = (behind.etcd.endpoints().join(","), proxy.endpoint());
    let start = |endpoint: &str, prefix| {
        let mut talk = Talk::start(with("watch-survival", &[endpoint, prefix, "24"]));
        talk.wait_for("watching");
        talk
    };
    let mut direct = start(&direct, "direct/");
    let mut through = start(&through, "through/");
    trouble(&mut behind.etcd);
    direct.go_on();
    through.go_on();
    (direct.end(), through.end())
}

#[test]
fn watches_come_back_after_etcd_was_killed() {
    let mut behind = Behind::start(Version::NEWEST);
    let (direct, through) = survivors(&mut behind, |etcd| {
        etcd.kill(0);
        std::thread::sleep(AWAY);
        etcd.restart(0);
    });
    assert_eq!((&*direct, &*through), ("alive 24\n", "alive 24\n"));
}

#[test]
fn watches_come_back_after_every_member_was_killed_in_turn() {
    let mut behind = Behind::new(blocking(Etcd::builder(Version::NEWEST).members(3).start()));
    let (direct, through) = survivors(&mut behind, |etcd| {
        for member in 0..3 {
            etcd.kill(member);
            std::thread::sleep(AWAY);
            etcd.restart(member);
        }
    });
    assert_eq!((&*direct, &*through), ("alive 24\n", "alive 24\n"));
}

/// `Sync` asks for the members and talks to them from then on: it must not lead around the proxy.
#[test]
fn sync_stays_with_the_proxy() {
    for behind in [Behind::start(Version::NEWEST), Behind::start_with_tls(Version::OLDEST)] {
        let proxy = behind.proxy(&[]);
        let own = proxy.endpoint();
        let text = printed(with("sync", &[&own, "synced"]));
        let version = behind.etcd.etcdctl(&["version"]);
        let version = version.lines().next().unwrap().rsplit(' ').next().unwrap();
        let expected = format!(
            "member {own}\nendpoints {own}\nstatus {version} true 0\nread plaintext-after-sync\n"
        );
        assert_eq!(text, expected);
        behind.assert_encrypted();
    }
}

/// A proxy that clients reach under another name tells them that name.
#[test]
fn sync_learns_the_advertised_url() {
    let behind = Behind::start(Version::NEWEST);
    let proxy = behind.proxy(&[]);
    let name = proxy.endpoint().replace("127.0.0.1", "localhost");
    let other = behind.proxy(&["--advertise-client-url", &name]);
    let text = printed(with("sync", &[&other.endpoint()]));
    assert_eq!(text, format!("member {name}\nendpoints {name}\n"));
}

#[test]
fn recipes_of_the_client_library() {
    let (direct, behind) = (blocking(Etcd::start(Version::NEWEST)), Behind::start(Version::NEWEST));
    let proxy = behind.proxy(&[]);
    let expected = printed(with("recipes", &[direct.endpoint()]));
    assert!(expected.lines().count() > 90 && expected.contains("plaintext"), "{expected}");
    let got = printed(with("recipes", &[&proxy.endpoint()]));
    for (got, expected) in got.lines().zip(expected.lines()) {
        assert_eq!(got, expected);
    }
    assert_eq!(got, expected);
    behind.assert_encrypted();
}

/// The codes of all calls, one a line: how often, method, code.
fn assert_codes(text: &str, allowed: &[&str]) {
    let mut lost = 0;
    for line in text.lines() {
        let [times, _, code] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert!(allowed.contains(&code), "{text}");
        if code == "Unavailable" {
            lost += times.parse::<u32>().unwrap();
        }
    }
    assert!(lost > 10, "etcd was not away: {text}");
}

#[test]
fn calls_under_way_when_etcd_is_killed() {
    let mut behind = Behind::start(Version::NEWEST);
    let proxy = behind.proxy(&[]);
    let (direct, through) = (behind.etcd.endpoint().to_owned(), proxy.endpoint());
    let mut talks = [(direct, "direct"), (through, "through")].map(|(endpoint, key)| {
        let mut talk = Talk::start(with("inflight", &[&endpoint, key]));
        talk.wait_for("calling");
        talk
    });
    for _ in 0..3 {
        std::thread::sleep(AWAY);
        behind.etcd.kill(0);
        std::thread::sleep(AWAY);
        behind.etcd.restart(0);
    }
    std::thread::sleep(AWAY);
    talks.iter_mut().for_each(Talk::go_on);
    let [direct, through] = talks.map(Talk::end);
    assert_codes(&direct, &["OK", "Canceled", "Unavailable"]);
    assert_codes(&through, &["OK", "Canceled", "Unavailable"]);
}

#[test]
fn calls_under_way_when_the_proxy_is_killed() {
    let behind = Behind::start(Version::NEWEST);
    let mut proxy = behind.proxy(&[]);
    let mut talk = Talk::start(with("inflight", &[&proxy.endpoint(), "through"]));
    talk.wait_for("calling");
    for _ in 0..2 {
        std::thread::sleep(AWAY);
        proxy.kill();
        std::thread::sleep(AWAY);
        proxy.restart();
    }
    std::thread::sleep(AWAY);
    talk.go_on();
    assert_codes(&talk.end(), &["OK", "Canceled", "Unavailable"]);
}

/// Readers, writers and swappers of a few keys, through two proxies before three members, all of which are killed in
/// turn: what everyone was told must be what one register would have told.
fn linearizable(seconds: u64) {
    let mut behind = Behind::new(blocking(Etcd::builder(Version::NEWEST).members(3).start()));
    let mut proxies = [behind.proxy(&[]), behind.proxy(&[])];
    let ends: Vec<_> = proxies.iter().map(super::behind::Proxy::endpoint).collect();
    let seconds_text = seconds.to_string();
    let mut talk = Talk::start(with("linear", &[&seconds_text, "4", &ends[0], &ends[1]]));
    talk.wait_for("running");
    let begun = std::time::Instant::now();
    for round in 0.. {
        std::thread::sleep(AWAY);
        if begun.elapsed() > Duration::from_secs(seconds).saturating_sub(4 * AWAY) {
            break;
        }
        if round % 2 == 0 {
            behind.etcd.kill(round / 2 % 3);
            std::thread::sleep(AWAY);
            behind.etcd.restart(round / 2 % 3);
        } else {
            proxies[round / 2 % 2].kill();
            std::thread::sleep(AWAY);
            proxies[round / 2 % 2].restart();
        }
    }
    let text = talk.end();
    println!("{text}");
    let number = |name: &str| -> u64 {
        let rest = text.split(&format!("{name} ")).nth(1).unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert!(text.ends_with("linearizable Ok\n"), "{text}");
    assert!(
        number("operations") > 1000 && number("swapped") > 20 && number("failed") > 2,
        "{text}"
    );
    behind.assert_encrypted();
}

#[test]
fn a_history_with_kills_is_linearizable() {
    linearizable(12);
}

#[test]
#[ignore = "long"]
fn long_history_with_kills_is_linearizable() {
    linearizable(240);
}
