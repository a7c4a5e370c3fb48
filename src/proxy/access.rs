//! Which client certificate may touch which keys.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::values::Touched;

/// Which keys the clients may touch: by the common name of their certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access(BTreeMap<String, Vec<Vec<u8>>>);

/// What one client may do.
pub(super) enum Rule<'a> {
    /// Everything.
    Everything,
    /// Requests that only use keys with one of these prefixes.
    Prefixes(&'a [Vec<u8>]),
    /// Nothing.
    Nothing,
}

impl Rule<'_> {
    /// Whether all of `touched` is within the client's prefixes.
    pub(super) fn holds(&self, touched: &[Touched]) -> bool {
        match self {
            Self::Everything => true,
            Self::Prefixes(prefixes) => touched
                .iter()
                .all(|touched| prefixes.iter().any(|prefix| touched.is_within(prefix))),
            Self::Nothing => false,
        }
    }
}

impl Access {
    /// Lets `name` touch keys with `prefix`; the empty prefix is everything, and every call.
    pub fn allow(&mut self, name: String, prefix: Vec<u8>) {
        self.0.entry(name).or_default().push(prefix);
    }

    /// Of rules such as `name=/prefix/`.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for a rule without `=`.
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut access = Self::default();
        for rule in rules {
            let (name, prefix) =
                rule.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                    Error::usage(format!("invalid access rule {rule:?}"))
                        .hint("write NAME=PREFIX, as in --allow app=/app/")
                })?;
            access.allow(name.into(), prefix.into());
        }
        Ok(access)
    }

    /// Whether there are no rules: every client may touch everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// What the client `name` may do.
    pub(super) fn rule(&self, name: Option<&str>) -> Rule<'_> {
        if self.is_open() {
            return Rule::Everything;
        }
        match name.and_then(|name| self.0.get(name)) {
            None => Rule::Nothing,
            Some(prefixes) if prefixes.iter().any(Vec::is_empty) => Rule::Everything,
            Some(prefixes) => Rule::Prefixes(prefixes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{About, Method, Parsed};

    #[test]
    fn rules() {
        let access = Access::parse(["app=/app/", "app=/shared/", "admin="]).unwrap();
        let may = |name: Option<&str>, key: &str| {
            let message = [&[0x0a, key.len() as u8], key.as_bytes()].concat();
            let put = Parsed::parse(Method::Put, &message).unwrap();
            access.rule(name).holds(&About::of(&put).unwrap().keys)
        };
        assert!(may(Some("app"), "/app/x") && may(Some("app"), "/shared/y"));
        assert!(!may(Some("app"), "/app") && !may(Some("other"), "/app/x") && !may(None, "/app/x"));
        assert!(may(Some("admin"), "/anything"));
        assert!(matches!(access.rule(None), Rule::Nothing));
        assert!(matches!(Access::default().rule(None), Rule::Everything));
        assert!(Access::parse(["app"]).is_err() && Access::parse(["=/x"]).is_err());
    }
}
