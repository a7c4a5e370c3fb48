//! Users, roles and their grants.

use super::super::fact::{Evidence, Judgement, Verdict};
use super::super::facts::Facts;
use crate::text::printable;
use crate::values::DEFAULT_PREFIX;

const ROOT: &str = "root";
/// Users and roles of one kind that are named.
const MAX_NAMED: usize = 10;

/// Where authentication is off, no grant is looked at.
fn off(facts: &Facts) -> Result<Option<Evidence>, super::super::fact::Unknown> {
    let auth = facts.cluster.auth.need()?;
    Ok((!*auth.get()).then(|| auth.saw("authentication is off: see AUTH-3")))
}

/// RBAC-1
pub(crate) fn root_users(facts: &Facts) -> Judgement {
    if let Some(off) = off(facts)? {
        return Ok(Verdict::NotApplicable(off));
    }
    let users = facts.cluster.users.need()?;
    let root = users.iter().filter(|user| user.roles.iter().any(|role| role == ROOT));
    let names: Vec<_> = root.map(|user| user.name.as_str()).collect();
    let said = users.saw(format!("{} with the role root: {}", names.len(), named(&names)));
    Ok(match names.len() > facts.expected_root {
        true => Verdict::fail(said),
        false => Verdict::Pass(said),
    })
}

/// RBAC-2
pub(crate) fn wide_grants(facts: &Facts) -> Judgement {
    if let Some(off) = off(facts)? {
        return Ok(Verdict::NotApplicable(off));
    }
    let roles = facts.cluster.roles.need()?;
    let mut found = Vec::new();
    for role in roles.iter().filter(|role| role.name != ROOT) {
        for grant in role.grants.iter().filter(|grant| grant.is_open_ended()) {
            found.push(roles.saw(format!("role {}: {grant}", printable(role.name.as_bytes()))));
        }
    }
    found.truncate(MAX_NAMED);
    let otherwise = format!("{} roles, each with keys and prefixes only", roles.len());
    Ok(Verdict::none_of(found, roles.saw(otherwise)))
}

/// RBAC-3
pub(crate) fn unused(facts: &Facts) -> Judgement {
    if let Some(off) = off(facts)? {
        return Ok(Verdict::NotApplicable(off));
    }
    let users = facts.cluster.users.need()?;
    let roles = facts.cluster.roles.need()?;
    let idle = users.iter().filter(|user| user.roles.is_empty()).map(|user| user.name.as_str());
    let idle: Vec<_> = idle.collect();
    let others = || roles.iter().filter(|role| role.name != ROOT);
    let is_held = |name: &str| users.iter().any(|user| user.roles.iter().any(|role| role == name));
    let unheld: Vec<_> =
        others().map(|role| role.name.as_str()).filter(|name| !is_held(name)).collect();
    let empty = others().filter(|role| role.grants.is_empty()).map(|role| role.name.as_str());
    let empty: Vec<_> = empty.collect();
    let mut found = Vec::new();
    if !idle.is_empty() {
        found.push(users.saw(format!("users without roles: {}", named(&idle))));
    }
    if !unheld.is_empty() {
        found.push(roles.saw(format!("roles that no user has: {}", named(&unheld))));
    }
    if !empty.is_empty() {
        found.push(roles.saw(format!("roles without grants: {}", named(&empty))));
    }
    Ok(Verdict::none_of(found, roles.saw(format!("{} users, {} roles", users.len(), roles.len()))))
}

/// RBAC-4, as `setup-auth` makes the users: for backups the role root alone, for values the keys of one prefix.
pub(crate) fn own_rights(facts: &Facts) -> Judgement {
    if let Some(off) = off(facts)? {
        return Ok(Verdict::NotApplicable(off));
    }
    let own = facts.own.need()?;
    let Some(name) = own.get() else {
        return Ok(Verdict::NotApplicable(own.saw("this audit has no login")));
    };
    let users = facts.cluster.users.need()?;
    let roles = facts.cluster.roles.need()?;
    let Some(user) = users.iter().find(|user| user.name == *name) else {
        return Ok(Verdict::NotApplicable(users.saw(format!("no user is called {name}"))));
    };
    let is_root = user.roles.iter().any(|role| role == ROOT);
    let mut found = Vec::new();
    for role in user.roles.iter().filter(|role| *role != ROOT) {
        if is_root {
            found.push(users.saw(format!("{name} has the role {role} beside root")));
            continue;
        }
        let grants = roles.iter().filter(|one| one.name == *role).flat_map(|one| &one.grants);
        let wide = grants.filter(|grant| !grant.is_within(DEFAULT_PREFIX.as_bytes()));
        found
            .extend(wide.map(|grant| roles.saw(format!("{name} may {grant}, by the role {role}"))));
    }
    found.truncate(MAX_NAMED);
    let may = match is_root {
        true => "has the role root, which backups need, and no other".to_owned(),
        false => format!("may use the keys of {DEFAULT_PREFIX} alone"),
    };
    Ok(Verdict::none_of(found, users.saw(format!("{name} {may}"))))
}

fn named(names: &[&str]) -> String {
    let mut text = names.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
