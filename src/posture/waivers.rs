//! Failures that somebody accepts, for a reason and until a day.

use serde::Deserialize;

use super::advisories::day;
use super::fact::{Fact, Severity, Status, Verdict};
use super::facts::Facts;
use super::kinds::Judged;
use super::outcome::{Outcome, Waived};
use crate::error::{Error, Result};
use crate::format::Time;

/// The longest file that is read.
const MAX_FILE: usize = 1 << 20;
/// How far ahead a waiver may end.
const MAX_DAYS: i64 = 400;
/// Anonymous access is accepted by nobody.
const NEVER: &str = "AUTH-4";
/// Checks of many vulnerabilities: a waiver is of one of them.
const ADVISORIES: [&str; 2] = ["UPD-1", "UG-14"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    waiver: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    id: String,
    advisory: Option<String>,
    member: Option<String>,
    reason: String,
    by: String,
    until: String,
    #[serde(default)]
    unknown: bool,
    #[serde(default)]
    accept_critical: bool,
}

/// One accepted failure.
#[derive(Clone, Debug)]
pub struct Waiver {
    id: String,
    advisory: Option<String>,
    member: Option<String>,
    reason: String,
    by: String,
    until: Time,
    /// It covers what could not be measured, and not what failed.
    unknown: bool,
    accept_critical: bool,
}

impl Waiver {
    /// The waivers of a TOML file.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) says what is wrong with it.
    pub fn parse(text: &str, now: Time) -> Result<Vec<Self>> {
        if text.len() > MAX_FILE {
            return Err(Error::usage("a file of waivers has at most 1 MiB"));
        }
        let file: File = toml::from_str(text)
            .map_err(|error| Error::usage(format!("not a file of waivers: {error}")))?;
        file.waiver.into_iter().map(|entry| Self::of(entry, now)).collect()
    }

    fn of(entry: Entry, now: Time) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("the waiver of {}: {why}", entry.id));
        if entry.id == NEVER {
            return Err(wrong("anonymous access cannot be waived"));
        }
        match (ADVISORIES.contains(&&*entry.id), &entry.advisory) {
            (true, None) if !entry.unknown => {
                return Err(wrong("it needs the id of one vulnerability (advisory)"));
            }
            (false, Some(_)) => return Err(wrong("only UPD-1 and UG-14 have advisories")),
            _ => {}
        }
        if entry.reason.trim().is_empty() || entry.by.trim().is_empty() {
            return Err(wrong("it needs a reason, and who accepts it (by)"));
        }
        let until = day(&entry.until).map_err(|error| wrong(&error.to_string()))?;
        if until.unix().saturating_sub(now.unix()) > MAX_DAYS * 86_400 {
            return Err(wrong("it may end at most 400 days from now"));
        }
        let Entry { id, advisory, member, reason, by, unknown, accept_critical, .. } = entry;
        Ok(Self { id, advisory, member, reason, by, until, unknown, accept_critical })
    }

    /// The check it is of.
    pub(super) fn id(&self) -> &String {
        &self.id
    }

    fn is_over(&self, now: Time) -> bool {
        self.until <= now
    }

    fn name(&self) -> String {
        let mut name = self.id.clone();
        if let Some(advisory) = &self.advisory {
            name = format!("{name} {advisory}");
        }
        match &self.member {
            Some(member) => format!("{name} of {member}"),
            None => name,
        }
    }

    fn covers(&self, one: &Outcome, now: Time) -> bool {
        let severe = one.severity == Severity::Critical && !self.accept_critical;
        let member = self.member.as_ref().is_none_or(|member| one.member.as_ref() == Some(member));
        let status = if self.unknown { Status::Unknown } else { Status::Fail };
        let same = self.id == one.id && self.advisory.as_deref() == one.advisory();
        same && status == one.status && member && !severe && !self.is_over(now)
    }
}

/// Marks what is waived; the waivers that are in force and match nothing, in words.
pub(super) fn apply(waivers: &[Waiver], outcomes: &mut [Outcome], now: Time) -> Vec<String> {
    let mut used = vec![false; waivers.len()];
    for one in outcomes.iter_mut() {
        for (waiver, used) in waivers.iter().zip(&mut used) {
            if waiver.covers(one, now) {
                *used = true;
                let Waiver { reason, by, until, .. } = waiver;
                one.waiver = Some(Waived { reason: reason.clone(), by: by.clone(), until: *until });
            }
        }
    }
    let idle = waivers.iter().zip(used).filter(|(waiver, used)| !used && !waiver.is_over(now));
    idle.map(|(waiver, _)| format!("the waiver of {} matches nothing", waiver.name())).collect()
}

/// WAV-1
pub(crate) fn expired(facts: &Facts) -> Vec<Judged> {
    let judge = |waiver: &Waiver| {
        let fact = Fact::known((), "the waivers");
        let judgement = fact.need().map(|fact| {
            let said = fact.saw(format!("waived until {}: {}", waiver.until, waiver.reason));
            if waiver.is_over(facts.now) { Verdict::fail(said) } else { Verdict::Pass(said) }
        });
        Judged::of(Some(waiver.name()), judgement)
    };
    facts.waivers.iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_waiver_needs() {
        let now: Time = "2026-11-01T00:00:00Z".parse().unwrap();
        let good = "[[waiver]]\nid = \"REST-1\"\nreason = \"the provider encrypts\"\nby = \"ops\"\nuntil = \"2027-03-01\"\n";
        assert_eq!(Waiver::parse(good, now).unwrap().len(), 1);
        let one = good.replace("\"REST-1\"", "\"UPD-1\"\nadvisory = \"CVE-2021-28235\"");
        assert_eq!(Waiver::parse(&one, now).unwrap()[0].name(), "UPD-1 CVE-2021-28235");
        assert!(Waiver::parse("", now).unwrap().is_empty());
        for (from, to) in [
            ("REST-1", "AUTH-4"),
            ("the provider encrypts", " "),
            ("2027-03-01", "2028-03-01"),
            ("2027-03-01", "soon"),
            ("by = \"ops\"\n", ""),
            ("until = \"2027-03-01\"\n", ""),
            ("by =", "owner = \"x\"\nby ="),
            ("REST-1", "UPD-1"),
            ("REST-1", "UG-14"),
            ("by =", "advisory = \"CVE-2021-28235\"\nby ="),
        ] {
            let error = Waiver::parse(&good.replace(from, to), now).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{to}");
        }
    }
}
