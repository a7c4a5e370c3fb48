//! TLS: what the handshakes showed.

use super::super::fact::{Evidence, Fact, Judgement, Seen, Severity, Unknown, Verdict};
use super::super::facts::certificate::Certificate;
use super::super::facts::cluster::Peer;
use super::super::facts::endpoint::{Access, Endpoint, Plain, Tls};
use super::super::facts::{Facts, hello::Version};
use super::super::kinds::Judged;
use crate::format::Time;

const DAY: i64 = 86_400;

/// The handshake of a port with TLS; the judgement where there is none.
fn shown(tls: &Fact<Tls>) -> Result<Seen<'_, Tls>, Judgement> {
    let tls = tls.need().map_err(Err)?;
    match tls.access {
        Access::NoTls => Err(Ok(Verdict::NotApplicable(tls.saw("the port does not use TLS")))),
        _ if tls.chain.is_empty() => Err(Err(Unknown("the server showed no certificate".into()))),
        _ => Ok(tls),
    }
}

fn made_by_etcd(tls: &Fact<Tls>) -> Judgement {
    let tls = match shown(tls) {
        Ok(tls) => tls,
        Err(judgement) => return judgement,
    };
    let Some(own) = tls.chain.first() else {
        return Err(Unknown("the server showed no certificate".into()));
    };
    let said = tls.saw(format!("issued by {}", issuer(own)));
    Ok(match own.self_issued && own.issuer_organization.as_deref() == Some("etcd") {
        true => Verdict::fail(said),
        false => Verdict::Pass(said),
    })
}

fn issuer(certificate: &Certificate) -> &str {
    if certificate.issuer.is_empty() { "a CA without a name" } else { &certificate.issuer }
}

/// TLS-1
pub(crate) fn auto(endpoint: &Endpoint, _: &Facts) -> Judgement {
    made_by_etcd(&endpoint.tls)
}

/// One judgement for each peer URL.
fn each_peer(facts: &Facts, judge: impl Fn(&Peer) -> Judgement) -> Vec<Judged> {
    match facts.cluster.peers.need() {
        Err(unknown) => vec![Judged::of(None, Err(unknown))],
        Ok(peers) => {
            let judged = |peer: &Peer| {
                Judged::of(Some(format!("{} {}", peer.member, peer.url)), judge(peer))
            };
            peers.iter().map(judged).collect()
        }
    }
}

/// TLS-2
pub(crate) fn peers_plain(facts: &Facts) -> Vec<Judged> {
    each_peer(facts, |peer| {
        let plain = peer.plain.need()?;
        if let Plain::Etcd(version) = plain.get() {
            let what = format!("etcd {version} answers on the peer port without TLS");
            return Ok(Verdict::fail(plain.saw(what)));
        }
        let tls = peer.tls.need()?;
        Ok(match tls.access {
            Access::NoTls => Verdict::fail(tls.saw("no TLS handshake")),
            _ => Verdict::Pass(tls.saw("the peer port uses TLS")),
        })
    })
}

/// TLS-3
pub(crate) fn peers_certificate(facts: &Facts) -> Vec<Judged> {
    each_peer(facts, |peer| {
        let tls = peer.tls.need()?;
        Ok(match &tls.access {
            Access::Open(_) => Verdict::fail(tls.saw("etcd answers without a certificate")),
            Access::Refused(why) => Verdict::Pass(tls.saw(format!("refused: {why}"))),
            Access::NoTls => {
                Verdict::NotApplicable(tls.saw("the peer port does not use TLS: see TLS-2"))
            }
        })
    })
}

/// TLS-4
pub(crate) fn peers_auto(facts: &Facts) -> Vec<Judged> {
    each_peer(facts, |peer| made_by_etcd(&peer.tls))
}

/// TLS-5
pub(crate) fn old_versions(endpoint: &Endpoint, _: &Facts) -> Judgement {
    if let Err(judgement) = shown(&endpoint.tls) {
        return judgement;
    }
    let offers = endpoint.offers.need()?;
    let names: Vec<_> = offers.old.iter().map(|version| version.name()).collect();
    Ok(match names.is_empty() {
        true => {
            let (old, new) = (Version::TLS_1_0.name(), Version::TLS_1_1.name());
            Verdict::Pass(offers.saw(format!("{old} and {new} are refused")))
        }
        false => Verdict::fail(offers.saw(format!("accepted: {}", names.join(", ")))),
    })
}

