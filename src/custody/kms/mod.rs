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
#[cfg(feature = "kms-plugin")]
use crate::format::KeyId;
#[cfg(feature = "kms-plugin")]
use crate::keys::KeyFuture;
use crate::keys::KeySet;
#[cfg(feature = "kms-plugin")]
use crate::secret::SecretKey;

/// Variables, in which services find their credentials.
type Environment = BTreeMap<String, String>;

/// A key of a service, for whoever seals with wrapping keys of his own: 32 random bytes, which the service seals.
#[cfg(feature = "kms-plugin")]
pub(crate) trait WrappingKey: Send + Sync {
    /// The id of the service's key.
    fn id(&self) -> KeyId;

    /// A fresh wrapping key, and the same sealed by the service: at most [`MAX_KMS_BLOB`](crate::format::MAX_KMS_BLOB) bytes and one.
    ///
    /// # Errors
    /// Those of the service.
    fn fresh(&self) -> KeyFuture<'_, (SecretKey, Vec<u8>)>;

    /// Has the service open what [`fresh`](Self::fresh) sealed. What comes back may be any 32 bytes.
    ///
    /// # Errors
    /// Those of the service, and [`Tampered`](crate::ErrorKind::Tampered) for what it never sealed.
    fn open<'a>(&'a self, sealed: &'a [u8]) -> KeyFuture<'a, SecretKey>;

    /// The service's own name of the key that made `sealed`, if the service has such names.
    fn version(&self, sealed: &[u8]) -> Option<String>;
}

/// The key that `uri` names. The service is not asked yet.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) when this build does not know the kind of service.
#[cfg(feature = "kms-plugin")]
pub(crate) fn wrapping_key(uri: &KmsUri) -> Result<std::sync::Arc<dyn WrappingKey>> {
    #[cfg(feature = "_kms")]
    if let Some(service) = open(uri, &super::environment())? {
        return Ok(std::sync::Arc::new(key::KmsKey::new(uri, service)));
    }
    Err(not_built(uri))
}

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
    Err(not_built(uri))
}

fn not_built(uri: &KmsUri) -> Error {
    let (scheme, feature) = (uri.provider().scheme(), uri.provider().feature());
    Error::unsupported(format!("{uri}: this build has no {scheme} keys"))
        .hint(format!("build it with --features {feature}"))
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
