//! The gates of an upgrade that members' hosts answer: each of its own member.

use url::Url;

use super::super::checks::host::urls;
use super::super::fact::{Fact, Judgement, Unknown, Verdict};
use super::super::facts::cluster::Listed;
use super::super::facts::{Facts, Host};
use super::super::kinds::Judged;
use super::facts::Upgrade;

/// What the host's member comes to; that of the other members nothing is known.
fn each(facts: &Facts, judge: impl Fn(&Host) -> Judgement) -> Vec<Judged> {
    let Some(host) = &facts.host else {
        let why = "no host was read: run it on each member's host, with --host";
        return vec![Judged::of(None, Err(Unknown(why.into())))];
    };
    let own = name(host);
    let members = match &facts.cluster.members {
        Fact::Known { value, .. } => value.as_slice(),
        Fact::Unknown(why) => {
            let others = Unknown(format!("the hosts of other members: {why}"));
            return vec![
                Judged::of(Some(host.name.clone()), judge(host)),
                Judged::of(None, Err(others)),
            ];
        }
    };
    // One host may run members of two clusters under one name.
    let advertised = advertised(host);
    let is_own = |one: &Listed| {
        let is_at = |urls: &Vec<Url>| parsed(&one.peer_urls).iter().any(|url| urls.contains(url));
        own.as_ref() == Some(&one.name) && advertised.as_ref().is_none_or(is_at)
    };
    let found = members.iter().filter(|one| is_own(one)).count();
    let subject = if found == 1 { own.clone().unwrap_or_default() } else { host.name.clone() };
    let mut judged = vec![Judged::of(Some(subject), judge(host))];
    for member in members.iter().filter(|one| found != 1 || !is_own(one)) {
        let why = "its host was not read: run it there, with --host";
        judged.push(Judged::of(Some(member.name.clone()), Err(Unknown(why.into()))));
    }
    judged
}

/// The name of the host's member.
fn name(host: &Host) -> Option<String> {
    let settings = host.settings.need().ok()?;
    settings.value("name").ok().map(|name| name.unwrap_or("default").to_owned())
}

/// The peer URLs that the host's member was given, if they are set; none where they may be set and cannot be read.
fn advertised(host: &Host) -> Option<Vec<Url>> {
    let settings = host.settings.need().ok()?;
    match urls(&settings, "initial-advertise-peer-urls") {
        Ok(urls) => (!urls.is_empty()).then(|| parsed(&urls)),
        Err(_) => Some(Vec::new()),
    }
}

fn parsed(urls: &[String]) -> Vec<Url> {
    urls.iter().filter_map(|url| Url::parse(url).ok()).collect()
}

/// UG-6
pub(super) fn v2(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    let target = match upgrade.target.need() {
        Ok(target) => target,
        Err(unknown) => return vec![Judged::of(None, Err(unknown))],
    };
    if !target.step.v2 {
        let what = format!("{} does not look at data of the v2 API", target.release);
        return vec![Judged::of(None, Ok(Verdict::NotApplicable(target.saw(what))))];
    }
    each(facts, |_| {
        let v2 = upgrade.v2.need()?;
        let found = v2.content.iter().map(|what| v2.saw(what)).collect();
        let after =
            v2.snap.map(|index| format!(" after snapshot file {index}")).unwrap_or_default();
        let none =
            format!("no data of the v2 API, nor in {} entries of the log{after}", v2.entries);
        Ok(Verdict::none_of(found, v2.saw(none)))
    })
}

/// UG-7
pub(super) fn flags(upgrade: &Upgrade, facts: &Facts) -> Vec<Judged> {
    each(facts, |host| {
        let target = upgrade.target.need()?;
        let settings = host.settings.need()?;
        let to = &target.release;
        let (mut found, mut unknown) = (Vec::new(), None);
        for removed in &target.step.removed {
            // etcd stops at a flag that it does not know, whatever its value.
            let set = match settings.get().get(&removed.flag) {
                Ok(Some(set)) => Ok(Some(set.source)),
                unset => settings.has_flag(&removed.flag).and_then(|is_there| match is_there {
                    true => Ok(Some("flag")),
                    false => unset.map(|_| None),
                }),
            };
            match set {
                // Its value may be a secret: a discovery URL is.
                Ok(Some(set)) => found.push(settings.saw(format!(
                    "{} ({set}) is not in {to}; instead: {}",
                    removed.flag, removed.instead
                ))),
                Ok(None) => {}
                Err(why) => unknown = Some(why),
            }
        }
        for refused in &target.step.refused {
            match settings.get().get(&refused.flag) {
                Ok(Some(set)) if set.value == refused.value => found.push(settings.saw(format!(
                    "{}={} ({}) is refused by {to}; instead: {}",
                    refused.flag, refused.value, set.source, refused.instead
                ))),
                Ok(_) => {}
                Err(why) => unknown = Some(why),
            }
        }
        match (found.is_empty(), unknown) {
            (true, Some(unknown)) => Err(unknown),
            _ => Ok(Verdict::none_of(
                found,
                settings.saw(format!(
                    "none of the {} settings that {to} does not have",
                    target.step.removed.len() + target.step.refused.len()
                )),
            )),
        }
    })
}
