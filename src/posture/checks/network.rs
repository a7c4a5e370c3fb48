//! What can be reached beside etcd's API, and what etcd says of itself.

use std::net::IpAddr;

use url::{Host, Url};

use super::super::fact::{Judgement, Severity, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::endpoint::Endpoint;
use super::super::facts::filter::{Effect, Family, Filter, Rule};
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
        let url = Url::parse(url).map_err(|error| Unknown(format!("{url}: {error}")))?;
        let port = url.port_or_known_default();
        let port = port.ok_or_else(|| Unknown(format!("{url} has no port")))?;
        let mut unfiltered = Vec::new();
        let families = families(&url);
        for (family, name) in families {
            match of_port(&filter, port, *family) {
                Some(Filtered::Open(chain)) => {
                    found.push(filter.saw(format!("{chain} accepts port {port} from everywhere")));
                }
                Some(Filtered::Closed(what)) => seen.push(what),
                Some(Filtered::Untold(what)) => untold = Some(what),
                None => unfiltered.push(*name),
            }
        }
        match unfiltered.as_slice() {
            [] => {}
            all if all.len() == families.len() && filter.opaque.is_none() => {
                found.push(filter.saw(format!("no rule of this host is of port {port}")));
            }
            some => {
                untold.get_or_insert_with(|| {
                    format!("no rule that is read is of port {port} over {}", some.join(" and "))
                });
            }
        }
    }
    seen.dedup();
    found.dedup();
    match untold {
        Some(why) if found.is_empty() => Err(Unknown(why)),
        _ => Ok(Verdict::none_of(found, filter.saw(seen.join("; ")))),
    }
}

/// The protocols over which a listener of this URL is reached. Go listens on both where the address stands for all.
fn families(url: &Url) -> &'static [(Family, &'static str)] {
    const BOTH: &[(Family, &str)] = &[(Family::V4, "IPv4"), (Family::V6, "IPv6")];
    match url.host().map(|host| host.to_string().trim_matches(['[', ']']).parse::<IpAddr>()) {
        Some(Ok(address)) if address.is_unspecified() => BOTH,
        Some(Ok(IpAddr::V4(_))) => &[(Family::V4, "IPv4")],
        Some(Ok(IpAddr::V6(_))) => &[(Family::V6, "IPv6")],
        _ => BOTH,
    }
}

/// What becomes of packets to a port.
enum Filtered {
    Open(String),
    Closed(String),
    Untold(String),
}

fn of_port(filter: &Filter, port: u16, family: Family) -> Option<Filtered> {
    let rule = |effect| {
        let is_it = |rule: &&Rule| rule.effect == effect && rule.names(port);
        let mut rules = filter.rules.iter().filter(is_it);
        rules.find(|rule| rule.chain.family.has(family)).map(|rule| &rule.chain.name)
    };
    let closed = filter.closed.iter().find(|chain| chain.family.has(family));
    if let Some(chain) = rule(Effect::AcceptsAll) {
        Some(Filtered::Open(chain.clone()))
    } else if let Some(chain) = closed {
        Some(Filtered::Closed(format!("{} drops what no rule accepts", chain.name)))
    } else if let Some(chain) = rule(Effect::Drops) {
        Some(Filtered::Closed(format!("{chain} has a rule that drops port {port}")))
    } else {
        let chain = rule(Effect::Other)?;
        Some(Filtered::Untold(format!("{chain} has a rule of port {port} that is not followed")))
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
    use super::super::super::tests::{good, known, on_host, settings};
    use super::*;

    fn over(urls: &str, filter: &str) -> Judgement {
        let mut facts = good();
        let host = on_host(&mut facts);
        host.settings = settings(&format!(
            "--listen-client-urls={urls} --listen-peer-urls=https://127.0.0.1:1"
        ));
        host.filter = known(Filter::parse(filter.as_bytes()).unwrap());
        let host = facts.host.as_ref().unwrap();
        filtered(host, &facts)
    }

    fn chain(family: &str, policy: &str, ports: &[u16]) -> String {
        let rule = |port: &u16| {
            format!(
                r#",{{"rule":{{"family":"{family}","table":"f","chain":"in","expr":[{{"match":{{"op":"==","left":{{"payload":{{"protocol":"tcp","field":"dport"}}}},"right":{port}}}}},{{"drop":null}}]}}}}"#
            )
        };
        let rules: String = ports.iter().map(rule).collect();
        format!(
            r#"{{"nftables":[{{"chain":{{"family":"{family}","table":"f","name":"in","hook":"input","policy":"{policy}"}}}}{rules}]}}"#
        )
    }

    /// What one port or protocol comes to says nothing of another.
    #[test]
    fn each_port_is_filtered_over_each_protocol() {
        let is_pass = |judged: &Judgement| matches!(judged, Ok(Verdict::Pass(_)));
        let (v4, all) = ("https://10.0.0.1:2379", "https://0.0.0.0:2379");
        let drops = |ports: &[u16]| chain("inet", "accept", ports);
        assert!(is_pass(&over(v4, &drops(&[2379]))));
        assert!(is_pass(&over(all, &drops(&[2379]))));
        let two = "https://10.0.0.1:2379,https://10.0.0.1:2380";
        assert!(matches!(over(two, &drops(&[2379])), Ok(Verdict::Fail(..))));
        let limited = r#",{"limit":{"rate":5}},{"drop":null}"#;
        let untold = drops(&[2380, 2379]).replacen(r#",{"drop":null}"#, limited, 1);
        assert!(over(two, &untold).is_err());
        let of_v4 = chain("ip", "drop", &[]);
        assert!(is_pass(&over(v4, &of_v4)));
        for url in [all, "https://[::]:2379", "https://etcd.example:2379"] {
            assert!(over(url, &of_v4).is_err(), "{url}");
        }
        assert!(matches!(over("https://[fd00::1]:2379", &of_v4), Ok(Verdict::Fail(..))));
        let mut opaque = chain("inet", "drop", &[]);
        opaque.truncate(opaque.len() - 2);
        opaque.push_str(
            r#",{"rule":{"family":"inet","table":"f","chain":"in","expr":[{"xt":null}]}}]}"#,
        );
        assert!(over(v4, &opaque).is_err());
    }

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
