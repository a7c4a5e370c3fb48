//! Which client certificate may touch which keys.

use std::collections::BTreeMap;

use crate::settings::AccessRule;
use crate::values::Touched;

/// Which keys the clients may touch: by the common name of their certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access(BTreeMap<String, Vec<Vec<u8>>>);

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
    /// Of rules; the empty prefix is everything, and every call.
    pub(super) fn new(rules: &[AccessRule]) -> Self {
        let mut access = Self::default();
        for AccessRule { name, prefix } in rules {
            access.0.entry(name.clone()).or_default().push(prefix.clone().into_bytes());
        }
        access
    }

    /// Whether there are no rules: every client may touch everything.
    pub(super) fn is_open(&self) -> bool {
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
        let rules = ["app=/app/", "app=/shared/", "admin="].map(|rule| rule.parse().unwrap());
        let access = Access::new(&rules);
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
        assert!("app".parse::<AccessRule>().is_err() && "=/x".parse::<AccessRule>().is_err());
    }
}
