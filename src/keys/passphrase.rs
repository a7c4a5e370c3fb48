//! A master key sealed by a passphrase (SPEC.md §2): one Argon2id opens any number of snapshots.

use super::local::LocalKey;
use crate::crypto::{self, Argon2Cost, CryptoRng, Label, Suite};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Argon2Params, KeyId, PassphraseObject, SEALED_KEY_LEN};
use crate::secret::{SecretBytes, SecretKey};

/// Seals `key` under `passphrase`, as generation `generation` of its passphrase object.
///
/// # Errors
/// [`ErrorKind::Usage`] for an empty passphrase or costs below the floor.
pub fn create_passphrase_object(
    key: &LocalKey,
    generation: u32,
    passphrase: &SecretBytes,
    cost: Argon2Cost,
    rng: &mut dyn CryptoRng,
) -> Result<PassphraseObject> {
    if passphrase.expose().is_empty() {
        return Err(Error::usage("the passphrase is empty"));
    }
    let Argon2Cost { m_kib, t, p } = cost;
    let argon2 = Argon2Params { m_kib, t, p, salt: crypto::random(rng) };
    let wrapping = crypto::derive(passphrase, &argon2.salt, cost)?;
    let context = context(key.id(), generation, &argon2)?;
    let sealed = crypto::seal(Suite::Aes256Gcm, &wrapping, &context, key.master().expose(), rng)?;
    let sealed: [u8; SEALED_KEY_LEN] =
        sealed.try_into().map_err(|_| Error::usage("a sealed master key has one length"))?;
    Ok(PassphraseObject { key: key.id(), generation, argon2, sealed })
}

/// Opens the master key in `object`. Costs above `max_m_kib` KiB of memory are refused before any is spent.
///
/// # Errors
/// [`ErrorKind::WrongKey`] when the passphrase does not open it, [`ErrorKind::Tampered`] when
/// what it opens is not the key the object names.
pub fn open_passphrase_object(
    object: &PassphraseObject,
    passphrase: &SecretBytes,
    max_m_kib: u32,
) -> Result<LocalKey> {
    let Argon2Params { m_kib, t, p, salt } = object.argon2;
    let cost = Argon2Cost { m_kib, t, p };
    cost.check(max_m_kib)?;
    let wrapping = crypto::derive(passphrase, &salt, cost)?;
    let context = context(object.key, object.generation, &object.argon2)?;
    let opened =
        crypto::open(Suite::Aes256Gcm, &wrapping, &context, &object.sealed).map_err(|error| {
            Error::new(
                ErrorKind::WrongKey,
                format!("the passphrase does not open key {}", object.key),
            )
            .hint("check the passphrase; if it is right, the key object was altered")
            .because(error)
        })?;
    let master = SecretKey::from_slice(&opened)
        .ok_or_else(|| Error::tampered("a sealed master key does not hold 32 bytes"))?;
    let key = LocalKey::new(master);
    if key.id() != object.key {
        return Err(Error::tampered(format!(
            "the object of key {} holds key {}",
            object.key,
            key.id()
        )));
    }
    Ok(key)
}

/// Binds the sealed master key to every line before it.
fn context(key: KeyId, generation: u32, argon2: &Argon2Params) -> Result<Vec<u8>> {
    let bound = PassphraseObject::bound_bytes(key, generation, argon2)?;
    Ok(crypto::labelled(Label::Passphrase, &[&bound]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;

    #[test]
    fn opens_with_its_passphrase_only() {
        let mut rng = system_rng();
        let key = LocalKey::generate(&mut rng);
        let right = SecretBytes::new(b"correct horse".to_vec());
        let wrong = SecretBytes::new(b"incorrect horse".to_vec());
        let cheap = Argon2Cost { m_kib: 64, t: 1, p: 1 };
        let mut object = create_passphrase_object(&key, 1, &right, cheap, &mut rng).unwrap();
        assert_eq!(open_passphrase_object(&object, &right, 64).unwrap().id(), key.id());
        let error = open_passphrase_object(&object, &wrong, 64).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        object.generation = 2;
        assert!(open_passphrase_object(&object, &right, 64).is_err());
        object.argon2.m_kib = 1 << 22;
        assert!(open_passphrase_object(&object, &right, 1 << 20).is_err());
    }
}
