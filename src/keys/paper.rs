//! A key as shares on paper (SLIP-39): as many as the threshold bring it back.

use std::collections::BTreeSet;

use super::keyring::Keyring;
use super::local::LocalKey;
use super::recipient::HpkeIdentity;
use crate::crypto::slip39::{Share, combine, split};
use crate::crypto::{CryptoRng, Kem, constant_time_eq};
use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyId;
use crate::secret::SecretKey;

impl Keyring {
    /// Splits the key `id` into `count` shares, of which any `threshold` bring it back. They hold the key's 32 bytes, and
    /// neither its state nor any other key.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a key, [`ErrorKind::WrongKey`] when it is destroyed, those of [`split`].
    pub fn split(
        &self,
        id: KeyId,
        threshold: u8,
        count: u8,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<Share>> {
        let Some(entry) = self.entries().iter().find(|entry| entry.id == id) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("key {id} is not in this keyring"),
            )
            .hint("`strongroom key list` shows the ids"));
        };
        let Some(master) = &entry.master else {
            let message = format!("key {id} was destroyed at {}", entry.since);
            return Err(Error::new(ErrorKind::WrongKey, message));
        };
        split_key(id, master, threshold, count, rng)
    }
}

impl HpkeIdentity {
    /// Splits the key into `count` shares, of which any `threshold` bring it back.
    ///
    /// # Errors
    /// Those of [`split`].
    pub fn split(&self, threshold: u8, count: u8, rng: &mut dyn CryptoRng) -> Result<Vec<Share>> {
        split_key(self.recipient().id(), self.seed(), threshold, count, rng)
    }
}

fn split_key(
    id: KeyId,
    key: &SecretKey,
    threshold: u8,
    count: u8,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<Share>> {
    let shares = split(key.expose(), threshold, count, b"", rng)?;
    // Before anyone relies on the paper. More shares than are needed are compared with the others.
    if !constant_time_eq(&combine(&shares, b"")?, key.expose()) {
        let message = format!("the shares of key {id} do not bring it back");
        return Err(Error::new(ErrorKind::Internal, message));
    }
    Ok(shares)
}

/// A key that came back from paper.
pub enum PaperKey {
    /// Of a keyring.
    Local(LocalKey),
    /// Of an identity file.
    Identity(Box<HpkeIdentity>),
}

impl PaperKey {
    /// The key that `shares` were split from. They do not tell its kind: the first kind is taken under which it has an id
    /// of `expected`, else that of a keyring's key.
    ///
    /// # Errors
    /// Those of [`combine`], and [`ErrorKind::Tampered`] for a secret that is not 32 bytes long.
    pub fn of_shares(shares: &[Share], expected: &BTreeSet<KeyId>) -> Result<Self> {
        let secret = combine(shares, b"")?;
        let seed = SecretKey::from_slice(&secret).ok_or_else(|| {
            Error::tampered(format!("the shares hold {} bytes, and a key has 32", secret.len()))
        })?;
        for kem in [Kem::XWing, Kem::X25519] {
            let identity = HpkeIdentity::new(kem, seed.duplicate())?;
            if expected.contains(&identity.recipient().id()) {
                return Ok(Self::Identity(Box::new(identity)));
            }
        }
        Ok(Self::Local(LocalKey::new(seed)))
    }

    /// Its id, which tells whether it is the key that was expected.
    #[must_use]
    pub fn id(&self) -> KeyId {
        match self {
            Self::Local(key) => key.id(),
            Self::Identity(key) => key.recipient().id(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::format::Time;

    #[test]
    fn a_key_comes_back_under_its_id() {
        let at = Time::from_unix;
        let rng = &mut system_rng();
        let ring = Keyring::generate(at(0), rng).unwrap();
        let (old, _) = ring.primary(at(0)).unwrap();
        let (ring, new) = ring.rotate(at(1), rng).unwrap();
        for id in [old, new] {
            let shares = ring.split(id, 2, 3, rng).unwrap();
            let none = BTreeSet::new();
            let PaperKey::Local(key) = PaperKey::of_shares(&shares[1..], &none).unwrap() else {
                panic!("it is of a keyring");
            };
            assert_eq!(key.id(), id);
            assert_eq!(Keyring::of_key(key, at(2)).unwrap().primary(at(2)), Some((id, at(2))));
            let error = PaperKey::of_shares(&shares[..1], &none).err().unwrap();
            assert!(error.to_string().contains("1 missing"), "{error}");
        }
        let kind = |id| ring.split(id, 2, 3, &mut system_rng()).err().map(|error| error.kind());
        assert_eq!(kind(KeyId([0; 16])), Some(ErrorKind::NotFound));
    }

    #[test]
    fn an_identity_comes_back_by_its_id() {
        let rng = &mut system_rng();
        for kem in [Kem::XWing, Kem::X25519] {
            let identity = HpkeIdentity::generate(kem, rng).unwrap();
            let shares = identity.split(2, 2, rng).unwrap();
            let id = identity.recipient().id();
            let back = PaperKey::of_shares(&shares, &BTreeSet::from([id])).unwrap();
            assert!(matches!(&back, PaperKey::Identity(_)) && back.id() == id);
        }
    }
}
