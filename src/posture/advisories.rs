//! Known vulnerabilities of etcd: the table, and which of it holds for a version.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fact::Severity;
use crate::error::{Error, Result};
use crate::format::Time;

/// The table of this release.
const TABLE: &str = include_str!("advisories.json");
/// The longest table that is read.
const MAX_TABLE: usize = 4 << 20;
/// After how many days a table may miss something.
const MAX_AGE_DAYS: i64 = 90;

/// The table of known vulnerabilities.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisories {
    format: u32,
    /// When the table was made.
    date: String,
    /// Up to when advisories are in it.
    complete_to: String,
    /// Minor versions that get fixes.
    supported: Vec<String>,
    /// The newest patch of each minor version, at `date`.
    newest: BTreeMap<String, String>,
    advisories: Vec<Advisory>,
}

/// One vulnerability.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Advisory {
    pub(crate) id: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) title: String,
    #[serde(deserialize_with = "severity")]
    pub(crate) severity: Severity,
    ranges: Vec<Range>,
    pub(crate) unfixed_lines: Vec<String>,
    condition: String,
    pub(crate) url: String,
    sources: Vec<String>,
    seen: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Security,
    /// Data can be lost or differ.
    Data,
    /// In something that etcd is built with.
    Dependency,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: String,
    fixed: String,
}

fn severity<'de, D: serde::Deserializer<'de>>(input: D) -> std::result::Result<Severity, D::Error> {
    let name = String::deserialize(input)?;
    let all = [Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
    let found = all.into_iter().find(|one| one.name() == name);
    found.ok_or_else(|| serde::de::Error::custom(format!("unknown severity {name:?}")))
}

/// What must hold for an advisory to matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    AuthOn,
    NonrootUser,
    NonrootRead,
    NonrootWrite,
    TlsOffLoopback,
    PlainHttp,
    PprofOn,
    WeakSuites,
    HttpUrlsAndCrl,
    GatewayProcess,
    /// Nobody stated it, or it is not measured.
    Unstated,
}

impl Condition {
    fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "always" => Self::Always,
            "auth_on" => Self::AuthOn,
            "nonroot_user" => Self::NonrootUser,
            "nonroot_read" => Self::NonrootRead,
            "nonroot_write" => Self::NonrootWrite,
            "tls_off_loopback" => Self::TlsOffLoopback,
            "plain_http" => Self::PlainHttp,
            "pprof_on" => Self::PprofOn,
            "weak_suites" => Self::WeakSuites,
            "http_urls_and_crl" => Self::HttpUrlsAndCrl,
            "gateway_process" => Self::GatewayProcess,
            "not_stated" | "not_measured" => Self::Unstated,
            _ => return None,
        })
    }
}

impl Advisory {
    /// All of these must hold for it to matter.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> {
        let names = self.condition.split('&').map(str::trim);
        names.map(|name| Condition::of_name(name).unwrap_or(Condition::Unstated))
    }

    /// Whether it is in this version.
    pub(crate) fn affects(&self, version: &Release) -> bool {
        let minor = version.minor();
        self.unfixed_lines.contains(&minor)
            || self.ranges.iter().any(|range| {
                let bounds = Release::parse(&range.from).zip(Release::parse(&range.fixed));
                bounds.is_some_and(|(from, fixed)| from <= *version && *version < fixed)
            })
    }

    /// The first version of the same minor that has the fix.
    pub(crate) fn fixed_in(&self, version: &Release) -> Option<&str> {
        let minor = format!("{}.", version.minor());
        let fixed = self.ranges.iter().map(|range| range.fixed.as_str());
        fixed.into_iter().find(|fixed| fixed.starts_with(&minor))
    }

    /// The versions from which on it is in etcd, each with the one that has the fix.
    #[cfg(test)]
    pub(crate) fn bounds(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ranges.iter().map(|range| (range.from.as_str(), range.fixed.as_str()))
    }

    /// How sure the range is.
    pub(crate) fn sources(&self) -> usize {
        self.sources.len()
    }
}

/// A release of etcd: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release(u32, u32, u32);

