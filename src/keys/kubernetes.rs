//! A keyring as the key encryption key of Kubernetes' API servers (SPEC.md §12).

use zeroize::Zeroizing;

use super::keyring::Keyring;
use crate::crypto::{self, CryptoRng, Label, Suite, labelled};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, KeyState, Time};
use crate::secret::SecretKey;

/// The longest text that [`Keyring::encrypt`] takes: its ciphertext fits into the 1024 bytes that Kubernetes allows.
pub const MAX_KUBERNETES_TEXT: usize = 920;

impl Keyring {
    /// The key that is primary at `now`, and since when.
    #[must_use]
    pub fn primary(&self, now: Time) -> Option<(KeyId, Time)> {
        let found = self.list(now).find(|(_, state, _)| *state == KeyState::Primary);
        found.map(|(id, _, since)| (id, since))
    }

    /// Encrypts under the key that is primary at `now`; its id, and the ciphertext.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an empty text, or one longer than [`MAX_KUBERNETES_TEXT`].
    pub fn encrypt(
        &self,
        text: &[u8],
        now: Time,
        rng: &mut dyn CryptoRng,
    ) -> Result<(KeyId, Vec<u8>)> {
        let primary = self.primary(now).map(|(id, _)| id);
        let entry = self.entries().iter().find(|entry| Some(entry.id) == primary);
        let Some((id, master)) = entry.and_then(|entry| Some((entry.id, entry.master.as_ref()?)))
        else {
            return Err(Error::new(ErrorKind::WrongKey, "no key of the keyring is primary"));
        };
        encrypt_under(master, id, text, rng).map(|sealed| (id, sealed))
    }

    /// Decrypts what [`encrypt`](Self::encrypt) made with the key `id`. No other key is tried.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the keyring has no such key, [`ErrorKind::WrongKey`] when it is destroyed,
    /// [`ErrorKind::Truncated`] or [`ErrorKind::Tampered`] when the ciphertext is not this key's.
    pub fn decrypt(&self, id: KeyId, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let Some(entry) = self.entries().iter().find(|entry| entry.id == id) else {
            return Err(Error::new(ErrorKind::NotFound, format!("key {id} is not in the keyring")));
        };
        let Some(master) = &entry.master else {
            let message = format!("key {id} was destroyed at {}", entry.since);
            return Err(Error::new(ErrorKind::WrongKey, message));
        };
        decrypt_under(master, id, ciphertext)
    }
}

/// Encrypts under `key`, which stands for the master key `id`.
///
/// # Errors
/// [`ErrorKind::Usage`] for an empty text, or one longer than [`MAX_KUBERNETES_TEXT`].
pub(crate) fn encrypt_under(
    key: &SecretKey,
    id: KeyId,
    text: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    if text.is_empty() || text.len() > MAX_KUBERNETES_TEXT {
        let message = format!("{} bytes to encrypt, not 1 to {MAX_KUBERNETES_TEXT}", text.len());
        return Err(Error::usage(message));
    }
    crypto::seal(Suite::Aes256Gcm, key, &context(id), text, rng)
}

/// Decrypts what [`encrypt_under`] made.
///
/// # Errors
/// [`ErrorKind::Truncated`] or [`ErrorKind::Tampered`] when the ciphertext is not this key's.
pub(crate) fn decrypt_under(
    key: &SecretKey,
    id: KeyId,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    crypto::open(Suite::Aes256Gcm, key, &context(id), ciphertext)
}

/// `strongroom/v1/kms-plugin` ‖ 00 ‖ key id.
fn context(id: KeyId) -> Vec<u8> {
    labelled(Label::KmsPlugin, &[&id.0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;

    fn at(seconds: i64) -> Time {
        Time::from_unix(seconds)
    }

    #[test]
    fn opens_with_the_key_that_it_names_only() {
        let rng = &mut system_rng();
        let ring = Keyring::generate(at(0), rng).unwrap();
        let (old, sealed) = ring.encrypt(&[7; 32], at(0), rng).unwrap();
        assert_eq!(sealed.len(), 104);
        let (ring, new) = ring.rotate(at(1), rng).unwrap();
        assert_eq!(ring.decrypt(old, &sealed).unwrap()[..], [7; 32]);
        assert_eq!(ring.encrypt(&[7; 32], at(1), rng).unwrap().0, new);
        let kind = |ring: &Keyring, id, bytes: &[u8]| ring.decrypt(id, bytes).unwrap_err().kind();
        assert_eq!(kind(&ring, new, &sealed), ErrorKind::Tampered);
        assert_eq!(kind(&ring, KeyId([9; 16]), &sealed), ErrorKind::NotFound);
        for at in [0, 24, 56, 103] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(kind(&ring, old, &changed), ErrorKind::Tampered);
        }
        assert_eq!(kind(&ring, old, &sealed[..70]), ErrorKind::Truncated);
        let ring = ring.destroy(old, at(2)).unwrap();
        assert_eq!(kind(&ring, old, &sealed), ErrorKind::WrongKey);
    }

    #[test]
    fn the_longest_text_fits_into_kubernetes_limit() {
        let rng = &mut system_rng();
        let ring = Keyring::generate(at(0), rng).unwrap();
        let longest = [1; MAX_KUBERNETES_TEXT + 1];
        let (_, sealed) = ring.encrypt(&longest[1..], at(0), rng).unwrap();
        assert!(sealed.len() <= 1024);
        for text in [&longest[..], b""] {
            assert_eq!(ring.encrypt(text, at(0), rng).unwrap_err().kind(), ErrorKind::Usage);
        }
    }
}
