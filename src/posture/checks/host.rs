//! What etcd's own settings say, and whether the socket agrees.

use url::{Host as UrlHost, Url};

use super::super::fact::{Evidence, Judgement, Seen, Severity, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::endpoint::{Access, Endpoint};
use super::super::facts::host::Host;
use super::super::facts::settings::Settings;
use super::tls::lifetime;
use super::{is_far, is_http};

/// Both of a pair are set.
fn both(settings: Seen<'_, Settings>, names: [&str; 2]) -> Judgement {
    let mut found = Vec::new();
    for name in names {
        if settings.value(name)?.is_none() {
            found.push(settings.saw(settings.said(name)));
        }
    }
    let said = names.map(|name| settings.said(name)).join(", ");
    Ok(Verdict::none_of(found, settings.saw(said)))
}

/// A switch has this position.
fn switch(settings: Seen<'_, Settings>, name: &str, wanted: bool) -> Judgement {
    let said = settings.saw(settings.said(name));
    Ok(match settings.is_on(name)? == wanted {
        true => Verdict::Pass(said),
        false => Verdict::fail(said),
    })
}

/// The URLs of a setting.
pub(in crate::posture) fn urls(settings: &Settings, name: &str) -> Result<Vec<String>, Unknown> {
    let value = settings.value(name)?.unwrap_or_default();
    Ok(value.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect())
}

/// Whether a URL is one of TLS. etcd takes the scheme in any case.
fn uses_tls(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("https" | "unixs"))
}

/// The URLs for other members that do not use TLS: etcd then ignores the certificates. Without the settings it uses
/// http://localhost:2380.
fn plain_peers(settings: Seen<'_, Settings>) -> Result<Vec<Evidence>, Unknown> {
    let mut found = Vec::new();
    for name in ["listen-peer-urls", "initial-advertise-peer-urls"] {
        let all = urls(&settings, name)?;
        if all.is_empty() || !all.iter().all(|url| uses_tls(url)) {
            found.push(settings.saw(settings.said(name)));
        }
    }
    Ok(found)
}

/// AUTH-1
pub(crate) fn client_tls(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let listens = urls(&settings, "listen-client-urls")?;
    // Without the setting etcd listens on http://localhost:2379.
    if listens.is_empty() || listens.iter().any(|url| is_http(url)) {
        return Ok(Verdict::fail(settings.saw(settings.said("listen-client-urls"))));
    }
    if urls(&settings, "listen-client-http-urls")?.iter().any(|url| is_http(url)) {
        return Ok(Verdict::fail(settings.saw(settings.said("listen-client-http-urls"))));
    }
    if settings.is_on("auto-tls")? {
        return Ok(Verdict::Pass(settings.saw("https with auto-tls: see TLS-1")));
    }
    both(settings, ["cert-file", "key-file"])
}

/// AUTH-2
pub(crate) fn client_cert_auth(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    if settings.is_on("client-cert-auth")? {
        return both(settings, ["client-cert-auth", "trusted-ca-file"]);
    }
    // etcd asks for certificates also where only the CA is given.
    switch_or_ca(settings, "client-cert-auth", "trusted-ca-file")
}

fn switch_or_ca(settings: Seen<'_, Settings>, name: &str, ca: &str) -> Judgement {
    if settings.value(ca)?.is_some() && settings.value(name)?.is_none() {
        return Ok(Verdict::Pass(settings.saw(settings.said(ca))));
    }
    switch(settings, name, true)
}

/// AUTH-5
pub(crate) fn tokens(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let mut found = Vec::new();
    let token = settings.value("auth-token")?.unwrap_or("simple");
    match token.strip_prefix("jwt,") {
        Some(options) => {
            // etcd takes 5 minutes if nothing is said; ttl is of jwt alone, auth-token-ttl of simple tokens.
            let mut ttl = options.split(',').filter_map(|one| one.trim().strip_prefix("ttl="));
            match ttl.next_back().map(seconds) {
                Some(None) => return Err(Unknown("ttl of auth-token is not a duration".into())),
                Some(Some(ttl)) if ttl > 300.0 => {
                    found.push(settings.saw(format!("auth-token is jwt with a ttl of {ttl} s")));
                }
                _ => {}
            }
        }
        None => found.push(settings.saw("auth-token is not jwt with a key: no signature")),
    }
    if number(&settings, "auth-token-ttl")?.is_some_and(|seconds| seconds > 300) {
        found.push(settings.saw(settings.said("auth-token-ttl")));
    }
    if number(&settings, "bcrypt-cost")?.is_some_and(|cost| cost < 10) {
        found.push(settings.saw(settings.said("bcrypt-cost")));
    }
    Ok(Verdict::none_of(found, settings.saw("signed tokens of at most 300 s")))
}

