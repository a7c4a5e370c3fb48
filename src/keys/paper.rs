//! A key of a keyring as shares on paper (SLIP-39): any few of them bring it back.

use super::keyring::Keyring;
use super::local::LocalKey;
use crate::crypto::slip39::{Share, combine, split};
use crate::crypto::{CryptoRng, constant_time_eq};
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
        let shares = split(master.expose(), threshold, count, b"", rng)?;
        // Before anyone relies on the paper: the first ones, and all together.
        let enough = shares.get(..usize::from(threshold)).unwrap_or(&shares);
        for shares in [enough, &shares] {
            if !constant_time_eq(&combine(shares, b"")?, master.expose()) {
                let message = format!("the shares of key {id} do not bring it back");
                return Err(Error::new(ErrorKind::Internal, message));
            }
        }
        Ok(shares)
    }
}

impl LocalKey {
    /// The key that `shares` were split from. Its id tells whether it is the one that was expected.
    ///
    /// # Errors
    /// Those of [`combine`], and [`ErrorKind::Tampered`] for a secret that is not 32 bytes long.
    pub fn of_shares(shares: &[Share]) -> Result<Self> {
        let secret = combine(shares, b"")?;
        let master = SecretKey::from_slice(&secret).ok_or_else(|| {
            Error::tampered(format!("the shares hold {} bytes, and a key has 32", secret.len()))
        })?;
        Ok(Self::new(master))
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
            let key = LocalKey::of_shares(&shares[1..]).unwrap();
            assert_eq!(key.id(), id);
            assert_eq!(Keyring::of_key(key, at(2)).unwrap().primary(at(2)), Some((id, at(2))));
            let error = LocalKey::of_shares(&shares[..1]).err().unwrap();
            assert!(error.to_string().contains("1 missing"), "{error}");
        }
        let kind = |id| ring.split(id, 2, 3, &mut system_rng()).err().map(|error| error.kind());
        assert_eq!(kind(KeyId([0; 16])), Some(ErrorKind::NotFound));
    }
}
