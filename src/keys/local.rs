//! A master key held as 32 bytes: of a keyring file, or opened by a passphrase.

use super::MasterKey;
use crate::crypto::{self, CryptoRng, Label, Suite};
use crate::error::{Error, Result};
use crate::format::KeyId;
use crate::secret::SecretKey;

/// A 32-byte symmetric master key (stanza type `local`).
pub struct LocalKey {
    id: KeyId,
    master: SecretKey,
}

impl LocalKey {
    /// Wraps `master` and computes its id.
    pub fn new(master: SecretKey) -> Self {
        Self { id: key_id(&master), master }
    }

    /// A fresh random key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::new(SecretKey::random(rng))
    }

    pub(super) fn master(&self) -> &SecretKey {
        &self.master
    }

    pub(super) fn into_master(self) -> SecretKey {
        self.master
    }
}

/// First 16 bytes of SHA-256("strongroom/v1/key-id" ‖ 00 ‖ "local" ‖ 00 ‖ key-check) (SPEC.md §2).
pub(super) fn key_id(master: &SecretKey) -> KeyId {
    let check = crypto::expand(master, Label::KeyCheck, b"");
    let digest = crypto::sha256(&[&crypto::labelled(Label::KeyId, &[b"local\0"]), check.expose()]);
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    KeyId(id)
}

impl MasterKey for LocalKey {
    fn id(&self) -> KeyId {
        self.id
    }

    fn stanza_type(&self) -> &'static str {
        "local"
    }

    fn seal(
        &self,
        context: &[u8],
        data_key: &SecretKey,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u8>> {
        crypto::seal(Suite::Aes256Gcm, &self.master, context, data_key.expose(), rng)
    }

    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<SecretKey> {
        let opened = crypto::open(Suite::Aes256Gcm, &self.master, context, sealed)?;
        SecretKey::from_slice(&opened)
            .ok_or_else(|| Error::tampered("a sealed data key does not hold 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;

    #[test]
    fn opens_in_its_own_context_only() {
        let mut rng = system_rng();
        let key = LocalKey::generate(&mut rng);
        let data_key = SecretKey::new(|bytes| bytes.fill(7));
        let sealed = key.seal(b"a", &data_key, &mut rng).unwrap();
        assert_eq!(key.open(b"a", &sealed).unwrap().expose(), data_key.expose());
        assert!(key.open(b"b", &sealed).is_err());
        assert!(LocalKey::generate(&mut rng).open(b"a", &sealed).is_err());
    }
}
