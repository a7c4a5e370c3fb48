//! Names of the places where master keys are kept.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::kms::{KmsUri, Provider};
use crate::error::{Error, Result};
use crate::format::{KeyId, KeyState};
use crate::keys::{HpkeRecipient, PluginRecipient};

/// Where a master key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeyUri {
    /// A keyring file.
    File(PathBuf),
    /// Keys in the repository, behind a passphrase; without a name all of them, which then only open.
    Passphrase(Option<NamedKey>),
    /// A public key, which only seals.
    Recipient(Box<HpkeRecipient>),
    /// A file of public keys, one a line.
    Recipients(PathBuf),
    /// A file of secret keys in age's form, and what they may do; `-` is standard input.
    Identity(PathBuf, KeyState),
    /// A public key that an age plugin understands, which only seals.
    Plugin(Box<PluginRecipient>),
    /// A key that a service keeps.
    Kms(Box<KmsUri>),
}

impl MasterKeyUri {
    /// Whether it names public keys, to which anyone can seal.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        matches!(
            self,
            Self::Recipient(_) | Self::Recipients(_) | Self::Plugin(_) | Self::Identity(..)
        )
    }
}

/// A key behind a passphrase, named: only such a key seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedKey {
    /// The key.
    pub id: KeyId,
    /// It is being replaced: it still opens, and no longer seals.
    pub retiring: bool,
}

impl fmt::Display for MasterKeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Passphrase(None) => f.write_str("passphrase"),
            Self::Passphrase(Some(NamedKey { id, retiring })) => {
                write!(f, "passphrase:{id}{}", if *retiring { "?retiring" } else { "" })
            }
            Self::Recipient(key) => write!(f, "recipient:{key}"),
            Self::Plugin(key) => write!(f, "recipient:{key}"),
            Self::Recipients(path) => write!(f, "recipient:@{}", path.display()),
            Self::Identity(path, state) => {
                let state = match state {
                    KeyState::Retiring | KeyState::Retired => format!("?{}", state.name()),
                    _ => String::new(),
                };
                write!(f, "identity:{}{state}", path.display())
            }
            Self::Kms(uri) => uri.fmt(f),
        }
    }
}

impl FromStr for MasterKeyUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let of_service = text
            .split_once(':')
            .and_then(|(scheme, rest)| Some((Provider::of_scheme(scheme)?, rest)));
        if let Some((provider, rest)) = of_service {
            return Ok(Self::Kms(Box::new(KmsUri::parse(provider, rest)?)));
        }
        match text.split_once(':') {
            None if text == "passphrase" => Ok(Self::Passphrase(None)),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("passphrase", name)) => {
                let (id, retiring) = match name.strip_suffix("?retiring") {
                    Some(id) => (id, true),
                    None => (name, false),
                };
                let id = id.parse().map_err(|error: Error| {
                    Error::usage(format!("{text:?}: {error}"))
                        .hint("`strongroom key list` shows the ids of the passphrase keys")
                })?;
                Ok(Self::Passphrase(Some(NamedKey { id, retiring })))
            }
            Some(("recipient", key)) => match key.strip_prefix('@') {
                Some(path) if !path.is_empty() => Ok(Self::Recipients(path.into())),
                Some(_) => Err(Error::usage("recipient:@ is followed by the name of a file")),
                None if PluginRecipient::looks_like(key) => {
                    Ok(Self::Plugin(Box::new(key.parse()?)))
                }
                None => Ok(Self::Recipient(Box::new(key.parse()?))),
            },
            Some(("identity", path)) if !path.is_empty() => {
                let states = [KeyState::Retiring, KeyState::Retired];
                let marked = states.into_iter().find_map(|state| {
                    let path = path.strip_suffix(state.name())?.strip_suffix('?')?;
                    Some(Self::Identity(path.into(), state))
                });
                Ok(marked.unwrap_or_else(|| Self::Identity(path.into(), KeyState::Sealing)))
            }
            _ if text.contains('/') && !text.contains(':') => {
                Err(Error::usage(format!("{text:?} is not a master key"))
                    .hint(format!("a keyring file is written file:{text}")))
            }
            _ => Err(Error::usage(format!("{text:?} is not a master key")).hint(
                "use file:PATH for a keyring file, passphrase:KEYID for a key in the repository, recipient:age1… for a \
                 public key, identity:FILE for its secret half, or a key that a service keeps (kmsv2:, transit:, pkcs11:, \
                 aws-kms:)",
            )),
        }
    }
}

/// Master keys in one value, as a variable holds them: separated by commas or line breaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MasterKeyUris(pub Vec<MasterKeyUri>);

impl FromStr for MasterKeyUris {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let uris = text.split([',', '\n']).map(str::trim).filter(|uri| !uri.is_empty());
        uris.map(str::parse).collect::<Result<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn master_keys_are_named_by_uri() {
        let id = "261fc941a63181bf10a68c6a7ccdf85f";
        for text in [
            "passphrase",
            &format!("passphrase:{id}"),
            &format!("passphrase:{id}?retiring"),
            "recipient:@/etc/recipients",
            "identity:/root/key",
            "identity:/root/key?retired",
            "identity:key?retiring",
            "identity:-",
            "kmsv2:prod@unix:///run/kms.sock?seal-only",
        ] {
            assert_eq!(text.parse::<MasterKeyUri>().unwrap().to_string(), text);
        }
        assert!("file:/a".parse::<MasterKeyUri>().is_ok());
        for bad in [
            "/a",
            "file:",
            "kms:x",
            "",
            "passphrase:",
            "passphrase:x",
            "passphrase:?retiring",
            "recipient:",
            "recipient:@",
            "recipient:age1x",
            "identity:",
        ] {
            assert!(bad.parse::<MasterKeyUri>().is_err(), "{bad}");
        }
    }
}
