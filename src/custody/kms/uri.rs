//! Names of keys that services keep: what identifies the key, and the way to reach it.
//!
//! The key's id is a hash of the first alone, so that another socket, region or address still opens what is sealed.

use std::fmt;

use crate::error::{Error, Result};
use crate::format::KeyState;

/// A kind of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// A plugin of Kubernetes' KMS v2 API, at its socket.
    KmsV2,
    /// AWS KMS.
    Aws,
    /// The transit engine of Vault or OpenBao.
    Transit,
    /// A token that is reached by PKCS#11.
    Pkcs11,
}

impl Provider {
    const ALL: [Self; 4] = [Self::KmsV2, Self::Aws, Self::Transit, Self::Pkcs11];

    /// Its number in stanzas (SPEC.md §5.1), what its URIs begin with, and the feature that it needs.
    const fn row(self) -> (u8, &'static str, &'static str) {
        match self {
            Self::KmsV2 => (1, "kmsv2", "kms-v2"),
            Self::Aws => (2, "aws-kms", "aws-kms"),
            Self::Transit => (3, "transit", "vault"),
            Self::Pkcs11 => (4, "pkcs11", "pkcs11"),
        }
    }

    /// Its number in stanzas.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self.row().0
    }

    /// What its URIs begin with; also the first part of its key ids.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        self.row().1
    }

    /// The feature of the build that it needs.
    #[must_use]
    pub const fn feature(self) -> &'static str {
        self.row().2
    }

    pub(crate) fn of_scheme(scheme: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.scheme() == scheme)
    }

    /// Takes what follows the scheme apart: what identifies the key, and the way to it.
    fn parse(self, rest: &str) -> Result<(String, String)> {
        match self {
            Self::KmsV2 => kmsv2(rest),
            #[cfg(feature = "aws-kms")]
            Self::Aws => super::aws::parse(rest),
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11 => super::pkcs11::parse(rest),
            // Refused when it is opened, with the feature that is missing.
            #[cfg(not(feature = "aws-kms"))]
            Self::Aws => Ok((rest.to_owned(), String::new())),
            #[cfg(not(feature = "pkcs11"))]
            Self::Pkcs11 => Ok((rest.to_owned(), String::new())),
            Self::Transit => transit(rest),
        }
    }
}

/// What a key of a service may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsRole {
    /// It seals and opens, as a key in this state does.
    Both(KeyState),
    /// It only seals: nothing that it sealed is opened here.
    SealOnly,
}

impl Default for KmsRole {
    /// As without a mark.
    fn default() -> Self {
        Self::Both(KeyState::Sealing)
    }
}

/// What a URI may end with, and what it means.
const MARKS: [(&str, KmsRole); 3] = [
    ("?seal-only", KmsRole::SealOnly),
    ("?retiring", KmsRole::Both(KeyState::Retiring)),
    ("?retired", KmsRole::Both(KeyState::Retired)),
];

/// A key of a service, how it is reached and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsUri {
    provider: Provider,
    /// As it was given, without scheme and mark.
    text: String,
    identity: String,
    way: String,
    role: KmsRole,
}

impl KmsUri {
    /// Reads what follows the scheme.
    pub(crate) fn parse(provider: Provider, rest: &str) -> Result<Self> {
        let marked =
            MARKS.into_iter().find_map(|(mark, role)| Some((rest.strip_suffix(mark)?, role)));
        let (text, role) = marked.unwrap_or((rest, KmsRole::default()));
        // Without what follows the question mark, where somebody may have put a secret.
        let shown = rest.split('?').next().unwrap_or_default();
        let (identity, way) = provider
            .parse(text)
            .map_err(|error| error.context(format!("{}:{shown}", provider.scheme())))?;
        Ok(Self { provider, text: text.into(), identity, way, role })
    }

    /// The kind of service.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// What identifies the key: the part that its id is a hash of.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// How it is reached.
    #[must_use]
    pub fn way(&self) -> &str {
        &self.way
    }

    /// What it may do.
    #[must_use]
    pub fn role(&self) -> KmsRole {
        self.role
    }

    /// As in messages: without the way.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.provider.scheme(), self.identity)
    }
}

impl fmt::Display for KmsUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = MARKS.iter().find(|(_, role)| *role == self.role).map_or("", |(mark, _)| mark);
        write!(f, "{}:{}{mark}", self.provider.scheme(), self.text)
    }
}

/// `NAME@unix:///PATH`
fn kmsv2(rest: &str) -> Result<(String, String)> {
    let (name, way) = named(rest, "kmsv2:NAME@unix:///PATH")?;
    match way.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok((name, path.to_owned())),
        _ => Err(Error::usage("the plugin's socket is given as unix:///PATH, an absolute path")),
    }
}

/// `NAME@https://HOST:PORT/MOUNT/KEY`
fn transit(rest: &str) -> Result<(String, String)> {
    let (name, way) = named(rest, "transit:NAME@https://HOST:PORT/MOUNT/KEY")?;
    #[cfg(feature = "vault")]
    super::transit::check_way(way)?;
    Ok((name, way.to_owned()))
}

/// `NAME@WAY`: the name that a person has given to the key.
fn named<'a>(rest: &'a str, form: &str) -> Result<(String, &'a str)> {
    let is_named = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match rest.split_once('@') {
        Some((name, way)) if (1..=64).contains(&name.len()) && name.bytes().all(is_named) => {
            Ok((name.to_owned(), way))
        }
        _ => Err(Error::usage(format!("write it {form}")).hint(
            "NAME is your own name for the key, 1 to 64 of a-z, A-Z, 0-9 and ._-: it stays the same when the key is reached \
             in another way",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_named_and_reached_by_its_socket() {
        let parse = |text: &str| KmsUri::parse(Provider::KmsV2, text);
        let uri = parse("prod@unix:///run/kms.sock").unwrap();
        assert_eq!((uri.identity(), uri.way()), ("prod", "/run/kms.sock"));
        assert_eq!(uri.to_string(), "kmsv2:prod@unix:///run/kms.sock");
        for (mark, role) in MARKS {
            let uri = parse(&format!("a.b@unix:///x{mark}")).unwrap();
            assert_eq!((uri.role(), uri.way()), (role, "/x"));
            assert_eq!(uri.to_string(), format!("kmsv2:a.b@unix:///x{mark}"));
        }
        for bad in
            ["", "prod", "@unix:///x", "a b@unix:///x", "prod@unix://x", "prod@/x", "prod@tcp://x"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