impl Release {
    /// The numbers of `3.5.16`, `v3.5.16` or `3.5.21-k3s1`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part.get(..end)?.parse::<u32>().ok()
        };
        Some(Self(number()?, number()?, number()?))
    }

    /// Such as `3.5`.
    pub(crate) fn minor(&self) -> String {
        format!("{}.{}", self.0, self.1)
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Advisories {
    /// The table of this release.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal): never, a test reads it.
    pub fn built_in() -> Result<Self> {
        Self::parse(TABLE)
    }

    /// A table in JSON.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_TABLE {
            return Err(Error::usage("a table of advisories has at most 4 MiB"));
        }
        let table: Self = serde_json::from_str(text)
            .map_err(|error| Error::usage(format!("not a table of advisories: {error}")))?;
        if table.format != 1 {
            let why =
                format!("a table of advisories of format {}: this version reads 1", table.format);
            return Err(Error::usage(why));
        }
        for advisory in &table.advisories {
            let wrong = |what: &str| Error::usage(format!("advisory {}: {what}", advisory.id));
            if advisory.condition.split('&').any(|one| Condition::of_name(one.trim()).is_none()) {
                return Err(wrong("unknown condition"));
            }
            let pairs = advisory.ranges.iter();
            let mut pairs =
                pairs.map(|one| Release::parse(&one.from).zip(Release::parse(&one.fixed)));
            if !pairs.all(|pair| pair.is_some_and(|(from, fixed)| from < fixed)) {
                return Err(wrong("a range is from one version to a later one"));
            }
            if !advisory.url.starts_with("https://") || advisory.sources.is_empty() {
                return Err(wrong("it needs an https URL and a source"));
            }
            day(&advisory.seen).map_err(|error| wrong(&error.to_string()))?;
        }
        day(&table.date)?;
        day(&table.complete_to)?;
        Ok(table)
    }

    #[cfg(test)]
    pub(crate) fn rows(&self) -> &[Advisory] {
        &self.advisories
    }

    pub(crate) fn affecting(&self, version: &Release) -> impl Iterator<Item = &Advisory> {
        self.advisories.iter().filter(move |advisory| advisory.affects(version))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.advisories.len()
    }

    /// Up to which day it is complete.
    pub fn complete_to(&self) -> &str {
        &self.complete_to
    }

    /// When it was made.
    pub(crate) fn date(&self) -> &str {
        &self.date
    }

    /// Whether it is of a later minor version than the table knows.
    pub(crate) fn is_ahead(&self, version: &Release) -> bool {
        let newest = self.newest.values().filter_map(|text| Release::parse(text)).max();
        newest.is_some_and(|newest| (newest.0, newest.1) < (version.0, version.1))
    }

    /// Whether it may miss what was found since.
    pub(crate) fn is_old(&self, now: Time) -> bool {
        let end = day(&self.complete_to).map_or(0, Time::unix);
        now.unix().saturating_sub(end) > MAX_AGE_DAYS * 86_400
    }

    pub(crate) fn supports(&self, version: &Release) -> bool {
        self.supported.contains(&version.minor())
    }

    pub(crate) fn supported(&self) -> String {
        self.supported.join(", ")
    }

    /// The newest known patch of the same minor.
    pub(crate) fn newest(&self, version: &Release) -> Option<Release> {
        self.newest.get(&version.minor()).and_then(|text| Release::parse(text))
    }
}

/// The first second of a day such as `2026-08-21`.
pub(super) fn day(text: &str) -> Result<Time> {
    format!("{text}T00:00:00Z")
        .parse()
        .map_err(|_| Error::usage(format!("{text:?} is not a day such as 2026-08-21")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_in_order() {
        let table = Advisories::built_in().unwrap();
        assert!(table.len() > 20);
        let mut ids: Vec<_> = table.advisories.iter().map(|one| one.id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), table.len());
        for advisory in &table.advisories {
            // Each has a version in it, and one that is not.
            let first = Release::parse(&advisory.ranges[0].from).unwrap();
            let fixed = Release::parse(&advisory.ranges[0].fixed).unwrap();
            assert!(advisory.affects(&first) && !advisory.affects(&fixed), "{}", advisory.id);
            assert!(!advisory.affects(&Release::parse("9.0.0").unwrap()));
        }
    }

    #[test]
    fn releases() {
        for (text, wanted) in [
            ("3.5.16", Some("3.5.16")),
            ("v3.5.21-k3s1", Some("3.5.21")),
            ("3.4.23+dfsg", Some("3.4.23")),
            ("3.5", None),
            ("", None),
            ("a.b.c", None),
            ("3.5.99999999999", None),
        ] {
            let read = Release::parse(text).map(|release| release.to_string());
            assert_eq!(read.as_deref(), wanted, "{text}");
        }
        assert!(Release::parse("3.5.9") < Release::parse("3.5.16"));
    }

    #[test]
    fn which_versions_are_affected() {
        let table = Advisories::built_in().unwrap();
        let ids = |version: &str| -> Vec<String> {
            let version = Release::parse(version).unwrap();
            table.affecting(&version).map(|one| one.id.clone()).collect()
        };
        assert!(ids("3.7.3").is_empty() && ids("3.6.16").is_empty() && ids("3.5.35").is_empty());
        assert!(ids("3.5.32").contains(&"CVE-2026-73499".to_owned()));
        // No fix was released for 3.4.
        assert!(ids("3.4.45").contains(&"CVE-2026-73500".to_owned()));
        // Without a lower bound, every version before the fix.
        for id in ["CVE-2026-73499", "CVE-2026-59818", "CVE-2026-33413", "GHSA-hrxh-6v49-42gf"] {
            for version in ["2.3.8", "3.3.27", "3.4.0"] {
                assert!(ids(version).contains(&id.to_owned()), "{id} {version}");
            }
        }
        assert!(!ids("3.2.21").contains(&"GHSA-5x4g-q5rc-36jp".to_owned()));
        assert!(ids("3.4.23").contains(&"CVE-2021-28235".to_owned()));
    }

    #[test]
    fn what_is_wrong_with_a_table() {
        for (from, to) in [
            ("\"format\": 1", "\"format\": 2"),
            ("\"auth_on\"", "\"auth\""),
            ("https://", "http://"),
            ("\"complete_to\": \"2026-08-21\"", "\"complete_to\": \"2026-13-21\""),
            ("\"high\"", "\"huge\""),
            ("\"fixed\": \"3.6.14\"", "\"fixed\": \"3.5.14\""),
        ] {
            assert!(TABLE.contains(from), "{from}");
            assert!(Advisories::parse(&TABLE.replace(from, to)).is_err(), "{to}");
        }
        assert!(Advisories::parse("{}").is_err());
    }

    #[test]
    fn its_age() {
        let table = Advisories::built_in().unwrap();
        assert!(!table.is_old("2026-11-18T00:00:00Z".parse().unwrap()));
        assert!(table.is_old("2026-11-20T00:00:00Z".parse().unwrap()));
    }
}
