//! What was measured, and what follows from it. A verdict is made of evidence, and evidence only of a fact that was
//! read: what was not read cannot pass.

use std::ops::Deref;

use serde::Serialize;

/// Something about the cluster that was read, or why it was not.
#[derive(Clone, Debug)]
pub(crate) enum Fact<T> {
    /// Read.
    Known {
        /// What it is.
        value: T,
        /// Where it was read, for a reader of the report.
        source: String,
    },
    /// Not read: what it needs, or what went wrong.
    Unknown(String),
}

impl<T> Fact<T> {
    pub(crate) fn known(value: T, source: impl Into<String>) -> Self {
        Self::Known { value, source: source.into() }
    }

    pub(crate) fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown(why.into())
    }

    /// What was read from `source`, or the error that stands for why it was not.
    pub(crate) fn read<E: std::fmt::Display>(
        read: std::result::Result<T, E>,
        source: impl Into<String>,
    ) -> Self {
        match read {
            Ok(value) => Self::known(value, source),
            Err(why) => Self::Unknown(why.to_string()),
        }
    }

    /// The fact, or why it is not known.
    ///
    /// # Errors
    /// [`Unknown`], with which a check ends.
    pub(crate) fn need(&self) -> Result<Seen<'_, T>, Unknown> {
        match self {
            Self::Known { value, source } => Ok(Seen { value, source }),
            Self::Unknown(why) => Err(Unknown(why.clone())),
        }
    }
}

/// A fact that was read.
pub(crate) struct Seen<'a, T> {
    value: &'a T,
    source: &'a str,
}

impl<T> Clone for Seen<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Seen<'_, T> {}

impl<'a, T> Seen<'a, T> {
    /// What of it a verdict rests on, in words.
    pub(crate) fn saw(self, what: impl Into<String>) -> Evidence {
        Evidence { what: what.into(), source: self.source.to_owned() }
    }

    /// The value, as long as the fact lives.
    pub(crate) fn get(self) -> &'a T {
        self.value
    }
}

impl<T> Deref for Seen<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

/// Why a check has no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown(pub(crate) String);

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    what: String,
    source: String,
}

impl Evidence {
    /// What was seen.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Where.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// What a check comes to. Each verdict has evidence.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Pass(Evidence),
    Fail(Vec<Evidence>, Option<Severity>),
    NotApplicable(Evidence),
}

impl Verdict {
    pub(crate) fn fail(evidence: Evidence) -> Self {
        Self::Fail(vec![evidence], None)
    }

    /// A failure that is less or more severe than the check's usual one.
    pub(crate) fn fail_as(severity: Severity, evidence: Evidence) -> Self {
        Self::Fail(vec![evidence], Some(severity))
    }

    /// Fails with what was found, else passes with `otherwise`.
    pub(crate) fn none_of(found: Vec<Evidence>, otherwise: Evidence) -> Self {
        match found.is_empty() {
            true => Self::Pass(otherwise),
            false => Self::Fail(found, None),
        }
    }
}

/// What a check says of one subject.
pub(crate) type Judgement = Result<Verdict, Unknown>;

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information.
    Info,
    /// A weakness that needs others to matter.
    Low,
    /// Should be changed.
    Medium,
    /// Change it soon.
    High,
    /// Anyone can read, change or lose the data.
    Critical,
}

impl Severity {
    /// Lower-case name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was measured, and something is wrong.
    Fail,
    /// Could not be measured.
    Unknown,
    /// It was measured, and is right.
    Pass,
    /// Measured, and it does not matter here.
    NotApplicable,
}

impl Status {
    /// Name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Unknown => "unknown",
            Self::Pass => "pass",
            Self::NotApplicable => "not-applicable",
        }
    }
}
