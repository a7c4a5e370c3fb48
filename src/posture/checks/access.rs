//! Who may connect, and what somebody may do who did not log in.

use url::Url;

use super::super::fact::{Judgement, Severity, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::endpoint::{Access, Endpoint, Plain};
use super::super::kinds::Judged;
use super::is_http;

/// AUTH-1
pub(crate) fn plain(endpoint: &Endpoint, _: &Facts) -> Judgement {
    let plain = endpoint.plain.need()?;
    match plain.get() {
        Plain::Etcd(version) => {
            Ok(Verdict::fail(plain.saw(format!("etcd {version} answers without TLS"))))
        }
        // A port that answers neither way is no port of etcd's.
        Plain::Closed(why) => match &endpoint.tls.need()?.access {
            Access::NoTls => Err(Unknown("it answers neither with TLS nor without".into())),
            _ => Ok(Verdict::Pass(plain.saw(format!("no answer without TLS: {why}")))),
        },
    }
}

/// AUTH-1, of the client URLs in the member list: one without TLS may answer where nobody asked.
pub(crate) fn listed(facts: &Facts) -> Vec<Judged> {
    let members = match facts.cluster.members.need() {
        Ok(members) => members,
        Err(unknown) => return vec![Judged::of(None, Err(unknown))],
    };
    let is_asked = |url: &str| {
        let parsed = Url::parse(url).ok();
        let place = parsed.as_ref().and_then(|url| url.host_str().zip(url.port_or_known_default()));
        place.is_some_and(|(host, port)| {
            let host = host.trim_matches(['[', ']']);
            facts.endpoints.iter().any(|one| one.host == host && one.port == port)
        })
    };
    let judge = |url: &String| {
        if is_http(url) {
            Ok(Verdict::fail(members.saw(format!("the member list has {url}"))))
        } else if is_asked(url) {
            Ok(Verdict::Pass(members.saw(format!("{url} is one of the endpoints"))))
        } else {
            Err(Unknown(format!(
                "{url} is in the member list and was not asked: add it to --endpoints"
            )))
        }
    };
    let urls = members.get().iter().flat_map(|member| {
        member.client_urls.iter().map(move |url| (format!("{} {url}", member.name), url))
    });
    urls.map(|(subject, url)| Judged::of(Some(subject), judge(url))).collect()
}

/// AUTH-2
pub(crate) fn client_certificate(endpoint: &Endpoint, _: &Facts) -> Judgement {
    let tls = endpoint.tls.need()?;
    Ok(match &tls.access {
        Access::Open(version) => {
            let asked =
                if tls.asked { "it is asked for, and not needed" } else { "none is asked for" };
            let what = format!("etcd {version} answers without a client certificate: {asked}");
            Verdict::fail(tls.saw(what))
        }
        Access::Refused(why) => {
            Verdict::Pass(tls.saw(format!("refused without a client certificate: {why}")))
        }
        Access::NoTls => Verdict::NotApplicable(tls.saw("the port does not use TLS: see AUTH-1")),
    })
}

/// AUTH-3
pub(crate) fn authentication(facts: &Facts) -> Judgement {
    let auth = facts.cluster.auth.need()?;
    if *auth.get() {
        return Ok(Verdict::Pass(auth.saw("authentication is on")));
    }
    let found = auth.saw("authentication is off: a call without login is answered");
    let open = |endpoint: &Endpoint| {
        let plain = endpoint.plain.need().is_ok_and(|plain| matches!(plain.get(), Plain::Etcd(_)));
        let tls = endpoint.tls.need().is_ok_and(|tls| matches!(tls.access, Access::Open(_)));
        plain || tls
    };
    Ok(match facts.endpoints.iter().any(open) {
        true => Verdict::fail_as(Severity::Critical, found),
        false => Verdict::fail(found),
    })
}

/// AUTH-4
pub(crate) fn anonymous(endpoint: &Endpoint, _: &Facts) -> Judgement {
    let tls = endpoint.tls.need()?;
    if !matches!(tls.access, Access::Refused(_)) {
        let calls = endpoint.anonymous.need()?;
        return Ok(match calls.answered.is_empty() {
            true => Verdict::Pass(calls.saw("no call is answered without certificate and login")),
            false => Verdict::fail(calls.saw(format!("answered: {}", calls.answered.join(", ")))),
        });
    }
    // etcd answers some calls to each certificate of its CA, also where no user has its name (3.7.3 too).
    let calls = endpoint.without_login.need()?;
    Ok(match calls.login_wanted && !calls.answered.is_empty() {
        true => {
            let what =
                format!("answered with a certificate but no login: {}", calls.answered.join(", "));
            Verdict::fail_as(Severity::Medium, calls.saw(what))
        }
        false => Verdict::Pass(tls.saw("no connection without a client certificate")),
    })
}
