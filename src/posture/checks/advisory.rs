//! Known vulnerabilities and supported versions.

use std::collections::BTreeMap;

use super::super::advisories::{Advisory, Condition, Kind, Release};
use super::super::fact::{Evidence, Fact, Judgement, Seen, Severity, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::endpoint::{Access, Endpoint, Plain};
use super::super::kinds::Judged;
use super::{is_far, is_loopback};

pub(crate) fn release(endpoint: &Endpoint) -> Result<(Seen<'_, String>, Release), Unknown> {
    let version = endpoint.version.need()?;
    let release = Release::parse(version.get());
    release.map(|release| (version, release)).ok_or_else(|| not_a_version(version.get()))
}

fn not_a_version(text: &str) -> Unknown {
    Unknown(format!("{text:?} is not a version of etcd"))
}

/// UPD-1
pub(crate) fn known(facts: &Facts) -> Vec<Judged> {
    facts.endpoints.iter().flat_map(|endpoint| of_endpoint(endpoint, facts)).collect()
}

fn of_endpoint(endpoint: &Endpoint, facts: &Facts) -> Vec<Judged> {
    let subject = || Some(endpoint.name.clone());
    let (version, release) = match release(endpoint) {
        Ok(known) => known,
        Err(unknown) => {
            return vec![Judged::of(subject(), Err(unknown))];
        }
    };
    of_release(&release, version, endpoint, facts)
}

/// What is known of `release`, with what was measured at the endpoint.
pub(crate) fn of_release(
    release: &Release,
    version: Seen<'_, String>,
    endpoint: &Endpoint,
    facts: &Facts,
) -> Vec<Judged> {
    let subject = || Some(endpoint.name.clone());
    let found: Vec<_> = facts
        .advisories
        .affecting(release)
        .map(|advisory| Judged {
            subject: subject(),
            detail: Some((format!("{}: {}", advisory.id, advisory.title), advisory.url.clone())),
            judgement: Ok(affected(advisory, release, version, endpoint, facts)),
        })
        .collect();
    if !found.is_empty() {
        return found;
    }
    if facts.advisories.is_ahead(release) {
        let why = format!("{release} is later than the table of known vulnerabilities");
        return vec![Judged::of(subject(), Err(Unknown(why)))];
    }
    let said = format!("{release} has none of {} known vulnerabilities", facts.advisories.len());
    vec![Judged::of(subject(), Ok(Verdict::Pass(version.saw(said))))]
}

/// The version has it: how bad that is depends on what was measured.
fn affected(
    advisory: &Advisory,
    release: &Release,
    version: Seen<'_, String>,
    endpoint: &Endpoint,
    facts: &Facts,
) -> Verdict {
    let fixed = match (advisory.fixed_in(release), advisory.kind) {
        (Some(fixed), _) => format!("fixed in {fixed}"),
        (None, Kind::Dependency) => "fixed in later minor versions".into(),
        (None, _) => format!("no fix for {}", release.minor()),
    };
    let also = match advisory.aliases.is_empty() {
        true => String::new(),
        false => format!(" ({})", advisory.aliases.join(", ")),
    };
    let sure = if advisory.sources() > 1 { "" } else { "; range from one source" };
    let mut evidence = vec![version.saw(format!("{release}{also}: {fixed}{sure}"))];
    let mut unknown = None;
    for condition in advisory.conditions() {
        match holds(condition, endpoint, facts) {
            Ok(Holds::Yes(seen)) => evidence.extend(seen),
            // One that does not hold is enough: nobody reaches it.
            Ok(Holds::No(seen)) => {
                return Verdict::Fail(
                    vec![version.saw(format!("{release}{also}: {fixed}; not reachable")), seen],
                    Some(Severity::Low),
                );
            }
            Err(Unknown(why)) => unknown = Some(why),
        }
    }
    if let Some(why) = unknown {
        evidence.push(version.saw(format!("whether it can be reached is unknown: {why}")));
    }
    Verdict::Fail(evidence, Some(advisory.severity))
}

enum Holds {
    Yes(Option<Evidence>),
    No(Evidence),
}

fn yes_if(holds: bool, evidence: Evidence) -> Holds {
    if holds { Holds::Yes(Some(evidence)) } else { Holds::No(evidence) }
}

fn holds(condition: Condition, endpoint: &Endpoint, facts: &Facts) -> Result<Holds, Unknown> {
    Ok(match condition {
        Condition::Always => Holds::Yes(None),
        Condition::AuthOn => {
            let auth = facts.cluster.auth.need()?;
            yes_if(*auth.get(), auth.saw(format!("authentication is {}", on(*auth.get()))))
        }
        Condition::NonrootUser => {
            let users = facts.cluster.users.need()?;
            let some = users.iter().any(|user| !is_root(&user.roles));
            yes_if(
                some,
                users.saw(format!(
                    "users without the role root: {}",
                    if some { "yes" } else { "none" }
                )),
            )
        }
        Condition::NonrootRead => granted(facts, true)?,
        Condition::NonrootWrite => granted(facts, false)?,
        Condition::TlsOffLoopback => off_loopback(endpoint, facts)?,
        Condition::PlainHttp => {
            let plain = endpoint.plain.need()?;
            let open = matches!(plain.get(), Plain::Etcd(_));
            yes_if(
                open,
                plain.saw(if open { "answers without TLS" } else { "no answer without TLS" }),
            )
        }
        Condition::PprofOn => {
            let pages = endpoint.pages.need()?;
            let pprof = pages.pprof.clone()?;
            yes_if(pprof, pages.saw(format!("pprof is {}", on(pprof))))
        }
        Condition::WeakSuites => {
            let offers = endpoint.offers.need()?;
            let some = !offers.weak.is_empty();
            yes_if(
                some,
                offers.saw(if some { "weak suites are accepted" } else { "no weak suite" }),
            )
        }
        Condition::HttpUrlsAndCrl => {
            return Err(Unknown(
                "it depends on listen-client-http-urls and client-crl-file".into(),
            ));
        }
        Condition::GatewayProcess => {
            return Err(Unknown("it concerns the program `etcd gateway` of this version".into()));
        }
        Condition::Unstated => return Err(Unknown("nobody stated when it matters".into())),
    })
}

const fn on(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn is_root(roles: &[String]) -> bool {
    roles.iter().any(|role| role == "root")
}

/// Whether a user without the role root may read (or write) anything.
fn granted(facts: &Facts, reads: bool) -> Result<Holds, Unknown> {
    let users = facts.cluster.users.need()?;
    let roles = facts.cluster.roles.need()?;
    let grants = |name: &String| {
        let role = roles.iter().find(|role| role.name == *name);
        let mut grants = role.into_iter().flat_map(|role| &role.grants);
        grants.any(|grant| if reads { grant.reads() } else { grant.writes() })
    };
    let some = users.iter().any(|user| !is_root(&user.roles) && user.roles.iter().any(grants));
    let (what, found) = (if reads { "read" } else { "write" }, if some { "" } else { "no " });
    Ok(yes_if(some, roles.saw(format!("{found}users without the role root may {what} keys"))))
}

fn off_loopback(endpoint: &Endpoint, facts: &Facts) -> Result<Holds, Unknown> {
    let tls = endpoint.tls.need()?;
    if matches!(tls.access, Access::NoTls) {
        return Ok(Holds::No(tls.saw("the port does not use TLS")));
    }
    if !is_loopback(&endpoint.host) {
        return Ok(Holds::Yes(Some(tls.saw(format!("TLS on {}", endpoint.host)))));
    }
    let members = facts.cluster.members.need()?;
    let mut urls =
        members.get().iter().flat_map(|one| one.client_urls.iter().chain(&one.peer_urls));
    Ok(match urls.find(|url| is_far(url)) {
        Some(url) => Holds::Yes(Some(members.saw(format!("a member advertises {url}")))),
        None => Holds::No(members.saw("all members advertise loopback addresses")),
    })
}

/// UPD-2
pub(crate) fn supported(endpoint: &Endpoint, facts: &Facts) -> Judgement {
    let (version, release) = release(endpoint)?;
    let table = &facts.advisories;
    if table.is_ahead(&release) {
        return Err(Unknown(format!("{release} is later than the table of versions")));
    }
    if !table.supports(&release) {
        let what = format!(
            "{release}: {} gets no fixes; supported: {}",
            release.minor(),
            table.supported()
        );
        return Ok(Verdict::fail(version.saw(what)));
    }
    let Some(newest) = table.newest(&release) else {
        return Err(Unknown(format!(
            "the newest patch of {} is not in the table",
            release.minor()
        )));
    };
    Ok(match release < newest {
        true => Verdict::fail_as(
            Severity::Medium,
            version.saw(format!("{release}; {newest} is newer (known on {})", table.date())),
        ),
        false => Verdict::Pass(version.saw(format!("{release} is the newest patch in the table"))),
    })
}

/// UPD-3
pub(crate) fn mixed(facts: &Facts) -> Judgement {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut last = None;
    for endpoint in &facts.endpoints {
        let (version, release) = release(endpoint)?;
        versions.entry(version.get()).or_default().push(&endpoint.name);
        last = Some((version, release, endpoint.cluster_version.need()));
    }
    let Some((version, release, cluster)) = last else { return Err(Unknown("no endpoint".into())) };
    if versions.len() > 1 {
        let each =
            versions.iter().map(|(version, names)| format!("{version}: {}", names.join(", ")));
        return Ok(Verdict::fail(version.saw(each.collect::<Vec<_>>().join("; "))));
    }
    let cluster = cluster?;
    let of_cluster = Release::parse(cluster.get()).ok_or_else(|| not_a_version(cluster.get()))?;
    if of_cluster.minor() != release.minor() {
        let what =
            format!("members run {}, the cluster's version is {}", version.get(), cluster.get());
        return Ok(Verdict::fail(cluster.saw(what)));
    }
    Ok(Verdict::Pass(version.saw(format!("all members run {}", version.get()))))
}

/// UPD-5
pub(crate) fn table_age(facts: &Facts) -> Vec<Judged> {
    let end = facts.advisories.complete_to();
    let judgement = match facts.advisories.is_old(facts.now) {
        true => Err(Unknown(format!("the table ends on {end}: what was found since is not in it"))),
        false => {
            let table = Fact::known((), "the table of known vulnerabilities");
            table.need().map(|table| Verdict::Pass(table.saw(format!("it ends on {end}"))))
        }
    };
    vec![Judged::of(None, judgement)]
}
