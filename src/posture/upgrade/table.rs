//! What each step from one minor version of etcd to the next needs: the table, with its sources.

use serde::Deserialize;

use super::super::advisories::{Advisories, Release, day};
use crate::error::{Error, ErrorKind, Result};

/// The table of this release.
const TABLE: &str = include_str!("upgrades.json");

/// Every step that is known.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    format: u32,
    date: String,
    pub(super) steps: Vec<Step>,
}

/// From one minor version to the next.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) from: String,
    pub(crate) to: String,
    /// The first patch of `from` that may be upgraded.
    pub(crate) needs: String,
    pub(crate) why: String,
    /// etcd can lead a cluster back to `from`.
    pub(crate) downgrade: bool,
    /// The target does not start with data of the v2 API.
    pub(crate) v2: bool,
    pub(crate) removed: Vec<Removed>,
    pub(crate) refused: Vec<Refused>,
    sources: Vec<String>,
    seen: String,
}

/// A flag that the target does not have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Removed {
    pub(crate) flag: String,
    /// What takes its place.
    pub(crate) instead: String,
}

/// A value of a flag that the target refuses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    pub(crate) flag: String,
    pub(crate) value: String,
    /// What takes its place.
    pub(crate) instead: String,
}

/// Where an upgrade leads.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) step: Step,
    pub(crate) release: Release,
}

impl Table {
    /// The table of this release.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal): never, a test reads it.
    pub(super) fn built_in() -> Result<Self> {
        let wrong = |what: String| {
            Error::new(ErrorKind::Internal, format!("the table of upgrades: {what}"))
        };
        let table: Self = serde_json::from_str(TABLE).map_err(|error| wrong(error.to_string()))?;
        if table.format != 1 {
            return Err(wrong("another format".into()));
        }
        day(&table.date)?;
        for step in &table.steps {
            day(&step.seen)?;
            let needs = Release::parse(&step.needs).map(|release| release.minor());
            if needs.as_ref() != Some(&step.from) || step.sources.len() < 2 {
                return Err(wrong(format!("the step to {}", step.to)));
            }
        }
        Ok(table)
    }

    /// What `--to` means: a minor version, or a release of one. A minor version is its newest release that is known, or
    /// `program`, the version of the etcd that is going to be installed.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage).
    pub(super) fn target(
        &self,
        to: &str,
        program: Option<&str>,
        advisories: &Advisories,
    ) -> Result<Target> {
        let minors: Vec<_> = self.steps.iter().map(|step| step.to.as_str()).collect();
        let unknown =
            || Error::usage(format!("--to {to}: upgrades are known to {}", minors.join(", ")));
        let given = Release::parse(to);
        let minor = given.map_or_else(|| to.to_owned(), |release| release.minor());
        let step = self.steps.iter().find(|step| step.to == minor).ok_or_else(unknown)?.clone();
        let any = Release::parse(&format!("{minor}.0")).ok_or_else(unknown)?;
        let release = match program {
            Some(version) => Release::parse(version)
                .filter(|release| match given {
                    Some(given) => *release == given,
                    None => release.minor() == minor,
                })
                .ok_or_else(|| {
                    Error::usage(format!("--to {to}, and --etcd is etcd {version}"))
                        .hint("name the program of the target with --etcd")
                })?,
            None => given.or_else(|| advisories.newest(&any)).unwrap_or(any),
        };
        Ok(Target { step, release })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_in_order() {
        let table = Table::built_in().unwrap();
        let pairs: Vec<_> =
            table.steps.iter().map(|step| (step.from.as_str(), step.to.as_str())).collect();
        assert_eq!(pairs, [("3.4", "3.5"), ("3.5", "3.6"), ("3.6", "3.7")]);
        for step in &table.steps {
            assert!(step.removed.is_sorted_by_key(|one| one.flag.clone()), "{}", step.to);
            assert!(
                step.removed
                    .iter()
                    .all(|one| !one.instead.is_empty() && !one.flag.starts_with('-'))
            );
        }
    }

    #[test]
    fn what_a_target_is() {
        let (table, advisories) = (Table::built_in().unwrap(), Advisories::built_in().unwrap());
        let release = |to: &str, program: Option<&str>| {
            table.target(to, program, &advisories).map(|target| target.release.to_string())
        };
        assert_eq!(release("3.6", None).unwrap(), "3.6.16");
        assert_eq!(release("3.6.12", None).unwrap(), "3.6.12");
        assert_eq!(release("3.6", Some("3.6.14")).unwrap(), "3.6.14");
        for (to, program) in [
            ("3.4", None),
            ("3.8", None),
            ("latest", None),
            ("3.6", Some("3.7.3")),
            ("3.6.1", Some("3.6.2")),
        ] {
            assert_eq!(release(to, program).unwrap_err().kind(), ErrorKind::Usage, "{to}");
        }
    }
}