/// The seconds of a duration as Go writes it, such as `1h30m` or `1.5s`.
fn seconds(text: &str) -> Option<f64> {
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|one: char| !(one.is_ascii_digit() || one == '.'))?;
        let (number, unit) = rest.split_at(end);
        let length = unit.find(|one: char| one.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(length);
        let each = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * each;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

fn number(settings: &Settings, name: &str) -> Result<Option<u64>, Unknown> {
    match settings.value(name)? {
        None => Ok(None),
        Some(value) => match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Unknown(format!("{name} is not a number"))),
        },
    }
}

/// AUTH-7
pub(crate) fn own_ca(host: &Host, _: &Facts) -> Judgement {
    let cluster = host.cluster_ca.need()?;
    let Some(cluster_ca) = cluster.get() else {
        return Ok(Verdict::NotApplicable(cluster.saw("no /etc/kubernetes/pki/ca.crt")));
    };
    let settings = host.settings.need()?;
    let Some(path) = settings.value("trusted-ca-file")? else {
        return Ok(Verdict::NotApplicable(settings.saw(settings.said("trusted-ca-file"))));
    };
    let files = host.certificates.need()?;
    let Some((_, trusted)) = files.iter().find(|(name, _)| name == path) else {
        return Err(Unknown(format!("{path} was not read")));
    };
    Ok(match trusted.iter().any(|one| one.key_digest == cluster_ca.key_digest) {
        true => Verdict::fail(files.saw(format!(
            "{path} trusts the CA of Kubernetes: each certificate of the cluster can log in to etcd"
        ))),
        false => Verdict::Pass(files.saw(format!("{path} is another CA than that of Kubernetes"))),
    })
}

/// AUTH-8
pub(crate) fn restricted(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let names = ["client-cert-allowed-hostname", "client-cert-allowed-cn", "client-crl-file"];
    for name in names {
        if settings.value(name)?.is_some() {
            return Ok(Verdict::Pass(settings.saw(settings.said(name))));
        }
    }
    Ok(Verdict::fail(
        settings.saw("every certificate of the trusted CA is accepted, also a revoked one"),
    ))
}

/// TLS-1
pub(crate) fn auto_tls(host: &Host, _: &Facts) -> Judgement {
    switch(host.settings.need()?, "auto-tls", false)
}

/// TLS-2
pub(crate) fn peer_tls(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let plain = plain_peers(settings)?;
    if !plain.is_empty() {
        return Ok(Verdict::Fail(plain, None));
    }
    if settings.is_on("peer-auto-tls")? {
        return Ok(Verdict::Pass(settings.saw("peer-auto-tls: see TLS-4")));
    }
    both(settings, ["peer-cert-file", "peer-key-file"])
}

/// TLS-3
pub(crate) fn peer_cert_auth(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let plain = plain_peers(settings)?;
    if !plain.is_empty() {
        return Ok(Verdict::Fail(plain, None));
    }
    switch_or_ca(settings, "peer-client-cert-auth", "peer-trusted-ca-file")
}

/// TLS-4
pub(crate) fn peer_auto_tls(host: &Host, _: &Facts) -> Judgement {
    switch(host.settings.need()?, "peer-auto-tls", false)
}

/// TLS-7
pub(crate) fn files_expire(host: &Host, facts: &Facts) -> Judgement {
    let files = host.certificates.need()?;
    if files.is_empty() {
        return Ok(Verdict::NotApplicable(files.saw("the settings name no certificates")));
    }
    let all = files.iter().flat_map(|(path, all)| all.iter().map(move |one| (path.as_str(), one)));
    lifetime(files, all, facts.now)
}

/// TLS-9
pub(crate) fn as_configured(host: &Host, facts: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let mut own = urls(&settings, "listen-client-urls")?;
    own.extend(urls(&settings, "advertise-client-urls")?);
    let own: Vec<_> = own.iter().filter_map(|url| Url::parse(url).ok()).collect();
    let is_own = |endpoint: &&Endpoint| {
        own.iter().any(|url| {
            let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
            endpoint.port == url.port().unwrap_or_default() && endpoint.host == host
        })
    };
    let Some(endpoint) = facts.endpoints.iter().find(is_own) else {
        return Err(Unknown(
            "none of the endpoints is a listen or advertise URL of this process".into(),
        ));
    };
    let tls = endpoint.tls.need()?;
    let demands = settings.is_on("client-cert-auth")?;
    let said = settings.said("client-cert-auth");
    Ok(match (&tls.access, demands) {
        (Access::Open(_), true) => Verdict::Fail(
            vec![settings.saw(said), tls.saw("answers without a client certificate")],
            None,
        ),
        (Access::NoTls, true) => {
            Verdict::Fail(vec![settings.saw(said), tls.saw("does not use TLS")], None)
        }
        _ => Verdict::Pass(tls.saw(format!("as configured: {said}"))),
    })
}

