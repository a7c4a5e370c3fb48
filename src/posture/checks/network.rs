//! What can be reached beside etcd's API, and what etcd says of itself.

use std::net::IpAddr;

use url::{Host, Url};

use super::super::fact::{Judgement, Severity, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::endpoint::Endpoint;
use super::super::facts::filter::Effect;
use super::super::facts::host::Host as Node;
use super::super::kinds::Judged;
use super::host::urls;
use super::{is_far, is_loopback};

/// NET-1
pub(crate) fn addresses(facts: &Facts) -> Vec<Judged> {
    let members = match facts.cluster.members.need() {
        Ok(members) => members,
        Err(unknown) => {
            return vec![Judged::of(None, Err(unknown))];
        }
    };
    let judged = members.get().iter().map(|member| {
        let mut found = Vec::new();
        let mut names = Vec::new();
        let urls: Vec<&str> =
            member.client_urls.iter().chain(&member.peer_urls).map(String::as_str).collect();
        for url in &urls {
            match Url::parse(url).ok().as_ref().and_then(Url::host) {
                Some(Host::Ipv4(address)) if is_public(address.into()) => {
                    found.push(members.saw(*url))
                }
                Some(Host::Ipv6(address)) if is_public(address.into()) => {
                    found.push(members.saw(*url))
                }
                Some(Host::Domain(name)) if !is_loopback(name) => names.push(*url),
                Some(_) => {}
                None => names.push(*url),
            }
        }
        let judgement = match names.first() {
            Some(name) if found.is_empty() => {
                Err(Unknown(format!("{name}: names are not looked up; give addresses or check it")))
            }
            _ => Ok(Verdict::none_of(found, members.saw(urls.join(", ")))),
        };
        Judged::of(Some(member.name.clone()), judgement)
    });
    judged.collect()
}

/// Whether others than a private network can route to it; also the addresses that stand for all.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let shared = matches!(address.octets(), [100, 64..=127, ..]);
            !(address.is_private() || address.is_loopback() || address.is_link_local() || shared)
        }
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_public(address.into()),
            None => {
                let local = address.is_unique_local() || address.is_unicast_link_local();
                !(local || address.is_loopback())
            }
        },
    }
}

/// NET-3
pub(crate) fn metrics(endpoint: &Endpoint, _: &Facts) -> Judgement {
    let pages = endpoint.pages.need()?;
    Ok(if !pages.metrics.clone()? {
        Verdict::Pass(pages.saw("GET /metrics has no metrics of etcd"))
    } else if !pages.anonymous {
        Verdict::Pass(pages.saw("GET /metrics needs a client certificate"))
    } else {
        let said = pages.saw("GET /metrics 200 without credentials");
        match is_loopback(&endpoint.host) {
            true => Verdict::fail_as(Severity::Low, said),
            false => Verdict::fail(said),
        }
    })
}

/// NET-4
pub(crate) fn debug(endpoint: &Endpoint, _: &Facts) -> Judgement {
    let pages = endpoint.pages.need()?;
    let who = if pages.anonymous { "everyone" } else { "every client with a certificate" };
    Ok(if pages.pprof.clone()? {
        Verdict::fail(pages.saw(format!("/debug/pprof/ answers {who}")))
    } else if pages.command_line.clone()? {
        let what = format!("/debug/vars shows etcd's command line to {who}");
        Verdict::fail_as(Severity::Low, pages.saw(what))
    } else {
        Verdict::Pass(pages.saw("neither /debug/pprof/ nor the command line is shown"))
    })
}

/// NET-5
pub(crate) fn filtered(host: &Node, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let mut all = urls(&settings, "listen-client-urls")?;
    all.extend(urls(&settings, "listen-peer-urls")?);
    let far: Vec<_> = all.iter().filter(|url| is_far(url)).collect();
    if far.is_empty() {
        return Ok(Verdict::NotApplicable(settings.saw("etcd listens on loopback addresses only")));
    }
    let filter = host.filter.need()?;
    let (mut found, mut seen, mut untold) = (Vec::new(), Vec::new(), filter.opaque.clone());
    for url in far {
        let parsed = Url::parse(url).ok();
        let Some(port) = parsed.as_ref().and_then(Url::port_or_known_default) else {
            return Err(Unknown(format!("{url} has no port")));
        };
        for family in families(parsed.as_ref().and_then(Url::host)) {
            let is_of = |chain: &str| {
                chain.split(' ').next().is_some_and(|first| first == "inet" || first == *family)
            };
            let rule = |effect| {
                let mut rules = filter.rules.iter();
                rules.find(|one| one.effect == effect && one.names(port) && is_of(&one.chain))
            };
            if let Some(open) = rule(Effect::AcceptsAll) {
                let what = format!("{} accepts port {port} from everywhere", open.chain);
                found.push(filter.saw(what));
            } else if let Some(chain) = filter.closed.iter().find(|chain| is_of(chain)) {
                seen.push(format!("{chain} drops what no rule accepts"));
            } else if let Some(rule) = rule(Effect::Drops) {
                seen.push(format!("{} has a rule that drops port {port}", rule.chain));
            } else if let Some(rule) = rule(Effect::Other) {
                let what = format!("{} has a rule of port {port} that is not followed", rule.chain);
                untold = Some(what);
            } else if untold.is_none() {
                let what = format!("no rule of this host is of port {port} ({family})");
                found.push(filter.saw(what));
            }
        }
    }
    seen.sort();
    seen.dedup();
    match untold {
        Some(why) if found.is_empty() => Err(Unknown(why)),
        _ => Ok(Verdict::none_of(found, filter.saw(seen.join("; ")))),
    }
}

/// The families of nft's tables that filter what arrives at `host`.
fn families(host: Option<Host<&str>>) -> &'static [&'static str] {
    match host {
        Some(Host::Ipv4(_)) => &["ip"],
        Some(Host::Ipv6(address)) if !address.is_unspecified() => &["ip6"],
        // [::] takes connections of both.
        _ => &["ip", "ip6"],
    }
}

/// NET-6
pub(crate) fn gateway(endpoint: &Endpoint, _: &Facts) -> Judgement {
    let pages = endpoint.pages.need()?;
    Ok(match pages.gateway {
        (404 | 405, _) => Verdict::Pass(pages.saw("POST /v3/kv/range is not served")),
        (status, _) => Verdict::fail(pages.saw(format!("POST /v3/kv/range answers HTTP {status}"))),
    })
}

/// MON-3
pub(crate) fn alarms(facts: &Facts) -> Judgement {
    let alarms = facts.cluster.alarms.need()?;
    let found = alarms.iter().map(|alarm| alarms.saw(alarm.clone())).collect();
    Ok(Verdict::none_of(found, alarms.saw("no alarm")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_are_public() {
        for (address, wanted) in [
            ("10.0.0.1", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("8.8.8.8", true),
            ("0.0.0.0", true),
            ("172.32.0.1", true),
            ("::1", false),
            ("fd00::1", false),
            ("fe80::1", false),
            ("::", true),
            ("2001:4860::1", true),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), wanted, "{address}");
        }
    }
}
