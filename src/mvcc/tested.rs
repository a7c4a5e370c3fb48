//! Which versions of etcd this program was tested with.

use std::fmt;

use crate::error::{Error, Result};

/// Major and minor version of an etcd, of a cluster or of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EtcdVersion {
    /// The major version, 3 so far.
    pub major: u32,
    /// The minor version, such as 7 of `3.7.3`.
    pub minor: u32,
}

impl EtcdVersion {
    /// The first version that the tests run.
    pub const FIRST_TESTED: Self = Self { major: 3, minor: 4 };
    /// The last version that the tests run.
    pub const LAST_TESTED: Self = Self { major: 3, minor: 7 };

    /// The first two numbers of a text such as `3.7.3` or `3.8.0-alpha.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, rest) = text.split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(major) {
            return None;
        }
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The next minor version.
    #[must_use]
    pub fn next(self) -> Self {
        Self { minor: self.minor.saturating_add(1), ..self }
    }

    /// Refuses `version`, of `whose`, if it is later than the last one tested or cannot be parsed, unless
    /// `allow_untested`.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    pub fn check_tested(whose: &str, version: &str, allow_untested: bool) -> Result<()> {
        if allow_untested {
            return Ok(());
        }
        let last = Self::LAST_TESTED;
        let error = match Self::parse(version) {
            Some(version) if version <= last => return Ok(()),
            Some(_) => {
                format!("{whose}: etcd {version} is later than {last}, the last version tested")
            }
            None => format!("{whose}: {version:?} is not a version of etcd"),
        };
        Err(Error::unsupported(error).hint(
            "use a version of strongroom that was tested with it, or give --allow-untested-etcd",
        ))
    }
}

impl serde::Serialize for EtcdVersion {
    fn serialize<S: serde::Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn versions() {
        let parsed = |text| EtcdVersion::parse(text).map(|version| version.to_string());
        for (text, expected) in [
            ("3.7.3", "3.7"),
            ("3.8.0-alpha.0", "3.8"),
            ("3.10.1", "3.10"),
            ("3.6", "3.6"),
            ("4.0.0", "4.0"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(expected));
        }
        for text in ["", "3", "3.", "3.x", ".7", "+3.7", "three.seven", "3.99999999999", "-3.7"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_later_version_is_refused_by_name() {
        for good in ["3.4.0", "3.5.16", "3.6.16", "3.7.3", "3.7.99"] {
            EtcdVersion::check_tested("it", good, false).unwrap();
        }
        for bad in ["3.8.0", "3.8.0-alpha.0", "3.10.0", "4.0.0", "", "x"] {
            let error = EtcdVersion::check_tested("member m0", bad, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("member m0") && error.to_string().contains(bad));
            assert!(error.hint_text().unwrap().contains("--allow-untested-etcd"));
            EtcdVersion::check_tested("it", bad, true).unwrap();
        }
    }
}
