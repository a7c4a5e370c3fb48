//! Ed25519 (RFC 8032), verified strictly: one signature for one message and key, and no keys of low order.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::secret::SecretKey;

/// The public key of `seed`.
#[must_use]
pub fn verifying_key(seed: &SecretKey) -> [u8; 32] {
    SigningKey::from_bytes(seed.expose()).verifying_key().to_bytes()
}

/// Whether `key` is a public key that signatures can be verified with.
#[must_use]
pub fn is_verifying_key(key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak())
}

/// Signs `message`.
#[must_use]
pub fn sign(seed: &SecretKey, message: &[u8]) -> [u8; 64] {
    SigningKey::from_bytes(seed.expose()).sign(message).to_bytes()
}

/// Whether `signature` is `key`'s over `message`.
#[must_use]
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    let signature = Signature::from_bytes(signature);
    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifies_what_it_signed_and_nothing_else() {
        let seed = SecretKey::new(|seed| seed.fill(3));
        let (key, signature) = (verifying_key(&seed), sign(&seed, b"message"));
        assert!(is_verifying_key(&key));
        assert!(verify(&key, b"message", &signature));
        assert!(!verify(&key, b"massage", &signature));
        let other = verifying_key(&SecretKey::new(|seed| seed.fill(4)));
        assert!(!verify(&other, b"message", &signature));
        let mut bad = signature;
        bad[63] ^= 0x80;
        assert!(!verify(&key, b"message", &bad));
    }

    /// With a key of low order, one signature fits many messages.
    #[test]
    fn keys_of_low_order_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(!is_verifying_key(&identity));
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify(&identity, b"any message", &signature));
    }
}
