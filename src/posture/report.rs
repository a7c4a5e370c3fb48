//! What an audit comes to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::catalog::{CHECKS, Check};
use super::fact::{Fact, Severity, Status, Unknown, Verdict};
use super::facts::Facts;
use super::facts::endpoint::Tls;
use super::kinds::{Judged, Scope, Section};
use super::outcome::{Difference, Outcome};
use super::waivers;
use crate::error::{Error, Result};
use crate::format::Time;

/// What becomes of checks without a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum UnknownPolicy {
    /// They count as failed.
    #[default]
    Fail,
    /// They are listed only.
    Warn,
}

/// Which checks count, and how.
pub(super) struct Policy<'a> {
    pub(super) only: &'a [String],
    pub(super) skip: &'a [String],
    pub(super) fail_on: Severity,
    pub(super) unknown: UnknownPolicy,
}

/// A member or endpoint, and its version.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MemberSeen {
    /// The endpoint, or the name of a member that is not among them.
    pub endpoint: String,
    /// etcd's version, if it was read.
    pub version: Option<String>,
}

/// The certificate of a server that expires first of those it shows.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CertificateSeen {
    /// The endpoint, or the member and its peer URL.
    pub endpoint: String,
    /// `client` for a port for clients, `peer` for one for members.
    pub port: &'static str,
    /// Whose it is.
    pub name: String,
    /// Until when it is valid.
    pub expires: Time,
}

/// How many checks came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Passed.
    pub pass: usize,
    /// Failed.
    pub fail: usize,
    /// Could not be measured.
    pub unknown: usize,
    /// Do not matter here.
    pub not_applicable: usize,
    /// Of those that failed or are unknown, accepted by a waiver.
    pub waived: usize,
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The program and its version.
    pub tool: &'static str,
    /// When it was measured.
    pub time: Time,
    /// Where facts came from.
    pub scope: Vec<Scope>,
    /// The endpoints, and members that are not among them.
    pub members: Vec<MemberSeen>,
    /// The certificates that the servers show.
    pub certificates: Vec<CertificateSeen>,
    /// Every check, failures first.
    pub checks: Vec<Outcome>,
    /// How many came out how.
    pub counts: Counts,
    /// Up to which day the table of vulnerabilities is complete.
    pub advisories_to: String,
    /// Waivers that match nothing.
    pub notes: Vec<String>,
    /// What changed since the last audit that was kept; nothing unless a repository was asked.
    pub since: Option<Difference>,
    /// The exit status: 0, or 3 if something at or above the threshold failed or is unknown.
    pub exit: u8,
    /// What was checked, for formats that list it.
    #[serde(skip)]
    pub(super) rules: Vec<Rule>,
}

/// Refuses ids that no check has.
pub(super) fn check_ids<'a>(ids: impl Iterator<Item = &'a String>) -> Result<()> {
    for id in ids {
        if !CHECKS.iter().any(|check| check.id == id) {
            return Err(Error::usage(format!("no check is called {id:?}"))
                .hint("`strongroom audit --list` prints them"));
        }
    }
    Ok(())
}

/// Refuses checks that are asked for and made of nothing that is looked at.
pub(super) fn check_scopes(only: &[String], scopes: &[Scope]) -> Result<()> {
    for check in CHECKS.iter().filter(|check| only.iter().any(|id| id == check.id)) {
        let mut of = check.runs.iter().flat_map(|run| run.scopes());
        if !of.any(|scope| scopes.contains(scope)) {
            return Err(Error::usage(format!("{} is not checked in these scopes", check.id))
                .hint("`strongroom audit --list -w json` shows the scopes of each check; add it to --scope"));
        }
    }
    Ok(())
}

impl Report {
    pub(super) fn new(facts: &Facts, scope: &[Scope], policy: &Policy<'_>) -> Self {
        Self::of(CHECKS, facts, scope, policy)
    }

    /// What the checks of `catalogue` say.
    pub(super) fn of(
        catalogue: &[Check],
        facts: &Facts,
        scope: &[Scope],
        policy: &Policy<'_>,
    ) -> Self {
        let wanted = |check: &&Check| {
            let named = |ids: &[String]| ids.iter().any(|id| id == check.id);
            (policy.only.is_empty() || named(policy.only)) && !named(policy.skip)
        };
        let mut checks = Vec::new();
        for check in catalogue.iter().filter(wanted) {
            let in_scope =
                |run: &&super::catalog::Run| run.scopes().iter().any(|one| scope.contains(one));
            for run in check.runs.iter().filter(in_scope) {
                let judged = run.judge(facts).into_iter();
                checks.extend(judged.map(|judged| outcome(check, judged)));
            }
        }
        checks.sort_by_key(|one| (one.section, one.status, std::cmp::Reverse(one.severity)));
        let notes = waivers::apply(&facts.waivers, &mut checks, facts.now);
        let counts = counted(&checks);
        let bad = |one: &Outcome| {
            let status = match one.status {
                Status::Fail => true,
                Status::Unknown => policy.unknown == UnknownPolicy::Fail,
                Status::Pass | Status::NotApplicable => false,
            };
            status && one.waiver.is_none() && one.severity >= policy.fail_on
        };
        // That nothing was checked is no success.
        let exit = if checks.is_empty() || checks.iter().any(bad) { 3 } else { 0 };
        let members = facts.versions().map(|(endpoint, version)| MemberSeen {
            endpoint: endpoint.name.clone(),
            version: match version {
                Fact::Known { value, .. } => Some(value.clone()),
                Fact::Unknown(_) => None,
            },
        });
        Self {
            tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")),
            time: facts.now,
            scope: scope.to_vec(),
            members: members.collect(),
            certificates: certificates(facts),
            checks,
            counts,
            advisories_to: facts.advisories.complete_to().to_owned(),
            notes,
            since: None,
            exit,
            rules: catalogue.iter().map(rule).collect(),
        }
    }

