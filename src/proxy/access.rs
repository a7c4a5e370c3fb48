//! Which client certificate may touch which keys.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::values::Touched;

/// Calls about no keys that a client with a prefix needs. Leases belong to nobody in etcd, so they are among them.
const FREE: [&str; 10] = [
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Watch/Watch",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Which keys the clients may touch: by the common name of their certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access(BTreeMap<String, Vec<Vec<u8>>>);

impl Access {
    /// Lets `name` touch keys that begin with `prefix`; the empty prefix is everything, and every call.
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
                    Error::usage(format!("{rule:?} is no rule"))
                        .hint("write NAME=PREFIX, as in --allow app=/app/")
                })?;
            access.allow(name.into(), prefix.into());
        }
        Ok(access)
    }

    /// Whether there are no rules: everybody may touch everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the client `name` may call `path` about `touched`.
    pub(super) fn permits(&self, name: Option<&str>, path: &str, touched: &[Touched]) -> bool {
        if self.is_open() {
            return true;
        }
        let Some(prefixes) = name.and_then(|name| self.0.get(name)) else { return false };
        if prefixes.iter().any(Vec::is_empty) {
            return true;
        }
        let about_keys = !touched.is_empty();
        (about_keys || FREE.contains(&path))
            && touched.iter().all(|touched| prefixes.iter().any(|prefix| touched.is_within(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::touched;

    #[test]
    fn rules() {
        let access = Access::parse(["app=/app/", "app=/shared/", "admin="]).unwrap();
        let put = |key: &str| {
            let message = [&[0x0a, key.len() as u8], key.as_bytes()].concat();
            touched("/etcdserverpb.KV/Put", &message).unwrap()
        };
        let may =
            |name: Option<&str>, key: &str| access.permits(name, "/etcdserverpb.KV/Put", &put(key));
        assert!(may(Some("app"), "/app/x") && may(Some("app"), "/shared/y"));
        assert!(!may(Some("app"), "/app") && !may(Some("other"), "/app/x") && !may(None, "/app/x"));
        assert!(may(Some("admin"), "/anything"));
        let calls = |name, path| access.permits(Some(name), path, &[]);
        assert!(!calls("app", "/etcdserverpb.Maintenance/Snapshot"));
        assert!(calls("admin", "/etcdserverpb.Maintenance/Snapshot"));
        assert!(calls("app", "/etcdserverpb.Lease/LeaseGrant"));
        assert!(Access::default().permits(None, "/etcdserverpb.Maintenance/Snapshot", &[]));
        assert!(Access::parse(["app"]).is_err() && Access::parse(["=/x"]).is_err());
    }
}
