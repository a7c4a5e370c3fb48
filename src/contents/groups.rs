//! Which keys belong together.

/// Where Kubernetes and OpenShift keep their objects unless told otherwise (`--etcd-prefix`).
pub const KUBERNETES_ROOTS: [&str; 3] = ["/registry", "/kubernetes.io", "/openshift.io"];

/// How keys are grouped: below Kubernetes' root by resource, else by their first parts.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Kubernetes' roots, each with a `/` at its end.
    roots: Vec<Vec<u8>>,
    depth: usize,
}

impl Default for Groups {
    fn default() -> Self {
        Self::new(KUBERNETES_ROOTS, 1)
    }
}

impl Groups {
    /// Groups `depth` parts deep, at least one. Below one of the `roots` the first part is the resource.
    pub fn new<T: AsRef<[u8]>>(roots: impl IntoIterator<Item = T>, depth: usize) -> Self {
        let slashed = |root: T| {
            let root = root.as_ref();
            [root.strip_suffix(b"/").unwrap_or(root), b"/"].concat()
        };
        Self { roots: roots.into_iter().map(slashed).collect(), depth: depth.max(1) }
    }

    /// The group of `key`: what its prefix is, empty for a key without `/`, and what Kubernetes' resource, such as
    /// `secrets`, `services/specs` or `example.com/widgets`.
    pub fn of<'a>(&self, key: &'a [u8]) -> (&'a [u8], Option<&'a [u8]>) {
        let below = self.roots.iter().find_map(|root| key.strip_prefix(root.as_slice()));
        let Some(below) = below else {
            let start = usize::from(key.first() == Some(&b'/'));
            return (parts(key, start, self.depth), None);
        };
        let root = key.len().saturating_sub(below.len());
        let first = parts(key, root, 1);
        if first.len() <= root {
            return (first, None);
        }
        let name = first.get(root..first.len().saturating_sub(1)).unwrap_or_default();
        // Custom resources stand below their API group, and Services have two kinds of objects.
        let two = name.contains(&b'.') || name == b"services";
        let resource = if two { parts(key, first.len(), 1) } else { first };
        let more = self.depth.saturating_sub(1);
        let prefix = parts(key, resource.len(), more);
        (prefix, resource.get(root..resource.len().saturating_sub(1)))
    }
}

/// `key` up to the end of `count` parts after `start`, each with the `/` behind it; fewer if it has fewer.
fn parts(key: &[u8], start: usize, count: usize) -> &[u8] {
    let rest = key.get(start..).unwrap_or_default();
    let slashes = rest.iter().enumerate().filter(|(_, byte)| **byte == b'/').take(count);
    let end = slashes.last().map_or(start, |(at, _)| start.saturating_add(at).saturating_add(1));
    key.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_group_is_a_directory_of_its_key(key in "(/registry|/k|a\\.b|services|x|/)(/|[a-z./]){0,8}", depth in 1_usize..5) {
            let groups = Groups::new(KUBERNETES_ROOTS, depth);
            let (prefix, resource) = groups.of(key.as_bytes());
            prop_assert!(key.as_bytes().starts_with(prefix));
            prop_assert!(prefix.is_empty() || prefix.ends_with(b"/"));
            // All keys that begin with the prefix and are no deeper are in the group.
            let other = [prefix, b"n"].concat();
            prop_assert_eq!(groups.of(&other), (prefix, resource));
        }
    }

    fn group(groups: &Groups, key: &str) -> (String, Option<String>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (prefix, resource) = groups.of(key.as_bytes());
        (text(prefix), resource.map(text))
    }

    #[test]
    fn resources_of_kubernetes() {
        for (key, prefix, resource) in [
            ("/registry/secrets/ns/name", "/registry/secrets/", Some("secrets")),
            ("/registry/minions/node", "/registry/minions/", Some("minions")),
            ("/registry/services/specs/ns/n", "/registry/services/specs/", Some("services/specs")),
            ("/registry/a.io/widgets/ns/n", "/registry/a.io/widgets/", Some("a.io/widgets")),
            ("/kubernetes.io/secrets/ns/n", "/kubernetes.io/secrets/", Some("secrets")),
            ("/registry/health", "/registry/", None),
            ("compact_rev_key", "", None),
            ("/a/b/c", "/a/", None),
            ("a/b/c", "a/", None),
            ("/registryx/secrets/n", "/registryx/", None),
        ] {
            let told = (prefix.to_owned(), resource.map(str::to_owned));
            assert_eq!(group(&Groups::default(), key), told, "{key}");
        }
    }

    #[test]
    fn depth_and_roots() {
        let groups = Groups::new(["/k8s/prod"], 2);
        for (key, prefix) in [
            ("/k8s/prod/secrets/ns/name", "/k8s/prod/secrets/ns/"),
            ("/k8s/prod/minions/node", "/k8s/prod/minions/"),
            ("/k8s/other/x/y", "/k8s/other/"),
            ("a/b/c/d", "a/b/"),
            ("a//c", "a//"),
        ] {
            assert_eq!(group(&groups, key).0, prefix);
        }
    }
}
