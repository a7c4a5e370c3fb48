//! A master key held as 32 bytes: of a keyring file, or opened by a passphrase.

use std::future::ready;

use super::{Binding, Identity, KeyFuture, Recipient};
use crate::crypto::{self, CryptoRng, Label, Suite};
use crate::error::{Error, Result};
use crate::format::{KeyId, Stanza};
use crate::secret::SecretKey;

/// The kind of its stanzas.
const KIND: &str = "local";

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

    /// Names this key in seals.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn master(&self) -> &SecretKey {
        &self.master
    }

    pub(super) fn into_master(self) -> SecretKey {
        self.master
    }

    fn open(&self, stanza: &Stanza, binding: &Binding) -> Result<SecretKey> {
        let context = binding.context(self.id, KIND);
        let opened = crypto::open(Suite::Aes256Gcm, &self.master, &context, stanza.body())?;
        SecretKey::from_slice(&opened)
            .ok_or_else(|| Error::tampered("a sealed data key does not hold 32 bytes"))
    }
}

/// First 16 bytes of SHA-256("strongroom/v1/key-id" ‖ 00 ‖ "local" ‖ 00 ‖ key-check) (SPEC.md §2).
pub(super) fn key_id(master: &SecretKey) -> KeyId {
    let check = crypto::expand(master, Label::KeyCheck, b"");
    super::key_id(KIND, &[check.expose().as_slice()])
}

impl Recipient for LocalKey {
    fn id(&self) -> KeyId {
        self.id
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a SecretKey,
        binding: &'a Binding,
        rng: &'a mut (dyn CryptoRng + Send),
    ) -> KeyFuture<'a, Stanza> {
        let context = binding.context(self.id, KIND);
        let sealed = crypto::seal(Suite::Aes256Gcm, &self.master, &context, data_key.expose(), rng);
        Box::pin(ready(sealed.and_then(|body| Stanza::new(KIND, self.id, &[], body))))
    }
}

impl Identity for LocalKey {
    fn ids(&self) -> Vec<KeyId> {
        vec![self.id]
    }

    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> KeyFuture<'a, Option<SecretKey>> {
        let mine = stanza.kind() == KIND && stanza.key_id() == self.id;
        let opened = mine.then(|| self.open(stanza, binding)).transpose();
        Box::pin(ready(opened))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::error::ErrorKind;
    use crate::format::{Sha256, SnapshotId, Subject};
    use crate::keys::at_once;

    #[test]
    fn opens_its_own_stanza_with_its_own_binding_only() {
        let mut rng = system_rng();
        let (key, other) = (LocalKey::generate(&mut rng), LocalKey::generate(&mut rng));
        let data_key = SecretKey::new(|bytes| bytes.fill(7));
        let subject = Subject::Snapshot(SnapshotId(1));
        let binding = Binding { subject, commitment: [1; 32], object: Sha256([2; 32]) };
        let stanza = at_once(key.wrap(&data_key, &binding, &mut rng)).unwrap();
        let opened = at_once(key.unwrap(&stanza, &binding)).unwrap().unwrap();
        assert_eq!(opened.expose(), data_key.expose());
        let moved = [
            Binding { subject: Subject::Snapshot(SnapshotId(2)), ..binding },
            Binding { commitment: [2; 32], ..binding },
            Binding { object: Sha256([3; 32]), ..binding },
        ];
        for moved in moved {
            let error = at_once(key.unwrap(&stanza, &moved)).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Tampered);
        }
        assert!(at_once(other.unwrap(&stanza, &binding)).unwrap().is_none());
        let kms = Stanza::new("kms", key.id(), &[], stanza.body().to_vec()).unwrap();
        assert!(at_once(key.unwrap(&kms, &binding)).unwrap().is_none());
    }
}
