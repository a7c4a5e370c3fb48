//! Master keys that a service keeps (SPEC.md §5.1, stanza kind `kms`): the service seals a fresh wrapping key, and that
//! seals the data key, so that no service sees a data key and each stanza is bound to its seal as every other is.
//!
//! A provider is a [`Service`](service::Service). It is registered in [`open`], and its URI in [`uri`].

#[cfg(feature = "aws-kms")]
mod aws;
#[cfg(feature = "_kms")]
mod key;
#[cfg(feature = "kms-v2")]
mod kmsv2;
#[cfg(feature = "pkcs11")]
mod pkcs11;
#[cfg(feature = "_kms")]
mod service;
#[cfg(feature = "vault")]
mod transit;
mod uri;

use std::collections::BTreeMap;

pub use uri::{KmsRole, KmsUri, Provider};

use crate::error::{Error, Result};
use crate::keys::KeySet;

/// Variables, in which services find their credentials.
type Environment = BTreeMap<String, String>;

/// Adds the key that `uri` names to `keys`. The service is not asked yet.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) when this build does not know the kind of service.
pub(super) fn add(uri: &KmsUri, environment: &Environment, keys: &mut KeySet) -> Result<()> {
    #[cfg(feature = "_kms")]
    if let Some(service) = open(uri, environment)? {
        key::KmsKey::new(uri, service).add_to(uri.role(), keys);
        return Ok(());
    }
    let _ = (environment, keys);
    let (scheme, feature) = (uri.provider().scheme(), uri.provider().feature());
    Err(Error::unsupported(format!("{uri}: this build has no {scheme} keys"))
        .hint(format!("build it with --features {feature}")))
}

/// The one place where providers are registered.
#[cfg(feature = "_kms")]
fn open(
    uri: &KmsUri,
    environment: &Environment,
) -> Result<Option<std::sync::Arc<dyn service::Service>>> {
    let _ = environment;
    Ok(Some(match uri.provider() {
        #[cfg(feature = "aws-kms")]
        Provider::Aws => std::sync::Arc::new(aws::Aws::new(uri, environment)?),
        #[cfg(feature = "kms-v2")]
        Provider::KmsV2 => std::sync::Arc::new(kmsv2::KmsV2::new(uri)?),
        #[cfg(feature = "vault")]
        Provider::Transit => std::sync::Arc::new(transit::Transit::new(uri, environment)?),
        #[cfg(feature = "pkcs11")]
        Provider::Pkcs11 => std::sync::Arc::new(pkcs11::Token::new(uri)?),
        #[allow(unreachable_patterns, reason = "in a build with all of them none is left")]
        _ => return Ok(None),
    }))
}
