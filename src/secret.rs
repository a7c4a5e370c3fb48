//! Secrets in memory: zeroized on drop, not printable, not cloneable.

use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A 32-byte secret on the heap, so that moving it leaves no copy behind.
///
/// ```compile_fail
/// let key = strongroom::secret::SecretKey::new(|_| ());
/// println!("{key:?}");
/// ```
/// ```compile_fail
/// let key = strongroom::secret::SecretKey::new(|_| ());
/// let copy = key.clone();
/// ```
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey(Box<[u8; 32]>);

impl SecretKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// A key whose bytes `fill` writes straight into their final place.
    pub fn new(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Self(Box::new([0; 32]));
        fill(&mut key.0);
        key
    }

    /// A fresh random key.
    pub fn random(rng: &mut dyn rand_core::CryptoRng) -> Self {
        Self::new(|bytes| rng.fill_bytes(bytes))
    }

    /// As [`new`](Self::new), for a `fill` that can fail.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn try_new<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self(Box::new([0; 32]));
        fill(&mut key.0)?;
        Ok(key)
    }

    /// A copy of `bytes`, if there are exactly 32. Wiping the original is the caller's part.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Self(Box::new([0; 32]));
        if bytes.len() != Self::LEN {
            return None;
        }
        key.0.copy_from_slice(bytes);
        Some(key)
    }

    /// A second copy, where two owners need one each. There is no `Clone`, so that each shows in a review.
    pub fn duplicate(&self) -> Self {
        Self::new(|bytes| bytes.copy_from_slice(self.expose()))
    }

    /// The secret itself. Name and look: every use shows in a review.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ConstantTimeEq for SecretKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }
}

/// Secret bytes of any length (a passphrase, a keyring file's text), wiped on drop.
///
/// Give it a buffer of its final capacity: growth leaves copies that nothing wipes.
#[derive(ZeroizeOnDrop)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes over `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}