    /// The outcomes with the same check, title and status together, in the order of the report.
    #[must_use]
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for one in &self.checks {
            let same = |group: &&mut Group<'_>| {
                group.first.id == one.id
                    && group.first.title == one.title
                    && group.first.status == one.status
                    && group.first.severity == one.severity
                    && group.first.waiver.is_some() == one.waiver.is_some()
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.all.push(one),
                None => groups.push(Group { first: one, all: vec![one] }),
            }
        }
        groups
    }

    /// How many failures each severity has, the worst first.
    #[must_use]
    pub fn failures(&self) -> Vec<(Severity, usize)> {
        let mut failures = BTreeMap::new();
        for one in self.checks.iter().filter(|one| one.status == Status::Fail) {
            *failures.entry(one.severity).or_insert(0) += 1;
        }
        failures.into_iter().rev().collect()
    }
}

/// What each server shows that expires first.
fn certificates(facts: &Facts) -> Vec<CertificateSeen> {
    let first = |endpoint: String, port, tls: &Fact<Tls>| {
        let tls = tls.need().ok()?.get();
        let first = tls.chain.iter().min_by_key(|one| one.not_after)?;
        let (name, expires) = (first.name(), Time::from_unix(first.not_after));
        Some(CertificateSeen { endpoint, port, name, expires })
    };
    let clients = facts.endpoints.iter();
    let clients = clients.filter_map(|one| first(one.name.clone(), "client", &one.tls));
    let peers = facts.cluster.peers.need().map(|peers| peers.get().as_slice()).unwrap_or_default();
    let peers = peers.iter();
    let peers =
        peers.filter_map(|one| first(format!("{} {}", one.member, one.url), "peer", &one.tls));
    clients.chain(peers).collect()
}

/// Outcomes that differ in the member only.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The first of them.
    pub first: &'a Outcome,
    /// All of them.
    pub all: Vec<&'a Outcome>,
}

fn counted(checks: &[Outcome]) -> Counts {
    let mut counts = Counts::default();
    for one in checks {
        let count = match one.status {
            Status::Pass => &mut counts.pass,
            Status::Fail => &mut counts.fail,
            Status::Unknown => &mut counts.unknown,
            Status::NotApplicable => &mut counts.not_applicable,
        };
        *count = count.saturating_add(1);
        counts.waived = counts.waived.saturating_add(usize::from(one.waiver.is_some()));
    }
    counts
}

fn outcome(check: &Check, judged: Judged) -> Outcome {
    let (status, severity, evidence, why) = match judged.judgement {
        Ok(Verdict::Pass(evidence)) => (Status::Pass, None, vec![evidence], None),
        Ok(Verdict::Fail(evidence, severity)) => (Status::Fail, severity, evidence, None),
        Ok(Verdict::NotApplicable(evidence)) => (Status::NotApplicable, None, vec![evidence], None),
        Err(Unknown(why)) => (Status::Unknown, None, Vec::new(), Some(why)),
    };
    let (title, url) = judged.detail.unzip();
    Outcome {
        id: check.id,
        severity: severity.unwrap_or(check.severity),
        status,
        title: title.unwrap_or_else(|| check.title.to_owned()),
        section: check.section,
        cis: check.cis,
        stig: check.stig,
        member: judged.subject,
        evidence,
        why,
        remedy: check.remedy,
        url,
        waiver: None,
    }
}

/// A check, as a list of checks shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Rule {
    /// Such as `AUTH-1`.
    pub id: &'static str,
    /// How bad a failure is, unless what is found says otherwise.
    pub severity: Severity,
    /// What is wrong if it fails.
    pub title: &'static str,
    /// The part of a guide it belongs to.
    pub section: Section,
    /// Where its facts come from.
    pub scope: Vec<Scope>,
    /// Items of the CIS Kubernetes Benchmark.
    pub cis: &'static [&'static str],
    /// Items of DISA's Kubernetes STIG.
    pub stig: &'static [&'static str],
    /// What to do when it fails.
    pub remedy: &'static str,
}

/// Every check.
#[must_use]
pub fn rules() -> Vec<Rule> {
    CHECKS.iter().map(rule).collect()
}

fn rule(check: &Check) -> Rule {
    let mut scope: Vec<_> = check.runs.iter().flat_map(|run| run.scopes()).copied().collect();
    scope.sort_unstable();
    scope.dedup();
    Rule {
        id: check.id,
        severity: check.severity,
        title: check.title,
        section: check.section,
        scope,
        cis: check.cis,
        stig: check.stig,
        remedy: check.remedy,
    }
}
