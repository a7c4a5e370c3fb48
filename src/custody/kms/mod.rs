//! Master keys that a service keeps (SPEC.md §5.1, stanza kind `kms`): the service seals a fresh wrapping key, and that
//! seals the data key, so that no service sees a data key and each stanza is bound to its seal as every other is.
//!
//! A provider is a [`Service`](service::Service). It is registered in [`open`], and its URI in [`uri`].

#[cfg(feature = "kms")]
mod key;
#[cfg(feature = "kms-v2")]
mod kmsv2;
#[cfg(feature = "kms")]
mod service;
mod uri;

pub use uri::{KmsRole, KmsUri, Provider};

use crate::error::{Error, Result};
use crate::keys::KeySet;

/// Adds the key that `uri` names to `keys`. The service is not asked yet.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) when this build does not know the kind of service.
pub(super) fn add(uri: &KmsUri, keys: &mut KeySet) -> Result<()> {
    #[cfg(feature = "kms")]
    if let Some(service) = open(uri)? {
        key::KmsKey::new(uri, service).add_to(uri.role(), keys);
        return Ok(());
    }
    let _ = keys;
    let (scheme, feature) = (uri.provider().scheme(), uri.provider().feature());
    Err(Error::unsupported(format!("{uri}: this build has no {scheme} keys"))
        .hint(format!("build it with --features {feature}")))
}

/// The one place where providers are registered.
#[cfg(feature = "kms")]
fn open(uri: &KmsUri) -> Result<Option<std::sync::Arc<dyn service::Service>>> {
    Ok(Some(match uri.provider() {
        #[cfg(feature = "kms-v2")]
        Provider::KmsV2 => std::sync::Arc::new(kmsv2::KmsV2::new(uri)?),
        _ => return Ok(None),
    }))
}
