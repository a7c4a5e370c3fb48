//! Whether anyone would notice.

use super::super::fact::{Fact, Judgement, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::endpoint::Endpoint;
use super::super::kinds::Judged;
use crate::etcd::Comparison;

const HOUR: i64 = 3600;
/// Calls an hour that may be refused, before it is noted.
const MOST_REFUSED: i64 = 60;
/// How old the last line of an audit log may be.
const MAX_SILENT: i64 = 24 * HOUR;

/// MON-1
pub(crate) fn watched(facts: &Facts) -> Judgement {
    let seen = facts.monitoring.need()?;
    let members = facts.cluster.members.need()?;
    let missing = members.iter().filter(|member| !seen.scraped.contains(&member.id));
    let mut found: Vec<_> = missing
        .map(|member| seen.saw(format!("{} ({:x}) is not scraped", member.name, member.id)))
        .collect();
    for (count, of) in [(seen.of_etcd, "etcd_…"), (seen.of_backups, "strongroom_…")] {
        if count == 0 {
            found.push(seen.saw(format!("no alert on a metric {of}")));
        }
    }
    let said = format!(
        "{} members are scraped; {} alerts on etcd, {} on backups",
        members.len(),
        seen.of_etcd,
        seen.of_backups
    );
    Ok(Verdict::none_of(found, seen.saw(said)))
}

/// MON-2
pub(crate) fn refused(endpoint: &Endpoint, facts: &Facts) -> Judgement {
    let pages = endpoint.pages.need()?;
    let now = pages.refused.clone()?;
    // What is said of the count is found again by the next audit.
    let without = |why: &str| Unknown(format!("{now}: {why}"));
    let earlier = facts.earlier.need().map_err(|unknown| without(&unknown.0))?;
    let Some(before) = earlier.refused.get(&endpoint.name) else {
        return Err(without("the last audit did not read them"));
    };
    // After a restart it counts from nothing.
    let is_same = now.since.unix().abs_diff(before.since.unix()) <= 1;
    let (count, from) = match is_same {
        true => (now.count.saturating_sub(before.count), earlier.at),
        false => (now.count, now.since),
    };
    let hours = (facts.now.unix().saturating_sub(from.unix()) / HOUR).max(1);
    let said = format!("+{count} in {hours} h ({now})");
    Ok(match i64::try_from(count).unwrap_or(i64::MAX) > hours.saturating_mul(MOST_REFUSED) {
        true => Verdict::fail(pages.saw(said)),
        false => Verdict::Pass(pages.saw(format!(
            "{said}; calls without any login are not among them: etcd counts those as malformed"
        ))),
    })
}

/// MON-3, of the data.
pub(crate) fn same_data(facts: &Facts) -> Vec<Judged> {
    facts.hashes.iter().map(|hashes| Judged::of(None, agree(hashes, facts))).collect()
}

/// Every member has the same data.
pub(crate) fn agree(hashes: &Fact<Comparison>, facts: &Facts) -> Judgement {
    let hashes = hashes.need()?;
    let members = facts.cluster.members.need()?;
    let differing: Vec<_> = hashes
        .answers
        .first()
        .into_iter()
        .flat_map(|first| hashes.get().differing().map(move |other| (first, other)))
        .map(|(first, other)| {
            hashes.saw(format!(
                "{} hashes to {}, and {} to {}",
                other.name, other.hash, first.name, first.hash
            ))
        })
        .collect();
    let has_hash = |id| hashes.answers.iter().any(|answer| answer.id == id);
    let silent = members.iter().find(|member| !has_hash(member.id));
    let silent = silent.map(|member| format!("{} ({:x}) gave no hash", member.name, member.id));
    match (hashes.doubt().or(silent), hashes.answers.first()) {
        (None, Some(first)) => {
            let (hash, revision) = (first.hash, hashes.revision);
            let same = format!("{hash} at revision {revision}, by {}", hashes.answers.len());
            Ok(Verdict::none_of(differing, hashes.saw(same)))
        }
        _ if !differing.is_empty() => Ok(Verdict::Fail(differing, None)),
        (doubt, _) => Err(Unknown(doubt.unwrap_or_default())),
    }
}

/// MON-5
pub(crate) fn access_log(facts: &Facts) -> Judgement {
    let log = facts.proxy_log.need()?;
    let silent = facts.now.unix().saturating_sub(log.written.unix());
    let mut found: Vec<_> = log.broken.iter().map(|what| log.saw(what.clone())).collect();
    if log.records == 0 {
        found.push(log.saw("no request is in it"));
    }
    if silent > MAX_SILENT {
        found.push(log.saw(format!("last written {} h ago, on {}", silent / HOUR, log.written)));
    }
    match &log.unopened {
        Some(why) if found.is_empty() => Err(Unknown(why.clone())),
        _ => Ok(Verdict::none_of(
            found,
            log.saw(format!("{} requests, verified; written on {}", log.records, log.written)),
        )),
    }
}
