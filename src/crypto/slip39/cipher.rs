//! SLIP-39's encryption of the secret under a passphrase: a Feistel network of four rounds of PBKDF2.

use sha2::Sha256;
use zeroize::Zeroizing;

use super::gf256::Value;

/// Iterations of all rounds together at exponent 0.
const ITERATIONS: u32 = 10_000;
const ROUNDS: u8 = 4;

/// Who computes it, besides the passphrase.
pub(super) struct Parameters {
    pub(super) exponent: u8,
    /// Empty for an extendable set.
    pub(super) salt: Vec<u8>,
}

impl Parameters {
    /// Encrypts `secret`, which has an even number of bytes.
    pub(super) fn encrypt(&self, secret: &[u8], passphrase: &[u8]) -> Value {
        self.rounds(secret, passphrase, 0..ROUNDS)
    }

    /// Decrypts what [`encrypt`](Self::encrypt) made. Another passphrase gives another secret.
    pub(super) fn decrypt(&self, secret: &[u8], passphrase: &[u8]) -> Value {
        self.rounds(secret, passphrase, (0..ROUNDS).rev())
    }

    fn rounds(&self, secret: &[u8], passphrase: &[u8], rounds: impl Iterator<Item = u8>) -> Value {
        let (left, right) = secret.split_at(secret.len() / 2);
        let mut left = Zeroizing::new(left.to_vec());
        let mut right = Zeroizing::new(right.to_vec());
        for round in rounds {
            let f = self.f(round, passphrase, &right);
            left.iter_mut().zip(f.iter()).for_each(|(left, f)| *left ^= f);
            std::mem::swap(&mut left, &mut right);
        }
        Zeroizing::new([right.as_slice(), left.as_slice()].concat())
    }

    fn f(&self, round: u8, passphrase: &[u8], right: &[u8]) -> Value {
        let password = Zeroizing::new([&[round], passphrase].concat());
        let salt = Zeroizing::new([self.salt.as_slice(), right].concat());
        let mut out = Zeroizing::new(vec![0; right.len()]);
        let iterations = (ITERATIONS << self.exponent.min(15)) / u32::from(ROUNDS);
        pbkdf2::pbkdf2_hmac::<Sha256>(&password, &salt, iterations, &mut out);
        out
    }
}