/// TLS-10
pub(crate) fn key_files(host: &Host, _: &Facts) -> Judgement {
    let keys = host.keys.need()?;
    if keys.is_empty() {
        return Ok(Verdict::NotApplicable(keys.saw("the settings name no keys")));
    }
    let found = keys.iter().filter(|key| key.is_loose()).map(|key| keys.saw(key.to_string()));
    let all: Vec<_> = keys.iter().map(ToString::to_string).collect();
    Ok(Verdict::none_of(found.collect(), keys.saw(all.join("; "))))
}

/// NET-1
pub(crate) fn listens(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let mut found: Vec<Evidence> = Vec::new();
    for name in ["listen-client-urls", "listen-peer-urls", "listen-metrics-urls"] {
        let is_any = |url: &String| match Url::parse(url).ok().as_ref().and_then(Url::host) {
            Some(UrlHost::Ipv4(address)) => address.is_unspecified(),
            Some(UrlHost::Ipv6(address)) => address.is_unspecified(),
            _ => false,
        };
        if urls(&settings, name)?.iter().any(is_any) {
            found.push(settings.saw(settings.said(name)));
        }
    }
    Ok(match found.is_empty() {
        true => Verdict::Pass(settings.saw(settings.said("listen-client-urls"))),
        false => Verdict::Fail(found, Some(Severity::Medium)),
    })
}

/// NET-3
pub(crate) fn metrics(host: &Host, facts: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let said = settings.saw(settings.said("listen-metrics-urls"));
    let listens = urls(&settings, "listen-metrics-urls")?;
    let far: Vec<_> = listens.iter().filter(|url| is_far(url)).collect();
    Ok(if far.iter().any(|url| is_http(url)) {
        Verdict::fail(said)
    } else if !far.is_empty() && !matches!(client_cert_auth(host, facts)?, Verdict::Pass(_)) {
        Verdict::Fail(vec![said, settings.saw(settings.said("client-cert-auth"))], None)
    } else {
        Verdict::Pass(said)
    })
}

/// NET-2
pub(crate) fn cors(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let listens = urls(&settings, "listen-client-urls")?;
    if !listens.is_empty() && listens.iter().all(|url| url.starts_with("https:")) {
        return Ok(Verdict::NotApplicable(settings.saw(settings.said("listen-client-urls"))));
    }
    let mut found = Vec::new();
    for name in ["cors", "host-whitelist"] {
        if settings.value(name)?.is_none_or(|value| value.split(',').any(|part| part == "*")) {
            found.push(settings.saw(format!("{} (the default is *)", settings.said(name))));
        }
    }
    Ok(Verdict::none_of(found, settings.saw(settings.said("host-whitelist"))))
}

/// MON-4
pub(crate) fn corruption_checks(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let gates = settings.value("feature-gates")?.unwrap_or_default();
    let gate = |name: &str| gates.split(',').any(|gate| gate == format!("{name}=true"));
    let start = gate("InitialCorruptCheck")
        || settings.is_on("initial-corrupt-check")?
        || settings.is_on("experimental-initial-corrupt-check")?;
    let compact = gate("CompactHashCheck")
        || settings.is_on("experimental-compact-hash-check-enabled")?
        || settings.value("corrupt-check-time")?.is_some()
        || settings.value("experimental-corrupt-check-time")?.is_some();
    let mut found = Vec::new();
    if !start {
        found.push(settings.saw("the data is not checked at the start (InitialCorruptCheck)"));
    }
    if !compact {
        found.push(settings.saw("members' data is not compared while they run (CompactHashCheck)"));
    }
    Ok(Verdict::none_of(
        found,
        settings.saw("members' data is compared at the start and while they run"),
    ))
}

/// UPD-4
pub(crate) fn dangerous(host: &Host, _: &Facts) -> Judgement {
    let settings = host.settings.need()?;
    let (mut found, mut worst) = (Vec::new(), Severity::Medium);
    for (name, severity) in [
        ("unsafe-no-fsync", Severity::Critical),
        ("force-new-cluster", Severity::Critical),
        ("enable-v2", Severity::Medium),
    ] {
        if settings.is_on(name)? {
            found.push(settings.saw(settings.said(name)));
            worst = worst.max(severity);
        }
    }
    if settings.value("log-level")? == Some("debug") || settings.is_on("debug")? {
        found.push(settings.saw("log-level=debug: requests are logged, with what is in them"));
        worst = worst.max(Severity::High);
    }
    Ok(match found.is_empty() {
        true => Verdict::Pass(
            settings.saw("none of unsafe-no-fsync, force-new-cluster, enable-v2, debug"),
        ),
        false => Verdict::Fail(found, Some(worst)),
    })
}
