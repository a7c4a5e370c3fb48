//! Whether the cluster can be brought back, and what the newest snapshot shows.

use std::collections::BTreeSet;

use super::super::fact::{Fact, Judgement, Seen, Severity, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::repository::Backups;
use super::age_of;
use crate::format::Time;
use crate::keys::DependsOn;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// How old the newest snapshot, verification and drill may be.
const MAX_SNAPSHOT: i64 = 26 * HOUR;
const MAX_VERIFIED: i64 = 35 * DAY;
const MAX_DRILLED: i64 = 90 * DAY;

fn in_words(seconds: i64) -> String {
    match seconds {
        0..172_800 => format!("{} h", seconds / HOUR),
        _ => format!("{} d", seconds / DAY),
    }
}

/// BAK-1
pub(crate) fn fresh(backups: &Backups, facts: &Facts) -> Judgement {
    let newest = backups.newest.need()?;
    let Some(id) = newest.get() else {
        return Ok(Verdict::fail(newest.saw("there is no snapshot that counts")));
    };
    let age = age_of(format_args!("snapshot {id}"), id.created(), facts.now)?;
    let said =
        newest.saw(format!("the newest snapshot that counts is {} old ({id})", in_words(age)));
    Ok(match age > MAX_SNAPSHOT {
        true => Verdict::fail(said),
        false => Verdict::Pass(said),
    })
}

/// BAK-2
pub(crate) fn tried(backups: &Backups, facts: &Facts) -> Judgement {
    let verified = backups.verified.need()?;
    let drilled = backups.drilled.need()?;
    let mut found = Vec::new();
    let mut look = |seen: Seen<'_, Option<Time>>, what: &str, most: i64| {
        let Some(time) = *seen else {
            found.push(seen.saw(format!("no report says that {what}")));
            return Ok(());
        };
        let age = age_of(format_args!("the report that {what}"), time, facts.now)?;
        if age > most {
            let (age, most) = (in_words(age), most / DAY);
            found.push(seen.saw(format!("{what} {age} ago, the limit is {most} d")));
        }
        Ok(())
    };
    look(verified, "every byte of a snapshot was verified", MAX_VERIFIED)?;
    look(drilled, "a snapshot was restored and served", MAX_DRILLED)?;
    Ok(Verdict::none_of(found, verified.saw("verified and drilled in time")))
}

/// BAK-3
pub(crate) fn openers(backups: &Backups, _: &Facts) -> Judgement {
    let openers = backups.openers.need()?;
    let each = openers.iter().map(|(id, way)| match way {
        Some(way) => format!("{id} ({way})"),
        None => format!("{id} (not known here)"),
    });
    let each: Vec<_> = each.collect();
    let ways: BTreeSet<_> = openers.iter().filter_map(|(_, way)| way.as_ref()).collect();
    let unknown = openers.iter().filter(|(_, way)| way.is_none()).count();
    // Of a key that was not given here only this is known: it is not among the files of this host.
    let is_apart = |way: &&DependsOn| matches!(way, DependsOn::Host | DependsOn::Passphrase);
    let least = ways.len() + usize::from(unknown > 0 && ways.iter().all(is_apart));
    let most = ways.len() + unknown;
    let said = format!("sealed to {}: {}", each.len(), each.join(", "));
    match (least, most) {
        (2.., _) => Ok(Verdict::Pass(openers.saw(said))),
        (_, ..2) => Ok(Verdict::fail(openers.saw(said))),
        _ => Err(Unknown(format!(
            "{said}: whether one loss takes all is not known; name the recovery key with --recovery-key, or give their recipients"
        ))),
    }
}

/// BAK-4, of the signature.
pub(crate) fn signed(backups: &Backups, _: &Facts) -> Judgement {
    let signers = backups.signers.need()?;
    let ids: Vec<_> = signers.iter().map(ToString::to_string).collect();
    Ok(match ids.is_empty() {
        true => {
            Verdict::fail(signers.saw("not signed: who has a key that opens it can make others"))
        }
        false => Verdict::Pass(signers.saw(format!("signed by {}", ids.join(", ")))),
    })
}

/// BAK-4, of the second repository.
pub(crate) fn copied(backups: &Backups, facts: &Facts) -> Judgement {
    let copied = backups.copied.need()?;
    let Some(id) = copied.get() else {
        return Ok(Verdict::fail(copied.saw("there is no snapshot that counts")));
    };
    let age = age_of(format_args!("snapshot {id}"), id.created(), facts.now)?;
    let said = format!("the newest snapshot that counts is {} old", in_words(age));
    Ok(match age > MAX_SNAPSHOT {
        true => Verdict::fail(copied.saw(said)),
        false => Verdict::Pass(copied.saw(said)),
    })
}

/// BAK-5
pub(crate) fn complete(backups: &Backups, _: &Facts) -> Judgement {
    let inside = backups.inside.need()?;
    let included = backups.included.need()?;
    if inside.keys_in_use == 0 {
        return Ok(Verdict::NotApplicable(inside.saw("no value needs a key of Kubernetes")));
    }
    Ok(match included.is_empty() {
        true => Verdict::fail(inside.saw(format!(
            "{} keys of the API server are needed to read it, and no file was stored with it",
            inside.keys_in_use
        ))),
        false => Verdict::Pass(included.saw(format!("stored with it: {}", included.join(", ")))),
    })
}

/// REST-3
pub(crate) fn values(backups: &Backups, _: &Facts) -> Judgement {
    let inside = backups.inside.need()?;
    if inside.secrets == 0 && inside.unencrypted_before == 0 {
        return Ok(Verdict::NotApplicable(inside.saw("no Secrets of Kubernetes")));
    }
    let said = |what: String| inside.saw(what);
    Ok(match (inside.unencrypted, inside.unencrypted_before) {
        (0, 0) => Verdict::Pass(said(format!("{} Secrets, all encrypted", inside.secrets))),
        (0, before) => Verdict::fail_as(
            Severity::Medium,
            said(format!(
                "{before} Secrets are unencrypted in earlier revisions: compact and defragment"
            )),
        ),
        (now, _) => {
            Verdict::fail(said(format!("{now} of {} Secrets are unencrypted", inside.secrets)))
        }
    })
}

/// AUTH-6
pub(crate) fn passwords(backups: &Backups, _: &Facts) -> Judgement {
    let inside = backups.inside.need()?;
    if !inside.auth {
        return Ok(Verdict::NotApplicable(inside.saw("authentication is off")));
    }
    let said = inside.saw(format!(
        "{} of {} users have a password",
        inside.with_password.len(),
        inside.users.len()
    ));
    Ok(match inside.with_password.is_empty() {
        true => Verdict::Pass(said),
        false => Verdict::fail(said),
    })
}

/// Users and roles of the snapshot, where etcd does not tell them.
pub(crate) fn complete_cluster(facts: &mut Facts) {
    let Some(Fact::Known { value, source }) = facts.backups.as_ref().map(|backups| &backups.inside)
    else {
        return;
    };
    if let Fact::Unknown(_) = facts.cluster.users {
        facts.cluster.users = Fact::known(value.users.clone(), source.clone());
    }
    if let Fact::Unknown(_) = facts.cluster.roles {
        facts.cluster.roles = Fact::known(value.roles.clone(), source.clone());
    }
    if let Fact::Unknown(_) = facts.cluster.auth {
        facts.cluster.auth = Fact::known(value.auth, source.clone());
    }
}