/// TLS-6
pub(crate) fn weak_suites(endpoint: &Endpoint, _: &Facts) -> Judgement {
    if let Err(judgement) = shown(&endpoint.tls) {
        return judgement;
    }
    let offers = endpoint.offers.need()?;
    if offers.weak.is_empty() {
        return Ok(Verdict::Pass(offers.saw("each weak suite of TLS 1.2 is refused")));
    }
    let names: Vec<_> = offers.weak.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    let more = if offers.cut { ", and perhaps more" } else { "" };
    let broken = offers.weak.iter().any(|(_, why)| matches!(*why, "RC4" | "no encryption"));
    let said = offers.saw(format!("accepted: {}{more}", names.join(", ")));
    Ok(match broken {
        true => Verdict::fail_as(Severity::High, said),
        false => Verdict::fail(said),
    })
}

/// TLS-7
pub(crate) fn expiry(facts: &Facts) -> Vec<Judged> {
    let clients = facts
        .endpoints
        .iter()
        .map(|endpoint| Judged::of(Some(endpoint.name.clone()), dates(&endpoint.tls, facts.now)));
    let mut all: Vec<_> = clients.collect();
    all.extend(each_peer(facts, |peer| dates(&peer.tls, facts.now)));
    all
}

fn dates(tls: &Fact<Tls>, now: Time) -> Judgement {
    let tls = match shown(tls) {
        Ok(tls) => tls,
        Err(judgement) => return judgement,
    };
    lifetime(tls, tls.get().chain.iter().map(|one| ("", one)), now)
}

/// Whether each of these certificates is valid, and for how long; each with the file it is in.
pub(super) fn lifetime<'a, T>(
    seen: Seen<'_, T>,
    all: impl Iterator<Item = (&'a str, &'a Certificate)>,
    now: Time,
) -> Judgement {
    let (mut found, mut worst) = (Vec::new(), Severity::Medium);
    let mut soonest: Option<&Certificate> = None;
    for (file, one) in all {
        let left = one.not_after.saturating_sub(now.unix());
        let end = Time::from_unix(one.not_after);
        let name = if file.is_empty() { one.name() } else { format!("{file} ({})", one.name()) };
        let what = if one.not_before > now.unix() {
            worst = Severity::High;
            format!("{name} is not valid before {}", Time::from_unix(one.not_before))
        } else if left < 0 {
            worst = Severity::High;
            format!("{name} expired on {end}")
        } else if left < 30 * DAY {
            worst = if left < 7 * DAY { Severity::High } else { worst };
            format!("{name} expires in {} days, on {end}", left / DAY)
        } else {
            soonest = soonest.into_iter().chain([one]).min_by_key(|one| one.not_after);
            continue;
        };
        found.push(seen.saw(what));
    }
    match (found.is_empty(), soonest) {
        (true, Some(one)) => {
            let end = Time::from_unix(one.not_after);
            Ok(Verdict::Pass(seen.saw(format!("{} is valid until {end}", one.name()))))
        }
        (true, None) => Err(Unknown("there is no certificate".into())),
        (false, _) => Ok(Verdict::Fail(found, Some(worst))),
    }
}

/// TLS-8
pub(crate) fn quality(endpoint: &Endpoint, _: &Facts) -> Judgement {
    let tls = match shown(&endpoint.tls) {
        Ok(tls) => tls,
        Err(judgement) => return judgement,
    };
    let mut found: Vec<Evidence> = Vec::new();
    for one in &tls.chain {
        if one.weak_key {
            found.push(tls.saw(format!("{}: the key is {}", one.name(), one.key)));
        }
        if one.old_hash && !one.self_issued {
            found.push(tls.saw(format!("{}: signed with SHA-1 or MD5", one.name())));
        }
    }
    let Some(own) = tls.chain.first() else {
        return Err(Unknown("the server showed no certificate".into()));
    };
    if own.is_ca {
        found.push(tls.saw(format!("{}: a CA's certificate", own.name())));
    }
    if own.for_servers == Some(false) {
        found.push(tls.saw(format!("{}: not made for servers (serverAuth)", own.name())));
    }
    if !own.names_host(&endpoint.host) {
        found.push(tls.saw(format!("{}: does not name {}", own.name(), endpoint.host)));
    }
    let otherwise = format!("{}: {}, names {}", own.name(), own.key, endpoint.host);
    Ok(Verdict::none_of(found, tls.saw(otherwise)))
}
